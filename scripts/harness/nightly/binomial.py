"""Exact binomial arithmetic: a fair coin's tail, and confidence limits of a proportion."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np


def fair_tail(successes: int, trials: int) -> float:
    """P(X >= `successes`) for X ~ Binomial(`trials`, 1/2), exact before one last rounding."""
    successes = max(successes, 0)
    # The shorter tail is summed; whole numbers neither cancel nor overflow.
    if 2 * successes > trials:
        ways = sum(math.comb(trials, k) for k in range(successes, trials + 1))
    else:
        ways = 2**trials - sum(math.comb(trials, k) for k in range(successes))
    return float(ways / 2**trials)


def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Lower and upper limit of a proportion, each one-sided at `level` (Clopper, Pearson 1934)."""
    alpha = 1 - level
    lower = upper = 0.0
    if successes > 0:
        lower = _root(lambda p: 1 - _cdf(successes - 1, trials, p) < alpha)
    upper = 1.0 if successes == trials else _root(lambda p: _cdf(successes, trials, p) > alpha)
    return lower, upper


def _cdf(successes: int, trials: int, p: float) -> float:
    """P(X <= `successes`) for X ~ Binomial(`trials`, `p`), 0 < p < 1."""
    k = np.arange(successes + 1)
    # log C(n, k) by its ratios: C(n, k) / C(n, k - 1) = (n - k + 1) / k.
    steps = np.log((trials - k[1:] + 1) / k[1:])
    choose = np.concatenate([[0.0], np.cumsum(steps)])
    return float(np.exp(choose + k * math.log(p) + (trials - k) * math.log1p(-p)).sum())


def _root(below: Callable[[float], bool]) -> float:
    """Where `below` turns from true to false on (0, 1), by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return high
