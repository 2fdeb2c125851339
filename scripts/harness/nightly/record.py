"""One night's run of one cell, as the history keeps it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..batches import BatchSize
from ..errors import UserError
from ..files import read_json, sha256_file, write_atomic
from ..golden import golden_path
from ..measure import NOISE_SPREAD, qps, spread
from ..run import METRICS, PREDICTIONS, RUN, TIMINGS, read_run
from ..schema import check_schema
from .detection import Night, Verdict

CONCLUSIVE, INCONCLUSIVE = "conclusive", "inconclusive"
# Fewer repeats give a median, but no spread to judge it by.
LEAST_REPEATS = 5

_TEXT = {"type": "string", "minLength": 1}
_POSITIVE = {"type": "number", "exclusiveMinimum": 0}
_SCORE = {"type": ["number", "null"], "minimum": 0, "maximum": 100}
_HASH = {"type": ["string", "null"], "pattern": "^[0-9a-f]{64}$"}
_PROPERTIES = {
    "time": {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$"},
    "machine": _TEXT,
    "profile": _TEXT,
    "backend": _TEXT,
    "precision": _TEXT,
    "batch": {"anyOf": [{"type": "integer", "minimum": 1}, {"const": "auto"}]},
    "repeats": {"type": "array", "items": _POSITIVE},
    "median": {"anyOf": [_POSITIVE, {"type": "null"}]},
    "spread": {"type": ["number", "null"], "minimum": 0},
    "mad": {"type": ["number", "null"], "minimum": 0},
    "status": {"enum": [CONCLUSIVE, INCONCLUSIVE]},
    "reason": {"type": "string"},
    "exact_match": _SCORE,
    "f1": _SCORE,
    "predictions_sha256": _HASH,
    "golden_sha256": _HASH,
    "provenance": {"type": "object"},
    "verdict": {
        "type": ["object", "null"],
        "additionalProperties": False,
        "required": ["outcome", "loss", "note"],
        "properties": {
            "outcome": {"enum": ["confirmed", "refuted", "unclear", "accepted"]},
            "loss": {"type": "number"},
            "note": {"type": "string"},
        },
    },
}
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": list(_PROPERTIES),
    "properties": _PROPERTIES,
}

# What of run.json could change the speed or the answers from one night to the next. Left out are
# what differs between any two runs (times, loads, clocks) and what merely follows from the rest.
_PROVENANCE = {
    "git": ("commit", "dirty"),
    "device": None,
    "environment": ("python", "packages", "system", "host", "numeric_variables", "cpus"),
    "profile_sha256": None,
    "dataset": ("sha256",),
    "onnx": ("sha256",),
    "engine": ("sha256",),
    "engine_made_from": None,
}
_NOT_PROVENANCE = ("clock", "utilization", "temperature")


@dataclass(frozen=True)
class Cell:
    """What is measured every night: a profile by a backend at a precision, on a machine."""

    machine: str
    profile: str
    backend: str
    precision: str
    batch: BatchSize


@dataclass(frozen=True)
class Record:
    """One run of one cell.

    time: UTC, ISO 8601 to the second.
    repeats: QPS of each repeat, in 1/s; empty where the run has failed.
    median, spread, mad: of `repeats`: QPS; (max - min) / median; the median absolute deviation
        over the median. None without repeats.
    status, reason: CONCLUSIVE, or INCONCLUSIVE and why in a line.
    exact_match, f1: per cent, None where nothing was answered.
    predictions_sha256: of predictions.json, by which `kept` finds that night's answers.
    golden_sha256: of the golden file that judged the run, None without one.
    provenance: what could have changed speed or answers, JSON objects in one another.
    verdict: what the re-measurement of this night showed, if there was one.
    """

    time: str
    cell: Cell
    repeats: tuple[float, ...]
    exact_match: float | None = None
    f1: float | None = None
    predictions_sha256: str | None = None
    golden_sha256: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    failure: str = ""
    verdict: Verdict | None = None

    @property
    def median(self) -> float | None:
        """The median QPS, in 1/s."""
        return statistics.median(self.repeats) if self.repeats else None

    @property
    def spread(self) -> float | None:
        """(max - min) / median of the repeats."""
        return spread(self.repeats) if self.repeats else None

    @property
    def mad(self) -> float | None:
        """The repeats' median absolute deviation, as a share of their median."""
        middle = self.median
        if middle is None:
            return None
        return statistics.median(abs(value - middle) for value in self.repeats) / middle

    @property
    def reason(self) -> str:
        """Why the run is inconclusive, in a line; "" if it is not."""
        if self.failure:
            return self.failure
        if len(self.repeats) < LEAST_REPEATS:
            return f"{len(self.repeats)} repeats, fewer than {LEAST_REPEATS}"
        wide = spread(self.repeats)
        if wide > NOISE_SPREAD:
            return f"repeats spread by {wide:.1%}, more than {NOISE_SPREAD:.0%}: noise"
        return ""

    @property
    def status(self) -> str:
        """CONCLUSIVE or INCONCLUSIVE."""
        return INCONCLUSIVE if self.reason else CONCLUSIVE

    @property
    def night(self) -> Night:
        """The run as detection judges it."""
        middle = self.median
        value = None if self.reason or middle is None else math.log(middle)
        return Night(value, self.verdict)

    def as_json(self) -> dict[str, Any]:
        """The record as a line of the history holds it."""
        return {
            "time": self.time,
            **asdict(self.cell),
            "repeats": list(self.repeats),
            "median": self.median,
            "spread": self.spread,
            "mad": self.mad,
            "status": self.status,
            "reason": self.reason,
            "exact_match": self.exact_match,
            "f1": self.f1,
            "predictions_sha256": self.predictions_sha256,
            "golden_sha256": self.golden_sha256,
            "provenance": dict(self.provenance),
            "verdict": None if self.verdict is None else asdict(self.verdict),
        }

    @staticmethod
    def from_json(entry: Any, what: str) -> Record:
        """The record in `entry`; raises UserError, naming it `what`, for any other value."""
        check_schema(entry, SCHEMA, what)
        cell = Cell(*(entry[name] for name in Cell.__dataclass_fields__))
        noise = Record(entry["time"], cell, tuple(entry["repeats"]))
        # Any other reason came from outside: the run had failed.
        failure = "" if entry["reason"] == noise.reason else entry["reason"]
        verdict = entry["verdict"]
        record = Record(
            entry["time"], cell, noise.repeats, entry["exact_match"], entry["f1"],
            entry["predictions_sha256"], entry["golden_sha256"], entry["provenance"], failure,
            None if verdict is None else Verdict(**verdict),
        )  # fmt: skip
        if record.as_json() != entry:
            raise UserError(f"{what} does not follow from its own repeats; restore it")
        return record


def record_of_run(folder: Path, machine: str, verdict: Verdict | None = None) -> Record:
    """The record of the run in `folder`, made on `machine` (a name that stays the same).

    Raises UserError when the run cannot be read.
    """
    run = read_run(folder)
    try:
        options = run["options"]
        timings = read_json(folder / TIMINGS, "timings file")
        metrics = read_json(folder / METRICS, "metrics file")
        cell = Cell(
            machine, options["profile"], options["backend"], options["precision"], timings["batch"]
        )
        passes = zip(timings["seconds"], timings["execution_seconds"], strict=True)
        golden = golden_path(cell.profile, cell.precision)
        return Record(
            time=run["finished"],
            cell=cell,
            repeats=tuple(qps(timings["windows"], cell.batch, s, wall) for s, wall in passes),
            exact_match=metrics["exact_match"],
            f1=metrics["f1"],
            predictions_sha256=sha256_file(folder / PREDICTIONS),
            golden_sha256=sha256_file(golden) if golden.is_file() else None,
            provenance=provenance_of(run),
            verdict=verdict,
        )
    except (LookupError, TypeError, ValueError, ArithmeticError, OSError) as error:
        raise UserError(
            f"{folder / RUN} and its files do not fit together ({error}); run `make infer` again"
        ) from None


def keep(predictions: Path, store: Path) -> str:
    """Keep a copy of predictions.json in the folder `store` under its SHA-256, which is returned.

    Nights with equal answers share one copy.
    """
    name = sha256_file(predictions)
    target = kept(name, store)
    if not target.is_file():
        write_atomic(target, predictions.read_bytes())
    return name


def kept(sha256: str, store: Path) -> Path:
    """Where `keep` put the predictions with this hash."""
    return store / f"{sha256}.json"


def provenance_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """What of `run` (a run.json, or some of its keys) could change speed or answers."""
    found: dict[str, Any] = {}
    for name, keys in _PROVENANCE.items():
        entry = run.get(name)
        if isinstance(entry, Mapping):
            found[name] = {
                key: value
                for key, value in entry.items()
                if (keys is None or key in keys) and not key.startswith(_NOT_PROVENANCE)
            }
        elif entry is not None:
            found[name] = entry
    return found
