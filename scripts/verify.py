"""Judge the run against its golden file; write results/verify.json and JUnit XML."""

from harness.errors import run_command
from harness.inputs import Inputs
from harness.options import read_options
from harness.verdict import show, withdraw, write
from harness.verify import verify


def main() -> int:
    try:
        options = read_options()
        inputs = Inputs(options)
        verdict = verify(options, inputs.dataset, inputs.file("vocab").checked("assets"))
    except BaseException:
        # Without a verdict, an earlier one must not stand for it.
        withdraw()
        raise
    write(verdict)
    show(verdict)
    return verdict.exit_code


run_command(main, __doc__)
