"""Batches that systems on a GPU are compared on: SQuAD's lengths, random tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..batches import Batch
from ..weights import Architecture, Weights, weight_shapes
from .kernel_shapes import HEADS, HIDDEN, INNER, LENGTH, POSITIONS, SEGMENTS, VOCAB

ARCHITECTURE = Architecture(12, HIDDEN, HEADS, INNER, VOCAB, POSITIONS, 1e-12)
_SEED = 20180810
# Standard deviation of the weights that BERT is initialized with (Devlin et al. 2018).
_INITIALIZER_RANGE = 0.02
# Batches of a pass: evenly spread over the sorted lengths, so many that their mean is that of
# all windows within 0.5 %, or the same one again.
_SPREAD = {32: 40, 128: 41}
_AGAIN = {32: 60, 1: 600}
# A window's question, its marks included.
_QUESTION = 16


@dataclass(frozen=True)
class Case:
    """One comparison: a pass runs `batches`, and each `again` times."""

    title: str
    batches: Sequence[Batch]
    again: int

    @property
    def windows(self) -> int:
        """Windows that a pass runs."""
        return self.again * sum(len(batch.rows) for batch in self.batches)

    @property
    def tokens(self) -> int:
        """Tokens among them that are no padding."""
        return self.again * sum(int(batch.input_mask.sum()) for batch in self.batches)


def cases(lengths: Sequence[int]) -> list[Case]:
    """Full batches, one window, and batches of the sorted `lengths`."""
    random = np.random.default_rng(_SEED)
    found = [
        Case(f"{windows} x {LENGTH}", [random_batch([LENGTH] * windows, random)], again)
        for windows, again in _AGAIN.items()
    ]
    for size, count in _SPREAD.items():
        whole = len(lengths) // size
        chosen = sorted({(2 * i + 1) * whole // (2 * count) for i in range(min(count, whole))})
        batches = [random_batch(lengths[i * size : (i + 1) * size], random) for i in chosen]
        found.append(Case(f"dev lengths, batch {size}", batches, 128 // size))
    return found


def half_weights(architecture: Architecture) -> Weights:
    """Weights as BERT is initialized, all of them float16 numbers; always the same."""
    random = np.random.default_rng(_SEED)
    weights: Weights = {}
    for name, shape in weight_shapes(architecture, qa_head=True).items():
        if name.endswith((".gamma", ".beta", ".bias")):
            weights[name] = np.full(shape, name.endswith(".gamma"), np.float32)
        else:
            drawn = random.standard_normal(shape, np.float32) * np.float32(_INITIALIZER_RANGE)
            weights[name] = drawn.astype(np.float16).astype(np.float32)
    return weights


def random_batch(lengths: Sequence[int], random: np.random.Generator) -> Batch:
    """Padded windows (b, longest) int32 of random tokens."""
    counts = np.asarray(lengths)[:, None]
    column = np.arange(counts.max())
    real = column < counts
    ids = random.integers(1, VOCAB, real.shape)
    segments = (column >= _QUESTION) % SEGMENTS
    return Batch(
        np.arange(len(lengths)),
        np.where(real, ids, 0).astype(np.int32),
        np.where(real, segments, 0).astype(np.int32),
        real.astype(np.int32),
    )
