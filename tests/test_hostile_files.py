"""Hostile files are taken or refused in one line: no exception, no program run, within bounds."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.assets import AssetStore
from harness.errors import UserError
from harness.manifest import Asset

RUN = Path(__file__).with_name("fuzz_run.py")
QUICK_SEED = 7
# Of each target, there are 14 of them: 308 inputs.
QUICK_COUNT = 22
FULL_COUNT = 2000


def fuzz(*words: str) -> list[dict[str, Any]]:
    """What fuzz_run tells of each target or bomb; it ends well only if all of them did."""
    done = subprocess.run(
        [sys.executable, str(RUN), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def inputs(told: list[dict[str, Any]]) -> int:
    return sum(one.get("taken", 0) + one.get("refused", 0) for one in told)


def test_a_quick_draw(tmp_path: Path) -> None:
    told = fuzz(str(tmp_path), "--seed", str(QUICK_SEED), "--count", str(QUICK_COUNT))
    assert inputs(told) >= 300


@pytest.mark.full
def test_a_long_draw(tmp_path: Path, capsys: Any) -> None:
    seed = secrets.randbits(32)
    told = fuzz(str(tmp_path), "--seed", str(seed), "--count", str(FULL_COUNT))
    with capsys.disabled():
        print(f"\nhostile files, seed {seed}: {inputs(told)} inputs")
        for one in told:
            print(json.dumps(one))
    assert inputs(told) >= 20_000
    # A target that takes nothing, or everything, is aimed badly.
    for one in told:
        assert one["taken"] and one["refused"], one


@pytest.mark.full
def test_files_that_stand_for_much(tmp_path: Path, capsys: Any) -> None:
    told = fuzz(str(tmp_path), "--bombs")
    with capsys.disabled():
        largest = max(one["grown_mib"] for one in told)
        slowest = max(one["slowest_s"] for one in told)
        print(f"\nbombs: {inputs(told)}, at most {largest} MiB and {slowest} s")
    assert inputs(told) == len(told) >= 100


CARELESS = """
import os, sys, time
from pathlib import Path
import fuzz_run
from harness.errors import UserError
fuzz_run.MOST_SECONDS = 0.2
def refuse(text):
    raise UserError(text)
readers = {
    "raises": lambda path: {}["x"],
    "runs": lambda path: Path("canary").touch(),
    "waits": lambda path: time.sleep(60),
    "hangs": lambda path: sum(range(10**12)),
    "hogs": lambda path: bytes(3 << 30),
    "talks": lambda path: refuse("x" * 5000),
    "rambles": lambda path: refuse("one\\ntwo"),
    "dies": lambda path: os.kill(os.getpid(), 11),
    "is good": lambda path: None,
}
for name, read in readers.items():
    fuzz_run.LONGEST_WAIT_SECONDS = 0.5 if name == "waits" else 60
    def work(place, read=read):
        judge = fuzz_run.Judge(fuzz_run.Target("x", read, [], None))
        judge(place / "x")
        return judge
    fuzz_run.apart({"reader": name}, Path(sys.argv[1]), work)
"""


def test_a_careless_reader_is_found_out(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CARELESS, str(tmp_path)],
        cwd=RUN.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = {one["reader"]: one.get("problem") for one in map(json.loads, done.stdout.splitlines())}
    assert told.pop("is good") is None
    assert told.pop("runs") == "ran as a program"
    assert told.pop("waits") == "waits over 0.5 s"
    assert told.pop("hangs") == "over 0.2 s"
    assert told.pop("dies").startswith("signal ")
    assert set(told.values()) == {"failed, see above"} and len(told) == 4


@pytest.mark.full
@pytest.mark.parametrize("target", ["squad", "manifest", "torch checkpoint", "tar", "wheel"])
def test_what_coverage_leads_to(tmp_path: Path, target: str, capsys: Any) -> None:
    pytest.importorskip("atheris")
    seed = secrets.randbits(31)
    program = RUN.with_name("fuzz_guided.py")
    words = [target, str(tmp_path / "guided"), "-runs=1000", f"-seed={seed}", "-max_len=4096"]
    done = subprocess.run(
        [sys.executable, str(program), *words],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    with capsys.disabled():
        print(f"\n{target}, led by coverage, seed {seed}: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done 1000 runs" in done.stderr
    assert not list(tmp_path.rglob("canary"))


def test_alternatives_that_meet_again_are_tried_once(tmp_path: Path) -> None:
    """Sixty levels of two assets each: 2^60 ways to the one with a source, and it is missing."""
    assets = {}
    for level in range(60):
        below = (f"a{level + 1}", f"b{level + 1}") if level < 59 else ("none",)
        for name in (f"a{level}", f"b{level}"):
            assets[name] = Asset(name, "a test asset", "Apache-2.0", alternatives=below)
    places = {"root": tmp_path, "cache": tmp_path / "cache", "lock_file": tmp_path / "lock.json"}
    with pytest.raises(UserError, match="no asset 'none'"):
        AssetStore(assets, **places).obtain("a0")
