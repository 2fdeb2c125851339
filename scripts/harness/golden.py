"""Golden files: what a profile at one precision promises, on what evidence."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from .batches import BatchSize
from .errors import UserError, one_line
from .files import read_json
from .paths import GOLDEN, shown
from .provenance import git_output, run_git
from .schema import check_schema

SCHEMA = GOLDEN / "golden.schema.json"
# Checking a larger one by the schema would take seconds; a real one has some kilobytes.
_LARGEST = 1 << 20


@dataclass(frozen=True)
class Promise:
    """An expected value and the least that still passes, in the value's unit."""

    value: float
    limit: float


@dataclass(frozen=True)
class Golden:
    """One golden file, already valid by its schema."""

    path: Path
    document: dict[str, Any]

    def holds_for(self, dataset_sha256: str) -> bool:
        """Whether the accuracy limits hold for the dataset with this hash."""
        return any(entry["sha256"] == dataset_sha256 for entry in self.document["datasets"])

    def accuracy(self, backend: str) -> dict[str, Promise]:
        """`exact_match` and `f1` in per cent, the backend's own where it has them."""
        entry = self._limits(backend, "accuracy")
        return {name: _promise(entry[name]) for name in ("exact_match", "f1")}

    def crosscheck(self, backend: str) -> dict[str, float] | None:
        """Limits of the cross-check by name; None where none are promised."""
        entry = self._limits(backend, "crosscheck")
        if entry is None:
            return None
        return {k: v for k, v in entry.items() if k not in ("source", "derivation")}

    def qps(self, device: str, backend: str, batch: BatchSize) -> Promise | None:
        """The QPS promise for this device, backend and batch; None without one."""
        for entry in self.document["qps"]:
            if (entry["device"], entry["backend"], entry["batch"]) == (device, backend, batch):
                return _promise(entry)
        return None

    def uncommitted(self) -> str | None:
        """Why the file is not what git has committed, in a line; None if it is.

        Raises GitError where git cannot tell: no checkout, no git, not our checkout.
        """
        return uncommitted(self.path)

    def _limits(self, backend: str, kind: str) -> Any:
        own = self.document.get("backends", {}).get(backend, {})
        return own.get(kind, self.document.get(kind))


def uncommitted(path: Path) -> str | None:
    """Why the file `path` is not what git has committed; raises as `Golden.uncommitted` does."""
    name = shown(path)
    git_output("rev-parse", "--show-toplevel")
    committed = run_git("rev-parse", "--verify", "--quiet", f"HEAD:./{name}")
    if committed is None:
        return f"{name} is not committed"
    if git_output("hash-object", "--path", name, str(path)) != committed:
        return f"{name} differs from the commit"
    return None


def golden_path(profile: str, precision: str, folder: Path | None = None) -> Path:
    """Where the golden file of a profile at a precision is kept."""
    return (folder or GOLDEN) / profile / f"{precision}.json"


def load_golden(profile: str, precision: str, folder: Path | None = None) -> Golden | None:
    """The golden file of a profile at a precision; None where nothing is promised.

    Raises UserError when it is malformed (an unknown key included), names another profile or
    precision, or promises twice for one device, backend and batch.
    """
    path = golden_path(profile, precision, folder)
    if not path.is_file():
        return None
    if path.stat().st_size > _LARGEST:
        raise UserError(f"golden file {path} is over {_LARGEST >> 20} MiB; check the file")
    document = read_json(path, "golden file")
    _check(document, path)
    if (document["profile"], document["precision"]) != (profile, precision):
        raise UserError(f"golden file {shown(path)} is for another profile or precision; mend it")
    keys = [(entry["device"], entry["backend"], entry["batch"]) for entry in document["qps"]]
    if len(set(keys)) != len(keys):
        raise UserError(f"golden file {shown(path)} promises QPS twice for one case; mend it")
    return Golden(path, document)


def _check(document: Any, path: Path) -> None:
    """Raise UserError where `document`, read from `path`, breaks the schema."""
    schema = read_json(SCHEMA, "schema")
    try:
        check_schema(document, schema, f"golden file {shown(path)}")
    except UserError:
        raise
    except Exception as error:  # A schema that is none makes jsonschema raise a dozen types.
        raise UserError(
            f"{shown(SCHEMA)} is no JSON Schema ({one_line(error)[:200]}); restore it with git"
        ) from None


def _promise(entry: dict[str, Any]) -> Promise:
    # Decimal: 2325.2 - 1425.2 is 900 here, not 899.9999999999998.
    limit = Decimal(str(entry["value"])) - Decimal(str(entry["allowed_loss"]))
    return Promise(float(entry["value"]), float(limit))
