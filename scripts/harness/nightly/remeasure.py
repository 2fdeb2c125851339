"""The re-measurement: is the loss that the chart suspects there when one looks again?

With a comparator at hand (the last good engine and versions) both are measured in turns, and
what slows the machine tonight slows both: only their difference counts. Without one, the next
two nights must each show the loss: a second pass in the same night would share its disturbance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from .chart import Bools, Floats, Ints

# After as many pairs the difference is looked at; whoever looks thrice shares the risk out.
LOOKS = (16, 32, 64)
# The chance, over all looks, to confirm a loss that is no larger than allowed.
RISK = 0.001
# Without comparator: how many further passes, each in a night of its own, must fall short by more
# than is allowed, and by how many standard deviations of a night less the allowed loss. The
# subtraction makes noisy cells harder to believe: at a spread of 1.2 % a pass needs 2.4 standard
# deviations, at 3 % 3.3.
PASSES = 2
PASS_SIGMAS = 4.0


@dataclass(frozen=True)
class Decision:
    """Outcome for C cells, (C,) each. Neither: more pairs are needed, or there is no verdict.

    confirmed: the loss is larger than allowed. refuted: it is not.
    """

    confirmed: Bools
    refuted: Bools


def decide(losses: npt.ArrayLike, allowed: float, risk: float = RISK) -> Decision:
    """Judge interleaved pairs: `losses` (C, n), log QPS of the comparator less that of tonight.

    Wilcoxon's signed-rank test (1945) of the losses beyond `allowed`, one-sided both ways, with
    the exact distribution. It only needs both of a pair to be disturbed alike, which makes their
    difference symmetric: no normal distribution, and an outlier counts as one pair. `risk` is
    shared out evenly among LOOKS. Raises ValueError where n pairs can decide nothing.
    """
    beyond = np.asarray(losses, dtype=np.float64) - allowed
    most = _critical(beyond.shape[1], risk / len(LOOKS))
    order = np.argsort(np.abs(beyond), axis=1)
    above = np.take_along_axis(beyond, order, axis=1) > 0
    ranks = np.arange(1, beyond.shape[1] + 1)
    rises = (above * ranks).sum(axis=1)
    return Decision(ranks.sum() - rises <= most, rises <= most)


def estimate(losses: npt.ArrayLike) -> float:
    """The loss that n pairs show: the median of all pairs' averages (Hodges, Lehmann 1963)."""
    values = np.asarray(losses, dtype=np.float64)
    first, second = np.triu_indices(len(values))
    return float(np.median((values[first] + values[second]) / 2))


def further_pass(
    waiting: Ints, short: npt.ArrayLike, scale: Floats, allowed: float
) -> tuple[Ints, Bools]:
    """Without comparator: the passes still awaited after one more night, and what it confirms.

    waiting: (C,) passes awaited before it, 0 where nothing is suspected.
    short: (C,) the level's log QPS less the night's, NaN where that was inconclusive: such a
        night is no pass.
    scale: (C,) the standard deviation of `short` in a night like the others.
    """
    loss = np.asarray(short, dtype=np.float64)
    passed = (waiting > 0) & np.isfinite(loss)
    falls = passed & (loss > np.maximum(allowed, PASS_SIGMAS * scale - allowed))
    left = np.where(passed, np.where(falls, waiting - 1, 0), waiting)
    confirmed: Bools = falls & (left == 0)
    return left, confirmed


@cache
def _critical(n: int, risk: float) -> int:
    """The largest k with P(T <= k) <= `risk`, T being the signed-rank statistic of n pairs."""
    # How likely each sum of ranks is: rank r counts or does not, like a coin's sides.
    share = np.zeros(n * (n + 1) // 2 + 1)
    share[0] = 1.0
    for rank in range(1, n + 1):
        share[rank:] = (share[rank:] + share[:-rank]) / 2
        share[:rank] /= 2
    within: Ints = np.flatnonzero(np.cumsum(share) <= risk)
    if not len(within):
        raise ValueError(f"{n} pairs decide nothing at a risk of {risk}; measure more")
    return int(within[-1])
