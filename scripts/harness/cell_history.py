"""The nights of each cell, judged: what the report draws and the exports tell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .golden import Golden, Promise, load_golden
from .nightly.chart import Tuning
from .nightly.detection import Judgement, allowed_loss, judge
from .nightly.history import Changed, changes
from .nightly.record import Cell, Record


@dataclass(frozen=True)
class CellHistory:
    """A cell's records, the oldest first and at least one, and what detection makes of them.

    `qps` and `f1` are what its golden file promises, None where it promises nothing;
    `allowed_points` is the exact match that golden lets it lose, in points.
    """

    cell: Cell
    records: tuple[Record, ...]
    judgement: Judgement
    qps: Promise | None
    f1: Promise | None
    allowed_points: float

    @property
    def name(self) -> str:
        """The cell in words."""
        cell = self.cell
        return (
            f"{cell.profile} {cell.backend} {cell.precision}, batch {cell.batch}, on {cell.machine}"
        )

    @property
    def latest(self) -> Record:
        """The last night's record."""
        return self.records[-1]

    @property
    def baseline(self) -> float | None:
        """The baseline's QPS; None before there is one."""
        level = self.judgement.level
        return math.exp(level) if math.isfinite(level) else None

    @property
    def device(self) -> str:
        """The device of the last run that names one; "" without any."""
        return _device_name(self.records)

    def changed_at(self, index: int) -> list[Changed]:
        """What differs between record `index` and the last one before it that, not having failed,
        has provenance."""
        record = self.records[index]
        earlier = (one for one in reversed(self.records[:index]) if one.provenance)
        before = next(earlier, None) if record.provenance else None
        return [] if before is None else changes(before, record)


def cell_histories(records: Iterable[Record], golden: Path) -> list[CellHistory]:
    """The cells among `records`, by name; `golden` is the folder of golden files.

    Raises UserError where a golden file is malformed.
    """
    cells: dict[Cell, list[Record]] = {}
    for record in records:
        cells.setdefault(record.cell, []).append(record)
    found = [_judged(cell, tuple(nights), golden) for cell, nights in cells.items()]
    return sorted(found, key=lambda history: history.name)


def _judged(cell: Cell, records: tuple[Record, ...], golden: Path) -> CellHistory:
    promised = load_golden(cell.profile, cell.precision, golden)
    qps = promised and promised.qps(_device_name(records), cell.backend, cell.batch)
    allowed = Tuning().allowed
    if qps and qps.limit > 0:
        allowed = allowed_loss(qps.value, qps.limit)
    accuracy = _accuracy(promised, cell.backend)
    matches = accuracy.get("exact_match")
    return CellHistory(
        cell=cell,
        records=records,
        judgement=judge([record.night for record in records], allowed),
        qps=qps or None,
        f1=accuracy.get("f1"),
        allowed_points=matches.value - matches.limit if matches else 0.0,
    )


def _accuracy(golden: Golden | None, backend: str) -> dict[str, Promise]:
    return golden.accuracy(backend) if golden else {}


def _device_name(records: Sequence[Record]) -> str:
    devices: Iterator[Any] = (record.provenance.get("device") for record in reversed(records))
    names = (device.get("name") for device in devices if isinstance(device, dict))
    return next((name for name in names if isinstance(name, str)), "")
