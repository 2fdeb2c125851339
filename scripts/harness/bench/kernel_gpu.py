"""Timing on one GPU with PyTorch: buffers, and calls that take turns in CUDA graphs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from ..spread import spread

WARMUP_REPLAYS = 3
# A graph launch costs microseconds, which so many calls make nothing of.
CALLS_PER_GRAPH = 64
# The buffers that calls rotate over, in sizes of the L2 cache: none is in it when its turn comes.
ROTATED_CACHES = 8

Call = Callable[[], Any]
# Microseconds a call, "us", and "spread".
Times = dict[str, float]


@dataclass(frozen=True)
class System:
    """One implementation: a call for each set of buffers, each queueing the same work."""

    name: str
    calls: Sequence[Call]


class Gpu:
    """PyTorch on one GPU: buffers, and the time of calls. `torch` is the module."""

    def __init__(self, torch: Any, repeats: int) -> None:
        self.torch = torch
        self.repeats = repeats
        self.properties = torch.cuda.get_device_properties(0)
        torch.manual_seed(0)

    def half(self, *shape: int, scale: float = 1.0) -> Any:
        """Normally distributed FP16 values on the GPU."""
        return self.torch.randn(*shape, device="cuda", dtype=self.torch.float16) * scale

    def zeros(self, *shape: int, dtype: str = "float16") -> Any:
        """A buffer on the GPU."""
        return self.torch.zeros(*shape, device="cuda", dtype=getattr(self.torch, dtype))

    def sets(self, size: int) -> range:
        """Which sets of buffers, of `size` bytes each, calls rotate over."""
        return range(max(2, math.ceil(ROTATED_CACHES * self.properties.L2_cache_size / size)))

    def time(self, systems: Sequence[System]) -> dict[str, Times]:
        """Microseconds a call of each system: the median of the repeats, and their spread
        ((max - min) / median). In each repeat every system has its turn."""
        graphs = [self._capture(system.calls) for system in systems]
        for graph, _ in graphs * WARMUP_REPLAYS:
            graph.replay()
        self.torch.cuda.synchronize()
        times: list[list[float]] = [[] for _ in systems]
        for _ in range(self.repeats):
            for (graph, calls), found in zip(graphs, times, strict=True):
                begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                graph.replay()
                end.record()
                self.torch.cuda.synchronize()
                found.append(begin.elapsed_time(end) * 1e3 / calls)
        return {
            system.name: {
                "us": statistics.median(found),
                "spread": spread(found),
            }
            for system, found in zip(systems, times, strict=True)
        }

    def warm(self, calls: Sequence[Call]) -> None:
        """Run `calls` once, so that nothing is loaded or chosen while a graph is captured."""
        stream = self.torch.cuda.Stream()
        stream.wait_stream(self.torch.cuda.current_stream())
        with self.torch.cuda.stream(stream):
            for call in calls:
                call()
        self.torch.cuda.synchronize()

    def available(self, systems: Sequence[System]) -> tuple[list[System], dict[str, str]]:
        """The systems that run here, and for the others the reason why they do not."""
        found, failures = [], {}
        for system in systems:
            try:
                self.warm(system.calls)
            except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
                failures[system.name] = " ".join(str(error).split())[:200]
            else:
                found.append(system)
        return found, failures

    def check(self, name: str, found: Any, expected: Any, tolerance: float) -> None:
        """Raises UserError where a kernel's output is not PyTorch's: its time would mean nothing.

        `tolerance` is relative to the largest magnitude expected.
        """
        self.torch.cuda.synchronize()
        expected = expected.float()
        off = ((found.float() - expected).abs().max() / expected.abs().max()).item()
        if not off <= tolerance:
            raise UserError(
                f"{name} is off by {off:.2g} from PyTorch; see what `make test-gpu` says"
            )

    def _capture(self, calls: Sequence[Call]) -> tuple[Any, int]:
        """A CUDA graph that goes through `calls` some times, and how many calls it has."""
        self.warm(calls)
        rounds = math.ceil(CALLS_PER_GRAPH / len(calls))
        graph = self.torch.cuda.CUDAGraph()
        with self.torch.cuda.graph(graph):
            for _ in range(rounds):
                # Held for a round: results that a call allocates rotate like our buffers.
                results = [call() for call in calls]
        del results
        return graph, rounds * len(calls)
