"""Questions and passages cut into windows of tokens, as BERT's SQuAD protocol cuts them.

A window is `[CLS] question [SEP] part of the passage [SEP]`. Parts start `doc_stride` tokens
apart until one reaches the passage's end (Devlin et al. 2018, the reference implementation's
run_squad), so the overlap is what is left of the window, not `doc_stride` itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from .errors import UserError
from .squad import Question

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class WindowOptions:
    """How windows are cut; all lengths in tokens. `first_only` keeps one window a question."""

    sequence_length: int = 384
    doc_stride: int = 128
    max_question_tokens: int = 64
    first_only: bool = False


@dataclass(frozen=True)
class Windows:
    """W windows holding T tokens in all, packed one after the other.

    `tokens` (T,) int32 token ids; `lengths` (W,) int32 tokens a window; `context_starts`
    (W,) int32 position in the window of the passage's first token; `questions` (W,) int32
    index of the question, ascending; `char_spans` (T, 2) int32 begin and end of each passage
    token in the context's characters, zero elsewhere.
    """

    tokens: Int32
    lengths: Int32
    context_starts: Int32
    questions: Int32
    char_spans: Int32

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """(W + 1,) where each window begins in the packed arrays, and their total length."""
        return np.concatenate(([0], np.cumsum(self.lengths, dtype=np.int64)))


def load_tokenizer(vocabulary: Path, *, lower_case: bool = True) -> Tokenizer:
    """BERT's WordPiece tokenizer over `vocabulary` (one token a line), no special tokens added."""
    # Not splitlines(): tokens may be characters that Unicode counts as line ends.
    try:
        lines = vocabulary.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except UnicodeDecodeError:
        raise UserError(f"{vocabulary} is no BERT vocabulary (not UTF-8); get it again") from None
    vocab = {token: index for index, token in enumerate(lines)}
    missing = [token for token in ("[CLS]", "[SEP]", "[PAD]", "[UNK]") if token not in vocab]
    if missing:
        raise UserError(f"{vocabulary} is no BERT vocabulary (no {missing[0]}); get it again")
    tokenizer = Tokenizer(WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=lower_case)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


def cut_windows(
    questions: Sequence[Question], tokenizer: Tokenizer, options: WindowOptions
) -> Windows:
    """Cut every question's windows, in the order of the questions."""
    if not questions:
        raise ValueError("no questions to cut windows from")
    cls, sep = (tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
    contexts = list(dict.fromkeys(question.context for question in questions))
    encoded = _encode_contexts(contexts, tokenizer)
    queries = tokenizer.encode_batch([q.text for q in questions], add_special_tokens=False)

    no_span = np.zeros((1, 2), dtype=np.int32)
    end = np.asarray([sep], dtype=np.int32)
    tokens: list[Int32] = []
    spans: list[Int32] = []
    lengths: list[int] = []
    context_starts: list[int] = []
    owners: list[int] = []
    for index, (question, query) in enumerate(zip(questions, queries, strict=True)):
        ids, offsets = encoded[question.context]
        asked = query.ids[: options.max_question_tokens]
        head = np.asarray([cls, *asked, sep], dtype=np.int32)
        head_spans = np.repeat(no_span, len(head), axis=0)
        room = options.sequence_length - len(head) - 1
        if room <= 0:
            raise UserError(
                f"sequence length {options.sequence_length} leaves no room for a passage; raise it"
            )
        begin = 0
        while True:
            part = slice(begin, begin + room)
            tokens += (head, ids[part], end)
            spans += (head_spans, offsets[part], no_span)
            lengths.append(len(head) + len(ids[part]) + 1)
            context_starts.append(len(head))
            owners.append(index)
            if options.first_only or begin + room >= len(ids):
                break
            begin += min(room, options.doc_stride)
    return Windows(
        np.concatenate(tokens),
        np.asarray(lengths, dtype=np.int32),
        np.asarray(context_starts, dtype=np.int32),
        np.asarray(owners, dtype=np.int32),
        np.concatenate(spans),
    )


def select_windows(windows: Windows, rows: npt.NDArray[np.int64]) -> Windows:
    """The windows `rows` (ascending) alone; question indices stay those of all questions."""
    starts = windows.starts
    places = [np.arange(starts[row], starts[row + 1]) for row in rows]
    tokens = np.concatenate(places)
    return Windows(
        windows.tokens[tokens],
        windows.lengths[rows],
        windows.context_starts[rows],
        windows.questions[rows],
        windows.char_spans[tokens],
    )


def _encode_contexts(contexts: list[str], tokenizer: Tokenizer) -> dict[str, tuple[Int32, Int32]]:
    """Token ids (n,) and character spans (n, 2) of each distinct passage.

    Passages are shared by several questions: each is tokenized once.
    """
    encodings = tokenizer.encode_batch(contexts, add_special_tokens=False)
    return {
        context: (
            np.asarray(encoding.ids, dtype=np.int32),
            np.asarray(encoding.offsets, dtype=np.int32).reshape(-1, 2),
        )
        for context, encoding in zip(contexts, encodings, strict=True)
    }
