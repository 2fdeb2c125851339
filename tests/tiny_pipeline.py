"""Weights to logits over a tiny model, in a process of its own: tiny_pipeline.py FOLDER.

It writes scales, graphs, engines and logits into FOLDER.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
from tiny_bert import architecture_of, options_of, random_weights

from harness.backends.ort import OrtCpu
from harness.batches import plan_batches
from harness.calibrate import Method, center, quantize
from harness.graph import build_graph, save_graph
from harness.measure import run_windows
from harness.run import Logits, write_logits
from harness.scales import save_scales
from harness.windows import Windows

LENGTHS = (17, 40, 9, 33, 40, 12, 28, 31, 5, 40)


def windows() -> Windows:
    """Windows of random tokens, the first third of each its question."""
    lengths = np.array(LENGTHS, np.int32)
    total = int(lengths.sum())
    return Windows(
        np.random.default_rng(3).integers(1, 50, total).astype(np.int32),
        lengths,
        lengths // 3,
        np.arange(len(lengths), dtype=np.int32),
        np.zeros((total, 2), np.int32),
    )


def main(folder: Path) -> None:
    architecture = architecture_of(2)
    weights, cut = random_weights(architecture), windows()
    scales = quantize(weights, architecture, cut, Method())
    save_scales(scales, folder / "scales.safetensors")
    graphs = {
        "fp32": build_graph(weights, architecture, "fp32"),
        "fp16": build_graph(weights, architecture, "fp16"),
        "int8": build_graph(
            center(weights, architecture, scales.centers), architecture, "fp32", scales
        ),
    }
    for precision, model in graphs.items():
        graph, engine = folder / f"{precision}.onnx", folder / f"{precision}-engine.onnx"
        options = options_of(architecture, precision)
        save_graph(model, graph)
        OrtCpu().build(graph, engine, options)
        session, plan = OrtCpu().load(engine, options), plan_batches(cut.lengths, 4)
        done = run_windows(session, cut, plan, precision)
        logits = Logits(done.start_logits, done.end_logits, cut.lengths)
        write_logits(folder / f"{precision}.npz", logits)
        check_cores()


def check_cores() -> None:
    """Exit with a message if a thread may run where this process may not."""
    granted = os.sched_getaffinity(0)
    threads = (int(task.name) for task in Path("/proc/self/task").iterdir())
    found = {thread: os.sched_getaffinity(thread) for thread in threads}
    if stray := {thread: cores for thread, cores in found.items() if not cores <= granted}:
        sys.exit(f"threads on cores that were not granted: {stray}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
