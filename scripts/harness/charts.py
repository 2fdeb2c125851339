"""Tables and charts ready to lay out: a histogram's geometry, and its numbers as a table."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_LATENCY_BINS = 30
# A tick's label needs a ninth of the plot's width.
_TICK_DISTANCE = 0.11


@dataclass(frozen=True)
class Column:
    """A column's heading and kind: text, number (set flush right) or status (coloured)."""

    label: str
    kind: str = "text"


@dataclass(frozen=True)
class Row:
    """A row: its heading, the remaining cells, remarks under the heading, a check's status."""

    head: str
    cells: list[str]
    notes: list[str] = field(default_factory=list)
    status: str = ""


@dataclass(frozen=True)
class Table:
    """A table ready to lay out; the first column holds the rows' headings."""

    caption: str
    columns: list[Column]
    rows: list[Row]


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram: x and width as fractions of the plot, height as one of its top."""

    x: float
    width: float
    height: float
    label: str


@dataclass(frozen=True)
class Mark:
    """A labelled place on the x axis, `x` as a fraction of the plot."""

    x: float
    label: str


@dataclass(frozen=True)
class Chart:
    """A histogram: bars, ticks below, lines through it, and the same as a table."""

    title: str
    description: str
    axis: str
    bars: list[Bar]
    ticks: list[Mark]
    lines: list[Mark]
    numbers: Table


def columns(*labels: str) -> list[Column]:
    """Columns by label; a trailing `#` marks numbers."""
    return [
        Column(label[:-1], "number") if label.endswith("#") else Column(label) for label in labels
    ]


def latency_chart(ms: np.ndarray[Any, np.dtype[np.float64]], speed: dict[str, Any]) -> Chart:
    """Histogram of batch times (N,) in ms on a logarithmic axis; `speed` as `summarize` has it.

    Batches are sorted by length, so their times span a wide range by design; equal ratios show
    its short and its long end alike, and a lone straggler does not squeeze the rest.
    """
    low, high = float(ms.min()), float(ms.max())
    if high < 1.2 * low:
        middle = math.sqrt(low * high)
        low, high = middle / 1.1, middle * 1.1
    edges = np.geomspace(low, high, _LATENCY_BINS + 1)
    counts = np.histogram(ms, edges)[0].tolist()
    span = math.log(high / low)

    def place(value: float) -> float:
        return min(max(math.log(value / low) / span, 0.0), 1.0)

    percentiles = [
        Mark(place(value), f"{name} {value:.4g} ms") for name, value in speed["latency_ms"].items()
    ]
    return Chart(
        title="Latency of a batch",
        description=f"{len(ms)} batches over {speed['repeats']} repeats, "
        f"{ms.min():.4g} to {ms.max():.4g} ms; " + ", ".join(mark.label for mark in percentiles),
        axis="ms a batch (log scale); height: batches",
        bars=_bars(counts, [""] * len(counts)),
        ticks=spaced([Mark(place(tick), f"{tick:g}") for tick in _ticks(low, high)]),
        lines=percentiles,
        numbers=Table(
            "Batches by latency",
            columns("Latency", "Batches#"),
            [
                Row(f"{start:.4g} to {end:.4g} ms", [str(count)])
                for start, end, count in zip(edges, edges[1:], counts, strict=False)
            ],
        ),
    )


def difference_chart(counts: list[int], edges: list[float]) -> Chart:
    """Histogram of the logits' absolute differences: bin i ends at edge i, the last is open.

    Heights are logarithmic: a handful of large differences among millions must be seen.
    """
    labels = [f"{edge:g}" for edge in edges]
    names = [f"up to {label}" for label in labels] + [f"over {labels[-1]}" if labels else "all"]
    filled = [name for name, count in zip(names, counts, strict=True) if count]
    heights = [math.log10(1 + count) for count in counts]
    return Chart(
        title="Differences from the reference",
        description=f"{sum(counts)} logits by absolute difference from ONNX Runtime FP32; "
        + (f"the largest are {filled[-1]}" if filled else "none"),
        axis="absolute difference of a logit; height: logits (log scale)",
        bars=_bars(heights, [_compact(count) for count in counts]),
        ticks=[Mark((i + 1) / len(counts), label) for i, label in enumerate(labels)],
        lines=[],
        numbers=Table(
            "Logits by absolute difference",
            columns("Difference", "Logits#"),
            [Row(name, [str(count)]) for name, count in zip(names, counts, strict=True)],
        ),
    )


def _bars(heights: list[float], labels: list[str]) -> list[Bar]:
    """Bars of equal width, scaled so that the highest has height 1."""
    top, width = max(heights) or 1.0, 1 / len(heights)
    return [
        Bar(i / len(heights), width, height / top, label)
        for i, (height, label) in enumerate(zip(heights, labels, strict=True))
    ]


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers in [low, high]: 1, 2, 5 in each decade, or even steps in a short range."""
    if high / low > 10:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        numbers = [factor * 10.0**decade for decade in decades for factor in (1, 2, 5)]
        return [_rounded(number) for number in numbers if low <= number <= high]
    return even_ticks(low, high)


def even_ticks(low: float, high: float) -> list[float]:
    """Up to seven round numbers in [low, high], evenly spaced."""
    step = 10.0 ** math.floor(math.log10((high - low) / 2))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    steps = range(math.ceil(low / step), math.floor(high / step) + 1)
    return [number for number in (_rounded(step * i) for i in steps) if low <= number <= high]


def _rounded(number: float) -> float:
    # Ten digits: 3 * 0.1 is 0.3 on an axis.
    return float(f"{number:.10g}")


def spaced(ticks: list[Mark], distance: float = _TICK_DISTANCE) -> list[Mark]:
    """Those of `ticks`, from the first on, that are `distance` apart."""
    kept: list[Mark] = []
    for tick in ticks:
        if not kept or tick.x - kept[-1].x >= distance:
            kept.append(tick)
    return kept


def _compact(count: int) -> str:
    """At most three digits and a unit, short enough to stand over a bar."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g}{unit}" if count < 999 * size else f"{count // size}{unit}"
    return str(count)
