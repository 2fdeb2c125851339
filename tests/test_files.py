"""Files are written whole or not at all, and JSON is read strictly."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.errors import UserError
from harness.files import (
    atomic_path,
    fingerprint,
    parse_json,
    read_json,
    sha256_bytes,
    sha256_file,
    to_json,
    write_atomic,
    write_if_changed,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    # Cs: halves of surrogate pairs, which no UTF-8 file can hold.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=15,
)  # fmt: skip


def test_text_and_bytes_are_written_as_they_are(tmp_path: Path) -> None:
    target = tmp_path / "new folder" / "ä.json"
    write_atomic(target, "Ü\n\r\n")
    assert target.read_bytes() == b"\xc3\x9c\n\r\n"
    write_atomic(target, b"\xff\x00")
    assert target.read_bytes() == b"\xff\x00"
    assert [path.name for path in target.parent.iterdir()] == ["ä.json"]


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "kept.json"
    target.write_text("old")

    def write_half() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half of it")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    with pytest.raises(UnicodeEncodeError):
        write_atomic(target, "\ud800")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "kept.json"
    target.write_text("old")

    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_content_is_on_disk_before_the_name_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "file.bin"
    target.write_text("old")
    synced: list[tuple[str, str]] = []

    def record(handle: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file"
        synced.append((kind, target.read_text()))

    monkeypatch.setattr(os, "fsync", record)
    write_atomic(target, "new")
    assert synced == [("file", "old"), ("folder", "new")]


def test_reader_of_the_old_file_keeps_the_old_content(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    with target.open() as reader:
        write_atomic(target, "new and longer")
        assert reader.read() == "old"
    assert target.read_text() == "new and longer"


def test_temporary_file_lies_beside_the_target_with_its_suffix(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "graph.onnx") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".onnx"
        assert not (tmp_path / "graph.onnx").exists()


def test_mode_is_what_the_umask_lets_through(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", "x")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_unchanged_file_keeps_its_time(tmp_path: Path) -> None:
    target = tmp_path / "plan.mk"
    write_if_changed(target, "ä")
    os.utime(target, (1, 1))
    write_if_changed(target, "ä")
    assert target.stat().st_mtime == 1
    write_if_changed(target, "b")
    assert target.stat().st_mtime > 1
    assert target.read_text() == "b"


@given(JSON)
def test_json_comes_back(value: object) -> None:
    text = to_json(value)
    assert text.endswith("\n")
    assert parse_json(text, "value") == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [-float("inf")]])
def test_numbers_json_does_not_have_are_not_written(value: object) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        to_json(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"a": 1,}',
        "NaN",
        "[Infinity]",
        "-Infinity",
        "1e999",
        "[-1e999]",
        '{"a": 1, "b": 2, "a": 1}',
        '[{"x": {"a": 1, "a": 1}}]',
        "\ufeff{}",
        "[" * 100_000,
        "9" * 5000,
    ],
    ids=lambda text: text[:20].encode("ascii", "replace").decode(),
)
def test_bad_json_is_an_error_of_one_line(tmp_path: Path, text: str) -> None:
    if text.startswith("9") and not hasattr(sys, "set_int_max_str_digits"):
        pytest.skip("this Python reads integers of any length")
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"golden file .*bad\.json is not valid JSON") as caught:
        read_json(path, "golden file")
    assert "\n" not in str(caught.value)


def test_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run record .*gone\.json does not exist"):
        read_json(tmp_path / "gone.json", "run record")
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path, "run record")
    latin = tmp_path / "latin.json"
    latin.write_bytes('"ä"'.encode("latin-1"))
    with pytest.raises(UserError, match="cannot be read"):
        read_json(latin, "run record")


def test_hashes_are_sha256(tmp_path: Path) -> None:
    # FIPS 180-2, appendix B.1.
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_bytes(b"abc") == abc
    path = tmp_path / "data"
    for size in (0, 3, 1 << 20, (1 << 20) + 1, 3_000_000):
        data = bytes(i % 251 for i in range(size))
        path.write_bytes(data)
        assert sha256_file(path) == hashlib.sha256(data).hexdigest()


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=5))
@example({"b": 1, "a": [1, 2]})
def test_fingerprint_knows_content_not_order(parts: dict[str, object]) -> None:
    mark = fingerprint(parts)
    assert len(mark) == 12
    assert set(mark) <= set("0123456789abcdef")
    assert fingerprint(dict(reversed(parts.items()))) == mark
    assert fingerprint(json.loads(json.dumps(parts))) == mark
    assert fingerprint({**parts, "one more key": 1}) != mark


def test_fingerprint_tells_types_and_order_of_lists_apart() -> None:
    different = [1, "1", [1], [1, 2], [2, 1], [[1], 2], True, None, {"1": 1}, 1.5]
    assert len({fingerprint(value) for value in different}) == len(different)
    # A change of these digits would orphan every engine that has been built.
    assert (
        fingerprint({"b": 1, "a": "ä"}) == hashlib.sha256(b'{"a":"\\u00e4","b":1}').hexdigest()[:12]
    )
    with pytest.raises(ValueError, match="JSON compliant"):
        fingerprint([float("nan")])
