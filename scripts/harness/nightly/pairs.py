"""The re-measurement itself: two engines in turns, until the pairs decide."""

from __future__ import annotations

import json
import math
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..errors import one_line
from ..provenance import NUMERIC_PREFIXES
from . import remeasure
from .detection import Verdict, verdict_of

# What does not answer for so long hangs.
_PATIENCE_SECONDS = 3600.0
# Threads that wait for work spin before they sleep, ONNX Runtime's for some 20 milliseconds.
_SETTLE_SECONDS = 0.1


class PairsFailure(Exception):
    """Why nothing can be compared, in one line."""


class Timer(Protocol):
    """One of the two: `qps` times a pass."""

    def qps(self) -> float:
        """Windows a second of one pass, in 1/s."""
        ...


@dataclass(frozen=True)
class Pairs:
    """What the pairs have shown; `comparator` and `tonight` are log QPS, pair by pair."""

    verdict: Verdict
    comparator: tuple[float, ...]
    tonight: tuple[float, ...]


class Worker:
    """A process of `harness.nightly.worker`; `facts` is what it says it runs on.

    `sources` is the folder that holds the package `harness`; `numeric` are the variables that
    steer numeric libraries, in place of this process's. Raises PairsFailure where it cannot start.
    """

    def __init__(
        self,
        python: Path,
        sources: Path,
        job: Mapping[str, Any],
        numeric: Mapping[str, str],
        log: Path,
    ) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(NUMERIC_PREFIXES)}
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                [python, "-m", "harness.nightly.worker"],
                cwd=sources,
                env={**kept, **numeric, "PYTHONPATH": str(sources)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                # Ctrl-C means what this process makes of it.
                start_new_session=True,
            )
        try:
            self.facts = self._ask(json.dumps(job))
        except BaseException:
            self.close()
            raise

    def qps(self) -> float:
        """QPS of one pass, in 1/s."""
        return float(self._ask("pass")["qps"])

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, line: str) -> dict[str, Any]:
        pipe_in, pipe_out = self._process.stdin, self._process.stdout
        assert pipe_in is not None and pipe_out is not None
        try:
            pipe_in.write(line + "\n")
            pipe_in.flush()
            if not select.select([pipe_out], [], [], _PATIENCE_SECONDS)[0]:
                raise PairsFailure(f"no answer in {_PATIENCE_SECONDS / 3600:g} hours")
            text = pipe_out.readline()
        except OSError:
            text = ""
        if not text:
            code = self._process.wait()
            ended = signal.Signals(-code).name if code < 0 else f"code {code}"
            raise PairsFailure(f"its process ended with {ended}")
        answer: dict[str, Any] = json.loads(text)
        if "error" in answer:
            raise PairsFailure(one_line(answer["error"])[:300])
        return answer


def measure(
    comparator: Timer, tonight: Timer, allowed: float, report: Callable[[int], None]
) -> Pairs:
    """Time both in turns until the pairs decide, at remeasure.LOOKS; `report` counts them.

    Which one goes first alternates: what a pass leaves behind favours neither.
    """
    old: list[float] = []
    new: list[float] = []
    for look in remeasure.LOOKS:
        while len(old) < look:
            first, second = (comparator, tonight) if len(old) % 2 == 0 else (tonight, comparator)
            times = {}
            for timer in (first, second):
                time.sleep(_SETTLE_SECONDS)
                times[id(timer)] = math.log(timer.qps())
            old.append(times[id(comparator)])
            new.append(times[id(tonight)])
            report(len(old))
        verdict = verdict_of([a - b for a, b in zip(old, new, strict=True)], allowed)
        if verdict is not None:
            return Pairs(verdict, tuple(old), tuple(new))
    raise AssertionError("the last look always decides")
