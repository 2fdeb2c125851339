"""SQuAD v1.1 datasets: questions with their passages and reference answers."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UserError
from .files import parse_json, require_regular, sha256_bytes

# SQuAD train has 30 MB and 300,000 lists and objects, the smallest of which are 24 times as long in
# memory as in JSON. All else is 12 times as long at most.
LARGEST_DATASET_BYTES = 40 << 20
MOST_BRACKETS = 2_000_000
_LARGEST = f"{LARGEST_DATASET_BYTES >> 20} MiB"


@dataclass(frozen=True)
class Question:
    """One question: `answers` are the reference texts, at least one, duplicates kept."""

    id: str
    text: str
    context: str
    answers: tuple[str, ...]
    answer_starts: tuple[int, ...]


@dataclass(frozen=True)
class Dataset:
    """Questions in file order, and the SHA-256 of the file's bytes as stored."""

    path: Path
    sha256: str
    questions: tuple[Question, ...]


def read_dataset(path: Path, limit: int | None = None) -> Dataset:
    """Read a SQuAD v1.1 file, `.json` or `.json.gz`; `limit` keeps the first questions.

    Raises UserError for a missing, malformed or empty file, and for question ids that occur
    twice (the predictions file is keyed by them).
    """
    try:
        require_regular(path)
        with path.open("rb") as stream:
            stored = stream.read(LARGEST_DATASET_BYTES + 1)
    except FileNotFoundError:
        raise UserError(
            f"dataset {path} does not exist; check DATASET or run `make assets`"
        ) from None
    except OSError as error:
        raise UserError(f"dataset {path} cannot be read ({error.strerror}); check it") from None
    if len(stored) > LARGEST_DATASET_BYTES:
        raise UserError(f"dataset {path} is larger than {_LARGEST}; give a smaller one")
    document = parse_json(_text(stored, path), f"dataset {path}")
    try:
        questions = _questions(document)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"no {error} where one belongs" if isinstance(error, KeyError) else error
        reason = str(reason)[:200]
        raise UserError(f"dataset {path} is not SQuAD v1.1 ({reason}); check the file") from None
    if not questions:
        raise UserError(f"dataset {path} holds no questions; check the file")
    return Dataset(path, sha256_bytes(stored), tuple(questions[:limit]))


def _text(stored: bytes, path: Path) -> str:
    try:
        if stored[:2] == b"\x1f\x8b":
            unpacker = zlib.decompressobj(wbits=31)
            stored = unpacker.decompress(stored, LARGEST_DATASET_BYTES)
            if not unpacker.eof:
                raise ValueError(f"truncated, or larger than {_LARGEST} unpacked")
        if stored.count(b"[") + stored.count(b"{") > MOST_BRACKETS:
            raise ValueError(f"more than {MOST_BRACKETS} lists and objects")
        return stored.decode("utf-8")
    except (gzip.BadGzipFile, zlib.error, ValueError) as error:
        raise UserError(f"dataset {path} cannot be decoded ({error}); get it again") from None


def _questions(document: Any) -> list[Question]:
    questions: list[Question] = []
    seen: set[str] = set()
    for article in document["data"]:
        for paragraph in article["paragraphs"]:
            context = _string(paragraph["context"], "context")
            for entry in paragraph["qas"]:
                key = _string(entry["id"], "id")
                if key in seen:
                    raise ValueError(f"question id {key!r} occurs twice")
                seen.add(key)
                answers = tuple(_string(a["text"], "answer") for a in entry["answers"])
                starts = tuple(a["answer_start"] for a in entry["answers"])
                if not answers:
                    raise ValueError(f"question {key!r} has no reference answer")
                if any(type(start) is not int for start in starts):
                    raise ValueError(f"answer_start of question {key!r} is not an integer")
                text = _string(entry["question"], "question")
                questions.append(Question(key, text, context, answers, starts))
    return questions


def _string(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what} is not a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        # JSON can spell half a character; no file can hold it as UTF-8.
        raise ValueError(f"{what} holds half of a surrogate pair") from None
    return value
