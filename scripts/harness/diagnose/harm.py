"""What each kind of sub-layer's own error does to the logits, and which layer's does the most.

The FP32 reference runs with the local errors of one kind added, in all layers at once, and then,
for the kind that does the most harm, in one layer at a time. That compares kinds as `make
sensitivity` does, by the logits instead of F1, which on few questions is mostly noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from ..backends import EngineOptions
from ..measure import progress
from ..weights import Array
from .measures import Distance
from .places import MASK, PROJECTIONS, QA_HEAD, Place
from .reference import Reference, real_tokens
from .surgery import ERROR, MADE, cut, injected
from .survey import Survey
from .taps import Tapped, open_network, open_reference

# Query, key and value take one quantized input: they are kept from it together or not at all.
PROJECTION = "query, key, value"
# Kinds whose harm is at least this share of the worst one's are as bad as far as windows tell.
TIED = 0.9
_NOTHING: Array = np.zeros((1, 1, 1), np.float32)
# Places by the name of what they are together.
Groups = dict[str, list[Place]]


@dataclass(frozen=True)
class Harm:
    """Relative error of the logits by kind of sub-layer, and by layer for the worst kind; both
    from the most harmful on. `group` holds the places of the most harmful layer's."""

    kinds: dict[str, float]
    layers: dict[str, float]
    group: list[Place]


def group_of(place: Place, everything: Sequence[Place]) -> list[Place]:
    """`place` and those that are kept from quantization with it, in the order of execution."""
    if place.kind not in PROJECTIONS:
        return [place]
    return [p for p in everything if p.layer == place.layer and p.kind in PROJECTIONS]


def group_name(group: Sequence[Place]) -> str:
    """The places of a group in words."""
    first = group[0]
    return first.name if len(group) == 1 else f"layer {first.layer} {PROJECTION}"


def measure_harm(
    tested: Path, reference: Reference, backend: Tapped, options: EngineOptions, found: Survey
) -> Harm | None:
    """The harm of all places that make an error of their own; None where there is none.

    The arguments are `survey.survey`'s, which has `found`.
    """
    noisy = [
        measured.place
        for measured in found.measured
        if measured.local.relative > found.floor and measured.place.kind != MASK
    ]
    if not noisy:
        return None
    inside = [place.tensor for place in noisy if place.kind != QA_HEAD]
    parts = open_network(cut(onnx.load(tested), reference.tensors), backend, options)
    disturbed = open_reference(injected(reference.graph, inside))

    def logits_errors(groups: Groups, label: str) -> dict[str, float]:
        """The logits' relative error with each of `groups` alone in error, the largest first."""
        distances = {name: Distance() for name in groups}
        for batch in progress(reference.batches, label):
            expected = reference.network.run(batch)
            made = parts.run(batch, expected)
            right = real_tokens(expected["logits"], batch)
            for name, group in groups.items():
                errors = {p.tensor: made[p.tensor + MADE] - expected[p.tensor] for p in group}
                # The QA head has nothing behind it.
                last = errors.pop("logits", None)
                given = _all_errors(errors, inside)
                logits = expected["logits"] if not errors else disturbed.run(batch, given)["logits"]
                logits = logits if last is None else logits + last
                distances[name].add(real_tokens(logits, batch), right)
        harms = {name: distance.error().relative for name, distance in distances.items()}
        return dict(sorted(harms.items(), key=lambda item: -item[1]))

    kinds: Groups = {}
    for place in noisy:
        kinds.setdefault(PROJECTION if place.kind in PROJECTIONS else place.kind, []).append(place)
    by_kind = logits_errors(kinds, "harm of each kind")
    layers: Groups = {}
    for place in kinds[next(iter(by_kind))]:
        group = group_of(place, noisy)
        layers[group_name(group)] = group
    by_layer = logits_errors(layers, "harm of each layer")
    return Harm(by_kind, by_layer, layers[next(iter(by_layer))])


def _all_errors(errors: Mapping[str, Array], inside: Sequence[str]) -> dict[str, Array]:
    """`errors` as the graph with injected errors takes them: none is an error of zero."""
    return {tensor + ERROR: errors.get(tensor, _NOTHING) for tensor in inside}
