"""The asset manifest: what the pipeline needs from outside, and where each piece can be had.

An asset is named by the relative path it has in the cache. It lists sources of the same bytes,
tried in order, or alternatives: other assets that serve the same purpose with other bytes.
"""

from __future__ import annotations

import graphlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .errors import UserError
from .fetch import LARGEST_ASSET_BYTES
from .yaml_file import read_yaml

# No component starts with a dot: no "..", and no clash with the cache's own hidden files.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REQUIREMENT = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?==[0-9][A-Za-z0-9.+!_-]*")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
# Commits only: a branch or a tag can move.
_REVISION = re.compile(r"[0-9a-f]{7,40}")
# What a download in progress is called beside its target.
_RESERVED_SUFFIXES = (".part", ".part.json")
# As long as any file system takes a file's name to be.
_LONGEST_NAME = 200


@dataclass(frozen=True)
class UrlSource:
    """A file behind an https URL, or an http one where the asset says `insecure: true`."""

    url: str


@dataclass(frozen=True)
class HuggingFaceFile:
    """A file of a Hugging Face model repository at one commit."""

    repository: str
    revision: str
    file: str


@dataclass(frozen=True)
class WheelMember:
    """A member of a PyPI wheel; `requirement` is `name==version`, `member` its exact path."""

    requirement: str
    member: str


@dataclass(frozen=True)
class TarMember:
    """A member of the tar that is asset `archive`: its only regular file whose path ends with
    `member`'s components."""

    archive: str
    member: str


@dataclass(frozen=True)
class RepositoryFile:
    """A file that the repository itself ships, used where it lies."""

    path: str


Source = UrlSource | HuggingFaceFile | WheelMember | TarMember | RepositoryFile


@dataclass(frozen=True)
class Asset:
    """One entry. `size` is in bytes, `sha256` in lower-case hexadecimal; None is unpublished.

    Exactly one of `sources` and `alternatives` (names of other assets) is not empty.
    """

    name: str
    description: str
    licence: str
    size: int | None = None
    sha256: str | None = None
    insecure: bool = False
    sources: tuple[Source, ...] = ()
    alternatives: tuple[str, ...] = ()

    @property
    def pinned(self) -> bool:
        """Whether the manifest itself says which bytes these are: both size and hash."""
        return self.size is not None and self.sha256 is not None


def load_manifest(path: Path) -> dict[str, Asset]:
    """The assets in manifest `path`, by name, in its order.

    Raises UserError for anything unexpected: unreadable YAML, unknown or doubled keys, a value
    of the wrong form, an unsafe path, a reference to no asset, a cycle.
    """
    document = read_yaml(path, "asset manifest")
    try:
        return _assets(document)
    except ValueError as error:
        raise UserError(f"asset manifest {path}: {str(error)[:500]}; mend it") from None


def _assets(document: Any) -> dict[str, Asset]:
    assets: dict[str, Asset] = {}
    for name, entry in _mapping(_fields(document, {"assets"}, set())["assets"]).items():
        with _telling(name):
            assets[name] = _asset(name, entry)
    for name, asset in assets.items():
        with _telling(name):
            _check_folders(name, assets)
            _check_references(asset, assets)
    _check_acyclic(assets)
    return assets


@contextmanager
def _telling(name: object) -> Iterator[None]:
    """Say in a ValueError which asset it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"asset {name!r}: {error}") from None


def _asset(name: Any, entry: Any) -> Asset:
    _path(name, "its name")
    if len(name) > _LONGEST_NAME:
        raise ValueError(f"a name has at most {_LONGEST_NAME} characters")
    if not _NAME.fullmatch(name) or name.endswith(_RESERVED_SUFFIXES):
        raise ValueError(
            "a name has letters, digits, '.', '_', '-' and '/', no component starts with '.', "
            f"and it does not end in {' or '.join(_RESERVED_SUFFIXES)}"
        )
    described = {"description", "licence"}
    if "alternatives" in _mapping(entry):
        fields = _fields(entry, described | {"alternatives"}, set())
        return Asset(
            name,
            description=_text(fields["description"], "description"),
            licence=_text(fields["licence"], "licence"),
            alternatives=tuple(_text(n, "an alternative") for n in _list(fields, "alternatives")),
        )
    fields = _fields(entry, described | {"sources"}, {"size", "sha256", "insecure"})
    insecure = fields.get("insecure", False)
    if not isinstance(insecure, bool):
        raise ValueError("insecure is not true or false")
    sources = tuple(_source(source, insecure) for source in _list(fields, "sources"))
    return Asset(
        name,
        description=_text(fields["description"], "description"),
        licence=_text(fields["licence"], "licence"),
        size=_size(fields.get("size")),
        sha256=_match(fields["sha256"], _SHA256, "sha256") if "sha256" in fields else None,
        insecure=insecure,
        sources=sources,
    )


def _source(source: Any, insecure: bool) -> Source:
    kind = frozenset(_mapping(source))
    if kind == {"url"}:
        return UrlSource(_url(source["url"], insecure))
    if kind == {"huggingface", "revision", "file"}:
        return HuggingFaceFile(
            _match(source["huggingface"], _REPOSITORY, "huggingface"),
            _match(source["revision"], _REVISION, "revision (a commit)"),
            _path(source["file"], "file"),
        )
    if kind == {"wheel", "member"}:
        requirement = _match(source["wheel"], _REQUIREMENT, "wheel (name==version)")
        return WheelMember(requirement, _path(source["member"], "member"))
    if kind == {"tar", "member"}:
        return TarMember(_text(source["tar"], "tar"), _path(source["member"], "member"))
    if kind == {"file"}:
        return RepositoryFile(_path(source["file"], "file"))
    raise ValueError(
        f"a source with the keys {sorted(map(str, kind))}; it has url, or wheel and member, or "
        "tar and member, or file, or huggingface, revision and file"
    )


def _url(value: Any, insecure: bool) -> str:
    url = _text(value, "url")
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise ValueError(f"url {url!r} is no https or http URL")
    if parts.username is not None or parts.fragment or not url.isprintable() or " " in url:
        raise ValueError("a url has no user, fragment or space")
    if parts.scheme == "http" and not insecure:
        raise ValueError(f"url {url!r} is plain http, which needs `insecure: true`")
    return url


def _check_folders(name: str, assets: Mapping[str, Asset]) -> None:
    parents = {str(parent) for parent in Path(name).parents}
    for taken in parents & assets.keys():
        raise ValueError(f"asset {taken!r} is a file where a folder is needed")


def _check_references(asset: Asset, assets: Mapping[str, Asset]) -> None:
    for name in _needs(asset):
        if name not in assets:
            raise ValueError(f"{name!r} is no asset")
    for source in asset.sources:
        if isinstance(source, TarMember) and not assets[source.archive].sources:
            raise ValueError(f"tar {source.archive!r} has alternatives; name one of them")


def _check_acyclic(assets: Mapping[str, Asset]) -> None:
    try:
        graphlib.TopologicalSorter({n: _needs(asset) for n, asset in assets.items()}).prepare()
    except graphlib.CycleError as error:
        # Each one is needed by the next.
        cycle = error.args[1][::-1]
        raise ValueError(f"asset {cycle[0]!r}: depends on itself ({' -> '.join(cycle)})") from None


def _needs(asset: Asset) -> list[str]:
    """The assets that `asset` may be made from."""
    archives = [source.archive for source in asset.sources if isinstance(source, TarMember)]
    return [*archives, *asset.alternatives]


def _mapping(value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise ValueError("a mapping is missing where one belongs")
    return value


def _fields(value: Any, needed: set[str], allowed: set[str]) -> dict[str, Any]:
    fields = _mapping(value)
    for key in sorted(needed - fields.keys()):
        raise ValueError(f"key {key!r} is missing")
    for key in fields.keys() - needed - allowed:
        raise ValueError(f"key {key!r} is unknown")
    return fields


def _list(fields: Mapping[str, Any], key: str) -> list[Any]:
    value = fields[key]
    if not isinstance(value, list) or not value:
        raise ValueError(f"{key} is not a list of at least one")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{what} is not a text")
    return value


def _match(value: Any, pattern: re.Pattern[str], what: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{what} {value!r} is not of the form {pattern.pattern}")
    return value


def _path(value: Any, what: str) -> str:
    """A relative path with forward slashes that stays below where it starts."""
    path = _text(value, what)
    if not path.isprintable() or "\\" in path or set(path.split("/")) & {"", ".", ".."}:
        raise ValueError(f"{what} {path!r} is not a plain relative path")
    return path


def _size(value: Any) -> int | None:
    # bool is an int to Python, not to a reader of the manifest.
    if value is not None and (type(value) is not int or not 1 <= value <= LARGEST_ASSET_BYTES):
        raise ValueError(f"size {value!r} is not a number of bytes from 1 to 4 GiB")
    return value
