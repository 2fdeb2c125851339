"""PyTorch on a GPU: BERT as a function, padded or not, and the floor under all systems."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..batches import Batch
from .gpu_systems import GpuModel, Loaded, Logits

# Captures share one pool: their batches never run at once.
Forward = Callable[[Any], Any]


@dataclass(frozen=True)
class _Inputs:
    """A batch on the device. `mask` (b, 1, 1, s) is None where nothing is padded; `starts` are
    cumulative lengths, `places` the tokens' indices among all of the batch's."""

    ids: Any
    segments: Any
    positions: Any
    mask: Any
    starts: Any
    longest: int
    places: Any


class _Bert:
    """The weights on the device, FP16, under `harness.weights`' names with q, k and v together."""

    def __init__(self, model: GpuModel) -> None:
        import torch

        from ..executor import fuse

        self.torch, self.sizes = torch, model.architecture
        tensors = fuse(model.weights, model.architecture)
        self.weights = {name: torch.from_numpy(w).cuda() for name, w in tensors.items()}

    def inputs(self, batch: Batch) -> _Inputs:
        torch = self.torch
        real = batch.input_mask != 0
        lengths = real.sum(axis=1)
        rows, width = real.shape
        positions = np.broadcast_to(np.arange(width), (rows, width))

        def device(array: Any, kind: Any = np.int64) -> Any:
            return torch.from_numpy(np.ascontiguousarray(array, kind)).cuda()

        return _Inputs(
            ids=device(batch.input_ids),
            segments=device(batch.segment_ids),
            positions=device(positions),
            mask=None if real.all() else device(real, np.bool_)[:, None, None, :],
            starts=device(np.concatenate(([0], np.cumsum(lengths))), np.int32),
            longest=width,
            places=device(np.flatnonzero(real)),
        )

    def linear(self, name: str, x: Any) -> Any:
        w = self.weights
        return self.torch.nn.functional.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(self, name: str, x: Any) -> Any:
        w, sizes = self.weights, self.sizes
        return self.torch.nn.functional.layer_norm(
            x, (sizes.hidden,), w[f"{name}.gamma"], w[f"{name}.beta"], sizes.layer_norm_eps
        )

    def encode(self, ids: Any, segments: Any, positions: Any, attend: Callable[[Any], Any]) -> Any:
        """Logits (..., 2) of tokens (...); `attend` makes the context of queries, keys, values."""
        w, functional = self.weights, self.torch.nn.functional
        x = w["embeddings.word"][ids] + w["embeddings.segment"][segments]
        x = self.norm("embeddings.norm", x + w["embeddings.position"][positions])
        for i in range(self.sizes.layers):
            layer = f"layer.{i}"
            context = attend(self.linear(f"{layer}.attention.qkv", x))
            x = self.norm(
                f"{layer}.attention.norm", x + self.linear(f"{layer}.attention.output", context)
            )
            inner = functional.gelu(self.linear(f"{layer}.ffn.in", x))
            x = self.norm(f"{layer}.ffn.norm", x + self.linear(f"{layer}.ffn.out", inner))
        return self.linear("qa", x)

    def padded(self, ids: Any, segments: Any, positions: Any, mask: Any) -> Any:
        """Logits (b, s, 2) with scaled_dot_product_attention."""
        rows, width = ids.shape
        heads, functional = self.sizes.heads, self.torch.nn.functional

        def attend(qkv: Any) -> Any:
            parts = qkv.view(rows, width, 3, heads, -1).permute(2, 0, 3, 1, 4)
            context = functional.scaled_dot_product_attention(*parts.unbind(0), attn_mask=mask)
            return context.transpose(1, 2).reshape(rows, width, -1)

        return self.encode(ids, segments, positions, attend)

    def packed(self, given: _Inputs) -> Any:
        """Logits (tokens, 2) with varlen_attn."""
        from torch.nn.attention.varlen import varlen_attn

        heads, flat = self.sizes.heads, given.places

        def attend(qkv: Any) -> Any:
            q, k, v = qkv.view(len(flat), 3, heads, -1).unbind(1)
            starts, longest = given.starts, given.longest
            return varlen_attn(q, k, v, starts, starts, longest, longest).reshape(len(flat), -1)

        ids, segments, positions = (
            t.reshape(-1)[flat] for t in (given.ids, given.segments, given.positions)
        )
        return self.encode(ids, segments, positions, attend)

    def products(self, given: _Inputs) -> Callable[[], Any]:
        """The network's GEMMs over tokens, and its attention, on numbers that mean nothing."""
        torch, sizes = self.torch, self.sizes
        count, hidden = len(given.places), sizes.hidden

        def half(columns: int) -> Any:
            return torch.randn(count, columns, dtype=torch.float16).cuda()

        x, qkv, inner, out = half(hidden), half(3 * hidden), half(sizes.intermediate), half(hidden)
        equal = given.mask is None
        if equal:
            rows = given.ids.shape[0]
            parts = [
                part.transpose(1, 2)
                for part in qkv.view(rows, -1, 3, sizes.heads, hidden // sizes.heads).unbind(2)
            ]
        else:
            from torch.nn.attention.varlen import varlen_attn

            parts = list(qkv.view(count, 3, sizes.heads, -1).unbind(1))

        def work() -> Any:
            kept = []
            for i in range(sizes.layers):
                layer = f"layer.{i}"
                for name, source, target in (
                    ("attention.qkv", x, qkv),
                    ("attention.output", x, out),
                    ("ffn.in", x, inner),
                    ("ffn.out", inner, out),
                ):
                    torch.mm(source, self.weights[f"{layer}.{name}.weight"].t(), out=target)
                if equal:
                    kept = torch.nn.functional.scaled_dot_product_attention(*parts)
                else:
                    starts, longest = given.starts, given.longest
                    kept = varlen_attn(*parts, starts, starts, longest, longest)
            return kept

        return work


@dataclass(frozen=True)
class _Prepared:
    call: Callable[[], Any]
    output: Any
    given: _Inputs


class _Loaded:
    """Batches by the device's clock. `forward` makes what executes a batch; with `graphs` that is
    captured."""

    def __init__(
        self,
        bert: _Bert,
        forward: Callable[[_Inputs], Callable[[], Any]],
        *,
        graphs: bool,
        scored: bool = True,
    ) -> None:
        self._bert, self._forward, self._graphs, self._scored = bert, forward, graphs, scored
        self._pool = None
        self._kept: list[Any] = []

    def prepare(self, batch: Batch) -> _Prepared:
        torch = self._bert.torch
        given = self._bert.inputs(batch)
        work = self._forward(given)
        self._kept.append(work)
        with torch.no_grad():
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    output = work()
            torch.cuda.synchronize()
            if not self._graphs:
                return _Prepared(work, output, given)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                output = work()
            self._pool = self._pool or graph.pool()
        return _Prepared(graph.replay, output, given)

    def run(self, prepared: Sequence[_Prepared]) -> float:
        torch = self._bert.torch
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        milliseconds = 0.0
        with torch.no_grad():
            for batch in prepared:
                begin.record()
                batch.call()
                end.record()
                torch.cuda.synchronize()
                milliseconds += begin.elapsed_time(end)
        return milliseconds / 1e3

    def logits(self, prepared: _Prepared) -> Logits | None:
        if not self._scored:
            return None
        with self._bert.torch.no_grad():
            fresh = prepared.call()
        output = prepared.output if self._graphs else fresh
        self._bert.torch.cuda.synchronize()
        found = output.float().cpu().numpy()
        if found.ndim == 2:  # packed
            whole = np.zeros((*prepared.given.ids.shape, 2), np.float32)
            whole.reshape(-1, 2)[prepared.given.places.cpu().numpy()] = found
            found = whole
        return found[..., 0], found[..., 1]


def sdpa(model: GpuModel) -> Loaded:
    """Padded, kernel by kernel."""
    bert = _Bert(model)
    return _Loaded(bert, lambda given: lambda: bert.padded(*_padded(given)), graphs=False)


def compiled(model: GpuModel) -> Loaded:
    """Padded, torch.compile's kernels for any shape, in a CUDA graph a batch."""
    bert = _Bert(model)
    forward = bert.torch.compile(bert.padded, dynamic=True)
    return _Loaded(bert, lambda given: lambda: forward(*_padded(given)), graphs=True)


def varlen(model: GpuModel) -> Loaded:
    """Without padding, in a CUDA graph a batch."""
    bert = _Bert(model)
    return _Loaded(bert, lambda given: lambda: bert.packed(given), graphs=True)


def floor(model: GpuModel) -> Loaded:
    """GEMMs and attention alone, without padding, in a CUDA graph a batch."""
    bert = _Bert(model)
    return _Loaded(bert, bert.products, graphs=True, scored=False)


def _padded(given: _Inputs) -> tuple[Any, Any, Any, Any]:
    return given.ids, given.segments, given.positions, given.mask
