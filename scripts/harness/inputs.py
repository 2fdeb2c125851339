"""The data a run is made from: the dataset asked for and the assets beside it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .errors import UserError
from .options import Options
from .paths import BUILD, shown
from .records import MadeFile, read_files, records_of
from .squad import Dataset, read_dataset


@dataclass(frozen=True)
class Inputs:
    """The files of the options' profile as `make assets` has left them.

    Records are read when they are asked for: the graph needs no dataset.
    """

    options: Options

    @cached_property
    def model(self) -> dict[str, dict[str, str]]:
        """Path, hash and source of the model's assets by role: weights, adapter, vocab."""
        return _files(records_of(self.options).model)

    @cached_property
    def assets(self) -> dict[str, dict[str, str]]:
        """The model's assets, and the profile's dataset unless DATASET replaces it."""
        record = records_of(self.options).dataset
        return self.model if record is None else {**self.model, **_files(record)}

    @property
    def calibration(self) -> MadeFile:
        """What the scales come from: CALIBRATION, or the profile's dataset or QAT checkpoint."""
        path = self.options.calibration
        if path is not None:
            return MadeFile.of(path)
        record = records_of(self.options).calibration
        if record is None:
            raise UserError("nothing is quantized at this precision; use PRECISION=int8")
        (entry,) = _files(record).values()
        return MadeFile.from_json(entry)

    def file(self, role: str) -> MadeFile:
        """The model's asset with this role; raises UserError where the record has none."""
        return _made(self.model, role)

    @cached_property
    def dataset(self) -> Dataset:
        """The questions: DATASET's or the profile's, LIMIT applied."""
        path = self.options.dataset
        if path is None:
            path = _made(self.assets, "dataset").checked("assets")
        return read_dataset(path, self.options.limit)


def _files(record: Path) -> dict[str, dict[str, str]]:
    return read_files(record, "assets")


def _made(files: dict[str, dict[str, str]], role: str) -> MadeFile:
    if role not in files:
        raise UserError(
            f"the records name no {role}; delete {shown(BUILD / 'records')} and run `make assets`"
        )
    return MadeFile.from_json(files[role])
