"""What the tests of assets share: a server that misbehaves, a store, small archives.

`site` and `bench` are fixtures; a test module takes them over by assignment.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest

from harness.assets import AssetStore
from harness.errors import UserError, one_line
from harness.manifest import Asset, Source

BODY = random.Random(1).randbytes(300_000)
OTHER = random.Random(2).randbytes(300_000)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def asset(name: str, *sources: Source, published: bytes | None = None) -> Asset:
    return Asset(
        name=name,
        description="a test asset",
        licence="Apache-2.0",
        size=None if published is None else len(published),
        sha256=None if published is None else sha256(published),
        sources=sources,
    )


# ---- a server that misbehaves on request --------------------------------------------------

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers each path with what the test planned for it; the last answer repeats."""

    def do_GET(self) -> None:
        site = cast("Site", self.server)
        site.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
        answers = site.plans.get(self.path)
        if answers is None:
            self.reply(404)
            return
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        headers.setdefault("Content_Length", str(len(body)))
        for name, value in headers.items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Keep the tests' output clean."""


class Site(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plans: dict[str, list[Answer]] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def plan(self, path: str, *answers: Answer) -> str:
        self.plans[path] = list(answers)
        return self.url + path


def whole(body: bytes = BODY, *, etag: str = '"v1"', ranges: bool = True) -> Answer:
    """A server that honours Range and If-Range, or (without `ranges`) ignores them."""

    def answer(handler: Handler) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        if not ranges or asked is None or handler.headers.get("If-Range") != etag:
            handler.reply(200, body, ETag=etag)
        elif int(asked[1]) >= len(body):
            handler.reply(416, Content_Range=f"bytes */{len(body)}")
        else:
            start = int(asked[1])
            span = f"bytes {start}-{len(body) - 1}/{len(body)}"
            handler.reply(206, body[start:], Content_Range=span, ETag=etag)

    return answer


def cut(count: int, body: bytes = BODY, *, etag: str = '"v1"', **headers: str) -> Answer:
    """The connection breaks after `count` bytes of the body."""

    def answer(handler: Handler) -> None:
        length = str(len(body))
        handler.reply(200, body[:count], Content_Length=length, ETag=etag, **headers)

    return answer


def reply(status: int, body: bytes = b"", **headers: str) -> Answer:
    return lambda handler: handler.reply(status, body, **headers)


@pytest.fixture
def site() -> Iterator[Site]:
    server = Site()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


# ---- a store ------------------------------------------------------------------------------


class Bench:
    """A store in a temporary folder, its pauses noted instead of slept."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "repository"
        self.cache = folder / "cache"
        self.lock_file = self.root / "assets.lock.json"
        self.root.mkdir()
        self.lock_file.write_text("{}\n", encoding="utf-8")
        self.pauses: list[float] = []

    def store(self, *assets: Asset, **options: Any) -> AssetStore:
        manifest = {asset.name: asset for asset in assets}
        places = {"root": self.root, "cache": self.cache, "lock_file": self.lock_file}
        return AssetStore(manifest, **{**places, "sleep": self.pauses.append, **options})

    def refusal(self, *assets: Asset, **options: Any) -> str:
        """The one line with which the first asset is refused."""
        with pytest.raises(UserError) as caught:
            self.store(*assets, **options).obtain(assets[0].name)
        text = str(caught.value)
        assert text == one_line(text)
        return text

    def put(self, name: str, content: bytes) -> Path:
        path = self.cache / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def cached(self) -> list[str]:
        """Every file in the cache but the empty ones that processes lock."""
        files = (path for path in self.cache.rglob("*") if path.is_file())
        names = sorted(path.relative_to(self.cache).as_posix() for path in files)
        return [name for name in names if not name.startswith(".locks/")]

    def pins(self) -> dict[str, Any]:
        return cast("dict[str, Any]", json.loads(self.lock_file.read_text(encoding="utf-8")))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "hf_endpoint"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return Bench(tmp_path)


# ---- archives ------------------------------------------------------------------------------


def make_tar(path: Path, *members: tuple[tarfile.TarInfo | str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, cast("Any", mode)) as archive:
        for member, content in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            if info.isreg():
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def make_wheel(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path
