"""One night: every cell is run, judged against golden and history, re-measured if suspicious.

A night leaves one record a cell in the history: its first conclusive run, or the last attempt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..cell_history import CellHistory, cell_histories
from ..changed_answers import Answered, ChangedAnswers, changed_answers
from ..errors import CHECK_FAILED, INCONCLUSIVE, OK, UserError, one_line
from ..golden import load_golden
from ..paths import GOLDEN, ROOT
from ..provenance import utc_now
from ..run import PREDICTIONS, read_run
from ..squad import read_dataset
from ..verify import FAIL, UNCLEAR
from ..watch import disturbed
from . import comparator, history
from .chart import Tuning
from .detection import ACCEPTED, BLIND, LEARNING, QUIET, SUSPECTED, Verdict, allowed_loss
from .detection import Alarm as QpsAlarm
from .history import Changed, changes
from .matrix import Entry, Matrix
from .pairs import Pairs, PairsFailure
from .record import Record, keep, kept, record_of_run
from .stages import Outcome, Stages, run_make

ATTEMPTS = 3
# What became of a cell, the worst first.
FAILED, ALARMED, UNDECIDED, GOOD = "failed", "alarm", "inconclusive", "ok"
_CODES = {FAILED: CHECK_FAILED, ALARMED: CHECK_FAILED, UNDECIDED: INCONCLUSIVE, GOOD: OK}
STATUSES = tuple(_CODES)

Report = Callable[[str], None]


@dataclass(frozen=True)
class Place:
    """Where a series of nights is kept: the history, and beside it whatever belongs to it."""

    history: Path

    @property
    def predictions(self) -> Path:
        """The folder that holds the nights' answers, by hash."""
        return self.history.parent / "predictions"

    def log(self, name: str, what: str) -> Path:
        """Where what a cell's processes print goes; `what` is make or pairs."""
        return self.history.parent / "logs" / f"{name.replace('/', '-')}.{what}.log"


@dataclass(frozen=True)
class Alarm:
    """Why a cell alarms. kind: qps, answers or golden; text: in one line.

    since: the first run after the step, tonight's for answers and golden. candidates: the times
    of all runs that may have been it. changes: what changed in provenance there.
    """

    kind: str
    text: str
    since: Record
    candidates: tuple[str, ...]
    changes: tuple[Changed, ...]


@dataclass(frozen=True)
class Remeasured:
    """The comparison with the last good engine; `reason` says why there was none, else "".

    machine_loss: by how much (log QPS) the comparator is slower than the baseline.
    """

    reason: str = ""
    pairs: Pairs | None = None
    machine_loss: float = 0.0


@dataclass(frozen=True)
class CellNight:
    """What a night has shown of one cell; `note` is one line for the table.

    attempts: why each run was inconclusive, "" for a conclusive one. checks: verify's checks that
    did not pass. answers: None where `answers_note` says why they cannot be compared.
    """

    name: str
    status: str
    note: str
    record: Record
    attempts: tuple[str, ...]
    golden: str
    checks: tuple[Mapping[str, Any], ...]
    history: CellHistory
    remeasured: Remeasured | None
    answers: ChangedAnswers | None
    answers_note: str
    alarms: tuple[Alarm, ...] = field(default_factory=tuple)


@dataclass(frozen=True)
class Night:
    """All cells of one night; `started` and `finished` are UTC, ISO 8601 to the second."""

    matrix: Matrix
    started: str
    finished: str
    cells: tuple[CellNight, ...]

    @property
    def status(self) -> str:
        """The worst of the cells'."""
        return min((cell.status for cell in self.cells), key=STATUSES.index)

    @property
    def code(self) -> int:
        """The exit code."""
        return _CODES[self.status]


def run_night(
    matrix: Matrix, place: Place, report: Report, accept: str = "", stages: Stages = run_make
) -> Night:
    """Run and judge all cells of `matrix`; one that fails does not keep the next from running.

    `accept` is a note: with it tonight's level and answers are taken as good from now on. Raises
    UserError where the history is damaged or a golden file malformed.
    """
    started = utc_now()
    # Before any work is done: nothing can be appended to a damaged history.
    history.read(place.history)
    for entry in matrix.entries:
        load_golden(entry.cell.profile, entry.cell.precision)
    cells = []
    for position, entry in enumerate(matrix.entries, start=1):
        label = f"{position} of {len(matrix.entries)}, {entry.name}"

        def tell(text: str, label: str = label) -> None:
            report(f"{label}: {text}")

        cells.append(run_cell(entry, place, tell, accept, stages))
    return Night(matrix, started, utc_now(), tuple(cells))


def run_cell(
    entry: Entry, place: Place, report: Report, accept: str = "", stages: Stages = run_make
) -> CellNight:
    """Run one cell, judge it, and append its record."""
    outcome, record, attempts = _run(entry, place, report, stages)
    earlier = [r for r in history.read(place.history).records if r.cell == entry.cell]
    if accept and not record.reason:
        record = replace(record, verdict=Verdict(ACCEPTED, note=accept))
    judged = _judged(earlier, record)
    remeasured = None
    if record.repeats and judged.judgement.status in (SUSPECTED, BLIND):
        remeasured = _remeasured(entry, place, judged, report)
        if remeasured.pairs is not None:
            record = replace(record, verdict=remeasured.pairs.verdict)
            judged = _judged(earlier, record)
    answers, answers_note = _answers(entry, place, earlier, record)
    history.append(place.history, record)

    checks = _failing(outcome)
    alarms = _alarms(judged, checks, answers, accepted=record.verdict is not None and bool(accept))
    status = _status(outcome, record, judged, alarms)
    found = CellNight(
        name=entry.name, status=status, note="", record=record, attempts=attempts,
        golden=outcome.verdict["status"] if outcome.verdict else "", checks=checks,
        history=judged, remeasured=remeasured, answers=answers, answers_note=answers_note,
        alarms=alarms,
    )  # fmt: skip
    notes = [_note(found)]
    try:
        _keep_comparator(entry, found)
    except (UserError, OSError) as error:
        notes.append(f"no comparator could be kept: {one_line(error)}")
    return replace(found, note="; ".join(filter(None, notes)))


def _run(
    entry: Entry, place: Place, report: Report, stages: Stages
) -> tuple[Outcome, Record, tuple[str, ...]]:
    """Up to ATTEMPTS runs, as long as they are inconclusive: the last one's outcome and record."""
    attempts: list[str] = []
    while True:
        again = f", attempt {len(attempts) + 1} of {ATTEMPTS}: {attempts[-1]}" if attempts else ""
        report(f"measuring{again}")
        outcome = stages("verify", entry.variables, place.log(entry.name, "make"))
        record = _record(entry, place, outcome)
        attempts.append(record.reason)
        # Without repeats a stage has failed, and would fail again.
        if not record.reason or not record.repeats or len(attempts) == ATTEMPTS:
            return outcome, record, tuple(attempts)


def _record(entry: Entry, place: Place, outcome: Outcome) -> Record:
    if outcome.verdict is None:
        return Record(utc_now(), entry.cell, (), failure=outcome.reason or "no verdict")
    folder = entry.options.run_folder
    try:
        record = record_of_run(folder, entry.cell.machine)
        if record.cell != entry.cell:
            raise UserError(f"{folder} holds a run of another cell; delete it")
        keep(folder / PREDICTIONS, place.predictions)
        return replace(record, failure=disturbed(read_run(folder)))
    except UserError as error:
        return Record(utc_now(), entry.cell, (), failure=one_line(error))


def _judged(earlier: list[Record], record: Record) -> CellHistory:
    (judged,) = cell_histories([*earlier, record], GOLDEN)
    return judged


def _remeasured(entry: Entry, place: Place, judged: CellHistory, report: Report) -> Remeasured:
    allowed = Tuning().allowed
    if judged.qps is not None and judged.qps.limit > 0:
        allowed = allowed_loss(judged.qps.value, judged.qps.limit)
    log = place.log(entry.name, "pairs")
    try:
        pairs = comparator.remeasure(entry, judged.latest, allowed, report, log)
    except (PairsFailure, UserError) as error:
        return Remeasured(one_line(error))
    level = judged.judgement.level
    seen = sorted(pairs.comparator)[len(pairs.comparator) // 2]
    return Remeasured(pairs=pairs, machine_loss=level - seen if math.isfinite(level) else 0.0)


def _answers(
    entry: Entry, place: Place, earlier: list[Record], record: Record
) -> tuple[ChangedAnswers | None, str]:
    """What has changed since the last night that has answers, or why nobody can tell."""
    before = next((r for r in reversed(earlier) if r.predictions_sha256), None)
    if record.predictions_sha256 is None:
        return None, "there are none tonight"
    if before is None or before.predictions_sha256 is None:
        return None, "first night with answers"
    old, new = (
        Answered(r.time, kept(str(r.predictions_sha256), place.predictions), r.predictions_sha256)
        for r in (before, record)
    )
    try:
        dataset = read_dataset(ROOT / read_run(entry.options.run_folder)["dataset"]["path"])
        return changed_answers(old, new, {q.id: q for q in dataset.questions}), ""
    except UserError as error:
        return None, one_line(error)


def _failing(outcome: Outcome) -> tuple[Mapping[str, Any], ...]:
    checks = outcome.verdict["checks"] if outcome.verdict else ()
    return tuple(check for check in checks if check["status"] in (FAIL, UNCLEAR))


def _alarms(
    judged: CellHistory,
    checks: tuple[Mapping[str, Any], ...],
    answers: ChangedAnswers | None,
    *,
    accepted: bool,
) -> tuple[Alarm, ...]:
    records, latest = judged.records, judged.latest
    found = []
    alarms = judged.judgement.alarms
    if alarms and alarms[-1].night == len(records) - 1:
        found.append(_qps_alarm(records, alarms[-1]))
    tonight = tuple(_changed_at(records, len(records) - 1))
    if answers is not None and not accepted and answers.change.is_loss(judged.allowed_points):
        change = answers.change
        text = (
            f"exact_match has lost {change.points:.2f} points: {change.lost} answers lost, "
            f"{change.gained} gained (p = {change.p_worse:.2g})"
        )
        found.append(Alarm("answers", text, latest, (latest.time,), tonight))
    for check in checks:
        if check["status"] == FAIL:
            text = one_line(f"{check['name']}: {check['note']}")
            found.append(Alarm("golden", text, latest, (latest.time,), tonight))
    return tuple(found)


def _qps_alarm(records: tuple[Record, ...], alarm: QpsAlarm) -> Alarm:
    first = records[alarm.first]
    changed = _changed_at(records, alarm.first)
    if not changed:
        # The step may have been at another of the likely runs, and there something is known.
        changed = [c for index in alarm.candidates for c in _changed_at(records, index)]
    text = f"QPS has fallen by {alarm.percent:.1f} % since the run of {first.time}"
    times = tuple(records[index].time for index in alarm.candidates)
    return Alarm("qps", text, first, times, tuple(changed))


def _changed_at(records: tuple[Record, ...], index: int) -> list[Changed]:
    """What differs in provenance from the last earlier record that has any."""
    if not records[index].provenance:
        return []
    before = next((r for r in reversed(records[:index]) if r.provenance), None)
    return [] if before is None else changes(before, records[index])


def _status(
    outcome: Outcome, record: Record, judged: CellHistory, alarms: tuple[Alarm, ...]
) -> str:
    if outcome.verdict is None or not record.repeats:
        return FAILED
    if alarms:
        return ALARMED
    if record.reason or outcome.verdict["status"] == UNCLEAR or judged.judgement.status == BLIND:
        return UNDECIDED
    return GOOD


def _keep_comparator(entry: Entry, found: CellNight) -> None:
    """The comparator goes with its baseline, and comes with the first good night of the next."""
    judgement, index = found.history.judgement, len(found.history.records) - 1
    verdict = found.record.verdict
    renewed = (
        any(alarm.kind == "qps" for alarm in found.alarms)
        or (judgement.gains and judgement.gains[-1] == index)
        or (verdict is not None and verdict.outcome == ACCEPTED)
    )
    if renewed:
        comparator.drop(entry)
    if found.status == GOOD and judgement.status in (QUIET, LEARNING):
        comparator.keep(entry, found.record)


def _note(found: CellNight) -> str:
    """The one thing to know about the cell."""
    if found.status == FAILED:
        return found.record.reason
    if found.alarms:
        return "; ".join(alarm.text for alarm in found.alarms)
    parts = []
    if found.record.reason:
        parts.append(f"{len(found.attempts)} attempts, the last: {found.record.reason}")
    elif found.status == UNDECIDED and found.checks:
        parts.append(one_line(f"{found.checks[0]['name']}: {found.checks[0]['note']}"))
    status = found.history.judgement.status
    remeasured = found.remeasured
    if remeasured is not None and remeasured.pairs is not None:
        pairs = remeasured.pairs
        parts.append(
            f"re-measured, {len(pairs.tonight)} pairs: {pairs.verdict.outcome}, loss "
            f"{-100 * math.expm1(-pairs.verdict.loss):.1f} %"
        )
        if remeasured.machine_loss > Tuning().allowed:
            percent = -100 * math.expm1(-remeasured.machine_loss)
            parts.append(f"the comparator is slower by {percent:.1f} % too: it is the machine")
    elif remeasured is not None:
        parts.append(f"{status}, not re-measured: {remeasured.reason}")
    elif status not in (QUIET, LEARNING):
        parts.append(status)
    if found.record.verdict is not None and found.record.verdict.outcome == ACCEPTED:
        parts.append(f"accepted: {found.record.verdict.note}")
    return "; ".join(parts)
