"""A download is complete, resumed or refused, whatever the server does."""

from __future__ import annotations

import email.utils
import io
import socket
import time
from typing import Any

import asset_bench
import pytest
import requests
import urllib3
from asset_bench import BODY, OTHER, Answer, Bench, Site, asset, cut, reply, sha256, whole

from harness.manifest import UrlSource

bench = asset_bench.bench
site = asset_bench.site


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


def test_a_full_disk_goes_up(bench: Bench, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harness.fetch._receive", full)
    wanted = asset("a", UrlSource(site.plan("/a", whole())), published=BODY)
    with pytest.raises(OSError, match="No space left"):
        bench.store(wanted).obtain("a")
    assert not (bench.cache / "a").exists()
