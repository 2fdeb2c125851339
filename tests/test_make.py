"""The Makefile as its users and its accidents meet it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import Checkout

from harness.host import cores

ROOT = Path(__file__).parents[1]


def error_lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert "Traceback" not in done.stderr, done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


def test_help_names_every_target_and_variable() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    targets = (
        "help doctor assets onnx engine infer crosscheck evaluate verify report compare ask all "
        "test test-full lint clean distclean"
    )
    for target in targets.split():
        assert f"\n  {target} " in done.stdout
    for variable in ("PROFILE", "BACKEND", "PRECISION", "BATCH", "DEVICE", "LIMIT", "DATASET"):
        assert f"  {variable} " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_doctor_says_what_runs_by_default(checkout: Checkout) -> None:
    done = checkout.make("doctor")
    assert done.returncode == 0
    assert "ort-cpu" in done.stdout
    assert "default  PROFILE=" in done.stdout


def test_second_all_redoes_nothing_but_verify(checkout: Checkout) -> None:
    # The last verdict may be another test's.
    assert checkout.make("all", f"DATASET={checkout.dataset}").returncode == 0
    files = [*checkout.run.iterdir(), checkout.root / "results/report.html"]
    before = {path: path.stat().st_mtime_ns for path in files}
    done = checkout.make("all", f"DATASET={checkout.dataset}")
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert "infer:" not in done.stdout
    assert "verify: pass" in done.stdout
    assert not list((checkout.root / "build").glob("plan-*"))


@pytest.mark.parametrize(("batch", "streams"), [("5", 1), ("auto", cores())])
def test_another_batch_is_another_run_over_the_same_engine(
    checkout: Checkout, batch: str, streams: int
) -> None:
    engines = sorted((checkout.root / "build/engine").rglob("*.onnx"))
    words = ["PROFILE=minilm-sample", f"DATASET={checkout.dataset}", f"BATCH={batch}"]
    done = checkout.make("verify", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "engine:" not in done.stdout
    assert "verify: pass" in done.stdout
    assert sorted((checkout.root / "build/engine").rglob("*.onnx")) == engines
    (folder,) = (checkout.root / "results/minilm-sample").glob(f"ort-cpu-fp32-batch{batch}-tiny_*")
    timings = json.loads((folder / "timings.json").read_text(encoding="utf-8"))
    assert timings["streams"] == streams
    assert (folder / "predictions.json").read_bytes() == (
        checkout.run / "predictions.json"
    ).read_bytes()
    shutil.rmtree(folder)


def test_remeasure_times_again(checkout: Checkout) -> None:
    words = ["PROFILE=minilm-sample", f"DATASET={checkout.dataset}"]
    before = (checkout.run / "run.json").stat().st_mtime_ns
    done = checkout.make("all", *words, "REMEASURE=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "infer:" in done.stdout
    assert (checkout.run / "run.json").stat().st_mtime_ns > before


def test_what_is_gone_is_made_again(checkout: Checkout) -> None:
    words = ["PROFILE=minilm-sample", f"DATASET={checkout.dataset}"]
    for folder in ("onnx", "engine", "reference"):
        shutil.rmtree(checkout.root / "build" / folder)
    (checkout.run / "logits.npz").unlink()
    (checkout.root / "build/records/minilm-sample/model.json").write_text("{}")
    answers = (checkout.run / "predictions.json").read_bytes()
    done = checkout.make("all", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (checkout.run / "predictions.json").read_bytes() == answers


def test_limit_is_never_comparable(checkout: Checkout) -> None:
    done = checkout.make("verify", "PROFILE=minilm-sample", "LIMIT=3")
    assert done.returncode == 2, done.stdout
    assert "no accuracy limits hold for the first 3 questions" in done.stdout
    assert "verify: fail" in done.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["PROFILE=nonesuch"], "no profile 'nonesuch'"),
        (["PROFILE=../profiles/minilm-sample"], "no profile"),
        (["BACKEND=abacus"], "no backend 'abacus'"),
        (["PRECISION=int1"], "no precision 'int1'"),
        (["BATCH=0"], "BATCH is '0'"),
        (["BATCH=8; touch hit"], "BATCH is"),
        (["LIMIT=-1"], "LIMIT is"),
        (["LIMIT=²"], "LIMIT is"),
        (["DATASET=missing.json"], "DATASET 'missing.json' is no file"),
        (["OFFLINE=yes"], "OFFLINE is 'yes'"),
        (["REMEASURE=maybe"], "REMEASURE is 'maybe'"),
        (["DEVICE=7"], "has no device 7"),
        (["PROFILE=$(shell touch hit)"], "no profile '$(shell touch hit)'"),
        (["BACKEND=`touch hit`"], "no backend '`touch hit`'"),
    ],
)
def test_a_wrong_variable_gets_one_line(
    checkout: Checkout, words: list[str], expected: str
) -> None:
    # OFFLINE is read when assets are fetched, which must not be up to date then.
    for record in (checkout.root / "build/records/minilm-squad").glob("*"):
        record.unlink()
    profile = [] if words[0].startswith("PROFILE") else ["PROFILE=minilm-squad"]
    done = checkout.make("assets", *profile, *words)
    assert done.returncode == 2
    lines = error_lines(done)
    assert len(lines) == 1, done.stderr
    assert "No such file" not in done.stderr
    assert expected in lines[0]
    assert not (checkout.root / "hit").exists()


def test_free_text_reaches_no_shell_and_no_make_function(checkout: Checkout) -> None:
    passage = 'Ada\'s "engine" cost $(shell touch hit) `touch hit` $$5 ${HOME}\nin #1843; touch hit'
    done = checkout.make(
        "ask", "PROFILE=minilm-sample", f"PASSAGE={passage}", "QUESTION=What's $(shell touch hit)?"
    )
    assert done.returncode == 0, done.stderr
    assert "probability" in done.stdout
    assert not (checkout.root / "hit").exists()


def test_ask_finds_the_answer(checkout: Checkout) -> None:
    done = checkout.make(
        "ask",
        "PROFILE=minilm-sample",
        "PASSAGE=The bridge was opened in 1932 after eight years of work.",
        "QUESTION=When was the bridge opened?",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1932"), done.stdout


def test_evaluate_scores_any_predictions_file(checkout: Checkout, tmp_path: Path) -> None:
    run = checkout.make("evaluate", "PROFILE=minilm-sample", f"DATASET={checkout.dataset}")
    file = checkout.make(
        "evaluate",
        f"PREDICTIONS={checkout.run / 'predictions.json'}",
        f"DATASET={checkout.dataset}",
    )
    assert run.returncode == file.returncode == 0, run.stderr + file.stderr
    assert run.stdout == file.stdout
    assert run.stdout.startswith("exact_match ")
    empty = tmp_path / "none.json"
    empty.write_text("{}")
    none = checkout.make("evaluate", f"PREDICTIONS={empty}", f"DATASET={checkout.dataset}")
    assert none.stdout.startswith("exact_match 0.0000  f1 0.0000")
    assert "have no prediction" in none.stderr


def test_bert_base_without_network_names_asset_and_sources(checkout: Checkout) -> None:
    before = sorted((checkout.root / "build").rglob("*"))
    done = checkout.make("all", "PROFILE=bert-base-squad")
    assert done.returncode == 2
    (line,) = error_lines(done)
    for word in ("bert-base", "ASSET_MIRROR", "OFFLINE"):
        assert word in line
    after = [path for path in sorted((checkout.root / "build").rglob("*")) if path.is_file()]
    assert [path for path in after if path not in before and ".locks" not in path.parts] == []


def test_a_killed_run_goes_on_where_it_was(checkout: Checkout) -> None:
    words = ["make", "verify", "PROFILE=minilm-sample", f"DATASET={checkout.dataset}", "BATCH=3"]
    process = subprocess.Popen(
        words,
        cwd=checkout.root,
        env=checkout.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    # In the middle of it on any machine: planning alone takes a second.
    time.sleep(2.5)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not list((checkout.root / "results").rglob("*batch3*/run.json"))
    done = checkout.make(*words[1:])
    assert done.returncode == 0, done.stdout + done.stderr
    leftovers = [
        *(checkout.root / "build").rglob(".tmp-*"),
        *(checkout.root / "build").glob("plan-*"),
    ]
    assert leftovers == []
    (folder,) = (checkout.root / "results/minilm-sample").glob("*batch3*")
    assert (folder / "predictions.json").read_bytes() == (
        checkout.run / "predictions.json"
    ).read_bytes()
    shutil.rmtree(folder)


def test_a_second_make_waits_and_names_the_first(checkout: Checkout) -> None:
    words = ["make", "infer", "PROFILE=minilm-sample", f"DATASET={checkout.dataset}", "BATCH=2"]
    first = subprocess.Popen(
        words, cwd=checkout.root, env=checkout.environment(), stdout=subprocess.PIPE
    )
    deadline = time.monotonic() + 20
    owner = checkout.root / "build/owner"
    while str(first.pid) not in owner.read_text().split() and time.monotonic() < deadline:
        time.sleep(0.05)
    second = checkout.make("onnx", "PROFILE=minilm-sample")
    # The second one ended only after the first had.
    assert first.poll() == 0
    assert second.returncode == 0, second.stderr
    assert f"waiting for make process {first.pid}" in second.stderr
    (folder,) = (checkout.root / "results/minilm-sample").glob("*batch2*")
    shutil.rmtree(folder)
    assert first.stdout is not None
    first.stdout.close()


def test_an_interpreter_that_does_not_suit_is_refused(checkout: Checkout) -> None:
    done = checkout.command(
        "sh", "scripts/make_venv.sh", "none", "none/.ready", "requirements.txt", PYTHON="/bin/false"
    )
    assert done.returncode == 2
    assert error_lines(done) == [
        "error: PYTHON='/bin/false' is no Python 3.10 to 3.12; name another interpreter"
    ]
