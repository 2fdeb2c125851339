"""Write the stages' file names, as make variables, for one make process."""

import os
import shutil
from pathlib import Path

from harness.engine import drop_stale_engine
from harness.errors import OK, UserError, run_command
from harness.files import TEMPORARY_PREFIX, write_atomic
from harness.lock import OWNER, claim_checkout
from harness.manifest import load_manifest
from harness.options import Options, asset_lock_path, read_flag, read_options
from harness.paths import ASSET_LOCK, BUILD, MANIFEST, RESULTS, shown
from harness.records import drop_stale, from_the_future, records_of


def main() -> int:
    pid = os.environ.get("MAKE_PID", "")
    if not pid.isdecimal():
        raise UserError("plan.py is run by make alone; use the make targets")
    options = read_options()
    with claim_checkout(OWNER, int(pid)):
        sweep()
        write_plan(options, BUILD / f"plan-{pid}.mk")
    return OK


def write_plan(options: Options, plan: Path) -> None:
    """Drop what is stale, then write what the stages' files are called into `plan`."""
    records = records_of(options)
    # Refuses a device that the backend does not have, before any work is done. What is built for
    # a named kind of device needs none.
    if options.compute_capability is None:
        options.backend.device(options.device)
    refused: list[str] = []
    if read_flag(os.environ, "STRICT_ASSETS"):
        manifest = load_manifest(MANIFEST).values()
        refused = [asset.name for asset in manifest if not asset.pinned]
    drop_stale(records, options.run_folder, asset_lock_path(os.environ), refused)
    drop_stale_engine(options)
    # Their times are compared with the verdict's, by the Makefile.
    for name in ("report.html", "metrics.prom"):
        if from_the_future(RESULTS / name):
            (RESULTS / name).unlink()
    defaulted = not (os.environ.get("PROFILE") or os.environ.get("BACKEND"))
    if defaulted:
        choice = options.choice
        print(f"profile {choice.profile}, backend {choice.backend}: {choice.reason}")
    variables = {
        "override PROFILE": options.profile.name,
        "override BACKEND": options.backend.name,
        "export DEFAULTED": "1" if defaulted else "",
        "override RUN": shown(options.run_folder),
        "override REMEASURE": "1" if read_flag(os.environ, "REMEASURE") else "",
        "override MODEL": shown(records.model),
        "override DATA": "" if records.dataset is None else shown(records.dataset),
        "override CALIBRATED_ON": "" if records.calibration is None else shown(records.calibration),
        "override SCALES": "" if records.scales is None else shown(records.scales),
        "override ONNX": shown(records.onnx),
        "override ENGINE": shown(records.engine),
    }
    lines = [f"{name} := {value}\n" for name, value in variables.items()]
    write_atomic(plan, "".join(lines))


def sweep() -> None:
    """Remove what killed runs have left: plans of dead makes, unfinished temporary files.

    Only this make owns the checkout now, so whatever is unfinished is nobody's work.
    """
    for plan in BUILD.glob("plan-*.mk"):
        plan.unlink(missing_ok=True)
    for folder in (BUILD, RESULTS, ASSET_LOCK.parent):
        for path in sorted(folder.rglob(f"{TEMPORARY_PREFIX}*")):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


run_command(main, __doc__)
