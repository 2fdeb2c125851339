"""Prometheus text format, for node_exporter's textfile collector.

Names and labels are promises to whoever has made a dashboard of them: docs/report.md lists them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone

from ..cell_history import CellHistory
from ..errors import one_line
from ..nightly.detection import ALARM, BLIND, LEARNING, QUIET, SUSPECTED, WAITING
from ..report import Report
from ..results import RunSummary
from ..verify import FAIL, PASS, UNCLEAR, Verdict

_PREFIX = "bert_squad"
_QUANTILES = {"p50": "0.5", "p90": "0.9", "p99": "0.99"}
_STATES = (PASS, FAIL, UNCLEAR)
_JUDGEMENTS = (QUIET, LEARNING, SUSPECTED, BLIND, WAITING, ALARM)
_TIME = "%Y-%m-%dT%H:%M:%SZ"

Labels = Mapping[str, str]


@dataclass
class _Family:
    """One gauge: its name and help, and a value for each set of labels."""

    name: str
    help: str
    samples: list[tuple[Labels, float]] = field(default_factory=list)

    def add(self, labels: Labels, value: float) -> None:
        self.samples.append((labels, value))

    @property
    def lines(self) -> list[str]:
        name = f"{_PREFIX}_{self.name}"
        head = [f"# HELP {name} {self.help}", f"# TYPE {name} gauge"]
        return [*head, *(f"{name}{_labels(labels)} {value!r}" for labels, value in self.samples)]


def text(report: Report) -> str:
    """All readable runs, the verdict and the nightly cells; no family without samples."""
    chosen = report.detail.name if report.detail else None
    families = [
        *_run_families(report.summaries),
        *_verdict_families(report.summaries.get(chosen or ""), chosen, report.verdict),
        *_night_families(report.cells),
    ]
    lines = [line for family in families if family.samples for line in family.lines]
    return "".join(f"{line}\n" for line in lines)


def run_labels(name: str, run: RunSummary) -> dict[str, str]:
    """What tells a run from others; `run` is its folder, which also names its other options."""
    options = run.record["options"]
    return {
        "profile": options["profile"],
        "backend": options["backend"],
        "precision": options["precision"],
        "batch": str(options["batch"]),
        "device": run.record["device"]["name"],
        "run": name,
    }


def _run_families(runs: Mapping[str, RunSummary]) -> list[_Family]:
    match = _Family("exact_match", "Exact match in per cent.")
    f1 = _Family("f1", "F1 in per cent.")
    qps = _Family("qps", "Questions per second, execution alone.")
    spread = _Family("qps_spread_ratio", "(max - min) / median of the repeats' QPS.")
    end = _Family("qps_end_to_end", "Questions per second from text to answers.")
    latency = _Family("batch_latency_seconds", "Time of a batch, by quantile.")
    finished = _Family("run_timestamp_seconds", "When the run finished, in seconds since 1970.")
    for name, run in runs.items():
        labels, metrics = run_labels(name, run), run.metrics
        match.add(labels, float(metrics["exact_match"]))
        f1.add(labels, float(metrics["f1"]))
        qps.add(labels, float(metrics["qps"]))
        spread.add(labels, float(metrics["qps_spread"]))
        end.add(labels, float(metrics["qps_end_to_end"]))
        for key, quantile in _QUANTILES.items():
            seconds = metrics["latency_ms"][key] / 1e3
            latency.add({**labels, "quantile": quantile}, seconds)
        time = _timestamp(run.record["finished"])
        if time is not None:
            finished.add(labels, time)
    return [match, f1, qps, spread, end, latency, finished]


def _verdict_families(
    run: RunSummary | None, name: str | None, verdict: Verdict | None
) -> list[_Family]:
    status = _Family("verify_status", "1 for the verdict on the verified run, 0 for the others.")
    checks = _Family("verify_checks", "How many of its checks have each status.")
    # A verdict on an earlier run in the same folder says nothing of this one.
    if run is not None and name is not None and verdict and verdict.run_sha256 == run.sha256:
        labels = run_labels(name, run)
        for state in _STATES:
            status.add({**labels, "status": state}, float(verdict.status == state))
        found = [check.status for check in verdict.checks]
        for state in sorted({*_STATES, *found}):
            checks.add({**labels, "status": state}, float(found.count(state)))
    return [status, checks]


def _night_families(cells: Sequence[CellHistory]) -> list[_Family]:
    state = _Family("night_state", "1 for what the cell's last night calls for, 0 for the others.")
    baseline = _Family("night_baseline_qps", "QPS that the cell's nights are judged against.")
    alarms = _Family("night_alarms", "How many losses of QPS the cell's nights have confirmed.")
    last = _Family("night_timestamp_seconds", "When the cell's last night ran.")
    for cell in cells:
        labels = {
            "machine": cell.cell.machine,
            "profile": cell.cell.profile,
            "backend": cell.cell.backend,
            "precision": cell.cell.precision,
            "batch": str(cell.cell.batch),
            "device": cell.device,
        }
        for judgement in _JUDGEMENTS:
            state.add({**labels, "state": judgement}, float(cell.judgement.status == judgement))
        if cell.baseline is not None:
            baseline.add(labels, cell.baseline)
        alarms.add(labels, float(len(cell.judgement.alarms)))
        time = _timestamp(cell.latest.time)
        if time is not None:
            last.add(labels, time)
    return [state, baseline, alarms, last]


def _timestamp(time: str) -> float | None:
    try:
        return datetime.strptime(time, _TIME).replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        return None


def _labels(labels: Labels) -> str:
    pairs = (f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return "{" + ",".join(pairs) + "}"


def _escaped(value: str) -> str:
    # On one line, without what UTF-8 cannot hold.
    return one_line(value).replace("\\", "\\\\").replace('"', '\\"')
