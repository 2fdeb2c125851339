"""What a stage leaves for the next: a small JSON record naming the files it made.

A record is written last, so its presence says that its stage is done; make takes it as the
stage's target. The files themselves are named by the hash of what they were made from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UserError
from .files import read_json, sha256_file, to_json, write_atomic
from .options import Options
from .paths import BUILD, ROOT, shown
from .run import CROSSCHECK, RUN

# A file server's clock may be ahead by so much.
_CLOCK_SKEW_SECONDS = 2.0


@dataclass(frozen=True)
class MadeFile:
    """A file with the SHA-256 it had when its stage ended."""

    path: Path
    sha256: str

    @classmethod
    def of(cls, path: Path) -> MadeFile:
        """Hash `path` as it is now."""
        return cls(path, sha256_file(path))

    @classmethod
    def from_json(cls, value: dict[str, str]) -> MadeFile:
        """The inverse of `as_json`."""
        return cls(ROOT / value["path"], value["sha256"])

    def as_json(self) -> dict[str, str]:
        """Path (relative to the repository where inside it) and hash."""
        return {"path": shown(self.path), "sha256": self.sha256}

    def problem(self) -> str | None:
        """Why the file is not what it was; None if it is."""
        if not self.path.is_file():
            return f"{shown(self.path)} is missing"
        if sha256_file(self.path) != self.sha256:
            return f"{shown(self.path)} has changed since it was made"
        return None

    def checked(self, target: str) -> Path:
        """The path, once its hash has been compared; UserError names the make `target`."""
        if not self.path.is_file():
            raise UserError(f"{shown(self.path)} is missing; run `make {target}`")
        problem = self.problem()
        if problem is not None:
            raise UserError(f"{problem}; delete it and run `make {target}`")
        return self.path

    @property
    def intact(self) -> bool:
        """Whether the file is there and unchanged."""
        return self.problem() is None


@dataclass(frozen=True)
class Records:
    """Paths of the records that one invocation's stages write.

    `dataset` is None where DATASET replaces the profile's own, which need not be had then;
    likewise `calibration`. Both `calibration` and `scales` are None where nothing is quantized.
    """

    model: Path
    dataset: Path | None
    calibration: Path | None
    scales: Path | None
    onnx: Path
    engine: Path


def records_of(options: Options) -> Records:
    """Where the stages of `options` keep their records."""
    folder = BUILD / "records" / options.profile.name
    suffix = options.calibration_suffix
    engine = f"engine-{options.backend.name}-{options.precision}{options.variant_suffix}{suffix}"
    if options.backend.engine_needs_batch:
        engine += f"-batch{options.batch}-device{options.device}"
    return Records(
        folder / "model.json",
        folder / "dataset.json" if options.dataset is None else None,
        folder / "calibration.json" if options.quantized and not suffix else None,
        folder / f"scales{suffix}.json" if options.quantized else None,
        folder / f"onnx-{options.graph_precision}{suffix}.json",
        folder / f"{engine}.json",
    )


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record, whole or not at all."""
    write_atomic(path, to_json(record))


def read_record(path: Path, target: str) -> dict[str, Any]:
    """A record, or a UserError naming the make `target` that writes it."""
    if not path.is_file():
        raise UserError(f"{shown(path)} is missing; run `make {target}`")
    record = read_json(path, "record")
    if not isinstance(record, dict):
        raise _damaged(path, target)
    return record


def read_files(path: Path, target: str) -> dict[str, dict[str, str]]:
    """The `files` of a record of assets: role -> name, path, hash and source.

    Raises UserError as `read_record` does, and for any other content.
    """
    record = read_record(path, target)
    files = record.get("files")
    if (
        record.keys() != {"lock", "files"}
        or not isinstance(files, dict)
        or not all(map(_is_asset, files.values()))
    ):
        raise _damaged(path, target)
    return files


def _is_asset(entry: Any) -> bool:
    keys = {"name", "path", "sha256", "source"}
    return (
        isinstance(entry, dict)
        and entry.keys() == keys
        and all(isinstance(value, str) for value in entry.values())
    )


def _damaged(path: Path, target: str) -> UserError:
    return UserError(f"record {shown(path)} is damaged; delete it and run `make {target}`")


def drop_stale(
    records: Records, run_folder: Path, lock_file: Path, refused: Collection[str] = ()
) -> None:
    """Remove records that name files which are gone, so that make runs their stages again.

    Likewise records that are dated in the future, records of assets that another lock file has
    vouched for or whose names are `refused`, and whatever is no record at all.
    """
    lock = shown(lock_file)
    for path in (records.model, records.dataset, records.calibration):
        if path is not None:
            _keep(
                path,
                lambda r: (
                    r["lock"] == lock
                    and _all_there(r["files"].values())
                    and all(entry["name"] not in refused for entry in r["files"].values())
                ),
            )
    if records.scales is not None:
        _keep(records.scales, lambda r: _all_there([r["file"]]))
    _keep(records.onnx, lambda r: _all_there([r["file"], r["reference"]]))
    _keep(records.engine, lambda r: _all_there([r["file"]]))
    run, crosscheck = run_folder / RUN, run_folder / CROSSCHECK
    _keep(run, lambda r: all((run_folder / name).is_file() for name in r["files"]))
    _keep(crosscheck, lambda r: _all_there([r["reference"]]))


def _all_there(entries: Iterable[dict[str, str]]) -> bool:
    return all((ROOT / entry["path"]).is_file() for entry in entries)


def from_the_future(path: Path) -> bool:
    """Whether the clock has been put back since `path` was written.

    Until it is that late again, make would take the file for newer than all that changes.
    """
    return path.exists() and path.stat().st_mtime > time.time() + _CLOCK_SKEW_SECONDS


def _keep(path: Path, valid: Callable[[Any], bool]) -> None:
    if not path.is_file():
        return
    try:
        good = not from_the_future(path) and valid(read_json(path, "record"))
    except (UserError, AttributeError, KeyError, TypeError):
        good = False
    if not good:
        path.unlink()
