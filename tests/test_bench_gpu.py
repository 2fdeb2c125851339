"""The comparison of networks on a GPU, with systems that need none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from test_plugin_backend import ARCHITECTURE

from harness.batches import Batch
from harness.bench.gpu_cases import cases, half_weights
from harness.bench.gpu_chart import svg
from harness.bench.gpu_compare import compare, load
from harness.bench.gpu_report import markdown
from harness.bench.gpu_systems import GpuModel, GpuSystem, Loaded, Logits, systems
from harness.bench.kernel_shapes import LENGTH, VOCAB, read_lengths
from harness.errors import UserError
from harness.weights import check_weights

LENGTHS = read_lengths()[0]


class Known:
    """Takes `seconds` for a batch; its logits are the ids, times `factor`."""

    def __init__(self, seconds: float, factor: float = 1.0) -> None:
        self.seconds, self.factor = seconds, factor
        self.ran = 0

    def prepare(self, batch: Batch) -> Batch:
        return batch

    def run(self, prepared: Sequence[Batch]) -> float:
        self.ran += len(prepared)
        return self.seconds * len(prepared)

    def logits(self, prepared: Batch) -> Logits:
        values = (prepared.input_ids * self.factor).astype(np.float32)
        # What is at padding is nobody's business.
        return np.where(prepared.input_mask == 1, values, np.nan), values


class Floor(Known):
    def logits(self, prepared: Batch) -> Any:
        return None


def test_cases_are_the_dataset_in_sorted_batches() -> None:
    full, one, small, large = cases(LENGTHS)
    assert full.batches[0].input_mask.all() and full.batches[0].input_ids.shape == (32, LENGTH)
    assert one.windows == len(one.batches) * one.again
    for case, size in ((small, 32), (large, 128)):
        assert all(len(batch.rows) == size for batch in case.batches)
        mean = case.tokens / case.windows
        assert abs(mean / np.mean(LENGTHS) - 1) < 0.01
        longest = [batch.input_mask.shape[1] for batch in case.batches]
        assert longest == sorted(longest) and longest[0] < longest[-1]
        for batch in case.batches:
            padding = batch.input_mask == 0
            assert not batch.input_ids[padding].any() and not batch.segment_ids[padding].any()
            assert batch.input_ids.max() < VOCAB and (batch.input_ids[~padding] > 0).all()


def test_weights_are_float16_numbers() -> None:
    weights = half_weights(ARCHITECTURE)
    check_weights(weights, ARCHITECTURE, qa_head=True)
    for value in weights.values():
        assert np.array_equal(value, value.astype(np.float16))


def test_rates_and_turns() -> None:
    case = cases(LENGTHS)[0]
    known = {"a": Known(0.5), "b": Known(0.25), "floor": Floor(0.1)}
    found = compare(dict(known), dict.fromkeys(known, 0.02), case, 5, {})
    assert found["systems"]["a"]["windows_per_s"] == pytest.approx(64)
    assert found["systems"]["b"]["milliseconds_a_batch"] == pytest.approx(250)
    assert len(found["systems"]["b"]["repeats"]) == 5
    assert found["systems"]["a"]["difference"] == 0
    assert found["systems"]["floor"]["difference"] is None
    assert known["a"].ran == known["b"].ran == 7 * case.again


def test_a_system_may_round_as_much_as_its_kind_does() -> None:
    known = {"a": Known(1), "b": Known(1), "narrow": Known(1, 1.1)}
    tolerances = {"a": 0.02, "b": 0.02, "narrow": 0.2}
    found = compare(dict(known), tolerances, cases(LENGTHS)[1], 5, {})
    assert found["systems"]["narrow"]["difference"] == pytest.approx(0.1)


@pytest.mark.parametrize("factor", [1.1, float("nan")])
def test_another_function_is_not_timed(factor: float) -> None:
    loaded: dict[str, Loaded] = {"a": Known(1), "b": Known(1), "c": Known(1, factor)}
    with pytest.raises(UserError, match="is off by"):
        compare(loaded, dict.fromkeys(loaded, 0.02), cases(LENGTHS)[1], 5, {})


def test_a_system_that_is_not_here_is_left_out_with_the_reason(tmp_path: Any) -> None:
    def missing(model: GpuModel) -> Loaded:
        raise ImportError("no module\nnamed so")

    model = GpuModel(half_weights(ARCHITECTURE), ARCHITECTURE, tmp_path, tmp_path / "none.so", 1, 1)
    chosen = [GpuSystem("a", "A", missing), GpuSystem("b", "B", lambda model: Known(1))]
    loaded, reasons = load(chosen, model)
    assert list(loaded) == ["b"] and reasons == {"a": "no module named so"}
    ours = next(system for system in systems() if system.key == "ours")
    assert "make plugin" in load([ours], model)[1]["ours"]


def test_the_table_has_every_number() -> None:
    known = {"ours": Known(0.5), "peer": Known(0.75), "slow": Known(0.8), "floor": Floor(0.4)}
    chosen = [GpuSystem(key, key.upper(), None) for key in [*known, "b"]]  # type: ignore[arg-type]
    tolerances = dict.fromkeys(known, 0.02)
    results = [compare(dict(known), tolerances, case, 5, {}) for case in cases(LENGTHS)]
    found = {
        "device": "a card",
        "driver": None,
        "versions": {"PyTorch": "2"},
        "finished": "2026-01-01T00:00:00Z",
        "commit": None,
        "dirty": None,
        "repeats": 5,
        "lengths": "made",
        "cases": results,
        "left_out": {"b": "not here"},
    }
    text = markdown(found, chosen)
    assert "| OURS " in text and "64 (0.0%)" in text and "256 (0.0%)" in text
    assert "OURS 500.000" in text and "left out: b: not here" in text
    beside = {line.split("|")[1].strip(): line for line in text.splitlines() if "here, " in line}
    assert beside["FP16 here, of the floor's speed"].count(" 0.80 ") == 4
    assert beside["FP16 here, beside the best peer"].count(" 1.50 ") == 4
    drawing = svg(found, chosen)
    assert drawing.count("<rect") == 1 + 4 * len(known)
    assert drawing.count('class="ours"') == 4 and "windows a second" in drawing
