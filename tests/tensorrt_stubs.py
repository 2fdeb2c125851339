"""TensorRT's type stubs, which in site-packages would make `import tensorrt` succeed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from harness.paths import BUILD

STUBS = "tensorrt-stubs==10.13.0.35.1"


def stubs_folder() -> Path:
    """Where the packages `tensorrt` and `tensorrt_bindings` of the stubs lie, installed once."""
    folder = BUILD / "sdk" / "tensorrt-stubs"
    stamp = folder / ".ready"
    if not stamp.exists() or stamp.read_text() != STUBS:
        shutil.rmtree(folder, ignore_errors=True)
        install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target"]
        subprocess.run([*install, folder, STUBS], check=True)
        stamp.write_text(STUBS)
    return folder
