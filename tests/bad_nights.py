"""What a bad night is made of: kills at any moment, and disks of one's own that are full.

A mount namespace keeps the disks from everybody else, and takes them along when it ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from conftest import TIMEOUT_SECONDS, Checkout

_PAGE = 4096
_BALLAST = ".ballast"


def clone(checkout: Checkout, root: Path) -> Checkout:
    """A copy of `checkout` with all that has been made in it, for tests that break it."""
    shutil.copytree(checkout.root, root, symlinks=True)
    return Checkout(root, root / checkout.dataset.name, dict(checkout.variables))


def listing(root: Path) -> set[str]:
    """Files and folders under `root`, git's included; not the venv, bytecode, locks, ballast."""
    found = set()
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in ("__pycache__", ".venv", ".locks")]
        here = Path(folder).relative_to(root)
        names = [*folders, *(name for name in files if name != _BALLAST)]
        found.update((here / name).as_posix() for name in names)
    return found


def error_lines(text: str) -> list[str]:
    """The error lines of a command's standard error, which must hold no traceback."""
    assert "Traceback" not in text, text
    assert "Exception ignored" not in text, text
    return [line for line in text.splitlines() if line.startswith("error: ")]


def kill(
    checkout: Checkout, words: list[str], when: Callable[[], bool], *, group: bool, log: Path
) -> bool:
    """Start make, and kill it as soon as `when` says: its process group, or make alone.

    Whether it was still running then; what it and its children say goes into `log`.
    """
    with log.open("wb") as stream:
        process = subprocess.Popen(
            ["make", *words],
            cwd=checkout.root,
            env=checkout.environment(),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    while process.poll() is None:
        if when():
            if group:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            break
        time.sleep(0.005)
    return process.wait() == -signal.SIGKILL


def all_end(log: Path) -> bool:
    """Wait until no process has `log` as its standard error; False if some go on for a minute."""
    deadline = time.monotonic() + 60
    while living(log):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def living(log: Path) -> list[str]:
    """The commands whose standard error is `log`: make and its children, as far as they live."""
    commands = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and (folder / "fd/2").readlink() == log:
                commands.append((folder / "cmdline").read_bytes().decode(errors="replace"))
        except OSError:
            continue  # It has ended, or is another user's.
    return commands


@dataclass(frozen=True)
class Disks:
    """A mount namespace; `holder` is the process that keeps it."""

    holder: int
    user: bool

    def seen(self, path: Path) -> Path:
        """`path` as the processes in there see it."""
        return Path(f"/proc/{self.holder}/root") / path.relative_to("/")

    def run(
        self, checkout: Checkout, *words: str, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the namespace, in the checkout."""
        users = ["--user", "--preserve-credentials"] if self.user else []
        enter = ["nsenter", "--target", str(self.holder), *users, "--mount"]
        return subprocess.run(
            [*enter, "env", "--chdir", str(checkout.root), *words],
            env=checkout.environment(**variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )

    def mount(self, checkout: Checkout, *words: str) -> None:
        """Run mount with `words`."""
        done = self.run(checkout, "mount", *words)
        assert done.returncode == 0, done.stderr

    def make_small(self, checkout: Checkout, folder: Path, room: int) -> None:
        """Put a disk over `folder` that holds what the folder holds, and `room` bytes more."""
        folder.mkdir(parents=True, exist_ok=True)
        size = occupied(folder) + room
        # A disk of size 0 would have no end.
        self.mount(checkout, "-t", "tmpfs", "-o", f"size={max(size, _PAGE)}", "tmpfs", str(folder))
        # Out here the folder is what it was.
        shutil.copytree(folder, self.seen(folder), symlinks=True, dirs_exist_ok=True)
        if size < _PAGE:
            self.seen(folder / _BALLAST).write_bytes(bytes(_PAGE))

    def make_large(self, checkout: Checkout, folder: Path, size: str = "2g") -> None:
        """Give the disk over `folder` room."""
        self.mount(checkout, "-o", f"remount,size={size}", str(folder))
        self.seen(folder / _BALLAST).unlink(missing_ok=True)

    def make_read_only(self, checkout: Checkout, folder: Path) -> None:
        """Let nothing be written into `folder` any more, by root neither."""
        self.mount(checkout, "--bind", str(folder), str(folder))
        self.mount(checkout, "-o", "remount,bind,ro", str(folder))


def occupied(folder: Path) -> int:
    """Bytes that the files under `folder` take on a tmpfs."""
    sizes = (path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return sum(-(-size // _PAGE) * _PAGE for size in sizes)


@contextmanager
def own_disks() -> Iterator[Disks | None]:
    """A namespace to mount disks in; None where the system allows none."""
    for user in (False, True):
        users = ["--user", "--map-root-user"] if user else []
        words = ["unshare", *users, "--mount", "sh", "-c", "mount -t tmpfs tmpfs /mnt && echo up"]
        holder = subprocess.Popen(
            [*words[:-1], words[-1] + " && umount /mnt && exec sleep infinity"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert holder.stdout is not None
        try:
            if holder.stdout.readline() == "up\n":
                yield Disks(holder.pid, user)
                return
        finally:
            holder.kill()
            holder.wait()
            holder.stdout.close()
    yield None
