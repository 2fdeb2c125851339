"""The chart: when has a cell's QPS fallen far enough that it must be measured again?

A one-sided cumulative sum (Page 1954) of the losses in log QPS against a robust baseline. All
state is in arrays over cells, so that one cell tonight and ten thousand simulated ones go
through the same lines.

Every QPS here is its natural logarithm, every loss a difference of two of them: 0.05 is 4.9 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = np.ndarray[Any, np.dtype[np.float64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

# Of a normal distribution: its standard deviation in units of the median absolute deviation,
# and how much less a median of n values tells than their mean.
MAD_SIGMA = 1.4826
MEDIAN_VARIANCE = math.pi / 2


@dataclass(frozen=True)
class Tuning:
    """What the simulation has tuned (docs/nightly.md shows the outcome).

    allowed: the loss that does not matter, in log QPS; golden may ask for less.
    slack, signal: in standard deviations of a night. Each night adds its loss less the slack
        (never less than `allowed`); more than `signal` altogether calls for a re-measurement.
    nights: how many conclusive nights make a baseline, and how few suffice to begin.
    prior_sigma, prior_nights: the spread of nights that is assumed before any is known, and how
        many nights' worth of evidence that assumption is.
    gain_nights: as many nights in a row above the baseline by more than the slack are a new one.
    blind_nights: after as many inconclusive nights in a row the cell is measured again as well.
    """

    allowed: float = 0.02
    slack: float = 1.0
    signal: float = 1.0
    nights: int = 20
    least_nights: int = 5
    prior_sigma: float = 0.02
    prior_nights: int = 8
    gain_nights: int = 5
    blind_nights: int = 3


@dataclass(frozen=True)
class Chart:
    """The state of C cells after some nights.

    baseline: (C, nights) the conclusive nights that set level and spread, NaN where there is
        none yet. It fills up and then stays: a baseline that moved along would never notice a
        slow loss.
    recent: (C, gain_nights) the latest conclusive nights.
    level, sigma: (C,) the baseline's median and the spread of a night around it.
    prior: (C,) the spread assumed before this baseline.
    sum: (C,) the losses beyond the slack, added up.
    blind: (C,) how many nights in a row were inconclusive.
    """

    baseline: Floats
    recent: Floats
    level: Floats
    sigma: Floats
    prior: Floats
    sum: Floats
    blind: Ints

    @property
    def count(self) -> Ints:
        """(C,) nights in the baseline."""
        nights: Ints = np.isfinite(self.baseline).sum(axis=1)
        return nights

    @property
    def scale(self) -> Floats:
        """(C,) standard deviation of a night's difference from the level, which has its own."""
        return self.sigma * np.sqrt(1 + MEDIAN_VARIANCE / np.maximum(self.count, 1))


@dataclass(frozen=True)
class Signal:
    """What a night asks for, (C,) each: `loss` and `blind` call for a re-measurement.

    `gain` marks cells whose baseline has just been replaced by a higher one.
    """

    loss: Bools
    blind: Bools
    gain: Bools


def new_chart(cells: int, tuning: Tuning) -> Chart:
    """Charts of `cells` cells that have seen no night."""
    prior = np.full(cells, tuning.prior_sigma)
    return Chart(
        baseline=np.full((cells, tuning.nights), np.nan),
        recent=np.full((cells, tuning.gain_nights), np.nan),
        level=np.full(cells, np.nan),
        sigma=prior,
        prior=prior,
        sum=np.zeros(cells),
        blind=np.zeros(cells, dtype=np.int64),
    )


def advance(
    chart: Chart, night: npt.ArrayLike, tuning: Tuning, allowed: float | None = None
) -> tuple[Chart, Signal]:
    """The charts after one more night, (C,) log QPS with NaN where it was inconclusive.

    `allowed` is the loss that does not matter to these cells (by default the tuning's).
    """
    values = np.asarray(night, dtype=np.float64)
    seen = np.isfinite(values)
    count, scale = chart.count, chart.scale
    slack = np.maximum(tuning.allowed if allowed is None else allowed, tuning.slack * scale)
    judged = seen & (count >= tuning.least_nights)

    loss = np.where(judged, chart.level - values, 0.0)
    total = np.where(judged, np.maximum(0.0, chart.sum + loss - slack), chart.sum)
    lost = judged & (total > tuning.signal * scale)

    blind = np.where(seen, 0, chart.blind + 1)
    unseen = blind >= tuning.blind_nights
    blind = np.where(unseen, 0, blind)

    recent = np.where(seen[:, None], np.roll(chart.recent, -1, axis=1), chart.recent)
    recent[seen, -1] = values[seen]
    # NaN, while there are fewer nights, is not above anything.
    gained = judged & (recent > (chart.level + slack)[:, None]).all(axis=1)

    # A night that signals is under suspicion and sets no level.
    learned = seen & ~lost & ~gained & (count < tuning.nights)
    baseline = chart.baseline.copy()
    baseline[learned, count[learned]] = values[learned]
    baseline[gained] = np.nan
    baseline[gained, : tuning.gain_nights] = recent[gained]

    prior = np.where(gained, chart.sigma, chart.prior)
    moved = replace(
        chart, baseline=baseline, recent=recent, prior=prior,
        sum=np.where(gained, 0.0, total), blind=blind,
    )  # fmt: skip
    return _measured(moved, learned | gained, tuning), Signal(lost, unseen, gained)


def settle(chart: Chart, cells: Bools, shift: npt.ArrayLike = 0.0) -> Chart:
    """The charts after re-measuring `cells` (C,): their sums start anew.

    A confirmed loss moves their level down by `shift`, (C,) or one number, so that what comes
    after it is judged against what it left; a refuted one leaves the level where it was.
    """
    down = np.where(cells, shift, 0.0)
    return replace(
        chart,
        baseline=chart.baseline - down[:, None],
        level=chart.level - down,
        sum=np.where(cells, 0.0, chart.sum),
    )


def _measured(chart: Chart, cells: Bools, tuning: Tuning) -> Chart:
    """The charts with level and spread of `cells` computed again from their baselines.

    The spread is the median absolute deviation, drawn towards what was assumed before as long
    as there are few nights: five nights that happen to agree do not make a quiet machine.
    """
    values, count = chart.baseline[cells], chart.count[cells]
    middle = _median(values, count)
    mad = MAD_SIGMA * _median(np.abs(values - middle[:, None]), count)
    weight = tuning.prior_nights
    variance = (count * mad**2 + weight * chart.prior[cells] ** 2) / (count + weight)
    level, sigma = chart.level.copy(), chart.sigma.copy()
    level[cells], sigma[cells] = middle, np.sqrt(variance)
    return replace(chart, level=level, sigma=sigma)


def _median(values: Floats, count: Ints) -> Floats:
    """(C,) medians of each row's `count` numbers, the others being NaN."""
    # NaN sorts last; numpy's own nanmedian is ten times slower on short rows.
    ordered, row = np.sort(values, axis=1), np.arange(len(values))
    middle: Floats = (ordered[row, (count - 1) // 2] + ordered[row, count // 2]) / 2
    return middle
