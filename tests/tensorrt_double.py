"""A stand-in for TensorRT's network API in both generations, with this project's plugins.

It records a network, refuses what the real one would, and computes it: every plugin is written
down here once more, from the contract of its fields and tensors, in NumPy. What a generation does
not have, or has lost, is not there, so that a call of it raises AttributeError. Floats of any
width are float64 in `evaluate`, so that results can be compared with an oracle's closely.

Memory is read as the real one reads it: a field and a constant are pointers, which keep nothing.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[Any]
Run = Callable[..., list[Numbers]]


class DataType(Enum):
    """All generations' together; a module shows those of its own."""

    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4
    UINT8 = 5
    FP8 = 6
    BF16 = 7
    INT64 = 8
    INT4 = 9
    FP4 = 10
    E8M0 = 11

    def __int__(self) -> int:
        return int(self.value)


class PluginFieldType(Enum):
    FLOAT16 = np.dtype(np.float16)
    FLOAT32 = np.dtype(np.float32)
    INT8 = np.dtype(np.int8)
    INT32 = np.dtype(np.int32)


FLOAT, HALF, INT8, INT32 = DataType.FLOAT, DataType.HALF, DataType.INT8, DataType.INT32


class TensorRTPhase(Enum):
    BUILD = 0
    RUNTIME = 1

    def __int__(self) -> int:
        return int(self.value)


BUILD = TensorRTPhase.BUILD


@dataclass(slots=True, eq=False)
class Tensor:
    name: str
    dtype: DataType
    shape: tuple[int, ...]


@dataclass(slots=True, eq=False)
class Layer:
    """`kind` is a plugin's short name and version, such as "FC 1", or an ordinary layer's name."""

    kind: str
    inputs: list[Tensor]
    outputs: list[Tensor]
    run: Run
    fields: dict[str, Numbers] = field(default_factory=dict)
    name: str = ""
    # What an ordinary layer's `run` closes over; `run_of` makes it anew from this.
    arguments: dict[str, Any] = field(default_factory=dict)

    def get_output(self, index: int) -> Tensor:
        return self.outputs[index]


class Shuffle(Layer):
    """Static reshape alone; 0 copies the input's extent."""

    __slots__ = ()

    @property
    def reshape_dims(self) -> tuple[int, ...]:
        return self.outputs[0].shape

    @reshape_dims.setter
    def reshape_dims(self, dims: tuple[int, ...]) -> None:
        shape = self.inputs[0].shape
        assert all(dims[i] == 0 for i, extent in enumerate(shape[: len(dims)]) if extent == -1)
        assert all(extent == 1 for extent in shape[len(dims) :])
        self.outputs[0].shape = tuple(shape[i] if d == 0 else d for i, d in enumerate(dims))
        self.arguments = {"rank": len(dims)}
        self.run = _reshape(len(dims))


class WeaklyTypedTensor(Tensor):
    __slots__ = ("dynamic_range",)

    def set_dynamic_range(self, min: float, max: float) -> bool:
        self.dynamic_range = (min, max)
        return min <= max

    @property
    def scale(self) -> float | None:
        """INT8 as plugins of generation 2 read it; a mask, (batch, seq), is not quantized."""
        if self.dtype is not INT8 or len(self.shape) == 2:
            return None
        low, high = self.dynamic_range
        assert -low == high > 0
        return high / 127


class WeaklyTypedLayer(Layer):
    __slots__ = ()

    def set_output_type(self, index: int, dtype: DataType) -> None:
        self.outputs[index].dtype = dtype


class Pointer:
    """An array's memory, which whoever made it keeps, or not."""

    def __init__(self, array: Numbers) -> None:
        assert isinstance(array, np.ndarray) and array.flags.c_contiguous
        self._array = weakref.ref(array)

    def read(self) -> Numbers:
        array = self._array()
        assert array is not None, "reads memory that has been freed"
        return array.copy()


class PluginField:
    def __init__(self, name: str, data: Numbers, type: PluginFieldType) -> None:
        assert data.dtype == type.value, name
        self.name, self.data = name, Pointer(data)


class PluginFieldCollection:
    def __init__(self, fields: list[PluginField]) -> None:
        self.fields = [(field.name, field.data) for field in fields]


@dataclass(frozen=True)
class Spec:
    """A tensor's type and channels; without channels it is (batch, seq)."""

    dtype: DataType
    channels: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return (-1, -1) if self.channels is None else (-1, -1, self.channels)


@dataclass(frozen=True)
class Plugin:
    kind: str
    inputs: list[Spec]
    outputs: list[Spec]
    run: Run
    fields: dict[str, Numbers]


class Fields:
    """A collection's fields; each must be asked for, with its type and length.

    `ranged`: INT8 tensors have dynamic ranges. A plugin's `run` then takes and returns the real
    numbers that they stand for, and `scaled` makes it one of integers.
    """

    def __init__(self, values: Mapping[str, Numbers], ranged: bool) -> None:
        self.all = dict(values)
        self.ranged = ranged
        self._left = set(self.all)

    @classmethod
    def read(cls, collection: PluginFieldCollection, ranged: bool) -> Fields:
        fields = cls({name: data.read() for name, data in collection.fields}, ranged)
        assert len(fields.all) == len(collection.fields), "a field is given twice"
        return fields

    def values(self, name: str, dtype: Any, size: int | None = None) -> Numbers:
        value = self.all[name]
        self._left.discard(name)
        assert value.dtype == dtype and value.ndim >= 1, name
        assert value.size == (value.size if size is None else size) > 0, name
        return value

    def integer(self, name: str, *allowed: int) -> int:
        value = int(self.values(name, np.int32, 1)[0])
        assert not allowed or value in allowed, name
        return value

    def floats(self, name: str, size: int | None = None) -> Numbers:
        return self.values(name, np.float32, size).astype(np.float64)

    def bias(self, name: str, size: int) -> Numbers:
        """Zeros where there is none."""
        return self.floats(name, size) if name in self.all else np.zeros(size)

    def scale(self, name: str) -> float:
        value = float(self.floats(name, 1)[0])
        assert value > 0
        return value

    def quantizer(self) -> Callable[[Numbers], Numbers]:
        """What makes an INT8 output of real numbers."""
        if self.ranged:
            return lambda x: x
        scale = self.scale("output_scale")
        return lambda x: quantize(x, scale)

    @property
    def product(self) -> DataType:
        """What a plugin behind an INT8 FC takes."""
        return INT8 if self.ranged else HALF

    def finish(self) -> None:
        assert not self._left, f"unknown fields {self._left}"


def quantize(x: Numbers, scale: float) -> Numbers:
    return np.clip(np.rint(x / scale), -128, 127).astype(np.int8)


def scaled(run: Run, inputs: list[float | None], outputs: list[float | None]) -> Run:
    """`run` with integers for the real numbers of those tensors that have a scale."""

    def computed(*values: Numbers) -> list[Numbers]:
        real = [x if s is None else x * s for x, s in zip(values, inputs, strict=True)]
        results = zip(run(*real), outputs, strict=True)
        return [y if s is None else quantize(y, s) for y, s in results]

    return computed


def layer_norm(x: Numbers, gamma: Numbers, beta: Numbers) -> Numbers:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12) * gamma + beta


def gelu(x: Numbers) -> Numbers:
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def attend(qkv: Numbers, padding: Numbers, heads: int) -> Numbers:
    batch, seq, _ = qkv.shape
    query, key, value = (
        part.reshape(batch, seq, heads, -1).transpose(0, 2, 1, 3)
        for part in np.split(qkv, 3, axis=2)
    )
    scores = query @ key.transpose(0, 1, 3, 2) / math.sqrt(query.shape[-1])
    exponents = np.exp(np.where(padding[:, None, None, :] == 1, -np.inf, scores))
    context = exponents / exponents.sum(axis=-1, keepdims=True) @ value
    return context.transpose(0, 2, 1, 3).reshape(batch, seq, -1)


Made = tuple[list[Spec], list[Spec], Run]


def _embedding(f: Fields, int8: bool) -> Made:
    prefix = "bert_embeddings"
    gamma = f.floats(f"{prefix}_layernorm_gamma")
    beta = f.floats(f"{prefix}_layernorm_beta", len(gamma))
    word, segment, position = (
        f.floats(f"{prefix}_{name}_embeddings").reshape(-1, len(gamma))
        for name in ("word", "token_type", "position")
    )
    f.integer("output_fp16", 1)
    f.integer("mha_type_id", int(INT8 if int8 else HALF))
    quantized = f.quantizer() if int8 else None

    def run(ids: Numbers, segments: Numbers, mask: Numbers) -> list[Numbers]:
        total = word[ids] + segment[segments] + position[: ids.shape[1]]
        hidden = layer_norm(total, gamma, beta)
        return [quantized(hidden), 1 - mask, hidden] if quantized else [hidden, 1 - mask]

    outputs = [Spec(HALF, len(gamma)), Spec(INT32)]
    if int8:
        outputs = [Spec(INT8, len(gamma)), Spec(INT8), Spec(FLOAT, len(gamma))]
    return [Spec(INT32)] * 3, outputs, run


def _attention(f: Fields, int8: bool) -> Made:
    hidden, heads = f.integer("hidden_size"), f.integer("num_heads")
    assert hidden % heads == 0 and hidden // heads in (32, 64)
    if int8:
        if "has_mask" in f.all:
            f.integer("has_mask", 1)
        assert (f.floats("dq_probs", 3) > 0).all()
        quantized = f.quantizer()
        return (
            [Spec(f.product, 3 * hidden), Spec(INT8)],
            [Spec(INT8, hidden)],
            lambda qkv, padding: [quantized(attend(qkv, padding, heads))],
        )
    f.integer("has_mask", 1)
    f.integer("type_id", int(HALF))
    return (
        [Spec(HALF, 3 * hidden), Spec(INT32)],
        [Spec(HALF, hidden)],
        lambda qkv, padding: [attend(qkv, padding, heads)],
    )


def _skip_layer_norm(f: Fields, int8: bool) -> Made:
    ld = f.integer("ld")
    f.integer("type_id", int(INT8 if int8 else HALF))
    gamma, beta, bias = f.floats("gamma", ld), f.floats("beta", ld), f.bias("bias", ld)
    if not int8:
        return (
            [Spec(HALF, ld)] * 2,
            [Spec(HALF, ld)],
            lambda x, skip: [layer_norm(x + bias + skip, gamma, beta)],
        )
    single = "output_fp32" in f.all and f.integer("output_fp32", 0, 1) == 1
    quantized = None if single else f.quantizer()

    def run(x: Numbers, skip: Numbers, residual: Numbers) -> list[Numbers]:
        hidden = layer_norm(x + bias + residual, gamma, beta)
        return [quantized(hidden) if quantized else hidden, hidden]

    return (
        [Spec(f.product, ld), Spec(INT8, ld), Spec(FLOAT, ld)],
        [Spec(FLOAT if single else INT8, ld), Spec(FLOAT, ld)],
        run,
    )


def _fc(f: Fields, int8: bool) -> Made:
    out = f.integer("out_dims")
    if not int8:
        f.integer("type_id", int(HALF))
        weight, bias = f.floats("W").reshape(out, -1), f.bias("B", out)
        assert weight.shape[1] % 8 == 0
        return (
            [Spec(HALF, weight.shape[1])],
            [Spec(HALF, out)],
            lambda x: [x @ weight.T + bias],
        )
    if f.ranged:
        amax = f.floats("fc_amax")
        weight, bias, step = f.floats("W").reshape(out, -1), f.bias("Bias", out), amax[0] / 127
        assert out % 16 == 0 and weight.shape[1] % 16 == 0 and len(amax) <= 2 and (amax > 0).all()
        rounded = np.clip(np.rint(weight / step), -127, 127) * step
        return (
            [Spec(INT8, weight.shape[1])],
            [Spec(INT8, out)],
            lambda x: [x @ rounded.T + bias],
        )
    weight = f.values("W", np.int8).reshape(out, -1).astype(np.int64)
    assert out % 16 == 0 and weight.shape[1] % 16 == 0
    bias, scales, scale = (
        f.bias("Bias", out),
        f.floats("weight_scales", out),
        f.scale("input_scale"),
    )
    assert (scales > 0).all()
    return (
        [Spec(INT8, weight.shape[1])],
        [Spec(HALF, out)],
        lambda x: [x.astype(np.int64) @ weight.T * scale * scales + bias],
    )


def _ffn(f: Fields, int8: bool) -> Made:
    out = f.integer("out_dims")
    f.integer("type_id", int(HALF))
    f.integer("act_type", 3)
    bias = f.floats("B1")
    first = f.floats("W1").reshape(len(bias), -1)
    second = f.floats("W2", out * len(bias)).reshape(out, -1)
    return (
        [Spec(HALF, first.shape[1])],
        [Spec(HALF, out)],
        lambda x: [gelu(x @ first.T + bias) @ second.T],
    )


def _gelu(f: Fields, int8: bool) -> Made:
    ld = f.integer("ld")
    int8 = f.integer("type_id", int(HALF), int(INT8)) == int(INT8)
    bias = f.bias("bias", ld)
    if not int8:
        return [Spec(HALF, ld)], [Spec(HALF, ld)], lambda x: [gelu(x + bias)]
    quantized = f.quantizer()
    return [Spec(f.product, ld)], [Spec(INT8, ld)], lambda x: [quantized(gelu(x + bias))]


# What makes a plugin, and whether this version of it is the INT8 one.
PLUGINS: dict[tuple[str, str], tuple[Callable[[Fields, bool], Made], bool]] = {
    ("EmbLayerNorm", "1"): (_embedding, False),
    ("EmbLayerNorm", "2"): (_embedding, True),
    ("QKVToContext", "1"): (_attention, False),
    ("QKVToContext", "3"): (_attention, True),
    ("SkipLayerNorm", "1"): (_skip_layer_norm, False),
    ("SkipLayerNorm", "3"): (_skip_layer_norm, True),
    ("FC", "1"): (_fc, False),
    ("FC", "2"): (_fc, True),
    ("FFN", "1"): (_ffn, False),
    ("Gelu", "1"): (_gelu, False),
}


def plugin_of(kind: str, version: str, fields: Fields) -> Plugin:
    make, int8 = PLUGINS[kind, version]
    inputs, outputs, run = make(fields, int8)
    fields.finish()
    return Plugin(f"{kind} {version}", inputs, outputs, run, fields.all)


def run_of(
    kind: str, fields: Mapping[str, Numbers], arguments: Mapping[str, Any], ranged: bool = False
) -> Run:
    """What a layer computes, from what can be written to a file."""
    if fields:
        name, version = kind.split()
        return plugin_of(name, version, Fields(fields, ranged)).run
    if kind == "Constant":
        return lambda: [arguments["value"]]
    if kind == "Gather":
        return _take(arguments["axis"])
    if kind == "Shuffle" and "rank" in arguments:
        return _reshape(arguments["rank"])
    assert kind in ("Shuffle", "Identity", "Cast"), kind
    return lambda x: [x]


def _take(axis: int) -> Run:
    return lambda x, indices: [np.take(x, indices, axis)]


def _reshape(rank: int) -> Run:
    """Drops axes of extent 1 behind the first `rank`."""
    return lambda x: [x.reshape(x.shape[:rank])]


class CreatorV2:
    """`refuses` stands for a field that the library does not like."""

    ranged = True

    def __init__(self, kind: str, version: str, refuses: bool) -> None:
        self.kind, self.version, self.refuses = kind, version, refuses

    def create_plugin(self, name: str, field_collection: PluginFieldCollection) -> Plugin | None:
        if self.refuses:
            return None
        return plugin_of(self.kind, self.version, Fields.read(field_collection, self.ranged))


class CreatorV3(CreatorV2):
    ranged = False

    def create_plugin(  # type: ignore[override]
        self, name: str, field_collection: PluginFieldCollection, phase: Any
    ) -> Plugin | None:
        assert phase is BUILD
        return super().create_plugin(name, field_collection)


class RegistryV2:
    """Holds the plugins of a library but `missing` ones; those in `refused` cannot be made."""

    creator: type[CreatorV2] = CreatorV2

    def __init__(self, missing: str = "", refused: str = "") -> None:
        self._creators = {
            (f"Custom{kind}PluginDynamic_IxRT", version, ""): self.creator(
                kind, version, kind == refused
            )
            for kind, version in PLUGINS
            if kind != missing
        }

    def get_plugin_creator(
        self, type: str, version: str, plugin_namespace: str = ""
    ) -> CreatorV2 | None:
        return self._creators.get((type, version, plugin_namespace))


class RegistryV3:
    def __init__(
        self, missing: str = "", refused: str = "", creator: type[CreatorV2] = CreatorV3
    ) -> None:
        kind = type("_Registry", (RegistryV2,), {"creator": creator})
        self.get_creator = kind(missing, refused).get_plugin_creator


class Network:
    """What both generations have. `full` is the kind of layer that cannot be added any more."""

    layer: type[Layer] = Layer
    tensor: type[Tensor] = Tensor

    def __init__(self, full: str = "") -> None:
        self.full = full
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.layers: list[Layer] = []

    def add_input(self, name: str, dtype: DataType, shape: tuple[int, ...]) -> Tensor | None:
        if self.full == "Input":
            return None
        self.inputs.append(self.tensor(name, dtype, tuple(shape)))
        return self.inputs[-1]

    def mark_output(self, tensor: Tensor) -> None:
        self.outputs.append(tensor)

    def add_constant(self, shape: tuple[int, ...], weights: Numbers) -> Layer | None:
        assert shape == weights.shape
        pointer = Pointer(weights)
        output = Spec(DataType[PluginFieldType(weights.dtype).name])
        return self._add(
            "Constant",
            [],
            [(output.dtype, shape)],
            lambda: [pointer.read()],
            arguments={"value": pointer},
        )

    def add_gather(self, input: Tensor, indices: Tensor, axis: int) -> Layer | None:
        assert indices.dtype is INT32
        shape = (*input.shape[:axis], *indices.shape, *input.shape[axis + 1 :])
        outputs = [(input.dtype, shape)]
        arguments = {"axis": axis}
        return self._add("Gather", [input, indices], outputs, _take(axis), arguments=arguments)

    def add_shuffle(self, input: Tensor) -> Layer | None:
        outputs = [(input.dtype, input.shape)]
        return self._add("Shuffle", [input], outputs, lambda x: [x], kind_of=Shuffle)

    def add_identity(self, input: Tensor) -> Layer | None:
        return self._add("Identity", [input], [(input.dtype, input.shape)], lambda x: [x])

    def _cast(self, tensor: Tensor, dtype: DataType) -> Layer | None:
        return self._add("Cast", [tensor], [(dtype, tensor.shape)], lambda x: [x])

    def _plugin(self, inputs: list[Tensor], plugin: Plugin) -> Layer | None:
        for spec, tensor in zip(plugin.inputs, inputs, strict=True):
            assert tensor.dtype is spec.dtype, f"{plugin.kind} takes {tensor}"
            assert tensor.shape == spec.shape, f"{plugin.kind} takes {tensor}"
        outputs = [(spec.dtype, spec.shape) for spec in plugin.outputs]
        return self._add(plugin.kind, inputs, outputs, plugin.run, plugin.fields)

    def _add(
        self,
        kind: str,
        inputs: list[Tensor],
        outputs: list[tuple[DataType, tuple[int, ...]]],
        run: Run,
        fields: dict[str, Numbers] | None = None,
        kind_of: type[Layer] | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> Layer | None:
        if kind == self.full:
            return None
        made = [self.tensor("", dtype, shape) for dtype, shape in outputs]
        layer = (kind_of or self.layer)(kind, inputs, made, run, fields or {})
        layer.arguments.update(arguments or {})
        self.layers.append(layer)
        return layer


class NetworkOfIxrt(Network):
    """Generation 2 without casts."""

    layer = WeaklyTypedLayer
    tensor = WeaklyTypedTensor

    def add_plugin_v2(self, inputs: list[Tensor], plugin: Plugin) -> Layer | None:
        return self._plugin(inputs, plugin)


class NetworkV2(NetworkOfIxrt):
    """TensorRT 8.6's."""

    def add_cast(self, input: Tensor, to_type: DataType) -> Layer | None:
        return self._cast(input, to_type)


class NetworkV3(Network):
    """TensorRT 10's and 11's, strongly typed."""

    def add_cast(self, input: Tensor, to_type: DataType) -> Layer | None:
        return self._cast(input, to_type)

    def add_plugin_v3(
        self, inputs: list[Tensor], shape_inputs: list[Tensor], plugin: Plugin
    ) -> Layer | None:
        assert shape_inputs == []
        return self._plugin(inputs, plugin)


_BOTH = {
    "float32": FLOAT,
    "float16": HALF,
    "int8": INT8,
    "int32": INT32,
    "PluginField": PluginField,
    "PluginFieldCollection": PluginFieldCollection,
    "PluginFieldType": PluginFieldType,
}
TENSORRT_V2 = SimpleNamespace(**_BOTH)
TENSORRT_V3 = SimpleNamespace(**_BOTH, IPluginCreatorV3One=CreatorV3, TensorRTPhase=TensorRTPhase)


@dataclass(frozen=True)
class FrozenLayer:
    kind: str
    name: str
    inputs: list[int]
    outputs: list[int]
    types: list[DataType]
    fields: dict[str, Numbers]
    arguments: dict[str, Any]
    scales: tuple[list[float | None], list[float | None]]

    @property
    def run(self) -> Run:
        inputs, outputs = self.scales
        ranged = any(scale is not None for scale in inputs + outputs)
        return scaled(run_of(self.kind, self.fields, self.arguments, ranged), inputs, outputs)


@dataclass(frozen=True)
class Frozen:
    """A network as data, which can be pickled: its tensors are numbers, the inputs' first."""

    inputs: list[str]
    outputs: list[tuple[str, int]]
    layers: list[FrozenLayer]

    def evaluate(self, inputs: Mapping[str, Numbers]) -> dict[str, Numbers]:
        values = {i: inputs[name] for i, name in enumerate(self.inputs)}
        for layer in self.layers:
            results = layer.run(*(values[i] for i in layer.inputs))
            values.update(zip(layer.outputs, results, strict=True))
        return {name: values[i] for name, i in self.outputs}


def scales_of(layer: Layer) -> tuple[list[float | None], list[float | None]]:
    """Of its inputs and outputs, as their dynamic ranges give them."""
    return (
        [getattr(tensor, "scale", None) for tensor in layer.inputs],
        [getattr(tensor, "scale", None) for tensor in layer.outputs],
    )


def freeze(network: Network) -> Frozen:
    """Reads the constants, which have to be in memory still, as a builder does."""
    numbers = {tensor: i for i, tensor in enumerate(network.inputs)}

    def number(tensor: Tensor) -> int:
        return numbers.setdefault(tensor, len(numbers))

    def stored(value: Any) -> Any:
        return value.read() if isinstance(value, Pointer) else value

    return Frozen(
        [tensor.name for tensor in network.inputs],
        [(tensor.name, number(tensor)) for tensor in network.outputs],
        [
            FrozenLayer(
                layer.kind,
                layer.name,
                [number(tensor) for tensor in layer.inputs],
                [number(tensor) for tensor in layer.outputs],
                [tensor.dtype for tensor in layer.outputs],
                dict(layer.fields),
                {name: stored(value) for name, value in layer.arguments.items()},
                scales_of(layer),
            )
            for layer in network.layers
        ],
    )


def evaluate(network: Network, inputs: Mapping[str, Numbers]) -> dict[str, Numbers]:
    """The outputs by name; tensors are told apart by what they are, not by their names."""
    values = {tensor: inputs[tensor.name] for tensor in network.inputs}
    for layer in network.layers:
        run = scaled(layer.run, *scales_of(layer))
        results = run(*(values[tensor] for tensor in layer.inputs))
        values.update(zip(layer.outputs, results, strict=True))
    return {tensor.name: values[tensor] for tensor in network.outputs}
