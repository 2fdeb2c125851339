"""gpu.svg: whole networks on a GPU side by side, a group a case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .chart import Group, RateBar, draw
from .gpu_report import OURS
from .gpu_systems import GpuSystem


def svg(found: dict[str, Any], systems: Sequence[GpuSystem]) -> str:
    """The fastest first; ours and the floor among them."""
    note = f"{found['device']}; BERT-base; median of {found['repeats']} interleaved repeats"
    groups = [_group(case, systems) for case in found["cases"]]
    return draw("BERT-base on a GPU: whole networks side by side", groups, note)


def _group(case: dict[str, Any], systems: Sequence[GpuSystem]) -> Group:
    timed = [(system, case["systems"][system.key]) for system in systems
             if system.key in case["systems"]]  # fmt: skip
    longest = max(max(times["repeats"]) for _, times in timed)
    bars = [
        RateBar(
            system.title,
            system.key.startswith(OURS),
            times["windows_per_s"] / longest,
            min(times["repeats"]) / longest,
            max(times["repeats"]) / longest,
            f"{times['windows_per_s']:,.0f}",
        )
        for system, times in sorted(timed, key=lambda pair: -pair[1]["windows_per_s"])
    ]
    return Group(f"{case['case']}, windows a second", bars)
