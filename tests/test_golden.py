"""Golden files: valid by their schema, precise to the digit, and as git has them."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from harness import golden, paths, provenance
from harness.batches import BatchSize
from harness.errors import UserError
from harness.golden import Golden, Promise, load_golden
from harness.profile import load_profile
from harness.provenance import GitError

WHY = {"source": "measured", "derivation": "by hand"}
CROSSCHECK = {
    "max_abs_difference": 0.01,
    "mean_abs_difference": 0.001,
    "min_cosine": 0.999,
    "equal_answers": 99.5,
}
DOCUMENT: dict[str, Any] = {
    "profile": "minilm-sample",
    "precision": "fp32",
    "datasets": [{"name": "one", "sha256": "ab" * 32}, {"name": "two", "sha256": "cd" * 32}],
    "accuracy": {
        "exact_match": {"value": 80.92, "allowed_loss": 1.2},
        "f1": {"value": 88.2, "allowed_loss": 1.2},
        **WHY,
    },
    "crosscheck": {**CROSSCHECK, **WHY},
    "backends": {
        "plugin": {
            "accuracy": {
                "exact_match": {"value": 80, "allowed_loss": 0},
                "f1": {"value": 88, "allowed_loss": 2},
                **WHY,
            }
        },
        "openvino": {"crosscheck": {**CROSSCHECK, "equal_answers": 90, **WHY}},
    },
    "qps": [
        {
            "device": "MR-V100",
            "backend": "ixrt",
            "batch": 32,
            "value": 1444.69,
            "allowed_loss": 544.69,
            **WHY,
        },
        {
            "device": "MR-V100",
            "backend": "ixrt",
            "batch": 1,
            "value": 2325.2,
            "allowed_loss": 1425.2,
            **WHY,
        },
        {
            "device": "CPU",
            "backend": "ort-cpu",
            "batch": "auto",
            "value": 50,
            "allowed_loss": 10,
            **WHY,
        },
    ],
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository's root of its own; git knows nothing of the user's configuration."""
    root = tmp_path / "päth with blank"
    root.mkdir()
    monkeypatch.setattr(paths, "ROOT", root)
    monkeypatch.setattr(provenance, "ROOT", root)
    monkeypatch.setattr(golden, "GOLDEN", root / "golden")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    return root


def write(root: Path, document: Any, profile: str = "minilm-sample") -> Path:
    path = root / "golden" / profile / "fp32.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def git(folder: Path, *words: str) -> None:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def commit(folder: Path) -> None:
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "golden")


def test_promises_are_exact_to_the_digit(root: Path) -> None:
    path = write(root, DOCUMENT)
    loaded = load_golden("minilm-sample", "fp32")
    assert (loaded.path, loaded.document) == (path, DOCUMENT)
    assert loaded.accuracy("ort-cpu") == {
        "exact_match": Promise(80.92, 79.72),
        "f1": Promise(88.2, 87.0),
    }
    assert loaded.qps("MR-V100", "ixrt", 32) == Promise(1444.69, 900.0)
    # In binary floating point this difference is 899.9999999999998.
    assert loaded.qps("MR-V100", "ixrt", 1) == Promise(2325.2, 900.0)
    assert loaded.qps("CPU", "ort-cpu", "auto") == Promise(50, 40)


def test_backend_has_its_own_limits_where_the_file_gives_them(root: Path) -> None:
    write(root, DOCUMENT)
    loaded = load_golden("minilm-sample", "fp32")
    assert loaded.accuracy("plugin")["f1"] == Promise(88, 86)
    assert loaded.accuracy("openvino") == loaded.accuracy("ort-cpu")
    assert loaded.crosscheck("ort-cpu") == CROSSCHECK
    assert loaded.crosscheck("plugin") == CROSSCHECK
    assert loaded.crosscheck("openvino") == {**CROSSCHECK, "equal_answers": 90}


def test_file_without_optional_parts_promises_less(root: Path) -> None:
    document = {k: v for k, v in DOCUMENT.items() if k not in ("crosscheck", "backends")}
    write(root, {**document, "qps": []})
    loaded = load_golden("minilm-sample", "fp32")
    assert loaded.crosscheck("ort-cpu") is None
    assert loaded.qps("MR-V100", "ixrt", 32) is None
    assert loaded.accuracy("plugin")["f1"].limit == 87


@pytest.mark.parametrize(
    "case",
    [
        ("MR-V100", "ixrt", 8),
        ("MR-V100", "ixrt", "auto"),
        ("MR-V100", "tensorrt", 32),
        ("MR-V10", "ixrt", 32),
        ("CPU", "ort-cpu", 8),
        ("", "", 32),
    ],
)
def test_qps_is_promised_for_one_device_backend_and_batch(
    root: Path, case: tuple[str, str, BatchSize]
) -> None:
    write(root, DOCUMENT)
    assert load_golden("minilm-sample", "fp32").qps(*case) is None


def test_accuracy_holds_for_the_datasets_named(root: Path) -> None:
    write(root, DOCUMENT)
    loaded = load_golden("minilm-sample", "fp32")
    assert loaded.holds_for("ab" * 32)
    assert loaded.holds_for("cd" * 32)
    assert not loaded.holds_for("ef" * 32)
    assert not loaded.holds_for("ab" * 31)
    assert not loaded.holds_for("AB" * 32)


def objects_in(value: Any, *way: str | int) -> list[tuple[str | int, ...]]:
    """The way to every object of the document."""
    if isinstance(value, dict):
        return [way, *(w for key, child in value.items() for w in objects_in(child, *way, key))]
    if isinstance(value, list):
        return [w for index, child in enumerate(value) for w in objects_in(child, *way, index)]
    return []


def at(document: Any, way: tuple[str | int, ...]) -> Any:
    for key in way:
        document = document[key]
    return document


def refused(root: Path, document: Any) -> str:
    write(root, document)
    with pytest.raises(UserError) as caught:
        load_golden("minilm-sample", "fp32")
    message = str(caught.value)
    assert message.startswith("golden file golden/minilm-sample/fp32.json ")
    assert message.endswith("; mend it")
    return message


@pytest.mark.parametrize(
    "way",
    [w for w in objects_in(DOCUMENT) if w != ("backends",)],
    ids=lambda w: "/".join(map(str, w)),
)
def test_unknown_key_is_an_error_anywhere(root: Path, way: tuple[str | int, ...]) -> None:
    document = copy.deepcopy(DOCUMENT)
    at(document, way)["unknown_key"] = 1
    assert "'unknown_key' was unexpected" in refused(root, document)


OPTIONAL = {"crosscheck", "backends", "plugin", "openvino"}


@pytest.mark.parametrize(
    ("way", "key"),
    [
        (way, key)
        for way in objects_in(DOCUMENT)
        for key in at(DOCUMENT, way)
        if key not in OPTIONAL and way[:1] != ("backends",)
    ],
    ids=str,
)
def test_missing_key_is_an_error(root: Path, way: tuple[str | int, ...], key: str) -> None:
    document = copy.deepcopy(DOCUMENT)
    del at(document, way)[key]
    assert f"'{key}' is a required property" in refused(root, document)


def put(*keys: str | int, to: Any) -> Callable[[Any], None]:
    def apply(document: Any) -> None:
        at(document, keys[:-1])[keys[-1]] = to

    return apply


@pytest.mark.parametrize(
    ("mutation", "where"),
    [
        (put("precision", to="fp64"), "precision"),
        (put("datasets", to=[]), "datasets"),
        (put("datasets", 0, "sha256", to="AB" * 32), "datasets/0/sha256"),
        (put("datasets", 0, "sha256", to="ab" * 31), "datasets/0/sha256"),
        (put("accuracy", "f1", "value", to=100.1), "accuracy/f1/value"),
        (put("accuracy", "f1", "value", to="88"), "accuracy/f1/value"),
        (put("accuracy", "f1", "value", to=True), "accuracy/f1/value"),
        (put("accuracy", "f1", "allowed_loss", to=-1), "accuracy/f1/allowed_loss"),
        (put("accuracy", "source", to=""), "accuracy/source"),
        (put("crosscheck", "max_abs_difference", to=0), "crosscheck/max_abs_difference"),
        (put("crosscheck", "min_cosine", to=1.5), "crosscheck/min_cosine"),
        (put("backends", "plugin", to={}), "backends/plugin"),
        (put("qps", 0, "batch", to=0), "qps/0/batch"),
        (put("qps", 2, "batch", to="Auto"), "qps/2/batch"),
        (put("qps", 2, "batch", to=None), "qps/2/batch"),
        (put("qps", 0, "value", to=0), "qps/0/value"),
        (put("qps", 0, "allowed_loss", to=-0.1), "qps/0/allowed_loss"),
        (put("qps", 0, "device", to=""), "qps/0/device"),
        (put("qps", 1, "derivation", to=None), "qps/1/derivation"),
    ],
)
def test_value_out_of_range_is_an_error_that_says_where(
    root: Path, mutation: Callable[[Any], None], where: str
) -> None:
    document = copy.deepcopy(DOCUMENT)
    mutation(document)
    assert f"malformed at {where} " in refused(root, document)


def test_document_of_another_kind_is_an_error(root: Path) -> None:
    assert "malformed at the top level" in refused(root, [])


def test_promise_made_twice_is_an_error(root: Path) -> None:
    document = copy.deepcopy(DOCUMENT)
    document["qps"].append({**document["qps"][0], "value": 1})
    assert "promises QPS twice" in refused(root, document)


@pytest.mark.parametrize("key", ["profile", "precision"])
def test_file_of_another_profile_or_precision_is_an_error(root: Path, key: str) -> None:
    other = {"profile": "minilm-squad", "precision": "fp16"}[key]
    assert "another profile or precision" in refused(root, {**DOCUMENT, key: other})


def test_doubled_key_and_broken_json_are_errors(root: Path) -> None:
    path = write(root, DOCUMENT)
    text = path.read_text()
    path.write_text(text.replace('"value": 80.92', '"value": 1, "value": 80.92'))
    with pytest.raises(UserError, match="'value' occurs twice"):
        load_golden("minilm-sample", "fp32")
    path.write_text(text.replace("80.92", "NaN"))
    with pytest.raises(UserError, match="NaN is not a JSON number"):
        load_golden("minilm-sample", "fp32")


def test_without_a_file_nothing_is_promised(root: Path) -> None:
    assert load_golden("minilm-sample", "fp16") is None


def test_a_misspelt_backend_is_an_error(root: Path) -> None:
    document = copy.deepcopy(DOCUMENT)
    document["qps"][0]["backend"] = "ort_cpu"
    write(root, document)
    with pytest.raises(UserError, match="malformed at qps/0/backend"):
        load_golden("minilm-sample", "fp32")


def test_committed_file_is_trusted_until_it_changes(root: Path) -> None:
    path = write(root, DOCUMENT)
    loaded = load_golden("minilm-sample", "fp32")
    with pytest.raises(GitError, match="not a git repository"):
        loaded.uncommitted()
    git(root, "init", "--quiet")
    assert loaded.uncommitted() == "golden/minilm-sample/fp32.json is not committed"
    git(root, "add", "--all")
    assert loaded.uncommitted() == "golden/minilm-sample/fp32.json is not committed"
    commit(root)
    assert loaded.uncommitted() is None
    text = path.read_text()
    path.write_text(text.replace("80.92", "80.91"))
    assert loaded.uncommitted() == "golden/minilm-sample/fp32.json differs from the commit"
    # Staged is not committed.
    git(root, "add", "--all")
    assert loaded.uncommitted() == "golden/minilm-sample/fp32.json differs from the commit"
    path.write_text(text)
    assert loaded.uncommitted() is None


def test_change_that_git_is_told_to_overlook_is_seen(root: Path) -> None:
    path = write(root, DOCUMENT)
    commit(root)
    git(root, "update-index", "--assume-unchanged", str(path))
    path.write_text(path.read_text().replace("80.92", "70"))
    assert load_golden("minilm-sample", "fp32").uncommitted() is not None


def test_line_ends_that_git_converts_are_no_change(root: Path) -> None:
    path = write(root, DOCUMENT)
    path.write_bytes(json.dumps(DOCUMENT, indent=1).encode())
    (root / ".gitattributes").write_text("*.json text eol=crlf\n")
    commit(root)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_golden("minilm-sample", "fp32").uncommitted() is None


def test_checkout_may_be_a_folder_of_a_larger_repository(root: Path) -> None:
    write(root, DOCUMENT)
    commit(root.parent)
    assert load_golden("minilm-sample", "fp32").uncommitted() is None


GOLDEN_FILES = sorted(paths.GOLDEN.glob("*/*.json"))


def test_the_repository_has_golden_files() -> None:
    assert GOLDEN_FILES


@pytest.mark.parametrize("path", GOLDEN_FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_the_repositorys_golden_files_are_sound(path: Path) -> None:
    loaded = load_golden(path.parent.name, path.stem)
    assert load_profile(path.parent.name).name == path.parent.name
    for promise in loaded.accuracy("ort-cpu").values():
        assert 0 < promise.limit <= promise.value


def test_upstreams_table_is_promised_as_published() -> None:
    fp16, int8 = (load_golden("bert-base-squad", p) for p in ("fp16", "int8"))

    def row(document: Golden) -> tuple[float, ...]:
        speed = document.qps("MR-V100", "ixrt", 32)
        scores = document.accuracy("ixrt")
        assert speed is not None
        return speed.value, scores["exact_match"].value, scores["f1"].value, scores["f1"].limit

    assert row(fp16) == (1444.69, 80.92, 88.20, 87.0)
    assert row(int8) == (2325.20, 78.41, 86.97, 86.0)
    # Upstream's later mark for FP16, taken for INT8 as well.
    for document in (fp16, int8):
        speed = document.qps("MR-V100", "ixrt", 32)
        assert speed is not None
        assert speed.limit == 900.0


def test_schema_is_itself_valid() -> None:
    Draft202012Validator.check_schema(json.loads(golden.SCHEMA.read_text(encoding="utf-8")))


def test_a_file_too_large_to_be_one_is_refused(root: Path) -> None:
    path = root / "golden" / "minilm-sample" / "fp32.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(DOCUMENT) + " " * (1 << 20), encoding="utf-8")
    with pytest.raises(UserError, match="is over 1 MiB"):
        load_golden("minilm-sample", "fp32")
