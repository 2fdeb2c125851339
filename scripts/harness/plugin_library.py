"""Building the plugin library with CMake and the CUDA compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from .errors import UserError
from .paths import ROOT, shown

# Where toolkits put their compiler when they leave PATH alone.
_USUAL_PLACES = ("/usr/local/cuda/bin", "/usr/local/corex/bin")


def find_nvcc() -> Path | None:
    """The CUDA compiler: CUDACXX's, PATH's, or that of the usual places."""
    named = os.environ.get("CUDACXX")
    if named:
        return Path(named) if Path(named).is_file() else None
    path = os.pathsep.join([os.environ.get("PATH", ""), *_USUAL_PLACES])
    found = shutil.which("nvcc", path=path)
    return Path(found) if found else None


def build(folder: Path, definitions: Mapping[str, str], targets: Sequence[str] = ()) -> None:
    """Configure the CMake project into `folder` and build `targets`, or all of them.

    Empty definitions are left out. Raises UserError without a CUDA compiler or CMake, and when
    a step fails; what CMake says goes to the terminal.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise UserError(
            "no CUDA compiler (nvcc) on PATH or in /usr/local/cuda; install the CUDA toolkit, or "
            "go without the plugin library, which no CPU backend needs"
        )
    if shutil.which("cmake") is None:
        raise UserError("no cmake on PATH; install CMake 3.18 or later")
    # A folder keeps its generator.
    new = not (folder / "CMakeCache.txt").exists()
    generator = ["-G", "Ninja"] if new and shutil.which("ninja") else []
    options = [f"-D{name}={value}" for name, value in definitions.items() if value]
    _run(
        ["cmake", "-S", str(ROOT), "-B", str(folder), *generator, *options],
        {"CUDACXX": str(nvcc)},
        folder,
    )
    chosen = ["--target", *targets] if targets else []
    jobs = str(os.cpu_count() or 1)
    _run(["cmake", "--build", str(folder), "--parallel", jobs, *chosen], {}, folder)


def _run(command: list[str], variables: Mapping[str, str], folder: Path) -> None:
    # make's own flags are no business of a make that CMake starts.
    inherited = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS")}
    done = subprocess.run(command, env={**inherited, **variables})
    if done.returncode != 0:
        raise UserError(
            f"cmake failed (exit {done.returncode}); its messages are above, its files in "
            f"{shown(folder)}"
        )
