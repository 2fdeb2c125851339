"""Exact match and F1 against the official scorer's definition, written again."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import oracles
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.scoring import exact_match, f1, normalize, score
from harness.squad import Question, read_dataset

SQUAD = Path(__file__).parents[2] / "shared" / "squad" / "dev-v1.1.pages.json.gz"
WORDS = st.sampled_from(
    ["a", "an", "the", "The", "A-", "cat", "Cat's", "cats", "1,000", "über", "東京", "x_a", "—", ""]
)
# Words that meet often, and any characters at all.
TEXTS = st.lists(WORDS, max_size=8).map(" ".join) | st.text(max_size=30)


def question(key: str, *answers: str) -> Question:
    return Question(key, "?", "context", answers, (0,) * len(answers))


@settings(deadline=None, max_examples=400)
@given(TEXTS)
@example("The cat. The an a! theatre")
@example("an\u0301 a\u200bcat the—end a²b _a_ ªa")
def test_normalization_is_the_official_one(text: str) -> None:
    assert normalize(text) == oracles.normalize(text)


@settings(deadline=None, max_examples=300)
@given(TEXTS, TEXTS)
def test_f1_is_the_official_one(prediction: str, answer: str) -> None:
    assert f1(prediction, answer) == pytest.approx(oracles.f1(prediction, answer), abs=1e-12)
    assert exact_match(prediction, answer) == (
        oracles.normalize(prediction) == oracles.normalize(answer)
    )


@settings(deadline=None, max_examples=100)
@given(
    st.dictionaries(
        st.text(max_size=3),
        st.tuples(st.lists(TEXTS, min_size=1, max_size=3), TEXTS | st.none()),
        min_size=1,
        max_size=8,
    )
)
def test_score_is_the_official_one(cases: dict[str, tuple[list[str], str | None]]) -> None:
    answers = {key: references for key, (references, _) in cases.items()}
    predictions = {key: text for key, (_, text) in cases.items() if text is not None}
    result = score([question(key, *refs) for key, refs in answers.items()], predictions)
    expected = oracles.score(answers, predictions)
    assert (result.exact_match, result.f1) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  The  Cat's\tan end. ", "cats end"),
        # Punctuation goes before the articles: "a-" is one, "the_end" is none.
        ("A- theatre the_end", "theatre theend"),
        # Only ASCII punctuation goes.
        ("“the” end—", "“ ” end—"),
        ("U.S.", "us"),
        ("The a an", ""),
    ],
)
def test_normalization_by_hand(text: str, expected: str) -> None:
    assert normalize(text) == expected


def test_f1_by_hand() -> None:
    # Three words predicted, two expected, two in common: P = 2/3, R = 1.
    assert f1("big black cat", "the black cat") == pytest.approx(0.8)
    # A word counts as often as both have it: P = 1/3, R = 1/1.
    assert f1("cat cat cat", "cat") == pytest.approx(0.5)
    assert f1("cat", "dog") == 0


def test_two_empty_texts_match_exactly_and_share_no_word() -> None:
    assert exact_match("the", "")
    assert f1("the", "") == 0


def test_best_reference_counts_and_a_missing_prediction_counts_nothing() -> None:
    questions = [
        question("one", "dog", "black cat"),
        question("two", "dog", "cat"),
        question("three", "dog"),
        question("four", "dog"),
    ]
    predictions = {"one": "cat", "two": "The cat!", "three": "mouse", "other": "dog"}
    result = score(questions, predictions)
    assert result.exact_match == pytest.approx(25)
    assert result.f1 == pytest.approx(100 * (2 / 3 + 1) / 4)


def test_no_questions_is_an_error() -> None:
    with pytest.raises(ValueError, match="no questions"):
        score([], {})


@pytest.mark.full
def test_squad_dev_scores_as_the_official_scorer_does() -> None:
    questions = read_dataset(SQUAD).questions
    answers = {q.id: q.answers for q in questions}
    assert score(questions, {q.id: q.answers[0] for q in questions}).exact_match == 100
    # Answers of all qualities: right, cut short, too long, of another question, missing.
    predictions = {}
    for index, (asked, other) in enumerate(pairwise(questions)):
        texts = (
            asked.answers[-1],
            asked.answers[0][:7],
            asked.context[asked.answer_starts[0] :][:60],
            other.answers[0],
        )
        if index % 5 < 4:
            predictions[asked.id] = texts[index % 5]
    result = score(questions, predictions)
    expected = oracles.score(answers, predictions)
    assert (result.exact_match, result.f1) == pytest.approx(expected, abs=1e-9)
    assert 20 < result.exact_match < 60 < 100 - result.exact_match
