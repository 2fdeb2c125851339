"""Windows and tokens against a plain loop over characters and tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import oracles
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from harness.errors import UserError
from harness.squad import Question, read_dataset
from harness.windows import WindowOptions, Windows, cut_windows, load_tokenizer

TEXTS = st.text(st.sampled_from(oracles.CHARACTERS), max_size=80)
LONG_TEXTS = st.lists(TEXTS, max_size=8).map(" ".join)
SQUAD = Path(__file__).parents[2] / "shared" / "squad" / "dev-v1.1.pages.json.gz"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join(oracles.TOKENS) + "\n", encoding="utf-8")
    return load_tokenizer(path)


def question(text: str, context: str, key: str = "q") -> Question:
    return Question(key, text, context, ("x",), (0,))


def unpacked(windows: Windows) -> list[oracles.Window]:
    """The windows one by one, from the packed arrays."""
    result = []
    for index, begin in enumerate(windows.starts[:-1]):
        length, context = int(windows.lengths[index]), int(windows.context_starts[index])
        tokens = windows.tokens[begin : begin + length].tolist()
        spans = windows.char_spans[begin + context : begin + length - 1].tolist()
        result.append(oracles.Window(tokens, context, [(a, b) for a, b in spans]))
    return result


@settings(deadline=None, max_examples=200)
@given(TEXTS)
@example("")
@example("a" * 100)
@example("a" * 101)
@example("é" * 101)
@example("the river's caf\u00e9 — where is the cafe\u0301 in 東京?")
@example("x\x00y \ufffd\u200b z")
@example("한국 ΣΣ İı ﬁ \U00010400")
def test_tokens_are_those_of_bert(tokenizer: Tokenizer, text: str) -> None:
    encoding = tokenizer.encode(text, add_special_tokens=False)
    expected = oracles.tokenize(text, oracles.TOKENS)
    assert encoding.ids == [piece.id for piece in expected]
    assert encoding.offsets == [(piece.begin, piece.end) for piece in expected]


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(TEXTS, LONG_TEXTS), min_size=1, max_size=4),
    st.integers(1, 12),
    st.integers(1, 30),
    st.integers(1, 40),
    st.booleans(),
)
def test_windows_are_those_of_the_reference(
    tokenizer: Tokenizer,
    texts: list[tuple[str, str]],
    max_question_tokens: int,
    room: int,
    doc_stride: int,
    first_only: bool,
) -> None:
    options = WindowOptions(room + max_question_tokens + 3, doc_stride, max_question_tokens)
    expected, owners = [], []
    for index, (asked, context) in enumerate(texts):
        cut = oracles.cut(
            asked,
            context,
            oracles.TOKENS,
            sequence_length=options.sequence_length,
            doc_stride=doc_stride,
            max_question_tokens=max_question_tokens,
        )
        cut = cut[:1] if first_only else cut
        expected += cut
        owners += [index] * len(cut)
    windows = cut_windows(
        [question(*pair, key=str(index)) for index, pair in enumerate(texts)],
        tokenizer,
        WindowOptions(options.sequence_length, doc_stride, max_question_tokens, first_only),
    )
    assert unpacked(windows) == expected
    assert windows.questions.tolist() == owners
    assert len(windows) == len(expected)


def test_arrays_have_the_promised_types(tokenizer: Tokenizer) -> None:
    windows = cut_windows([question("where", "river " * 50)], tokenizer, WindowOptions(20, 4))
    assert len(windows) > 1
    total = int(windows.lengths.sum())
    assert windows.tokens.shape == (total,)
    assert windows.char_spans.shape == (total, 2)
    for array in (windows.tokens, windows.lengths, windows.context_starts, windows.questions):
        assert array.dtype == np.int32
    assert windows.char_spans.dtype == np.int32
    # Neither special tokens nor the question stand in the passage.
    for index, begin in enumerate(windows.starts[:-1]):
        head = windows.char_spans[begin : begin + windows.context_starts[index]]
        assert not head.any()
        assert not windows.char_spans[windows.starts[index + 1] - 1].any()


def test_passage_without_tokens_makes_one_window_without_passage(tokenizer: Tokenizer) -> None:
    for context in ("", " \n", "\x00"):
        windows = cut_windows([question("where", context)], tokenizer, WindowOptions(20, 4))
        assert windows.lengths.tolist() == [4]
        assert windows.context_starts.tolist() == [3]


def test_passage_that_just_fits_makes_one_window(tokenizer: Tokenizer) -> None:
    asked = question("where", "river " * 10)
    assert len(cut_windows([asked], tokenizer, WindowOptions(14, 4))) == 1
    assert len(cut_windows([asked], tokenizer, WindowOptions(13, 4))) == 2


def test_sequence_too_short_for_a_passage_is_an_error(tokenizer: Tokenizer) -> None:
    asked = question("a b c d e", "river")
    assert len(cut_windows([asked], tokenizer, WindowOptions(9))) == 1
    with pytest.raises(UserError, match="sequence length 8 leaves no room"):
        cut_windows([asked], tokenizer, WindowOptions(8))


def test_no_questions_is_an_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="no questions"):
        cut_windows([], tokenizer, WindowOptions())


def test_case_is_kept_on_request(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nriver\nRiver\nRivér\n", encoding="utf-8")
    cased = load_tokenizer(path, lower_case=False)
    assert cased.encode("River Rivér river").tokens == ["River", "Rivér", "river"]
    assert load_tokenizer(path).encode("River Rivér river").tokens == ["river"] * 3


def test_tokens_that_unicode_counts_as_line_ends_keep_their_place(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n\u2028\n\x85\nriver\n", encoding="utf-8")
    assert load_tokenizer(path).token_to_id("river") == 6


@pytest.mark.parametrize("missing", ["[CLS]", "[SEP]", "[PAD]", "[UNK]"])
def test_file_that_is_no_bert_vocabulary_is_an_error(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(t for t in oracles.TOKENS if t != missing), encoding="utf-8")
    with pytest.raises(UserError, match="is no BERT vocabulary"):
        load_tokenizer(path)


@settings(deadline=None, max_examples=60)
@given(TEXTS)
@example("Beyoncé Giselle Knowles-Carter (/biːˈjɒnseɪ/) “bee-YON-say”")
def test_real_vocabulary_gives_berts_tokens(vocab: Path, text: str) -> None:
    tokenizer, tokens = _real(vocab)
    expected = oracles.tokenize(text, tokens)
    encoding = tokenizer.encode(text, add_special_tokens=False)
    assert encoding.ids == [piece.id for piece in expected]
    assert encoding.offsets == [(piece.begin, piece.end) for piece in expected]


_REAL: dict[Path, tuple[Tokenizer, list[str]]] = {}


def _real(vocab: Path) -> tuple[Tokenizer, list[str]]:
    if vocab not in _REAL:
        _REAL[vocab] = load_tokenizer(vocab), vocab.read_text(encoding="utf-8").split("\n")[:-1]
    return _REAL[vocab]


def test_real_vocabulary_is_berts(vocab: Path) -> None:
    tokenizer, tokens = _real(vocab)
    assert tokenizer.get_vocab_size() == len(tokens) == 30522
    # Ids that BERT's published configuration and examples name.
    known = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "the": 1996, "hello": 7592}
    assert {token: tokenizer.token_to_id(token) for token in known} == known


@pytest.mark.full
def test_squad_dev_has_the_known_number_of_windows_and_tokens(vocab: Path) -> None:
    tokenizer, _ = _real(vocab)
    questions = read_dataset(SQUAD).questions
    assert len(questions) == 10_570
    every = cut_windows(questions, tokenizer, WindowOptions())
    assert len(every) == 10_833
    first = cut_windows(questions, tokenizer, WindowOptions(first_only=True))
    assert len(first) == 10_570
    assert int(first.lengths.sum()) == 1_845_959


@pytest.mark.full
def test_squad_dev_windows_are_those_of_the_reference(vocab: Path) -> None:
    tokenizer, tokens = _real(vocab)
    # Every 20th question; and the reference would look up its vocabulary too slowly for all.
    questions = read_dataset(SQUAD).questions[::20]
    windows = unpacked(cut_windows(questions, tokenizer, WindowOptions()))
    expected = [
        window
        for asked in questions
        for window in oracles.cut(
            asked.text,
            asked.context,
            tokens,
            sequence_length=384,
            doc_stride=128,
            max_question_tokens=64,
        )
    ]
    assert windows == expected
