"""A night where people and programs look: a table, a paragraph, and latest.json."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ..errors import one_line
from ..files import to_json, write_atomic
from .detection import LEARNING
from .history import Changed
from .night import ALARMED, FAILED, GOOD, STATUSES, UNDECIDED, Alarm, CellNight, Night, Place

LATEST = "latest.json"
SUMMARY = "summary.txt"
# The shape of latest.json; docs/nightly.md describes it.
VERSION = 1
# As many changes and answers are told in words; latest.json has all of them.
_MOST_TOLD = 3
_MOST_LISTED = 10
_STYLE = {GOOD: "green", ALARMED: "bold red", FAILED: "bold red", UNDECIDED: "bold yellow"}
# What a reader acts upon first: what is around the program, then the program, then what follows.
_ORDER = ("environment.numeric_variables.", "environment.cpus", "device.", "environment.", "git.")


def write(night: Night, place: Place) -> None:
    """Write latest.json and summary.txt beside the history."""
    folder = place.history.parent
    write_atomic(folder / LATEST, to_json(as_json(night)))
    write_atomic(folder / SUMMARY, paragraph(night) + "\n")


def show(night: Night) -> None:
    """Print a table that fits 100 columns, what has changed, and the paragraph."""
    console = Console(highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("cell")
    for column in ("QPS", "spread", "level", "change", "EM", "F1"):
        table.add_column(column, justify="right")
    table.add_column("status")
    for cell in night.cells:
        record, level = cell.record, cell.history.baseline
        table.add_row(
            cell.name,
            _number(record.median), _percent(record.spread, sign=False), _number(level),
            _percent(_change(cell)), _number(record.exact_match), _number(record.f1),
            f"[{_STYLE[cell.status]}]{cell.status}[/]",
        )  # fmt: skip
    console.print(table)

    def tell(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)

    for skipped in night.matrix.skipped:
        tell(f"skipped: {skipped.name}: {one_line(skipped.reason)}")
    for cell in night.cells:
        if cell.note:
            tell(f"{cell.status}: {cell.name}: {cell.note}")
        for alarm in cell.alarms:
            if alarm.changes:
                tell(f"  changed at the run of {alarm.since.time}:")
                for change in ordered(alarm.changes):
                    tell(f"    {one_line(change)}")
        changed = cell.answers.answers if cell.answers else []
        for answer in changed[:_MOST_LISTED]:
            said = f"{answer.old!r} ({_right(answer.old_right)}) → "
            said += f"{answer.new!r} ({_right(answer.new_right)})"
            tell(one_line(f"  {answer.id} {answer.question} {said}"))
        if len(changed) > _MOST_LISTED:
            tell(f"  … and {len(changed) - _MOST_LISTED} more changed answers in {LATEST}")
    tell(paragraph(night))


def paragraph(night: Night) -> str:
    """The night in one paragraph, fit for a chat message."""
    counts = [(state, sum(c.status == state for c in night.cells)) for state in reversed(STATUSES)]
    told = ", ".join(f"{count} {state}" for state, count in counts if count)
    cells = "1 cell" if len(night.cells) == 1 else f"{len(night.cells)} cells"
    first = f"Nightly {night.finished} on {night.matrix.machine}: {night.status}; {cells}, {told}."
    return one_line(" ".join([first, *filter(None, map(_sentence, night.cells))]))


def as_json(night: Night) -> dict[str, Any]:
    """The night as latest.json holds it."""
    return {
        "version": VERSION,
        "machine": night.matrix.machine,
        "started": night.started,
        "finished": night.finished,
        "status": night.status,
        "exit_code": night.code,
        "summary": paragraph(night),
        "skipped": [asdict(skipped) for skipped in night.matrix.skipped],
        "cells": [_cell_json(cell) for cell in night.cells],
    }


def ordered(changed: Iterable[Changed]) -> list[Changed]:
    """Changes of provenance, those that a reader acts upon first."""

    def rank(change: Changed) -> int:
        return next((i for i, start in enumerate(_ORDER) if change.path.startswith(start)), 99)

    return sorted(changed, key=rank)


def _sentence(cell: CellNight) -> str:
    if cell.status == GOOD and not cell.note:
        record = cell.record
        level = "" if cell.history.judgement.status != LEARNING else ", no baseline yet"
        return f"{cell.name}: QPS {_number(record.median)}{level}, F1 {_number(record.f1)}."
    cause = ""
    for alarm in cell.alarms:
        told = ordered(alarm.changes)
        if told:
            words = "; ".join(map(_short, told[:_MOST_TOLD]))
            more = f" and {len(told) - _MOST_TOLD} more" if len(told) > _MOST_TOLD else ""
            cause = f" Changed there: {words}{more}."
        elif not cause:
            cause = " Nothing that is recorded changed there."
    answers = cell.answers.answers if cell.answers else []
    flipped = f" {len(answers)} answers changed." if answers else ""
    return f"{cell.name}: {cell.status}, {cell.note}.{cause}{flipped}"


def _cell_json(cell: CellNight) -> dict[str, Any]:
    judgement, record = cell.history.judgement, cell.record
    remeasured: dict[str, Any] | None = None
    if cell.remeasured is not None:
        pairs = cell.remeasured.pairs
        remeasured = {
            "outcome": pairs.verdict.outcome if pairs else None,
            "reason": cell.remeasured.reason,
            "loss": pairs.verdict.loss if pairs else None,
            "comparator": list(pairs.comparator) if pairs else [],
            "tonight": list(pairs.tonight) if pairs else [],
            "machine_loss": cell.remeasured.machine_loss if pairs else None,
        }
    answers: dict[str, Any] = {"reason": cell.answers_note, "compared_with": None, "changed": []}
    if cell.answers is not None:
        change = cell.answers.change
        answers = {
            "reason": "",
            "compared_with": cell.answers.old_time,
            "questions": change.questions,
            "lost": change.lost,
            "gained": change.gained,
            "points": change.points,
            "p_worse": change.p_worse,
            "changed": [
                {
                    "id": a.id, "question": a.question, "old": a.old, "new": a.new,
                    "old_right": a.old_right, "new_right": a.new_right,
                    "references": a.references,
                }
                for a in cell.answers.answers
            ],
        }  # fmt: skip
    return {
        "name": cell.name,
        "status": cell.status,
        "note": cell.note,
        "record": record.as_json(),
        "attempts": list(cell.attempts),
        "qps": {
            "median": record.median,
            "spread": record.spread,
            "level": cell.history.baseline,
            "change": _change(cell),
            "sigma": judgement.scale if math.isfinite(judgement.scale) else None,
            "judgement": judgement.status,
            "promised": cell.history.qps.value if cell.history.qps else None,
            "limit": cell.history.qps.limit if cell.history.qps else None,
        },
        "golden": {"status": cell.golden or None, "checks": [dict(c) for c in cell.checks]},
        "remeasured": remeasured,
        "answers": answers,
        "alarms": [_alarm_json(alarm) for alarm in cell.alarms],
    }


def _alarm_json(alarm: Alarm) -> dict[str, Any]:
    git = alarm.since.provenance.get("git")
    return {
        "kind": alarm.kind,
        "text": alarm.text,
        "since": alarm.since.time,
        "commit": git.get("commit") if isinstance(git, dict) else None,
        "candidates": list(alarm.candidates),
        "changes": [asdict(change) for change in ordered(alarm.changes)],
    }


def _change(cell: CellNight) -> float | None:
    """Tonight's QPS over the baseline's, less 1; None where there is not both."""
    level, median = cell.history.baseline, cell.record.median
    return None if level is None or median is None else median / level - 1


def _short(change: Changed) -> str:
    """A change in few words: of a hash its first digits."""
    return " ".join(
        word[:12] if len(word) in (40, 64) and word.isalnum() else word
        for word in str(change).split(" ")
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _percent(value: float | None, *, sign: bool = True) -> str:
    return "–" if value is None else f"{value:+.1%}" if sign else f"{value:.1%}"


def _right(right: bool) -> str:
    return "right" if right else "wrong"
