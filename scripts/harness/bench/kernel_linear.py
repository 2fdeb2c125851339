"""Linear layers with their epilogues, beside the GEMM alone as PyTorch calls cuBLAS."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .kernel_gpu import Call, Gpu, System
from .kernel_shapes import HIDDEN, INNER, TOKENS
from .kernels import GEMM_WORKSPACE, Gemm, Kernels, Linear

# Our time to the bare GEMM's, at most.
LINEAR_RATIO = 1.05
# Of the padded batch, and of a batch of 32 windows of SQuAD's average length.
LINEAR_TOKENS = (TOKENS, 5600)
# (in, out, GELU) of a layer's GEMMs: qkv, attention's output, the FFN's two.
LINEARS = (
    (HIDDEN, 3 * HIDDEN, False), (HIDDEN, HIDDEN, False), (HIDDEN, INNER, True),
    (INNER, HIDDEN, False),
)  # fmt: skip

BARE = "torch.mm"
UNTUNED, TUNED = "bert_linear", "bert_linear tuned"


def time_linear(gpu: Gpu, kernels: Kernels) -> Iterator[dict[str, Any]]:
    """BERT-base's GEMMs with their epilogues, beside the GEMM alone as PyTorch calls cuBLAS."""
    workspace = gpu.zeros(GEMM_WORKSPACE, dtype="uint8")
    for tokens in LINEAR_TOKENS:
        for inputs, outputs, gelu in LINEARS:
            yield linear_case(gpu, kernels, workspace, tokens, inputs, outputs, gelu)


def linear_case(
    gpu: Gpu, kernels: Kernels, workspace: Any, tokens: int, inputs: int, outputs: int, gelu: bool
) -> dict[str, Any]:
    """One GEMM (tokens, inputs) to (tokens, outputs), untuned, tuned, and bare."""
    torch = gpu.torch
    untuned, tuned = Gemm(kernels), Gemm(kernels)
    bias = gpu.half(outputs)
    sets = gpu.sets((tokens * (inputs + outputs) + inputs * outputs) * 2)
    xs = [gpu.half(tokens, inputs) for _ in sets]
    weights = [gpu.half(outputs, inputs, scale=inputs**-0.5) for _ in sets]
    ys = [gpu.zeros(tokens, outputs) for _ in sets]
    triples = list(zip(xs, weights, ys, strict=True))

    def bare(x: Any, weight: Any, y: Any) -> Call:
        transposed = weight.t()
        return lambda: torch.mm(x, transposed, out=y)

    def linear(x: Any, weight: Any, y: Any) -> Linear:
        return Linear(
            input=x.data_ptr(), weight=weight.data_ptr(), bias=bias.data_ptr(),
            output=y.data_ptr(), tokens=len(x), inputs=inputs, outputs=outputs,
            activation=int(gelu), workspace=workspace.data_ptr(), workspace_bytes=GEMM_WORKSPACE,
        )  # fmt: skip

    def by(gemm: Gemm, work: Linear) -> Call:
        return lambda: gemm.linear(work)

    linears = [linear(*triple) for triple in triples]
    # As the plugins tune: at the end of the bucket that this number of tokens is in.
    rows = kernels.bucket(tokens)
    longest = gpu.half(rows, inputs), weights[0], gpu.zeros(rows, outputs)
    tuned.tune(linear(*longest))
    del longest
    expected = xs[0].float() @ weights[0].float().t() + bias.float()
    if gelu:
        expected = torch.nn.functional.gelu(expected)
    for gemm in (untuned, tuned):
        ys[0].zero_()
        gemm.linear(linears[0])
        gpu.check("bert_linear", ys[0], expected, 5e-3)
    del expected
    times = gpu.time(
        [
            System(BARE, [bare(*triple) for triple in triples]),
            System(UNTUNED, [by(untuned, work) for work in linears]),
            System(TUNED, [by(tuned, work) for work in linears]),
        ]
    )
    operations = 2 * tokens * inputs * outputs
    ratios = {name: times[name]["us"] / times[BARE]["us"] for name in (UNTUNED, TUNED)}
    return {
        "case": "bias, GELU" if gelu else "bias",
        "tokens": tokens,
        "in": inputs,
        "out": outputs,
        "operations": operations,
        "tflop_per_s": {name: operations / t["us"] / 1e6 for name, t in times.items()},
        "ratio": ratios,
        "target": LINEAR_RATIO,
        "met": {name: ratio <= LINEAR_RATIO for name, ratio in ratios.items()},
        "systems": times,
    }
