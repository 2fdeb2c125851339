"""What is run: a few windows or questions again and again for time, all of them once for F1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..answers import answer_texts
from ..scoring import Score, score
from ..squad import Question
from ..weights import Architecture
from ..windows import Float32, Windows, select_windows

# The batches that windows are chosen for: see `typical_rows`.
_BLOCK = 32
# Passes of one to twelve seconds on two cores: long beside a timer's and a scheduler's noise,
# short enough for a dozen systems, two batches and seven passes. A layer's GEMMs grow with
# hidden², so that a window costs BERT-base (768, 12 layers) eight times what it costs MiniLM
# (384, 6 layers).
_TIMED_WINDOWS, _TIMED_WINDOWS_BASE = 256, 64
_BASE_HIDDEN = 768
_TIMED_QUESTIONS = 128

Logits = tuple[Float32, Float32]


@dataclass(frozen=True)
class Task:
    """What every system of one comparison does.

    `timed` holds `count` units ("windows" or "questions"). `scored`, if there is any, is run
    once, and `score` makes EM and F1 of that output. `difference` compares the outputs over
    `timed` of two systems.
    """

    unit: str
    timed: Any
    count: int
    scored: Any | None
    score: Callable[[Any], Score]
    difference: Callable[[Any, Any], float] | None


def execution(
    windows: Windows, questions: Sequence[Question], architecture: Architecture, *, scored: bool
) -> Task:
    """Execution alone: the windows' batches, each from inputs to logits."""
    wanted = _TIMED_WINDOWS_BASE if architecture.hidden >= _BASE_HIDDEN else _TIMED_WINDOWS
    timed = select_windows(windows, typical_rows(windows, wanted, _BLOCK))

    def scores(logits: Logits) -> Score:
        return score(questions, answer_texts(questions, windows, *logits))

    return Task(
        unit="windows",
        timed=timed,
        count=len(timed),
        scored=windows if scored else None,
        score=scores,
        difference=largest_difference,
    )


def end_to_end(questions: Sequence[Question]) -> Task:
    """From text to answers; the output maps question ids to answer texts."""
    count = min(_TIMED_QUESTIONS, len(questions))
    # Neighbours share a passage; evenly spread ones show the dataset's mixture.
    timed = [questions[i * len(questions) // count] for i in range(count)]
    return Task(
        unit="questions",
        timed=timed,
        count=count,
        scored=list(questions),
        score=lambda answers: score(questions, answers),
        difference=None,
    )


def typical_rows(windows: Windows, count: int, block: int) -> npt.NDArray[np.int64]:
    """`count` window indices, ascending, whose batches are as homogeneous as the dataset's.

    The windows sorted by length are cut into blocks of `block`, as a run over all of them
    would cut them, and evenly spaced blocks are taken. A random choice of windows would be
    sorted more coarsely and pad more than a real run. Fewer where there are not so many.
    """
    order = np.argsort(windows.lengths, kind="stable")
    blocks = len(order) // block
    wanted = min(count // block, blocks)
    if not wanted:
        return np.arange(len(order), dtype=np.int64)
    first = (np.arange(wanted) * 2 + 1) * blocks // (2 * wanted) * block
    rows: npt.NDArray[np.int64] = np.sort(order[first[:, None] + np.arange(block)].ravel())
    return rows


def largest_difference(logits: Logits, reference: Logits) -> float:
    """The largest absolute difference of any start or end logit."""
    pairs = zip(logits, reference, strict=True)
    return max(float(np.abs(ours - theirs).max()) for ours, theirs in pairs)
