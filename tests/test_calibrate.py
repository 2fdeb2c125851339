"""Scales measured on text, against ONNX Runtime's own calibrators and plain sorting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxruntime.quantization import CalibrationDataReader
from onnxruntime.quantization.calibrate import MinMaxCalibrater, PercentileCalibrater
from test_graph import architecture_of, random_weights

from harness.backends.ort import OrtSession
from harness.batches import assemble
from harness.calibrate import Method, _Largest, calibrate, center, find_centers
from harness.errors import UserError
from harness.graph import build_graph, save_graph
from harness.scales import (
    FP8_MAX,
    INT8_MAX,
    Scales,
    check_outputs,
    check_scales,
    save_scales,
    to_scale,
)
from harness.weights import Weights
from harness.windows import Windows

ARCHITECTURE = architecture_of(2)
LENGTHS = (17, 40, 9, 33, 40, 12)
# The activations' names in the graph, written out again.
TENSORS = {
    "layer.0.attention.input": "embeddings.norm",
    "layer.1.attention.input": "layer.0.ffn.norm",
    "qa.input": "layer.1.ffn.norm",
    **{
        f"layer.{i}.{name}": f"layer.{i}.{tensor}"
        for i in range(2)
        for name, tensor in {
            "attention.queries": "attention.query.add",
            "attention.keys": "attention.key.add",
            "attention.values": "attention.value.add",
            "attention.probabilities": "attention.probabilities",
            "attention.context": "attention.context.merged",
            "ffn.input": "attention.norm",
            "ffn.inner": "ffn.gelu",
        }.items()
    },
}

OUTPUTS = {
    **{
        f"layer.{i}.{linear}": f"layer.{i}.{linear}.matmul"
        for i in range(2)
        for linear in (
            *(f"attention.{part}" for part in ("query", "key", "value", "output")),
            *("ffn.in", "ffn.out"),
        )
    },
    **{f"layer.{i}.attention.scores": f"layer.{i}.attention.scaled" for i in range(2)},
}


def windows_of(lengths: tuple[int, ...], seed: int = 3) -> Windows:
    random = np.random.default_rng(seed)
    total = sum(lengths)
    return Windows(
        random.integers(1, 50, total).astype(np.int32),
        np.asarray(lengths, np.int32),
        np.asarray([length // 3 for length in lengths], np.int32),
        np.arange(len(lengths), dtype=np.int32),
        np.zeros((total, 2), np.int32),
    )


WINDOWS = windows_of(LENGTHS)


def off_center_weights() -> Weights:
    """Random weights whose hidden states have channels far from zero, as trained ones do."""
    weights = random_weights(ARCHITECTURE)
    for index, norm in enumerate(sorted(n for n in weights if n.endswith("norm.beta"))):
        weights[norm][7 * index : 7 * index + 3] += (12, -8, 5)
    return weights


@pytest.fixture(scope="module")
def weights() -> Weights:
    return off_center_weights()


@pytest.fixture(scope="module")
def graph(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibrate") / "fp32.onnx"
    save_graph(build_graph(weights, ARCHITECTURE, "fp32"), path)
    return path


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """One window a step, as ONNX Runtime's calibrators read them."""

    def __init__(self, rows: list[int]) -> None:
        batches = (assemble(WINDOWS, np.asarray([row])) for row in rows)
        self.steps = iter(
            [
                {n: getattr(b, n) for n in ("input_ids", "segment_ids", "input_mask")}
                for b in batches
            ]
        )

    def get_next(self) -> Any:
        return next(self.steps, None)


def largest_of(calibrator: Any) -> dict[str, float]:
    """Each activation's largest magnitude as ONNX Runtime's `calibrator` finds it."""
    calibrator.augment_graph()
    calibrator.create_inference_session()
    for row in range(len(WINDOWS)):
        calibrator.collect_data(Reader([row]))
    found = calibrator.compute_data()
    named = {**TENSORS, **OUTPUTS}
    return {name: np.abs(found[tensor].range_value).max() for name, tensor in named.items()}


def int8_scales(scales: Scales) -> dict[str, np.float32]:
    return {**scales.activations, **scales.outputs}


def scale_of(amax: float, largest: float) -> np.float32:
    """The scale in float16, which has 11 bits."""
    return np.float32(np.float16(amax / largest))


def test_largest_magnitudes_are_those_of_onnxruntime(
    graph: Path, weights: Weights, tmp_path: Path
) -> None:
    scales = calibrate(graph, WINDOWS, weights, ARCHITECTURE, Method(100))
    oracle = largest_of(MinMaxCalibrater(graph, augmented_model_path=str(tmp_path / "a.onnx")))
    assert set(scales.activations) == set(scales.fp8_activations) == set(TENSORS)
    assert set(scales.outputs) == set(OUTPUTS)
    for name, amax in oracle.items():
        assert amax > 0.1
        np.testing.assert_allclose(int8_scales(scales)[name], amax / INT8_MAX, rtol=1e-3)
    for name in TENSORS:
        np.testing.assert_allclose(scales.fp8_activations[name], oracle[name] / FP8_MAX, rtol=1e-3)


def test_percentiles_are_those_of_onnxruntime(
    graph: Path, weights: Weights, tmp_path: Path
) -> None:
    percentile = 99.0
    scales = calibrate(graph, WINDOWS, weights, ARCHITECTURE, Method(percentile))
    everything = calibrate(graph, WINDOWS, weights, ARCHITECTURE, Method(100))
    # Ten times as many outputs lie beyond their range.
    oracles_of = {
        p: largest_of(
            PercentileCalibrater(
                graph,
                augmented_model_path=str(tmp_path / "a.onnx"),
                symmetric=True,
                num_bins=4096,
                percentile=p,
            )
        )
        for p in (99.0, 90.0)
    }
    oracle = {n: amax for n, amax in oracles_of[99.0].items() if n not in OUTPUTS}
    oracle |= {n: amax for n, amax in oracles_of[90.0].items() if n in OUTPUTS}
    clipped = 0
    found, unclipped = int8_scales(scales), int8_scales(everything)
    for name, amax in oracle.items():
        if name.endswith(("probabilities", "scores")):
            assert found[name] == unclipped[name]
        else:
            # It answers with the edge of a bin; some are empty here, between two magnitudes.
            np.testing.assert_allclose(found[name] * INT8_MAX, amax, rtol=0.02, err_msg=name)
            clipped += found[name] < 0.9 * unclipped[name]
    assert clipped > 4
    assert scales.fp8_activations == everything.fp8_activations


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30), min_size=1, max_size=8
    ),
    st.integers(1, 40),
)
def test_kept_magnitudes_are_the_largest(parts: list[list[float]], count: int) -> None:
    largest = _Largest(count)
    for part in parts:
        largest.add(np.asarray(part, np.float32))
    expected = sorted((abs(value) for part in parts for value in part), reverse=True)[:count]
    assert largest.greatest == np.float32(expected[0])
    assert largest.least == np.float32(expected[-1])


def test_weights_have_a_scale_for_each_output(graph: Path, weights: Weights) -> None:
    scales = calibrate(graph, WINDOWS, weights, ARCHITECTURE, Method())
    check_scales(scales, weights, ARCHITECTURE)
    check_outputs(scales, ARCHITECTURE)
    linears = {n.removesuffix(".weight") for n in weights if n.endswith(".weight")}
    assert set(scales.weights) == set(scales.fp8_weights) == linears
    for linear in linears:
        for row, output in enumerate(weights[f"{linear}.weight"]):
            amax = float(np.abs(output).max())
            assert scales.weights[linear][row] == scale_of(amax, 127)
            assert scales.fp8_weights[linear][row] == scale_of(amax, 448)


def test_same_inputs_give_the_same_bytes(graph: Path, weights: Weights, tmp_path: Path) -> None:
    files = [tmp_path / f"{index}.safetensors" for index in range(3)]
    for path, method in zip(files, (Method(99.9), Method(99.9), Method(99.8)), strict=True):
        save_scales(calibrate(graph, WINDOWS, weights, ARCHITECTURE, method), path)
    first, second, third = (path.read_bytes() for path in files)
    assert first == second
    assert first != third


def test_every_window_counts(graph: Path, weights: Weights) -> None:
    all_of_them = calibrate(graph, WINDOWS, weights, ARCHITECTURE, Method(100))
    single = [
        calibrate(graph, windows_of_row(row), weights, ARCHITECTURE, Method(100))
        for row in range(len(WINDOWS))
    ]
    for name, scale in int8_scales(all_of_them).items():
        assert scale == max(int8_scales(scales)[name] for scales in single)
    # No one window has all the largest magnitudes.
    assert all(scales.activations != all_of_them.activations for scales in single)


def windows_of_row(row: int) -> Windows:
    part = slice(WINDOWS.starts[row], WINDOWS.starts[row + 1])
    return Windows(
        WINDOWS.tokens[part],
        WINDOWS.lengths[row : row + 1],
        WINDOWS.context_starts[row : row + 1],
        np.zeros(1, np.int32),
        WINDOWS.char_spans[part],
    )


def test_centered_weights_are_the_same_function(graph: Path, weights: Weights) -> None:
    before = {name: weight.copy() for name, weight in weights.items()}
    centers = find_centers(graph, WINDOWS, ARCHITECTURE)
    centered = center(weights, ARCHITECTURE, centers)
    for name, weight in before.items():
        np.testing.assert_array_equal(weights[name], weight)
        assert centered[name].dtype == np.float32
        changed = not np.array_equal(centered[name], weight)
        assert changed == (name.endswith((".beta", ".bias"))), name
    for row in range(len(WINDOWS)):
        batch = assemble(WINDOWS, np.asarray([row]))
        given_ids = batch.input_ids[0], batch.segment_ids[0]
        expected = oracles.bert_logits(weights, ARCHITECTURE, *given_ids)
        found = oracles.bert_logits(centered, ARCHITECTURE, *given_ids)
        # Betas and biases are rounded to float32; everything else here is float64.
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_centers_of_another_model_are_an_error(graph: Path, weights: Weights) -> None:
    centers = find_centers(graph, WINDOWS, ARCHITECTURE)
    short = {**centers, "layer.1.ffn.norm": centers["layer.1.ffn.norm"][:-1]}
    for wrong, message in ((short, r"norm has a center \(63,\)"), ({}, "norm is missing")):
        with pytest.raises(UserError, match=f"{message}.*; run `make scales` again"):
            center(weights, ARCHITECTURE, wrong)


def test_centered_hidden_states_reach_as_far_to_both_sides(
    graph: Path, weights: Weights, tmp_path: Path
) -> None:
    centered = center(weights, ARCHITECTURE, find_centers(graph, WINDOWS, ARCHITECTURE))
    path = tmp_path / "centered.onnx"
    save_graph(build_graph(centered, ARCHITECTURE, "fp32"), path)
    left = find_centers(path, WINDOWS, ARCHITECTURE)
    assert set(left) == {n.removesuffix(".beta") for n in weights if n.endswith(".beta")}
    for middle in left.values():
        assert middle.shape == (ARCHITECTURE.hidden,)
        np.testing.assert_allclose(middle, 0, atol=1e-4)
    off = calibrate(graph, WINDOWS, weights, ARCHITECTURE, Method(100))
    on = calibrate(path, WINDOWS, centered, ARCHITECTURE, Method(100))
    for name in ("layer.0.ffn.input", "layer.1.attention.input", "qa.input"):
        assert on.activations[name] < 0.7 * off.activations[name]
    for name in ("layer.0.ffn.inner", "layer.1.attention.context"):
        np.testing.assert_allclose(on.activations[name], off.activations[name], rtol=2e-3)


def test_centering_makes_the_quantized_graph_more_accurate(
    graph: Path, weights: Weights, tmp_path: Path
) -> None:
    centered = center(weights, ARCHITECTURE, find_centers(graph, WINDOWS, ARCHITECTURE))
    reference = OrtSession(graph, optimized=False)
    errors = []
    for index, given_weights in enumerate((weights, centered)):
        plain, quantized = tmp_path / f"{index}.onnx", tmp_path / f"{index}-int8.onnx"
        save_graph(build_graph(given_weights, ARCHITECTURE, "fp32"), plain)
        scales = calibrate(plain, WINDOWS, given_weights, ARCHITECTURE, Method(100))
        save_graph(build_graph(given_weights, ARCHITECTURE, "fp32", scales), quantized)
        session = OrtSession(quantized, optimized=False)
        errors.append(mean_error(session, reference))
    assert 0 < errors[1] < 0.7 * errors[0]


def mean_error(session: OrtSession, reference: OrtSession) -> float:
    differences: list[npt.NDArray[np.float32]] = []
    for row in range(len(WINDOWS)):
        batch = assemble(WINDOWS, np.asarray([row]))
        inputs = batch.input_ids, batch.segment_ids, batch.input_mask
        found, expected = session.run(*inputs), reference.run(*inputs)
        differences += [np.abs(f - e).ravel() for f, e in zip(found, expected, strict=True)]
    return float(np.concatenate(differences).mean())


@pytest.mark.parametrize("percentile", [0, -1, 100.001, float("nan")])
def test_percentile_out_of_range_is_an_error(percentile: float) -> None:
    with pytest.raises(UserError, match=r"not in \(0, 100\]"):
        Method(percentile)


def test_no_windows_is_an_error(graph: Path, weights: Weights) -> None:
    with pytest.raises(UserError, match="no windows"):
        calibrate(graph, windows_of(()), weights, ARCHITECTURE, Method())


def test_file_that_is_no_graph_of_ours_is_an_error(
    graph: Path, weights: Weights, tmp_path: Path
) -> None:
    path = tmp_path / "x.onnx"
    with pytest.raises(UserError, match=r"does not exist; run `make onnx`"):
        find_centers(path, WINDOWS, ARCHITECTURE)
    path.write_bytes(b"no model")
    with pytest.raises(UserError, match="whole ONNX file"):
        find_centers(path, WINDOWS, ARCHITECTURE)
    model = onnx.load(graph)
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = "h" if name == "layer.1.ffn.gelu" else name
    onnx.save(model, path)
    with pytest.raises(UserError, match=r"no tensor layer\.1\.ffn\.gelu"):
        calibrate(path, WINDOWS, weights, ARCHITECTURE, Method())


def test_window_that_the_graph_cannot_take_is_an_error(graph: Path, weights: Weights) -> None:
    unknown = replace(WINDOWS, tokens=WINDOWS.tokens + 1000)
    with pytest.raises(UserError, match="failed on a window"):
        calibrate(graph, unknown, weights, ARCHITECTURE, Method())


def test_activation_that_is_not_finite_is_an_error(weights: Weights, tmp_path: Path) -> None:
    wild = {**weights, "layer.1.ffn.in.bias": weights["layer.1.ffn.in.bias"] + np.float32(np.inf)}
    path = tmp_path / "x.onnx"
    save_graph(build_graph(wild, ARCHITECTURE, "fp32"), path)
    with pytest.raises(UserError, match=r"layer\.1\.ffn\.\w+ in .* is not finite"):
        calibrate(path, WINDOWS, wild, ARCHITECTURE, Method())


def test_scale_beyond_float16_is_an_error() -> None:
    with pytest.raises(UserError, match="beyond any scale"):
        to_scale(1e9, INT8_MAX)
