"""Time the plugin library's kernels on one NVIDIA GPU, beside ceilings and PyTorch's kernels.

FP16, shapes of BERT-base. Runs with any Python that has PyTorch; no other package is needed.
"""

from __future__ import annotations

import math
import os
import re
import statistics
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

from harness.bench.kernels import (
    EPSILON,
    GEMM_WORKSPACE,
    Embedding,
    Gelu,
    Gemm,
    Kernels,
    Linear,
    NormInputs,
    Sequences,
)
from harness.bench.repeats import read_repeats
from harness.errors import INCONCLUSIVE, OK, UserError, run_command
from harness.files import read_json, to_json, write_atomic
from harness.paths import ROOT
from harness.provenance import git_state, utc_now

LIBRARY = ROOT / "build/plugin/plugin/lib/libbert_kernels.so"

# Fewer repeats give no median and spread worth writing down.
LEAST_REPEATS, MOST_REPEATS = 15, 999
WARMUP_REPLAYS = 3
# A graph launch costs microseconds, which so many calls make nothing of.
CALLS_PER_GRAPH = 64
# The buffers that calls rotate over, in sizes of the L2 cache: none is in it when its turn comes.
ROTATED_CACHES = 8
# Above this spread, or this drift of copy bandwidth from start to end, a number is noise.
NOISE = 0.05
BUSY_PERCENT = 10

# Targets: share of copy bandwidth at least, time relative to the bare GEMM at most.
COPY_SHARE = 0.80
LINEAR_RATIO = 1.05

COPY_BYTES = 512 << 20
HIDDEN, INNER, HEADS = 768, 3072, 12
VOCAB, SEGMENTS, POSITIONS = 30522, 2, 512
WINDOWS, LENGTH = 32, 384
TOKENS = WINDOWS * LENGTH
# Of the padded batch, and of a batch of 32 windows of SQuAD's average length.
LINEAR_TOKENS = (TOKENS, 5600)
# (in, out, GELU) of a layer's GEMMs: qkv, attention's output, the FFN's two.
LINEARS = (
    (HIDDEN, 3 * HIDDEN, False), (HIDDEN, HIDDEN, False), (HIDDEN, INNER, True),
    (INNER, HIDDEN, False),
)  # fmt: skip
# (windows, quantile of the sorted lengths).
RAGGED = ((32, 0.1), (32, 0.5), (32, 0.9), (128, 0.5))
# SQuAD v1.1 dev has 10,570 questions, and windows of 175 tokens on average.
SYNTHETIC_COUNT, SYNTHETIC_MEDIAN, SYNTHETIC_SIGMA = 10570, 163.4, 0.37
SHORTEST = 41

OURS = "bert_kernels"
COPY = "copy"
BARE = "torch.mm"
UNTUNED, TUNED = "bert_linear", "bert_linear tuned"

Call = Callable[[], Any]


@dataclass(frozen=True)
class System:
    """One implementation: a call for each set of buffers, each queueing the same work."""

    name: str
    calls: Sequence[Call]


class Gpu:
    """PyTorch on one GPU: buffers, and the time of calls. `torch` is the module."""

    def __init__(self, torch: Any, repeats: int) -> None:
        self.torch = torch
        self.repeats = repeats
        self.properties = torch.cuda.get_device_properties(0)
        torch.manual_seed(0)

    def half(self, *shape: int, scale: float = 1.0) -> Any:
        """Normally distributed FP16 values on the GPU."""
        return self.torch.randn(*shape, device="cuda", dtype=self.torch.float16) * scale

    def zeros(self, *shape: int, dtype: str = "float16") -> Any:
        """A buffer on the GPU."""
        return self.torch.zeros(*shape, device="cuda", dtype=getattr(self.torch, dtype))

    def sets(self, size: int) -> range:
        """Which sets of buffers, of `size` bytes each, calls rotate over."""
        return range(max(2, math.ceil(ROTATED_CACHES * self.properties.L2_cache_size / size)))

    def time(self, systems: Sequence[System]) -> dict[str, dict[str, float]]:
        """Microseconds a call of each system: the median of the repeats, and their spread
        ((max - min) / median). In each repeat every system has its turn."""
        graphs = [self._capture(system.calls) for system in systems]
        for graph, _ in graphs * WARMUP_REPLAYS:
            graph.replay()
        self.torch.cuda.synchronize()
        times: list[list[float]] = [[] for _ in systems]
        for _ in range(self.repeats):
            for (graph, calls), found in zip(graphs, times, strict=True):
                begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                graph.replay()
                end.record()
                self.torch.cuda.synchronize()
                found.append(begin.elapsed_time(end) * 1e3 / calls)
        return {
            system.name: {
                "us": statistics.median(found),
                "spread": (max(found) - min(found)) / statistics.median(found),
            }
            for system, found in zip(systems, times, strict=True)
        }

    def warm(self, calls: Sequence[Call]) -> None:
        """Run `calls` once, so that nothing is loaded or chosen while a graph is captured."""
        stream = self.torch.cuda.Stream()
        stream.wait_stream(self.torch.cuda.current_stream())
        with self.torch.cuda.stream(stream):
            for call in calls:
                call()
        self.torch.cuda.synchronize()

    def available(self, systems: Sequence[System]) -> tuple[list[System], dict[str, str]]:
        """The systems that run here, and for the others the reason why they do not."""
        found, failures = [], {}
        for system in systems:
            try:
                self.warm(system.calls)
            except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
                failures[system.name] = " ".join(str(error).split())[:200]
            else:
                found.append(system)
        return found, failures

    def check(self, name: str, found: Any, expected: Any, tolerance: float) -> None:
        """Raises UserError where a kernel's output is not PyTorch's: its time would mean nothing.

        `tolerance` is relative to the largest magnitude expected.
        """
        self.torch.cuda.synchronize()
        expected = expected.float()
        off = ((found.float() - expected).abs().max() / expected.abs().max()).item()
        if not off <= tolerance:
            raise UserError(
                f"{name} is off by {off:.2g} from PyTorch; see what `make test-gpu` says"
            )

    def _capture(self, calls: Sequence[Call]) -> tuple[Any, int]:
        """A CUDA graph that goes through `calls` some times, and how many calls it has."""
        self.warm(calls)
        rounds = math.ceil(CALLS_PER_GRAPH / len(calls))
        graph = self.torch.cuda.CUDAGraph()
        with self.torch.cuda.graph(graph):
            for _ in range(rounds):
                # Held for a round: results that a call allocates rotate like our buffers.
                results = [call() for call in calls]
        del results
        return graph, rounds * len(calls)


def main() -> int:
    try:
        import torch
    except ImportError:
        raise UserError(
            "this Python has no PyTorch, whose kernels ours are timed beside; use one that has"
        ) from None
    if not torch.cuda.is_available() or torch.version.cuda is None:
        raise UserError("PyTorch finds no NVIDIA GPU here; run this on a machine that has one")
    repeats, (lengths, source) = read_repeats(LEAST_REPEATS, MOST_REPEATS), read_lengths()
    gpu = Gpu(torch, repeats)
    name = str(gpu.properties.name)
    uuid = f"GPU-{str(gpu.properties.uuid).removeprefix('GPU-')}"
    before = card(uuid)
    refuse_busy(before)
    kernels = Kernels(
        Path(os.environ.get("LIBRARY") or LIBRARY), lambda: torch.cuda.current_stream().cuda_stream
    )

    started = utc_now()
    with torch.no_grad():
        memory = time_memory(gpu, kernels)
        attention = list(time_attention(gpu, kernels, lengths))
        linear = list(time_linear(gpu, kernels))
        again = time_copy(gpu)
    after = card(uuid)
    first = memory[0]["systems"][COPY]["us"]
    drift = abs(again["us"] / first - 1)
    if drift > NOISE:
        print(
            f"copy took {first:.1f} us at the start and {again['us']:.1f} us at the end: this card "
            "is not steady, so nothing is written; see what else runs on it, and its temperature"
        )
        return INCONCLUSIVE

    found = {
        "started": started,
        "finished": utc_now(),
        "device": name,
        "driver": after.get("driver_version"),
        "card_before": before,
        "card_after": after,
        "copy_drift": drift,
        "torch": str(torch.__version__),
        "cuda": str(torch.version.cuda),
        "cudnn": torch.backends.cudnn.version(),
        **git_state(),
        "repeats": repeats,
        "lengths": source,
        "attention_kernel": kernels.attention_kernel(),
        "targets": {"memory": COPY_SHARE, "linear": LINEAR_RATIO},
        "memory": memory,
        "attention": attention,
        "linear": linear,
    }
    output = Path(os.environ.get("OUTPUT") or ROOT / "results" / "published" / folder_name(name))
    text = markdown(found)
    write_atomic(output / "kernels.json", to_json(found))
    write_atomic(output / "kernels.md", text)
    print(text)
    print(f"bench-kernels: {output / 'kernels.md'}")
    return OK


def read_lengths() -> tuple[list[int], str]:
    """Windows' lengths in tokens, sorted, and where they come from: the file LENGTHS, or made."""
    path = os.environ.get("LENGTHS")
    if not path:
        spread = NormalDist(math.log(SYNTHETIC_MEDIAN), SYNTHETIC_SIGMA)
        made = (
            round(math.exp(spread.inv_cdf((i + 0.5) / SYNTHETIC_COUNT)))
            for i in range(SYNTHETIC_COUNT)
        )
        lengths = [min(max(length, SHORTEST), LENGTH) for length in made]
        source = "synthetic, lognormal"
    else:
        lengths = read_json(Path(path), "LENGTHS")
        least = max(windows for windows, _ in RAGGED)
        if not isinstance(lengths, list) or len(lengths) < least:
            raise UserError(f"LENGTHS holds no list of at least {least} lengths; check the file")
        if not all(type(length) is int and 1 <= length <= POSITIONS for length in lengths):
            raise UserError(f"LENGTHS holds something else than integers from 1 to {POSITIONS}")
        lengths.sort()
        source = Path(path).name
    return lengths, f"{source}, mean {statistics.mean(lengths):.1f}"


def time_copy(gpu: Gpu) -> dict[str, float]:
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


def time_linear(gpu: Gpu, kernels: Kernels) -> Iterator[dict[str, Any]]:
    """BERT-base's GEMMs with their epilogues, beside the GEMM alone as PyTorch calls cuBLAS."""
    workspace = gpu.zeros(GEMM_WORKSPACE, dtype="uint8")
    for tokens in LINEAR_TOKENS:
        for inputs, outputs, gelu in LINEARS:
            yield linear_case(gpu, kernels, workspace, tokens, inputs, outputs, gelu)


def linear_case(
    gpu: Gpu, kernels: Kernels, workspace: Any, tokens: int, inputs: int, outputs: int, gelu: bool
) -> dict[str, Any]:
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

    linears = [
        Linear(
            input=x.data_ptr(), weight=weight.data_ptr(), bias=bias.data_ptr(),
            output=y.data_ptr(), tokens=tokens, inputs=inputs, outputs=outputs,
            activation=int(gelu), workspace=workspace.data_ptr(), workspace_bytes=GEMM_WORKSPACE,
        )
        for x, weight, y in triples
    ]  # fmt: skip

    def by(gemm: Gemm, linear: Linear) -> Call:
        return lambda: gemm.linear(linear)

    tuned.tune(linears[0])
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
            System(UNTUNED, [by(untuned, linear) for linear in linears]),
            System(TUNED, [by(tuned, linear) for linear in linears]),
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


def markdown(found: dict[str, Any]) -> str:
    """The document as tables, in lines of at most 100 columns."""
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
                f"(max - min) / median, and over {NOISE:.0%} it is noise."
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


def card(uuid: str) -> dict[str, str]:
    """What nvidia-smi says of the GPU: driver, clocks in MHz, power in W, degrees, use in per
    cent. Empty where there is no nvidia-smi."""
    fields = (
        "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem",
        "power.limit", "temperature.gpu", "utilization.gpu",
    )  # fmt: skip
    query = ["--query-gpu=" + ",".join(fields), "--format=csv,noheader,nounits"]
    answer = output_of("nvidia-smi", "-i", uuid, *query)
    values = [value.strip() for value in (answer or "").split(",")]
    return dict(zip(fields, values, strict=True)) if len(values) == len(fields) else {}


def refuse_busy(facts: dict[str, str]) -> None:
    """Raises UserError where somebody else is computing on the card."""
    use = facts.get("utilization.gpu", "")
    if use.isdigit() and int(use) > BUSY_PERCENT:
        raise UserError(f"the GPU is busy ({use} %); run this when nothing else uses it")


def output_of(*command: str) -> str | None:
    """Standard output of a command, stripped; None if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def folder_name(device: str) -> str:
    """`h100` for any H100, else the GPU's name in small letters and hyphens."""
    if "H100" in device:
        return "h100"
    return re.sub("[^a-z0-9]+", "-", device.lower()).strip("-")


if __name__ == "__main__":
    run_command(main, __doc__)
