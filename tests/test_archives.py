"""Wheels and tars give up the one plain file that is asked for, or a reason."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

import pytest
from asset_bench import BODY, make_tar, make_wheel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.archives import copy_tar_member, copy_wheel_member, download_wheel
from harness.fetch import SourceError


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
@pytest.mark.parametrize("content", [None, b"no archive"])
def test_a_damaged_tar(tmp_path: Path, mode: str, content: bytes | None) -> None:
    tar = make_tar(tmp_path / "b.tar", ("a.bin", BODY), mode=mode)
    tar.write_bytes(tar.read_bytes()[:100_000] if content is None else content)
    with pytest.raises(SourceError, match="damaged"):
        copy_tar_member(tar, "a.bin", tmp_path / "a.bin", limit=len(BODY))


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
    wheel = download_wheel("some-package==1.0", tmp_path / "good")
    copy_wheel_member(wheel, "some_package/a.bin", tmp_path / "a.bin", limit=len(BODY))
    assert (tmp_path / "a.bin").read_bytes() == BODY
    with pytest.raises(SourceError, match="pip: ERROR"):
        download_wheel("some-package==2.0", tmp_path / "bad")
