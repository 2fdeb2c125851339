"""Judge the run against its golden file; write results/verify.json and JUnit XML."""

from harness.inputs import Inputs
from harness.lock import run_stage
from harness.options import read_options
from harness.verdict import show, withdraw, write
from harness.verify import verify


def main() -> int:
    try:
        options = read_options()
        inputs = Inputs(options)
        verdict = verify(options, inputs)
        write(verdict)
    except BaseException:
        # Without a whole verdict, an earlier one must not stand for it.
        withdraw()
        raise
    show(verdict)
    return verdict.exit_code


run_stage(main, __doc__)
