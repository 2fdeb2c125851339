"""Why a place is at fault: what its weights, its scales and its values say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..host import sums_int8_exactly
from ..scales import INT8_MAX, quantize_weight, weight_scales
from ..weights import Array
from .judge import Judged
from .places import MASK, SEGMENTS, Place
from .survey import ROUNDING, Survey

OVERFLOW = "overflow"
SATURATION = "saturation"
COARSE = "coarse scale"
CHANNEL = "weight channel"
WEIGHTS = "weights"
SWAPPED = "swapped segments"
WRONG_MASK = "wrong mask"
ARITHMETIC = "arithmetic"
ENGINE = "engine"
EXPLAINED = "explained by the precision"
KINDS = (
    OVERFLOW, SATURATION, COARSE, CHANNEL, WEIGHTS, SWAPPED, WRONG_MASK, ARITHMETIC, ENGINE,
    EXPLAINED,
)  # fmt: skip

# Weights that differ by more than this factor of what rounding them makes are other weights.
_OTHER = 3.0
# Up to this share of output channels is a matter of these channels.
_FEW = 0.05
# A range that the largest value exceeds, or leaves empty, by more than these is not its own.
_CLIPPED, _EMPTY = 1.5, 1 / 3
# Exchanged rows leave at most this share of the error.
_MENDED = 0.1
# An engine that is further from the reference than its own graph by this factor.
_FUSED = 3.0
_TABLES = {"word embedding": "embeddings.word", "position embedding": "embeddings.position"}


@dataclass(frozen=True)
class Verdict:
    """`place` is the first one at fault in the order of execution, `others` those behind it; None
    and empty where `kind` is ENGINE or EXPLAINED. `sentences` are the evidence."""

    place: Place | None
    kind: str
    sentences: list[str]
    others: list[Place]


def verdict(survey: Survey, judged: Sequence[Judged]) -> Verdict:
    """What `judged`, in the order of execution, comes to."""
    guilty = [one for one in judged if one.at_fault]
    if guilty:
        kind, sentences = _evidence(guilty[0], survey)
        others = [one.measured.place for one in guilty[1:]]
        return Verdict(guilty[0].measured.place, kind, [_size(guilty[0]), *sentences], others)
    logits = survey.logits
    if logits.engine is not None and not logits.engine <= _FUSED * max(logits.tapped, survey.floor):
        return Verdict(
            None,
            ENGINE,
            [
                f"the engine's logits are {logits.engine:.3g} from the reference's, those of the "
                f"graph with its tensors in sight {logits.tapped:.3g}: what the engine fuses is "
                "at fault, and no single sub-layer"
            ],
            [],
        )
    return Verdict(
        None,
        EXPLAINED,
        [
            "no sub-layer makes more error than its precision explains; "
            f"all together the logits are {logits.tapped:.3g} from the reference's"
        ],
        [],
    )


def _size(one: Judged) -> str:
    local = one.measured.local
    if local.lost:
        return f"{_percent(local.lost)} of what it returns is NaN or infinite"
    if one.excess <= 1 and one.channel is not None:
        return f"local error {local.token:.3g}, in one output channel"
    words = f"local error {local.token:.3g}, {one.excess:.3g}x what the precision explains"
    return words if one.peers is None else f"{words}, {one.peers:.3g}x its peers"


def _evidence(one: Judged, survey: Survey) -> tuple[str, list[str]]:
    measured = one.measured
    place = measured.place
    if measured.local.lost:
        return OVERFLOW, [
            f"the reference reaches {measured.largest:.3g} there, {measured.used:.3g} times "
            f"the largest {survey.arithmetic.upper()} number"
        ]
    if place.kind == MASK:
        return WRONG_MASK, ["softmax lets through what the reference masks, or the reverse"]
    if place.kind == SEGMENTS and survey.swapped < _MENDED * measured.local.relative:
        return SWAPPED, [
            f"segments 0 and 1 have changed places: exchanged the error is {survey.swapped:.2g}"
        ]
    if (found := _weights(place, survey)) is not None:
        return found
    if (found := _scale(one)) is not None:
        return found
    sentences = ["its weights and scales are as they should be: what computes it is at fault"]
    if measured.saturated is not None and not sums_int8_exactly():
        sentences.append(
            "this processor has no VNNI: sums of INT8 products saturate in 16 bits, unless the "
            "runtime takes slower kernels"
        )
    if one.channel is not None:
        sentences.append(
            f"output channel {one.channel} has {one.channel_excess:.3g}x the error explained"
        )
    return ARITHMETIC, sentences


def _scale(one: Judged) -> tuple[str, list[str]] | None:
    """What the scale of the place's input is to blame for."""
    measured = one.measured
    used, saturated, linear = measured.input_used, measured.saturated, measured.place.linear
    if used is None or saturated is None or linear is None:
        return None
    if used > _CLIPPED and saturated > 0:
        return SATURATION, [
            f"{_percent(saturated)} of its input saturates: the largest of {linear.activation} is "
            f"{used:.3g} times what its scale holds"
        ]
    if used < _EMPTY:
        return COARSE, [
            f"the scale of {linear.activation} is {1 / used:.3g} times what its largest needs"
        ]
    return None


def _weights(place: Place, survey: Survey) -> tuple[str, list[str]] | None:
    """What the place's weights are to blame for: those that differ by more than rounding."""
    names = [name for name in _weight_names(place) if name in survey.reference.weights]
    for name in names:
        ours, theirs = survey.tested.weights[name], survey.reference.weights[name]
        rows = (len(ours), -1) if ours.ndim > 1 else (-1, 1)
        difference = np.linalg.norm((ours - theirs).reshape(rows).astype(np.float64), axis=1)
        rounding = _rounding(name, theirs, survey, rows)
        wrong = difference > _OTHER * rounding
        if not wrong.any():
            continue
        size = float(np.linalg.norm(theirs.astype(np.float64))) or 1.0
        apart, rounded = (float(np.linalg.norm(x)) / size for x in (difference, rounding))
        few = wrong.sum() <= max(1, _FEW * len(wrong))
        if place.linear is None or not few:
            return WEIGHTS, [
                f"{name} differs from the reference's by {_percent(apart)}; "
                f"rounding explains {_percent(rounded)}"
            ]
        channels = [int(c) for c in np.flatnonzero(wrong)]
        sentence = (
            f"{name} differs in {_channels(channels)} of {len(wrong)}, there by "
            f"{_percent(_share(difference[wrong], theirs.reshape(rows)[wrong]))}"
        )
        return CHANNEL, [sentence, *_channel_scale(place, channels[0], survey)]
    return None


def _weight_names(place: Place) -> list[str]:
    if place.linear is not None:
        return [f"{place.linear.name}.{part}" for part in ("weight", "bias")]
    if place.kind == SEGMENTS:
        return ["embeddings.segment"]
    if place.kind in _TABLES:
        return [_TABLES[place.kind]]
    return [f"{place.tensor}.{part}" for part in ("gamma", "beta")]


def _rounding(
    name: str, weight: Array, survey: Survey, rows: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """What rounding `weight` to the graph's type makes of each of its rows, as a norm."""
    linear = name.removesuffix(".weight")
    scales = survey.tested.scales
    # Of a number that is rounded once more, at most.
    least = 2 * ROUNDING["fp16" if survey.arithmetic == "fp16" else "fp32"]
    size = np.linalg.norm(weight.reshape(rows).astype(np.float64), axis=1)
    if scales is not None and linear in scales.weights:
        steps = weight_scales(weight, INT8_MAX)
        rounded = quantize_weight(weight, steps) * steps[:, None]
        made = np.linalg.norm((rounded - weight).astype(np.float64), axis=1)
        return np.asarray(np.maximum(made, least * size), np.float64)
    # Zero is right to the last bit, or nearly.
    return np.asarray(least * np.maximum(size, 1e-3 * float(size.max(initial=0.0))), np.float64)


def _share(difference: npt.NDArray[Any], rows: npt.NDArray[Any]) -> float:
    size = float(np.linalg.norm(rows))
    return float(np.linalg.norm(difference)) / size if size else float("inf")


def _channel_scale(place: Place, channel: int, survey: Survey) -> list[str]:
    """What the channel's weight scale is, beside what its weights need."""
    scales, linear = survey.tested.scales, place.linear
    if scales is None or linear is None or linear.name not in scales.weights:
        return []
    needed = weight_scales(survey.reference.weights[f"{linear.name}.weight"], INT8_MAX)[channel]
    ratio = float(scales.weights[linear.name][channel] / needed)
    return [f"the weight scale of channel {channel} is {ratio:.3g} times what its weights need"]


def _channels(found: list[int]) -> str:
    listed = ", ".join(map(str, found[:3]))
    return f"output channel{'s' if len(found) > 1 else ''} {listed}{', …' if found[3:] else ''}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
