"""Assets are checked before use, whatever their source does."""

from __future__ import annotations

import email.utils
import hashlib
import io
import json
import random
import re
import socket
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest
import requests
import urllib3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.download import (
    AssetStore,
    PinMismatch,
    SourceError,
    copy_tar_member,
    copy_wheel_member,
    download_wheel,
)
from harness.errors import UserError, one_line
from harness.manifest import (
    Asset,
    HuggingFaceFile,
    RepositoryFile,
    Source,
    TarMember,
    UrlSource,
    WheelMember,
)

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


# ---- http ---------------------------------------------------------------------------------


def test_downloads_checks_and_keeps(bench: Bench, site: Site, capsys: Any) -> None:
    store = bench.store(asset("d/a", UrlSource(site.plan("/a", whole())), published=BODY))
    found = store.obtain("d/a")
    assert found.path == bench.cache / "d/a"
    assert found.path.read_bytes() == BODY
    assert (found.name, found.sha256, found.size) == ("d/a", sha256(BODY), len(BODY))
    assert found.source == f"{site.url}/a (plain http)"
    assert bench.cached() == ["d/a"]
    assert capsys.readouterr().err == f"getting d/a from {site.url}/a\n"
    assert store.obtain("d/a").source == "the cache"
    assert len(site.requests) == 1
    assert bench.pins() == {}


def test_the_body_is_asked_for_plain(bench: Bench, site: Site) -> None:
    url = site.plan("/a", reply(200, BODY, Content_Encoding="gzip"))
    assert "compressed" in bench.refusal(asset("a", UrlSource(url), published=BODY))
    assert site.requests[0][1]["accept-encoding"] == "identity"
    assert bench.cached() == []


def test_a_broken_download_is_resumed_in_the_same_run(bench: Bench, site: Site) -> None:
    url = site.plan("/a", cut(200_000), whole())
    bench.store(asset("a", UrlSource(url), published=BODY)).obtain("a")
    first, second = site.requests
    assert "range" not in first[1]
    start = int(second[1]["range"].removeprefix("bytes=").removesuffix("-"))
    assert 0 < start <= 200_000
    assert second[1]["if-range"] == '"v1"'
    assert bench.pauses == [1.0]
    assert bench.cached() == ["a"]


def test_a_broken_download_is_resumed_by_a_later_run(bench: Bench, site: Site) -> None:
    wanted = asset("a", UrlSource(site.plan("/a", cut(150_000))), published=BODY)
    assert "(tried 5 times)" in bench.refusal(wanted)
    assert bench.pauses == [1.0, 2.0, 4.0, 8.0]
    assert bench.cached() == ["a.part", "a.part.json"]
    site.plan("/a", whole())
    assert bench.store(wanted).obtain("a").path.read_bytes() == BODY
    assert "range" in site.requests[-1][1]
    assert bench.cached() == ["a"]


def test_a_finished_part_needs_no_request(bench: Bench, site: Site) -> None:
    wanted = asset("a", UrlSource(site.plan("/a", cut(150_000))), published=BODY)
    bench.refusal(wanted)
    (bench.cache / "a.part").write_bytes(BODY)
    site.requests.clear()
    bench.store(wanted).obtain("a")
    assert site.requests == []


@pytest.mark.parametrize(
    "later",
    [
        pytest.param(whole(ranges=False), id="range ignored"),
        pytest.param(whole(etag='"v2"'), id="changed"),
        pytest.param(reply(200, BODY), id="no validator"),
    ],
)
def test_starts_anew_where_it_cannot_resume(bench: Bench, site: Site, later: Answer) -> None:
    url = site.plan("/a", cut(200_000), later)
    bench.store(asset("a", UrlSource(url), published=BODY)).obtain("a")
    assert [status for status, _ in site.requests] == ["/a", "/a"]


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_without_a_strong_validator_nothing_is_resumed(bench: Bench, site: Site, etag: str) -> None:
    url = site.plan("/a", cut(200_000, etag=etag), whole())
    bench.store(asset("a", UrlSource(url), published=BODY)).obtain("a")
    assert "range" not in site.requests[1][1]


def test_last_modified_stands_in_for_an_etag(bench: Bench, site: Site) -> None:
    moment = "Wed, 21 Oct 2015 07:28:00 GMT"
    url = site.plan("/a", cut(200_000, etag="", Last_Modified=moment), whole(etag=moment))
    bench.store(asset("a", UrlSource(url), published=BODY)).obtain("a")
    assert site.requests[1][1]["if-range"] == moment


def test_joined_pieces_of_two_versions_are_fetched_again_once(bench: Bench, site: Site) -> None:
    # The server changes the body and keeps its ETag: only the hash can tell.
    url = site.plan("/a", cut(200_000, OTHER), whole())
    bench.store(asset("a", UrlSource(url), published=BODY)).obtain("a")
    assert ["range" in headers for _, headers in site.requests] == [False, True, False]
    assert (bench.cache / "a").read_bytes() == BODY


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(reply(416, Content_Range="bytes */7"), id="416"),
        pytest.param(reply(206, b"x", Content_Range="bytes 5-5/300000"), id="another range"),
        pytest.param(reply(206, b"x"), id="no range"),
    ],
)
def test_a_part_that_does_not_fit_is_dropped(bench: Bench, site: Site, answer: Answer) -> None:
    url = site.plan("/a", cut(200_000), answer, whole())
    bench.store(asset("a", UrlSource(url), published=BODY)).obtain("a")
    assert ["range" in headers for _, headers in site.requests] == [False, True, False]


def test_a_damaged_download_record_starts_anew(bench: Bench, site: Site) -> None:
    wanted = asset("a", UrlSource(site.plan("/a", cut(200_000))), published=BODY)
    bench.refusal(wanted)
    (bench.cache / "a.part.json").write_text("[", encoding="utf-8")
    site.plan("/a", whole())
    site.requests.clear()
    bench.store(wanted).obtain("a")
    assert "range" not in site.requests[0][1]


def test_another_source_does_not_continue_a_part(bench: Bench, site: Site) -> None:
    bench.refusal(asset("a", UrlSource(site.plan("/a", cut(200_000))), published=BODY))
    bench.store(asset("a", UrlSource(site.plan("/b", whole())), published=BODY)).obtain("a")
    assert "range" not in site.requests[-1][1]


def test_corrupt_content_is_refused(bench: Bench, site: Site) -> None:
    url = site.plan("/a", whole(OTHER))
    text = bench.refusal(asset("a", UrlSource(url), published=BODY))
    assert f"has sha256 {sha256(OTHER)} instead of {sha256(BODY)}" in text
    assert bench.cached() == []
    assert len(site.requests) == 1


def test_several_sources_for_one_hash(bench: Bench, site: Site) -> None:
    bad, good = site.plan("/bad", whole(OTHER)), site.plan("/good", whole())
    wanted = asset("a", UrlSource(site.url + "/none"), UrlSource(bad), UrlSource(good))
    wanted = asset("a", *wanted.sources, published=BODY)
    assert bench.store(wanted).obtain("a").source.startswith(good)
    assert [path for path, _ in site.requests] == ["/none", "/bad", "/good"]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(reply(200, BODY + b"x"), id="longer than the manifest says"),
        pytest.param(reply(200, b"<html>log in</html>"), id="a portal's page"),
    ],
)
def test_a_wrong_announced_size_is_refused(bench: Bench, site: Site, answer: Answer) -> None:
    text = bench.refusal(asset("a", UrlSource(site.plan("/a", answer)), published=BODY))
    assert f"bytes instead of {len(BODY)}" in text
    assert bench.cached() == []


def test_a_body_longer_than_expected_is_cut_off(bench: Bench, site: Site) -> None:
    url = site.plan("/a", reply(200, BODY * 2, Content_Length=""))
    text = bench.refusal(asset("a", UrlSource(url), published=BODY))
    assert f"sends more than the {len(BODY)} bytes" in text
    assert len(site.requests) == 1
    assert bench.cached() == []


def test_a_body_without_length_is_complete_only_at_its_size(bench: Bench, site: Site) -> None:
    url = site.plan(
        "/a", reply(200, BODY[:9], Content_Length=""), reply(200, BODY, Content_Length="")
    )
    bench.store(asset("a", UrlSource(url), published=BODY)).obtain("a")
    assert len(site.requests) == 2


def test_a_body_beyond_any_asset_is_refused(bench: Bench, site: Site) -> None:
    url = site.plan("/a", reply(200, Content_Length=str(1 << 40)))
    assert "more than any asset has" in bench.refusal(asset("a", UrlSource(url)))


def test_an_empty_file_is_nothing(bench: Bench, site: Site) -> None:
    url = site.plan("/a", reply(200))
    assert "is empty" in bench.refusal(asset("a", UrlSource(url)))
    assert bench.pins() == {}


def test_a_busy_server_is_asked_again(bench: Bench, site: Site) -> None:
    moment = email.utils.formatdate(time.time() + 3600, usegmt=True)
    url = site.plan(
        "/a",
        reply(503),
        reply(429, Retry_After="7"),
        reply(500, Retry_After="3600"),
        reply(503, Retry_After=moment),
        whole(),
    )
    bench.store(asset("a", UrlSource(url), published=BODY)).obtain("a")
    assert bench.pauses == [1.0, 7.0, 60.0, 60.0]


@pytest.mark.parametrize("answer", [reply(403), reply(404), reply(410), reply(304), reply(302)])
def test_a_decided_server_is_not_asked_again(bench: Bench, site: Site, answer: Answer) -> None:
    url = site.plan("/a", answer)
    assert "HTTP " in bench.refusal(asset("a", UrlSource(url), published=BODY))
    assert len(site.requests) == 1
    assert bench.pauses == []


def test_redirects_are_followed(bench: Bench, site: Site) -> None:
    site.plan("/b", whole())
    url = site.plan("/a", reply(302, Location="/b"))
    bench.store(asset("a", UrlSource(url), published=BODY)).obtain("a")


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("/a", "more than 5 redirects"),
        ("file:///etc/passwd", "redirects to a file URL"),
        ("ftp://127.0.0.1/a", "redirects to a ftp URL"),
        ("http://[broken", "redirects to no URL"),
        ("http://", "from http"),
    ],
)
def test_redirects_have_limits(bench: Bench, site: Site, location: str, reason: str) -> None:
    url = site.plan("/a", reply(302, Location=location))
    assert reason in bench.refusal(asset("a", UrlSource(url), published=BODY))
    assert len(site.requests) <= 6


class Canned(requests.adapters.BaseAdapter):
    """An adapter that answers every request with a redirect."""

    def __init__(self, location: str) -> None:
        super().__init__()
        self.location = location

    def send(self, request: Any, *arguments: Any, **options: Any) -> requests.Response:
        response = requests.Response()
        response.status_code, response.url, response.request = 302, request.url, request
        response.headers["Location"] = self.location
        response.raw = urllib3.HTTPResponse(io.BytesIO(b""), preload_content=False)
        return response

    def close(self) -> None:
        """Nothing is held."""


def test_https_is_never_left_for_http(bench: Bench, site: Site) -> None:
    session = requests.Session()
    session.mount("https://", Canned(site.plan("/a", whole())))
    wanted = asset("a", UrlSource("https://assets.invalid/a"), published=BODY)
    assert "from https to plain http" in bench.refusal(wanted, session=session)
    assert site.requests == []


def test_a_name_that_does_not_resolve_gets_one_more_try(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    text = bench.refusal(asset("a", UrlSource("https://assets.invalid/a"), published=BODY))
    assert "the host name cannot be resolved, Name or service not known (tried 2 times)" in text
    assert bench.pauses == [1.0]


def test_a_refused_connection_is_named(bench: Bench) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/a"
        text = bench.refusal(asset("a", UrlSource(url), published=BODY))
    assert "Connection refused (tried 5 times)" in text


def test_a_proxy_of_the_environment_is_used(
    bench: Bench, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.plan("http://assets.invalid/a", whole())
    monkeypatch.setenv("http_proxy", site.url)
    bench.store(asset("a", UrlSource("http://assets.invalid/a"), published=BODY)).obtain("a")
    assert site.requests[0][0] == "http://assets.invalid/a"


def test_a_hugging_face_file_comes_from_hf_endpoint(
    bench: Bench, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.plan("/org/name/resolve/0123456/sub/a.bin", whole())
    monkeypatch.setenv("HF_ENDPOINT", site.url + "/")
    wanted = asset("a", HuggingFaceFile("org/name", "0123456", "sub/a.bin"), published=BODY)
    bench.store(wanted).obtain("a")
    monkeypatch.setenv("HF_ENDPOINT", "example.org")
    with pytest.raises(UserError, match="HF_ENDPOINT"):
        bench.store(wanted)


def test_two_at_once_download_once(bench: Bench, site: Site, capsys: Any) -> None:
    def slow(handler: Handler) -> None:
        time.sleep(0.3)
        whole()(handler)

    wanted = asset("a", UrlSource(site.plan("/a", slow)), published=BODY)
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda _: bench.store(wanted).obtain("a"), range(3)))
    assert {one.path for one in found} == {bench.cache / "a"}
    assert len(site.requests) == 1
    assert "waiting for another process that gets a" in capsys.readouterr().err


def test_a_full_disk_goes_up(bench: Bench, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harness.download._receive", full)
    wanted = asset("a", UrlSource(site.plan("/a", whole())), published=BODY)
    with pytest.raises(OSError, match="No space left"):
        bench.store(wanted).obtain("a")
    assert not (bench.cache / "a").exists()


# ---- the cache and the repository ----------------------------------------------------------


def test_a_wrong_file_in_the_cache_is_replaced(bench: Bench, site: Site, capsys: Any) -> None:
    bench.put("a", OTHER)
    bench.store(asset("a", UrlSource(site.plan("/a", whole())), published=BODY)).obtain("a")
    assert (bench.cache / "a").read_bytes() == BODY
    assert "replaced" in capsys.readouterr().err


def test_a_wrong_file_in_the_cache_is_named(bench: Bench) -> None:
    bench.put("a", b"short")
    wanted = asset("a", UrlSource("https://assets.invalid/a"), published=BODY)
    text = bench.refusal(wanted, offline=True)
    assert f"from {bench.cache}/a: has 5 bytes instead of {len(BODY)}" in text
    assert (bench.cache / "a").read_bytes() == b"short"


def test_a_file_of_the_repository_is_used_in_place(bench: Bench) -> None:
    (bench.root / "a").write_bytes(BODY)
    found = bench.store(asset("n", RepositoryFile("a"), published=BODY), offline=True).obtain("n")
    assert found.path == bench.root / "a"
    assert bench.cached() == []
    (bench.root / "a").write_bytes(OTHER)
    text = bench.refusal(asset("n", RepositoryFile("a"), published=BODY))
    assert f"from a: has sha256 {sha256(OTHER)}" in text
    assert text.endswith("; restore it with `git checkout -- a`")


def test_an_unknown_name_is_a_users_error(bench: Bench) -> None:
    with pytest.raises(UserError, match="no asset 'b' in the manifest"):
        bench.store(asset("a", RepositoryFile("a"))).obtain("b")


# ---- the lock file -------------------------------------------------------------------------


def test_the_first_content_is_pinned(bench: Bench, site: Site, capsys: Any) -> None:
    wanted = asset("a", UrlSource(site.plan("/a", whole())))
    bench.store(wanted).obtain("a")
    pin = bench.pins()["a"]
    assert (pin["sha256"], pin["size"]) == (sha256(BODY), len(BODY))
    assert pin["source"] == f"{site.url}/a (plain http)"
    notice = capsys.readouterr().err
    for part in ("no published hash", "plain http", sha256(BODY), str(bench.lock_file), "commit"):
        assert part in notice
    bench.store(wanted).obtain("a")
    assert "NOTE" not in capsys.readouterr().err


@pytest.mark.parametrize("place", ["cache", "source", "mirror"])
def test_other_content_than_pinned_is_refused(bench: Bench, site: Site, place: str) -> None:
    wanted = asset("a", UrlSource(site.plan("/a", whole())))
    path = bench.store(wanted).obtain("a").path
    before = bench.lock_file.read_bytes()
    mirror = bench.root / "mirror"
    if place == "cache":
        path.write_bytes(OTHER)
    else:
        path.unlink()
        site.plan("/a", whole(OTHER))
    if place == "mirror":
        mirror.mkdir()
        (mirror / "a").write_bytes(OTHER)
    options = {"mirror": str(mirror)} if place == "mirror" else {}
    with pytest.raises(PinMismatch) as caught:
        bench.store(wanted, **options).obtain("a")
    for part in (sha256(BODY), sha256(OTHER), str(bench.lock_file)):
        assert part in str(caught.value)
    assert bench.lock_file.read_bytes() == before
    assert bench.cached() == (["a"] if place == "cache" else [])


def test_a_resumed_download_that_breaks_the_pin_is_fetched_again(bench: Bench, site: Site) -> None:
    wanted = asset("a", UrlSource(site.plan("/a", whole())))
    bench.store(wanted).obtain("a").path.unlink()
    site.plan("/a", cut(200_000, OTHER), whole())
    assert bench.store(wanted).obtain("a").sha256 == sha256(BODY)


def test_a_file_put_into_the_cache_is_pinned(bench: Bench) -> None:
    bench.put("a", BODY)
    bench.lock_file.unlink()
    store = bench.store(asset("a", UrlSource("https://assets.invalid/a")), offline=True)
    assert store.obtain("a").sha256 == sha256(BODY)
    assert bench.pins()["a"]["source"] == "the cache"


@pytest.mark.parametrize("text", ["[]", '{"a": 1}', '{"a": {"sha256": "x"}}', "{"])
def test_a_broken_lock_file_is_refused(bench: Bench, text: str) -> None:
    bench.put("a", BODY)
    bench.lock_file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="lock file"):
        bench.store(asset("a", UrlSource("https://assets.invalid/a"))).obtain("a")


def test_pins_of_many_processes_are_all_kept(bench: Bench) -> None:
    assets = [asset(f"a{i}", UrlSource("https://assets.invalid/a")) for i in range(12)]
    for one in assets:
        bench.put(one.name, one.name.encode())
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda one: bench.store(*assets).obtain(one.name), assets))
    assert bench.pins().keys() == {one.name for one in assets}


# ---- mirror and offline --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["group/a.bin", "a.bin"])
def test_a_mirror_folder_comes_before_the_sources(
    bench: Bench, site: Site, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "mirror" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    wanted = asset("group/a.bin", UrlSource(site.plan("/a", whole())), published=BODY)
    mirror = str(tmp_path / "mirror")
    found = bench.store(wanted, mirror=mirror, offline=True).obtain("group/a.bin")
    assert (found.source, found.path) == ("ASSET_MIRROR", bench.cache / "group/a.bin")
    assert site.requests == []


@pytest.mark.parametrize("path", ["/m/group/a.bin", "/m/a.bin"])
def test_a_mirror_url(bench: Bench, site: Site, path: str) -> None:
    site.plan(path, whole())
    wanted = asset("group/a.bin", UrlSource("https://assets.invalid/a"))
    mirror = site.url.replace("//", "//user:secret@") + "/m/"
    found = bench.store(wanted, mirror=mirror).obtain("group/a.bin")
    assert found.source == "ASSET_MIRROR (plain http)"
    assert "secret" not in bench.lock_file.read_text(encoding="utf-8")
    (bench.cache / "group/a.bin").unlink()
    text = bench.refusal(wanted, mirror=mirror, offline=True)
    assert "not tried, OFFLINE=1" in text
    assert "secret" not in text


def test_a_shared_base_name_is_never_pinned(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(BODY)
    source = UrlSource("https://assets.invalid/a")
    wanted = asset("one/model.bin", source)
    other = asset("two/model.bin", source, published=BODY)
    text = bench.refusal(wanted, other, mirror=str(tmp_path), offline=True)
    assert "holds no file one/model.bin" in text
    store = bench.store(wanted, other, mirror=str(tmp_path), offline=True)
    assert store.obtain("two/model.bin").sha256 == sha256(BODY)


def test_a_wrong_file_in_the_mirror_gives_way_to_the_source(
    bench: Bench, site: Site, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(OTHER)
    wanted = asset("a", UrlSource(site.plan("/a", whole())), published=BODY)
    found = bench.store(wanted, mirror=str(tmp_path)).obtain("a")
    assert found.source.startswith(site.url)


@pytest.mark.parametrize("mirror", ["ftp://example.org/assets", "http://", "http://[broken"])
def test_a_mirror_of_another_kind_is_refused(bench: Bench, mirror: str) -> None:
    with pytest.raises(UserError, match="ASSET_MIRROR"):
        bench.store(mirror=mirror)


def test_the_whole_line_when_nothing_works(bench: Bench, site: Site, tmp_path: Path) -> None:
    wheel = WheelMember("some-package==1.0", "some_package/a.bin")

    def no_wheel(requirement: str, folder: Path) -> Path:
        (folder / "half.whl").write_bytes(b"half")
        raise SourceError("pip cannot reach the package index")

    tar = asset("g/b.tar", UrlSource(site.url + "/b.tar"))
    wanted = asset("g/a.bin", wheel, TarMember("g/b.tar", "a.bin"), published=BODY)
    text = bench.refusal(wanted, tar, mirror=str(tmp_path / "none"), fetch_wheel=no_wheel)
    assert text == (
        f"asset g/a.bin could not be had (from ASSET_MIRROR {tmp_path}/none: holds no file "
        f"g/a.bin or a.bin; g/b.tar from ASSET_MIRROR {tmp_path}/none: holds no file g/b.tar or "
        "b.tar; from PyPI wheel some-package==1.0: pip cannot reach the package index; "
        f"g/b.tar from {site.url}/b.tar: HTTP 404 Not Found); connect to the network, or put "
        f"g/a.bin or g/b.tar into {bench.cache}, or name a folder or a URL that holds it in "
        "ASSET_MIRROR"
    )
    assert bench.cached() == []
    assert bench.pins() == {}
    offline = bench.refusal(wanted, tar, offline=True, fetch_wheel=no_wheel)
    assert "from PyPI wheel some-package==1.0: not tried, OFFLINE=1" in offline
    assert "; unset OFFLINE, or put" in offline
    assert bench.cached() == []


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


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def make_wheel(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


TAR = asset("g/b.tar", UrlSource("https://assets.invalid/b.tar"))
MEMBER = asset("g/a.bin", TarMember("g/b.tar", "a.bin"))


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("name", ["a.bin", "./a.bin", "deep/er/a.bin"])
def test_a_member_of_a_tar_in_the_cache(bench: Bench, mode: str, name: str) -> None:
    make_tar(bench.cache / "g/b.tar", (name, BODY), ("not-a.bin", OTHER), mode=mode)
    found = bench.store(MEMBER, TAR, offline=True).obtain("g/a.bin")
    assert found.path.read_bytes() == BODY
    assert found.source == "g/b.tar, member a.bin"
    assert bench.pins().keys() == {"g/a.bin", "g/b.tar"}
    assert bench.cached() == ["g/a.bin", "g/b.tar"]


def test_the_tar_is_not_needed_where_its_member_is(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(BODY)
    found = bench.store(MEMBER, TAR, mirror=str(tmp_path), offline=True).obtain("g/a.bin")
    assert found.source == "ASSET_MIRROR"
    assert bench.cached() == ["g/a.bin"]


def test_a_tar_in_the_mirror_serves_its_members(bench: Bench, tmp_path: Path) -> None:
    make_tar(tmp_path / "b.tar", ("a.bin", BODY))
    found = bench.store(MEMBER, TAR, mirror=str(tmp_path), offline=True).obtain("g/a.bin")
    assert found.sha256 == sha256(BODY)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("b.bin", BODY)], "has 0 plain files named a.bin"),
        ([("x/a.bin", BODY), ("y/a.bin", OTHER)], "has 2 plain files named a.bin"),
        ([("../../a.bin", BODY)], "only links or unsafe paths"),
        ([("/tmp/a.bin", BODY)], "only links or unsafe paths"),
        ([("b.bin", BODY), (link("a.bin", "b.bin"), b"")], "only links or unsafe paths"),
        ([(link("a.bin", "/etc/passwd"), b"")], "only links or unsafe paths"),
        ([("b.bin", BODY), (link("a.bin", "b.bin", tarfile.LNKTYPE), b"")], "only links"),
        ([(link("a.bin", "", tarfile.DIRTYPE), b"")], "only links or unsafe paths"),
        ([(link("a.bin", "", tarfile.FIFOTYPE), b"")], "only links or unsafe paths"),
        ([("a.bin", b"")], "is empty"),
    ],
)
def test_a_tar_without_the_one_plain_file(bench: Bench, members: Any, reason: str) -> None:
    make_tar(bench.cache / "g/b.tar", *members)
    assert reason in bench.refusal(MEMBER, TAR, offline=True)
    assert bench.cached() == ["g/b.tar"]


def test_a_member_of_another_size_or_hash(bench: Bench) -> None:
    make_tar(bench.cache / "g/b.tar", ("a.bin", BODY + b"x"))
    wanted = asset("g/a.bin", *MEMBER.sources, published=BODY)
    assert "bytes where 300000 are the limit" in bench.refusal(wanted, TAR, offline=True)
    bench.lock_file.write_text("{}", encoding="utf-8")
    make_tar(bench.cache / "g/b.tar", ("a.bin", OTHER))
    assert f"sha256 {sha256(OTHER)} instead" in bench.refusal(wanted, TAR, offline=True)
    assert bench.cached() == ["g/b.tar"]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
@pytest.mark.parametrize("content", [None, b"no archive"])
def test_a_damaged_tar(tmp_path: Path, mode: str, content: bytes | None) -> None:
    tar = make_tar(tmp_path / "b.tar", ("a.bin", BODY), mode=mode)
    tar.write_bytes(tar.read_bytes()[:100_000] if content is None else content)
    with pytest.raises(SourceError, match="damaged"):
        copy_tar_member(tar, "a.bin", tmp_path / "a.bin", limit=len(BODY))


PACKAGE = "some-package==1.0"


def test_members_of_a_wheel_come_with_one_download(bench: Bench) -> None:
    fetched: list[str] = []

    def fetch(requirement: str, folder: Path) -> Path:
        fetched.append(requirement)
        members = {"p/a.bin": BODY, "p/b.bin": OTHER, "p/c.bin": b"unwanted", "../evil": b"x"}
        return make_wheel(folder / "wheels" / "p.whl", members)

    a = asset("g/a.bin", WheelMember(PACKAGE, "p/a.bin"), published=BODY)
    b = asset("h/b.bin", WheelMember(PACKAGE, "p/b.bin"), published=OTHER)
    wrong = asset("h/c.bin", WheelMember(PACKAGE, "p/c.bin"), published=OTHER)
    elsewhere = asset("h/d.bin", WheelMember("some-package==2.0", "p/b.bin"), published=OTHER)
    store = bench.store(a, b, wrong, elsewhere, fetch_wheel=fetch)
    assert store.obtain("g/a.bin").source == f"PyPI wheel {PACKAGE}"
    assert store.obtain("h/b.bin").path.read_bytes() == OTHER
    assert fetched == [PACKAGE]
    assert bench.cached() == ["g/a.bin", "h/b.bin"]
    assert not (bench.cache.parent / "evil").exists()
    assert f"from PyPI wheel {PACKAGE}: has 8 bytes" in bench.refusal(wrong, fetch_wheel=fetch)


@pytest.mark.parametrize("member", ["p/none.bin", "p/", "a.bin"])
def test_a_wheel_gives_up_exact_files_only(tmp_path: Path, member: str) -> None:
    wheel = make_wheel(tmp_path / "p.whl", {"p/": b"", "p/a.bin": BODY})
    with pytest.raises(SourceError, match="member"):
        copy_wheel_member(wheel, member, tmp_path / "a.bin", limit=len(BODY))


def test_a_link_or_an_encrypted_member_of_a_wheel(tmp_path: Path) -> None:
    wheel = tmp_path / "p.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        info = zipfile.ZipInfo("a.bin")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(SourceError, match="no plain file"):
        copy_wheel_member(wheel, "a.bin", tmp_path / "a.bin", limit=100)
    make_wheel(wheel, {"a.bin": b"content"})
    data = bytearray(wheel.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the encryption flag in the central directory
    wheel.write_bytes(data)
    with pytest.raises(SourceError, match="no plain file"):
        copy_wheel_member(wheel, "a.bin", tmp_path / "a.bin", limit=100)


def test_a_member_that_unfolds_beyond_its_limit(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "p.whl", {"a.bin": bytes(10 << 20)})
    with pytest.raises(SourceError, match="limit"):
        copy_wheel_member(wheel, "a.bin", tmp_path / "a.bin", limit=1000)
    assert not (tmp_path / "a.bin").exists()


def test_a_wheel_whose_directory_points_nowhere(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "p.whl", {"a.bin": b"content"})
    data = bytearray(wheel.read_bytes())
    data[-10:-6] = (len(data) + 1000).to_bytes(4, "little")  # the directory's size
    wheel.write_bytes(data)
    with pytest.raises(SourceError, match="damaged"):
        copy_wheel_member(wheel, "a.bin", tmp_path / "a.bin", limit=100)


SMALL = random.Random(3).randbytes(2000)


@given(st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=4), st.booleans())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_never_escapes(tmp_path: Path, damage: list[tuple[int, int]], tar: bool) -> None:
    path, target = tmp_path / "archive", tmp_path / "a.bin"
    if tar:
        make_tar(path, ("a.bin", SMALL), mode="w:gz")
    else:
        make_wheel(path, {"a.bin": SMALL})
    data = bytearray(path.read_bytes())
    for place, value in damage:
        data[place % len(data)] = value
    path.write_bytes(data)
    try:
        (copy_tar_member if tar else copy_wheel_member)(path, "a.bin", target, limit=4000)
    except SourceError:
        return
    assert target.stat().st_size <= 4000


def test_pip_downloads_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {
        "some_package/a.bin": BODY,
        "some_package-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: some-package\n"
        b"Version: 1.0\nRequires-Dist: never-wanted\n",
        "some_package-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nTag: py3-none-any\n",
        "some_package-1.0.dist-info/RECORD": b"",
    }
    make_wheel(tmp_path / "index" / "some_package-1.0-py3-none-any.whl", members)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
    wheel = download_wheel(PACKAGE, tmp_path / "good")
    copy_wheel_member(wheel, "some_package/a.bin", tmp_path / "a.bin", limit=len(BODY))
    assert (tmp_path / "a.bin").read_bytes() == BODY
    with pytest.raises(SourceError, match="pip: ERROR"):
        download_wheel("some-package==2.0", tmp_path / "bad")


# ---- alternatives --------------------------------------------------------------------------


def either(*names: str) -> Asset:
    return Asset("g/weights", "a test asset", "Apache-2.0", alternatives=names)


def test_the_first_alternative_that_can_be_had(bench: Bench, site: Site) -> None:
    first = asset("g/first", UrlSource(site.url + "/none"))
    second = asset("g/second", UrlSource(site.plan("/b", whole())))
    found = bench.store(either("g/first", "g/second"), first, second).obtain("g/weights")
    assert (found.name, found.path) == ("g/second", bench.cache / "g/second")
    site.plan("/none", whole(OTHER))
    # What is here already is kept: a server that comes back does not change the weights.
    again = bench.store(either("g/first", "g/second"), first, second).obtain("g/weights")
    assert (again.name, again.source) == ("g/second", "the cache")


def test_the_nearer_alternative_is_used(bench: Bench, site: Site, tmp_path: Path) -> None:
    (tmp_path / "second").write_bytes(BODY)
    first = asset("g/first", UrlSource(site.plan("/a", whole(OTHER))))
    second = asset("g/second", UrlSource(site.url + "/none"))
    store = bench.store(either("g/first", "g/second"), first, second, mirror=str(tmp_path))
    assert store.obtain("g/weights").name == "g/second"
    assert site.requests == []


def test_no_alternative_can_be_had(bench: Bench) -> None:
    first = asset("g/first", TarMember("g/b.tar", "first"))
    second = asset("g/second", UrlSource("https://assets.invalid/second"))
    text = bench.refusal(either("g/first", "g/second"), first, second, TAR, offline=True)
    assert text == (
        "asset g/weights could not be had (g/b.tar from https://assets.invalid/b.tar: not tried, "
        "OFFLINE=1; g/second from https://assets.invalid/second: not tried, OFFLINE=1); unset "
        f"OFFLINE, or put g/first or g/second or g/b.tar into {bench.cache}, or name a folder or "
        "a URL that holds it in ASSET_MIRROR"
    )
