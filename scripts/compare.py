"""Show two runs side by side: A and B name their folders under results."""

import os

from harness.compare import compare, find_run, show
from harness.errors import OK, run_command


def main() -> int:
    first, second = (find_run(name, os.environ.get(name)) for name in ("A", "B"))
    show(compare(first, second))
    return OK


run_command(main, __doc__)
