"""Simulate nights with and without a loss, and write what the nightly judgement makes of them."""

from __future__ import annotations

import os

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from harness.errors import CHECK_FAILED, OK, UserError, run_command
from harness.files import to_json, write_atomic
from harness.nightly import power
from harness.nightly.power_table import markdown, svg
from harness.paths import RESULTS, shown
from harness.provenance import git_state, utc_now, versions

PUBLISHED = RESULTS / "published"
OUTPUT = PUBLISHED / "nightly"
SERIES, LEAST_SERIES = 10_000, 100


def main() -> int:
    series, seed = read_number("SERIES", SERIES, LEAST_SERIES), read_number("SEED", 1, 0)
    files = [path for path in PUBLISHED.glob("*/*.json") if path.parent != OUTPUT]
    measured, sources = power.residuals(files)
    draws, chosen, started = power.shapes(measured), power.points(), utc_now()
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=len(chosen) * power.parts())
        entries = []
        for point in chosen:
            bar.update(task, description=f"{point.shape}, sigma {point.sigma:.1%}")
            entries.append(power.simulate(point, draws, series, seed, lambda: bar.advance(task)))
    document = {
        "started": started, "finished": utc_now(), "git": git_state(),
        "packages": versions(["numpy"]), "seed": seed, "series": series, "cells": power.CELLS,
        "quiet_nights": power.QUIET_NIGHTS, "histories": power.HISTORIES,
        "persistence": power.PERSISTENCE, "drift": power.DRIFT, "target": power.TARGET,
        "tuning": power.tuning(), "measured": sources, "points": entries,
    }  # fmt: skip
    write_atomic(OUTPUT / "power.json", to_json(document))
    write_atomic(OUTPUT / "power.svg", svg(document))
    write_atomic(OUTPUT / "power.md", markdown(document))
    asked = [e for e in entries if e["comparator"] and e["sigma"] <= power.TARGET["sigma"]]
    missed = [e for e in asked if not all(power.meets(e).values())]
    for entry in missed:
        print(f"missed: {entry['shape']}, sigma {entry['sigma']:.1%}: {power.meets(entry)}")
    print(f"simulate: {len(asked) - len(missed)} of {len(asked)} points meet the targets")
    print(f"simulate: {shown(OUTPUT / 'power.md')}")
    return CHECK_FAILED if missed else OK


def read_number(name: str, default: int, least: int) -> int:
    """The whole number in the environment's `name`; raises UserError for another value."""
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"{name}={text!r} is no whole number from {least} on; give one")
    return int(text)


run_command(main, __doc__)
