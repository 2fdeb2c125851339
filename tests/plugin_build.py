"""The plugin library's programs, built once a session for the tests."""

from __future__ import annotations

import functools
from pathlib import Path

from harness.paths import BUILD, ROOT
from harness.plugin_library import build, find_nvcc

SDK = BUILD / "sdk"
NO_COMPILER = find_nvcc() is None


@functools.cache
def built(api: int, target: str, architectures: str = "90-real") -> Path:
    """The program or library `target`, for plugins of this generation."""
    folder = ROOT / "build" / "test-plugin" / f"v{api}"
    build(
        folder,
        {
            "USE_TENSORRT": "true",
            "BERT_PLUGIN_API": str(api),
            "TENSORRT_ROOT": str(SDK / "kernel_lens"),
            "CUBLAS_ROOT": str(SDK / "nvidia" / "cu13"),
            # One architecture: what is tested here does not depend on it.
            "CMAKE_CUDA_ARCHITECTURES": architectures,
        },
        [target],
    )
    place = folder / "plugin"
    if target == "ixrt_plugin":
        return place / "lib" / "libixrt_plugin.so"
    return place / "bin" / target
