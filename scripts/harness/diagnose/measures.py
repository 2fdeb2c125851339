"""How far one tensor is from another, summed over batches in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..weights import Array

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Error:
    """A tensor against the reference's.

    `relative` is the Frobenius norm of the difference over the reference's, `cosine` that of both
    taken as vectors, `lost` the share of values that are NaN or infinite: these count in nothing
    else, but make `relative` and `token` infinite and `cosine` 0.

    `token` is the mean of every token's own relative error. A few tokens of BERT, [CLS] and [SEP]
    for the most part, have values a hundred times as large as all others, and the Frobenius norm
    is theirs alone; a layer norm makes all tokens equal again. `channels` (width,) is the same for
    each channel: its mean absolute difference over the token's root mean square.
    """

    relative: float
    token: float
    cosine: float
    channels: Float64
    lost: float


# Of the tokens' root mean square: a token that is next to nothing is measured by this instead.
_LEAST = 0.01


class Distance:
    """Sums over what has been seen of two tensors of one width."""

    def __init__(self) -> None:
        self._squares = self._found = self._product = self._tokens = 0.0
        self._rows = self._lost = 0
        self._channels: Float64 = np.zeros(1)
        self._reference: Float64 = np.zeros(1)

    def add(self, found: Array, reference: Array) -> None:
        """Both (n, width); the reference is finite."""
        ours, theirs = found.astype(np.float64), reference.astype(np.float64)
        self._reference = self._reference + np.square(theirs).sum(axis=0)
        whole = np.isfinite(ours)
        if not whole.all():
            self._lost += ours.size - int(np.count_nonzero(whole))
            ours, theirs = np.where(whole, ours, 0.0), np.where(whole, theirs, 0.0)
        difference = np.abs(ours - theirs)
        rows, sizes = (np.sqrt(np.square(x).sum(axis=1)) for x in (difference, theirs))
        sizes = np.maximum(sizes, _LEAST * np.sqrt(np.mean(np.square(sizes))))
        # A tensor of zeros has no relative error but 0 or infinity.
        shares = np.divide(
            difference,
            sizes[:, None],
            out=np.where(difference > 0, np.inf, 0.0),
            where=sizes[:, None] > 0,
        )
        self._channels = self._channels + shares.sum(axis=0)
        self._tokens += float(np.sqrt(np.square(shares).sum(axis=1)).sum())
        self._squares += float(np.square(rows).sum())
        self._found += float(np.square(ours).sum())
        self._product += float((ours * theirs).sum())
        self._rows += len(ours)

    def error(self) -> Error:
        """Of all that has been added; there must be some."""
        width, size = len(self._channels), float(self._reference.sum())
        norms = float(np.sqrt(size * self._found))
        if self._lost:
            cosine = 0.0
        elif norms:
            cosine = self._product / norms
        else:
            # Two zero tensors agree; a zero one beside anything else does not.
            cosine = float(size == self._found)
        relative = float("inf") if self._squares else 0.0
        if size:
            relative = float(np.sqrt(self._squares / size))
        return Error(
            relative=float("inf") if self._lost else relative,
            token=float("inf") if self._lost else self._tokens / self._rows,
            cosine=cosine,
            channels=self._channels / self._rows * np.sqrt(width),
            lost=self._lost / (self._rows * width),
        )

    @property
    def channel_sizes(self) -> Float64:
        """(width,) each channel's root mean square in the reference over the whole one's."""
        total = self._reference.sum()
        shares = self._reference * len(self._reference) / total if total else self._reference
        sizes: Float64 = np.sqrt(shares)
        return sizes
