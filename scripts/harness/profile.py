"""A profile: what is reproduced — model, dataset, windows, batch and repeats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UserError
from .files import sha256_file
from .paths import PROFILES
from .schema import check_schema
from .weights import Architecture
from .windows import WindowOptions
from .yaml_file import read_yaml


def _object(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "required": [name for name in properties if name not in optional],
    }


_TEXT = {"type": "string", "minLength": 1}
# Whatever is counted: beyond it lie mistakes, and sizes that no array can have.
_COUNT = {"type": "integer", "minimum": 1, "maximum": 1_000_000}
_ROLES = ("weights", "adapter", "vocab", "dataset", "calibration", "qat")
_MODEL_COUNTS = ("layers", "hidden", "heads", "intermediate", "vocab", "positions")
_SCHEMA = _object(
    {
        "description": _TEXT,
        "model": _object(
            {
                "name": {"type": "string", "pattern": "^[a-z0-9][a-z0-9-]*\\Z"},
                **dict.fromkeys(_MODEL_COUNTS, _COUNT),
                "layer_norm_eps": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
            }
        ),
        "assets": _object(dict.fromkeys(_ROLES, _TEXT), ("adapter", "calibration", "qat")),
        "windows": _object(
            {
                "sequence_length": _COUNT,
                "doc_stride": _COUNT,
                "max_question_tokens": _COUNT,
                "first_only": {"type": "boolean"},
            }
        ),
        "batch": _COUNT,
        "warmup": _COUNT,
        # Fewer than five repeats give no median and spread worth writing down.
        "repeats": {**_COUNT, "minimum": 5},
        "calibration": _object(
            {
                "questions": _COUNT,
                "percentile": {"type": "number", "exclusiveMinimum": 0, "maximum": 100},
            }
        ),
    },
    ("calibration",),
)


@dataclass(frozen=True)
class Calibration:
    """`questions` of the calibration dataset, and the `percentile` of activations to keep."""

    questions: int
    percentile: float


@dataclass(frozen=True)
class Profile:
    """`assets` maps a role to a name in the manifest: weights, adapter, vocab, dataset, and for
    INT8 either calibration, a dataset, or qat, a checkpoint that has its scales.

    `warmup` counts batches at full shape, `repeats` whole passes over the dataset.
    """

    name: str
    description: str
    model: str
    architecture: Architecture
    assets: dict[str, str]
    windows: WindowOptions
    batch: int
    warmup: int
    repeats: int
    calibration: Calibration | None
    sha256: str


def profile_names() -> list[str]:
    """Names of all profiles there are."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def load_profile(name: str) -> Profile:
    """The profile `name`; raises UserError for an unknown name or a malformed file."""
    if name not in profile_names():
        raise UserError(f"no profile {name!r}; PROFILE is one of {', '.join(profile_names())}")
    return read_profile(PROFILES / f"{name}.yaml")


def read_profile(path: Path) -> Profile:
    """The profile in the file `path`; raises UserError as `load_profile` does."""
    document = read_yaml(path, "profile")
    check_schema(document, _SCHEMA, f"profile {path}")
    model = document["model"]
    windows = WindowOptions(**document["windows"])
    architecture = Architecture(**{k: v for k, v in model.items() if k != "name"})
    if windows.sequence_length > architecture.positions:
        raise UserError(f"profile {path}: sequence_length exceeds the model's positions; mend it")
    calibration = document.get("calibration")
    if ("calibration" in document["assets"]) != (calibration is not None) or (
        calibration is not None and "qat" in document["assets"]
    ):
        raise UserError(
            f"profile {path}: INT8 comes from an asset `calibration` and a section of that name, "
            "or from an asset `qat` alone; mend it"
        )
    return Profile(
        name=path.stem,
        description=document["description"],
        model=model["name"],
        architecture=architecture,
        assets=document["assets"],
        windows=windows,
        batch=document["batch"],
        warmup=document["warmup"],
        repeats=document["repeats"],
        calibration=None if calibration is None else Calibration(**calibration),
        sha256=sha256_file(path),
    )
