"""A hostile server: whatever it does, nothing unchecked is kept, and there is an end to it.

Every answer here comes from a server on this machine. An asset whose only source is hostile is
refused in one line that names the source; with an honest source beside it, it is had from there;
and once the server behaves, from the same URL.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import random
import secrets
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asset_bench
import pytest
import requests
from asset_bench import BODY, OTHER, Answer, Bench, Handler, Site, asset, cut, reply, whole
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness import archives, fetch
from harness.archives import download_wheel
from harness.errors import UserError
from harness.fetch import Session, SourceError, _retry_after
from harness.manifest import Asset, UrlSource

bench = asset_bench.bench
site = asset_bench.site

MOST_REQUESTS = 6
# A socket's buffers take some megabytes before the server notices that nobody reads.
BUFFERED = 16 << 20


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A downloader without patience; everything else is as it ships."""
    for name, value in (
        ("_READ_SECONDS", 0.15),
        ("_HEAD_SECONDS", 0.3),
        ("_STRETCH_SECONDS", 0.15),
        ("_LEAST_SPEED", 10_000),
    ):
        monkeypatch.setattr(fetch, name, value)


# ---- what a server can do ------------------------------------------------------------------


def raw(*pieces: bytes, pause: float = 0.0, then: str = "close") -> Answer:
    """Bytes as they are, `pause` seconds apart; then the end, a reset, or silence."""

    def answer(handler: Handler) -> None:
        with contextlib.suppress(OSError):
            for piece in pieces:
                handler.wfile.write(piece)
                time.sleep(pause)
            if then == "silence":
                # Until the client hangs up.
                handler.connection.recv(1)
            if then == "reset":
                linger = struct.pack("ii", 1, 0)
                handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                # Before the server says goodbye.
                os.close(handler.connection.detach())

    return answer


def endless(head: bytes, piece: bytes, pause: float = 0.0, most: int = 1 << 30) -> Answer:
    """`head`, then `piece` again and again, for as long as somebody listens."""

    def answer(handler: Handler) -> None:
        with contextlib.suppress(OSError):
            handler.wfile.write(head)
            sent = 0
            while sent < most:
                handler.wfile.write(piece)
                sent += len(piece)
                taken.append(len(piece))
                time.sleep(pause)

    taken: list[int] = []
    answer.taken = taken  # type: ignore[attr-defined]
    return answer


def head(status: str = "200 OK", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


LENGTH = str(len(BODY))
HONEST = head(Content_Length=LENGTH, ETag='"v1"')
BOMB = gzip.compress(bytes(1 << 20), 9)


@dataclass(frozen=True)
class Fault:
    """What the server answers, what the one line says of it, and whether another try may do.

    `slow`: it takes seconds even with a hasty downloader.
    """

    answer: Answer
    reason: str
    passing: bool = False
    slow: bool = False


FAULTS = {
    "truncates": Fault(cut(1000), "IncompleteRead", passing=True),
    "truncates chunks": Fault(
        raw(head(Transfer_Encoding="chunked"), b"10\r\n0123456789"), "IncompleteRead", passing=True
    ),
    "chunks of no size": Fault(
        raw(head(Transfer_Encoding="chunked"), b"zz\r\n0123"), "", passing=True
    ),
    "chunks of negative size": Fault(
        raw(head(Transfer_Encoding="chunked"), b"-5\r\n0123"), "", passing=True
    ),
    "corrupts": Fault(whole(OTHER), "has sha256"),
    "says nothing": Fault(raw(then="silence"), "timed out", passing=True, slow=True),
    "hangs up": Fault(raw(), "Remote end closed", passing=True),
    "resets": Fault(raw(HONEST, BODY[:1000], then="reset"), "reset by peer", passing=True),
    "resets at once": Fault(raw(then="reset"), "reset by peer", passing=True),
    "stalls": Fault(raw(HONEST, BODY[:1000], then="silence"), "timed out", passing=True, slow=True),
    "drips": Fault(
        endless(HONEST, b"x", pause=0.02), "less than 10000 bytes a second", passing=True, slow=True
    ),
    "drips its head": Fault(
        endless(b"HTTP/1.1 200 OK\r\n", b"x", pause=0.02),
        "no whole answer within",
        passing=True,
        slow=True,
    ),
    "goes on and on": Fault(
        endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", pause=0.001),
        "no whole answer within",
        passing=True,
        slow=True,
    ),
    "headers without end": Fault(
        endless(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"), "more than 100 headers", passing=True
    ),
    "a header without end": Fault(
        endless(b"HTTP/1.1 200 OK\r\nX: ", bytes(65536)), "got more than 65536", passing=True
    ),
    "no HTTP": Fault(raw(b"\x16\x03\x01" + bytes(70_000)), "", passing=True),
    "lies low about its length": Fault(
        raw(head(Content_Length="1000"), BODY), f"announces 1000 bytes instead of {LENGTH}"
    ),
    "lies high about its length": Fault(
        raw(head(Content_Length=str(1 << 50)), BODY), f"instead of {LENGTH}"
    ),
    "a length of many digits": Fault(
        endless(head(Content_Length="9" * 5000), bytes(65536)), f"more than the {LENGTH} bytes"
    ),
    "two lengths": Fault(
        raw(f"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: {LENGTH}\r\n\r\n".encode()),
        "Content-Length",
    ),
    "a negative length": Fault(raw(head(Content_Length="-1"), b"x"), "", passing=True),
    "longer than stated": Fault(
        endless(head(), bytes(65536)), f"sends more than the {LENGTH} bytes"
    ),
    "more than stated in chunks": Fault(
        endless(head(Transfer_Encoding="chunked"), b"10000\r\n" + bytes(65536) + b"\r\n"),
        f"sends more than the {LENGTH} bytes",
    ),
    "gzip, unasked": Fault(raw(head(Content_Encoding="gzip"), BOMB), "compressed body"),
    "a bomb, unasked": Fault(
        raw(head(Content_Encoding="gzip, gzip", Content_Length=str(len(BOMB))), BOMB),
        "compressed body",
    ),
    "a part, unasked": Fault(
        raw(head("206 Partial", Content_Range=f"bytes 0-9/{LENGTH}"), b"x" * 10), "HTTP 206"
    ),
    "redirects in a circle": Fault(reply(302, Location="/a"), "more than 5 redirects"),
    "redirects to a file": Fault(reply(301, Location="file:///etc/passwd"), "to a file URL"),
    "redirects to data": Fault(reply(307, Location="data:,x"), "to a data URL"),
    "redirects to nowhere": Fault(reply(308, Location="http://[::"), "redirects to no URL"),
    "redirects to a port beyond": Fault(
        reply(302, Location="http://127.0.0.1:99999/"), "127.0.0.1:99999"
    ),
    "redirects far": Fault(reply(302, Location="x" * 60_000 + ":a"), "redirects to a"),
    "redirects with a body without end": Fault(
        endless(head("302 Found", Location="/a"), bytes(65536)), "more than 5 redirects"
    ),
    "redirects with a bomb": Fault(
        raw(head("302 Found", Location="/a", Content_Encoding="gzip"), BOMB),
        "more than 5 redirects",
    ),
    "busy for an hour": Fault(reply(503, Retry_After="3600"), "HTTP 503", passing=True),
    "too many, for longer than there are numbers": Fault(
        reply(429, Retry_After="9" * 5000), "HTTP 429", passing=True
    ),
    "busy until no date": Fault(
        reply(503, Retry_After="Wed, 21 Oct 99999999999999999999 07:28:00 GMT"),
        "HTTP 503",
        passing=True,
    ),
    "a reason of many words": Fault(
        raw(head("404 " + "no " * 20_000 + "\x1b[2Jescape")), "HTTP 404 no no"
    ),
}


def source_of(text: str, url: str) -> None:
    """The one line, as a reader meets it."""
    assert f"from {url}: " in text or f"from {url} " in text
    assert len(text) < 1000
    assert "\x1b" not in text


def faults(*quick: str) -> list[Any]:
    """All faults; those that are slow in the full tests alone, but for the ones named here."""
    return [
        pytest.param(fault, id=name, marks=[pytest.mark.full] if slow else [])
        for name, fault in FAULTS.items()
        for slow in [fault.slow and name not in quick]
    ]


@pytest.mark.parametrize("fault", faults("drips", "drips its head"))
@pytest.mark.usefixtures("hasty")
def test_a_hostile_server(bench: Bench, site: Site, fault: Fault) -> None:
    url = site.plan("/a", fault.answer)
    only = asset("a", UrlSource(url), published=BODY)
    began = time.monotonic()
    text = bench.refusal(only)
    # Five tries without patience; a minute each as shipped.
    assert time.monotonic() - began < 8
    source_of(text, url)
    assert fault.reason in text
    assert ("(tried 5 times)" in text) == fault.passing
    assert len(site.requests) == 5 if fault.passing else len(site.requests) <= MOST_REQUESTS
    assert len(bench.pauses) == (4 if fault.passing else 0)
    assert all(0 <= pause <= 60 for pause in bench.pauses)
    nothing_unchecked(bench)
    assert sum(getattr(fault.answer, "taken", [])) < 6 * BUFFERED

    site.plan("/a", whole())
    assert bench.store(only).obtain("a").path.read_bytes() == BODY
    assert bench.cached() == ["a"]


@pytest.mark.parametrize("fault", faults())
@pytest.mark.usefixtures("hasty")
def test_an_honest_source_beside_a_hostile_one(bench: Bench, site: Site, fault: Fault) -> None:
    hostile = UrlSource(site.plan("/a", fault.answer))
    honest = UrlSource(site.plan("/b", whole()))
    found = bench.store(asset("a", hostile, honest, published=BODY)).obtain("a")
    assert found.path.read_bytes() == BODY
    assert found.source.startswith(honest.url)
    assert bench.cached() == ["a"]


def nothing_unchecked(bench: Bench) -> None:
    """Only a download in progress is left, under its own name, no larger than the asset."""
    assert set(bench.cached()) <= {"a.part", "a.part.json"}
    part = bench.cache / "a.part"
    assert not part.exists() or part.stat().st_size <= len(BODY)
    assert bench.pins() == {}


# ---- a download that is gone on with -------------------------------------------------------

SPAN = f"bytes 1000-{len(BODY) - 1}/{LENGTH}"
CONTINUATIONS = {
    "another range": raw(head("206 x", Content_Range=f"bytes 0-9/{LENGTH}"), b"x" * 10),
    "a range of nothing": raw(head("206 x", Content_Range=f"bytes 1000-999/{LENGTH}")),
    "a range beyond the whole": raw(head("206 x", Content_Range="bytes 1000-2000/1500"), b"x"),
    "a range of another whole": raw(head("206 x", Content_Range="bytes 1000-1009/1010"), b"x" * 10),
    "a range of many digits": raw(head("206 x", Content_Range=f"bytes {'9' * 5000}-1/2"), b"x"),
    "a range of no numbers": raw(head("206 x", Content_Range="bytes ²-³/¹"), b"x"),
    "no range": raw(head("206 x"), BODY[1000:]),
    "the whole though a part was asked for": raw(HONEST, BODY),
    "416": raw(head("416 x", Content_Range=f"bytes */{LENGTH}")),
    "416 and a body without end": endless(head("416 x"), bytes(65536)),
    "the range of another body": raw(head("206 x", Content_Range=SPAN), OTHER[1000:]),
    "more than the range": raw(head("206 x", Content_Range=SPAN), BODY[1000:] + b"x" * 1000),
    "less than the range": raw(head("206 x", Content_Range=SPAN), BODY[1000:2000]),
    "the range, packed": raw(head("206 x", Content_Range=SPAN, Content_Encoding="gzip"), BOMB),
}


@pytest.mark.parametrize("name", CONTINUATIONS)
@pytest.mark.usefixtures("hasty")
def test_a_hostile_continuation(bench: Bench, site: Site, name: str) -> None:
    wanted = asset("a", UrlSource(site.plan("/a", cut(1000), reply(404))), published=BODY)
    bench.refusal(wanted)
    assert (bench.cache / "a.part").read_bytes() == BODY[:1000]
    site.requests.clear()
    site.plan("/a", CONTINUATIONS[name], whole())
    # It may give up where the server has decided; then the next call gets it.
    with contextlib.suppress(UserError):
        bench.store(wanted).obtain("a")
    assert "range" in site.requests[0][1]
    assert len(site.requests) <= MOST_REQUESTS
    assert bench.store(wanted).obtain("a").path.read_bytes() == BODY
    assert bench.cached() == ["a"]


@pytest.mark.parametrize("validator", ['"' + "x" * 300 + '"', '"caf\xe9"', '"\x01"', '"\x85"'])
def test_a_validator_that_cannot_be_sent_back(bench: Bench, site: Site, validator: str) -> None:
    cut_off = raw(head(Content_Length=LENGTH, ETag=validator), BODY[:1000])
    wanted = asset("a", UrlSource(site.plan("/a", cut_off, whole())), published=BODY)
    assert bench.store(wanted).obtain("a").path.read_bytes() == BODY
    assert "range" not in site.requests[1][1]


# ---- bounds --------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_body(bench: Bench, site: Site) -> None:
    body = bytes(32 << 20)
    wanted = asset("a", UrlSource(site.plan("/a", whole(body))), published=body)
    tracemalloc.start()
    try:
        bench.store(wanted).obtain("a")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Hashing reads a mebibyte at a time.
    assert peak < 8 << 20


def test_an_asset_of_unknown_size_has_a_bound(
    bench: Bench, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "LARGEST_ASSET_BYTES", 1_000_000)
    answer = endless(head(), bytes(65536))
    text = bench.refusal(asset("a", UrlSource(site.plan("/a", answer))))
    assert "sends more than the 1000000 bytes expected" in text
    nothing_unchecked(bench)
    assert sum(answer.taken) < BUFFERED  # type: ignore[attr-defined]


@given(
    st.text(max_size=40)
    | st.from_regex(r"\w{3}, \d+ \w{3} \d+ \d+:\d+:\d+ [+-]\d+", fullmatch=True)
)
@example("Wed, 21 Oct 0000 07:28:00 GMT")
@example("Wed, 21 Oct 99999999999 07:28:00 GMT")
@example("Wed, 21 Oct 2015 07:28:00 +99999999999999")
@example("Mon, 32 Feb 2024 25:61:61 -0000")
@example("0" * 5000)
@settings(max_examples=60, deadline=None)
def test_retry_after_is_a_time_or_nothing(value: str) -> None:
    response = requests.Response()
    response.headers["Retry-After"] = value
    pause = _retry_after(response)
    assert pause is None or pause >= 0


# ---- TLS -----------------------------------------------------------------------------------


def certificate(folder: Path, name: str) -> Path:
    """A certificate that signs itself, valid for `name`, with its key in the same file."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test"
    subprocess.run(
        ["openssl", *words.split(), "-addext", f"subjectAltName={name}",
         "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder, capture_output=True, check=True,
    )  # fmt: skip
    both = folder / "both.pem"
    both.write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())
    return both


@contextlib.contextmanager
def tls_site(pem: Path) -> Iterator[Site]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = Site()
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def trusting(pem: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    session = Session()
    session.verify = str(pem)
    return session


def https(server: Site, *answers: Answer) -> tuple[str, Asset]:
    url = server.plan("/a", *answers).replace("http:", "https:")
    return url, asset("a", UrlSource(url), published=BODY)


def test_a_certificate_that_nobody_vouches_for(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tls_site(certificate(tmp_path, "IP:127.0.0.1")) as server:
        trusting(tmp_path, monkeypatch)
        url, wanted = https(server, whole())
        text = bench.refusal(wanted)
        source_of(text, url)
        assert "the server's TLS certificate is refused" in text
        assert server.requests == [] and bench.pauses == []
    nothing_unchecked(bench)


def test_a_certificate_for_another_host(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = certificate(tmp_path, "DNS:elsewhere.invalid")
    with tls_site(pem) as server:
        url, wanted = https(server, whole())
        text = bench.refusal(wanted, session=trusting(pem, monkeypatch))
        source_of(text, url)
        assert "certificate is refused" in text and "mismatch" in text
        assert server.requests == [] and bench.pauses == []
    nothing_unchecked(bench)


def test_https_and_its_redirects(
    bench: Bench, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = certificate(tmp_path, "IP:127.0.0.1")
    with tls_site(pem) as server:
        session = trusting(pem, monkeypatch)
        down = site.plan("/a", whole())
        url, wanted = https(server, reply(302, Location=down))
        text = bench.refusal(wanted, session=session)
        source_of(text, url)
        assert "redirects from https to plain http" in text
        assert site.requests == []
        nothing_unchecked(bench)
        _, wanted = https(server, cut(1000), whole())
        assert bench.store(wanted, session=session).obtain("a").path.read_bytes() == BODY


def test_plain_http_where_tls_belongs(bench: Bench, site: Site) -> None:
    url = site.plan("/a", whole()).replace("http:", "https:")
    text = bench.refusal(asset("a", UrlSource(url), published=BODY))
    source_of(text, url)
    assert "(tried 5 times)" in text


# ---- answers at random ---------------------------------------------------------------------

SMALL = random.Random(5).randbytes(3000)
ANSWERS = (
    head(Content_Length="3000", ETag='"v1"') + SMALL,
    head(Content_Length="3000", Last_Modified="Wed, 21 Oct 2015 07:28:00 GMT") + SMALL[:2000],
    head(Transfer_Encoding="chunked", ETag='"v1"') + b"bb8\r\n" + SMALL + b"\r\n0\r\n\r\n",
    head("302 Found", Location="/b", Set_Cookie="a=b; Path=/"),
    head("503 Busy", Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
    head("206 Partial", Content_Range="bytes 2000-2999/3000", ETag='"v1"') + SMALL[2000:],
)
WORDS = (
    b"Content-Length: 0\r\n", b"Content-Encoding: gzip\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Location: //\r\n", b"Location: \xff\r\n", b"Retry-After: -1\r\n", b"ETag: \"\r\n",
    b"HTTP/1.1 ", b"HTTP/0.9", b" 999 ", b" 199 ", b"9" * 30,
    b"\r\n", b"\n\n", b"\x00", b":", b" ", b"-",
)  # fmt: skip


def mutated(answer: bytes, draw: random.Random) -> bytes:
    """`answer` with a few changes, most of them in its head."""
    data = bytearray(answer)
    for _ in range(draw.randint(1, 4)):
        end = min(len(data), 160) if draw.random() < 0.8 else len(data)
        place = draw.randint(0, end)
        match draw.randrange(4):
            case 0:
                data[place : place + 1] = draw.randbytes(1)
            case 1:
                data[place:place] = draw.choice(WORDS)
            case 2:
                del data[place : place + draw.randint(1, 40)]
            case _:
                del data[place:]
    return bytes(data)


def draw_answers(bench: Bench, site: Site, seed: int, count: int) -> dict[str, int]:
    """Get an asset `count` times from a server whose first answers are mutated."""
    draw = random.Random(seed)
    outcomes = {"had": 0, "refused": 0}
    honest = whole(SMALL)
    for number in range(count):
        hostile = [raw(mutated(draw.choice(ANSWERS), draw)) for _ in range(draw.randint(1, 3))]
        wanted = asset("a", UrlSource(site.plan("/a", *hostile, honest)), published=SMALL)
        site.plan("/b", honest)
        place = f"seed {seed}, input {number}"
        try:
            assert bench.store(wanted).obtain("a").path.read_bytes() == SMALL, place
            outcomes["had"] += 1
        except UserError as error:
            text = str(error)
            assert "\n" not in text and len(text) < 1000, place
            assert not (bench.cache / "a").exists(), place
            outcomes["refused"] += 1
        for path in bench.cache.glob("a*"):
            path.unlink()
    return outcomes


@pytest.mark.usefixtures("hasty")
def test_answers_at_random(bench: Bench, site: Site) -> None:
    outcomes = draw_answers(bench, site, seed=20, count=30)
    assert outcomes["had"] and outcomes["refused"]


@pytest.mark.full
@pytest.mark.usefixtures("hasty")
def test_many_answers_at_random(bench: Bench, site: Site, capsys: Any) -> None:
    seed = secrets.randbits(32)
    outcomes = draw_answers(bench, site, seed, count=3000)
    with capsys.disabled():
        print(f"\nhostile answers, seed {seed}: {outcomes}")
    assert outcomes["had"] and outcomes["refused"]


# ---- pip's index ---------------------------------------------------------------------------


def index(site: Site, wheel: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    """`site` as pip's only index, with one wheel."""
    name = "some_package-1.0-py3-none-any.whl"
    page = f'<!DOCTYPE html><html><body><a href="/{name}">{name}</a></body></html>'.encode()
    site.plan("/simple/some-package/", reply(200, page, Content_Type="text/html"))
    site.plan(f"/{name}", wheel)
    for variable, value in (
        ("INDEX_URL", f"{site.url}/simple"),
        ("RETRIES", "0"),
        ("TIMEOUT", "5"),
    ):
        monkeypatch.setenv(f"PIP_{variable}", value)
    for variable in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.full
def test_a_wheel_without_end(
    bench: Bench, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_LARGEST_WHEEL_BYTES", 4 << 20)
    answer = endless(head(Content_Length=str(1 << 40)), bytes(65536))
    index(site, answer, monkeypatch)
    folder = tmp_path / "wheel"
    folder.mkdir()
    with pytest.raises(SourceError, match="pip"):
        download_wheel("some-package==1.0", folder)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 4 << 20
    assert sum(answer.taken) < BUFFERED  # type: ignore[attr-defined]


@pytest.mark.full
def test_an_index_that_stalls(
    bench: Bench, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_PIP_SECONDS", 3)
    index(site, endless(head(Content_Length="1000"), b"x", pause=0.2), monkeypatch)
    folder = tmp_path / "wheel"
    folder.mkdir()
    began = time.monotonic()
    with pytest.raises(SourceError, match="pip did not end within 3 s"):
        download_wheel("some-package==1.0", folder)
    assert time.monotonic() - began < 10
