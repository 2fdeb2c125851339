"""From measured runs to a golden file: which limits follow, and what would change.

A promise of speed is this device's, backend's and batch's alone, and is replaced by its
successor. Accuracy holds everywhere: an entry that is there stays, unless it came from the same
device and backend by the same command.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .batches import BatchSize
from .errors import UserError
from .files import read_json
from .golden import SCHEMA, Golden, golden_path
from .measure import NOISE_SPREAD, spread
from .paths import shown
from .schema import check_schema

LEAST_RUNS = 5
# QPS may fall by the larger of a share of itself, and a multiple of the spread between runs.
ALLOWED_SHARE, ALLOWED_SPREADS = 0.05, 3
_CHECKED = ("max_abs_difference", "mean_abs_difference", "min_cosine", "equal_answers")


@dataclass(frozen=True)
class Rule:
    """What a precision may lose, wherever it runs.

    exact_match, f1: points under FP32's golden values. answers: as many answers may change even
    where the dataset is so small that each weighs more. crosscheck: in the order of _CHECKED.
    """

    exact_match: float
    f1: float
    answers: int
    crosscheck: tuple[float, float, float, float]


# The limits that this project's own golden files have, by precision.
_INT8 = Rule(0.8, 0.5, 9, (6.0, 0.2, 0.99, 88.0))
RULES = {
    "fp32": Rule(0.05, 0.05, 2, (0.0005, 0.00005, 0.99999, 99.5)),
    "fp16": Rule(0.1, 0.1, 3, (0.15, 0.01, 0.9999, 99.0)),
    "bf16": Rule(0.3, 0.3, 3, (1.0, 0.05, 0.999, 98.5)),
    "int8": _INT8,
    "fp8": _INT8,
}


@dataclass(frozen=True)
class Run:
    """One conclusive run: `qps` is its median (1/s), scores in per cent, `spread` a share."""

    qps: float
    spread: float
    exact_match: float
    f1: float
    crosscheck: Mapping[str, float]


@dataclass(frozen=True)
class Measured:
    """Runs of one cell, at least LEAST_RUNS, and where they come from.

    dataset: name and sha256 as a golden file has them; versions: runtime, driver, commit, date.
    """

    profile: str
    precision: str
    backend: str
    batch: BatchSize
    device: str
    questions: int
    dataset: Mapping[str, str]
    versions: str
    runs: Sequence[Run]

    @property
    def source(self) -> str:
        """How the origin of all that is blessed here begins, whatever the day."""
        return f"measured by make bless with {self.backend} on {self.device}"

    @property
    def median(self) -> float:
        """The median of the runs' QPS, in 1/s."""
        return statistics.median(run.qps for run in self.runs)

    @property
    def between(self) -> float:
        """(max - min) / median of the runs' QPS."""
        return spread([run.qps for run in self.runs])


@dataclass(frozen=True)
class Difference:
    """One value of a golden file that would change; None where there is none."""

    name: str
    old: Any
    new: Any


def proposed(measured: Measured, golden: Golden | None, fp32: Golden | None) -> dict[str, Any]:
    """The golden file with what `measured` shows; `fp32` is the profile's file for FP32.

    Raises UserError where the runs do not support a promise.
    """
    _check_runs(measured)
    if golden is None:
        document: dict[str, Any] = {
            "profile": measured.profile,
            "precision": measured.precision,
            "datasets": [dict(measured.dataset)],
            "accuracy": _accuracy(measured, fp32),
            "crosscheck": _crosscheck(measured),
            "qps": [],
        }
    else:
        document = copy.deepcopy(golden.document)
        if not golden.holds_for(measured.dataset["sha256"]):
            raise UserError(
                f"{shown(golden.path)} does not hold for dataset {measured.dataset['name']}; "
                "add its hash there by hand, or leave DATASET out"
            )
        if _same_source(document["accuracy"], measured):
            document["accuracy"] = _accuracy(measured, fp32)
        if _same_source(document.get("crosscheck"), measured):
            document["crosscheck"] = _crosscheck(measured)
    _promise(document["qps"], measured)
    path = golden_path(measured.profile, measured.precision)
    check_schema(document, read_json(SCHEMA, "schema"), f"new {shown(path)}")
    return document


def replaces_accuracy(measured: Measured, golden: Golden | None) -> bool:
    """Whether the accuracy limits that are there would be replaced."""
    return golden is None or _same_source(golden.document["accuracy"], measured)


def crosscheck_problem(found: Mapping[str, float], precision: str) -> str:
    """Which of the precision's limits the cross-check breaks, in a line; "" if none."""
    for name, limit in zip(_CHECKED, RULES[precision].crosscheck, strict=True):
        more_is_better = name in ("min_cosine", "equal_answers")
        if not (found[name] >= limit if more_is_better else found[name] <= limit):
            return f"{name} is {found[name]:.6g}, beyond {limit:g}"
    return ""


def differences(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> list[Difference]:
    """What differs between two golden documents, value by value."""
    before, after = _values(old or {}), _values(new)
    names = [*after, *(name for name in before if name not in after)]
    found = (Difference(name, before.get(name), after.get(name)) for name in names)
    return [difference for difference in found if difference.old != difference.new]


def _check_runs(measured: Measured) -> None:
    if len(measured.runs) < LEAST_RUNS:
        raise UserError(
            f"{len(measured.runs)} runs are fewer than {LEAST_RUNS}; give RUNS={LEAST_RUNS} or more"
        )
    if len({(run.exact_match, run.f1) for run in measured.runs}) > 1:
        raise UserError("the runs' scores differ from each other; mend the backend first")
    if measured.between > NOISE_SPREAD:
        raise UserError(
            f"the runs' QPS spread by {measured.between:.1%}, more than {NOISE_SPREAD:.0%}; make "
            "the machine quieter and run `make bless` again"
        )


def _same_source(entry: Any, measured: Measured) -> bool:
    return entry is not None and str(entry["source"]).startswith(measured.source + ",")


def _source(measured: Measured, found: str) -> str:
    return f"{measured.source}, {measured.versions}; {found}"


def _accuracy(measured: Measured, fp32: Golden | None) -> dict[str, Any]:
    rule, run = RULES[measured.precision], measured.runs[0]
    base = None
    if measured.precision != "fp32" and fp32 is not None:
        base = fp32.accuracy(measured.backend)
    share = 100 * rule.answers / measured.questions
    entry: dict[str, Any] = {}
    for name in ("exact_match", "f1"):
        value = round(float(getattr(run, name)), 4)
        points = max(float(getattr(rule, name)), share)
        reference = value if base is None else base[name].value
        # The limit is as many points under FP32's value; whatever was measured must keep it.
        allowed = math.ceil(1e4 * (value - reference + points) - 1e-6) / 1e4
        if allowed < 0:
            raise UserError(
                f"{name} is {value:.4f}, more than {points:.2f} points under FP32's "
                f"{reference:.4f}; mend {measured.precision} first"
            )
        entry[name] = {"value": value, "allowed_loss": allowed}
    under = "the measured value" if base is None else "FP32's golden value"
    return {
        **entry,
        "source": _source(measured, f"the same in all {len(measured.runs)} runs"),
        "derivation": (
            f"{measured.precision} may be {rule.exact_match:g} points of exact_match and "
            f"{rule.f1:g} of f1 under {under}, or {rule.answers} of {measured.questions} answers, "
            "whichever is more."
        ),
    }


def _crosscheck(measured: Measured) -> dict[str, Any]:
    found = measured.runs[0].crosscheck
    shown_values = ", ".join(f"{name} {found[name]:.6g}" for name in _CHECKED)
    return {
        **dict(zip(_CHECKED, RULES[measured.precision].crosscheck, strict=True)),
        "source": _source(measured, shown_values),
        "derivation": f"Fixed for {measured.precision}: what any two backends may differ by.",
    }


def _promise(entries: list[dict[str, Any]], measured: Measured) -> None:
    """Replace the promise for this device, backend and batch in `entries`, or add it."""
    value = round(measured.median, 2)
    share = max(ALLOWED_SHARE, ALLOWED_SPREADS * measured.between)
    within = max(run.spread for run in measured.runs)
    entry = {
        "device": measured.device,
        "backend": measured.backend,
        "batch": measured.batch,
        "value": value,
        "allowed_loss": math.ceil(100 * share * value) / 100,
        "source": _source(
            measured,
            f"median of {len(measured.runs)} runs, which spread over {measured.between:.2%}, "
            f"passes of one run over at most {within:.2%}",
        ),
        "derivation": (
            f"The larger of {ALLOWED_SHARE:.0%} and {ALLOWED_SPREADS} times the spread between "
            f"runs: {share:.2%}."
        ),
    }
    key = (measured.device, measured.backend, measured.batch)
    for index, known in enumerate(entries):
        if (known["device"], known["backend"], known["batch"]) == key:
            entries[index] = entry
            return
    entries.append(entry)


def _values(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document's values by path; promises of speed by what they are for."""
    found: dict[str, Any] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, Mapping):
            for key, entry in value.items():
                walk(entry, f"{path} {key}".strip())
        else:
            found[path] = value

    for key, value in document.items():
        if key == "qps":
            for entry in value:
                numbers = {
                    k: v for k, v in entry.items() if k not in ("device", "backend", "batch")
                }
                name = f"QPS {entry['device']}, {entry['backend']}, batch {entry['batch']}:"
                walk(numbers, name)
        elif key == "datasets":
            for entry in value:
                found[f"dataset {entry['sha256'][:12]}"] = entry["name"]
        else:
            walk(value, key)
    return found
