"""The verdict on a run: every promise of its golden file, and whether its files hold together.

Nothing stored is taken on trust: answers are scored again, speed is computed again from the
timings, files are hashed again, logits are compared with the reference again, and all of this
must be what the stages before have recorded. That finds what does not fit together; it does not
find a forger who rewrites everything.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .answers import answer_texts
from .batches import AUTO, plan_batches
from .crosscheck import compare, document, reference_path
from .engine import engine_path
from .errors import CHECK_FAILED, INCONCLUSIVE, OK, UserError, one_line
from .files import fingerprint, read_json, sha256_file
from .golden import SCHEMA, Golden, golden_path, load_golden, uncommitted
from .inputs import Inputs
from .manifest import RepositoryFile, load_manifest
from .measure import NOISE_SPREAD, summarize
from .options import Options, asset_lock_path
from .paths import MANIFEST, ROOT, shown
from .pins import read_pins
from .provenance import GitError
from .records import MadeFile, read_record, records_of
from .run import (
    CROSSCHECK,
    LOGITS,
    METRICS,
    PREDICTIONS,
    RUN,
    TIMINGS,
    Logits,
    read_logits,
    read_predictions,
    read_run,
)
from .scoring import Score, score
from .squad import Dataset
from .watch import disturbed
from .windows import Windows, cut_windows, load_tokenizer

# What reading a damaged run can raise.
_DAMAGE = (
    UserError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError,
)  # fmt: skip
# The one metric that cannot be computed again: of all passes only the first one's answers are kept.
_UNSTABLE = "unstable_answers"
PASS, FAIL, UNPROMISED, UNCLEAR = "pass", "fail", "unpromised", "inconclusive"


@dataclass(frozen=True)
class Check:
    """One check; `note` says in a line why it did not pass."""

    name: str
    expected: str | float | None
    actual: str | float | None
    limit: str | float | None
    status: str
    golden: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Verdict:
    """All checks of one run: `run` is its folder, `run_sha256` the hash of its run.json."""

    run: str
    run_sha256: str
    checks: list[Check]

    @property
    def status(self) -> str:
        """fail if any check failed, else inconclusive if any is, else pass."""
        states = {check.status for check in self.checks}
        return FAIL if FAIL in states else UNCLEAR if UNCLEAR in states else PASS

    @property
    def exit_code(self) -> int:
        """The exit code of `verify`."""
        return {PASS: OK, FAIL: CHECK_FAILED, UNCLEAR: INCONCLUSIVE}[self.status]

    def as_json(self) -> dict[str, Any]:
        """The verdict as verify.json holds it."""
        return {
            "run": self.run,
            "run_sha256": self.run_sha256,
            "status": self.status,
            "checks": [asdict(check) for check in self.checks],
        }


def verify(options: Options, inputs: Inputs) -> Verdict:
    """Judge the run of `options`, made from `inputs`.

    Raises UserError for a malformed golden file or dataset and when there is no run at all;
    everything that is wrong with the run itself is a failed check.
    """
    dataset, vocab = inputs.dataset, inputs.file("vocab")
    tokenizer = load_tokenizer(vocab.checked("assets"))
    golden = load_golden(options.profile.name, options.precision)
    folder = options.run_folder
    run = read_run(folder)
    identity = (shown(folder), sha256_file(folder / RUN))
    if golden is None:
        return Verdict(*identity, [_nothing_promised(options)])
    checks = [_golden_committed(golden)]
    checks += [_guard("run's options", lambda: _options(options, run))]
    checks += [_guard("files unchanged", lambda: _files(folder, run))]
    checks += [_guard("inputs unchanged", lambda: _inputs(run, options, inputs))]
    checks += [_guard("limits hold for dataset", lambda: _dataset(golden, dataset, options))]
    try:
        predictions = read_predictions(folder / PREDICTIONS)
        scored = score(dataset.questions, predictions)
        metrics = _object(folder / METRICS)
        timings = _object(folder / TIMINGS)
        logits = read_logits(folder / LOGITS)
    except UserError as error:
        return Verdict(*identity, [*checks, _failed("run's files", error)])
    windows = cut_windows(dataset.questions, tokenizer, options.profile.windows)
    checks += [_guard("all questions answered", lambda: _questions(dataset, predictions))]
    checks += [
        _guard("answers follow from logits", lambda: _follow(dataset, windows, logits, predictions))
    ]
    checks += _accuracy(golden, options.backend.name, scored)
    checks += [_guard("metrics agree", lambda: _metrics(metrics, scored, timings))]
    checks += [_guard("passes agree", lambda: _stable(metrics))]
    plausible = partial(_timings, timings, run, len(dataset.questions), windows, options)
    checks += [_guard("timings plausible", plausible)]
    checks += [_guard("QPS", lambda: _qps(golden, run, options, timings))]
    checks += _crosscheck(golden, run, options, inputs, windows, logits)
    return Verdict(*identity, checks)


def _nothing_promised(options: Options) -> Check:
    path = shown(golden_path(options.profile.name, options.precision))
    note = f"no golden file {path}: nothing is promised at {options.precision}"
    return Check("limits hold for dataset", "yes", "no", None, FAIL, path, note)


def _guard(name: str, check: Callable[[], Check]) -> Check:
    """`check`'s result; whatever a damaged file makes it raise is that check failed."""
    try:
        return check()
    except _DAMAGE as error:
        return _failed(name, error)


def _failed(name: str, error: Exception) -> Check:
    note = f"missing {error}" if isinstance(error, KeyError) else str(error)
    return Check(name, None, None, None, FAIL, note=one_line(note))


def _holds(name: str, problems: list[str], expected: str = "yes") -> Check:
    note = one_line("; ".join(problems))
    return Check(
        name, expected, "no" if problems else expected, None, FAIL if problems else PASS, note=note
    )


def _object(path: Path) -> dict[str, Any]:
    value = read_json(path, "run's file")
    if not isinstance(value, dict):
        raise UserError(f"{path} is no JSON object; run `make infer` again")
    return value


def _golden_committed(golden: Golden) -> Check:
    try:
        # What its schema lets through matters as much.
        reason = golden.uncommitted() or uncommitted(SCHEMA)
        status, actual = (PASS, "yes") if reason is None else (FAIL, "no")
    except GitError as error:
        reason, status, actual = f"git cannot tell: {error}", UNCLEAR, "unknown"
    name = "golden file as committed"
    return Check(name, "yes", actual, None, status, shown(golden.path), reason or "")


def _options(options: Options, run: dict[str, Any]) -> Check:
    problems = [
        f"run was made with {name} {run['options'][name]!r}, not {value!r}"
        for name, value in options.as_json().items()
        if run["options"][name] != value
    ]
    if run["profile_sha256"] != options.profile.sha256:
        problems.append("profile has changed since the run; run `make infer` again")
    if run["options"]["limit"] is not None:
        problems.append("LIMIT runs are never comparable with a golden file")
    return _holds("run's options", problems)


def _files(folder: Path, run: dict[str, Any]) -> Check:
    wanted = (PREDICTIONS, METRICS, TIMINGS, LOGITS)
    found = [MadeFile(folder / name, run["files"][name]).problem() for name in wanted]
    return _holds("files unchanged", [problem for problem in found if problem])


def _inputs(run: dict[str, Any], options: Options, inputs: Inputs) -> Check:
    made = [run["onnx"], run["reference"], run["engine"], *run["assets"].values()]
    found = [MadeFile.from_json(entry).problem() for entry in made]
    lock = asset_lock_path(os.environ)
    found += _unvouched(run["assets"], lock)
    records = records_of(options)
    vouched = [read_record(p, "assets")["lock"] for p in (records.model, records.dataset) if p]
    if set(vouched) != {shown(lock)}:
        found.append(f"another lock file than {shown(lock)} has vouched for the assets")
    if run["engine_made_from"]["onnx"] != run["onnx"]["sha256"]:
        found.append("the engine was built from another graph")
    if ROOT / run["engine"]["path"] != engine_path(options, run["engine_made_from"]):
        found.append("the engine is not named by what it was built from")
    if run["dataset"]["sha256"] != inputs.dataset.sha256:
        found.append("the run was made over another dataset")
    if fingerprint(run["assets"]) != fingerprint(inputs.assets):
        found.append("the records of the assets tell of others than run.json")
    built = {
        "file": run["engine"],
        "onnx": run["onnx"],
        "reference": run["reference"],
        "made_from": run["engine_made_from"],
    }
    if fingerprint(built) != fingerprint(read_record(records.engine, "engine")):
        found.append("the record of the engine tells of another than run.json")
    return _holds("inputs unchanged", [problem for problem in found if problem])


def _unvouched(assets: Mapping[str, Mapping[str, str]], lock: Path) -> Iterator[str]:
    """A line for each asset that is not what the manifest names or, for want of that, the pin."""
    manifest, pins = load_manifest(MANIFEST), read_pins(lock)
    for entry in assets.values():
        name = entry["name"]
        asset = manifest[name]
        if asset.sha256 is not None:
            if entry["sha256"] != asset.sha256:
                yield f"{name} is not what the manifest names"
        elif any(isinstance(source, RepositoryFile) for source in asset.sources):
            # git keeps its content.
            continue
        elif name not in pins:
            yield f"{name} has no published hash and no pin in {shown(lock)}"
        else:
            path = ROOT / entry["path"]
            size = path.stat().st_size if path.is_file() else None
            pinned = [pins[name]["sha256"], pins[name]["size"]]
            if fingerprint(pinned) != fingerprint([entry["sha256"], size]):
                yield f"{name} is not what {shown(lock)} pins"


def _dataset(golden: Golden, dataset: Dataset, options: Options) -> Check:
    if options.limit is not None:
        reason = f"no accuracy limits hold for the first {options.limit} questions alone"
    elif not golden.holds_for(dataset.sha256):
        reason = f"no accuracy limits hold for {dataset.path.name} ({dataset.sha256[:12]})"
    else:
        reason = ""
    return Check(
        "limits hold for dataset",
        "yes",
        "no" if reason else "yes",
        None,
        FAIL if reason else PASS,
        shown(golden.path),
        one_line(reason),
    )


def _questions(dataset: Dataset, predictions: dict[str, str]) -> Check:
    asked = {question.id for question in dataset.questions}
    missing, extra = sorted(asked - set(predictions)), sorted(set(predictions) - asked)
    problems = []
    if missing:
        problems.append(f"{len(missing)} without an answer, the first {missing[0]}")
    if extra:
        problems.append(f"{len(extra)} answers to no question, the first {extra[0]}")
    check = _holds("all questions answered", problems, str(len(asked)))
    return check


def _follow(
    dataset: Dataset, windows: Windows, logits: Logits, predictions: dict[str, str]
) -> Check:
    if not np.array_equal(logits.lengths, windows.lengths):
        return _holds("answers follow from logits", ["logits belong to other windows"])
    bad = int((~(np.isfinite(logits.start) & np.isfinite(logits.end))).sum())
    if bad:
        return _holds("answers follow from logits", [f"{bad} logits are NaN or infinite"])
    texts = answer_texts(dataset.questions, windows, logits.start, logits.end)
    wrong = [key for key, text in texts.items() if predictions.get(key) != text]
    problems = [f"{len(wrong)} answers differ, the first to {wrong[0]}"] if wrong else []
    return _holds("answers follow from logits", problems)


def _accuracy(golden: Golden, backend: str, scored: Score) -> list[Check]:
    checks = []
    for name, promise in golden.accuracy(backend).items():
        actual = getattr(scored, name)
        good = actual >= promise.limit
        note = "" if good else f"{actual:.4f} is under the limit {promise.limit:g}"
        checks.append(
            Check(
                name,
                promise.value,
                actual,
                promise.limit,
                PASS if good else FAIL,
                shown(golden.path),
                note,
            )
        )
    return checks


def _metrics(metrics: dict[str, Any], scored: Score, timings: dict[str, Any]) -> Check:
    again = {**asdict(scored), **summarize(timings)}
    again.update({name: timings[name] for name in ("questions", "windows")})
    # Runs made before a metric was thought of lack it: that is no forgery, but no run either.
    if missing := [name for name in again if name not in metrics]:
        raise UserError(f"{missing[0]} is missing; run `make infer REMEASURE=1`")
    if unknown := sorted(metrics.keys() - again.keys() - {_UNSTABLE}):
        raise UserError(f"{unknown[0]!r} is no metric; run `make infer REMEASURE=1`")
    problems = [
        f"{name} is {metrics[name]} but computed again {value}"
        for name, value in again.items()
        if not _same(metrics[name], value)
    ]
    return _holds("metrics agree", problems)


def _stable(metrics: dict[str, Any]) -> Check:
    count = metrics[_UNSTABLE]
    if type(count) is not int or count < 0:
        raise UserError(f"{_UNSTABLE} is {count!r}, which is no count; run `make infer` again")
    return _holds("passes agree", [f"{count} answers changed between passes"] if count else [])


def _same(stored: Any, computed: Any) -> bool:
    if isinstance(computed, dict):
        return stored.keys() == computed.keys() and all(
            _same(stored[key], value) for key, value in computed.items()
        )
    if isinstance(computed, list):
        return len(stored) == len(computed) and all(map(_same, stored, computed))
    # Written and computed by the same formulas: only another numpy may round differently.
    return type(stored) is type(computed) and math.isclose(stored, computed, rel_tol=1e-9)


def _timings(
    timings: dict[str, Any],
    run: dict[str, Any],
    questions: int,
    windows: Windows,
    options: Options,
) -> Check:
    problems = []
    plan = plan_batches(windows.lengths, options.batch, options.backend.token_budget)
    shapes = [[len(rows), int(windows.lengths[rows].max())] for rows in plan]
    if timings["shapes"] != shapes:
        problems.append("batches are not those of the windows")
    counts = {"windows": len(windows), "batch": options.batch, "questions": questions}
    problems += [f"{name} are not {n}" for name, n in counts.items() if timings[name] != n]
    if len(timings["seconds"]) < options.profile.repeats:
        problems.append(f"fewer than {options.profile.repeats} repeats")
    per_pass = [timings[name] for name in ("seconds", "execution_seconds", "wall_seconds")]
    if len({len(times) for times in per_pass}) != 1:
        problems.append("repeats, execution times and wall times differ in number")
    # Batches overlap where BATCH is auto, each stream's stay in a row.
    at_once = _streams(timings, run, options)
    for seconds, execution, wall in zip(*per_pass, strict=False):
        if len(seconds) != len(plan):
            problems.append("a repeat has not one time a batch")
        if not all(math.isfinite(t) and t > 0 for t in seconds):
            problems.append("a batch took no positive time")
        if not math.fsum(seconds) <= at_once * execution:
            problems.append("batches took longer than their execution")
        if not execution <= wall < math.inf:
            problems.append("execution took longer than its repeat")
    if not math.fsum(timings["wall_seconds"]) <= run["wall_seconds"]:
        problems.append("repeats took longer than the run")
    return _holds("timings plausible", problems[:1])


def _streams(timings: dict[str, Any], run: dict[str, Any], options: Options) -> int:
    """How many batches may have run at once: one, or with BATCH=auto up to one a core."""
    count = timings["streams"]
    most = run["device"].get("cores", count) if options.batch == AUTO else 1
    if type(count) is not int or not 1 <= count <= most:
        raise UserError(f"the timings claim {count} streams; run `make infer` again")
    return count


def _qps(golden: Golden, run: dict[str, Any], options: Options, timings: dict[str, Any]) -> Check:
    speed = summarize(timings)
    device = run["device"]["name"]
    promise = golden.qps(device, options.backend.name, options.batch)
    if promise is None:
        note = one_line(f"nothing is promised for {device}, batch {options.batch}")
        return Check("QPS", None, speed["qps"], None, UNPROMISED, shown(golden.path), note)
    status, note = PASS, ""
    if doubt := _doubt(run, speed):
        status, note = UNCLEAR, doubt
    elif speed["qps"] < promise.limit:
        status = FAIL
        note = f"{speed['qps']:.2f} is under the limit {promise.limit:g}"
    return Check(
        "QPS", promise.value, speed["qps"], promise.limit, status, shown(golden.path), note
    )


def _doubt(run: dict[str, Any], speed: dict[str, Any]) -> str:
    """Why the run's QPS says nothing of the model's, in a line; "" if it does."""
    reasons = []
    if speed["qps_spread"] > NOISE_SPREAD:
        reasons.append(
            f"repeats spread by {speed['qps_spread']:.1%}, more than {NOISE_SPREAD:.0%}: noise"
        )
    try:
        if found := disturbed(run):
            reasons.append(f"disturbed by {found}")
    except UserError as error:
        reasons.append(str(error))
    return "; ".join(reasons)


def _crosscheck(
    golden: Golden,
    run: dict[str, Any],
    options: Options,
    inputs: Inputs,
    windows: Windows,
    logits: Logits,
) -> list[Check]:
    limits = golden.crosscheck(options.backend.name)
    try:
        stored = _object(options.run_folder / CROSSCHECK)
        if stored["run_sha256"] != sha256_file(options.run_folder / RUN):
            raise UserError("crosscheck.json belongs to another run; run `make crosscheck`")
        if stored["graph"] != run["reference"]:
            raise UserError("the cross-check was made with another graph; run `make crosscheck`")
        graph = MadeFile.from_json(run["reference"])
        path = reference_path(options, inputs.dataset, inputs.file("vocab"), graph)
        record = read_record(path.with_suffix(".json"), "crosscheck")
        reference = MadeFile(path, record["sha256"])
        if record != reference.as_json():
            raise UserError(
                f"{shown(path)} is not what its record says; delete it and run `make crosscheck`"
            )
        found = read_logits(reference.checked("crosscheck"))
        again = compare(inputs.dataset, windows, logits, found)
        made = document(again, graph, reference, stored["run_sha256"])
        if wrong := [name for name in made | stored if _unlike(name, made, stored)]:
            raise UserError(
                f"{wrong[0]} in crosscheck.json is not what is computed again; delete it and run "
                "`make crosscheck`"
            )
    except _DAMAGE as error:
        return [_failed("cross-check", error)]
    checks = []
    for name in ("max_abs_difference", "mean_abs_difference", "min_cosine", "equal_answers"):
        actual = getattr(again, name)
        limit = None if limits is None else limits[name]
        more_is_better = name in ("min_cosine", "equal_answers")
        if limit is None:
            status, note = UNPROMISED, "no cross-check limits for this profile and precision"
        elif (actual >= limit) if more_is_better else (actual <= limit):
            status, note = PASS, ""
        else:
            status, note = FAIL, f"{actual:.6g} is beyond the limit {limit:g}"
        words = name.replace("_abs", "").replace("_", " ")
        checks.append(
            Check(f"cross-check {words}", None, actual, limit, status, shown(golden.path), note)
        )
    return checks


def _unlike(name: str, made: dict[str, Any], stored: dict[str, Any]) -> bool:
    """Whether only one of them has `name`, or both have different JSON values there."""
    if (name in made) != (name in stored):
        return True
    return fingerprint(made[name]) != fingerprint(stored[name])
