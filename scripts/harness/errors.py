"""Errors with a cause and a next step, and the exit codes of every command."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

OK = 0
CHECK_FAILED = 1
BAD_INPUT = 2
INCONCLUSIVE = 3
# EX_SOFTWARE of sysexits.h.
UNEXPECTED = 70
INTERRUPTED = 128 + signal.SIGINT


class UserError(Exception):
    """Something the user can mend: a bad value, a missing file, an unreachable server.

    The message is one line: the cause, then the next step.
    """


def one_line(text: object) -> str:
    """`text` on one line, free of control characters, for a terminal or a log."""
    return "".join(c if c.isprintable() else " " for c in " ".join(str(text).split()))


def run_command(main: Callable[[], int], description: str) -> NoReturn:
    """Run a command's `main` and leave the process with its exit code.

    The commands take their options from the environment, as make exports them, and no
    arguments. A `UserError`, a full disk and Ctrl-C end in one line on standard error.
    """
    argparse.ArgumentParser(
        description=description,
        epilog="Options are environment variables; `make help` lists them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    try:
        code = main()
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        code = BAD_INPUT
    except BrokenPipeError:
        # The reader of our output has gone (`make ... | head`); nothing is left to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = BAD_INPUT
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(
            f"error: {one_line(error.strerror or error)}{one_line(where)}; "
            "check free space and permissions, then run the same command again",
            file=sys.stderr,
        )
        code = BAD_INPUT
    except MemoryError:
        print("error: out of memory; use a smaller BATCH or LIMIT", file=sys.stderr)
        code = BAD_INPUT
    except Exception:
        # Not foreseen: all of it is shown, under a code that is no verdict.
        traceback.print_exc()
        code = UNEXPECTED
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        code = INTERRUPTED
    sys.exit(code)
