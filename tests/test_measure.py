"""Timed passes with a session whose logits and times are known, and the numbers from them."""

from __future__ import annotations

import threading
import time
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
from harness.backends import Outputs
from harness.batches import AUTO, BatchSize, plan_batches
from harness.errors import UserError
from harness.measure import (
    interval,
    qps,
    run_pass,
    run_windows,
    steady,
    summarize,
    warm_up,
    warm_up_until_steady,
)
from harness.profile import Profile, load_profile
from harness.squad import Question
from harness.windows import Float32, Int32, WindowOptions, cut_windows, load_tokenizer


class ScriptedSession:
    """Logits that follow from each token and its place; a batch takes 1/8 second a token.

    With several `streams` the first calls wait until as many have come, and each one lasts a
    random while, so that batches end in another order than they began.
    """

    def __init__(self, streams: int = 1) -> None:
        self.streams = streams
        self.inputs: list[tuple[Int32, Int32, Int32]] = []
        self._together = threading.Barrier(streams, timeout=30)
        self._random = np.random.default_rng(0)

    def run(self, input_ids: Int32, segment_ids: Int32, input_mask: Int32) -> Outputs:
        self.inputs.append((input_ids, segment_ids, input_mask))
        if self.streams > 1:
            if len(self.inputs) <= self.streams:
                self._together.wait()
            time.sleep(self._random.uniform(0, 0.01))
        start, end = logits_of(input_ids, np.arange(input_ids.shape[1]))
        # What stands on padding must reach nobody.
        padding = input_mask == 0
        seconds = float(input_mask.sum()) / 8
        return Outputs(np.where(padding, np.inf, start), np.where(padding, np.inf, end), seconds)


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


@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("batch", [1, 2, 3, 64, AUTO])
def test_logits_of_every_batch_reach_their_windows(
    tokenizer: Tokenizer, batch: BatchSize, streams: int
) -> None:
    windows = cut_windows(QUESTIONS, tokenizer, WindowOptions(16, 4, 5))
    assert len(windows) > 6
    plan = plan_batches(windows.lengths, batch, token_budget=48)
    session = ScriptedSession(min(streams, len(plan)))
    made = run_windows(session, windows, plan, "test")
    places = np.concatenate([np.arange(length) for length in windows.lengths])
    expected_start, expected_end = logits_of(windows.tokens, places)
    np.testing.assert_array_equal(made.start_logits, expected_start)
    np.testing.assert_array_equal(made.end_logits, expected_end)
    assert made.start_logits.dtype == made.end_logits.dtype == np.float32
    # In the order of the plan, whichever ended first.
    assert made.shapes == [(len(rows), windows.lengths[rows].max()) for rows in plan]
    assert made.seconds == [windows.lengths[rows].sum() / 8 for rows in plan]
    ran = [ids.shape for ids, _, _ in session.inputs]
    assert ran == made.shapes if streams == 1 else sorted(ran) == sorted(made.shapes)


def test_more_batches_than_wait_at_once_are_all_run(tokenizer: Tokenizer) -> None:
    windows = cut_windows(QUESTIONS * 5, tokenizer, WindowOptions(16, 4, 5))
    plan = plan_batches(windows.lengths, 1)
    assert len(plan) > 30
    serial = run_windows(ScriptedSession(), windows, plan, "test")
    concurrent = run_windows(ScriptedSession(2), windows, plan, "test")
    np.testing.assert_array_equal(concurrent.start_logits, serial.start_logits)
    np.testing.assert_array_equal(concurrent.end_logits, serial.end_logits)
    assert (concurrent.shapes, concurrent.seconds) == (serial.shapes, serial.seconds)


class FailingSession(ScriptedSession):
    """Fails at its third batch."""

    def run(self, input_ids: Int32, segment_ids: Int32, input_mask: Int32) -> Outputs:
        outputs = super().run(input_ids, segment_ids, input_mask)
        if len(self.inputs) >= 3:
            raise UserError("a batch failed")
        return outputs


@pytest.mark.parametrize("streams", [1, 2])
def test_a_batch_that_fails_ends_the_pass(tokenizer: Tokenizer, streams: int) -> None:
    windows = cut_windows(QUESTIONS * 5, tokenizer, WindowOptions(16, 4, 5))
    plan = plan_batches(windows.lengths, 1)
    session, before = FailingSession(streams), set(threading.enumerate())
    with pytest.raises(UserError, match="a batch failed"):
        run_windows(session, windows, plan, "test")
    assert len(session.inputs) < len(plan) / 2
    # Nothing goes on behind the error's back.
    started = set(threading.enumerate()) - before
    assert not [thread for thread in started if thread.name.startswith("ThreadPoolExecutor")]


def test_a_pass_goes_from_text_to_answers(
    tokenizer: Tokenizer, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = cut_windows(QUESTIONS, tokenizer, profile.windows)
    plan = plan_batches(windows.lengths, 2)
    expected = run_windows(ScriptedSession(), windows, plan, "test")
    clock = iter([10.0, 10.5, 12.0, 12.5])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    # rich's progress bar asks the clock as well: without it every reading is the pass's own.
    monkeypatch.setattr(measure, "progress", lambda items, label: items)
    made = run_pass(ScriptedSession(), QUESTIONS, tokenizer, profile, 2, 0, "test")
    np.testing.assert_array_equal(made.windows.tokens, windows.tokens)
    np.testing.assert_array_equal(made.execution.start_logits, expected.start_logits)
    np.testing.assert_array_equal(made.execution.end_logits, expected.end_logits)
    assert made.predictions == answer_texts(
        QUESTIONS, windows, expected.start_logits, expected.end_logits
    )
    assert list(made.predictions) == ["b", "a", "c"]
    assert made.predictions["c"] == ""
    assert (made.execution.shapes, made.execution.seconds) == (expected.shapes, expected.seconds)
    # Execution alone, and all from text to answers.
    assert (made.execution.wall_seconds, made.wall_seconds) == (1.5, 2.5)
    slim = made.without_logits()
    assert slim.execution.start_logits.size == slim.execution.end_logits.size == 0
    assert (slim.predictions, slim.execution.seconds) == (
        made.predictions,
        made.execution.seconds,
    )
    assert made.execution.start_logits.size


def test_a_pass_takes_the_token_budget(tokenizer: Tokenizer, profile: Profile) -> None:
    made = run_pass(ScriptedSession(2), QUESTIONS, tokenizer, profile, AUTO, 40, "test")
    plan = plan_batches(made.windows.lengths, AUTO, 40)
    assert made.execution.shapes == [(len(r), made.windows.lengths[r].max()) for r in plan]
    assert len({rows for rows, _ in made.execution.shapes}) > 1


@pytest.mark.parametrize("streams", [1, 2])
def test_warm_up_runs_batches_of_real_tokens(streams: int) -> None:
    session = ScriptedSession(streams)
    shapes = [(3, 16), (3, 16), (1, 5)]
    warm_up(session, shapes)
    assert sorted(ids.shape for ids, _, _ in session.inputs) == sorted(shapes)
    for ids, segments, mask in session.inputs:
        assert ids.shape == segments.shape == mask.shape
        assert ids.dtype == segments.dtype == mask.dtype == np.int32
        assert mask.all()


class Warming(ScriptedSession):
    """Each batch takes as long as the script says, then always as long as its last entry."""

    def __init__(self, script: list[float], streams: int = 1) -> None:
        super().__init__(streams)
        self.script = script

    def run(self, input_ids: Int32, segment_ids: Int32, input_mask: Int32) -> Outputs:
        made = super().run(input_ids, segment_ids, input_mask)
        place = min(len(self.inputs), len(self.script)) - 1
        return made._replace(seconds=self.script[place])


@pytest.mark.parametrize(
    ("script", "least", "batches"),
    [
        # Steady from the start: as many as were asked for, or five to see it by.
        ([1.0], 3, 5),
        ([1.0], 7, 7),
        # The last five agree within 5 %.
        ([9, 7, 5, 3, 1, 1.04, 1, 1, 1.02], 3, 9),
        # Never: twice as many as asked for, and at least twenty.
        ([1, 2] * 40, 3, 20),
        ([1, 2] * 40, 15, 30),
    ],
)
def test_warm_up_lasts_until_batches_take_equally_long(
    script: list[float], least: int, batches: int
) -> None:
    session = Warming(script)
    seconds = warm_up_until_steady(session, (2, 9), least)
    assert len(seconds) == len(session.inputs) == batches
    assert all(ids.shape == (2, 9) for ids, _, _ in session.inputs)
    assert steady(seconds) == (batches < 20)


def test_warm_up_of_several_streams_ends() -> None:
    seconds = warm_up_until_steady(Warming([1.0], streams=2), (2, 9), 3)
    assert steady(seconds) and 5 <= len(seconds) <= 20


def test_steady_is_the_last_five_within_five_per_cent() -> None:
    assert not steady([1.0] * 4)
    assert steady([9.0, 1.0, 1.0, 1.0, 1.0, 1.04])
    assert not steady([1.0, 1.0, 1.0, 1.0, 1.06])


def test_progress_keeps_items_and_order() -> None:
    assert list(measure.progress([3, 1, 2], "test")) == [3, 1, 2]
    assert list(measure.progress([], "test")) == []


def test_qps_is_upstreams() -> None:
    # ceil(10570 / 32) = 331 batches; the filled-up ones count.
    assert qps(10_570, 32, [0.02] * 331, 9.0) == pytest.approx(331 * 32 / (331 * 0.02))
    assert qps(33, 32, [1.0, 1.0], 9.0) == 32
    assert qps(32, 32, [2.0], 9.0) == 16
    assert qps(5, 1, [0.1] * 5, 9.0) == pytest.approx(10)


@given(
    st.integers(1, 200),
    st.integers(1, 64),
    st.floats(1e-4, 10, allow_nan=False),
)
def test_qps_of_constant_batches_is_batch_over_time(
    windows: int, batch: int, second: float
) -> None:
    count = -(-windows // batch)
    assert qps(windows, batch, [second] * count, 1.0) == pytest.approx(batch / second)


def test_qps_of_overlapping_batches_is_windows_over_wall() -> None:
    # 10 seconds of batches in 5 seconds of two streams; no window counts twice.
    assert qps(33, AUTO, [2.5] * 4, 5.0) == 33 / 5


def timings(
    seconds: list[list[float]], wall: list[float], batch: BatchSize = 4
) -> dict[str, object]:
    return {
        "windows": 5,
        "batch": batch,
        "questions": 6,
        "seconds": seconds,
        "execution_seconds": [0.75 * value for value in wall],
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
    # Distances from 4: 0, 4, 2, 0, 3.
    assert summary["qps_mad"] == 2 / 4
    assert summary["repeats"] == 5
    # Sorted, in ms: 250 500 750 1000 1000 1000 1500 2000 3000 6000. Linear interpolation between
    # neighbours: p50 at place 4.5, p90 at place 8.1, p99 at place 8.91, counted from 0.
    assert summary["latency_ms"] == pytest.approx({"p50": 1000, "p90": 3300, "p99": 5730})
    assert all(type(value) is float for value in summary["latency_ms"].values())


def test_summary_of_an_even_number_of_repeats_takes_the_middle() -> None:
    summary = summarize(timings([[1.0, 1.0], [2.0, 2.0]], [2.0, 6.0]))
    assert (summary["qps"], summary["qps_end_to_end"]) == (3, 2)


def test_summary_of_overlapping_batches_by_hand() -> None:
    # Execution took 3, 1.5 and 6 seconds: 5 windows in each.
    summary = summarize(timings([[2.0, 2.0]] * 3, [4.0, 2.0, 8.0], AUTO))
    assert summary["qps"] == pytest.approx(5 / 3)
    assert summary["qps_spread"] == pytest.approx((5 / 1.5 - 5 / 6) / (5 / 3))
    assert summary["qps_end_to_end"] == 6 / 4
    assert summary["latency_ms"] == {"p50": 2000, "p90": 2000, "p99": 2000}


def test_execution_times_for_other_repeats_are_an_error() -> None:
    made = timings([[1.0, 1.0]] * 5, [2.0] * 5)
    with pytest.raises(ValueError):
        summarize({**made, "execution_seconds": [1.5] * 4})


def test_equal_repeats_have_no_spread() -> None:
    summary = summarize(timings([[1.0, 1.0]] * 5, [2.0] * 5))
    assert summary["qps_spread"] == summary["qps_end_to_end_spread"] == summary["qps_mad"] == 0
    assert summary["qps_interval"] == [summary["qps"]] * 2


def test_the_interval_is_the_medians_and_always_the_same() -> None:
    values = [4.0, 8.0, 2.0, 4.5, 1.0]
    low, high = interval(values)
    # A median of five draws is 1 or 8 where three or more of them are: 5.8 % of the time each.
    assert (low, high) == (1.0, 8.0)
    assert interval(values[::-1])[0] <= 4 <= interval(values)[1]
    assert interval(values) == interval(values)
    # Of many repeats, the normal approximation: 1.2533 σ / √n each way, times 1.96.
    many = list(np.random.default_rng(1).normal(100, 2, size=401))
    low, high = interval(many)
    assert high - low == pytest.approx(2 * 1.96 * 1.2533 * 2 / 401**0.5, rel=0.25)
    assert low < np.median(many) < high
    assert interval([3.0]) == [3.0, 3.0]


def test_noise_is_a_spread_over_five_per_cent() -> None:
    assert measure.NOISE_SPREAD == 0.05
