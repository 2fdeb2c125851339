"""Made-up nights of made-up cells, as the nightly history keeps them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from run_builders import QUESTIONS

from harness.files import sha256_bytes, sha256_file, to_json
from harness.nightly.record import Cell, Record, keep

FIRST = datetime(2026, 10, 20, 1, 0, tzinfo=timezone.utc)
# What the runs of run_builders are.
SAMPLE = Cell("bench-1", "minilm-sample", "ort-cpu", "fp32", 8)
MR_V100 = Cell("mr-v100-a", "bert-base-squad", "ixrt", "fp16", 32)


def nights(
    cell: Cell,
    speeds: Sequence[float | None],
    noise: float = 0.004,
    skipped: Sequence[int] = (),
    **others: Any,
) -> list[Record]:
    """A record a night with about these QPS; None is a failed run, negative an inconclusive one.

    `skipped` nights have no record. `others` are fields of Record; a callable gets the night.
    """
    generator = random.Random(f"{cell} {len(speeds)}")
    found = []
    for night, speed in enumerate(speeds):
        jitter = [1 + generator.gauss(0, noise) for _ in range(6)]
        spread = 0.2 if speed is not None and speed < 0 else 0.0
        repeats = tuple(
            abs(speed) * jitter[0] * (1 + (jitter[i] - 1) / 3 - spread * (i == 3))
            for i in range(1, 6)
        ) if speed is not None else ()  # fmt: skip
        fields: dict[str, Any] = {
            "exact_match": None if speed is None else 75.0,
            "f1": None if speed is None else 80.5,
            "failure": "the engine did not build" if speed is None else "",
            **{name: value(night) if callable(value) else value for name, value in others.items()},
        }
        if night not in skipped:
            time = (FIRST + timedelta(days=night)).strftime("%Y-%m-%dT%H:%M:%SZ")
            found.append(Record(time, cell, repeats, **fields))
    return found


def history_path(root: Path) -> Path:
    return root / "results" / "nightly" / "history.jsonl"


def write_history(root: Path, *cells: list[Record]) -> Path:
    """The history of these cells' nights, in order of time, as `history.append` leaves it.

    Written at once: every append waits for the disk.
    """
    path = history_path(root)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines, tip = [], sha256_bytes(b"")
    for record in sorted((r for cell in cells for r in cell), key=lambda r: r.time):
        entry = {"previous": tip, **record.as_json()}
        lines.append(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
        tip = sha256_bytes(lines[-1])
    path.write_bytes(b"".join(lines))
    head = to_json({"lines": len(lines), "sha256": tip})
    path.with_name(f"{path.name}.head").write_text(head, encoding="utf-8")
    return path


def keep_answers(root: Path, answers: dict[str, str] | None = None) -> str:
    """Keep these answers (by default all right ones) as a night's; their hash."""
    file = root / "answers.json"
    text = json.dumps({key: key for key in QUESTIONS} if answers is None else answers)
    file.write_text(text, encoding="utf-8")
    return keep(file, root / "results" / "nightly" / "predictions")


def provenance(root: Path, device: str = "Test CPU (2 cores)", **others: Any) -> dict[str, Any]:
    """Provenance over the dataset of run_builders."""
    dataset = root / "assets" / "sample.json"
    return {
        "device": {"name": device, **others},
        "dataset": {"sha256": sha256_file(dataset)} if dataset.exists() else {},
    }
