"""The explicitly quantized graph: where Q and DQ stand, what they hold, what it computes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import oracles
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from test_plugin_library import minilm
from tiny_bert import architecture_of, fitting_scales, inputs_of, random_weights

from harness import model
from harness.assets import AssetStore
from harness.backends.ort import OrtSession
from harness.batches import assemble
from harness.calibrate import Method, center, quantize
from harness.errors import UserError
from harness.graph import FP8_SCALES, Precision, build_graph, save_graph, shared_scale
from harness.graph_reader import read_graph
from harness.options import read_options
from harness.paths import ROOT
from harness.profile import load_profile
from harness.records import MadeFile, records_of
from harness.scales import (
    FP8_MAX,
    Scales,
    gemm_inputs,
    quantize_weight,
    save_scales,
    weight_scales,
)
from harness.squad import read_dataset
from harness.weights import Architecture, Weights
from harness.windows import Windows, cut_windows, load_tokenizer

ARCHITECTURE = architecture_of(2)
WEIGHTS = random_weights(ARCHITECTURE)
SCALES = {qa: fitting_scales(WEIGHTS, ARCHITECTURE, qa=qa) for qa in (True, False)}
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
both_precisions = pytest.mark.parametrize("precision", PRECISIONS)
with_and_without_qa = pytest.mark.parametrize("qa", [True, False])
both_renderings = pytest.mark.parametrize("shared", [False, True], ids=["per channel", "shared"])


def graph_of(precision: Precision, scales: Scales | None, shared: bool = False) -> onnx.GraphProto:
    return build_graph(WEIGHTS, ARCHITECTURE, precision, scales, shared_scales=shared).graph


def nodes_of(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Nodes by their one output."""
    return {node.output[0]: node for node in graph.node}


def tensors_of(graph: onnx.GraphProto) -> dict[str, npt.NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def linears_of(scales: Scales) -> dict[str, str]:
    """The activation of each linear that has scales."""
    return {k: v for k, v in gemm_inputs(ARCHITECTURE).items() if k in scales.weights}


def same(a: Any, b: npt.NDArray[Any]) -> bool:
    return np.asarray(a, b.dtype).tobytes() == b.tobytes()


@with_and_without_qa
@both_precisions
@both_renderings
def test_without_q_and_dq_it_is_the_float_graph(
    precision: Precision, qa: bool, shared: bool
) -> None:
    quantized, plain = graph_of(precision, SCALES[qa], shared), graph_of(precision, None)
    nodes = nodes_of(quantized)
    linears = linears_of(SCALES[qa])
    rescaled = {f"{linear}.rescaled" for linear in linears if shared}

    def added(node: onnx.NodeProto) -> bool:
        return node.op_type in ("QuantizeLinear", "DequantizeLinear") or node.name in rescaled

    def source(name: str) -> str:
        """What a tensor is called in the float graph."""
        node = nodes.get(name)
        return name if node is None or not added(node) else source(node.input[0])

    rest = [node for node in quantized.node if not added(node)]
    assert rescaled <= nodes.keys()
    for node in rest:
        # Q and DQ stand at the linears' inputs and nowhere else, so nothing comes between a
        # linear, its bias and its GELU, and attention, residuals and layer norms are float. With
        # shared scales a Mul comes between a linear and its bias.
        linear, _, kind = node.name.rpartition(".")
        if linear not in linears or kind not in ("matmul", "add" if shared else "matmul"):
            assert [source(name) for name in node.input] == list(node.input), node.name
        node.input[:] = [source(name) for name in node.input]
    assert [n.SerializeToString() for n in rest] == [n.SerializeToString() for n in plain.node]
    assert list(quantized.input) == list(plain.input)
    assert list(quantized.output) == list(plain.output)


@with_and_without_qa
@both_precisions
def test_each_linear_takes_a_quantized_input_and_weight(precision: Precision, qa: bool) -> None:
    graph = graph_of(precision, SCALES[qa])
    nodes, tensors = nodes_of(graph), tensors_of(graph)
    body = np.float32 if precision == "fp32" else np.float16
    taken: dict[str, set[str]] = {}
    for linear, activation in linears_of(SCALES[qa]).items():
        restored, weight = (nodes[name] for name in nodes[f"{linear}.matmul"].input)
        quantized = nodes[restored.input[0]]
        assert [quantized.op_type, restored.op_type, weight.op_type] == [
            "QuantizeLinear",
            "DequantizeLinear",
            "DequantizeLinear",
        ]
        # One scale for both ways, one zero point, signed.
        assert quantized.input[1:] == restored.input[1:]
        scale, zero = (tensors[name] for name in restored.input[1:])
        assert scale.dtype == body and scale.shape == ()
        assert same(SCALES[qa].activations[activation], scale)
        assert zero.dtype == np.int8 and zero.shape == () and zero == 0
        taken.setdefault(activation, set()).add(restored.output[0])

        integers, scales, zeros = (tensors[name] for name in weight.input)
        assert [(a.name, a.i) for a in weight.attribute] == [("axis", 1)]
        assert scales.dtype == body and same(SCALES[qa].weights[linear], scales)
        assert zeros.dtype == np.int8 and zeros.shape == scales.shape and not zeros.any()
        expected = quantize_weight(WEIGHTS[f"{linear}.weight"], SCALES[qa].weights[linear])
        assert integers.dtype == np.int8
        np.testing.assert_array_equal(integers, expected.T)
    # Query, key and value share one quantized input.
    assert all(len(tensors) == 1 for tensors in taken.values())
    count = Counter(node.op_type for node in graph.node)
    activations = 4 * ARCHITECTURE.layers + qa
    assert len(taken) == count["QuantizeLinear"] == activations
    assert count["DequantizeLinear"] == activations + len(linears_of(SCALES[qa]))


@with_and_without_qa
def test_fp16_holds_the_scales_and_integers_of_fp32(qa: bool) -> None:
    whole, half = (tensors_of(graph_of(precision, SCALES[qa])) for precision in PRECISIONS)
    assert whole.keys() == half.keys()
    scales = {name for name in whole if name.endswith(".scale")}
    assert len(scales) == 4 * ARCHITECTURE.layers + qa + len(SCALES[qa].weights)
    for name in scales:
        assert (whole[name].dtype, half[name].dtype) == (np.float32, np.float16)
        assert half[name].astype(np.float32).tobytes() == whole[name].tobytes(), name
    integers = {name for name, value in whole.items() if value.dtype == np.int8}
    assert len(integers) == 2 * len(SCALES[qa].weights) + 1
    for name in integers:
        assert half[name].dtype == np.int8
        assert half[name].tobytes() == whole[name].tobytes(), name


@with_and_without_qa
@both_precisions
def test_shared_scales_times_ratios_are_the_scales(precision: Precision, qa: bool) -> None:
    graph = graph_of(precision, SCALES[qa], shared=True)
    nodes, tensors = nodes_of(graph), tensors_of(graph)
    per_channel = tensors_of(graph_of(precision, SCALES[qa]))
    body = np.float32 if precision == "fp32" else np.float16
    taken: dict[str, set[str]] = {}
    for linear, activation in linears_of(SCALES[qa]).items():
        # Product, ratio, bias, in this order.
        assert nodes[f"{linear}.add"].input[1] == f"{linear}.rescaled"
        rescaled = nodes[f"{linear}.rescaled"]
        assert (rescaled.op_type, rescaled.input[0]) == ("Mul", f"{linear}.matmul")
        ratio = tensors[rescaled.input[1]]
        weight = nodes[nodes[f"{linear}.matmul"].input[1]]
        assert weight.op_type == "DequantizeLinear" and not weight.attribute
        integers, scale, zero = (tensors[name] for name in weight.input)
        assert scale.dtype == ratio.dtype == body and scale.shape == zero.shape == ()
        assert zero.dtype == np.int8 and zero == 0
        # Scales and integers are those of the rendering with a scale a channel, bit for bit.
        assert same(scale * ratio, per_channel[f"{linear}.weight.scale"])
        assert same(integers, per_channel[f"{linear}.weight"])
        taken.setdefault(activation, set()).add(weight.input[1])
    # Query, key and value share one scale, and no one else has it.
    assert all(len(names) == 1 for names in taken.values())
    assert len(set.union(*taken.values())) == len(taken)
    # Nothing else is different.
    kinds = (".weight.scale", ".weight.zero_point", ".weight.ratio", ".weights.scale")
    rest = {name for name in (*tensors, *per_channel) if not name.endswith(kinds)}
    assert all(same(tensors[name], per_channel[name]) for name in rest)


def scales_like(weights: dict[str, npt.NDArray[np.float32]]) -> Scales:
    return Scales(SCALES[True].activations, {**SCALES[True].weights, **weights})


def test_linear_left_in_float_has_no_part_in_the_shared_scale() -> None:
    large = {"layer.0.attention.key": np.full(64, 0.75, np.float32)}
    scales = scales_like(large)
    with_key = tensors_of(graph_of("fp16", scales, shared=True))
    del scales.weights["layer.0.attention.key"]
    without = tensors_of(graph_of("fp16", scales, shared=True))
    shared = "layer.0.attention.input.weights.scale"
    assert with_key[shared] == 0.5 > without[shared]
    assert "layer.0.attention.key.weight.ratio" not in without


# Least and largest scales that a file can hold; `to_scale` makes none below 2^-14.
LEAST, LARGEST = 2.0**-24, 65504.0
half_scales = st.lists(
    st.floats(LEAST, LARGEST, width=16)
    # Those are near the range's ends; of all bit patterns most are between.
    | st.integers(1, 0x7BFF).map(lambda bits: float(np.uint16(bits).view(np.float16))),
    min_size=1,
    max_size=20,
).map(lambda values: np.asarray(values, np.float32))


@settings(deadline=None)
@given(half_scales)
@example(np.asarray([LEAST], np.float32))
@example(np.asarray([LARGEST, 2.0**-14, LEAST], np.float32))
def test_ratio_to_the_shared_scale_loses_no_bit(scales: npt.NDArray[np.float32]) -> None:
    shared = shared_scale(scales)
    assert np.frexp(shared)[0] == 0.5, "a power of two"
    assert shared <= min(1, scales.max()) < 2 * shared
    ratios = scales / shared
    for body in (np.float32, np.float16):
        rendered, scale = ratios.astype(body), shared.astype(body)
        assert rendered.dtype == scale.dtype == body
        assert same(ratios, rendered.astype(np.float32)) and same(shared, np.float32(scale))
        assert (rendered * scale).tobytes() == scales.astype(body).tobytes()


def test_scales_of_any_size_are_rendered_as_they_are() -> None:
    outputs = WEIGHTS["layer.0.ffn.in.weight"].shape[0]
    extreme = np.full(outputs, 2.0**-14, np.float32)
    extreme[:4] = (LARGEST, 1.5, LEAST, 3 * LEAST)
    small = np.full(64, 2.0**-14, np.float32)
    small[1] = 2.0**-14 + LEAST
    scales = scales_like({"layer.0.ffn.in": extreme, "layer.0.ffn.out": small})
    for precision in PRECISIONS:
        tensors = tensors_of(graph_of(precision, scales, shared=True))
        for linear, activation in (("ffn.in", "ffn.input"), ("ffn.out", "ffn.inner")):
            ratio = tensors[f"layer.0.{linear}.weight.ratio"]
            shared = tensors[f"layer.0.{activation}.weights.scale"]
            assert np.isfinite(ratio).all()
            assert same(ratio * shared, scales.weights[f"layer.0.{linear}"].astype(ratio.dtype))


@settings(deadline=None)
@given(
    half_scales,
    st.floats(2.0**-14, LARGEST, width=16),
    st.integers(-(2**27), 2**27),
    st.integers(0),
)
def test_product_that_fp16_holds_passes_through_it_unscathed(
    scales: npt.NDArray[np.float32], step: float, total: int, channel: int
) -> None:
    """`total` is a sum of integer products, `step` the scale of the linear's input."""
    scale, shared = float(scales[channel % len(scales)]), float(shared_scale(scales))
    if step * float(scales.max()) * abs(total) > 65000:
        total %= int(65000 / (step * float(scales.max()))) + 1
    exact = step * scale * total
    scaled = np.float16(step * shared * total)
    assert np.isfinite(scaled)
    # Two roundings to 11 bits, and where they end below the normal numbers to 2^-24.
    error = abs(float(scaled * np.float16(scale / shared)) - exact)
    assert error <= abs(exact) * 2.0**-10 * 1.001 + 2.0**-24 * 1.5


@pytest.mark.parametrize(
    ("precision", "scales", "versions"),
    [
        ("fp32", None, (17, 8)),
        ("fp16", None, (17, 8)),
        # Scales in float32 need opset 13 alone, in float16 opset 19.
        ("fp32", SCALES[True], (17, 8)),
        ("fp16", SCALES[True], (19, 9)),
    ],
    ids=["fp32", "fp16", "int8", "int8 in fp16"],
)
@both_renderings
def test_versions_are_as_old_as_they_can_be(
    precision: Precision, scales: Scales | None, versions: tuple[int, int], shared: bool
) -> None:
    made = build_graph(WEIGHTS, ARCHITECTURE, precision, scales, shared_scales=shared)
    (opset,) = made.opset_import
    assert (opset.domain, opset.version, made.ir_version) == ("", *versions)
    onnx.checker.check_model(made, full_check=True)
    if versions[0] == 19:
        opset.version = 18
        with pytest.raises(Exception, match=r"scale|[Tt]ype"):
            onnx.checker.check_model(made, full_check=True)


@both_precisions
@both_renderings
def test_same_scales_give_the_same_bytes(
    tmp_path: Path, precision: Precision, shared: bool
) -> None:
    activations, linears = SCALES[True].activations, SCALES[True].weights
    turned = Scales(dict(reversed(activations.items())), dict(reversed(linears.items())))
    other = Scales({**activations, "qa.input": np.float32(0.5)}, linears)
    files: list[Path] = []
    for scales in (SCALES[True], turned, other):
        files.append(tmp_path / f"{len(files)}.onnx")
        made = build_graph(WEIGHTS, ARCHITECTURE, precision, scales, shared_scales=shared)
        save_graph(made, files[-1])
    first, second, third = (path.read_bytes() for path in files)
    assert first == second != third


def run(
    graph: onnx.ModelProto, folder: Path, inputs: tuple[npt.NDArray[np.int32], ...]
) -> npt.NDArray[np.float32]:
    """Start and end logits (2, batch, seq) of ONNX Runtime, which fuses nothing."""
    path = folder / "graph.onnx"
    save_graph(graph, path)
    ids, segments, mask = inputs
    return np.stack(OrtSession(path, optimized=False).run(ids, segments, mask)[:2])


def quantized_logits(
    weights: Weights, architecture: Architecture, scales: Scales, ids: Any, segments: Any
) -> npt.NDArray[np.float64]:
    """Start and end logits (2, seq) in float64, inputs and weights of the linears rounded."""
    rounded = dict(weights)
    for linear, steps in scales.weights.items():
        whole = np.clip(np.rint(weights[f"{linear}.weight"] / steps[:, None]), -127, 127)
        rounded[f"{linear}.weight"] = (whole * steps[:, None]).astype(np.float32)
    activation_of = gemm_inputs(architecture)

    def through_int8(linear: str, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        if linear not in scales.weights:
            return x
        step = float(scales.activations[activation_of[linear]])
        return np.clip(np.rint(x / step), -128, 127) * step

    return np.stack(oracles.bert_logits(rounded, architecture, ids, segments, through_int8))


@with_and_without_qa
@both_renderings
@pytest.mark.parametrize(("precision", "share"), [("fp32", 0.1), ("fp16", 1.0)])
def test_logits_are_those_of_rounded_linears(
    tmp_path: Path, precision: Precision, share: float, qa: bool, shared: bool
) -> None:
    architecture = architecture_of(1)
    weights = random_weights(architecture)
    scales = fitting_scales(weights, architecture, qa=qa)
    ids, segments, mask = inputs_of([40, 23, 1], 40)
    graph = build_graph(weights, architecture, precision, scales, shared_scales=shared)
    found = run(graph, tmp_path, (ids, segments, mask))
    near: list[float] = []
    far: list[float] = []
    for row, length in enumerate(mask.sum(axis=1)):
        window = (ids[row, :length], segments[row, :length])
        rounded = quantized_logits(weights, architecture, scales, *window)
        plain = oracles.bert_logits(weights, architecture, *window)
        near += np.abs(found[:, row, :length] - rounded).ravel().tolist()
        far += np.abs(plain - rounded).ravel().tolist()
    # A value beside a rounding boundary may fall on its other side in another float type, and is
    # then a step off: often in FP16, seldom in FP32. All else would add to that.
    assert np.mean(near) < share * np.mean(far)
    assert 0.01 < np.mean(far) < 0.1


@pytest.mark.parametrize("seed", range(4))
def test_both_renderings_give_the_same_logits(tmp_path: Path, seed: int) -> None:
    architecture = architecture_of(1)
    weights = random_weights(architecture, seed)
    scales = fitting_scales(weights, architecture)
    inputs = inputs_of([40, 23, 1], 40, seed=seed + 10)
    real = np.broadcast_to(inputs[2] == 1, (2, 3, 40))
    per_channel, shared = (
        run(build_graph(weights, architecture, "fp32", scales, shared_scales=s), tmp_path, inputs)
        for s in (False, True)
    )
    plain = run(build_graph(weights, architecture, "fp32"), tmp_path, inputs)
    apart, lost = np.abs(shared - per_channel)[real], np.abs(plain - per_channel)[real]
    # A value beside a rounding boundary may fall on its other side.
    assert np.mean(apart < 2e-5) > 0.9
    assert apart.mean() < 0.05 * lost.mean()
    assert 0.01 < lost.mean() < 0.1


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What `make onnx` has of the tiny model, but for its scales."""
    monkeypatch.setattr(model, "BUILD", tmp_path)
    monkeypatch.setattr(model, "origin", lambda inputs: {})
    monkeypatch.setattr(model, "quantized_weights", lambda inputs, found: WEIGHTS)
    profile = SimpleNamespace(model="tiny", architecture=ARCHITECTURE)
    return SimpleNamespace(options=SimpleNamespace(profile=profile))


def saved(scales: Scales, folder: Path) -> MadeFile:
    """A file of scales, as `make scales` records it."""
    save_scales(scales, folder / "scales.safetensors")
    return MadeFile.of(folder / "scales.safetensors")


def test_export_writes_the_graph_that_a_backend_names(tmp_path: Path, tiny: Any) -> None:
    made = saved(SCALES[True], tmp_path)
    expected = {
        "int8": graph_of("fp32", SCALES[True]),
        "int8-fp16": graph_of("fp16", SCALES[True]),
        "int8-fp16-rtx": graph_of("fp16", SCALES[True], shared=True),
    }
    assert expected.keys() == model.QUANTIZED.keys()
    for name, graph in expected.items():
        assert onnx.load(model.export_graph(tiny, name, made)).graph == graph, name


@pytest.mark.parametrize("qa", [True, False])
def test_fp8_is_the_fp16_graph_with_its_scales_beside_it(
    tmp_path: Path, tiny: Any, qa: bool
) -> None:
    given = {"PROFILE": "minilm-sample", "BACKEND": "plugin", "PRECISION": "fp8"}
    options = read_options(given, available=False)
    assert records_of(options).scales is not None
    inputs = gemm_inputs(ARCHITECTURE)
    taken = {name: np.float32(2.0**-i) for i, name in enumerate(inputs.values())}
    scales = replace(
        SCALES[qa],
        fp8_activations=taken,
        fp8_weights={name: weight_scales(WEIGHTS[f"{name}.weight"], FP8_MAX) for name in inputs},
    )
    written = model.export_graph(tiny, options.graph_precision, saved(scales, tmp_path))

    assert onnx.load(written).graph == graph_of("fp16", None)
    (held,) = (p for p in onnx.load(written).metadata_props if p.key == FP8_SCALES)
    groups = json.loads(held.value)
    # One scale a weight, the one that its largest value needs.
    largest = {name: float(s.max()) for name, s in scales.fp8_weights.items()}
    assert groups == {"activations": {n: float(s) for n, s in taken.items()}, "weights": largest}
    found = read_graph(written).scales
    assert found is not None
    assert not found.weights
    assert found.fp8_activations == taken
    assert {name: float(s[0]) for name, s in found.fp8_weights.items()} == largest


def test_fp8_without_its_scales_is_an_error(tmp_path: Path, tiny: Any) -> None:
    with pytest.raises(UserError, match="holds no FP8 scales"):
        model.export_graph(tiny, "fp8", saved(SCALES[True], tmp_path))
    assert not list(tmp_path.glob("onnx/*"))


@pytest.fixture(scope="module")
def real(assets: AssetStore, vocab: Path) -> tuple[Weights, Architecture, Scales, Windows]:
    """MiniLM with scales from a little of the sample's calibration text."""
    profile = load_profile("minilm-sample")
    questions = read_dataset(ROOT / "assets/sample/calibration-v1.json", 4).questions
    windows = cut_windows(questions, load_tokenizer(vocab), profile.windows)
    weights, architecture = minilm(assets), profile.architecture
    scales = quantize(weights, architecture, windows, Method())
    return center(weights, architecture, scales.centers), architecture, scales, windows


def test_sums_of_minilm_pass_fp16_and_scaled_ones_never_can(
    real: tuple[Weights, Architecture, Scales, Windows],
) -> None:
    import onnxruntime as ort

    weights, architecture, scales, windows = real
    graph = build_graph(weights, architecture, "fp32", scales, shared_scales=True)
    tensors = tensors_of(graph.graph)
    activation_of = gemm_inputs(architecture)
    names = [f"{activation}.quantized" for activation in dict.fromkeys(activation_of.values())]
    for name in names:
        graph.graph.output.append(helper.make_tensor_value_info(name, TensorProto.INT8, None))
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(names, assemble(windows, np.asarray([0])).inputs)
    integers = dict(zip(names, found, strict=True))
    past = 0
    for linear, activation in activation_of.items():
        # These sums are far below 2^24, so float32 holds them.
        weight = tensors[f"{linear}.weight"].astype(np.float32)
        sums = integers[f"{activation}.quantized"].astype(np.float32) @ weight
        past += np.abs(sums).max() > LARGEST
        # No input whatever can lead further than this.
        furthest = 128 * np.abs(weight).sum(axis=0).max()
        shared = tensors[f"{activation}.weights.scale"]
        assert furthest * scales.activations[activation] * shared < LARGEST, linear
    assert past > len(activation_of) // 4


def test_minilm_with_shared_scales_in_fp16_answers_as_int8_does(
    real: tuple[Weights, Architecture, Scales, Windows], tmp_path: Path
) -> None:
    """Behind six layers values beside rounding boundaries have led the logits apart, so these are
    compared with FP32's: none is further from it than the other.
    """
    weights, architecture, scales, windows = real
    batch = assemble(windows, np.asarray([0]))
    inputs = batch.input_ids, batch.segment_ids, batch.input_mask
    plain, int8, shared = (
        run(graph, tmp_path, inputs)
        for graph in (
            build_graph(weights, architecture, "fp32"),
            build_graph(weights, architecture, "fp32", scales),
            build_graph(weights, architecture, "fp16", scales, shared_scales=True),
        )
    )
    assert np.abs(shared - plain).mean() < 1.5 * np.abs(int8 - plain).mean()
    assert (shared.argmax(axis=-1) == int8.argmax(axis=-1)).all()
    assert np.abs(int8 - plain).mean() < 0.02 * np.ptp(plain)
