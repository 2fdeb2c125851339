"""The plugin library's programs, built once a session for the tests."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from pathlib import Path

from harness.paths import BUILD, ROOT
from harness.plugin_library import build, find_nvcc

NO_COMPILER = find_nvcc() is None


@functools.cache
def sdk() -> Path:
    """TensorRT's headers, and cuBLAS for toolkits without it; installed where they are wanted."""
    folder, requirements = BUILD / "sdk", ROOT / "requirements-plugin.lock"
    stamp, wanted = folder / ".ready", requirements.read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--require-hashes"]
        subprocess.run([*install, "--target", folder, "-r", requirements], check=True)
        stamp.write_text(wanted)
    return folder


@functools.cache
def built(target: str) -> Path:
    """The program or library `target`; one folder, for both generations share most objects."""
    folder = BUILD / "test-plugin"
    build(
        folder,
        {
            "USE_TENSORRT": "true",
            "BERT_PLUGIN_API": "3",
            "TENSORRT_ROOT": str(sdk() / "kernel_lens"),
            "CUBLAS_ROOT": str(sdk() / "nvidia" / "cu13"),
            # One architecture: what is tested here does not depend on it.
            "CMAKE_CUDA_ARCHITECTURES": "90-real",
        },
        [target],
    )
    place = folder / "plugin"
    if target == "ixrt_plugin":
        return place / "lib" / "libixrt_plugin.so"
    return place / "bin" / target
