"""The repository's own datasets: written for it, sound, and apart from each other."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness.paths import ROOT
from harness.squad import read_dataset
from harness.windows import WindowOptions, cut_windows, load_tokenizer

FOLDER = ROOT / "assets" / "sample"
SAMPLE, CALIBRATION = FOLDER / "sample-v1.json", FOLDER / "calibration-v1.json"
both = pytest.mark.parametrize("path", [SAMPLE, CALIBRATION], ids=lambda path: path.stem)


def paragraphs(path: Path) -> list[dict[str, Any]]:
    document = json.loads(path.read_text(encoding="utf-8"))
    return [paragraph for article in document["data"] for paragraph in article["paragraphs"]]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


@both
def test_file_is_squad(path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["version"] == "1.1"
    assert all(article["title"].strip() for article in document["data"])
    titles = Counter(article["title"] for article in document["data"])
    assert max(titles.values()) == 1
    read_dataset(path)


def test_sample_is_large_enough_to_tell_a_broken_model() -> None:
    passages = paragraphs(SAMPLE)
    assert len(passages) >= 60
    assert sum(len(passage["qas"]) for passage in passages) >= 360


@both
def test_passages_have_the_length_of_real_ones(path: Path) -> None:
    for passage in paragraphs(path):
        assert 80 <= len(passage["context"].split()) <= 600, passage["context"][:60]
        assert passage["context"] == passage["context"].strip()


@both
def test_answers_stand_where_they_say(path: Path) -> None:
    for passage in paragraphs(path):
        for entry in passage["qas"]:
            assert 1 <= len(entry["answers"]) <= 3, entry["id"]
            for answer in entry["answers"]:
                text, start = answer["text"], answer["answer_start"]
                assert text == text.strip() != "", entry["id"]
                assert passage["context"][start : start + len(text)] == text, entry["id"]
            spans = {(answer["text"], answer["answer_start"]) for answer in entry["answers"]}
            assert len(spans) == len(entry["answers"]), entry["id"]


@both
def test_answers_are_whole_words_and_short_enough_to_be_found(path: Path, vocab: Path) -> None:
    tokenizer = load_tokenizer(vocab)
    for passage in paragraphs(path):
        for entry in passage["qas"]:
            for answer in entry["answers"]:
                begin, end = answer["answer_start"], answer["answer_start"] + len(answer["text"])
                context = f" {passage['context']} "
                assert not (context[begin].isalnum() and answer["text"][0].isalnum()), entry["id"]
                assert not (context[end + 1].isalnum() and answer["text"][-1].isalnum()), entry[
                    "id"
                ]
            # At most 30 tokens are searched for: one answer at least must fit.
            shortest = min(len(tokenizer.encode(a["text"]).ids) for a in entry["answers"])
            assert shortest <= 30, entry["id"]


def test_ids_are_unique_over_both_files() -> None:
    ids = Counter(q.id for path in (SAMPLE, CALIBRATION) for q in read_dataset(path).questions)
    assert max(ids.values()) == 1


def test_no_passage_is_in_both_files_or_twice_in_one() -> None:
    contexts = Counter(
        " ".join(words(passage["context"]))
        for path in (SAMPLE, CALIBRATION)
        for passage in paragraphs(path)
    )
    assert max(contexts.values()) == 1
    # Nor is one file's passage a revision of the other's: they share no run of 12 words.
    runs = [
        {tuple(text[i : i + 12]) for p in paragraphs(path) for text in [words(p["context"])]
         for i in range(len(text) - 11)}
        for path in (SAMPLE, CALIBRATION)
    ]  # fmt: skip
    assert not runs[0] & runs[1]


@both
def test_questions_are_asked_in_words_of_their_own(path: Path) -> None:
    seen = Counter()
    for passage in paragraphs(path):
        context = f" {' '.join(words(passage['context']))} "
        for entry in passage["qas"]:
            asked = words(entry["question"])
            assert entry["question"].endswith("?"), entry["id"]
            assert len(asked) >= 3, entry["id"]
            seen[" ".join(asked)] += 1
            # Copied wording would make the question a search for a string.
            longest = next(
                (
                    size
                    for size in range(len(asked), 0, -1)
                    if any(
                        f" {' '.join(asked[i : i + size])} " in context
                        for i in range(len(asked) - size + 1)
                    )
                ),
                0,
            )
            assert longest < 8 and longest <= 0.7 * len(asked), (entry["id"], entry["question"])
    assert max(seen.values()) == 1


@both
def test_no_question_gives_its_answer_away(path: Path) -> None:
    given = 0
    questions = read_dataset(path).questions
    for asked in questions:
        text = f" {' '.join(words(asked.text))} "
        given += all(f" {' '.join(words(answer))} " in text for answer in asked.answers)
    # Choices ("iron or steel?") may name it.
    assert given <= 0.03 * len(questions)


def test_some_passages_need_several_windows(vocab: Path) -> None:
    questions = read_dataset(SAMPLE).questions
    windows = cut_windows(questions, load_tokenizer(vocab), WindowOptions(384, 128, 64))
    count = Counter(windows.questions.tolist())
    long = {questions[index].context for index, number in count.items() if number > 1}
    assert len(long) >= 3
    assert max(count.values()) >= 3
