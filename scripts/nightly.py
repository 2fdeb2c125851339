"""Run the matrix of cells, judge each against its golden file and its history, and tell."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from harness.errors import UserError, run_command
from harness.lock import file_lock
from harness.nightly import summary
from harness.nightly.matrix import MATRIX, read_matrix
from harness.nightly.night import STATUSES, Place, Report, run_night
from harness.nightly.stages import MEASURING, interrupted_by, require_make
from harness.options import read_count
from harness.paths import RESULTS

HISTORY = RESULTS / "nightly" / "history.jsonl"


def main() -> int:
    interrupted_by(signal.SIGTERM, signal.SIGHUP)
    env = os.environ
    nights = read_count(env, "NIGHTS", 1)
    accept, note = env.get("ACCEPT") or "", env.get("NOTE") or ""
    if bool(accept) != bool(note.strip()):
        raise UserError("ACCEPT=<cell> and NOTE='why' belong together; give both")
    place = Place(Path(env.get("HISTORY") or HISTORY).absolute())
    require_make()
    matrix = read_matrix(Path(env.get("MATRIX") or MATRIX).absolute())
    matrix = matrix.named(accept) if accept else matrix.only(
        **{name: env.get(name.upper()) or "" for name in ("profile", "backend", "precision")}
    )  # fmt: skip
    seen = []
    with file_lock(MEASURING, "the nightly measurement of this checkout"):
        for number in range(1, nights + 1):
            prefix = f"night {number} of {nights}, " if nights > 1 else ""
            with reporter(prefix) as report:
                night = run_night(matrix, place, report, note.strip())
            summary.write(night, place)
            summary.show(night)
            seen.append(night)
    if nights > 1:
        states = [night.status for night in seen]
        told = ", ".join(f"{states.count(s)} {s}" for s in reversed(STATUSES) if s in states)
        print(f"nightly: {nights} nights, {told}")
    return min(seen, key=lambda night: STATUSES.index(night.status)).code


@contextmanager
def reporter(prefix: str) -> Iterator[Report]:
    """Tell what goes on: a line that changes on a terminal, a line each time elsewhere."""
    console = Console(stderr=True)
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn(),
        console=console, transient=True, disable=not console.is_terminal, refresh_per_second=2,
    ) as bar:  # fmt: skip
        task = bar.add_task("")

        def report(text: str) -> None:
            if console.is_terminal:
                bar.reset(task, description=prefix + text)
            elif ": pair " not in text:
                print(prefix + text, file=sys.stderr, flush=True)

        yield report


run_command(main, __doc__)
