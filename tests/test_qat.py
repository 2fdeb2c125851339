"""Upstream's QAT checkpoint: every weight and every amax in its place, all else refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from test_torch_checkpoint import KINDS, Ordered, Pickler, tensor, write_zip
from test_weights import TINY, assert_same, hugging_face_name, random_weights

from harness.errors import UserError
from harness.qat import read_qat
from harness.scales import check_outputs, check_scales, gemm_inputs, read_scales, save_scales
from harness.weights import Weights

State = dict[str, npt.NDArray[Any]]

MODULES = {
    "self_attn.out_proj": "attention.output",
    "self_attn_layer_norm": "attention.norm",
    "fc1": "ffn.in",
    "fc2": "ffn.out",
    "final_layer_norm": "ffn.norm",
}
QUANTIZED = {
    "self_attn.qkv_proj.input_quant": ["attention.input"],
    "self_attn.attention_quant": ["attention.queries", "attention.keys", "attention.values"],
    "self_attn.atten_score_out_quant": ["attention.probabilities"],
    "self_attn.out_proj.input_quant": ["attention.context"],
    "fc1.input_quant": ["ffn.input"],
    "fc2.input_quant": ["ffn.inner"],
}
QUANTIZED_WEIGHTS = {
    "self_attn.qkv_proj.weight_quant": ["attention.query", "attention.key", "attention.value"],
    "self_attn.out_proj.weight_quant": ["attention.output"],
    "fc1.weight_quant": ["ffn.in"],
    "fc2.weight_quant": ["ffn.out"],
}
QUANTIZED_OUTPUTS = {
    "self_attn.qkv_proj.output_quant": ["attention.query", "attention.key", "attention.value"],
    "self_attn.softmax_in_quant": ["attention.scores"],
    "self_attn.out_proj.output_quant": ["attention.output"],
    "fc1.output_quant": ["ffn.in"],
    "fc2_out_quant": ["ffn.out"],
}
# Upstream's training code registers these, its builder does not read them.
WITHOUT_A_PLACE = ["fc2.output_quant", "self_attn.qkv_add_bias_quant"]
AMAX = "clip.clip_value_max"
LAYER = "bert.encoder.layer"


def required(
    weights: Weights, layers: int = TINY.layers
) -> tuple[State, dict[str, float], dict[str, float], dict[str, float]]:
    """The tensors that a checkpoint must hold, and the amax of each activation, linear, output.

    No two quantizers have the same amax. Half of them are tensors without an axis, as torch
    saves a scalar parameter, the others have one axis.
    """
    state: State = {
        hugging_face_name(name): array
        for name, array in weights.items()
        if not name.startswith("layer.")
    }
    activations: dict[str, float] = {}
    linears: dict[str, float] = {}
    outputs: dict[str, float] = {}
    count = 0
    for i in range(layers):
        for module, name in MODULES.items():
            parts = ("gamma", "beta") if name.endswith("norm") else ("weight", "bias")
            for ours, theirs in zip(parts, ("weight", "bias"), strict=True):
                state[f"{LAYER}.{i}.{module}.{theirs}"] = weights[f"layer.{i}.{name}.{ours}"]
        for part in ("weight", "bias"):
            state[f"{LAYER}.{i}.self_attn.qkv_proj.{part}"] = np.concatenate(
                [
                    weights[f"layer.{i}.attention.{name}.{part}"]
                    for name in ("query", "key", "value")
                ]
            )
        for group, amaxes in (
            (QUANTIZED, activations),
            (QUANTIZED_WEIGHTS, linears),
            (QUANTIZED_OUTPUTS, outputs),
        ):
            for quantizer, names in group.items():
                count += 1
                amax = 0.3 + 0.1 * count
                shape = () if count % 2 else (1,)
                state[f"{LAYER}.{i}.{quantizer}.{AMAX}"] = np.full(shape, amax, np.float32)
                amaxes.update({f"layer.{i}.{name}": amax for name in names})
    return state, activations, linears, outputs


def ignored(state: State) -> State:
    """What else upstream's training may leave in the file: no value that a scale could be."""
    wrong = np.full((), 1000, np.float32)
    extra: State = {
        f"{key.removesuffix(AMAX)}{buffer}": wrong
        for key in state
        if key.endswith(AMAX)
        for buffer in ("_amax", "clip.clip_value_min")
    }
    for i in range(TINY.layers):
        extra |= {f"{LAYER}.{i}.{quantizer}.{AMAX}": wrong for quantizer in WITHOUT_A_PLACE}
        extra[f"{LAYER}.{i}.self_attn.bias"] = np.tri(5, dtype=np.uint8)[None]
        extra[f"{LAYER}.{i}.self_attn.masked_bias"] = wrong
    return extra | {
        f"bert.embeddings.emb_quant.{AMAX}": wrong,
        "bert.embeddings.emb_quant._amax": wrong,
        "bert.embeddings.position_ids": np.arange(5)[None],
        "bert.embeddings.token_type_ids": np.zeros((1, 5), np.int64),
        "bert.pooler.dense.weight": np.ones((4, 4), np.float32),
    }


def save(state: State, path: Path) -> Path:
    kinds = {np.dtype(dtype): kind for kind, dtype in KINDS.items()}
    items, storages = {}, {}
    for number, (key, array) in enumerate(state.items()):
        strides = tuple(
            stride // array.itemsize for stride in np.ascontiguousarray(array).strides[: array.ndim]
        )
        kind = kinds[array.dtype]
        items[key] = tensor(kind, str(number), array.size, 0, array.shape, strides)
        storages[str(number)] = array.tobytes()
    return write_zip(path, Pickler().dumps(Ordered(items)), storages)


def refused(state: State, path: Path, *words: str, **architecture: int) -> None:
    with pytest.raises(UserError) as caught:
        read_qat(save(state, path), replace(TINY, **architecture))
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message and "; " in message and len(message) < 600


@pytest.mark.parametrize("everything", [False, True])
def test_round_trip(tmp_path: Path, everything: bool) -> None:
    expected = random_weights()
    state, activations, linears, outputs = required(expected)
    amaxes = [float(array.item()) for key, array in state.items() if key.endswith(AMAX)]
    assert len(set(amaxes)) == len(amaxes), "a mix-up would go unseen"
    if everything:
        state |= ignored(state)
    weights, scales = read_qat(save(state, tmp_path / "qat.bin"), TINY)

    assert_same(weights, expected)
    for found, amaxes_of in ((scales.activations, activations), (scales.outputs, outputs)):
        assert found == {n: np.float32(np.float16(a / 127)) for n, a in amaxes_of.items()}
    assert scales.weights.keys() == linears.keys()
    for name, amax in linears.items():
        rows = expected[f"{name}.weight"].shape[0]
        assert np.array_equal(scales.weights[name], np.full(rows, np.float16(amax / 127), "f4"))
    inputs = gemm_inputs(TINY)
    assert linears.keys() == inputs.keys() - {"qa"}
    assert {inputs[name] for name in linears} <= activations.keys()
    assert not scales.fp8_activations and not scales.fp8_weights
    check_scales(scales, weights, TINY)
    check_outputs(scales, TINY)

    save_scales(scales, tmp_path / "scales.safetensors")
    again = read_scales(tmp_path / "scales.safetensors")
    assert again.activations == scales.activations and again.origin == scales.origin
    assert again.outputs == scales.outputs


def test_every_tensor_is_needed(tmp_path: Path) -> None:
    state, *_ = required(random_weights())
    for key in state:
        rest = {name: array for name, array in state.items() if name != key}
        refused(rest, tmp_path / "qat.bin", f"lacks {key}")


@pytest.mark.parametrize(
    "quantizer", ["fc2.input_quant", "self_attn.qkv_proj.weight_quant", "fc2_out_quant"]
)
@pytest.mark.parametrize(
    "amax",
    [
        np.zeros(1, np.float32),
        np.full((), -0.5, np.float32),
        np.full((), np.inf, np.float32),
        np.full((), np.nan, np.float32),
        np.ones(TINY.hidden, np.float32),
        np.ones(0, np.float32),
        np.ones((), np.int64),
    ],
    ids=["zero", "negative", "infinite", "nan", "several", "none", "integer"],
)
def test_an_amax_is_one_positive_number(
    tmp_path: Path, quantizer: str, amax: npt.NDArray[Any]
) -> None:
    state, *_ = required(random_weights())
    state[f"{LAYER}.1.{quantizer}.{AMAX}"] = amax
    refused(state, tmp_path / "qat.bin", f"layer.1.{quantizer}")


Change = Callable[[State], object]
QKV = f"{LAYER}.0.self_attn.qkv_proj"
CHANGES: dict[str, tuple[Change, str]] = {
    "two of query, key, value": (
        lambda s: s.update({f"{QKV}.weight": s[f"{QKV}.weight"][:8]}),
        "qkv_proj.weight",
    ),
    "a fused scalar": (lambda s: s.update({f"{QKV}.bias": np.ones((), "f4")}), "qkv_proj.bias"),
    "(in, out)": (
        lambda s: s.update({f"{LAYER}.1.fc1.weight": s[f"{LAYER}.1.fc1.weight"].T.copy()}),
        "layer.1.ffn.in.weight",
    ),
    "not a number": (
        lambda s: s.update({"qa_outputs.bias": np.full(2, np.nan, np.float32)}),
        "qa.bias",
    ),
    "weights in integers": (
        lambda s: s.update({"qa_outputs.bias": np.ones(2, np.int8)}),
        "qa_outputs.bias",
    ),
    "unknown weight": (lambda s: s.update({f"{LAYER}.0.fc3.bias": np.ones(2, "f4")}), "fc3.bias"),
    "unknown amax": (
        lambda s: s.update({f"{LAYER}.0.fc1.new_quant.{AMAX}": np.ones((), np.float32)}),
        "new_quant",
    ),
    "quantized head": (
        lambda s: s.update({f"qa_outputs.input_quant.{AMAX}": np.ones((), np.float32)}),
        "qa_outputs.input_quant",
    ),
    "Hugging Face's layer": (
        lambda s: s.update({f"{LAYER}.0.attention.self.key.bias": np.ones(4, np.float32)}),
        "attention.self.key.bias",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_does_not_belong_is_named(tmp_path: Path, change: str) -> None:
    state, *_ = required(random_weights())
    make, named = CHANGES[change]
    make(state)
    refused(state, tmp_path / "qat.bin", named)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    state, *_ = required(random_weights())
    path = tmp_path / "qat.bin"
    refused(state, path, "layer.1.", "1 layers", layers=1)
    refused(state, path, "lacks bert.encoder.layer.2.", layers=3)
    refused(state, path, "qkv_proj", hidden=8)
    refused(state, path, "ffn.in", intermediate=8)
    refused(state, path, "embeddings.position", positions=6)
