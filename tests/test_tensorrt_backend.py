"""The backends tensorrt, ixrt and tensorrt-rtx over doubles of their runtimes.

What the doubles do on a device rests on documentation: no GPU has confirmed it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
import tensorrt_runtime_double as double
from cuda_double import Cuda, Hardware
from tensorrt_runtime_double import Double, Generation, write_plugin_library
from tiny_bert import architecture_of, fitting_scales, inputs_of, options_of, random_weights

from harness.backends import EngineOptions, accelerated, backends
from harness.backends import tensorrt as backend_module
from harness.backends.ort import OrtSession
from harness.backends.tensorrt import IxRt, TensorRt, TensorRtRtx
from harness.devices import Accelerator
from harness.errors import UserError, one_line
from harness.graph import build_graph, save_graph
from harness.model import QUANTIZED, SHARED_SCALES
from harness.scales import output_names
from harness.trt import plugins
from harness.trt.session import TensorRtSession

# The plugins' attention has heads of 32 or 64.
ARCHITECTURE = replace(architecture_of(2), heads=2)
WEIGHTS = random_weights(ARCHITECTURE)
SCALES = fitting_scales(WEIGHTS, ARCHITECTURE)
for _i in range(ARCHITECTURE.layers):
    for _name in ("queries", "keys", "values", "probabilities"):
        SCALES.activations.setdefault(f"layer.{_i}.attention.{_name}", np.float32(2**-5))
for _name in output_names(ARCHITECTURE):
    SCALES.outputs.setdefault(_name, np.float32(2**-5))
INPUTS = inputs_of([40, 23, 1], 40)
REAL = np.broadcast_to(INPUTS[2] == 1, (2, 3, 40))
ALL: tuple[Generation, ...] = get_args(Generation)
NVIDIA: tuple[Generation, ...] = ("8.6", "10", "11")
WITH_PLUGINS: tuple[Generation, ...] = ("8.6", "10", "11", "ixrt")


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Every graph that an engine is built from, by precision."""
    folder = tmp_path_factory.mktemp("graphs")
    for precision, kind in {"fp32": "fp32", "fp16": "fp16", **QUANTIZED}.items():
        scales = SCALES if precision in QUANTIZED else None
        shared = precision in SHARED_SCALES
        model = build_graph(WEIGHTS, ARCHITECTURE, kind, scales, shared_scales=shared)  # type: ignore[arg-type]
        save_graph(model, folder / f"{precision}.onnx")
    return lambda precision: folder / f"{precision}.onnx"


@dataclass
class Bench:
    """A machine with one device, and a runtime's double installed."""

    backend: TensorRt | IxRt | TensorRtRtx
    double: Double
    folder: Path
    graph: Callable[[str], Path]
    devices: list[Accelerator]
    built: dict[EngineOptions, Path] = field(default_factory=dict)

    def options(self, precision: str = "fp16", **changes: Any) -> EngineOptions:
        return replace(options_of(ARCHITECTURE, precision), network=self.network, **changes)

    @property
    def network(self) -> str:
        return self.backend.networks[0]

    def build(self, options: EngineOptions) -> Path:
        path = self.folder / f"{len(self.built)}.plan"
        self.backend.build(self.graph(self.backend.graph_precision(options)), path, options)
        self.built[options] = path
        return path

    def session(self, options: EngineOptions) -> TensorRtSession:
        return self.backend.load(self.build(options), options)


Make = Callable[..., Bench]


@pytest.fixture
def make(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, graphs: Callable[[str], Path]
) -> Iterator[Make]:
    """Install a generation's double; `ours` and `theirs` say which plugin libraries there are."""

    def made(
        generation: Generation, *, ours: bool = True, theirs: bool = True, **options: Any
    ) -> Bench:
        found = double.install(monkeypatch, generation, **options)
        package = tmp_path / found.module_name
        (package / "lib").mkdir(parents=True, exist_ok=True)
        found.module.__file__ = str(package / "__init__.py")
        if generation == "ixrt" and theirs:
            write_plugin_library(package / "lib" / "libixrt_plugin.so", 2)
        library = tmp_path / "ours.so"
        if ours:
            write_plugin_library(library, 2 if generation in ("8.6", "ixrt") else 3)
        monkeypatch.setattr(plugins, "OURS", library)
        monkeypatch.setattr(plugins, "_open", {})
        monkeypatch.setattr(backend_module, "TIMING_CACHES", tmp_path / "caches")
        hardware = found.cuda.hardware
        vendor = "iluvatar" if generation == "ixrt" else "nvidia"
        major, minor = hardware.capability
        facts = {"index": "0", "compute_cap": f"{major}.{minor}"}
        devices = [Accelerator(vendor, hardware.name, "570.1", facts)] * found.cuda.devices
        monkeypatch.setattr(
            accelerated, "devices_of", lambda v: [d for d in devices if d.vendor == v]
        )
        backend = {"ixrt": IxRt, "rtx": TensorRtRtx}.get(generation, TensorRt)()
        return Bench(backend, found, tmp_path, graphs, devices)

    yield made


def logits_of(session: Any) -> npt.NDArray[np.float32]:
    start, end, seconds = session.run(*INPUTS)
    assert start.dtype == end.dtype == np.float32
    assert start.shape == end.shape == INPUTS[0].shape
    assert seconds >= 0
    return np.stack((start, end))


@pytest.fixture(scope="module")
def expected(graphs: Callable[[str], Path]) -> npt.NDArray[np.float32]:
    """Start and end logits (2, 3, 40) of the FP32 graph as it is written."""
    return logits_of(OrtSession(graphs("fp32"), optimized=False))


def close(
    found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32], allowed: float
) -> bool:
    """Whether logits of real tokens differ by less than a share of their mean size."""
    apart = np.abs(found - expected)[REAL].mean()
    return bool(apart < allowed * np.abs(expected[REAL]).mean())


def cases() -> list[Any]:
    """Every generation, with every network and precision that it has."""
    found = []
    for generation in ALL:
        backend = {"ixrt": IxRt, "rtx": TensorRtRtx}.get(generation, TensorRt)
        for network in backend.networks:
            for precision in backend.precisions:
                if (network, precision) != ("plugin", "fp32"):
                    values = generation, network, precision
                    found.append(pytest.param(*values, id="-".join(values)))
    return found


@pytest.mark.parametrize(("generation", "network", "precision"), cases())
def test_logits_are_the_models(
    make: Make,
    expected: npt.NDArray[np.float32],
    generation: Generation,
    network: str,
    precision: str,
) -> None:
    bench = make(generation)
    assert bench.backend.unavailable() is None
    options = replace(bench.options(precision), network=network)
    found = logits_of(bench.session(options))
    allowed = {"fp32": 1e-5, "fp16": 2e-3, "int8": 0.3}[precision]
    assert close(found, expected, allowed)
    assert bench.double.errors() == []


@pytest.mark.parametrize("generation", ALL)
def test_shapes_may_change_and_outputs_stay(make: Make, generation: Generation) -> None:
    session = make(generation)
    session = session.session(session.options())
    together = logits_of(session)
    kept = together.copy()
    ids, segments, mask = INPUTS
    for row, length in [*enumerate(mask.sum(axis=1)), *enumerate(mask.sum(axis=1))]:
        part = np.s_[row : row + 1, :length]
        start, end, _ = session.run(ids[part], segments[part], mask[part])
        np.testing.assert_allclose(
            np.stack((start, end))[:, 0], together[:, row, :length], atol=1e-4
        )
    np.testing.assert_array_equal(together, kept)


@pytest.mark.parametrize("generation", ALL)
def test_what_the_device_gave_is_given_back(make: Make, generation: Generation) -> None:
    bench = make(generation)
    session = bench.session(bench.options())
    logits_of(session)
    assert bench.double.cuda.leaks()
    del session
    gc.collect()
    assert bench.double.cuda.leaks() == []


@pytest.mark.parametrize("generation", ALL)
def test_a_batch_beyond_the_engine_is_an_error(make: Make, generation: Generation) -> None:
    bench = make(generation)
    session = bench.session(bench.options(batch=2))
    with pytest.raises(UserError, match=r"^a batch of 3x40 is beyond the engine's 2x40; .*BATCH="):
        session.run(*INPUTS)


def test_time_is_the_devices_and_no_copys(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make("10")
    session = bench.session(bench.options())
    ticks = iter(range(100))
    monkeypatch.setattr(bench.double.cuda, "clock", lambda: float(next(ticks)))
    order: list[str] = []
    for name in ("cudaMemcpyAsync", "cudaStreamSynchronize", "cudaEventRecord"):
        real = getattr(bench.double.cuda, name)

        def noted(*arguments: Any, real: Any = real, name: str = name) -> Any:
            order.append(name.removeprefix("cuda"))
            return real(*arguments)

        monkeypatch.setattr(sys.modules["cuda.bindings.runtime"], name, noted)
    assert session.run(*INPUTS).seconds == 1.0
    assert order == [
        *["MemcpyAsync"] * 3, "StreamSynchronize", *["EventRecord"] * 2, *["MemcpyAsync"] * 2,
        "StreamSynchronize",
    ]  # fmt: skip


def test_ixrt_pads_int8_to_even_lengths(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UMD_ENABLEDCPRINGNUM", raising=False)
    bench = make("ixrt")
    for precision, width in (("int8", 24), ("fp16", 23)):
        session = bench.session(bench.options(precision))
        shapes = []
        real = session._executor.enqueue

        def noted(shape: Any, *rest: Any, real: Any = real, shapes: Any = shapes) -> bool:
            shapes.append(shape)
            return bool(real(shape, *rest))

        monkeypatch.setattr(session._executor, "enqueue", noted)
        ids, segments, mask = inputs_of([23], 23)
        assert session.run(ids, segments, mask).start_logits.shape == (1, 23)
        assert shapes == [(1, width)]
        monkeypatch.setattr(plugins, "_open", dict(plugins._open))
    assert os.environ["UMD_ENABLEDCPRINGNUM"] == "16"


# What an engine is built from, and what is told of it.


@pytest.mark.parametrize(
    ("generation", "network", "graphs_of"),
    [
        ("8.6", "onnx", {"fp16": "fp32", "fp32": "fp32", "int8": "int8"}),
        ("10", "onnx", {"fp16": "fp16", "fp32": "fp32", "int8": "int8-fp16"}),
        ("11", "onnx", {"fp16": "fp16", "fp32": "fp32", "int8": "int8-fp16"}),
        ("rtx", "onnx", {"fp16": "fp16", "fp32": "fp32", "int8": "int8-fp16-rtx"}),
        ("8.6", "plugin", {"fp16": "fp32", "int8": "int8"}),
        ("11", "plugin", {"fp16": "fp32", "int8": "int8"}),
        ("ixrt", "plugin", {"fp16": "fp32", "int8": "int8"}),
        ("ixrt", "onnx", {"fp16": "fp32", "int8": "int8"}),
    ],
)
def test_each_network_has_its_graph(
    make: Make, generation: Generation, network: str, graphs_of: dict[str, str]
) -> None:
    bench = make(generation)
    for precision, graph in graphs_of.items():
        options = replace(bench.options(precision), network=network)
        assert bench.backend.graph_precision(options) == graph


def test_plugins_have_no_fp32(make: Make) -> None:
    bench = make("10")
    with pytest.raises(UserError, match="no plugins compute in fp32; use PRECISION=fp16 or int8"):
        bench.backend.graph_precision(replace(bench.options("fp32"), network="plugin"))


@pytest.mark.parametrize("generation", NVIDIA)
def test_inspector_tells_of_the_layers(make: Make, generation: Generation) -> None:
    bench = make(generation)
    options = bench.options()
    graph = bench.graph(bench.backend.graph_precision(options))
    described = bench.backend.build(graph, bench.folder / "x.plan", options)
    assert described is not None and json.loads(described)["Layers"]


def test_ixrt_has_no_inspector(make: Make) -> None:
    bench = make("ixrt")
    options = bench.options()
    assert bench.backend.build(bench.graph("fp32"), bench.folder / "x.plan", options) is None


@pytest.mark.parametrize("generation", NVIDIA)
def test_timing_cache_is_kept_and_a_damaged_one_replaced(
    make: Make, generation: Generation
) -> None:
    bench = make(generation)
    bench.build(bench.options())
    (cache,) = (bench.folder / "caches").iterdir()
    first = cache.read_bytes()
    assert first
    bench.build(bench.options())
    assert cache.read_bytes() == first
    cache.write_bytes(b"damaged")
    bench.build(bench.options())
    assert cache.read_bytes() == first
    assert [path.name for path in (bench.folder / "caches").iterdir()] == [cache.name]


@pytest.mark.parametrize("generation", ["ixrt", "rtx"])
def test_others_keep_no_timing_cache(make: Make, generation: Generation) -> None:
    bench = make(generation)
    bench.build(bench.options())
    assert not (bench.folder / "caches").exists()


@pytest.mark.parametrize("generation", WITH_PLUGINS)
def test_engine_depends_on_what_shapes_it(make: Make, generation: Generation) -> None:
    bench = make(generation)
    plain = replace(bench.options(), network="onnx")
    seen = [bench.backend.engine_inputs(plain)]
    plugged = replace(plain, network="plugin")
    seen.append(bench.backend.engine_inputs(plugged))
    for changed in (replace(plain, batch=8), replace(plain, sequence_length=20)):
        seen.append(bench.backend.engine_inputs(changed))
    other = write_plugin_library(bench.folder / "other.so", 2)
    other.write_bytes(other.read_bytes() + b"changed")
    seen.append(bench.backend.engine_inputs(replace(plugged, plugin_library=other)))
    device = bench.devices[0]
    bench.devices[0] = replace(device, driver="580.2")
    seen.append(bench.backend.engine_inputs(plain))
    bench.devices[0] = replace(device, name="NVIDIA A100")
    seen.append(bench.backend.engine_inputs(plain))
    texts = [json.dumps(entry, sort_keys=True) for entry in seen]
    assert len(set(texts)) == len(texts)
    assert seen[0]["device"] == device.name and seen[0]["driver"] == device.driver
    assert seen[0]["library"].endswith(bench.double.version)


# TensorRT-RTX.


def test_rtx_builds_without_a_device(make: Make) -> None:
    bench = make("rtx", cuda=Cuda("13", devices=0))
    assert bench.backend.unavailable() is None
    assert "nvidia-smi shows no device" in str(bench.backend.cannot_run())
    with pytest.raises(UserError, match=r"or name a kind of device with COMPUTE_CAPABILITY=8\.9"):
        bench.backend.engine_inputs(bench.options())
    options = bench.options(compute_capability="8.9")
    assert bench.backend.engine_inputs(options)["compute_capability"] == "8.9"
    assert bench.build(options).stat().st_size
    assert "8.9" in bench.backend.compute_capabilities()


def test_rtx_names_a_device_that_it_does_not_know(make: Make) -> None:
    bench = make("rtx", cuda=Cuda("13", hardware=Hardware()))
    message = r"does not run on NVIDIA H100 80GB HBM3 with compute capability 9.0, only on 7.5, .*"
    for ask in (
        lambda: bench.backend.device(0),
        lambda: bench.backend.engine_inputs(bench.options()),
        lambda: bench.build(bench.options()),
    ):
        with pytest.raises(UserError, match=f"{message}; use BACKEND=tensorrt or ort-cuda"):
            ask()
    assert "compute capability 9.0" in str(bench.backend.cannot_run())


# What can be wrong, each in one line.


def refusal(action: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        action()
    message = str(caught.value)
    assert one_line(message) == message
    return message


@pytest.mark.parametrize("kind", ["empty", "text", "half", "flipped", "graph"])
@pytest.mark.parametrize("generation", ALL)
def test_file_that_is_no_plan(make: Make, generation: Generation, kind: str) -> None:
    bench = make(generation)
    options = bench.options()
    plan = bench.build(options).read_bytes()
    bad = bench.folder / "bad.plan"
    bad.write_bytes(
        {
            "empty": b"",
            "text": b"no engine at all",
            "half": plan[: len(plan) // 2],
            "flipped": plan[:-1] + bytes([plan[-1] ^ 1]),
            "graph": bench.graph("fp32").read_bytes(),
        }[kind]
    )
    message = refusal(lambda: bench.backend.load(bad, options))
    assert message.startswith(f"{bad} cannot be loaded (")
    assert message.endswith("; delete it and build it again")


@pytest.mark.parametrize("generation", NVIDIA)
def test_plan_of_another_version_or_device(make: Make, generation: Generation) -> None:
    bench = make(generation)
    options = bench.options()
    path = bench.build(options)
    later = make(generation, version=bench.double.version + "9")
    message = refusal(lambda: later.backend.load(path, options))
    assert message.startswith(f"{path} cannot be loaded (TensorRT {later.double.version} refuses")
    hardware = Hardware("NVIDIA T4", (7, 5))
    elsewhere = make(generation, cuda=Cuda(double.LAYOUTS[generation], hardware=hardware))
    message = refusal(lambda: elsewhere.backend.load(path, options))
    assert message.endswith("; delete it and build it again")


@pytest.mark.parametrize("generation", ALL)
def test_plan_for_smaller_batches(make: Make, generation: Generation) -> None:
    bench = make(generation)
    path = bench.build(bench.options(batch=2))
    message = refusal(lambda: bench.backend.load(path, bench.options(batch=4)))
    assert "it takes 2x40 tokens at most, not 4x40" in message


@pytest.mark.parametrize("generation", ALL)
def test_device_without_memory(make: Make, generation: Generation) -> None:
    bench = make(generation)
    options = bench.options()
    path = bench.build(options)
    bench.double.cuda.refuse_from = 4
    message = refusal(lambda: bench.backend.load(path, options))
    # ixRT's logger says on standard error alone what has failed.
    assert generation == "ixrt" or "out of memory" in message
    assert generation == "ixrt" or message.endswith("use a smaller BATCH")
    bench.double.cuda.refuse_from = None
    bench.double.faults.context = True
    message = refusal(lambda: bench.backend.load(path, options))
    assert message.endswith("; use a smaller BATCH")


@pytest.mark.parametrize("generation", ALL)
def test_graph_that_does_not_parse(make: Make, generation: Generation) -> None:
    bench = make(generation)
    bad = bench.folder / "bad.onnx"
    bad.write_bytes(bench.graph("fp32").read_bytes()[:1000])
    target = bench.folder / "x.plan"
    for network in bench.backend.networks:
        options = replace(bench.options(), network=network)
        message = refusal(lambda o=options: bench.backend.build(bad, target, o))  # type: ignore[misc]
        assert message.startswith(str(bad))
        assert not target.exists()


@pytest.mark.parametrize("generation", ALL)
def test_builder_that_fails(make: Make, generation: Generation) -> None:
    bench = make(generation)
    bench.double.faults.build = True
    message = refusal(lambda: bench.build(bench.options()))
    assert " cannot build " in message
    step = "`make doctor` shows the device" if generation == "ixrt" else "use a smaller BATCH"
    assert message.endswith(f"; {step}")


@pytest.mark.parametrize("generation", WITH_PLUGINS)
def test_plugin_library_that_is_missing_or_none(make: Make, generation: Generation) -> None:
    bench = make(generation, ours=False, theirs=generation == "ixrt")
    options = replace(bench.options(), network="plugin")
    if generation != "ixrt":
        for action in (lambda: bench.build(options), lambda: bench.backend.engine_inputs(options)):
            message = refusal(action)
            assert message.startswith("no plugin library ")
            assert "run `make plugin" in message
    foreign = bench.folder / "foreign.so"
    foreign.write_bytes(b"\x7fELF nothing")
    message = refusal(lambda: bench.build(replace(options, plugin_library=foreign)))
    assert message.startswith(f"{foreign} cannot be loaded (")
    assert "PLUGIN_LIBRARY" in message


@pytest.mark.parametrize("generation", WITH_PLUGINS)
def test_plugin_that_is_missing_or_refuses(make: Make, generation: Generation) -> None:
    for fault in ("missing_plugin", "refused_plugin"):
        bench = make(generation)
        setattr(bench.double.faults, fault, "SkipLayerNorm")
        message = refusal(lambda b=bench: b.build(replace(b.options(), network="plugin")))  # type: ignore[misc]
        assert "CustomSkipLayerNormPluginDynamic_IxRT" in message


def test_one_plugin_library_a_process(make: Make) -> None:
    bench = make("ixrt")
    bench.build(bench.options())
    other = write_plugin_library(bench.folder / "other.so", 2)
    message = refusal(lambda: bench.build(bench.options(plugin_library=other)))
    assert "loaded already; use one PLUGIN_LIBRARY a run" in message


def test_plugin_library_chosen_for_ixrt_is_the_one_that_is_loaded(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make("ixrt")
    opened: list[str] = []
    real = ctypes.CDLL
    monkeypatch.setattr(ctypes, "CDLL", lambda n, *a: (opened.append(n), real(n, *a))[1])
    ours = write_plugin_library(bench.folder / "mine.so", 2)
    logits_of(bench.session(bench.options(plugin_library=ours)))
    assert opened == [str(ours)]


@pytest.mark.parametrize("generation", ALL)
def test_runtime_that_is_missing(
    make: Make, monkeypatch: pytest.MonkeyPatch, generation: Generation
) -> None:
    bench = make(generation)
    monkeypatch.setitem(sys.modules, bench.double.module_name, None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
    reason = bench.backend.unavailable()
    assert reason is not None and one_line(reason) == reason
    assert reason.endswith(
        {"ixrt": "install the vendor's ixRT wheel", "rtx": "run `make tensorrt-rtx`"}.get(
            generation, "install TensorRT's Python package"
        )
    )


@pytest.mark.parametrize("generation", ALL)
def test_cuda_python_that_is_missing(
    make: Make, monkeypatch: pytest.MonkeyPatch, generation: Generation
) -> None:
    bench = make(generation)
    for name in ("cuda.bindings.runtime", "cuda.cudart"):
        monkeypatch.setitem(sys.modules, name, None)
    says = bench.backend.cannot_run if generation == "rtx" else bench.backend.unavailable
    assert "package cuda-python is missing" in str(says())


@pytest.mark.parametrize("generation", ALL)
def test_device_that_is_missing(make: Make, generation: Generation) -> None:
    bench = make(generation)
    bench.devices.clear()
    says = bench.backend.cannot_run if generation == "rtx" else bench.backend.unavailable
    tool = "ixsmi" if generation == "ixrt" else "nvidia-smi"
    assert str(says()).startswith(f"{tool} shows no device")


def test_modules_of_the_other_vendor_are_told_apart(make: Make) -> None:
    make("8.6", version="8.5.3")
    assert "TensorRT 8.5.3 is too old; install 8.6 or later" in refusal(TensorRt().library)
    make("10")
    assert "not ixRT's" in refusal(IxRt().library)
    make("ixrt")
    assert "is ixRT's; use BACKEND=ixrt" in refusal(TensorRt().library)


def test_stubs_are_no_runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    (tmp_path / "tensorrt").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert "has no Builder" in refusal(TensorRt().library)
    finally:
        sys.modules.pop("tensorrt", None)


def test_backends_cost_no_runtime() -> None:
    known = backends()
    assert {"tensorrt", "ixrt", "tensorrt-rtx"} <= known.keys()
    for name in ("tensorrt", "ixrt", "tensorrt-rtx"):
        assert known[name].engine_suffix() == ".plan"
        assert known[name].token_budget == 0
