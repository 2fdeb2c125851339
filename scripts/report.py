"""Write results/report.html and results/report.md: all runs, and the verified one in detail."""

from harness.errors import OK, run_command
from harness.paths import shown
from harness.report import write


def main() -> int:
    print(f"report: {shown(write())}")
    return OK


run_command(main, __doc__)
