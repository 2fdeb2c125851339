"""Write results/report.html, report.md and metrics.prom, and tell whoever else wants to know.

With GITHUB_STEP_SUMMARY set the report is appended to it, with MLFLOW_TRACKING_URI the run is
logged there.
"""

import os
import sys
from pathlib import Path

from harness.errors import OK, run_command
from harness.export import export
from harness.paths import GOLDEN, RESULTS, ROOT, shown
from harness.report import gather, save


def main() -> int:
    history = os.environ.get("HISTORY")
    report = gather(RESULTS, GOLDEN, ROOT, Path(history).resolve() if history else None)
    print(f"report: {shown(save(report, RESULTS))}", flush=True)
    done, warnings = export(report, RESULTS)
    for line in done:
        print(line)
    for line in warnings:
        print(f"warning: {line}", file=sys.stderr)
    return OK


run_command(main, __doc__)
