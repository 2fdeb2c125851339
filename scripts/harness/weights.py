"""BERT's weights from any file they come in, under one naming.

`Weights` maps the names below to float32, C-contiguous arrays. Linear weights are (out, in),
as PyTorch keeps them; `{i}` counts layers from 0.

    embeddings.word (vocab, hidden)          embeddings.position (positions, hidden)
    embeddings.segment (2, hidden)           embeddings.norm.{gamma,beta} (hidden)
    layer.{i}.attention.{query,key,value,output}.{weight (hidden, hidden), bias (hidden)}
    layer.{i}.attention.norm.{gamma,beta} (hidden)
    layer.{i}.ffn.in.{weight (intermediate, hidden), bias (intermediate)}
    layer.{i}.ffn.out.{weight (hidden, intermediate), bias (hidden)}
    layer.{i}.ffn.norm.{gamma,beta} (hidden)
    qa.{weight (2, hidden), bias (2)}        the start logit is row 0, the end logit row 1

Files name their tensors as Hugging Face's `BertForQuestionAnswering` does, with or without the
leading `bert.`, or with the older `LayerNorm.gamma/beta`.

**Upstream's `bert_base_uncased_squad/bert_base_squad.onnx`.** Upstream's ixRT builder uses the
file as a container: it takes `graph.initializer`, never the graph, so the graph's inputs and
outputs play no part there. What its loader accepts says how the file must look: each
initializer is called `bert.…` or `qa_outputs.…` (any other name fails an assertion), is float32
in `raw_data` (so no int64 `position_ids`), and linear weights are (out, in), because they go
unturned into fields that are read as (out, in). Other exports of the same model differ:
`torch.onnx.export` folds the transposition into the weight and renames it `onnx::MatMul_123`.
`_from_onnx` reads both.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from safetensors import SafetensorError, safe_open

from .errors import UserError, one_line
from .torch_checkpoint import read_torch_checkpoint

Array = npt.NDArray[np.float32]
Weights = dict[str, Array]

SEGMENTS = 2
QA_OUTPUTS = 2


@dataclass(frozen=True)
class Architecture:
    """The sizes of a BERT encoder, in units of its `config.json`.

    `intermediate` is the width between the two linears of a feed-forward block, `positions` the
    longest sequence, `layer_norm_eps` what is added to the variance.
    """

    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocab: int
    positions: int
    layer_norm_eps: float

    def __post_init__(self) -> None:
        if self.heads < 1 or self.hidden % self.heads:
            raise UserError(
                f"hidden size {self.hidden} is not a multiple of {self.heads} heads; "
                "mend the profile's architecture"
            )

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads


def weight_shapes(architecture: Architecture, *, qa_head: bool) -> dict[str, tuple[int, ...]]:
    """The shape of every weight, in the order of the forward pass."""
    hidden, intermediate = architecture.hidden, architecture.intermediate
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str) -> None:
        shapes[f"{name}.gamma"] = shapes[f"{name}.beta"] = (hidden,)

    def linear(name: str, outputs: int, inputs: int) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs)
        shapes[f"{name}.bias"] = (outputs,)

    shapes["embeddings.word"] = (architecture.vocab, hidden)
    shapes["embeddings.position"] = (architecture.positions, hidden)
    shapes["embeddings.segment"] = (SEGMENTS, hidden)
    norm("embeddings.norm")
    for i in range(architecture.layers):
        for part in ("query", "key", "value", "output"):
            linear(f"layer.{i}.attention.{part}", hidden, hidden)
        norm(f"layer.{i}.attention.norm")
        linear(f"layer.{i}.ffn.in", intermediate, hidden)
        linear(f"layer.{i}.ffn.out", hidden, intermediate)
        norm(f"layer.{i}.ffn.norm")
    if qa_head:
        linear("qa", QA_OUTPUTS, hidden)
    return shapes


def check_weights(weights: Weights, architecture: Architecture, *, qa_head: bool) -> None:
    """Raise UserError unless `weights` are exactly those of `architecture`, all of them finite.

    The message names the first weight that is missing, has another shape or dtype, holds NaN or
    infinity, or does not belong; without `qa_head` a QA head does not belong.
    """
    shapes = weight_shapes(architecture, qa_head=qa_head)
    advice = "check that the checkpoint and the profile's architecture belong together"
    for name, shape in shapes.items():
        if name not in weights:
            raise UserError(f"weight {name} is missing; {advice}")
        weight = weights[name]
        if weight.shape != shape:
            raise UserError(f"weight {name} has shape {weight.shape}, not {shape}; {advice}")
        if weight.dtype != np.float32:
            raise UserError(f"weight {name} is {weight.dtype}, not float32; {advice}")
        if not np.isfinite(weight).all():
            raise UserError(f"weight {name} holds NaN or infinity; get the checkpoint again")
    for name in weights:
        if name not in shapes:
            raise UserError(f"weight {name} has no place in this architecture; {advice}")


def read_weights(path: Path) -> Weights:
    """Read a `.safetensors`, `.onnx`, `.bin`, `.pt` or `.pth` file.

    float16 and bfloat16 are widened. The pooler and `position_ids`, which question answering
    does not use, are left out; an ONNX file may hold other constants, the other formats may not
    hold anything unknown. Raises UserError for files that are missing, damaged or of another
    kind. Whether the weights are complete is for `check_weights` to say.
    """
    match path.suffix:
        case ".safetensors":
            tensors, _ = read_safetensors(path)
        case ".bin" | ".pt" | ".pth":
            tensors = read_torch_checkpoint(path)
        case ".onnx":
            return _from_onnx(path)
        case suffix:
            raise UserError(
                f"{path} ends in {suffix!r}; give weights as .safetensors, .onnx, .bin, .pt or .pth"
            )
    weights: Weights = {}
    for key, tensor in tensors.items():
        if _IGNORED.fullmatch(key):
            continue
        name = internal_name(key)
        if name is None:
            raise UserError(
                f"{path} holds {key[:100]!r}, which BERT question answering has no place for; "
                "give a BERT checkpoint"
            )
        if name in weights:
            raise UserError(f"{path} holds {name} under two names; keep one of them")
        weights[name] = to_float32(tensor, key, path)
    return weights


def check_size(path: Path) -> None:
    """Raise OSError for a file larger than any BERT's weights, before it is read or mapped.

    The bound is protobuf's; BERT-large has 1.3 GB.
    """
    if path.stat().st_size >= 1 << 31:
        raise OSError("2 GiB or larger")


def read_safetensors(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """All tensors of a safetensors file under their own names and dtypes, and its metadata.

    Raises UserError for a missing or malformed file.
    """
    try:
        check_size(path)
        with safe_open(path, "numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the name") from None
    except (SafetensorError, TypeError, ValueError, OSError) as error:
        # The library quotes what it finds, however long that is.
        reason = one_line(error)[:200]
        raise UserError(
            f"{path} is not a whole safetensors file ({reason}); get it again"
        ) from None


def to_float32(tensor: npt.NDArray[Any], name: str, path: Path) -> Array:
    """`tensor`, called `name` in `path`, as C-contiguous float32.

    Raises UserError unless it is float32, float16 or bfloat16: those widen without loss.
    """
    if tensor.dtype not in (np.float32, np.float16, ml_dtypes.bfloat16):
        raise UserError(
            f"{name[:100]!r} in {path} is {tensor.dtype}; "
            "give weights in float32, float16 or bfloat16"
        )
    return np.asarray(tensor, np.float32, order="C")


# Hugging Face's names and ours, below `embeddings.` and `encoder.layer.{i}.`.
_TABLES = {
    "word_embeddings": "word",
    "position_embeddings": "position",
    "token_type_embeddings": "segment",
}
_LINEARS = {
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.output.dense": "attention.output",
    "intermediate.dense": "ffn.in",
    "output.dense": "ffn.out",
}
_NORMS = {"attention.output.LayerNorm": "attention.norm", "output.LayerNorm": "ffn.norm"}
_NORM_PARTS = {"weight": "gamma", "gamma": "gamma", "bias": "beta", "beta": "beta"}

_IGNORED = re.compile(r"(?:bert\.)?(?:pooler\..*|embeddings\.position_ids)", re.DOTALL)
_LAYER = re.compile(r"encoder\.layer\.(0|[1-9][0-9]{0,3})\.(.+)\.([a-z]+)")


def internal_name(key: str) -> str | None:
    """Our name for Hugging Face's `key`, or None if it is none of BERT's."""
    if key in ("qa_outputs.weight", "qa_outputs.bias"):
        return key.replace("qa_outputs", "qa")
    key = key.removeprefix("bert.")
    owner, _, part = key.rpartition(".")
    if owner == "embeddings.LayerNorm" and part in _NORM_PARTS:
        return f"embeddings.norm.{_NORM_PARTS[part]}"
    table = owner.removeprefix("embeddings.")
    if table != owner and table in _TABLES and part == "weight":
        return f"embeddings.{_TABLES[table]}"
    if layer := _LAYER.fullmatch(key):
        index, owner, part = layer.groups()
        if owner in _LINEARS and part in ("weight", "bias"):
            return f"layer.{index}.{_LINEARS[owner]}.{part}"
        if owner in _NORMS and part in _NORM_PARTS:
            return f"layer.{index}.{_NORMS[owner]}.{_NORM_PARTS[part]}"
    return None


def _from_onnx(path: Path) -> Weights:
    """Weights from an ONNX file's initializers, by name, and by place where a name is lost.

    Where a MatMul multiplies by an initializer as it is, that is (in, out) and gets turned
    round; a weight the graph transposes first, or does not use, is (out, in) already. An
    unnamed (in, out) weight is known by the named bias that is added to its product.
    """
    graph = _load_onnx(path).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    # The exporter stores equal tensors once and gives the others as Identity of the first.
    for node in graph.node:
        if node.op_type == "Identity":
            for source, copy in zip(node.input, node.output, strict=False):
                if source in tensors:
                    tensors[copy] = tensors[source]

    sources: dict[str, str] = {}
    in_out: set[str] = set()
    for source in tensors:
        if name := internal_name(source):
            _claim(sources, name, source, path)
    for product in _products(graph.node):
        if product.weight not in tensors:
            continue
        if product.in_out:
            in_out.add(product.weight)
        if internal_name(product.weight) is None:
            for addend in product.addends:
                bias = internal_name(addend) if addend in tensors else None
                if bias and bias.endswith(".bias"):
                    name = bias.removesuffix("bias") + "weight"
                    _claim(sources, name, product.weight, path)
    if not sources:
        raise UserError(f"{path} has no initializer with a BERT weight's name; check the file")

    # Many names may stand for one tensor: it is widened once, and shared.
    arrays: dict[tuple[str, bool], Array] = {}
    weights: Weights = {}
    for name, source in sources.items():
        tensor, turned = tensors[source], source in in_out
        if (tensor.name, turned) not in arrays:
            array = to_float32(_onnx_array(tensor, path), source, path)
            arrays[tensor.name, turned] = np.ascontiguousarray(array.T) if turned else array
        weights[name] = arrays[tensor.name, turned]
    return weights


class _Product(NamedTuple):
    """A MatMul or Gemm: its right operand, whether that is (in, out), and what is added to it."""

    weight: str
    in_out: bool
    addends: list[str]


def _products(nodes: Iterable[onnx.NodeProto]) -> list[_Product]:
    added: dict[str, list[str]] = defaultdict(list)
    for node in nodes:
        if node.op_type == "Add" and len(node.input) == 2:
            for value in node.input:
                added[value].extend(node.input)
    return [
        _Product(
            weight=node.input[1],
            in_out=not any(a.name == "transB" and a.i for a in node.attribute),
            addends=[*node.input[2:3], *(a for out in node.output[:1] for a in added[out])],
        )
        for node in nodes
        if node.op_type in ("MatMul", "Gemm") and len(node.input) > 1
    ]


def _claim(sources: dict[str, str], name: str, source: str, path: Path) -> None:
    if sources.setdefault(name, source) != source:
        raise UserError(
            f"{path} holds {name} twice, as {sources[name][:100]!r} and {source[:100]!r}; "
            "export it again"
        )


def _load_onnx(path: Path) -> onnx.ModelProto:
    try:
        check_size(path)
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the name") from None
    except (DecodeError, OSError) as error:
        raise UserError(f"{path} is not a whole ONNX file ({error}); get it again") from None
    names = [tensor.name for tensor in model.graph.initializer]
    outputs: list[str] = []
    for node in model.graph.node:
        names += [*node.input, *node.output]
        outputs += filter(None, node.output)
    # protobuf gives bytes for what is not UTF-8.
    if not all(isinstance(name, str) for name in names):
        raise UserError(f"{path} has names that are not text; get it again")
    if len(set(outputs)) < len(outputs):
        raise UserError(f"{path} has a value that two nodes make; get it again")
    return model


def _onnx_array(tensor: onnx.TensorProto, path: Path) -> npt.NDArray[Any]:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        # The hash of the model would not cover that file.
        raise UserError(f"{path} keeps its weights in another file; save it as one file")
    try:
        return onnx.numpy_helper.to_array(tensor)
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{tensor.name[:100]!r} in {path} is damaged ({str(error)[:200]}); get the file again"
        ) from None
