"""Durable files: written whole or not at all, and named by what they hold."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import UserError

TEMPORARY_PREFIX = ".tmp-"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A temporary path beside `target`; when the block ends well it is fsynced and renamed.

    On any exception the temporary file is removed and `target` stays as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        prefix=TEMPORARY_PREFIX, suffix=target.suffix, dir=target.parent
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        # mkstemp's files are private; results are for everyone the umask lets in.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # A write does not say where: the user has to know which disk is full.
        if isinstance(error, OSError) and error.errno in _NO_ROOM and error.filename is None:
            error.filename = str(target)
        raise
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def require_writable(folder: Path) -> None:
    """Make `folder`, and raise OSError now rather than after hours if it takes no files."""
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()


def write_atomic(target: Path, data: bytes | str) -> None:
    """Write `data` (text as UTF-8) to `target` in one step."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def write_if_changed(target: Path, data: str) -> None:
    """Write `data` unless `target` holds it already, so that its time tells of its content."""
    encoded = data.encode()
    if not (target.is_file() and target.read_bytes() == encoded):
        write_atomic(target, encoded)


def to_json(value: Any) -> str:
    """`value` as indented JSON; NaN and infinity, which JSON does not have, raise ValueError."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path, what: str) -> Any:
    """The JSON value in `path`, described as `what` in errors.

    Raises UserError for an unreadable file, malformed JSON, duplicate keys and numbers that
    JSON does not have (NaN, Infinity).
    """
    try:
        require_regular(path)
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{what} {path} does not exist; check the name") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{what} {path} cannot be read ({error}); check the file") from None
    return parse_json(text, f"{what} {path}")


def require_regular(path: Path) -> None:
    """Raise OSError for a folder, a device or a FIFO: reading one might never end.

    A missing file is left to whoever opens it.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def parse_json(text: str, what: str) -> Any:
    """The JSON value of `text`; raises UserError as `read_json` does."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                raise ValueError(f"key {key[:100]!r} occurs twice")
            result[key] = value
        return result

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not a JSON number")

    def finite(number: str) -> float:
        value = float(number)
        if not math.isfinite(value):
            raise ValueError(f"{number} is too large")
        return value

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse, parse_float=finite)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} is not valid JSON ({error}); restore or rewrite it") from None


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of `data`, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(parts: Any) -> str:
    """Twelve hexadecimal digits that stand for `parts` (any JSON value) in a file's name."""
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256_bytes(canonical.encode())[:12]
