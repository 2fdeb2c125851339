"""BERT for question answering as a TensorRT network of this project's plugins.

The same inputs and outputs as `graph.build_graph`'s, from the same weights and scales, so that a
session serves an engine of either. `plugin/tensorrt` makes the plugins; fields, inputs and outputs
are described there. A layer is named as its weights are.

FP16, a layer of BERT, all tensors half:

    hidden ─ FC qkv ─ QKVToContext ─ FC output ─ SkipLayerNorm ─ FFN ─ SkipLayerNorm ─ hidden
         └───────────────────────────────────────┘         └───────────┘

INT8, in strongly typed networks: what `scales` has a scale for is INT8, as in the quantized ONNX
graph, and all else is half, but for the residual, which passes from one layer norm to the next in
float:

    int8 ─ FC qkv ─ half ─ QKVToContext ─ int8 ─ FC output ─ half ─ SkipLayerNorm ─ int8
    int8 ─ FC in ─ half ─ Gelu ─ int8 ─ FC out ─ half ─ SkipLayerNorm ─ int8

INT8 in generation 2: a plugin that takes INT8 returns INT8, and each such tensor has a dynamic
range. Fields are only those that upstream's plugins know as well, so either library will do:

    int8 ─ FC qkv ─ int8 ─ QKVToContext ─ int8 ─ FC output ─ int8 ─ SkipLayerNorm ─ int8
    int8 ─ FC in ─ int8 ─ Gelu ─ int8 ─ FC out ─ int8 ─ SkipLayerNorm ─ int8

A weight then has a single scale, the largest of its channels'.

As upstream has it, the biases before a layer norm and a GELU are that plugin's. They are added to
floats there, so sums that are half hold no bias.

The QA head is half always: an INT8 FC has a multiple of 16 outputs, and upstream's is half too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from .errors import UserError
from .scales import INT8_MAX, Scales, check_outputs, check_scales, quantize_weight
from .tensorrt_api import Api, DataType, Layer, Network, Registry, Tensor, TensorRT
from .weights import QA_OUTPUTS, Architecture, Array, Weights, check_weights

INPUTS = ("input_ids", "segment_ids", "input_mask")
OUTPUTS = ("start_logits", "end_logits")

# What a layer norm of the plugins adds to the variance; no field changes it.
LAYER_NORM_EPS = 1e-12
# Upstream's number for GELU.
_GELU = 3

_PARTS = ("query", "key", "value")
# A network refers to its constants' memory until an engine is built; as globals they outlive it.
_INDICES = [np.asarray([index], np.int32) for index in range(QA_OUTPUTS)]
# The INT8 attention plugin wants ranges for queries, keys and values, scores and probabilities.
# In generation 3 there is this project's alone, which quantizes none of them.
_UNUSED_RANGES = np.ones(3, np.float32)
# A mask is not quantized, but a builder wants a range of every INT8 tensor. It is upstream's.
_MASK_RANGE = 1.0

Field = int | npt.NDArray[Any] | np.float32
Fields = dict[str, Field]

_T = TypeVar("_T")


def add_bert(
    network: Network,
    trt: TensorRT,
    registry: Registry,
    weights: Weights,
    architecture: Architecture,
    scales: Scales | None = None,
    *,
    api: Api,
) -> None:
    """Add the whole model to `network`, which is empty: FP16, or INT8 with `scales`.

    Inputs `input_ids`, `segment_ids`, `input_mask` int32 (batch, seq), outputs `start_logits`,
    `end_logits` float32 (batch, seq); both axes are dynamic, so the caller adds a profile.
    `registry` has loaded the plugin library built for `api`. The network of generation 2 wants
    EXPLICIT_BATCH and its builder FP16, with `scales` INT8 too; that of generation 3 wants to be
    STRONGLY_TYPED. `weights` are those that `scales` belong to, centered where these have centers.

    Raises UserError for weights and scales that do not fit the architecture, for scales without
    outputs in generation 2, for a model that the plugins cannot run, for a plugin that is not
    registered or refuses its fields, and for a layer that the network refuses.
    """
    check_weights(weights, architecture, qa_head=True)
    if architecture.layer_norm_eps != LAYER_NORM_EPS:
        raise UserError(
            f"the plugins' layer norms add {LAYER_NORM_EPS:g} to the variance, and this model's "
            f"{architecture.layer_norm_eps:g}; build its engine from the ONNX graph"
        )
    if scales is not None:
        check_scales(scales, weights, architecture)
        if api == 2:
            check_outputs(scales, architecture)
    model = _Model(network, trt, registry, weights, architecture, api)
    ids = [
        _present(network.add_input(name, trt.int32, (-1, -1)), f"input {name}") for name in INPUTS
    ]
    hidden = _fp16_encoder(model, ids) if scales is None else _int8_encoder(model, scales, ids)
    _qa_head(model, hidden)


@dataclass(frozen=True)
class _Model:
    """A network under construction, and the model that it becomes."""

    network: Network
    trt: TensorRT
    registry: Registry
    weights: Weights
    architecture: Architecture
    api: Api

    def plugin(
        self, kind: str, version: str, name: str, inputs: list[Tensor], fields: Fields
    ) -> Layer:
        """The plugin Custom{kind}PluginDynamic_IxRT as a layer called `name`."""
        kind = f"Custom{kind}PluginDynamic_IxRT"
        creator = self._creator(kind, version)
        arrays = {field: _array(value) for field, value in fields.items()}
        # A field is a pointer into its array, and a collection is a copy of such pointers, so
        # neither keeps an array in memory: these two variables do, until the plugin has read it.
        made = [
            self.trt.PluginField(field, array, self._field_type(array))
            for field, array in arrays.items()
        ]
        collection = self.trt.PluginFieldCollection(made)
        if self.api == 3:
            plugin = creator.create_plugin(name, collection, self.trt.TensorRTPhase.BUILD)
        else:
            plugin = creator.create_plugin(name, collection)
        if plugin is None:
            raise UserError(f"{kind} version {version} refuses {name}; the log above says why")
        if self.api == 3:
            layer = self.network.add_plugin_v3(inputs, [], plugin)
        else:
            layer = self.network.add_plugin_v2(inputs, plugin)
        return _named(layer, name)

    def cast(self, tensor: Tensor, dtype: DataType, name: str) -> Tensor:
        """`tensor` as `dtype`."""
        if hasattr(self.network, "add_cast"):
            layer = _named(self.network.add_cast(tensor, dtype), name)
        else:
            layer = _named(self.network.add_identity(tensor), name)
            layer.set_output_type(0, dtype)
        return layer.get_output(0)

    def fc(self, name: str, tensor: Tensor, weight: Array, bias: Array) -> Tensor:
        """x W' + b, half, of a weight (out, in) and a bias (out)."""
        fields: Fields = {
            "out_dims": len(weight),
            "type_id": int(self.trt.float16),
            "W": weight,
            "B": bias,
        }
        return self.plugin("FC", "1", name, [tensor], fields).get_output(0)

    def embedding_fields(self, dtype: DataType) -> Fields:
        """The embedding plugin's fields, for attention of type `dtype`."""
        prefix = "bert_embeddings"
        return {
            f"{prefix}_layernorm_beta": self.weights["embeddings.norm.beta"],
            f"{prefix}_layernorm_gamma": self.weights["embeddings.norm.gamma"],
            f"{prefix}_word_embeddings": self.weights["embeddings.word"],
            f"{prefix}_token_type_embeddings": self.weights["embeddings.segment"],
            f"{prefix}_position_embeddings": self.weights["embeddings.position"],
            "output_fp16": 1,
            "mha_type_id": int(dtype),
        }

    def attention_fields(self) -> Fields:
        """The attention plugin's fields that every version knows."""
        return {"hidden_size": self.architecture.hidden, "num_heads": self.architecture.heads}

    def norm_fields(self, name: str, dtype: DataType) -> Fields:
        """The fields of a layer norm with inputs of type `dtype`, but for its bias."""
        return {
            "ld": self.architecture.hidden,
            "type_id": int(dtype),
            "beta": self.weights[f"{name}.beta"],
            "gamma": self.weights[f"{name}.gamma"],
        }

    def _creator(self, kind: str, version: str) -> Any:
        if self.api == 3:
            creator = self.registry.get_creator(kind, version, "")
            # The library for generation 2 registers there as well.
            if not isinstance(creator, self.trt.IPluginCreatorV3One):
                creator = None
        else:
            creator = self.registry.get_plugin_creator(kind, version, "")
        return _present(
            creator,
            f"plugin {kind} version {version}",
            f"load libixrt_plugin.so first, built with BERT_PLUGIN_API={self.api}",
        )

    def _field_type(self, array: npt.NDArray[Any]) -> Any:
        kinds = self.trt.PluginFieldType
        return {"float32": kinds.FLOAT32, "int32": kinds.INT32, "int8": kinds.INT8}[
            array.dtype.name
        ]


def _fp16_encoder(model: _Model, ids: list[Tensor]) -> Tensor:
    """The last hidden state, half (batch, seq, hidden)."""
    weights, half = model.weights, model.trt.float16
    embedding = model.plugin("EmbLayerNorm", "1", "embeddings", ids, model.embedding_fields(half))
    hidden, padding = (embedding.get_output(i) for i in range(2))

    def skip_norm(name: str, tensor: Tensor, skip: Tensor, bias: Fields) -> Tensor:
        fields = {**model.norm_fields(name, half), **bias}
        return model.plugin("SkipLayerNorm", "1", name, [tensor, skip], fields).get_output(0)

    for i in range(model.architecture.layers):
        attention, ffn = f"layer.{i}.attention", f"layer.{i}.ffn"
        qkv = model.fc(
            f"{attention}.qkv",
            hidden,
            np.concatenate([weights[f"{attention}.{part}.weight"] for part in _PARTS]),
            np.concatenate([weights[f"{attention}.{part}.bias"] for part in _PARTS]),
        )
        fields: Fields = {**model.attention_fields(), "has_mask": 1, "type_id": int(half)}
        context = model.plugin("QKVToContext", "1", f"{attention}.context", [qkv, padding], fields)
        attended = model.fc(
            f"{attention}.output",
            context.get_output(0),
            weights[f"{attention}.output.weight"],
            weights[f"{attention}.output.bias"],
        )
        middle = skip_norm(f"{attention}.norm", attended, hidden, {})
        fields = {
            "out_dims": model.architecture.hidden,
            "type_id": int(half),
            "W1": weights[f"{ffn}.in.weight"],
            "W2": weights[f"{ffn}.out.weight"],
            "B1": weights[f"{ffn}.in.bias"],
            "act_type": _GELU,
        }
        outer = model.plugin("FFN", "1", ffn, [middle], fields).get_output(0)
        hidden = skip_norm(f"{ffn}.norm", outer, middle, {"bias": weights[f"{ffn}.out.bias"]})
    return hidden


def _int8_encoder(model: _Model, scales: Scales, ids: list[Tensor]) -> Tensor:
    """The last hidden state, half (batch, seq, hidden), from INT8 GEMMs."""
    weights, int8, typed = model.weights, model.trt.int8, model.api == 3
    layers = model.architecture.layers

    def plugin(
        kind: str, version: str, name: str, inputs: list[Tensor], fields: Fields, scale: np.float32
    ) -> Layer:
        """A plugin that returns INT8 of this scale."""
        if typed:
            return model.plugin(kind, version, name, inputs, {**fields, "output_scale": scale})
        layer = model.plugin(kind, version, name, inputs, fields)
        _set_range(layer.get_output(0), _amax(scale))
        return layer

    def fc(
        name: str,
        linears: list[str],
        tensor: Tensor,
        activation: str,
        returned: list[str],
        bias: Fields,
    ) -> Tensor:
        """The outputs of `linears` side by side, of an int8 tensor: half, or in generation 2 int8,
        which covers all of `returned`, the names of outputs or activations.
        """
        weight = np.concatenate([weights[f"{n}.weight"] for n in linears])
        steps = np.concatenate([scales.weights[n] for n in linears])
        fields: Fields = {"out_dims": len(weight)}
        if typed:
            fields |= {
                "W": quantize_weight(weight, steps),
                "weight_scales": steps,
                "input_scale": scales.activations[activation],
                **bias,
            }
            return model.plugin("FC", "2", name, [tensor], fields).get_output(0)
        amax = [_amax(*steps)]
        if bias:
            # Upstream's plugin rounds the product before it adds a bias, in this range.
            amax.append(_amax(*(scales.outputs[n] for n in linears)))
        fields |= {"W": weight, "fc_amax": np.asarray(amax, np.float32), **bias}
        known = {**scales.activations, **scales.outputs}
        largest = max(known[n] for n in returned)
        return plugin("FC", "2", name, [tensor], fields, largest).get_output(0)

    def product(linear: str, tensor: Tensor, activation: str) -> Tensor:
        """Without the bias."""
        return fc(linear, [linear], tensor, activation, [linear], {})

    def skip_norm(
        name: str, inputs: list[Tensor], linear: str, activation: str | None
    ) -> list[Tensor]:
        """int8 or, without an activation's name, float; and the next residual, float."""
        fields = {**model.norm_fields(name, int8), "bias": weights[f"{linear}.bias"]}
        norm = ("SkipLayerNorm", "3", name, inputs)
        if activation is None:
            layer = model.plugin(*norm, {**fields, "output_fp32": 1})
        else:
            layer = plugin(*norm, fields, scales.activations[activation])
        return [layer.get_output(i) for i in range(2)]

    embedding = plugin(
        "EmbLayerNorm",
        "2",
        "embeddings",
        ids,
        model.embedding_fields(int8),
        scales.activations["layer.0.attention.input"],
    )
    hidden, padding, residual = (embedding.get_output(i) for i in range(3))
    if not typed:
        _set_range(padding, _MASK_RANGE)
    for i in range(layers):
        attention, ffn = f"layer.{i}.attention", f"layer.{i}.ffn"
        parts = [f"{attention}.{part}" for part in _PARTS]
        qkv_names = [f"{attention}.{name}" for name in ("queries", "keys", "values")]
        qkv = fc(
            f"{attention}.qkv",
            parts,
            hidden,
            f"{attention}.input",
            qkv_names,
            {"Bias": np.concatenate([weights[f"{part}.bias"] for part in parts])},
        )
        fields = model.attention_fields()
        if typed:
            fields |= {"has_mask": 1, "dq_probs": _UNUSED_RANGES}
        else:
            ranges = [
                _amax(*(scales.activations[name] for name in qkv_names)),
                _amax(scales.outputs[f"{attention}.scores"]),
                _amax(scales.activations[f"{attention}.probabilities"]),
            ]
            fields["dq_probs"] = np.asarray(ranges, np.float32)
        context = plugin(
            "QKVToContext",
            "3",
            f"{attention}.context",
            [qkv, padding],
            fields,
            scales.activations[f"{attention}.context"],
        ).get_output(0)
        output = f"{attention}.output"
        attended = product(output, context, f"{attention}.context")
        middle, residual = skip_norm(
            f"{attention}.norm", [attended, hidden, residual], output, f"{ffn}.input"
        )
        inner = product(f"{ffn}.in", middle, f"{ffn}.input")
        fields = {
            "type_id": int(int8),
            "ld": model.architecture.intermediate,
            "bias": weights[f"{ffn}.in.bias"],
        }
        gelu = plugin(
            "Gelu", "1", f"{ffn}.gelu", [inner], fields, scales.activations[f"{ffn}.inner"]
        ).get_output(0)
        outer = product(f"{ffn}.out", gelu, f"{ffn}.inner")
        hidden, residual = skip_norm(
            f"{ffn}.norm",
            [outer, middle, residual],
            f"{ffn}.out",
            f"layer.{i + 1}.attention.input" if i + 1 < layers else None,
        )
    return model.cast(hidden, model.trt.float16, "qa.input")


def _qa_head(model: _Model, hidden: Tensor) -> None:
    network = model.network
    logits = model.fc("qa", hidden, model.weights["qa.weight"], model.weights["qa.bias"])
    logits = model.cast(logits, model.trt.float32, "logits")
    for index, output in zip(_INDICES, OUTPUTS, strict=True):
        constant = _named(network.add_constant(index.shape, index), f"{output}.index")
        column = _named(
            network.add_gather(logits, constant.get_output(0), 2), f"{output}.column"
        ).get_output(0)
        # (batch, seq, 1), or (batch, seq, 1, 1, 1) from plugins of upstream's ranks.
        squeezed = _named(network.add_shuffle(column), output)
        squeezed.reshape_dims = (0, 0)
        tensor = squeezed.get_output(0)
        tensor.name = output
        network.mark_output(tensor)


def _amax(*scales: np.float32) -> float:
    """What the largest of these scales reaches: exact in float32, for a scale has 11 bits."""
    return float(max(scales)) * INT8_MAX


def _set_range(tensor: Tensor, amax: float) -> None:
    tensor.set_dynamic_range(-amax, amax)


def _array(value: Field) -> npt.NDArray[Any]:
    """C-contiguous, as plugins read it, and of one dimension at least."""
    return np.ascontiguousarray(value, np.int32 if isinstance(value, int) else None)


def _named(layer: Layer | None, name: str) -> Layer:
    layer = _present(layer, f"layer {name}")
    layer.name = name
    return layer


def _present(
    value: _T | None, what: str, advice: str = "the runtime's log above may say why"
) -> _T:
    if value is None:
        raise UserError(f"TensorRT has no {what}; {advice}")
    return value
