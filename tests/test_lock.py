"""Locks between processes: one holder, named to those who wait, freed by its end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness import lock
from harness.errors import UserError
from harness.lock import claim_checkout, device_lock, stage_of
from harness.paths import ROOT

HOLDER = """
import pathlib, sys, time
sys.path.insert(0, sys.argv[1])
from harness import lock
lock.LOCKS = pathlib.Path(sys.argv[2])
with lock.device_lock("cpu"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks of these tests meet no other run's on this machine."""
    monkeypatch.setattr(lock, "LOCKS", tmp_path)


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock on "cpu"."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(ROOT / "scripts"), str(folder)],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def take(device: str = "cpu", patience: float = 0) -> None:
    with device_lock(device, patience):
        pass


def test_second_process_is_told_who_holds_the_device(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        with pytest.raises(UserError) as caught:
            take()
        assert str(caught.value) == (
            f"device cpu is held by process {process.pid} in {tmp_path}; "
            "end that run or wait for it"
        )
        # Other devices are free.
        take("cuda-0")
        # A kill leaves no lock behind.
        process.send_signal(signal.SIGKILL)
        process.wait()
        take()


def test_lock_is_free_after_use_and_after_an_error() -> None:
    take()

    def fail() -> None:
        with device_lock("cpu", 0):
            raise KeyError("x")

    with pytest.raises(KeyError):
        fail()
    take()


def test_lock_excludes_within_one_process_too() -> None:
    with device_lock("cpu", 0), pytest.raises(UserError, match=f"process {os.getpid()} "):
        take()
    take()


def test_waiting_is_said_once_and_ends_with_the_holder(capsys: pytest.CaptureFixture[str]) -> None:
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with device_lock("cpu", 0):
            held.set()
            release.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(20)
    timer = threading.Timer(0.6, release.set)
    timer.start()
    try:
        began = time.monotonic()
        take(patience=20)
        assert time.monotonic() - began > 0.4
    finally:
        release.set()
        timer.join()
        thread.join()
    message = capsys.readouterr().err
    assert message == f"waiting for device cpu, held by process {os.getpid()} in {Path.cwd()}\n"


def test_file_is_everybodys_and_says_nothing_once_free(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with device_lock("cpu", 0):
            (path,) = tmp_path.iterdir()
            assert path.read_text() == f"process {os.getpid()} in {Path.cwd()}\n"
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666
    assert path.read_text() == ""


def test_longer_text_of_an_earlier_holder_goes(tmp_path: Path) -> None:
    take()
    (path,) = tmp_path.iterdir()
    path.write_text("x" * 5000)
    with device_lock("cpu", 0):
        assert path.read_text() == f"process {os.getpid()} in {Path.cwd()}\n"


def test_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    take()
    (path,) = (p for p in tmp_path.iterdir() if p != victim)
    path.unlink()
    path.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        take()
    assert victim.read_text() == "precious"


@contextmanager
def sleeper(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing."""
    process = subprocess.Popen(command or ("sleep", "60"))
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def claim(record: Path, make_pid: int, patience: float) -> None:
    with claim_checkout(record, make_pid, patience):
        pass


def test_checkout_belongs_to_the_living_make_that_came_first(tmp_path: Path) -> None:
    record = tmp_path / "build" / "owner"
    with sleeper() as first, sleeper() as second:
        claim(record, first.pid, 0)
        # The stages of one make claim it again and again.
        claim(record, first.pid, 0)
        with pytest.raises(UserError, match=f"make process {first.pid} .* is still running"):
            claim(record, second.pid, 0)
        first.kill()
        first.wait()
        claim(record, second.pid, 0)
        with pytest.raises(UserError, match=f"make process {second.pid} "):
            claim(record, os.getpid(), 0)


def test_owner_that_has_ended_owns_nothing_before_its_parent_asks(tmp_path: Path) -> None:
    record = tmp_path / "owner"
    with sleeper() as first:
        claim(record, first.pid, 0)
        first.kill()
        # Nobody calls wait(): the process stays in the table, ended.
        claim(record, os.getpid(), 20)
        assert Path(f"/proc/{first.pid}/stat").exists()


def test_claim_waits_for_the_owner_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "owner"
    with sleeper("sleep", "0.6") as first:
        claim(record, first.pid, 0)
        claim(record, os.getpid(), 20)
    assert capsys.readouterr().err == f"waiting for make process {first.pid} in this checkout\n"


def test_number_used_again_by_another_process_owns_nothing(tmp_path: Path) -> None:
    record = tmp_path / "owner"
    with sleeper() as other:
        claim(record, other.pid, 0)
        pid, started = record.read_text().split()
        assert int(pid) == other.pid
        record.write_text(f"{pid} {int(started) - 1}")
        claim(record, os.getpid(), 0)
        assert record.read_text().split()[0] == str(os.getpid())


@pytest.mark.parametrize("content", ["", "\n", "x", "12", "-1 5", "99999999 1", "1 ", "\xff\x00"])
def test_unreadable_record_owns_nothing(tmp_path: Path, content: str) -> None:
    record = tmp_path / "owner"
    record.write_bytes(content.encode("latin-1"))
    claim(record, os.getpid(), 0)
    assert record.read_text().split()[0] == str(os.getpid())


def test_name_of_a_process_may_hold_blanks_and_parentheses(tmp_path: Path) -> None:
    program = tmp_path / "a) S 1 (b"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    record = tmp_path / "owner"
    with sleeper(str(program), "60") as odd:
        # Until exec the child still carries our own name.
        while Path(f"/proc/{odd.pid}/comm").read_text() != f"{program.name}\n":
            time.sleep(0.01)
        claim(record, odd.pid, 0)
        stat = Path(f"/proc/{odd.pid}/stat").read_text()
        # Field 22 of proc(5); the name with its four fields' worth of blanks stands in field 2.
        assert record.read_text() == f"{odd.pid} {stat.split()[21 + 3]}"


def begins(record: Path, make_pid: int | None) -> None:
    with stage_of(record, make_pid):
        pass


def test_stage_keeps_the_checkout_when_its_make_is_killed(tmp_path: Path) -> None:
    record = tmp_path / "owner"
    with sleeper() as first, sleeper() as second:
        claim(record, first.pid, 0)
        with stage_of(record, first.pid):
            with pytest.raises(UserError, match=f"make process {first.pid} .* still running"):
                claim(record, second.pid, 0)
            first.kill()
            first.wait()
            with pytest.raises(UserError, match=r"a command .* without its make is still running"):
                claim(record, second.pid, 0)
        claim(record, second.pid, 0)


def test_claim_waits_for_a_killed_makes_stage_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "owner"
    with sleeper("sleep", "0.5") as first:
        claim(record, first.pid, 0)
        with stage_of(record, first.pid):
            waiting = threading.Thread(target=claim, args=(record, os.getpid(), 20))
            waiting.start()
            time.sleep(1)
            assert waiting.is_alive()
        waiting.join()
    assert record.read_text().split()[0] == str(os.getpid())
    assert capsys.readouterr().err == (
        f"waiting for make process {first.pid} in this checkout\n"
        "waiting for a command in this checkout that goes on without its make\n"
    )


def test_no_stage_begins_once_its_make_has_ended(tmp_path: Path) -> None:
    record = tmp_path / "owner"
    with sleeper() as first, sleeper() as second:
        claim(record, first.pid, 0)
        begins(record, first.pid)
        first.kill()
        first.wait()
        for _ in range(2):
            with pytest.raises(UserError, match=f"make process {first.pid} has ended; run the"):
                begins(record, first.pid)
            # Nor does the next owner's presence let it in.
            claim(record, second.pid, 0)
        begins(record, second.pid)


def test_make_that_has_ended_claims_nothing_and_waits_for_nobody(tmp_path: Path) -> None:
    record = tmp_path / "owner"
    with sleeper() as ended, sleeper() as owner:
        ended.kill()
        ended.wait()
        claim(record, owner.pid, 0)
        before = record.read_text()
        with pytest.raises(UserError, match=f"make process {ended.pid} has ended"):
            claim(record, ended.pid, 3600)
        assert record.read_text() == before


def test_stage_started_by_hand_needs_no_make_and_is_waited_for(tmp_path: Path) -> None:
    record = tmp_path / "build" / "owner"
    with stage_of(record, None), pytest.raises(UserError, match="a command in this checkout"):
        claim(record, os.getpid(), 0)
    with sleeper() as owner:
        claim(record, owner.pid, 0)
        begins(record, None)


def test_stage_begins_only_when_the_plan_is_written(tmp_path: Path) -> None:
    record = tmp_path / "owner"
    with claim_checkout(record, os.getpid(), 0):
        stage = threading.Thread(target=begins, args=(record, os.getpid()))
        stage.start()
        stage.join(0.3)
        assert stage.is_alive()
    stage.join(20)
    assert not stage.is_alive()


def test_lock_holds_on_a_full_disk_without_its_holders_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", fail)
        with device_lock("cpu", 0), pytest.raises(UserError, match="held by another run"):
            take()
    take()
