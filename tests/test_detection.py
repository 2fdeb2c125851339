"""The nightly judgement on series made by hand, McNemar's test, and a small simulation."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UserError
from harness.files import read_json, to_json
from harness.nightly import answers, power, power_table, remeasure
from harness.nightly.binomial import clopper_pearson, fair_tail
from harness.nightly.chart import Tuning, advance, new_chart
from harness.nightly.detection import (
    ACCEPTED,
    ALARM,
    BLIND,
    CONFIRMED,
    LEARNING,
    QUIET,
    REFUTED,
    SUSPECTED,
    UNCLEAR,
    WAITING,
    Judgement,
    Night,
    Verdict,
    allowed_loss,
    first_night,
    judge,
    machine_loss,
    verdict_of,
)
from harness.nightly.simulation import NEVER, Machine, begin, gaussian, run
from harness.paths import ROOT

ALLOWED = 0.02
# Twenty nights around log QPS 7 that spread by about half a per cent.
WIGGLE = 0.005 * np.array(
    [
        0.3,
        -1.1,
        0.8,
        0.1,
        -0.6,
        1.4,
        -0.2,
        0.5,
        -1.3,
        0.9,
        -0.4,
        0.2,
        1.0,
        -0.8,
        0.6,
        -0.1,
        -1.0,
        0.7,
        0.4,
        -0.5,
    ]
)
LEVEL = 7.0
LOSS = -math.log(0.95)


def nights(*values: float | None) -> list[Night]:
    return [Night(value) for value in values]


def steady(count: int = 20, level: float = LEVEL) -> list[float]:
    return [level + wiggle for wiggle in itertools.islice(itertools.cycle(WIGGLE), count)]


def told(values: list[float | None], *verdicts: tuple[int, Verdict]) -> Judgement:
    series = nights(*values)
    for index, verdict in verdicts:
        series[index] = Night(series[index].value, verdict)
    return judge(series, ALLOWED)


def statuses(values: list[float | None]) -> list[str]:
    return [told(values[: i + 1]).status for i in range(len(values))]


def test_first_nights_only_learn() -> None:
    assert statuses(steady(6)) == [LEARNING] * 4 + [QUIET] * 2
    assert told([]).status == LEARNING
    # Even a bad second night says nothing yet: golden's limit is what watches here.
    assert told([7.0, 6.0]).status == LEARNING


def test_steady_nights_stay_quiet() -> None:
    found = told(steady(200))
    assert (found.status, found.alarms, found.gains) == (QUIET, (), ())
    assert found.level == pytest.approx(LEVEL, abs=0.003)
    assert found.scale == pytest.approx(0.012, abs=0.002)


def test_a_step_is_suspected_the_same_night_and_alarms_when_confirmed() -> None:
    values = [*steady(), LEVEL - LOSS]
    assert told(values).status == SUSPECTED
    assert told(values).alarms == (), "nothing alarms that was not measured again"
    found = told(values, (20, Verdict(CONFIRMED, LOSS)))
    assert found.status == ALARM
    (alarm,) = found.alarms
    assert (alarm.night, alarm.first, alarm.candidates) == (20, 20, (20,))
    assert alarm.percent == pytest.approx(5.0)


def test_after_an_alarm_the_lower_level_is_the_one_to_keep() -> None:
    values = [*steady(), *steady(10, LEVEL - LOSS)]
    found = told(values, (20, Verdict(CONFIRMED, LOSS)))
    assert (found.status, len(found.alarms)) == (QUIET, 1)
    again = told([*values, LEVEL - 2 * LOSS], (20, Verdict(CONFIRMED, LOSS)))
    assert again.status == SUSPECTED


def test_a_refuted_suspicion_is_forgotten() -> None:
    values = [*steady(), LEVEL - LOSS, *steady(10)]
    found = told(values, (20, Verdict(REFUTED)))
    assert (found.status, found.alarms) == (QUIET, ())
    assert found.level == told(steady()).level
    # Unclear is not confirmed; the next bad night asks again.
    assert told([*values[:21], LEVEL - LOSS], (20, Verdict(UNCLEAR))).status == SUSPECTED


def test_without_comparator_two_further_nights_confirm() -> None:
    values: list[float | None] = [*steady(), *[LEVEL - LOSS] * 3]
    assert statuses(values)[20:] == [SUSPECTED, WAITING, ALARM]
    (alarm,) = told(values).alarms
    assert (alarm.night, alarm.first) == (22, 20)
    assert alarm.loss == pytest.approx(LOSS, abs=0.005)
    # An inconclusive night is no pass, neither for nor against.
    assert statuses([*values[:21], None, *values[21:]])[20:] == [SUSPECTED, WAITING, WAITING, ALARM]


def test_an_outlier_alarms_nobody() -> None:
    for depth in (0.05, 0.5, 3.0):
        values = [*steady(), LEVEL - depth, *steady(10)]
        assert statuses(values)[20:22] == [SUSPECTED, QUIET]
        assert told(values).alarms == ()
    # Nor do two with a good night between, or one within the first nights.
    assert told([*steady(), 6.5, LEVEL, 6.5, LEVEL]).alarms == ()
    assert told([7.0, 7.0, 5.0, *steady(17)]).level == pytest.approx(LEVEL, abs=0.005)
    assert told([*steady(), LEVEL + 0.5, *steady()]).gains == ()


def test_missing_and_inconclusive_nights_move_nothing() -> None:
    values = steady()
    gaps: list[float | None] = []
    for value in values:
        gaps += [value, None, None]
    assert (told(gaps).level, told(gaps).scale) == (told(values).level, told(values).scale)
    assert told([*gaps, LEVEL - LOSS]).status == SUSPECTED
    # A hole is told of, and asks for a re-measurement, which does not need quiet repeats.
    assert statuses([*values, None, None, None])[20:] == [QUIET, QUIET, BLIND]
    assert told([*values, None, None, None], (22, Verdict(CONFIRMED, LOSS))).status == ALARM


def test_a_slow_loss_is_noticed_because_the_baseline_stays() -> None:
    drifting = [value - 0.001 * max(0, i - 20) for i, value in enumerate(steady(80))]
    (alarm, *_) = told(drifting).alarms
    # Not before the loss nears what is allowed (40 nights), nor long after.
    assert 32 <= alarm.night <= 55


def test_losses_that_are_allowed_never_alarm() -> None:
    values: list[float | None] = [*steady(), *steady(100, LEVEL - 0.9 * ALLOWED)]
    assert told(values).alarms == ()


def test_a_gain_raises_the_level_from_which_losses_count() -> None:
    values = [*steady(), *steady(10, LEVEL + 0.1)]
    found = told(values)
    assert found.gains == (24,)
    assert found.level == pytest.approx(LEVEL + 0.1, abs=0.005)
    assert told([*values, LEVEL + 0.03]).status == SUSPECTED
    found = told([*values, LEVEL + 0.03], (30, Verdict(CONFIRMED, 0.07)))
    assert found.alarms[0].first == 30


def test_a_loss_confirmed_before_there_is_a_baseline_alarms() -> None:
    found = told([7.0, 6.9], (1, Verdict(CONFIRMED, 0.1)))
    assert (found.status, found.alarms[0].first) == (ALARM, 1)


def test_an_accepted_night_begins_a_new_baseline() -> None:
    values = [*steady(), *steady(8, LEVEL - 0.3)]
    found = told(values, (20, Verdict(ACCEPTED)))
    assert (found.status, found.alarms) == (QUIET, ())
    assert found.level == pytest.approx(LEVEL - 0.3, abs=0.005)


def test_golden_may_allow_less_but_not_more() -> None:
    assert allowed_loss(1444.69, 900) == Tuning().allowed
    assert allowed_loss(100, 99) == pytest.approx(-math.log(0.99))


def test_judging_one_cell_is_judging_many() -> None:
    generator = np.random.default_rng(5)
    values = LEVEL + 0.01 * generator.standard_normal((40, 3))
    values[25:, 1] -= 0.1
    values[30, 2] = np.nan
    chart, tuning = new_chart(3, Tuning()), Tuning()
    for night in values:
        chart, _ = advance(chart, night, tuning)
    for cell in (0, 2):
        series = [None if np.isnan(v) else float(v) for v in values[:, cell]]
        assert told(series).level == chart.level[cell]


def test_first_night_is_the_likeliest() -> None:
    values = np.array([*steady(), *steady(4, LEVEL - LOSS)])
    assert first_night(values, LEVEL, LOSS, 0.007) == (20, (20,))
    values[12] = 3.0
    assert first_night(values, LEVEL, LOSS, 0.007)[0] == 20, "an outlier is no step"
    values[19] = np.nan
    assert first_night(values, LEVEL, LOSS, 0.007) == (20, (19, 20)), "it may have begun unseen"
    values[20] = LEVEL - LOSS / 2
    first, candidates = first_night(values, LEVEL, LOSS, 0.007)
    assert {19, 20, 21} <= {first, *candidates}


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.sampled_from(remeasure.LOOKS))
def test_pairs_decide_as_the_averages_of_pairs_do(seed: int, n: int) -> None:
    """The test rejects where the confidence bound lies beyond what is allowed (Tukey 1949)."""
    losses = np.random.default_rng(seed).standard_t(3, n)
    first, second = np.triu_indices(n)
    averages = np.sort((losses[first] + losses[second]) / 2)
    rank = remeasure._critical(n, remeasure.RISK / len(remeasure.LOOKS))
    for bound, name in ((averages[rank], "confirmed"), (averages[-1 - rank], "refuted")):
        for allowed, lies_beyond in ((bound - 1e-9, True), (bound + 1e-9, False)):
            found = getattr(remeasure.decide([losses], allowed), name)[0]
            assert found == (lies_beyond if name == "confirmed" else not lies_beyond)
    assert remeasure.estimate(losses) == np.median(averages)
    assert remeasure.estimate(losses + 1.0) == pytest.approx(remeasure.estimate(losses) + 1.0)


def test_signed_rank_bound_is_the_exact_one() -> None:
    # All 2**6 assignments of signs, counted; n = 6 has 64 equally likely ones.
    sums = [
        sum(r for r, sign in enumerate(signs, start=1) if sign)
        for signs in itertools.product([0, 1], repeat=6)
    ]
    for risk in (0.02, 0.05, 0.2):
        best = max(k for k in range(22) if sum(s <= k for s in sums) / 64 <= risk)
        assert remeasure._critical(6, risk) == best
    with pytest.raises(ValueError, match="6 pairs decide nothing"):
        remeasure._critical(6, 0.01)
    # Wilcoxon's table: n = 16, one-sided 0.005 has the critical value 19, n = 32 one-sided
    # 0.025 has 159.
    assert remeasure._critical(16, 0.005) == 19
    assert remeasure._critical(32, 0.025) == 159


def test_pairs_decide_or_ask_for_more() -> None:
    generator = np.random.default_rng(3)
    noise = 0.02 * generator.standard_normal(64)
    assert verdict_of(list(0.001 * noise[:16] + LOSS), ALLOWED) == Verdict(
        CONFIRMED, pytest.approx(LOSS, abs=1e-4)
    )
    found = verdict_of(list(0.001 * noise[:16]), ALLOWED)
    assert found is not None
    assert found.outcome == REFUTED
    edge = noise - np.median(noise) + ALLOWED
    assert verdict_of(list(edge[:16]), ALLOWED) is None
    last = verdict_of(list(edge), ALLOWED)
    assert last is not None
    assert last.outcome == UNCLEAR
    with pytest.raises(ValueError, match="none of"):
        verdict_of([0.1] * 20, ALLOWED)


def test_the_machine_is_told_from_the_versions() -> None:
    assert machine_loss(told(steady()), [LEVEL - 0.08] * 16) == pytest.approx(0.08, abs=0.005)


@pytest.mark.parametrize(
    ("lost", "gained", "p_changed"),
    [
        (0, 0, 1.0),
        (5, 0, 2 / 32),
        (10, 0, 2 / 1024),
        (8, 2, 2 * 56 / 1024),
        # Fagerland, Lydersen, Laake 2013, table 1: 1 and 7 discordant pairs, exact p 0.0703.
        (7, 1, 0.0703125),
        (121, 59, 4.434e-6),
    ],
)
def test_mcnemar_known_values(lost: int, gained: int, p_changed: float) -> None:
    change = answers.Change(1000, lost, gained, ())
    assert change.p_changed == pytest.approx(p_changed, rel=1e-3)
    mirrored = answers.Change(1000, gained, lost, ())
    assert mirrored.p_changed == change.p_changed


def test_mcnemar_counts_questions() -> None:
    earlier = {f"q{i}": i < 60 for i in range(100)}
    later = {f"q{i}": 15 <= i < 62 for i in range(100)}
    change = answers.compare(earlier, later)
    assert (change.lost, change.gained, change.points) == (15, 2, 13.0)
    assert change.changed == (*(f"q{i}" for i in range(15)), "q60", "q61")
    with pytest.raises(ValueError, match="different questions"):
        answers.compare(earlier, {"q0": True})


def test_an_answer_loss_is_significant_and_large_enough() -> None:
    few = answers.Change(10_570, 20, 0, ())
    assert few.p_worse < 1e-5
    assert not few.is_loss(0.3), "significant, and less than golden allows"
    assert few.is_loss(0.1)
    many = answers.Change(10_570, 300, 255, ())
    assert many.points > 0.3
    assert not many.is_loss(0.3), "large, and chance"
    assert not answers.Change(10_570, 0, 500, ()).is_loss(0.0), "a gain is no loss"


@settings(max_examples=100, deadline=None)
@given(n=st.integers(0, 400), k=st.integers(-3, 403))
def test_fair_tail_adds_up(n: int, k: int) -> None:
    assert fair_tail(k, n) + fair_tail(n - k + 1, n) == pytest.approx(1.0)
    assert fair_tail(0, n) == 1.0
    assert fair_tail(n, n) == 0.5**n


def test_clopper_pearson_known_values() -> None:
    # One-sided 95 %: the rule of three, exactly 1 - 0.05**(1/n), and a textbook's 90 % interval.
    assert clopper_pearson(0, 100)[1] == pytest.approx(1 - 0.05**0.01)
    assert clopper_pearson(100, 100) == (pytest.approx(0.05**0.01), 1.0)
    assert clopper_pearson(0, 10)[0] == 0.0
    assert clopper_pearson(4, 10) == (
        pytest.approx(0.1500, abs=1e-4),
        pytest.approx(0.6965, abs=1e-4),
    )
    assert clopper_pearson(9_980, 10_000)[0] == pytest.approx(0.99710, abs=2e-4)


@pytest.mark.parametrize("comparator", [True, False])
def test_a_small_simulation_meets_the_targets(comparator: bool) -> None:
    """Fails if the judgement gets much worse; `make simulate-nightly` measures how good it is."""
    generator = np.random.default_rng(11)
    machine = Machine(0.012 if comparator else 0.008, gaussian, comparator=comparator)
    state, quiet = run(generator, machine, begin(generator, machine, 400), 25)
    assert (quiet.alarm == NEVER).all()
    assert quiet.remeasured < 0.02 * 25 * 400
    _, tally = run(generator, machine, state, 3, LOSS)
    assert (tally.alarm != NEVER).mean() >= (0.98 if comparator else 0.92)
    _, tally = run(generator, machine, state, 3, 0.5 * ALLOWED)
    assert (tally.alarm != NEVER).mean() <= 0.02


def test_noisy_nights_alarm_no_more() -> None:
    generator = np.random.default_rng(12)
    machine = Machine(0.05, gaussian)
    _, tally = run(generator, machine, begin(generator, machine, 200), 15)
    assert (tally.alarm != NEVER).sum() <= 1
    assert np.isfinite(tally.medians).mean() < 0.2, "most are inconclusive at this noise"


def test_residuals_come_from_every_list_of_repeats(tmp_path: Path) -> None:
    one, other = tmp_path / "a.json", tmp_path / "b.json"
    one.write_text(to_json({"systems": [{"lanes": [{"rates": [1.0, 1.1, 1.2, 1.0, 0.9]}]}]}))
    other.write_text(to_json({"systems": [{"us": 3.0, "spread": 0.1}]}))
    values, sources = power.residuals([one, other])
    assert len(values) == 5
    assert float(np.mean(values**2)) == pytest.approx(1.0)
    assert [source["repeats"] for source in sources] == [5]
    with pytest.raises(UserError, match="make bench"):
        power.residuals([other])


def test_the_table_and_the_drawing_hold_every_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "QUIET_NIGHTS", 3)
    draws = power.shapes(np.array([-1.0, -0.5, 0.0, 0.4, 1.1]))
    calls: list[None] = []
    entries: list[dict[str, Any]] = [
        power.simulate(point, draws, 20, 1, lambda: calls.append(None)) for point in power.points()
    ]
    assert len(calls) == len(entries) * power.parts()
    document = {"points": entries, "series": 20, "cells": power.CELLS}
    table = power_table.markdown(document)
    assert table.count("\n| ") == 2 + 2 * len(power_table.GROUPS) * len(power.SIGMAS)
    drawing = power_table.svg(document)
    assert drawing.count('<path class="with') == 2 * len(entries) // len(power.SIGMAS)


def test_the_documentation_shows_what_was_simulated() -> None:
    folder = ROOT / "results" / "published" / "nightly"
    document = read_json(folder / "power.json", "simulation")
    assert document["tuning"] == power.tuning(), "tuned since; run `make simulate-nightly`"
    table = power_table.markdown(document)
    assert (folder / "power.md").read_text() == table
    assert (folder / "power.svg").read_text() == power_table.svg(document)
    assert table in (ROOT / "docs" / "nightly.md").read_text()
    asked = [e for e in document["points"] if e["comparator"] and e["sigma"] <= 0.012]
    assert all(all(power.meets(entry).values()) for entry in asked)
