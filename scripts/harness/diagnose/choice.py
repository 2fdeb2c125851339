"""Which windows are looked at: the worst ones, and others by chance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..backends import Session
from ..batches import plan_batches
from ..measure import run_windows
from ..records import MadeFile, read_record
from ..run import CROSSCHECK, LOGITS, Logits, read_logits, read_run
from ..squad import Question
from ..windows import Windows, select_windows

# A choice is the same every time.
SEED = 0
# Where no run has left its logits, the worst of this many times as many windows are taken.
_SEARCHED = 8
_BATCH = 8


def by_chance(total: int, count: int, besides: Sequence[int] = ()) -> list[int]:
    """`count` of the numbers below `total` that are not in `besides`, or as many as there are."""
    left = np.setdiff1d(np.arange(total), np.asarray(besides, np.int64))
    # RandomState, whose numbers no version of numpy may change.
    drawn = np.random.RandomState(SEED).permutation(left)[:count]
    return [int(row) for row in drawn]


def mixed(rows: Sequence[int]) -> list[int]:
    """`rows` by chance, long and short side by side: only padding shows what a mask does."""
    return [int(row) for row in np.random.RandomState(SEED).permutation(rows)]


def worst_of(found: Logits, reference: Logits, windows: Windows, count: int) -> list[int]:
    """The `count` windows whose logits are furthest from the reference's, the worst first.

    A window with NaN or infinity is worse than any other.
    """
    apart = [np.abs(a - b) for a, b in ((found.start, reference.start), (found.end, reference.end))]
    furthest = np.nan_to_num(np.maximum(*apart), nan=np.inf)
    by_window = np.maximum.reduceat(furthest, windows.starts[:-1])
    return [int(row) for row in np.argsort(-by_window, kind="stable")[:count]]


def worst_of_run(
    folder: Path, onnx: dict[str, str], windows: Windows, count: int
) -> list[int] | None:
    """As `worst_of`, by the cross-check of the run in `folder`; None where that is missing, not of
    these windows or not of the graph `onnx`, a file as records name it."""
    if not (folder / CROSSCHECK).is_file():
        return None
    found = read_record(folder / CROSSCHECK, "crosscheck")
    reference = MadeFile.from_json(found["reference"])
    if read_run(folder).get("onnx") != onnx or not reference.intact:
        return None
    ours, theirs = read_logits(folder / LOGITS), read_logits(reference.path)
    if not all(np.array_equal(one.lengths, windows.lengths) for one in (ours, theirs)):
        return None
    return worst_of(ours, theirs, windows, count)


def search_worst(engine: Session, reference: Session, windows: Windows, count: int) -> list[int]:
    """As `worst_of`, among some windows chosen by chance, whose logits are computed here."""
    rows = np.sort(np.asarray(by_chance(len(windows), _SEARCHED * count)))
    some = select_windows(windows, rows)
    plan = plan_batches(some.lengths, _BATCH)
    ours, theirs = (
        run_windows(session, some, plan, label)
        for session, label in ((engine, "worst windows"), (reference, "their reference"))
    )
    found, right = (
        Logits(made.start_logits, made.end_logits, some.lengths) for made in (ours, theirs)
    )
    return [int(rows[row]) for row in worst_of(found, right, some, count)]


def some_questions(questions: Sequence[Question], count: int) -> list[Question]:
    """`count` of `questions` by chance, in their order, or all of them."""
    return [questions[row] for row in sorted(by_chance(len(questions), count))]
