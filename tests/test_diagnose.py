"""The diagnosis: models broken on purpose, each told right, and sound ones left in peace."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from conftest import Checkout
from onnx import helper, numpy_helper
from rich.console import Console
from run_builders import write_run
from test_batches import windows_of
from tiny_bert import architecture_of, fitting_scales, inputs_of, options_of, random_weights

from harness.backends import find_backend
from harness.backends.ort import OrtCpu, OrtSession
from harness.diagnose import choice
from harness.diagnose.diagnosis import Diagnosis, diagnose
from harness.diagnose.evidence import (
    ARITHMETIC,
    CHANNEL,
    COARSE,
    ENGINE,
    EXPLAINED,
    OVERFLOW,
    SATURATION,
    SWAPPED,
    WEIGHTS,
    WRONG_MASK,
)
from harness.diagnose.harm import TIED, group_of
from harness.diagnose.measures import Distance
from harness.diagnose.places import places
from harness.diagnose.record import DIAGNOSIS, document, read_diagnosis, write_diagnosis
from harness.diagnose.reference import Reference
from harness.diagnose.remedy import Remedy, mended, widened
from harness.diagnose.show import show
from harness.diagnose.taps import tapped_backend
from harness.errors import UserError
from harness.graph import Precision, build_graph, save_graph
from harness.host import sums_int8_exactly
from harness.report import write
from harness.run import Logits
from harness.scales import Scales, weight_scales
from harness.scoring import Score
from harness.weights import Weights
from harness.windows import select_windows

LAYERS = 4
ARCHITECTURE = architecture_of(LAYERS)
SEEDS = range(3)
LENGTHS = [40, 12, 33, 21, 38, 9, 27, 36]
GRAPH_PRECISIONS: dict[str, Precision] = {"fp32": "fp32", "fp16": "fp16", "int8": "fp32"}


def some(names: str, *axes: Iterable[Any], quick: int) -> Any:
    """Parameters for all combinations; every `quick`-th of them runs in `make test` too."""
    marks: list[Any] = [[], [pytest.mark.full]]
    combinations = list(product(*axes))
    listed = [
        pytest.param(*values, marks=marks[index % quick > 0])
        for index, values in enumerate(combinations)
    ]
    return pytest.mark.parametrize(names, listed)


PRECISIONS = ("fp32", "fp16", "int8")
every_seed = pytest.mark.parametrize("seed", SEEDS)
every_layer = pytest.mark.parametrize("layer", range(LAYERS))
every_precision = pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
# A layer's places with weights, by these; norms too.
WEIGHTED = {
    "query": "attention.query.weight",
    "key": "attention.key.weight",
    "value": "attention.value.weight",
    "attention output": "attention.output.weight",
    "attention LayerNorm": "attention.norm.gamma",
    "FFN inner": "ffn.in.weight",
    "FFN output": "ffn.out.bias",
    "output LayerNorm": "ffn.norm.beta",
}
# Which place suffers first from the scale of an activation.
SCALED = {
    "attention.input": "query",
    "attention.context": "attention output",
    "ffn.input": "FFN inner",
    "ffn.inner": "FFN output",
}


@cache
def weights_of(seed: int) -> Weights:
    return random_weights(ARCHITECTURE, seed)


@cache
def scales_of(seed: int) -> Scales:
    return fitting_scales(weights_of(seed), ARCHITECTURE)


def save(model: onnx.ModelProto, path: Path) -> Path:
    save_graph(model, path)
    return path


def reference_of(weights: Weights, seed: int) -> Reference:
    """The FP32 model of `weights` and some windows."""
    windows = windows_of(LENGTHS, seed)
    windows = replace(windows, tokens=windows.tokens % 49 + 1)
    with TemporaryDirectory() as folder:
        path = save(build_graph(weights, ARCHITECTURE, "fp32"), Path(folder) / "reference.onnx")
        return Reference(path, windows, range(len(windows)))


@cache
def sound(seed: int) -> Reference:
    return reference_of(weights_of(seed), seed)


@dataclass(frozen=True)
class Case:
    """A model beside a sound one in FP32."""

    folder: Path
    seed: int
    precision: str

    def graph(self, weights: Weights | None = None, scales: Scales | None = None) -> Any:
        """A graph at the case's precision, of sound parts where none are given."""
        if self.precision == "int8" and scales is None:
            scales = scales_of(self.seed)
            if weights is not None:
                own = {n: weight_scales(weights[f"{n}.weight"], 127) for n in scales.weights}
                scales = replace(scales, weights=own)
        return build_graph(
            weights or weights_of(self.seed), ARCHITECTURE, GRAPH_PRECISIONS[self.precision], scales
        )

    def diagnose(self, model: onnx.ModelProto, **more: Any) -> Diagnosis:
        tested = save(model, self.folder / "tested.onnx")
        options = options_of(ARCHITECTURE, self.precision)
        backend = tapped_backend(more.pop("backend", OrtCpu()))
        reference = more.pop("reference", None) or sound(self.seed)
        return diagnose(tested, reference, backend, options, **more)


def told(found: Diagnosis) -> tuple[str | None, str]:
    verdict = found.verdict
    return None if verdict.place is None else verdict.place.name, verdict.kind


def perturbed(weights: Weights, chosen: Callable[[str], bool], seed: int) -> Weights:
    """`weights` of which the chosen ones are off by a tenth of their size."""
    random = np.random.default_rng(seed)
    made = dict(weights)
    for name, value in weights.items():
        if chosen(name):
            noise = random.normal(0, 0.1 * np.sqrt(np.mean(value**2)), value.shape)
            made[name] = (value + noise).astype(np.float32)
    return made


@some("seed, precision", SEEDS, PRECISIONS, quick=4)
def test_a_sound_model_is_left_in_peace(seed: int, precision: str, tmp_path: Path) -> None:
    case = Case(tmp_path, seed, precision)
    found = case.diagnose(case.graph())
    assert told(found) == (None, EXPLAINED)
    assert not any(one.at_fault for one in found.judged)


@some("layer, precision, seed", range(LAYERS), PRECISIONS, SEEDS, quick=11)
def test_a_layer_with_other_weights(layer: int, precision: str, seed: int, tmp_path: Path) -> None:
    case = Case(tmp_path, seed, precision)
    ours = perturbed(weights_of(seed), lambda name: name.startswith(f"layer.{layer}."), seed)
    found = case.diagnose(case.graph(ours))
    assert told(found) == (f"layer {layer} query", WEIGHTS)
    assert {place.layer for place in found.verdict.others} == {layer}
    # Only attention's two products have no weights.
    assert len(found.verdict.others) == len(WEIGHTED) - 1


@some("kind, precision, seed", WEIGHTED, PRECISIONS, SEEDS, quick=11)
def test_a_sublayer_with_other_weights(
    kind: str, precision: str, seed: int, tmp_path: Path
) -> None:
    case, layer = Case(tmp_path, seed, precision), (list(WEIGHTED).index(kind) + seed) % LAYERS
    broken = f"layer.{layer}.{WEIGHTED[kind]}"
    ours = perturbed(weights_of(seed), broken.__eq__, seed)
    found = case.diagnose(case.graph(ours))
    assert told(found) == (f"layer {layer} {kind}", WEIGHTS)
    assert broken in " ".join(found.verdict.sentences)
    assert not found.verdict.others


@some("layer, seed", range(LAYERS), SEEDS, quick=3)
def test_an_overflow_of_fp16(layer: int, seed: int, tmp_path: Path) -> None:
    case = Case(tmp_path, seed, "fp16")
    ours = with_large_inner(weights_of(seed), layer)
    reference = reference_of(ours, seed)
    found = case.diagnose(case.graph(ours), reference=reference)
    assert told(found) == (f"layer {layer} FFN inner", OVERFLOW)
    lost, reached = found.verdict.sentences
    assert lost.endswith("is NaN or infinite")
    assert "times the largest FP16 number" in reached
    # What takes it has to be wide as well.
    group = widened(found.candidate, found.survey, reference.graph)
    assert [place.kind for place in group] == ["FFN inner", "FFN output"]


def with_large_inner(weights: Weights, layer: int) -> Weights:
    """The same function, up to GELU's tail, with one channel of an FFN beyond FP16's range."""
    inner, outer = f"layer.{layer}.ffn.in", f"layer.{layer}.ffn.out.weight"
    made = {name: value.copy() for name, value in weights.items()}
    made[f"{inner}.weight"][5] *= 1e5
    made[f"{inner}.bias"][5] *= 1e4
    made[outer][:, 5] /= 1e5
    return made


@some("factor, activation, layer, seed", (1 / 8, 8), SCALED, range(LAYERS), SEEDS, quick=13)
def test_a_wrong_activation_scale(
    factor: float, activation: str, layer: int, seed: int, tmp_path: Path
) -> None:
    kind = SATURATION if factor < 1 else COARSE
    case, name = Case(tmp_path, seed, "int8"), f"layer.{layer}.{activation}"
    scales = scales_of(seed)
    wrong = {**scales.activations, name: np.float32(scales.activations[name] * factor)}
    found = case.diagnose(case.graph(scales=replace(scales, activations=wrong)))
    assert told(found) == (f"layer {layer} {SCALED[activation]}", kind)
    assert name in found.verdict.sentences[1]
    others = {place.kind for place in found.verdict.others}
    assert others == ({"key", "value"} if activation == "attention.input" else set())


@some(
    "fault, kind, seed",
    ("mismatched", "coarse", "clipped"),
    ("key", "attention output", "FFN inner", "FFN output"),
    SEEDS,
    quick=7,
)
def test_a_wrong_weight_scale_of_one_channel(
    fault: str, kind: str, seed: int, tmp_path: Path
) -> None:
    case, layer, channel = Case(tmp_path, seed, "int8"), seed + 1, 11 + seed
    linear = f"layer.{layer}.{WEIGHTED[kind]}".removesuffix(".bias").removesuffix(".weight")
    steps = scales_of(seed).weights[linear].copy()
    steps[channel] *= {"mismatched": 1.5, "coarse": 16, "clipped": 1 / 8}[fault]
    if fault == "mismatched":
        # The integers are those of the right scale.
        model = case.graph()
        set_constant(model, f"{linear}.weight.scale", steps)
    else:
        scales = scales_of(seed)
        weights = {**scales.weights, linear: steps}
        model = case.graph(scales=replace(scales, weights=weights))
    found = case.diagnose(model)
    assert told(found) == (f"layer {layer} {kind}", CHANNEL)
    assert f"output channel {channel} of" in found.verdict.sentences[1]
    assert f"scale of channel {channel}" in found.verdict.sentences[2]
    assert not found.verdict.others


def set_constant(model: onnx.ModelProto, name: str, value: npt.ArrayLike) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(value, kind), name))


@some("precision, seed", PRECISIONS, SEEDS, quick=4)
def test_swapped_segment_embeddings(precision: str, seed: int, tmp_path: Path) -> None:
    case = Case(tmp_path, seed, precision)
    ours = {**weights_of(seed)}
    ours["embeddings.segment"] = np.ascontiguousarray(ours["embeddings.segment"][::-1])
    found = case.diagnose(case.graph(ours))
    assert told(found) == ("segment embedding", SWAPPED)
    assert not found.verdict.others


@some("fault, precision, seed", ("weak", "inverted"), PRECISIONS, SEEDS, quick=7)
def test_a_wrong_mask(fault: str, precision: str, seed: int, tmp_path: Path) -> None:
    case = Case(tmp_path, seed, precision)
    model = case.graph()
    if fault == "weak":
        set_constant(model, "masked_score", -1.0)
    else:
        node = next(n for n in model.graph.node if n.name == "mask_inverted")
        node.input[:] = list(node.input)[::-1]
    found = case.diagnose(model)
    assert told(found) == ("attention mask", WRONG_MASK)
    assert not found.verdict.others


def test_a_mask_that_masks_as_well_with_another_number(tmp_path: Path) -> None:
    case = Case(tmp_path, 0, "fp32")
    model = case.graph()
    set_constant(model, "masked_score", -1e9)
    assert told(case.diagnose(model)) == (None, EXPLAINED)


@some("layer", range(LAYERS), quick=2)
def test_arithmetic_that_nothing_else_explains(layer: int, tmp_path: Path) -> None:
    """Attention's scores divided by another number than the root of the heads' size."""
    case = Case(tmp_path, 0, "fp32")
    model = case.graph()
    model.graph.initializer.append(numpy_helper.from_array(np.float32(3.5), "wrong"))
    node = next(n for n in model.graph.node if n.name == f"layer.{layer}.attention.scaled")
    node.input[1] = "wrong"
    assert told(case.diagnose(model)) == (f"layer {layer} attention context", ARITHMETIC)


def test_an_engine_that_is_not_its_graph(tmp_path: Path) -> None:
    case = Case(tmp_path, 0, "fp32")
    other, right = (
        save(build_graph(weights_of(s), ARCHITECTURE, "fp32"), tmp_path / f"{s}.onnx")
        for s in (1, 0)
    )
    found = case.diagnose(case.graph(), engine=OrtSession(other, optimized=True))
    assert told(found) == (None, ENGINE)
    assert found.candidate == []
    sound = case.diagnose(case.graph(), engine=OrtSession(right, optimized=True))
    assert told(sound) == (None, EXPLAINED)
    assert sound.survey.logits.apart is not None and sound.survey.logits.apart < 1e-5


@every_precision
def test_the_remedy_mends_what_was_named(precision: str, tmp_path: Path) -> None:
    case = Case(tmp_path, 2, precision)
    ours = perturbed(weights_of(2), "layer.2.ffn.in.weight".__eq__, 0)
    found = case.diagnose(case.graph(ours))
    model = onnx.load(tmp_path / "tested.onnx")
    graphs = model, sound(2).graph
    whole = case.diagnose(mended(*graphs, found.candidate, found.survey))
    assert told(whole) == (None, EXPLAINED)
    mended_place, before = (
        next(m for m in one.survey.measured if m.place == found.verdict.place)
        for one in (whole, found)
    )
    # In FP16 what goes in and out is still FP16.
    assert mended_place.local.relative < before.local.relative / 20


def test_the_remedy_of_an_overflow(tmp_path: Path) -> None:
    case = Case(tmp_path, 0, "fp16")
    ours = with_large_inner(weights_of(0), 1)
    reference = reference_of(ours, 0)
    found = case.diagnose(case.graph(ours), reference=reference)
    group = widened(found.candidate, found.survey, reference.graph)
    model = mended(onnx.load(tmp_path / "tested.onnx"), reference.graph, group, found.survey)
    path = save(model, tmp_path / "mended.onnx")
    inputs = inputs_of([40, 23], 40)
    plain = save(reference.graph, tmp_path / "plain.onnx")
    right = OrtSession(plain, optimized=False).run(*inputs)
    mine = OrtSession(path, optimized=True).run(*inputs)
    real = inputs[2] == 1
    assert np.abs(mine.start_logits - right.start_logits)[real].max() < 0.1


@some("kind", ("query", "attention output", "FFN output", "FFN inner"), quick=3)
def test_an_int8_engine_with_a_place_in_float(kind: str, tmp_path: Path) -> None:
    """What the remedy builds is an engine like any other, closer to FP32 than without it."""
    case = Case(tmp_path, 1, "int8")
    found = case.diagnose(case.graph())
    place = next(p for p in places(ARCHITECTURE) if p.kind == kind and p.layer == 2)
    group = group_of(place, places(ARCHITECTURE))
    model = mended(case.graph(), sound(1).graph, group, found.survey)
    graph, engine = save(model, tmp_path / "mended.onnx"), tmp_path / "engine.onnx"
    options = options_of(ARCHITECTURE, "int8")
    OrtCpu().build(graph, engine, options)
    integers = [t for t in onnx.load(engine).graph.initializer if t.data_type == 3]
    # A layer has four, attention's joined; the QA head one.
    assert len(integers) == 4 * LAYERS + 1 - 1
    inputs = inputs_of([40, 23], 40)
    fused = OrtCpu().load(engine, options).run(*inputs)
    plain = OrtSession(graph, optimized=False).run(*inputs)
    real = inputs[2] == 1
    assert np.abs(fused.start_logits - plain.start_logits)[real].mean() < 0.05


def test_harm_names_the_kind_that_was_coarsest(tmp_path: Path) -> None:
    """All scales of one activation four times too large: no outlier, and little of its own."""
    case, scales = Case(tmp_path, 0, "int8"), scales_of(0)
    coarse = {
        name: np.float32(scale * (2.5 if name.endswith("attention.context") else 1))
        for name, scale in scales.activations.items()
    }
    found = case.diagnose(case.graph(scales=replace(scales, activations=coarse)))
    assert told(found) == (None, EXPLAINED)
    assert found.harm is not None
    assert set(found.harm.kinds) == {
        "query, key, value", "attention output", "FFN inner", "FFN output", "QA head"
    }  # fmt: skip
    sound = case.diagnose(case.graph())
    assert sound.harm is not None
    kind = "attention output"
    assert found.harm.kinds[kind] > 1.5 * sound.harm.kinds[kind]
    for other in set(found.harm.kinds) - {kind}:
        assert found.harm.kinds[other] == pytest.approx(sound.harm.kinds[other], rel=0.01)


def test_errors_are_of_real_tokens_alone(tmp_path: Path) -> None:
    """Another embedding for [PAD] changes nothing that counts."""
    case = Case(tmp_path, 0, "fp32")
    ours = {**weights_of(0)}
    ours["embeddings.word"] = ours["embeddings.word"].copy()
    ours["embeddings.word"][0] += 5
    found = case.diagnose(case.graph(ours))
    assert told(found) == (None, EXPLAINED)
    assert max(m.error.relative for m in found.survey.measured) < 1e-5


@every_seed
def test_distance_is_the_textbooks(seed: int) -> None:
    random = np.random.default_rng(seed)
    parts = [random.normal(0, 1, (n, 7)).astype(np.float32) for n in (5, 1, 12)]
    others = [p + random.normal(0, 0.1, p.shape).astype(np.float32) for p in parts]
    distance = Distance()
    for part, other in zip(parts, others, strict=True):
        distance.add(other, part)
    a, b = np.concatenate(others).astype(float), np.concatenate(parts).astype(float)
    found = distance.error()
    assert found.relative == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(b))
    assert found.cosine == pytest.approx((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))
    each = np.linalg.norm(b, axis=1, keepdims=True)
    assert found.token == pytest.approx((np.linalg.norm(a - b, axis=1) / each[:, 0]).mean())
    assert found.channels == pytest.approx((np.abs(a - b) / each).mean(axis=0) * np.sqrt(7))
    assert found.lost == 0
    distance.add(np.full((2, 7), np.nan, np.float32), parts[0][:2])
    lost = distance.error()
    assert lost.relative == float("inf") and lost.cosine == 0
    assert lost.lost == pytest.approx(2 / 20)


def test_the_worst_windows_come_first_and_chance_is_repeatable() -> None:
    windows = windows_of([3, 5, 4])
    right = np.zeros(12, np.float32)
    wrong = right.copy()
    wrong[[0, 9]] = 1, -2
    lengths = windows.lengths
    reference = Logits(right, right, lengths)
    assert choice.worst_of(Logits(wrong, right, lengths), reference, windows, 2) == [2, 0]
    wrong[4] = np.nan
    assert choice.worst_of(Logits(right, wrong, lengths), reference, windows, 1) == [1]
    drawn = choice.by_chance(100, 20, besides=range(50))
    assert drawn == choice.by_chance(100, 20, besides=range(50))
    assert len(set(drawn)) == 20 and min(drawn) >= 50
    assert sorted(choice.by_chance(5, 20, besides=[2])) == [0, 1, 3, 4]
    some = select_windows(windows, np.array([0, 2]))
    np.testing.assert_array_equal(some.tokens, windows.tokens[[0, 1, 2, 8, 9, 10, 11]])
    assert list(some.lengths) == [3, 4]


def test_a_backend_without_taps_gets_one_line() -> None:
    plugin = find_backend("plugin", available=False)
    with pytest.raises(UserError, match="use BACKEND=ort-cpu, openvino or ort-cuda") as caught:
        tapped_backend(plugin)
    assert "\n" not in str(caught.value)


def test_openvino_is_diagnosed_too(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from harness.backends.openvino import OpenVino

    case = Case(tmp_path, 0, "fp32")
    assert told(case.diagnose(case.graph(), backend=OpenVino())) == (None, EXPLAINED)
    ours = perturbed(weights_of(0), "layer.1.ffn.out.weight".__eq__, 0)
    found = case.diagnose(case.graph(ours), backend=OpenVino())
    assert told(found) == ("layer 1 FFN output", WEIGHTS)


def test_sums_that_saturate_are_told(tmp_path: Path) -> None:
    """OpenVINO sums pairs of INT8 products in 16 bits where the processor has no VNNI."""
    pytest.importorskip("openvino")
    from harness.backends.openvino import OpenVino

    case = Case(tmp_path, 0, "int8")
    found = case.diagnose(case.graph(), backend=OpenVino())
    if sums_int8_exactly():
        assert told(found) == (None, EXPLAINED)
        return
    assert told(found) == ("layer 0 query", ARITHMETIC)
    assert "saturate in 16 bits" in " ".join(found.verdict.sentences)
    # With weights of seven bits no pair can.
    scales = scales_of(0)
    halved = {name: 2 * steps for name, steps in scales.weights.items()}
    spared = case.diagnose(case.graph(scales=replace(scales, weights=halved)), backend=OpenVino())
    assert told(spared) == (None, EXPLAINED)


REMEDY = Remedy(
    ["layer 1 FFN inner", "layer 1 FFN output"], 400, Score(80, 88), Score(1, 2), Score(79, 87.5),
    100.0, 90.0, 0.02, True,
)  # fmt: skip


def document_of(found: Diagnosis, remedy: Remedy | None) -> dict[str, Any]:
    made_from = {"path": "x.onnx", "sha256": "ab" * 32}
    windows = {"worst": [1], "random": [2], "seed": 0, "chosen_by": "of a sample"}
    options = {"profile": "minilm-sample", "backend": "ort-cpu", "precision": "fp16"}
    return document(
        found, remedy, None if remedy else "there is nothing to mend", windows, 2e-7,
        {
            "options": options, "onnx": made_from, "engine": made_from, "device": "Test CPU",
            "made": "2026-01-02T03:04:05Z", "git": {"commit": None, "dirty": None},
        },
    )  # fmt: skip


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Diagnosis:
    case = Case(tmp_path_factory.mktemp("broken"), 0, "fp16")
    ours = with_large_inner(weights_of(0), 1)
    return case.diagnose(case.graph(ours), reference=reference_of(ours, 0))


def test_the_record_comes_back_and_is_shown(broken: Diagnosis, tmp_path: Path) -> None:
    made = document_of(broken, REMEDY)
    path = write_diagnosis(tmp_path / "run", made)
    assert read_diagnosis(path) == made
    console = Console(width=200, record=True, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        show(made, console)
    text = captured.get()
    assert max(map(len, text.splitlines())) <= 80
    assert "diagnose: first at layer 1 FFN inner: overflow" in text
    assert "F1 87.50: +85.50 points; the reference has 88.00" in text
    assert "QPS 90: -10.0%" in text
    for place in places(ARCHITECTURE):
        assert place.name in text


@pytest.mark.parametrize(
    ("key", "value"), [("places", []), ("verdict", {}), ("arithmetic", "fp4"), ("made", None)]
)
def test_a_damaged_record_is_refused(
    key: str, value: Any, broken: Diagnosis, tmp_path: Path
) -> None:
    made = document_of(broken, None)
    path = write_diagnosis(tmp_path / "run", made)
    path.write_text(json.dumps({**made, key: value}), encoding="utf-8")
    with pytest.raises(UserError, match=f"malformed at {key}"):
        read_diagnosis(path)


def test_the_report_draws_it(broken: Diagnosis, tmp_path: Path) -> None:
    folder = write_run(tmp_path, "minilm-sample/ort-cpu-fp16")
    write_diagnosis(folder, document_of(broken, REMEDY))
    page = write(tmp_path / "results", tmp_path / "golden", tmp_path)
    text = page.read_text(encoding="utf-8")
    assert "Where accuracy is lost" in text
    assert "layer 1 FFN inner: overflow" in text
    assert text.count('class="curve local"') >= 2 and 'class="missing"' in text
    assert "with another engine than the run" in text
    assert "layer 1 FFN inner: overflow" in page.with_suffix(".md").read_text(encoding="utf-8")
    (folder / DIAGNOSIS).write_text("{", encoding="utf-8")
    text = write(tmp_path / "results", tmp_path / "golden", tmp_path).read_text(encoding="utf-8")
    assert "A diagnosis is not shown" in text


@pytest.mark.full
def test_int8_minilm_and_sensitivity_agree(checkout: Checkout) -> None:
    """No sub-layer is at fault there, and the kind that loses most F1 alone is one of those that
    harm the logits most: FFN inner and FFN output are within a few per cent of each other."""
    options = {"PROFILE": "minilm-sample", "PRECISION": "int8", "DATASET": "", "WINDOWS": "16"}
    done = checkout.make("diagnose", **options)
    assert done.returncode == 0, done.stderr
    path = checkout.root / "results/minilm-sample/ort-cpu-int8" / DIAGNOSIS
    made = read_diagnosis(path)
    assert made["verdict"]["kind"] == EXPLAINED
    done = checkout.make("sensitivity", **options)
    assert done.returncode == 0, done.stderr
    lost = {}
    for line in done.stdout.splitlines():
        found = re.fullmatch(r"(.+?)  +\d+ +[\d.]+ +[\d.]+ +(-?[\d.]+)", line.strip())
        if found is not None and found[1] not in ("nothing", "all"):
            lost[found[1]] = float(found[2])
    assert len(lost) == 5, done.stdout
    names = {"FFN inner": "ffn in", "FFN output": "ffn out", "QA head": "qa head"}
    harms = made["harm"]["kinds"]
    worst = [kind for kind, harm in harms.items() if harm >= TIED * max(harms.values())]
    assert len(worst) <= 2
    assert max(lost, key=lost.__getitem__) in [names.get(kind, kind) for kind in worst]
