"""Nights as they might be: medians with a loss or without, judged as the real ones are.

A night's log QPS is the machine's level, what disturbs that night as a whole, and the median of
the repeats' own noise. Half of a night's variance is the one, half the other. The chart and the
re-measurement are those that judge real nights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from . import remeasure
from .chart import Bools, Chart, Floats, Ints, Tuning, advance, new_chart, settle

Generator = np.random.Generator
# Values of some shape, of mean about 0 and variance about 1, as many as the size says.
Draw = Callable[[Generator, tuple[int, ...]], Floats]

REPEATS = 5
# An inconclusive run is made again the same night, so often in all.
ATTEMPTS = 3
NOISE_SPREAD = 0.05
# The first of nights without an alarm.
NEVER = -1


@dataclass(frozen=True)
class Machine:
    """How a simulated machine disturbs its nights, and how they are judged.

    sigma: the standard deviation of a night's median, in log QPS.
    draw: the shape of nights and of repeats; persistence: the correlation of a night's
        disturbance with that of the next (AR(1)).
    comparator: whether the last good engine can be measured in turns with tonight's.
    """

    sigma: float
    draw: Draw
    persistence: float = 0.0
    comparator: bool = True
    tuning: Tuning = Tuning()  # noqa: RUF009 - it is frozen

    @property
    def whole(self) -> float:
        """The standard deviation of what disturbs a night as a whole."""
        return self.sigma / math.sqrt(2)


@dataclass(frozen=True)
class State:
    """S cells after some nights: charts, passes awaited, disturbances (S,), a repeat's noise."""

    chart: Chart
    waiting: Ints
    disturbance: Floats
    own: float


@dataclass(frozen=True)
class Tally:
    """What a stretch of nights has brought.

    alarm: (S,) the first night of the stretch that alarmed, or NEVER.
    medians: (nights, S) log QPS, NaN where inconclusive.
    remeasured: how many re-measurements there were; pairs: how many pairs they took.
    """

    alarm: Ints
    medians: Floats
    remeasured: int
    pairs: int


def gaussian(generator: Generator, size: tuple[int, ...]) -> Floats:
    """Normal values."""
    return generator.standard_normal(size)


def heavy(generator: Generator, size: tuple[int, ...]) -> Floats:
    """Student's t with three degrees of freedom, whose variance is 3, brought to 1."""
    values: Floats = generator.standard_t(3, size) / math.sqrt(3)
    return values


def resampled(values: Floats) -> Draw:
    """Measured `values` drawn with replacement, brought to mean 0 and variance 1."""
    unit: Floats = (values - values.mean()) / values.std()

    def draw(generator: Generator, size: tuple[int, ...]) -> Floats:
        drawn: Floats = unit[generator.integers(len(unit), size=size)]
        return drawn

    return draw


def begin(generator: Generator, machine: Machine, series: int) -> State:
    """`series` cells before their first night."""
    # How much less the median of a run's repeats varies than one repeat depends on the shape.
    trial = machine.draw(generator, (20_000, REPEATS))
    own = machine.whole / float(np.median(trial, axis=1).std())
    return State(
        new_chart(series, machine.tuning),
        np.zeros(series, dtype=np.int64),
        machine.whole * machine.draw(generator, (series,)),
        own,
    )


def run(
    generator: Generator,
    machine: Machine,
    state: State,
    nights: int,
    loss: float = 0.0,
    drift: float = 0.0,
) -> tuple[State, Tally]:
    """`nights` more nights in which tonight's versions are slower by `loss` (log QPS).

    `drift` is what the machine itself loses from night to night; the comparator loses it too.
    """
    series = len(state.waiting)
    tuning, kept = machine.tuning, machine.persistence
    alarm, medians = np.full(series, NEVER), np.empty((nights, series))
    remeasured = pairs = 0
    for night in range(nights):
        fresh = machine.whole * machine.draw(generator, (series,))
        disturbance = kept * state.disturbance + math.sqrt(1 - kept**2) * fresh
        value = _medians(generator, machine, state.own, disturbance - drift * night - loss)
        medians[night] = value
        chart, waiting = state.chart, state.waiting
        if machine.comparator:
            chart, signal = advance(chart, value, tuning)
            # A series ends with its first alarm: nothing more is measured.
            again = (signal.loss | signal.blind) & (alarm == NEVER)
            confirmed, used = _compared(generator, machine, state.own, loss, again)
            remeasured, pairs = remeasured + int(again.sum()), pairs + used
            chart = settle(chart, again)
        else:
            suspected, short = waiting > 0, chart.level - value
            waiting, confirmed = remeasure.further_pass(waiting, short, chart.scale, tuning.allowed)
            chart = settle(chart, suspected & (waiting == 0))
            chart, signal = advance(chart, np.where(suspected, np.nan, value), tuning)
            waiting = np.where(signal.loss, remeasure.PASSES, waiting)
            remeasured += int(signal.loss.sum())
        alarm[confirmed & (alarm == NEVER)] = night
        state = State(chart, waiting, disturbance, state.own)
    return state, Tally(alarm, medians, remeasured, pairs)


def _medians(generator: Generator, machine: Machine, own: float, level: Floats) -> Floats:
    """Medians (S,) of a night's repeats around `level`, NaN where all attempts spread too far."""
    medians = np.full(len(level), np.nan)
    for _ in range(ATTEMPTS):
        cells = np.flatnonzero(np.isnan(medians))
        repeats = np.sort(own * machine.draw(generator, (len(cells), REPEATS)), axis=1)
        middle = repeats[:, REPEATS // 2]
        spread = np.exp(repeats[:, -1] - middle) - np.exp(repeats[:, 0] - middle)
        medians[cells] = np.where(spread <= NOISE_SPREAD, level[cells] + middle, np.nan)
    return medians


def _compared(
    generator: Generator, machine: Machine, own: float, loss: float, again: Bools
) -> tuple[Bools, int]:
    """Which cells' re-measurements, where `again` (S,), confirm `loss`; pairs that they took."""
    cells, confirmed, used = np.flatnonzero(again), np.zeros(len(again), dtype=bool), 0
    size = (len(cells), remeasure.LOOKS[-1])
    ratios = loss + own * (machine.draw(generator, size) - machine.draw(generator, size))
    undecided = np.arange(len(cells))
    for pairs, before in zip(remeasure.LOOKS, (0, *remeasure.LOOKS), strict=False):
        used += (pairs - before) * len(undecided)
        decision = remeasure.decide(ratios[undecided, :pairs], machine.tuning.allowed)
        confirmed[cells[undecided]] = decision.confirmed
        undecided = undecided[~decision.confirmed & ~decision.refuted]
    return confirmed, used
