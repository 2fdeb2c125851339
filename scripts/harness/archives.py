"""Named members of wheels and tars, copied out within bounds, and the wheel that pip downloads.

An archive is taken for hostile: nothing is unpacked under a name of its own, links are never
followed, a member is cut off at its limit whatever the archive says of its size, and what lists
the members is read within bounds. Tars may be plain or gzipped; bzip2 and xz, with which a kilobyte
stands for gigabytes, are for no asset.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import os
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

from .errors import one_line
from .fetch import SourceError

_BLOCK_BYTES = 1 << 16
# What may list the members. A wheel's directory takes 46 bytes an entry at least, and some 700 in
# memory. A tar of checkpoints has a dozen members of 512 bytes or two; tarfile gives each of them a
# copy of all that global headers say, so a few megabytes of headers would fill any memory.
_WHEEL_LISTING_BYTES, _TAR_LISTING_BYTES = 16 << 20, 256 << 10
# Weights hardly compress: more than this is a bomb. The addend is for a tar's padding.
_LARGEST_RATIO, _PADDING_BYTES = 16, 16 << 20
# What pip may take and write: no wheel that holds an asset comes near either.
_PIP_SECONDS = 3600
_LARGEST_WHEEL_BYTES = 1 << 30


def download_wheel(requirement: str, folder: Path) -> Path:
    """The wheel of `requirement` (`name==version`), downloaded into the empty `folder`.

    pip is asked, so that the user's index, proxies and certificates are honoured; nothing is
    built, installed or written elsewhere, nor more than 1 GiB. Raises SourceError with pip's
    reason.
    """
    scratch, wheels = folder / "scratch", folder / "wheels"
    scratch.mkdir()
    options = "--quiet --no-input --no-cache-dir --disable-pip-version-check --no-deps"
    command = f"-m pip download {options} --only-binary=:all:".split()
    pip = [sys.executable, *command, "--dest", str(wheels), "--", requirement]
    # The shell's unit is 512 bytes. The limit is the child's alone.
    limited = f'ulimit -f {_LARGEST_WHEEL_BYTES // 512}; exec "$@"'
    try:
        result = subprocess.run(
            ["sh", "-c", limited, "sh", *pip],
            env={**os.environ, "TMPDIR": str(scratch)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PIP_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise SourceError(f"pip did not end within {_PIP_SECONDS} s") from None
    if result.returncode != 0:
        if "after connection broken" in result.stderr:
            raise SourceError("pip cannot reach the package index")
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR:")]
        raise SourceError(one_line(f"pip: {(errors or lines[-1:] or ['failed'])[0]}")[:300])
    found = list(wheels.glob("*.whl"))
    if len(found) != 1:
        raise SourceError(f"pip left {len(found)} wheels where one was asked for")
    return found[0]


def copy_wheel_member(wheel: Path, member: str, target: Path, *, limit: int) -> None:
    """Copy the member with exactly that path, at most `limit` bytes, into file `target`.

    Raises SourceError if there is no such plain file, or the wheel is damaged.
    """
    with _readable_archive(), wheel.open("rb") as stored:
        listing = _Listing(stored, _WHEEL_LISTING_BYTES, wheel.stat().st_size)
        with zipfile.ZipFile(listing) as archive:
            if member not in archive.namelist():
                raise SourceError(f"has no member {member}")
            info = archive.getinfo(member)
            # The upper half is the Unix mode; 0 where the archiver knew none.
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir() or kind not in (0, stat.S_IFREG) or info.flag_bits & 1:
                raise SourceError(f"member {member} is no plain file")
            # zipfile unpacks the others by the block, whatever that comes to.
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise SourceError(f"member {member} is packed as no wheel's is")
            listing.end_of_listing()
            _copy_member(archive.open(info), info.file_size, target, limit)


def copy_tar_member(tar: Path, member: str, target: Path, *, limit: int) -> None:
    """Copy the only regular file whose path ends with `member`, at most `limit` bytes.

    Its path decides nothing but whether it is the one. Raises SourceError if there is not
    exactly one such file, or the tar is damaged.
    """
    wanted = PurePosixPath(member).parts
    with _readable_archive(), tar.open("rb") as stored, _unpacked(stored) as content:
        end = _LARGEST_RATIO * tar.stat().st_size + _PADDING_BYTES
        listing = _Listing(content, _TAR_LISTING_BYTES, end)
        with tarfile.open(fileobj=listing, mode="r:") as archive:
            named = [i for i in archive if PurePosixPath(i.name).parts[-len(wanted) :] == wanted]
            plain = [info for info in named if _is_plain(info)]
            if len(plain) != 1:
                found = (
                    f"{len(plain)} plain files"
                    if plain or not named
                    else "only links or unsafe paths"
                )
                raise SourceError(f"has {found} named {member} where one is wanted")
            listing.end_of_listing()
            file = archive.extractfile(plain[0])
            assert file is not None
            _copy_member(file, plain[0].size, target, limit)


class _Listing(io.RawIOBase):
    """A file as the archive modules read it, refused beyond the bounds of an honest archive.

    They read as much at once, and seek as far, as the archive tells them to. `budget` is what the
    list of members may take, `end` where the content ends at the latest, both in bytes.
    """

    def __init__(self, content: IO[bytes], budget: int, end: int) -> None:
        super().__init__()
        self._content = content
        self._end = end
        self._left = budget

    def end_of_listing(self) -> None:
        """From here on members are read, in blocks and each within its own limit."""
        self._left = self._end

    def read(self, count: int | None = -1) -> bytes:
        """As many bytes as asked for, or all that are left."""
        if count is None or count < 0:
            count = self._left + 1
        data = self._content.read(min(count, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise SourceError("is no honest archive, its list of members is too long")
        if self._content.tell() > self._end:
            raise SourceError("claims far more bytes than it has")
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place, which is not beyond the end."""
        if whence == os.SEEK_SET and offset > self._end:
            raise SourceError("claims far more bytes than it has")
        return self._content.seek(offset, whence)

    def tell(self) -> int:
        """Where the next byte comes from."""
        return self._content.tell()

    def readable(self) -> bool:
        """It is for reading."""
        return True

    def seekable(self) -> bool:
        """So are the files it reads."""
        return True


@contextlib.contextmanager
def _unpacked(stored: IO[bytes]) -> Iterator[IO[bytes]]:
    """What a tar is read from: the file, or what gzip makes of it."""
    packed = stored.read(2) == b"\x1f\x8b"
    stored.seek(0)
    if not packed:
        yield stored
        return
    with gzip.GzipFile(fileobj=stored) as content:
        yield cast("IO[bytes]", content)


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
        struct.error,
        ArithmeticError,
        EOFError,
        LookupError,
        NotImplementedError,
        RecursionError,
        ValueError,
    ) as error:
        raise SourceError(one_line(f"is damaged or no archive, {error}")[:300]) from None
    except OSError as error:
        # So gzip reports bad data, without a number, and so ends a seek to a place that
        # cannot be; a real fault of the machine has another number.
        if error.errno not in (None, errno.EINVAL):
            raise
        raise SourceError(one_line(f"is damaged, {error}")) from None
