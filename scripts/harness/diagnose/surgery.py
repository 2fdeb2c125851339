"""ONNX graphs opened at the tensors between sub-layers. The graphs given stay as they are.

`tapped` returns the tensors; `cut` takes each from outside as well, so that every sub-layer works
on what it is given; `injected` adds an error to each; `kept_wide` replaces sub-layers by those of
an FP32 graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import onnx
from onnx import TensorProto, helper

MADE, ERROR = ".made", ".error"
_KEPT, _WIDE, _DROPPED = ".kept", ".wide", ".dropped"
# Always float32, whatever type is inside.
_LOGITS = "logits"
_MASK = "mask_score"


class Part(NamedTuple):
    """The nodes between a tensor and those that they take, in the graph's order."""

    nodes: list[onnx.NodeProto]
    takes: list[str]


def element_type(model: onnx.ModelProto, tensor: str) -> int:
    """The ONNX type of a tensor between sub-layers: that of the embeddings, or the logits'."""
    if tensor == _LOGITS:
        return int(TensorProto.FLOAT)
    kinds = (t.data_type for t in model.graph.initializer if t.name == "embeddings.word")
    return int(next(kinds))


def part_of(model: onnx.ModelProto, tensor: str, boundaries: Iterable[str]) -> Part:
    """The sub-layer that returns `tensor`; it takes other `boundaries` and the graph's inputs."""
    stops = set(boundaries) | {value.name for value in model.graph.input}
    known = {t.name for t in model.graph.initializer}
    wanted, nodes, takes = {tensor}, [], []
    for node in reversed(model.graph.node):
        if not wanted & set(node.output):
            continue
        nodes.append(node)
        for name in node.input:
            if name in stops:
                takes.append(name)
            elif name and name not in known:
                wanted.add(name)
    return Part(nodes[::-1], list(dict.fromkeys(takes[::-1])))


def tapped(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """`model` with `tensors` as its outputs."""
    made = _copy(model)
    _return(made, {tensor: element_type(model, tensor) for tensor in tensors})
    return made


def cut(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """`model` with `tensors` as inputs: what it makes of its own goes to the output `<name>.made`.

    A tensor that nothing takes is no input.
    """
    made = _copy(model)
    _rename_outputs(made, tensors, MADE)
    _return(made, {tensor + MADE: element_type(model, tensor) for tensor in tensors})
    taken = {name for node in made.graph.node for name in node.input}
    for tensor in tensors:
        if tensor in taken:
            # Only the mask has four axes.
            shape = [f"{tensor}.{axis}" for axis in range(4 if tensor == _MASK else 3)]
            kind = element_type(model, tensor)
            made.graph.input.append(helper.make_tensor_value_info(tensor, kind, shape))
    return made


def injected(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """`model`, which returns `logits`, with an input `<name>.error` added to each of `tensors`.

    Each is (batch, seq, width), or (1, 1, 1) zeros for no error.
    """
    made = _copy(model)
    _rename_outputs(made, tensors, MADE)
    nodes: list[onnx.NodeProto] = []
    for node in made.graph.node:
        nodes.append(node)
        for name in node.output:
            tensor = name.removesuffix(MADE)
            if tensor != name and tensor in tensors:
                added = [name, tensor + ERROR]
                nodes.append(helper.make_node("Add", added, [tensor], name=f"{tensor}.injected"))
    _replace_nodes(made, nodes)
    for tensor in tensors:
        shape = [f"{tensor}.{axis}" for axis in ("batch", "seq", "width")]
        kind = element_type(model, tensor)
        made.graph.input.append(helper.make_tensor_value_info(tensor + ERROR, kind, shape))
    _return(made, {_LOGITS: element_type(model, _LOGITS)})
    return made


def kept_wide(
    model: onnx.ModelProto,
    reference: onnx.ModelProto,
    tensors: Sequence[str],
    boundaries: Sequence[str],
) -> onnx.ModelProto:
    """`model` with the sub-layers that return `tensors` replaced by those of `reference`.

    `reference` is the same model in FP32, without Q/DQ nodes. Where `model` is FP16, casts stand
    around what is replaced, and none between two sub-layers of which one takes the other's output.
    """
    made = _copy(model)
    narrow = element_type(model, boundaries[0]) == TensorProto.FLOAT16
    constants = {t.name: t for t in reference.graph.initializer}
    parts = {tensor: part_of(reference, tensor, boundaries) for tensor in tensors}
    # Behind an FP16 graph's logits stands a cast already.
    cast = {tensor for tensor in tensors if narrow and tensor != _LOGITS}
    done: set[str] = set()

    def name_of(name: str, part: Part) -> str:
        if name in constants:
            if name not in done:
                done.add(name)
                made.graph.initializer.append(constants[name])
                made.graph.initializer[-1].name = name + _KEPT
            return name + _KEPT
        if name in part.takes:
            if name in cast:
                return name + _KEPT
            return name + _WIDE if narrow and name in boundaries else name
        return name if name in tensors and name not in cast else name + _KEPT

    nodes: list[onnx.NodeProto] = []
    for node in made.graph.node:
        for tensor in set(node.output) & set(tensors):
            part = parts[tensor]
            for name in part.takes:
                wide = name_of(name, part)
                if wide.endswith(_WIDE) and wide not in done:
                    done.add(wide)
                    nodes.append(_cast(name, wide, TensorProto.FLOAT))
            for source in part.nodes:
                copy = onnx.NodeProto()
                copy.CopyFrom(source)
                copy.name = source.name + _KEPT
                copy.input[:] = [name_of(name, part) for name in source.input]
                copy.output[:] = [name_of(name, part) for name in source.output]
                nodes.append(copy)
            if tensor in cast:
                nodes.append(_cast(tensor + _KEPT, tensor, TensorProto.FLOAT16))
            node.output[:] = [n + _DROPPED if n == tensor else n for n in node.output]
        nodes.append(node)
    _replace_nodes(made, nodes)
    _prune(made)
    _rename_kept(made)
    return made


def _rename_kept(model: onnx.ModelProto) -> None:
    """Give kept constants their own names back where what had them is gone: `graph_reader` finds
    a model's weights by these."""
    there = {t.name for t in model.graph.initializer}
    renamed = {}
    for tensor in model.graph.initializer:
        name = tensor.name.removesuffix(_KEPT)
        if name not in there:
            renamed[tensor.name] = name
            tensor.name = name
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=target, to=kind)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made


def _rename_outputs(model: onnx.ModelProto, tensors: Sequence[str], suffix: str) -> None:
    """What makes `tensors` makes `<name><suffix>` then; what takes them still says their names."""
    chosen = set(tensors)
    for node in model.graph.node:
        node.output[:] = [name + suffix if name in chosen else name for name in node.output]


def _return(model: onnx.ModelProto, outputs: dict[str, int]) -> None:
    """Make `outputs`, types by name, the graph's, and drop what they do not need."""
    del model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()
    )
    _prune(model)


def _prune(model: onnx.ModelProto) -> None:
    """Drop the nodes and constants that lead to no output."""
    wanted = {value.name for value in model.graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            kept.append(node)
            wanted.update(node.input)
    _replace_nodes(model, kept[::-1])
    for index in reversed(range(len(model.graph.initializer))):
        if model.graph.initializer[index].name not in wanted:
            del model.graph.initializer[index]


def _replace_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    del model.graph.node[:]
    model.graph.node.extend(nodes)
