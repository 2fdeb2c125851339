"""The normal make stages from within Python, one make process a cell."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

from ..errors import UserError, one_line
from ..files import read_json
from ..paths import BUILD, ROOT
from ..verdict import VERIFY, withdraw

# Held by whoever makes a series of runs in this checkout.
MEASURING = BUILD / "nightly" / "lock"
# What a make above this one tells its children; a cell's make is nobody's child.
_FROM_MAKE = ("MAKE", "MFLAGS", "GNUMAKEFLAGS")
# What asks for another cell, or for part of one.
CELL_VARIABLES = (
    "PROFILE", "BACKEND", "PRECISION", "NETWORK", "BATCH", "DEVICE", "LIMIT", "DATASET",
    "CALIBRATION", "PLUGIN_LIBRARY", "COMPUTE_CAPABILITY",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """How make ended. reason: the last error's line, "" where all went well.

    verdict: verify.json, None where make did not get so far.
    """

    code: int
    reason: str = ""
    verdict: Mapping[str, Any] | None = None


class Stages(Protocol):
    """Makes `goal` with a cell's `variables`, timed anew; what it prints goes into `log`."""

    def __call__(self, goal: str, variables: Mapping[str, str], log: Path) -> Outcome:
        """How it ended."""
        ...


def run_make(goal: str, variables: Mapping[str, str], log: Path) -> Outcome:
    """`Stages` by make itself, in a process group of its own.

    Ctrl-C, which only this process gets then, is passed on, and make's end is waited for: no
    stage goes on behind the user's back.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    # A verdict on an earlier run must not stand for this one.
    withdraw()
    kept = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(_FROM_MAKE) and k not in CELL_VARIABLES
    }
    with log.open("wb") as stream:
        process = subprocess.Popen(
            ["make", goal],
            cwd=ROOT,
            env={**kept, **variables, "REMEASURE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait()
        except BaseException:
            # In the background Ctrl-C is ignored, by make's stages as well.
            ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            os.killpg(process.pid, signal.SIGTERM if ignored else signal.SIGINT)
            process.wait()
            raise
    verdict = None
    if goal == "verify" and VERIFY.is_file():
        verdict = read_json(VERIFY, "verdict")
    return Outcome(code, "" if code == 0 else _last_error(log), verdict)


def _last_error(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    said = errors or [line for line in lines if line.strip() and not line.startswith("make: ")]
    return one_line(said[-1]) if said else "make ended without a word"


def require_make() -> None:
    """Raise UserError where there is no make."""
    try:
        subprocess.run(["make", "--version"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise UserError("make cannot be run; install GNU make") from None


def interrupted_by(*signals: signal.Signals) -> None:
    """Let `signals`, such as a terminal's end or a scheduler's limit, do what Ctrl-C does.

    One that is ignored stays so: `nohup` means it.
    """

    def interrupt(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    for one in signals:
        if signal.getsignal(one) is not signal.SIG_IGN:
            signal.signal(one, interrupt)
