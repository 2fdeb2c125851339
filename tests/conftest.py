"""Fixtures: the assets, and a checkout of the working tree in which make has run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.assets import AssetStore
from harness.files import sha256_file
from harness.manifest import load_manifest
from harness.paths import ASSET_CACHE, ASSET_LOCK, MANIFEST, ROOT

TIMEOUT_SECONDS = 300


@pytest.fixture(scope="session")
def assets() -> AssetStore:
    """The repository's own assets; the first run downloads them."""
    return AssetStore(load_manifest(MANIFEST), root=ROOT, cache=ASSET_CACHE, lock_file=ASSET_LOCK)


@pytest.fixture(scope="session")
def vocab(assets: AssetStore) -> Path:
    """BERT's uncased vocabulary."""
    return assets.obtain("bert/vocab.txt").path


@dataclass
class Checkout:
    """A clone of the working tree with a small dataset that its golden file knows.

    `dataset` has a blank and an umlaut in its name, as the folder above it does.
    """

    root: Path
    dataset: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def run(self) -> Path:
        """The folder of the run that the fixture has made."""
        (found,) = (self.root / "results" / "minilm-sample").glob("ort-cpu-fp32-tiny_*")
        return found

    def environment(self, **variables: str) -> dict[str, str]:
        """The process's environment with `variables` on top."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
        return {**clean, **self.variables, **variables}

    def make(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run make; words are goals and NAME=value, `variables` go into the environment."""
        return self.command("make", *words, **variables)

    def script(self, name: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a pipeline command with the dataset of this checkout."""
        given = {"PROFILE": "minilm-sample", "BACKEND": "ort-cpu", "DATASET": str(self.dataset)}
        python = self.root / ".venv" / "bin" / "python"
        return self.command(str(python), f"scripts/{name}", **{**given, **variables})

    def command(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run any command in the checkout, without a terminal."""
        with subprocess.Popen(
            words,
            cwd=self.root,
            env=self.environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                output, errors = process.communicate(timeout=TIMEOUT_SECONDS)
            except BaseException:
                # A stage that outlived make would hold the processor's lock from all other tests.
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return subprocess.CompletedProcess(list(words), process.returncode, output, errors)

    def git(self, *words: str) -> None:
        """Run git with a name and an address of its own."""
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
        done = self.command("git", *identity, *words)
        assert done.returncode == 0, done.stderr


def clone(root: Path, assets: AssetStore) -> None:
    """Copy the working tree to `root`, with the virtual environment and the downloads."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-coz", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            # With its time: make compares requirements.txt with the virtual environment.
            shutil.copy2(ROOT / name, root / name)
    (root / ".venv").symlink_to(ROOT / ".venv")
    for name in ("minilm/model.safetensors", "bert/vocab.txt"):
        source, target = assets.obtain(name).path, root / "build" / "assets" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)


@pytest.fixture(scope="session")
def checkout(assets: AssetStore, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which `make all` over the small dataset has run and passed."""
    root = tmp_path_factory.mktemp("päth with blank") / "clone"
    clone(root, assets)

    made = Checkout(root, root / "tiny Sätze.json", {"OFFLINE": "1"})
    sample = json.loads((root / "assets/sample/sample-v1.json").read_text(encoding="utf-8"))
    # The shortest passages: the fixture shall be quick.
    sample["data"].sort(key=lambda article: len(article["paragraphs"][0]["context"]))
    sample["data"] = sample["data"][:5]
    made.dataset.write_text(json.dumps(sample), encoding="utf-8")
    golden_file = root / "golden/minilm-sample/fp32.json"
    golden = json.loads(golden_file.read_text(encoding="utf-8"))
    golden["datasets"].append({"name": "tiny", "sha256": sha256_file(made.dataset)})
    for score in ("exact_match", "f1"):
        golden["accuracy"][score]["allowed_loss"] = 25
    golden_file.write_text(json.dumps(golden), encoding="utf-8")
    made.git("init", "--quiet")
    made.git("add", "--all")
    made.git("commit", "--quiet", "--message", "as tested")

    done = made.make("all", f"DATASET={made.dataset}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verify: pass" in done.stdout
    return made
