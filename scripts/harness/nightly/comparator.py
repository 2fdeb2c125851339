"""The last good engine and its versions, kept so that a suspicious night can be compared with it.

Kept are the engine, the sources that ran it, and the record of that night. It is at hand when a
worker that loads it finds itself where the record says the engine ran: cores and the variables of
numeric libraries are set back for it, but packages, drivers and the system are not.

It is the first good night of the present baseline, and stays as long as it could still run: a
comparator that was renewed each night would share each step of a slow loss.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..executor import LIBRARY
from ..files import TEMPORARY_PREFIX, read_json, to_json, write_atomic
from ..lock import device_lock
from ..paths import BUILD, ROOT
from ..records import MadeFile
from ..run import read_run
from .history import Changed, changes
from .matrix import Entry
from .pairs import Pairs, PairsFailure, Worker, measure
from .record import Record, provenance_of
from .worker import PROTOCOL

KEPT = BUILD / "nightly" / "comparators"
_FILE = "comparator.json"
# A pass of a pair takes about as long; of a larger dataset every n-th question is asked.
_PASS_SECONDS = 10.0
# What a worker can be started with as it was; a processor's facts follow from the cores in use.
_SET_BACK = ("environment.cpus", "environment.numeric_variables.")
_FOLLOWS = ("device.cores", "device.name")
# What a worker tells of itself, beside which the rest follows from the kept files.
_FACTS = ("device.", "environment.")


@dataclass(frozen=True)
class Comparator:
    """A kept engine: its `folder`, the `engine` in it, and the `record` of its night."""

    folder: Path
    engine: Path
    record: Record


def folder_of(entry: Entry) -> Path:
    """Where the comparator of a cell is kept."""
    return KEPT / entry.name


def load(entry: Entry) -> Comparator | None:
    """The comparator of a cell; None where none is kept, or it is damaged."""
    folder = folder_of(entry)
    try:
        document = read_json(folder / _FILE, "comparator")
        engine = MadeFile(folder / document["engine"], document["sha256"])
        record = Record.from_json(document["record"], "comparator")
        return Comparator(folder, engine.checked("nightly"), record)
    except (UserError, LookupError, TypeError):
        return None


def drop(entry: Entry) -> None:
    """Keep no comparator: the next good night begins anew."""
    shutil.rmtree(folder_of(entry), ignore_errors=True)


def keep(entry: Entry, record: Record) -> None:
    """Keep tonight's engine and sources, unless those kept could still run."""
    kept = load(entry)
    if kept is not None and _out_of_reach(kept.record, record) == []:
        return
    run = read_run(entry.options.run_folder)
    engine = MadeFile.from_json(run["engine"])
    target = folder_of(entry)
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=target.parent))
    try:
        _link(engine.checked("engine"), made / engine.path.name)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "scripts" / "harness", made / "scripts/harness", ignore=ignored)
        if entry.options.backend.name == "plugin":
            # Its kernels are as much the engine as the file with the weights.
            for library in LIBRARY.parent.glob("*.so"):
                _link(library, made / library.relative_to(ROOT))
        document = {
            "engine": engine.path.name, "sha256": engine.sha256, "record": record.as_json(),
        }  # fmt: skip
        write_atomic(made / _FILE, to_json(document))
        drop(entry)
        made.replace(target)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def remeasure(
    entry: Entry, tonight: Record, allowed: float, report: Callable[[str], None], log: Path
) -> Pairs:
    """Measure the comparator and tonight's engine in turns.

    Raises PairsFailure, saying why, where there is no comparator at hand.
    """
    kept = load(entry)
    if kept is None:
        raise PairsFailure("no earlier engine is kept")
    blocked = _out_of_reach(kept.record, tonight)
    if blocked:
        raise PairsFailure(f"not to be had back tonight: {'; '.join(map(str, blocked[:3]))}")
    run = read_run(entry.options.run_folder)
    engine = MadeFile.from_json(run["engine"]).checked("engine")
    job = _job(entry, run)
    log.unlink(missing_ok=True)

    def worker(record: Record, sources: Path, file: Path) -> Worker:
        there = record.provenance["environment"]
        own = {**job, "engine": str(file), "cpus": there.get("cpus", "")}
        return Worker(entry.python, sources, own, there["numeric_variables"], log)

    backend = entry.options.backend
    with device_lock(backend.lock_name(entry.options.device)), ExitStack() as stack:
        report("loading both engines")
        old = stack.enter_context(
            closing(worker(kept.record, kept.folder / "scripts", kept.engine))
        )
        new = stack.enter_context(closing(worker(tonight, ROOT / "scripts", engine)))
        _check_facts(kept.record, old.facts)
        return measure(old, new, allowed, lambda count: report(f"pair {count}"))


def _out_of_reach(kept: Record, tonight: Record) -> list[Changed]:
    """What has changed since the kept night and cannot be set back."""
    found = changes(kept, tonight)
    cores_differ = any(change.path == "environment.cpus" for change in found)
    set_back = (*_SET_BACK, *_FOLLOWS) if cores_differ else _SET_BACK
    return [
        change
        for change in found
        if change.path == "dataset.sha256"
        or (change.path.startswith(_FACTS) and not change.path.startswith(set_back))
    ]


def _check_facts(record: Record, facts: Mapping[str, Any]) -> None:
    there = Record(record.time, record.cell, (), provenance=provenance_of(facts))
    wrong = [c for c in changes(record, there) if c.path.startswith(_FACTS)]
    if wrong:
        raise PairsFailure(f"not to be had back tonight: {'; '.join(map(str, wrong[:3]))}")


def _job(entry: Entry, run: Mapping[str, Any]) -> dict[str, Any]:
    options = entry.options
    timings = read_json(options.run_folder / "timings.json", "timings file")
    engine_options = asdict(options.engine)
    if options.plugin_library is not None:
        engine_options["plugin_library"] = str(options.plugin_library)
    return {
        "protocol": PROTOCOL,
        "backend": options.backend.name,
        "engine_options": engine_options,
        "dataset": str(ROOT / run["dataset"]["path"]),
        "vocab": str(ROOT / run["assets"]["vocab"]["path"]),
        "windows": asdict(options.profile.windows),
        "warmup": options.profile.warmup,
        "every": max(1, round(min(timings["execution_seconds"]) / _PASS_SECONDS)),
    }


def _link(source: Path, target: Path) -> None:
    """A second name for `source`, which is never written to again; a copy elsewhere."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
