"""The ONNX graph and its fused form against BERT's equations in plain NumPy."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import oracles
import pytest
from onnx import TensorProto, numpy_helper
from tiny_bert import architecture_of, inputs_of, options_of, random_weights

from harness.backends.ort import OrtCpu, OrtSession
from harness.errors import UserError
from harness.graph import IR_VERSION, OPSET, Precision, build_graph, save_graph
from harness.host import cores
from harness.paths import ROOT

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
LAYERS = (12, 6)


class Built:
    """The plain and the fused graph of one random model, as files and as sessions."""

    def __init__(self, folder: Path, layers: int, precision: Precision) -> None:
        self.architecture = architecture_of(layers)
        self.weights = random_weights(self.architecture)
        self.plain, self.fused = folder / "plain.onnx", folder / "fused.onnx"
        save_graph(build_graph(self.weights, self.architecture, precision), self.plain)
        OrtCpu().build(self.plain, self.fused, options_of(self.architecture, precision))
        self.reference = OrtSession(self.plain, optimized=False)
        self.engine = OrtCpu().load(self.fused, options_of(self.architecture, precision))


_BUILT: dict[tuple[int, Precision], Built] = {}


@pytest.fixture
def built(layers: int, precision: Precision, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Each model is built once; building and fusing takes most of these tests' time."""
    key = layers, precision
    if key not in _BUILT:
        _BUILT[key] = Built(tmp_path_factory.mktemp("graph"), layers, precision)
    return _BUILT[key]


both_precisions = pytest.mark.parametrize("precision", PRECISIONS)
both_depths = pytest.mark.parametrize("layers", LAYERS)
one_model = pytest.mark.parametrize(("layers", "precision"), [(6, "fp32")])


@both_depths
@both_precisions
def test_graph_fuses_whole(built: Built, layers: int, precision: Precision) -> None:
    operators = Counter(node.op_type for node in onnx.load(built.fused).graph.node)
    assert operators["EmbedLayerNormalization"] == 1
    assert operators["Attention"] == layers
    # In FP32 layer norms are split again, each with two means.
    split = precision == "fp32"
    assert operators["SkipLayerNormalization"] == (0 if split else 2 * layers)
    assert operators["ReduceMean"] == (4 * layers if split else 0)
    # What would be left over from a pattern that was missed.
    for rest in ("Softmax", "LayerNormalization", "Erf", "Transpose", "Div"):
        assert operators[rest] == 0, rest


@both_depths
@pytest.mark.parametrize("precision", ["fp32"])
def test_logits_are_berts(built: Built, layers: int) -> None:
    ids, segments, mask = inputs_of([17, 40, 1, 9], 40)
    for session in (built.reference, built.engine):
        start, end, _ = session.run(ids, segments, mask)
        assert start.shape == end.shape == ids.shape
        assert start.dtype == end.dtype == np.float32
        for row, length in enumerate(mask.sum(axis=1)):
            expected = oracles.bert_logits(
                built.weights, built.architecture, ids[row, :length], segments[row, :length]
            )
            np.testing.assert_allclose(start[row, :length], expected[0], atol=1e-4)
            np.testing.assert_allclose(end[row, :length], expected[1], atol=1e-4)


@both_depths
@pytest.mark.parametrize("precision", ["fp32"])
def test_fused_logits_equal_plain_ones(built: Built, layers: int) -> None:
    inputs = inputs_of([40, 33, 21, 2], 40)
    real = inputs[2] == 1
    plain, fused = built.reference.run(*inputs)[:2], built.engine.run(*inputs)[:2]
    for left, right in zip(plain, fused, strict=True):
        np.testing.assert_allclose(left[real], right[real], atol=1e-4)
    assert not np.allclose(plain[0], plain[1], atol=0.1)


@both_depths
@pytest.mark.parametrize("precision", ["fp16"])
def test_half_precision_gives_float32_close_to_the_real_thing(built: Built, layers: int) -> None:
    ids, segments, mask = inputs_of([40, 25], 40)
    # 12 layers of rounding to 11 bits; the logits' own size is some units.
    for session in (built.reference, built.engine):
        for row, logits in enumerate(np.stack(session.run(ids, segments, mask)[:2], axis=1)):
            length = int(mask[row].sum())
            expected = np.stack(
                oracles.bert_logits(
                    built.weights, built.architecture, ids[row, :length], segments[row, :length]
                )
            )
            assert logits.dtype == np.float32
            error = np.abs(logits[:, :length] - expected)
            assert 0 < error.max() < 0.05
            assert np.ptp(expected, axis=1).min() > 1


@pytest.mark.parametrize("layers", [6])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 5e-5), ("fp16", 0.05)])
def test_padding_changes_nothing(built: Built, tolerance: float) -> None:
    ids, segments, mask = inputs_of([7, 30, 1], 40)
    # What stands on padding must not matter either.
    ids = np.where(mask == 1, ids, 49).astype(np.int32)
    for session in (built.reference, built.engine):
        together = session.run(ids, segments, mask)[:2]
        for row, length in enumerate(mask.sum(axis=1)):
            part = np.s_[row : row + 1, :length]
            alone = session.run(ids[part], segments[part], mask[part])[:2]
            for left, right in zip(together, alone, strict=True):
                np.testing.assert_allclose(left[part], right, atol=tolerance)
            # Without the mask the padding would be seen.
            whole = np.s_[row : row + 1]
            unmasked = session.run(ids[whole], segments[whole], np.ones_like(mask[whole]))
            assert np.abs(unmasked[0][:, :length] - alone[0]).max() > 5 * tolerance


@one_model
def test_batch_and_sequence_are_dynamic(built: Built) -> None:
    for path in (built.plain, built.fused):
        graph = onnx.load(path).graph
        for value in (*graph.input, *graph.output):
            axes = value.type.tensor_type.shape.dim
            assert [axis.dim_param for axis in axes] == ["batch", "seq"], value.name
    for shape in ((1, 1), (1, 40), (3, 17), (9, 2)):
        inputs = inputs_of([shape[1]] * shape[0], shape[1])
        plain, fused = built.reference.run(*inputs)[:2], built.engine.run(*inputs)[:2]
        assert plain[0].shape == fused[0].shape == shape
        np.testing.assert_allclose(plain, fused, atol=1e-4)


@both_precisions
@pytest.mark.parametrize("layers", [6])
def test_interface_and_types_are_the_promised_ones(built: Built, precision: Precision) -> None:
    model = onnx.load(built.plain)
    assert [(v.name, v.type.tensor_type.elem_type) for v in model.graph.input] == [
        (name, TensorProto.INT32) for name in ("input_ids", "segment_ids", "input_mask")
    ]
    assert [(v.name, v.type.tensor_type.elem_type) for v in model.graph.output] == [
        (name, TensorProto.FLOAT) for name in ("start_logits", "end_logits")
    ]
    assert [(o.domain, o.version) for o in model.opset_import] == [("", OPSET)] == [("", 17)]
    assert model.ir_version == IR_VERSION == 8
    body = np.float32 if precision == "fp32" else np.float16
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert {array.dtype for array in stored.values()} == {np.dtype(body), np.dtype(np.int64)}
    # Every weight is in the file, turned where a MatMul wants it so.
    for name, weight in built.weights.items():
        turned = weight.T if name.endswith(".weight") else weight
        np.testing.assert_array_equal(stored[name], turned.astype(body))


@both_precisions
def test_same_weights_give_the_same_bytes(tmp_path: Path, precision: Precision) -> None:
    architecture = architecture_of(2)
    weights = random_weights(architecture)
    # Neither the order of the names nor the layout in memory is part of the weights.
    same = {name: np.asfortranarray(weights[name]) for name in reversed(weights)}
    other = {**weights, "qa.bias": weights["qa.bias"] + 1}
    files = []
    for index, given in enumerate((weights, same, other)):
        files.append(tmp_path / f"{index}.onnx")
        save_graph(build_graph(given, architecture, precision), files[-1])
    first, second, third = (path.read_bytes() for path in files)
    assert first == second
    assert first != third


BUILD = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from tiny_bert import architecture_of, fitting_scales, options_of, random_weights
from harness.backends.ort import OrtCpu
from harness.graph import build_graph, save_graph
architecture, folder = architecture_of(2), Path(sys.argv[1])
weights = random_weights(architecture)
for precision, scales in (("fp32", None), ("int8", fitting_scales(weights, architecture))):
    plain, fused = (folder / f"{kind}-{precision}.onnx" for kind in ("plain", "fused"))
    save_graph(build_graph(weights, architecture, "fp32", scales), plain)
    OrtCpu().build(plain, fused, options_of(architecture, precision))
"""


def test_another_process_writes_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        subprocess.run(
            [sys.executable, "-c", BUILD, str(folder), str(ROOT / "scripts"), str(ROOT / "tests")],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
        )
        written.append(
            {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
        )
    assert len(written[0]) == 4
    assert written[0] == written[1]


def test_graph_of_another_kind_does_not_pass_for_fused(tmp_path: Path) -> None:
    architecture = architecture_of(2)
    model = build_graph(random_weights(architecture), architecture, "fp32")
    # A node in the middle of each attention hides the pattern.
    _hide_attention(model, layers=(0, 1))
    save_graph(model, tmp_path / "plain.onnx")
    with pytest.raises(UserError, match="did not fuse"):
        OrtCpu().build(tmp_path / "plain.onnx", tmp_path / "fused.onnx", options_of(architecture))
    assert not (tmp_path / "fused.onnx").exists()


def test_graph_that_fuses_in_part_does_not_pass_for_fused(tmp_path: Path) -> None:
    architecture = architecture_of(2)
    model = build_graph(random_weights(architecture), architecture, "fp32")
    _hide_attention(model, layers=(1,))
    save_graph(model, tmp_path / "plain.onnx")
    with pytest.raises(UserError, match="did not fuse"):
        OrtCpu().build(tmp_path / "plain.onnx", tmp_path / "fused.onnx", options_of(architecture))


def _hide_attention(model: onnx.ModelProto, layers: tuple[int, ...]) -> None:
    for layer in layers:
        name = f"layer.{layer}.attention.probabilities"
        place = next(i for i, node in enumerate(model.graph.node) if node.name == name)
        model.graph.node[place].output[0] = f"{name}.hidden"
        absolute = onnx.helper.make_node("Abs", [f"{name}.hidden"], [name], name=f"{name}.abs")
        model.graph.node.insert(place + 1, absolute)


def test_file_that_is_no_model_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "engine.onnx"
    for content in (b"", b"no model"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot be loaded by ONNX Runtime") as caught:
            OrtCpu().load(path, options_of(architecture_of(2)))
        assert "build it again" in str(caught.value)


@one_model
def test_a_run_tells_its_time(built: Built) -> None:
    inputs = inputs_of([40] * 4, 40)
    began = time.perf_counter()
    outputs = built.engine.run(*inputs)
    assert 0 < outputs.seconds < time.perf_counter() - began


def test_a_session_has_a_stream_a_core_for_auto_alone(tmp_path: Path) -> None:
    architecture = architecture_of(1)
    plain, engine = tmp_path / "plain.onnx", tmp_path / "engine.onnx"
    save_graph(build_graph(random_weights(architecture), architecture, "fp32"), plain)
    OrtCpu().build(plain, engine, options_of(architecture))
    assert OrtCpu().load(engine, options_of(architecture)).streams == 1
    assert OrtCpu().load(engine, options_of(architecture, batch="auto")).streams == cores()
