"""Has a cell's QPS dropped, by enough to matter, and since which run?

The chart asks for a re-measurement, only a re-measurement alarms, and an alarm names the first
run after the step. Pure functions: the same nights always give the same judgement, so nothing
but the history has to be kept. Speeds are log QPS, losses differences of two of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from . import remeasure
from .chart import Bools, Chart, Ints, Tuning, advance, new_chart, settle

# What a re-measurement has shown, or, `ACCEPTED`, that somebody has taken tonight's speed as the
# new level.
CONFIRMED, REFUTED, UNCLEAR, ACCEPTED = "confirmed", "refuted", "unclear", "accepted"
# What a night calls for: nothing; nothing yet, for want of a baseline; a re-measurement, because
# QPS has fallen or because too many nights in a row were inconclusive; the next night's pass; an
# alarm.
QUIET, LEARNING, SUSPECTED, BLIND, WAITING, ALARM = (
    "quiet", "learning", "suspected", "blind", "waiting", "alarm",
)  # fmt: skip

# Runs whose likelihood of being the first after the step is at least exp(-2) of the best one's.
_LIKELY = 2.0
# One night's evidence for a step, in standard deviations: an outlier must not point at itself.
_MOST_EVIDENCE = 3.0


@dataclass(frozen=True)
class Verdict:
    """A night's re-measurement: CONFIRMED, REFUTED, UNCLEAR or ACCEPTED, and the loss it saw.

    `note` says why somebody has accepted the night's speed.
    """

    outcome: str
    loss: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class Night:
    """A cell's median log QPS, None where the run was inconclusive; `verdict` if re-measured.

    A night without a run is left out.
    """

    value: float | None
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Alarm:
    """A confirmed loss: indices of the night that confirmed it, of the first night after the step
    and of all that may have been the first, the likeliest included."""

    night: int
    first: int
    candidates: tuple[int, ...]
    loss: float

    @property
    def percent(self) -> float:
        """How much QPS has fallen, in per cent."""
        return -100 * math.expm1(-self.loss)


@dataclass(frozen=True)
class Judgement:
    """What the last night calls for, and all alarms so far.

    level, scale: the baseline's log QPS (NaN before there is one), and the standard deviation of
        a night's difference from it. gains: nights at which a higher baseline began.
    """

    status: str
    level: float
    scale: float
    alarms: tuple[Alarm, ...]
    gains: tuple[int, ...]


def allowed_loss(value: float, limit: float, most: float = Tuning().allowed) -> float:
    """The loss in log QPS that does not matter, for a promise of `value` QPS and at least `limit`.

    Golden's loss is what the published table leaves room for, on every machine; one machine's
    change from night to night is noticed from `most` on, or earlier where golden allows less.
    """
    return min(most, math.log(value / limit))


def judge(nights: Sequence[Night], allowed: float, tuning: Tuning | None = None) -> Judgement:
    """Judge a cell's `nights`, the oldest first; losses up to `allowed` never alarm."""
    tuning = tuning or Tuning()
    chart, waiting = new_chart(1, tuning), np.zeros(1, dtype=np.int64)
    status, begun = LEARNING, 0
    alarms: list[Alarm] = []
    gains: list[int] = []
    values = np.array([math.nan if n.value is None else n.value for n in nights])
    for index, night in enumerate(nights):
        verdict, value = night.verdict, values[index : index + 1]
        if verdict is not None and verdict.outcome == ACCEPTED:
            chart, waiting = _restarted(chart, tuning), np.zeros(1, dtype=np.int64)
            begun = index
        short, level = chart.level - value, float(chart.level[0])
        suspected = waiting > 0
        waiting, confirmed = remeasure.further_pass(waiting, short, chart.scale, allowed)
        chart, signal = advance(chart, np.where(suspected, np.nan, value), tuning, allowed)
        status = _status(chart, waiting, signal.loss, signal.blind & ~suspected, tuning)
        loss: float | None = None
        if verdict is not None and verdict.outcome == CONFIRMED:
            loss = verdict.loss
        elif confirmed[0]:
            seen = level - values[begun : index + 1]
            # The night that raised the suspicion was chosen for being low; its passes were not.
            loss = float(np.median(seen[np.isfinite(seen)][-remeasure.PASSES :]))
        if loss is not None:
            span = values[begun : index + 1]
            first, candidates = first_night(span, level, loss, float(chart.scale[0]))
            shifted = tuple(begun + i for i in candidates)
            alarms.append(Alarm(index, begun + first, shifted, loss))
            status = ALARM
        if loss is not None or verdict is not None or (suspected & (waiting == 0))[0]:
            chart = settle(chart, np.ones(1, dtype=bool), loss or 0.0)
            waiting = np.zeros(1, dtype=np.int64)
            status = status if loss is not None else _calm(chart, tuning)
        elif signal.loss[0]:
            # Unless a comparator decides tonight, the next nights do.
            waiting = np.full(1, remeasure.PASSES)
        if loss is not None:
            # Later steps are sought among later nights.
            begun = index + 1
        if signal.gain[0]:
            begun = index + 1 - tuning.gain_nights
            gains.append(index)
    level, scale = float(chart.level[0]), float(chart.scale[0])
    return Judgement(status, level, scale, tuple(alarms), tuple(gains))


def verdict_of(losses: Sequence[float], allowed: float) -> Verdict | None:
    """What interleaved pairs show so far; None: measure on, up to the next of remeasure.LOOKS.

    `losses` holds for each pair the comparator's log QPS less that of tonight's versions. Raises
    ValueError where their number is not one of remeasure.LOOKS, which the risk is shared among.
    """
    if len(losses) not in remeasure.LOOKS:
        raise ValueError(f"{len(losses)} pairs are none of {remeasure.LOOKS}")
    decision, loss = remeasure.decide([losses], allowed), remeasure.estimate(losses)
    if decision.confirmed[0]:
        return Verdict(CONFIRMED, loss)
    if decision.refuted[0]:
        return Verdict(REFUTED, loss)
    return Verdict(UNCLEAR, loss) if len(losses) == remeasure.LOOKS[-1] else None


def machine_loss(judgement: Judgement, comparator: Sequence[float]) -> float:
    """What the machine itself has lost: the baseline less the comparator's median log QPS tonight.

    Where the loss is refuted and this is large, the versions are innocent and the machine is not.
    """
    return judgement.level - float(np.median(comparator))


def first_night(
    values: npt.ArrayLike, level: float, loss: float, scale: float
) -> tuple[int, tuple[int, ...]]:
    """The likeliest first night after a step of `loss` down from `level`, and all likely ones.

    The maximum likelihood estimate of a change point between two known levels (Hinkley 1970):
    the start of the tail with the largest sum of log likelihood ratios. Each night's is bounded
    as Huber (1965) bounds a robust test's, by `_MOST_EVIDENCE`; NaN (inconclusive) tells nothing.
    """
    found = np.asarray(values, dtype=np.float64)
    ratio = loss * (level - loss / 2 - found) / scale**2
    bound = _MOST_EVIDENCE**2 / 2
    # A night at the lower level has a ratio of loss^2 / (2 scale^2): where that is above the
    # bound, nights on either side of the middle count alike.
    bounded = np.where(np.isfinite(ratio), np.clip(ratio, -bound, bound), 0.0)
    tail = np.cumsum(bounded[::-1])[::-1]
    tail = np.where(np.isfinite(found), tail, -np.inf)
    best = float(tail.max())
    # Of equal ones the last: a step is not older than it must be.
    first = int(np.flatnonzero(tail == best)[-1])
    conclusive = np.flatnonzero(np.isfinite(found))
    likely: set[int] = set()
    for index in np.flatnonzero(tail >= best - _LIKELY):
        # The inconclusive nights right before it may have been the first as well.
        earlier = conclusive[conclusive < index]
        likely.update(range(int(earlier[-1]) + 1 if len(earlier) else 0, int(index) + 1))
    return first, tuple(sorted(likely))


def _restarted(chart: Chart, tuning: Tuning) -> Chart:
    """A chart without nights that still knows how far nights usually spread."""
    fresh = new_chart(1, tuning)
    return Chart(
        baseline=fresh.baseline, recent=fresh.recent, level=fresh.level, sigma=chart.sigma,
        prior=chart.sigma, sum=fresh.sum, blind=fresh.blind,
    )  # fmt: skip


def _status(chart: Chart, waiting: Ints, lost: Bools, blind: Bools, tuning: Tuning) -> str:
    if lost[0]:
        return SUSPECTED
    if waiting[0]:
        return WAITING
    return BLIND if blind[0] else _calm(chart, tuning)


def _calm(chart: Chart, tuning: Tuning) -> str:
    return QUIET if chart.count[0] >= tuning.least_nights else LEARNING
