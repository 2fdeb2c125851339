"""Write results/report.html, report.md and metrics.prom, and tell whoever else wants to know.

With GITHUB_STEP_SUMMARY set the report is appended to it, with MLFLOW_TRACKING_URI the run is
logged there.
"""

import os
from pathlib import Path

from harness.errors import OK
from harness.export import export, say
from harness.lock import run_stage
from harness.paths import GOLDEN, RESULTS, ROOT, shown
from harness.report import gather, save


def main() -> int:
    history = os.environ.get("HISTORY")
    report = gather(RESULTS, GOLDEN, ROOT, Path(history).resolve() if history else None)
    print(f"report: {shown(save(report, RESULTS))}", flush=True)
    say(*export(report, RESULTS))
    return OK


run_stage(main, __doc__)
