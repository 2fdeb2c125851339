"""Timed passes with a session whose logits and times are known, and the numbers from them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from harness import measure
from harness.answers import answer_texts
from harness.measure import qps, run_pass, run_windows, summarize, warm_up
from harness.profile import Profile, load_profile
from harness.squad import Question
from harness.windows import Float32, Int32, WindowOptions, cut_windows, load_tokenizer


class ScriptedSession:
    """Logits that follow from each token and its place; batch n takes n / 8 seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.inputs: list[tuple[Int32, Int32, Int32]] = []

    def run(
        self, input_ids: Int32, segment_ids: Int32, input_mask: Int32
    ) -> tuple[Float32, Float32]:
        self.inputs.append((input_ids, segment_ids, input_mask))
        self.seconds = len(self.inputs) / 8
        start, end = logits_of(input_ids, np.arange(input_ids.shape[1]))
        # What stands on padding must reach nobody.
        padding = input_mask == 0
        return np.where(padding, np.inf, start), np.where(padding, np.inf, end)


def logits_of(tokens: npt.NDArray[np.int32], places: npt.NDArray[np.int64]) -> tuple[Float32, ...]:
    start = np.sin(tokens * 7.0 + places)
    return start.astype(np.float32), np.cos(tokens * 3.0 + places).astype(np.float32)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join(oracles.TOKENS), encoding="utf-8")
    return load_tokenizer(path)


@pytest.fixture(scope="module")
def profile() -> Profile:
    return replace(load_profile("minilm-sample"), windows=WindowOptions(16, 4, 5))


QUESTIONS = [
    Question("b", "where is the river", "the river is a river in the play", ("x",), (0,)),
    Question("a", "is", " ".join(f"r{n}" for n in range(25)), ("x",), (0,)),
    Question("c", "an empty passage", "", ("x",), (0,)),
]


@pytest.mark.parametrize("batch", [1, 2, 3, 64])
def test_logits_of_every_batch_reach_their_windows(tokenizer: Tokenizer, batch: int) -> None:
    windows = cut_windows(QUESTIONS, tokenizer, WindowOptions(16, 4, 5))
    assert len(windows) > 6
    session = ScriptedSession()
    start, end, shapes, seconds = run_windows(session, windows, batch, "test")
    places = np.concatenate([np.arange(length) for length in windows.lengths])
    expected_start, expected_end = logits_of(windows.tokens, places)
    np.testing.assert_array_equal(start, expected_start)
    np.testing.assert_array_equal(end, expected_end)
    assert start.dtype == end.dtype == np.float32
    count = math.ceil(len(windows) / batch)
    assert shapes == [ids.shape for ids, _, _ in session.inputs]
    assert [rows for rows, _ in shapes] == [batch] * count
    assert [longest for _, longest in shapes] == sorted(longest for _, longest in shapes)
    assert seconds == [n / 8 for n in range(1, count + 1)]


def test_a_pass_goes_from_text_to_answers(
    tokenizer: Tokenizer, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([10.0, 12.5])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    # rich's progress bar asks the clock as well: without it every reading is the pass's own.
    monkeypatch.setattr(measure, "progress", lambda items, label: items)
    made = run_pass(ScriptedSession(), QUESTIONS, tokenizer, profile, 2, "test")
    windows = cut_windows(QUESTIONS, tokenizer, profile.windows)
    start, end, shapes, seconds = run_windows(ScriptedSession(), windows, 2, "test")
    np.testing.assert_array_equal(made.windows.tokens, windows.tokens)
    np.testing.assert_array_equal(made.start_logits, start)
    np.testing.assert_array_equal(made.end_logits, end)
    assert made.predictions == answer_texts(QUESTIONS, windows, start, end)
    assert list(made.predictions) == ["b", "a", "c"]
    assert made.predictions["c"] == ""
    assert (made.shapes, made.seconds, made.wall_seconds) == (shapes, seconds, 2.5)
    slim = made.without_logits()
    assert slim.start_logits.size == slim.end_logits.size == 0
    assert (slim.predictions, slim.seconds) == (made.predictions, made.seconds)
    assert made.start_logits.size


def test_warm_up_runs_full_batches_of_real_tokens() -> None:
    session = ScriptedSession()
    warm_up(session, 3, 16, 4)
    assert len(session.inputs) == 4
    for ids, segments, mask in session.inputs:
        assert ids.shape == segments.shape == mask.shape == (3, 16)
        assert ids.dtype == segments.dtype == mask.dtype == np.int32
        assert mask.all()


def test_progress_keeps_items_and_order() -> None:
    assert list(measure.progress([3, 1, 2], "test")) == [3, 1, 2]
    assert list(measure.progress([], "test")) == []


def test_qps_is_upstreams() -> None:
    # ceil(10570 / 32) = 331 batches; the filled-up ones count.
    assert qps(10_570, 32, [0.02] * 331) == pytest.approx(331 * 32 / (331 * 0.02))
    assert qps(33, 32, [1.0, 1.0]) == 32
    assert qps(32, 32, [2.0]) == 16
    assert qps(5, 1, [0.1] * 5) == pytest.approx(10)


@given(
    st.integers(1, 200),
    st.integers(1, 64),
    st.floats(1e-4, 10, allow_nan=False),
)
def test_qps_of_constant_batches_is_batch_over_time(
    windows: int, batch: int, second: float
) -> None:
    count = -(-windows // batch)
    assert qps(windows, batch, [second] * count) == pytest.approx(batch / second)


def timings(seconds: list[list[float]], wall: list[float]) -> dict[str, object]:
    return {
        "windows": 5,
        "batch": 4,
        "questions": 6,
        "seconds": seconds,
        "wall_seconds": wall,
    }


def test_summary_by_hand() -> None:
    # Eight windows count. Sums: 2, 1, 4, 2, 8 seconds: 4, 8, 2, 4, 1 windows a second.
    seconds = [[1.0, 1.0], [0.25, 0.75], [1.0, 3.0], [0.5, 1.5], [2.0, 6.0]]
    summary = summarize(timings(seconds, [3.0, 2.0, 6.0, 1.5, 12.0]))
    assert summary["qps"] == 4
    assert summary["qps_spread"] == pytest.approx((8 - 1) / 4)
    # 6 questions in those walls: 2, 3, 1, 4, 0.5.
    assert summary["qps_end_to_end"] == 2
    assert summary["qps_end_to_end_spread"] == pytest.approx((4 - 0.5) / 2)
    assert summary["repeats"] == 5
    # Sorted, in ms: 250 500 750 1000 1000 1000 1500 2000 3000 6000. Linear interpolation between
    # neighbours: p50 at place 4.5, p90 at place 8.1, p99 at place 8.91, counted from 0.
    assert summary["latency_ms"] == pytest.approx({"p50": 1000, "p90": 3300, "p99": 5730})
    assert all(type(value) is float for value in summary["latency_ms"].values())


def test_summary_of_an_even_number_of_repeats_takes_the_middle() -> None:
    summary = summarize(timings([[1.0, 1.0], [2.0, 2.0]], [2.0, 6.0]))
    assert (summary["qps"], summary["qps_end_to_end"]) == (3, 2)


def test_equal_repeats_have_no_spread() -> None:
    summary = summarize(timings([[1.0, 1.0]] * 5, [2.0] * 5))
    assert summary["qps_spread"] == summary["qps_end_to_end_spread"] == 0


def test_noise_is_a_spread_over_five_per_cent() -> None:
    assert measure.NOISE_SPREAD == 0.05
