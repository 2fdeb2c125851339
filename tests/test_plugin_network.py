"""The network of plugins: its layers, what its fields hold, what it computes, what it refuses."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import oracles
import pytest
import tensorrt_double as double
from onnx import numpy_helper
from tiny_bert import architecture_of, fitting_scales, inputs_of, random_weights

from harness.errors import UserError, one_line
from harness.graph import Precision, build_graph
from harness.plugin_network import add_bert
from harness.scales import Scales, quantize_weight
from harness.tensorrt_api import Api
from harness.weights import Weights

# The plugins' attention has heads of 32 or 64.
ARCHITECTURE = replace(architecture_of(2), heads=2)
WEIGHTS = random_weights(ARCHITECTURE)
SCALES = fitting_scales(WEIGHTS, ARCHITECTURE)
PARTS = ("query", "key", "value")

Arrays = dict[str, npt.NDArray[Any]]


def add(
    network: Any,
    api: Api,
    scales: Scales | None = None,
    *,
    weights: Weights = WEIGHTS,
    registry: Any = None,
    **changes: Any,
) -> None:
    trt = {2: double.TENSORRT_V2, 3: double.TENSORRT_V3}[api]
    registry = registry or {2: double.RegistryV2, 3: double.RegistryV3}[api]()
    add_bert(network, trt, registry, weights, replace(ARCHITECTURE, **changes), scales, api=api)


def network_of(generation: str, *, int8: bool = False) -> Any:
    network = {"2": double.NetworkV2, "3": double.NetworkV3, "ixrt": double.NetworkOfIxrt}[
        generation
    ]()
    add(network, 3 if generation == "3" else 2, SCALES if int8 else None)
    return network


FP16 = pytest.mark.parametrize("generation", ["2", "3", "ixrt"])


def links(network: Any) -> list[str]:
    """Each layer as "name: kind(what it takes)"; a tensor is called after its layer, and by its
    number where it is not the first.
    """
    names = {tensor: tensor.name for tensor in network.inputs}
    lines = []
    for layer in network.layers:
        taken = ", ".join(names[tensor] for tensor in layer.inputs)
        lines.append(f"{layer.name}: {layer.kind}({taken})")
        for i, tensor in enumerate(layer.outputs):
            names[tensor] = f"{layer.name}.{i}" if i else layer.name
    return lines


def layers_of(network: Any) -> dict[str, Any]:
    found = {layer.name: layer for layer in network.layers}
    assert len(found) == len(network.layers), "two layers have one name"
    return found


@cache
def initializers(precision: Precision, *, int8: bool) -> Arrays:
    graph = build_graph(WEIGHTS, ARCHITECTURE, precision, SCALES if int8 else None).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def same(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def test_the_library_needs_no_runtime() -> None:
    assert "tensorrt" not in sys.modules


@FP16
def test_fp16_layers(generation: str) -> None:
    def layer(i: int, hidden: str) -> list[str]:
        a, f = f"layer.{i}.attention", f"layer.{i}.ffn"
        return [
            f"{a}.qkv: FC 1({hidden})",
            f"{a}.context: QKVToContext 1({a}.qkv, embeddings.1)",
            f"{a}.output: FC 1({a}.context)",
            f"{a}.norm: SkipLayerNorm 1({a}.output, {hidden})",
            f"{f}: FFN 1({a}.norm)",
            f"{f}.norm: SkipLayerNorm 1({f}, {a}.norm)",
        ]

    assert links(network_of(generation)) == [
        "embeddings: EmbLayerNorm 1(input_ids, segment_ids, input_mask)",
        *layer(0, "embeddings"),
        *layer(1, "layer.0.ffn.norm"),
        "qa: FC 1(layer.1.ffn.norm)",
        *head("Identity" if generation == "ixrt" else "Cast"),
    ]


def test_int8_layers() -> None:
    def layer(i: int, hidden: str, residual: str) -> list[str]:
        a, f = f"layer.{i}.attention", f"layer.{i}.ffn"
        return [
            f"{a}.qkv: FC 2({hidden})",
            f"{a}.context: QKVToContext 3({a}.qkv, embeddings.1)",
            f"{a}.output: FC 2({a}.context)",
            f"{a}.norm: SkipLayerNorm 3({a}.output, {hidden}, {residual})",
            f"{f}.in: FC 2({a}.norm)",
            f"{f}.gelu: Gelu 1({f}.in)",
            f"{f}.out: FC 2({f}.gelu)",
            f"{f}.norm: SkipLayerNorm 3({f}.out, {a}.norm, {a}.norm.1)",
        ]

    assert links(network_of("3", int8=True)) == [
        "embeddings: EmbLayerNorm 2(input_ids, segment_ids, input_mask)",
        *layer(0, "embeddings", "embeddings.2"),
        *layer(1, "layer.0.ffn.norm", "layer.0.ffn.norm.1"),
        "qa.input: Cast(layer.1.ffn.norm)",
        "qa: FC 1(qa.input)",
        *head("Cast"),
    ]


def head(cast: str) -> list[str]:
    lines = [f"logits: {cast}(qa)"]
    for name in ("start_logits", "end_logits"):
        lines += [
            f"{name}.index: Constant()",
            f"{name}.column: Gather(logits, {name}.index)",
            f"{name}: Shuffle({name}.column)",
        ]
    return lines


@pytest.mark.parametrize(
    ("generation", "int8"), [("2", False), ("3", False), ("ixrt", False), ("3", True)]
)
def test_inputs_and_outputs_are_those_of_the_onnx_graph(generation: str, int8: bool) -> None:
    network = network_of(generation, int8=int8)
    graph = build_graph(WEIGHTS, ARCHITECTURE, "fp16").graph
    assert [t.name for t in network.inputs] == [v.name for v in graph.input]
    assert [t.name for t in network.outputs] == [v.name for v in graph.output]
    assert {(t.dtype, t.shape) for t in network.inputs} == {(double.INT32, (-1, -1))}
    assert {(t.dtype, t.shape) for t in network.outputs} == {(double.FLOAT, (-1, -1))}


def test_upstream_s_five_dimensions_pass_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = property(
        lambda spec: (-1, -1) if spec.channels is None else (-1, -1, spec.channels, 1, 1)
    )
    monkeypatch.setattr(double.Spec, "shape", shape)
    assert [t.shape for t in network_of("ixrt").outputs] == [(-1, -1)] * 2


def expected_logits(taken: Callable[..., Any], weights: Weights) -> list[npt.NDArray[Any]]:
    """Of three windows, one after the other, start and end logits."""
    ids, segments, mask = inputs_of([40, 7, 23], 40)
    logits = []
    for row, length in enumerate(mask.sum(axis=1)):
        logits += oracles.bert_logits(
            weights, ARCHITECTURE, ids[row, :length], segments[row, :length], taken
        )
    return logits


def computed_logits(network: Any) -> list[npt.NDArray[Any]]:
    ids, segments, mask = inputs_of([40, 7, 23], 40)
    outputs = double.evaluate(
        network, {"input_ids": ids, "segment_ids": segments, "input_mask": mask}
    )
    return [
        outputs[name][row, :length]
        for row, length in enumerate(mask.sum(axis=1))
        for name in ("start_logits", "end_logits")
    ]


@FP16
def test_fp16_computes_bert(generation: str) -> None:
    computed = computed_logits(network_of(generation))
    for a, b in zip(computed, expected_logits(lambda _, x: x, WEIGHTS), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)


def test_int8_computes_bert_with_quantized_gemms() -> None:
    linears = {k for k in SCALES.weights if k != "qa"}
    dequantized = {
        f"{linear}.weight": (
            quantize_weight(WEIGHTS[f"{linear}.weight"], SCALES.weights[linear])
            * SCALES.weights[linear][:, None].astype(np.float64)
        )
        for linear in linears
    }

    def taken(linear: str, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        if linear == "qa":
            return x
        i, block, part = linear.removeprefix("layer.").split(".")
        activation = {"query": "input", "key": "input", "value": "input", "output": "context"}
        name = {"in": "input", "out": "inner", **activation}[part]
        scale = float(SCALES.activations[f"layer.{i}.{block}.{name}"])
        return np.clip(np.rint(x / scale), -128, 127) * scale

    computed = computed_logits(network_of("3", int8=True))
    exact = expected_logits(lambda _, x: x, WEIGHTS)
    for a, b, c in zip(
        computed, expected_logits(taken, {**WEIGHTS, **dequantized}), exact, strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)
        assert np.abs(a - c).max() > 1e-4


def biases_and_norms(network: Any, *, int8: bool) -> None:
    """What is float32 in both precisions is bit for bit the FP32 graph's."""
    graph, layers = initializers("fp32", int8=int8), layers_of(network)
    embedding = layers["embeddings"].fields
    for ours, name in (
        ("layernorm_beta", "norm.beta"),
        ("layernorm_gamma", "norm.gamma"),
        ("word_embeddings", "word"),
        ("token_type_embeddings", "segment"),
        ("position_embeddings", "position"),
    ):
        assert same(embedding[f"bert_embeddings_{ours}"], graph[f"embeddings.{name}"])
    for i in range(ARCHITECTURE.layers):
        a, f = f"layer.{i}.attention", f"layer.{i}.ffn"
        for norm in (f"{a}.norm", f"{f}.norm"):
            for part in ("gamma", "beta"):
                assert same(layers[norm].fields[part], graph[f"{norm}.{part}"])
        assert same(
            layers[f"{a}.qkv"].fields["Bias" if int8 else "B"],
            np.concatenate([graph[f"{a}.{part}.bias"] for part in PARTS]),
        )
        assert same(layers[f"{f}.norm"].fields["bias"], graph[f"{f}.out.bias"])
        owner, field = (f"{a}.norm", "bias") if int8 else (f"{a}.output", "B")
        assert same(layers[owner].fields[field], graph[f"{a}.output.bias"])
        owner, field = (f"{f}.gelu", "bias") if int8 else (f, "B1")
        assert same(layers[owner].fields[field], graph[f"{f}.in.bias"])
    if not int8:
        # The quantized graph has another head.
        assert same(layers["qa"].fields["W"].T, graph["qa.weight"])
    assert same(layers["qa"].fields["B"], graph["qa.bias"])


@FP16
def test_fp16_fields_hold_the_weights_of_the_onnx_graph(generation: str) -> None:
    network = network_of(generation)
    biases_and_norms(network, int8=False)
    graph, half, layers = (
        initializers("fp32", int8=False),
        initializers("fp16", int8=False),
        layers_of(network),
    )
    for i in range(ARCHITECTURE.layers):
        a, f = f"layer.{i}.attention", f"layer.{i}.ffn"
        for layer, field, linears in (
            (f"{a}.qkv", "W", [f"{a}.{part}" for part in PARTS]),
            (f"{a}.output", "W", [f"{a}.output"]),
            (f, "W1", [f"{f}.in"]),
            (f, "W2", [f"{f}.out"]),
        ):
            weight = layers[layer].fields[field]
            assert same(weight.T, np.hstack([graph[f"{name}.weight"] for name in linears]))
            # Rounded as the plugin does, they are the FP16 graph's too.
            rounded = weight.astype(np.float16).T
            assert same(rounded, np.hstack([half[f"{name}.weight"] for name in linears]))


def test_int8_fields_hold_the_integers_and_scales_of_the_onnx_graph() -> None:
    network = network_of("3", int8=True)
    biases_and_norms(network, int8=True)
    graph, layers = initializers("fp32", int8=True), layers_of(network)
    made: dict[str, str] = {}
    for i in range(ARCHITECTURE.layers):
        a, f = f"layer.{i}.attention", f"layer.{i}.ffn"
        for layer, activation, linears in (
            (f"{a}.qkv", f"{a}.input", [f"{a}.{part}" for part in PARTS]),
            (f"{a}.output", f"{a}.context", [f"{a}.output"]),
            (f"{f}.in", f"{f}.input", [f"{f}.in"]),
            (f"{f}.out", f"{f}.inner", [f"{f}.out"]),
        ):
            fields = layers[layer].fields
            assert same(fields["W"].T, np.hstack([graph[f"{name}.weight"] for name in linears]))
            scales = [graph[f"{name}.weight.scale"] for name in linears]
            assert same(fields["weight_scales"], np.concatenate(scales))
            assert same(fields["input_scale"], graph[f"{activation}.scale"].reshape(1))
            # Whoever makes the tensor writes it with the scale that it is read with.
            (tensor,) = layers[layer].inputs
            made[activation] = next(n for n in layers if tensor in layers[n].outputs)
            writer = layers[made[activation]].fields
            assert same(writer["output_scale"], fields["input_scale"])
    assert made["layer.0.attention.input"] == "embeddings"
    written = {name for name, layer in layers.items() if "output_scale" in layer.fields}
    assert written == set(made.values())


def test_the_qa_head_needs_no_scales() -> None:
    without = fitting_scales(WEIGHTS, ARCHITECTURE, qa=False)
    network = double.NetworkV3()
    add(network, 3, without)
    assert links(network) == links(network_of("3", int8=True))


def test_strided_weights_are_laid_out_anew() -> None:
    name = "layer.1.ffn.in.weight"
    network = double.NetworkV3()
    add(network, 3, weights={**WEIGHTS, name: np.asfortranarray(WEIGHTS[name])})
    for layer, other in zip(network.layers, network_of("3").layers, strict=True):
        assert all(same(layer.fields[key], value) for key, value in other.fields.items())


def test_the_double_knows_freed_memory() -> None:
    creator = double.CreatorV2("FC", "1", False)
    made = [double.PluginField("out_dims", np.array([8], np.int32), double.PluginFieldType.INT32)]
    with pytest.raises(AssertionError, match="freed"):
        creator.create_plugin("fc", double.PluginFieldCollection(made))


def refusal(*arguments: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        add(*arguments, **options)
    message = str(caught.value)
    assert message == one_line(message)
    # The cause, then the next step.
    assert "; " in message
    return message


def without(group: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != name}


def test_int8_in_generation_2_is_refused_for_what_is_missing() -> None:
    network = double.NetworkV2()
    message = refusal(network, 2, SCALES)
    assert "attention.output, ffn.in and ffn.out" in message and "PRECISION=fp16" in message
    assert not network.inputs


def test_weights_and_scales_must_fit() -> None:
    weights = without(WEIGHTS, "layer.1.ffn.in.bias")
    assert "layer.1.ffn.in.bias is missing" in refusal(double.NetworkV3(), 3, weights=weights)
    weights = {**WEIGHTS, "qa.bias": np.zeros(3, np.float32)}
    assert "qa.bias has shape" in refusal(double.NetworkV2(), 2, weights=weights)
    scales = replace(SCALES, activations=without(SCALES.activations, "layer.0.ffn.inner"))
    assert "layer.0.ffn.out are missing" in refusal(double.NetworkV3(), 3, scales)


def test_another_epsilon_is_refused() -> None:
    message = refusal(double.NetworkV3(), 3, layer_norm_eps=1e-5)
    assert "1e-12" in message and "1e-05" in message


@pytest.mark.parametrize("api", [2, 3])
def test_a_plugin_that_is_not_there_is_named(api: Api) -> None:
    network, registry = {
        2: (double.NetworkV2(), double.RegistryV2(missing="QKVToContext")),
        3: (double.NetworkV3(), double.RegistryV3(missing="QKVToContext")),
    }[api]
    message = refusal(network, api, registry=registry)
    assert "CustomQKVToContextPluginDynamic_IxRT version 1" in message
    assert f"BERT_PLUGIN_API={api}" in message


def test_the_library_of_the_other_generation_is_refused() -> None:
    registry = double.RegistryV3(creator=double.CreatorV2)
    assert "BERT_PLUGIN_API=3" in refusal(double.NetworkV3(), 3, registry=registry)


@pytest.mark.parametrize("api", [2, 3])
def test_a_plugin_that_refuses_its_fields_is_named(api: Api) -> None:
    network, registry = {
        2: (double.NetworkV2(), double.RegistryV2(refused="FFN")),
        3: (double.NetworkV3(), double.RegistryV3(refused="FFN")),
    }[api]
    assert "refuses layer.0.ffn;" in refusal(network, api, registry=registry)


@pytest.mark.parametrize(
    ("full", "named"),
    [
        ("Input", "input input_ids"),
        ("FC 1", "layer layer.0.attention.qkv"),
        ("Cast", "layer logits"),
        ("Gather", "layer start_logits.column"),
        ("Shuffle", "layer start_logits"),
    ],
)
def test_a_layer_that_the_network_refuses_is_named(full: str, named: str) -> None:
    assert f"no {named};" in refusal(double.NetworkV3(full), 3)
