"""The backend tensorrt-rtx with the real library, which builds without a GPU and runs nothing."""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Checkout
from tiny_bert import architecture_of, fitting_scales, random_weights

from harness.backends import EngineOptions, accelerated
from harness.backends.tensorrt import TensorRtRtx
from harness.devices import Accelerator
from harness.errors import UserError, one_line
from harness.graph import build_graph, save_graph
from harness.model import QUANTIZED, SHARED_SCALES
from harness.weights import Architecture

pytestmark = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="has no TensorRT-RTX wheels"
)
# MiniLM and BERT-base but for the vocabulary, and base for its depth.
MINILM = Architecture(6, 384, 12, 1536, vocab=50, positions=512, layer_norm_eps=1e-12)
BASE = Architecture(1, 768, 12, 3072, vocab=50, positions=512, layer_norm_eps=1e-12)
TINY = replace(architecture_of(1), heads=2)
BACKEND = TensorRtRtx()


@pytest.fixture(autouse=True)
def no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine has must not matter."""
    monkeypatch.setattr(accelerated, "devices_of", lambda vendor: [])


def options_of(
    architecture: Architecture, precision: str = "fp16", capability: str | None = "8.9"
) -> EngineOptions:
    return EngineOptions(
        precision=precision,
        batch=32,
        sequence_length=min(384, architecture.positions),
        hidden=architecture.hidden,
        heads=architecture.heads,
        device=0,
        compute_capability=capability,
    )


def write_graph(folder: Path, architecture: Architecture, precision: str) -> Path:
    kind = BACKEND.graph_precision(options_of(architecture, precision))
    weights = random_weights(architecture)
    scales = fitting_scales(weights, architecture) if kind in QUANTIZED else None
    around = QUANTIZED.get(kind, "fp32" if kind == "fp32" else "fp16")
    shared = kind in SHARED_SCALES
    path = folder / "graph.onnx"
    save_graph(build_graph(weights, architecture, around, scales, shared_scales=shared), path)
    return path


@pytest.mark.parametrize("precision", BACKEND.precisions)
@pytest.mark.parametrize("architecture", [MINILM, BASE], ids=["minilm", "base"])
def test_plans_are_built(tmp_path: Path, architecture: Architecture, precision: str) -> None:
    graph, plan = write_graph(tmp_path, architecture, precision), tmp_path / "engine.plan"
    assert BACKEND.build(graph, plan, options_of(architecture, precision)) is None
    # A plan holds the weights in their type.
    numbers = sum(weight.size for weight in random_weights(architecture).values())
    bytes_each = {"fp32": 4, "fp16": 2, "int8": 1}[precision]
    assert 0.9 < plan.stat().st_size / (numbers * bytes_each) < 2.2


def test_plan_depends_on_the_capability(tmp_path: Path) -> None:
    graph = write_graph(tmp_path, TINY, "fp16")
    plans = []
    for capability in ("8.9", "12.0"):
        options = options_of(TINY, capability=capability)
        BACKEND.build(graph, tmp_path / "engine.plan", options)
        plans.append((tmp_path / "engine.plan").read_bytes())
        assert BACKEND.engine_inputs(options)["compute_capability"] == capability
    assert plans[0] != plans[1]


def test_capabilities_are_the_librarys() -> None:
    known = BACKEND.compute_capabilities()
    assert {"7.5", "8.6", "8.9", "12.0"} <= set(known)
    assert "9.0" not in known


def test_graph_that_is_none_is_one_line(tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(write_graph(tmp_path, TINY, "fp16").read_bytes()[:1000])
    with pytest.raises(UserError) as caught:
        BACKEND.build(bad, tmp_path / "engine.plan", options_of(TINY))
    message = str(caught.value)
    assert message.startswith(f"{bad} cannot be parsed by TensorRT-RTX 1.")
    assert one_line(message) == message
    assert not (tmp_path / "engine.plan").exists()


def test_without_a_device_a_capability_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"shows no device.*COMPUTE_CAPABILITY=8\.9"):
        BACKEND.engine_inputs(options_of(TINY, capability=None))
    ada = Accelerator("nvidia", "NVIDIA L4", "580", {"compute_cap": "8.9"})
    monkeypatch.setattr(accelerated, "devices_of", lambda vendor: [ada])
    assert BACKEND.engine_inputs(options_of(TINY, capability=None))["compute_capability"] == "8.9"


@pytest.mark.parametrize("precision", BACKEND.precisions)
def test_make_engine_builds_and_make_infer_says_why_not(checkout: Checkout, precision: str) -> None:
    words = ["PROFILE=minilm-sample", "BACKEND=tensorrt-rtx", f"PRECISION={precision}"]
    done = checkout.make("engine", *words, "COMPUTE_CAPABILITY=8.9", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr
    records = checkout.root / "build/records/minilm-sample"
    name = f"engine-tensorrt-rtx-{precision}-compute-8.9-batch8-device0.json"
    record = json.loads((records / name).read_text(encoding="utf-8"))
    assert (checkout.root / record["file"]["path"]).stat().st_size > 2e7
    for goal, extra in (("infer", ["COMPUTE_CAPABILITY=8.9"]), ("engine", [])):
        refused = checkout.make(goal, *words, *extra, CUDA_VISIBLE_DEVICES="")
        assert refused.returncode == 2
        (line,) = (li for li in refused.stderr.splitlines() if li.startswith("error: "))
        assert "nvidia-smi shows no device" in line
