"""LoadGen drives a session: what it asks is answered, and its logs are read and judged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Checkout

from harness.backends import Outputs
from harness.batches import AUTO, BatchSize
from harness.errors import UserError
from harness.loadgen import (
    ACCURACY,
    DETAIL,
    OFFLINE,
    SCENARIOS,
    SINGLE_STREAM,
    Compliance,
    System,
    check_compliance,
    read_performance,
    read_results,
    run_accuracy,
    run_performance,
    score_results,
)
from harness.squad import Dataset, Question
from harness.windows import Float32, Int32, Windows

pytest.importorskip("mlperf_loadgen", reason="package mlcommons-loadgen is not installed")

WORDS = ["north", "east", "south", "west", "up"]
COUNT = 24


class Session:
    """Logits that follow from each token and its place; wrong ones once `turned`."""

    def __init__(self, streams: int = 1) -> None:
        self.streams, self.turned = streams, 0.0
        self.shapes: list[tuple[int, ...]] = []

    def run(self, input_ids: Int32, segment_ids: Int32, input_mask: Int32) -> Outputs:
        self.shapes.append(input_ids.shape)
        start = np.sin(input_ids * 7.0 + self.turned).astype(np.float32)
        return Outputs(start, np.cos(input_ids * 3.0).astype(np.float32), 0.001)


@pytest.fixture
def dataset() -> Dataset:
    questions = (
        Question(str(i), "where", " ".join(WORDS[: 2 + i % 4]), ("east",), (6,))
        for i in range(COUNT)
    )
    return Dataset(Path("x.json"), "0" * 64, tuple(questions))


@pytest.fixture
def windows(dataset: Dataset) -> Windows:
    """Three tokens of question, the words, a separator; one window a question."""
    lengths, spans = [], []
    for question in dataset.questions:
        words = question.context.split(" ")
        lengths.append(3 + len(words) + 1)
        at = np.cumsum([0] + [len(word) + 1 for word in words[:-1]])
        ends = [begin + len(word) for begin, word in zip(at, words, strict=True)]
        spans += [(0, 0)] * 3 + list(zip(at, ends, strict=True)) + [(0, 0)]
    tokens = np.random.default_rng(0).integers(0, 1000, sum(lengths))
    return Windows(
        tokens.astype(np.int32),
        np.asarray(lengths, dtype=np.int32),
        np.full(COUNT, 3, dtype=np.int32),
        np.arange(COUNT, dtype=np.int32),
        np.asarray(spans, dtype=np.int32),
    )


@pytest.mark.parametrize(
    ("scenario", "batch", "streams"),
    [(OFFLINE, 1, 1), (OFFLINE, 7, 1), (OFFLINE, AUTO, 2), (SINGLE_STREAM, 1, 1)],
)
def test_both_modes_answer_every_window(
    dataset: Dataset,
    windows: Windows,
    tmp_path: Path,
    scenario: str,
    batch: BatchSize,
    streams: int,
) -> None:
    session = Session(streams)
    system = System(session, windows, batch, token_budget=40)
    assert run_accuracy(system, scenario, tmp_path / "a") > 0
    results = read_results(tmp_path / "a", windows)
    for window, logits in results:
        tokens = windows.tokens[windows.starts[window] : windows.starts[window + 1]]
        np.testing.assert_array_equal(logits[0], np.sin(tokens * 7.0).astype(np.float32))
        np.testing.assert_array_equal(logits[1], np.cos(tokens * 3.0).astype(np.float32))
    assert 0 <= score_results(dataset, windows, results).f1 <= 100
    if scenario == SINGLE_STREAM:
        assert {shape[0] for shape in session.shapes} == {1}

    run_performance(system, scenario, tmp_path / "p", 0.1, 500)
    found = read_performance(tmp_path / "p")
    assert found.qps > 0
    assert (found.latency_ms is None) == (scenario == OFFLINE)
    logged = read_results(tmp_path / "p", windows)
    compliance = check_compliance(dataset, windows, results, logged)
    assert compliance.passed and compliance.compared == compliance.identical == len(logged) > 20

    # Other answers where only speed is asked for are caught.
    session.turned = 2.0
    run_performance(system, scenario, tmp_path / "p", 0.1, 500)
    compliance = check_compliance(dataset, windows, results, read_results(tmp_path / "p", windows))
    assert not compliance.passed and compliance.identical == 0
    assert compliance.max_abs_difference > 0.1


def test_a_run_too_short_is_invalid_and_says_why(windows: Windows, tmp_path: Path) -> None:
    run_performance(System(Session(), windows, 8, 0), OFFLINE, tmp_path, 5, 1)
    found = read_performance(tmp_path)
    assert not found.valid
    assert any("Increase expected QPS" in reason for reason in found.reasons)
    assert "least duration not met" in found.reasons


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_error_in_a_batch_ends_the_run_with_it(
    windows: Windows, tmp_path: Path, scenario: str
) -> None:
    class Broken(Session):
        def run(self, input_ids: Int32, segment_ids: Int32, input_mask: Int32) -> Outputs:
            if len(self.shapes) == 2:
                raise UserError("a batch failed; try a smaller BATCH")
            return super().run(input_ids, segment_ids, input_mask)

    with pytest.raises(UserError, match="a batch failed"):
        run_accuracy(System(Broken(), windows, 1, 0), scenario, tmp_path)


def test_results_that_are_not_ours_are_an_error(
    dataset: Dataset, windows: Windows, tmp_path: Path
) -> None:
    run_accuracy(System(Session(), windows, 8, 0), OFFLINE, tmp_path)
    log = tmp_path / ACCURACY
    entries = json.loads(log.read_text())
    changes: list[Callable[[], Any]] = [
        lambda: [{**entries[0], "data": "00"}],
        lambda: [{**entries[0], "data": "xy"}],
        lambda: [{**entries[0], "qsl_idx": COUNT}],
        lambda: [{"qsl_idx": 0}],
        lambda: [7],
        lambda: 7,
    ]
    for change in changes:
        log.write_text(json.dumps(change()))
        with pytest.raises(UserError, match="does not hold our logits"):
            read_results(tmp_path, windows)
    log.write_text(json.dumps(entries[1:]))
    with pytest.raises(UserError, match="every window once"):
        score_results(dataset, windows, read_results(tmp_path, windows))
    log.unlink()
    with pytest.raises(UserError):
        read_results(tmp_path, windows)
    for text in (None, "", ":::MLLOG {", ":::MLLOG 7"):
        if text is None:
            (tmp_path / DETAIL).unlink()
        else:
            (tmp_path / DETAIL).write_text(text)
        with pytest.raises(UserError, match="states no result"):
            read_performance(tmp_path)


@pytest.mark.parametrize(("compared", "equal", "passed"), [
    (0, 0, False), (256, 256, True), (256, 255, False), (2000, 1998, True), (2000, 1997, False),
])  # fmt: skip
def test_one_answer_in_a_thousand_may_differ(compared: int, equal: int, passed: bool) -> None:
    assert Compliance(compared, 0, equal, 0.1).passed == passed


def test_a_window_that_is_asked_again_counts_again(dataset: Dataset, windows: Windows) -> None:
    def logits(window: int, shift: float = 0.0) -> Float32:
        length = int(windows.lengths[window])
        return np.full((2, length), window + shift, dtype=np.float32)

    accuracy = [(window, logits(window)) for window in range(COUNT)]
    performance = [(3, logits(3)), (5, logits(5, 0.25)), (3, logits(3))]
    found = check_compliance(dataset, windows, accuracy, performance)
    assert found == Compliance(3, 2, 3, 0.25)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_loadgen_over_the_small_dataset(checkout: Checkout, scenario: str) -> None:
    batch = "1" if scenario == SINGLE_STREAM else ""
    done = checkout.script("loadgen.py", SCENARIO=scenario, LOADGEN_SECONDS="1", BATCH=batch)
    # A busy machine may change its pace so much that LoadGen finds the run too short.
    assert done.returncode in (0, 3), done.stdout + done.stderr
    assert f"loadgen: {scenario} " in done.stdout
    (path,) = (checkout.root / "results").rglob(f"loadgen/{scenario}/loadgen.json")
    found = json.loads(path.read_text(encoding="utf-8"))
    metrics = json.loads((checkout.run / "metrics.json").read_text(encoding="utf-8"))
    for name in ("exact_match", "f1"):
        assert found["accuracy"][name] == pytest.approx(metrics[name])
    assert found["windows"] == metrics["windows"]
    assert found["performance"]["qps"] > 0
    assert found["performance"]["valid"] == (done.returncode == 0)
    assert found["compliance"]["passed"]
    assert {name.split("/")[0] for name in found["logs"]} == {"accuracy", "performance"}
    assert all((path.parent / name).is_file() for name in found["logs"])


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SCENARIO": "Server"}, "no scenario 'Server'; SCENARIO is one of Offline, SingleStream"),
        ({"SCENARIO": SINGLE_STREAM}, "asks for one window at a time; use BATCH=1"),
        ({"LOADGEN_SECONDS": "soon"}, "LOADGEN_SECONDS is 'soon'"),
    ],
)
def test_a_wrong_variable_is_one_line(
    checkout: Checkout, variables: dict[str, str], expected: str
) -> None:
    done = checkout.script("loadgen.py", **variables)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert expected in done.stderr
