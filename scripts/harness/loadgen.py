"""A loaded engine under MLPerf's load generator, and what its logs say.

LoadGen decides which windows are asked for and when, takes the times, and judges whether a run
was long enough; the answers come from the same session, batches and scorer as everywhere else. A
sample is a window, so LoadGen's samples a second compare with `qps`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .answers import answer_texts
from .backends import Session
from .batches import BatchSize, assemble, plan_batches
from .errors import UserError, one_line
from .files import read_json
from .measure import concurrently
from .scoring import Score, score
from .squad import Dataset
from .windows import Float32, Windows

OFFLINE, SINGLE_STREAM = "Offline", "SingleStream"
SCENARIOS = (OFFLINE, SINGLE_STREAM)
# How much longer than needed the offline query is: a faster run than the trial must not end early.
_HEADROOM = 1.3
# Of the windows asked for in performance mode, about as many have their logits logged.
LOGGED_WINDOWS = 256
# Other batches pad otherwise and round otherwise, so single answers may flip between close spans.
EQUAL_ANSWERS = 0.999
DETAIL, ACCURACY = "mlperf_log_detail.txt", "mlperf_log_accuracy.json"
LOGS = ("mlperf_log_summary.txt", DETAIL, ACCURACY)
# Fixed, so that two runs ask the same; MLPerf's rules publish new ones each round.
_SEEDS = {"qsl_rng_seed": 1, "sample_index_rng_seed": 2, "schedule_rng_seed": 3}
_LOG_SEED = 4
_MARK = ":::MLLOG "
_CONDITIONS = {
    "result_min_duration_met": "least duration",
    "result_min_queries_met": "least number of queries",
    "early_stopping_met": "number of queries for the percentile (early stopping)",
}
_LATENCY = {
    "mean": "mean",
    "p50": "50.00_percentile",
    "p90": "90.00_percentile",
    "p99": "99.00_percentile",
}


@dataclass(frozen=True)
class System:
    """What LoadGen tests: a session, the windows it may be asked for, and how they are batched."""

    session: Session
    windows: Windows
    batch: BatchSize
    token_budget: int


@dataclass(frozen=True)
class Performance:
    """A performance run as LoadGen states it.

    valid, reasons: its verdict, and why where that is no.
    queries: how many it asked; Offline asks one that holds all windows.
    qps: windows a second, in 1/s.
    latency_ms: mean, p50, p90 and p99 of a query; None for Offline, where all wait for the last.
    """

    valid: bool
    reasons: list[str]
    queries: int
    qps: float
    latency_ms: dict[str, float] | None


@dataclass(frozen=True)
class Compliance:
    """TEST01's question: are the results the same where only speed is asked for?

    compared: results logged in performance mode. identical: those whose logits are those of
    accuracy mode bit by bit. equal_answers: those with the same best span.
    """

    compared: int
    identical: int
    equal_answers: int
    max_abs_difference: float

    @property
    def passed(self) -> bool:
        """Whether enough answers are equal; without any result nothing is shown."""
        return self.compared > 0 and self.equal_answers >= EQUAL_ANSWERS * self.compared

    def as_json(self) -> dict[str, Any]:
        """The fields, and whether it passed."""
        return {**asdict(self), "passed": self.passed}


def run_accuracy(system: System, scenario: str, logs: Path) -> float:
    """Ask for every window once and log all logits into the folder `logs`.

    Windows a second while there was something to answer.
    """
    return _run(system, scenario, "AccuracyOnly", logs, {})


def run_performance(
    system: System, scenario: str, logs: Path, seconds: float, expected_qps: float
) -> None:
    """Ask for random windows for at least `seconds`, and log the logits of some of them.

    `expected_qps` in 1/s tells LoadGen how many are needed for that.
    """
    expected = expected_qps * _HEADROOM
    settings = {
        "min_duration_ms": int(seconds * 1e3),
        "offline_expected_qps": expected,
        "single_stream_expected_latency_ns": max(1, int(1e9 / expected)),
        "accuracy_log_rng_seed": _LOG_SEED,
        "accuracy_log_probability": min(1.0, LOGGED_WINDOWS / (seconds * expected)),
    }
    _run(system, scenario, "PerformanceOnly", logs, settings)


def _run(
    system: System, scenario: str, mode: str, logs: Path, settings: dict[str, int | float]
) -> float:
    """Run one of LoadGen's modes; windows a second while there was something to answer."""
    import mlperf_loadgen as lg

    wanted = lg.TestSettings()
    wanted.scenario = getattr(lg.TestScenario, scenario)
    wanted.mode = getattr(lg.TestMode, mode)
    for name, value in {**_SEEDS, **settings}.items():
        setattr(wanted, name, value)
    logging = lg.LogSettings()
    logging.log_output.outdir = str(logs)
    # The trace of every query is large, and says nothing that the detail log does not.
    logging.enable_trace = False
    logs.mkdir(parents=True, exist_ok=True)

    failures: list[BaseException] = []
    answered, busy = 0, 0.0

    def issue(samples: Sequence[Any]) -> None:
        nonlocal answered, busy
        waiting = {sample.id for sample in samples}
        began = time.perf_counter()
        try:
            if not failures:
                _answer(lg, system, samples, waiting)
        except BaseException as error:  # None may reach LoadGen, which is C++.
            failures.append(error)
        busy += time.perf_counter() - began
        answered += len(samples)
        # LoadGen waits until every sample has an answer.
        lg.QuerySamplesComplete([lg.QuerySampleResponse(sample, 0, 0) for sample in waiting])

    count = len(system.windows)
    sut = lg.ConstructSUT(issue, lambda: None)
    # All windows lie in memory already: there is nothing to load.
    qsl = lg.ConstructQSL(count, count, lambda _: None, lambda _: None)
    try:
        # Not the working folder's audit.config, which would change the settings unseen.
        lg.StartTestWithLogSettings(sut, qsl, wanted, logging, str(logs / "audit.config"))
    finally:
        lg.DestroyQSL(qsl)
        lg.DestroySUT(sut)
    if failures:
        raise failures[0]
    return answered / busy


def _answer(lg: Any, system: System, samples: Sequence[Any], waiting: set[int]) -> None:
    """Run `samples` in batches; what is answered leaves `waiting`."""
    index = np.asarray([sample.index for sample in samples])
    lengths = system.windows.lengths[index]
    plan = plan_batches(lengths, system.batch, system.token_budget)
    results = concurrently(system.session, (assemble(system.windows, index[rows]) for rows in plan))
    for rows, (_, outputs) in zip(plan, results, strict=True):
        responses, kept = [], []
        for place, row in enumerate(rows):
            sample = samples[row].id
            # The last batch is filled up with copies of a window that has its answer already.
            if sample not in waiting:
                continue
            waiting.remove(sample)
            both = (outputs.start_logits[place], outputs.end_logits[place])
            logits = np.stack(both)[:, : lengths[row]].astype("<f4", order="C")
            kept.append(logits)
            responses.append(lg.QuerySampleResponse(sample, logits.ctypes.data, logits.nbytes))
        # It has copied what lies in `kept` when it returns.
        lg.QuerySamplesComplete(responses)


def read_performance(logs: Path) -> Performance:
    """LoadGen's statement on the performance run in `logs`; raises UserError without one."""
    found: dict[str, Any] = {}
    reasons: list[str] = []
    try:
        for line in (logs / DETAIL).read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(_MARK):
                entry = json.loads(line.removeprefix(_MARK))
                found[entry["key"]] = entry["value"]
                if entry["key"] == "result_invalid_reason":
                    reasons.append(one_line(entry["value"]))
        reasons += [f"{words} not met" for key, words in _CONDITIONS.items() if not found[key]]
        offline = found["effective_scenario"] == OFFLINE
        rate = "result_samples_per_second" if offline else "result_qps_with_loadgen_overhead"
        latency = {name: found[f"result_{key}_latency_ns"] / 1e6 for name, key in _LATENCY.items()}
        return Performance(
            valid=found["result_validity"] == "VALID",
            reasons=reasons,
            queries=int(found["result_query_count"]),
            qps=float(found[rate]),
            latency_ms=None if offline else latency,
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{logs / DETAIL} states no result ({one_line(error)}); run `make loadgen` again"
        ) from None


def read_results(logs: Path, windows: Windows) -> list[tuple[int, Float32]]:
    """What LoadGen has logged in `logs`: window and its logits float32 (2, length), in turn.

    Raises UserError where that is not what was answered.
    """
    path = logs / ACCURACY
    try:
        results = []
        for entry in read_json(path, "accuracy log"):
            window, data = entry["qsl_idx"], bytes.fromhex(entry["data"])
            logits = np.frombuffer(data, dtype="<f4").reshape(2, int(windows.lengths[window]))
            results.append((window, logits))
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{path} does not hold our logits ({one_line(error)}); run `make loadgen` again"
        ) from None
    return results


def score_results(
    dataset: Dataset, windows: Windows, results: Sequence[tuple[int, Float32]]
) -> Score:
    """EM and F1 of logged logits; raises UserError unless every window is there once."""
    if sorted(window for window, _ in results) != list(range(len(windows))):
        raise UserError("the accuracy log does not hold every window once; run `make loadgen`")
    packed = np.concatenate([logits for _, logits in sorted(results, key=lambda r: r[0])], axis=1)
    return score(dataset.questions, answer_texts(dataset.questions, windows, *packed))


def check_compliance(
    dataset: Dataset,
    windows: Windows,
    accuracy: Sequence[tuple[int, Float32]],
    performance: Sequence[tuple[int, Float32]],
) -> Compliance:
    """Compare what performance mode answered with what accuracy mode answered."""
    expected = dict(accuracy)
    pairs = [(window, logits, expected[window]) for window, logits in performance]
    if not pairs:
        return Compliance(0, 0, 0, 0.0)
    rows = [window for window, _, _ in pairs]
    given = _best_spans(dataset, windows, rows, [logits for _, logits, _ in pairs])
    wanted = _best_spans(dataset, windows, rows, [logits for _, _, logits in pairs])
    return Compliance(
        compared=len(pairs),
        identical=sum(a.tobytes() == b.tobytes() for _, a, b in pairs),
        equal_answers=sum(a == b for a, b in zip(given, wanted, strict=True)),
        max_abs_difference=max(float(np.abs(a - b).max()) for _, a, b in pairs),
    )


def _best_spans(
    dataset: Dataset, windows: Windows, rows: Sequence[int], logits: Sequence[Float32]
) -> list[str]:
    """The answer that each of the windows `rows`, which may repeat, gives alone."""
    begins = windows.starts
    tokens = np.concatenate([np.arange(begins[row], begins[row + 1]) for row in rows])
    alone = Windows(
        windows.tokens[tokens],
        windows.lengths[rows],
        windows.context_starts[rows],
        np.arange(len(rows), dtype=np.int32),
        windows.char_spans[tokens],
    )
    asked = [
        replace(dataset.questions[windows.questions[row]], id=str(place))
        for place, row in enumerate(rows)
    ]
    texts = answer_texts(asked, alone, *np.concatenate(logits, axis=1))
    return [texts[question.id] for question in asked]
