"""A system in a process of its own, which does nothing but what it is asked to.

Thread pools, allocators and environment variables of one system cannot reach another, and a
system that crashes takes nothing else along.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ..batches import BatchSize
from ..errors import UserError, one_line
from .model import Model
from .system import Pass, Runner, System

# A pass over all of SQuAD dev on a slow machine is an hour; what takes twice that hangs.
_PATIENCE_SECONDS = 2 * 3600.0
_LONGEST_REASON = 300
_LOG = "log.txt"


class SystemFailure(Exception):
    """Why a system cannot go on, in one line."""


@dataclass(frozen=True)
class Timed:
    """A pass, and the processor seconds that the worker has used since the one before.

    Idle workers should use none: what they use is taken from the system that is timed.
    """

    done: Pass
    idle_cpu_seconds: float


class Worker:
    """The parent's side. Each call blocks until it is answered, or raises SystemFailure."""

    def __init__(self, system: System, model: Model, folder: Path) -> None:
        # Not fork: a fork would take along the parent's threads' locks in whatever state.
        context = multiprocessing.get_context("spawn")
        self._log = folder / _LOG
        self._pipe, theirs = context.Pipe()
        # A daemon: it must not outlive this process.
        self._process = context.Process(
            target=_serve, args=(theirs, self._log, system, model, folder), daemon=True
        )
        self._process.start()
        theirs.close()

    def build(self) -> None:
        """Let the system build its files."""
        self._ask("build")

    def load(self) -> None:
        """Let the system load them."""
        self._ask("load")

    def run(self, work: Any, batch: BatchSize, *, output: bool) -> Timed:
        """One pass; what comes out of it only where `output` asks for it."""
        answer: Timed = self._ask("run", work, batch, output)
        return answer

    def memory_mib(self) -> float | None:
        """Resident memory of the process in MiB, None where the system does not tell."""
        try:
            pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        except OSError:
            return None
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._pipe.close()
        self._process.kill()
        self._process.join()

    def _ask(self, action: str, *arguments: Any) -> Any:
        try:
            self._pipe.send((action, *arguments))
            if not self._pipe.poll(_PATIENCE_SECONDS):
                raise SystemFailure(f"no answer in {_PATIENCE_SECONDS / 3600:g} hours")
            good, answer = self._pipe.recv()
        except (EOFError, OSError):
            raise SystemFailure(self._last_words()) from None
        if not good:
            raise SystemFailure(answer)
        return answer

    def _last_words(self) -> str:
        self._process.join()
        code = self._process.exitcode or 0
        ended = f"its process ended with code {code}"
        if code < 0:
            ended = f"its process was ended by {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            ended += ", most likely for want of memory; choose fewer systems with BENCH_SYSTEMS"
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        said = [line for line in lines if line.strip()]
        return _short(f"{ended}; it said: {said[-1]}" if said else ended)


def _serve(pipe: Connection, log: Path, system: System, model: Model, folder: Path) -> None:
    # The parent decides what Ctrl-C means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What libraries print would run into the parent's progress bar.
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(target, 1)
    os.dup2(target, 2)
    runner: Runner | None = None
    idle_since = time.process_time()
    while True:
        try:
            action, *arguments = pipe.recv()
        except EOFError:
            return
        idle = time.process_time() - idle_since
        answer: Any = None
        try:
            if action == "build":
                system.build(model, folder)
            elif action == "load":
                runner = system.load(model, folder)
            elif runner is not None:
                work, batch, output = arguments
                done = runner.run(work, batch)
                answer = Timed(done if output else replace(done, output=None), idle)
            reply = (True, answer)
        except UserError as error:
            reply = (False, _short(str(error)))
        except Exception as error:  # Whatever a library raises is this system's failure.
            reply = (False, _short(f"{type(error).__name__}: {error}"))
        pipe.send(reply)
        idle_since = time.process_time()


def _short(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= _LONGEST_REASON else line[: _LONGEST_REASON - 1] + "…"
