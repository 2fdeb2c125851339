"""The report's part on diagnoses: how the error grows through the network, and who is at fault."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .charts import Mark, Row, Table, columns, spaced
from .diagnose.record import DIAGNOSIS, read_diagnosis
from .errors import UserError
from .results import NOTHING, RunSummary

_ROOM = 0.04
# A layer's number needs a twentieth of the plot's width, a decade's label a tenth of its height.
_TICK_DISTANCE, _LEVEL_DISTANCE = 0.05, 0.1
# Errors below are nothing: a decade less would press the rest together.
_LEAST = 1e-8
# What is drawn, by its key in diagnose.json; the keys are also the lines' classes.
_CURVES = {
    "error": "as the network is",
    "local": "each sub-layer's own",
    "explained": "explained by the precision",
}


@dataclass(frozen=True)
class Curve:
    """A line: its points as fractions of the plot, y from its bottom, broken where there is no
    number, and its place in the legend."""

    key: str
    label: str
    lines: list[list[tuple[float, float]]]


@dataclass(frozen=True)
class Growth:
    """Errors sub-layer by sub-layer on a logarithmic axis; x and y are fractions of the plot.

    lost: where values were NaN or infinite. faults: the places at fault.
    """

    title: str
    description: str
    curves: list[Curve]
    lost: list[Mark]
    faults: list[Mark]
    ticks: list[Mark]
    levels: list[Mark]
    numbers: Table


@dataclass(frozen=True)
class DiagnosisView:
    """One diagnosis: `tone` is fail where a place is at fault, else pass."""

    name: str
    tone: str
    verdict: str
    sentences: list[str]
    growth: Growth


def arrange_diagnoses(
    results: Path, runs: Mapping[str, RunSummary], remarks: list[str]
) -> list[DiagnosisView]:
    """All diagnoses under `results`, by folder; a damaged one is a remark.

    `runs` holds the runs there by name: a diagnosis of another engine than the run's says so.
    """
    views = []
    for path in sorted(results.rglob(DIAGNOSIS)):
        name = path.parent.relative_to(results).as_posix()
        try:
            made = read_diagnosis(path)
        except UserError as error:
            remarks.append(f"A diagnosis is not shown: {error}.")
            continue
        views.append(_view(name, made, runs.get(name)))
    return views


def _view(name: str, made: dict[str, Any], run: RunSummary | None) -> DiagnosisView:
    verdict = made["verdict"]
    place = verdict["place"]
    sentences = [*verdict["sentences"]]
    if verdict["others"]:
        sentences.append(f"At fault as well: {', '.join(verdict['others'])}.")
    if made["harm"] is not None and made["harm"]["layers"]:
        worst, value = next(iter(made["harm"]["layers"].items()))
        sentences.append(f"Most harmful: {worst}, {value:.3g} of the logits alone.")
    sentences.append(_remedy(made))
    if run is not None and run.record.get("engine") != made["engine"]:
        sentences.append("It was made with another engine than the run's; run `make diagnose`.")
    return DiagnosisView(
        name,
        "pass" if place is None else "fail",
        verdict["kind"] if place is None else f"{place}: {verdict['kind']}",
        sentences,
        growth_chart(made),
    )


def _remedy(made: dict[str, Any]) -> str:
    remedy = made["remedy"]
    if remedy is None:
        return f"No remedy was tried: {made['no_remedy']}."
    before, after, whole = (remedy[key]["f1"] for key in ("before", "after", "reference"))
    cost = remedy["qps_after"] / remedy["qps_before"] - 1 if remedy["qps_before"] else 0.0
    return (
        f"With {', '.join(remedy['places'])} from the FP32 reference: F1 {after - before:+.2f} "
        f"points to {after:.2f} (the reference has {whole:.2f}) over "
        f"{remedy['questions']} questions, "
        f"QPS {cost:+.1%} (repeats spread by {remedy['qps_spread']:.1%})."
    )


def growth_chart(made: dict[str, Any]) -> Growth:
    """The errors of a diagnosis, as diagnose.json holds it, from the first sub-layer on."""
    places: list[dict[str, Any]] = made["places"]
    values = [
        max(place[key], _LEAST) for place in places for key in _CURVES if place[key] is not None
    ]
    low, high = math.log10(min(values, default=_LEAST)), math.log10(max(values, default=1.0))
    low, high = low - _ROOM * (high - low + 1), high + _ROOM * (high - low + 1)

    def across(index: int) -> float:
        return index / (len(places) - 1) if len(places) > 1 else 0.5

    def up(value: float) -> float:
        return (math.log10(max(value, _LEAST)) - low) / (high - low)

    ends = [place["error"] for place in places if place["error"] is not None]
    return Growth(
        title="Error through the network",
        description=f"Relative error of {len(places)} sub-layers against FP32 over "
        f"{made['windows']['tokens']} tokens, logarithmic; at the logits "
        + (f"{ends[-1]:.3g}" if places[-1]["error"] is not None else "NaN or infinite"),
        curves=[
            Curve(key, label, _lines([place[key] for place in places], across, up))
            for key, label in _CURVES.items()
        ],
        lost=[
            Mark(across(i), f"{place['name']}: {100 * place['lost']:.2g} % NaN or infinite")
            for i, place in enumerate(places)
            if place["lost"]
        ],
        faults=[Mark(across(i), place["name"]) for i, place in enumerate(places)
                if place["name"] == made["verdict"]["place"]],
        ticks=spaced(_layers(places, across), _TICK_DISTANCE),
        levels=spaced(
            [
                Mark((power - low) / (high - low), f"1e{power}")
                for power in range(math.ceil(low), math.floor(high) + 1)
            ],
            _LEVEL_DISTANCE,
        ),
        numbers=Table(
            "Sub-layers in the order of execution",
            columns(
                "Sub-layer", "Error#", "Cosine#", "Local#", "Explained#", "Times explained#",
                "Largest#", "Range used#", "Saturated#",
            ),
            [_row(place) for place in places],
        ),
    )  # fmt: skip


def _lines(
    values: list[float | None], across: Callable[[int], float], up: Callable[[float], float]
) -> list[list[tuple[float, float]]]:
    lines: list[list[tuple[float, float]]] = [[]]
    for index, value in enumerate(values):
        if value is None:
            lines.append([])
        else:
            lines[-1].append((across(index), up(value)))
    return [line for line in lines if len(line) > 1]


def _layers(places: list[dict[str, Any]], across: Callable[[int], float]) -> list[Mark]:
    """A tick where a layer begins."""
    before = None
    marks = []
    for index, place in enumerate(places):
        if place["layer"] is not None and place["layer"] != before:
            marks.append(Mark(across(index), str(place["layer"])))
        before = place["layer"]
    return marks


def _row(place: dict[str, Any]) -> Row:
    used = place["used"] if place["input_used"] is None else place["input_used"]
    return Row(
        place["name"],
        [
            _number(place["error"]),
            f"{place['cosine']:.6f}",
            _number(place["local"]),
            _number(place["explained"]),
            NOTHING if place["excess"] is None else f"{place['excess']:.3g}",
            f"{place['largest']:.3g}",
            f"{used:.2g}",
            NOTHING if place["saturated"] is None else f"{place['saturated']:.2%}",
        ],
        ["at fault"] if place["at_fault"] else [],
        "fail" if place["at_fault"] else "",
    )


def _number(value: float | None) -> str:
    return "NaN/inf" if value is None else f"{value:.3g}"
