"""One run's folder: predictions, metrics, timings, logits, and run.json with the provenance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import UserError
from .files import atomic_path, read_json, require_regular
from .windows import Float32

PREDICTIONS = "predictions.json"
METRICS = "metrics.json"
TIMINGS = "timings.json"
LOGITS = "logits.npz"
RUN = "run.json"
CROSSCHECK = "crosscheck.json"


@dataclass(frozen=True)
class Logits:
    """Packed start and end logits (T,) float32 and the windows' lengths (W,) int32."""

    start: Float32
    end: Float32
    lengths: np.ndarray[Any, np.dtype[np.int32]]


def write_logits(path: Path, logits: Logits) -> None:
    """Write an uncompressed .npz: logits hardly compress, and reading must be fast."""
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, start=logits.start, end=logits.end, lengths=logits.lengths)


def read_logits(path: Path) -> Logits:
    """The logits in `path`; raises UserError for any other content."""
    try:
        require_regular(path)
        with np.load(path, allow_pickle=False) as arrays:
            logits = Logits(arrays["start"], arrays["end"], arrays["lengths"])
        total = (int(logits.lengths.sum()),)
        if logits.lengths.ndim != 1 or not np.issubdtype(logits.lengths.dtype, np.integer):
            raise ValueError("lengths are no list of whole numbers")
        for array in (logits.start, logits.end):
            if array.dtype != np.float32 or array.shape != total:
                raise ValueError(f"logits are {array.dtype} {array.shape}, not float32 {total}")
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run `make infer`") from None
    except Exception as error:  # numpy and zipfile raise a dozen types for damaged files.
        raise UserError(f"{path} cannot be read ({error}); run `make infer` again") from None
    return logits


def read_run(folder: Path) -> dict[str, Any]:
    """run.json of the run in `folder`; raises UserError when it is missing or malformed."""
    path = folder / RUN
    if not path.is_file():
        raise UserError(f"{folder} holds no {RUN}; run `make infer` with the same options")
    run = read_json(path, "run record")
    if not isinstance(run, dict):
        raise UserError(f"run record {path} is no JSON object; run `make infer` again")
    return run


def read_predictions(path: Path) -> dict[str, str]:
    """Question id to answer text; raises UserError for any other content."""
    predictions = read_json(path, "predictions file")
    if not isinstance(predictions, dict) or not all(
        isinstance(text, str) for text in predictions.values()
    ):
        raise UserError(f"{path} is no map from question ids to texts; check the file")
    return predictions
