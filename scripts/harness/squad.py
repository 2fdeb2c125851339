"""SQuAD v1.1 datasets: questions with their passages and reference answers."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UserError
from .files import parse_json, sha256_bytes

# SQuAD dev is 5 MB and train 30 MB; a compressed file may not unfold into more than this.
LARGEST_DATASET_BYTES = 512 << 20


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
        stored = path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"dataset {path} does not exist; check DATASET or run `make assets`"
        ) from None
    except OSError as error:
        raise UserError(f"dataset {path} cannot be read ({error.strerror}); check it") from None
    document = parse_json(_text(stored, path), f"dataset {path}")
    try:
        questions = _questions(document)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"no {error} where one belongs" if isinstance(error, KeyError) else error
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
                raise ValueError("truncated, or larger than 512 MiB unpacked")
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
    if any("\ud800" <= c <= "\udfff" for c in value):
        # JSON can spell half a character; no file can hold it as UTF-8.
        raise ValueError(f"{what} holds half of a surrogate pair")
    return value
