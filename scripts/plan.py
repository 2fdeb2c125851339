"""Write the stages' file names, as make variables, for one make process."""

import os
import shutil

from harness.engine import drop_stale_engine
from harness.errors import OK, UserError, run_command
from harness.files import TEMPORARY_PREFIX, write_atomic
from harness.lock import claim_checkout, process_lives
from harness.options import asset_lock_path, read_flag, read_options
from harness.paths import BUILD, RESULTS, shown
from harness.records import drop_stale, records_of
from harness.run import RUN


def main() -> int:
    pid = os.environ.get("MAKE_PID", "")
    if not pid.isdecimal():
        raise UserError("plan.py is run by make alone; use the make targets")
    options = read_options()
    claim_checkout(BUILD / "owner", int(pid))
    sweep()
    records = records_of(options)
    # Refuses a device that the backend does not have, before any work is done. What is built for
    # a named kind of device needs none.
    if options.compute_capability is None:
        options.backend.device(options.device)
    drop_stale(records, options.run_folder, asset_lock_path(os.environ))
    drop_stale_engine(options)
    if read_flag(os.environ, "REMEASURE"):
        (options.run_folder / RUN).unlink(missing_ok=True)
    defaulted = not (os.environ.get("PROFILE") or os.environ.get("BACKEND"))
    if defaulted:
        choice = options.choice
        print(f"profile {choice.profile}, backend {choice.backend}: {choice.reason}")
    variables = {
        "override PROFILE": options.profile.name,
        "override BACKEND": options.backend.name,
        "export DEFAULTED": "1" if defaulted else "",
        "override RUN": shown(options.run_folder),
        "override MODEL": shown(records.model),
        "override DATA": "" if records.dataset is None else shown(records.dataset),
        "override CALIBRATED_ON": "" if records.calibration is None else shown(records.calibration),
        "override SCALES": "" if records.scales is None else shown(records.scales),
        "override ONNX": shown(records.onnx),
        "override ENGINE": shown(records.engine),
    }
    lines = [f"{name} := {value}\n" for name, value in variables.items()]
    write_atomic(BUILD / f"plan-{pid}.mk", "".join(lines))
    return OK


def sweep() -> None:
    """Remove what killed runs have left: plans of dead makes, unfinished temporary files.

    Only this make owns the checkout now, so whatever is unfinished is nobody's work.
    """
    for plan in BUILD.glob("plan-*.mk"):
        pid = plan.stem.removeprefix("plan-")
        if not (pid.isdecimal() and process_lives(int(pid))):
            plan.unlink(missing_ok=True)
    for folder in (BUILD, RESULTS):
        for path in sorted(folder.rglob(f"{TEMPORARY_PREFIX}*")):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


run_command(main, __doc__)
