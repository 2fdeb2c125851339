"""Everything needed to say where a number came from, and to make it again."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import one_line
from .files import sha256_bytes, sha256_file
from .host import cpus
from .paths import ROOT

# What backends run on, by the names of their packages.
RUNTIMES = (
    "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-cu12", "tensorrt-cu13",
    "tensorrt-rtx", "tensorrt-rtx-cu13-bindings", "cuda-python", "cuda-bindings",
)  # fmt: skip
_PACKAGES = ("numpy", "onnx", "tokenizers", "safetensors", *RUNTIMES)
_VARIABLES = (
    "PROFILE", "BACKEND", "PRECISION", "NETWORK", "BATCH", "DEVICE", "LIMIT", "DATASET",
    "CALIBRATION", "PLUGIN_LIBRARY", "COMPUTE_CAPABILITY", "OFFLINE",
)  # fmt: skip
# Set by users and schedulers to steer numeric libraries: they change speed and rounding.
NUMERIC_PREFIXES = (
    "OMP_", "MKL_", "OPENBLAS_", "ORT_", "CUDA_", "UMD_", "KMP_", "ONEDNN_", "DNNL_",
)  # fmt: skip


def utc_now() -> str:
    """The time in UTC, ISO 8601 to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def code_sha256(*modules: ModuleType) -> str:
    """One hash over the source files of `modules`: what they make depends on it."""
    hashes = [sha256_file(Path(str(module.__file__))) for module in modules]
    return sha256_bytes("".join(hashes).encode())


def git_state() -> dict[str, Any]:
    """`commit` and whether tracked files differ from it (`dirty`); None outside a checkout."""
    commit = run_git("rev-parse", "HEAD")
    changes = run_git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def run_git(*arguments: str) -> str | None:
    """Standard output of a git command in the repository, stripped; None if it fails."""
    try:
        return git_output(*arguments)
    except GitError:
        return None


class GitError(Exception):
    """Why git did not answer, in its own words."""


def git_output(*arguments: str) -> str:
    """Standard output of a git command in the repository, stripped; raises GitError."""
    # Variables such as GIT_DIR would point git at another repository.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    # Without the locks a query may take: killed, it would leave one behind.
    command = ["git", "--no-optional-locks", "-C", str(ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=clean)
    except OSError as error:
        raise GitError(f"git cannot be run ({error.strerror})") from None
    if done.returncode != 0:
        raise GitError(one_line(done.stderr) or f"git {arguments[0]} failed")
    return done.stdout.strip()


def versions(names: Iterable[str]) -> dict[str, str]:
    """The versions of the packages `names`, without those that are not installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def environment() -> dict[str, Any]:
    """Python, packages, system, and the variables that steer the run."""
    numeric = {k: v for k, v in sorted(os.environ.items()) if k.startswith(NUMERIC_PREFIXES)}
    return {
        "python": platform.python_version(),
        "packages": versions(_PACKAGES),
        "system": platform.platform(),
        "host": platform.node(),
        "load_average": list(os.getloadavg()),
        "variables": {k: os.environ[k] for k in _VARIABLES if os.environ.get(k)},
        "numeric_variables": numeric,
        "cpus": cpus(),
        "command": shlex.join(sys.argv),
    }
