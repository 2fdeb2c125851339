"""The report's part on nights: each cell's state, its trends and steps, and what changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .cell_history import CellHistory, cell_histories
from .charts import Column, Row, Table, columns
from .files import read_json
from .golden import Promise
from .nightly import history
from .nightly.detection import ALARM, BLIND, LEARNING, QUIET, SUSPECTED, WAITING, Alarm
from .nightly.record import CONCLUSIVE, Record
from .paths import shown
from .results import NOTHING
from .schema import check_schema
from .trend_chart import GOOD, NONE, UNCLEAR, Level, Sample, Trend, seconds, trend_chart

# The folder under results that the nights keep for themselves, and what is in it: the history, the
# answers of each night by their hash, and the last night in words.
NIGHTLY = "nightly"
HISTORY = "history.jsonl"
PREDICTIONS = "predictions"
_LATEST = "latest.json"
_TEXT = {"type": "string"}
_LATEST_SCHEMA = {
    "type": "object",
    "required": ["summary", "skipped"],
    "properties": {
        "summary": _TEXT,
        "skipped": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "reason"],
                "properties": {"name": _TEXT, "reason": _TEXT},
            },
        },
    },
}
# As many nights are drawn; all are judged.
SHOWN_NIGHTS = 120
_SHOWN_CHANGES = 30
_MOST_CHANGES_A_STEP = 12
# What the vertical axis spans at least: a share of QPS, points of F1.
_QPS_SPAN = 0.04
_F1_SPAN = 0.5
# How urgent: the order of the cells, and each one's symbol and tone. A symbol stands beside the
# word so that a state never depends on its colour; the tone is a check's.
_BAD, _DOUBTFUL, _FINE, _YOUNG = range(4)
_LOOK = {
    _BAD: ("✗", "fail"),
    _DOUBTFUL: ("?", "inconclusive"),
    _FINE: ("✓", "pass"),
    _YOUNG: ("–", "unpromised"),
}
# What detection says, in words.
_JUDGEMENTS = {
    ALARM: (_BAD, "QPS has dropped"),
    SUSPECTED: (_DOUBTFUL, "QPS looks lower; a re-measurement decides"),
    WAITING: (_DOUBTFUL, "QPS looked lower; the next nights decide"),
    BLIND: (_DOUBTFUL, "too many nights in a row were inconclusive"),
    QUIET: (_FINE, "no loss of QPS that matters in the last night"),
    LEARNING: (_YOUNG, "not enough nights for a baseline"),
}


@dataclass(frozen=True)
class CellState:
    """How a cell is after its last night: a word, and a sentence that says why."""

    urgency: int
    word: str
    sentence: str

    @property
    def text(self) -> str:
        """The word with its symbol."""
        return f"{_LOOK[self.urgency][0]} {self.word}"

    @property
    def tone(self) -> str:
        """The class that colours it."""
        return _LOOK[self.urgency][1]


@dataclass(frozen=True)
class CellView:
    """A cell's charts, None where no night gave a value, and its steps, None where none are."""

    name: str
    state: str
    tone: str
    sentence: str
    qps: Trend | None
    f1: Trend | None
    steps: Table | None


@dataclass(frozen=True)
class Nights:
    """All cells; `environment` is None where it never changed.

    summary: the last night in a paragraph, "" where it has left none. notes: cells that it has
    skipped, and torn lines of the history.
    """

    summary: str
    overview: Table
    cells: list[CellView]
    environment: Table | None
    notes: list[str]


def read_cells(path: Path, golden: Path) -> tuple[list[CellHistory], list[str]]:
    """The cells of the history in `path`, none where there is no history yet, and its notes.

    Raises UserError where the history or a golden file is damaged.
    """
    found = history.read(path)
    return cell_histories(found.records, golden), [f"History: {note}." for note in found.notes]


def read_latest(folder: Path) -> tuple[str, list[str]]:
    """What the last night has left in `folder` in words: a paragraph, and the cells it skipped.

    Raises UserError where it is malformed.
    """
    path = folder / _LATEST
    if not path.is_file():
        return "", []
    latest = read_json(path, "last night")
    check_schema(latest, _LATEST_SCHEMA, shown(path))
    skipped = [f"Skipped: {cell['name']}: {cell['reason']}." for cell in latest["skipped"]]
    return latest["summary"], skipped


def arrange_nights(cells: list[CellHistory], summary: str, notes: list[str]) -> Nights | None:
    """`cells` ready to lay out, those that want attention first; None where there are none."""
    if not cells:
        return None
    ordered = sorted(cells, key=lambda cell: cell_state(cell).urgency)
    headings = columns(
        "QPS#", "Baseline#", "Against baseline#", "F1#", "Nights#", "Last night", "Last step"
    )
    return Nights(
        summary=summary,
        overview=Table(
            "Each cell after its last night",
            [Column("Cell"), Column("State", "status"), *headings],
            [_overview_row(cell) for cell in ordered],
        ),
        cells=[_cell_view(cell) for cell in ordered],
        environment=_environment(cells),
        notes=notes,
    )


def cell_state(cell: CellHistory) -> CellState:
    """What there is to say of the cell's last night, the worst alone."""
    latest, status = cell.latest, cell.judgement.status
    urgency, sentence = _JUDGEMENTS[status]
    if latest.median is None:
        return CellState(_BAD, "no result", latest.reason)
    if urgency == _BAD:
        return CellState(urgency, status, sentence)
    if latest.f1 is not None and cell.f1 is not None and latest.f1 < cell.f1.limit:
        return CellState(_BAD, "F1 low", f"F1 is under golden's limit {cell.f1.limit:.6g}")
    if not latest.reason and cell.qps is not None and latest.median < cell.qps.limit:
        return CellState(_BAD, "QPS low", f"QPS is under golden's limit {cell.qps.limit:.6g}")
    if latest.reason and urgency != _DOUBTFUL:
        return CellState(_DOUBTFUL, "inconclusive", latest.reason)
    return CellState(urgency, status, sentence)


def _overview_row(cell: CellHistory) -> Row:
    latest, baseline, state = cell.latest, cell.baseline, cell_state(cell)
    qps = latest.median
    against = (
        NOTHING
        if qps is None or baseline is None
        else f"{qps / baseline - 1:+.1%}".replace("-", "−")
    )
    return Row(
        cell.name,
        [
            state.text,
            _number(qps),
            _number(baseline),
            against,
            _number(latest.f1),
            str(len(cell.records)),
            _time(latest.time),
            _last_step(cell) or NOTHING,
        ],
        [latest.reason] if latest.reason else [],
        state.tone,
    )


def _last_step(cell: CellHistory) -> str:
    """The latest step down in words, "" without one."""
    if not cell.judgement.alarms:
        return ""
    alarm = cell.judgement.alarms[-1]
    return f"−{alarm.percent:.1f}% since {_day(cell.records[alarm.first])}"


def _cell_view(cell: CellHistory) -> CellView:
    state = cell_state(cell)
    return CellView(
        name=cell.name,
        state=state.text,
        tone=state.tone,
        sentence="; ".join(filter(None, (state.sentence, _last_step(cell)))),
        qps=_qps_trend(cell),
        f1=_f1_trend(cell),
        steps=_steps_table(cell),
    )


def _qps_trend(cell: CellHistory) -> Trend | None:
    records = cell.records[-SHOWN_NIGHTS:]
    samples = [
        Sample(
            time=seconds(record.time),
            value=record.median,
            kind=NONE if record.median is None else UNCLEAR if record.reason else GOOD,
            label=_qps_label(record),
            low=min(record.repeats, default=None),
            high=max(record.repeats, default=None),
        )
        for record in records
    ]
    middles = [record.median for record in records if record.median is not None]
    steps = [
        (seconds(cell.records[alarm.first].time), f"−{alarm.percent:.1f}%")
        for alarm in cell.judgement.alarms
    ]
    return trend_chart(
        "QPS",
        _qps_description(cell, records),
        samples,
        cell.qps,
        _levels(cell),
        steps,
        _QPS_SPAN * max(middles, default=0.0),
        Table(
            f"QPS by night: {cell.name}",
            columns("Night", "QPS#", "Spread of repeats#", "Verdict"),
            [
                Row(
                    _time(record.time),
                    [
                        _number(record.median),
                        NOTHING if record.spread is None else f"{record.spread:.1%}",
                        _verdict(record),
                    ],
                )
                for record in records
            ],
        ),
    )


def _verdict(record: Record) -> str:
    """Conclusive or why not, and what a re-measurement or a person has made of it."""
    words = record.reason or record.status
    if record.verdict is not None:
        words += f"; {record.verdict.outcome}"
        words += f": {record.verdict.note}" if record.verdict.note else ""
    return words


def _qps_label(record: Record) -> str:
    speed = "no result" if record.median is None else f"{record.median:.2f} QPS"
    return f"{_time(record.time)}: {speed}" + (f" ({record.reason})" if record.reason else "")


def _qps_description(cell: CellHistory, records: Sequence[Record]) -> str:
    parts = [_extent(records)]
    if cell.latest.median is not None:
        parts.append(f"the last at {cell.latest.median:.2f} QPS")
    if cell.baseline is not None:
        parts.append(f"baseline {cell.baseline:.2f}")
    parts.append(_promise(cell.qps))
    unclear = sum(record.status != CONCLUSIVE for record in records)
    if unclear:
        parts.append(f"{unclear} inconclusive")
    parts += [
        f"a step of −{alarm.percent:.1f}% on {_day(cell.records[alarm.first])}"
        for alarm in cell.judgement.alarms
    ]
    return "; ".join(parts)


def _f1_trend(cell: CellHistory) -> Trend | None:
    records = cell.records[-SHOWN_NIGHTS:]
    moved = _moved(records)
    samples = [
        Sample(
            time=seconds(record.time),
            value=record.f1,
            kind=NONE if record.f1 is None else GOOD,
            label=f"{_time(record.time)}: "
            + ("no result" if record.f1 is None else f"F1 {record.f1:.2f}"),
        )
        for record in records
    ]
    parts = [_extent(records)]
    if cell.latest.f1 is not None:
        parts.append(f"the last at {cell.latest.f1:.2f}")
    parts.append(_promise(cell.f1))
    parts.append(f"answers changed in {sum(moved)} of them" if any(moved) else "no answer changed")
    return trend_chart(
        "F1",
        "; ".join(parts),
        samples,
        cell.f1,
        [],
        [],
        _F1_SPAN,
        Table(
            f"F1 by night: {cell.name}",
            columns("Night", "F1#", "EM#", "Answers"),
            [
                Row(
                    _time(record.time),
                    [
                        _number(record.f1),
                        _number(record.exact_match),
                        "changed" if changed else NOTHING,
                    ],
                )
                for record, changed in zip(records, moved, strict=True)
            ],
        ),
    )


def _moved(records: Sequence[Record]) -> list[bool]:
    """Whether each night's answers differ from those of the last night that has any."""
    found, before = [], None
    for record in records:
        now = record.predictions_sha256
        found.append(None not in (before, now) and before != now)
        before = now or before
    return found


def _levels(cell: CellHistory) -> list[Level]:
    """The baselines back in time: an alarm has moved it down by its loss; what was before a gain
    is not kept."""
    if cell.baseline is None:
        return []
    judged, times = cell.judgement, [seconds(record.time) for record in cell.records]
    level, end = judged.level, times[-1]
    levels = []
    events: list[tuple[int, Alarm | None]] = [(alarm.night, alarm) for alarm in judged.alarms]
    events += [(night, None) for night in judged.gains]
    for night, alarm in sorted(events, key=lambda event: event[0], reverse=True):
        start = times[night if alarm is None else alarm.first]
        levels.append(Level(start, end, math.exp(level)))
        if alarm is None:
            return levels
        level, end = level + alarm.loss, start
    return [*levels, Level(times[0], end, math.exp(level))]


def _steps_table(cell: CellHistory) -> Table | None:
    alarms = cell.judgement.alarms
    if not alarms:
        return None
    return Table(
        f"Steps down: {cell.name}",
        columns("First night", "Loss#", "Confirmed", "May have been", "What changed there"),
        [
            Row(
                _day(cell.records[alarm.first]),
                [
                    f"{alarm.percent:.1f}%",
                    _day(cell.records[alarm.night]),
                    ", ".join(_day(cell.records[index]) for index in alarm.candidates),
                    _what_changed(cell, alarm),
                ],
            )
            for alarm in reversed(alarms)
        ],
    )


def _what_changed(cell: CellHistory, alarm: Alarm) -> str:
    found = dict.fromkeys(
        str(change) for index in alarm.candidates for change in cell.changed_at(index)
    )
    shown = list(found)[:_MOST_CHANGES_A_STEP]
    if len(found) > len(shown):
        shown.append(f"{len(found) - len(shown)} more")
    return "; ".join(shown) or "nothing that is recorded"


def _environment(cells: list[CellHistory]) -> Table | None:
    """The latest changes of what could have changed speed or answers, alike ones of a day once."""
    found: dict[tuple[str, str], set[str]] = {}
    for cell in cells:
        for index in range(1, len(cell.records)):
            for change in cell.changed_at(index):
                key = (_day(cell.records[index]), str(change))
                found.setdefault(key, set()).add(cell.name)
    if not found:
        return None
    latest = sorted(found, key=lambda key: key[0], reverse=True)[:_SHOWN_CHANGES]
    return Table(
        "What changed from night to night, the latest first"
        + (
            f" ({len(found) - len(latest)} older are not shown)" if len(found) > len(latest) else ""
        ),
        columns("Night", "Change", "Cells"),
        [
            Row(
                day,
                [
                    change,
                    f"all {len(cells)}"
                    if len(found[day, change]) == len(cells) > 1
                    else "; ".join(sorted(found[day, change])),
                ],
            )
            for day, change in latest
        ],
    )


def _extent(records: Sequence[Record]) -> str:
    if len(records) == 1:
        return f"one night, {_day(records[0])}"
    return f"{len(records)} nights, {_day(records[0])} to {_day(records[-1])}"


def _promise(promise: Promise | None) -> str:
    if promise is None:
        return "golden promises nothing here"
    return f"golden promises {promise.value:.6g}, at least {promise.limit:.6g}"


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def _time(time: str) -> str:
    return time.replace("T", " ").replace("Z", " UTC")


def _day(record: Record) -> str:
    return record.time[:10]
