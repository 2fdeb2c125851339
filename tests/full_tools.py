"""What the full tests take from elsewhere: commands of their venvs, and packages of npm."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from harness.paths import BUILD, ROOT


def tool(name: str) -> str:
    """A command that a package of requirements-full.txt has brought."""
    return _command(name, Path(sys.executable).parent, "requirements-full.txt")


def supply_tool(name: str) -> str:
    """A command that a package of requirements-supply.txt has brought, in its own venv."""
    return _command(name, ROOT / ".venv-supply" / "bin", "requirements-supply.txt")


def _command(name: str, folder: Path, brought_by: str) -> str:
    program = shutil.which(name, path=str(folder))
    if program is None:
        pytest.skip(f"needs {name}; it is in {brought_by}")
    return program


def npm_package(name: str, sha512: str) -> Path:
    """The files of an npm package, NAME@VERSION, whose archive has this checksum (base64).

    Fetched once, into build/; nothing of it is run on the way.
    """
    if not shutil.which("npm"):
        pytest.skip("needs npm")
    folder = BUILD / "npm" / name.replace("/", "-")
    archive = folder / "archive.tgz"
    if not archive.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        packed = subprocess.run(
            ["npm", "pack", "--json", "--ignore-scripts", name],
            cwd=folder, capture_output=True, text=True, check=True,
        )  # fmt: skip
        (folder / json.loads(packed.stdout)[0]["filename"]).replace(archive)
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    assert digest == sha512, f"{archive} is not {name}"
    if not (folder / "package").is_dir():
        with tarfile.open(archive) as files:
            files.extractall(folder, filter="data")
    return folder / "package"
