"""The timed part: whole passes from text to answers, each batch's execution timed alone."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from tokenizers import Tokenizer

from .answers import answer_texts
from .backends import Session
from .batches import assemble, plan_batches, scatter
from .profile import Profile
from .squad import Question
from .windows import Float32, Windows, cut_windows

# Above this spread a measurement is noise (max - min over the repeats, relative to the median).
NOISE_SPREAD = 0.05


@dataclass(frozen=True)
class Pass:
    """One pass: windows, packed logits (T,), answers, seconds a batch and in all."""

    windows: Windows
    start_logits: Float32
    end_logits: Float32
    predictions: dict[str, str]
    shapes: list[tuple[int, int]]
    seconds: list[float]
    wall_seconds: float

    def without_logits(self) -> Pass:
        """The pass less its large arrays."""
        empty = np.empty(0, dtype=np.float32)
        return replace(self, start_logits=empty, end_logits=empty)


def warm_up(session: Session, batch: int, sequence_length: int, times: int) -> None:
    """Run `times` batches of full shape whose results nobody reads."""
    shape = (batch, sequence_length)
    ones = np.ones(shape, dtype=np.int32)
    segment = np.zeros(shape, dtype=np.int32)
    for _ in progress(range(times), "warm-up"):
        session.run(ones, segment, ones)


def run_pass(
    session: Session,
    questions: Sequence[Question],
    tokenizer: Tokenizer,
    profile: Profile,
    batch: int,
    label: str,
) -> Pass:
    """Text to answers once: windows, sorted batches, execution, spans."""
    began = time.perf_counter()
    windows = cut_windows(questions, tokenizer, profile.windows)
    start, end, shapes, seconds = run_windows(session, windows, batch, label)
    predictions = answer_texts(questions, windows, start, end)
    wall = time.perf_counter() - began
    return Pass(windows, start, end, predictions, shapes, seconds, wall)


def run_windows(
    session: Session, windows: Windows, batch: int, label: str
) -> tuple[Float32, Float32, list[tuple[int, int]], list[float]]:
    """Packed start and end logits (T,) of `windows`, and each batch's shape and seconds."""
    # NaN shows a token whose logits no batch has written.
    start, end = np.full((2, len(windows.tokens)), np.nan, dtype=np.float32)
    shapes, seconds = [], []
    for rows in progress(plan_batches(windows.lengths, batch), label):
        inputs = assemble(windows, rows)
        start_logits, end_logits = session.run(
            inputs.input_ids, inputs.segment_ids, inputs.input_mask
        )
        seconds.append(session.seconds)
        shapes.append((inputs.input_ids.shape[0], inputs.input_ids.shape[1]))
        scatter(windows, inputs, start_logits, start)
        scatter(windows, inputs, end_logits, end)
    return start, end, shapes, seconds


def progress(items: Sequence[Any], label: str) -> Any:
    """Iterate over `items` under a progress bar on standard error, where that is a terminal."""
    console = Console(stderr=True)
    # Two repaints a second: the bar's own thread must not show in the timings.
    with Progress(
        console=console, transient=True, refresh_per_second=2, disable=not console.is_terminal
    ) as bar:
        yield from bar.track(items, description=label, update_period=0.5)


def qps(windows: int, batch: int, seconds: Sequence[float]) -> float:
    """Upstream's "Latency QPS": ceil(windows / batch) * batch / sum of `seconds`, in 1/s."""
    return math.ceil(windows / batch) * batch / math.fsum(seconds)


def summarize(timings: dict[str, Any]) -> dict[str, Any]:
    """The speed metrics that follow from timings.json.

    `qps` and `qps_end_to_end` (both 1/s) are medians over the repeats; `*_spread` is (max -
    min) / median; `latency_ms` holds percentiles over all batches of all repeats, in ms.
    """
    windows, batch, questions = timings["windows"], timings["batch"], timings["questions"]
    fast = [qps(windows, batch, seconds) for seconds in timings["seconds"]]
    whole = [questions / wall for wall in timings["wall_seconds"]]
    latency = np.percentile(np.asarray(timings["seconds"]).ravel() * 1e3, [50, 90, 99])
    return {
        "qps": statistics.median(fast),
        "qps_spread": _spread(fast),
        "qps_end_to_end": statistics.median(whole),
        "qps_end_to_end_spread": _spread(whole),
        "latency_ms": dict(zip(("p50", "p90", "p99"), map(float, latency), strict=True)),
        "repeats": len(fast),
    }


def _spread(values: Sequence[float]) -> float:
    return (max(values) - min(values)) / statistics.median(values)
