"""From start and end logits to answer texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .squad import Question
from .windows import Float32, Windows

N_BEST = 20
MAX_ANSWER_TOKENS = 30
# Windows looked at together: bounds the memory of the padded arrays to some 20 MB.
_CHUNK = 1024


@dataclass(frozen=True)
class Answer:
    """An answer text with its probability among the question's n best spans."""

    text: str
    probability: float


@dataclass(frozen=True)
class _Spans:
    """Candidate spans a window, best first: (W, n) scores (-inf: none) and token positions."""

    scores: Float32
    first: npt.NDArray[np.int64]
    last: npt.NDArray[np.int64]


def answer_texts(
    questions: Sequence[Question],
    windows: Windows,
    start_logits: Float32,
    end_logits: Float32,
    *,
    n_best: int = N_BEST,
    max_answer_tokens: int = MAX_ANSWER_TOKENS,
) -> dict[str, str]:
    """The best answer of each question: id to text, in the order of the questions.

    `start_logits` and `end_logits` are (T,) float32, packed like `windows.tokens`. A span's
    score is its start logit plus its end logit; only the `n_best` starts and ends among a
    window's passage tokens are paired, and a span has at most `max_answer_tokens` tokens. Of
    equal scores the earlier window wins, then the better start. A question without any valid
    span answers "".
    """
    spans = _best_spans(windows, start_logits, end_logits, n_best, max_answer_tokens, keep=1)
    # Windows are ordered by question; a stable sort by score leaves the best window last.
    order = np.lexsort((-np.arange(len(windows)), spans.scores[:, 0], windows.questions))
    owners = windows.questions[order]
    best = order[np.concatenate((owners[1:] != owners[:-1], [True]))]
    texts = {}
    for window in best:
        question = questions[windows.questions[window]]
        texts[question.id] = _text(question.context, windows, spans, window, 0)
    return texts


def best_answers(
    question: Question,
    windows: Windows,
    start_logits: Float32,
    end_logits: Float32,
    *,
    n_best: int = N_BEST,
    max_answer_tokens: int = MAX_ANSWER_TOKENS,
) -> list[Answer]:
    """One question's n best answers, best first, from the windows of that question alone.

    Probabilities are the softmax over the scores of the n best spans of all its windows, as
    BERT's reference implementation reports them.
    """
    spans = _best_spans(windows, start_logits, end_logits, n_best, max_answer_tokens, keep=n_best)
    flat = spans.scores.ravel()
    order = np.argsort(-flat, kind="stable")[:n_best]
    order = order[np.isfinite(flat[order])]
    if not len(order):
        return []
    weights = np.exp((flat[order] - flat[order[0]]).astype(np.float64))
    probabilities = weights / weights.sum()
    width = spans.scores.shape[1]
    return [
        Answer(_text(question.context, windows, spans, i // width, i % width), float(p))
        for i, p in zip(order, probabilities, strict=True)
    ]


def _best_spans(
    windows: Windows,
    start_logits: Float32,
    end_logits: Float32,
    n_best: int,
    max_answer_tokens: int,
    keep: int,
) -> _Spans:
    total = len(windows.tokens)
    if start_logits.shape != (total,) or end_logits.shape != (total,):
        raise ValueError(f"logits of shape {start_logits.shape} do not fit {total} tokens")
    scores = np.full((len(windows), keep), -np.inf, dtype=np.float32)
    first = np.zeros((len(windows), keep), dtype=np.int64)
    last = np.zeros((len(windows), keep), dtype=np.int64)
    begins = windows.starts[:-1]
    for lo in range(0, len(windows), _CHUNK):
        rows = slice(lo, min(lo + _CHUNK, len(windows)))
        context = windows.context_starts[rows, None]
        # The last token is [SEP]: passage tokens lie between the question and it.
        count = windows.lengths[rows, None] - 1 - context
        # At least one column: an empty passage has no token, and then no span.
        column = np.arange(max(1, int(count.max())))
        inside = column < count
        index = np.where(inside, begins[rows, None] + context + column, 0)
        start_top = _top(np.where(inside, start_logits[index], -np.inf), n_best)
        end_top = _top(np.where(inside, end_logits[index], -np.inf), n_best)
        start_at = np.take_along_axis(index, start_top, 1)
        end_at = np.take_along_axis(index, end_top, 1)
        length = end_top[:, None, :] - start_top[:, :, None] + 1
        real = np.take_along_axis(inside, start_top, 1)[:, :, None]
        real = real & np.take_along_axis(inside, end_top, 1)[:, None, :]
        valid = real & (length >= 1) & (length <= max_answer_tokens)
        # Logits that no model gives may overflow: what is not finite is no answer.
        with np.errstate(over="ignore", invalid="ignore"):
            pair = start_logits[start_at][:, :, None] + end_logits[end_at][:, None, :]
        pair = np.where(valid & ~np.isnan(pair), pair, -np.inf).reshape(len(start_top), -1)
        best = _top(pair, keep)
        width = end_top.shape[1]
        found = best.shape[1]
        scores[rows, :found] = np.take_along_axis(pair, best, 1)
        first[rows, :found] = np.take_along_axis(start_at, best // width, 1)
        last[rows, :found] = np.take_along_axis(end_at, best % width, 1)
    return _Spans(scores, first, last)


def _top(values: Float32, n: int) -> npt.NDArray[np.int64]:
    """Columns of the n largest values of each row, largest first, ties by column."""
    if n == 1:
        best: npt.NDArray[np.int64] = np.argmax(values, axis=1, keepdims=True)
        return best
    order: npt.NDArray[np.int64] = np.argsort(-values, axis=1, kind="stable")
    return order[:, :n]


def _text(context: str, windows: Windows, spans: _Spans, window: int, rank: int) -> str:
    if not np.isfinite(spans.scores[window, rank]):
        return ""
    begin = windows.char_spans[spans.first[window, rank], 0]
    end = windows.char_spans[spans.last[window, rank], 1]
    return context[begin:end]
