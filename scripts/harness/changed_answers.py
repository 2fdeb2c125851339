"""The questions whose answers differ between a cell's last two runs, with their passages."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import UserError
from .files import sha256_file
from .nightly import answers
from .run import read_predictions
from .scoring import exact_match
from .squad import Question

# Which answers a piece of the passage belongs to.
OLD, NEW, BOTH, NEITHER = "old", "new", "both", ""


@dataclass(frozen=True)
class Piece:
    """A stretch of the passage; `kind` is OLD, NEW, BOTH or NEITHER."""

    text: str
    kind: str


@dataclass(frozen=True)
class ChangedAnswer:
    """One question's two answers, whether each is right, and where they stand in the passage."""

    id: str
    question: str
    old: str
    new: str
    old_right: bool
    new_right: bool
    references: list[str]
    passage: list[Piece]


@dataclass(frozen=True)
class Answered:
    """A run's answers: when it finished, and the predictions file, with its hash where it was kept
    by that."""

    time: str
    predictions: Path
    sha256: str | None = None


@dataclass(frozen=True)
class ChangedAnswers:
    """What changed from one run to the next: the lost answers first, then the gained ones.

    `change` is McNemar's count of both kinds.
    """

    old_time: str
    new_time: str
    change: answers.Change
    answers: list[ChangedAnswer]


def changed_answers(
    old: Answered, new: Answered, questions: Mapping[str, Question]
) -> ChangedAnswers:
    """Compare two runs over `questions`.

    Raises UserError where a file cannot be read or the runs answer other questions.
    """
    before, after = (_predictions(run) for run in (old, new))
    if not before.keys() == after.keys() == questions.keys():
        raise UserError(f"the runs of {old.time} and {new.time} answer different questions")
    right = [
        {key: _right(questions[key], said[key]) for key in questions} for said in (before, after)
    ]
    found = [
        ChangedAnswer(
            id=key,
            question=question.text,
            old=before[key],
            new=after[key],
            old_right=right[0][key],
            new_right=right[1][key],
            references=list(dict.fromkeys(question.answers)),
            passage=_passage(question, before[key], after[key]),
        )
        for key, question in questions.items()
        if before[key] != after[key]
    ]
    found.sort(key=lambda answer: (not (answer.old_right > answer.new_right),
                                   answer.old_right == answer.new_right))  # fmt: skip
    return ChangedAnswers(old.time, new.time, answers.compare(*right), found)


def _predictions(run: Answered) -> dict[str, str]:
    if not run.predictions.is_file():
        raise UserError(f"the answers of {run.time} have not been kept")
    if run.sha256 is not None and sha256_file(run.predictions) != run.sha256:
        raise UserError(f"the answers of {run.time} have changed since they were kept")
    return read_predictions(run.predictions)


def _right(question: Question, said: str) -> bool:
    return any(exact_match(said, answer) for answer in question.answers)


def _passage(question: Question, old: str, new: str) -> list[Piece]:
    """The passage cut where either answer begins or ends."""
    spans = [_place(question, text) for text in (old, new)]
    cuts = sorted({0, len(question.context), *(edge for span in spans for edge in span)})
    pieces = []
    for start, end in itertools.pairwise(cuts):
        in_old, in_new = (first <= start and end <= last for first, last in spans)
        kind = BOTH if in_old and in_new else OLD if in_old else NEW if in_new else NEITHER
        pieces.append(Piece(question.context[start:end], kind))
    return pieces


def _place(question: Question, text: str) -> tuple[int, int]:
    """Where the answer stands: of several places that nearest to a reference answer's."""
    places = []
    start = question.context.find(text) if text else -1
    while start >= 0:
        places.append(start)
        start = question.context.find(text, start + 1)
    if not places:
        return 0, 0
    nearest = min(places, key=lambda at: min(abs(at - s) for s in question.answer_starts))
    return nearest, nearest + len(text)
