"""Slow reference implementations, written from the published descriptions alone.

Nothing here shares code or method with the library: plain loops over characters, tokens and
numbers, so that an error would have to be made twice to go unnoticed.
"""

from __future__ import annotations

import math
import string
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

# A vocabulary small enough to read, with pieces of every kind that the texts below are made of.
TOKENS = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *string.ascii_lowercase,
    *(f"##{letter}" for letter in string.ascii_lowercase),
    *string.digits,
    *(f"##{digit}" for digit in string.digits),
    *(".", ",", "?", "'", "“", "”", "-", "—", "$", "^", "€", "°", "。"),
    *("the", "an", "river", "rivers", "##ing", "##iver", "play", "where", "is", "cafe", "##fe"),
    *("東", "京", "豈", "한", "ᄒ", "##ᅡ", "##ᆫ", "σ", "##σ", "ß", "##ß", "ı", "и", "##и", "😀"),
]
# Letters with and without accents, marks, scripts, emoji, controls and blanks of all kinds.
CHARACTERS = (
    *"abcdefgrivthenplaySTRIVERÄÖüßéèñÅçøİıſ0123456789",
    *"  \t\n\r\x00\x01\x0b\x1f\x7f\x85\xa0\xad\u2003\u2028\u3000\u200b\u200d\ufeff\ufffd",
    *".,?!'“”-—$^€°%&§`~|<+=_。、·¿",
    *"\u0301\u0308\u0327\u20dd\ufe0f",
    *"東京\uf900\U00020000한국어ひらカタΣσςИйΩ\u212a\u212bﬁאָبِनिก็",
    *"😀🏽👩🇩🚀\U00010400\U0001d504",
)


def _is_control(character: str) -> bool:
    if character in "\t\n\r":
        return False
    return unicodedata.category(character)[0] == "C"


def _is_cjk(character: str) -> bool:
    blocks = (
        (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
        (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
    )  # fmt: skip
    return any(first <= ord(character) <= last for first, last in blocks)


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character)[0] == "P"


class Piece(NamedTuple):
    """A token's id and where its characters stand in the text."""

    id: int
    begin: int
    end: int


def tokenize(text: str, vocabulary: Sequence[str]) -> list[Piece]:
    """Uncased BERT tokenization (Devlin et al. 2018, tokenization.py), character by character."""
    ids = {token: index for index, token in enumerate(vocabulary)}
    words: list[list[tuple[str, int]]] = [[]]
    for place, character in enumerate(text):
        if character in "\x00\ufffd" or _is_control(character):
            continue
        if character.isspace():
            words.append([])
        elif _is_cjk(character):
            words += [[(c, place) for c in unicodedata.normalize("NFD", character)], []]
        else:
            for part in unicodedata.normalize("NFD", character):
                if unicodedata.category(part) == "Mn":
                    continue
                if _is_punctuation(part):
                    words += [[(part, place)], []]
                else:
                    words[-1] += [(lowered, place) for lowered in part.lower()]
    pieces = []
    for word in filter(None, words):
        found = _word_pieces("".join(c for c, _ in word), ids)
        if found is None:
            pieces.append(Piece(ids["[UNK]"], word[0][1], word[-1][1] + 1))
        else:
            pieces += [Piece(i, word[a][1], word[b - 1][1] + 1) for i, a, b in found]
    return pieces


def _word_pieces(word: str, ids: Mapping[str, int]) -> list[tuple[int, int, int]] | None:
    """Greedy longest match first; None where a piece is unknown or the word exceeds 100."""
    if len(word) > 100:
        return None
    found = []
    begin = 0
    while begin < len(word):
        for end in range(len(word), begin, -1):
            piece = ("##" if begin else "") + word[begin:end]
            if piece in ids:
                found.append((ids[piece], begin, end))
                begin = end
                break
        else:
            return None
    return found


class Window(NamedTuple):
    """One window's token ids, where its passage begins, and the passage tokens' characters."""

    tokens: list[int]
    context_start: int
    spans: list[tuple[int, int]]


def cut(
    question: str,
    context: str,
    vocabulary: Sequence[str],
    *,
    sequence_length: int,
    doc_stride: int,
    max_question_tokens: int,
) -> list[Window]:
    """The windows of one question, as Devlin et al.'s run_squad slides over the passage."""
    cls, sep = vocabulary.index("[CLS]"), vocabulary.index("[SEP]")
    asked = [piece.id for piece in tokenize(question, vocabulary)][:max_question_tokens]
    passage = tokenize(context, vocabulary)
    room = sequence_length - len(asked) - 3
    windows = []
    start = 0
    while True:
        length = min(len(passage) - start, room)
        part = passage[start : start + length]
        windows.append(
            Window(
                [cls, *asked, sep, *(piece.id for piece in part), sep],
                len(asked) + 2,
                [(piece.begin, piece.end) for piece in part],
            )
        )
        if start + length == len(passage):
            return windows
        start += min(length, doc_stride)


class Span(NamedTuple):
    """A candidate: score, window, first and last token in the window."""

    score: np.float32
    window: int
    first: int
    last: int


def best_spans(
    passages: Sequence[range],
    start_logits: Sequence[npt.NDArray[np.float32]],
    end_logits: Sequence[npt.NDArray[np.float32]],
    n_best: int,
    max_answer_tokens: int,
) -> list[Span]:
    """All candidate spans of one question, best first; ties stay in the order of discovery.

    `passages[w]` are the positions of window w's passage tokens; only among them the `n_best`
    starts and ends are looked for.
    """
    spans = []
    for window, passage in enumerate(passages):
        starts = sorted(passage, key=lambda i: (-start_logits[window][i], i))[:n_best]
        ends = sorted(passage, key=lambda i: (-end_logits[window][i], i))[:n_best]
        for first in starts:
            for last in ends:
                if first <= last < first + max_answer_tokens:
                    total = start_logits[window][first] + end_logits[window][last]
                    spans.append(Span(total, window, first, last))
    return sorted(spans, key=lambda span: -span.score)


def normalize(text: str) -> str:
    """The official scorer's normalization: lower case, punctuation, articles, blanks."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    words, word = "", ""
    # A word is a run of letters and digits, as a regular expression's \b sees it.
    for character in f"{kept} ":
        if character.isalnum():
            word += character
            continue
        words += (" " if word in ("a", "an", "the") else word) + character
        word = ""
    return " ".join(words.split())


def f1(prediction: str, answer: str) -> float:
    """Harmonic mean of precision and recall over the words both have, each counted once."""
    left = normalize(answer).split()
    predicted, expected = normalize(prediction).split(), list(left)
    common = 0
    for word in predicted:
        if word in left:
            left.remove(word)
            common += 1
    if not common:
        return 0.0
    precision, recall = common / len(predicted), common / len(expected)
    return 2 * precision * recall / (precision + recall)


def score(
    answers: Mapping[str, Sequence[str]], predictions: Mapping[str, str]
) -> tuple[float, float]:
    """Exact match and F1 in per cent; a question without a prediction counts 0."""
    matches, overlaps = [], []
    for key, references in answers.items():
        if key in predictions:
            text = predictions[key]
            matches.append(max(float(normalize(text) == normalize(a)) for a in references))
            overlaps.append(max(f1(text, a) for a in references))
        else:
            matches.append(0.0)
            overlaps.append(0.0)
    return 100 * sum(matches) / len(answers), 100 * math.fsum(overlaps) / len(answers)


def bert_logits(
    weights: Mapping[str, npt.NDArray[np.float32]],
    architecture: Any,
    ids: Sequence[int],
    segments: Sequence[int],
    taken: Callable[[str, npt.NDArray[np.float64]], npt.NDArray[np.float64]] = lambda _, x: x,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Start and end logits (seq,) of one unpadded window: BERT's equations in float64.

    A linear multiplies what `taken` makes of its name and its input (seq, in).
    """
    w = {name: array.astype(np.float64) for name, array in weights.items()}

    def linear(name: str, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.einsum("si,oi->so", taken(name, x), w[f"{name}.weight"]) + w[f"{name}.bias"]

    def norm(name: str, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        centred = x - x.mean(axis=1, keepdims=True)
        variance = (centred**2).mean(axis=1, keepdims=True) + architecture.layer_norm_eps
        return centred / np.sqrt(variance) * w[f"{name}.gamma"] + w[f"{name}.beta"]

    hidden = norm(
        "embeddings.norm",
        np.stack(
            [
                w["embeddings.word"][i] + w["embeddings.segment"][s] + w["embeddings.position"][p]
                for p, (i, s) in enumerate(zip(ids, segments, strict=True))
            ]
        ),
    )
    size = architecture.hidden // architecture.heads
    for layer in range(architecture.layers):
        name = f"layer.{layer}.attention"
        query, key, value = (linear(f"{name}.{p}", hidden) for p in ("query", "key", "value"))
        heads = []
        for head in range(architecture.heads):
            part = slice(head * size, (head + 1) * size)
            weight = np.exp(query[:, part] @ key[:, part].T / math.sqrt(size))
            heads.append(weight / weight.sum(axis=1, keepdims=True) @ value[:, part])
        hidden = norm(f"{name}.norm", hidden + linear(f"{name}.output", np.hstack(heads)))
        inner = linear(f"layer.{layer}.ffn.in", hidden)
        inner *= 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        hidden = norm(f"layer.{layer}.ffn.norm", hidden + linear(f"layer.{layer}.ffn.out", inner))
    logits = linear("qa", hidden)
    return logits[:, 0], logits[:, 1]
