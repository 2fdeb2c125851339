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
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3

    def __int__(self) -> int:
        return int(self.value)


class PluginFieldType(Enum):
    FLOAT16 = np.dtype(np.float16)
    FLOAT32 = np.dtype(np.float32)
    INT8 = np.dtype(np.int8)
    INT32 = np.dtype(np.int32)


FLOAT, HALF, INT8, INT32 = DataType.FLOAT, DataType.HALF, DataType.INT8, DataType.INT32
BUILD = "TensorRTPhase.BUILD"


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
        self.run = lambda x: [x.reshape(x.shape[: len(dims)])]


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
    """A collection's fields; each must be asked for, with its type and length."""

    def __init__(self, collection: PluginFieldCollection) -> None:
        self.all = {name: data.read() for name, data in collection.fields}
        assert len(self.all) == len(collection.fields), "a field is given twice"
        self._left = set(self.all)

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

    def finish(self) -> None:
        assert not self._left, f"unknown fields {self._left}"


def quantize(x: Numbers, scale: float) -> Numbers:
    return np.clip(np.rint(x / scale), -128, 127).astype(np.int8)


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
    scale = f.scale("output_scale") if int8 else 1.0

    def run(ids: Numbers, segments: Numbers, mask: Numbers) -> list[Numbers]:
        total = word[ids] + segment[segments] + position[: ids.shape[1]]
        hidden = layer_norm(total, gamma, beta)
        return [quantize(hidden, scale), 1 - mask, hidden] if int8 else [hidden, 1 - mask]

    outputs = [Spec(HALF, len(gamma)), Spec(INT32)]
    if int8:
        outputs = [Spec(INT8, len(gamma)), Spec(INT8), Spec(FLOAT, len(gamma))]
    return [Spec(INT32)] * 3, outputs, run


def _attention(f: Fields, int8: bool) -> Made:
    hidden, heads = f.integer("hidden_size"), f.integer("num_heads")
    assert hidden % heads == 0 and hidden // heads in (32, 64)
    f.integer("has_mask", 1)
    if int8:
        assert (f.floats("dq_probs", 3) > 0).all()
        scale = f.scale("output_scale")
        return (
            [Spec(HALF, 3 * hidden), Spec(INT8)],
            [Spec(INT8, hidden)],
            lambda qkv, padding: [quantize(attend(qkv, padding, heads), scale)],
        )
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
    scale = 1.0 if single else f.scale("output_scale")

    def run(x: Numbers, skip: Numbers, residual: Numbers) -> list[Numbers]:
        hidden = layer_norm(x + bias + residual, gamma, beta)
        return [hidden if single else quantize(hidden, scale), hidden]

    return (
        [Spec(HALF, ld), Spec(INT8, ld), Spec(FLOAT, ld)],
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
    quantized = f.integer("type_id", int(HALF), int(INT8)) == int(INT8)
    bias = f.bias("bias", ld)
    if not quantized:
        return [Spec(HALF, ld)], [Spec(HALF, ld)], lambda x: [gelu(x + bias)]
    scale = f.scale("output_scale")
    return [Spec(HALF, ld)], [Spec(INT8, ld)], lambda x: [quantize(gelu(x + bias), scale)]


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


class CreatorV2:
    """`refuses` stands for a field that the library does not like."""

    def __init__(self, kind: str, version: str, refuses: bool) -> None:
        self.kind, self.version, self.refuses = kind, version, refuses

    def create_plugin(self, name: str, collection: PluginFieldCollection) -> Plugin | None:
        if self.refuses:
            return None
        make, int8 = PLUGINS[self.kind, self.version]
        fields = Fields(collection)
        inputs, outputs, run = make(fields, int8)
        fields.finish()
        return Plugin(f"{self.kind} {self.version}", inputs, outputs, run, fields.all)


class CreatorV3(CreatorV2):
    def create_plugin(  # type: ignore[override]
        self, name: str, collection: PluginFieldCollection, phase: str
    ) -> Plugin | None:
        assert phase == BUILD
        return super().create_plugin(name, collection)


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

    def get_plugin_creator(self, name: str, version: str, namespace: str) -> CreatorV2 | None:
        return self._creators.get((name, version, namespace))


class RegistryV3:
    def __init__(
        self, missing: str = "", refused: str = "", creator: type[CreatorV2] = CreatorV3
    ) -> None:
        kind = type("_Registry", (RegistryV2,), {"creator": creator})
        self.get_creator = kind(missing, refused).get_plugin_creator


class Network:
    """What both generations have. `full` is the kind of layer that cannot be added any more."""

    layer: type[Layer] = Layer

    def __init__(self, full: str = "") -> None:
        self.full = full
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.layers: list[Layer] = []

    def add_input(self, name: str, dtype: DataType, shape: tuple[int, ...]) -> Tensor | None:
        if self.full == "Input":
            return None
        self.inputs.append(Tensor(name, dtype, shape))
        return self.inputs[-1]

    def mark_output(self, tensor: Tensor) -> None:
        self.outputs.append(tensor)

    def add_constant(self, shape: tuple[int, ...], weights: Numbers) -> Layer | None:
        assert shape == weights.shape
        pointer = Pointer(weights)
        output = Spec(DataType[PluginFieldType(weights.dtype).name])
        return self._add("Constant", [], [(output.dtype, shape)], lambda: [pointer.read()])

    def add_gather(self, data: Tensor, indices: Tensor, axis: int) -> Layer | None:
        assert indices.dtype is INT32
        shape = (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])
        return self._add(
            "Gather", [data, indices], [(data.dtype, shape)], lambda x, i: [np.take(x, i, axis)]
        )

    def add_shuffle(self, tensor: Tensor) -> Layer | None:
        outputs = [(tensor.dtype, tensor.shape)]
        return self._add("Shuffle", [tensor], outputs, lambda x: [x], kind_of=Shuffle)

    def add_identity(self, tensor: Tensor) -> Layer | None:
        return self._add("Identity", [tensor], [(tensor.dtype, tensor.shape)], lambda x: [x])

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
    ) -> Layer | None:
        if kind == self.full:
            return None
        made = [Tensor("", dtype, shape) for dtype, shape in outputs]
        self.layers.append((kind_of or self.layer)(kind, inputs, made, run, fields or {}))
        return self.layers[-1]


class NetworkOfIxrt(Network):
    """Generation 2 without casts."""

    layer = WeaklyTypedLayer

    def add_plugin_v2(self, inputs: list[Tensor], plugin: Plugin) -> Layer | None:
        return self._plugin(inputs, plugin)


class NetworkV2(NetworkOfIxrt):
    """TensorRT 8.6's."""

    def add_cast(self, tensor: Tensor, dtype: DataType) -> Layer | None:
        return self._cast(tensor, dtype)


class NetworkV3(Network):
    """TensorRT 10's and 11's, strongly typed."""

    def add_cast(self, tensor: Tensor, dtype: DataType) -> Layer | None:
        return self._cast(tensor, dtype)

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
TENSORRT_V3 = SimpleNamespace(
    **_BOTH, IPluginCreatorV3One=CreatorV3, TensorRTPhase=SimpleNamespace(BUILD=BUILD)
)


def evaluate(network: Network, inputs: Mapping[str, Numbers]) -> dict[str, Numbers]:
    """The outputs by name; tensors are told apart by what they are, not by their names."""
    values = {tensor: inputs[tensor.name] for tensor in network.inputs}
    for layer in network.layers:
        results = layer.run(*(values[tensor] for tensor in layer.inputs))
        values.update(zip(layer.outputs, results, strict=True))
    return {tensor.name: values[tensor] for tensor in network.outputs}
