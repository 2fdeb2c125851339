"""The plugin library as CMake builds it, without a GPU: under sanitizers, and in TensorRT-RTX."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorrt_double as double
from plugin_build import NO_COMPILER, built

from harness.adapter import merge_adapter, read_adapter
from harness.assets import AssetStore
from harness.paths import ROOT
from harness.plugin_network import add_bert
from harness.profile import load_profile
from harness.weights import read_weights

pytestmark = pytest.mark.skipif(NO_COMPILER, reason="no CUDA compiler (nvcc) here")


def run(program: Path, *arguments: str) -> str:
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("api", [3, 2])
def test_every_plugin_computes_and_refuses_under_sanitizers(api: int) -> None:
    """Kernels on the host stand in for the GPU's; AddressSanitizer and UBSan end on an error."""
    assert ", 0 failed" in run(built(f"plugin_test_host_v{api}"), "--host", "--rounds", "1")


def test_the_real_library_needs_no_gpu_but_to_execute() -> None:
    assert ", 0 failed" in run(built("plugin_test_v3"))


def test_the_kernel_library_knows_nothing_of_tensorrt() -> None:
    library = built("ixrt_plugin").with_name("libbert_kernels.so")
    symbols = run(Path("/usr/bin/nm"), "-D", "--defined-only", str(library)).split()
    exported = {name for name in symbols if "bert" in name}
    assert "bert_attention" in exported
    assert not [name for name in symbols if "nvinfer" in name.lower()]


def minilm(assets: AssetStore) -> Any:
    base = assets.obtain("minilm/model.safetensors")
    adapter = read_adapter(assets.obtain("minilm/adapter.safetensors").path)
    return merge_adapter(read_weights(base.path), adapter, base_sha256=base.sha256)


def test_tensorrt_rtx_makes_every_plugin_from_real_weights(
    assets: AssetStore, tmp_path: Path
) -> None:
    """In a process of its own: a library once loaded into the registry stays there."""
    pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx")
    network = double.NetworkV3()
    architecture = load_profile("minilm-sample").architecture
    add_bert(
        network,  # type: ignore[arg-type]
        double.TENSORRT_V3,  # type: ignore[arg-type]
        double.RegistryV3(),  # type: ignore[arg-type]
        minilm(assets),
        architecture,
        api=3,
    )
    layers = [layer for layer in network.layers if layer.fields]
    for index, layer in enumerate(layers):
        np.savez(tmp_path / f"{index:03}-{layer.kind.replace(' ', '-')}.npz", **layer.fields)
    library = built("ixrt_plugin")
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("registry_probe.py"), library, tmp_path],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{ROOT / 'scripts'}"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == ["10", "creators,", str(len(layers)), "plugins"]
    assert "field num_heads" in done.stderr
