"""What the comparison on a GPU has found, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .gpu_systems import GpuSystem
from .kernel_table import table, wrapped

OURS, FLOOR = "ours", "floor"


def markdown(found: dict[str, Any], systems: Sequence[GpuSystem]) -> str:
    """A row a system, a column a case; in lines of at most 100 columns but the table's."""
    commit = (found["commit"] or "unknown")[:8] + (" (dirty)" if found["dirty"] else "")
    facts = [
        found["device"],
        f"driver {found['driver'] or 'unknown'}",
        *(f"{name} {version}" for name, version in found["versions"].items()),
        found["finished"][:10],
        f"commit {commit}",
    ]
    cases = found["cases"]
    rows = []
    for system in systems:
        cells = [system.title]
        for case in cases:
            times = case["systems"].get(system.key)
            if times is None:
                cells.append("-")
            else:
                cells.append(f"{times['windows_per_s']:,.0f} ({times['spread']:.1%})")
        rows.append(cells)
    for title, values in (
        ("of the floor's speed", [_beside(case, _floor(case)) for case in cases]),
        ("beside the best peer", [_beside(case, _best_peer(case)) for case in cases]),
    ):
        rows.append([f"FP16 here, {title}", *("-" if v is None else f"{v:.2f}" for v in values)])
    single = next(case for case in cases if case["case"].startswith("1 x"))
    latency = [
        f"{system.title} {times['milliseconds_a_batch']:.3f}"
        for system in systems
        if (times := single["systems"].get(system.key)) is not None
    ]
    lines = [
        *wrapped(", ".join(facts) + "."),
        "",
        *wrapped(
            f"BERT-base, FP16, random weights; windows a second, median of {found['repeats']} "
            "repeats in which every system has its turn, and spread ((max - min) / median). "
            "Execution alone: inputs on the device, outputs left there; by the device's clock, but "
            "for ONNX Runtime and two batches in flight, which have only the host's. Lengths: "
            f"{found['lengths']}."
        ),
        "",
        *table(["", *(case["case"] + "#" for case in cases)], rows),
        "",
        *wrapped("Milliseconds for one window: " + "; ".join(latency) + "."),
        "",
    ]
    if found["left_out"]:
        lines += [f"- left out: {key}: {reason}" for key, reason in found["left_out"].items()]
        lines.append("")
    return "\n".join(lines)


def _floor(case: dict[str, Any]) -> float | None:
    times = case["systems"].get(FLOOR)
    return None if times is None else float(times["windows_per_s"])


def _best_peer(case: dict[str, Any]) -> float | None:
    rates = [
        float(times["windows_per_s"])
        for key, times in case["systems"].items()
        if key != FLOOR and not key.startswith(OURS)
    ]
    return max(rates, default=None)


def _beside(case: dict[str, Any], other: float | None) -> float | None:
    """This repository's FP16, one batch at a time, in multiples of `other`."""
    times = case["systems"].get(OURS)
    return None if times is None or other is None else float(times["windows_per_s"]) / other
