"""How far repeats lie apart; without imports, for Pythons that have none of our requirements."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

# Above this spread a measurement is noise.
NOISE_SPREAD = 0.05


def spread(values: Sequence[float]) -> float:
    """(max - min) / median of `values`."""
    return (max(values) - min(values)) / statistics.median(values)
