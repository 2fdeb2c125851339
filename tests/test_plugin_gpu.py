"""Kernels, plugins and their whole stack on this machine's NVIDIA GPU: `make test-gpu`.

SQUAD names a SQuAD v1.1 file, `.json` or `.json.gz`, whose first questions are then asked instead
of the sample dataset's.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from plugin_build import built
from plugin_stack import (
    BERT_BASE,
    batches_of,
    bert_base_weights,
    random_windows,
    read_logits,
    run,
    write_batches,
    write_network,
)
from test_plugin_library import minilm

from harness import calibrate
from harness.answers import answer_texts
from harness.assets import AssetStore
from harness.backends.ort import OrtSession
from harness.batches import scatter
from harness.graph import build_graph, save_graph
from harness.profile import load_profile
from harness.scales import Scales
from harness.squad import Question, read_dataset
from harness.weights import Architecture, Weights
from harness.windows import Float32, Windows, cut_windows, load_tokenizer

pytestmark = pytest.mark.gpu

# The least share of answers that are the FP32 graph's: of SQUAD's questions, and of the sample's,
# of which one answer is one in a hundred.
SQUAD_QUESTIONS = 1000
EQUAL_ON_SQUAD, EQUAL_ON_SAMPLE, EQUAL_IN_INT8 = 0.995, 0.99, 0.9
CALIBRATION_QUESTIONS = 32
BATCH = 32

FAMILIES = (
    "embedding", "layer-norm", "attention-portable", "attention-mma", "attention-wgmma", "gelu",
    "quantization", "masks", "qa-head", "linear", "linear-int8",
)  # fmt: skip
# Under racecheck cuBLASLt's kernels would be searched, and ours have no shared memory there.
RACECHECKED = FAMILIES[:-2]


def output_of(*command: str | Path, seconds: int = 120) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def sanitized(tool: str, *command: str | Path, seconds: int = 120) -> str:
    checker = ("compute-sanitizer", "--tool", tool, "--error-exitcode", "1")
    return output_of(*checker, *command, seconds=seconds)


def test_kernels() -> None:
    program = built("kernels_test")
    assert output_of(program, "--list").split() == list(FAMILIES)
    assert ", 0 failed" in output_of(program, "--cases", "25")


@pytest.mark.parametrize("api", [3, 2])
def test_plugins(api: int) -> None:
    assert ", 0 failed" in output_of(built(f"plugin_test_v{api}"), "--rounds", "4")


@pytest.mark.parametrize(
    ("tool", "family"),
    [(tool, family) for tool in ("memcheck", "initcheck") for family in FAMILIES]
    + [("racecheck", family) for family in RACECHECKED],
)
def test_kernels_under_a_sanitizer(tool: str, family: str) -> None:
    options = ("--small", "--cases", "6", "--seed", "1")
    printed = sanitized(tool, built("kernels_test"), *options, family)
    assert ", 0 failed" in printed
    assert f"ok    {family} " in printed or f"none  {family}" in printed


def test_plugins_under_memcheck() -> None:
    # It asks for more memory than there is, too: that is no error of the program's.
    command = ("--report-api-errors", "no", built("plugin_test_v3"), "--rounds", "1")
    assert ", 0 failed" in sanitized("memcheck", *command, seconds=300)


def test_bert_base_as_a_stack_of_plugins_computes_like_fp32(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Logits are within 0.06 of FP32's, whose standard deviation is 3; in the FP16 ONNX graph
    they are within 0.02."""
    weights = bert_base_weights()
    windows = random_windows([384, 17, 250, 96, 384, 131, 5, 301], BERT_BASE.vocab)
    expected = graph_logits(weights, BERT_BASE, windows, 4, tmp_path)
    found = stack_logits(weights, BERT_BASE, None, windows, 4, tmp_path)
    difference = np.abs(found - expected)
    say(capsys, f"BERT-base, FP16: logits of random weights differ by {difference.max():.3f}")
    assert difference.max() < 0.06
    assert np.sqrt(np.square(difference).mean()) < 0.02


@dataclass(frozen=True)
class Asked:
    """MiniLM's weights, questions, their windows, and the FP32 graph's logits (2, T)."""

    weights: Weights
    architecture: Architecture
    questions: tuple[Question, ...]
    windows: Windows
    logits: Float32
    least_equal: float


@pytest.fixture(scope="module")
def asked(assets: AssetStore, vocab: Path, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    profile, weights = load_profile("minilm-sample"), minilm(assets)
    given = os.environ.get("SQUAD")
    path = Path(given) if given else assets.obtain("sample/sample-v1.json").path
    questions = read_dataset(path, SQUAD_QUESTIONS).questions
    windows = cut_windows(questions, load_tokenizer(vocab), profile.windows)
    logits = graph_logits(
        weights, profile.architecture, windows, 8, tmp_path_factory.mktemp("graph")
    )
    least = EQUAL_ON_SQUAD if given else EQUAL_ON_SAMPLE
    return Asked(weights, profile.architecture, questions, windows, logits, least)


def test_minilm_as_a_stack_of_plugins_answers_like_fp32(
    asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logits = stack_logits(asked.weights, asked.architecture, None, asked.windows, BATCH, tmp_path)
    equal = share_of_equal_answers(asked, logits)
    difference = np.abs(logits - asked.logits).max()
    text = f"{equal:.1%} of {len(asked.questions):,} answers equal"
    say(capsys, f"MiniLM, FP16: {text}, logits differ by {difference:.3f}")
    assert equal >= asked.least_equal
    assert difference < 0.2


def test_minilm_as_a_stack_of_int8_plugins_answers_nearly_like_fp32(
    asked: Asked,
    assets: AssetStore,
    vocab: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    profile = load_profile("minilm-sample")
    path = assets.obtain("sample/calibration-v1.json").path
    examples = read_dataset(path, CALIBRATION_QUESTIONS).questions
    windows = cut_windows(examples, load_tokenizer(vocab), profile.windows)
    scales = calibrate.quantize(asked.weights, asked.architecture, windows, calibrate.Method())
    centered = calibrate.center(asked.weights, asked.architecture, scales.centers)
    logits = stack_logits(centered, asked.architecture, scales, asked.windows, BATCH, tmp_path)
    equal = share_of_equal_answers(asked, logits)
    say(capsys, f"MiniLM, INT8: {equal:.1%} of {len(asked.questions):,} answers equal")
    assert equal >= EQUAL_IN_INT8


def graph_logits(
    weights: Weights, architecture: Architecture, windows: Windows, batch: int, folder: Path
) -> Float32:
    """Start and end logits (2, T) of the FP32 ONNX graph as it is written, on the CPU."""
    save_graph(build_graph(weights, architecture, "fp32"), folder / "fp32.onnx")
    session = OrtSession(folder / "fp32.onnx", optimized=False)
    logits = np.full((2, len(windows.tokens)), np.nan, np.float32)
    for one in batches_of(windows, batch):
        outputs = session.run(**one.inputs)
        scatter(windows, one, outputs.start_logits, logits[0])
        scatter(windows, one, outputs.end_logits, logits[1])
    return logits


def stack_logits(
    weights: Weights,
    architecture: Architecture,
    scales: Scales | None,
    windows: Windows,
    batch: int,
    folder: Path,
) -> Float32:
    """Start and end logits (2, T) of the plugins, FP16 or INT8, on the GPU."""
    write_network(weights, architecture, scales, folder / "network")
    write_batches(windows, batch, folder / "batches")
    run(built("plugin_stack"), folder / "network", folder / "batches", folder / "out")
    return np.stack(read_logits(windows, batch, folder / "out"))


def share_of_equal_answers(asked: Asked, logits: Float32) -> float:
    """The share of answers that are the FP32 graph's."""
    expected = answer_texts(asked.questions, asked.windows, *asked.logits)
    found = answer_texts(asked.questions, asked.windows, *logits)
    return sum(expected[key] == found[key] for key in expected) / len(expected)


def say(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """Print, whatever pytest does with output."""
    with capsys.disabled():
        print(f"\n{text}")
