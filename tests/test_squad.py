"""SQuAD v1.1 files: read as they are, or refused in one line."""

from __future__ import annotations

import copy
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import squad
from harness.errors import UserError
from harness.squad import Question, read_dataset

SHARED = Path(__file__).parents[2] / "shared" / "squad"
DOCUMENT: dict[str, Any] = {
    "version": "1.1",
    "data": [
        {
            "title": "Rivers",
            "paragraphs": [
                {
                    "context": "Der Rhein fließt 1.233 km. 😀",
                    "qas": [
                        {
                            "id": "q1",
                            "question": "How long?",
                            "answers": [
                                {"text": "1.233 km", "answer_start": 17},
                                {"text": "1.233", "answer_start": 17},
                                {"text": "1.233 km", "answer_start": 17},
                            ],
                        },
                        {
                            "id": "q0",
                            "question": "Which?",
                            "answers": [{"text": "Rhein", "answer_start": 4}],
                        },
                    ],
                },
                {"context": "", "qas": []},
            ],
        },
        {
            "title": "Empty",
            "paragraphs": [
                {
                    "context": "\x00",
                    "qas": [
                        {
                            "id": "",
                            "question": "",
                            "answers": [{"text": "", "answer_start": 0}],
                        }
                    ],
                }
            ],
        },
    ],
}
RHINE = "Der Rhein fließt 1.233 km. 😀"
QUESTIONS = (
    Question("q1", "How long?", RHINE, ("1.233 km", "1.233", "1.233 km"), (17, 17, 17)),
    Question("q0", "Which?", RHINE, ("Rhein",), (4,)),
    Question("", "", "\x00", ("",), (0,)),
)


def write(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def at(document: Any, *keys: str | int) -> Any:
    for key in keys:
        document = document[key]
    return document


def test_questions_come_in_file_order_with_the_files_hash(tmp_path: Path) -> None:
    path = write(tmp_path / "d.json", DOCUMENT)
    dataset = read_dataset(path)
    assert dataset.questions == QUESTIONS
    assert dataset.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert dataset.path == path


def test_compressed_file_is_known_by_its_content_and_hashed_as_stored(tmp_path: Path) -> None:
    for name in ("d.json.gz", "named otherwise.json"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(json.dumps(DOCUMENT).encode()))
        dataset = read_dataset(path)
        assert dataset.questions == QUESTIONS
        assert dataset.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("limit", [1, 2, 3, 99])
def test_limit_keeps_the_first_questions(tmp_path: Path, limit: int) -> None:
    path = write(tmp_path / "d.json", DOCUMENT)
    assert read_dataset(path, limit).questions == QUESTIONS[:limit]


QUESTION = ("data", 0, "paragraphs", 0, "qas", 0)
ANSWER = (*QUESTION, "answers", 0)


@pytest.mark.parametrize(
    ("where", "key", "value", "reason"),
    [
        (QUESTION, "id", "q0", "'q0' occurs twice"),
        (QUESTION, "answers", [], "'q1' has no reference answer"),
        (QUESTION, "answers", None, "NoneType"),
        (QUESTION, "id", 7, "id is not a text"),
        (QUESTION, "question", None, "question is not a text"),
        (QUESTION, "question", "a\ud83d", "half of a surrogate pair"),
        (ANSWER, "text", 3, "answer is not a text"),
        (ANSWER, "answer_start", "17", "answer_start of question 'q1' is not an integer"),
        (ANSWER, "answer_start", True, "not an integer"),
        (ANSWER, "answer_start", 17.0, "not an integer"),
        (("data", 0, "paragraphs", 0), "context", ["x"], "context is not a text"),
        ((), "data", {"a": 1}, "not SQuAD v1.1"),
        ((), "data", [], "holds no questions"),
        ((), "data", [{"title": "x", "paragraphs": []}], "holds no questions"),
    ],
)
def test_malformed_dataset_is_an_error_with_its_reason(
    tmp_path: Path, where: tuple[str | int, ...], key: str, value: Any, reason: str
) -> None:
    document = copy.deepcopy(DOCUMENT)
    at(document, *where)[key] = value
    with pytest.raises(UserError) as caught:
        read_dataset(write(tmp_path / "d.json", document))
    assert reason in str(caught.value)
    assert "check the file" in str(caught.value)


@pytest.mark.parametrize(
    ("where", "key"),
    [
        ((), "data"),
        (("data", 0), "paragraphs"),
        (("data", 0, "paragraphs", 0), "context"),
        (("data", 0, "paragraphs", 0), "qas"),
        *((QUESTION, key) for key in ("id", "question", "answers")),
        *((ANSWER, key) for key in ("text", "answer_start")),
    ],
)
def test_missing_key_is_named(tmp_path: Path, where: tuple[str | int, ...], key: str) -> None:
    document = copy.deepcopy(DOCUMENT)
    del at(document, *where)[key]
    with pytest.raises(UserError, match=f"no '{key}' where one belongs"):
        read_dataset(write(tmp_path / "d.json", document))


def paths_in(value: Any) -> list[tuple[str | int, ...]]:
    """The way to every value in a JSON document."""
    inner: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [(), *((key, *rest) for key, child in inner for rest in paths_in(child))]


@settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.sampled_from(paths_in(DOCUMENT)),
    st.recursive(
        st.none() | st.booleans() | st.integers(-3, 3) | st.just("q0") | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["data", "text", "id", "qas"]), inner)
        ),
        max_leaves=5,
    ),
)
def test_any_change_gives_a_dataset_or_one_line(
    tmp_path: Path, where: tuple[str | int, ...], value: Any
) -> None:
    document = copy.deepcopy(DOCUMENT)
    if where:
        at(document, *where[:-1])[where[-1]] = value
    else:
        document = value
    path = write(tmp_path / "d.json", document)
    try:
        questions = read_dataset(path).questions
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert questions
    assert len({q.id for q in questions}) == len(questions)
    assert all(isinstance(q.text, str) and q.answers for q in questions)


def test_missing_file_and_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist; check DATASET"):
        read_dataset(tmp_path / "gone.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not valid JSON"),
        (b"not JSON", "not valid JSON"),
        (b"[1, 2]", "not SQuAD v1.1"),
        (b"{}", "no 'data'"),
        (json.dumps(DOCUMENT).encode()[:-9], "not valid JSON"),
        (b'{"data": [], "data": []}', "occurs twice"),
        (b'{"data": "\xe4"}', "cannot be decoded"),
        (b"PK\x03\x04 a zip archive", "not valid JSON"),
        (gzip.compress(json.dumps(DOCUMENT).encode())[:-9], "cannot be decoded"),
        (gzip.compress(json.dumps(DOCUMENT).encode())[:30], "cannot be decoded"),
        (b"\x1f\x8b", "cannot be decoded"),
        (b"\x1f\x8b\x08 no gzip at all", "cannot be decoded"),
    ],
)
def test_damaged_file_is_an_error(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "d.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_dataset(path)
    assert reason in str(caught.value)


def test_flipped_bit_in_a_compressed_file_is_found(tmp_path: Path) -> None:
    whole = gzip.compress(json.dumps(DOCUMENT).encode())
    path = tmp_path / "d.json.gz"
    refused = 0
    # The body and the checksum; the header's time stamp may change unseen.
    for place in range(10, len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        try:
            # The bits after the body's end pad its last byte: they hold nothing.
            assert read_dataset(path).questions == QUESTIONS
        except UserError:
            refused += 1
    assert refused >= len(whole) - 11


def test_file_that_unfolds_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = json.dumps(DOCUMENT).encode()
    path = tmp_path / "d.json.gz"
    path.write_bytes(gzip.compress(plain))
    monkeypatch.setattr(squad, "LARGEST_DATASET_BYTES", len(plain) + 1)
    assert read_dataset(path).questions == QUESTIONS
    monkeypatch.setattr(squad, "LARGEST_DATASET_BYTES", len(plain) - 1)
    with pytest.raises(UserError, match="cannot be decoded"):
        read_dataset(path)


@pytest.mark.full
def test_squad_dev_holds_what_its_release_says() -> None:
    questions = read_dataset(SHARED / "dev-v1.1.pages.json.gz").questions
    assert len(questions) == 10_570
    assert sum(len(q.answers) for q in questions) == 34_726
    assert len({q.context for q in questions}) == 2_067
    for asked in questions:
        for text, start in zip(asked.answers, asked.answer_starts, strict=True):
            assert asked.context[start : start + len(text)] == text
