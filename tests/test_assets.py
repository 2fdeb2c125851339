"""Assets are checked before use, whichever of their sources they come from."""

from __future__ import annotations

import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asset_bench
import pytest
from asset_bench import (
    BODY,
    OTHER,
    Bench,
    Handler,
    Site,
    asset,
    cut,
    make_tar,
    make_wheel,
    reply,
    sha256,
    whole,
)

from harness.assets import PinMismatch
from harness.errors import UserError
from harness.fetch import SourceError
from harness.manifest import (
    Asset,
    HuggingFaceFile,
    RepositoryFile,
    TarMember,
    UrlSource,
    WheelMember,
)

bench = asset_bench.bench
site = asset_bench.site


# ---- sources -------------------------------------------------------------------------------


def test_several_sources_for_one_hash(bench: Bench, site: Site) -> None:
    bad, good = site.plan("/bad", whole(OTHER)), site.plan("/good", whole())
    wanted = asset("a", UrlSource(site.url + "/none"), UrlSource(bad), UrlSource(good))
    wanted = asset("a", *wanted.sources, published=BODY)
    assert bench.store(wanted).obtain("a").source.startswith(good)
    assert [path for path, _ in site.requests] == ["/none", "/bad", "/good"]


def test_an_empty_file_is_nothing(bench: Bench, site: Site) -> None:
    url = site.plan("/a", reply(200))
    assert "is empty" in bench.refusal(asset("a", UrlSource(url)))
    assert bench.pins() == {}


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


# ---- members of archives -------------------------------------------------------------------


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


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
