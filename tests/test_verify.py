"""Verify fails on whatever has been altered, with one clear line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Checkout
from junitparser import JUnitXml
from test_batches import windows_of

from harness.batches import AUTO, plan_batches
from harness.errors import UserError
from harness.files import sha256_file
from harness.golden import load_golden
from harness.measure import summarize
from harness.options import read_options
from harness.scoring import Score
from harness.verify import FAIL, PASS, UNCLEAR, UNPROMISED, _metrics, _qps, _timings


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Replace the JSON value in `path` by what `change` makes of it."""
    document = json.loads(path.read_text(encoding="utf-8"))
    changed = change(document)
    path.write_text(
        json.dumps(document if changed is None else changed, ensure_ascii=False), encoding="utf-8"
    )


@contextmanager
def restored(path: Path) -> Iterator[Path]:
    """`path`, whose content is put back when the block ends."""
    kept = path.read_bytes()
    try:
        yield path
    finally:
        path.write_bytes(kept)


def sign(run: Path, name: str) -> None:
    """Record the altered file's hash in run.json, as a slightly cleverer forger would."""
    edit(run / "run.json", lambda r: r["files"].__setitem__(name, sha256_file(run / name)))


def alter_answer(run: Path) -> None:
    edit(run / "predictions.json", lambda p: p.update({next(iter(p)): "altered"}))


def alter_answer_signed(run: Path) -> None:
    alter_answer(run)
    sign(run, "predictions.json")


def drop_question(run: Path) -> None:
    edit(run / "predictions.json", lambda p: (p.pop(next(iter(p))), p)[1])
    sign(run, "predictions.json")


def add_question(run: Path) -> None:
    edit(run / "predictions.json", lambda p: p.update({"another": "x"}))
    sign(run, "predictions.json")


def better_metrics(run: Path) -> None:
    edit(run / "metrics.json", lambda m: m.update({"f1": m["f1"] + 1}))
    sign(run, "metrics.json")


def better_qps(run: Path) -> None:
    edit(run / "metrics.json", lambda m: m.update({"qps": m["qps"] * 1.01}))
    sign(run, "metrics.json")


def faster_timings(run: Path) -> None:
    edit(
        run / "timings.json",
        lambda t: t.update({"seconds": [[s / 2 for s in r] for r in t["seconds"]]}),
    )
    sign(run, "timings.json")


def impossible_timings(run: Path) -> None:
    edit(
        run / "timings.json",
        lambda t: t.update({"wall_seconds": [s / 1e3 for s in t["wall_seconds"]]}),
    )
    sign(run, "timings.json")


def fewer_repeats(run: Path) -> None:
    def one(timings: dict[str, Any]) -> None:
        for name in ("seconds", "execution_seconds", "wall_seconds"):
            timings[name] = timings[name][:1]

    edit(run / "timings.json", one)
    sign(run, "timings.json")


def scale_execution(run: Path, factor: float) -> None:
    edit(
        run / "timings.json",
        lambda t: t.update({"execution_seconds": [s * factor for s in t["execution_seconds"]]}),
    )
    sign(run, "timings.json")


def shorter_execution(run: Path) -> None:
    scale_execution(run, 0.5)


def longer_execution(run: Path) -> None:
    scale_execution(run, 100)


def fewer_executions(run: Path) -> None:
    edit(
        run / "timings.json",
        lambda t: t.update({"execution_seconds": t["execution_seconds"][1:]}),
    )
    sign(run, "timings.json")


def more_streams(run: Path) -> None:
    edit(run / "timings.json", lambda t: t.update({"streams": 2}))
    sign(run, "timings.json")


def no_streams(run: Path) -> None:
    edit(run / "timings.json", lambda t: {k: v for k, v in t.items() if k != "streams"})
    sign(run, "timings.json")


def nan_logit(run: Path) -> None:
    with np.load(run / "logits.npz") as arrays:
        found = dict(arrays)
    found["start"][5] = np.nan
    np.savez(run / "logits.npz", **found)
    sign(run, "logits.npz")


def truncated_logits(run: Path) -> None:
    data = (run / "logits.npz").read_bytes()
    (run / "logits.npz").write_bytes(data[: len(data) // 2])
    sign(run, "logits.npz")


def no_timings(run: Path) -> None:
    (run / "timings.json").unlink()


def posed_as_full(run: Path) -> None:
    edit(run / "run.json", lambda r: r["options"].update({"limit": 3}))


def other_profile(run: Path) -> None:
    edit(run / "run.json", lambda r: r.update({"profile_sha256": "0" * 64}))


def no_crosscheck(run: Path) -> None:
    (run / "crosscheck.json").unlink()


def slim_run(run: Path) -> None:
    edit(run / "run.json", lambda r: {"options": r["options"]})


def shapeless_metrics(run: Path) -> None:
    edit(run / "metrics.json", lambda m: m.update({"latency_ms": 5}))
    sign(run, "metrics.json")


def another_runs_crosscheck(run: Path) -> None:
    edit(run / "crosscheck.json", lambda c: c.update({"run_sha256": "0" * 64}))


def another_graph(run: Path) -> None:
    edit(run / "crosscheck.json", lambda c: c["graph"].update({"sha256": "0" * 64}))


def other_assets(run: Path) -> None:
    edit(run / "run.json", lambda r: r["assets"]["vocab"].update({"sha256": "0" * 64}))


TAMPERS = {
    alter_answer: "predictions.json has changed",
    alter_answer_signed: "1 answers differ",
    drop_question: "1 without an answer",
    shapeless_metrics: "metrics agree",
    another_runs_crosscheck: "crosscheck.json belongs to another run",
    another_graph: "the cross-check was made with another graph",
    other_assets: "is not what the manifest names",
    add_question: "1 answers to no question",
    better_metrics: "f1 is",
    better_qps: "qps is",
    faster_timings: "qps is",
    impossible_timings: "execution took longer than its repeat",
    fewer_repeats: "fewer than 5 repeats",
    shorter_execution: "batches took longer than their execution",
    longer_execution: "execution took longer than its repeat",
    fewer_executions: "execution times and wall times differ in number",
    more_streams: "the timings claim 2 streams",
    no_streams: "missing 'streams'",
    nan_logit: "NaN or infinite",
    truncated_logits: "logits.npz cannot be read",
    no_timings: "timings.json",
    posed_as_full: "run was made with limit 3",
    other_profile: "profile has changed since the run",
    no_crosscheck: "crosscheck.json does not exist",
    slim_run: "missing 'profile_sha256'",
}


@pytest.fixture
def run(checkout: Checkout, tmp_path: Path) -> Iterator[Path]:
    """The run's folder, put back as it was afterwards."""
    kept = tmp_path / "kept"
    shutil.copytree(checkout.run, kept)
    folder = checkout.run
    yield folder
    shutil.rmtree(folder)
    shutil.copytree(kept, folder)


def test_the_untouched_run_passes(checkout: Checkout) -> None:
    done = checkout.script("verify.py")
    assert done.returncode == 0, done.stdout + done.stderr
    verdict = json.loads((checkout.root / "results/verify.json").read_text(encoding="utf-8"))
    assert verdict["status"] == "pass"
    keys = {"name", "expected", "actual", "limit", "status", "golden"}
    assert all(keys <= check.keys() for check in verdict["checks"])
    # The shell of a table must fit a terminal of 80 columns.
    assert max(map(len, done.stdout.split("unpromised:")[0].splitlines())) <= 80


@pytest.mark.parametrize("tamper", TAMPERS, ids=lambda tamper: tamper.__name__)
def test_altered_results_fail(
    checkout: Checkout, run: Path, tamper: Callable[[Path], None]
) -> None:
    tamper(run)
    done = checkout.script("verify.py")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert TAMPERS[tamper] in done.stdout
    suites = JUnitXml.fromfile(str(checkout.root / "results/verify.xml"))
    assert suites.failures >= 1


@pytest.mark.parametrize("kind", ["onnx", "engine"])
def test_a_replaced_graph_or_engine_fails(checkout: Checkout, kind: str) -> None:
    recorded = json.loads((checkout.run / "run.json").read_text(encoding="utf-8"))
    path = checkout.root / recorded[kind]["path"]
    with restored(path):
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        done = checkout.script("verify.py")
    assert done.returncode == 1
    assert f"{path.name} has changed since it was made" in done.stdout


def test_no_limits_for_the_dataset_fails(checkout: Checkout, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    edit_source = json.loads(checkout.dataset.read_text(encoding="utf-8"))
    edit_source["data"] = edit_source["data"][:1]
    other.write_text(json.dumps(edit_source), encoding="utf-8")
    done = checkout.make("verify", "PROFILE=minilm-sample", f"DATASET={other}")
    assert done.returncode == 2, done.stdout
    assert "no accuracy limits hold for other.json" in done.stdout


def test_without_a_golden_file_verify_fails(checkout: Checkout) -> None:
    with restored(checkout.root / "golden/minilm-sample/fp32.json") as path:
        path.unlink()
        done = checkout.script("verify.py")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "no golden file golden/minilm-sample/fp32.json" in done.stdout


def test_a_damaged_reference_is_made_again(checkout: Checkout) -> None:
    stored = json.loads((checkout.run / "crosscheck.json").read_text(encoding="utf-8"))
    reference = checkout.root / stored["reference"]["path"]
    with np.load(reference) as arrays:
        found = dict(arrays)
    found["start"] += 1
    np.savez(reference, **found)
    done = checkout.script("verify.py")
    assert done.returncode == 1
    assert "has changed since it was made" in done.stdout
    assert checkout.script("crosscheck.py").returncode == 0
    assert json.loads((checkout.run / "crosscheck.json").read_text(encoding="utf-8")) == stored
    assert checkout.script("verify.py").returncode == 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda g: g.update({"surprise": 1}), "'surprise' was unexpected"),
        (lambda g: g.pop("accuracy"), "'accuracy' is a required property"),
        (lambda g: g["accuracy"]["f1"].update({"value": "high"}), "accuracy/f1/value"),
        (lambda g: g.update({"precision": "fp16"}), "another profile or precision"),
    ],
)
def test_a_malformed_golden_file_is_reported_as_such(
    checkout: Checkout, change: Callable[[Any], Any], expected: str
) -> None:
    with restored(checkout.root / "golden/minilm-sample/fp32.json") as path:
        edit(path, lambda g: (change(g), g)[1])
        done = checkout.script("verify.py")
    assert done.returncode == 2
    assert done.stderr.startswith("error: golden file golden/minilm-sample/fp32.json")
    assert done.stderr.count("\n") == 1
    assert expected in done.stderr
    # No earlier verdict may stand for the one that could not be given.
    assert not (checkout.root / "results/verify.json").exists()
    assert not (checkout.root / "results/verify.xml").exists()


def test_an_uncommitted_golden_file_fails(checkout: Checkout) -> None:
    with restored(checkout.root / "golden/minilm-sample/fp32.json") as path:
        edit(path, lambda g: g["accuracy"]["f1"].update({"allowed_loss": 50}))
        done = checkout.script("verify.py")
    assert done.returncode == 1
    assert "fp32.json differs from the commit" in done.stdout


def test_lost_accuracy_fails(checkout: Checkout) -> None:
    with restored(checkout.root / "golden/minilm-sample/fp32.json") as path:
        edit(path, lambda g: g["accuracy"]["f1"].update({"value": 100, "allowed_loss": 0}))
        done = checkout.script("verify.py")
    assert done.returncode == 1
    assert "is under the limit 100" in done.stdout


@pytest.mark.parametrize(
    ("relative", "text", "expected"),
    [
        ("configs/profiles/minilm-sample.yaml", "description: [", "cannot be read"),
        ("configs/profiles/minilm-sample.yaml", "description: x", "is malformed"),
        ("tiny Sätze.json", "{", "is not valid JSON"),
        ("tiny Sätze.json", '{"data": [{"paragraphs": 3}]}', "is not SQuAD v1.1"),
    ],
)
def test_malformed_inputs_are_reported_as_such(
    checkout: Checkout, relative: str, text: str, expected: str
) -> None:
    with restored(checkout.root / relative) as path:
        path.write_text(text, encoding="utf-8")
        done = checkout.script("verify.py")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert expected in done.stderr or "holds no run.json" in done.stderr


AUTO_WINDOWS = windows_of([40] * 6 + [17] * 9)
AUTO_OPTIONS = read_options({"PROFILE": "minilm-sample", "BACKEND": "ort-cpu", "BATCH": AUTO})


AUTO_RUN = {"wall_seconds": 1e3, "device": {"cores": 2}}


def auto_timings() -> dict[str, Any]:
    """Five passes in which two streams were busy all the time, half a second a batch."""
    lengths = AUTO_WINDOWS.lengths
    plan = plan_batches(lengths, AUTO, AUTO_OPTIONS.backend.token_budget)
    assert len(plan) > 2
    return {
        "questions": 15,
        "windows": 15,
        "batch": AUTO,
        "streams": 2,
        "shapes": [[len(rows), int(lengths[rows].max())] for rows in plan],
        "seconds": [[0.5] * len(plan)] * 5,
        "execution_seconds": [0.25 * len(plan)] * 5,
        "wall_seconds": [0.3 * len(plan)] * 5,
    }


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: {}, ""),
        (lambda t: {"streams": 1}, "batches took longer than their execution"),
        (
            lambda t: {"execution_seconds": [s * 0.99 for s in t["execution_seconds"]]},
            "batches took longer than their execution",
        ),
        (
            lambda t: {"execution_seconds": [*t["wall_seconds"][:4], t["wall_seconds"][4] * 1.01]},
            "execution took longer than its repeat",
        ),
        (lambda t: {"execution_seconds": [float("nan")] * 5}, "longer than their execution"),
        (lambda t: {"wall_seconds": [float("inf")] * 5}, "execution took longer than its repeat"),
        (lambda t: {"execution_seconds": t["execution_seconds"] * 2}, "differ in number"),
        (lambda t: {"shapes": t["shapes"][::-1]}, "batches are not those of the windows"),
        (lambda t: {"batch": 8}, "batch are not auto"),
    ],
)
def test_overlapping_batches_fit_into_their_streams(
    change: Callable[[dict[str, Any]], dict[str, Any]], expected: str
) -> None:
    timings = auto_timings()
    timings.update(change(timings))
    check = _timings(timings, AUTO_RUN, 15, AUTO_WINDOWS, AUTO_OPTIONS)
    assert check.status == ("fail" if expected else "pass")
    assert expected in check.note


@pytest.mark.parametrize("streams", [0, -1, 2.0, True, "2", None, 3])
def test_streams_are_a_count(streams: Any) -> None:
    timings = {**auto_timings(), "streams": streams}
    with pytest.raises(UserError, match="the timings claim"):
        _timings(timings, AUTO_RUN, 15, AUTO_WINDOWS, AUTO_OPTIONS)


QPS_OPTIONS = read_options({"PROFILE": "minilm-sample", "BACKEND": "ort-cpu", "BATCH": "8"})
BUSY = {"what": "other processes", "detail": "1.00 of 2 cores", "share": 0.5, "affects": "qps"}
BESIDE = {**BUSY, "affects": "qps_end_to_end"}


def judged(promised: float | None, run: dict[str, Any], walls: list[float] | None = None) -> Any:
    """The check of a run at 8 QPS on a device with a promise of `promised` QPS or none."""
    golden = load_golden("minilm-sample", "fp32")
    assert golden is not None
    entry = {"device": "here", "backend": "ort-cpu", "batch": 8, "value": promised}
    document = {"qps": [] if promised is None else [{**entry, "allowed_loss": 0}]}
    timings = {
        "windows": 8,
        "batch": 8,
        "questions": 8,
        "seconds": [[wall] for wall in walls or [1.0] * 5],
        "execution_seconds": [1.0] * 5,
        "wall_seconds": [1.0] * 5,
    }
    record = {"device": {"name": "here"}, **run}
    return _qps(replace(golden, document=document), record, QPS_OPTIONS, timings)


@pytest.mark.parametrize(
    ("promised", "run", "status", "note"),
    [
        (8, {"disturbances": []}, PASS, ""),
        (9, {"disturbances": []}, FAIL, "8.00 is under the limit 9"),
        (8, {"disturbances": [BUSY]}, UNCLEAR, "disturbed by other processes (1.00 of 2 cores)"),
        (9, {"disturbances": [BUSY]}, UNCLEAR, "disturbed by other processes"),
        # Beside a GPU the processor's other work is nothing to QPS.
        (8, {"disturbances": [BESIDE]}, PASS, ""),
        (9, {"disturbances": [BESIDE]}, FAIL, "is under the limit"),
        (
            8,
            {},
            UNCLEAR,
            "nothing is known of what disturbed the run; run `make infer REMEASURE=1`",
        ),
        (8, {"disturbances": [7]}, UNCLEAR, "the run's disturbances are malformed"),
        (None, {"disturbances": [BUSY]}, UNPROMISED, "nothing is promised for here"),
        (None, {}, UNPROMISED, "nothing is promised for here"),
    ],
)
def test_a_disturbed_qps_neither_passes_nor_fails(
    promised: float | None, run: dict[str, Any], status: str, note: str
) -> None:
    check = judged(promised, run)
    assert check.status == status
    assert note in check.note and "\n" not in check.note


def test_noise_and_disturbance_are_both_told() -> None:
    check = judged(8, {"disturbances": [BUSY]}, [1.0, 1.0, 1.0, 1.0, 1.1])
    assert check.status == UNCLEAR
    assert "repeats spread by 9.1%, more than 5%: noise; disturbed by other" in check.note


def test_metrics_of_an_earlier_version_ask_for_a_new_run() -> None:
    timings = {**auto_timings(), "windows": 15}
    metrics = {"exact_match": 1.0, "f1": 2.0, "questions": 15, "windows": 15, **summarize(timings)}
    assert _metrics(metrics, Score(1.0, 2.0), timings).status == PASS
    shifted = {**metrics, "qps_interval": [metrics["qps_interval"][0], 1e6]}
    assert "qps_interval is" in _metrics(shifted, Score(1.0, 2.0), timings).note
    shorter = {**metrics, "qps_interval": metrics["qps_interval"][:1]}
    assert _metrics(shorter, Score(1.0, 2.0), timings).status == FAIL
    del metrics["qps_mad"]
    with pytest.raises(UserError, match="qps_mad is missing; run `make infer REMEASURE=1`"):
        _metrics(metrics, Score(1.0, 2.0), timings)


def test_the_run_says_what_it_was_watched_for(checkout: Checkout) -> None:
    run = json.loads((checkout.run / "run.json").read_text(encoding="utf-8"))
    assert isinstance(run["disturbances"], list)
    samples = run["samples"]
    assert samples["count"] >= 2 and samples["seconds"] <= run["wall_seconds"]
    assert samples["values"]["load"].keys() == {"min", "median", "max"}
    timings = json.loads((checkout.run / "timings.json").read_text(encoding="utf-8"))
    assert timings["warmup"] == len(timings["warmup_seconds"]) >= 5
    assert isinstance(timings["warmup_steady"], bool)
