"""diagnose.json: what a diagnosis found, for the report and for whoever looks later."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..files import read_json, to_json, write_atomic
from ..paths import shown
from ..schema import check_schema
from .diagnosis import Diagnosis
from .evidence import KINDS
from .judge import Judged
from .remedy import Remedy

DIAGNOSIS = "diagnose.json"


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "required": list(properties),
    }


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}
_COUNT = {"type": "integer", "minimum": 0, "maximum": 10**12}
_AMOUNT = {"type": "number", "minimum": 0, "maximum": 1e40}
_PERCENT = {"type": "number", "minimum": 0, "maximum": 100}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
# Null: NaN or infinite.
_ERROR = _or_null(_AMOUNT)
_FILE = _object(path=_TEXT, sha256=_TEXT)
_SCORE = _object(exact_match=_PERCENT, f1=_PERCENT)
_HARMS = {"type": "object", "additionalProperties": _AMOUNT}
_SCHEMA = _object(
    options={"type": "object"},
    onnx=_FILE,
    engine=_FILE,
    made=_TEXT,
    git=_object(commit=_or_null(_TEXT), dirty={"type": ["boolean", "null"]}),
    device=_TEXT,
    arithmetic={"enum": ["fp32", "fp16", "bf16"]},
    windows=_object(
        worst={"type": "array", "items": _COUNT},
        random={"type": "array", "items": _COUNT},
        seed=_COUNT,
        tokens=_COUNT,
        chosen_by=_TEXT,
    ),
    logits=_object(tapped=_ERROR, engine=_ERROR, apart=_ERROR, reference=_or_null(_AMOUNT)),
    places={
        "type": "array",
        "minItems": 1,
        "items": _object(
            name=_TEXT,
            kind=_TEXT,
            layer=_or_null(_COUNT),
            tensor=_TEXT,
            error=_ERROR,
            cosine={"type": "number", "minimum": -1.001, "maximum": 1.001},
            local=_ERROR,
            local_frobenius=_ERROR,
            explained=_ERROR,
            excess=_ERROR,
            peers=_ERROR,
            z=_or_null({"type": "number", "minimum": -1e9, "maximum": 1e9}),
            largest=_AMOUNT,
            used=_AMOUNT,
            input_used=_or_null(_AMOUNT),
            saturated=_or_null(_SHARE),
            lost=_SHARE,
            channel=_or_null(_COUNT),
            channel_excess=_ERROR,
            at_fault={"type": "boolean"},
        ),
    },
    verdict=_object(
        place=_or_null(_TEXT), kind={"enum": list(KINDS)}, sentences=_TEXTS, others=_TEXTS
    ),
    harm=_or_null(_object(kinds=_HARMS, layers=_HARMS)),
    candidate=_TEXTS,
    remedy=_or_null(
        _object(
            places=_TEXTS,
            questions=_COUNT,
            reference=_SCORE,
            before=_SCORE,
            after=_SCORE,
            qps_before=_AMOUNT,
            qps_after=_AMOUNT,
            qps_spread=_AMOUNT,
            fused={"type": "boolean"},
        )
    ),
    no_remedy=_or_null(_TEXT),
)


def document(
    found: Diagnosis,
    remedy: Remedy | None,
    no_remedy: str | None,
    windows: dict[str, Any],
    reference_apart: float | None,
    provenance: dict[str, Any],
) -> dict[str, Any]:
    """The diagnosis as JSON. `windows` says which were looked at, `reference_apart` how far the
    reference's logits are from the profile's own FP32 ones where these are another graph's, and
    `provenance` holds options, files, time, git and device. `no_remedy` says why there is none."""
    result, logits = found.verdict, found.survey.logits
    made = {
        **provenance,
        "arithmetic": found.survey.arithmetic,
        "windows": {**windows, "tokens": found.survey.tokens},
        "logits": {
            "tapped": _finite(logits.tapped),
            "engine": _finite(logits.engine),
            "apart": _finite(logits.apart),
            "reference": _finite(reference_apart),
        },
        "places": [_place(one) for one in found.judged],
        "verdict": {
            "place": None if result.place is None else result.place.name,
            "kind": result.kind,
            "sentences": result.sentences,
            "others": [place.name for place in result.others],
        },
        "harm": None
        if found.harm is None
        else {"kinds": found.harm.kinds, "layers": found.harm.layers},
        "candidate": [place.name for place in found.candidate],
        "remedy": None if remedy is None else asdict(remedy),
        "no_remedy": no_remedy,
    }
    check_schema(made, _SCHEMA, "the diagnosis")
    return made


def write_diagnosis(folder: Path, made: dict[str, Any]) -> Path:
    """Write diagnose.json into `folder`, whole or not at all; its path."""
    path = folder / DIAGNOSIS
    write_atomic(path, to_json(made))
    return path


def read_diagnosis(path: Path) -> dict[str, Any]:
    """The diagnosis in `path`; raises UserError where it is missing or malformed."""
    made: dict[str, Any] = read_json(path, "diagnosis")
    check_schema(made, _SCHEMA, shown(path))
    return made


def _place(one: Judged) -> dict[str, Any]:
    measured, place = one.measured, one.measured.place
    return {
        "name": place.name,
        "kind": place.kind,
        "layer": place.layer,
        "tensor": place.tensor,
        "error": _finite(measured.error.relative),
        "cosine": measured.error.cosine,
        "local": _finite(measured.local.token),
        "local_frobenius": _finite(measured.local.relative),
        "explained": _finite(measured.explained.token),
        "excess": _finite(one.excess),
        "peers": _finite(one.peers),
        "z": _finite(one.z),
        "largest": measured.largest,
        "used": measured.used,
        "input_used": measured.input_used,
        "saturated": measured.saturated,
        "lost": max(measured.local.lost, measured.error.lost),
        "channel": one.channel,
        "channel_excess": _finite(one.channel_excess),
        "at_fault": one.at_fault,
    }


def _finite(value: float | None) -> float | None:
    """JSON has no infinity."""
    return value if value is not None and math.isfinite(value) else None
