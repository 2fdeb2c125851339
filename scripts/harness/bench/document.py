"""bench.json: what the comparisons have shown, from which the table and the chart are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from .interleave import Lane, Outcome
from .model import Model
from .work import Task


def comparison(title: str, model: Model, task: Task, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """One comparison as JSON; rates in `unit` a second, times in seconds, scores in per cent."""
    return {
        "title": title,
        "model": {
            "profile": model.profile,
            "trained": model.trained,
            "architecture": asdict(model.architecture),
        },
        "unit": task.unit,
        "count": task.count,
        "systems": [_system(outcome) for outcome in outcomes],
    }


def failures(document: dict[str, Any]) -> list[str]:
    """A line for each system that has failed: where, which, why."""
    return [
        f"{part['title']}: {system['title']} failed: {system['failure']}"
        for part in document["comparisons"]
        for system in part["systems"]
        if system["failure"] is not None
    ]


def _system(outcome: Outcome) -> dict[str, Any]:
    named = {
        "key": outcome.key,
        "title": outcome.title,
        "ours": outcome.ours,
        "failure": outcome.failure,
    }
    if outcome.failure is not None:
        return named
    best, score = outcome.best, outcome.score
    return {
        **named,
        "batch": best.batch,
        "rate": best.median,
        "spread": best.spread,
        "exact_match": None if score is None else score.exact_match,
        "f1": None if score is None else score.f1,
        "difference": outcome.difference,
        "idle_cpu_seconds": outcome.idle_cpu_seconds,
        "memory_mib": outcome.memory_mib,
        "lanes": [_lane(lane) for lane in outcome.lanes],
    }


def _lane(lane: Lane) -> dict[str, Any]:
    return {
        "batch": lane.batch,
        "shapes": lane.shapes,
        "seconds": lane.seconds,
        "rates": lane.rates,
        "median": lane.median,
        "spread": lane.spread,
    }
