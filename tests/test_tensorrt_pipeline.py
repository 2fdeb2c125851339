"""From `make engine` to EM and F1 with each runtime's double, in processes as users start them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from conftest import Checkout
from tensorrt_runtime_double import Generation, write_plugin_library, write_shims

# What the vendors' tools print of the doubles' devices.
ROWS = {
    "nvidia-smi": "NVIDIA H100 80GB HBM3, 580.1, 0, GPU-1, 81559 MiB, 9.0, 700 W, 1980 MHz, 1 MHz",
    "ixsmi": "Iluvatar MR-V100, 4.3.0, 0, GPU-1, 32768 MiB",
}


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


def machine(folder: Path, generation: Generation, *, api: int) -> dict[str, str]:
    """The environment of a machine with one device, its runtime, and plugin libraries."""
    shims, tools = folder / "shims", folder / "bin"
    environment = write_shims(shims, generation, leaks=folder / "leaks")
    tool = "ixsmi" if generation == "ixrt" else "nvidia-smi"
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


@pytest.mark.parametrize(
    ("generation", "words", "name"),
    [
        ("8.6", [], "tensorrt-fp16"),
        ("8.6", ["NETWORK=plugin"], "tensorrt-fp16-network-plugin-library-"),
        ("10", ["PRECISION=int8"], "tensorrt-int8"),
        ("11", ["PRECISION=fp32"], "tensorrt-fp32"),
        ("11", ["NETWORK=plugin"], "tensorrt-fp16-network-plugin-library-"),
        ("ixrt", [], "ixrt-fp16"),
        ("ixrt", ["NETWORK=onnx"], "ixrt-fp16-network-onnx"),
    ],
)
def test_pipeline_reaches_em_and_f1(
    checkout: Checkout, tmp_path: Path, generation: Generation, words: list[str], name: str
) -> None:
    backend = "ixrt" if generation == "ixrt" else "tensorrt"
    environment = machine(tmp_path, generation, api=2 if generation in ("8.6", "ixrt") else 3)
    dataset = tmp_path / "one.json"
    dataset.write_text(json.dumps(DATASET), encoding="utf-8")
    given = ["PROFILE=minilm-sample", f"BACKEND={backend}", f"DATASET={dataset}", "BATCH=1"]
    given += words
    if "NETWORK=plugin" in words:
        given.append(f"PLUGIN_LIBRARY={tmp_path / 'ours.so'}")
    done = checkout.make("verify", *given, **environment)
    # No golden file has accuracy limits for this dataset; all else has been judged.
    assert done.returncode == 2, done.stdout + done.stderr
    assert "no accuracy limits hold" in done.stdout
    assert "equal answers 100.00 %" in done.stdout
    runs = (checkout.root / "results/minilm-sample").glob(f"{name}*-batch1-one-*")
    # Two generations' libraries give the run its name in two ways.
    folder = max(runs, key=lambda run: (run / "run.json").stat().st_mtime_ns)
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["f1"] == metrics["exact_match"] == 100
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    tool = "ixsmi" if backend == "ixrt" else "nvidia-smi"
    assert ROWS[tool].startswith(f"{run['device']['name']},")
    engine = checkout.root / run["engine"]["path"]
    assert engine.with_suffix(".json").exists() is (generation != "ixrt")
    # Nothing is built or timed twice, unless the machine has changed.
    again = checkout.make("infer", *given, **environment)
    assert again.returncode == 0 and "engine:" not in again.stdout, again.stderr
    script = tmp_path / "bin" / tool
    script.write_text(script.read_text().replace("580.1", "590.2").replace("4.3.0", "4.4.0"))
    options = dict(word.split("=", 1) for word in given)
    stale = checkout.script("infer.py", **options, **environment)
    assert stale.returncode == 2
    assert "is stale: driver was" in stale.stderr and "run `make engine` again" in stale.stderr
    rebuilt = checkout.make("engine", *given, **environment)
    assert rebuilt.returncode == 0 and "engine:" in rebuilt.stdout, rebuilt.stderr
