"""Made-up runs and their dataset, as a results folder and an assets folder hold them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.files import sha256_file
from harness.measure import summarize

QUESTIONS = [f"q{i}" for i in range(8)]
# Markup of HTML, Jinja and Markdown, a terminal escape, what UTF-8 and bidi readers trip over.
HOSTILE = "\"><script>alert(1)</script>'{{7*7}}\n| # [x](y) `\x1b[31m \ud800\u202e"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_dataset(root: Path, questions: list[str] = QUESTIONS) -> Path:
    path = root / "assets" / "sample.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [
        {"id": key, "question": f"what is <{key}>?", "answers": [{"text": key, "answer_start": 0}]}
        for key in questions
    ]
    document = {"data": [{"paragraphs": [{"context": " ".join(questions), "qas": entries}]}]}
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def write_run(
    root: Path,
    name: str = "minilm-sample/ort-cpu-fp32",
    predictions: dict[str, str] | None = None,
    slowness: float = 1.0,
    **changes: Any,
) -> Path:
    """A made-up run that holds together; `changes` overwrite keys of run.json."""
    folder = root / "results" / name
    folder.mkdir(parents=True, exist_ok=True)
    timings = {
        "questions": 8, "windows": 8, "batch": 8, "warmup": 3, "streams": 1, "shapes": [[8, 40]],
        "seconds": [[slowness * 0.01]] * 5, "execution_seconds": [slowness * 0.02] * 5,
        "wall_seconds": [slowness] * 5,
    }  # fmt: skip
    metrics = {
        "exact_match": 75.0, "f1": 80.5, "questions": 8, "windows": 8, "unstable_answers": 0,
        **summarize(timings),
    }  # fmt: skip
    outputs = {
        "predictions.json": predictions or {key: key for key in QUESTIONS},
        "metrics.json": metrics,
        "timings.json": timings,
    }
    for file, value in outputs.items():
        (folder / file).write_text(json.dumps(value), encoding="utf-8")
    dataset = root / "assets" / "sample.json"
    if not dataset.exists():
        write_dataset(root)
    run = {
        "options": {
            "profile": "minilm-sample", "backend": "ort-cpu", "precision": "fp32", "batch": 8,
            "device": 0, "limit": None, "dataset": None,
        },
        "dataset": {"path": "assets/sample.json", "sha256": sha256_file(dataset)},
        "engine": {"path": "build/engine/x.onnx", "sha256": "ab" * 32},
        "files": {file: sha256_file(folder / file) for file in outputs},
        "started": "2026-01-02T03:04:05Z",
        "finished": "2026-01-02T03:04:06Z",
        "wall_seconds": 9.0,
        "device": {"name": "Test CPU (2 cores)", "clock_mhz": [2000.0]},
        "git": {"commit": COMMIT, "dirty": True},
        "environment": {"python": "3.11.7", "packages": {"numpy": "2.4.6"}, "load_average": [1]},
        **changes,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    return folder
