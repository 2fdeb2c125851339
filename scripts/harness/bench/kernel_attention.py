"""Attention over padded and ragged batches, beside PyTorch's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .kernel_gpu import Call, Gpu, System
from .kernel_shapes import HEADS, LENGTH, RAGGED, WINDOWS
from .kernels import OURS, Kernels, Sequences


def time_attention(gpu: Gpu, kernels: Kernels, lengths: list[int]) -> Iterator[dict[str, Any]]:
    """Attention of padded and of ragged batches, beside PyTorch's; `lengths` are sorted."""
    padded = [LENGTH] * WINDOWS
    yield attention_case(gpu, kernels, padded, 64)
    yield attention_case(gpu, kernels, padded, 32)
    yield attention_case(gpu, kernels, [LENGTH], 64)
    for windows, quantile in RAGGED:
        begin = min(int(len(lengths) * quantile) // windows * windows, len(lengths) - windows)
        batch = lengths[begin : begin + windows]
        yield attention_case(gpu, kernels, batch, 64, quantile)


def attention_case(
    gpu: Gpu,
    kernels: Kernels,
    lengths: list[int],
    head_size: int,
    quantile: float | None = None,
) -> dict[str, Any]:
    """Attention over windows of `lengths` tokens: ragged ones from around a quantile of all
    lengths, or equally long ones.

    Each peer runs twice: over the fused projection's output as it lies, and over queries, keys
    and values of their own, split outside the timing.
    """
    torch = gpu.torch
    ragged = quantile is not None
    hidden, longest, tokens = HEADS * head_size, max(lengths), sum(lengths)
    starts = torch.tensor(
        [sum(lengths[:i]) for i in range(len(lengths) + 1)], dtype=torch.int32, device="cuda"
    )
    sequences = Sequences(
        windows=len(lengths), max_length=longest, tokens=tokens,
        starts=starts.data_ptr() if ragged else None,
    )  # fmt: skip
    sets = gpu.sets(tokens * 4 * hidden * 2)
    qkvs = [gpu.half(tokens, 3 * hidden) for _ in sets]
    contexts = [gpu.zeros(tokens, hidden) for _ in sets]

    def ours(qkv: Any, context: Any) -> Call:
        return lambda: kernels.attention(
            sequences, HEADS, head_size, qkv.data_ptr(), context.data_ptr()
        )

    def parts(qkv: Any, own: bool) -> list[Any]:
        if ragged:
            views = qkv.view(tokens, 3, HEADS, head_size).unbind(1)
        else:
            packed = qkv.view(len(lengths), longest, 3, HEADS, head_size)
            views = [part.transpose(1, 2) for part in packed.unbind(2)]
        return [part.contiguous() if own else part for part in views]

    peers, failures = gpu.available(
        [
            System(f"{name}, {layout}", [peer(attend, parts(qkv, own)) for qkv in qkvs])
            for name, attend in (
                varlen_peers(starts, longest) if ragged else sdpa_peers(torch)
            ).items()
            for layout, own in (("fused", False), ("split", True))
        ]
    )
    own = System(OURS, [ours(*pair) for pair in zip(qkvs, contexts, strict=True)])
    gpu.warm(own.calls)
    if peers:
        expected = peers[0].calls[0]()
        if not ragged:
            expected = expected.transpose(1, 2)
        gpu.check("bert_attention", contexts[0], expected.reshape(tokens, hidden), 5e-3)
    times = gpu.time([own, *peers])
    operations = 4 * hidden * sum(length * length for length in lengths)
    best = min((p.name for p in peers), key=lambda name: times[name]["us"], default=None)
    return {
        "case": f"ragged {quantile}" if ragged else "padded",
        "windows": len(lengths),
        "longest": longest,
        "tokens": tokens,
        "heads": HEADS,
        "head_size": head_size,
        "operations": operations,
        "tflop_per_s": operations / times[OURS]["us"] / 1e6,
        "best_peer": best,
        "ratio": times[OURS]["us"] / times[best]["us"] if best else None,
        "systems": times,
        "failures": failures,
    }


def peer(attend: Callable[..., Any], parts: list[Any]) -> Call:
    return lambda: attend(*parts)


def sdpa_peers(torch: Any) -> dict[str, Callable[..., Any]]:
    """scaled_dot_product_attention as PyTorch dispatches it, and by the backends it has."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    attend = torch.nn.functional.scaled_dot_product_attention

    def by(backend: Any) -> Callable[..., Any]:
        def call(*parts: Any) -> Any:
            with sdpa_kernel([backend]):
                return attend(*parts)

        return call

    return {
        "SDPA": attend,
        "SDPA cuDNN": by(SDPBackend.CUDNN_ATTENTION),
        "SDPA flash": by(SDPBackend.FLASH_ATTENTION),
    }


def varlen_peers(starts: Any, longest: int) -> dict[str, Callable[..., Any]]:
    """varlen_attn over windows that begin at `starts`; older releases of PyTorch have none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return {}
    return {"varlen_attn": lambda q, k, v: varlen_attn(q, k, v, starts, starts, longest, longest)}
