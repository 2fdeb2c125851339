"""A value over the nights: points, golden's band, the baseline and its steps, as fractions."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import pairwise

from .charts import Mark, Table, even_ticks, spaced
from .golden import Promise

# What a night gave: a value to judge, one that is not judged, or none.
GOOD, UNCLEAR, NONE = "good", "unclear", "none"
# A line between two nights further apart than this many usual distances would hide a gap.
_GAP = 1.6
_ROOM = 0.08
# A date's label needs a sixth of the plot's width.
_DATE_DISTANCE = 0.17


@dataclass(frozen=True)
class Sample:
    """One night: `time` in seconds since 1970, `value` None where it gave none.

    `low` and `high` are the extremes of its repeats; `label` says it in words.
    """

    time: float
    value: float | None
    kind: str
    label: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Level:
    """A baseline that held from one time to another."""

    start: float
    end: float
    value: float


@dataclass(frozen=True)
class Point:
    """A night's place; `low` and `high` end its whisker. `kind` is a sample's, or beyond where
    the value lies outside the plot and the point at its edge."""

    x: float
    y: float
    kind: str
    label: str
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Band:
    """Golden's promise: from its limit `low` up to its value `high`, as far as it is in the plot.

    `limit` is the limit's line, None where that is outside.
    """

    low: float
    high: float
    limit: Mark | None


@dataclass(frozen=True)
class Trend:
    """A line chart; x and y are fractions of the plot, y from its bottom.

    lines: the points to connect, broken at gaps. baselines: (x from, x to, y).
    steps: where detection has found one. `numbers` holds the same as a table.
    """

    title: str
    description: str
    points: list[Point]
    lines: list[list[tuple[float, float]]]
    band: Band | None
    baselines: list[tuple[float, float, float]]
    steps: list[Mark]
    ticks: list[Mark]
    levels: list[Mark]
    numbers: Table


def seconds(time: str) -> float:
    """Seconds since 1970 of a record's time."""
    parsed = datetime.strptime(time, "%Y-%m-%dT%H:%M:%SZ")
    return parsed.replace(tzinfo=timezone.utc).timestamp()


def trend_chart(
    title: str,
    description: str,
    samples: Sequence[Sample],
    promise: Promise | None,
    levels: Sequence[Level],
    steps: Sequence[tuple[float, str]],
    least_span: float,
    numbers: Table,
) -> Trend | None:
    """Lay out `samples` in order of time; None where no night gave a value.

    The plot spans at least `least_span`, in the value's unit: noise must not look like drama.
    """
    spanned = _span(samples, levels, promise, least_span)
    if spanned is None:
        return None
    low, high = spanned
    first, last = samples[0].time, samples[-1].time

    def across(time: float) -> float:
        return min(max((time - first) / (last - first), 0.0), 1.0) if last > first else 0.5

    def up(value: float) -> float:
        return (value - low) / (high - low)

    def inside(value: float) -> float:
        return min(max(up(value), 0.0), 1.0)

    points = [
        Point(
            across(sample.time),
            0.0 if sample.value is None else inside(sample.value),
            sample.kind if sample.value is None or low <= sample.value <= high else "beyond",
            sample.label,
            None if sample.low is None else inside(sample.low),
            None if sample.high is None else inside(sample.high),
        )
        for sample in samples
    ]
    return Trend(
        title=title,
        description=description,
        points=points,
        lines=_lines(samples, points),
        band=_band(promise, low, high) if promise else None,
        baselines=[
            (across(level.start), across(level.end), up(level.value))
            for level in levels
            if level.end >= first
        ],
        steps=[Mark(across(time), label) for time, label in steps if time >= first],
        ticks=_dates(samples, first, last),
        levels=_levels(low, high),
        numbers=numbers,
    )


def _span(
    samples: Sequence[Sample],
    levels: Sequence[Level],
    promise: Promise | None,
    least_span: float,
) -> tuple[float, float] | None:
    """What the y axis spans: the judged nights and their baselines, or any value there is."""
    values = [s.value for s in samples if s.value is not None and s.kind == GOOD]
    values = values or [s.value for s in samples if s.value is not None]
    if not values:
        return None
    values += [level.value for level in levels]
    low, high = min(values), max(values)
    spare = max(0.0, least_span - (high - low)) / 2
    low, high = low - spare, high + spare
    # A promise far away would press the nights into one flat line; words say where it is.
    reach = high - low
    edges = (promise.value, promise.limit) if promise else ()
    near = [edge for edge in edges if low - reach <= edge <= high + reach]
    low, high = min([low, *near]), max([high, *near])
    room = _ROOM * (high - low)
    return low - room, high + room


def _lines(samples: Sequence[Sample], points: list[Point]) -> list[list[tuple[float, float]]]:
    """The good nights' points, apart where nights are missing."""
    distances = [after.time - before.time for before, after in pairwise(samples)]
    gap = _GAP * statistics.median(distances) if distances else 0.0
    lines: list[list[tuple[float, float]]] = [[]]
    for sample, point, distance in zip(samples, points, [0.0, *distances], strict=True):
        if distance > gap:
            lines.append([])
        if sample.value is not None and sample.kind == GOOD:
            lines[-1].append((point.x, point.y))
    return [line for line in lines if len(line) > 1]


def _band(promise: Promise, low: float, high: float) -> Band:
    """The promise in a plot from `low` to `high`."""

    def up(value: float) -> float:
        return (value - low) / (high - low)

    bottom, top = (min(max(up(edge), 0.0), 1.0) for edge in (promise.limit, promise.value))
    limit = up(promise.limit)
    mark = Mark(limit, f"golden's limit {promise.limit:.6g}") if 0 <= limit <= 1 else None
    return Band(bottom, top, mark)


def _dates(samples: Sequence[Sample], first: float, last: float) -> list[Mark]:
    """The days of the nights, as many as fit."""
    if first == last:
        return [Mark(0.5, _day(first))]
    marks = [Mark((s.time - first) / (last - first), _day(s.time)) for s in samples]
    return spaced(marks, _DATE_DISTANCE)


def _day(time: float) -> str:
    return datetime.fromtimestamp(time, timezone.utc).strftime("%m-%d")


def _levels(low: float, high: float) -> list[Mark]:
    """Round numbers on the y axis, all with as many decimals as one needs."""
    ticks = even_ticks(low, high)
    decimals = max((len(f"{tick:g}".partition(".")[2]) for tick in ticks), default=0)
    return [Mark((tick - low) / (high - low), f"{tick:.{decimals}f}") for tick in ticks]
