"""Exact match and F1 as the official SQuAD v1.1 scorer defines them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .squad import Question

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True)
class Score:
    """Means over all questions, in per cent."""

    exact_match: float
    f1: float


def normalize(text: str) -> str:
    """Lower case without ASCII punctuation and articles, single spaces between words.

    The order matters and is the official one: lower case, punctuation, articles, spaces.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answer: str) -> bool:
    """Whether both texts are equal once normalized."""
    return normalize(prediction) == normalize(answer)


def f1(prediction: str, answer: str) -> float:
    """Harmonic mean of precision and recall over normalized words, in 0..1.

    Two texts without a common word score 0, also when both are empty, as in the official
    scorer for v1.1.
    """
    predicted, expected = normalize(prediction).split(), normalize(answer).split()
    common = sum((Counter(predicted) & Counter(expected)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(predicted), common / len(expected)
    return 2 * precision * recall / (precision + recall)


def score(questions: Iterable[Question], predictions: Mapping[str, str]) -> Score:
    """Score `predictions` (question id to answer text) over `questions`.

    Each question counts its best reference answer; one without a prediction counts 0.
    """
    total, matches, overlap = 0, 0, 0.0
    for question in questions:
        total += 1
        prediction = predictions.get(question.id)
        if prediction is None:
            continue
        matches += any(exact_match(prediction, answer) for answer in question.answers)
        overlap += max(f1(prediction, answer) for answer in question.answers)
    if total == 0:
        raise ValueError("no questions to score")
    return Score(100.0 * matches / total, 100.0 * overlap / total)
