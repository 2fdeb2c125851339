"""The comparison of two sets of logits against plain loops over windows and tokens."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.crosscheck import HISTOGRAM_EDGES, compare, compute_reference
from harness.errors import UserError
from harness.graph import build_graph, save_graph
from harness.run import Logits, read_logits
from harness.squad import Dataset, Question
from harness.weights import Architecture, weight_shapes
from harness.windows import Windows


def case(seed: int, questions: int = 5) -> tuple[Dataset, Windows, Logits]:
    """Questions over a passage of letters, one to three windows each, and random logits."""
    random = np.random.default_rng(seed)
    context = "abcdefghijklmnopqrstuvwxyz"
    asked = tuple(Question(f"q{n}", "?", context, ("x",), (0,)) for n in range(questions))
    lengths, heads, owners, spans = [], [], [], []
    for owner in range(questions):
        for _ in range(int(random.integers(1, 4))):
            head, count = int(random.integers(2, 5)), int(random.integers(1, 20))
            spans += [(0, 0)] * head + [(i, i + 1) for i in range(count)] + [(0, 0)]
            lengths.append(head + count + 1)
            heads.append(head)
            owners.append(owner)
    total = sum(lengths)
    windows = Windows(
        random.integers(4, 50, total, dtype=np.int32),
        np.asarray(lengths, dtype=np.int32),
        np.asarray(heads, dtype=np.int32),
        np.asarray(owners, dtype=np.int32),
        np.asarray(spans, dtype=np.int32),
    )
    start, end = random.normal(0, 4, (2, total)).astype(np.float32)
    return Dataset(Path("d.json"), "0" * 64, asked), windows, Logits(start, end, windows.lengths)


def noisy(logits: Logits, seed: int, size: float) -> Logits:
    random = np.random.default_rng(seed)
    start, end = (
        (a + random.normal(0, size, a.shape)).astype(np.float32) for a in (logits.start, logits.end)
    )
    return replace(logits, start=start, end=end)


def answer(windows: Windows, logits: Logits, question: Question, index: int) -> str:
    rows = [w for w in range(len(windows)) if windows.questions[w] == index]
    parts = [slice(windows.starts[w], windows.starts[w + 1]) for w in rows]
    best = oracles.best_spans(
        [range(windows.context_starts[w], windows.lengths[w] - 1) for w in rows],
        [logits.start[part] for part in parts],
        [logits.end[part] for part in parts],
        20,
        30,
    )[0]
    spans = windows.char_spans[parts[best.window]]
    return question.context[spans[best.first][0] : spans[best.last][1]]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-6, 1e-3, 0.1, 2.0, 30.0]))
def test_comparison_is_that_of_plain_loops(seed: int, size: float) -> None:
    dataset, windows, reference = case(seed)
    actual = noisy(reference, seed + 1, size)
    found = compare(dataset, windows, actual, reference)

    differences, by_window, cosines = [], [], []
    for w in range(len(windows)):
        ours, theirs = [], []
        for token in range(windows.starts[w], windows.starts[w + 1]):
            ours += [float(actual.start[token]), float(actual.end[token])]
            theirs += [float(reference.start[token]), float(reference.end[token])]
        apart = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
        differences += apart
        by_window.append(max(apart))
        dot = math.fsum(a * b for a, b in zip(ours, theirs, strict=True))
        cosines.append(dot / math.hypot(*ours) / math.hypot(*theirs))

    assert found.max_abs_difference == pytest.approx(max(differences), rel=1e-6)
    mean = math.fsum(differences) / len(differences)
    assert found.mean_abs_difference == pytest.approx(mean, rel=1e-6)
    assert found.min_cosine == pytest.approx(min(cosines), abs=1e-12)
    equal = sum(
        answer(windows, actual, q, i) == answer(windows, reference, q, i)
        for i, q in enumerate(dataset.questions)
    )
    assert found.equal_answers == pytest.approx(100 * equal / len(dataset.questions))
    worst = sorted(by_window, reverse=True)[:10]
    assert [w["max_abs_difference"] for w in found.worst] == pytest.approx(worst, rel=1e-6)
    for entry in found.worst:
        assert entry["max_abs_difference"] == pytest.approx(by_window[entry["window"]], rel=1e-6)
        assert entry["cosine"] == pytest.approx(cosines[entry["window"]], abs=1e-12)
        owner = windows.questions[entry["window"]]
        assert entry["question"] == dataset.questions[owner].id
    assert sum(found.histogram) == len(differences)


def test_equal_logits_are_equal() -> None:
    dataset, windows, logits = case(0)
    found = asdict(compare(dataset, windows, logits, logits))
    assert found["max_abs_difference"] == found["mean_abs_difference"] == 0
    assert found["min_cosine"] == pytest.approx(1)
    assert found["equal_answers"] == 100
    assert found["histogram"] == [2 * len(windows.tokens)] + [0] * len(HISTOGRAM_EDGES)


def test_histogram_counts_each_difference_in_its_bin() -> None:
    dataset, windows, logits = case(0)
    zero = np.zeros_like(logits.start)
    reference = replace(logits, start=zero, end=zero)
    apart = [0.0, 5e-7, 5e-6, 0.05, -0.05, 0.5, 1.0, 1.5, 9.0, 11.0, -1e9]
    start = zero.copy()
    start[: len(apart)] = apart
    found = compare(dataset, windows, replace(logits, start=start, end=zero), reference)
    rest = 2 * len(zero) - len(apart)
    # Bins end at 1e-6, 1e-5, ..., 1, 10 (ends included), and the last one is open.
    assert found.histogram == [rest + 2, 1, 0, 0, 0, 2, 2, 2, 2]


def test_one_wrong_logit_is_found_and_named() -> None:
    dataset, windows, logits = case(3)
    window = len(windows) - 2
    end = logits.end.copy()
    end[windows.starts[window]] += 7
    found = compare(dataset, windows, replace(logits, end=end), logits)
    assert found.max_abs_difference == pytest.approx(7, rel=1e-6)
    assert found.worst[0]["window"] == window
    assert found.worst[0]["question"] == dataset.questions[windows.questions[window]].id
    assert [entry["max_abs_difference"] for entry in found.worst[1:]] == [0] * (
        len(found.worst) - 1
    )
    assert found.min_cosine == found.worst[0]["cosine"] < 1


def test_zero_beside_zero_agrees_and_beside_anything_else_does_not() -> None:
    dataset, windows, logits = case(1)
    zero = np.zeros_like(logits.start)
    nothing = replace(logits, start=zero, end=zero)
    assert compare(dataset, windows, nothing, nothing).min_cosine == 1
    assert compare(dataset, windows, nothing, logits).min_cosine == 0
    opposite = replace(logits, start=-logits.start, end=-logits.end)
    assert compare(dataset, windows, opposite, logits).min_cosine == pytest.approx(-1)


def test_answers_that_differ_count() -> None:
    dataset, windows, logits = case(2)
    first = windows.starts[0] + windows.context_starts[0]
    owned = slice(0, windows.starts[np.flatnonzero(windows.questions == 0)[-1] + 1])
    start, end = np.zeros((2, len(logits.start)), dtype=np.float32)
    logits = replace(logits, start=start, end=end)
    changed = start.copy()
    changed[owned] = -1
    other = end.copy()
    # Question 0 alone moves: its answer was the first letter, now it ends at the last one.
    other[first + int(windows.lengths[0]) - int(windows.context_starts[0]) - 2] = 5
    assert windows.lengths[0] - windows.context_starts[0] > 2
    found = compare(dataset, windows, replace(logits, start=changed, end=other), logits)
    assert found.equal_answers == 80


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("side", "name"), [(0, "run's"), (1, "reference")])
@pytest.mark.parametrize("window", [0, 3])
@pytest.mark.parametrize("place", [0, -1])
def test_number_that_is_none_is_an_error_with_its_window(
    value: float, side: int, name: str, window: int, place: int
) -> None:
    dataset, windows, logits = case(4)
    end = logits.end.copy()
    token = windows.starts[window] if place == 0 else windows.starts[window + 1] - 1
    end[token] = value
    pair = [logits, logits]
    pair[side] = replace(logits, end=end)
    with pytest.raises(UserError, match=rf"^1 of the {name} logits .* in window {window}\b"):
        compare(dataset, windows, *pair)


def test_logits_of_other_windows_are_an_error() -> None:
    dataset, windows, logits = case(5)
    swapped = logits.lengths[::-1].copy()
    assert not np.array_equal(swapped, logits.lengths)
    for lengths in (swapped, logits.lengths[:-1]):
        other = replace(logits, lengths=lengths)
        with pytest.raises(UserError, match="the run's logits belong to other windows"):
            compare(dataset, windows, other, logits)
        with pytest.raises(UserError, match="the reference logits belong to other windows"):
            compare(dataset, windows, logits, other)


def test_reference_is_the_graph_as_written(tmp_path: Path) -> None:
    architecture = Architecture(
        layers=2, hidden=16, heads=2, intermediate=20, vocab=50, positions=32, layer_norm_eps=1e-12
    )
    random = np.random.default_rng(0)
    weights = {
        name: random.normal(0, 0.5, shape).astype(np.float32)
        for name, shape in weight_shapes(architecture, qa_head=True).items()
    }
    save_graph(build_graph(weights, architecture, "fp32"), tmp_path / "plain.onnx")
    _, windows, _ = case(6, questions=9)
    compute_reference(tmp_path / "plain.onnx", windows, tmp_path / "reference.npz")
    found = read_logits(tmp_path / "reference.npz")
    np.testing.assert_array_equal(found.lengths, windows.lengths)
    for w, begin in enumerate(windows.starts[:-1]):
        part = slice(begin, windows.starts[w + 1])
        segments = (np.arange(windows.lengths[w]) >= windows.context_starts[w]).astype(int)
        start, end = oracles.bert_logits(weights, architecture, windows.tokens[part], segments)
        np.testing.assert_allclose(found.start[part], start, atol=1e-4)
        np.testing.assert_allclose(found.end[part], end, atol=1e-4)
