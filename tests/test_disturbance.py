"""The bench of foreign work: passes in turns, losses from the round's quiet one, and the process
that works."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest
from test_batches import windows_of

from harness.backends import Outputs
from harness.bench import disturbance
from harness.bench.disturbance import DUTIES, Level, Passes, as_json, measure, table
from harness.bench.foreign import PERIOD_SECONDS, Foreign
from harness.windows import Int32


def levels() -> list[Level]:
    return [
        Level(0.0, [100.0, 50.0, 80.0], [0.0, 0.001, 0.0], [0.01, 0.0, None], ["", "", ""]),
        Level(0.1, [95.0, 48.0, 64.0], [0.1, 0.11, 0.09], [0.12, 0.1, 0.14], ["", "a (b)", "c"]),
    ]


def test_a_loss_is_from_the_quiet_pass_of_its_round() -> None:
    quiet, busy = levels()
    assert quiet.losses(quiet) == [0, 0, 0]
    assert busy.losses(quiet) == pytest.approx([0.05, 0.04, 0.2])
    entries = as_json([quiet, busy])
    assert [entry["loss"] for entry in entries] == pytest.approx([0, 0.05])
    assert entries[1]["told"] == [False, True, True]
    assert not any("rates" in entry for entry in entries), "the simulation would take them"


def test_the_table_has_a_line_a_level() -> None:
    head, rule, *rows = table(levels())
    assert len({line.count("|") for line in (head, rule, *rows)}) == 1
    assert rows == [
        "| 0% | 0.000 | 80.00 (62.5%) | 0.0%, 0.0% to 0.0% | 0.005 | 0 of 3 |",
        "| 10% | 0.100 | 64.00 (73.4%) | 5.0%, 4.0% to 20.0% | 0.120 | 2 of 3 |",
    ]
    blind = Level(0.0, [1.0], [0.0], [None], [""])
    assert table([blind])[2].endswith("| – | 0 of 1 |")


def test_levels_take_turns_and_foreign_work_surrounds_each_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(disturbance, "_SETTLE_SECONDS", 0.0)
    log: list[float | str] = []

    def time_pass(label: str) -> float:
        log.append(label)
        return 10.0

    def take_share(duty: float) -> float:
        log.append(duty)
        return 0.25

    found = measure(time_pass, take_share, 3)
    assert [level.duty for level in found] == list(DUTIES)
    for level in found:
        assert level.qps == [10.0] * 3
        assert len(level.took) == len(level.seen) == len(level.told) == 3
        assert min(level.took) > 0
    passes = [log[at : at + 3] for at in range(0, len(log), 3)]
    assert all(stop == 0.0 and f"{duty:.0%} of" in str(label) for duty, label, stop in passes)
    orders = [tuple(duty for duty, _, _ in passes[at : at + len(DUTIES)]) for at in (0, 7, 14)]
    assert len(set(orders)) == 3
    assert Counter(map(len, map(set, orders))) == {len(DUTIES): 3}


class Session:
    """Takes half a second a batch by its own account."""

    streams = 1

    def __init__(self) -> None:
        self.batches = 0

    def run(self, input_ids: Int32, segment_ids: Int32, input_mask: Int32) -> Outputs:
        self.batches += 1
        return Outputs(input_ids.astype(np.float32), input_mask.astype(np.float32), 0.5)


def test_a_pass_is_long_enough_and_its_rate_upstreams() -> None:
    session = Session()
    passes = Passes.warm(session, windows_of([3, 9, 5]), 2, 0, least=30.0)
    assert session.batches == 4
    assert passes.times > 3, "two small batches take no ten seconds"
    passes.times = 3
    # The last batch is filled up: four windows in a second.
    assert passes.time("") == pytest.approx(4.0)
    assert session.batches == 4 + 6


def test_the_foreign_process_takes_what_it_is_asked_to() -> None:
    with Foreign() as foreign:
        foreign.take(0.0)
        time.sleep(0.05)
        assert foreign.take(0.3) < 0.02
        began = time.perf_counter()
        time.sleep(0.4)
        used = foreign.take(0.0)
        periods = (time.perf_counter() - began) / PERIOD_SECONDS
        # However busy the machine is: some, and never more than a share a period.
        assert 0.3 * PERIOD_SECONDS <= used <= 0.3 * PERIOD_SECONDS * (periods + 1) + 0.02
        process = foreign._process
    assert process.poll() is not None
