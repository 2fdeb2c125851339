"""Systems on one GPU in turn: the same weights, the same batches, logits compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from ..errors import UserError, one_line
from .gpu_cases import Case
from .gpu_systems import GpuModel, GpuSystem, Loaded, Logits

_WARMUPS = 2


def load(systems: Sequence[GpuSystem], model: GpuModel) -> tuple[dict[str, Loaded], dict[str, str]]:
    """Systems by key, and for those that cannot be loaded the reason."""
    loaded: dict[str, Loaded] = {}
    reasons: dict[str, str] = {}
    for system in systems:
        try:
            loaded[system.key] = system.load(model)
        except (ImportError, RuntimeError, OSError, UserError) as error:
            reasons[system.key] = one_line(error)[:200]
        print(f"{system.title}: {reasons.get(system.key, 'loaded')}", flush=True)
    return loaded, reasons


def compare(
    loaded: dict[str, Loaded],
    tolerances: Mapping[str, float],
    case: Case,
    repeats: int,
    reasons: dict[str, str],
) -> dict[str, Any]:
    """Rates in windows a second by system: median, spread ((max - min) / median) and repeats."""
    prepared: dict[str, list[Any]] = {}
    for key, system in loaded.items():
        try:
            prepared[key] = [system.prepare(batch) for batch in case.batches]
        except (ImportError, RuntimeError, UserError) as error:
            reasons[f"{key}, {case.title}"] = one_line(error)[:200]
            print(f"{key}, {case.title}: {one_line(error)}", flush=True)
    differences = _differences(loaded, tolerances, prepared, case)
    seconds: dict[str, list[float]] = {key: [] for key in prepared}
    for repeat in range(-_WARMUPS, repeats):
        order = list(prepared.items())
        turn = repeat % len(order)
        for key, batches in [*order[turn:], *order[:turn]]:
            took = loaded[key].run(batches * case.again)
            if repeat >= 0:
                seconds[key].append(took)
    rates = {key: [case.windows / took for took in found] for key, found in seconds.items()}
    return {
        "case": case.title,
        "windows": case.windows,
        "tokens": case.tokens,
        "batches": len(case.batches) * case.again,
        "systems": {
            key: {
                "windows_per_s": median(found),
                "spread": (max(found) - min(found)) / median(found),
                "repeats": found,
                "milliseconds_a_batch": 1e3
                * median(seconds[key])
                / (len(case.batches) * case.again),
                "difference": differences.get(key),
            }
            for key, found in rates.items()
        },
    }


def _differences(
    loaded: dict[str, Loaded],
    tolerances: Mapping[str, float],
    prepared: dict[str, list[Any]],
    case: Case,
) -> dict[str, float]:
    """How far logits are from the median of all systems', root mean square and relative to it.

    Raises UserError where one computes something else: its time would mean nothing.
    """
    found: dict[str, Logits] = {}
    middle = len(case.batches) // 2
    for key, batches in prepared.items():
        logits = loaded[key].logits(batches[middle])
        if logits is not None:
            found[key] = logits
    real = case.batches[middle].input_mask != 0
    values = {
        key: np.concatenate([side[real].astype(np.float64) for side in sides])
        for key, sides in found.items()
    }
    reference = np.median(np.stack(list(values.values())), axis=0)
    size = np.sqrt(np.mean(reference**2))
    differences = {
        key: float(np.sqrt(np.mean((value - reference) ** 2)) / size)
        for key, value in values.items()
    }
    for key, difference in differences.items():
        if not difference <= tolerances[key]:
            raise UserError(
                f"{key} is off by {difference:.2g} of the others' logits in {case.title}; "
                "see what `make test-gpu` says"
            )
    return differences
