"""Answers against a plain search over all pairs of start and end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import answers
from harness.answers import answer_texts, best_answers
from harness.squad import Question
from harness.windows import Windows

Draw = Callable[[np.random.Generator, int], npt.NDArray[np.float32]]


def normal(random: np.random.Generator, size: int) -> npt.NDArray[np.float32]:
    return random.normal(0, 4, size).astype(np.float32)


def with_ties(random: np.random.Generator, size: int) -> npt.NDArray[np.float32]:
    return random.integers(-2, 3, size).astype(np.float32)


class Case:
    """Random windows of random questions with their logits, packed and one by one."""

    def __init__(self, seed: int, draw: Draw, longest: int = 70, most_windows: int = 4) -> None:
        random = np.random.default_rng(seed)
        self.questions: list[Question] = []
        lengths, heads, owners, spans = [], [], [], []
        for owner in range(int(random.integers(1, 5))):
            # Every token of the passage is one number and a blank.
            words = [f"{i}" for i in range(500)]
            offsets, context = [], ""
            for word in words:
                offsets.append((len(context), len(context) + len(word)))
                context += f"{word} "
            self.questions.append(Question(f"q{owner}", "?", context, ("x",), (0,)))
            for _ in range(int(random.integers(1, most_windows + 1))):
                head = int(random.integers(2, 8))
                count = int(random.integers(0, longest))
                begin = int(random.integers(0, len(words) - count))
                spans += [(0, 0)] * head + offsets[begin : begin + count] + [(0, 0)]
                lengths.append(head + count + 1)
                heads.append(head)
                owners.append(owner)
        total = sum(lengths)
        self.windows = Windows(
            tokens=np.zeros(total, dtype=np.int32),
            lengths=np.asarray(lengths, dtype=np.int32),
            context_starts=np.asarray(heads, dtype=np.int32),
            questions=np.asarray(owners, dtype=np.int32),
            char_spans=np.asarray(spans, dtype=np.int32),
        )
        self.start, self.end = draw(random, total), draw(random, total)

    def expected(
        self, owner: int, n_best: int = 20, max_tokens: int = 30
    ) -> list[tuple[np.float32, str]]:
        """Score and text of every candidate span of a question, best first."""
        rows = np.flatnonzero(self.windows.questions == owner)
        begins = self.windows.starts
        found = oracles.best_spans(
            [range(self.windows.context_starts[w], self.windows.lengths[w] - 1) for w in rows],
            [self.start[begins[w] : begins[w + 1]] for w in rows],
            [self.end[begins[w] : begins[w + 1]] for w in rows],
            n_best,
            max_tokens,
        )
        context = self.questions[owner].context
        result = []
        for span in found:
            base = begins[rows[span.window]]
            first, last = self.windows.char_spans[[base + span.first, base + span.last]]
            result.append((span.score, context[first[0] : last[1]]))
        return result

    def texts(self, **options: int) -> dict[str, str]:
        return answer_texts(self.questions, self.windows, self.start, self.end, **options)


@settings(deadline=None, max_examples=80)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([normal, with_ties]),
    st.integers(1, 25),
    st.integers(1, 40),
)
def test_answers_are_those_of_a_plain_search(
    seed: int, draw: Draw, n_best: int, max_tokens: int
) -> None:
    case = Case(seed, draw)
    expected = {}
    for owner, question in enumerate(case.questions):
        found = case.expected(owner, n_best, max_tokens)
        expected[question.id] = found[0][1] if found else ""
    assert case.texts(n_best=n_best, max_answer_tokens=max_tokens) == expected
    assert list(expected) == list(case.texts())


def test_windows_looked_at_in_parts_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(3, normal)
    whole = case.texts()
    for size in (1, 2, 3):
        monkeypatch.setattr(answers, "_CHUNK", size)
        assert case.texts() == whole


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from([normal, with_ties]), st.integers(1, 25))
def test_best_answers_are_those_of_a_plain_search(seed: int, draw: Draw, n_best: int) -> None:
    case = Case(seed, draw)
    for owner, question in enumerate(case.questions):
        rows = np.flatnonzero(case.windows.questions == owner)
        begins = case.windows.starts
        part = slice(begins[rows[0]], begins[rows[-1] + 1])
        own = Windows(
            case.windows.tokens[part],
            case.windows.lengths[rows],
            case.windows.context_starts[rows],
            np.zeros(len(rows), dtype=np.int32),
            case.windows.char_spans[part],
        )
        found = best_answers(question, own, case.start[part], case.end[part], n_best=n_best)
        expected = case.expected(owner, n_best)[:n_best]
        assert [answer.text for answer in found] == [text for _, text in expected]
        if expected:
            # Softmax over the scores of the n best.
            weights = [np.exp(float(s) - float(expected[0][0])) for s, _ in expected]
            shares = [weight / sum(weights) for weight in weights]
            assert [a.probability for a in found] == pytest.approx(shares, rel=1e-6)
            assert sum(a.probability for a in found) == pytest.approx(1)


def one_window(
    count: int, head: int = 3
) -> tuple[list[Question], Windows, npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """A question whose passage of `count` letters is one window; all logits are zero."""
    context = "".join(chr(ord("a") + i) for i in range(count))
    spans = [(0, 0)] * head + [(i, i + 1) for i in range(count)] + [(0, 0)]
    windows = Windows(
        np.zeros(len(spans), dtype=np.int32),
        np.asarray([len(spans)], dtype=np.int32),
        np.asarray([head], dtype=np.int32),
        np.zeros(1, dtype=np.int32),
        np.asarray(spans, dtype=np.int32).reshape(-1, 2),
    )
    start, end = np.zeros((2, len(spans)), dtype=np.float32)
    return [Question("q", "?", context, ("x",), (0,))], windows, start, end


def test_question_tokens_and_separators_are_never_answers() -> None:
    questions, windows, start, end = one_window(5)
    start[[0, 1, 2, -1]] = end[[0, 1, 2, -1]] = 100
    start[3 + 1] = end[3 + 3] = 1
    assert answer_texts(questions, windows, start, end) == {"q": "bcd"}


def test_end_before_start_is_no_answer() -> None:
    questions, windows, start, end = one_window(5)
    start[3 + 4] = end[3 + 0] = 10
    # The best pair that is in order: the early start 0 with the end 0, or the late start alone.
    start[3 + 0] = 1
    assert answer_texts(questions, windows, start, end) == {"q": "a"}


@pytest.mark.parametrize("length", [3, 4])
def test_answer_longer_than_allowed_is_no_answer(length: int) -> None:
    questions, windows, start, end = one_window(6)
    start[3] = end[3 + 3] = 5
    end[3 + 1] = 1
    answer = answer_texts(questions, windows, start, end, max_answer_tokens=length)
    assert answer == {"q": "abcd" if length == 4 else "ab"}


def test_by_default_20_starts_and_ends_and_30_tokens_are_looked_at() -> None:
    """The protocol's limits (facts of run_squad: n_best_size 20, max_answer_length 30)."""
    for side in (0, 1):
        for decoys, found in ((19, True), (20, False)):
            questions, windows, *logits = one_window(80)
            real = logits[side][3:-1]
            # Starts in front of which all good ends lie, or ends behind which all starts do.
            real[80 - decoys :] = 9
            logits[1 - side][3 : 3 + 20] = 9
            real[10] = 1
            if side:
                for array in logits:
                    array[3:-1] = array[3:-1][::-1].copy()
            answer = answer_texts(questions, windows, *logits)["q"]
            assert (len(answer) > 0) == found
    for length in (30, 31):
        questions, windows, start, end = one_window(60)
        start[3] = end[3 + length - 1] = 9
        answer = answer_texts(questions, windows, start, end)["q"]
        assert (len(answer) == length) == (length == 30)


def test_of_equal_scores_the_earlier_window_wins() -> None:
    case = Case(0, lambda _, size: np.zeros(size, dtype=np.float32), most_windows=4)
    for owner, question in enumerate(case.questions):
        assert case.texts()[question.id] == case.expected(owner)[0][1]


def test_passage_without_tokens_has_the_empty_answer() -> None:
    questions, windows, start, end = one_window(0)
    assert answer_texts(questions, windows, start, end) == {"q": ""}
    assert best_answers(questions[0], windows, start, end) == []


def test_span_that_no_limit_admits_has_the_empty_answer() -> None:
    questions, windows, start, end = one_window(4)
    start[:] = end[:] = np.nan
    assert answer_texts(questions, windows, start, end) == {"q": ""}
    assert best_answers(questions[0], windows, start, end) == []


def test_token_without_a_number_is_in_no_answer() -> None:
    questions, windows, start, end = one_window(5)
    start[3] = end[3 + 4] = np.nan
    start[3 + 1] = end[3 + 2] = 1
    assert answer_texts(questions, windows, start, end) == {"q": "bc"}


def test_answer_is_cut_from_the_context_as_written() -> None:
    questions, windows, start, end = one_window(3)
    asked = Question("q", "?", "“Ä\u0301  😀”", ("x",), (0,))
    windows.char_spans[3:6] = [(1, 3), (5, 6), (6, 7)]
    start[3] = end[3 + 1] = 1
    assert answer_texts([asked], windows, start, end) == {"q": "Ä\u0301  😀"}
    assert questions[0].id == asked.id


def test_logits_of_another_shape_are_an_error() -> None:
    questions, windows, start, end = one_window(3)
    with pytest.raises(ValueError, match="do not fit"):
        answer_texts(questions, windows, start[:-1], end)
    with pytest.raises(ValueError, match="do not fit"):
        answer_texts(questions, windows, start, end[None])
