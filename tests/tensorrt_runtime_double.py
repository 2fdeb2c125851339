"""A stand-in for TensorRT's Python module: parser, builder, runtime; over `cuda_double`.

It comes in the generations that this project serves:

    8.6    bindings and named tensors; weakly typed networks with an explicit batch; V2 plugins
    ixrt   the calls of TensorRT 8 that ixRT's published samples make, bindings alone
    10     named tensors alone; weakly or strongly typed; V3 plugins, and V2 ones
    11     strongly typed alone: no precision flags, dynamic ranges, calibrators, EXPLICIT_BATCH
    rtx    TensorRT-RTX, imported as `tensorrt_rtx`: as 11, for GPUs that need not be there, and
           without plugin layers

What a generation does not have, or has lost, is not there, so that a call of it raises
AttributeError. A plan holds enough to compute: an ONNX graph is run by ONNX Runtime on the CPU,
all its floats single, a network of plugins by `tensorrt_double`. It is real data: another process
can load it. Work is put on a stream of the CUDA double and happens when that stream runs.

What the real library refuses, this refuses in the same manner (None, False or an exception, and
a line in the log; the words are our own). What it leaves undefined raises `Misuse`. Objects keep
what they depend on alive, as the bindings' do; device memory, streams and the contexts that
captured graphs use, they do not.

The surface of 10 is checked against published type stubs, that of rtx against the real module,
and rtx's answers from parser, profiles and builder, which need no GPU, have been compared with
the real ones'. 8.6, ixRT and 11, and what any of them does on a GPU, rest on documentation, on
the bindings' published sources and on the vendor's samples alone.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import hashlib
import json
import operator
import os
import pickle
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum, IntEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import tensorrt_double as double
from cuda_double import Cuda, Hardware, Layout, Misuse, _module
from onnx import TensorProto, numpy_helper

Generation = Literal["8.6", "ixrt", "10", "11", "rtx"]
GENERATIONS: tuple[Generation, ...] = ("8.6", "ixrt", "10", "11", "rtx")
Shape = tuple[int, ...]

VERSIONS = {
    "8.6": "8.6.1",
    "ixrt": "1.0.0",
    "10": "10.13.0.35",
    "11": "11.1.0.106",
    "rtx": "1.7.1.116",
}
LAYOUTS: dict[str, Layout] = {"8.6": "11.8", "ixrt": "11.8", "10": "12", "11": "13", "rtx": "13"}
_HARDWARE = {
    "ixrt": Hardware("Iluvatar MR-V100", (7, 1), 16, 64, 8 << 20, 32 << 30),
    "rtx": Hardware("NVIDIA RTX 6000 Ada Generation", (8, 9), 142, 32, 96 << 20, 48 << 30),
}
# The newest opset that the release's parser is documented to know; 11's says no limit.
_OPSETS = {"8.6": 17, "ixrt": 17, "10": 20}
_MAGIC = b"TRTDOUBLE"
_CACHE_MAGIC = b"TRTDOUBLE-TIMING"
_LIBRARY_MAGIC = b"PLUGIN DOUBLE\n"
# What a context takes of the device's memory, as a share of its plan's size.
_ACTIVATIONS = 2
_ALIGNMENT = 256
_VARIABLE, _OPTIONS = "TENSORRT_DOUBLE", "TENSORRT_DOUBLE_OPTIONS"


@dataclass
class Faults:
    """What goes wrong by itself. Memory runs out in the steps that are True."""

    build: bool = False
    deserialize: bool = False
    context: bool = False
    # What the parser says of a model that is in order.
    parse: str = ""
    # Plugins that the library lacks, or that refuse their fields: "FC", "QKVToContext", …
    missing_plugin: str = ""
    refused_plugin: str = ""
    # The kind of layer that no network takes any more: "FC 1", "Shuffle", …
    full_layer: str = ""


class Dims:
    """A shape: like a tuple, and no tuple."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, shape: Sequence[int] = ()) -> None:
        self._shape = tuple(map(operator.index, shape))

    def __getitem__(self, index: Any) -> Any:
        return self._shape[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._shape)

    def __len__(self) -> int:
        return len(self._shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dims | Sequence) and self._shape == tuple(iter(other))

    def __repr__(self) -> str:
        return repr(self._shape)


class _Enum(Enum):
    """As pybind11 makes them: members have numbers and are none."""

    def __int__(self) -> int:
        return int(self.value)


class Severity(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


ERROR, WARNING, INFO, VERBOSE = Severity.ERROR, Severity.WARNING, Severity.INFO, Severity.VERBOSE


def _enum(name: str, members: str) -> Any:
    """From members' names; one with a number, "NAME=7", is behind its colleagues' count."""
    numbers: dict[str, int] = {}
    for member in members.split():
        word, _, number = member.partition("=")
        numbers[word] = int(number or len(numbers))
    return _Enum(name, numbers)  # type: ignore[call-arg]


TensorIOMode = _enum("TensorIOMode", "NONE INPUT OUTPUT")
TensorLocation = _enum("TensorLocation", "DEVICE HOST")
ProfilingVerbosity = _enum("ProfilingVerbosity", "LAYER_NAMES_ONLY NONE DETAILED")
LayerInformationFormat = _enum("LayerInformationFormat", "ONELINE JSON")
ErrorCode = _enum(
    "ErrorCode",
    "SUCCESS INTERNAL_ERROR MEM_ALLOC_FAILED MODEL_DESERIALIZE_FAILED INVALID_VALUE "
    "INVALID_GRAPH INVALID_NODE UNSUPPORTED_GRAPH UNSUPPORTED_NODE",
)
ExecutionContextAllocationStrategy = _enum(
    "ExecutionContextAllocationStrategy", "STATIC ON_PROFILE_CHANGE USER_MANAGED"
)
ComputeCapability = _enum("ComputeCapability", "SM75=75 SM80=80 SM86=86 SM89=89 SM120=120")
_PRECISIONS = {"FP16", "INT8", "BF16", "FP8", "INT4", "FP4"}
# What modules show beside classes. No enumeration is complete: others' members are not used here.
_SHOWN = {
    "TensorIOMode": TensorIOMode,
    "TensorLocation": TensorLocation,
    "ProfilingVerbosity": ProfilingVerbosity,
    "LayerInformationFormat": LayerInformationFormat,
}
_POOLS = "WORKSPACE DLA_MANAGED_SRAM DLA_LOCAL_DRAM DLA_GLOBAL_DRAM TACTIC_DRAM"
_ENUMS: dict[str, dict[str, Any]] = {
    "ixrt": {
        "BuilderFlag": _enum("BuilderFlag", "FP16 INT8"),
        "NetworkDefinitionCreationFlag": _enum("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH"),
    },
    "8.6": {
        **_SHOWN,
        "BuilderFlag": _enum(
            "BuilderFlag",
            "FP16 INT8 DEBUG GPU_FALLBACK STRICT_TYPES REFIT DISABLE_TIMING_CACHE TF32 "
            "SPARSE_WEIGHTS SAFETY_SCOPE OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS "
            "VERSION_COMPATIBLE=15 FP8=17",
        ),
        "NetworkDefinitionCreationFlag": _enum(
            "NetworkDefinitionCreationFlag", "EXPLICIT_BATCH EXPLICIT_PRECISION"
        ),
        "HardwareCompatibilityLevel": _enum("HardwareCompatibilityLevel", "NONE AMPERE_PLUS"),
        "MemoryPoolType": _enum("MemoryPoolType", _POOLS),
        "PreviewFeature": _enum("PreviewFeature", "PROFILE_SHARING_0806=2"),
    },
    "10": {
        **_SHOWN,
        "BuilderFlag": _enum(
            "BuilderFlag",
            "FP16 INT8 DEBUG GPU_FALLBACK REFIT DISABLE_TIMING_CACHE TF32 SPARSE_WEIGHTS "
            "SAFETY_SCOPE OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS "
            "VERSION_COMPATIBLE=13 FP8=15 BF16=17 STRIP_PLAN=19 INT4=22 FP4=26",
        ),
        "NetworkDefinitionCreationFlag": _enum(
            "NetworkDefinitionCreationFlag", "EXPLICIT_BATCH STRONGLY_TYPED"
        ),
        "HardwareCompatibilityLevel": _enum(
            "HardwareCompatibilityLevel", "NONE AMPERE_PLUS SAME_COMPUTE_CAPABILITY"
        ),
        "MemoryPoolType": _enum("MemoryPoolType", f"{_POOLS} TACTIC_SHARED_MEMORY"),
        "ExecutionContextAllocationStrategy": ExecutionContextAllocationStrategy,
    },
}
_ENUMS["11"] = {
    **_ENUMS["10"],
    "BuilderFlag": _enum(
        "BuilderFlag",
        "DEBUG=2 GPU_FALLBACK=3 REFIT=4 DISABLE_TIMING_CACHE=5 TF32=6 SPARSE_WEIGHTS=7 "
        "SAFETY_SCOPE=8 VERSION_COMPATIBLE=12 STRIP_PLAN=18",
    ),
    "NetworkDefinitionCreationFlag": _enum("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
}
_ENUMS["rtx"] = {**_ENUMS["11"], "ComputeCapability": ComputeCapability}

_TYPES_8 = "FLOAT HALF INT8 INT32 BOOL UINT8 FP8"
_TYPES_10 = f"{_TYPES_8} BF16 INT64 INT4 FP4 E8M0"
# Types that a module calls otherwise than by their own names in small letters.
_ALIASES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}
_NUMPY: dict[double.DataType, Any] = {
    double.FLOAT: np.float32,
    double.HALF: np.float16,
    double.INT8: np.int8,
    double.INT32: np.int32,
    double.DataType.INT64: np.int64,
    double.DataType.BOOL: np.bool_,
    double.DataType.UINT8: np.uint8,
}
_OF_ONNX = {
    TensorProto.FLOAT: double.FLOAT,
    TensorProto.FLOAT16: double.HALF,
    TensorProto.INT8: double.INT8,
    TensorProto.INT32: double.INT32,
    TensorProto.INT64: double.DataType.INT64,
    TensorProto.BOOL: double.DataType.BOOL,
    TensorProto.UINT8: double.DataType.UINT8,
}


class _Members:
    """A generation's share of an enumeration."""

    def __init__(self, members: Mapping[str, Enum]) -> None:
        self.__members__ = dict(members)
        vars(self).update(members)


@dataclass
class _Io:
    """An input or output of a plan; an axis is an extent, or the name that it shares."""

    name: str
    dtype: double.DataType
    axes: tuple[int | str, ...]

    @property
    def shape(self) -> Shape:
        return tuple(-1 if isinstance(axis, str) else axis for axis in self.axes)

    def extents(self, known: Mapping[str, int]) -> Shape:
        return tuple(known.get(a, -1) if isinstance(a, str) else a for a in self.axes)


def _bytes(tensor: _Io, shape: Shape) -> int:
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(_NUMPY[tensor.dtype]).itemsize


_Profile = dict[str, tuple[Shape, Shape, Shape]]


@dataclass
class _Plan:
    generation: str
    version: str
    device: str
    capabilities: list[tuple[int, int]]
    # A HardwareCompatibilityLevel's name.
    level: str
    name: str
    inputs: list[_Io]
    outputs: list[_Io]
    profiles: list[_Profile]
    shared_profiles: bool
    verbosity: str
    layers: list[dict[str, Any]]
    # What its layers need of the plugin library: kinds and versions.
    plugins: list[tuple[str, str]]
    model: bytes | None = None
    network: double.Frozen | None = None

    @property
    def tensors(self) -> list[_Io]:
        return [*self.inputs, *self.outputs]

    def compute(self, inputs: Mapping[str, double.Numbers]) -> dict[str, double.Numbers]:
        if self.network is not None:
            return self.network.evaluate(inputs)
        assert self.model is not None
        session, types = _session(self.model)
        feeds = {name: np.asarray(array, types[name]) for name, array in inputs.items()}
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, feeds), strict=True))

    def pack(self) -> bytes:
        body = pickle.dumps(self)
        return _MAGIC + hashlib.sha256(body).digest() + body


def _unpack(blob: bytes) -> _Plan | str:
    """The plan, or what is wrong with it."""
    if not blob:
        return "there is nothing to deserialize"
    if not blob.startswith(_MAGIC):
        return "this is no plan of this library"
    digest, body = blob[len(_MAGIC) :][:32], blob[len(_MAGIC) + 32 :]
    if hashlib.sha256(body).digest() != digest:
        return "the plan is damaged or cut off"
    plan = pickle.loads(body)
    assert isinstance(plan, _Plan)
    return plan


@functools.lru_cache(maxsize=4)
def _session(model: bytes) -> tuple[Any, dict[str, Any]]:
    """ONNX Runtime's session, and what it takes by name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    # Further optimizations replace explicit quantization by CPU kernels of another rounding.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    single = _single_precision(onnx.load_model_from_string(model))
    session = onnxruntime.InferenceSession(
        single.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    types = {
        value.name: onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        for value in single.graph.input
    }
    return session, types


def _single_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with single floats for halves, for which a CPU has few kernels."""

    def tensor(value: onnx.TensorProto) -> None:
        if value.data_type == TensorProto.FLOAT16:
            array = numpy_helper.to_array(value).astype(np.float32)
            value.CopyFrom(numpy_helper.from_array(array, value.name))

    graph = model.graph
    for initializer in graph.initializer:
        tensor(initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
            if attribute.type == onnx.AttributeProto.TENSOR:
                tensor(attribute.t)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    del graph.value_info[:]
    return model


class _Object:
    """What a module's classes have in common; `_trt` is the double that they belong to."""

    _trt: ClassVar[Double]

    def __setattr__(self, name: str, value: Any) -> None:
        """The bindings' objects take no attributes but their own."""
        if not name.startswith("_"):
            default = getattr(type(self), name)
            if isinstance(default, Enum):
                _take(value, type(default))
        super().__setattr__(name, value)


class ILogger:
    """What a program derives its logger from, which gets every message."""

    Severity = Severity
    INTERNAL_ERROR = Severity.INTERNAL_ERROR
    ERROR = Severity.ERROR
    WARNING = Severity.WARNING
    INFO = Severity.INFO
    VERBOSE = Severity.VERBOSE

    def __init__(self) -> None:
        self._made = True

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError("a pure virtual function of ILogger is called")


class Logger(ILogger):
    def __init__(self, min_severity: Severity = Severity.WARNING) -> None:
        super().__init__()
        self.min_severity = Severity(min_severity)

    def log(self, severity: Any, msg: str) -> None:
        if severity <= self.min_severity:
            stream = sys.stderr if severity <= Severity.ERROR else sys.stdout
            print(f"[TRT] [{severity.name[0]}] {msg}", file=stream)


class IHostMemory:
    """A buffer and nothing else: it has no length, and nobody can index it."""

    __len__ = __iter__ = __getitem__ = None

    @property
    def dtype(self) -> double.DataType:
        return double.INT8

    @property
    def nbytes(self) -> int:
        return memoryview(self).nbytes  # type: ignore[arg-type]


def _host_memory(content: bytes) -> Any:
    """Before Python 3.12 only types written in C can be buffers, such as an array of ctypes."""
    kind: Any = type("IHostMemory", (IHostMemory, ctypes.c_ubyte * len(content)), {})
    return kind.from_buffer_copy(content)


class _OptimizationProfile(_Object):
    """Checked as far as it can be without a network when it is added to a configuration."""

    extra_memory_target = 1.0

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._shapes: _Profile = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        shapes = [tuple(map(operator.index, shape)) for shape in (min, opt, max)]
        for word, shape in zip(("min", "opt", "max"), shapes, strict=True):
            if any(extent < 0 for extent in shape):
                self._trt.log(self._logger, ERROR, f"{input}: {shape} has a negative extent")
                raise RuntimeError(f"the {word} shape of {input} does not fit the others")
        self._shapes[input] = (shapes[0], shapes[1], shapes[2])

    def __bool__(self) -> bool:
        for name, shapes in self._shapes.items():
            ordered = len({len(shape) for shape in shapes}) == 1 and all(
                low <= best <= high for low, best, high in zip(*shapes, strict=True)
            )
            if not ordered:
                self._trt.log(self._logger, ERROR, f"{name}: not min ≤ opt ≤ max")
                return False
        return True


class _OptimizationProfileOfTensorRT(_OptimizationProfile):
    def get_shape(self, input: str) -> list[Dims]:
        if input not in self._shapes:
            self._trt.log(self._logger, ERROR, f"the profile has no shapes of {input}")
            return []
        return [Dims(shape) for shape in self._shapes[input]]


class _TimingCache(_Object):
    def __init__(self, hardware: Hardware, entries: set[str]) -> None:
        self._hardware, self._entries = hardware, entries

    def serialize(self) -> Any:
        self._trt.warn_of_timing_cache()
        content = (self._trt.version, self._hardware, sorted(self._entries))
        return _host_memory(_CACHE_MAGIC + pickle.dumps(content))

    def combine(self, input_cache: _TimingCache, ignore_mismatch: bool) -> bool:
        if input_cache._hardware != self._hardware and not ignore_mismatch:
            return False
        self._entries |= input_cache._entries
        return True

    def reset(self) -> bool:
        self._entries.clear()
        return True


class _Config(_Object):
    """What all generations have."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._flags = 0
        self._profiles: list[_OptimizationProfile] = []
        self._cache: _TimingCache | None = None
        self._features: set[str] = set()
        self._pools: dict[str, int] = {}
        self._capabilities: list[Any] = []

    def set_flag(self, flag: Any) -> None:
        self._flags |= 1 << self._bit(flag)

    def add_optimization_profile(self, profile: _OptimizationProfile) -> int:
        _take(profile, _OptimizationProfile)
        if not profile:
            self._trt.log(self._logger, ERROR, "the profile is not valid")
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def _bit(self, flag: Any) -> int:
        _take(flag, self._trt.enums["BuilderFlag"])
        return int(flag)

    def _has(self, name: str) -> bool:
        member = self._trt.enums["BuilderFlag"].__members__.get(name)
        return member is not None and bool(self._flags >> int(member) & 1)


class _ConfigOfTensorRT(_Config):
    builder_optimization_level = 3
    profiling_verbosity = ProfilingVerbosity["LAYER_NAMES_ONLY"]
    hardware_compatibility_level: Any = None
    avg_timing_iterations = 1
    max_aux_streams = -1
    profile_stream = 0

    def __init__(self, logger: Any) -> None:
        super().__init__(logger)
        self._flags = 1 << int(self._trt.enums["BuilderFlag"]["TF32"])
        self.hardware_compatibility_level = self._trt.enums["HardwareCompatibilityLevel"]["NONE"]

    @property
    def flags(self) -> int:
        return self._flags

    @flags.setter
    def flags(self, flags: int) -> None:
        self._flags = operator.index(flags)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    def clear_flag(self, flag: Any) -> None:
        self._flags &= ~(1 << self._bit(flag))

    def get_flag(self, flag: Any) -> bool:
        return bool(self._flags >> self._bit(flag) & 1)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        _take(pool, self._trt.enums["MemoryPoolType"])
        if operator.index(pool_size) < 0:
            raise TypeError("a pool's size is not negative")
        self._pools[pool.name] = pool_size

    def get_memory_pool_limit(self, pool: Any) -> int:
        _take(pool, self._trt.enums["MemoryPoolType"])
        return self._pools.get(pool.name, self._trt.cuda.hardware.memory)

    def create_timing_cache(self, serialized_timing_cache: Any) -> Any:
        self._trt.warn_of_timing_cache()
        blob = _buffer(serialized_timing_cache)
        if not blob:
            return self._trt.make("ITimingCache", self._trt.cuda.hardware, set())
        if not blob.startswith(_CACHE_MAGIC):
            self._trt.log(self._logger, ERROR, "this is no timing cache of this library")
            return None
        version, hardware, entries = pickle.loads(blob[len(_CACHE_MAGIC) :])
        if version != self._trt.version:
            self._trt.log(self._logger, ERROR, f"the timing cache is of version {version}")
            return None
        return self._trt.make("ITimingCache", hardware, set(entries))

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        self._trt.warn_of_timing_cache()
        _take(cache, _TimingCache)
        if cache._hardware != self._trt.cuda.hardware and not ignore_mismatch:
            self._trt.log(self._logger, ERROR, "the timing cache is another device's")
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._cache


class _Calibrated:
    """Until 10, which deprecates it."""

    int8_calibrator: Any = None


class _Config86(_ConfigOfTensorRT, _Calibrated):
    def set_preview_feature(self, feature: Any, enable: bool) -> None:
        _take(feature, self._trt.enums["PreviewFeature"])
        (self._features.add if enable else self._features.discard)(feature.name)

    def get_preview_feature(self, feature: Any) -> bool:
        return feature.name in self._features


class _Config10(_ConfigOfTensorRT, _Calibrated):
    pass


class _ConfigRtx(_ConfigOfTensorRT):
    """Builds for the GPUs that it is told of, or for the one that is there."""

    @property
    def num_compute_capabilities(self) -> int:
        return len(self._capabilities)

    @num_compute_capabilities.setter
    def num_compute_capabilities(self, count: int) -> None:
        self._capabilities = [None] * count

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
        _take(compute_capability, ComputeCapability)
        if not 0 <= index < len(self._capabilities):
            self._trt.log(self._logger, ERROR, f"there is no compute capability {index}")
            return False
        self._capabilities[index] = compute_capability
        return True

    def get_compute_capability(self, index: int) -> Any:
        return self._capabilities[index]


def _forward(recorder: type[double.Network], name: str) -> Any:
    """The method of the double that records networks, for a network that holds one."""
    target = getattr(recorder, name)

    @functools.wraps(target)
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        if self._model is not None:
            raise Misuse("this double can add nothing to a parsed graph")
        return target(self._body, *arguments, **options)

    return call


class _Network(_Object):
    """What all generations have."""

    _recorder: ClassVar[type[double.Network]] = double.Network
    name = "Unnamed Network 1"

    def __init__(self, builder: Any, flags: int) -> None:
        self._builder, self._flags = builder, flags
        self._body = self._recorder(self._trt.faults.full_layer)
        self._model: bytes | None = None
        self._layers: list[dict[str, Any]] = []
        # Of the tensors of a parsed graph, by name; and what the graph needs to be built.
        self._axes: dict[str, tuple[int | str, ...]] = {}
        self._needs: dict[str, str] = {}
        # A network keeps its parsers alive, which own the weights.
        self._parsers: list[Any] = []

    add_input = _forward(double.Network, "add_input")
    mark_output = _forward(double.Network, "mark_output")
    add_constant = _forward(double.Network, "add_constant")
    add_gather = _forward(double.Network, "add_gather")
    add_shuffle = _forward(double.Network, "add_shuffle")
    add_identity = _forward(double.Network, "add_identity")

    @property
    def num_inputs(self) -> int:
        return len(self._body.inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._body.outputs)

    @property
    def num_layers(self) -> int:
        return len(self._layers or self._body.layers)

    def get_input(self, index: int) -> Any:
        return self._body.inputs[index] if index < self.num_inputs else None

    def get_output(self, index: int) -> Any:
        return self._body.outputs[index] if index < self.num_outputs else None

    @property
    def _strong(self) -> bool:
        flags = self._trt.enums["NetworkDefinitionCreationFlag"].__members__
        bit = flags.get("STRONGLY_TYPED")
        always = "EXPLICIT_BATCH" not in flags
        return always or (bit is not None and bool(self._flags >> int(bit) & 1))

    @property
    def _explicit(self) -> bool:
        return self._trt.generation not in ("8.6", "ixrt") or bool(self._flags & 1)


class _NetworkIxrt(_Network):
    _recorder = double.NetworkOfIxrt
    add_plugin_v2 = _forward(double.NetworkOfIxrt, "add_plugin_v2")


class _Network86(_NetworkIxrt):
    _recorder = double.NetworkV2
    add_cast = _forward(double.NetworkV2, "add_cast")


class _NetworkRtx(_Network):
    """No plugin layers."""

    _recorder = double.NetworkV3
    add_cast = _forward(double.NetworkV3, "add_cast")

    @property
    def flags(self) -> int:
        return self._flags

    def get_flag(self, flag: Any) -> bool:
        return bool(self._flags >> int(flag) & 1)


class _Network10(_NetworkRtx):
    add_plugin_v3 = _forward(double.NetworkV3, "add_plugin_v3")


class _ParserError(_Object):
    def __init__(self, code: str, text: str, node: int, name: str, operator_: str) -> None:
        self._values = (ErrorCode[code], text, node, name, operator_)

    def code(self) -> Any:
        return self._values[0]

    def desc(self) -> str:
        return self._values[1]

    def node(self) -> int:
        return self._values[2]

    def __str__(self) -> str:
        code, text, node, name, kind = self._values
        return f"node {node} ({name}, {kind}): {code.name}: {text}"


class _ParserError10(_ParserError):
    def node_name(self) -> str:
        return self._values[3]

    def node_operator(self) -> str:
        return self._values[4]


class _OnnxParser(_Object):
    def __init__(self, network: Any, logger: Any) -> None:
        _take(network, _Network)
        self._trt.check_logger(logger)
        self._network, self._logger = network, logger
        self._errors: list[Any] = []
        network._parsers.append(self)

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        if index < len(self._errors):
            return self._errors[index]
        self._trt.log(self._logger, ERROR, f"there is no error {index}")
        return None

    def clear_errors(self) -> None:
        self._errors.clear()

    def parse_from_file(self, model: str) -> bool:
        if not isinstance(model, str):
            raise TypeError("parse_from_file takes a path as str")
        if not Path(model).is_file():
            return self._fail("INVALID_VALUE", f"there is no file {model}")
        return self.parse(Path(model).read_bytes(), model)

    def parse(self, model: Any, path: str | None = None) -> bool:
        blob = _buffer(model)
        try:
            graph = onnx.load_model_from_string(blob)
        except Exception:
            return self._fail("MODEL_DESERIALIZE_FAILED", "this is no ONNX model")
        if not self._network._explicit:
            return self._fail("INVALID_GRAPH", "the network has no explicit batch dimension")
        if self._network._body.layers or self._network._model is not None:
            return self._fail("INVALID_GRAPH", "the network is not empty")
        for text in (self._trt.faults.parse, self._opset(graph)):
            if text:
                return self._fail("UNSUPPORTED_NODE", text)
        if not self._nodes(graph):
            return False
        if any(tensor.external_data for tensor in graph.graph.initializer):
            if path is None:
                return self._fail("INVALID_GRAPH", "weights are elsewhere, and no path is given")
            onnx.load_external_data_for_model(graph, str(Path(path).parent))
            blob = graph.SerializeToString()
        try:
            known = onnx.shape_inference.infer_shapes(graph, strict_mode=True)
        except onnx.shape_inference.InferenceError as error:
            return self._fail("INVALID_GRAPH", " ".join(str(error).split()))
        return self._fill(known, blob)

    def _opset(self, model: onnx.ModelProto) -> str:
        newest = _OPSETS.get(self._trt.generation)
        versions = [entry.version for entry in model.opset_import if not entry.domain]
        if newest is not None and any(version > newest for version in versions):
            return f"opset {max(versions)} is newer than {newest}, the newest that is known"
        return ""

    def _nodes(self, model: onnx.ModelProto) -> bool:
        version = max(entry.version for entry in model.opset_import if not entry.domain)
        for i, node in enumerate(model.graph.node):
            if node.domain or not onnx.defs.has(node.op_type, version, ""):
                text = f"there is neither an operator nor a plugin {node.op_type}"
                return self._fail("INVALID_NODE", text, i, node.name, node.op_type)
        return True

    def _fill(self, model: onnx.ModelProto, blob: bytes) -> bool:
        """The network becomes the graph: tensors to look at, and the model to compute."""
        network, graph = self._network, model.graph
        constants = {tensor.name for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in constants]
        for values, tensors in (
            (inputs, network._body.inputs),
            (graph.output, network._body.outputs),
        ):
            for value in values:
                dtype = _OF_ONNX.get(value.type.tensor_type.elem_type)
                if dtype is double.DataType.INT64 and self._trt.generation in ("8.6", "ixrt"):
                    self._trt.log(self._logger, WARNING, f"{value.name}: INT64 becomes INT32")
                    dtype = double.INT32
                if dtype is None:
                    return self._fail("UNSUPPORTED_GRAPH", f"{value.name} has an unknown type")
                axes = _axes(value)
                network._axes[value.name] = axes
                shape = tuple(-1 if isinstance(axis, str) else axis for axis in axes)
                tensors.append(network._body.tensor(value.name, dtype, shape))
        network._model = blob
        network._layers = _layers_of_graph(model)
        halves = any(
            tensor.data_type == TensorProto.FLOAT16 for tensor in graph.initializer
        ) or any(
            attribute.name == "to" and attribute.i == TensorProto.FLOAT16
            for node in graph.node
            for attribute in node.attribute
        )
        if halves:
            network._needs["FP16"] = "has tensors of half precision"
        if any(node.op_type == "QuantizeLinear" for node in graph.node):
            network._needs["INT8"] = "is explicitly quantized"
        return True

    def _fail(
        self, code: str, text: str, node: int = -1, name: str = "", operator_: str = ""
    ) -> bool:
        error = self._trt.make("ParserError", code, text, node, name, operator_)
        self._errors.append(error)
        self._trt.log(self._logger, ERROR, f"parser: {error}")
        return False


def _axes(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"{value.name}.{i}"
        for i, dim in enumerate(value.type.tensor_type.shape.dim)
    )


_WORDS = {
    double.FLOAT: "Float",
    double.HALF: "Half",
    double.INT8: "Int8",
    double.INT32: "Int32",
    double.DataType.INT64: "Int64",
    double.DataType.BOOL: "Bool",
}


def _tensor_information(name: str, shape: Sequence[int], dtype: double.DataType | None) -> Any:
    word = _WORDS.get(dtype, "Unknown") if dtype else "Unknown"
    return {"Name": name, "Dimensions": list(shape), "Format/Datatype": f"Row major linear {word}"}


def _layers_of_graph(model: onnx.ModelProto) -> list[dict[str, Any]]:
    """A layer a node, but that whoever takes a dequantized tensor takes the integers."""
    graph = model.graph
    known: dict[str, Any] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shape = [-1 if isinstance(axis, str) else axis for axis in _axes(value)]
        known[value.name] = (shape, _OF_ONNX.get(value.type.tensor_type.elem_type))
    constants = {
        tensor.name: (list(tensor.dims), _OF_ONNX.get(tensor.data_type))
        for tensor in graph.initializer
    }
    integers = {
        node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"
    }

    def told(names: Sequence[str], group: Mapping[str, Any]) -> list[Any]:
        return [_tensor_information(name, *group[name]) for name in names if name in group]

    layers = []
    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            continue
        taken = [integers.get(name, name) for name in node.input]
        layers.append(
            {
                "Name": node.name or node.output[0],
                "LayerType": "gemm" if node.op_type in ("MatMul", "Gemm") else "kgen",
                "Inputs": told(taken, known),
                "Constants": told(taken, constants),
                "Outputs": told(list(node.output), known),
                "TacticName": "",
                "Metadata": f"[ONNX Layer: {node.name}]",
            }
        )
    return layers


def _layers_of_network(network: double.Network, api: int) -> list[dict[str, Any]]:
    def told(tensors: Sequence[double.Tensor]) -> list[Any]:
        return [_tensor_information(t.name, t.shape, t.dtype) for t in tensors]

    return [
        {
            "Name": layer.name,
            "LayerType": f"PluginV{api}" if layer.fields else layer.kind,
            "Inputs": told(layer.inputs),
            "Outputs": told(layer.outputs),
            "TacticName": layer.kind if layer.fields else "",
            "Metadata": "",
        }
        for layer in network.layers
    ]


class _Builder(_Object):
    def __init__(self, logger: Any) -> None:
        self._trt.check_logger(logger)
        self._logger = logger
        self._trt.logger = logger
        if not self._trt.cuda.devices and self._trt.generation != "rtx":
            self._trt.log(logger, ERROR, "there is no CUDA device")
            raise TypeError("the factory function returned a null pointer")

    def create_network(self, flags: int = 0) -> Any:
        return self._trt.make("INetworkDefinition", self, operator.index(flags))

    def create_builder_config(self) -> Any:
        return self._trt.make("IBuilderConfig", self._logger)

    def create_optimization_profile(self) -> Any:
        return self._trt.make("IOptimizationProfile", self._logger)

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        _take(network, _Network)
        _take(config, _Config)
        wrong = self._refusal(network, config)
        if wrong:
            self._trt.log(self._logger, ERROR, f"build: {wrong}")
            return None
        blob = self._plan(network, config).pack()
        if config._cache is not None and self._trt.generation != "rtx":
            config._cache._entries.add(hashlib.sha256(blob).hexdigest())
        self._trt.log(self._logger, INFO, f"built a plan of {len(blob)} bytes")
        return _host_memory(blob)

    def _refusal(self, network: Any, config: Any) -> str:
        """Why nothing is built."""
        body, needs = network._body, dict(network._needs)
        if self._trt.faults.build:
            return "out of memory: no tactic can be tried"
        if not body.outputs:
            return "the network has no output"
        if not network._explicit:
            return "a network without an explicit batch dimension has no dynamic shapes"
        if any(t.dtype is double.HALF for layer in body.layers for t in layer.outputs):
            needs["FP16"] = "has layers of half precision"
        if any(t.dtype is double.INT8 for layer in body.layers for t in layer.outputs):
            needs["INT8"] = "has layers of INT8"
        if network._strong:
            # Types are the network's own; the module of 11 does not even have these flags.
            given = sorted(name for name in _PRECISIONS if config._has(name))
            if given:
                return f"the network is strongly typed, and {', '.join(given)} asks for others"
        else:
            for flag, why in needs.items():
                if not config._has(flag):
                    return f"the network {why}, and BuilderFlag.{flag} is not set"
            for layer in body.layers:
                for tensor in layer.outputs:
                    # A mask is not quantized, and yet an INT8 tensor.
                    if tensor.dtype is double.INT8 and not hasattr(tensor, "dynamic_range"):
                        return f"an INT8 tensor of {layer.name} has no dynamic range"
            if config._has("INT8") and "INT8" not in needs:
                self._trt.log(self._logger, WARNING, "INT8 without scales: every tensor needs one")
        if None in config._capabilities:
            return "not all compute capabilities are set"
        if not config._capabilities and not self._trt.cuda.devices:
            return "there is no GPU, and no compute capability is set"
        return self._profile_refusal(body.inputs, config._profiles)

    def _profile_refusal(self, inputs: list[double.Tensor], profiles: list[Any]) -> str:
        dynamic = [tensor for tensor in inputs if -1 in tensor.shape]
        if dynamic and not profiles:
            return "the network has dynamic inputs and no optimization profile"
        for i, profile in enumerate(profiles):
            if not profile:
                return f"profile {i} is not valid"
            for tensor in dynamic:
                if tensor.name not in profile._shapes:
                    return f"profile {i} has no shapes of {tensor.name}"
                for shape in profile._shapes[tensor.name]:
                    if not _matches(shape, tensor.shape):
                        return f"profile {i}: {shape} is no shape of {tensor.name}"
        return ""

    def _plan(self, network: Any, config: Any) -> _Plan:
        body, hardware = network._body, self._trt.cuda.hardware
        symbolic: dict[str, tuple[int | str, ...]] = network._axes

        def io(tensor: double.Tensor) -> _Io:
            if tensor.name in symbolic:
                return _Io(tensor.name, tensor.dtype, symbolic[tensor.name])
            # The plugins' tensors have the same dynamic axes in the same order: batch, sequence.
            names = iter(("batch", "sequence"))
            axes = tuple(next(names) if extent == -1 else extent for extent in tensor.shape)
            return _Io(tensor.name, tensor.dtype, axes)

        level = getattr(config, "hardware_compatibility_level", None)
        verbosity = getattr(config, "profiling_verbosity", ProfilingVerbosity["NONE"])
        told = [divmod(int(capability), 10) for capability in config._capabilities]
        return _Plan(
            self._trt.generation,
            self._trt.version,
            hardware.name,
            told or [hardware.capability],
            level.name if level else "NONE",
            network.name,
            [io(tensor) for tensor in body.inputs],
            [io(tensor) for tensor in body.outputs],
            [dict(profile._shapes) for profile in config._profiles],
            "PROFILE_SHARING_0806" in config._features
            or self._trt.generation in ("10", "11", "rtx"),
            verbosity.name,
            network._layers or _layers_of_network(body, 2 if self._trt.is_old else 3),
            sorted({tuple(layer.kind.split()) for layer in body.layers if layer.fields}),  # type: ignore[misc]
            network._model,
            double.freeze(body) if network._model is None else None,
        )


class _BuilderOfTensorRT(_Builder):
    max_threads = 1

    @property
    def logger(self) -> Any:
        return self._logger

    def get_plugin_registry(self) -> Any:
        return self._trt.registry


class _BuilderWeak(_BuilderOfTensorRT):
    """Until 10."""

    @property
    def platform_has_fast_fp16(self) -> bool:
        return True

    @property
    def platform_has_fast_int8(self) -> bool:
        return True


class _Runtime(_Object):
    def __init__(self, logger: Any) -> None:
        self._trt.check_logger(logger)
        self._logger = logger
        self._trt.logger = logger
        if not self._trt.cuda.devices:
            self._trt.log(logger, ERROR, "there is no CUDA device")
            raise TypeError("the factory function returned a null pointer")

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        plan = _unpack(_buffer(serialized_engine))
        wrong = plan if isinstance(plan, str) else self._refusal(plan)
        size = memoryview(serialized_engine).nbytes
        if not wrong and (self._trt.faults.deserialize or not self._trt.cuda.reserve(size)):
            wrong = f"out of memory: {size} bytes of weights"
        if wrong:
            self._trt.log(self._logger, ERROR, f"deserialize: {wrong}")
            return None
        return self._trt.make("ICudaEngine", self, plan, size)

    def _refusal(self, plan: _Plan) -> str:
        hardware = self._trt.cuda.hardware
        if (plan.generation, plan.version) != (self._trt.generation, self._trt.version):
            return f"the plan is of version {plan.version}, and this is {self._trt.version}"
        newer = plan.level == "AMPERE_PLUS" and hardware.capability >= (8, 0)
        if hardware.capability not in plan.capabilities and not newer:
            return f"the plan is for GPUs of compute capability {plan.capabilities}"
        if plan.device != hardware.name:
            self._trt.log(self._logger, WARNING, f"the plan was built on {plan.device}")
        for kind, version in plan.plugins:
            if (f"Custom{kind}PluginDynamic_IxRT", version, "") not in self._trt.creators:
                return f"plugin Custom{kind}PluginDynamic_IxRT version {version} is not registered"
        return ""


class _RuntimeOfTensorRT(_Runtime):
    max_threads = 1
    engine_host_code_allowed = False

    @property
    def logger(self) -> Any:
        return self._logger

    def get_plugin_registry(self) -> Any:
        return self._trt.registry


class _Engine(_Object):
    """What all generations have. The device's memory is given back when it goes."""

    def __init__(self, runtime: Any, plan: _Plan, size: int) -> None:
        self._runtime, self._plan, self._size = runtime, plan, size
        self._logger = runtime._logger
        # Of the contexts that live, for those that may not share a profile.
        self._contexts: weakref.WeakSet[Any] = weakref.WeakSet()
        weakref.finalize(self, self._trt.cuda.release, size).atexit = False

    @property
    def num_optimization_profiles(self) -> int:
        return max(1, len(self._plan.profiles))

    def _context(self) -> Any:
        size = self._size * _ACTIVATIONS
        if self._trt.faults.context or not self._trt.cuda.reserve(size):
            self._error(f"out of memory: {size} bytes for a context")
            return None
        context = self._trt.make("IExecutionContext", self, size)
        self._contexts.add(context)
        return context

    def _error(self, text: str) -> None:
        self._trt.log(self._logger, ERROR, text)

    def _io(self, name: str) -> _Io | None:
        if not isinstance(name, str):
            raise TypeError(f"{name!r} is no tensor's name")
        for tensor in self._plan.tensors:
            if tensor.name == name:
                return tensor
        self._error(f"the engine has no input or output {name}")
        return None

    def _range(self, profile: int, name: str) -> tuple[Shape, Shape, Shape] | None:
        """Of an input; of one without dynamic axes, its shape three times."""
        if 0 <= profile < self.num_optimization_profiles:
            if self._plan.profiles and name in self._plan.profiles[profile]:
                return self._plan.profiles[profile][name]
            for tensor in self._plan.inputs:
                if tensor.name == name:
                    return (tensor.shape,) * 3
        self._error(f"{name} has no shapes in profile {profile}")
        return None


class _EngineWithBindings(_Engine):
    """Binding i of profile k is number k · (inputs and outputs) + i."""

    @property
    def num_bindings(self) -> int:
        return len(self._plan.tensors) * self.num_optimization_profiles

    def get_binding_name(self, index: int) -> str:
        profile, tensor = self._binding(index)
        return f"{tensor.name} [profile {profile}]" if profile else tensor.name

    def get_binding_index(self, name: str) -> int:
        names = [self.get_binding_name(i) for i in range(self.num_bindings)]
        return names.index(name) if name in names else -1

    def binding_is_input(self, index: int | str) -> bool:
        return self._binding(index)[1] in self._plan.inputs

    def get_binding_shape(self, index: int | str) -> Dims:
        return Dims(self._binding(index)[1].shape)

    def get_binding_dtype(self, index: int | str) -> double.DataType:
        return self._binding(index)[1].dtype

    def get_profile_shape(self, profile_index: int, binding: int | str) -> list[Dims]:
        """A binding of another profile stands for its counterpart in this one."""
        found = self._range(profile_index, self._binding(binding)[1].name)
        return [Dims(shape) for shape in found or ((), (), ())]

    def _binding(self, binding: int | str) -> tuple[int, _Io]:
        """Its profile and tensor."""
        index = self.get_binding_index(binding) if isinstance(binding, str) else binding
        if not 0 <= index < self.num_bindings:
            raise Misuse(f"the engine has no binding {binding}")
        profile, i = divmod(index, len(self._plan.tensors))
        return profile, self._plan.tensors[i]


class _EngineIxrt(_EngineWithBindings):
    def create_execution_context(self) -> Any:
        return self._context()


class _NamedEngine(_Engine):
    @property
    def name(self) -> str:
        return self._plan.name

    @property
    def num_io_tensors(self) -> int:
        return len(self._plan.tensors)

    @property
    def num_layers(self) -> int:
        return len(self._plan.layers)

    @property
    def profiling_verbosity(self) -> Any:
        return ProfilingVerbosity[self._plan.verbosity]

    @property
    def hardware_compatibility_level(self) -> Any:
        return self._trt.enums["HardwareCompatibilityLevel"][self._plan.level]

    def get_tensor_name(self, index: int) -> str:
        if not 0 <= index < self.num_io_tensors:
            raise Misuse(f"the engine has no tensor {index}")
        return self._plan.tensors[index].name

    def get_tensor_mode(self, name: str) -> Any:
        found = self._io(name)
        return TensorIOMode(0 if found is None else 1 if found in self._plan.inputs else 2)

    def get_tensor_dtype(self, name: str) -> double.DataType:
        found = self._io(name)
        return found.dtype if found else double.FLOAT

    def get_tensor_shape(self, name: str) -> Dims:
        found = self._io(name)
        return Dims(found.shape if found else ())

    def get_tensor_location(self, name: str) -> Any:
        self._io(name)
        return TensorLocation["DEVICE"]

    def is_shape_inference_io(self, name: str) -> bool:
        return False

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        return [Dims(shape) for shape in self._range(profile_index, name) or ((), (), ())]

    def create_engine_inspector(self) -> Any:
        return self._trt.make("EngineInspector", self)

    def serialize(self) -> Any:
        return _host_memory(self._plan.pack())


class _SizedEngine(_NamedEngine):
    """Until 10."""

    @property
    def device_memory_size(self) -> int:
        return self._size * _ACTIVATIONS


class _SizedEngineV2(_NamedEngine):
    """From 10 on."""

    @property
    def device_memory_size_v2(self) -> int:
        return self._size * _ACTIVATIONS

    def create_execution_context(
        self, strategy: Any = ExecutionContextAllocationStrategy["STATIC"]
    ) -> Any:
        _take(strategy, ExecutionContextAllocationStrategy)
        return self._context()


class _Engine86(_EngineIxrt, _SizedEngine):
    pass


class _Engine10(_SizedEngineV2, _SizedEngine):
    pass


class _Engine11(_SizedEngineV2):
    pass


class _EngineInspector(_Object):
    execution_context: Any = None

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def get_engine_information(self, format: Any) -> str:
        _take(format, LayerInformationFormat)
        plan = self._engine._plan
        layers = [self._layer(i) for i in range(len(plan.layers))]
        if plan.verbosity == "NONE":
            self._engine._trt.log(self._engine._logger, WARNING, "the plan tells no layers")
            layers = []
        if format.name == "ONELINE":
            return "\n".join(map(str, layers))
        return json.dumps({"Layers": layers, "Bindings": [tensor.name for tensor in plan.tensors]})

    def get_layer_information(self, layer_index: int, format: Any) -> str:
        _take(format, LayerInformationFormat)
        return json.dumps(self._layer(layer_index))

    def _layer(self, index: int) -> Any:
        plan = self._engine._plan
        layer = plan.layers[index]
        return layer if plan.verbosity == "DETAILED" else layer["Name"]


@dataclass
class _Run:
    """One execution that has been put on a stream."""

    stream: int
    done: bool = False


class _Context(_Object):
    """What all generations have. Shapes belong to the profile that was chosen before them."""

    def __init__(self, engine: Any, size: int) -> None:
        self._engine = engine
        self._logger = engine._logger
        self._shapes: dict[str, Shape] = {}
        self._addresses: dict[str, int] = {}
        self._profile = self._first_profile()
        # Profile and shapes of the last execution that was no capture.
        self._prepared: Any = None
        # Where work of this context, or the copies for its profile, may still be under way.
        self._runs: list[_Run] = []
        weakref.finalize(self, self._trt.cuda.release, size).atexit = False

    def set_optimization_profile_async(self, profile_index: int, stream_handle: Any) -> bool:
        handle = int(stream_handle)
        wrong = ""
        if not 0 <= profile_index < self._engine.num_optimization_profiles:
            wrong = f"there is no profile {profile_index}"
        elif self._taken(profile_index):
            wrong = f"profile {profile_index} is another context's"
        elif self._trt.cuda.is_capturing(handle):
            self._trt.cuda.invalidate_capture(handle)
            wrong = "a profile cannot be chosen in a capture"
        if wrong:
            self._engine._error(wrong)
            raise RuntimeError("the optimization profile could not be set")
        self._profile = profile_index
        self._shapes.clear()
        self._put(handle, lambda: None)
        return True

    def _first_profile(self) -> int:
        if self._trt.generation == "ixrt" and self._engine.num_optimization_profiles > 1:
            return -1
        return -1 if self._taken(0) else 0

    def _taken(self, profile: int) -> bool:
        if self._engine._plan.shared_profiles:
            return False
        return any(c is not self and c._profile == profile for c in self._engine._contexts)

    def _set_shape(self, tensor: _Io | None, shape: Any) -> bool:
        wanted = tuple(map(operator.index, shape))
        if tensor is None:
            return False
        name = tensor.name
        if tensor not in self._engine._plan.inputs:
            self._engine._error(f"{name} is no input")
        elif self._profile < 0:
            self._engine._error(f"{name} has a shape in a profile, and none is chosen")
        elif not _matches(wanted, tensor.shape):
            self._engine._error(f"{wanted} is no shape of {name}, which is {tensor.shape}")
        elif not self._fits(name, wanted):
            self._engine._error(f"{wanted} of {name} is outside profile {self._profile}")
        else:
            self._shapes[name] = wanted
            return True
        return False

    def _fits(self, name: str, shape: Shape) -> bool:
        found = self._engine._range(self._profile, name)
        return found is not None and all(
            low <= extent <= high
            for low, extent, high in zip(found[0], shape, found[2], strict=True)
        )

    def _unspecified(self) -> list[str]:
        inputs = self._engine._plan.inputs
        return [t.name for t in inputs if -1 in t.shape and t.name not in self._shapes]

    def _extents(self) -> dict[str, int] | str:
        """The dynamic axes by name as far as they are known, or how inputs contradict."""
        known: dict[str, int] = {}
        for tensor in self._engine._plan.inputs:
            for axis, extent in zip(tensor.axes, self._shapes.get(tensor.name, ()), strict=False):
                if isinstance(axis, str) and known.setdefault(axis, extent) != extent:
                    return f"{axis} of {tensor.name} is {extent}, and {known[axis]} elsewhere"
        return known

    def _shape(self, tensor: _Io) -> Shape:
        if tensor in self._engine._plan.inputs:
            return self._shapes.get(tensor.name, tensor.shape)
        known = self._extents()
        # Outputs' shapes are inferred when all inputs have theirs.
        return tensor.shape if isinstance(known, str) else tensor.extents(known)

    def _execute(self, addresses: Mapping[str, int], stream_handle: Any) -> bool:
        wrong = self._refusal(addresses)
        handle, cuda = int(stream_handle), self._trt.cuda
        state = (self._profile, dict(self._shapes))
        if not wrong and cuda.is_capturing(handle) and self._prepared != state:
            cuda.invalidate_capture(handle)
            wrong = "the first execution after a change of shapes allocates, and this is a capture"
        if wrong:
            self._engine._error(f"execute: {wrong}")
            return False
        if handle == 0:
            self._trt.log(self._logger, WARNING, "the default stream costs synchronizations")
        run = self._operation(addresses)
        if cuda.is_capturing(handle):
            error = cuda.enqueue(handle, run)
        else:
            self._prepared = state
            error = self._put(handle, run)
        if int(error):
            self._engine._error(f"execute: CUDA says {error.name}")
        return not int(error)

    def _refusal(self, addresses: Mapping[str, int]) -> str:
        if self._profile < 0:
            return "no optimization profile is chosen"
        unspecified = self._unspecified()
        if unspecified:
            return f"{', '.join(unspecified)} has no shape"
        known = self._extents()
        if isinstance(known, str):
            return known
        for tensor in self._engine._plan.tensors:
            address = addresses.get(tensor.name, 0)
            if not address:
                return f"{tensor.name} has no address"
            if address % _ALIGNMENT:
                return f"{tensor.name} is at {address:#x}, which is not aligned"
            # Whether the memory is there is for the caller to see to.
            self._trt.cuda.memory(address, _bytes(tensor, self._shape(tensor)), "device")
        return ""

    def _operation(self, addresses: Mapping[str, int]) -> Callable[[], None]:
        """The execution with the shapes and addresses of now; it does not keep the context."""
        plan, cuda, alive = self._engine._plan, self._trt.cuda, weakref.ref(self)
        places = [(tensor, addresses[tensor.name], self._shape(tensor)) for tensor in plan.tensors]

        def array(tensor: _Io, address: int, shape: Shape) -> npt.NDArray[Any]:
            memory = cuda.memory(address, _bytes(tensor, shape), "device")
            return memory.view(_NUMPY[tensor.dtype]).reshape(shape)

        def run() -> None:
            if alive() is None:
                raise Misuse("the context went before its work was done")
            inputs = {
                tensor.name: array(tensor, address, shape).copy()
                for tensor, address, shape in places[: len(plan.inputs)]
            }
            results = plan.compute(inputs)
            for tensor, address, shape in places[len(plan.inputs) :]:
                assert results[tensor.name].shape == shape, tensor.name
                array(tensor, address, shape)[...] = results[tensor.name]

        return run

    def _put(self, handle: int, operation: Callable[[], None]) -> Any:
        """On a stream; a context's work on two at a time is undefined."""
        self._runs = [run for run in self._runs if not run.done]
        if any(run.stream != handle for run in self._runs):
            raise Misuse("a context is used on a stream, and still has work on another one")
        pending = _Run(handle)
        self._runs.append(pending)

        def run() -> None:
            operation()
            pending.done = True

        return self._trt.cuda.enqueue(handle, run)


class _ContextWithBindings(_Context):
    @property
    def all_binding_shapes_specified(self) -> bool:
        return not self._unspecified()

    def set_binding_shape(self, binding: int, shape: Any) -> bool:
        profile, tensor = self._engine._binding(binding)
        if profile != self._profile >= 0:
            self._engine._error(f"binding {binding} is not of profile {self._profile}")
            return False
        return self._set_shape(tensor, shape)

    def get_binding_shape(self, binding: int) -> Dims:
        return Dims(self._shape(self._engine._binding(binding)[1]))

    def execute_async_v2(
        self, bindings: list[int], stream_handle: Any, input_consumed: Any = None
    ) -> bool:
        """`bindings` has a place for each binding of each profile."""
        if len(bindings) < self._engine.num_bindings:
            raise Misuse(f"{len(bindings)} addresses for {self._engine.num_bindings} bindings")
        tensors = self._engine._plan.tensors
        own = bindings[max(self._profile, 0) * len(tensors) :]
        addresses = {tensor.name: int(own[i]) for i, tensor in enumerate(tensors)}
        return self._execute(addresses, stream_handle)


class _NamedContext(_Context):
    @property
    def engine(self) -> Any:
        return self._engine

    @property
    def active_optimization_profile(self) -> int:
        return self._profile

    def set_input_shape(self, name: str, shape: Any) -> bool:
        return self._set_shape(self._engine._io(name), shape)

    def get_tensor_shape(self, name: str) -> Dims:
        found = self._engine._io(name)
        return Dims(self._shape(found) if found else ())

    def get_tensor_strides(self, name: str) -> Dims:
        """In elements; everything is row major."""
        shape = self.get_tensor_shape(name)
        return Dims([int(np.prod(shape[i + 1 :])) for i in range(len(shape))])

    def set_tensor_address(self, name: str, memory: int) -> bool:
        address = operator.index(memory)
        if address < 0:
            raise TypeError("an address is not negative")
        if self._engine._io(name) is None:
            return False
        self._addresses[name] = address
        return True

    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(name, 0)

    def infer_shapes(self) -> list[str]:
        unspecified = self._unspecified()
        wrong = self._extents()
        if not unspecified and isinstance(wrong, str):
            self._engine._error(wrong)
            raise RuntimeError("the shapes do not go together")
        return unspecified

    def execute_async_v3(self, stream_handle: Any) -> bool:
        return self._execute(self._addresses, stream_handle)


class _Context86(_ContextWithBindings, _NamedContext):
    pass


class _Registry(_Object):
    """The plugins that libraries have registered."""

    def _find(self, type: str, version: str, plugin_namespace: str) -> Any:
        found = self._trt.creators.get((type, version, plugin_namespace))
        if found is None:
            text = f"plugin {type} version {version} is not registered"
            self._trt.log(self._trt.logger, ERROR, text)
        return found


class _RegistryV2(_Registry):
    """8.6, ixRT and, for V2 plugins alone, 10."""

    def get_plugin_creator(self, type: str, version: str, plugin_namespace: str = "") -> Any:
        found = self._find(type, version, plugin_namespace)
        return None if isinstance(found, double.CreatorV3) else found


class _LoadingRegistry(_Registry):
    def load_library(self, plugin_path: str) -> Any:
        if not isinstance(plugin_path, str):
            raise TypeError("load_library takes a path as str")
        return self._trt.load_library(plugin_path)


class _Registry86(_RegistryV2, _LoadingRegistry):
    @property
    def plugin_creator_list(self) -> list[Any]:
        return list(self._trt.creators.values())


class _Registry11(_LoadingRegistry):
    def get_creator(self, type: str, version: str, plugin_namespace: str = "") -> Any:
        return self._find(type, version, plugin_namespace)

    @property
    def all_creators(self) -> list[Any]:
        return list(self._trt.creators.values())


class _Registry10(_Registry86, _Registry11):
    pass


# The classes that a generation's module shows, and those that objects of other classes make.
_CLASSES: dict[Generation, dict[str, type]] = {
    "ixrt": {
        "Builder": _Builder,
        "INetworkDefinition": _NetworkIxrt,
        "IBuilderConfig": _Config,
        "IOptimizationProfile": _OptimizationProfile,
        "OnnxParser": _OnnxParser,
        "ParserError": _ParserError,
        "Runtime": _Runtime,
        "ICudaEngine": _EngineIxrt,
        "IExecutionContext": _ContextWithBindings,
        "IPluginRegistry": _RegistryV2,
    },
    "8.6": {
        "Builder": _BuilderWeak,
        "INetworkDefinition": _Network86,
        "IBuilderConfig": _Config86,
        "IOptimizationProfile": _OptimizationProfileOfTensorRT,
        "ITimingCache": _TimingCache,
        "OnnxParser": _OnnxParser,
        "ParserError": _ParserError,
        "Runtime": _RuntimeOfTensorRT,
        "ICudaEngine": _Engine86,
        "IExecutionContext": _Context86,
        "EngineInspector": _EngineInspector,
        "IPluginRegistry": _Registry86,
    },
}
_CLASSES["10"] = {
    **_CLASSES["8.6"],
    "INetworkDefinition": _Network10,
    "IBuilderConfig": _Config10,
    "ParserError": _ParserError10,
    "ICudaEngine": _Engine10,
    "IExecutionContext": _NamedContext,
    "IPluginRegistry": _Registry10,
}
_CLASSES["11"] = {
    **_CLASSES["10"],
    "Builder": _BuilderOfTensorRT,
    "IBuilderConfig": _ConfigOfTensorRT,
    "ICudaEngine": _Engine11,
    "IPluginRegistry": _Registry11,
}
_CLASSES["rtx"] = {
    **_CLASSES["11"],
    "INetworkDefinition": _NetworkRtx,
    "IBuilderConfig": _ConfigRtx,
}


class Double:
    """One process's TensorRT: `module` is what `import` finds.

    `messages` is everything that was logged, as severities' names and texts, whatever the
    program's logger did with it. `faults` may be changed at any time.
    """

    def __init__(
        self,
        generation: Generation,
        cuda: Cuda | None = None,
        faults: Faults | None = None,
        *,
        version: str = "",
    ) -> None:
        self.generation = generation
        self.version = version or VERSIONS[generation]
        self.cuda = cuda or Cuda(LAYOUTS[generation], hardware=_HARDWARE.get(generation))
        self.faults = faults or Faults()
        self.messages: list[tuple[str, str]] = []
        self.logger: Any = None
        self.enums = _ENUMS[generation]
        self.creators: dict[tuple[str, str, str], double.CreatorV2] = {}
        # Classes of this double's own, so that an object knows which one it belongs to.
        self._classes = {
            name: type(name, (base,), {"_trt": self, "__module__": "tensorrt"})
            for name, base in _CLASSES[generation].items()
        }
        self._classes["IHostMemory"] = IHostMemory
        self.registry = self.make("IPluginRegistry")
        self.module = self._module()

    @property
    def is_old(self) -> bool:
        """Of the generations with V2 plugins."""
        return self.generation in ("8.6", "ixrt")

    @property
    def module_name(self) -> str:
        return "tensorrt_rtx" if self.generation == "rtx" else "tensorrt"

    def errors(self) -> list[str]:
        """What was logged as an error."""
        return [text for severity, text in self.messages if severity == "ERROR"]

    def make(self, name: str, *arguments: Any) -> Any:
        return self._classes[name](*arguments)

    def log(self, logger: Any, severity: Severity, text: str) -> None:
        self.messages.append((severity.name, text))
        if logger is not None:
            logger.log(severity, text)

    def check_logger(self, logger: Any) -> None:
        if not isinstance(logger, ILogger):
            raise TypeError(f"{logger!r} is no ILogger")
        if not hasattr(logger, "_made"):
            raise TypeError("ILogger.__init__() was not called")

    def warn_of_timing_cache(self) -> None:
        if self.generation == "rtx":
            warnings.warn("timing caches do nothing any more", DeprecationWarning, stacklevel=3)

    def load_library(self, path: str) -> Any:
        """What a library that a program names registers; None if it cannot be loaded."""
        if not Path(path).is_file():
            self.log(self.logger, ERROR, f"{path} cannot be opened")
            return None
        content = Path(path).read_bytes()
        kind: type[double.CreatorV2] | None = None
        if b"getPluginCreators" in content:
            kind = double.CreatorV2
        if b"getCreators" in content and not self.is_old:
            kind = double.CreatorV3
        if kind is None:
            self.log(self.logger, ERROR, f"{path} exports no plugins that this version knows")
            return None
        return object() if self.register(kind) else None

    def register(self, kind: type[double.CreatorV2]) -> bool:
        """Static registration, or a loaded library's: all of its plugins or none."""
        made = {
            (f"Custom{plugin}PluginDynamic_IxRT", version, ""): kind(
                plugin, version, plugin == self.faults.refused_plugin
            )
            for plugin, version in double.PLUGINS
            if plugin != self.faults.missing_plugin
        }
        if made.keys() & self.creators.keys():
            self.log(self.logger, ERROR, "the library's plugins are registered already")
            return False
        self.creators.update(made)
        return True

    def cdll(self, name: Any, *arguments: Any, **options: Any) -> Any:
        """`ctypes.CDLL`, which registers what a library written for this double has."""
        if name is not None and Path(name).is_file():
            with Path(name).open("rb") as file:
                if file.read(len(_LIBRARY_MAGIC)) == _LIBRARY_MAGIC:
                    if self.is_old:
                        self.register(double.CreatorV2)
                    return SimpleNamespace(_name=str(name))
        return _CDLL(name, *arguments, **options)

    def modules(self) -> dict[str, ModuleType]:
        """What to put into `sys.modules`, CUDA's included."""
        return {**self.cuda.modules(), self.module_name: self.module}

    def _module(self) -> ModuleType:
        module = _module(self.module_name)
        types = _TYPES_8 if self.is_old else _TYPES_10
        members = {name: double.DataType[name] for name in types.split()}
        found: dict[str, Any] = {
            **self._classes,
            **self.enums,
            "__version__": self.version,
            "Logger": Logger,
            "Dims": Dims,
            "DataType": _Members(members),
            "ErrorCode": ErrorCode,
            "PluginField": double.PluginField,
            "PluginFieldCollection": double.PluginFieldCollection,
            "PluginFieldType": double.PluginFieldType,
            "get_plugin_registry": lambda: self.registry,
            "init_libnvinfer_plugins": self._init_plugins,
            "nptype": self._nptype,
            "volume": lambda iterable: int(np.prod(list(iterable), dtype=np.int64)),
        }
        found.update({_ALIASES.get(name, name.lower()): kind for name, kind in members.items()})
        if self.generation != "ixrt":
            found["ILogger"] = ILogger
        if not self.is_old:
            found.update(IPluginCreatorV3One=double.CreatorV3, TensorRTPhase=double.TensorRTPhase)
        vars(module).update(found)
        # A real one has a place on the disk, where libraries may lie beside it.
        module.__file__ = f"/nowhere/{self.module_name}/__init__.py"
        return module

    def _init_plugins(self, logger: Any, namespace: str) -> bool:
        """Registers the vendor's own plugins, of which there are none here."""
        self.check_logger(logger)
        self.logger = self.logger or logger
        return True

    def _nptype(self, trt_type: double.DataType) -> Any:
        if trt_type not in _NUMPY:
            raise TypeError(f"NumPy has no {trt_type}")
        return _NUMPY[trt_type]


_CDLL = ctypes.CDLL


def _take(value: Any, kind: type) -> None:
    """As pybind11 checks arguments."""
    if not isinstance(value, kind):
        raise TypeError(f"incompatible arguments: {value!r} is no {kind.__name__}")


def _buffer(value: Any) -> bytes:
    if isinstance(value, str):
        raise TypeError("a buffer is wanted, and this is str")
    return bytes(memoryview(value))


def _matches(shape: Shape, declared: Shape) -> bool:
    """Whether a shape is one of what a network declares, where -1 is any extent."""
    return len(shape) == len(declared) and all(
        extent >= 0 and wanted in (-1, extent)
        for extent, wanted in zip(shape, declared, strict=True)
    )


def write_plugin_library(path: Path, api: Literal[2, 3]) -> Path:
    """A file that `load_library` and, in generation 2, `ctypes.CDLL` take for the plugins'."""
    symbol = b"getPluginCreators" if api == 2 else b"getCreators"
    path.write_bytes(_LIBRARY_MAGIC + symbol)
    return path


def _place(folder: Path, generation: Generation) -> Path:
    """The module's file in `folder`; beside ixRT's, as in its wheel, lies a plugin library."""
    package = folder / ("tensorrt_rtx" if generation == "rtx" else "tensorrt")
    package.mkdir(parents=True, exist_ok=True)
    if generation == "ixrt":
        (package / "lib").mkdir(exist_ok=True)
        write_plugin_library(package / "lib" / "libixrt_plugin.so", 2)
    return package / "__init__.py"


def install(
    target: Any, generation: Generation, folder: Path | None = None, **options: Any
) -> Double:
    """Make this process's imports find a double; `options` are those of `Double`.

    `target` is pytest's monkeypatch, or a dictionary such as `sys.modules`, which knows nothing
    of plugin libraries loaded through ctypes. The module says that it lies in `folder`.
    """
    made = Double(generation, **options)
    if folder is not None:
        made.module.__file__ = str(_place(folder, generation))
    if isinstance(target, MutableMapping):
        target.update(made.modules())
    else:
        for name, module in made.modules().items():
            target.setitem(sys.modules, name, module)
        target.setattr(ctypes, "CDLL", made.cdll)
    return made


def write_shims(
    folder: Path,
    generation: Generation,
    *,
    faults: Faults | None = None,
    devices: int = 1,
    leaks: Path | None = None,
) -> dict[str, str]:
    """A folder from which other processes import a double, and the environment they need.

    `leaks` is a file that gets a line for whatever such a process has not given back when it
    ends, and is empty if there is nothing.
    """
    file = _place(folder, generation)
    names = {file.parent.name: VERSIONS[generation]}
    names["cuda"] = {"11.8": "11.8.0", "12": "12.9.0", "13": "13.0.0"}[LAYOUTS[generation]]
    for name, version in names.items():
        package = folder / name
        package.mkdir(exist_ok=True)
        package.joinpath("__init__.py").write_text(
            f'"""Replaced by a double."""\n\nfrom {__name__} import load\n\nload()\n'
        )
        # As its wheel would be known to importlib.metadata.
        wheel = "cuda_python" if name == "cuda" else name
        metadata = folder / f"{wheel}-{version}.dist-info"
        metadata.mkdir()
        metadata.joinpath("METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {wheel.replace('_', '-')}\nVersion: {version}\n"
        )
    path = [str(folder), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    options = {
        "faults": asdict(faults or Faults()),
        "devices": devices,
        "leaks": str(leaks) if leaks else None,
        "file": str(file),
    }
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        _VARIABLE: generation,
        _OPTIONS: json.dumps(options),
    }


@functools.cache
def load() -> Double:
    """What a shim does: the double that the environment asks for, in this process."""
    generation: Any = os.environ[_VARIABLE]
    options = json.loads(os.environ.get(_OPTIONS, "{}"))
    cuda = Cuda(
        LAYOUTS[generation],
        devices=options.get("devices", 1),
        hardware=_HARDWARE.get(generation),
    )
    made = Double(generation, cuda, Faults(**options.get("faults", {})))
    made.module.__file__ = options.get("file")
    sys.modules.update(made.modules())
    ctypes.CDLL = made.cdll  # type: ignore[assignment, misc]
    if options.get("leaks"):
        path = Path(options["leaks"])
        atexit.register(lambda: path.write_text("".join(f"{x}\n" for x in cuda.leaks())))
    return made
