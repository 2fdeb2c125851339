"""The runs that a promise rests on: made by the normal stages, and refused where they show none.

Good runs are kept under build/bless until a golden file is written, so that a command that was
interrupted, or refused because of one noisy run, goes on where it stopped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from .bless import Measured, Run, crosscheck_problem, replaces_accuracy
from .errors import UserError, one_line
from .files import read_json, sha256_file, to_json, write_atomic
from .golden import Golden, load_golden
from .inputs import Inputs
from .nightly.history import changes
from .nightly.matrix import name_of
from .nightly.record import Record, record_of_run
from .nightly.stages import CELL_VARIABLES, Stages, run_make
from .options import Options
from .paths import BUILD
from .provenance import RUNTIMES, git_state, utc_now
from .run import CROSSCHECK, METRICS, RUN, read_run
from .verify import FAIL, UNCLEAR, Check, verify
from .watch import disturbed

BLESS = BUILD / "bless"
# The machine may be another one by then.
_OLDEST = timedelta(days=1)

Report = Callable[[str], None]


@dataclass(frozen=True)
class _Kept:
    """A good run as it is kept: its numbers, and where they come from."""

    run: Run
    record: Record
    base: Measured


def refuse(options: Options) -> None:
    """Raise UserError for what can be no promise, before anything is measured."""
    if options.limit is not None:
        raise UserError("LIMIT runs are never comparable with a golden file; leave LIMIT out")
    natural = options.backend.networks[0]
    if options.network != natural or options.plugin_library or options.compute_capability:
        raise UserError(
            "a golden file promises the backend's own network, library and device; leave NETWORK, "
            "PLUGIN_LIBRARY and COMPUTE_CAPABILITY out"
        )
    if options.calibration is not None:
        raise UserError("a golden file promises the profile's own scales; leave CALIBRATION out")
    state = git_state()
    if state["dirty"] is None:
        raise UserError("git cannot tell what is committed here; bless from a git checkout")
    if state["dirty"]:
        raise UserError("tracked files differ from the commit; commit or stash them first")


def measure_all(options: Options, runs: int, report: Report, stages: Stages = run_make) -> Measured:
    """`runs` good runs of `options`, those included that were kept.

    Raises UserError for the first run that is none.
    """
    folder = BLESS / name_of(options)
    found: list[_Kept] = []
    for number in range(1, runs + 1):
        path = folder / f"{number}.json"
        kept = _read(path)
        if kept is not None:
            report(f"run {number} of {runs}: kept from {kept.record.time}")
        else:
            report(f"run {number} of {runs}: measuring")
            kept = _measure(options, f"run {number} of {runs}", folder, stages)
            write_atomic(path, to_json(_as_json(kept)))
        found.append(kept)
    for other in found[:-1]:
        changed = changes(other.record, found[-1].record)
        if changed:
            forget(options)
            raise UserError(
                f"the runs were not made alike ({one_line(changed[0])}); run `make bless` again"
            )
    return replace(found[-1].base, runs=[kept.run for kept in found])


def forget(options: Options) -> None:
    """Remove what is kept of the cell's runs."""
    shutil.rmtree(BLESS / name_of(options), ignore_errors=True)


def _measure(options: Options, label: str, folder: Path, stages: Stages) -> _Kept:
    given = {name: os.environ.get(name, "") for name in CELL_VARIABLES}
    chosen = {
        "PROFILE": options.profile.name, "BACKEND": options.backend.name,
        "PRECISION": options.precision,
    }  # fmt: skip
    outcome = stages("crosscheck", {**given, **chosen}, folder / "make.log")
    if outcome.code:
        raise UserError(f"{label} failed: {outcome.reason}")
    run = read_run(options.run_folder)
    record = record_of_run(options.run_folder, "bless")
    if run["git"]["dirty"] is not False:
        raise UserError(f"{label} was made from files that are not committed; commit them")
    reason = record.reason or disturbed(run)
    if reason:
        raise UserError(
            f"{label} is inconclusive: {reason}; make the machine quieter and run `make bless` "
            "again, which keeps the good runs"
        )
    inputs = Inputs(options)
    crosscheck = _crosscheck(options)
    metrics = read_json(options.run_folder / METRICS, "metrics file")
    base = Measured(
        profile=options.profile.name,
        precision=options.precision,
        backend=options.backend.name,
        batch=options.batch,
        device=run["device"]["name"],
        questions=len(inputs.dataset.questions),
        dataset={"name": run["dataset"]["path"], "sha256": inputs.dataset.sha256},
        versions=_versions(run),
        runs=(),
    )
    if metrics["unstable_answers"]:
        raise UserError(f"{label}: {metrics['unstable_answers']} answers changed between passes")
    golden = load_golden(options.profile.name, options.precision)
    problem = _broken(options, golden, base, inputs)
    if not problem and (golden is None or golden.crosscheck(options.backend.name) is None):
        problem = crosscheck_problem(crosscheck, options.precision)
        problem = problem and f"cross-check: {problem}"
    if problem:
        raise UserError(f"{label} breaks what must hold: {problem}; `make verify` shows all checks")
    assert record.median is not None and record.spread is not None
    return _Kept(
        Run(record.median, record.spread, metrics["exact_match"], metrics["f1"], crosscheck),
        record,
        base,
    )


def _crosscheck(options: Options) -> dict[str, float]:
    document = read_json(options.run_folder / CROSSCHECK, "cross-check")
    if document["run_sha256"] != sha256_file(options.run_folder / RUN):
        raise UserError("the cross-check belongs to another run; run `make bless` again")
    names = ("max_abs_difference", "mean_abs_difference", "min_cosine", "equal_answers")
    return {name: document[name] for name in names}


def _broken(options: Options, golden: Golden | None, base: Measured, inputs: Inputs) -> str:
    """The first check of verify that a run must pass before it promises anything; "" if none."""
    if golden is None:
        return ""
    # What is about to be replaced need not be kept.
    replaced = {"QPS"} | ({"exact_match", "f1"} if replaces_accuracy(base, golden) else set())

    def matters(check: Check) -> bool:
        return check.status in (FAIL, UNCLEAR) and check.name not in replaced

    verdict = verify(options, inputs)
    broken = next((check for check in verdict.checks if matters(check)), None)
    return "" if broken is None else one_line(f"{broken.name}: {broken.note}")


def _versions(run: Mapping[str, Any]) -> str:
    packages = run["environment"]["packages"]
    parts = [f"{name} {packages[name]}" for name in RUNTIMES if name in packages]
    driver = run["device"].get("driver")
    parts += [f"driver {driver}"] if driver else []
    parts += [f"commit {run['git']['commit'][:12]}", run["finished"][:10]]
    return ", ".join(parts)


def _as_json(kept: _Kept) -> dict[str, Any]:
    return {
        "run": asdict(kept.run), "record": kept.record.as_json(),
        "base": {**asdict(kept.base), "runs": []}, "kept": utc_now(),
    }  # fmt: skip


def _read(path: Path) -> _Kept | None:
    """A kept run; None where there is none, or it is not of this commit and day."""
    try:
        document = read_json(path, "kept run")
        age = datetime.now(timezone.utc) - datetime.fromisoformat(
            document["kept"].replace("Z", "+00:00")
        )
        record = Record.from_json(document["record"], "kept run")
        if age > _OLDEST or record.provenance["git"]["commit"] != git_state()["commit"]:
            return None
        return _Kept(Run(**document["run"]), record, Measured(**document["base"]))
    except (UserError, LookupError, TypeError, ValueError, AttributeError):
        return None
