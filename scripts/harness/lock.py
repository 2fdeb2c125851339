"""One holder at a time: for a device that is being timed, and for a build in one checkout."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from .errors import UserError, run_command
from .paths import BUILD

# Not the user's TMPDIR: the lock is the machine's.
LOCKS = Path("/tmp")
# Which make process builds in this checkout.
OWNER = BUILD / "owner"
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
        with suppress(OSError):
            # For those who wait; on a full disk the lock holds without it.
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


def run_stage(main: Callable[[], int], description: str) -> NoReturn:
    """`run_command` for a stage: it works in this checkout as `stage_of` lets it."""

    def staged() -> int:
        make = os.environ.get("MAKE_PID", "")
        with stage_of(OWNER, int(make) if make.isdecimal() else None):
            return main()

    run_command(staged, description)


@contextmanager
def claim_checkout(
    record: Path, make_pid: int, patience_seconds: float = 6 * 3600.0
) -> Iterator[None]:
    """Let the make process `make_pid` own this checkout's build and results until it ends.

    `record` holds the owner's process number and start time; an owner that has ended owns
    nothing, so nothing needs cleaning up after a kill. Waits for a living owner, naming it, and
    for a stage that a killed one has left running. No stage begins before the block's end.
    Raises UserError when patience ends, and if `make_pid` itself has ended.
    """
    record.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience_seconds
    told = ""
    handle = os.open(record, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        while who := _in_the_way(handle, make_pid):
            if time.monotonic() >= deadline:
                raise UserError(f"{who} is still running; end it or wait for it")
            if who != told:
                print(f"waiting for {who}", file=sys.stderr)
                told = who
            time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(handle)


def _in_the_way(handle: int, make_pid: int) -> str:
    """Lock the open record and write `make_pid` into it; who keeps that from being done, if any."""
    mine = _named(make_pid)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except BlockingIOError:
        free = False
    owner = os.pread(handle, 256, 0).decode(errors="replace").strip()
    if owner not in ("", mine) and _lives(owner):
        fcntl.flock(handle, fcntl.LOCK_UN)
        return f"make process {owner.split()[0]} in this checkout"
    if not free:
        return "a command in this checkout that goes on without its make"
    os.ftruncate(handle, 0)
    os.pwrite(handle, mine.encode(), 0)
    return ""


@contextmanager
def stage_of(record: Path, make_pid: int | None) -> Iterator[None]:
    """Run a stage of the make process `make_pid`, which owns the checkout by `record`.

    Until the block ends nobody else can claim the checkout, even if make is killed meanwhile.
    None is a stage started by hand: what others claim does not stop it.

    Raises UserError if that make has ended: a stage that begins then would meet the next make's.
    """
    record.parent.mkdir(parents=True, exist_ok=True)
    # To be read: a finished run can be judged where nothing may be written.
    handle = os.open(record, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        if make_pid is not None:
            owner = os.pread(handle, 256, 0).decode(errors="replace").strip()
            if owner != _named(make_pid):
                raise UserError(f"make process {make_pid} has ended; run the same command again")
        yield
    finally:
        os.close(handle)


def _named(make_pid: int) -> str:
    """What a record says of an owner; raises UserError if it has ended."""
    started = _start_time(make_pid)
    if not started:
        raise UserError(f"make process {make_pid} has ended; run the same command again")
    return f"{make_pid} {started}"


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
