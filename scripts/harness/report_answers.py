"""The report's part on answers: which have changed since each cell's last run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cell_history import CellHistory
from .changed_answers import Answered, ChangedAnswer, ChangedAnswers, changed_answers
from .errors import UserError
from .nightly.record import Record, kept
from .results import RunSummary, read_questions
from .run import PREDICTIONS
from .squad import Question

# As many questions a cell are shown with their passages.
SHOWN_ANSWERS = 25


@dataclass(frozen=True)
class AnswersView:
    """A cell's changed answers; `hidden` are more than are shown, `lost` a loss that matters."""

    name: str
    sentence: str
    answers: list[ChangedAnswer]
    hidden: int
    lost: bool


def arrange_answers(
    cells: Sequence[CellHistory],
    runs: Mapping[str, RunSummary],
    newest: RunSummary | None,
    store: Path,
    root: Path,
    remarks: list[str],
) -> list[AnswersView]:
    """Compare each cell's last two runs by the answers in `store`; what cannot be is a remark.

    `newest` is a run that the history may not hold yet. Questions come from any run's dataset.
    """
    datasets: dict[str, Mapping[str, Question]] = {}
    views = []
    for cell in cells:
        pair = _last_two(cell, newest, store)
        if pair is None:
            continue
        old, new, dataset = pair
        try:
            if dataset not in datasets:
                datasets[dataset] = _questions(runs, dataset, root)
            found = changed_answers(old, new, datasets[dataset])
        except UserError as error:
            remarks.append(f"Changed answers of {cell.name} are not shown: {error}.")
            continue
        views.append(_view(cell, found))
    return views


def _last_two(
    cell: CellHistory, newest: RunSummary | None, store: Path
) -> tuple[Answered, Answered, str] | None:
    """The last two runs and the hash of the later one's dataset; None where nothing differs, or
    the last has no answers."""
    runs = [
        (
            record.predictions_sha256,
            _dataset(record),
            Answered(
                record.time, kept(record.predictions_sha256, store), record.predictions_sha256
            ),
        )
        for record in cell.records
        if record.predictions_sha256 is not None
    ]
    if newest is not None and _is_later(newest, cell):
        answers = Answered(newest.record["finished"], newest.folder / PREDICTIONS)
        sha256 = newest.record["files"][PREDICTIONS]
        runs.append((sha256, newest.record["dataset"]["sha256"], answers))
    elif cell.latest.predictions_sha256 is None:
        return None
    if len(runs) < 2:
        return None
    (old_hash, _, old), (new_hash, dataset, new) = runs[-2:]
    return None if old_hash == new_hash else (old, new, dataset)


def _is_later(run: RunSummary, cell: CellHistory) -> bool:
    """Whether `run` is one of the cell's that finished after all in its history."""
    options, names = run.record["options"], ("profile", "backend", "precision", "batch")
    return (
        all(options[name] == getattr(cell.cell, name) for name in names)
        and options["limit"] is None
        and options["dataset"] is None
        and run.record["device"]["name"] == cell.device
        and run.record["finished"] > cell.latest.time
    )


def _dataset(record: Record) -> str:
    dataset: Any = record.provenance.get("dataset")
    return str(dataset.get("sha256")) if isinstance(dataset, dict) else ""


def _questions(runs: Mapping[str, RunSummary], dataset: str, root: Path) -> Mapping[str, Question]:
    for run in runs.values():
        if run.record["dataset"]["sha256"] == dataset and run.record["options"]["limit"] is None:
            return read_questions(run, root)
    raise UserError("no run here was made over their dataset")


def _view(cell: CellHistory, found: ChangedAnswers) -> AnswersView:
    change = found.change
    lost = change.is_loss(cell.allowed_points)
    sentence = (
        f"{len(found.answers)} of {change.questions} answers changed from "
        f"{_time(found.old_time)} to {_time(found.new_time)}: {change.lost} lost, "
        f"{change.gained} gained, {len(found.answers) - change.lost - change.gained} right or "
        f"wrong as before (McNemar's test for a loss: p = {change.p_worse:.2g})"
    )
    shown = found.answers[:SHOWN_ANSWERS]
    return AnswersView(cell.name, sentence, shown, len(found.answers) - len(shown), lost)


def _time(time: str) -> str:
    return time.replace("T", " ").replace("Z", " UTC")
