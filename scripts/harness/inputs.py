"""The data a run is made from: the dataset asked for and the assets beside it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from .options import Options
from .records import MadeFile, read_record, records_of
from .squad import Dataset, read_dataset


@dataclass(frozen=True)
class Inputs:
    """The assets of the options' profile by role, and the dataset, as they lie on disk."""

    options: Options
    assets: dict[str, dict[str, str]]

    @classmethod
    def of(cls, options: Options) -> Inputs:
        """Read the assets' records; UserError if `make assets` has not been run."""
        records = records_of(options)
        assets = read_record(records.model, "assets")
        if records.dataset is not None:
            assets.update(read_record(records.dataset, "assets"))
        return cls(options, assets)

    def asset(self, role: str) -> MadeFile:
        """The asset with this role: weights, adapter, vocab or dataset."""
        return MadeFile.from_json(self.assets[role])

    @cached_property
    def dataset(self) -> Dataset:
        """The questions: DATASET's or the profile's, LIMIT applied."""
        path = self.options.dataset or self.asset("dataset").checked("assets")
        return read_dataset(path, self.options.limit)
