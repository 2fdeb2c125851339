"""One holder at a time: for a device that is being timed, and for a build in one checkout."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError

# Not the user's TMPDIR: the lock is the machine's.
LOCKS = Path("/tmp")
_POLL_SECONDS = 0.2


@contextmanager
def device_lock(device: str, patience_seconds: float = 3600.0) -> Iterator[None]:
    """Hold the machine-wide lock on `device` (a word such as "cpu" or "cuda-0").

    Waits for another holder, naming it, for at most `patience_seconds`; the kernel frees the
    lock when its holder dies. Raises UserError when patience ends.
    """
    path = LOCKS / f"bert-squad-harness-{device}.lock"
    # Opened by every user of the machine; O_NOFOLLOW since the folder is everybody's.
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        # Without O_CREAT first: Linux refuses it for another user's file in a sticky folder.
        handle = os.open(path, flags)
    except FileNotFoundError:
        handle = os.open(path, flags | os.O_CREAT, 0o666)
        os.fchmod(handle, 0o666)
    with _holding(handle, f"device {device}", patience_seconds):
        yield


@contextmanager
def file_lock(path: Path, what: str, patience_seconds: float = 6 * 3600.0) -> Iterator[None]:
    """Hold the lock file `path`, which is made, for as long as `what` goes on.

    Waits for another holder as `device_lock` does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    with _holding(handle, what, patience_seconds):
        yield


@contextmanager
def _holding(handle: int, what: str, patience_seconds: float) -> Iterator[None]:
    """Lock the open file `handle`, write down who holds it, and close it in the end."""
    try:
        _wait(handle, what, patience_seconds)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} in {Path.cwd()}\n".encode(), 0)
        yield
        os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def _wait(handle: int, what: str, patience_seconds: float) -> None:
    deadline = time.monotonic() + patience_seconds
    told = False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = os.pread(handle, 4096, 0).decode(errors="replace").strip() or "another run"
        if time.monotonic() >= deadline:
            raise UserError(f"{what} is held by {holder}; end that run or wait for it") from None
        if not told:
            print(f"waiting for {what}, held by {holder}", file=sys.stderr)
            told = True
        time.sleep(_POLL_SECONDS)


def claim_checkout(record: Path, make_pid: int, patience_seconds: float = 6 * 3600.0) -> None:
    """Let the make process `make_pid` own this checkout's build and results until it ends.

    `record` holds the owner's process number and start time; an owner that has ended owns
    nothing, so nothing needs cleaning up after a kill. Waits for a living owner, naming it.
    """
    record.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience_seconds
    told = False
    mine = f"{make_pid} {_start_time(make_pid)}"
    handle = os.open(record, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        while True:
            fcntl.flock(handle, fcntl.LOCK_EX)
            owner = os.pread(handle, 256, 0).decode(errors="replace").strip()
            if owner in ("", mine) or not _lives(owner):
                os.ftruncate(handle, 0)
                os.pwrite(handle, mine.encode(), 0)
                return
            fcntl.flock(handle, fcntl.LOCK_UN)
            who = f"make process {owner.split()[0]} in this checkout"
            if time.monotonic() >= deadline:
                raise UserError(f"{who} is still running; end it or wait for it")
            if not told:
                print(f"waiting for {who}", file=sys.stderr)
                told = True
            time.sleep(_POLL_SECONDS)
    finally:
        os.close(handle)


def _start_time(pid: int) -> str:
    """A process's start in clock ticks since boot, "" if there is no such process any more.

    Field 22 of /proc/<pid>/stat (proc(5)); together with the number it names a process even
    after the number has been used again.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The command's name stands in parentheses and may hold spaces: count after the last one.
    fields = stat.rpartition(")")[2].split()
    # A zombie has ended; only its parent has not asked yet how.
    return "" if fields[0] in ("Z", "X") else fields[19]


def _lives(owner: str) -> bool:
    pid, _, started = owner.partition(" ")
    return pid.isdecimal() and bool(started) and _start_time(int(pid)) == started


def process_lives(pid: int) -> bool:
    """Whether there is a process with this number."""
    return bool(_start_time(pid))
