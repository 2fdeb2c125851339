"""The backend openvino, with the real library: logits, types, streams, and files it refuses."""

from __future__ import annotations

import importlib.util
import json
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from test_batches import windows_of
from tiny_bert import architecture_of, fitting_scales, inputs_of, options_of, random_weights

from harness.backends import EngineOptions, find_backend
from harness.backends.openvino import OpenVino, OpenVinoSession
from harness.backends.ort import OrtSession
from harness.batches import AUTO, BatchSize, plan_batches
from harness.errors import UserError, one_line
from harness.graph import build_graph, save_graph
from harness.host import cores, cpu_facts
from harness.measure import run_windows

# A venv for a GPU has none: see requirements-ort-cuda.txt.
openvino = pytest.importorskip("openvino")

ARCHITECTURE = architecture_of(2)
WEIGHTS = random_weights(ARCHITECTURE)
SCALES = fitting_scales(WEIGHTS, ARCHITECTURE)
HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
INPUTS = inputs_of([40, 23, 1], 40)
REAL = np.broadcast_to(INPUTS[2] == 1, (2, 3, 40))


@dataclass(frozen=True)
class Graphs:
    """The FP32 graph and the quantized one, and a folder for engines."""

    folder: Path

    def graph(self, precision: str) -> Path:
        return self.folder / f"{precision}.onnx"

    def engine(self, precision: str, batch: BatchSize = 4) -> tuple[Path, EngineOptions]:
        """The engine's file, built once, and its options."""
        options = options_of(ARCHITECTURE, precision, batch)
        path = self.folder / f"{precision}-{batch}.blob"
        if not path.exists():
            OpenVino().build(self.graph(OpenVino().graph_precision(options)), path, options)
        return path, options

    def session(self, precision: str, batch: BatchSize = 4) -> OpenVinoSession:
        return OpenVino().load(*self.engine(precision, batch))

    def reference(self, precision: str) -> npt.NDArray[np.float32]:
        """Start and end logits (2, 3, 40) of the graph as it is written."""
        return logits_of(OrtSession(self.graph(precision), optimized=False))


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Graphs:
    made = Graphs(tmp_path_factory.mktemp("openvino"))
    for precision, scales in (("fp32", None), ("int8", SCALES)):
        model = build_graph(WEIGHTS, ARCHITECTURE, "fp32", scales)
        save_graph(model, made.graph(precision))
    return made


def logits_of(session: OpenVinoSession | OrtSession) -> npt.NDArray[np.float32]:
    start, end, _ = session.run(*INPUTS)
    assert start.dtype == end.dtype == np.float32
    assert start.shape == end.shape == INPUTS[0].shape
    return np.stack((start, end))


def linear_types(session: OpenVinoSession) -> Counter[str]:
    """The types in which the linears compute, as OpenVINO tells them."""
    nodes = (node.get_rt_info() for node in session._compiled.get_runtime_model().get_ops())
    return Counter(
        info["runtimePrecision"].astype(str)
        for info in nodes
        if info["layerType"].astype(str) == "FullyConnected"
    )


def test_fp32_gives_the_graphs_logits(graphs: Graphs) -> None:
    found = logits_of(graphs.session("fp32"))
    np.testing.assert_allclose(found[REAL], graphs.reference("fp32")[REAL], atol=1e-4)
    assert np.abs(found[REAL]).mean() > 1


def test_padding_and_shape_change_nothing(graphs: Graphs) -> None:
    session = graphs.session("fp32")
    ids, segments, mask = INPUTS
    together = logits_of(session)
    for row, length in enumerate(mask.sum(axis=1)):
        part = np.s_[row : row + 1, :length]
        alone = session.run(ids[part], segments[part], mask[part])[:2]
        np.testing.assert_allclose(np.stack(alone)[:, 0], together[:, row, :length], atol=1e-4)


def test_int8_gives_the_quantized_graphs_logits(graphs: Graphs) -> None:
    found, expected = logits_of(graphs.session("int8")), graphs.reference("int8")
    # What surrounds the GEMMs may be bfloat16, with 8 bits.
    apart = np.abs(found - expected)[REAL].mean()
    assert 0 < apart < 0.05 * np.abs(expected[REAL]).mean()


def test_every_linear_computes_in_its_precision(graphs: Graphs) -> None:
    linears = len(SCALES.weights)
    assert linear_types(graphs.session("fp32")) == {"f32": linears}
    (kind, count), *others = linear_types(graphs.session("int8")).items()
    assert (kind in ("i8", "u8"), count, others) == (True, linears, [])


def test_bf16_is_offered_where_the_processor_has_it(graphs: Graphs) -> None:
    if not HAS_BF16:
        with pytest.raises(UserError, match="no bfloat16; use PRECISION=fp32 or int8"):
            graphs.engine("bf16")
        return
    expected = graphs.reference("fp32")
    session = graphs.session("bf16")
    apart = np.abs(logits_of(session) - expected)[REAL]
    assert 0 < apart.mean() < 0.05 * np.abs(expected[REAL]).mean()
    assert linear_types(session) == {"bf16": len(SCALES.weights)}


def test_each_precision_is_built_from_its_graph() -> None:
    assert OpenVino().precisions == ("fp32", "bf16", "int8")
    assert [
        OpenVino().graph_precision(options_of(ARCHITECTURE, p)) for p in OpenVino().precisions
    ] == [
        "fp32",
        "fp32",
        "int8",
    ]


def test_auto_has_a_stream_a_core(graphs: Graphs) -> None:
    assert graphs.session("fp32", AUTO).streams == cores()
    assert graphs.session("fp32").streams == 1


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_batches_at_once_give_what_they_give_one_by_one(graphs: Graphs, precision: str) -> None:
    session = graphs.session(precision, AUTO)
    # More threads than the machine may have cores: no request is shared by two of them.
    session.streams = 4
    lengths = np.random.default_rng(3).integers(3, 40, 60).tolist()
    windows = windows_of(lengths)
    windows = replace(windows, tokens=windows.tokens % 49 + 1)
    plan = plan_batches(windows.lengths, AUTO, 100)
    concurrent = run_windows(session, windows, plan, "test")
    session.streams = 1
    serial = run_windows(session, windows, plan, "test")
    np.testing.assert_array_equal(concurrent.start_logits, serial.start_logits)
    np.testing.assert_array_equal(concurrent.end_logits, serial.end_logits)
    assert np.isfinite(serial.start_logits).all()


def test_logits_outlive_the_next_batch(graphs: Graphs) -> None:
    session = graphs.session("fp32")
    first = session.run(*INPUTS)
    kept = [array.copy() for array in first[:2]]
    session.run(*inputs_of([40, 23, 1], 40, seed=9))
    for array, copy in zip(first[:2], kept, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_a_run_tells_its_time(graphs: Graphs) -> None:
    session = graphs.session("fp32")
    began = time.perf_counter()
    outputs = session.run(*INPUTS)
    assert 0 < outputs.seconds < time.perf_counter() - began


def test_a_batch_beyond_the_model_is_an_error(graphs: Graphs) -> None:
    with pytest.raises(UserError, match=r"^a batch of 1x41 failed .*; try a smaller BATCH$"):
        graphs.session("fp32").run(*inputs_of([41], 41))


def damaged(data: bytes, graph: bytes) -> dict[str, bytes]:
    middle = len(data) // 2
    return {
        "empty": b"",
        "text": b"no engine at all",
        "head": data[:40],
        "half": data[:middle],
        "short": data[:-20],
        # In the version; what follows has another length for each kind of processor.
        "header changed": data[:30] + bytes([data[30] ^ 1]) + data[31:],
        "another format": graph,
    }


@pytest.mark.parametrize("kind", damaged(bytes(200), b""))
def test_damaged_engine_is_one_line(graphs: Graphs, tmp_path: Path, kind: str) -> None:
    path, options = graphs.engine("fp32")
    bad = tmp_path / "bad.blob"
    bad.write_bytes(damaged(path.read_bytes(), graphs.graph("fp32").read_bytes())[kind])
    with pytest.raises(UserError) as caught:
        OpenVino().load(bad, options)
    message = str(caught.value)
    assert message.startswith(f"{bad} cannot be loaded by OpenVINO (")
    assert message.endswith("; delete it and build it again")
    assert one_line(message) == message


def test_file_that_is_no_graph_is_one_line(graphs: Graphs, tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(graphs.graph("fp32").read_bytes()[:1000])
    with pytest.raises(UserError) as caught:
        OpenVino().build(bad, tmp_path / "engine.blob", options_of(ARCHITECTURE))
    message = str(caught.value)
    assert message.startswith(f"{bad} cannot be compiled by OpenVINO (")
    assert message.endswith("; delete it and build it again")
    assert one_line(message) == message
    assert not (tmp_path / "engine.blob").exists()


def test_engine_depends_on_what_shapes_it() -> None:
    inputs = [
        OpenVino().engine_inputs(options_of(ARCHITECTURE, precision, batch))
        for precision, batch in (("fp32", 4), ("fp32", 8), ("fp32", AUTO), ("int8", 4))
    ]
    texts = [json.dumps(entry, sort_keys=True) for entry in inputs]
    # Shapes are dynamic: only whether batches run at once counts, not how large they are.
    assert texts[0] == texts[1]
    assert len(set(texts)) == (3 if cores() > 1 else 2)
    assert inputs[0]["openvino"] == openvino.__version__.split("-")[0]
    assert inputs[0]["processor"] == cpu_facts()["name"]


def test_device_is_the_processor() -> None:
    assert OpenVino().device(0)["name"] == cpu_facts()["name"]
    assert OpenVino().lock_name(0) == "cpu"
    with pytest.raises(UserError, match="backend openvino has no device 1; leave DEVICE out"):
        OpenVino().device(1)


def test_without_the_package_it_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_backend("openvino").name == "openvino"
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "openvino" else find_spec(name)
    )
    message = "backend openvino is unavailable: package openvino is missing; run `make openvino`"
    with pytest.raises(UserError, match=message):
        find_backend("openvino")
