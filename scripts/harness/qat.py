"""Upstream's quantization-aware-trained checkpoint: its weights, and its scales where we use them.

`bert_base_int8_qat.bin` is a state_dict of the encoder that Deep-Spark/DeepSparkInference trains
with learned clipping. What a key means is read from upstream's code, not from the file, which
was not at hand: **the meaning of every amax below is unchecked against the real checkpoint**.

- the keys: `builder_utils_int8.py` of bert_base_squad/ixrt (up to commit dc54220d);
- which tensor an amax belongs to: `builder_int8.py` there and the INT8 plugins under `src/`,
  and the forward pass in bert_large_squad/igie/Int8QAT, `quantization.py` and
  `training_ops/torch_transformer_layers.py`, which trains models with these keys.

Both quantize symmetrically to [-127, 127], one amax a tensor (weights too), scale = amax / 127;
here it is rounded to float16, by 0.05 % at most, as all of `scales` are.
`{i}` counts layers from 0 and `…` is `.clip.clip_value_max`, one element:

    bert.encoder.layer.{i}.             layer.{i}.
    self_attn.qkv_proj.input_quant…     attention.input
    self_attn.attention_quant…          attention.{queries,keys,values}
    self_attn.atten_score_out_quant…    attention.probabilities
    self_attn.out_proj.input_quant…     attention.context
    fc1.input_quant…                    ffn.input
    fc2.input_quant…                    ffn.inner
    {linear}.weight_quant…              {linear}, the amax of every output channel;
                                        query, key and value share that of qkv_proj

and, for plugins that return INT8, of outputs:

    self_attn.qkv_proj.output_quant…    attention.{query,key,value}
    self_attn.softmax_in_quant…         attention.scores
    self_attn.out_proj.output_quant…    attention.output
    fc1.output_quant…                   ffn.in
    fc2_out_quant…                      ffn.out

**Queries, keys and values.** Training rounds them with `attention_quant`, after the bias, and
upstream's attention plugin reads them with it; that is the scale taken. (Upstream's builder has
the plugin before it write them with `qkv_proj.output_quant` instead.)

**Outputs.** A linear's `output_quant` rounds its product before the bias. Behind fc2, whose plugin
returns the product as well, upstream's builder takes the amax of the sum with the bias instead,
`fc2_out_quant`. So it is taken here: the file may lack `fc2.output_quant`.

**Left out.** `fc2.output_quant`, `qkv_add_bias_quant` and `emb_quant` are part of training that
upstream's builder skips as well.

**The QA head** has no quantizer: upstream's last layer norm returns floats to an FP16 linear. So
the scales hold no `qa`, and the head is to stay in floating point.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from .errors import UserError
from .scales import INT8_MAX, Scales, to_scale
from .torch_checkpoint import read_torch_checkpoint
from .weights import Architecture, Array, Weights, check_weights, to_float32

_OUTSIDE_LAYERS = {
    "embeddings.word": "bert.embeddings.word_embeddings.weight",
    "embeddings.position": "bert.embeddings.position_embeddings.weight",
    "embeddings.segment": "bert.embeddings.token_type_embeddings.weight",
    "embeddings.norm.gamma": "bert.embeddings.LayerNorm.weight",
    "embeddings.norm.beta": "bert.embeddings.LayerNorm.bias",
    "qa.weight": "qa_outputs.weight",
    "qa.bias": "qa_outputs.bias",
}
# Below `layer.{i}.` here and `bert.encoder.layer.{i}.` there.
_IN_LAYER = {
    "attention.output.weight": "self_attn.out_proj.weight",
    "attention.output.bias": "self_attn.out_proj.bias",
    "attention.norm.gamma": "self_attn_layer_norm.weight",
    "attention.norm.beta": "self_attn_layer_norm.bias",
    "ffn.in.weight": "fc1.weight",
    "ffn.in.bias": "fc1.bias",
    "ffn.out.weight": "fc2.weight",
    "ffn.out.bias": "fc2.bias",
    "ffn.norm.gamma": "final_layer_norm.weight",
    "ffn.norm.beta": "final_layer_norm.bias",
}
_FUSED = ("attention.query", "attention.key", "attention.value")
_LINEARS = {
    **dict.fromkeys(_FUSED, "self_attn.qkv_proj"),
    "attention.output": "self_attn.out_proj",
    "ffn.in": "fc1",
    "ffn.out": "fc2",
}
_ACTIVATIONS = {
    "attention.input": "self_attn.qkv_proj.input_quant",
    "attention.queries": "self_attn.attention_quant",
    "attention.keys": "self_attn.attention_quant",
    "attention.values": "self_attn.attention_quant",
    "attention.probabilities": "self_attn.atten_score_out_quant",
    "attention.context": "self_attn.out_proj.input_quant",
    "ffn.input": "fc1.input_quant",
    "ffn.inner": "fc2.input_quant",
}
_OUTPUTS = {
    **dict.fromkeys(_FUSED, "self_attn.qkv_proj.output_quant"),
    "attention.scores": "self_attn.softmax_in_quant",
    "attention.output": "self_attn.out_proj.output_quant",
    "ffn.in": "fc1.output_quant",
    "ffn.out": "fc2_out_quant",
}
_AMAX = "clip.clip_value_max"

_IGNORED = re.compile(
    # As in other checkpoints, and the buffer that training takes its segment ids from.
    r"bert\.(?:pooler\..*|embeddings\.(?:position_ids|token_type_ids))"
    # The causal mask and its value, which the attention module registers for decoders.
    r"|bert\.encoder\.layer\.\d+\.self_attn\.(?:bias|masked_bias)"
    # What a quantizer holds beside the learned amax: its value before training, the lower bound.
    r"|bert\..*_quant\.(?:_amax|clip\.clip_value_min)"
    # What only training rounds; see above.
    r"|bert\.embeddings\.emb_quant\.clip\.clip_value_max"
    r"|bert\.encoder\.layer\.\d+\.(?:self_attn\.qkv_add_bias|fc2\.output)_quant"
    r"\.clip\.clip_value_max"
)


def read_qat(path: Path, architecture: Architecture) -> tuple[Weights, Scales]:
    """The float32 weights of the checkpoint, not yet rounded, and the INT8 scales it was trained
    with; `Scales` lacks `qa` and FP8.

    Raises UserError for a file that `read_torch_checkpoint` refuses; for a tensor that is
    missing, unknown or of a shape that `architecture` does not have; for weights that are not
    finite; and for an amax that is not one finite number whose scale is above 0.
    """
    checkpoint = _Checkpoint(path)
    weights = _weights(checkpoint, architecture)
    scales = _scales(checkpoint, architecture)
    checkpoint.refuse_unread(architecture)
    check_weights(weights, architecture, qa_head=True)
    return weights, scales


def _weights(checkpoint: _Checkpoint, architecture: Architecture) -> Weights:
    weights = {name: checkpoint.float32(key) for name, key in _OUTSIDE_LAYERS.items()}
    for i in range(architecture.layers):
        theirs = f"bert.encoder.layer.{i}"
        for name, key in _IN_LAYER.items():
            weights[f"layer.{i}.{name}"] = checkpoint.float32(f"{theirs}.{key}")
        for part in ("weight", "bias"):
            key = f"{theirs}.self_attn.qkv_proj.{part}"
            fused = checkpoint.float32(key)
            if fused.shape[:1] != (len(_FUSED) * architecture.hidden,):
                raise UserError(
                    f"{key} in {checkpoint.path} has shape {fused.shape}, not query, key and value "
                    f"of {architecture.hidden} rows each; check the profile's architecture"
                )
            for name, third in zip(_FUSED, np.split(fused, len(_FUSED)), strict=True):
                weights[f"layer.{i}.{name}.{part}"] = third
    return weights


def _scales(checkpoint: _Checkpoint, architecture: Architecture) -> Scales:
    scales = Scales(
        {}, {}, origin={"method": "quantization-aware training", "file": checkpoint.path.name}
    )
    for i in range(architecture.layers):
        theirs = f"bert.encoder.layer.{i}"
        for name, quantizer in _ACTIVATIONS.items():
            scales.activations[f"layer.{i}.{name}"] = checkpoint.scale(f"{theirs}.{quantizer}")
        for name, quantizer in _OUTPUTS.items():
            scales.outputs[f"layer.{i}.{name}"] = checkpoint.scale(f"{theirs}.{quantizer}")
        for name, module in _LINEARS.items():
            outputs = architecture.intermediate if name == "ffn.in" else architecture.hidden
            scale = checkpoint.scale(f"{theirs}.{module}.weight_quant")
            scales.weights[f"layer.{i}.{name}"] = np.full(outputs, scale, np.float32)
    return scales


class _Checkpoint:
    """The tensors of a file, and which of them have been read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tensors = read_torch_checkpoint(path)
        self._unread = {key for key in self._tensors if not _IGNORED.fullmatch(key)}

    def float32(self, key: str) -> Array:
        if key not in self._tensors:
            raise UserError(
                f"{self.path} lacks {key}; give upstream's QAT checkpoint of this architecture"
            )
        self._unread.discard(key)
        return to_float32(self._tensors[key], key, self.path)

    def scale(self, quantizer: str) -> np.float32:
        amax = self.float32(f"{quantizer}.{_AMAX}")
        if amax.size == 1 and np.isfinite(amax).all() and amax.item() > 0:
            return np.float32(to_scale(amax.item(), INT8_MAX))
        shown = amax.item() if amax.size == 1 else f"of shape {amax.shape}"
        raise UserError(
            f"the amax of {quantizer} in {self.path} is {shown}, not one positive number; "
            "get the checkpoint again"
        )

    def refuse_unread(self, architecture: Architecture) -> None:
        if self._unread:
            raise UserError(
                f"{self.path} holds {min(self._unread)[:100]!r}, which a quantized BERT of "
                f"{architecture.layers} layers has no place for; check that the checkpoint and "
                "the profile's architecture belong together"
            )
