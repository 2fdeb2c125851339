"""Scales: float16 numbers that cover their tensors, kept bit by bit, and refused when unsound."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_bert import architecture_of, fitting_scales, random_weights

from harness.errors import UserError
from harness.paths import ROOT
from harness.scales import (
    FP8_MAX,
    INT8_MAX,
    Scales,
    check_outputs,
    check_scales,
    gemm_inputs,
    output_names,
    quantize_weight,
    read_scales,
    save_scales,
    to_scale,
    weight_scales,
)
from harness.weights import weight_shapes

ARCHITECTURE = architecture_of(2)
WEIGHTS = random_weights(ARCHITECTURE)
SCALES = fitting_scales(WEIGHTS, ARCHITECTURE)
SMALLEST = Fraction(1, 2**14)  # float16's smallest normal number
LARGEST = st.sampled_from([INT8_MAX, FP8_MAX])
GROUPS = ("activations", "weights", "fp8_activations", "fp8_weights", "centers", "outputs")


def full() -> Scales:
    """Scales with everything in every group."""
    attention = ("queries", "keys", "values", "probabilities")
    names = (f"layer.{i}.attention.{name}" for i in range(2) for name in attention)
    return replace(
        SCALES,
        activations={**SCALES.activations, **dict.fromkeys(names, np.float32(0.125))},
        fp8_activations={n: s * np.float32(0.25) for n, s in SCALES.activations.items()},
        fp8_weights={n: s * np.float32(0.25) for n, s in SCALES.weights.items()},
        centers={
            name.removesuffix(".beta"): np.linspace(-1, 1, 64, dtype=np.float32)
            for name in WEIGHTS
            if name.endswith(".beta")
        },
        outputs={n: np.float32(0.5 + i) for i, n in enumerate(output_names(ARCHITECTURE))},
        origin={"method": {"percentile": 99.9}, "text": "Sätze \u2028", "windows": 7},
    )


@given(st.floats(0, 1e6, allow_subnormal=True), LARGEST)
def test_scale_is_the_nearest_float16(amax: float, largest: float) -> None:
    scale = to_scale(amax, largest)
    assert scale.dtype == np.float32 and scale.shape == ()
    assert np.float32(np.float16(scale)) == scale
    exact = Fraction(amax) / Fraction(largest)
    if exact <= SMALLEST:
        assert Fraction(float(scale)) == SMALLEST
    else:
        # A normal float16 has 11 significant bits.
        assert abs(Fraction(float(scale)) - exact) <= exact / 2**11


def test_scales_keep_the_shape_of_amax() -> None:
    amax = np.asarray([[0.0, 1.0], [127.0, 1e-9]])
    scales = to_scale(amax, INT8_MAX)
    assert scales.tolist() == [[2**-14, float(np.float16(1 / 127))], [1.0, 2**-14]]


@pytest.mark.parametrize("amax", [np.nan, np.inf, 65504 * 127 * 1.01, [1.0, np.inf]])
def test_amax_beyond_any_scale_is_an_error(amax: Any) -> None:
    with pytest.raises(UserError, match="beyond any scale; check the weights"):
        to_scale(amax, INT8_MAX)


def test_largest_amax_still_has_a_scale() -> None:
    assert float(to_scale(65504 * INT8_MAX, INT8_MAX)) == 65504


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.floats(-3, 3))
def test_weights_come_back_within_half_a_step(seed: int, magnitude: float) -> None:
    random = np.random.default_rng(seed)
    sizes = 10 ** random.uniform(magnitude - 1, magnitude + 1, (5, 1))
    weight = random.normal(0, sizes, (5, 9)).astype(np.float32)
    weight[2] = 0
    scales = weight_scales(weight, INT8_MAX)
    assert scales.dtype == np.float32 and scales.shape == (5,)
    integers = quantize_weight(weight, scales)
    assert integers.dtype == np.int8 and integers.shape == weight.shape
    assert integers.min() >= -127 and not integers[2].any()
    # Half a step, and what rounding the scale takes from the largest one.
    error = np.abs(integers * scales[:, None] - weight)
    assert np.all(error <= scales[:, None] * (0.5 + 127 / 2**11))
    # The range is used: the largest weight of a channel is at its end, or all but.
    used = np.abs(integers).max(axis=1)[scales > 2**-14]
    assert np.all(used >= 126)


def test_rounding_is_half_to_even_and_stops_at_127() -> None:
    weight = np.asarray([[0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127.4, 500, -127.6, -500]], np.float32)
    integers = quantize_weight(weight, np.ones(1, np.float32))
    assert integers.tolist() == [[0, 2, 2, 0, -2, 126, 127, 127, -127, -127]]


def test_channels_have_their_own_scale() -> None:
    weight = np.asarray([[127, -1], [0.5, 0.25]], np.float32)
    scales = weight_scales(weight, INT8_MAX)
    assert scales.tolist() == [1.0, float(np.float16(0.5 / 127))]
    assert quantize_weight(weight, scales).tolist() == [[127, -1], [127, 64]]


def test_every_linear_takes_an_activation() -> None:
    taken = gemm_inputs(ARCHITECTURE)
    linears = {
        name.removesuffix(".weight")
        for name, shape in weight_shapes(ARCHITECTURE, qa_head=True).items()
        if len(shape) == 2 and name.endswith(".weight")
    }
    assert taken.keys() == linears
    for layer in ("layer.0", "layer.1"):
        parts = {taken[f"{layer}.attention.{part}"] for part in ("query", "key", "value")}
        assert parts == {f"{layer}.attention.input"}
        assert taken[f"{layer}.attention.output"] == f"{layer}.attention.context"
        assert taken[f"{layer}.ffn.in"] == f"{layer}.ffn.input"
        assert taken[f"{layer}.ffn.out"] == f"{layer}.ffn.inner"
    assert taken["qa"] == "qa.input"


def test_scales_come_back_bit_by_bit(tmp_path: Path) -> None:
    path = tmp_path / "scales.safetensors"
    save_scales(full(), path)
    again = read_scales(path)
    assert again.origin == full().origin
    for group in GROUPS:
        written, found = getattr(full(), group), getattr(again, group)
        assert written and written.keys() == found.keys()
        for name, value in written.items():
            assert np.asarray(found[name]).dtype == np.float32
            assert np.asarray(found[name]).tobytes() == np.asarray(value).tobytes()
            assert np.shape(found[name]) == np.shape(value)


def test_files_without_outputs_are_read(tmp_path: Path) -> None:
    path, older = tmp_path / "scales.safetensors", replace(full(), outputs={})
    save_scales(full(), path)
    tensors = safetensors.numpy.load_file(path)
    save_scales(older, path)
    # All else is the same file.
    left = safetensors.numpy.load_file(path)
    assert left.keys() == {name for name in tensors if not name.startswith("output.")}
    assert all(left[name].tobytes() == tensors[name].tobytes() for name in left)
    again = read_scales(path)
    assert again.outputs == {} and again.activations == older.activations
    check_scales(again, WEIGHTS, ARCHITECTURE)


SAVE = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from test_scales import full
from harness.scales import save_scales
save_scales(full(), Path(sys.argv[1]))
"""


def test_same_scales_give_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "scales.safetensors"
    save_scales(full(), path)
    first = path.read_bytes()
    # Order is no part of the scales.
    turned = {
        name: dict(reversed(value.items())) if isinstance(value, dict) else value
        for name, value in vars(full()).items()
    }
    # The library orders its tables by chance.
    for _ in range(10):
        save_scales(Scales(**turned), path)
        assert path.read_bytes() == first
    folders = [str(ROOT / "scripts"), str(ROOT / "tests")]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", SAVE, str(path), *folders], env=environment, check=True)
    assert path.read_bytes() == first
    save_scales(replace(full(), origin={}), path)
    assert path.read_bytes() != first


def test_outputs_are_of_what_a_layer_quantizes() -> None:
    assert set(output_names(ARCHITECTURE)) == {
        f"layer.{i}.{name}"
        for i in range(2)
        for name in (
            *(f"attention.{n}" for n in ("query", "key", "value", "scores", "output")),
            *("ffn.in", "ffn.out"),
        )
    }


def test_sound_scales_pass() -> None:
    check_scales(SCALES, WEIGHTS, ARCHITECTURE)
    check_scales(full(), WEIGHTS, ARCHITECTURE)
    check_outputs(full(), ARCHITECTURE)
    # The QA head may stay in float.
    check_scales(fitting_scales(WEIGHTS, ARCHITECTURE, qa=False), WEIGHTS, ARCHITECTURE)
    weights = {n: s for n, s in full().fp8_weights.items() if n != "qa"}
    check_scales(replace(full(), fp8_weights=weights), WEIGHTS, ARCHITECTURE)
    # What not every source has.
    for groups in (("fp8_activations", "fp8_weights"), ("centers",), ("outputs",)):
        check_scales(replace(full(), **{name: {} for name in groups}), WEIGHTS, ARCHITECTURE)


def test_outputs_may_be_needed() -> None:
    with pytest.raises(UserError, match=r"TensorRT 8\.6 and ixRT needs; run `make scales` again"):
        check_outputs(replace(full(), outputs={}), ARCHITECTURE)


def without(group: str, name: str) -> Scales:
    left = {key: value for key, value in getattr(full(), group).items() if key != name}
    return replace(full(), **{group: left})


def with_value(group: str, name: str, value: Any) -> Scales:
    return replace(full(), **{group: {**getattr(full(), group), name: value}})


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        (without("activations", "layer.1.ffn.inner"), "scales of layer.1.ffn.out are missing"),
        (without("weights", "layer.0.attention.key"), "layer.0.attention.key are missing"),
        (without("activations", "qa.input"), "scales of qa are missing"),
        (with_value("weights", "qa", np.ones(3, np.float32)), r"qa has scales \(3,\)"),
        (with_value("weights", "qa", np.float32(1)), r"qa has scales \(\)"),
        (with_value("weights", "qa", np.asarray([1, 0], np.float32)), "qa is not positive"),
        (with_value("weights", "qa", np.asarray([1, np.nan], np.float32)), "qa is not positive"),
        (with_value("activations", "qa.input", np.float32(-1)), "qa.input is not positive"),
        (with_value("activations", "qa.input", np.float32(np.inf)), "qa.input is not positive"),
        (without("fp8_activations", "layer.1.ffn.inner"), "FP8 scales of layer.1.ffn.out are miss"),
        (without("fp8_weights", "layer.0.ffn.in"), "FP8 scales of layer.0.ffn.in are missing"),
        (with_value("fp8_weights", "qa", np.ones((2, 1), np.float32)), r"qa has FP8 .*\(2, 1\)"),
        (with_value("fp8_weights", "qa", np.zeros(2, np.float32)), "qa is not positive"),
        (with_value("fp8_activations", "x", np.float32(0)), "x is not positive"),
        (without("centers", "layer.1.ffn.norm"), "center of layer.1.ffn.norm is missing"),
        (with_value("centers", "embeddings.norm", np.ones(63)), r"norm has a center \(63,\)"),
        (with_value("centers", "embeddings.norm", np.full(64, np.inf)), "norm is not finite"),
        (without("outputs", "layer.1.ffn.out"), "none of what layer.1.ffn.out returns"),
        (without("outputs", "layer.0.attention.scores"), "none of what layer.0.attention.scores"),
        (without("activations", "layer.0.attention.keys"), "none of what layer.0.attention.keys"),
        (with_value("outputs", "layer.0.ffn.in", np.float32(np.nan)), "ffn.in is not positive"),
    ],
)
def test_unsound_scales_are_an_error(scales: Scales, message: str) -> None:
    with pytest.raises(UserError, match=f"{message}.*; run `make scales` again"):
        check_scales(scales, WEIGHTS, ARCHITECTURE)


METADATA = {"bert-scales-1": "{}"}
ONE = np.ones((), np.float32)


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({}, None, "holds no scales"),
        ({}, {"format": "pt"}, "holds no scales"),
        ({"activation.x": ONE}, {"bert-scales-2": "{}"}, "holds no scales"),
        ({"x": ONE}, METADATA, "'x', which is no scale"),
        ({"bias.x": ONE}, METADATA, "'bias.x', which is no scale"),
        ({"activation.x": ONE.astype(np.float16)}, METADATA, "which is no scale"),
        ({"activation.x": ONE.reshape(1)}, METADATA, "which is no scale"),
        ({"fp8_activation.x": ONE.reshape(1)}, METADATA, "which is no scale"),
        ({"output.x": ONE.reshape(1)}, METADATA, "which is no scale"),
        ({"weight.x": ONE}, METADATA, "which is no scale"),
        ({"fp8_weight.x": ONE}, METADATA, "which is no scale"),
        ({"weight.x": ONE.reshape(1, 1)}, METADATA, "which is no scale"),
        ({}, {"bert-scales-1": "{"}, "origin in .* is not valid JSON"),
    ],
)
def test_file_of_another_kind_is_an_error(
    tmp_path: Path, tensors: dict[str, Any], metadata: dict[str, str] | None, message: str
) -> None:
    path = tmp_path / "scales.safetensors"
    path.write_bytes(safetensors.numpy.save(tensors, metadata))
    with pytest.raises(UserError, match=message):
        read_scales(path)


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:-1], lambda data: b"{}" + data]
)
def test_damaged_file_is_an_error(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "scales.safetensors"
    save_scales(full(), path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="not a whole safetensors file"):
        read_scales(path)
    with pytest.raises(UserError, match="does not exist"):
        read_scales(tmp_path / "gone.safetensors")
