"""What is compared: a system builds its files once, loads them, and runs passes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..backends import Session
from ..batches import AUTO, BatchSize, plan_batches
from ..errors import UserError
from ..measure import qps, run_windows
from ..windows import Windows
from .model import Model


@dataclass(frozen=True)
class Pass:
    """One pass over a piece of work: what came out, and the shape of each batch.

    `rate` is in windows or questions a second. `shapes` is empty where a system makes its batches
    itself.
    """

    seconds: float
    rate: float
    output: Any
    shapes: list[tuple[int, int]]


class Runner(Protocol):
    """A loaded system."""

    def run(self, work: Any, batch: BatchSize) -> Pass:
        """Run `work` once, `batch` windows at a time."""
        ...


# The batches of a peer: each is timed with both, and the better one counts.
PEER_BATCHES: tuple[BatchSize, ...] = (8, 32)


class System(Protocol):
    """A way to run the model. It is sent to a process of its own, so it holds values alone.

    `key` is its name in BENCH_SYSTEMS, `title` the one in tables, `ours` whether it is this
    project's. It is timed with each of `batches`, and the fastest counts. Imports of what it runs
    on belong inside its methods.
    """

    @property
    def key(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def ours(self) -> bool: ...
    @property
    def batches(self) -> tuple[BatchSize, ...]: ...

    def build(self, model: Model, folder: Path) -> None:
        """Write into `folder` (empty) what `load` needs; runs in a process that then ends."""
        ...

    def load(self, model: Model, folder: Path) -> Runner:
        """Load `model` from what `build` has written into `folder`."""
        ...


@dataclass(frozen=True)
class Peer:
    """A system of somebody else's, timed with either batch; what it is adds `load`."""

    key: str
    title: str
    ours: bool = False
    batches: tuple[BatchSize, ...] = PEER_BATCHES

    def build(self, model: Model, folder: Path) -> None:
        """Nothing, where a peer takes the model's own files."""


@dataclass
class SessionRunner:
    """Windows through a session, each batch's execution timed alone.

    Batches that overlap cannot be timed alone: with "auto" it is the time from the first one's
    start to the last one's end, which includes putting inputs together.
    """

    session: Session
    token_budget: int = 0

    def run(self, work: Windows, batch: BatchSize) -> Pass:
        """The output is the packed start and end logits (T,); raises UserError for NaN."""
        plan = plan_batches(work.lengths, batch, self.token_budget)
        done = run_windows(self.session, work, plan, "")
        logits = done.start_logits, done.end_logits
        if not all(np.isfinite(part).all() for part in logits):
            raise UserError("its logits are NaN or infinite; they are no answer to anything")
        seconds = done.wall_seconds if batch == AUTO else math.fsum(done.seconds)
        rate = qps(len(work), batch, done.seconds, done.wall_seconds)
        return Pass(seconds, rate, logits, done.shapes)
