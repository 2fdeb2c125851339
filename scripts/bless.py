"""Measure this machine several times and write what it promises into the golden file."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from harness.bless import LEAST_RUNS, Difference, differences, proposed
from harness.bless_runs import forget, measure_all, refuse
from harness.errors import CHECK_FAILED, OK, UserError, one_line, run_command
from harness.files import to_json, write_atomic
from harness.golden import golden_path, load_golden
from harness.lock import file_lock
from harness.nightly.stages import MEASURING, interrupted_by, require_make
from harness.options import read_count, read_flag, read_options
from harness.paths import shown


def main() -> int:
    interrupted_by(signal.SIGTERM, signal.SIGHUP)
    options = read_options()
    runs = read_count(os.environ, "RUNS", LEAST_RUNS, LEAST_RUNS)
    agreed = read_flag(os.environ, "YES")
    refuse(options)
    if not agreed and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError("bless asks before it writes, and there is no terminal; give YES=1")
    require_make()
    profile, precision = options.profile.name, options.precision
    path = golden_path(profile, precision)
    with file_lock(MEASURING, "the measuring of this checkout"):
        measured = measure_all(options, runs, report)
        golden = load_golden(profile, precision)
        document = proposed(measured, golden, load_golden(profile, "fp32"))
        found = differences(golden.document if golden else None, document)
        show(path, found)
        if not agreed and not said_yes(f"write {shown(path)}? [y/N] "):
            print("bless: nothing written; today's runs are kept for the next `make bless`")
            return CHECK_FAILED
        write_atomic(path, to_json(document))
        forget(options)
    print(f"bless: {shown(path)} written; commit it, since only a committed promise counts")
    return OK


def report(text: str) -> None:
    """Tell what goes on."""
    print(f"bless: {text}", file=sys.stderr, flush=True)


def show(path: Path, found: list[Difference]) -> None:
    """Print what would change in the golden file."""
    table = Table(box=box.SIMPLE_HEAD, title=shown(path), title_justify="left", pad_edge=False)
    for column in ("value", "old", "new"):
        table.add_column(column, overflow="fold")
    for difference in found:
        table.add_row(difference.name, *map(_cell, (difference.old, difference.new)))
    console = Console(highlight=False)
    console.print(table if found else f"{shown(path)}: nothing changes")


def said_yes(question: str) -> bool:
    """Whether the answer at the terminal is yes; an ended input is no."""
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _cell(value: object) -> str:
    return "–" if value is None else one_line(value)


run_command(main, __doc__)
