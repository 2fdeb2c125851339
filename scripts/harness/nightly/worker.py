"""One engine in a process of its own, timed when it is asked to: half of a pair.

Run as `python -m harness.nightly.worker`, from the sources that the engine belongs to. It reads
a job, one JSON object on one line, and answers with a line: what it runs on, once it is warm.
Each further line it reads asks for a pass, which it answers with its QPS. It ends with its input.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

# What the job and the answers look like; the sources that a comparator keeps may be older.
PROTOCOL = 1
# The second pass still differs from later ones: runtimes plan memory for a shape when they see
# it first.
WARMUP_PASSES = 2


def main() -> None:
    # Libraries print what they like; answers go where they cannot.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(**fields: Any) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    job = json.loads(sys.stdin.readline())
    try:
        if job["protocol"] != PROTOCOL:
            raise RuntimeError(f"its sources are another version ({PROTOCOL})")
        serve(job, answer)
    except Exception as error:  # Whatever happens here, the other side shall know in a line.
        answer(error=f"{type(error).__name__}: {error}")
        sys.exit(1)


def serve(job: dict[str, Any], answer: Any) -> None:
    """Load what `job` names, and time a pass a line of standard input."""
    from ..host import use_cpus

    if job["cpus"]:
        # Before any library counts the cores.
        use_cpus(job["cpus"])
    # After that, since some libraries count when they are imported.
    from ..backends import EngineOptions, find_backend
    from ..batches import plan_batches
    from ..measure import qps, run_windows, warm_up
    from ..provenance import environment
    from ..squad import read_dataset
    from ..windows import WindowOptions, cut_windows, load_tokenizer

    library = job["engine_options"]["plugin_library"]
    options = EngineOptions(
        **{**job["engine_options"], "plugin_library": None if library is None else Path(library)}
    )
    backend = find_backend(job["backend"])
    questions = read_dataset(Path(job["dataset"])).questions[:: job["every"]]
    tokenizer = load_tokenizer(Path(job["vocab"]))
    windows = cut_windows(questions, tokenizer, WindowOptions(**job["windows"]))
    plan = plan_batches(windows.lengths, options.batch, backend.token_budget)
    session = backend.load(Path(job["engine"]), options)

    def timed() -> float:
        done = run_windows(session, windows, plan, "")
        return qps(len(windows), options.batch, done.seconds, done.wall_seconds)

    longest = max(plan, key=lambda rows: int(windows.lengths[rows].max()))
    warm_up(session, [(len(longest), options.sequence_length)] * job["warmup"])
    for _ in range(WARMUP_PASSES):
        timed()
    answer(device=backend.device(options.device), environment=environment())
    for _ in sys.stdin:
        answer(qps=timed())


if __name__ == "__main__":
    main()
