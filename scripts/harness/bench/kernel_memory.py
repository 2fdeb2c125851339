"""The kernels that memory bounds, as shares of a copy's bandwidth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .kernel_gpu import Call, Gpu, System, Times
from .kernel_shapes import (
    HIDDEN,
    INNER,
    LENGTH,
    POSITIONS,
    SEGMENTS,
    TOKENS,
    VOCAB,
    WINDOWS,
)
from .kernels import EPSILON, OURS, Embedding, Gelu, Kernels, NormInputs, Sequences

# The least share of a copy's bandwidth that is wanted.
COPY_SHARE = 0.80
COPY_BYTES = 512 << 20
COPY = "copy"


def time_copy(gpu: Gpu) -> Times:
    """A copy of COPY_BYTES by PyTorch."""
    return gpu.time([copy_system(gpu)])[COPY]


def copy_system(gpu: Gpu) -> System:
    source, target = (gpu.zeros(COPY_BYTES, dtype="uint8") for _ in range(2))
    return System(COPY, [lambda: target.copy_(source)])


def time_memory(gpu: Gpu, kernels: Kernels) -> list[dict[str, Any]]:
    """The kernels that memory bounds, as shares of a copy's bandwidth; the copy comes first."""
    torch = gpu.torch
    functional = torch.nn.functional
    row = HIDDEN * 2  # bytes
    gamma, beta, bias = (gpu.half(HIDDEN) for _ in range(3))

    def add_norm() -> Call:
        x, residual, y = gpu.half(TOKENS, HIDDEN), gpu.half(TOKENS, HIDDEN), outputs()
        inputs = NormInputs(
            half=x.data_ptr(), residual_half=residual.data_ptr(), bias=bias.data_ptr(),
            gamma=gamma.data_ptr(), beta=beta.data_ptr(), tokens=TOKENS, hidden=HIDDEN,
            epsilon=EPSILON,
        )  # fmt: skip

        def call() -> Any:
            kernels.add_norm(inputs, y.data_ptr())
            return x, residual, y  # keeps them in memory

        call()
        added = x.float() + bias.float() + residual.float()
        gpu.check("bert_add_norm", y, normed(added), 2e-3)
        return call

    def embed() -> Call:
        # No id twice, and tables that rotate: every row comes from memory.
        word, segment, position = (gpu.half(rows, HIDDEN) for rows in (VOCAB, SEGMENTS, POSITIONS))
        ids = torch.randperm(VOCAB, device="cuda")[:TOKENS].int()
        segments, y = gpu.zeros(TOKENS, dtype="int32"), outputs()
        embedding = Embedding(
            word=word.data_ptr(), segment=segment.data_ptr(), position=position.data_ptr(),
            gamma=gamma.data_ptr(), beta=beta.data_ptr(), vocab=VOCAB, segments=SEGMENTS,
            positions=POSITIONS, hidden=HIDDEN, epsilon=EPSILON,
        )  # fmt: skip
        sequences = Sequences(windows=WINDOWS, max_length=LENGTH, tokens=TOKENS)

        def call() -> Any:
            kernels.embed(sequences, ids.data_ptr(), segments.data_ptr(), embedding, y.data_ptr())
            return word, segment, position, y

        call()
        places = torch.arange(TOKENS, device="cuda") % LENGTH
        added = word[ids.long()].float() + segment[segments.long()].float()
        gpu.check("bert_embed", y, normed(added + position[places].float()), 2e-3)
        return call

    def gelu() -> Call:
        x, y = gpu.half(TOKENS, INNER), gpu.zeros(TOKENS, INNER)
        gelu = Gelu(
            half=x.data_ptr(), bias=wide.data_ptr(), output_half=y.data_ptr(), tokens=TOKENS,
            channels=INNER,
        )  # fmt: skip

        def call() -> Any:
            kernels.gelu(gelu)
            return x, y

        call()
        gpu.check("bert_gelu", y, functional.gelu(x.float() + wide.float()), 2e-3)
        return call

    def qa_head() -> Call:
        x = gpu.half(TOKENS, HIDDEN)
        start, end = (gpu.zeros(TOKENS, dtype="float32") for _ in range(2))
        pointers = [t.data_ptr() for t in (weight, two, start, end)]

        def call() -> Any:
            kernels.qa_head(x.data_ptr(), TOKENS, HIDDEN, *pointers)
            return x, start, end

        call()
        logits = x.double() @ weight.double().t() + two.double()
        gpu.check("bert_qa_head", torch.stack([start, end], 1), logits, 2e-3)
        return call

    def outputs() -> Any:
        return gpu.zeros(TOKENS, HIDDEN)

    def normed(x: Any) -> Any:
        return functional.layer_norm(x, (HIDDEN,), gamma.float(), beta.float(), EPSILON)

    wide, two, weight = gpu.half(INNER), gpu.half(2), gpu.half(2, HIDDEN)
    # What a call must read and write, bytes; weights that all rows share are not counted.
    kinds: list[tuple[str, int, int, Callable[[], Call]]] = [
        ("add_norm", HIDDEN, 3 * TOKENS * row, add_norm),
        ("embed", HIDDEN, TOKENS * (2 * row + 8), embed),
        ("gelu", INNER, 2 * TOKENS * INNER * 2, gelu),
        ("qa_head", HIDDEN, TOKENS * (row + 8), qa_head),
    ]
    systems = [copy_system(gpu)]
    systems += [System(name, [make() for _ in gpu.sets(size)]) for name, _, size, make in kinds]
    times = gpu.time(systems)
    copied = 2 * COPY_BYTES / times[COPY]["us"]
    cases: list[dict[str, Any]] = [
        {
            "case": COPY,
            "shape": f"{COPY_BYTES >> 20} MiB",
            "bytes": 2 * COPY_BYTES,
            "gb_per_s": copied / 1e3,
            "systems": {COPY: times[COPY]},
        }
    ]
    for name, channels, size, _ in kinds:
        rate = size / times[name]["us"]
        cases.append(
            {
                "case": name,
                "shape": f"{TOKENS:,} x {channels:,}",
                "bytes": size,
                "gb_per_s": rate / 1e3,
                "copy_share": rate / copied,
                "target": COPY_SHARE,
                "met": rate / copied >= COPY_SHARE,
                "systems": {OURS: times[name]},
            }
        )
    return cases
