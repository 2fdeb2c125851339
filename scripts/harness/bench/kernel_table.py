"""kernels.json as tables, in lines of at most 100 columns."""

from __future__ import annotations

from typing import Any

from ..spread import NOISE_SPREAD
from .kernel_gpu import ROTATED_CACHES
from .kernel_linear import BARE, LINEAR_RATIO, TUNED, UNTUNED
from .kernel_memory import COPY_SHARE
from .kernel_shapes import HEADS
from .kernels import OURS


def markdown(found: dict[str, Any]) -> str:
    """All tables, and where their numbers were made."""
    commit = (found["commit"] or "unknown")[:8] + (" (dirty)" if found["dirty"] else "")
    facts = [
        found["device"],
        f"driver {found['driver'] or 'unknown'}",
        f"PyTorch {found['torch']}",
        f"CUDA {found['cuda']}",
        found["finished"][:10],
        f"commit {commit}",
    ]
    return "\n".join(
        [
            *wrapped(", ".join(facts) + "."),
            "",
            *wrapped(
                f"FP16; median microseconds a call over {found['repeats']} repeats, in each of "
                "which every system of a case replays its CUDA graph in turn, whose calls rotate "
                f"over buffers of {ROTATED_CACHES} times the L2 cache; spread is "
                f"(max - min) / median, and over {NOISE_SPREAD:.0%} it is noise."
            ),
            "",
            *memory_table(found["memory"]),
            "",
            *attention_table(found),
            "",
            *linear_table(found["linear"]),
            "",
        ]
    )


def memory_table(cases: list[dict[str, Any]]) -> list[str]:
    rows = []
    for case in cases:
        (times,) = case["systems"].values()
        share = f"{case['copy_share']:.2f}" if "copy_share" in case else ""
        rows.append(
            [
                case["case"],
                case["shape"],
                f"{times['us']:.1f}",
                f"{times['spread']:.1%}",
                f"{case['gb_per_s']:,.0f}",
                share,
                verdict(case["met"]) if share else "",
            ]
        )
    heads = ["kernel", "shape", "us#", "spread#", "GB/s#", "of copy#", f">= {COPY_SHARE:.2f}"]
    return ["### Memory-bound kernels", "", *table(heads, rows)]


def attention_table(found: dict[str, Any]) -> list[str]:
    rows = []
    for case in found["attention"]:
        times, best = case["systems"], case["best_peer"]
        rows.append(
            [
                case["case"],
                f"{case['windows']} x {case['longest']}",
                str(case["head_size"]),
                f"{times[OURS]['us']:.1f}",
                f"{times[OURS]['spread']:.1%}",
                f"{case['tflop_per_s']:.0f}",
                best or "none",
                f"{times[best]['us']:.1f}" if best else "",
                f"{case['ratio']:.2f}" if best else "",
            ]
        )
    heads = [
        "batch", "windows", "head#", "us#", "spread#", "TFLOPS#", "best peer", "its us#", "ratio#",
    ]  # fmt: skip
    text = (
        f"{HEADS} heads; kernel {found['attention_kernel']}; lengths of ragged windows: "
        f"{found['lengths']}; beside `ragged` is the quantile that a batch of the sorted ones "
        "is from. Windows are their number and the longest of them. Peers run over the fused "
        "projection and over split tensors; the best of all counts. Ratio: our time to its time."
    )
    return ["### Attention", "", *wrapped(text), "", *table(heads, rows)]


def linear_table(cases: list[dict[str, Any]]) -> list[str]:
    rows = []
    for case in cases:
        times = case["systems"]
        rows.append(
            [
                f"{case['tokens']:,}",
                f"{case['in']} to {case['out']}",
                case["case"],
                f"{times[BARE]['us']:.1f}",
                f"{times[UNTUNED]['us']:.1f}",
                f"{case['ratio'][UNTUNED]:.3f}",
                verdict(case["met"][UNTUNED]),
                f"{times[TUNED]['us']:.1f}",
                f"{case['ratio'][TUNED]:.3f}",
                verdict(case["met"][TUNED]),
            ]
        )
    heads = [
        "tokens#", "GEMM", "epilogue", "bare us#", "us#", "ratio#", "met", "tuned us#", "ratio#",
        "met",
    ]  # fmt: skip
    widest = max(t["spread"] for case in cases for t in case["systems"].values())
    text = (
        f"Bare is {BARE}, without an epilogue; ratios are to its time. Untuned takes cuBLASLt's "
        f"first choice, tuned the fastest; met is a ratio of at most {LINEAR_RATIO:.2f}. "
        f"The widest spread is {widest:.1%}."
    )
    return ["### Linear layers", "", *wrapped(text), "", *table(heads, rows)]


def verdict(met: bool) -> str:
    return "yes" if met else "no"


def table(heads: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table that reads as plain text too; a head that ends in # is of numbers."""
    right = [head.endswith("#") for head in heads]
    cells = [[head.removesuffix("#") for head in heads], *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]

    def line(row: list[str]) -> str:
        parts = (
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        )
        return f"| {' | '.join(parts)} |"

    marks = [
        "-" * (width - 1) + ":" if to_right else "-" * width
        for width, to_right in zip(widths, right, strict=True)
    ]
    return [line(cells[0]), line(marks), *(line(row) for row in rows)]


def wrapped(text: str, width: int = 100) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
