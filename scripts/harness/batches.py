"""Windows in batches: sorted by length, padded to the longest member."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .windows import Float32, Int32, Windows


@dataclass(frozen=True)
class Batch:
    """`rows` (b,) window indices; inputs (b, s) int32, zero where there is no token."""

    rows: npt.NDArray[np.int64]
    input_ids: Int32
    segment_ids: Int32
    input_mask: Int32


def plan_batches(lengths: Int32, batch: int) -> list[npt.NDArray[np.int64]]:
    """Window indices of each batch, shortest windows first (upstream's protocol).

    The last batch is filled up with copies of its longest window, so that ceil(W / batch) *
    batch, which the protocol's QPS counts, is what really runs.
    """
    order = np.argsort(lengths, kind="stable")
    missing = -len(order) % batch
    order = np.concatenate((order, np.repeat(order[-1:], missing)))
    return list(order.reshape(-1, batch))


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
