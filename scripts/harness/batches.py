"""Windows in batches: sorted by length, padded to the longest member.

A batch size is a number, the protocol's, or "auto": as many windows as a token budget holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from .windows import Float32, Int32, Windows

BatchSize = int | Literal["auto"]
AUTO: Literal["auto"] = "auto"


@dataclass(frozen=True)
class Batch:
    """`rows` (b,) window indices; inputs (b, s) int32, zero where there is no token."""

    rows: npt.NDArray[np.int64]
    input_ids: Int32
    segment_ids: Int32
    input_mask: Int32

    @property
    def inputs(self) -> dict[str, Int32]:
        """The inputs by the names that graphs and sessions give them."""
        return {
            "input_ids": self.input_ids,
            "segment_ids": self.segment_ids,
            "input_mask": self.input_mask,
        }


def plan_batches(
    lengths: Int32, batch: BatchSize, token_budget: int = 0
) -> list[npt.NDArray[np.int64]]:
    """Window indices of each batch.

    With a number: shortest windows first (upstream's protocol). The last batch is filled up
    with copies of its longest window, so that ceil(W / batch) * batch, which the protocol's QPS
    counts, is what really runs.

    With "auto": longest windows first, so that streams end together; each batch holds as many
    windows as `token_budget` tokens allow, padding included, and at least one.
    """
    order = np.argsort(lengths, kind="stable")
    if batch == AUTO:
        return _within_budget(lengths, order[::-1], token_budget)
    missing = -len(order) % batch
    order = np.concatenate((order, np.repeat(order[-1:], missing)))
    return list(order.reshape(-1, batch))


def _within_budget(
    lengths: Int32, order: npt.NDArray[np.int64], token_budget: int
) -> list[npt.NDArray[np.int64]]:
    plan, first = [], 0
    while first < len(order):
        count = max(1, token_budget // int(lengths[order[first]]))
        plan.append(order[first : first + count])
        first += count
    return plan


def assemble(windows: Windows, rows: npt.NDArray[np.int64]) -> Batch:
    """The padded inputs of the windows `rows`."""
    lengths = windows.lengths[rows]
    column = np.arange(int(lengths.max()))
    real = column < lengths[:, None]
    index = np.where(real, windows.starts[rows, None] + column, 0)
    # The passage and its [SEP] are segment 1.
    segment = real & (column >= windows.context_starts[rows, None])
    return Batch(
        rows,
        np.where(real, windows.tokens[index], 0).astype(np.int32),
        segment.astype(np.int32),
        real.astype(np.int32),
    )


def scatter(windows: Windows, batch: Batch, logits: Float32, packed: Float32) -> None:
    """Write a batch's `logits` (b, s) to their tokens' places in `packed` (T,)."""
    real = batch.input_mask.astype(bool)
    index = windows.starts[batch.rows, None] + np.arange(real.shape[1])
    packed[index[real]] = logits[real]
