"""Which place is at fault, from the local errors alone.

A place is at fault if it returns NaN or infinity, or if its local error is more than the precision
explains and stands out. Standing out is a robust z-score of log(local / explained) among the same
kind of sub-layer in the other layers; where there are too few of these, or all share the fault,
it is the excess alone. One bad output channel hardly moves the error of a whole tensor, so
channels are judged among the other channels of their place as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .survey import Measured, Survey

# The twin rounds and clips elsewhere than the graph does, which is good for less than this factor.
UNEXPLAINED = 2.5
# An excess that needs no peers.
SURELY = 5.0
# With the least spread below: 2.7 times the peers' median.
Z = 5.0
# Of a channel, over what the precision explains and over the median channel; there are thousands,
# and their errors have long tails.
CHANNEL_EXCESS = 3.0
CHANNEL_Z = 10.0
# Fewer say nothing about one another.
CHANNELS = 16
# Standard deviations of the logarithm that are noise whatever the peers' spread: few peers may
# happen to be close together.
_SPREAD, _CHANNEL_SPREAD = 0.2, 0.1
# From the median absolute deviation to a normal distribution's standard deviation.
_NORMAL = 1.4826
# A place without any error still has a logarithm.
_LEAST = 1e-6


@dataclass(frozen=True)
class Judged:
    """One place. `excess` is local over explained error, `peers` that excess over the median of the
    other layers' and `z` its robust z-score among them, None without peers. `channel` is the
    output channel that stands out, if one does, `channel_excess` its excess."""

    measured: Measured
    excess: float
    peers: float | None
    z: float | None
    channel: int | None
    channel_excess: float | None
    at_fault: bool


def judge(survey: Survey) -> list[Judged]:
    """Every place, in the order in which they run."""
    return [_judged(measured, survey.measured) for measured in survey.measured]


def _judged(measured: Measured, everything: Sequence[Measured]) -> Judged:
    excess = _excess(measured)
    logs = [
        np.log(max(_excess(other), _LEAST))
        for other in everything
        if other.place.kind == measured.place.kind
        and other.place.layer != measured.place.layer
        and np.isfinite(_excess(other))
    ]
    peers = z = None
    if logs and np.isfinite(excess):
        middle, spread = _robust(np.asarray(logs), _SPREAD)
        own = float(np.log(max(excess, _LEAST)))
        peers, z = float(np.exp(own - middle)), (own - middle) / spread
    channel, channel_excess = _channel(measured)
    stands_out = excess > SURELY or (z is not None and z > Z)
    return Judged(
        measured,
        excess,
        peers,
        z,
        channel,
        channel_excess,
        at_fault=measured.local.lost > 0
        or (excess > UNEXPLAINED and stands_out)
        or channel is not None,
    )


def _excess(measured: Measured) -> float:
    local, explained = measured.local.token, measured.explained.token
    if np.isinf(local):
        return local
    return local / explained


def _channel(measured: Measured) -> tuple[int, float] | tuple[None, None]:
    """The channel that stands out among those of its place, and its excess."""
    local, explained = measured.local.channels, measured.explained.channels
    if len(local) < CHANNELS or measured.local.lost or not np.isfinite(explained).all():
        return None, None
    excess: npt.NDArray[Any] = local / explained
    logs = np.log(np.maximum(excess, _LEAST))
    middle, spread = _robust(logs, _CHANNEL_SPREAD)
    worst = int(excess.argmax())
    if excess[worst] > CHANNEL_EXCESS and (logs[worst] - middle) / spread > CHANNEL_Z:
        return worst, float(excess[worst])
    return None, None


def _robust(logs: npt.NDArray[Any], least: float) -> tuple[float, float]:
    """Median, and the standard deviation that the median absolute deviation stands for."""
    middle = float(np.median(logs))
    return middle, max(_NORMAL * float(np.median(np.abs(logs - middle))), least)
