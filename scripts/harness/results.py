"""Results read to be shown: runs, their details, the verdict, the published table.

Files that a report or a comparison reads may be unfinished, damaged or forged. Each function
returns values that have their types and ranges, or raises UserError.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .batches import AUTO
from .errors import UserError
from .files import read_json, sha256_file
from .measure import NOISE_SPREAD, summarize
from .paths import shown
from .records import MadeFile
from .run import CROSSCHECK, METRICS, PREDICTIONS, RUN, TIMINGS
from .schema import check_schema
from .squad import Question, read_dataset
from .verify import FAIL, PASS, UNCLEAR, UNPROMISED, Check, Verdict
from .watch import disturbed

# Stands where there is no value.
NOTHING = "–"
# The table that the project reproduces: these golden files hold it, with its source.
PUBLISHED_PROFILE = "bert-base-squad"
PUBLISHED_PRECISIONS = ("fp16", "int8")
_PUBLISHED_DEVICE = "MR-V100"
_PUBLISHED_BATCH = 32


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


_TEXT = {"type": "string"}
# The operating system takes neither NUL nor half of a surrogate pair.
_PATH = {"type": "string", "pattern": "^[^\0\ud800-\udfff]*$"}
# Upper ends keep out numbers that overflow when they are scaled.
_COUNT = {"type": "integer", "minimum": 0, "maximum": 10**12}
_BATCH = {"anyOf": [_COUNT, {"const": AUTO}]}
_POSITIVE = {"type": "number", "exclusiveMinimum": 0, "maximum": 1e15}
_AMOUNT = {"type": "number", "minimum": 0, "maximum": 1e15}
_PERCENT = {"type": "number", "minimum": 0, "maximum": 100}
_RUN = _object(
    options=_object(
        profile=_TEXT,
        backend=_TEXT,
        precision=_TEXT,
        batch=_BATCH,
        limit={"type": ["integer", "null"]},
        dataset={"type": ["string", "null"]},
    ),
    dataset=_object(path=_PATH, sha256=_TEXT),
    files=_object(**dict.fromkeys((PREDICTIONS, METRICS, TIMINGS), _TEXT)),
    finished=_TEXT,
    device=_object(name=_TEXT),
    git=_object(commit={"type": ["string", "null"]}, dirty={"type": ["boolean", "null"]}),
)
_METRICS = _object(
    exact_match=_PERCENT,
    f1=_PERCENT,
    questions=_COUNT,
    windows=_COUNT,
    unstable_answers=_COUNT,
    qps=_POSITIVE,
    qps_spread=_AMOUNT,
    qps_end_to_end=_POSITIVE,
    qps_end_to_end_spread=_AMOUNT,
    latency_ms=_object(p50=_POSITIVE, p90=_POSITIVE, p99=_POSITIVE),
    repeats=_COUNT,
)
_CROSSCHECK = _object(
    histogram={"type": "array", "minItems": 1, "items": _COUNT},
    histogram_edges={"type": "array", "items": _POSITIVE},
    worst={
        "type": "array",
        "items": _object(
            window=_COUNT,
            question=_TEXT,
            max_abs_difference=_AMOUNT,
            cosine={"type": "number", "minimum": -2, "maximum": 2},
        ),
    },
    run_sha256=_TEXT,
)
_VALUE = {"type": ["string", "number", "null"]}
_VERDICT = _object(
    run=_PATH,
    run_sha256=_TEXT,
    checks={
        "type": "array",
        "items": _object(
            name=_TEXT,
            expected=_VALUE,
            actual=_VALUE,
            limit=_VALUE,
            status={"enum": [PASS, FAIL, UNCLEAR, UNPROMISED]},
            golden={"type": ["string", "null"]},
            note=_TEXT,
        ),
    },
)
_PROMISE = _object(
    accuracy=_object(exact_match=_object(value=_PERCENT), f1=_object(value=_PERCENT)),
    qps={
        "type": "array",
        "items": _object(device=_TEXT, backend=_TEXT, batch=_BATCH, value=_POSITIVE, source=_TEXT),
    },
)


@dataclass(frozen=True)
class RunSummary:
    """A run without its answers and logits: `record` is run.json, `metrics` metrics.json.

    `sha256` is the hash of run.json; `leaves` hold the record as texts by dotted path; `notes`
    say why its numbers do not stand for themselves.
    """

    folder: Path
    sha256: str
    record: dict[str, Any]
    metrics: dict[str, Any]
    leaves: dict[str, str]
    notes: list[str]


def read_summary(folder: Path) -> RunSummary:
    """The run in `folder`; raises UserError where it is unfinished or malformed."""
    path = folder / RUN
    if not path.is_file():
        raise UserError(f"{shown(folder)} holds no {RUN}: the run is unfinished; run `make infer`")
    record = _read(path, _RUN)
    metrics = _read(folder / METRICS, _METRICS)
    try:
        leaves = dict(_leaves(record))
    except RecursionError:
        raise UserError(f"{shown(path)} is nested too deeply; run `make infer`") from None
    notes = list(_notes(folder, record, metrics))
    return RunSummary(folder, sha256_file(path), record, metrics, leaves, notes)


def read_questions(run: RunSummary, root: Path) -> dict[str, Question]:
    """Every question of the run's dataset by id; the dataset's path is relative to `root`.

    Raises UserError where the dataset cannot be read or is not the one the run answered.
    """
    entry = run.record["dataset"]
    dataset = read_dataset(root / entry["path"])
    if dataset.sha256 != entry["sha256"]:
        raise UserError(f"dataset {entry['path']} has changed since the run; run `make infer`")
    return {question.id: question for question in dataset.questions}


def read_latency(
    run: RunSummary,
) -> tuple[np.ndarray[Any, np.dtype[np.float64]], dict[str, Any]]:
    """Times of all batches of all repeats (N,) in ms, and the speed that follows from them.

    Raises UserError where timings.json is damaged or holds times that are not positive.
    """
    path = run.folder / TIMINGS
    try:
        timings = read_json(path, "timings file")
        milliseconds = np.asarray(timings["seconds"], dtype=np.float64).ravel() * 1e3
        if not (len(milliseconds) and np.all(np.isfinite(milliseconds) & (milliseconds > 0))):
            raise ValueError("a batch took no positive time")
        return milliseconds, summarize(timings)
    except (UserError, KeyError, TypeError, ValueError, ArithmeticError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{shown(path)} cannot be read ({reason}); run `make infer`") from None


def read_crosscheck(run: RunSummary) -> dict[str, Any]:
    """crosscheck.json of the run; its histogram has one count more than edges.

    Raises UserError where it is missing, malformed or of an earlier run.
    """
    path = run.folder / CROSSCHECK
    if not path.is_file():
        raise UserError("the run has not been cross-checked; run `make crosscheck`")
    found = _read(path, _CROSSCHECK)
    if len(found["histogram"]) != len(found["histogram_edges"]) + 1:
        raise UserError(f"the histogram in {shown(path)} is malformed; run `make crosscheck`")
    if found["run_sha256"] != run.sha256:
        raise UserError("the cross-check is of an earlier run; run `make crosscheck`")
    return found


def read_verdict(path: Path) -> Verdict:
    """The verdict in `path`; raises UserError where it is missing or malformed."""
    if not path.is_file():
        raise UserError("no run has been verified; run `make verify`")
    stored = _read(path, _VERDICT)
    keys = Check.__dataclass_fields__
    checks = [Check(**{key: entry[key] for key in keys}) for entry in stored["checks"]]
    return Verdict(stored["run"], stored["run_sha256"], checks)


def read_published(golden: Path, precision: str) -> dict[str, Any]:
    """The published row at a precision: its entry of `qps`, with `exact_match` and `f1` in %.

    Raises UserError where the golden file is malformed or does not hold the row.
    """
    path = golden / PUBLISHED_PROFILE / f"{precision}.json"
    promised = _read(path, _PROMISE)
    for entry in promised["qps"]:
        if _PUBLISHED_DEVICE in entry["device"] and entry["batch"] == _PUBLISHED_BATCH:
            scores = {name: promised["accuracy"][name]["value"] for name in ("exact_match", "f1")}
            return {**entry, **scores}
    raise UserError(
        f"{shown(path)} promises no QPS for {_PUBLISHED_DEVICE}, batch {_PUBLISHED_BATCH}; "
        "restore it"
    )


def _read(path: Path, schema: dict[str, Any]) -> dict[str, Any]:
    """The JSON object in `path`; raises UserError where `schema` does not hold."""
    document: dict[str, Any] = read_json(path, "file")
    check_schema(document, schema, shown(path))
    return document


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
        for place, entry in enumerate(value):
            yield from _leaves(entry, f"{path}.{place}")
    elif isinstance(value, list):
        yield path, ", ".join(str(entry) for entry in value) or NOTHING
    else:
        yield path, NOTHING if value is None else str(value)


def _notes(folder: Path, record: dict[str, Any], metrics: dict[str, Any]) -> Iterator[str]:
    limit, dataset = record["options"]["limit"], record["options"]["dataset"]
    if limit is not None:
        yield f"first {limit} questions only: not comparable"
    if dataset is not None:
        yield f"over {dataset} instead of the profile's dataset"
    if metrics["qps_spread"] > NOISE_SPREAD:
        yield f"QPS is noise: repeats spread by more than {NOISE_SPREAD:.0%}"
    # A run from before runs were watched says nothing of it.
    if "disturbances" in record and (reason := disturbed(record)):
        yield f"QPS is disturbed by {reason}"
    if metrics["unstable_answers"]:
        yield f"{metrics['unstable_answers']} answers changed between passes"
    for name in (PREDICTIONS, METRICS, TIMINGS):
        if MadeFile(folder / name, record["files"][name]).problem() is not None:
            yield f"{name} is not what the run wrote"
