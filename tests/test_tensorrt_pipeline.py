"""From `make engine` to EM and F1 with each runtime's double, in processes as users start them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from conftest import Checkout
from tensorrt_runtime_double import Generation, write_plugin_library, write_shims

# What the vendors' tools print of the doubles' devices.
ROWS = {
    "nvidia-smi": "NVIDIA H100 80GB HBM3, 580.1, 0, GPU-1, 81559 MiB, 9.0, 700 W, 1980 MHz, 1 MHz",
    "ixsmi": "Iluvatar MR-V100, 4.3.0, 0, GPU-1, 32768 MiB",
}

TOOLS = {"ixrt": "ixsmi", "tensorrt": "nvidia-smi"}

# One question: the doubles compute plugins in NumPy, slowly.
CONTEXT = "The Rhine is a river. It rises in the Swiss Alps and flows to the North Sea."
ANSWER = "the Swiss Alps"
DATASET = {
    "version": "1.1",
    "data": [
        {
            "title": "Rhine",
            "paragraphs": [
                {
                    "context": CONTEXT,
                    "qas": [
                        {
                            "id": "rhine",
                            "question": "Where does the Rhine rise?",
                            "answers": [{"text": ANSWER, "answer_start": CONTEXT.index(ANSWER)}],
                        }
                    ],
                }
            ],
        }
    ],
}


@pytest.fixture(scope="module")
def profile(checkout: Checkout) -> str:
    """The sample's profile with short windows and little warm-up."""
    folder = checkout.root / "configs/profiles"
    text = (folder / "minilm-sample.yaml").read_text(encoding="utf-8")
    for key, value in (
        ("sequence_length", 64),
        ("doc_stride", 16),
        ("max_question_tokens", 16),
        ("warmup", 1),
    ):
        text, found = re.subn(rf"\b{key}: \d+", f"{key}: {value}", text)
        assert found == 1, key
    (folder / "minilm-short.yaml").write_text(text, encoding="utf-8")
    return "minilm-short"


def machine(folder: Path, generation: Generation, *, api: int) -> dict[str, str]:
    """The environment of a machine with one device, its runtime, and plugin libraries."""
    shims, tools = folder / "shims", folder / "bin"
    environment = write_shims(shims, generation, leaks=folder / "leaks")
    tool = TOOLS["ixrt" if generation == "ixrt" else "tensorrt"]
    tools.mkdir()
    script = tools / tool
    script.write_text(f"#!/bin/sh\necho '{ROWS[tool]}'\n")
    script.chmod(0o755)
    if generation == "ixrt":
        theirs = shims / "tensorrt" / "lib"
        theirs.mkdir(exist_ok=True)
        write_plugin_library(theirs / "libixrt_plugin.so", 2)
    write_plugin_library(folder / "ours.so", 2 if api == 2 else 3)
    return {**environment, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}


def words_of(folder: Path, profile: str, backend: str) -> list[str]:
    """Make's variables for the one question, whose file goes into `folder`."""
    dataset = folder / "one.json"
    dataset.write_text(json.dumps(DATASET), encoding="utf-8")
    return [f"PROFILE={profile}", f"BACKEND={backend}", f"DATASET={dataset}", "BATCH=1"]


@pytest.mark.parametrize(
    ("generation", "words", "name"),
    [
        pytest.param("8.6", [], "tensorrt-fp16", marks=pytest.mark.full),
        ("8.6", ["NETWORK=plugin"], "tensorrt-fp16-network-plugin-library-"),
        ("10", [], "tensorrt-fp16"),
        # Finds scales first, for minutes.
        pytest.param("10", ["PRECISION=int8"], "tensorrt-int8", marks=pytest.mark.full),
        ("11", ["PRECISION=fp32"], "tensorrt-fp32"),
        pytest.param(
            "11",
            ["NETWORK=plugin"],
            "tensorrt-fp16-network-plugin-library-",
            marks=pytest.mark.full,
        ),
        ("ixrt", [], "ixrt-fp16"),
        pytest.param("ixrt", ["NETWORK=onnx"], "ixrt-fp16-network-onnx", marks=pytest.mark.full),
    ],
)
def test_pipeline_reaches_em_and_f1(
    checkout: Checkout,
    profile: str,
    tmp_path: Path,
    generation: Generation,
    words: list[str],
    name: str,
) -> None:
    backend = "ixrt" if generation == "ixrt" else "tensorrt"
    environment = machine(tmp_path, generation, api=2 if generation in ("8.6", "ixrt") else 3)
    given = [*words_of(tmp_path, profile, backend), *words]
    if "NETWORK=plugin" in words:
        given.append(f"PLUGIN_LIBRARY={tmp_path / 'ours.so'}")
    done = checkout.make("verify", *given, **environment)
    # This profile has no golden file; all else has been judged.
    assert done.returncode == 2, done.stdout + done.stderr
    assert "nothing is promised" in done.stdout
    assert "equal answers 100.00 %" in done.stdout
    runs = (checkout.root / "results" / profile).glob(f"{name}*-batch1-one-*")
    # Two generations' libraries give the run its name in two ways.
    folder = max(runs, key=lambda run: (run / "run.json").stat().st_mtime_ns)
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["f1"] == metrics["exact_match"] == 100
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert ROWS[TOOLS[backend]].startswith(f"{run['device']['name']},")
    engine = checkout.root / run["engine"]["path"]
    assert engine.with_suffix(".json").exists() is (generation != "ixrt")


def test_another_driver_makes_the_engine_stale(
    checkout: Checkout, profile: str, tmp_path: Path
) -> None:
    environment = machine(tmp_path, "10", api=3)
    given = words_of(tmp_path, profile, "tensorrt")
    done = checkout.make("infer", *given, **environment)
    assert done.returncode == 0, done.stderr
    again = checkout.make("infer", *given, **environment)
    assert again.returncode == 0 and "engine:" not in again.stdout, again.stderr
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.write_text(tool.read_text().replace("580.1", "590.2"))
    options = dict(word.split("=", 1) for word in given)
    stale = checkout.script("infer.py", **options, **environment)
    assert stale.returncode == 2
    assert "is stale: driver was" in stale.stderr and "run `make engine` again" in stale.stderr
    rebuilt = checkout.make("engine", *given, **environment)
    assert rebuilt.returncode == 0 and "engine:" in rebuilt.stdout, rebuilt.stderr
