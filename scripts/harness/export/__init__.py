"""The report's results where people already look: a job page, Prometheus, MLflow.

Nothing here can turn a verdict around: whatever fails is one line on standard error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from ..errors import UserError, one_line
from ..files import write_atomic
from ..report import MARKDOWN, Report
from . import prometheus, step_summary, tracking

PROMETHEUS = "metrics.prom"

# What is told where, and how: the action returns a line to say, or "".
_Export = tuple[str, Callable[[], str]]


def export(
    report: Report, results: Path, environment: Mapping[str, str] | None = None
) -> tuple[list[str], list[str]]:
    """Tell of `report`, which lies in `results`, wherever `environment` asks for it.

    Returns lines to say what was done, and warnings. Raises nothing but what ends a program.
    """
    return _tried(_exports(report, results, os.environ if environment is None else environment))


def export_again(
    results: Path, environment: Mapping[str, str] | None = None
) -> tuple[list[str], list[str]]:
    """Tell of the report that lies in `results`, told of before, where each job begins with an
    empty page. Returns what `export` does."""
    return _tried(_job_page(results, os.environ if environment is None else environment))


def say(done: Iterable[str], warnings: Iterable[str]) -> None:
    """Print what `export` returns, warnings on standard error."""
    for line in done:
        print(line)
    for line in warnings:
        print(f"warning: {line}", file=sys.stderr)


def _tried(exports: Iterable[_Export]) -> tuple[list[str], list[str]]:
    done: list[str] = []
    warnings: list[str] = []
    for name, action in exports:
        try:
            line = action()
        except (UserError, OSError) as error:
            warnings.append(f"{name}: {one_line(error)}")
        except Exception as error:
            # Not foreseen, and still no reason to lose a verdict.
            warnings.append(f"{name}: {type(error).__name__}: {one_line(error)}")
        else:
            if line:
                done.append(f"{name}: {line}")
    return done, warnings


def _exports(report: Report, results: Path, env: Mapping[str, str]) -> Iterator[_Export]:
    def write_prometheus() -> str:
        write_atomic(results / PROMETHEUS, prometheus.text(report))
        return ""

    yield "Prometheus", write_prometheus
    yield from _job_page(results, env)
    experiment = env.get(tracking.EXPERIMENT_VARIABLE) or tracking.EXPERIMENT
    if uri := env.get(tracking.VARIABLE):
        yield "MLflow", lambda: tracking.log(report, results, uri, experiment)


def _job_page(results: Path, env: Mapping[str, str]) -> Iterator[_Export]:
    if path := env.get(step_summary.VARIABLE):
        yield "step summary", lambda: step_summary.append(Path(path), results / MARKDOWN)
