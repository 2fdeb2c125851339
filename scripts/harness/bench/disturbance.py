"""What somebody else's work on the processor costs, by how much of a core it takes.

Every round times one pass with each duty cycle, in another order each time. A pass's loss is taken
from the round's own quiet pass, so what wanders from minute to minute slows both. Each pass is
watched as a run is, so that the watch's limit can be held against what it lets through.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..backends import Session
from ..batches import BatchSize, plan_batches
from ..measure import qps, run_windows, spread
from ..results import NOTHING
from ..watch import QPS, Watch
from ..watch.processor import Processor
from ..windows import Windows, select_windows
from .interleave import WARMUP_PASSES
from .work import typical_rows

# Shares of one core; the first is none, which all others are compared with.
DUTIES = (0.0, 0.02, 0.05, 0.10, 0.20, 0.50, 1.0)
# Few enough windows for a slow machine; a fast one repeats them until a pass lasts so long, beside
# which ticks, samples and the foreign work's period are short.
WINDOWS, PASS_SECONDS = 64, 3.0
_BLOCK = 32
# Threads that wait for work spin before they sleep, ONNX Runtime's for some 20 milliseconds.
_SETTLE_SECONDS = 0.1


@dataclass
class Level:
    """The passes at one duty cycle, one a round.

    duty: share of a core that the foreign process was asked to take.
    qps: the pass's rate, in 1/s. took: cores that the foreign process got on average.
    seen: cores of foreign work by the watch's samples, their median; None where the machine's
        counters do not tell. told: what the watch says disturbed the pass, "" for nothing.
    """

    duty: float
    qps: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    seen: list[float | None] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def losses(self, quiet: Level) -> list[float]:
        """The share of QPS lost in each round, from the pass of `quiet` there."""
        return [1 - ours / theirs for ours, theirs in zip(self.qps, quiet.qps, strict=True)]


@dataclass
class Passes:
    """Passes over a few windows of a dataset, in the batches that a run makes."""

    session: Session
    windows: Windows
    batch: BatchSize
    token_budget: int
    times: int = 1

    @staticmethod
    def warm(
        session: Session, windows: Windows, batch: BatchSize, token_budget: int, least: float
    ) -> Passes:
        """Warmed up, over typical windows of `windows`, so often that a pass takes `least` s."""
        few = select_windows(windows, typical_rows(windows, WINDOWS, _BLOCK))
        passes = Passes(session, few, batch, token_budget)
        for _ in range(WARMUP_PASSES):
            began = time.perf_counter()
            passes.time("warm-up")
        passes.times = max(1, math.ceil(least / (time.perf_counter() - began)))
        return passes

    def time(self, label: str) -> float:
        """QPS of one pass, in 1/s; `label` is shown beside its progress."""
        plan = plan_batches(self.windows.lengths, self.batch, self.token_budget)
        done = [run_windows(self.session, self.windows, plan, label) for _ in range(self.times)]
        seconds = [second for part in done for second in part.seconds]
        wall = math.fsum(part.wall_seconds for part in done)
        return self.times * qps(len(self.windows), self.batch, seconds, wall)


def measure(
    time_pass: Callable[[str], float], take_share: Callable[[float], float], rounds: int
) -> list[Level]:
    """Time `rounds` passes a duty cycle, in turns.

    `time_pass` takes a label and returns QPS; `take_share` lets the foreign process take a share
    of a core and returns the processor time, in s, that it has used since the last call.
    """
    levels = [Level(duty) for duty in DUTIES]
    for number in range(rounds):
        order = list(levels)
        # Nobody always runs behind the same neighbour; the orders are those of every run.
        random.Random(number).shuffle(order)
        for level in order:
            time.sleep(_SETTLE_SECONDS)
            label = f"round {number + 1} of {rounds}, {level.duty:.0%} of a core"
            with Watch([Processor(QPS)]) as watch:
                take_share(level.duty)
                began = time.perf_counter()
                level.qps.append(time_pass(label))
                used = take_share(0.0)
                level.took.append(used / (time.perf_counter() - began))
            samples = watch.samples["values"].get("foreign_cores")
            level.seen.append(None if samples is None else samples["median"])
            level.told.append("; ".join(f"{d.what} ({d.detail})" for d in watch.disturbances))
    return levels


def as_json(levels: Sequence[Level]) -> list[dict[str, Any]]:
    """The levels, each with its `losses` and their median. The names of who else was at work
    stay here.

    None is called `rates`: the nightly simulation takes those for a system's own noise.
    """
    quiet = levels[0]
    return [
        {
            "duty": level.duty,
            "qps": level.qps,
            "losses": (losses := level.losses(quiet)),
            "loss": statistics.median(losses),
            "took": level.took,
            "seen": level.seen,
            "told": [told != "" for told in level.told],
        }
        for level in levels
    ]


def table(levels: Sequence[Level]) -> list[str]:
    """Lines of Markdown, a row a level."""
    lines = [
        "| asked | got, cores | QPS (spread) | loss: median, least to most | watch sees, cores "
        "| calls disturbed |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for level in levels:
        losses = level.losses(levels[0])
        seen = [cores for cores in level.seen if cores is not None]
        cells = [
            f"{level.duty:.0%}",
            f"{statistics.median(level.took):.3f}",
            f"{statistics.median(level.qps):.2f} ({spread(level.qps):.1%})",
            f"{statistics.median(losses):.1%}, {min(losses):.1%} to {max(losses):.1%}",
            f"{statistics.median(seen):.3f}" if seen else NOTHING,
            f"{sum(map(bool, level.told))} of {len(level.told)}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines
