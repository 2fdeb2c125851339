"""Named members of wheels and tars, copied out within bounds, and the wheel that pip downloads.

An archive is taken for hostile: nothing is unpacked under a name of its own, links are never
followed, and a member is cut off at its limit whatever the archive says of its size.
"""

from __future__ import annotations

import contextlib
import errno
import lzma
import os
import stat
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from .errors import one_line
from .fetch import SourceError

_BLOCK_BYTES = 1 << 16


def download_wheel(requirement: str, folder: Path) -> Path:
    """The wheel of `requirement` (`name==version`), downloaded into the empty `folder`.

    pip is asked, so that the user's index, proxies and certificates are honoured; nothing is
    built, installed or written elsewhere. Raises SourceError with pip's reason.
    """
    scratch, wheels = folder / "scratch", folder / "wheels"
    scratch.mkdir()
    options = "--quiet --no-input --no-cache-dir --disable-pip-version-check --no-deps"
    command = f"-m pip download {options} --only-binary=:all:".split()
    result = subprocess.run(
        [sys.executable, *command, "--dest", str(wheels), "--", requirement],
        env={**os.environ, "TMPDIR": str(scratch)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if result.returncode != 0:
        if "after connection broken" in result.stderr:
            raise SourceError("pip cannot reach the package index")
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR:")]
        raise SourceError(one_line(f"pip: {(errors or lines[-1:] or ['failed'])[0]}"))
    found = list(wheels.glob("*.whl"))
    if len(found) != 1:
        raise SourceError(f"pip left {len(found)} wheels where one was asked for")
    return found[0]


def copy_wheel_member(wheel: Path, member: str, target: Path, *, limit: int) -> None:
    """Copy the member with exactly that path, at most `limit` bytes, into file `target`.

    Raises SourceError if there is no such plain file, or the wheel is damaged.
    """
    with _readable_archive(), zipfile.ZipFile(wheel) as archive:
        if member not in archive.namelist():
            raise SourceError(f"has no member {member}")
        info = archive.getinfo(member)
        # The upper half is the Unix mode; 0 where the archiver knew none.
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.is_dir() or kind not in (0, stat.S_IFREG) or info.flag_bits & 1:
            raise SourceError(f"member {member} is no plain file")
        _copy_member(archive.open(info), info.file_size, target, limit)


def copy_tar_member(tar: Path, member: str, target: Path, *, limit: int) -> None:
    """Copy the only regular file whose path ends with `member`, at most `limit` bytes.

    Its path decides nothing but whether it is the one. Raises SourceError if there is not
    exactly one such file, or the tar is damaged.
    """
    wanted = PurePosixPath(member).parts
    with _readable_archive(), tarfile.open(tar) as archive:
        named = [i for i in archive if PurePosixPath(i.name).parts[-len(wanted) :] == wanted]
        plain = [info for info in named if _is_plain(info)]
        if len(plain) != 1:
            found = (
                f"{len(plain)} plain files" if plain or not named else "only links or unsafe paths"
            )
            raise SourceError(f"has {found} named {member} where one is wanted")
        content = archive.extractfile(plain[0])
        assert content is not None
        _copy_member(content, plain[0].size, target, limit)


def copy_bounded(content: IO[bytes], target: Path, limit: int) -> None:
    """Write `content` into file `target`; SourceError if it has more than `limit` bytes."""
    written = 0
    with target.open("wb") as stream:
        while block := content.read(_BLOCK_BYTES):
            written += len(block)
            if written > limit:
                raise SourceError(f"larger than {limit} bytes")
            stream.write(block)


def _copy_member(content: IO[bytes], size: int, target: Path, limit: int) -> None:
    with content:
        if size > limit:
            raise SourceError(f"the member has {size} bytes where {limit} are the limit")
        copy_bounded(content, target, limit)


def _is_plain(info: tarfile.TarInfo) -> bool:
    path = PurePosixPath(info.name)
    safe = not path.is_absolute() and ".." not in path.parts
    return safe and info.isreg() and not info.issparse()


@contextlib.contextmanager
def _readable_archive() -> Iterator[None]:
    """Turn what the archive modules raise for a damaged file into SourceError."""
    try:
        yield
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        NotImplementedError,
    ) as error:
        raise SourceError(one_line(f"is damaged or no archive, {error}")) from None
    except OSError as error:
        # So gzip and bz2 report bad data, without a number, and so ends a seek to a place that
        # cannot be; a real fault of the machine has another number.
        if error.errno not in (None, errno.EINVAL):
            raise
        raise SourceError(one_line(f"is damaged, {error}")) from None
