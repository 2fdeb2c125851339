"""Kills at any moment, full disks, hostile environments: the next `make all` goes on by itself.

Whatever a user can cause ends in exit code 2 and one line that names the cause and the next step.
KILLS is how many moments are tried, KILLS_SEED which.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from bad_nights import (
    Disks,
    all_end,
    clone,
    error_lines,
    kill,
    listing,
    living,
    occupied,
    own_disks,
)
from conftest import Checkout

from harness.paths import ROOT
from harness.records import from_the_future

full = pytest.mark.full
# For the kills together, on any machine.
BUDGET_SECONDS = 3000.0
DAY = 86400


def all_of(checkout: Checkout) -> list[str]:
    # One window a batch: the warm-up, at full length, is most of a short run.
    return ["all", "PROFILE=minilm-sample", f"DATASET={checkout.dataset}", "BATCH=1"]


@dataclass(frozen=True)
class Undisturbed:
    """How a `make all` goes on a good night: its seconds, its answers, and what it leaves."""

    seconds: float
    predictions: bytes
    files: set[str]


@pytest.fixture(scope="module")
def night(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout of these tests' own, whose downloads can be had again."""
    folder = tmp_path_factory.mktemp("bad nïghts")
    made = clone(checkout, folder / "clone")
    shutil.copytree(made.root / "build/assets", folder / "mirror")
    made.variables["ASSET_MIRROR"] = str(folder / "mirror")
    return made


@pytest.fixture(scope="module")
def undisturbed(night: Checkout) -> Undisturbed:
    """One good night in it, from clean, so that every file is of the same age."""
    assert night.make("clean").returncode == 0
    began = time.monotonic()
    done = night.make(*all_of(night))
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stdout + done.stderr
    return Undisturbed(seconds, predictions(night), listing(night.root))


@pytest.fixture
def disks() -> Iterator[Disks]:
    """Disks that this test alone sees."""
    with own_disks() as found:
        if found is None:
            pytest.skip("mounts are not permitted here, neither to this user nor in a namespace")
        yield found


def after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def run_of(checkout: Checkout) -> Path:
    (found,) = (checkout.root / "results/minilm-sample").glob("ort-cpu-fp32-batch1-*")
    return found


def predictions(checkout: Checkout) -> bytes:
    return (run_of(checkout) / "predictions.json").read_bytes()


# Kills


@full
def test_all_goes_on_after_a_kill_at_any_moment(
    night: Checkout,
    undisturbed: Undisturbed,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kills = int(os.environ.get("KILLS") or 100)
    seed = int(os.environ.get("KILLS_SEED") or random.SystemRandom().randrange(10**6))
    moments = random.Random(seed)
    ends = time.monotonic() + BUDGET_SECONDS
    tried = killed = waited = 0
    for number in range(kills):
        if time.monotonic() > ends:
            break
        moment, group = moments.uniform(0, undisturbed.seconds), number % 2 == 0
        where = f"KILLS_SEED={seed}, kill {number + 1} after {moment:.3f} s, group {group}"
        assert night.make("clean").returncode == 0
        log = tmp_path / "killed.log"
        killed += kill(night, all_of(night), after(moment), group=group, log=log)
        done = night.make(*all_of(night))
        assert done.returncode == 0, f"{where}\n{done.stdout}{done.stderr}"
        assert error_lines(done.stderr) == [], where
        assert predictions(night) == undisturbed.predictions, where
        assert all_end(log), f"{where}\n{log.read_text()}"
        assert listing(night.root) == undisturbed.files, where
        assert all("has ended" in line for line in error_lines(log.read_text())), log.read_text()
        waited += "goes on without its make" in done.stderr
        tried += 1
    with capsys.disabled():
        print(
            f"\nKILLS_SEED={seed}: {tried} of {kills} moments tried in {undisturbed.seconds:.1f} s "
            f"each, {killed} before the end, {waited} times the next make waited for a stage"
        )
    assert killed >= tried / 2


def test_kill_of_make_alone_leaves_no_plan_and_no_stage_behind(
    checkout: Checkout, tmp_path: Path
) -> None:
    before, log = listing(checkout.root), tmp_path / "killed.log"
    words = ["onnx", "PROFILE=minilm-sample", "LIMIT=1"]

    def planning() -> bool:
        return any("plan.py" in command for command in living(log))

    # plan.py has just been started: it goes on, and finds its make gone.
    assert kill(checkout, words, planning, group=False, log=log)
    assert planning()
    done = checkout.make(*words)
    assert done.returncode == 0, done.stderr
    assert all_end(log), log.read_text()
    (line,) = error_lines(log.read_text())
    assert "has ended; run the same command again" in line
    assert listing(checkout.root) == before


@full
def test_of_two_makes_at_once_the_second_waits_and_does_nothing_again(
    night: Checkout, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    assert night.make("clean").returncode == 0
    with (tmp_path / "first.log").open("wb") as stream:
        first = subprocess.Popen(
            ["make", *all_of(night)],
            cwd=night.root,
            env=night.environment(),
            stdout=stream,
            stderr=stream,
        )
        second = night.make(*all_of(night))
        assert first.wait() == 0, (tmp_path / "first.log").read_text()
    assert second.returncode == 0, second.stdout + second.stderr
    told = (tmp_path / "first.log").read_text() + second.stdout + second.stderr
    # Whichever came first: they began at once.
    assert told.count("waiting for make process") == 1
    assert told.count(" questions, ") == told.count("crosscheck: ") == 1
    assert told.count("verify: pass") == 2
    assert predictions(night) == undisturbed.predictions
    assert listing(night.root) == undisturbed.files


# Disks

# Each stage, the folder whose disk is full, what is taken away so that the stage has work, and
# how many bytes it can write before the disk is full.
STAGES = {
    "assets": ("build/assets", ["build/assets/minilm"], 1 << 20),
    "records": ("build/records", ["build/records"], 0),
    "onnx": ("build/onnx", ["build/onnx"], 1 << 20),
    "engine": ("build/engine", ["build/engine"], 1 << 20),
    "infer": ("results", ["results/minilm-sample"], 1 << 13),
    "reference": ("build/reference", ["build/reference"], 1 << 12),
    "crosscheck": ("results", ["results/minilm-sample/*/crosscheck.json"], 0),
    "verify": ("results", ["results/verify.*"], 1 << 12),
    "report": ("results", ["results/report.*"], 1 << 13),
}


@full
@pytest.mark.parametrize("stage", STAGES)
def test_full_disk_is_one_line_and_nothing_half_written(
    night: Checkout, undisturbed: Undisturbed, disks: Disks, stage: str
) -> None:
    place, taken, room = STAGES[stage]
    folder = night.root / place
    goals = {"records": "all", "reference": "crosscheck"}
    words = [goals.get(stage, stage), *all_of(night)[1:]]
    done = night.make(*all_of(night))
    assert done.returncode == 0, done.stdout + done.stderr
    for path in [path for pattern in taken for path in night.root.glob(pattern)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    disks.make_small(night, folder, room)
    seen = disks.seen(night.root)
    before = listing(seen)

    failed = disks.run(night, "make", *words)
    assert failed.returncode == 2, failed.stdout + failed.stderr
    (line,) = error_lines(failed.stderr)
    assert "No space left on device" in line and place in line, line
    assert line.endswith("check free space and permissions, then run the same command again")
    new = listing(seen) - before
    assert new <= undisturbed.files, new
    assert not [path for path in new if path.endswith("/run.json")]

    disks.make_large(night, folder)
    again = disks.run(night, "make", *words)
    assert again.returncode == 0, again.stdout + again.stderr
    done = disks.run(night, "make", *all_of(night))
    assert done.returncode == 0, done.stdout + done.stderr
    assert listing(seen) == undisturbed.files


@full
def test_disk_that_is_full_at_any_point_of_all(
    night: Checkout, undisturbed: Undisturbed, disks: Disks
) -> None:
    assert night.make("clean").returncode == 0
    disks.make_small(night, night.root, 0)
    base = occupied(night.root)
    # From no room at all to enough: graph and engine take 90 MB each.
    steps = [0, 1 << 12, 1 << 16, *(n * (24 << 20) for n in range(1, 13))]
    failures = 0
    for room in steps:
        disks.mount(night, "-o", f"remount,size={base + room}", str(night.root))
        done = disks.run(night, "make", *all_of(night))
        if done.returncode == 0:
            break
        failures += 1
        assert done.returncode == 2, done.stdout + done.stderr
        (line,) = error_lines(done.stderr)
        assert "No space left on device" in line, line
        left = [path for path in listing(disks.seen(night.root)) if ".tmp-" in path]
        assert left == []
    else:
        pytest.fail(f"still no room with {steps[-1]} bytes")
    assert failures >= 4
    (answers,) = disks.seen(night.root).glob("results/minilm-sample/*/predictions.json")
    assert answers.read_bytes() == undisturbed.predictions
    assert listing(disks.seen(night.root)) == undisturbed.files


@full
@pytest.mark.parametrize("place", ["results", "build", "."])
def test_read_only_folder_is_one_line_at_once(
    night: Checkout, undisturbed: Undisturbed, disks: Disks, place: str
) -> None:
    assert night.make(*all_of(night)).returncode == 0
    disks.make_read_only(night, night.root / place)
    before = listing(night.root)
    began = time.monotonic()
    done = disks.run(night, "make", *all_of(night), "REMEASURE=1")
    assert done.returncode == 2
    (line,) = error_lines(done.stderr)
    assert "Read-only file system" in line and str(night.root) in line, line
    # Before anything is measured, not after.
    assert "infer:" not in done.stdout
    assert time.monotonic() - began < undisturbed.seconds
    assert listing(night.root) == before
    if place == "results":
        # What has been made and judged can be judged again.
        again = disks.run(night, "make", *all_of(night))
        assert again.returncode == 0, again.stdout + again.stderr


@full
def test_temporary_folder_that_is_full_or_missing(
    night: Checkout, undisturbed: Undisturbed, disks: Disks, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    disks.make_small(night, tmp_path / "full", 0)
    for name in ("full", "missing"):
        words = [*all_of(night), "REMEASURE=1"]
        done = disks.run(night, "make", *words, TMPDIR=str(tmp_path / name))
        assert done.returncode == 0, done.stdout + done.stderr
    assert predictions(night) == undisturbed.predictions


# Environments

HOSTILE = {
    "no home": {"HOME": "/nonexistent"},
    "C locale": {"LC_ALL": "C", "LANG": "C"},
    "odd locale": {"LC_ALL": "xx_YY.latin-9"},
    "PYTHONHOME": {"PYTHONHOME": "/nonexistent"},
    "PYTHONPATH": {"PYTHONPATH": "{decoys}"},
    "other Pythons": {"PYTHONSAFEPATH": "1", "PYTHONIOENCODING": "ascii", "PYTHONOPTIMIZE": "2"},
    "CDPATH": {"CDPATH": "{decoys}:/"},
    "-j8": {"MAKEFLAGS": "-j8"},
    "no temporary folder": {"TMPDIR": "/nonexistent"},
    "no terminal": {"TERM": ""},
}
# What a user's folder on PYTHONPATH may hold, and none of it is ours.
DECOYS = ("numpy", "rich", "yaml", "random", "harness", "onnxruntime")


@pytest.fixture(scope="module")
def decoys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of modules that fail when they are imported, and of folders named as ours."""
    folder = tmp_path_factory.mktemp("decoys")
    for name in DECOYS:
        (folder / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    for name in ("scripts", "build", "results"):
        (folder / name).mkdir()
    return folder


def test_verify_in_all_hostile_environments_at_once(checkout: Checkout, decoys: Path) -> None:
    variables = {
        name: value.format(decoys=decoys)
        for given in HOSTILE.values()
        for name, value in given.items()
    }
    words = ["verify", *all_of(checkout)[1:3]]
    limits = 'umask 077 && ulimit -n 64 && exec "$0" "$@"'
    done = checkout.command("sh", "-c", limits, "make", *words, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert error_lines(done.stderr) == []
    assert "verify: pass" in done.stdout


@full
@pytest.mark.parametrize("name", HOSTILE)
def test_all_in_a_hostile_environment(
    night: Checkout, undisturbed: Undisturbed, decoys: Path, name: str
) -> None:
    variables = {key: value.format(decoys=decoys) for key, value in HOSTILE[name].items()}
    assert night.make("clean").returncode == 0
    done = night.make(*all_of(night), **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert error_lines(done.stderr) == []
    assert predictions(night) == undisturbed.predictions
    assert listing(night.root) == undisturbed.files


@full
@pytest.mark.parametrize(
    "wrapper",
    [
        "unset HOME LC_ALL LANG LANGUAGE LC_CTYPE; exec",
        "umask 077; exec",
        "ulimit -n 64; exec",
        "exec <&-; exec",
        "exec >&-; exec",
        "exec 2>&-; exec",
        "exec <&- >&- 2>&-; exec",
        "exec </dev/null >/dev/null 2>/dev/null; exec",
        # As a daemon or a job of cron starts it: no terminal to control it.
        "exec setsid --wait",
    ],
)
def test_all_under_a_wrapper(night: Checkout, undisturbed: Undisturbed, wrapper: str) -> None:
    assert night.make("clean").returncode == 0
    done = night.command("sh", "-c", f'{wrapper} "$0" "$@"', "make", *all_of(night))
    assert done.returncode == 0, done.stdout + done.stderr
    assert error_lines(done.stderr) == []
    assert predictions(night) == undisturbed.predictions
    assert listing(night.root) == undisturbed.files


@full
def test_output_onto_a_full_disk_is_one_line(checkout: Checkout) -> None:
    words = ["evaluate", *all_of(checkout)[1:3]]
    done = checkout.command("sh", "-c", 'exec "$0" "$@" >/dev/full', "make", *words)
    assert done.returncode == 2
    (line,) = error_lines(done.stderr)
    assert "No space left on device" in line


COMMAND = """
import sys
sys.path.insert(0, sys.argv.pop(1))
target = sys.argv.pop()
from harness.errors import OK, run_command
def main():
    print("answer" * 10000)
    print("progress", file=sys.stderr)
    taken = open(target, "w")
    import os
    os.write(1, b"from a library")
    os.write(2, b"from a library")
    return OK
run_command(main, "")
"""


@pytest.mark.parametrize(
    ("streams", "code"),
    [
        ("<&- >&- 2>&-", 0),
        (">&-", 0),
        ("2>&-", 0),
        (">/dev/full", 2),
        (">/dev/full 2>/dev/full", 2),
    ],
)
def test_command_without_its_streams(tmp_path: Path, streams: str, code: int) -> None:
    target = tmp_path / "file"
    words = [sys.executable, "-c", COMMAND, str(ROOT / "scripts"), str(target)]
    shell = f'exec "$0" "$@" {streams}'
    done = subprocess.run(["sh", "-c", shell, *words], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert len(error_lines(done.stderr)) == (1 if "2>" not in streams and code else 0)
    # What a library prints must not end up in a file that got the stream's number.
    if target.exists():
        assert target.read_bytes() == b""


def test_dry_run_takes_nothing_away(checkout: Checkout) -> None:
    run = checkout.run / "run.json"
    before, files = run.stat().st_mtime_ns, listing(checkout.root)
    done = checkout.make("-n", *all_of(checkout)[:3], "REMEASURE=1")
    assert done.returncode == 0, done.stderr
    assert "scripts/infer.py" in done.stdout
    assert run.stat().st_mtime_ns == before
    assert listing(checkout.root) == files


# Clocks


def test_file_from_the_future_is_known(tmp_path: Path) -> None:
    path = tmp_path / "record"
    assert not from_the_future(path)
    path.write_text("{}")
    assert not from_the_future(path)
    os.utime(path, (time.time() + 60, time.time() + 60))
    assert from_the_future(path)


@full
def test_clock_that_has_jumped_back(night: Checkout, undisturbed: Undisturbed) -> None:
    assert night.make(*all_of(night)).returncode == 0
    made = [*run_of(night).iterdir(), *(night.root / "results").glob("*.*")]
    made += (night.root / "build/records").rglob("*.json")
    tomorrow = time.time() + DAY
    for path in made:
        os.utime(path, (tomorrow, tomorrow))
    report = json.loads((night.root / "results/verify.json").read_text())
    done = night.make(*all_of(night))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "infer:" in done.stdout and "crosscheck:" in done.stdout
    assert "report:" in done.stdout
    assert "Clock skew" not in done.stderr
    late = [path for path in made if path.stat().st_mtime > time.time()]
    # What is compared by content alone may keep its time.
    assert all(path.name in ("verify.xml",) for path in late), late
    assert json.loads((night.root / "results/verify.json").read_text()) != report
    assert predictions(night) == undisturbed.predictions
    again = night.make(*all_of(night))
    assert "infer:" not in again.stdout and "report:" not in again.stdout
