"""The choices of the backend ort-cuda, timed beside what was not chosen.

Every variant runs the same windows in the same batches, in turn, pass by pass. Rates are upstream's
QPS: execution alone, sorted, each batch padded to its longest window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from ..backends import Outputs, Session
from ..backends.ort_cuda import OrtCudaSession
from ..batches import plan_batches
from ..measure import qps, run_windows, spread, warm_up
from ..windows import Int32, Windows

BATCHES = (32, 128)
# A full batch alone is over in a millisecond; so many make a pass.
_FULL_BATCHES = 100
_MULTIPLE = 8


class _NotCaptured(OrtCudaSession):
    """Every kernel launched anew for every batch."""

    graphs = False


class _FewerShapes(OrtCudaSession):
    """Lengths rounded up to a multiple of 8, as tensor cores like them, and fewer graphs."""

    def run(self, input_ids: Int32, segment_ids: Int32, input_mask: Int32) -> Outputs:
        length = input_ids.shape[1]
        wider = ((0, 0), (0, -length % _MULTIPLE))
        found = super().run(*(np.pad(a, wider) for a in (input_ids, segment_ids, input_mask)))
        return Outputs(found[0][:, :length], found[1][:, :length], found.seconds)


def variants(engine: Path, folder: Path, device: int) -> dict[str, Session]:
    """A session of each by title; `folder` takes the packed graph."""
    packed = folder / "packed.onnx"
    onnx.save(_packed(engine), packed)
    return {
        "ours: a CUDA graph a shape": OrtCudaSession(engine, device),
        "a CUDA graph a multiple of 8 tokens": _FewerShapes(engine, device),
        "no CUDA graph": _NotCaptured(engine, device),
        # The count of tokens is read back by the host, which no graph can do.
        "packed without padding, no CUDA graph": _NotCaptured(packed, device),
    }


def _packed(engine: Path) -> onnx.ModelProto:
    """The fused graph in ONNX Runtime's packing mode."""
    from onnxruntime.transformers.convert_to_packing_mode import PackingMode
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = OnnxModel(onnx.load(engine))
    PackingMode(model).convert()
    model.topological_sort()
    packed: onnx.ModelProto = model.model
    return packed


def compare(
    sessions: Mapping[str, Session], windows: Windows, length: int, repeats: int
) -> dict[str, dict[str, list[float]]]:
    """Rates in 1/s by case and title, one a repeat; a case's passes are interleaved.

    Cases are the dataset's windows at each batch size, and full batches of `length` tokens.
    """
    plans = {
        f"dataset, batch {size}": (size, plan_batches(windows.lengths, size)) for size in BATCHES
    }
    full = np.ones((BATCHES[0], length), np.int32)
    for session in sessions.values():
        shapes = {(len(r), int(windows.lengths[r].max())) for _, p in plans.values() for r in p}
        warm_up(session, [full.shape] * 5 + sorted(shapes) * 2)
    rates: dict[str, dict[str, list[float]]] = {}
    for case, (size, plan) in plans.items():
        rates[case] = _interleaved(
            sessions, repeats, lambda s, n=size, p=plan: _pass(s, windows, p, n)
        )
    rates[f"{BATCHES[0]} x {length}"] = _interleaved(sessions, repeats, lambda s: _full(s, full))
    return rates


def _interleaved(
    sessions: Mapping[str, Session], repeats: int, measure: Any
) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {title: [] for title in sessions}
    for _ in range(repeats):
        for title, session in sessions.items():
            found[title].append(measure(session))
    return found


def _pass(
    session: Session, windows: Windows, plan: Sequence[npt.NDArray[np.int64]], size: int
) -> float:
    done = run_windows(session, windows, plan, "pass")
    return qps(sum(map(len, plan)), size, done.seconds, done.wall_seconds)


def _full(session: Session, ones: npt.NDArray[np.int32]) -> float:
    zeros = np.zeros_like(ones)
    seconds = [session.run(ones, zeros, ones).seconds for _ in range(_FULL_BATCHES)]
    return qps(len(ones) * len(seconds), len(ones), seconds, sum(seconds))


def table(rates: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    """Lines of Markdown: a row a variant, a column a case, medians in 1/s and their spread."""
    titles = list(next(iter(rates.values())))
    lines = [
        "| " + " | ".join(["", *rates]) + " |",
        "| --- " + "| ---: " * len(rates) + "|",
    ]
    for title in titles:
        cells = [f"{median(c[title]):,.0f} ({spread(c[title]):.1%})" for c in rates.values()]
        lines.append("| " + " | ".join([title, *cells]) + " |")
    return lines
