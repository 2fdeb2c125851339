"""Stages that make nothing: each call leaves a made-up run, as a script of steps says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from run_builders import COMMIT, QUESTIONS, write_dataset, write_run

from harness.files import sha256_file
from harness.nightly.stages import Outcome

RIGHT = {key: key for key in QUESTIONS}
TWO_CORES = {
    "python": "3.11.7", "packages": {"onnxruntime": "1.32.0"}, "system": "Linux", "host": "bench",
    "numeric_variables": {}, "cpus": "0-1", "load_average": [1.0], "command": "infer.py",
}  # fmt: skip
ONE_THREAD = {**TWO_CORES, "numeric_variables": {"OMP_NUM_THREADS": "1"}, "cpus": "0"}


@dataclass(frozen=True)
class Step:
    """How one call ends. failure: the stage's error; spread: of the repeats, at 100 / slowness
    QPS; disturbance: what the watch has seen; failing: a check of verify, and its note."""

    slowness: float = 1.0
    spread: float = 0.01
    predictions: Mapping[str, str] = field(default_factory=lambda: RIGHT)
    environment: Mapping[str, Any] = field(default_factory=lambda: TWO_CORES)
    disturbance: str = ""
    failing: tuple[str, str] | None = None
    failure: str = ""
    commit: str = COMMIT


class FakeStages:
    """`Stages` by a list of steps; `calls` records goal and variables of each."""

    def __init__(self, root: Path, steps: Sequence[Step]) -> None:
        self.root = root
        self.steps = list(steps)
        self.calls: list[tuple[str, Mapping[str, str]]] = []

    def __call__(self, goal: str, variables: Mapping[str, str], log: Path) -> Outcome:
        self.calls.append((goal, variables))
        step = self.steps.pop(0)
        if step.failure:
            return Outcome(2, step.failure)
        folder = self.run(f"{variables['PROFILE']}/{variables['BACKEND']}-fp32", step)
        status = "fail" if step.failing else "pass"
        checks = [{"name": "f1", "status": "pass", "note": ""}]
        if step.failing:
            name, note = step.failing
            checks.append({"name": name, "status": "fail", "note": note})
        verdict = {"run": str(folder), "status": status, "checks": checks}
        return Outcome(2 if step.failing else 0, "", verdict)

    def run(self, name: str, step: Step) -> Path:
        """The run's folder, as infer and crosscheck leave it."""
        dataset = write_dataset(self.root, list(step.predictions))
        engine = self.root / "engine.onnx"
        engine.write_bytes(b"an engine")
        cores = 1 + step.environment["cpus"].count("-")
        backend = name.split("/")[1].removesuffix("-fp32")
        folder = write_run(
            self.root, name, dict(step.predictions),
            options={
                "profile": "minilm-sample", "backend": backend, "precision": "fp32", "batch": 8,
                "device": 0, "limit": None, "dataset": None,
            },
            dataset={"path": str(dataset), "sha256": sha256_file(dataset)},
            engine={"path": str(engine), "sha256": sha256_file(engine)},
            device={"name": f"Test CPU ({cores} cores)", "cores": cores},
            git={"commit": step.commit, "dirty": False},
            environment=dict(step.environment),
            disturbances=[{"what": step.disturbance, "detail": "x", "affects": "qps"}]
            if step.disturbance else [],
        )  # fmt: skip
        timings = json.loads((folder / "timings.json").read_text())
        # Five repeats around 800 / 8 windows: the middle one is the median.
        factors = [1 - step.spread / 2, 1, 1, 1, 1 + step.spread / 2]
        timings["seconds"] = [[0.08 * step.slowness / factor] for factor in factors]
        (folder / "timings.json").write_text(json.dumps(timings))
        return folder
