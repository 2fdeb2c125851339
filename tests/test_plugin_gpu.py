"""Kernels, plugins and their whole stack on this machine's NVIDIA GPU: `make test-gpu`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from plugin_build import built
from plugin_stack import batches_of, read_logits, run, write_batches, write_network
from test_plugin_library import minilm

from harness.answers import answer_texts
from harness.assets import AssetStore
from harness.backends.ort import OrtSession
from harness.batches import scatter
from harness.graph import build_graph, save_graph
from harness.profile import load_profile
from harness.squad import read_dataset
from harness.windows import cut_windows, load_tokenizer

pytestmark = pytest.mark.gpu

BATCH = 32


def passes(program: Path, *arguments: str) -> None:
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_kernels() -> None:
    passes(built(3, "kernels_test"), "25")


@pytest.mark.parametrize("api", [3, 2])
def test_plugins(api: int) -> None:
    passes(built(api, "plugin_test"), "--gpu")


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck"])
def test_sanitizer(tool: str) -> None:
    program = str(built(3, "kernels_test"))
    passes(Path("compute-sanitizer"), "--tool", tool, "--error-exitcode", "1", program, "1")


def test_minilm_as_a_stack_of_plugins_answers_like_fp32(
    assets: AssetStore, vocab: Path, tmp_path: Path
) -> None:
    profile = load_profile("minilm-sample")
    weights, architecture = minilm(assets), profile.architecture
    questions = read_dataset(assets.obtain("sample/sample-v1.json").path).questions
    windows = cut_windows(questions, load_tokenizer(vocab), profile.windows)
    graph = tmp_path / "fp32.onnx"
    save_graph(build_graph(weights, architecture, "fp32"), graph)
    session = OrtSession(graph, optimized=False)
    reference = np.zeros((2, len(windows.tokens)), np.float32)
    for batch in batches_of(windows, 8):
        outputs = session.run(**batch.inputs)
        scatter(windows, batch, outputs.start_logits, reference[0])
        scatter(windows, batch, outputs.end_logits, reference[1])

    write_network(weights, architecture, None, tmp_path / "network")
    write_batches(windows, BATCH, tmp_path / "batches")
    run(built(3, "plugin_stack"), tmp_path / "network", tmp_path / "batches", tmp_path / "out")
    start, end = read_logits(windows, BATCH, tmp_path / "out")
    expected = answer_texts(questions, windows, *reference)
    found = answer_texts(questions, windows, start, end)
    equal = sum(expected[key] == found[key] for key in expected) / len(expected)
    assert equal >= 0.99, equal
    assert np.abs(start - reference[0]).max() < 0.2
