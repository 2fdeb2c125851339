"""How well the judgement finds losses, and how rarely it alarms without one, by simulation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import read_json, sha256_file
from ..measure import spread
from ..paths import shown
from .binomial import clopper_pearson
from .chart import Floats, Tuning
from .detection import first_night
from .remeasure import LOOKS, PASS_SIGMAS, PASSES, RISK
from .simulation import NEVER, Draw, Machine, begin, gaussian, heavy, resampled, run

# The cells whose false alarms add up to a machine's: four of a profile's backends and
# precisions on three profiles, say.
CELLS = 12
SIGMAS = (0.005, 0.008, 0.012, 0.02, 0.03, 0.05)
# Shares of QPS.
LOSSES = (0.02, 0.03, 0.05, 0.10)
PERSISTENCE = 0.7
# Nights without a loss, from a cell's first on; nights before a loss, and after it.
QUIET_NIGHTS = 60
HISTORIES = {"few": 6, "full": 20}
AFTER = 10
WITHIN = (1, 3, 10)
# What the machine itself loses each night where it drifts: a per cent in three weeks.
DRIFT = 0.0005
# What is asked of a machine with a comparator whose nights spread by no more than `sigma`.
TARGET = {"sigma": 0.012, "loss": 0.05, "nights": 3, "found": 0.99, "false": 0.001}
_ATTRIBUTED = 1000


@dataclass(frozen=True)
class Point:
    """One machine to simulate: the shape of its noise, sigma in log QPS, with comparator or not."""

    shape: str
    sigma: float
    comparator: bool

    def machine(self, draws: dict[str, Draw]) -> Machine:
        """The machine with this point's noise."""
        kept = PERSISTENCE if self.shape == "persistent" else 0.0
        return Machine(self.sigma, draws[self.shape], kept, self.comparator)


def points() -> list[Point]:
    """All machines, in the order of the table."""
    return [
        Point(shape, sigma, comparator)
        for comparator in (True, False)
        for shape in ("gaussian", "heavy", "measured", "persistent", "drifting")
        for sigma in SIGMAS
    ]


def shapes(measured: Floats) -> dict[str, Draw]:
    """The noise's shapes by name; `measured` are residuals of real repeats."""
    return {
        "gaussian": gaussian,
        "heavy": heavy,
        "measured": resampled(measured),
        "persistent": gaussian,
        "drifting": gaussian,
    }


def residuals(files: Iterable[Path]) -> tuple[Floats, list[dict[str, Any]]]:
    """Real repeats as noise, and which files they come from.

    Every list of at least five `rates` in the JSON `files` gives its log rates less their
    median, over their root mean square: one shape from systems of unlike noise. Files without
    such lists (the kernels' keep medians and spreads alone) give none. Raises UserError if none
    does.
    """
    values: list[Floats] = []
    sources = []
    for path in sorted(files):
        found = [np.log(rates) for rates in _rates(read_json(path, "published file"))]
        units = [rates - np.median(rates) for rates in found]
        units = [unit / math.sqrt(float(np.mean(unit**2))) for unit in units if unit.any()]
        if units:
            values += units
            count = sum(len(unit) for unit in units)
            entry = {"file": shown(path), "sha256": sha256_file(path), "repeats": count}
            sources.append(entry)
    if not values:
        raise UserError("no published file holds repeats; run `make bench`")
    return np.concatenate(values), sources


def _rates(value: Any) -> Iterator[list[float]]:
    if isinstance(value, dict):
        for key, entry in value.items():
            if key == "rates" and isinstance(entry, list) and len(entry) >= 5:
                yield entry
            else:
                yield from _rates(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _rates(entry)


def measured_spreads(files: Iterable[Path]) -> list[float]:
    """(max - min) / median of every list of at least five `rates` in `files`."""
    return [spread(r) for path in sorted(files) for r in _rates(read_json(path, "published file"))]


def simulate(
    point: Point, draws: dict[str, Draw], series: int, seed: int, told: Callable[[], None]
) -> dict[str, Any]:
    """All numbers of one point, from `series` cells each; `told` is called after every part."""
    machine = point.machine(draws)
    # A point's numbers do not depend on which others are simulated.
    key = [seed, round(point.sigma * 1e6), int(point.comparator), sorted(draws).index(point.shape)]
    generator = np.random.default_rng(key)
    return {
        **asdict(point),
        **_quiet(generator, machine, series, DRIFT if point.shape == "drifting" else 0.0, told),
        **_power(generator, machine, series, told),
    }


def parts() -> int:
    """How often `simulate` calls `told`."""
    return 1 + len(HISTORIES) * len(LOSSES)


def _quiet(
    generator: np.random.Generator,
    machine: Machine,
    series: int,
    drift: float,
    told: Callable[[], None],
) -> dict[str, Any]:
    """False alarms, re-measurements and inconclusive nights where no version has lost anything."""
    _, tally = run(generator, machine, begin(generator, machine, series), QUIET_NIGHTS, 0.0, drift)
    alarmed = int((tally.alarm != NEVER).sum())
    told()
    cell_nights = QUIET_NIGHTS * series
    _, upper = clopper_pearson(alarmed, series)
    return {
        "false_series": alarmed,
        "false_per_machine_night": _nightly(alarmed / series),
        "false_upper": _nightly(upper),
        "conclusive": float(np.isfinite(tally.medians).mean()),
        "remeasured_per_machine_night": CELLS * tally.remeasured / cell_nights,
        "pairs": tally.pairs / tally.remeasured if tally.remeasured else 0.0,
    }


def _nightly(share: float) -> float:
    """Alarms a machine-night if `share` of the cells alarm in QUIET_NIGHTS: a constant hazard."""
    return CELLS * -math.log1p(-share) / QUIET_NIGHTS if share < 1 else math.inf


def _power(
    generator: np.random.Generator, machine: Machine, series: int, told: Callable[[], None]
) -> dict[str, Any]:
    """The share of losses found within some nights, and how often the right run is named."""
    rows, attribution = [], None
    for history, nights in HISTORIES.items():
        before, past = run(generator, machine, begin(generator, machine, series), nights)
        for share in LOSSES:
            loss = -math.log1p(-share)
            after, tally = run(generator, machine, before, AFTER, loss)
            found = tally.alarm != NEVER
            for within in WITHIN:
                hits = int((found & (tally.alarm < within)).sum())
                lower, upper = clopper_pearson(hits, series)
                rows.append(
                    {
                        "history": history, "loss": share, "nights": within,
                        "found": hits / series, "lower": lower, "upper": upper,
                    }
                )  # fmt: skip
            if (history, share) == ("full", TARGET["loss"]):
                chosen = np.flatnonzero(found)[:_ATTRIBUTED]
                chart, names = after.chart, []
                for cell in chosen:
                    # What was known on the night of the alarm.
                    known = tally.medians[: tally.alarm[cell] + 1, cell]
                    values = np.concatenate([past.medians[:, cell], known])
                    level, scale = float(chart.level[cell]), float(chart.scale[cell])
                    names.append(first_night(values, level, loss, scale))
                attribution = {
                    "alarms": len(names),
                    "exact": _share([first == nights for first, _ in names]),
                    "among_candidates": _share([nights in likely for _, likely in names]),
                    "candidates": _share([len(likely) for _, likely in names]),
                }
            told()
    return {"power": rows, "attribution": attribution}


def _share(values: list[Any]) -> float | None:
    return float(np.mean(values)) if values else None


def tuning() -> dict[str, Any]:
    """Everything that was tuned, for the record."""
    return {
        **asdict(Tuning()),
        "looks": list(LOOKS),
        "risk": RISK,
        "passes": PASSES,
        "pass_sigmas": PASS_SIGMAS,
    }


def found(entry: dict[str, Any], loss: float, nights: int, history: str = "full") -> dict[str, Any]:
    """The row of a point's power for this loss, number of nights and history."""
    wanted = (history, loss, nights)
    rows: list[dict[str, Any]] = entry["power"]
    return next(r for r in rows if (r["history"], r["loss"], r["nights"]) == wanted)


def meets(entry: dict[str, Any]) -> dict[str, bool]:
    """Whether a point meets the targets, by its unfavourable confidence bounds."""
    row = found(entry, TARGET["loss"], int(TARGET["nights"]))
    return {
        "found": row["lower"] >= TARGET["found"],
        "false": entry["false_upper"] <= TARGET["false"],
    }
