"""Compare CPU systems on the same weights and windows, interleaved, and write the tables."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from harness.bench import document
from harness.bench.catalog import REFERENCE, check_keys
from harness.bench.chart import svg
from harness.bench.interleave import WARMUP_PASSES, run_comparison, steps
from harness.bench.plan import comparisons
from harness.bench.repeats import read_repeats
from harness.bench.table import markdown
from harness.doctor import SAMPLE
from harness.errors import CHECK_FAILED, OK, run_command
from harness.files import to_json, write_atomic
from harness.host import cpu_facts
from harness.inputs import Inputs
from harness.lock import device_lock
from harness.options import read_options
from harness.paths import BUILD, RESULTS, ROOT, shown
from harness.provenance import environment, git_state, utc_now, versions
from harness.scoring import Score
from harness.squad import Dataset, read_dataset

OUTPUT = RESULTS / "published" / "cpu"
CALIBRATION = ROOT / "assets" / "sample" / "calibration-v1.json"
# Fewer repeats give no median and spread worth writing down.
LEAST_REPEATS, MOST_REPEATS = 5, 99
PACKAGES = (
    "numpy", "onnx", "onnxruntime", "openvino", "nncf", "torch", "transformers", "optimum",
    "optimum-onnx", "tokenizers",
)  # fmt: skip


def main() -> int:
    keys, repeats = read_systems(), read_repeats(LEAST_REPEATS, MOST_REPEATS)
    inputs = read_inputs()
    calibration = read_dataset(inputs.options.calibration or CALIBRATION)
    parts: list[dict[str, Any]] = []
    scores: dict[str, Score] = {}
    BUILD.mkdir(exist_ok=True)
    with (
        device_lock("cpu"),
        # Gigabytes of graphs: beside other builds, not in a folder that may be memory.
        tempfile.TemporaryDirectory(prefix="bench-", dir=BUILD) as temporary,
    ):
        folder, started = Path(temporary), utc_now()
        for number, plan in enumerate(
            comparisons(inputs, list(calibration.questions), keys, folder)
        ):
            with progress(plan.title, steps(plan.systems, repeats)) as report:
                outcomes = run_comparison(
                    plan.systems,
                    plan.model,
                    plan.task,
                    repeats=repeats,
                    folder=folder / str(number),
                    reference=REFERENCE,
                    known_scores=scores,
                    report=report,
                )
            scores |= {o.key: o.score for o in outcomes if o.score is not None}
            parts.append(document.comparison(plan.title, plan.model, plan.task, outcomes))
        device, surroundings = cpu_facts(), environment()
    # The variables and the command hold paths of this machine.
    surroundings = {k: v for k, v in surroundings.items() if k not in ("variables", "command")}

    found = {
        "started": started,
        "finished": utc_now(),
        "device": device,
        "git": git_state(),
        "environment": surroundings,
        "packages": versions(PACKAGES),
        "dataset": {**described(inputs.dataset), "limit": inputs.options.limit},
        "calibration": described(calibration),
        "assets": inputs.assets,
        "profile_sha256": inputs.options.profile.sha256,
        "warmup_passes": WARMUP_PASSES,
        "repeats": repeats,
        "comparisons": parts,
    }
    write_atomic(OUTPUT / "bench.json", to_json(found))
    write_atomic(OUTPUT / "bench.svg", svg(found))
    write_atomic(OUTPUT / "bench.md", markdown(found))
    failed = document.failures(found)
    for line in failed:
        print(line, file=sys.stderr)
    print(f"bench: {shown(OUTPUT / 'bench.md')}")
    return CHECK_FAILED if failed else OK


def read_systems() -> list[str]:
    """The keys in BENCH_SYSTEMS; none stands for all. Raises UserError for an unknown one."""
    keys = (os.environ.get("BENCH_SYSTEMS") or "").replace(",", " ").split()
    check_keys(keys)
    return keys


def read_inputs() -> Inputs:
    """The data of PROFILE (the sample by default), DATASET, LIMIT and CALIBRATION.

    The backends are those of the catalogue, so BACKEND, PRECISION and BATCH have no say.
    """
    taken = ("PROFILE", "DATASET", "LIMIT", "CALIBRATION")
    given = {name: os.environ.get(name) or "" for name in taken}
    profile = given["PROFILE"] or SAMPLE
    return Inputs(read_options({**given, "PROFILE": profile, "BACKEND": "ort-cpu"}))


def described(dataset: Dataset) -> dict[str, Any]:
    """Which dataset it is and how many questions of it were read.

    Its name alone: a published file must not show the folders of the machine it was made on.
    """
    return {
        "name": dataset.path.name,
        "sha256": dataset.sha256,
        "questions": len(dataset.questions),
    }


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[str], None]]:
    """A bar on standard error, where that is a terminal; its value is told each next step."""
    console = Console(stderr=True)
    # Two repaints a second: the bar's own thread must not show in the timings.
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        refresh_per_second=2,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(title, total=total)
        # The step that is told of begins only now: complete are those before it.
        complete = count()
        yield lambda step: bar.update(
            task, completed=next(complete), description=f"{title}: {step}"
        )


if __name__ == "__main__":
    # The workers' processes import this module as well.
    run_command(main, __doc__)
