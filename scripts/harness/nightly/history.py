"""The history: a file to which every run adds one line, and in which nothing changes unseen.

A line is a JSON object: a record, and `previous`, the SHA-256 of the line before it. Beside the
file, `<name>.head` holds the number of lines and the SHA-256 of the last one, without which the
end of the file could be cut off. A write that a crash has cut short leaves a torn line; the next
append closes it with a mark and goes on, and since `previous` covers everything since the last
record, the torn line is kept as it was found. All this finds damage and carelessness; it does
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
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import parse_json, sha256_bytes, to_json, write_atomic
from .record import Record

# Ends a line that an interrupted write has left: no record ends like this.
TORN = b" <torn>"
_NOTHING = sha256_bytes(b"")
_PATIENCE_SECONDS = 60.0
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class History:
    """What a history file holds: its records, and where interrupted writes have left something.

    torn: line numbers (from 1) of torn lines; the last one may still be open.
    lines: how many lines are closed. tip: the SHA-256 that the next record has to carry.
    """

    records: tuple[Record, ...]
    torn: tuple[int, ...]
    lines: int
    tip: str

    @property
    def notes(self) -> list[str]:
        """One line for a person for each torn line."""
        return [
            f"line {number} was cut short by a crash; it is kept and holds no record"
            for number in self.torn
        ]


@dataclass(frozen=True)
class Changed:
    """One fact of the provenance that differs between two records, None where it is missing."""

    path: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.path}: {_shown(self.old)} → {_shown(self.new)}"


def read(path: Path) -> History:
    """The history in `path`; empty where there is none yet.

    Raises UserError, naming the line, when a line has been altered, removed, inserted or moved.
    A torn line is no damage: it is in `torn`.
    """
    if not path.exists() and not _head_path(path).exists():
        return History((), (), 0, _NOTHING)
    with _locked(path, fcntl.LOCK_SH) as handle:
        return _read(path, _content(handle))


def append(path: Path, record: Record) -> History:
    """Add `record` to the history in `path`, on disk when this returns; the history with it.

    Waits for another process that appends. Raises UserError as `read` does: nothing is added to
    a damaged history.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path, fcntl.LOCK_EX) as handle:
        content = _content(handle)
        before = _read(path, content)
        # Checked as a reader will check it, before it is written.
        entry = parse_json(_canonical(record.as_json()), "the new record")
        Record.from_json(entry, "the new record")
        line = _canonical({"previous": before.tip, **entry}).encode() + b"\n"
        if content and not content.endswith(b"\n"):
            closing = TORN + b"\n"
            # The record's `previous` covers the torn line as it is once closed.
            before = _read(path, content + closing)
            line = _canonical({"previous": before.tip, **entry}).encode() + b"\n"
            line = closing + line
        if before.lines > _head(path)[0]:
            # A crash has kept the last append from telling its head.
            _write_head(path, before)
        _write(handle, line)
        _sync_folder(path.parent)
        after = _read(path, content + line)
        _write_head(path, after)
        return after


def changes(old: Record, new: Record) -> list[Changed]:
    """What differs in the provenance of two records, the golden file included, by path."""
    before, after = ({**_leaves(r.provenance), "golden": r.golden_sha256} for r in (old, new))
    paths = sorted(before.keys() | after.keys())
    found = (Changed(path, before.get(path), after.get(path)) for path in paths)
    return [change for change in found if change.old != change.new]


def _read(path: Path, content: bytes) -> History:
    lines = content.split(b"\n")
    rest = lines.pop()
    head_lines, head_tip = _head(path)
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
            entry = _entry(path, number, line)
            previous = entry.pop("previous", None)
            if previous != tip:
                raise _damage(path, number, "does not follow the one before it")
            records.append(_record(path, number, entry))
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
    if rest:
        torn.append(len(lines) + 1)
    return History(tuple(records), tuple(torn), len(lines), tip)


def _entry(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        entry = parse_json(line.decode(), "")
    except (UserError, UnicodeDecodeError):
        raise _damage(path, number, "is no record") from None
    # Spelled as it was written, byte by byte: else a change that JSON ignores would pass.
    if not isinstance(entry, dict) or _canonical(entry).encode() != line:
        raise _damage(path, number, "is no record as this program writes it")
    return entry


def _record(path: Path, number: int, entry: dict[str, Any]) -> Record:
    try:
        return Record.from_json(entry, "it")
    except UserError as error:
        cause = str(error).rpartition("; ")[0]
        raise _damage(path, number, f"is no record of a run ({cause})") from None


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
        text = head.read_text(encoding="utf-8")
    except FileNotFoundError:
        return 0, _NOTHING
    except UnicodeDecodeError:
        text = ""
    try:
        entry = parse_json(text, "")
        lines, tip = entry["lines"], entry["sha256"]
        if type(lines) is int and lines > 0 and to_json({"lines": lines, "sha256": tip}) == text:
            return lines, tip
    except (UserError, LookupError, TypeError):
        pass
    raise UserError(f"{head} is damaged; restore it and {path.name} from a copy") from None


def _write_head(path: Path, history: History) -> None:
    write_atomic(_head_path(path), to_json({"lines": history.lines, "sha256": history.tip}))


def _canonical(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


@contextmanager
def _locked(path: Path, kind: int) -> Iterator[int]:
    """An open file under flock(2): freed by the kernel when its holder ends, however it does."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT if kind == fcntl.LOCK_EX else os.O_RDONLY
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
