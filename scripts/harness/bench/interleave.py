"""All systems in turn: one pass of each, in another order every time, then again."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..batches import BatchSize
from ..measure import spread
from ..scoring import Score
from .model import Model
from .system import System
from .work import Task
from .worker import SystemFailure, Timed, Worker

# The second pass still differs from later ones: ONNX Runtime plans memory for a shape when it
# sees it first and uses the plan from then on; torch.compile sees a second shape and recompiles.
WARMUP_PASSES = 2
# Threads that wait for work spin before they sleep, ONNX Runtime's for some 20 milliseconds.
_SETTLE_SECONDS = 0.1


@dataclass
class Lane:
    """One system at one batch: each repeat's seconds and rate, and the shape of each batch.

    Rates are in windows or questions a second.
    """

    batch: BatchSize
    shapes: list[tuple[int, int]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median of the rates."""
        return statistics.median(self.rates)

    @property
    def spread(self) -> float:
        """(max - min) / median of the rates."""
        return spread(self.rates)


@dataclass
class Outcome:
    """What one system has shown. With a `failure` the rest stands for nothing.

    `difference` is that of its output from the reference's, `idle_cpu_seconds` the processor
    time it used while others were timed, `memory_mib` its resident memory after the passes.
    """

    key: str
    title: str
    ours: bool
    lanes: list[Lane]
    failure: str | None = None
    score: Score | None = None
    difference: float | None = None
    idle_cpu_seconds: float = 0.0
    memory_mib: float | None = None

    @property
    def best(self) -> Lane:
        """The lane with the highest median."""
        return max(self.lanes, key=lambda lane: lane.median)


def steps(systems: Sequence[System], repeats: int) -> int:
    """How often `run_comparison` calls `report` if nothing fails."""
    return sum(2 + (WARMUP_PASSES + repeats) * len(system.batches) for system in systems)


def run_comparison(
    systems: Sequence[System],
    model: Model,
    task: Task,
    *,
    repeats: int,
    folder: Path,
    reference: str,
    known_scores: Mapping[str, Score],
    report: Callable[[str], None],
) -> list[Outcome]:
    """Run `task` on every system and return their outcomes in the same order.

    `folder` takes the systems' files. `reference` is the key of the system that the others'
    outputs are compared with; `known_scores` holds scores by key that need no pass any more.
    `report` is told what comes next. A system that fails is out, and the others go on.
    """
    with ExitStack() as stack:
        entrants = [
            stack.enter_context(closing(_Entrant(system, model, task, folder, report)))
            for system in systems
        ]
        for entrant in entrants:
            entrant.attempt("build and load", entrant.start)
            for lane in entrant.outcome.lanes:
                for _ in range(WARMUP_PASSES):
                    entrant.attempt(f"warm-up, batch {lane.batch}", entrant.warm_up, lane)
        for repeat in range(repeats):
            turns = [(entrant, lane) for entrant in entrants for lane in entrant.outcome.lanes]
            # Nobody always runs behind the same neighbour; the orders are those of every run.
            random.Random(repeat).shuffle(turns)
            for entrant, lane in turns:
                what = f"pass {repeat + 1} of {repeats}, batch {lane.batch}"
                entrant.attempt(what, entrant.time_pass, lane)
        for entrant in entrants:
            entrant.attempt("score", entrant.score, known_scores)
    _compare_outputs(entrants, reference)
    return [entrant.outcome for entrant in entrants]


class _Entrant:
    """A system on its way through the comparison; once it has failed it does nothing more."""

    def __init__(
        self,
        system: System,
        model: Model,
        task: Task,
        folder: Path,
        report: Callable[[str], None],
    ) -> None:
        lanes = [Lane(batch) for batch in system.batches]
        self.outcome = Outcome(system.key, system.title, system.ours, lanes)
        self.task = task
        # What came out of the first pass over the timed work.
        self.output: Any = None
        self._system, self._model = system, model
        self._folder = folder / system.key
        self._report = report
        self._worker: Worker | None = None

    def attempt(self, what: str, action: Callable[..., None], *arguments: Any) -> None:
        """Call `action`, unless the system has failed; a failure is written down and final."""
        if self.outcome.failure is not None:
            return
        self._report(f"{self.outcome.title}: {what}")
        try:
            action(*arguments)
        except SystemFailure as failure:
            self.outcome.failure = str(failure)
            # The others can use its memory.
            self.close()

    def start(self) -> None:
        """Build the system's files and load them."""
        self._folder.mkdir(parents=True)
        # What quantizers and exporters leave behind in memory ends with their process.
        with closing(Worker(self._system, self._model, self._folder)) as builder:
            builder.build()
        self._worker = Worker(self._system, self._model, self._folder)
        self._worker.load()

    def warm_up(self, lane: Lane) -> None:
        """A pass whose time nobody reads."""
        first = self.output is None
        done = self._run(self.task.timed, lane, output=first).done
        lane.shapes = done.shapes
        if first:
            self.output = done.output

    def time_pass(self, lane: Lane) -> None:
        """A pass that counts."""
        time.sleep(_SETTLE_SECONDS)
        found = self._run(self.task.timed, lane, output=False)
        lane.seconds.append(found.done.seconds)
        lane.rates.append(found.done.rate)
        self.outcome.idle_cpu_seconds += found.idle_cpu_seconds

    def score(self, known: Mapping[str, Score]) -> None:
        """EM and F1, where the task has any."""
        outcome = self.outcome
        if self._worker is not None:
            outcome.memory_mib = self._worker.memory_mib()
        if self.task.scored is None:
            return
        outcome.score = known.get(outcome.key)
        if outcome.score is None:
            done = self._run(self.task.scored, outcome.best, output=True).done
            outcome.score = self.task.score(done.output)

    def close(self) -> None:
        """End the system's process, if there is one."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _run(self, work: Any, lane: Lane, *, output: bool) -> Timed:
        if self._worker is None:
            raise SystemFailure("it has no process")
        return self._worker.run(work, lane.batch, output=output)


def _compare_outputs(entrants: Sequence[_Entrant], reference: str) -> None:
    """Write down how far each output is from the reference's, where there are both."""
    outputs = {entrant.outcome.key: entrant.output for entrant in entrants}
    expected = outputs.get(reference)
    for entrant in entrants:
        difference = entrant.task.difference
        if difference is not None and expected is not None and entrant.output is not None:
            entrant.outcome.difference = difference(entrant.output, expected)
