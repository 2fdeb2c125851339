"""Profiles: the repository's own, and every way to get one wrong."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.errors import UserError
from harness.manifest import load_manifest
from harness.paths import MANIFEST, PROFILES
from harness.profile import load_profile, profile_names, read_profile
from harness.windows import WindowOptions

DOCUMENT: dict[str, Any] = {
    "description": "A model",
    "model": {
        "name": "bert-tiny",
        "layers": 2,
        "hidden": 64,
        "heads": 4,
        "intermediate": 128,
        "vocab": 100,
        "positions": 48,
        "layer_norm_eps": 1.0e-12,
    },
    "assets": {"weights": "w", "adapter": "a", "vocab": "v", "dataset": "d"},
    "windows": {
        "sequence_length": 48,
        "doc_stride": 16,
        "max_question_tokens": 8,
        "first_only": False,
    },
    "batch": 4,
    "warmup": 1,
    "repeats": 5,
}


def write(path: Path, document: Any) -> Path:
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def test_profile_holds_what_the_file_says(tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.yaml", DOCUMENT)
    profile = read_profile(path)
    assert (profile.name, profile.description, profile.model) == ("tiny", "A model", "bert-tiny")
    assert profile.assets == DOCUMENT["assets"]
    assert profile.windows == WindowOptions(48, 16, 8, False)
    assert (profile.batch, profile.warmup, profile.repeats) == (4, 1, 5)
    assert profile.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    model = profile.architecture
    assert (model.layers, model.hidden, model.heads, model.intermediate) == (2, 64, 4, 128)
    assert (model.vocab, model.positions, model.layer_norm_eps) == (100, 48, 1e-12)


def test_adapter_is_optional(tmp_path: Path) -> None:
    document = copy.deepcopy(DOCUMENT)
    del document["assets"]["adapter"]
    assert "adapter" not in read_profile(write(tmp_path / "p.yaml", document)).assets


@pytest.mark.parametrize("name", profile_names())
def test_the_repositorys_profiles_are_sound(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    known = load_manifest(MANIFEST)
    assert set(profile.assets.values()) <= set(known)


def test_upstreams_protocol_is_the_bert_base_profile() -> None:
    profile = load_profile("bert-base-squad")
    assert profile.windows == WindowOptions(384, 128, 64, first_only=True)
    assert (profile.batch, profile.warmup) == (32, 20)
    model = profile.architecture
    assert (model.layers, model.hidden, model.heads, model.intermediate) == (12, 768, 12, 3072)
    assert (model.vocab, model.positions) == (30_522, 512)


@pytest.mark.parametrize(
    "name",
    ["", "unknown", "../profiles/minilm-sample", "minilm-sample.yaml", "MINILM-SAMPLE", "*"],
)
def test_unknown_name_is_an_error_that_lists_the_names(name: str) -> None:
    with pytest.raises(UserError, match="PROFILE is one of bert-base-squad, minilm-sample") as e:
        load_profile(name)
    assert repr(name) in str(e.value)


def test_names_are_the_files(tmp_path: Path) -> None:
    assert profile_names() == sorted(p.name[: -len(".yaml")] for p in PROFILES.iterdir())


def change(*keys: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def apply(document: dict[str, Any]) -> None:
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = to

    return apply


@pytest.mark.parametrize(
    ("mutation", "where"),
    [
        (change("batch", to=0), "batch"),
        (change("batch", to="8"), "batch"),
        (change("batch", to=True), "batch"),
        (change("batch", to=8.5), "batch"),
        (change("batch", to=8.0), "batch"),
        (change("warmup", to=-1), "warmup"),
        (change("repeats", to=4), "repeats"),
        (change("description", to=""), "description"),
        (change("description", to=None), "description"),
        (change("extra", to=1), "the top level"),
        (change("model", "extra", to=1), "model"),
        (change("model", "name", to="../x"), "model/name"),
        (change("model", "name", to="two words"), "model/name"),
        (change("model", "layers", to=0), "model/layers"),
        (change("model", "layer_norm_eps", to=0), "model/layer_norm_eps"),
        (change("model", "layer_norm_eps", to="1e-12"), "model/layer_norm_eps"),
        (change("model", "layer_norm_eps", to=float("nan")), "model/layer_norm_eps"),
        (change("model", "layer_norm_eps", to=float("inf")), "model/layer_norm_eps"),
        (change("assets", "weights", to=""), "assets/weights"),
        (change("assets", "licence", to="x"), "assets"),
        (change("assets", to=["weights"]), "assets"),
        (change("windows", "doc_stride", to=0), "windows/doc_stride"),
        (change("windows", "first_only", to=1), "windows/first_only"),
        (change("windows", "sequence_length", to=49), "sequence_length exceeds"),
        (change("model", "heads", to=5), "multiple"),
    ],
)
def test_malformed_profile_is_an_error_that_says_where(
    tmp_path: Path, mutation: Callable[[dict[str, Any]], None], where: str
) -> None:
    document = copy.deepcopy(DOCUMENT)
    mutation(document)
    with pytest.raises(UserError) as caught:
        read_profile(write(tmp_path / "p.yaml", document))
    assert where in str(caught.value)
    assert "mend" in str(caught.value)


@pytest.mark.parametrize(
    "keys",
    [
        *((key,) for key in DOCUMENT),
        *(("model", key) for key in DOCUMENT["model"]),
        *(("assets", key) for key in ("weights", "vocab", "dataset")),
        *(("windows", key) for key in DOCUMENT["windows"]),
    ],
    ids=".".join,
)
def test_missing_key_is_named(tmp_path: Path, keys: tuple[str, ...]) -> None:
    document = copy.deepcopy(DOCUMENT)
    inner = document
    for key in keys[:-1]:
        inner = inner[key]
    del inner[keys[-1]]
    with pytest.raises(UserError, match=f"'{keys[-1]}' is a required property"):
        read_profile(write(tmp_path / "p.yaml", document))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"- a list",
        b"just text",
        b"key: [unclosed",
        b"a: b: c",
        b"\xff\xfe\x00",
        b"key: \xe4",
        b"!!python/object/apply:os.getcwd []",
        b"batch: 2024-13-45",
        b"[" * 2000,
    ],
    ids=lambda content: repr(content[:12]),
)
def test_file_of_another_kind_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"profile .*p\.yaml"):
        read_profile(path)


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_profile(tmp_path / "gone.yaml")
