"""The report's part on the machine: what disturbed the run, and what was watched meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .charts import Row, Table, columns
from .results import NOTHING, RunSummary
from .schema import check_schema

# Keys of run.json that are shown here, and not again among the run's environment.
DISTURBANCES, SAMPLES = "disturbances", "samples"
_TEXT = {"type": "string"}
_NUMBER = {"type": "number"}
_SCHEMA = {
    "type": "object",
    "properties": {
        DISTURBANCES: {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["what", "detail", "share", "affects"],
                "properties": {
                    "what": _TEXT,
                    "detail": _TEXT,
                    "share": {"type": ["number", "null"]},
                    "affects": _TEXT,
                },
            },
        },
        SAMPLES: {
            "type": "object",
            "required": ["count", "values", "unseen"],
            "properties": {
                "count": {"type": "integer"},
                "values": {
                    "type": "object",
                    "additionalProperties": {
                        "type": "object",
                        "required": ["min", "median", "max"],
                        "properties": dict.fromkeys(("min", "median", "max"), _NUMBER),
                    },
                },
                "unseen": {"type": "array", "items": _TEXT},
            },
        },
    },
}


@dataclass(frozen=True)
class Watched:
    """`sentence` sums up; `disturbances` and `samples` are None where there are none."""

    sentence: str
    disturbances: Table | None
    samples: Table | None
    unseen: list[str]


def arrange_watch(run: RunSummary) -> Watched | None:
    """What was watched during the run; None where run.json says nothing of it.

    Raises UserError where it says it in another form.
    """
    watched = {key: run.record[key] for key in (DISTURBANCES, SAMPLES) if key in run.record}
    if not watched:
        return None
    check_schema(watched, _SCHEMA, "what run.json says of disturbances")
    found: list[dict[str, Any]] = watched.get(DISTURBANCES, [])
    samples: dict[str, Any] = watched.get(SAMPLES, {"count": 0, "values": {}, "unseen": []})
    return Watched(
        sentence=_sentence(len(found)),
        disturbances=_disturbances(found) if found else None,
        samples=_samples(samples) if samples["values"] else None,
        unseen=samples["unseen"],
    )


def _sentence(count: int) -> str:
    if not count:
        return "Nothing that was watched disturbed the run."
    return f"{count} disturbance{'s' if count > 1 else ''}; repeat the run on a quiet machine."


def _disturbances(found: list[dict[str, Any]]) -> Table:
    return Table(
        "What disturbed the run",
        columns("What", "Detail", "Share#", "First number it makes wrong"),
        [
            Row(
                entry["what"],
                [
                    entry["detail"],
                    NOTHING if entry["share"] is None else f"{entry['share']:.1%}",
                    entry["affects"],
                ],
            )
            for entry in found
        ],
    )


def _samples(samples: dict[str, Any]) -> Table:
    return Table(
        f"The machine meanwhile, in {samples['count']} samples",
        columns("Value", "Least#", "Median#", "Most#"),
        [
            Row(name, [f"{value[key]:.5g}" for key in ("min", "median", "max")])
            for name, value in samples["values"].items()
        ],
    )
