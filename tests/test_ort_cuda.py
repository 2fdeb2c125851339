"""The backend ort-cuda: its engine and its refusals anywhere, its session on an NVIDIA GPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from tiny_bert import architecture_of, inputs_of, random_weights

from harness.backends import EngineOptions
from harness.backends.accelerated import OnAccelerator
from harness.backends.ort import OrtSession
from harness.backends.ort_cuda import OrtCuda, OrtCudaSession
from harness.errors import UserError
from harness.graph import build_graph, save_graph

# Heads of a size that the provider's fused attention takes.
ARCHITECTURE = replace(architecture_of(2), heads=2)


def options(precision: str) -> EngineOptions:
    return EngineOptions(
        precision=precision,
        network="onnx",
        batch=4,
        sequence_length=32,
        hidden=ARCHITECTURE.hidden,
        heads=ARCHITECTURE.heads,
        device=0,
    )


@pytest.fixture(scope="module", params=["fp16", "fp32"])
def precision(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one model as fp16.onnx and fp32.onnx."""
    folder = tmp_path_factory.mktemp("graphs")
    weights = random_weights(ARCHITECTURE)
    for precision in ("fp16", "fp32"):
        graph = build_graph(weights, ARCHITECTURE, precision)  # type: ignore[arg-type]
        save_graph(graph, folder / f"{precision}.onnx")
    return folder


@pytest.fixture(scope="module")
def engine(graphs: Path, precision: str) -> Path:
    path = graphs / f"{precision}.engine.onnx"
    OrtCuda().build(graphs / f"{precision}.onnx", path, options(precision))
    return path


def test_engine_is_fused_and_keeps_its_type(engine: Path, precision: str) -> None:
    model = onnx.load(engine)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Attention") == kinds.count("BiasGelu") == ARCHITECTURE.layers
    # The provider has a kernel for it: unlike on the CPU it stays whole.
    assert kinds.count("SkipLayerNormalization") == 2 * ARCHITECTURE.layers
    weights = {t.data_type for t in model.graph.initializer if len(t.dims) == 2 and t.dims[0] > 8}
    assert weights == {onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.FLOAT}


def test_without_a_gpu_the_reason_is_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnAccelerator, "no_device", lambda self: "nothing here")
    assert OrtCuda().unavailable() == "nothing here"


def has_provider() -> bool:
    import onnxruntime as ort

    return "CUDAExecutionProvider" in ort.get_available_providers()


def test_with_a_gpu_the_reason_is_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnAccelerator, "no_device", lambda self: None)
    reason = OrtCuda().unavailable()
    assert reason is None if has_provider() else ".venv-cuda" in str(reason)


def test_never_runs_on_the_cpu_instead(engine: Path) -> None:
    """ONNX Runtime would: without the provider, and for a device that is not there."""
    warnings.simplefilter("ignore")  # It says so as well.
    with pytest.raises(UserError, match="cannot be loaded on device 1023") as caught:
        OrtCudaSession(engine, 1023)
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
class TestOnGpu:
    """Run by `make test-gpu BACKEND=ort-cuda`, in the venv that has onnxruntime-gpu."""

    @pytest.fixture(autouse=True)
    def provider(self) -> Iterator[None]:
        if not has_provider():
            pytest.skip("needs onnxruntime-gpu: make test-gpu BACKEND=ort-cuda")
        yield

    def test_logits_are_the_references(self, engine: Path, graphs: Path, precision: str) -> None:
        """In any order of shapes, and when a shape comes back: graphs share one memory."""
        session = OrtCuda().load(engine, options(precision))
        reference = OrtSession(graphs / "fp32.onnx", optimized=False)
        limit = {"fp16": 2e-2, "fp32": 1e-4}[precision]
        shapes = [(4, 32), (1, 7), (3, 20), (4, 32), (1, 7), (2, 32), (3, 20)]
        for seed, (rows, length) in enumerate(shapes):
            given = inputs_of([length] + [length // 2 + 1] * (rows - 1), length, seed=seed)
            found, expected = session.run(*given), reference.run(*given)
            mask = given[2] == 1
            assert found.seconds > 0
            for ours, theirs in zip(found[:2], expected[:2], strict=True):
                assert ours.dtype == np.float32 and ours.shape == (rows, length)
                assert np.abs(ours - theirs)[mask].max() < limit

    def test_a_replay_repeats_the_bits(self, engine: Path, precision: str) -> None:
        session = OrtCuda().load(engine, options(precision))
        given = inputs_of([24, 20, 3, 9], 24, seed=1)
        first = session.run(*given)
        session.run(*inputs_of([2, 24, 5, 24], 24, seed=2))
        again = session.run(*given)
        assert np.array_equal(first.start_logits, again.start_logits)
        assert np.array_equal(first.end_logits, again.end_logits)

    def test_no_engine_and_no_memory_are_one_line(
        self, engine: Path, tmp_path: Path, precision: str
    ) -> None:
        broken = tmp_path / "broken.onnx"
        broken.write_bytes(engine.read_bytes()[:2000])
        with pytest.raises(UserError, match="delete it and build it again"):
            OrtCuda().load(broken, options(precision))
        session = OrtCuda().load(engine, options(precision))
        huge = np.ones((2**20, 32), np.int32)
        with pytest.raises(UserError, match="batch of 1048576x32 failed on the device") as caught:
            session.run(huge, np.zeros_like(huge), huge)
        assert "\n" not in str(caught.value)
