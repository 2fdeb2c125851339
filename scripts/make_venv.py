"""Make or refresh a virtual environment: make_venv.py VENV STAMP REQUIREMENTS...

Requirements that end in .lock are installed as they are locked, by hash; the others after them.
Standard library only: it runs before anything is installed.
"""

import fcntl
import importlib.util
import os
import subprocess
import sys
from pathlib import Path


def vendor_runtime() -> bool:
    """Whether this interpreter carries a TensorRT-shaped module, as ixRT's wheels leave it."""
    return importlib.util.find_spec("tensorrt") is not None


def has_pip(python: Path) -> bool:
    """Whether the environment is whole: one killed while it was made lacks pip."""
    pip = [str(python), "-m", "pip", "--version"]
    return python.exists() and not subprocess.run(pip, capture_output=True).returncode


def pip_calls(requirements: list[str]) -> list[list[str]]:
    """The arguments of each `pip install`: one takes hashes for all its packages or for none."""

    def files(names: list[str]) -> list[str]:
        return [word for name in names for word in ("--requirement", name)]

    locked = [name for name in requirements if name.endswith(".lock")]
    others = [name for name in requirements if not name.endswith(".lock")]
    calls = []
    if locked:
        # Wheels alone: no package runs code of its own while it is installed.
        calls.append(["--require-hashes", "--only-binary=:all:", *files(locked)])
    if others:
        calls.append(files(others))
    return calls


def main(venv: Path, stamp: Path, requirements: list[str]) -> int:
    with venv.with_name(f"{venv.name}.lock").open("w") as lock:
        # A second make waits here instead of installing into the same folder.
        fcntl.flock(lock, fcntl.LOCK_EX)
        python = venv / "bin" / "python"
        if not has_pip(python):
            print(f"making {venv} with Python {sys.version.split()[0]}", file=sys.stderr)
            options = ["--system-site-packages"] if vendor_runtime() else []
            make = [sys.executable, "-m", "venv", "--clear", *options, str(venv)]
            if subprocess.run(make).returncode:
                print(
                    f"error: {sys.executable} cannot make a virtual environment; "
                    "install its venv and ensurepip modules, or name another one with PYTHON=",
                    file=sys.stderr,
                )
                return 2
        print(f"installing {', '.join(requirements)} (once, about a minute)", file=sys.stderr)
        quiet = [] if sys.stderr.isatty() else ["--quiet"]
        pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *quiet]
        for arguments in pip_calls(requirements):
            if subprocess.run([*pip, *arguments]).returncode:
                print(
                    "error: the packages could not be installed; check the network or pip's "
                    "configuration (pip config list), then run the same command again; if pip "
                    "speaks of hashes, the index has other files than the lock (docs/assets.md)",
                    file=sys.stderr,
                )
                return 2
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.touch()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
    except OSError as error:
        print(f"error: {error}; check free space and permissions", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        os._exit(130)
