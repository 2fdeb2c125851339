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
from .profile import Profile
from .spread import NOISE_SPREAD as NOISE_SPREAD
from .spread import spread as spread
from .squad import Question
from .windows import Float32, Windows, cut_windows


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


def warm_up(session: Session, shapes: Sequence[tuple[int, int]]) -> None:
    """Run batches of `shapes` (batch, seq) whose results nobody reads."""

    def made() -> Iterator[Batch]:
        for shape in progress(shapes, "warm-up"):
            ones = np.ones(shape, dtype=np.int32)
            yield Batch(np.arange(len(ones)), ones, np.zeros_like(ones), ones)

    for _ in _concurrently(session, made()):
        continue


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
    for batch, outputs in _concurrently(session, batches):
        seconds.append(outputs.seconds)
        shapes.append((batch.input_ids.shape[0], batch.input_ids.shape[1]))
        scatter(windows, batch, outputs.start_logits, start)
        scatter(windows, batch, outputs.end_logits, end)
    return Execution(start, end, shapes, seconds, time.perf_counter() - began)


def _concurrently(session: Session, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Outputs]]:
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
    min) / median; `latency_ms` holds percentiles over all batches of all repeats, in ms.
    """
    windows, batch, questions = timings["windows"], timings["batch"], timings["questions"]
    passes = zip(timings["seconds"], timings["execution_seconds"], strict=True)
    fast = [qps(windows, batch, seconds, wall) for seconds, wall in passes]
    whole = [questions / wall for wall in timings["wall_seconds"]]
    latency = np.percentile(np.asarray(timings["seconds"]).ravel() * 1e3, [50, 90, 99])
    return {
        "qps": statistics.median(fast),
        "qps_spread": spread(fast),
        "qps_end_to_end": statistics.median(whole),
        "qps_end_to_end_spread": spread(whole),
        "latency_ms": dict(zip(("p50", "p90", "p99"), map(float, latency), strict=True)),
        "repeats": len(fast),
    }
