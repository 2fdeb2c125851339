"""The doubles of TensorRT and CUDA: what they compute, what they refuse, and how true they are.

The surface of the double of 10 is compared with the type stubs that are published for it, and
that of TensorRT-RTX with the real module, as are the answers that need no GPU. The doubles of
8.6, ixRT and 11 rest on documentation: nothing here can tell them from the real ones.
"""

from __future__ import annotations

import ast
import functools
import gc
import importlib
import importlib.util
import inspect
import json
import os
import platform
import re
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import tensorrt_double
import tensorrt_runtime_double as runtime
from cuda_double import Cuda, Hardware, Layout, Misuse, cudaMemcpyKind
from cuda_double import cudaError_t as E
from onnx import TensorProto, helper
from tensorrt_rtx import tensorrt as real_rtx
from tensorrt_stubs import stubs_folder
from tiny_bert import architecture_of, fitting_scales, inputs_of, random_weights

from harness.graph import build_graph
from harness.plugin_network import add_bert

ARCHITECTURE = replace(architecture_of(1), heads=2)
WEIGHTS = random_weights(ARCHITECTURE)
SCALES = fitting_scales(WEIGHTS, ARCHITECTURE)
BERT = ("input_ids", "segment_ids", "input_mask")
NAMED = ("8.6", "10", "11")
BOUND = ("8.6", "ixrt")
WITH_RTX = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="has no TensorRT-RTX wheels"
)

# CUDA.


@pytest.fixture
def cuda() -> Cuda:
    return Cuda()


def value(answer: tuple[Any, ...]) -> Any:
    """What a call returns that has to succeed."""
    error, *values = answer
    assert error is E.cudaSuccess, answer
    return values[0] if len(values) == 1 else tuple(values)


def module_of(cuda: Cuda) -> Any:
    name = "cuda.cudart" if cuda.layout == "11.8" else "cuda.bindings.runtime"
    return cuda.modules()[name]


H2D, D2H, D2D = (cudaMemcpyKind(i) for i in (1, 2, 3))


def pinned(cuda: Cuda, array: npt.NDArray[Any]) -> int:
    address: int = value(cuda.cudaMallocHost(array.nbytes))
    cuda.memory(address, array.nbytes, "host")[:] = array.reshape(-1).view(np.uint8)
    return address


def read(cuda: Cuda, address: int, size: int, place: str = "host") -> list[int]:
    return list(cuda.memory(address, size, place))


@dataclass
class Copies:
    """Four bytes on their way to the device and back."""

    cuda: Cuda
    source: int = field(init=False)
    device: int = field(init=False)
    target: int = field(init=False)
    stream: Any = field(init=False)

    def __post_init__(self) -> None:
        self.source = pinned(self.cuda, np.arange(4, dtype=np.uint8))
        self.target = pinned(self.cuda, np.zeros(4, np.uint8))
        self.device = value(self.cuda.cudaMalloc(4))
        self.stream = value(self.cuda.cudaStreamCreate())

    def put(self) -> None:
        value(self.cuda.cudaMemcpyAsync(self.device, self.source, 4, H2D, self.stream))
        value(self.cuda.cudaMemcpyAsync(self.target, self.device, 4, D2H, self.stream))

    def sync(self) -> E:
        (error,) = self.cuda.cudaStreamSynchronize(self.stream)
        return error

    def begin(self, mode: int = 0) -> None:
        modes = module_of(self.cuda).cudaStreamCaptureMode
        value(self.cuda.cudaStreamBeginCapture(self.stream, modes(mode)))


@pytest.fixture
def copies(cuda: Cuda) -> Copies:
    return Copies(cuda)


def test_copies_happen_when_the_stream_is_waited_for(copies: Copies) -> None:
    copies.put()
    assert read(copies.cuda, copies.target, 4) == [0] * 4
    # Written too late for whoever thinks that the copy has been made.
    copies.cuda.memory(copies.source, 4, "host")[:] = 9
    assert copies.sync() is E.cudaSuccess
    assert read(copies.cuda, copies.target, 4) == [9] * 4


def test_a_polling_loop_gets_there(copies: Copies) -> None:
    copies.put()
    event = value(copies.cuda.cudaEventCreate())
    copies.cuda.cudaEventRecord(event, copies.stream)
    answers = [copies.cuda.cudaEventQuery(event)[0] for _ in range(4)]
    assert answers == [E.cudaErrorNotReady] * 3 + [E.cudaSuccess]
    assert copies.cuda.cudaStreamQuery(copies.stream) == (E.cudaSuccess,)
    assert read(copies.cuda, copies.target, 4) == [0, 1, 2, 3]


def test_memory_is_garbage_until_it_is_written(cuda: Cuda) -> None:
    for address, place in (
        (value(cuda.cudaMalloc(3)), "device"),
        (value(cuda.cudaHostAlloc(3, 0)), "host"),
    ):
        assert read(cuda, address, 3, place) == [0xCD] * 3


def test_host_memory_of_asynchronous_copies_is_pinned(copies: Copies) -> None:
    pageable = np.zeros(4, np.uint8)
    with pytest.raises(Misuse, match="no pinned host memory"):
        copies.cuda.cudaMemcpyAsync(copies.device, pageable, 4, H2D, copies.stream)
    value(copies.cuda.cudaMemcpy(copies.device, pageable, 4, H2D))
    value(copies.cuda.cudaHostRegister(pageable, 4, 0))
    copies.cuda.cudaMemcpyAsync(copies.device, pageable, 4, H2D, copies.stream)
    copies.sync()


def test_what_is_freed_is_gone(copies: Copies) -> None:
    cuda = copies.cuda
    copies.put()
    cuda.cudaFreeHost(copies.source)
    with pytest.raises(Misuse, match="has been freed"):
        copies.sync()
    with pytest.raises(Misuse, match="freed twice"):
        cuda.cudaFreeHost(copies.source)
    with pytest.raises(Misuse, match="is not ours"):
        cuda.cudaFree(12345)
    with pytest.raises(Misuse, match="frees device memory as host memory"):
        cuda.cudaFreeHost(copies.device)
    assert cuda.cudaFree(0) == (E.cudaSuccess,)


def test_copies_keep_to_their_allocations(copies: Copies) -> None:
    with pytest.raises(Misuse, match="reach beyond"):
        copies.cuda.cudaMemcpyAsync(copies.device, copies.source, 5, H2D, copies.stream)
    with pytest.raises(Misuse, match="is device memory, not host"):
        copies.cuda.cudaMemcpyAsync(copies.source, copies.device, 4, H2D, copies.stream)
    with pytest.raises(TypeError):
        copies.cuda.cudaMemcpyAsync(copies.device, copies.source, 4, 1, copies.stream)  # type: ignore[arg-type]


def test_set_and_copy_on_the_device(copies: Copies) -> None:
    other = value(copies.cuda.cudaMalloc(4))
    copies.cuda.cudaMemsetAsync(other, 7, 4, copies.stream)
    copies.cuda.cudaMemcpyAsync(copies.device, other, 4, D2D, copies.stream)
    copies.sync()
    assert read(copies.cuda, copies.device, 4, "device") == [7] * 4


def test_leaks_are_listed(copies: Copies) -> None:
    cuda = copies.cuda
    assert len(cuda.leaks()) == 4
    event = value(cuda.cudaEventCreate())
    assert len(cuda.leaks()) == 5
    cuda.cudaEventDestroy(event)
    cuda.cudaFree(copies.device)
    for host in (copies.source, copies.target):
        cuda.cudaFreeHost(host)
    cuda.cudaStreamDestroy(copies.stream)
    assert cuda.leaks() == []
    assert cuda.cudaStreamDestroy(copies.stream) == (E.cudaErrorInvalidResourceHandle,)


def test_time_between_events(cuda: Cuda) -> None:
    ticks = iter([1.0, 1.5])
    cuda.clock = lambda: next(ticks)
    stream = value(cuda.cudaStreamCreate())
    start, end, untimed = (value(cuda.cudaEventCreateWithFlags(flags)) for flags in (0, 0, 2))
    assert cuda.cudaEventElapsedTime(start, end)[0] is E.cudaErrorInvalidResourceHandle
    for event in (start, end):
        cuda.cudaEventRecord(event, stream)
    assert cuda.cudaEventElapsedTime(start, end)[0] is E.cudaErrorNotReady
    assert cuda.cudaEventSynchronize(end) == (E.cudaSuccess,)
    assert cuda.cudaEventElapsedTime(start, end) == (E.cudaSuccess, 500.0)
    assert cuda.cudaEventElapsedTime(start, untimed)[0] is E.cudaErrorInvalidResourceHandle


def test_a_stream_waits_for_another_one_s_event(copies: Copies) -> None:
    cuda = copies.cuda
    event, other = value(cuda.cudaEventCreate()), value(cuda.cudaStreamCreateWithFlags(1))
    cuda.cudaMemcpyAsync(copies.device, copies.source, 4, H2D, other)
    cuda.cudaEventRecord(event, other)
    cuda.cudaStreamWaitEvent(copies.stream, event, 0)
    cuda.cudaMemcpyAsync(copies.target, copies.device, 4, D2H, copies.stream)
    copies.sync()
    assert read(cuda, copies.target, 4) == [0, 1, 2, 3]


def test_streams_do_not_wait_for_one_another_by_themselves(copies: Copies) -> None:
    cuda, other = copies.cuda, value(copies.cuda.cudaStreamCreateWithFlags(1))
    cuda.cudaMemcpyAsync(copies.device, copies.source, 4, H2D, other)
    cuda.cudaMemcpyAsync(copies.target, copies.device, 4, D2H, copies.stream)
    copies.sync()
    assert read(cuda, copies.target, 4) == [0xCD] * 4
    cuda.cudaDeviceSynchronize()
    assert read(cuda, copies.device, 4, "device") == [0, 1, 2, 3]


def test_the_default_stream_waits_for_blocking_streams(copies: Copies) -> None:
    cuda = copies.cuda
    cuda.cudaMemcpyAsync(copies.device, copies.source, 4, H2D, copies.stream)
    cuda.cudaMemcpyAsync(copies.target, copies.device, 4, D2H, 0)
    cuda.cudaStreamSynchronize(0)
    assert read(cuda, copies.target, 4) == [0, 1, 2, 3]


@pytest.mark.parametrize("layout", ["11.8", "12", "13"])
def test_graphs_replay_what_was_captured(layout: Layout) -> None:
    copies = Copies(Cuda(layout))
    cuda = copies.cuda
    copies.begin()
    copies.put()
    graph = value(cuda.cudaStreamEndCapture(copies.stream))
    copies.sync()
    assert read(cuda, copies.target, 4) == [0] * 4
    if layout == "11.8":
        executable, _node = value(cuda.cudaGraphInstantiate(graph, b"\0" * 100, 100))
    else:
        executable = value(cuda.cudaGraphInstantiate(graph, 0))
    cuda.cudaGraphDestroy(graph)
    for number in (5, 6):
        cuda.memory(copies.source, 4, "host")[:] = number
        cuda.cudaGraphLaunch(executable, copies.stream)
        copies.sync()
        assert read(cuda, copies.target, 4) == [number] * 4
    cuda.cudaGraphExecDestroy(executable)
    assert cuda.cudaGraphLaunch(executable, copies.stream) == (E.cudaErrorInvalidValue,)
    assert not any("graph" in leak for leak in cuda.leaks())


def broken(copies: Copies, call: Callable[[], tuple[Any, ...]], error: E, mode: int = 0) -> None:
    """`call` fails within a capture, and the capture with it."""
    copies.begin(mode)
    copies.put()
    assert call()[0] is error
    assert copies.cuda.cudaStreamIsCapturing(copies.stream)[1] == 2
    assert copies.cuda.cudaStreamEndCapture(copies.stream) == (
        E.cudaErrorStreamCaptureInvalidated,
        None,
    )


def test_what_a_capture_forbids(copies: Copies) -> None:
    cuda, stream = copies.cuda, copies.stream
    event = value(cuda.cudaEventCreate())
    unsupported = E.cudaErrorStreamCaptureUnsupported
    broken(copies, lambda: cuda.cudaStreamSynchronize(stream), unsupported)
    broken(copies, lambda: cuda.cudaStreamQuery(stream), unsupported)
    broken(copies, cuda.cudaDeviceSynchronize, unsupported)
    broken(copies, lambda: cuda.cudaMalloc(4), unsupported)
    broken(copies, lambda: cuda.cudaMallocHost(4), unsupported, 1)
    broken(copies, lambda: cuda.cudaFree(copies.device), unsupported)
    implicit = E.cudaErrorStreamCaptureImplicit
    broken(copies, lambda: cuda.cudaMemsetAsync(copies.device, 0, 4, 0), implicit)
    copies.begin(2)
    assert cuda.cudaMalloc(4)[0] is E.cudaSuccess, "a relaxed capture forbids no allocation"
    cuda.cudaEventRecord(event, stream)
    assert cuda.cudaEventSynchronize(event) == (E.cudaErrorCapturedEvent,)
    cuda.cudaStreamEndCapture(stream)
    assert cuda.cudaStreamEndCapture(stream)[0] is E.cudaErrorIllegalState
    modes = module_of(cuda).cudaStreamCaptureMode
    assert cuda.cudaStreamBeginCapture(0, modes(0)) == (unsupported,)


def test_captures_of_several_streams_come_back_together(copies: Copies) -> None:
    cuda = copies.cuda
    there, back, other = (
        value(cuda.cudaEventCreate()),
        value(cuda.cudaEventCreate()),
        value(cuda.cudaStreamCreate()),
    )
    for joined in (True, False):
        copies.begin()
        cuda.cudaEventRecord(there, copies.stream)
        cuda.cudaStreamWaitEvent(other, there, 0)
        cuda.cudaMemsetAsync(copies.device, 3, 4, other)
        if joined:
            cuda.cudaEventRecord(back, other)
            cuda.cudaStreamWaitEvent(copies.stream, back, 0)
        error, _ = cuda.cudaStreamEndCapture(copies.stream)
        assert (error is E.cudaSuccess) == joined
        assert joined or error is E.cudaErrorStreamCaptureUnjoined


def test_memory_runs_out(cuda: Cuda) -> None:
    assert value(cuda.cudaMemGetInfo()) == (80 << 30, 80 << 30)
    cuda.refuse_from = 100
    assert cuda.cudaMalloc(100) == (E.cudaErrorMemoryAllocation, None)
    assert cuda.cudaGetLastError() == (E.cudaErrorMemoryAllocation,)
    assert cuda.cudaPeekAtLastError() == (E.cudaSuccess,)
    value(cuda.cudaMalloc(99))
    small = Cuda(hardware=Hardware(memory=10))
    address = value(small.cudaMalloc(8))
    assert small.cudaMalloc(3)[0] is E.cudaErrorMemoryAllocation
    small.cudaFree(address)
    assert value(small.cudaMemGetInfo()) == (10, 10)


def test_devices_and_errors(cuda: Cuda) -> None:
    assert value(cuda.cudaGetDeviceCount()) == 1
    assert cuda.cudaSetDevice(1) == (E.cudaErrorInvalidDevice,)
    assert value(cuda.cudaGetDevice()) == 0
    assert value(cuda.cudaGetDeviceProperties(0)).name == b"NVIDIA H100 80GB HBM3"
    attributes = module_of(cuda).cudaDeviceAttr
    assert value(cuda.cudaDeviceGetAttribute(attributes.cudaDevAttrComputeCapabilityMajor, 0)) == 9
    assert value(cuda.cudaGetErrorName(E.cudaErrorInvalidValue)) == b"cudaErrorInvalidValue"
    assert value(cuda.cudaGetErrorString(E.cudaErrorInvalidValue)) == b"invalid value"
    none = Cuda(devices=0)
    assert none.cudaGetDeviceCount() == (E.cudaErrorNoDevice, None)
    assert none.cudaMalloc(1) == (E.cudaErrorNoDevice, None)


# TensorRT.


def small_model(
    *,
    half: bool = False,
    quantized: bool = False,
    op: str = "Mul",
    opset: int = 17,
    integers: int = TensorProto.INT32,
) -> onnx.ModelProto:
    """y = float(a) · float(b), both (batch, seq); quantized on the way, or of halves."""
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["a"], ["af"], "af", to=kind),
        helper.make_node("Cast", ["b"], ["bf"], "bf", to=kind),
        helper.make_node(op, ["af", "bf"], ["product"], "product"),
        helper.make_node("Cast", ["product"], ["y"], "y", to=TensorProto.FLOAT),
    ]
    constants = []
    if quantized:
        constants = [
            helper.make_tensor("scale", TensorProto.FLOAT, [], [1.0]),
            helper.make_tensor("zero", TensorProto.INT8, [], [0]),
        ]
        nodes[2:3] = [
            helper.make_node("QuantizeLinear", ["af", "scale", "zero"], ["aq"], "aq"),
            helper.make_node("DequantizeLinear", ["aq", "scale", "zero"], ["ad"], "ad"),
            helper.make_node(op, ["ad", "bf"], ["product"], "product"),
        ]
    shape = ["batch", "seq"]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, integers, shape) for name in "ab"],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


RANGE = ((1, 1), (2, 4), (4, 8))


@dataclass
class Bench:
    """One double with what a program makes of it."""

    made: runtime.Double
    logger: Any = field(init=False)
    profiles: list[Any] = field(default_factory=lambda: [RANGE])

    def __post_init__(self) -> None:
        self.logger = self.trt.Logger(self.trt.Logger.INTERNAL_ERROR)

    @property
    def trt(self) -> Any:
        return self.made.module

    @property
    def cuda(self) -> Cuda:
        return self.made.cuda

    @property
    def generation(self) -> str:
        return self.made.generation

    def network(self, flags: int | None = None) -> tuple[Any, Any]:
        """A builder and its network, as this generation wants it."""
        members = self.trt.NetworkDefinitionCreationFlag.__members__
        wanted = members.get("STRONGLY_TYPED") or members["EXPLICIT_BATCH"]
        builder = self.trt.Builder(self.logger)
        return builder, builder.create_network(1 << int(wanted) if flags is None else flags)

    def parsed(self, model: onnx.ModelProto, flags: int | None = None) -> tuple[Any, Any]:
        builder, network = self.network(flags)
        parser = self.trt.OnnxParser(network, self.logger)
        assert parser.parse(model.SerializeToString()), parser.get_error(0).desc()
        return builder, network

    def config(self, builder: Any, *flags: str, names: tuple[str, ...] = ("a", "b")) -> Any:
        config = builder.create_builder_config()
        for flag in flags:
            config.set_flag(self.trt.BuilderFlag.__members__[flag])
        for shapes in self.profiles:
            profile = builder.create_optimization_profile()
            for name in names:
                profile.set_shape(name, *shapes)
            config.add_optimization_profile(profile)
        if self.generation == "rtx":
            config.num_compute_capabilities = 1
            config.set_compute_capability(self.trt.ComputeCapability.SM89, 0)
        return config

    def plan(self, model: onnx.ModelProto | None = None, *flags: str) -> Any:
        builder, network = self.parsed(model or small_model())
        return builder.build_serialized_network(network, self.config(builder, *flags))

    def engine(self) -> Any:
        plan = self.plan()
        assert plan is not None, self.made.messages
        return self.trt.Runtime(self.logger).deserialize_cuda_engine(plan)

    def refusal(self, result: Any) -> str:
        """The last line of the log, for a call that failed."""
        assert result is None or result is False
        return self.made.errors()[-1]


@pytest.fixture
def bench(generation: runtime.Generation) -> Bench:
    return Bench(runtime.Double(generation))


def generations(*names: str) -> Any:
    return pytest.mark.parametrize("generation", names)


ALL = generations(*runtime.GENERATIONS)


@dataclass
class Session:
    """Buffers for a context of the small model, with shapes (2, 3)."""

    bench: Bench
    context: Any
    shape: tuple[int, int] = (2, 3)

    def __post_init__(self) -> None:
        cuda, size = self.bench.cuda, int(np.prod(self.shape)) * 4
        self.stream = value(cuda.cudaStreamCreate())
        self.host = [pinned(cuda, np.full(self.shape, i + 2, np.int32)) for i in range(2)]
        self.result = pinned(cuda, np.zeros(self.shape, np.float32))
        self.device = {name: value(cuda.cudaMalloc(size)) for name in "aby"}
        self.size = size

    def set(self, shape: tuple[int, int] | None = None) -> None:
        for i, name in enumerate("ab"):
            if self.bench.generation == "ixrt":
                assert self.context.set_binding_shape(i, shape or self.shape)
            else:
                assert self.context.set_input_shape(name, shape or self.shape)
        if self.bench.generation != "ixrt":
            for name, address in self.device.items():
                assert self.context.set_tensor_address(name, address)

    def enqueue(self) -> bool:
        stream = self.stream
        if self.bench.generation == "ixrt":
            return bool(self.context.execute_async_v2(list(self.device.values()), int(stream)))
        return bool(self.context.execute_async_v3(int(stream)))

    def put(self) -> bool:
        cuda = self.bench.cuda
        for host, name in zip(self.host, "ab", strict=True):
            cuda.cudaMemcpyAsync(self.device[name], host, self.size, H2D, self.stream)
        done = self.enqueue()
        cuda.cudaMemcpyAsync(self.result, self.device["y"], self.size, D2H, self.stream)
        return done

    def results(self) -> list[float]:
        (error,) = self.bench.cuda.cudaStreamSynchronize(self.stream)
        assert error is E.cudaSuccess
        memory = self.bench.cuda.memory(self.result, self.size, "host")
        return [float(x) for x in memory.view(np.float32)]


def session(bench: Bench) -> Session:
    made = Session(bench, bench.engine().create_execution_context())
    made.set()
    return made


@generations("8.6", "ixrt", "10", "11", "rtx")
def test_an_engine_computes_when_its_stream_runs(bench: Bench) -> None:
    made = session(bench)
    assert made.put()
    memory = bench.cuda.memory(made.result, made.size, "host")
    assert not memory.any(), "read too early"
    assert made.results() == [6.0] * 6


@generations("8.6", "ixrt", "10", "11")
@pytest.mark.parametrize("source", ["onnx", "plugins"])
@pytest.mark.parametrize("int8", [False, True])
def test_engines_compute_bert(bench: Bench, source: str, int8: bool) -> None:
    """As ONNX Runtime does with the graph itself, and as `evaluate` does with the plugins."""
    old = bench.made.is_old
    if source == "plugins" and int8 and old and not SCALES.outputs:
        pytest.skip("these scales are not for plugins that return INT8")
    trt, scales = bench.trt, SCALES if int8 else None
    builder, network = bench.network()
    ids = dict(zip(BERT, inputs_of([9, 4], 10), strict=True))
    if source == "onnx":
        model = build_graph(WEIGHTS, ARCHITECTURE, "fp32" if int8 and old else "fp16", scales)
        assert trt.OnnxParser(network, bench.logger).parse(model.SerializeToString())
        exact = runtime._session(
            build_graph(WEIGHTS, ARCHITECTURE, "fp32", scales).SerializeToString()
        )[0].run(None, ids)
    else:
        bench.made.register(tensor_creator(bench))
        api = 2 if old else 3
        registry = trt.get_plugin_registry()
        add_bert(network, trt, registry, WEIGHTS, ARCHITECTURE, scales, api=api)  # type: ignore[arg-type]
        exact = list(tensorrt_double.evaluate(network._body, ids).values())
    bench.profiles = [((1, 8), (2, 16), (2, 16))]
    config = bench.config(builder, *(["FP16", "INT8"] if old else []), names=BERT)
    plan = builder.build_serialized_network(network, config)
    del network, builder, config
    engine = trt.Runtime(bench.logger).deserialize_cuda_engine(plan)
    computed = run_bert(bench, engine, ids)
    for a, b in zip(computed, exact, strict=True):
        np.testing.assert_allclose(a[0, :9], b[0, :9], rtol=0, atol=0.1 if int8 else 0.02)


def tensor_creator(bench: Bench) -> Any:
    return tensorrt_double.CreatorV2 if bench.made.is_old else tensorrt_double.CreatorV3


def run_bert(bench: Bench, engine: Any, ids: dict[str, Any]) -> list[npt.NDArray[np.float32]]:
    cuda, context = bench.cuda, engine.create_execution_context()
    stream = value(cuda.cudaStreamCreate())
    addresses = {}
    for i, (name, array) in enumerate(ids.items()):
        addresses[name] = value(cuda.cudaMalloc(array.nbytes))
        host = pinned(cuda, np.ascontiguousarray(array, np.int32))
        cuda.cudaMemcpyAsync(addresses[name], host, array.nbytes, H2D, stream)
        if bench.generation == "ixrt":
            assert context.set_binding_shape(i, array.shape)
        else:
            assert context.set_input_shape(name, array.shape)
    size = ids["input_ids"].size * 4
    for name in ("start_logits", "end_logits"):
        addresses[name] = value(cuda.cudaMalloc(size))
    if bench.generation == "ixrt":
        assert context.execute_async_v2(list(addresses.values()), int(stream))
    else:
        assert all(context.set_tensor_address(name, a) for name, a in addresses.items())
        assert context.execute_async_v3(int(stream))
    cuda.cudaStreamSynchronize(stream)
    return [
        cuda.memory(addresses[name], size, "device")
        .view(np.float32)
        .reshape(ids["input_ids"].shape)
        for name in ("start_logits", "end_logits")
    ]


GONE = [
    ("8.6", "trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED"),
    ("8.6", "trt.bfloat16"),
    ("8.6", "trt.DataType.INT64"),
    ("8.6", "trt.TensorRTPhase"),
    ("8.6", "trt.get_plugin_registry().get_creator"),
    ("8.6", "network.add_plugin_v3"),
    ("8.6", "engine.device_memory_size_v2"),
    ("ixrt", "trt.ILogger"),
    ("ixrt", "trt.TensorIOMode"),
    ("ixrt", "trt.EngineInspector"),
    ("ixrt", "trt.get_plugin_registry().load_library"),
    ("ixrt", "config.set_memory_pool_limit"),
    ("ixrt", "config.create_timing_cache"),
    ("ixrt", "network.add_cast"),
    ("ixrt", "engine.num_io_tensors"),
    ("ixrt", "engine.create_engine_inspector"),
    ("ixrt", "context.set_input_shape"),
    ("ixrt", "context.execute_async_v3"),
    ("10", "engine.num_bindings"),
    ("10", "engine.get_profile_shape"),
    ("10", "context.execute_async_v2"),
    ("10", "context.set_binding_shape"),
    ("10", "context.all_binding_shapes_specified"),
    ("11", "trt.BuilderFlag.FP16"),
    ("11", "trt.BuilderFlag.INT8"),
    ("11", "trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH"),
    ("11", "config.int8_calibrator"),
    ("11", "network.get_input(0).set_dynamic_range"),
    ("11", "network.add_plugin_v2"),
    ("11", "trt.get_plugin_registry().get_plugin_creator"),
    ("11", "builder.platform_has_fast_fp16"),
    ("11", "engine.device_memory_size"),
    ("rtx", "network.add_plugin_v3"),
]


@pytest.mark.parametrize(("generation", "expression"), GONE)
def test_what_a_generation_lacks_is_not_there(bench: Bench, expression: str) -> None:
    builder, network = bench.parsed(small_model())
    engine = bench.engine()
    known = {
        "trt": bench.trt,
        "builder": builder,
        "network": network,
        "config": bench.config(builder),
        "engine": engine,
        "context": engine.create_execution_context(),
    }
    with pytest.raises(AttributeError):
        eval(expression, known)


@ALL
def test_objects_take_no_other_attributes(bench: Bench) -> None:
    config = bench.trt.Builder(bench.logger).create_builder_config()
    with pytest.raises(AttributeError):
        config.builder_optimisation_level = 5
    if bench.generation != "ixrt":
        config.builder_optimization_level = 5
        with pytest.raises(TypeError):
            config.profiling_verbosity = 2


@ALL
def test_versions_and_types(bench: Bench) -> None:
    trt = bench.trt
    assert trt.__version__ == runtime.VERSIONS[bench.generation]
    assert int(trt.float16) == 1 and trt.float16 is trt.DataType.HALF and trt.float16 != 1
    assert trt.nptype(trt.int32) is np.int32
    with pytest.raises(TypeError):
        trt.nptype(trt.fp8)
    assert trt.volume(trt.Dims([2, 3])) == 6
    assert trt.Dims([2, 3]) == (2, 3) and not isinstance(trt.Dims([2]), tuple)


@generations("8.6", "10", "11", "rtx")
def test_loggers(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    trt = bench.trt

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self, made: bool) -> None:
            if made:
                trt.ILogger.__init__(self)
            self.texts: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            self.texts.append(f"{severity.name} {msg}")

    log = Log(True)
    runtime_ = trt.Runtime(log)
    assert runtime_.deserialize_cuda_engine(b"junk") is None
    assert log.texts == ["ERROR deserialize: this is no plan of this library"]
    for wrong in (Log(False), None, "log"):
        with pytest.raises(TypeError):
            trt.Builder(wrong)
    trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(b"junk")
    trt.Runtime(trt.Logger(trt.Logger.INTERNAL_ERROR)).deserialize_cuda_engine(b"junk")
    assert capfd.readouterr().err.count("no plan") == 1


@ALL
def test_the_parser_s_refusals(bench: Bench, tmp_path: Path) -> None:
    def refused(blob: bytes, flags: int | None = None) -> str:
        _, network = bench.network(flags)
        parser = bench.trt.OnnxParser(network, bench.logger)
        bench.refusal(parser.parse(blob))
        assert parser.num_errors == 1
        text = parser.get_error(0).desc()
        parser.clear_errors()
        assert parser.num_errors == 0 and parser.get_error(0) is None
        return str(text)

    good = small_model().SerializeToString()
    assert "no ONNX model" in refused(b"junk")
    assert "plugin NoSuch" in refused(small_model(op="NoSuch").SerializeToString())
    if bench.made.is_old:
        assert "opset 19" in refused(small_model(opset=19).SerializeToString())
        assert "explicit batch" in refused(good, 0)
    bench.made.faults.parse = "an unlucky day"
    assert refused(good) == "an unlucky day"
    bench.made.faults.parse = ""
    _, network = bench.network()
    parser = bench.trt.OnnxParser(network, bench.logger)
    path = tmp_path / "model.onnx"
    bench.refusal(parser.parse_from_file(str(path)))
    path.write_bytes(good)
    with pytest.raises(TypeError):
        parser.parse_from_file(path)
    assert parser.parse_from_file(str(path))
    assert (network.num_inputs, network.num_outputs, network.num_layers) == (2, 1, 4)
    assert network.get_input(1).name == "b" and network.get_input(0).shape == (-1, -1)
    assert "not empty" in bench.refusal(parser.parse(good))


@ALL
def test_profiles(bench: Bench) -> None:
    builder = bench.trt.Builder(bench.logger)
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    with pytest.raises(RuntimeError):
        profile.set_shape("a", (-1, 1), (1, 1), (1, 1))
    profile.set_shape("a", (2, 2), (1, 1), (4, 4))
    assert not profile
    assert config.add_optimization_profile(profile) == -1
    profile.set_shape("a", *RANGE)
    assert profile and config.add_optimization_profile(profile) == 0
    if bench.generation != "ixrt":
        assert profile.get_shape("a") == list(RANGE)
        assert profile.get_shape("b") == []


@ALL
def test_the_builder_s_refusals(bench: Bench) -> None:
    builder, network = bench.parsed(small_model())

    def refused(network: Any, *flags: str) -> str:
        config = bench.config(builder, *flags)
        return bench.refusal(builder.build_serialized_network(network, config))

    assert "no output" in refused(bench.network()[1])
    for profiles, words in (
        ([], "no optimization profile"),
        ([((1,), (2,), (3,))], "is no shape of a"),
    ):
        bench.profiles = profiles
        assert words in refused(network)
    bench.profiles = [RANGE]
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("a", *RANGE)
    config.add_optimization_profile(profile)
    if bench.generation != "rtx":
        text = bench.refusal(builder.build_serialized_network(network, config))
        assert "no shapes of b" in text
    bench.made.faults.build = True
    assert "out of memory" in refused(network)


@generations("8.6", "ixrt")
def test_weak_types_want_their_flags(bench: Bench) -> None:
    assert "BuilderFlag.FP16" in bench.refusal(bench.plan(small_model(half=True)))
    assert bench.plan(small_model(half=True), "FP16") is not None
    assert "BuilderFlag.INT8" in bench.refusal(bench.plan(small_model(quantized=True)))
    assert bench.plan(small_model(quantized=True), "INT8") is not None
    assert bench.plan(small_model(), "FP16", "INT8") is not None
    assert any("INT8 without scales" in text for _, text in bench.made.messages)


@generations("10")
def test_strong_types_take_no_flags(bench: Bench) -> None:
    assert "strongly typed, and FP16, INT8" in bench.refusal(bench.plan(None, "FP16", "INT8"))
    assert bench.plan(small_model(half=True, quantized=False)) is not None
    assert bench.plan(small_model(quantized=True)) is not None
    builder, network = bench.parsed(small_model(half=True), 0)
    config = bench.config(builder)
    assert "BuilderFlag.FP16" in bench.refusal(builder.build_serialized_network(network, config))


@ALL
def test_plans(bench: Bench) -> None:
    plan = bench.plan()
    with pytest.raises(TypeError):
        len(plan)
    blob = bytes(plan)
    assert plan.nbytes == memoryview(plan).nbytes == len(blob)
    loader = bench.trt.Runtime(bench.logger)
    assert loader.deserialize_cuda_engine(blob) is not None
    for bad, words in (
        (b"", "nothing"),
        (b"elsewhere", "no plan"),
        (blob[:-1], "damaged"),
    ):
        assert words in bench.refusal(loader.deserialize_cuda_engine(bad))
    with pytest.raises(TypeError):
        loader.deserialize_cuda_engine("text")
    other = Bench(runtime.Double(bench.made.generation, version="0.1"))
    foreign = other.trt.Runtime(other.logger).deserialize_cuda_engine(blob)
    assert "of version" in other.refusal(foreign)
    card = Hardware("another", (6, 1))
    moved = Bench(runtime.Double(bench.made.generation, Cuda(hardware=card)))
    foreign = moved.trt.Runtime(moved.logger).deserialize_cuda_engine(blob)
    assert "compute capability" in moved.refusal(foreign)
    kin = Bench(runtime.Double(bench.made.generation, Cuda(hardware=replace(
        bench.cuda.hardware, name="its sister"))))  # fmt: skip
    assert kin.trt.Runtime(kin.logger).deserialize_cuda_engine(blob) is not None
    assert any(severity == "WARNING" for severity, _ in kin.made.messages)


@generations("8.6", "10", "11")
def test_compatible_plans_go_further(bench: Bench) -> None:
    builder, network = bench.parsed(small_model())
    config = bench.config(builder)
    config.hardware_compatibility_level = bench.trt.HardwareCompatibilityLevel.AMPERE_PLUS
    plan = builder.build_serialized_network(network, config)
    ampere = Cuda(hardware=Hardware("NVIDIA A100", (8, 0)))
    there = Bench(runtime.Double(bench.made.generation, ampere))
    engine = there.trt.Runtime(there.logger).deserialize_cuda_engine(bytes(plan))
    assert engine.hardware_compatibility_level.name == "AMPERE_PLUS"


@ALL
def test_memory_runs_out_of_libraries(bench: Bench) -> None:
    plan = bench.plan()
    loader = bench.trt.Runtime(bench.logger)
    bench.made.faults.deserialize = True
    assert "out of memory" in bench.refusal(loader.deserialize_cuda_engine(plan))
    bench.made.faults.deserialize = False
    engine = loader.deserialize_cuda_engine(plan)
    before = bench.cuda.memory_used
    bench.made.faults.context = True
    assert "out of memory" in bench.refusal(engine.create_execution_context())
    bench.made.faults.context = False
    bench.cuda.refuse_from = before
    bench.refusal(engine.create_execution_context())
    bench.cuda.refuse_from = None
    context = engine.create_execution_context()
    assert bench.cuda.memory_used > before
    del context
    assert bench.cuda.memory_used == before
    del engine
    gc.collect()
    assert bench.cuda.memory_used == 0


@ALL
def test_objects_keep_what_they_need(bench: Bench) -> None:
    """As pybind11's keep_alive does, so nothing of Python's can go too early."""
    made = session(bench)
    bench.logger = None
    gc.collect()
    assert made.put() and made.results() == [6.0] * 6


@ALL
def test_without_a_gpu(bench: Bench) -> None:
    bench.cuda.devices = 0
    with pytest.raises(TypeError):
        bench.trt.Runtime(bench.logger)
    if bench.generation != "rtx":
        with pytest.raises(TypeError):
            bench.trt.Builder(bench.logger)
    else:
        assert bench.plan() is not None


@generations(*NAMED)
def test_named_tensors(bench: Bench) -> None:
    engine = bench.engine()
    trt = bench.trt
    assert [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)] == ["a", "b", "y"]
    modes = [engine.get_tensor_mode(name).name for name in ("a", "y", "z")]
    assert modes == ["INPUT", "OUTPUT", "NONE"]
    assert engine.get_tensor_dtype("a") is trt.int32 and engine.get_tensor_dtype("y") is trt.float32
    assert engine.get_tensor_shape("y") == (-1, -1)
    assert engine.get_tensor_profile_shape("a", 0) == list(RANGE)
    assert engine.get_tensor_profile_shape("a", 1) == [(), (), ()]
    assert engine.num_optimization_profiles == 1 and engine.num_layers == 4
    context = engine.create_execution_context()
    assert context.get_tensor_shape("y") == (-1, -1)
    assert context.infer_shapes() == ["a", "b"]
    for name, shape, words in (
        ("z", (2, 2), "no input or output"),
        ("y", (2, 2), "no input"),
        ("a", (2, 2, 1), "is no shape"),
        ("a", (5, 2), "outside profile 0"),
        ("a", (2, -1), "is no shape"),
    ):
        assert words in bench.refusal(context.set_input_shape(name, shape))
    assert context.set_input_shape("a", [2, 3]) and context.set_input_shape("b", trt.Dims([2, 4]))
    with pytest.raises(RuntimeError):
        context.infer_shapes()
    context.set_input_shape("b", (2, 3))
    assert context.infer_shapes() == []
    assert context.get_tensor_shape("y") == (2, 3) and context.get_tensor_strides("y") == (3, 1)
    assert not context.set_tensor_address("z", 256)
    with pytest.raises(TypeError):
        context.set_tensor_address("a", np.zeros(4))


@generations(*NAMED)
def test_executions_that_are_refused(bench: Bench) -> None:
    engine = bench.engine()
    context = engine.create_execution_context()
    made = Session(bench, context)
    assert "a, b has no shape" in bench.refusal(made.enqueue())
    for name in "ab":
        context.set_input_shape(name, (2, 3))
    assert "a has no address" in bench.refusal(made.enqueue())
    made.set()
    context.set_tensor_address("y", made.device["y"] + 4)
    assert "not aligned" in bench.refusal(made.enqueue())
    context.set_tensor_address("y", made.device["y"])
    context.set_input_shape("b", (2, 4))
    assert "seq" in bench.refusal(made.enqueue())
    made.set((4, 8))
    with pytest.raises(Misuse, match="reach beyond"):
        made.enqueue()
    made.set()
    context.set_tensor_address("y", made.result)
    with pytest.raises(Misuse):
        made.enqueue()


@generations(*BOUND)
def test_bindings(bench: Bench) -> None:
    bench.profiles = [RANGE, ((1, 8), (2, 16), (4, 32))]
    engine = bench.engine()
    assert (engine.num_bindings, engine.num_optimization_profiles) == (6, 2)
    assert engine.get_binding_name(1) == "b" and engine.get_binding_index("a [profile 1]") == 3
    assert engine.get_binding_index("z") == -1
    assert [engine.binding_is_input(i) for i in range(6)] == [True, True, False] * 2
    assert engine.get_binding_dtype("y") is bench.trt.float32
    assert engine.get_binding_shape(0) == (-1, -1)
    assert engine.get_profile_shape(1, 3) == list(bench.profiles[1])
    assert engine.get_profile_shape(1, 0) == list(bench.profiles[1])
    assert engine.get_profile_shape(profile_index=0, binding="a") == list(RANGE)
    context = engine.create_execution_context()
    made = Session(bench, context, (2, 16))
    if bench.generation == "ixrt":
        assert not context.set_binding_shape(0, (1, 1)), "no profile is chosen yet"
    assert context.set_optimization_profile_async(1, int(made.stream))
    with pytest.raises(RuntimeError):
        context.set_optimization_profile_async(2, int(made.stream))
    assert "not of profile 1" in bench.refusal(context.set_binding_shape(0, (2, 16)))
    assert "outside profile 1" in bench.refusal(context.set_binding_shape(3, (2, 7)))
    assert context.set_binding_shape(3, (2, 16)) and not context.all_binding_shapes_specified
    assert context.get_binding_shape(5) == (2, 16)
    assert context.set_binding_shape(4, (2, 16)) and context.all_binding_shapes_specified
    addresses = list(made.device.values())
    with pytest.raises(Misuse, match="3 addresses for 6 bindings"):
        context.execute_async_v2(addresses, int(made.stream))
    bench.refusal(context.execute_async_v2([*addresses, 0, 0, 0], int(made.stream)))
    for host, name in zip(made.host, "ab", strict=True):
        bench.cuda.cudaMemcpyAsync(made.device[name], host, made.size, H2D, made.stream)
    assert context.execute_async_v2([0, 0, 0, *addresses], int(made.stream))
    bench.cuda.cudaMemcpyAsync(made.result, made.device["y"], made.size, D2H, made.stream)
    assert made.results() == [6.0] * 32


@generations("8.6", "ixrt", "10")
def test_contexts_and_profiles(bench: Bench) -> None:
    """Until 9, a profile is one context's, and the second context has none."""
    engine = bench.engine()
    contexts = [engine.create_execution_context() for _ in range(2)]
    sessions = [Session(bench, context) for context in contexts]
    sessions[0].set()
    if bench.generation == "10":
        sessions[1].set()
        assert all(made.put() and made.results() == [6.0] * 6 for made in sessions)
        return
    stream = int(sessions[1].stream)
    with pytest.raises(RuntimeError):
        contexts[1].set_optimization_profile_async(0, stream)
    assert "another context's" in bench.made.errors()[-1]
    call = contexts[1].set_binding_shape
    assert "none is chosen" in bench.refusal(call(0, (2, 3)))
    del contexts[0], sessions[0]
    gc.collect()
    assert contexts[0].set_optimization_profile_async(0, stream)


@generations("8.6")
def test_profiles_can_be_shared(bench: Bench) -> None:
    builder, network = bench.parsed(small_model())
    config = bench.config(builder)
    config.set_preview_feature(bench.trt.PreviewFeature.PROFILE_SHARING_0806, True)
    plan = builder.build_serialized_network(network, config)
    engine = bench.trt.Runtime(bench.logger).deserialize_cuda_engine(plan)
    contexts = [engine.create_execution_context() for _ in range(2)]
    assert [context.active_optimization_profile for context in contexts] == [0, 0]


@ALL
def test_a_profile_forgets_shapes(bench: Bench) -> None:
    made = session(bench)
    made.context.set_optimization_profile_async(0, int(made.stream))
    assert "has no shape" in bench.refusal(made.enqueue())


@ALL
def test_one_context_on_two_streams(bench: Bench) -> None:
    made = session(bench)
    made.put()
    first, made.stream = made.stream, value(bench.cuda.cudaStreamCreate())
    with pytest.raises(Misuse, match="another one"):
        made.enqueue()
    bench.cuda.cudaStreamSynchronize(first)
    assert made.enqueue()


@ALL
def test_a_context_stays_until_its_work_is_done(bench: Bench) -> None:
    made = session(bench)
    assert made.enqueue()
    made.context = None
    gc.collect()
    with pytest.raises(Misuse, match="went before"):
        made.results()


@ALL
def test_captured_executions(bench: Bench) -> None:
    made, cuda = session(bench), bench.cuda
    modes = module_of(cuda).cudaStreamCaptureMode

    def capture() -> tuple[bool, Any]:
        value(cuda.cudaStreamBeginCapture(made.stream, modes(0)))
        done = made.put()
        return done, cuda.cudaStreamEndCapture(made.stream)[1]

    assert capture() == (False, None), "shapes are new, so there is something to allocate"
    made.set()
    assert made.put() and made.results() == [6.0] * 6
    done, graph = capture()
    assert done
    executable = value(cuda.cudaGraphInstantiateWithFlags(graph, 0))
    cuda.memory(made.host[0], made.size, "host").view(np.int32)[:] = 10
    cuda.cudaGraphLaunch(executable, made.stream)
    assert made.results() == [30.0] * 6
    # Other shapes do not change the graph, but want an execution before the next capture.
    made.set((1, 2))
    cuda.cudaGraphLaunch(executable, made.stream)
    assert made.results() == [30.0] * 6
    assert capture() == (False, None)
    made.context = None
    gc.collect()
    cuda.cudaGraphLaunch(executable, made.stream)
    with pytest.raises(Misuse, match="the context went"):
        made.results()


@generations(*NAMED)
def test_the_default_stream_is_warned_of(bench: Bench) -> None:
    made = session(bench)
    made.stream = 0
    assert made.put() and made.results() == [6.0] * 6
    assert ("WARNING", "the default stream costs synchronizations") in bench.made.messages


@generations("8.6", "10", "11", "rtx")
def test_inspection(bench: Bench) -> None:
    found = {}
    for verbosity in ("LAYER_NAMES_ONLY", "DETAILED", "NONE"):
        builder, network = bench.parsed(small_model(quantized=True))
        config = bench.config(builder, *(["INT8"] if bench.made.is_old else []))
        config.profiling_verbosity = getattr(bench.trt.ProfilingVerbosity, verbosity)
        plan = builder.build_serialized_network(network, config)
        engine = bench.trt.Runtime(bench.logger).deserialize_cuda_engine(plan)
        inspector = engine.create_engine_inspector()
        text = inspector.get_engine_information(bench.trt.LayerInformationFormat.JSON)
        found[verbosity] = json.loads(text)
    assert found["LAYER_NAMES_ONLY"]["Layers"] == ["af", "bf", "aq", "product", "y"]
    assert found["LAYER_NAMES_ONLY"]["Bindings"] == ["a", "b", "y"]
    assert found["NONE"]["Layers"] == []
    product = found["DETAILED"]["Layers"][3]
    words = [tensor["Format/Datatype"].split()[-1] for tensor in product["Inputs"]]
    assert words == ["Int8", "Float"]


@generations("8.6", "10", "11")
def test_timing_caches(bench: Bench) -> None:
    builder, network = bench.parsed(small_model())
    config = bench.config(builder)
    assert config.get_timing_cache() is None
    cache = config.create_timing_cache(b"")
    empty = bytes(cache.serialize())
    assert config.set_timing_cache(cache, False)
    builder.build_serialized_network(network, config)
    full = bytes(config.get_timing_cache().serialize())
    assert full != empty
    again = config.create_timing_cache(full)
    assert bytes(again.serialize()) == full
    assert again.combine(config.create_timing_cache(b""), False) and again.reset()
    assert "no timing cache" in bench.refusal(config.create_timing_cache(b"junk"))
    card = Cuda(hardware=Hardware("another"))
    other = Bench(runtime.Double(bench.made.generation, card))
    there = other.trt.Builder(other.logger).create_builder_config()
    moved = there.create_timing_cache(full)
    assert "another device's" in other.refusal(there.set_timing_cache(moved, False))
    assert there.set_timing_cache(moved, True)


@generations("rtx")
def test_rtx_has_timing_caches_in_name_alone(bench: Bench) -> None:
    config = bench.trt.Builder(bench.logger).create_builder_config()
    with pytest.warns(DeprecationWarning):
        config.create_timing_cache(b"")


@generations("rtx")
def test_compute_capabilities(bench: Bench) -> None:
    builder, network = bench.parsed(small_model())
    config = bench.config(builder)
    config.num_compute_capabilities = 2
    assert not config.set_compute_capability(bench.trt.ComputeCapability.SM80, 2)
    assert "not all" in bench.refusal(builder.build_serialized_network(network, config))


@generations("8.6", "10", "11")
def test_plugin_libraries(bench: Bench, tmp_path: Path) -> None:
    api: Any = 2 if bench.made.is_old else 3
    registry = bench.trt.get_plugin_registry()
    path = runtime.write_plugin_library(tmp_path / "libixrt_plugin.so", api)
    with pytest.raises(TypeError):
        registry.load_library(path)
    bench.refusal(registry.load_library(str(tmp_path / "elsewhere.so")))
    (tmp_path / "text").write_text("nothing")
    assert "exports no plugins" in bench.refusal(registry.load_library(str(tmp_path / "text")))
    find = registry.get_plugin_creator if bench.made.is_old else registry.get_creator
    bench.refusal(find("CustomFCPluginDynamic_IxRT", "1", ""))
    assert registry.load_library(str(path)) is not None
    creator = find("CustomFCPluginDynamic_IxRT", "1")
    assert bench.made.is_old or isinstance(creator, bench.trt.IPluginCreatorV3One)
    assert "registered already" in bench.refusal(registry.load_library(str(path)))
    assert bench.trt.init_libnvinfer_plugins(bench.logger, "")


@generations("8.6")
def test_a_library_of_the_next_generation_is_no_library(bench: Bench, tmp_path: Path) -> None:
    path = runtime.write_plugin_library(tmp_path / "libixrt_plugin.so", 3)
    bench.refusal(bench.trt.get_plugin_registry().load_library(str(path)))


@generations("10")
def test_engines_want_their_plugins(bench: Bench, tmp_path: Path) -> None:
    path = runtime.write_plugin_library(tmp_path / "libixrt_plugin.so", 3)
    bench.trt.get_plugin_registry().load_library(str(path))
    builder, network = bench.network()
    registry = bench.trt.get_plugin_registry()
    add_bert(network, bench.trt, registry, WEIGHTS, ARCHITECTURE, api=3)
    config = bench.config(builder, names=BERT)
    plan = bytes(builder.build_serialized_network(network, config))
    other = Bench(runtime.Double("10"))
    loader = other.trt.Runtime(other.logger)
    assert "is not registered" in other.refusal(loader.deserialize_cuda_engine(plan))
    other.made.faults.missing_plugin = "FFN"
    other.trt.get_plugin_registry().load_library(str(path))
    assert "CustomFFN" in other.refusal(loader.deserialize_cuda_engine(plan))
    assert bench.trt.Runtime(bench.logger).deserialize_cuda_engine(plan) is not None


@generations("8.6", "ixrt")
def test_half_precision_plugins_want_the_flag(bench: Bench) -> None:
    bench.made.register(tensorrt_double.CreatorV2)
    builder, network = bench.network()
    registry = bench.trt.get_plugin_registry()
    add_bert(network, bench.trt, registry, WEIGHTS, ARCHITECTURE, api=2)
    config = bench.config(builder, names=BERT)
    assert "BuilderFlag.FP16" in bench.refusal(builder.build_serialized_network(network, config))
    assert network.get_input(0).set_dynamic_range(-1.0, 1.0)


@generations("10")
def test_networks_are_built_from_memory_that_is_there(bench: Bench) -> None:
    builder, network = bench.network()
    tensor = network.add_input("a", bench.trt.int32, (-1, 4))
    index = network.add_constant((1,), np.zeros(1, np.int32)).get_output(0)
    network.mark_output(network.add_gather(tensor, index, 1).get_output(0))
    bench.profiles = [((1, 4), (1, 4), (1, 4))]
    with pytest.raises(AssertionError, match="freed"):
        builder.build_serialized_network(network, bench.config(builder, names=("a",)))


# How they are installed.


@ALL
def test_installation(generation: runtime.Generation, tmp_path: Path) -> None:
    name = "tensorrt_rtx" if generation == "rtx" else "tensorrt"
    before = sys.modules.get(name)
    with pytest.MonkeyPatch.context() as patch:
        made = runtime.install(patch, generation, tmp_path, faults=runtime.Faults(build=True))
        assert importlib.import_module(name) is made.module
        assert importlib.util.find_spec(name) is not None
        layout = runtime.LAYOUTS[generation]
        cuda = "cuda.cudart" if layout == "11.8" else "cuda.bindings.runtime"
        module = importlib.import_module(cuda)
        assert module.cudaGetDeviceCount() == (E.cudaSuccess, 1)
        assert module.cudaStreamNonBlocking == 1
        if layout != "11.8":
            with pytest.raises(ImportError):
                importlib.import_module("cuda.cudart")
        if made.is_old:
            ctypes = importlib.import_module("ctypes")
            place = Path(made.module.__file__).parent / "lib" / "libixrt_plugin.so"
            assert place.exists() == (generation == "ixrt")
            ctypes.CDLL(str(runtime.write_plugin_library(tmp_path / "plugins.so", 2)))
            assert made.creators
    assert sys.modules.get(name) is before
    found: dict[str, Any] = {}
    runtime.install(found, generation)
    assert name in found and "cuda" in found


@ALL
def test_other_processes(generation: runtime.Generation, tmp_path: Path) -> None:
    """One builds and one runs, as the pipeline's stages do; what they leave is told."""
    name = "tensorrt_rtx" if generation == "rtx" else "tensorrt"
    leaks = tmp_path / "leaks"
    environment = {**os.environ, **runtime.write_shims(tmp_path / "shims", generation, leaks=leaks)}
    (tmp_path / "model.onnx").write_bytes(small_model().SerializeToString())

    def stage(text: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", f"import {name} as trt\n{textwrap.dedent(text)}"],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    stage(
        """
        builder = trt.Builder(trt.Logger())
        network = builder.create_network(1)
        assert trt.OnnxParser(network, trt.Logger()).parse_from_file("model.onnx")
        config, profile = builder.create_builder_config(), builder.create_optimization_profile()
        for name in "ab":
            profile.set_shape(name, (1, 1), (2, 3), (4, 8))
        config.add_optimization_profile(profile)
        with open("plan", "wb") as file:
            file.write(builder.build_serialized_network(network, config))
        """
    )
    assert leaks.read_text() == ""
    text = stage(
        f"""
        import importlib.metadata, pathlib
        assert pathlib.Path(trt.__file__).is_file()
        engine = trt.Runtime(trt.Logger()).deserialize_cuda_engine(open("plan", "rb").read())
        from cuda{".bindings" if runtime.LAYOUTS[generation] != "11.8" else ""} import (
            {"runtime" if runtime.LAYOUTS[generation] != "11.8" else "cudart"} as cuda)
        cuda.cudaMalloc(17)
        print(engine.create_execution_context() is not None)
        print(importlib.metadata.version("{name}"))
        """
    )
    assert text.split() == ["True", runtime.VERSIONS[generation]]
    assert leaks.read_text() == "17 bytes of device memory\n"


# How true they are.


@dataclass
class Stub:
    """A class of the stubs: its members, and of its methods what their overloads take."""

    bases: list[str]
    attributes: set[str]
    methods: dict[str, list[list[str]]]


@functools.cache
def stubs() -> tuple[dict[str, Stub], dict[str, dict[str, int]], set[str]]:
    """Classes, enumerations' numbers and the module's names."""
    text = (stubs_folder() / "tensorrt_bindings" / "tensorrt.pyi").read_text()
    numbers: dict[str, dict[str, int]] = {}
    member = r"(\w+): typing\.ClassVar\[[\w.]+\]  # value = <(\w+)\.\w+: (\d+)>"
    for name, kind, number in re.findall(member, text):
        numbers.setdefault(kind, {})[name] = int(number)
    # Not Python: parameters called `in`, and one without a default behind others with one.
    text = re.sub(r"\bin: ", "in_: ", text)
    text = re.sub(r"(def add_scale_nd\(.*?)( = [^,)]*)(.*\))", lambda m: _no_defaults(m[0]), text)
    tree = ast.parse(text)
    classes, names = {}, set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            classes[node.name] = _stub(node)
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.AnnAssign):
            names.add(ast.unparse(node.target))
    return classes, numbers, names


def _no_defaults(signature: str) -> str:
    return re.sub(r" = [^,)]*", "", signature)


def _stub(node: ast.ClassDef) -> Stub:
    found = Stub([ast.unparse(base) for base in node.bases], set(), {})
    for item in node.body:
        if isinstance(item, ast.AnnAssign):
            found.attributes.add(ast.unparse(item.target))
        elif isinstance(item, ast.ClassDef):
            found.attributes.add(item.name)
        elif isinstance(item, ast.FunctionDef):
            if any("property" in ast.unparse(d) or "setter" in ast.unparse(d)
                   for d in item.decorator_list):  # fmt: skip
                found.attributes.add(item.name)
            else:
                taken = [argument.arg for argument in item.args.args[1:]]
                found.methods.setdefault(item.name, []).append(taken)
    return found


def stubbed(name: str) -> Stub:
    """With what its bases have."""
    classes = stubs()[0]
    own = classes[name]
    merged = Stub([], set(own.attributes), dict(own.methods))
    for base in own.bases:
        if base in classes:
            other = stubbed(base)
            merged.attributes |= other.attributes
            merged.methods = {**other.methods, **merged.methods}
    return merged


def surface(kind: type) -> dict[str, list[str] | None]:
    """What a class of a double shows: a method's parameters, and None for anything else."""
    found: dict[str, list[str] | None] = {}
    for name in dir(kind):
        if name.startswith("_"):
            continue
        member = inspect.getattr_static(kind, name)
        found[name] = None
        if inspect.isfunction(member):
            found[name] = list(inspect.signature(member).parameters)[1:]
    return found


def own_classes(generation: runtime.Generation) -> dict[str, type]:
    """Of a double's module, those that are TensorRT's classes and no enumerations."""
    found = vars(runtime.Double(generation).module)
    return {
        name: kind
        for name, kind in found.items()
        if isinstance(kind, type) and not issubclass(kind, Enum) and not name.startswith("PluginF")
    }


RECORDED: dict[str, type] = {
    "ITensor": tensorrt_double.Tensor,
    "IShuffleLayer": tensorrt_double.Shuffle,
    "IPluginCreatorV3One": tensorrt_double.CreatorV3,
    "IPluginCreator": tensorrt_double.CreatorV2,
}
# What the recorder adds for its own tests.
PRIVATE = {
    "kind",
    "inputs",
    "outputs",
    "run",
    "fields",
    "arguments",
    "version",
    "refuses",
    "ranged",
}


def test_the_double_of_10_has_the_stubs_surface() -> None:
    classes, _, names = stubs()
    module = runtime.Double("10").module
    assert {name for name in vars(module) if not name.startswith("_")} <= (
        names | {"nptype", "volume"}
    )
    found = {**own_classes("10"), **RECORDED}
    assert len(found) > 15
    for name, kind in found.items():
        stub = stubbed(name)
        shown = surface(kind)
        if name in RECORDED:
            shown = {member: taken for member, taken in shown.items() if member not in PRIVATE}
        for member, taken in shown.items():
            if taken is None:
                assert member in stub.attributes, f"{name}.{member}"
            else:
                assert taken in stub.methods.get(member, []), f"{name}.{member}{taken}"
    for name in ("Builder", "Runtime", "OnnxParser", "Logger"):
        taken = list(inspect.signature(found[name]).parameters)
        assert taken in classes[name].methods["__init__"], name
    fields = list(inspect.signature(module.PluginField).parameters)
    assert fields in classes["PluginField"].methods["__init__"]


def test_the_enumerations_of_10_have_the_stubs_numbers() -> None:
    module = runtime.Double("10").module
    numbers = stubs()[1]
    seen = 0
    for name, kind in vars(module).items():
        members = getattr(kind, "__members__", None)
        if name == "PluginFieldType":
            # Members that hold NumPy's types, which the real ones stand for.
            assert set(members) <= set(numbers[name])
        elif members:
            seen += 1
            for member, number in members.items():
                assert numbers[name][member] == int(number), f"{name}.{member}"
    assert seen >= 10
    assert {name: int(x) for name, x in runtime.Severity.__members__.items()} == numbers["Severity"]


def real_parameters(method: Any) -> list[list[str]]:
    """Of a pybind11 method's overloads, from its documentation, without self."""
    lines = re.findall(rf"(?:^|\d\. ){method.__name__}\((.*)\) ->", method.__doc__ or "", re.M)
    return [re.findall(r"(\w+): (?!\d)", line)[1:] for line in lines]


@WITH_RTX
def test_the_double_of_rtx_has_the_real_surface() -> None:
    real = real_rtx()
    module = runtime.Double("rtx").module
    for name in vars(module):
        assert hasattr(real, name), name
    for name, kind in own_classes("rtx").items():
        for member, taken in surface(kind).items():
            if name in RECORDED and member in PRIVATE:
                continue
            assert hasattr(getattr(real, name), member), f"{name}.{member}"
            if taken is not None:
                theirs = real_parameters(getattr(getattr(real, name), member))
                assert taken in theirs, f"{name}.{member}: {taken}, {theirs}"
    for name, kind in vars(module).items():
        if getattr(kind, "__members__", None) and name != "PluginFieldType":
            theirs = getattr(real, name).__members__
            for member, number in kind.__members__.items():
                assert int(theirs[member]) == int(number), f"{name}.{member}"


def answers(trt: Any) -> dict[str, Any]:
    """What parser, profiles and builder say to calls that are right and to ones that are not."""

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors = 0

        def log(self, severity: Any, msg: str) -> None:
            # The real ones name another error, too, where there is no driver.
            self.errors += severity <= trt.ILogger.ERROR

    log = Log()
    builder = trt.Builder(log)
    config = builder.create_builder_config()
    found: dict[str, Any] = {}

    def ask(name: str, call: Callable[[], Any]) -> None:
        before = log.errors
        try:
            result = call()
        except Exception as error:
            result = type(error).__name__
        found[name] = (result, log.errors > before)

    def profile_of(shapes: dict[str, Any]) -> Any:
        profile = builder.create_optimization_profile()
        for name, (low, best, high) in shapes.items():
            profile.set_shape(name, low, best, high)
        return profile

    bad = {"a": ((2, 2), (1, 1), (4, 4))}
    ask("negative", lambda: profile_of({"a": ((-1, 1), (1, 1), (1, 1))}))
    ask("unordered", lambda: bool(profile_of(bad)))
    ask("ranks", lambda: bool(profile_of({"a": ((1,), (1, 1), (1, 1))})))
    ask("add unordered", lambda: config.add_optimization_profile(profile_of(bad)))
    ask("shapes", lambda: profile_of({"a": RANGE}).get_shape("a") == list(RANGE))
    ask("no shapes", lambda: profile_of({"a": RANGE}).get_shape("b"))
    ask("flags", lambda: config.flags)
    ask("level", lambda: config.builder_optimization_level)
    ask("verbosity", lambda: config.profiling_verbosity.name)
    ask("attribute", lambda: setattr(config, "nothing", 1))
    ask("verbosity of integers", lambda: setattr(config, "profiling_verbosity", 2))
    ask("flag of integers", lambda: config.set_flag(2))
    ask("shift by a member", lambda: 1 << trt.BuilderFlag.TF32)
    ask("types are numbers", lambda: trt.float16 == 1)
    ask("dims", lambda: (trt.Dims([1, 2]) == (1, 2), isinstance(trt.Dims([1]), tuple)))
    ask("nptype", lambda: trt.nptype(trt.float16).__name__)
    ask("no nptype", lambda: trt.nptype(trt.fp8))
    ask("no logger", lambda: trt.Builder(None))
    ask("library", lambda: trt.get_plugin_registry().load_library("/nonexistent.so"))
    ask("creator", lambda: trt.get_plugin_registry().get_creator("Nothing", "1", ""))
    ask("init", lambda: trt.init_libnvinfer_plugins(log, ""))

    def parse(name: str, blob: bytes) -> Any:
        network = builder.create_network(1)
        parser = trt.OnnxParser(network, log)
        ask(name, lambda: parser.parse(blob))
        ask(f"{name}: errors", lambda: parser.num_errors)
        if parser.num_errors:
            ask(f"{name}: code", lambda: parser.get_error(0).code().name)
            ask(f"{name}: node", lambda: parser.get_error(0).node())
            ask(f"{name}: operator", lambda: parser.get_error(0).node_operator())
            ask(f"{name}: beyond", lambda: parser.get_error(7))
            ask(f"{name}: clear", lambda: (parser.clear_errors(), parser.num_errors)[1])
        return network

    parse("junk", b"junk")
    parse("unknown operator", small_model(op="NoSuch").SerializeToString())
    network = parse("model", small_model().SerializeToString())
    for name in ("num_inputs", "num_outputs", "num_layers"):
        ask(name, lambda name=name: getattr(network, name))
    ask("input", lambda: (network.get_input(0).name, tuple(network.get_input(0).shape)))
    ask("type", lambda: network.get_input(0).dtype.name)
    ask("strong", lambda: network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    missing = trt.OnnxParser(builder.create_network(1), log)
    ask("no file", lambda: missing.parse_from_file("/nonexistent"))
    ask("path", lambda: missing.parse_from_file(Path("/nonexistent")))

    def build(name: str, shapes: dict[str, Any] | None, network: Any = network) -> None:
        config = builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM89, 0)
        if shapes is not None:
            config.add_optimization_profile(profile_of(shapes))
        ask(name, lambda: builder.build_serialized_network(network, config) is not None)

    build("no output", {"a": RANGE}, builder.create_network(1))
    build("no profile", None)
    build("another rank", {"a": ((1,), (1,), (1,)), "b": RANGE})
    build("complete", {"a": RANGE, "b": RANGE})
    ask("wrong type", lambda: builder.build_serialized_network(network, "config"))
    cache = config.create_timing_cache(b"")
    ask("cache", lambda: config.set_timing_cache(cache, False))
    return found


@WITH_RTX
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_double_of_rtx_answers_as_the_real_one() -> None:
    ours, theirs = answers(runtime.Double("rtx").module), answers(real_rtx())
    assert ours == theirs


@WITH_RTX
def test_only_the_real_one_s_plans_are_the_real_one_s() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bench = Bench(runtime.Double("rtx"))
        plan = bytes(bench.plan())
        real = real_rtx()
        logger = real.Logger(real.Logger.INTERNAL_ERROR)
        assert real.Runtime(logger).deserialize_cuda_engine(plan) is None
