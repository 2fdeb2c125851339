"""The same inputs give the same bytes: in any folder, with any hash seed, on all cores or one."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Checkout, clone

from harness.assets import AssetStore
from harness.host import cpus
from harness.paths import ROOT
from harness.run import read_logits

PIPELINE = ROOT / "tests" / "tiny_pipeline.py"
# For the tests of whole runs: small batches, which are soon warm, of all lengths.
QUESTIONS, BATCH = 32, 8
ONE_CORE = cpus().replace("-", ",").partition(",")[0]
# Two processes that agree in nothing but their inputs.
UNLIKE = (
    (ONE_CORE, {"PYTHONHASHSEED": "1", "TZ": "UTC", "LC_ALL": "C", "COLUMNS": "80"}),
    (cpus(), {"PYTHONHASHSEED": "2", "TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8", "COLUMNS": "200"}),
)


def digests(root: Path, *patterns: str) -> dict[str, str]:
    """SHA-256 of the files below `root` that match, by their path in it."""
    files = sorted(path for pattern in patterns for path in root.glob(pattern) if path.is_file())
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_a_tiny_model_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    path = os.pathsep.join((str(ROOT / "scripts"), str(ROOT / "tests")))
    folders = [tmp_path / "a", tmp_path / "another, longer näme"]
    processes = []
    for folder, (cores, variables) in zip(folders, UNLIKE, strict=True):
        folder.mkdir()
        processes.append(
            subprocess.Popen(
                ["taskset", "--cpu-list", cores, sys.executable, PIPELINE, folder],
                env={**os.environ, **variables, "PYTHONPATH": path},
            )
        )
    assert [process.wait(60) for process in processes] == [0, 0]
    first, second = (digests(folder, "*") for folder in folders)
    assert len(first) == 10
    assert first == second
    for name in first:
        content = (folders[1] / name).read_bytes()
        assert str(tmp_path).encode() not in content, f"{name} names the folder it was made in"


def infer(root: Path, cores: str, *words: str, **variables: str) -> Path:
    """Run `make infer` in a clone at `root`; the run's folder."""
    command = ["taskset", "--cpu-list", cores, "make", "infer", "PROFILE=minilm-sample"]
    words = ("BACKEND=ort-cpu", f"LIMIT={QUESTIONS}", *words)
    done = Checkout(root, root, {"OFFLINE": "1"}).command(*command, *words, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = (root / "results" / "minilm-sample").glob("*/run.json")
    return max(runs, key=lambda path: path.stat().st_mtime_ns).parent


def scores(run: Path) -> dict[str, Any]:
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["unstable_answers"] == 0
    return {name: metrics[name] for name in ("exact_match", "f1", "questions", "windows")}


@pytest.mark.full
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_two_clones_give_the_same_bytes(assets: AssetStore, tmp_path: Path, precision: str) -> None:
    made = []
    roots = (tmp_path / "a", tmp_path / "another, longer näme" / "clone")
    for root, (cores, variables) in zip(roots, UNLIKE, strict=True):
        clone(root, assets)
        run = infer(root, cores, f"PRECISION={precision}", f"BATCH={BATCH}", **variables)
        files = digests(root, "build/onnx/*", "build/scales/*", "build/engine/**/*")
        made.append((files, digests(run, "predictions.json", "logits.npz"), scores(run)))
    assert len(made[0][0]) == (4 if precision == "int8" else 3 if precision == "fp16" else 2)
    assert len(made[0][1]) == 2
    assert made[0] == made[1]


@pytest.mark.full
def test_how_windows_are_batched_changes_no_answer(assets: AssetStore, tmp_path: Path) -> None:
    root = tmp_path / "clone"
    clone(root, assets)
    usual = infer(root, cpus(), f"BATCH={BATCH}")
    for batch, cores in (("3", cpus()), ("auto", cpus()), ("auto", ONE_CORE)):
        run = infer(root, cores, f"BATCH={batch}", "REMEASURE=1")
        answers = [(folder / "predictions.json").read_bytes() for folder in (usual, run)]
        assert answers[0] == answers[1], (batch, cores)
        assert scores(run) == scores(usual)
        logits = [read_logits(folder / "logits.npz") for folder in (usual, run)]
        for one, other in zip(*((each.start, each.end) for each in logits), strict=True):
            # Padding changes how many columns a GEMM has, and so how its sums are rounded.
            assert np.abs(one - other).max() < 1e-4
    assert len(list((root / "build" / "engine" / "ort-cpu").glob("*.onnx"))) == 1
