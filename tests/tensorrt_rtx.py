"""TensorRT-RTX's ONNX parser and builder, which need no GPU, and the layers of what they build.

`EngineInspector` wants a deserialized engine, and that a driver. But with detailed profiling
verbosity the builder logs the inspector's lines itself, one a layer, when a plan is done:

    Name: N, LayerType: T, Inputs: [ { Name: …, Datatype: Int8, … }], Constants: […],
    Outputs: […], …, Metadata: [ONNX Layer: A][ONNX Layer: B]

Metadata names the ONNX nodes a layer does, or does a part of.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any

import onnx

from harness.trt.library import find_tensorrt_rtx

_LAYER = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], "
    r"Constants: \[(?P<constants>.*?)\], Outputs: \[(?P<outputs>.*?)\], TacticName: .*?, "
    r"Metadata: (?P<metadata>.*)"
)
_TENSOR = re.compile(r"\{ Name: (.*?), Dimensions: \[([-\d,]*)\], .*?Datatype: (\w+), .*?\}")


@dataclass(frozen=True)
class Tensor:
    """A layer's input, output or constant; -1 in `shape` is a dynamic axis, `dtype` is TensorRT's
    word: Int8, Half, Float, …
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Layer:
    """One kernel of a plan; `kind` is gemm, kgen (a generated kernel), runtime_fusion, …"""

    name: str
    kind: str
    inputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    nodes: frozenset[str]


@dataclass(frozen=True)
class Plan:
    """The layers of a built plan in their order, what the parser and the builder warned of, and
    the plan's bytes, in which constants stand as they are.
    """

    layers: tuple[Layer, ...]
    warnings: tuple[str, ...]
    serialized: bytes


@functools.cache
def tensorrt() -> Any:
    """The bindings' module."""
    return find_tensorrt_rtx().module


def build(model: onnx.ModelProto, *, batch: int = 32, sequence: int = 384) -> Plan:
    """`model` built for an Ada GPU and shapes up to (batch, sequence); it has to parse."""
    trt = tensorrt()

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.messages: list[tuple[Any, str]] = []

        def log(self, severity: Any, message: str) -> None:
            self.messages.append((severity, message))

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse(model.SerializeToString())
    assert parsed, [str(parser.get_error(i)) for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    for value in model.graph.input:
        profile.set_shape(value.name, (1, 1), (batch, sequence), (batch, sequence))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    grave = [text for severity, text in log.messages if severity <= trt.ILogger.WARNING]
    assert plan is not None, grave
    (listing,) = (text for _, text in log.messages if text.startswith("Layers:"))
    lines = listing.partition("\n\n")[0].splitlines()[1:]
    return Plan(tuple(map(_layer, lines)), tuple(grave), bytes(plan))


def _layer(line: str) -> Layer:
    match = _LAYER.fullmatch(line)
    assert match, f"TensorRT-RTX writes its layers in another way: {line}"
    return Layer(
        match["name"],
        match["kind"],
        _tensors(match["inputs"]),
        _tensors(match["constants"]),
        _tensors(match["outputs"]),
        frozenset(re.findall(r"\[ONNX Layer: ([^]]*)\]", match["metadata"])),
    )


def _tensors(text: str) -> tuple[Tensor, ...]:
    found = tuple(
        Tensor(name, tuple(int(n) for n in shape.split(",") if n), dtype)
        for name, shape, dtype in _TENSOR.findall(text)
    )
    assert len(found) == text.count("{ Name: "), text
    return found
