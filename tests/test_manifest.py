"""The asset manifest: what it accepts, what it refuses, and the one that is shipped."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import UserError, one_line
from harness.manifest import (
    Asset,
    HuggingFaceFile,
    RepositoryFile,
    TarMember,
    UrlSource,
    WheelMember,
    load_manifest,
)
from harness.paths import MANIFEST

WORDS = {"description": "a test asset", "licence": "Apache-2.0"}
URL = {"url": "https://example.org/a.bin"}


class Plain(yaml.SafeDumper):
    """Spells out what is there twice: a manifest holds no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def load(folder: Path, assets: Any) -> dict[str, Asset]:
    path = folder / "assets.yaml"
    path.write_text(yaml.dump({"assets": assets}, Dumper=Plain), encoding="utf-8")
    return load_manifest(path)


def test_every_kind_of_source(tmp_path: Path) -> None:
    revision = "0123456789abcdef0123456789abcdef01234567"
    sources = [
        URL,
        {"wheel": "some-package==1.0", "member": "some_package/a.bin"},
        {"tar": "b.tar", "member": "deep/a.bin"},
        {"file": "assets/a.bin"},
        {"huggingface": "org/name", "revision": revision, "file": "a.bin"},
    ]
    assets = load(
        tmp_path,
        {
            "group/a.bin": {**WORDS, "size": 3, "sha256": "0" * 64, "sources": sources},
            "b.tar": {**WORDS, "insecure": True, "sources": [{"url": "http://example.org/b"}]},
            "any": {**WORDS, "alternatives": ["group/a.bin", "b.tar"]},
        },
    )
    assert assets["group/a.bin"] == Asset(
        name="group/a.bin",
        description="a test asset",
        licence="Apache-2.0",
        size=3,
        sha256="0" * 64,
        sources=(
            UrlSource("https://example.org/a.bin"),
            WheelMember("some-package==1.0", "some_package/a.bin"),
            TarMember("b.tar", "deep/a.bin"),
            RepositoryFile("assets/a.bin"),
            HuggingFaceFile("org/name", revision, "a.bin"),
        ),
    )
    assert assets["b.tar"].insecure
    assert assets["b.tar"].sha256 is None
    assert assets["any"].alternatives == ("group/a.bin", "b.tar")


ENTRY = {**WORDS, "sources": [URL]}


@pytest.mark.parametrize(
    ("assets", "reason"),
    [
        ([], "a mapping is missing"),
        ({"a": []}, "a mapping is missing"),
        ({"a": WORDS}, "'sources' is missing"),
        ({"a": {"licence": "x", "sources": [URL]}}, "'description' is missing"),
        ({"a": {**ENTRY, "description": " "}}, "description is not a text"),
        ({"a": {**ENTRY, "hash": "0" * 64}}, "'hash' is unknown"),
        ({"a": {**ENTRY, "sources": []}}, "not a list of at least one"),
        ({"a": {**ENTRY, "sources": URL}}, "not a list of at least one"),
        ({"a": {**ENTRY, "sha256": "0" * 63}}, "sha256"),
        ({"a": {**ENTRY, "sha256": "A" * 64}}, "sha256"),
        ({"a": {**ENTRY, "sha256": None}}, "sha256"),
        ({"a": {**ENTRY, "size": 0}}, "size"),
        ({"a": {**ENTRY, "size": True}}, "size"),
        ({"a": {**ENTRY, "size": "3"}}, "size"),
        ({"a": {**ENTRY, "insecure": "yes please"}}, "insecure"),
        ({"../a": ENTRY}, "not a plain relative path"),
        ({"/a": ENTRY}, "not a plain relative path"),
        ({"a//b": ENTRY}, "not a plain relative path"),
        ({"a\\b": ENTRY}, "not a plain relative path"),
        ({7: ENTRY}, "not a text"),
        ({".locks/a": ENTRY}, "no component starts with"),
        ({"a b": ENTRY}, "a name has letters"),
        ({"a.part": ENTRY}, "does not end in"),
        ({"a": ENTRY, "a/b": ENTRY}, "'a' is a file where a folder is needed"),
        ({"a": {**WORDS, "sources": [{"url": "http://example.org/a"}]}}, "plain http"),
        ({"a": {**WORDS, "sources": [{"url": "file:///etc/passwd"}]}}, "no https or http URL"),
        ({"a": {**WORDS, "sources": [{"url": "https:///a"}]}}, "no https or http URL"),
        ({"a": {**WORDS, "sources": [{"url": "https://u:p@example.org/a"}]}}, "no user"),
        ({"a": {**WORDS, "sources": [{"url": "https://example.org/a b"}]}}, "no user"),
        ({"a": {**WORDS, "sources": [{**URL, "member": "a"}]}}, "a source with the keys"),
        ({"a": {**WORDS, "sources": ["https://example.org"]}}, "a mapping is missing"),
        ({"a": {**WORDS, "sources": [{"wheel": "x", "member": "a"}]}}, "name==version"),
        ({"a": {**WORDS, "sources": [{"wheel": "-r x==1", "member": "a"}]}}, "name==version"),
        ({"a": {**WORDS, "sources": [{"wheel": "x==1", "member": "../a"}]}}, "member"),
        ({"a": {**WORDS, "sources": [{"file": "/etc/passwd"}]}}, "file"),
        ({"a": {**WORDS, "sources": [{"file": "assets/../../a"}]}}, "file"),
        ({"a": {**WORDS, "sources": [{"tar": "b", "member": "a"}]}}, "'b' is no asset"),
        ({"a": {**WORDS, "sources": [{"tar": "a", "member": "a"}]}}, "depends on itself"),
        (
            {
                "a": {**WORDS, "sources": [{"tar": "b", "member": "a"}]},
                "b": {**WORDS, "sources": [URL, {"tar": "a", "member": "b"}]},
            },
            "depends on itself (a -> b -> a)",
        ),
        (
            {
                "a": {**WORDS, "alternatives": ["b"]},
                "b": {**WORDS, "alternatives": ["a"]},
            },
            "depends on itself",
        ),
        ({"a": {**WORDS, "alternatives": []}}, "not a list of at least one"),
        ({"a": {**WORDS, "alternatives": ["b"]}}, "'b' is no asset"),
        ({"a": {**ENTRY, "alternatives": ["b"]}, "b": ENTRY}, "'sources' is unknown"),
        (
            {
                "a": {**WORDS, "sources": [{"tar": "b", "member": "a"}]},
                "b": {**WORDS, "alternatives": ["c"]},
                "c": ENTRY,
            },
            "has alternatives",
        ),
        (
            {
                "a": {
                    **WORDS,
                    "sources": [{"huggingface": "org/name", "revision": "main", "file": "a"}],
                }
            },
            "revision (a commit)",
        ),
        (
            {
                "a": {
                    **WORDS,
                    "sources": [{"huggingface": "name", "revision": "0" * 40, "file": "a"}],
                }
            },
            "huggingface",
        ),
    ],
)
def test_refuses(tmp_path: Path, assets: Any, reason: str) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, assets)
    assert reason in str(caught.value)
    assert "mend it" in str(caught.value)
    assert str(caught.value) == one_line(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("assets: [", "cannot be read"),
        ("", "a mapping is missing"),
        ("assets: {}\nmore: 1\n", "'more' is unknown"),
        ("assets:\n  a: {}\n  a: {}\n", "'a' occurs twice"),
        ("assets: !!python/object/apply:os.getcwd []\n", "cannot be read"),
        ("\x00", "cannot be read"),
    ],
)
def test_refuses_the_text(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "assets.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="mend it") as caught:
        load_manifest(path)
    assert reason in str(caught.value)


def test_a_missing_manifest_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_manifest(tmp_path / "none.yaml")


@given(st.text(alphabet="a./\\ ~-\n\x00é", max_size=12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_accepted_name_stays_below_the_cache(tmp_path: Path, name: str) -> None:
    try:
        load(tmp_path, {name: ENTRY})
    except UserError:
        return
    path = PurePosixPath(name)
    assert str(path) == name
    assert not path.is_absolute()
    assert not any(part.startswith(".") for part in path.parts)


def test_the_shipped_manifest() -> None:
    assets = load_manifest(MANIFEST)
    assert assets["bert/vocab.txt"].size == 231508
    assert assets["bert-base/weights"].alternatives == (
        "bert-base/bert_base_squad.onnx",
        "bert-base/model.safetensors",
    )
    for asset in assets.values():
        # Only upstream's server has no https, and its tar has no published hash.
        assert asset.insecure == (asset.name == "bert-base/bert_base_uncased_squad.tar")
        if asset.sha256 is not None:
            assert asset.size is not None
