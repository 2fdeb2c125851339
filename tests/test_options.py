"""Options from the environment, the default choice of a machine, and names of runs."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness import doctor
from harness.backends import EngineOptions
from harness.backends.ort import OrtCpu
from harness.batches import AUTO, BatchSize
from harness.devices import Accelerator
from harness.doctor import Choice, choose, choose_from
from harness.errors import UserError
from harness.options import asset_lock_path, read_flag, read_options, read_path
from harness.paths import ASSET_LOCK, RESULTS
from harness.records import records_of

GIVEN = {"PROFILE": "minilm-sample", "BACKEND": "ort-cpu"}
MR_V100 = Accelerator("iluvatar", "Iluvatar MR-V100", "4.3.0")
H100 = Accelerator("nvidia", "NVIDIA H100", "570")
ALL = ["ort-cpu", "ixrt", "tensorrt"]


def test_defaults_are_the_profiles_and_the_backends() -> None:
    options = read_options(GIVEN)
    assert options.profile.name == "minilm-sample"
    assert options.backend.name == "ort-cpu"
    assert options.precision == "fp32"
    assert options.batch == options.profile.batch == 8
    assert (options.device, options.limit, options.dataset) == (0, None, None)
    assert options.choice.reason == "as given"
    assert options.run_folder == RESULTS / "minilm-sample" / "ort-cpu-fp32"


def test_empty_counts_as_unset() -> None:
    names = ("PRECISION", "NETWORK", "BATCH", "DEVICE", "LIMIT", "DATASET", "PLUGIN_LIBRARY")
    empty = read_options({**GIVEN, **dict.fromkeys(names, "")})
    assert empty.as_json() == read_options(GIVEN).as_json()


def test_every_option_is_read(tmp_path: Path) -> None:
    dataset = tmp_path / "d.json"
    dataset.write_text("x")
    given_options = {
        "PRECISION": "fp16",
        "BATCH": "16",
        "DEVICE": "3",
        "LIMIT": "100",
        "DATASET": str(dataset),
        "CALIBRATION": str(dataset),
    }
    options = read_options({**GIVEN, **given_options})
    assert options.as_json() == {
        "profile": "minilm-sample",
        "backend": "ort-cpu",
        "precision": "fp16",
        "batch": 16,
        "device": 3,
        "limit": 100,
        "dataset": "d.json",
        "calibration": "d.json",
        "network": "onnx",
        "plugin_library": None,
        "compute_capability": None,
    }
    engine = options.engine
    assert (engine.precision, engine.batch, engine.device) == ("fp16", 16, 3)
    assert (engine.sequence_length, engine.hidden, engine.heads) == (384, 384, 12)


def test_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PRECISION", "BATCH", "DEVICE", "DATASET"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**GIVEN, "LIMIT": "7"}.items():
        monkeypatch.setenv(name, value)
    assert read_options().limit == 7


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("BATCH", "1", 1), ("BATCH", "4096", 4096), ("BATCH", "0008", 8), ("BATCH", "auto", AUTO),
        ("DEVICE", "0", 0), ("DEVICE", "1023", 1023),
        ("LIMIT", "1", 1), ("LIMIT", "1000000000", 10**9),
    ],
)  # fmt: skip
def test_numbers_in_range_are_taken(name: str, value: str, expected: BatchSize) -> None:
    assert getattr(read_options({**GIVEN, name: value}), name.lower()) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BATCH", "0"), ("BATCH", "4097"), ("BATCH", "-1"), ("BATCH", "+8"), ("BATCH", "8.0"),
        ("BATCH", "1e2"), ("BATCH", " 8"), ("BATCH", "8\n"), ("BATCH", "٨"), ("BATCH", "8_0"),
        ("BATCH", "eight"), ("BATCH", "0x10"), ("BATCH", "9" * 5000),
        ("BATCH", "AUTO"), ("BATCH", "auto "), ("BATCH", "auto8"),
        ("DEVICE", "-1"), ("DEVICE", "1024"), ("DEVICE", "cuda:0"),
        ("LIMIT", "0"), ("LIMIT", "-5"), ("LIMIT", "1000000001"), ("LIMIT", "auto"),
    ],
)  # fmt: skip
def test_other_numbers_are_errors_that_name_the_range(name: str, value: str) -> None:
    besides = " or auto" if name == "BATCH" else ""
    with pytest.raises(UserError, match=rf"^{name} is .*whole number from \d+ to \d+{besides}$"):
        read_options({**GIVEN, name: value})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"PROFILE": "nope"}, "no profile 'nope'; PROFILE is one of bert-base-squad"),
        ({"PROFILE": "../x"}, "no profile '../x'"),
        ({"BACKEND": "nope"}, "no backend 'nope'; BACKEND is one of ort-cpu"),
        ({"BACKEND": "ORT-CPU"}, "no backend 'ORT-CPU'"),
        ({"PRECISION": "fp64"}, "ort-cpu has no precision 'fp64'; PRECISION is one of fp32, fp16"),
        ({"PRECISION": "FP32"}, "no precision 'FP32'"),
        ({"NETWORK": "plugin"}, "ort-cpu has no network 'plugin'; NETWORK is one of onnx"),
        ({"NETWORK": "../x"}, "no network '../x'"),
        ({"COMPUTE_CAPABILITY": "8.9"}, "builds for the device it runs on"),
        ({"DATASET": "/no/such/file.json"}, "DATASET '/no/such/file.json' is no file"),
        ({"DATASET": "/"}, "is no file"),
    ],
)
def test_names_in_no_list_are_errors(changed: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        read_options({**GIVEN, **changed})


def test_unknown_backend_is_named_before_the_machine_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "find_accelerators", lambda: pytest.fail("looked for devices"))
    with pytest.raises(UserError, match="no backend"):
        read_options({"BACKEND": "nope"})
    assert read_options(GIVEN).choice.reason == "as given"


@pytest.mark.parametrize(
    ("changed", "suffix"),
    [
        ({}, ""),
        ({"BATCH": "8"}, ""),
        ({"BATCH": "1"}, "-batch1"),
        ({"BATCH": "auto"}, "-batchauto"),
        ({"DEVICE": "0"}, ""),
        ({"DEVICE": "2"}, "-device2"),
        ({"LIMIT": "5"}, "-limit5"),
        ({"BATCH": "1", "DEVICE": "2", "LIMIT": "5"}, "-batch1-device2-limit5"),
    ],
)
def test_run_is_named_after_what_is_not_the_profiles_own(
    changed: dict[str, str], suffix: str
) -> None:
    assert read_options({**GIVEN, **changed}).run_name == f"ort-cpu-fp32{suffix}"


@dataclass
class Stub(OrtCpu):
    """A backend with all there is to choose from, whose engines have a largest batch."""

    name: str = "stub"
    precisions: tuple[str, ...] = ("fp16", "fp32", "int8")
    networks: tuple[str, ...] = ("onnx", "plugin")
    token_budget: int = 0

    def compute_capabilities(self) -> tuple[str, ...]:
        return "8.9", "12.0"

    def graph_precision(self, options: EngineOptions) -> str:
        if (options.network, options.precision) == ("plugin", "fp32"):
            raise UserError("no plugins compute in fp32")
        return f"{options.precision}-{options.network}"


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr("harness.options.find_backend", lambda name, available: Stub())
    return {"PROFILE": "minilm-sample", "BACKEND": "stub"}


def test_network_library_and_capability_name_run_and_engine(
    stub: dict[str, str], tmp_path: Path
) -> None:
    library = tmp_path / "lib.so"
    library.write_bytes(b"x")
    mark = hashlib.sha256(b"x").hexdigest()[:8]
    records = set()
    for changed, suffix in (
        ({}, ""),
        ({"NETWORK": "onnx"}, ""),
        # Plain graphs use no plugins.
        ({"PLUGIN_LIBRARY": str(library)}, ""),
        ({"NETWORK": "plugin"}, "-network-plugin"),
        (
            {"NETWORK": "plugin", "PLUGIN_LIBRARY": str(library)},
            f"-network-plugin-library-{mark}",
        ),
        ({"COMPUTE_CAPABILITY": "12.0"}, "-compute-12.0"),
    ):
        options = read_options({**stub, **changed})
        assert options.run_name == f"stub-fp16{suffix}"
        assert options.engine.network == options.network
        assert options.graph_precision == f"fp16-{options.network}"
        engine = records_of(options).engine.name
        assert engine == f"engine-stub-fp16{suffix}.json"
        records.add(engine)
    assert len(records) == 4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"BATCH": "auto"}, "an engine of backend stub has a largest batch; give BATCH as a num"),
        ({"BATCH": "0"}, "BATCH is '0'; it is a whole number from 1 to 4096"),
        ({"NETWORK": "caffe"}, "stub has no network 'caffe'; NETWORK is one of onnx, plugin"),
        ({"NETWORK": "plugin", "PLUGIN_LIBRARY": "/no"}, "PLUGIN_LIBRARY '/no' is no file"),
        ({"COMPUTE_CAPABILITY": "9.0"}, "COMPUTE_CAPABILITY is '9.0'; it is one of 8.9, 12.0"),
        ({"COMPUTE_CAPABILITY": "8.9; x"}, "COMPUTE_CAPABILITY is '8.9; x'"),
        ({"NETWORK": "plugin", "PRECISION": "fp32"}, "no plugins compute in fp32"),
    ],
)
def test_what_a_backend_lacks_is_an_error(
    stub: dict[str, str], changed: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        records_of(read_options({**stub, **changed}))


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("dev-v1.1.json", "dev_v1.1"),
        ("dev-v1.1.json.gz", "dev_v1.1"),
        ("my säts!.json", "my_s_ts_"),
        ("$(rm -rf x) ;.json", "_rm_rf_x_"),
        ("x" * 90 + ".json", "x" * 40),
    ],
)
def test_dataset_names_the_run_by_name_and_content(tmp_path: Path, name: str, stem: str) -> None:
    path = tmp_path / name
    for content in (b"one", b"two"):
        path.write_bytes(content)
        mark = hashlib.sha256(content).hexdigest()[:8]
        run_name = read_options({**GIVEN, "DATASET": str(path)}).run_name
        assert run_name == f"ort-cpu-fp32-{stem}-{mark}"


FILE_NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\x00"))


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(FILE_NAMES.filter(lambda n: n not in ("", ".", "..") and len(n.encode()) < 250))
@example("...json.gz")
@example("-rf")
def test_any_files_name_gives_a_safe_folder(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"x")
    options = read_options({**GIVEN, "DATASET": str(path)})
    assert re.fullmatch(r"ort-cpu-fp32-[A-Za-z0-9._]*-[0-9a-f]{8}", options.run_name)
    assert options.run_folder.parent == RESULTS / "minilm-sample"


def test_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d.json").write_text("x")
    monkeypatch.chdir(tmp_path)
    assert read_path({"DATASET": "d.json"}, "DATASET") == (tmp_path / "d.json").resolve()
    assert read_path({}, "DATASET") is None


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("0", False), ("", False)])
def test_flag_is_1_or_0(value: str, expected: bool) -> None:
    assert read_flag({"OFFLINE": value}, "OFFLINE") is expected


@pytest.mark.parametrize("value", ["yes", "true", "2", " 1", "１"])
def test_other_flags_are_errors(value: str) -> None:
    with pytest.raises(UserError, match=r"OFFLINE is .*; it is 1 or 0"):
        read_flag({"OFFLINE": value}, "OFFLINE")
    assert read_flag({}, "OFFLINE") is False


def test_asset_lock_is_the_repositorys_unless_given(tmp_path: Path) -> None:
    assert asset_lock_path({}) == asset_lock_path({"ASSET_LOCK": ""}) == ASSET_LOCK
    assert asset_lock_path({"ASSET_LOCK": str(tmp_path / "l.json")}) == tmp_path / "l.json"


@pytest.mark.parametrize(
    ("accelerators", "missing", "expected"),
    [
        ([], [], ("minilm-sample", "ort-cpu")),
        ([MR_V100], ["tensorrt"], ("bert-base-squad", "ixrt")),
        ([MR_V100], ["ixrt"], ("minilm-sample", "ort-cpu")),
        ([H100], ["ixrt"], ("bert-base-squad", "tensorrt")),
        ([H100], ["tensorrt", "ixrt"], ("minilm-sample", "ort-cpu")),
        ([H100, MR_V100], [], ("bert-base-squad", "ixrt")),
        ([H100, MR_V100], ["ixrt"], ("bert-base-squad", "tensorrt")),
        ([H100, MR_V100], ["ixrt", "tensorrt"], ("minilm-sample", "ort-cpu")),
    ],
)
def test_machine_decides_what_nobody_asked_for(
    accelerators: list[Accelerator], missing: list[str], expected: tuple[str, str]
) -> None:
    reasons = {name: f"no {name}; get it" if name in missing else None for name in ALL}
    choice = choose_from(None, None, accelerators, reasons)
    assert (choice.profile, choice.backend) == expected
    # On a machine with a device, the reason names it, and what its runtime lacks.
    if accelerators:
        assert any(device.name in choice.reason for device in accelerators)
    else:
        assert choice.reason == "no MR-V100 or NVIDIA device found"
    if choice.backend == "ort-cpu" and accelerators:
        assert any(f"no {name}; get it" in choice.reason for name in missing)


@pytest.mark.parametrize(
    ("profile", "backend", "expected"),
    [
        ("minilm-squad", None, ("minilm-squad", "tensorrt")),
        (None, "ort-cpu", ("minilm-sample", "ort-cpu")),
        (None, "tensorrt", ("bert-base-squad", "tensorrt")),
        (None, "ixrt", ("bert-base-squad", "ixrt")),
        ("minilm-squad", "ort-cpu", ("minilm-squad", "ort-cpu")),
    ],
)
def test_what_is_asked_for_is_never_replaced(
    profile: str | None, backend: str | None, expected: tuple[str, str]
) -> None:
    choice = choose_from(profile, backend, [H100], dict.fromkeys(ALL))
    assert (choice.profile, choice.backend) == expected


def test_choice_looks_at_the_machine_only_for_an_open_backend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "find_accelerators", lambda: pytest.fail("looked for devices"))
    assert choose("minilm-squad", "ort-cpu") == Choice("minilm-squad", "ort-cpu", "as given")
    assert choose(None, "ort-cpu") == Choice("minilm-sample", "ort-cpu", "as given")
    monkeypatch.setattr(doctor, "find_accelerators", list)
    choice = choose(None, None)
    assert (choice.profile, choice.backend) == ("minilm-sample", "ort-cpu")
