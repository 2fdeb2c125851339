"""The history: a file to which every run adds one line, and in which nothing changes unseen.

A line is a JSON object: a record, and `previous`, the SHA-256 of the line before it. Beside the
file, `<name>.head` holds the number of lines and the SHA-256 of the last one, without which the
end of the file could be cut off. A write that a crash has cut short leaves a torn line; the next
append closes it with a mark and goes on, and since `previous` covers everything since the last
record, the torn line is kept as it was found. Reading verifies all of it; an append looks at the
end alone, so that it costs the same after years. All this finds damage and carelessness; it does
not find a forger who writes both files anew.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import parse_json, require_regular, sha256_bytes, to_json, write_atomic
from .record import Record

# Ends a line that an interrupted write has left: no record ends like this.
TORN = b" <torn>"
_NOTHING = sha256_bytes(b"")
_PATIENCE_SECONDS = 60.0
_POLL_SECONDS = 0.02
# The end is read in pieces of this size: a record has a few kilobytes.
_PIECE = 1 << 16
# No record is longer by far: more without an end is damage, which the whole file tells of.
_LONGEST_LINE = 1 << 22


@dataclass(frozen=True)
class History:
    """What a history file holds: its records, and where interrupted writes have left something.

    torn: line numbers (from 1) of torn lines; the last one may still be open.
    """

    records: tuple[Record, ...]
    torn: tuple[int, ...]

    @property
    def notes(self) -> list[str]:
        """One line for a person for each torn line."""
        return [
            f"line {number} was cut short by a crash; it is kept and holds no record"
            for number in self.torn
        ]


@dataclass(frozen=True)
class _End:
    """Where a history ends, and the next record begins.

    lines: how many lines are closed. pending: everything since the last record began, closed
    lines. rest: what an interrupted write has left after them.
    """

    lines: int
    pending: bytes
    rest: bytes = b""

    @property
    def tip(self) -> str:
        """The SHA-256 that the next record has to carry."""
        return sha256_bytes(self.pending)


@dataclass(frozen=True)
class Changed:
    """One fact of the provenance that differs between two records, None where it is missing."""

    path: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.path}: {_shown(self.old)} → {_shown(self.new)}"


def read(path: Path) -> History:
    """The history in `path`, all of it verified; empty where there is none yet.

    Raises UserError, naming the line, when a line has been altered, removed, inserted or moved.
    A torn line is no damage: it is in `torn`.
    """
    if not path.exists() and not _head_path(path).exists():
        return History((), ())
    with _locked(path, fcntl.LOCK_SH) as handle:
        return _verified(path, _content(handle), _head(path))[0]


def append(path: Path, record: Record) -> None:
    """Add `record` to the history in `path`, on disk when this returns.

    Waits for another process that appends. What it costs does not grow with the history: where
    the last line is the one that the head names, nothing before it is looked at, which is left to
    `read`. Where it is not, as after a crash, the whole file is verified; raises UserError as
    `read` does, with nothing added.
    """
    # Checked as a reader will check it, before anything is written.
    entry = parse_json(_canonical(record.as_json()), "the new record")
    Record.from_json(entry, "the new record")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path, fcntl.LOCK_EX) as handle:
        head = _head(path)
        end = _end_by_head(handle, head)
        if end is None:
            end = _verified(path, _content(handle), head)[1]
            if end.lines > head[0]:
                # A crash has kept the last append from telling its head, or the disk of its line.
                os.fsync(handle)
                _write_head(path, end)
        closing = b""
        if end.rest:
            # The record's `previous` covers the torn line as it is once closed.
            closing = TORN + b"\n"
            end = _End(end.lines + 1, end.pending + end.rest + closing)
        line = _canonical({"previous": end.tip, **entry}).encode() + b"\n"
        _write(handle, closing + line)
        _sync_folder(path.parent)
        _write_head(path, _End(end.lines + 1, line))


def changes(old: Record, new: Record) -> list[Changed]:
    """What differs in the provenance of two records, the golden file included, by path."""
    before, after = ({**_leaves(r.provenance), "golden": r.golden_sha256} for r in (old, new))
    paths = sorted(before.keys() | after.keys())
    found = (Changed(path, before.get(path), after.get(path)) for path in paths)
    return [change for change in found if change.old != change.new]


def _end_by_head(handle: int, head: tuple[int, str]) -> _End | None:
    """The end, where the last line is the one that `head` names; else more must be looked at."""
    lines, tip = head
    offset, tail = os.fstat(handle).st_size, b""
    while offset and b"\n" not in tail[:-1]:
        size = min(offset, _PIECE)
        offset -= size
        tail = os.pread(handle, size, offset) + tail
        if len(tail) > _LONGEST_LINE:
            return None
    last = tail[tail.rfind(b"\n", 0, -1) + 1 :]
    return _End(lines, last) if sha256_bytes(last) == tip else None


def _verified(path: Path, content: bytes, head: tuple[int, str]) -> tuple[History, _End]:
    """What `content` holds and where it ends; raises UserError as `read` does."""
    lines = content.split(b"\n")
    rest = lines.pop()
    head_lines, head_tip = head
    records: list[Record] = []
    torn: list[int] = []
    # Everything since the start of the last record, which the next one's `previous` covers.
    pending, tip = b"", _NOTHING
    # How many records the head knows, once its line is reached.
    head_seen, known = head_lines == 0, 0
    for number, line in enumerate(lines, start=1):
        if line.endswith(TORN):
            torn.append(number)
        else:
            try:
                previous, record = _parsed(line)
            except UserError as error:
                raise _damage(path, number, str(error)) from None
            if previous != tip:
                raise _damage(path, number, "does not follow the one before it")
            records.append(record)
            pending = b""
        pending += line + b"\n"
        tip = sha256_bytes(pending)
        if number == head_lines:
            if tip != head_tip:
                raise _damage(path, number, "is not what was written")
            head_seen, known = True, len(records)
    if not head_seen:
        raise _damage(path, len(lines) + 1, f"is missing, as all up to line {head_lines}")
    if len(records) - known > 1:
        # An append writes one record and then the head, so that lags behind by one at most.
        raise _damage(path, head_lines + 1, "and all after it are not in the head")
    end = _End(len(lines), pending, rest)
    if rest:
        torn.append(len(lines) + 1)
    return History(tuple(records), tuple(torn)), end


@cache
def _parsed(line: bytes) -> tuple[Any, Record]:
    """The `previous` of a line and its record; raises UserError with what the line is instead.

    Once a process for each line: a night reads the history anew for each of its cells.
    """
    try:
        entry = parse_json(line.decode(), "")
    except (UserError, UnicodeDecodeError):
        raise UserError("is no record") from None
    # Spelled as it was written, byte by byte: else a change that JSON ignores would pass.
    if not isinstance(entry, dict) or _canonical(entry).encode() != line:
        raise UserError("is no record as this program writes it")
    previous = entry.pop("previous", None)
    try:
        return previous, Record.from_json(entry, "it")
    except UserError as error:
        cause = str(error).rpartition("; ")[0]
        raise UserError(f"is no record of a run ({cause})") from None


def _damage(path: Path, number: int, what: str) -> UserError:
    return UserError(
        f"history {path}: line {number} {what}; restore {path.name} and {path.name}.head from a "
        "copy, or move both away to begin anew"
    )


def _head_path(path: Path) -> Path:
    return path.with_name(path.name + ".head")


def _head(path: Path) -> tuple[int, str]:
    """Number of lines and tip when the last append ended; none before the first.

    A crash between a line and its head leaves the head behind by that line, never ahead.
    """
    head = _head_path(path)
    try:
        require_regular(head)
        text = head.read_text(encoding="utf-8")
    except FileNotFoundError:
        return 0, _NOTHING
    except (OSError, UnicodeDecodeError):
        text = ""
    try:
        entry = parse_json(text, "")
        lines, tip = entry["lines"], entry["sha256"]
        if type(lines) is int and lines > 0 and to_json({"lines": lines, "sha256": tip}) == text:
            return lines, tip
    except (UserError, LookupError, TypeError):
        pass
    raise UserError(f"{head} is damaged; restore it and {path.name} from a copy") from None


def _write_head(path: Path, end: _End) -> None:
    write_atomic(_head_path(path), to_json({"lines": end.lines, "sha256": end.tip}))


def _canonical(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


@contextmanager
def _locked(path: Path, kind: int) -> Iterator[int]:
    """An open file under flock(2): freed by the kernel when its holder ends, however it does."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT if kind == fcntl.LOCK_EX else os.O_RDONLY
    try:
        require_regular(path)
    except OSError:
        raise _damage(path, 1, "is missing: what is there is no regular file") from None
    try:
        handle = os.open(path, flags | os.O_CLOEXEC, 0o666)
    except FileNotFoundError:
        raise _damage(path, 1, "is missing, as the whole file") from None
    deadline = time.monotonic() + _PATIENCE_SECONDS
    try:
        while True:
            try:
                fcntl.flock(handle, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise UserError(
                        f"history {path} is locked by another process; end it and try again"
                    ) from None
            time.sleep(_POLL_SECONDS)
        yield handle
    finally:
        os.close(handle)


def _content(handle: int) -> bytes:
    pieces = []
    offset = 0
    while piece := os.pread(handle, 1 << 20, offset):
        pieces.append(piece)
        offset += len(piece)
    return b"".join(pieces)


def _write(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]
    os.fsync(handle)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _leaves(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values in `value` that are no objects, by their path with dots."""
    found: dict[str, Any] = {}
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            found.update(_leaves(entry, f"{prefix}{key}."))
        else:
            found[prefix + key] = entry
    return found


def _shown(value: Any) -> str:
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)
