"""Comparisons as horizontal bars, the repeats' range marked on each: bench.svg, gpu.svg."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .table import ranked


@dataclass(frozen=True)
class RateBar:
    """One system: `length`, `low` and `high` as fractions of the group's longest whisker."""

    title: str
    ours: bool
    length: float
    low: float
    high: float
    label: str


@dataclass(frozen=True)
class Group:
    """One comparison's bars; `title` names the model and the unit."""

    title: str
    bars: list[RateBar]


def svg(document: dict[str, Any]) -> str:
    """All comparisons of bench.json."""
    groups = [_group(part) for part in document["comparisons"]]
    note = f"{document['device']['name']}; median of {document['repeats']} interleaved passes"
    return draw("BERT on SQuAD: CPU systems side by side", groups, note)


def draw(head: str, groups: Sequence[Group], note: str) -> str:
    """A drawing that stands alone, in light or dark colours as the reader's page has them."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("chart.svg.j2").render(head=head, groups=groups, note=note)


def _group(part: dict[str, Any]) -> Group:
    systems = ranked(part)
    rates = {system["key"]: _rates(system) for system in systems}
    longest = max((max(values) for values in rates.values() if values), default=1.0)
    bars = []
    for system in systems:
        values = rates[system["key"]]
        bars.append(
            RateBar(
                system["title"],
                system["ours"],
                system["rate"] / longest if values else 0.0,
                min(values, default=0.0) / longest,
                max(values, default=0.0) / longest,
                _label(system),
            )
        )
    return Group(f"{part['title']}, {part['unit']} a second", bars)


def _rates(system: dict[str, Any]) -> list[float]:
    """The repeats' rates at the batch that counts; none where the system has failed."""
    if system["failure"] is not None:
        return []
    lanes = {lane["batch"]: lane["rates"] for lane in system["lanes"]}
    rates: list[float] = lanes[system["batch"]]
    return rates


def _label(system: dict[str, Any]) -> str:
    if system["failure"] is not None:
        return "failed"
    score = "" if system["f1"] is None else f", F1 {system['f1']:.2f}"
    return f"{system['rate']:.1f}{score}"
