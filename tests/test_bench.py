"""`make bench`: systems take turns, failures stay where they are, numbers become a table."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
from test_reference_logits import merged
from tiny_bert import architecture_of
from tiny_bert import random_weights as sharp_weights

import bench
from harness.backends import Outputs
from harness.batches import AUTO, BatchSize, plan_batches
from harness.bench import document
from harness.bench.catalog import REFERENCE, check_keys, end_to_end_systems, execution_systems
from harness.bench.chart import svg
from harness.bench.interleave import WARMUP_PASSES, Lane, Outcome, run_comparison, steps
from harness.bench.model import (
    CALIBRATION_QUESTIONS,
    Model,
    calibration_questions,
    random_weights,
    save_model,
)
from harness.bench.ort_peers import OrtDynamicInt8, OrtPlain
from harness.bench.system import Pass, Runner, SessionRunner, System
from harness.bench.table import markdown
from harness.bench.work import Task, end_to_end, execution, typical_rows
from harness.errors import UserError
from harness.files import to_json
from harness.profile import Profile, load_profile
from harness.scoring import Score
from harness.squad import Question, read_dataset
from harness.weights import Weights, check_weights
from harness.windows import (
    Int32,
    WindowOptions,
    Windows,
    cut_windows,
    load_tokenizer,
    select_windows,
)

__all__ = ["merged"]

REPEATS = 5
QUESTIONS = [
    Question("b", "where is the river", "the river is a river in the play", ("river",), (4,)),
    Question("a", "is", " ".join(f"r{n}" for n in range(25)), ("r1",), (3,)),
    Question("c", "an empty passage", "", ("x",), (0,)),
]


# ---- systems that do what the test says -----------------------------------------------------


@dataclass(frozen=True)
class Scripted:
    """Writes each pass's begin and end into `log`; pass n at a batch has the rate rates[n].

    `fault` names what goes wrong where: "build", "load", or a number of passes after which it
    raises ("raise 3") or its process dies ("die 3").
    """

    key: str
    log: Path
    rates: tuple[float, ...] = (1.0,)
    fault: str = ""
    ours: bool = False
    batches: tuple[BatchSize, ...] = (8, 32)

    @property
    def title(self) -> str:
        return f"the {self.key}"

    def build(self, model: Model, folder: Path) -> None:
        if self.fault == "build":
            raise UserError("no tools; get some")
        (folder / "built").write_text(str(os.getpid()), encoding="utf-8")

    def load(self, model: Model, folder: Path) -> Runner:
        builder = int((folder / "built").read_text(encoding="utf-8"))
        if self.fault == "load" or builder == os.getpid():
            raise OSError("bad\nfile")
        return ScriptedRunner(self)


class ScriptedRunner:
    def __init__(self, system: Scripted) -> None:
        self.system = system
        self.passes: Counter[BatchSize] = Counter()

    def run(self, work: Any, batch: BatchSize) -> Pass:
        self.note("begin", batch)
        kind, _, count = self.system.fault.partition(" ")
        if kind in ("raise", "die") and self.passes.total() == int(count):
            print("last words", flush=True)
            if kind == "die":
                os._exit(9)
            raise RuntimeError("enough")
        # The warm-up passes are much too fast: they must not count.
        timed = self.passes[batch] - WARMUP_PASSES
        rate = 1e9 if timed < 0 else self.system.rates[timed % len(self.system.rates)]
        self.passes[batch] += 1
        time.sleep(0.002)
        self.note("end", batch)
        slower = 1.0 if batch == 8 else 0.5
        return Pass(1 / rate, slower * rate, f"{self.system.key} {work}", [(8, 40)])

    def note(self, what: str, batch: BatchSize) -> None:
        with self.system.log.open("a", encoding="utf-8") as stream:
            stream.write(f"{what} {self.system.key} {batch} {os.getpid()}\n")


def text_task() -> Task:
    """Outputs are texts; their score and difference tell what they were made from."""
    return Task(
        unit="windows",
        timed="timed",
        count=3,
        scored="scored",
        score=lambda output: Score(50.0, float(len(output))),
        difference=lambda output, reference: float(len(output) - len(reference)),
    )


@dataclass
class Run:
    """The outcomes by key, what was reported, and every pass in the order of the log."""

    outcomes: dict[str, Outcome]
    reports: list[str]
    passes: list[tuple[str, str]]
    processes: dict[str, set[str]]


def run(folder: Path, *systems: Scripted, known: dict[str, Score] | None = None) -> Run:
    log = folder / "passes.log"
    log.touch()
    reports: list[str] = []
    outcomes = run_comparison(
        systems,
        None,  # type: ignore[arg-type]
        text_task(),
        repeats=REPEATS,
        folder=folder / "files",
        reference="swift",
        known_scores=known or {},
        report=reports.append,
    )
    assert [outcome.key for outcome in outcomes] == [system.key for system in systems]
    lines = [line.split() for line in log.read_text(encoding="utf-8").splitlines()]
    processes: dict[str, set[str]] = {}
    for _, key, _, pid in lines:
        processes.setdefault(key, set()).add(pid)
    begun = [(key, batch) for what, key, batch, _ in lines if what == "begin"]
    return Run({o.key: o for o in outcomes}, reports, begun, processes)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[str]]:
    """Two systems through a whole comparison, and the lines of their log."""
    folder = tmp_path_factory.mktemp("good")
    log = folder / "passes.log"
    made = run(
        folder,
        Scripted("swift", log, (100.0, 104.0, 96.0, 101.0, 99.0), ours=True),
        Scripted("tardy", log, (10.0, 20.0, 12.0, 11.0, 10.5)),
    )
    return made, log.read_text(encoding="utf-8").splitlines()


def test_systems_take_turns_and_never_run_at_once(good: tuple[Run, list[str]]) -> None:
    made, lines = good
    # One pass ends before the next one begins, in whatever process.
    assert [line.split()[0] for line in lines] == ["begin", "end"] * (len(lines) // 2)
    assert [line.split()[1:] for line in lines[::2]] == [line.split()[1:] for line in lines[1::2]]
    pids = made.processes["swift"] | made.processes["tardy"]
    assert len(pids) == 2
    assert str(os.getpid()) not in pids


def test_every_round_has_each_system_and_batch_once(good: tuple[Run, list[str]]) -> None:
    made, _ = good
    everybody = {(key, batch) for key in ("swift", "tardy") for batch in ("8", "32")}
    warm_ups = len(everybody) * WARMUP_PASSES
    rounds = [
        made.passes[start : start + 4] for start in range(warm_ups, warm_ups + 4 * REPEATS, 4)
    ]
    assert Counter(made.passes[:warm_ups]) == dict.fromkeys(everybody, WARMUP_PASSES)
    assert all(set(turns) == everybody for turns in rounds)
    # Nobody always runs behind the same neighbour.
    assert len({tuple(turns) for turns in rounds}) > 1
    # What is left is one pass a system over the scored work, at its better batch.
    assert made.passes[warm_ups + 4 * REPEATS :] == [("swift", "8"), ("tardy", "8")]


def test_medians_spreads_scores_and_differences(good: tuple[Run, list[str]]) -> None:
    swift, tardy = good[0].outcomes["swift"], good[0].outcomes["tardy"]
    assert swift.failure is None and tardy.failure is None
    assert [lane.batch for lane in swift.lanes] == [8, 32]
    assert swift.lanes[0].rates == [100.0, 104.0, 96.0, 101.0, 99.0]
    assert swift.lanes[1].rates == [50.0, 52.0, 48.0, 50.5, 49.5]
    assert swift.best is swift.lanes[0]
    assert (swift.best.median, swift.best.spread) == (100.0, pytest.approx(0.08))
    assert (tardy.best.median, tardy.best.spread) == (11.0, pytest.approx(10 / 11))
    assert tardy.best.seconds == [0.1, 0.05, 1 / 12, 1 / 11, 1 / 10.5]
    assert swift.score == Score(50.0, len("swift scored"))
    assert (swift.difference, tardy.difference) == (0.0, 0.0)
    assert swift.memory_mib is not None and swift.memory_mib > 1
    # An idle worker waits without spinning.
    assert swift.idle_cpu_seconds < 0.1


def test_every_step_is_reported(good: tuple[Run, list[str]]) -> None:
    systems = [Scripted("swift", Path()), Scripted("tardy", Path())]
    assert len(good[0].reports) == steps(systems, REPEATS)
    assert "the swift: pass 5 of 5, batch 32" in good[0].reports


def test_a_known_score_needs_no_pass(tmp_path: Path) -> None:
    swift = Scripted("swift", tmp_path / "passes.log", batches=(AUTO,))
    made = run(tmp_path, swift, known={"swift": Score(1.0, 2.0)})
    assert made.outcomes["swift"].score == Score(1.0, 2.0)
    assert len(made.passes) == WARMUP_PASSES + REPEATS


FAULTS = {
    "build": "no tools; get some",
    "load": "OSError: bad file",
    "raise 1": "RuntimeError: enough",
    "raise 6": "RuntimeError: enough",
    "die 5": "its process ended with code 9; it said: last words",
}


def test_failed_systems_are_out_and_the_others_go_on(tmp_path: Path) -> None:
    log = tmp_path / "passes.log"
    lame = [Scripted(fault.replace(" ", "-"), log, fault=fault) for fault in FAULTS]
    made = run(tmp_path, *lame, Scripted("swift", log, (7.0,)))
    assert {system.fault: made.outcomes[system.key].failure for system in lame} == FAULTS
    swift = made.outcomes["swift"]
    assert swift.failure is None
    assert swift.best.rates == [7.0] * REPEATS
    assert swift.score is not None
    # Once out, a system is not asked again.
    asked = Counter(key for key, _ in made.passes)
    assert [asked[system.key] for system in lame] == [0, 0, 2, 7, 6]


# ---- the work ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join(oracles.TOKENS), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def windows(vocabulary: Path) -> Windows:
    return cut_windows(QUESTIONS, load_tokenizer(vocabulary), WindowOptions(16, 4, 5))


def test_taken_windows_are_the_same_windows(windows: Windows) -> None:
    rows = np.array([0, 2, 5])
    taken = select_windows(windows, rows)
    assert len(taken) == 3
    for index, row in enumerate(rows):
        here = slice(windows.starts[row], windows.starts[row + 1])
        there = slice(taken.starts[index], taken.starts[index + 1])
        np.testing.assert_array_equal(taken.tokens[there], windows.tokens[here])
        np.testing.assert_array_equal(taken.char_spans[there], windows.char_spans[here])
        assert taken.context_starts[index] == windows.context_starts[row]
        assert taken.questions[index] == windows.questions[row]


def windows_with(lengths: Int32) -> Windows:
    tokens = np.zeros(int(lengths.sum()), dtype=np.int32)
    zeros = np.zeros(len(lengths), dtype=np.int32)
    return Windows(tokens, lengths, zeros, zeros, np.zeros((len(tokens), 2), dtype=np.int32))


@pytest.mark.parametrize(("count", "found"), [(64, 64), (256, 256), (10_000, 4096)])
def test_timed_windows_pad_as_little_as_a_run_over_all_of_them(count: int, found: int) -> None:
    lengths = np.random.default_rng(1).integers(30, 385, 4100).astype(np.int32)
    windows = windows_with(lengths)
    rows = typical_rows(windows, count, 32)
    assert len(set(rows.tolist())) == len(rows) == found
    assert np.all(np.diff(rows) > 0)

    def padding(some: Int32) -> float:
        plan = plan_batches(some, 32)
        return sum(len(batch) * int(some[batch].max()) for batch in plan) / int(some.sum())

    assert padding(lengths[rows]) == pytest.approx(padding(lengths), abs=0.03)
    assert lengths[rows].mean() == pytest.approx(lengths.mean(), rel=0.05)


def test_few_windows_are_all_timed() -> None:
    windows = windows_with(np.arange(1, 21, dtype=np.int32))
    np.testing.assert_array_equal(typical_rows(windows, 64, 32), np.arange(20))


def test_questions_from_text_to_answers_are_spread_evenly() -> None:
    questions = [replace(QUESTIONS[0], id=str(number)) for number in range(1280)]
    task = end_to_end(questions)
    assert [question.id for question in task.timed] == [str(n) for n in range(0, 1280, 10)]
    assert task.count == 128
    assert len(task.scored or ()) == 1280
    assert task.score({"0": "river"}).f1 == pytest.approx(100 / 1280)


def test_calibration_may_not_be_evaluated() -> None:
    others = [replace(QUESTIONS[0], id=str(n), context=f"{n}") for n in range(100)]
    chosen = calibration_questions(others, QUESTIONS)
    assert len(chosen) == len({question.id for question in chosen}) == CALIBRATION_QUESTIONS
    assert [chosen[0].id, chosen[-1].id] == ["0", "96"]
    assert calibration_questions(others[:3], QUESTIONS) == others[:3]
    with pytest.raises(UserError, match="share a passage"):
        calibration_questions([*others, QUESTIONS[1]], QUESTIONS)


def test_random_weights_are_whole_and_always_the_same() -> None:
    architecture = architecture_of(2)
    first, second = random_weights(architecture), random_weights(architecture)
    check_weights(first, architecture, qa_head=True)
    for name, weight in first.items():
        np.testing.assert_array_equal(weight, second[name])
    assert first["layer.0.ffn.in.weight"].std() == pytest.approx(0.02, rel=0.05)


# ---- real systems over a tiny model --------------------------------------------------------


@dataclass(frozen=True)
class Broken:
    """A session's logits made NaN."""

    key: str = "broken"
    title: str = "broken"
    ours: bool = False
    batches: tuple[BatchSize, ...] = (8,)

    def build(self, model: Model, folder: Path) -> None:
        """Nothing."""

    def load(self, model: Model, folder: Path) -> Runner:
        return SessionRunner(self)

    @property
    def streams(self) -> int:
        return 1

    def run(self, input_ids: Int32, segment_ids: Int32, input_mask: Int32) -> Outputs:
        nothing = np.full(input_ids.shape, np.nan, dtype=np.float32)
        return Outputs(nothing, nothing, 0.001)


def test_real_sessions_are_compared_by_logits_and_scored(
    vocabulary: Path, windows: Windows, tmp_path: Path
) -> None:
    profile = tiny_profile()
    model = save_model(
        sharp_weights(profile.architecture), profile, tmp_path / "model", vocabulary, windows,
        trained=False,
    )  # fmt: skip
    systems: list[System] = [OrtPlain(), replace(OrtPlain(), key="again", batches=(8,)),
                             OrtDynamicInt8(), Broken()]  # fmt: skip
    plain, again, int8, broken = run_comparison(
        systems,
        model,
        execution(windows, QUESTIONS, profile.architecture, scored=True),
        repeats=REPEATS,
        folder=tmp_path / "files",
        reference="onnxruntime",
        known_scores={},
        report=lambda step: None,
    )
    assert broken.failure == "its logits are NaN or infinite; they are no answer to anything"
    for outcome in (plain, again, int8):
        assert outcome.failure is None
        assert outcome.score is not None and 0 <= outcome.score.f1 <= 100
        assert all(rate > 0 for lane in outcome.lanes for rate in lane.rates)
    assert plain.difference == 0.0
    assert again.difference is not None and again.difference < 1e-5
    # INT8 rounds: the same model, but not the same numbers.
    assert int8.difference is not None and 1e-5 < int8.difference < 2.0
    longest = int(windows.lengths.max())
    assert plain.lanes[1].shapes == [(32, longest)]


def tiny_profile() -> Profile:
    return replace(
        load_profile("bert-base-squad"),
        architecture=replace(architecture_of(2), vocab=len(oracles.TOKENS)),
        windows=WindowOptions(16, 4, 5),
    )


# ---- what is written -----------------------------------------------------------------------


def outcome(key: str, rates: list[float], **values: Any) -> Outcome:
    lane = Lane(8, [(8, 40)], [10 / rate for rate in rates], rates)
    slower = Lane(32, [(32, 40)], [20 / rate for rate in rates], [rate / 2 for rate in rates])
    return Outcome(key, f"system {key}", key == "mine", [slower, lane], **values)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """bench.json of two comparisons, as bench.py puts it together."""
    score = Score(71.25, 80.5)
    scored = [
        outcome("peer", [50.0, 50.5, 49.5], score=score, difference=0.0, memory_mib=812.4),
        outcome("mine", [100.0, 101.0, 99.0], score=score, difference=0.123456, memory_mib=200.0),
        outcome("wild", [80.0, 20.0, 90.0], score=score, difference=1.5, memory_mib=300.0),
        Outcome("gone", "system gone", False, [], failure="no <tools> | `get` some"),
    ]
    unscored = [outcome("peer", [5.0, 5.0, 5.0]), outcome("mine", [4.0, 4.0, 4.0])]
    architecture = architecture_of(2)
    model = Model(architecture, Path(), Path(), Path(), None, "minilm-sample", True)  # type: ignore[arg-type]
    return {
        "finished": "2026-01-02T03:04:06Z",
        "device": {"name": "Test CPU (2 cores)"},
        "git": {"commit": "0123456789abcdef", "dirty": True},
        "environment": {"python": "3.11.7"},
        "packages": {"numpy": "2.4.6", "torch": "2.13.0+cpu"},
        "dataset": {"name": "sample-v1.json", "questions": 368},
        "repeats": 3,
        "comparisons": [
            document.comparison("minilm, execution alone", model, text_task(), scored),
            document.comparison("bert-base, execution alone", model, text_task(), unscored),
        ],
    }


def test_json_holds_every_repeat_and_the_better_batch(found: dict[str, Any]) -> None:
    stored = json.loads(to_json(found))
    systems = {s["key"]: s for s in stored["comparisons"][0]["systems"]}
    assert list(systems) == ["peer", "mine", "wild", "gone"]
    mine = systems["mine"]
    assert (mine["batch"], mine["rate"], mine["spread"]) == (8, 100.0, 0.02)
    assert (mine["exact_match"], mine["f1"]) == (71.25, 80.5)
    assert [lane["rates"] for lane in mine["lanes"]] == [[50.0, 50.5, 49.5], [100.0, 101.0, 99.0]]
    assert systems["gone"] == {
        "key": "gone", "title": "system gone", "ours": False,
        "failure": "no <tools> | `get` some",
    }  # fmt: skip
    assert document.failures(found) == [
        "minilm, execution alone: system gone failed: no <tools> | `get` some"
    ]


def test_the_table_shows_the_fastest_first_and_failures_last(found: dict[str, Any]) -> None:
    text = markdown(found)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows == [
        "| System | Batch | Windows/s | Spread | EM | F1 | Logits differ by | Memory, MiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| **system mine** | 8 | 100.0 | 2.0% | 71.25 | 80.50 | 0.12 | 200 |",
        "| system wild | 8 | 80.0 | 87.5% (noise) | 71.25 | 80.50 | 1.5 | 300 |",
        "| system peer | 8 | 50.0 | 2.0% | 71.25 | 80.50 | 0 | 812 |",
        "| system gone | failed | – | – | – | – | – | – |",
        # Without a checkpoint nobody has a score: those columns are left out.
        "| System | Batch | Windows/s | Spread |",
        "| --- | ---: | ---: | ---: |",
        "| system peer | 8 | 5.0 | 0.0% |",
        "| **system mine** | 8 | 4.0 | 0.0% |",
    ]
    assert r"system gone failed: no \<tools\> \| \`get\` some" in text
    assert "Test CPU (2 cores), 2026-01-02, commit 01234567 (dirty)." in text
    assert "torch 2.13.0+cpu" in text


def test_the_chart_draws_each_system_to_scale(found: dict[str, Any]) -> None:
    drawing = ElementTree.fromstring(svg(found))
    space = "{http://www.w3.org/2000/svg}"
    bars = [bar for bar in drawing.iter(f"{space}rect") if bar.get("class") != "page"]
    widths = [float(bar.get("width", "nan")) for bar in bars]
    # 360 units are the largest repeat of a comparison: 101 and 5 windows a second.
    assert widths == [pytest.approx(360 * rate / 101, abs=0.06) for rate in (100, 80, 50)] + [
        360.0,
        288.0,
    ]
    assert [bar.get("class") for bar in bars] == ["ours", "peer", "peer", "peer", "ours"]
    texts = [element.text for element in drawing.iter(f"{space}text")]
    assert texts.count("failed") == 1
    assert "100.0, F1 80.50" in texts
    height = float(str(drawing.get("viewBox")).split()[3])
    assert all(float(element.get("y", "nan")) < height for element in drawing.iter(f"{space}text"))


# ---- the command ---------------------------------------------------------------------------


def test_systems_have_one_key_each() -> None:
    for systems in (execution_systems(), end_to_end_systems()):
        keys = [system.key for system in systems]
        assert len(set(keys)) == len(keys)
        assert any(system.ours for system in systems)
    assert REFERENCE in [system.key for system in execution_systems()]
    check_keys(["ort-cpu-fp32", "transformers-pipeline"])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("BENCH_SYSTEMS", "ort-cpu-fp32,tensorflow", "no system 'tensorflow'"),
        ("BENCH_REPEATS", "4", "from 5 to 99"),
        ("BENCH_REPEATS", "05", "from 5 to 99"),
        ("BENCH_REPEATS", "five", "from 5 to 99"),
        ("PROFILE", "nothing", "no profile 'nothing'"),
    ],
)
def test_bad_settings_are_refused(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("BENCH_SYSTEMS", "BENCH_REPEATS", "PROFILE", "DATASET", "LIMIT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=re.escape(message)):
        bench.main()


# ---- the peers themselves ------------------------------------------------------------------

# What each system runs on, besides requirements.txt: torch and transformers come with
# requirements-torch.txt and -full.txt, all of them with requirements-bench.txt.
NEEDS = {
    "transformers": "transformers",
    "torch-compile": "transformers",
    "optimum": "optimum",
    "openvino-f32": "openvino",
    "openvino-default": "openvino",
    "openvino-nncf": "nncf",
}
PEERS = [system for system in execution_systems() if not system.ours]


@pytest.fixture(scope="module")
def sample(
    merged: Weights, vocab: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Model, Windows]:
    """The trained MiniLM, and sixteen windows of the sample dataset."""
    folder = tmp_path_factory.mktemp("sample")
    profile, tokenizer = load_profile("minilm-sample"), load_tokenizer(vocab)
    questions = read_dataset(bench.CALIBRATION).questions
    examples = cut_windows(questions[:8], tokenizer, replace(profile.windows, first_only=True))
    model = save_model(merged, profile, folder, vocab, examples, trained=True)
    return model, select_windows(
        cut_windows(questions, tokenizer, profile.windows), np.arange(40, 56)
    )


@pytest.mark.full
@pytest.mark.parametrize("system", PEERS, ids=[system.key for system in PEERS])
def test_peers_run_the_same_model(
    system: System, sample: tuple[Model, Windows], tmp_path: Path
) -> None:
    package = NEEDS.get(system.key)
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed; see requirements-bench.txt")
    model, windows = sample
    system.build(model, tmp_path)
    runner = system.load(model, tmp_path)
    expected = np.concatenate(OrtPlain().load(model, tmp_path).run(windows, 8).output)
    first, second = runner.run(windows, 8), runner.run(windows, 32)
    assert (first.rate > 0, first.seconds > 0) == (True, True)
    assert [rows for rows, _ in first.shapes] == [8, 8]
    assert [rows for rows, _ in second.shapes] == [32]
    for done in (first, second):
        logits = np.concatenate(done.output)
        if "FP32" in system.title:
            assert np.abs(logits - expected).max() < 1e-3
        else:
            # Coarser numbers, the same model: another one's logits would not follow these.
            assert np.corrcoef(logits, expected)[0, 1] > 0.98


@pytest.mark.full
def test_the_pipeline_answers_as_we_do(sample: tuple[Model, Windows], tmp_path: Path) -> None:
    pipelines = pytest.importorskip("transformers.pipelines")
    if "question-answering" not in pipelines.SUPPORTED_TASKS:
        pytest.skip("transformers 5 has no such pipeline; see requirements-bench.txt")
    (system,) = (s for s in end_to_end_systems() if s.key == "transformers-pipeline")
    questions = list(read_dataset(bench.CALIBRATION).questions[:24])
    system.build(sample[0], tmp_path)
    answers = system.load(sample[0], tmp_path).run(questions, 8).output
    assert sorted(answers) == sorted(question.id for question in questions)
    assert end_to_end(questions).score(answers).f1 > 60
