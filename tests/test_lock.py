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
from harness.lock import claim_checkout, device_lock, process_lives
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


def test_checkout_belongs_to_the_living_make_that_came_first(tmp_path: Path) -> None:
    record = tmp_path / "build" / "owner"
    with sleeper() as first, sleeper() as second:
        claim_checkout(record, first.pid, 0)
        # The stages of one make claim it again and again.
        claim_checkout(record, first.pid, 0)
        with pytest.raises(UserError, match=f"make process {first.pid} .* is still running"):
            claim_checkout(record, second.pid, 0)
        first.kill()
        first.wait()
        claim_checkout(record, second.pid, 0)
        with pytest.raises(UserError, match=f"make process {second.pid} "):
            claim_checkout(record, os.getpid(), 0)


def test_owner_that_has_ended_owns_nothing_before_its_parent_asks(tmp_path: Path) -> None:
    record = tmp_path / "owner"
    with sleeper() as first:
        claim_checkout(record, first.pid, 0)
        first.kill()
        # Nobody calls wait(): the process stays in the table, ended.
        claim_checkout(record, os.getpid(), 20)
        assert not process_lives(first.pid)
        assert Path(f"/proc/{first.pid}/stat").exists()


def test_claim_waits_for_the_owner_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "owner"
    with sleeper("sleep", "0.6") as first:
        claim_checkout(record, first.pid, 0)
        claim_checkout(record, os.getpid(), 20)
    assert capsys.readouterr().err == f"waiting for make process {first.pid} in this checkout\n"


def test_number_used_again_by_another_process_owns_nothing(tmp_path: Path) -> None:
    record = tmp_path / "owner"
    with sleeper() as other:
        claim_checkout(record, other.pid, 0)
        pid, started = record.read_text().split()
        assert int(pid) == other.pid
        record.write_text(f"{pid} {int(started) - 1}")
        claim_checkout(record, os.getpid(), 0)
        assert record.read_text().split()[0] == str(os.getpid())


@pytest.mark.parametrize("content", ["", "\n", "x", "12", "-1 5", "99999999 1", "1 ", "\xff\x00"])
def test_unreadable_record_owns_nothing(tmp_path: Path, content: str) -> None:
    record = tmp_path / "owner"
    record.write_bytes(content.encode("latin-1"))
    claim_checkout(record, os.getpid(), 0)
    assert record.read_text().split()[0] == str(os.getpid())


def test_name_of_a_process_may_hold_blanks_and_parentheses(tmp_path: Path) -> None:
    program = tmp_path / "a) S 1 (b"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    record = tmp_path / "owner"
    with sleeper(str(program), "60") as odd:
        # Until exec the child still carries our own name.
        while Path(f"/proc/{odd.pid}/comm").read_text() != f"{program.name}\n":
            time.sleep(0.01)
        claim_checkout(record, odd.pid, 0)
        stat = Path(f"/proc/{odd.pid}/stat").read_text()
        # Field 22 of proc(5); the name with its four fields' worth of blanks stands in field 2.
        assert record.read_text() == f"{odd.pid} {stat.split()[21 + 3]}"


def test_process_lives_until_it_has_ended() -> None:
    with sleeper() as process:
        assert process_lives(process.pid)
        process.kill()
        process.wait()
        assert not process_lives(process.pid)
    assert process_lives(os.getpid())
