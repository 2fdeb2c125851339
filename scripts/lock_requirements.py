"""Resolve the requirements anew: every requirements*.lock, with the newest versions that fit.

A lock holds what its .txt file names and all that this needs in turn, each with one exact version
and the hashes of its wheels, for Python 3.10 to 3.12 and every platform that has them. uv
resolves, from the index that UV_DEFAULT_INDEX names or its own default.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.errors import OK, UserError, one_line, run_command
from harness.files import write_if_changed
from harness.paths import ROOT

BASE = "requirements"
EXTRAS = tuple(f"{BASE}-{extra}" for extra in ("openvino", "tensorrt-rtx", "loadgen"))
DEV, FULL, CUDA = f"{BASE}-dev", f"{BASE}-full", f"{BASE}-ort-cuda"
PLUGIN, SUPPLY = f"{BASE}-plugin", f"{BASE}-supply"
# Each lock after those that it is installed together with, whose versions it takes over.
LOCKS: dict[str, tuple[str, ...]] = {
    BASE: (),
    **dict.fromkeys(EXTRAS, (BASE,)),
    DEV: (BASE, *EXTRAS),
    FULL: (BASE, *EXTRAS, DEV),
    CUDA: (BASE, DEV),
    PLUGIN: (),
    SUPPLY: (),
}
# transformers and onnxruntime-gpu are not for Python 3.10.
PYTHONS = ("3.10", "3.11", "3.12")
OLDEST = {FULL: "3.11", CUDA: "3.11"}


def main() -> int:
    uv = str(Path(sys.executable).with_name("uv"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for path in ROOT.glob(f"{BASE}*.txt"):
            shutil.copy(path, folder)
        resolve(uv, folder)
        for name in LOCKS:
            lock = f"{name}.lock"
            write_if_changed(ROOT / lock, (folder / lock).read_text(encoding="utf-8"))
    print(f"lock: {len(LOCKS)} files resolved; `git diff` shows what is new")
    return OK


def resolve(uv: str, folder: Path) -> None:
    """Write the locks of the requirements in `folder`; versions of locks there stay if they fit.

    Raises UserError with uv's reason.
    """
    for name, agreeing in LOCKS.items():
        command = [
            "pip", "compile", "--quiet", "--universal", "--generate-hashes",
            "--only-binary=:all:", f"--python-version={OLDEST.get(name, PYTHONS[0])}",
            # The plugin's packages are taken for their files alone.
            *(["--no-deps"] if name == PLUGIN else []),
            "--custom-compile-command=make lock", *(f"--constraint={n}.lock" for n in agreeing),
            f"--output-file={name}.lock", f"{name}.txt",
        ]  # fmt: skip
        done = subprocess.run(
            [uv, *command],
            cwd=folder,
            env={**os.environ, "UV_PYTHON_DOWNLOADS": "never"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise UserError(
                f"{name}.txt cannot be resolved ({one_line(done.stderr)}); "
                "mend its pins, or check the network and UV_DEFAULT_INDEX"
            )


if __name__ == "__main__":
    run_command(main, __doc__)
