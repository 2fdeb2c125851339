"""A run's logits against ONNX Runtime FP32 on the CPU with graph optimizations off."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import batches, measure
from . import windows as windows_module
from .answers import answer_texts
from .backends import ort
from .backends.ort import OrtSession
from .batches import plan_batches
from .errors import UserError
from .files import fingerprint
from .measure import run_windows
from .options import Options
from .paths import BUILD
from .provenance import code_sha256
from .records import MadeFile
from .run import Logits, write_logits
from .squad import Dataset
from .windows import Windows

# Reference logits do not depend on the batch, only their speed does.
_BATCH = 8
_WORST = 10
# Upper ends of the histogram's bins of absolute differences; the last bin is open.
HISTOGRAM_EDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


@dataclass(frozen=True)
class Comparison:
    """How far two sets of logits over the same windows are apart.

    `max_abs_difference`, `mean_abs_difference` over start and end logits of all real tokens;
    `min_cosine` the smallest cosine of a window's logits; `equal_answers` the share of
    questions whose answer text is the same, in per cent; `worst` the windows with the largest
    differences; `histogram` the number of logits by difference (see HISTOGRAM_EDGES).
    """

    max_abs_difference: float
    mean_abs_difference: float
    min_cosine: float
    equal_answers: float
    worst: list[dict[str, Any]]
    histogram: list[int]


def reference_path(options: Options, dataset: Dataset, vocab: MadeFile, graph: MadeFile) -> Path:
    """Where the reference logits are kept, by all that they depend on.

    `graph` is the FP32 graph that they are computed with, `vocab` cuts the windows of `dataset`.
    """
    import onnxruntime

    key = {
        "graph": graph.sha256,
        "dataset": dataset.sha256,
        "limit": options.limit,
        "windows": asdict(options.profile.windows),
        "vocab": vocab.sha256,
        "onnxruntime": onnxruntime.__version__,
        "code": code_sha256(sys.modules[__name__], measure, batches, windows_module, ort),
    }
    return BUILD / "reference" / f"{options.profile.name}-{fingerprint(key)}.npz"


def compute_reference(onnx_file: Path, windows: Windows, target: Path) -> None:
    """Write the reference logits of `windows` through `onnx_file` to `target`."""
    session = OrtSession(onnx_file, optimized=False)
    plan = plan_batches(windows.lengths, _BATCH)
    made = run_windows(session, windows, plan, "reference logits")
    write_logits(target, Logits(made.start_logits, made.end_logits, windows.lengths))


def compare(
    dataset: Dataset,
    windows: Windows,
    actual: Logits,
    reference: Logits,
) -> Comparison:
    """Compare `actual` with `reference`; both hold the logits of `windows`.

    Raises UserError when they do not belong to these windows or hold NaN or infinity.
    """
    for name, logits in (("run's", actual), ("reference", reference)):
        if not np.array_equal(logits.lengths, windows.lengths):
            raise UserError(
                f"the {name} logits belong to other windows; run `make infer crosscheck` again"
            )
        bad = ~(np.isfinite(logits.start) & np.isfinite(logits.end))
        if bad.any():
            raise UserError(
                f"{int(bad.sum())} of the {name} logits are NaN or infinite, the first in window "
                f"{int(np.searchsorted(windows.starts, bad.argmax(), side='right')) - 1}"
            )
    ours = answer_texts(dataset.questions, windows, actual.start, actual.end)
    theirs = answer_texts(dataset.questions, windows, reference.start, reference.end)
    # In float64: two finite float32 may be further apart than float32 reaches.
    start = np.abs(np.subtract(actual.start, reference.start, dtype=np.float64))
    end = np.abs(np.subtract(actual.end, reference.end, dtype=np.float64))
    both = np.concatenate((start, end))
    edges = np.asarray(HISTOGRAM_EDGES, dtype=np.float32)
    counts = np.bincount(np.searchsorted(edges, both), minlength=len(edges) + 1)
    begins = windows.starts[:-1]
    by_window = np.maximum.reduceat(np.maximum(start, end), begins)
    cosine = _cosines(actual, reference, begins)
    return Comparison(
        max_abs_difference=float(both.max()),
        mean_abs_difference=float(both.mean(dtype=np.float64)),
        min_cosine=float(cosine.min()),
        equal_answers=100.0 * sum(ours[key] == theirs[key] for key in ours) / len(ours),
        worst=[
            {
                "window": int(window),
                "question": dataset.questions[windows.questions[window]].id,
                "max_abs_difference": float(by_window[window]),
                "cosine": float(cosine[window]),
            }
            for window in np.argsort(-by_window, kind="stable")[:_WORST]
        ],
        histogram=counts.tolist(),
    )


def document(
    found: Comparison, graph: MadeFile, reference: MadeFile, run_sha256: str
) -> dict[str, Any]:
    """crosscheck.json: what was `found`, with which files, for the run.json of this hash."""
    return {
        **asdict(found),
        "histogram_edges": list(HISTOGRAM_EDGES),
        "graph": graph.as_json(),
        "reference": reference.as_json(),
        # Ties these numbers to one run: another run.json makes them stale.
        "run_sha256": run_sha256,
    }


def _cosines(a: Logits, b: Logits, begins: np.ndarray[Any, np.dtype[np.int64]]) -> Any:
    """(W,) cosine of each window's start and end logits taken as one vector, in float64."""

    def dot(x: Logits, y: Logits) -> Any:
        product = x.start.astype(np.float64) * y.start + x.end.astype(np.float64) * y.end
        return np.add.reduceat(product, begins)

    norms = np.sqrt(dot(a, a) * dot(b, b))
    # Two zero vectors agree; a zero beside anything else does not.
    return np.where(norms > 0, dot(a, b) / np.where(norms > 0, norms, 1.0), dot(a, a) == dot(b, b))
