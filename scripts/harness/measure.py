"""The timed part: whole passes from text to answers, each batch's execution timed alone."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import Progress
from tokenizers import Tokenizer

from .answers import answer_texts
from .backends import Outputs, Session
from .batches import AUTO, Batch, BatchSize, assemble, plan_batches, scatter
from .options import Options
from .profile import Profile
from .spread import NOISE_SPREAD as NOISE_SPREAD
from .spread import deviation
from .spread import spread as spread
from .squad import Question
from .windows import Float32, Int32, Windows, cut_windows

# Warm is a device whose last batches of one shape took equally long.
STEADY_BATCHES, STEADY_SPREAD = 5, 0.05
# How far past the asked number of batches that is waited for: a noisy machine never gets there.
WARMUP_FACTOR, WARMUP_MOST = 2, 20
_RESAMPLES, _CONFIDENCE = 2000, 0.95


@dataclass(frozen=True)
class Execution:
    """Packed logits (T,), and each batch's shape and seconds in the order of the plan.

    `wall_seconds` is the time from the first batch's start to the last one's end; with several
    streams it is less than the sum of `seconds`.
    """

    start_logits: Float32
    end_logits: Float32
    shapes: list[tuple[int, int]]
    seconds: list[float]
    wall_seconds: float


@dataclass(frozen=True)
class Pass:
    """One pass: windows, their execution, answers, and seconds from text to answers."""

    windows: Windows
    execution: Execution
    predictions: dict[str, str]
    wall_seconds: float

    def without_logits(self) -> Pass:
        """The pass less its large arrays."""
        empty = np.empty(0, dtype=np.float32)
        return replace(
            self, execution=replace(self.execution, start_logits=empty, end_logits=empty)
        )


def warm(session: Session, options: Options, lengths: Int32) -> list[float]:
    """Warm up with each shape that must be compiled, then with the batch of the longest windows
    at full length: as often as the profile says, and until it is steady. The latter's seconds."""
    plan = plan_batches(lengths, options.batch, options.backend.token_budget)
    shapes = [(len(rows), int(lengths[rows].max())) for rows in plan]
    if options.backend.compiles_shapes:
        warm_up(session, sorted(set(shapes)))
    count, _ = max(shapes, key=lambda shape: shape[1])
    full = (count, options.profile.windows.sequence_length)
    return warm_up_until_steady(session, full, options.profile.warmup)


def warm_up(session: Session, shapes: Sequence[tuple[int, int]]) -> None:
    """Run batches of `shapes` (batch, seq) whose results nobody reads."""

    batches = (_ones(shape) for shape in progress(shapes, "warm-up"))
    for _ in concurrently(session, batches):
        continue


def warm_up_until_steady(session: Session, shape: tuple[int, int], least: int) -> list[float]:
    """Run batches of one `shape` (batch, seq), `least` or more, until they take equally long.

    The seconds of each. Ends after WARMUP_FACTOR times `least` or WARMUP_MOST batches, whichever
    is more, steady or not.
    """
    most = max(WARMUP_FACTOR * least, WARMUP_MOST)
    seconds: list[float] = []

    def batches() -> Iterator[Batch]:
        for made in progress(range(most), "warm-up"):
            if made >= least and steady(seconds):
                return
            yield _ones(shape)

    for _, outputs in concurrently(session, batches()):
        seconds.append(outputs.seconds)
    return seconds


def steady(seconds: Sequence[float]) -> bool:
    """Whether the last STEADY_BATCHES of `seconds` spread by STEADY_SPREAD at most."""
    last = seconds[-STEADY_BATCHES:]
    return len(last) == STEADY_BATCHES and spread(last) <= STEADY_SPREAD


def _ones(shape: tuple[int, int]) -> Batch:
    ones = np.ones(shape, dtype=np.int32)
    return Batch(np.arange(len(ones)), ones, np.zeros_like(ones), ones)


def run_pass(
    session: Session,
    questions: Sequence[Question],
    tokenizer: Tokenizer,
    profile: Profile,
    batch: BatchSize,
    token_budget: int,
    label: str,
) -> Pass:
    """Text to answers once: windows, batches, execution, spans."""
    began = time.perf_counter()
    windows = cut_windows(questions, tokenizer, profile.windows)
    plan = plan_batches(windows.lengths, batch, token_budget)
    execution = run_windows(session, windows, plan, label)
    predictions = answer_texts(questions, windows, execution.start_logits, execution.end_logits)
    wall = time.perf_counter() - began
    return Pass(windows, execution, predictions, wall)


def run_windows(
    session: Session, windows: Windows, plan: Sequence[npt.NDArray[np.int64]], label: str
) -> Execution:
    """Execute `windows` in the batches of `plan`, as many at once as the session has streams."""
    # NaN shows a token whose logits no batch has written.
    start, end = np.full((2, len(windows.tokens)), np.nan, dtype=np.float32)
    shapes, seconds = [], []
    batches = (assemble(windows, rows) for rows in progress(plan, label))
    began = time.perf_counter()
    for batch, outputs in concurrently(session, batches):
        seconds.append(outputs.seconds)
        shapes.append((batch.input_ids.shape[0], batch.input_ids.shape[1]))
        scatter(windows, batch, outputs.start_logits, start)
        scatter(windows, batch, outputs.end_logits, end)
    return Execution(start, end, shapes, seconds, time.perf_counter() - began)


def concurrently(session: Session, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Outputs]]:
    """Each batch and its outputs, in order, while the next ones already run."""

    def run(batch: Batch) -> Outputs:
        return session.run(**batch.inputs)

    if session.streams == 1:
        for batch in batches:
            yield batch, run(batch)
        return
    # Enough in flight that no stream waits for a slower one's result to be taken.
    in_flight: deque[tuple[Batch, Future[Outputs]]] = deque()
    with ThreadPoolExecutor(session.streams) as pool:
        for batch in batches:
            in_flight.append((batch, pool.submit(run, batch)))
            if len(in_flight) > 4 * session.streams:
                first, outputs = in_flight.popleft()
                yield first, outputs.result()
        while in_flight:
            first, outputs = in_flight.popleft()
            yield first, outputs.result()


def progress(items: Sequence[Any], label: str) -> Any:
    """Iterate over `items` under a progress bar on standard error, where that is a terminal."""
    console = Console(stderr=True)
    # Two repaints a second: the bar's own thread must not show in the timings.
    with Progress(
        console=console, transient=True, refresh_per_second=2, disable=not console.is_terminal
    ) as bar:
        yield from bar.track(items, description=label, update_period=0.5)


def qps(windows: int, batch: BatchSize, seconds: Sequence[float], wall: float) -> float:
    """Windows a second of one pass, in 1/s.

    With a batch size, upstream's "Latency QPS": ceil(windows / batch) * batch / sum of
    `seconds`. With "auto" batches overlap and none is filled up: windows / `wall`.
    """
    if batch == AUTO:
        return windows / wall
    return math.ceil(windows / batch) * batch / math.fsum(seconds)


def summarize(timings: dict[str, Any]) -> dict[str, Any]:
    """The speed metrics that follow from timings.json.

    `qps` and `qps_end_to_end` (both 1/s) are medians over the repeats; `*_spread` is (max -
    min) / median; `qps_mad` the median absolute deviation over the median; `qps_interval` (1/s)
    where `qps` lies in 95 % of repetitions; `latency_ms` holds percentiles over all batches of
    all repeats, in ms.
    """
    windows, batch, questions = timings["windows"], timings["batch"], timings["questions"]
    passes = zip(timings["seconds"], timings["execution_seconds"], strict=True)
    fast = [qps(windows, batch, seconds, wall) for seconds, wall in passes]
    whole = [questions / wall for wall in timings["wall_seconds"]]
    latency = np.percentile(np.asarray(timings["seconds"]).ravel() * 1e3, [50, 90, 99])
    return {
        "qps": statistics.median(fast),
        "qps_spread": spread(fast),
        "qps_mad": deviation(fast),
        "qps_interval": interval(fast),
        "qps_end_to_end": statistics.median(whole),
        "qps_end_to_end_spread": spread(whole),
        "latency_ms": dict(zip(("p50", "p90", "p99"), map(float, latency), strict=True)),
        "repeats": len(fast),
    }


def interval(values: Sequence[float]) -> list[float]:
    """Low and high end of the median's 95 % interval, by the percentile bootstrap.

    Of five repeats that says how much the median owes to which of them happened to be drawn; it
    knows nothing of what slows all of them.
    """
    # RandomState, whose numbers no version of numpy may change: verify draws the same again.
    drawn = np.random.RandomState(0).randint(len(values), size=(_RESAMPLES, len(values)))
    medians = np.median(np.asarray(values)[drawn], axis=1)
    outside = 100 * (1 - _CONFIDENCE) / 2
    return [float(end) for end in np.percentile(medians, [outside, 100 - outside])]
