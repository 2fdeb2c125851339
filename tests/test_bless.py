"""make bless: what it refuses, what it proposes, and that it writes all or nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Checkout
from nightly_fakes import ONE_THREAD, FakeStages, Step

from harness import bless_runs
from harness.bless import (
    Measured,
    Run,
    crosscheck_problem,
    differences,
    proposed,
    replaces_accuracy,
)
from harness.bless_runs import measure_all, refuse
from harness.errors import UserError
from harness.files import sha256_file
from harness.golden import Golden
from harness.nightly.stages import Outcome
from harness.options import Options, read_options
from harness.verify import Check, Verdict

GOOD_CROSSCHECK = {
    "max_abs_difference": 2e-5, "mean_abs_difference": 1e-6, "min_cosine": 1.0,
    "equal_answers": 100.0,
}  # fmt: skip


def run_of(qps: float = 100.0, **others: Any) -> Run:
    return Run(**{"qps": qps, "spread": 0.01, "exact_match": 75.0, "f1": 80.5,
                  "crosscheck": GOOD_CROSSCHECK, **others})  # fmt: skip


MEASURED = Measured(
    profile="minilm-sample", precision="fp32", backend="ort-cpu", batch=8, device="Test CPU",
    questions=368, dataset={"name": "sample", "sha256": "a" * 64},
    versions="onnxruntime 1.32.0, commit 0123456789ab, 2026-11-25",
    runs=[run_of(q) for q in (100.0, 100.4, 99.8, 100.1, 99.9)],
)  # fmt: skip


def golden_of(document: Mapping[str, Any]) -> Golden:
    return Golden(Path("golden.json"), dict(document))


def handwritten(**changes: Any) -> Golden:
    """A golden file whose limits were not written by bless."""
    document = proposed(MEASURED, None, None)
    for kind in ("accuracy", "crosscheck"):
        document[kind]["source"] = "published elsewhere"
    return golden_of({**document, "qps": [], **changes})


def test_a_new_file_has_limits_by_rule_and_their_origin() -> None:
    document = proposed(MEASURED, None, None)
    (promise,) = document["qps"]
    assert (promise["value"], promise["allowed_loss"]) == (100.0, 5.0)
    assert "5% and 3 times the spread between runs" in promise["derivation"]
    for word in ("make bless with ort-cpu on Test CPU", "1.32.0", "commit", "5 runs", "0.60%"):
        assert word in promise["source"]
    # Two of 368 answers weigh more than 0.05 points.
    assert document["accuracy"]["f1"] == {"value": 80.5, "allowed_loss": 0.5435}
    assert document["crosscheck"]["max_abs_difference"] == 0.0005


def test_a_noisy_machine_is_allowed_three_times_its_spread() -> None:
    runs = [run_of(q) for q in (100.0, 101.5, 98.5, 100.2, 99.9)]
    (promise,) = proposed(replace(MEASURED, runs=runs), None, None)["qps"]
    assert promise["allowed_loss"] == 9.0


def test_limits_of_other_precisions_are_under_fp32s_values() -> None:
    large = replace(MEASURED, questions=10570)
    fp32 = golden_of(proposed(large, None, None))
    runs = [run_of(exact_match=74.95, f1=80.55)] * 5
    document = proposed(replace(large, precision="fp16", runs=runs), None, fp32)
    # 75 - 0.1 and 80.5 - 0.1.
    assert document["accuracy"]["exact_match"] == {"value": 74.95, "allowed_loss": 0.05}
    assert document["accuracy"]["f1"] == {"value": 80.55, "allowed_loss": 0.15}
    worse = replace(large, precision="fp16", runs=[run_of(exact_match=74.8)] * 5)
    with pytest.raises(UserError, match=r"exact_match is 74\.8000, more than 0\.10 points under"):
        proposed(worse, None, fp32)


def test_an_existing_file_gets_its_promise_alone() -> None:
    golden = handwritten()
    document = proposed(MEASURED, golden, None)
    assert document["accuracy"] == golden.document["accuracy"]
    assert document["crosscheck"] == golden.document["crosscheck"]
    assert not replaces_accuracy(MEASURED, golden)
    assert {d.name.partition(": ")[0] for d in differences(golden.document, document)} == {
        "QPS Test CPU, ort-cpu, batch 8"
    }
    other = replace(MEASURED, device="Other CPU")
    both = proposed(other, golden_of(document), None)
    assert [entry["device"] for entry in both["qps"]] == ["Test CPU", "Other CPU"]
    slower = replace(MEASURED, runs=[run_of(90.0)] * 5)
    again = proposed(slower, golden_of(both), None)
    assert [entry["value"] for entry in again["qps"]] == [90.0, 100.0]
    (value,) = [d for d in differences(both, again) if d.name.endswith(" value")]
    assert (value.old, value.new) == (100.0, 90.0)


def test_its_own_accuracy_is_replaced_another_devices_kept() -> None:
    own = golden_of(proposed(MEASURED, None, None))
    better = replace(MEASURED, runs=[run_of(f1=81.0)] * 5)
    assert replaces_accuracy(better, own)
    assert proposed(better, own, None)["accuracy"]["f1"]["value"] == 81.0
    # A name that begins alike is another device.
    other = replace(better, device="Test")
    assert proposed(other, own, None)["accuracy"]["f1"]["value"] == 80.5


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (replace(MEASURED, runs=MEASURED.runs[:4]), "4 runs are fewer than 5"),
        (
            replace(MEASURED, runs=[*MEASURED.runs[:4], run_of(exact_match=74.0)]),
            "the runs' scores differ",
        ),
        (replace(MEASURED, runs=[*MEASURED.runs[:4], run_of(93.0)]), "QPS spread by 7.4%"),
    ],
)
def test_runs_that_support_no_promise_are_refused(measured: Measured, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        proposed(measured, None, None)


def test_another_dataset_is_refused() -> None:
    golden = handwritten(datasets=[{"name": "other", "sha256": "b" * 64}])
    with pytest.raises(UserError, match="does not hold for dataset sample"):
        proposed(MEASURED, golden, None)


def test_what_breaks_the_schema_is_not_proposed() -> None:
    with pytest.raises(UserError, match="malformed"):
        proposed(replace(MEASURED, backend="abacus"), None, None)


@pytest.mark.parametrize(
    ("name", "value"), [("max_abs_difference", 0.1), ("min_cosine", 0.9), ("equal_answers", 98.0)]
)
def test_crosscheck_limits_hold_both_ways(name: str, value: float) -> None:
    assert crosscheck_problem(GOOD_CROSSCHECK, "fp32") == ""
    assert name in crosscheck_problem({**GOOD_CROSSCHECK, name: value}, "fp32")
    assert crosscheck_problem({**GOOD_CROSSCHECK, name: float("nan")}, "fp32")


class Blessing:
    """Runs of minilm-sample by fake stages, under a golden file or without one."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.crosscheck: dict[str, float] = GOOD_CROSSCHECK
        self.checks: list[Check] = []
        self.commit = Step.commit
        monkeypatch.setattr("harness.options.RESULTS", root / "results")
        monkeypatch.setattr(bless_runs, "BLESS", root / "bless")
        monkeypatch.setattr(bless_runs, "load_golden", lambda *_: self.golden)
        monkeypatch.setattr(
            bless_runs, "git_state", lambda: {"commit": self.commit, "dirty": False}
        )
        monkeypatch.setattr(bless_runs, "verify", lambda *_: Verdict("run", "0", self.checks))
        monkeypatch.setattr(bless_runs, "Inputs", lambda _: SimpleNamespace(
            dataset=SimpleNamespace(questions=range(8), sha256="a" * 64),
            file=lambda role: SimpleNamespace(checked=lambda target: Path("vocab")),
        ))  # fmt: skip
        self.golden: Golden | None = None
        self.options: Options = read_options({"PROFILE": "minilm-sample", "BACKEND": "ort-cpu"})
        self.stages = FakeStages(root, [])

    def measure(self, *steps: Step) -> Measured:
        self.stages = FakeStages(self.root, steps)
        return measure_all(self.options, 5, lambda text: None, self.make)

    def make(self, goal: str, variables: Mapping[str, str], log: Path) -> Outcome:
        assert goal == "crosscheck"
        outcome = self.stages(goal, variables, log)
        folder = self.options.run_folder
        if outcome.code == 0:
            document = {**self.crosscheck, "run_sha256": sha256_file(folder / "run.json")}
            (folder / "crosscheck.json").write_text(json.dumps(document))
        return outcome


@pytest.fixture
def blessing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Blessing:
    return Blessing(tmp_path, monkeypatch)


def test_five_good_runs_make_a_promise(blessing: Blessing) -> None:
    steps = [Step(slowness=s) for s in (1.0, 1.01, 0.99, 1.0, 1.0)]
    measured = blessing.measure(*steps)
    assert measured.median == pytest.approx(100.0)
    assert measured.between == pytest.approx(0.02, rel=0.01)
    assert measured.device == "Test CPU (2 cores)"
    assert "onnxruntime 1.32.0, commit 0123456789ab, 2026-01-02" in measured.versions
    # All are kept until something is written.
    assert blessing.measure().runs == measured.runs
    blessing.commit = "f" * 40
    with pytest.raises(IndexError):
        blessing.measure()
    bless_runs.forget(blessing.options)
    assert not list((blessing.root / "bless").rglob("*.json"))


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (Step(spread=0.06), "run 2 of 5 is inconclusive: repeats spread by 6.0%"),
        (Step(disturbance="clocks fell"), r"run 2 of 5 is inconclusive: clocks fell \(x\)"),
        (Step(failure="no device"), "run 2 of 5 failed: no device"),
    ],
)
def test_a_bad_run_is_refused_and_the_good_ones_kept(
    blessing: Blessing, step: Step, expected: str
) -> None:
    with pytest.raises(UserError, match=expected) as error:
        blessing.measure(Step(), step)
    assert "\n" not in str(error.value)
    assert len(blessing.measure(*[Step()] * 4).runs) == 5


def test_a_failed_crosscheck_is_refused(blessing: Blessing) -> None:
    blessing.crosscheck = {**GOOD_CROSSCHECK, "min_cosine": 0.9}
    with pytest.raises(UserError, match=r"cross-check: min_cosine is 0\.9, beyond 0\.99999"):
        blessing.measure(Step())


@pytest.mark.parametrize("name", ["cross-check min cosine", "exact_match", "files unchanged"])
def test_a_check_that_fails_is_refused(blessing: Blessing, name: str) -> None:
    blessing.golden = handwritten()
    blessing.checks = [Check(name, None, None, None, "fail", note="it is broken")]
    with pytest.raises(UserError, match=f"run 1 of 5 breaks what must hold: {name}: it is broken"):
        blessing.measure(Step())


def test_the_promise_that_is_replaced_need_not_be_kept(blessing: Blessing) -> None:
    blessing.golden = handwritten()
    blessing.checks = [Check("QPS", None, None, None, "fail", note="too slow")]
    assert len(blessing.measure(*[Step()] * 5).runs) == 5


def test_runs_that_were_not_made_alike_are_refused(blessing: Blessing) -> None:
    steps = [Step()] * 4 + [Step(environment=ONE_THREAD)]
    with pytest.raises(UserError, match="the runs were not made alike"):
        blessing.measure(*steps)
    assert not list((blessing.root / "bless").rglob("*.json"))


@pytest.mark.parametrize(
    ("variables", "state", "expected"),
    [
        ({"LIMIT": "3"}, False, "leave LIMIT out"),
        ({"CALIBRATION": __file__}, False, "leave CALIBRATION out"),
        ({}, True, "commit or stash them first"),
        ({}, None, "git cannot tell"),
    ],
)
def test_what_can_be_no_promise_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], state: bool | None, expected: str
) -> None:
    monkeypatch.setattr(bless_runs, "git_state", lambda: {"commit": "0" * 40, "dirty": state})
    given = {"PROFILE": "minilm-sample", "BACKEND": "ort-cpu", **variables}
    with pytest.raises(UserError, match=expected):
        refuse(read_options(given))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["LIMIT=3"], "leave LIMIT out"),
        (["RUNS=4"], "RUNS is '4'; it is a whole number from 5"),
        (["YES=maybe"], "YES is 'maybe'"),
        ([], "there is no terminal; give YES=1"),
    ],
)
def test_bless_refuses_in_one_line(checkout: Checkout, words: list[str], expected: str) -> None:
    before = sorted((checkout.root / "golden").rglob("*"))
    done = checkout.make("bless", "PROFILE=minilm-sample", *words)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and expected in lines[0], done.stderr
    assert sorted((checkout.root / "golden").rglob("*")) == before


@pytest.mark.full
def test_a_real_blessing(checkout: Checkout) -> None:
    path = checkout.root / "golden/minilm-sample/fp32.json"
    before = path.read_bytes()
    words = ["PROFILE=minilm-sample", f"DATASET={checkout.dataset}", "YES=1"]
    # A busy machine makes runs inconclusive; the good ones are kept.
    for _ in range(10):
        done = checkout.make("bless", *words)
        if "inconclusive" not in done.stderr:
            break
    else:
        pytest.skip("the machine is too busy to measure anything")
    if "QPS spread by" in done.stderr:
        pytest.skip("the machine is too noisy to promise anything")
    assert done.returncode == 0, done.stdout + done.stderr
    (promise,) = json.loads(path.read_text())["qps"]
    assert promise["backend"] == "ort-cpu"
    verified = checkout.make("verify", *words)
    assert "golden file as committed" in verified.stdout
    assert "differs from the commit" in verified.stdout
    path.write_bytes(before)
