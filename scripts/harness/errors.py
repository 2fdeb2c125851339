"""Errors with a cause and a next step, and the exit codes of every command."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn, TextIO

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
    _open_standard_streams()
    argparse.ArgumentParser(
        description=description,
        epilog="Options are environment variables; `make help` lists them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    try:
        code = main()
        sys.stdout.flush()
    except UserError as error:
        _say(f"error: {one_line(error)}")
        code = BAD_INPUT
    except BrokenPipeError:
        # The reader of our output has gone (`make ... | head`); nothing is left to say to it.
        code = BAD_INPUT
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _say(
            f"error: {one_line(error.strerror or error)}{one_line(where)}; "
            "check free space and permissions, then run the same command again"
        )
        code = BAD_INPUT
    except MemoryError:
        _say("error: out of memory; use a smaller BATCH or LIMIT")
        code = BAD_INPUT
    except Exception:
        # Not foreseen: all of it is shown, under a code that is no verdict.
        traceback.print_exc()
        code = UNEXPECTED
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on where it stopped")
        code = INTERRUPTED
    for stream in (sys.stdout, sys.stderr):
        _settle(stream)
    sys.exit(code)


def _open_standard_streams() -> None:
    """Let streams that were closed before we began lead nowhere.

    Python has None in their place, and their numbers would go to files opened later, into which
    a library's messages would then be written.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123


def _say(text: str) -> None:
    """Print `text` on standard error; where that cannot be written, the exit code tells alone."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr)


def _settle(stream: TextIO) -> None:
    """Flush `stream`, or forget what it holds: at exit Python would fail once more, with 120."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
