"""The steps of a batch as a table, beside a card's ceilings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from .gpu_profile import Step
from .kernel_table import table, wrapped


def step_times(
    steps: Sequence[Step], flop_per_s: float, bytes_per_s: float
) -> list[dict[str, Any]]:
    """Steps with what their time is made of: the share of the batch, and `roofline_us`, the time
    that the card needs at least, for its products or for the bytes that were moved (Williams,
    Waterman and Patterson 2009)."""
    whole = sum(step.microseconds for step in steps)
    return [
        {
            **asdict(step),
            "share": step.microseconds / whole,
            "roofline_us": 1e6 * max(step.flop / flop_per_s, step.bytes / bytes_per_s),
        }
        for step in steps
    ]


def markdown(found: Mapping[str, Any]) -> str:
    """A table a batch, in lines of at most 100 columns."""
    commit = (found["commit"] or "unknown")[:8] + (" (dirty)" if found["dirty"] else "")
    peaks = found["peaks"]
    ceilings = ", ".join(
        f"{peaks[precision] / 1e12:,.0f} TFLOP/s in {precision.upper()}"
        for precision in sorted(set(peaks) - {"copy"})
    )
    lines = [
        *wrapped(
            f"{found['device']}, driver {found['driver'] or 'unknown'}, {found['profiler']}, "
            f"{found['finished'][:10]}, commit {commit}."
        ),
        "",
        *wrapped(
            "BERT-base, one batch: every kernel alone, by the device's clock, which is not held; "
            "FLOP are the network's, bytes those of device memory. Ceilings measured in the same "
            f"run: {ceilings} (a product of square matrices), {peaks['copy'] / 1e9:,.0f} GB/s (a "
            "copy, bytes read and written). Roofline is the time at these ceilings beside the "
            "time taken. SM and memory are the profiler's shares of peak, the caches included."
        ),
        "",
    ]
    for batch in found["batches"]:
        rows = [
            [
                step["name"],
                str(step["kernels"]),
                f"{step['microseconds']:,.1f}",
                f"{step['share']:.0%}",
                f"{step['flop'] / step['microseconds'] / 1e6:,.0f}" if step["flop"] else "",
                f"{step['bytes'] / step['microseconds'] / 1e3:,.0f}",
                f"{step['roofline_us'] / step['microseconds']:.2f}",
                f"{step['sm']:.0f}%",
                f"{step['memory']:.0f}%",
            ]
            for step in batch["steps"]
        ]
        whole = sum(step["microseconds"] for step in batch["steps"])
        bound = sum(step["roofline_us"] for step in batch["steps"])
        kernels = sum(step["kernels"] for step in batch["steps"])
        rows.append(
            ["all", str(kernels), f"{whole:,.1f}", "100%", "", "", f"{bound / whole:.2f}", "", ""]
        )
        heads = [
            "step", "kernels#", "us#", "share#", "TFLOP/s#", "GB/s#", "roofline#", "SM#", "memory#",
        ]  # fmt: skip
        lines += [f"### {batch['title']}", "", *table(heads, rows), ""]
    return "\n".join(lines)
