"""How far repeats lie apart; without imports, for Pythons that have none of our requirements."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

# Above this spread a measurement is noise.
NOISE_SPREAD = 0.05


def spread(values: Sequence[float]) -> float:
    """(max - min) / median of `values`."""
    return (max(values) - min(values)) / statistics.median(values)


def deviation(values: Sequence[float]) -> float:
    """The median absolute deviation of `values`, as a share of their median."""
    middle = statistics.median(values)
    return statistics.median(abs(value - middle) for value in values) / middle
