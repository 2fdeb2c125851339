"""Comparing two runs: what counts as a difference, what is refused, and 80 columns."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from run_builders import HOSTILE, QUESTIONS, write_dataset, write_run

from harness.compare import Difference, compare, find_run, show
from harness.errors import UserError
from harness.paths import ROOT

SAME = {key: key for key in QUESTIONS}


def printed(found: Difference, width: int = 200) -> str:
    stream = io.StringIO()
    show(found, Console(file=stream, width=width, highlight=False, markup=False, emoji=False))
    return stream.getvalue()


def test_scores_speed_answers_and_environment(tmp_path: Path) -> None:
    a = write_run(tmp_path, "p/a")
    b = write_run(
        tmp_path,
        "p/b",
        {**SAME, "q1": "wrong", "q2": "The Q2!"},
        slowness=2.0,
        environment={"python": "3.12.1", "packages": {"numpy": "2.4.6", "onnx": "1.23.2"}},
        device={"name": "Test CPU (2 cores)", "clock_mhz": [3000.0]},
        started="2027-01-01T00:00:00Z",
    )
    found = compare(a, b, tmp_path)
    assert [(change.question, change.right) for change in found.answers] == [
        ("q1", "A"),
        ("q2", "both"),
    ]
    assert found.environment == {
        "environment.python": ("3.11.7", "3.12.1"),
        "environment.packages.onnx": ("–", "1.23.2"),
    }
    text = printed(found)
    for expected in ("+0.00", "-50.0%", "+100.0%", "800.00", "400.00", "2 of 8 answers changed"):
        assert expected in text
    assert "1 A alone right, 1 both right" in text


def test_a_run_equals_itself(tmp_path: Path) -> None:
    a = write_run(tmp_path, "p/a")
    found = compare(a, a, tmp_path)
    assert (found.answers, found.environment) == ([], {})
    assert "0 of 8 answers changed" in printed(found)


def test_lines_fit_80_columns_whatever_they_hold(tmp_path: Path) -> None:
    a = write_run(tmp_path, "p/a", dict.fromkeys(QUESTIONS, f"{HOSTILE} 長い答え" * 9))
    b = write_run(tmp_path, "p/b" * 30, device={"name": HOSTILE * 9, "[red]": "x" * 300})
    text = printed(compare(a, b, tmp_path))
    assert max(cell_len(line) for line in text.splitlines()) <= 80
    assert "\x1b" not in text
    assert max(cell_len(line) for line in printed(compare(a, b, tmp_path), 60).splitlines()) <= 60


def test_a_late_difference_is_not_cut_off(tmp_path: Path) -> None:
    system = "Linux-6.1.0-13-amd64-x86_64-with-glibc"
    runs = [
        write_run(tmp_path, name, environment={"system": f"{system}{version}"})
        for name, version in (("p/a", "2.36"), ("p/b", "2.37"))
    ]
    text = printed(compare(*runs, tmp_path))
    assert "glibc2.36" in text
    assert "glibc2.37" in text


def test_twenty_answers_are_shown(tmp_path: Path) -> None:
    keys = [f"k{i:02}" for i in range(30)]
    write_dataset(tmp_path, keys)
    a = write_run(tmp_path, "p/a", {key: key for key in keys})
    b = write_run(tmp_path, "p/b", dict.fromkeys(keys, "x"))
    text = printed(compare(a, b, tmp_path))
    assert "k19" in text
    assert "k20" not in text
    assert "10 more are not shown" in text


def test_without_the_dataset_nobody_is_right(tmp_path: Path) -> None:
    a, b = write_run(tmp_path, "p/a"), write_run(tmp_path, "p/b", {**SAME, "q1": "wrong"})
    write_dataset(tmp_path, [*QUESTIONS, "another"])
    changed = compare(a, b, tmp_path)
    assert [change.right for change in changed.answers] == [None]
    assert any("has changed" in remark for remark in changed.remarks)
    (tmp_path / "assets" / "sample.json").unlink()
    assert any("does not exist" in remark for remark in compare(a, b, tmp_path).remarks)


def test_other_questions_are_refused(tmp_path: Path) -> None:
    a, b = write_run(tmp_path, "p/a"), write_run(tmp_path, "p/b", {"q1": "q1"})
    with pytest.raises(UserError, match="A answers 8 questions and B 1"):
        compare(a, b, tmp_path)


def test_other_datasets_with_the_same_questions_are_noted(tmp_path: Path) -> None:
    a = write_run(tmp_path, "p/a")
    b = write_run(tmp_path, "p/b", dataset={"path": "other.json", "sha256": "0" * 64})
    assert any("dataset files differ" in remark for remark in compare(a, b, tmp_path).remarks)


def test_finding_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, results = write_run(tmp_path, "p/a"), tmp_path / "results"
    monkeypatch.chdir(tmp_path.parent)
    for value in (str(folder), "results/p/a", "results/p/a/", "p/a"):
        assert find_run("A", value, results, tmp_path) == folder
    for nothing in (None, ""):
        with pytest.raises(UserError, match=r"A is not set.*p/a"):
            find_run("A", nothing, results, tmp_path)
    with pytest.raises(UserError, match=r"B 'p/b' holds no run\.json.*p/a"):
        find_run("B", "p/b", results, tmp_path)


def test_the_command_ends_in_one_line_without_its_variables() -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("A", "B")}
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "compare.py"],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: A is not set")
    assert done.stderr.count("\n") == 1
