"""The GPU profile: Nsight Compute's table becomes the network's steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny_bert import architecture_of

from harness.bench.gpu_profile import (
    ATTENTION,
    EMBED,
    INNER,
    METRICS,
    NORM,
    OUTPUT,
    QKV,
    Kernel,
    batches_of,
    read_kernels,
    steps,
)
from harness.bench.gpu_roofline import markdown, step_times
from harness.errors import UserError

LAYERS = 3
ARCHITECTURE = replace(architecture_of(LAYERS), heads=2)
LENGTHS = [5, 9]
GEMM = "sm90_xmma_gemm_f16f16"
LAYER = [GEMM, "void bert::<unnamed>::wgmma_kernel<64>(x)", GEMM, "bert::executor::add_norm_kernel",
         GEMM, GEMM, "bert::executor::add_norm_kernel"]  # fmt: skip


def batch(split: bool = False) -> list[Kernel]:
    """Each kernel takes 1,000 ns and moves 100 bytes; output GEMMs may be split."""
    names = ["void bert::executor::embed_kernel<3>(e)"]
    for _ in range(LAYERS):
        layer = list(LAYER)
        if split:
            layer.insert(3, "void cublasLt::splitKreduce_kernel<32>(y)")
        names += layer
    return [Kernel(name, 1000.0, 100.0, 50.0, 25.0) for name in names]


def test_every_kernel_has_its_step() -> None:
    found = {step.name: step for step in steps(batch(), ARCHITECTURE, LENGTHS)}
    assert {name: step.kernels for name, step in found.items()} == {
        EMBED: 1, QKV: 3, ATTENTION: 3, OUTPUT: 3, INNER: 3, "FFN out GEMM": 3, NORM: 6,
    }  # fmt: skip
    assert found[NORM].microseconds == 6 and found[NORM].bytes == 600 and found[NORM].flop == 0
    tokens, hidden, inner = sum(LENGTHS), ARCHITECTURE.hidden, ARCHITECTURE.intermediate
    assert found[QKV].flop == LAYERS * 2 * tokens * hidden * 3 * hidden
    assert found[INNER].flop == LAYERS * 2 * tokens * hidden * inner
    assert found[ATTENTION].flop == LAYERS * 4 * (25 + 81) * hidden
    assert found[ATTENTION].sm == 50 and found[ATTENTION].memory == 25


def test_a_split_product_keeps_its_reduction() -> None:
    found = {step.name: step for step in steps(batch(split=True), ARCHITECTURE, LENGTHS)}
    assert found[OUTPUT].kernels == 6 and found[INNER].kernels == 3


@pytest.mark.parametrize("place", [0, 2, 4, len(LAYER)])
def test_a_batch_that_is_not_whole_is_refused(place: int) -> None:
    kernels = batch()
    del kernels[place]
    with pytest.raises(UserError, match=r"is due|were not measured"):
        steps(kernels, ARCHITECTURE, LENGTHS)


def test_batches_begin_with_their_embedding() -> None:
    assert [len(found) for found in batches_of(batch() + batch(split=True))] == [22, 25]
    with pytest.raises(UserError, match="before any batch"):
        batches_of(batch()[1:])


def test_reading_the_profilers_table() -> None:
    heads = ["ID", "Kernel Name", *METRICS]
    lines = [
        "==PROF== Connected to process 1",
        ",".join(f'"{head}"' for head in heads),
        ",".join(f'"{unit}"' for unit in ["", "", "ns", "byte", "%", "%"]),
        '"0","a<(int)1, b>","1,024","2048","12.5","80"',
    ]
    assert read_kernels(lines) == [Kernel("a<(int)1, b>", 1024.0, 2048.0, 12.5, 80.0)]
    with pytest.raises(UserError, match="measured nothing"):
        read_kernels(lines[:1])
    with pytest.raises(UserError, match="'n/a'"):
        read_kernels([*lines, '"1","c","n/a","0","0","0"'])


def test_the_roofline_is_the_slower_of_products_and_bytes() -> None:
    found = steps(batch(), ARCHITECTURE, LENGTHS)
    times = {step["name"]: step for step in step_times(found, 1e12, 1e9)}
    assert times[NORM]["roofline_us"] == pytest.approx(0.6)
    flop = times[INNER]["flop"]
    assert times[INNER]["roofline_us"] == pytest.approx(max(flop / 1e6, 300 / 1e3))
    assert sum(step["share"] for step in times.values()) == pytest.approx(1)
    text = markdown(
        {
            "commit": None, "dirty": None, "device": "a card", "driver": None,
            "profiler": "Nsight Compute 1", "finished": "2026-01-01T00:00:00Z",
            "peaks": {"fp16": 1e12, "fp8": 2e12, "copy": 1e9},
            "batches": [{"title": "FP16, two", "steps": step_times(found, 1e12, 1e9)}],
        }
    )  # fmt: skip
    assert "### FP16, two" in text and "| all " in text
    assert max(len(line) for line in text.splitlines()) <= 100
