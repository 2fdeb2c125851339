"""make nightly: what is measured, what goes on after a failure, what alarms and why."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Checkout
from nightly_fakes import ONE_THREAD, RIGHT, TWO_CORES, FakeStages, Step

from harness.errors import UserError
from harness.lock import file_lock
from harness.nightly import comparator, history, night, summary
from harness.nightly.detection import ACCEPTED, CONFIRMED, REFUTED, Verdict
from harness.nightly.matrix import Matrix, read_matrix
from harness.nightly.night import Place, run_night
from harness.nightly.pairs import Pairs, PairsFailure, Worker, measure
from harness.nightly.worker import PROTOCOL
from harness.options import read_options
from harness.paths import ROOT

ONE_CELL = {"cells": [{"profiles": ["minilm-sample"], "backends": ["ort-cpu"]}]}


def write_matrix(folder: Path, document: Any) -> Path:
    path = folder / "nightly.yaml"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


@pytest.fixture
def matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Matrix:
    """One cell on this machine, whose runs and comparators lie under tmp_path."""
    monkeypatch.setattr("harness.options.RESULTS", tmp_path / "results")
    monkeypatch.setattr(comparator, "KEPT", tmp_path / "kept")
    return read_matrix(write_matrix(tmp_path, ONE_CELL))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "nights" / "history.jsonl")


@pytest.fixture
def confirmed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A comparator that finds a loss of 40 %; the list holds the cells that were compared."""
    asked: list[str] = []

    def fake(entry: Any, tonight: Any, allowed: float, report: Any, log: Path) -> Pairs:
        asked.append(entry.name)
        return Pairs(Verdict(CONFIRMED, -math.log(0.6)), (4.6,) * 16, (4.1,) * 16)

    monkeypatch.setattr(comparator, "remeasure", fake)
    return asked


def nights(
    matrix: Matrix, place: Place, root: Path, *steps: Step, accept: str = ""
) -> list[night.Night]:
    """A night for each step."""
    stages = FakeStages(root, steps)
    found = []
    while stages.steps:
        found.append(run_night(matrix, place, lambda text: None, accept, stages))
    return found


# Seven calm nights; the sixth is the first one that is judged.
CALM = [Step(slowness=s) for s in (1.0, 1.003, 0.998, 1.002, 0.999, 1.001, 1.0)]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("cells: [", "cannot be read"),
        ("cells: []", "malformed at cells"),
        ("{}", "'cells' is a required property"),
        ("cells: [{profiles: [minilm-sample]}]", "'backends' is a required property"),
        ("cells: [{profiles: [nonesuch], backends: [ort-cpu]}]", "no profile 'nonesuch'"),
        ("cells: [{profiles: [minilm-sample], backends: [abacus]}]", "no backend 'abacus'"),
        (
            "cells: [{profiles: [minilm-sample], backends: [ort-cpu], precisions: [int1]}]",
            "malformed at cells/0/precisions/0",
        ),
        (
            "cells: [{profiles: [minilm-sample], backends: [ort-cpu], batch: 0}]",
            "malformed at cells/0/batch",
        ),
        (
            "cells: [{profiles: [minilm-sample], backends: [ort-cpu], dataset: none.json}]",
            "DATASET 'none.json' is no file",
        ),
        (
            "cells: [{profiles: [minilm-sample], backends: [ort-cpu, ort-cpu]}]",
            "one cell of the history",
        ),
        ("cells: 3\ncells: 4", "occurs twice"),
    ],
)
def test_a_wrong_matrix_gets_one_line(tmp_path: Path, document: str, expected: str) -> None:
    with pytest.raises(UserError) as error:
        read_matrix(write_matrix(tmp_path, document))
    assert expected in str(error.value)


def test_missing_matrix_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="check MATRIX"):
        read_matrix(tmp_path / "none.yaml")


def test_what_the_machine_lacks_is_skipped_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.nightly.matrix._absent", lambda b: "no" if b == "ixrt" else None)
    block = {
        "profiles": ["minilm-sample"],
        "backends": ["ort-cpu", "ixrt"],
        "precisions": ["fp32", "bf16", "int8"],
        "batch": "auto",
    }
    found = read_matrix(write_matrix(tmp_path, {"machine": "m", "cells": [block]}))
    assert [entry.name for entry in found.entries] == [
        "minilm-sample/ort-cpu-fp32-batchauto",
        "minilm-sample/ort-cpu-int8-batchauto",
    ]
    assert [(s.name, s.reason) for s in found.skipped] == [
        ("minilm-sample/ort-cpu-bf16", "backend ort-cpu has no precision bf16"),
        *((f"minilm-sample/ixrt-{p}", "no") for p in ("fp32", "bf16", "int8")),
    ]
    assert {entry.cell.machine for entry in found.entries} == {"m"}
    assert len(found.only(precision="int8").entries) == 1
    assert found.named("minilm-sample/ort-cpu-int8-batchauto").entries == found.entries[1:]
    with pytest.raises(UserError, match="with BACKEND=ixrt can be measured here"):
        found.only(backend="ixrt")
    with pytest.raises(UserError, match="no cell 'x' is measured here; it is one of minilm"):
        found.named("x")


def test_the_repositorys_own_matrix_is_good() -> None:
    assert "minilm-sample/ort-cpu-fp32" in [e.name for e in read_matrix(
        ROOT / "configs" / "nightly.yaml").entries]  # fmt: skip


def test_a_calm_series_is_quiet(matrix: Matrix, place: Place, tmp_path: Path) -> None:
    found = nights(matrix, place, tmp_path, *CALM)
    assert [n.status for n in found] == ["ok"] * 7
    assert found[-1].code == 0
    assert [c.history.judgement.status for n in found for c in n.cells][-2:] == ["quiet"] * 2
    assert len(history.read(place.history).records) == 7
    # Equal answers share one copy.
    assert len(list(place.predictions.iterdir())) == 1
    assert "QPS 100.00" in summary.paragraph(found[-1])


def test_a_failed_cell_does_not_keep_the_next_from_running(
    tmp_path: Path, place: Place, matrix: Matrix
) -> None:
    (entry,) = matrix.entries
    broken = replace(
        entry, cell=replace(entry.cell, backend="openvino"),
        variables={**entry.variables, "BACKEND": "openvino"},
    )  # fmt: skip
    two = Matrix(matrix.machine, (broken, entry), ())
    stages = FakeStages(tmp_path, [Step(failure="the engine did not build"), Step()])
    found = run_night(two, place, lambda text: None, "", stages)
    assert [cell.status for cell in found.cells] == ["failed", "ok"]
    assert (found.status, found.code) == ("failed", 1)
    first, second = history.read(place.history).records
    assert (first.status, first.reason) == ("inconclusive", "the engine did not build")
    assert second.status == "conclusive"
    assert [goal for goal, _ in stages.calls] == ["verify", "verify"]
    assert "the engine did not build" in summary.paragraph(found)


@pytest.mark.parametrize(
    ("steps", "status", "attempts"),
    [
        ([Step(spread=0.08), Step()], "ok", 2),
        ([Step(disturbance="other processes"), Step(spread=0.06), Step()], "ok", 3),
        ([Step(spread=0.08)] * 3, "inconclusive", 3),
    ],
)
def test_inconclusive_runs_are_made_again(
    matrix: Matrix, place: Place, tmp_path: Path, steps: list[Step], status: str, attempts: int
) -> None:
    (found,) = nights(matrix, place, tmp_path, *steps)
    (cell,) = found.cells
    assert (cell.status, len(cell.attempts)) == (status, attempts)
    assert found.code == {"ok": 0, "inconclusive": 3}[status]
    # A night is one record, however often it was tried.
    (record,) = history.read(place.history).records
    assert record.status == ("conclusive" if status == "ok" else "inconclusive")


def test_alarm_names_the_first_run_and_what_changed_there(
    matrix: Matrix, place: Place, tmp_path: Path, confirmed: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    found = nights(matrix, place, tmp_path, *CALM, Step(slowness=1.7, environment=ONE_THREAD))
    assert [n.status for n in found] == ["ok"] * 7 + ["alarm"]
    (cell,) = found[-1].cells
    (alarm,) = cell.alarms
    assert confirmed == ["minilm-sample/ort-cpu-fp32"]
    assert (alarm.kind, found[-1].code) == ("qps", 1)
    assert alarm.since == cell.record
    changed = {change.path: (change.old, change.new) for change in alarm.changes}
    assert changed["environment.cpus"] == ("0-1", "0")
    assert changed["environment.numeric_variables.OMP_NUM_THREADS"] == (None, "1")
    assert changed["device.cores"] == (2, 1)
    told = summary.paragraph(found[-1])
    assert "QPS has fallen by 40.0 %" in told
    assert "OMP_NUM_THREADS: none → 1" in told
    assert "\n" not in told
    assert cell.record.verdict == Verdict(CONFIRMED, -math.log(0.6))
    # Its baseline's comparator goes with the baseline.
    assert comparator.load(matrix.entries[0]) is None
    summary.write(found[-1], place)
    latest = json.loads((place.history.parent / summary.LATEST).read_text())
    assert latest["status"] == "alarm" and latest["exit_code"] == 1
    assert latest["cells"][0]["alarms"][0]["changes"][0]["path"].endswith("OMP_NUM_THREADS")
    assert latest["cells"][0]["remeasured"]["outcome"] == "confirmed"
    assert (place.history.parent / summary.SUMMARY).read_text() == told + "\n"
    summary.show(found[-1])
    assert "environment.cpus: 0-1 → 0" in capsys.readouterr().out


def test_a_refuted_loss_is_the_machines(
    matrix: Matrix, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = (math.log(60),) * 16
    pairs = Pairs(Verdict(REFUTED, 0.001), slow, slow)
    monkeypatch.setattr(comparator, "remeasure", lambda *_: pairs)
    found = nights(matrix, place, tmp_path, *CALM, Step(slowness=1.6))
    (cell,) = found[-1].cells
    assert cell.status == "ok"
    assert "refuted" in cell.note and "it is the machine" in cell.note


def test_without_comparator_two_more_nights_must_fall_short(
    matrix: Matrix, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any) -> Pairs:
        raise PairsFailure("not to be had back tonight: device.driver: 1 → 2")

    monkeypatch.setattr(comparator, "remeasure", none)
    slow = Step(slowness=1.3, commit="1" * 40)
    found = nights(matrix, place, tmp_path, *CALM, slow, slow, slow)
    assert [n.status for n in found[-3:]] == ["ok", "ok", "alarm"]
    assert "suspected, not re-measured: not to be had" in found[-3].cells[0].note
    (alarm,) = found[-1].cells[0].alarms
    # The first night after the step, not the one that confirmed it.
    assert alarm.since == found[-3].cells[0].record
    assert "git.commit" in [change.path for change in alarm.changes]


def test_a_flipped_answer_is_listed_with_its_question(
    matrix: Matrix, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flipped = {**RIGHT, "q3": "q4"}
    found = nights(matrix, place, tmp_path, Step(), Step(predictions=flipped))
    (cell,) = found[-1].cells
    assert cell.status == "ok"
    assert cell.answers is not None
    (answer,) = cell.answers.answers
    assert (answer.id, answer.question) == ("q3", "what is <q3>?")
    assert (answer.old, answer.old_right, answer.new, answer.new_right) == ("q3", True, "q4", False)
    (entry,) = summary.as_json(found[-1])["cells"][0]["answers"]["changed"]
    assert entry["old"] == "q3" and entry["new"] == "q4" and not entry["new_right"]
    summary.show(found[-1])
    assert "q3 what is <q3>? 'q3' (right) → 'q4' (wrong)" in capsys.readouterr().out


def test_many_lost_answers_alarm(matrix: Matrix, place: Place, tmp_path: Path) -> None:
    right = {f"q{i}": f"q{i}" for i in range(24)}
    wrong = {**right, **dict.fromkeys(list(right)[:12], "nothing")}
    steps = [Step(predictions=right), Step(predictions=wrong)]
    found = nights(matrix, place, tmp_path, *steps)
    (alarm,) = found[-1].cells[0].alarms
    assert alarm.kind == "answers"
    assert "12 answers lost, 0 gained" in alarm.text
    assert found[-1].code == 1


def test_a_broken_promise_alarms(matrix: Matrix, place: Place, tmp_path: Path) -> None:
    step = Step(failing=("f1", "80.5000 is under the limit 85"))
    (found,) = nights(matrix, place, tmp_path, step)
    (alarm,) = found.cells[0].alarms
    assert (alarm.kind, found.status) == ("golden", "alarm")
    assert "under the limit 85" in summary.paragraph(found)


def test_an_altered_history_is_refused_before_anything_runs(
    matrix: Matrix, place: Place, tmp_path: Path
) -> None:
    nights(matrix, place, tmp_path, *CALM[:3])
    text = place.history.read_text()
    place.history.write_text(text.replace('"exact_match":75.0', '"exact_match":76.0', 1))
    stages = FakeStages(tmp_path, [Step()])
    with pytest.raises(UserError, match=r"history .* line 2 does not follow") as error:
        run_night(matrix, place, lambda text: None, "", stages)
    assert "\n" not in str(error.value)
    assert stages.calls == []


def test_a_run_that_does_not_hold_together_is_a_failed_cell(
    matrix: Matrix, place: Place, tmp_path: Path
) -> None:
    stages = FakeStages(tmp_path, [Step()])

    def damaging(goal: str, variables: Any, log: Path) -> Any:
        outcome = stages(goal, variables, log)
        (matrix.entries[0].options.run_folder / "timings.json").write_text("{}")
        return outcome

    found = run_night(matrix, place, lambda text: None, "", damaging)
    assert found.status == "failed"
    assert "do not fit together" in found.cells[0].note


def test_an_accepted_night_is_the_new_level(
    matrix: Matrix, place: Place, tmp_path: Path, confirmed: list[str]
) -> None:
    nights(matrix, place, tmp_path, *CALM)
    (found,) = nights(matrix, place, tmp_path, Step(slowness=1.3), accept="new driver")
    (cell,) = found.cells
    assert (cell.status, confirmed) == ("ok", [])
    assert cell.record.verdict == Verdict(ACCEPTED, 0.0, "new driver")
    assert "accepted: new driver" in cell.note
    # No further night is compared with the old level.
    later = nights(matrix, place, tmp_path, *[Step(slowness=1.3)] * 6)
    assert [n.status for n in later] == ["ok"] * 6
    assert confirmed == []


def test_an_inconclusive_night_accepts_nothing(
    matrix: Matrix, place: Place, tmp_path: Path
) -> None:
    (found,) = nights(matrix, place, tmp_path, *[Step(spread=0.2)] * 3, accept="why not")
    assert found.cells[0].record.verdict is None
    assert found.code == 3


def test_comparator_is_the_first_good_night_and_stays(
    matrix: Matrix, place: Place, tmp_path: Path
) -> None:
    (entry,) = matrix.entries
    found = nights(matrix, place, tmp_path, *CALM[:3])
    kept = comparator.load(entry)
    assert kept is not None and kept.record == found[0].cells[0].record
    assert kept.engine.read_bytes() == b"an engine"
    assert (kept.folder / "scripts/harness/nightly/worker.py").is_file()
    # Other cores can be set back, another package cannot.
    nights(matrix, place, tmp_path, Step(environment=ONE_THREAD))
    still = comparator.load(entry)
    assert still is not None and still.record == kept.record
    newer = {**TWO_CORES, "packages": {"onnxruntime": "1.33.0"}}
    (last,) = nights(matrix, place, tmp_path, Step(environment=newer))
    renewed = comparator.load(entry)
    assert renewed is not None and renewed.record == last.cells[0].record
    assert not list((tmp_path / "kept").rglob(".tmp-*"))
    renewed.engine.write_bytes(b"damaged")
    assert comparator.load(entry) is None


def test_comparator_out_of_reach_says_why(matrix: Matrix, place: Place, tmp_path: Path) -> None:
    (entry,) = matrix.entries
    report: Callable[[str], None] = lambda text: None  # noqa: E731
    (found,) = nights(matrix, place, tmp_path, Step())
    record = found.cells[0].record
    environment = {**TWO_CORES, "packages": {"onnxruntime": "1.33.0"}}
    other = replace(record, provenance={**record.provenance, "environment": environment})
    with pytest.raises(PairsFailure, match=r"onnxruntime: 1\.32\.0 → 1\.33\.0"):
        comparator.remeasure(entry, other, 0.02, report, tmp_path / "log")
    comparator.drop(entry)
    with pytest.raises(PairsFailure, match="no earlier engine is kept"):
        comparator.remeasure(entry, record, 0.02, report, tmp_path / "log")


class Fixed:
    """A timer that always takes equally long, but for what `turns` says of the order."""

    def __init__(self, name: str, qps: float, turns: list[str]) -> None:
        self.name, self.speed, self.turns = name, qps, turns

    def qps(self) -> float:
        self.turns.append(self.name)
        return self.speed * (1 + len(self.turns) % 7 / 1e4)


@pytest.mark.parametrize(
    ("tonight", "outcome", "pairs"), [(60.0, CONFIRMED, 16), (100.0, REFUTED, 16)]
)
def test_pairs_alternate_until_they_decide(
    monkeypatch: pytest.MonkeyPatch, tonight: float, outcome: str, pairs: int
) -> None:
    monkeypatch.setattr("harness.nightly.pairs._SETTLE_SECONDS", 0)
    turns: list[str] = []
    found = measure(Fixed("old", 100.0, turns), Fixed("new", tonight, turns), 0.02, lambda n: None)
    assert (found.verdict.outcome, len(found.tonight)) == (outcome, pairs)
    assert turns[:6] == ["old", "new", "new", "old", "old", "new"]
    assert found.verdict.loss == pytest.approx(math.log(100 / tonight), abs=2e-3)


def test_a_worker_times_a_real_engine(checkout: Checkout, vocab: Path, tmp_path: Path) -> None:
    options = read_options({"PROFILE": "minilm-sample", "BACKEND": "ort-cpu"})
    record = json.loads((checkout.run / "run.json").read_text())
    job = {
        "protocol": PROTOCOL, "backend": "ort-cpu", "engine_options": asdict(options.engine),
        "dataset": str(checkout.dataset), "vocab": str(vocab), "warmup": 1, "every": 5,
        "windows": asdict(options.profile.windows), "cpus": "0",
        "engine": str(checkout.root / record["engine"]["path"]),
    }  # fmt: skip

    def worker(**changes: Any) -> Worker:
        numeric = {"OMP_NUM_THREADS": "1"}
        sources = ROOT / "scripts"
        return Worker(
            Path(sys.executable), sources, {**job, **changes}, numeric, tmp_path / "log.txt"
        )

    with closing(worker()) as one:
        assert one.facts["device"]["cores"] == 1
        assert one.facts["environment"]["cpus"] == "0"
        assert one.facts["environment"]["numeric_variables"]["OMP_NUM_THREADS"] == "1"
        assert one.qps() > 0
    with pytest.raises(PairsFailure, match="its sources are another version"):
        worker(protocol=PROTOCOL + 1)
    with pytest.raises(PairsFailure, match="cannot be loaded"):
        worker(engine=str(checkout.dataset))
    with pytest.raises(PairsFailure, match="OSError"):
        worker(cpus="1023")


def test_interrupted_stages_end_before_this_process(tmp_path: Path) -> None:
    tool = tmp_path / "make"
    tool.write_text(
        "#!/bin/sh\ntrap 'echo ended >> ended; exit 1' INT\necho started\ntouch started\n"
        "while :; do sleep 0.05; done\n"
    )
    tool.chmod(0o755)
    code = (
        # Whoever started the tests in the background has had Ctrl-C ignored.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "import pathlib, harness.nightly.stages as s; s.withdraw = lambda: None; "
        f"s.ROOT = pathlib.Path({str(tmp_path)!r}); s.run_make('verify', {{}}, s.ROOT / 'log')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={
            **os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "scripts"),
        },
        stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert b"KeyboardInterrupt" in said
    assert (tmp_path / "ended").read_text() == "ended\n"


def test_a_second_measurement_waits_and_names_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    what = "the nightly measurement of this checkout"
    with (
        file_lock(tmp_path / "lock", what),
        pytest.raises(UserError, match=rf"{what} is held by process {os.getpid()}"),
        file_lock(tmp_path / "lock", what, 0.3),
    ):
        pass
    assert f"waiting for {what}" in capsys.readouterr().err
    with file_lock(tmp_path / "lock", what, 0.3):
        pass


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["MATRIX=none.yaml"], "check MATRIX"),
        (["NIGHTS=0"], "NIGHTS is '0'"),
        (["ACCEPT=minilm-sample/ort-cpu-fp32"], "ACCEPT=<cell> and NOTE="),
        (["ACCEPT=nonesuch", "NOTE=why"], "no cell 'nonesuch'"),
        (["BACKEND=ixrt"], "can be measured here"),
    ],
)
def test_wrong_variables_get_one_line(checkout: Checkout, words: list[str], expected: str) -> None:
    done = checkout.make("nightly", *words)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and expected in lines[0], done.stderr
    assert "Traceback" not in done.stderr


def tiny_matrix(checkout: Checkout, folder: Path) -> Path:
    block = {
        "profiles": ["minilm-sample"], "backends": ["ort-cpu"], "dataset": str(checkout.dataset),
    }  # fmt: skip
    return write_matrix(folder, {"machine": "test", "cells": [block]})


def test_a_real_night(checkout: Checkout, tmp_path: Path) -> None:
    folder = tmp_path / "nights"
    words = [f"MATRIX={tiny_matrix(checkout, tmp_path)}", f"HISTORY={folder}/history.jsonl"]
    done = checkout.make("nightly", *words)
    latest = json.loads((folder / "latest.json").read_text())
    (cell,) = latest["cells"]
    # A busy machine may make the night inconclusive; it must not alarm.
    assert latest["status"] in ("ok", "inconclusive"), done.stdout + done.stderr
    assert done.returncode == (0 if latest["status"] == "ok" else 2)
    assert cell["name"].startswith("minilm-sample/ort-cpu-fp32-tiny_")
    assert len(cell["record"]["repeats"]) == 5
    assert latest["summary"] in done.stdout.replace("\n", " ")
    (record,) = history.read(folder / "history.jsonl").records
    assert record.predictions_sha256 is not None
    assert (folder / "predictions" / f"{record.predictions_sha256}.json").is_file()
    assert record.provenance["environment"]["cpus"]
    kept = list((checkout.root / "build/nightly/comparators").rglob("comparator.json"))
    assert len(kept) == (latest["status"] == "ok")
    shutil.rmtree(checkout.root / "build/nightly")


@pytest.mark.full
def test_one_core_instead_of_two_alarms_and_is_named(checkout: Checkout, tmp_path: Path) -> None:
    folder = tmp_path / "nights"
    words = [f"MATRIX={tiny_matrix(checkout, tmp_path)}", f"HISTORY={folder}/history.jsonl"]
    checkout.make("nightly", *words, "NIGHTS=8")
    records = history.read(folder / "history.jsonl").records
    if sum(record.status == "conclusive" for record in records) < 5:
        pytest.skip("the machine is too busy to measure anything")
    done = checkout.command("taskset", "-c", "0", "make", "nightly", *words)
    latest = json.loads((folder / "latest.json").read_text())
    assert latest["status"] == "alarm", done.stdout + done.stderr
    assert "environment.cpus" in done.stdout
    shutil.rmtree(checkout.root / "build/nightly")
