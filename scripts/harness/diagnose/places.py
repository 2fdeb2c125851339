"""The sub-layers of BERT, in the order in which they run, and the tensors that they return.

Tensors and weights are named as `graph.build_graph` names them, layers counted from 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..scales import gemm_inputs
from ..weights import Architecture

MASK = "attention mask"
SEGMENTS = "segment embedding"
QA_HEAD = "QA head"
# What starts and ends in one layer, with its weights; the embeddings and the QA head are there
# once.
_LAYER = {
    "query": ("attention.query.add", "attention.query"),
    "key": ("attention.key.add", "attention.key"),
    "value": ("attention.value.add", "attention.value"),
    "attention context": ("attention.context.merged", None),
    "attention output": ("attention.output.add", "attention.output"),
    "attention LayerNorm": ("attention.norm", None),
    "FFN inner": ("ffn.gelu", "ffn.in"),
    "FFN output": ("ffn.out.add", "ffn.out"),
    "output LayerNorm": ("ffn.norm", None),
}
# One GEMM in most runtimes, with one quantized input.
PROJECTIONS = ("query", "key", "value")
# What each of a layer's linears takes; those that are not here take the layer's input.
_TAKES = {
    "attention output": "attention.context.merged",
    "FFN inner": "attention.norm",
    "FFN output": "ffn.gelu",
}


@dataclass(frozen=True)
class Linear:
    """A place's weights, `{name}.weight` and `{name}.bias`, the tensor that these take and what
    `scales` calls it."""

    name: str
    takes: str
    activation: str


@dataclass(frozen=True)
class Place:
    """A sub-layer: `kind` is what it is in each layer, `tensor` what it returns."""

    kind: str
    tensor: str
    layer: int | None = None
    linear: Linear | None = None

    @property
    def name(self) -> str:
        """The sub-layer in words."""
        return self.kind if self.layer is None else f"layer {self.layer} {self.kind}"


def places(architecture: Architecture) -> list[Place]:
    """All sub-layers in the order in which they run."""
    hidden = "embeddings.norm"
    found = [
        Place("word embedding", "word_embedding"),
        Place(SEGMENTS, "segment_embedding"),
        Place("position embedding", "position_embedding"),
        Place("embedding LayerNorm", hidden),
        Place(MASK, "mask_score"),
    ]
    activations = gemm_inputs(architecture)
    for i in range(architecture.layers):
        for kind, (tensor, weights) in _LAYER.items():
            linear = None
            if weights is not None:
                name = f"layer.{i}.{weights}"
                takes = f"layer.{i}.{_TAKES[kind]}" if kind in _TAKES else hidden
                linear = Linear(name, takes, activations[name])
            found.append(Place(kind, f"layer.{i}.{tensor}", i, linear))
        hidden = found[-1].tensor
    return [*found, Place(QA_HEAD, "logits", None, Linear("qa", hidden, activations["qa"]))]
