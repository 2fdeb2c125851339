"""Where a batch's time goes on a GPU, kernel by kernel, beside what the card can do at most.

Nsight Compute's table of kernels in the order in which they ran becomes the steps of the network.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import UserError
from ..weights import Architecture

TIME, BYTES = "gpu__time_duration.sum", "dram__bytes.sum"
SM, MEMORY = (
    "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed",
)
METRICS = (TIME, BYTES, SM, MEMORY)

EMBED, QKV, ATTENTION, OUTPUT = "embedding, norm", "QKV GEMM", "attention", "output GEMM"
NORM, INNER, OUTER = "residual, norm", "FFN in GEMM, GELU", "FFN out GEMM"
STEPS = (EMBED, QKV, ATTENTION, OUTPUT, INNER, OUTER, NORM)
# A layer's steps in their order, the GEMMs between the kernels that have names of their own.
_LAYER = (QKV, ATTENTION, OUTPUT, NORM, INNER, OUTER, NORM)
_NAMED = {"embed_kernel": EMBED, "add_norm_kernel": NORM}
_ATTENTION = ("wgmma_kernel", "mma_kernel", "portable_kernel")
# What cuBLASLt runs behind a GEMM whose sum it has split.
_REDUCTION = "splitKreduce"


@dataclass(frozen=True)
class Kernel:
    """One kernel's time in ns, bytes to and from device memory, and the share of the SMs' and of
    the memory system's peak that it reached, in per cent."""

    name: str
    nanoseconds: float
    bytes: float
    sm: float
    memory: float


@dataclass(frozen=True)
class Step:
    """The kernels of one kind together: `flop` that the network asks of them, and their shares of
    the peaks, weighted by time."""

    name: str
    kernels: int
    microseconds: float
    bytes: float
    flop: float
    sm: float
    memory: float


def read_kernels(lines: Iterable[str]) -> list[Kernel]:
    """Kernels of `ncu --csv --page raw --print-units base`, in the order in which they ran.

    Raises UserError where there is no such table.
    """
    rows = list(csv.DictReader(line for line in lines if line.startswith('"')))
    if not rows or not {"Kernel Name", *METRICS} <= set(rows[0]):
        raise UserError("Nsight Compute measured nothing; run `ncu` by hand to see why")
    return [
        Kernel(row["Kernel Name"], *(_number(row[metric]) for metric in METRICS))
        for row in rows[1:]  # the first has the units
    ]


def steps(
    kernels: Sequence[Kernel], architecture: Architecture, lengths: Sequence[int]
) -> list[Step]:
    """The steps of one batch of windows of these `lengths`, in STEPS' order.

    Raises UserError where the kernels are not those of one batch.
    """
    names = _named(kernels, architecture.layers)
    flop = _flop(architecture, lengths)
    found = []
    for step in STEPS:
        own = [kernel for kernel, name in zip(kernels, names, strict=True) if name == step]
        nanoseconds = sum(kernel.nanoseconds for kernel in own)
        found.append(
            Step(
                step,
                len(own),
                nanoseconds / 1e3,
                sum(kernel.bytes for kernel in own),
                flop.get(step, 0.0),
                sum(kernel.sm * kernel.nanoseconds for kernel in own) / nanoseconds,
                sum(kernel.memory * kernel.nanoseconds for kernel in own) / nanoseconds,
            )
        )
    return found


def batches_of(kernels: Sequence[Kernel]) -> list[list[Kernel]]:
    """The kernels of each batch: one begins with its embedding."""
    batches: list[list[Kernel]] = []
    for kernel in kernels:
        if _kind(kernel.name) == EMBED:
            batches.append([])
        if not batches:
            raise UserError(f"kernel {kernel.name!r} comes before any batch's embedding")
        batches[-1].append(kernel)
    return batches


def _named(kernels: Sequence[Kernel], layers: int) -> list[str]:
    """Each kernel's step."""
    expected = iter((EMBED, *_LAYER * layers))
    names: list[str] = []
    for kernel in kernels:
        if _REDUCTION in kernel.name and names:
            names.append(names[-1])
            continue
        step, kind = next(expected, None), _kind(kernel.name)
        if step is None or kind != (step if step in (EMBED, ATTENTION, NORM) else None):
            raise UserError(
                f"kernel {kernel.name!r} is not the network's: {step or 'the end'} is due"
            )
        names.append(step)
    missing = Counter(expected)
    if missing:
        raise UserError(f"{missing.total()} kernels of the batch were not measured")
    return names


def _kind(name: str) -> str | None:
    """A named kernel's step; None for a GEMM, which is cuBLASLt's."""
    for part, step in _NAMED.items():
        if part in name:
            return step
    return ATTENTION if any(part in name for part in _ATTENTION) and "bert" in name else None


def _flop(architecture: Architecture, lengths: Sequence[int]) -> Mapping[str, float]:
    """Of the GEMMs and of attention's two products, for the tokens that are no padding: a
    multiplication and an addition count as two."""
    a, tokens = architecture, sum(lengths)
    product = 2.0 * tokens * a.hidden * a.layers
    return {
        QKV: product * 3 * a.hidden,
        OUTPUT: product * a.hidden,
        INNER: product * a.intermediate,
        OUTER: product * a.intermediate,
        ATTENTION: 4.0 * sum(length**2 for length in lengths) * a.hidden * a.layers,
    }


def _number(text: str) -> float:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        raise UserError(f"Nsight Compute gave {text!r} for a number") from None
