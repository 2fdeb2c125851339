"""MLflow: the run in detail as a run of an experiment, once, where MLFLOW_TRACKING_URI is set.

MLflow's client runs in a process of its own, so that nothing it does, or waits for, outlasts
`MOST_SECONDS` or reaches the report.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ..errors import UserError, one_line
from ..files import fingerprint
from ..paths import ROOT
from ..paths import shown as shown_path
from ..report import HTML, MARKDOWN, Report
from ..results import RunSummary
from ..run import CROSSCHECK, METRICS, PREDICTIONS, RUN, TIMINGS
from ..verdict import VERIFY

VARIABLE = "MLFLOW_TRACKING_URI"
EXPERIMENT_VARIABLE = "MLFLOW_EXPERIMENT_NAME"
EXPERIMENT = "bert-squad"
MOST_SECONDS = 90.0
_METRICS = ("exact_match", "f1", "qps", "qps_spread", "qps_end_to_end", "qps_end_to_end_spread")
# What of run.json makes a run another one; the file itself is among the artifacts.
_PARAMS = ("options.", "git.", "device.name", "dataset.sha256", "engine.sha256",
           "environment.python", "environment.system", "environment.packages.")  # fmt: skip
_LONGEST_PARAM = 500
_ODD = re.compile(r"[^A-Za-z0-9_\-./ ]")


def log(report: Report, results: Path, uri: str, experiment: str = EXPERIMENT) -> str:
    """Log the run in detail to the server at `uri`, unless it is there already.

    Raises UserError where there is nothing to log, the client is missing or the server does not
    answer in time.
    """
    shown = _without_password(uri)
    if report.detail is None:
        raise UserError("there is no readable run to log; run `make all`")
    if importlib.util.find_spec("mlflow") is None:
        raise UserError(
            f"{VARIABLE} is set but the client is not installed; run "
            f"`{shown_path(Path(sys.executable))} -m pip install -r requirements-mlflow.txt`"
        )
    name = report.detail.name
    request = json.dumps(
        {
            "uri": uri,
            "experiment": experiment,
            **_request(name, report.summaries[name], report, results),
        }
    )
    command = [sys.executable, "-m", f"{__package__}.tracking_client"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    try:
        done = subprocess.run(
            command, input=request, capture_output=True, text=True, check=False,
            timeout=MOST_SECONDS, env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{shown} did not take the run in {MOST_SECONDS:.0f} s; check {VARIABLE}, then run "
            "`make report`"
        ) from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        reason = one_line(last.replace(uri, shown))[:300]
        raise UserError(
            f"{shown} did not take the run ({reason}); check {VARIABLE}, then run `make report`"
        )
    return f"{done.stdout.strip()} at {shown}"


def _request(name: str, run: RunSummary, report: Report, results: Path) -> dict[str, Any]:
    """What is logged: texts, numbers and files."""
    verdict = report.verdict
    judged = verdict is not None and verdict.run_sha256 == run.sha256
    content = {
        "run": name,
        "params": {
            _ODD.sub("_", path): text[:_LONGEST_PARAM]
            for path, text in run.leaves.items()
            if path.startswith(_PARAMS)
        },
        "metrics": {
            **{key: float(run.metrics[key]) for key in _METRICS},
            **{
                f"latency_{key}_ms": float(value)
                for key, value in run.metrics["latency_ms"].items()
            },
        },
        "tags": {
            "verify_status": verdict.status if verdict and judged else "none",
            "run_sha256": run.sha256,
            "finished": str(run.record["finished"]),
        },
    }
    files = [results / file for file in (HTML, MARKDOWN, VERIFY.name)]
    files += [run.folder / file for file in (RUN, METRICS, TIMINGS, PREDICTIONS, CROSSCHECK)]
    return {
        **content,
        "fingerprint": fingerprint(content),
        "artifacts": [str(file.resolve()) for file in files if file.is_file()],
    }


def _without_password(uri: str) -> str:
    try:
        parts = urlsplit(uri)
        netloc = parts.netloc.rpartition("@")[2]
    except ValueError:
        return VARIABLE
    return urlunsplit(parts._replace(netloc=netloc, query=""))
