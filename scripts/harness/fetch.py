"""One body over HTTP into one file, gone on with where an earlier request stopped.

Faults that may pass are tried again; redirects, sizes and pauses are bounded. Whether the body
is the right one is for the caller to judge.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import email.utils
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from .errors import UserError, one_line
from .files import fingerprint, read_json, to_json, write_atomic

# Nothing the manifest names comes near this (upstream's tar is 0.9 GB); it bounds what a
# wrong or hostile source of an asset without a published size can fill the disk with.
LARGEST_ASSET_BYTES = 4 << 30

_BLOCK_BYTES = 1 << 16
_MOST_TRIES = 5
_MOST_REDIRECTS = 5
_CONNECT_SECONDS, _READ_SECONDS = 10.0, 60.0
# A time-out of a socket is for one read of it: a server that sends a byte a minute passes. So
# the head of an answer has a time in all, and the body a least speed (bytes a second) over
# each stretch.
_HEAD_SECONDS = 120.0
_LEAST_SPEED, _STRETCH_SECONDS = 1024, 60.0
_LONGEST_PAUSE_SECONDS = 60.0
# Too early, too many or too slow: the server itself says that another try may do.
_PASSING_STATUS = (408, 425, 429)
# What a server says is quoted up to here.
_LONGEST_QUOTE = 200
_COUNT = "([0-9]{1,18})"


class SourceError(Exception):
    """A source that does not give what it is asked for; the message is the reason."""


class _Passing(SourceError):
    """A fault that may pass: worth `tries` tries in all, `pause` seconds apart if given."""

    def __init__(self, reason: str, tries: int = _MOST_TRIES, pause: float | None = None) -> None:
        super().__init__(reason)
        self.tries = tries
        self.pause = pause


class _Unfit(_Passing):
    """What came so far is of no use, another try starts anew."""


@dataclass(frozen=True)
class _Partial:
    """What an earlier request left: `offset` bytes of a body of `size`, and its validator."""

    offset: int
    size: int | None
    validator: str


class Session(requests.Session):
    """requests follows no redirect of its own accord here, and looks at none.

    To look at one, it reads and unpacks its whole body, however much that is.
    """

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Where requests shall go next: nowhere."""
        return None


class Downloader:
    """Downloads through one session, whose proxies come from the environment.

    `sleep` (seconds) makes the pauses between tries.
    """

    def __init__(self, session: requests.Session, sleep: Callable[[float], None]) -> None:
        self._session = session
        self._sleep = sleep

    def fetch(self, url: str, part: Path, size: int | None, title: str) -> bool:
        """Complete `part` with the body at `url`, which has `size` bytes if that is known.

        Returns whether bytes of an earlier request were kept, which only a hash can judge.
        Raises SourceError; what came so far stays for the next call where the server gave
        the body a validator.
        """
        tell(title)
        tried = 0
        while True:
            try:
                return self._request(url, part, size, title)
            except _Passing as fault:
                tried += 1
                if tried >= fault.tries:
                    count = f" (tried {tried} times)" if tried > 1 else ""
                    raise SourceError(f"{fault}{count}") from None
                pause = 2.0 ** (tried - 1) if fault.pause is None else fault.pause
                pause = min(pause, _LONGEST_PAUSE_SECONDS)
                tell(f"{fault}; trying again in {pause:.0f} s")
            self._sleep(pause)

    def _request(self, url: str, part: Path, size: int | None, title: str) -> bool:
        left = _partial(part, url)
        if left is not None and left.offset == left.size:
            return True
        # Byte ranges and lengths count the body as sent, so it must not be compressed.
        headers = {"Accept-Encoding": "identity"}
        if left is not None:
            headers |= {"Range": f"bytes={left.offset}-", "If-Range": left.validator}
        try:
            with self._open(url, headers) as response:
                offset, total = _extent(response, left)
                if total is not None and size not in (None, total):
                    raise SourceError(f"announces {total} bytes instead of {size}")
                if total is not None and total > LARGEST_ASSET_BYTES:
                    raise SourceError(f"announces {total} bytes, more than any asset has")
                expected = size if total is None else total
                with part.open("ab" if offset else "wb") as stream:
                    if not offset:
                        _remember(part, url, response, total)
                    with _bar(title, expected, offset) as advance:
                        _receive(response, stream, offset, expected, advance)
        except _Unfit:
            discard(part)
            raise
        return offset > 0

    def _open(self, url: str, headers: Mapping[str, str]) -> requests.Response:
        """The response behind at most five redirects, its body not yet read."""
        for _ in range(_MOST_REDIRECTS + 1):
            response = self._answer(url, headers)
            if not response.is_redirect:
                return response
            response.close()
            url = _redirected(url, response.headers["location"])
        raise SourceError(f"more than {_MOST_REDIRECTS} redirects")

    def _answer(self, url: str, headers: Mapping[str, str]) -> requests.Response:
        """The response to one request, its body not yet read.

        It is awaited in a thread, because nothing else bounds the time in which a head comes byte
        by byte; the thread of a head that is too late is left behind.
        """
        answer: concurrent.futures.Future[requests.Response] = concurrent.futures.Future()

        def ask() -> None:
            try:
                response = self._session.get(
                    url,
                    headers=headers,
                    stream=True,
                    allow_redirects=False,
                    timeout=(_CONNECT_SECONDS, _READ_SECONDS),
                )
            except BaseException as error:
                answer.set_exception(error)
            else:
                answer.set_result(response)

        threading.Thread(target=ask, daemon=True).start()
        try:
            return answer.result(_HEAD_SECONDS)
        except concurrent.futures.TimeoutError:
            raise _Passing(f"no whole answer within {_HEAD_SECONDS:.0f} s") from None
        except requests.RequestException as error:
            raise _fault(error) from None
        except ValueError as error:
            raise SourceError(_quoted(f"its URL is refused, {error}")) from None


def discard(part: Path) -> None:
    """Remove what has been downloaded into `part`, if anything, and the record of it."""
    part.unlink(missing_ok=True)
    _record(part).unlink(missing_ok=True)


def tell(text: str) -> None:
    """Say `text` on standard error, on one line."""
    print(one_line(text), file=sys.stderr, flush=True)


def _quoted(text: object) -> str:
    """What a server says, on one line of bounded length."""
    return one_line(text)[:_LONGEST_QUOTE]


def _redirected(url: str, location: str) -> str:
    """Where a redirect from `url` leads; raises SourceError for a place that is refused."""
    try:
        target = urljoin(url, location)
        scheme = urlsplit(target).scheme
    except ValueError as error:
        raise SourceError(_quoted(f"redirects to no URL, {error}")) from None
    if scheme not in ("http", "https"):
        kind = _quoted(scheme) or "nameless"
        raise SourceError(f"redirects to a {kind} URL, which is refused")
    if scheme == "http" and urlsplit(url).scheme == "https":
        raise SourceError("redirects from https to plain http, which is refused")
    return target


def _extent(response: requests.Response, left: _Partial | None) -> tuple[int, int | None]:
    """Where the body starts, and the whole's size if announced, both in bytes.

    Raises SourceError for an answer that neither goes on with `left` nor starts anew.
    """
    status = response.status_code
    if status in _PASSING_STATUS or status >= 500:
        raise _Passing(f"HTTP {status}", pause=_retry_after(response))
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise SourceError("sends a compressed body though a plain one was asked for")
    if status == 200:
        length = re.fullmatch(_COUNT, response.headers.get("Content-Length", ""))
        return 0, None if length is None else int(length[1])
    if left is not None and status in (206, 416):
        span = re.fullmatch(
            f"bytes {_COUNT}-{_COUNT}/{_COUNT}", response.headers.get("Content-Range", "")
        )
        if status == 206 and span is not None:
            first, last, total = map(int, span.groups())
            if first == left.offset <= last < total and left.size in (None, total):
                return left.offset, total
        raise _Unfit("the partial download does not fit the server's file", pause=0.0)
    raise SourceError(_quoted(f"HTTP {status} {response.reason or ''}").strip())


def _receive(
    response: requests.Response,
    stream: BinaryIO,
    offset: int,
    expected: int | None,
    advance: Callable[[int], None],
) -> None:
    """Write the body, which ends at byte `expected` of the whole if that is known."""
    received = offset
    bound = LARGEST_ASSET_BYTES if expected is None else expected
    began, before = time.monotonic(), received
    try:
        # Not iter_content: it waits until a whole block is there, however slowly that fills.
        while block := response.raw.read1(_BLOCK_BYTES, decode_content=False):
            received += len(block)
            if received > bound:
                raise _Unfit(f"sends more than the {bound} bytes expected", tries=1)
            stream.write(block)
            advance(len(block))
            passed = time.monotonic() - began
            if passed >= _STRETCH_SECONDS:
                if received - before < _LEAST_SPEED * passed:
                    raise _Passing(f"sends less than {_LEAST_SPEED} bytes a second")
                began, before = time.monotonic(), received
    except urllib3.exceptions.HTTPError as error:
        raise _fault(error) from None
    if expected is not None and received < expected:
        raise _Passing(f"the body ended after {received} of {expected} bytes")


def _fault(error: requests.RequestException | urllib3.exceptions.HTTPError) -> SourceError:
    """What went wrong, told by the innermost cause, and whether another try makes sense."""
    root: BaseException = error
    while (inner := root.__cause__ or root.__context__) is not None:
        root = inner
    reason = _quoted(getattr(root, "strerror", None) or root) or type(root).__name__
    if isinstance(root, socket.gaierror):
        return _Passing(f"the host name cannot be resolved, {reason}", tries=2)
    if isinstance(root, ssl.SSLCertVerificationError):
        return SourceError(f"the server's TLS certificate is refused, {root.verify_message}")
    # requests' errors about the request itself (URL, proxy URL, header) are ValueErrors; a
    # proxy that answers 4xx has decided.
    if isinstance(error, ValueError) or "Tunnel connection failed: 4" in reason:
        return SourceError(reason)
    return _Passing(reason)


def _retry_after(response: requests.Response) -> float | None:
    """The pause that the server asks for, in seconds (RFC 9110, 10.2.3)."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())
    # OverflowError: a year or a time zone of twenty digits.
    except (ValueError, OverflowError):
        return None


def _record(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _remember(part: Path, url: str, response: requests.Response, total: int | None) -> None:
    """Note beside `part` which body it begins, so that only the same one continues it."""
    # A weak ETag does not promise equal bytes (RFC 9110, 13.1.5).
    etag = response.headers.get("ETag", "")
    validator = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
    # It will be sent back: one that cannot be would bar the way to an honest answer.
    if len(validator) > _LONGEST_QUOTE or not (validator.isascii() and validator.isprintable()):
        validator = ""
    # The URL may hold a password; its fingerprint tells as much as is needed.
    note = {"url": fingerprint(url), "validator": validator or None, "size": total}
    write_atomic(_record(part), to_json(note))


def _partial(part: Path, url: str) -> _Partial | None:
    """What can be gone on with of an earlier download of `url`."""
    if not part.is_file() or part.stat().st_size == 0 or not _record(part).is_file():
        return None
    try:
        note = read_json(_record(part), "download record")
        if note["url"] != fingerprint(url) or not isinstance(note["validator"], str):
            return None
        size = note["size"] if isinstance(note["size"], int) else None
    except (UserError, TypeError, KeyError):
        # A record that cannot be read vouches for nothing: the download starts anew.
        return None
    return _Partial(part.stat().st_size, size, note["validator"])


@contextlib.contextmanager
def _bar(title: str, total: int | None, done: int) -> Iterator[Callable[[int], None]]:
    """A progress bar in bytes on a terminal; nothing elsewhere."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    disable = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=disable) as progress:
        yield partial(progress.advance, progress.add_task(title, total=total, completed=done))
