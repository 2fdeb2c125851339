"""The backend plugin: its files and arrays anywhere, its network on an NVIDIA GPU."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from plugin_build import NO_COMPILER, built
from tiny_bert import architecture_of, fitting_scales, inputs_of, random_weights

from harness import graph_reader
from harness.backends import EngineOptions, plugin
from harness.backends.accelerated import OnAccelerator
from harness.backends.ort import OrtSession
from harness.backends.plugin import Plugin, PluginSession
from harness.batches import AUTO
from harness.devices import Accelerator
from harness.errors import UserError
from harness.executor import PRECISIONS, Executor, LoadedEngine, fuse
from harness.graph import add_fp8_scales, build_graph, save_graph
from harness.measure import run_windows
from harness.scales import FP8_MAX, Scales, gemm_inputs, quantize_weight, weight_scales
from harness.weights import Weights
from harness.windows import Float32, Int32, Windows

# Heads of a size that the kernels have.
ARCHITECTURE = replace(architecture_of(2), heads=2)
compiles = pytest.mark.skipif(NO_COMPILER, reason="no CUDA compiler (nvcc) here")
both_heads = pytest.mark.parametrize("qa", [True, False], ids=["qa in INT8", "qa in FP16"])


def options(batch: Any = 4) -> EngineOptions:
    return EngineOptions("fp16", batch, 40, ARCHITECTURE.hidden, ARCHITECTURE.heads, 0)


def fp8_scales(weights: Weights) -> Scales:
    """All inputs reach 8; the weights' are theirs, the QA head's among them."""
    inputs = gemm_inputs(ARCHITECTURE)
    return Scales(
        {},
        {},
        fp8_activations={name: np.float32(8 / 512) for name in inputs.values()},
        fp8_weights={name: weight_scales(weights[f"{name}.weight"], FP8_MAX) for name in inputs},
    )


def library() -> Path:
    return built("bert_executor").parents[1] / "lib" / "libbert_executor.so"


def output_of(*command: str | Path, seconds: int = 300) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@compiles
def test_files_and_batches_under_sanitizers(tmp_path: Path) -> None:
    assert ", 0 failed" in output_of(built("executor_test_host"), str(tmp_path))


@compiles
def test_misuse_is_refused_without_a_gpu(tmp_path: Path) -> None:
    assert ", 0 failed" in output_of(built("executor_test"), str(tmp_path))


@compiles
def test_refusals_become_one_line(tmp_path: Path) -> None:
    """Also shows that the arguments arrive: each refusal names what was given."""
    executor = Executor(library())
    with pytest.raises(UserError, match=r"none\.engine cannot be opened"):
        LoadedEngine(executor, tmp_path / "none.engine", 0)
    tensors = fuse(random_weights(ARCHITECTURE), ARCHITECTURE)
    lacking = {name: value for name, value in tensors.items() if name != "qa.bias"}
    engine = tmp_path / "an.engine"
    with pytest.raises(UserError, match=r"tensor qa\.bias is missing"):
        executor.build(lacking, ARCHITECTURE, "fp16", 0, 64, engine)
    with pytest.raises(UserError, match="heads have 32 or 64 channels, not 64 / 4"):
        executor.build(tensors, replace(ARCHITECTURE, heads=4), "fp16", 0, 64, engine)
    for precision in ("fp8", "int8"):
        with pytest.raises(UserError, match=r"tensor layer\.0\.attention\.qkv\.weight has"):
            executor.build(tensors, ARCHITECTURE, precision, 0, 64, engine)
    # All but the last one fit, with the QA head in INT8 or in FP16.
    for qa in (True, False):
        scales = fitting_scales(random_weights(ARCHITECTURE), ARCHITECTURE, qa=qa)
        integers = fuse(random_weights(ARCHITECTURE), ARCHITECTURE, "int8", scales)
        del integers["qa.bias"]
        with pytest.raises(UserError, match=r"tensor qa\.bias is missing"):
            executor.build(integers, ARCHITECTURE, "int8", 0, 64, engine)
    narrow = replace(ARCHITECTURE, intermediate=88)
    with pytest.raises(UserError, match="multiples of 16, not 64 and 88"):
        executor.build(tensors, narrow, "fp8", 0, 64, engine)
    with pytest.raises(UserError, match="max_tokens is 1 to 1048576, not 0"):
        executor.build(tensors, ARCHITECTURE, "fp16", 0, 0, engine)
    assert not engine.exists()


def test_a_missing_library_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make plugin") as caught:
        Executor(tmp_path / "none.so")
    assert "\n" not in str(caught.value)


def test_fused_tensors_hold_queries_then_keys_then_values() -> None:
    weights = random_weights(ARCHITECTURE)
    fused = fuse(weights, ARCHITECTURE)
    assert {value.dtype for value in fused.values()} == {np.dtype(np.float16)}
    hidden = ARCHITECTURE.hidden
    for i, part in enumerate(("query", "key", "value")):
        for kind in ("weight", "bias"):
            rows = fused[f"layer.1.attention.qkv.{kind}"][i * hidden : (i + 1) * hidden]
            expected = weights[f"layer.1.attention.{part}.{kind}"].astype(np.float16)
            assert np.array_equal(rows, expected)
    assert len(fused) == len(weights) - 4 * ARCHITECTURE.layers


def test_fp8_tensors_are_what_a_graph_with_their_scales_holds(tmp_path: Path) -> None:
    weights = random_weights(ARCHITECTURE)
    scales = fp8_scales(weights)
    half = {name: value.astype(np.float16).astype(np.float32) for name, value in weights.items()}
    model = build_graph(weights, ARCHITECTURE, "fp16")
    add_fp8_scales(model, scales)
    save_graph(model, tmp_path / "fp8.onnx")
    read = graph_reader.read_graph(tmp_path / "fp8.onnx")
    direct, through = (
        fuse(half, ARCHITECTURE, "fp8", scales),
        fuse(read.weights, read.architecture, "fp8", read.scales),
    )
    assert direct.keys() == through.keys()
    assert all(np.array_equal(direct[name], through[name]) for name in direct)

    plain = fuse(weights, ARCHITECTURE)
    quantized = {name for name, value in direct.items() if value.dtype.itemsize == 1}
    linears = ("attention.qkv", "attention.output", "ffn.in", "ffn.out")
    layers = range(ARCHITECTURE.layers)
    assert quantized == {f"layer.{i}.{linear}.weight" for i in layers for linear in linears}
    assert direct.keys() - plain.keys() == {n.replace("weight", "scales") for n in quantized}
    for name in quantized:
        scale, taken = direct[name.replace("weight", "scales")]
        assert taken == np.float32(8 / 512)
        expected, found = plain[name].astype(np.float32), direct[name].astype(np.float32) * scale
        # Half a step is a sixteenth of a value, or of the least normal number.
        assert (np.abs(found - expected) <= np.maximum(np.abs(expected) / 16, scale * 2**-10)).all()


@both_heads
def test_int8_tensors_are_the_integers_and_scales_of_the_graph(tmp_path: Path, qa: bool) -> None:
    weights = random_weights(ARCHITECTURE)
    scales = fitting_scales(weights, ARCHITECTURE, qa=qa)
    for precision in ("fp32", "fp16"):
        graph = build_graph(weights, ARCHITECTURE, precision, scales)  # type: ignore[arg-type]
        save_graph(graph, tmp_path / f"{precision}.onnx")
    found, again = (
        fuse(read.weights, read.architecture, "int8", read.scales)
        for read in (graph_reader.read_graph(tmp_path / f"{p}.onnx") for p in ("fp16", "fp32"))
    )
    assert found.keys() == again.keys()
    assert all(np.array_equal(found[name], again[name]) for name in found)

    parts = {"attention.qkv": ("attention.query", "attention.key", "attention.value")}
    parts |= {name: (name,) for name in ("attention.output", "ffn.in", "ffn.out")}
    linears = {
        f"layer.{i}.{whole}": [f"layer.{i}.{part}" for part in of]
        for i in range(ARCHITECTURE.layers)
        for whole, of in parts.items()
    }
    if qa:
        linears["qa"] = ["qa"]
    plain = fuse(weights, ARCHITECTURE)
    integers = {name for name, value in found.items() if value.dtype == np.int8}
    assert integers == {f"{linear}.weight" for linear in linears}
    assert found.keys() - plain.keys() == {f"{linear}.scales" for linear in linears}
    for name in plain.keys() - integers:
        assert np.array_equal(found[name], plain[name]), name
    for whole, of in linears.items():
        expected = [quantize_weight(weights[f"{part}.weight"], scales.weights[part]) for part in of]
        assert np.array_equal(found[f"{whole}.weight"], np.concatenate(expected))
        # The weight's channels, and last the input.
        steps = [scales.weights[part] for part in of]
        taken = scales.activations[gemm_inputs(ARCHITECTURE)[of[0]]]
        assert found[f"{whole}.scales"].dtype == np.float32
        assert np.array_equal(found[f"{whole}.scales"], np.append(np.concatenate(steps), taken))


def test_int8_is_built_from_the_graph_with_fp16_around_its_gemms() -> None:
    chosen = {p: Plugin().graph_precision(replace(options(), precision=p)) for p in PRECISIONS}
    assert chosen == {"fp16": "fp16", "fp8": "fp8", "int8": "int8-fp16"}
    assert Plugin().precisions == tuple(PRECISIONS)


@pytest.mark.parametrize("precision", ["fp8", "int8"])
def test_a_graph_without_its_scales_is_refused(tmp_path: Path, precision: str) -> None:
    path = tmp_path / "fp16.onnx"
    save_graph(build_graph(random_weights(ARCHITECTURE), ARCHITECTURE, "fp16"), path)
    with pytest.raises(UserError, match=f"holds no {precision.upper()} scales of layer.0"):
        Plugin().build(path, tmp_path / "an.engine", replace(options(), precision=precision))


def test_a_graph_that_is_int8_in_part_is_refused(tmp_path: Path) -> None:
    weights, path = random_weights(ARCHITECTURE), tmp_path / "part.onnx"
    scales = fitting_scales(weights, ARCHITECTURE)
    del scales.weights["layer.1.ffn.in"]
    save_graph(build_graph(weights, ARCHITECTURE, "fp16", scales), path)
    with pytest.raises(UserError, match=r"holds no INT8 scales of layer.1.ffn.in"):
        Plugin().build(path, tmp_path / "an.engine", replace(options(), precision="int8"))


def test_the_graph_keeps_float16_weights_exactly(tmp_path: Path) -> None:
    weights = random_weights(ARCHITECTURE)
    save_graph(build_graph(weights, ARCHITECTURE, "fp16"), tmp_path / "fp16.onnx")
    read = graph_reader.read_graph(tmp_path / "fp16.onnx")
    direct, through = fuse(weights, ARCHITECTURE), fuse(read.weights, read.architecture)
    assert direct.keys() == through.keys()
    assert all(np.array_equal(direct[name], through[name]) for name in direct)


def test_why_it_is_unavailable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(OnAccelerator, "no_device", lambda self: "nothing here")
    assert Plugin().unavailable() == "nothing here"
    monkeypatch.setattr(OnAccelerator, "no_device", lambda self: None)
    monkeypatch.setattr(plugin, "LIBRARY", tmp_path / "none.so")
    assert "make plugin" in str(Plugin().unavailable())


def test_engines_of_other_batches_and_libraries_have_other_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = Accelerator("nvidia", "a card", "580.1", {})
    monkeypatch.setattr(OnAccelerator, "_found", lambda self, index: found)
    monkeypatch.setattr(plugin, "LIBRARY", tmp_path / "libbert_executor.so")
    for name in ("libbert_executor.so", "libbert_kernels.so"):
        (tmp_path / name).write_bytes(b"1")
    first = Plugin().engine_inputs(options())
    assert first == Plugin().engine_inputs(options())
    assert first != Plugin().engine_inputs(options(8))
    (tmp_path / "libbert_kernels.so").write_bytes(b"2")
    assert first != Plugin().engine_inputs(options())


class Echo:
    """Stands for a runner: its start logits are a token's id, its end logits the segment."""

    made: ClassVar[list[Echo]] = []

    def __init__(self, engine: Any, windows: int, tokens: int) -> None:
        self.limits = windows, tokens
        self.prepared: list[tuple[int, int, int]] = []
        self.given: tuple[Int32, Int32, Int32, Int32] | None = None
        self.made.append(self)

    def prepare(self, windows: int, tokens: int, longest: int) -> None:
        self.prepared.append((windows, tokens, longest))

    def submit(self, ids: Int32, segments: Int32, offsets: Int32, lengths: Int32) -> None:
        assert self.given is None
        if len(lengths) > self.limits[0]:
            raise UserError("too many windows")
        for array in (ids, segments, offsets, lengths):
            assert array.flags.c_contiguous and array.dtype == np.int32
        self.given = ids.copy(), segments.copy(), offsets, lengths

    def wait(self, start: Float32, end: Float32) -> float:
        assert self.given is not None
        ids, segments, offsets, lengths = self.given
        self.given = None
        for offset, length in zip(offsets, lengths, strict=True):
            part = slice(offset, offset + length)
            start.reshape(-1)[part] = ids.reshape(-1)[part]
            end.reshape(-1)[part] = segments.reshape(-1)[part]
        return 0.25


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> list[Echo]:
    monkeypatch.setattr(plugin, "EngineRunner", Echo)
    monkeypatch.setattr(Echo, "made", [])
    return Echo.made


def test_a_session_passes_each_window_alone(echo: list[Echo]) -> None:
    session = PluginSession(None, options())  # type: ignore[arg-type]
    ids, segments, mask = inputs_of([24, 3, 24, 9], 24)
    # As wide batches come: views, and numbers where there is no token.
    wide = np.full((4, 40), 7, np.int32)
    wide[:, :24] = np.where(mask == 1, ids, 99)
    found = session.run(wide[:, :24], segments.astype(np.int64).astype(np.int32), mask)
    assert np.array_equal(found.start_logits, np.where(mask == 1, ids, 0))
    assert np.array_equal(found.end_logits, segments)
    assert found.seconds == 0.25
    assert session.streams == len(echo) == 1


def test_every_full_batch_has_its_graph_before_it_comes(echo: list[Echo]) -> None:
    PluginSession(None, options())  # type: ignore[arg-type]
    (runner,) = echo
    assert runner.limits == (4, 160)
    # Here a bucket is 64 tokens.
    buckets = {-(-tokens // 64) for _, tokens, _ in runner.prepared}
    assert buckets == {-(-tokens // 64) for tokens in range(4, 161)}
    for windows, count, longest in runner.prepared:
        assert windows == 4 and count <= windows * longest and longest <= 40


def test_a_refusal_leaves_the_session_usable(echo: list[Echo]) -> None:
    session = PluginSession(None, options(2))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="too many windows"):
        session.run(*inputs_of([5, 5, 5], 5))
    ids, segments, mask = inputs_of([5, 5], 5)
    mask[1, 2] = 0
    with pytest.raises(UserError, match="padding between tokens"):
        session.run(ids, segments, mask)
    assert session.run(*inputs_of([5, 4], 5)).start_logits.shape == (2, 5)


def test_batches_by_tokens_run_on_several_streams(echo: list[Echo]) -> None:
    session = PluginSession(None, options(AUTO))  # type: ignore[arg-type]
    assert session.streams == len(echo) > 1
    lengths = np.asarray([5, 9, 3, 12, 7, 2] * 20, np.int32)
    random = np.random.default_rng(3)
    tokens = random.integers(1, 50, lengths.sum()).astype(np.int32)
    starts = np.zeros_like(lengths)
    windows = Windows(tokens, lengths, starts + 1, starts, np.zeros((len(tokens), 2), np.int32))
    plan = [np.arange(i, i + 6) for i in range(0, 120, 6)]
    done = run_windows(session, windows, plan, "")
    assert np.array_equal(done.start_logits, tokens)


@pytest.mark.gpu
class TestOnGpu:
    """Run by `make test-gpu`."""

    @pytest.fixture(scope="class")
    def graph(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("plugin")
        weights = random_weights(ARCHITECTURE)
        for precision in ("fp16", "fp32"):
            graph = build_graph(weights, ARCHITECTURE, precision)  # type: ignore[arg-type]
            save_graph(graph, folder / f"{precision}.onnx")
        return folder / "fp16.onnx"

    @pytest.fixture(scope="class")
    def engine(self, graph: Path) -> Path:
        path = graph.with_suffix(".engine")
        plugin.LIBRARY = library()
        Plugin().build(graph, path, options())
        return path

    def test_networks_against_float64(self, tmp_path: Path) -> None:
        program = built("executor_test")
        assert ", 0 failed" in output_of(program, tmp_path, "--gpu", seconds=600)

    def test_memory_is_in_order(self, tmp_path: Path) -> None:
        few = ("--small", "--networks", "1", "--batches", "3")
        checker = ("compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "1")
        program = built("executor_test")
        done = output_of(*checker, program, tmp_path, "--gpu", *few, seconds=600)
        assert ", 0 failed" in done

    @pytest.mark.parametrize("batch", [4, AUTO])
    def test_logits_are_the_references(self, graph: Path, engine: Path, batch: Any) -> None:
        session = Plugin().load(engine, options(batch))
        reference = OrtSession(graph.with_name("fp32.onnx"), optimized=False)
        for seed, (rows, length) in enumerate([(4, 40), (1, 7), (3, 20), (4, 40), (2, 32)]):
            given = inputs_of([length] + [length // 2 + 1] * (rows - 1), length, seed=seed)
            found, expected = session.run(*given), reference.run(*given)
            mask = given[2] == 1
            assert found.seconds > 0
            for ours, theirs in zip(found[:2], expected[:2], strict=True):
                assert np.abs(ours - theirs)[mask].max() < 2e-2
                assert not ours[~mask].any()

    @both_heads
    def test_int8_is_what_the_graph_is_on_a_cpu(self, tmp_path: Path, qa: bool) -> None:
        """In most windows to the last integer.

        FP16 moves a number over the border between two integers now and then, and a window's logits
        are others then. With steps as wide as these, and few tokens, that seldom happens.
        """
        weights = random_weights(ARCHITECTURE)
        scales = fitting_scales(weights, ARCHITECTURE, qa=qa)
        for name in scales.activations:
            scales.activations[name] *= np.float32(32)
        for precision in ("fp16", "fp32"):
            model = build_graph(weights, ARCHITECTURE, precision, scales)  # type: ignore[arg-type]
            save_graph(model, tmp_path / f"{precision}.onnx")
        plugin.LIBRARY = library()
        chosen = replace(options(), precision="int8")
        Plugin().build(tmp_path / "fp16.onnx", tmp_path / "int8.engine", chosen)
        session = Plugin().load(tmp_path / "int8.engine", chosen)
        reference = OrtSession(tmp_path / "fp32.onnx", optimized=False)
        worst = []
        for seed in range(30):
            given = inputs_of([1, 2, 3, 5], 5, seed=seed)
            found, expected = (np.stack(on.run(*given)[:2]) for on in (session, reference))
            worst.extend(np.abs((found - expected) * given[2]).max(axis=(0, 2)))
        print(f"off by {np.quantile(worst, [0.25, 0.5, 0.75, 1])}")
        # Integers rounded in another way, or not at all, move every window's logits by 0.1 or more.
        assert np.mean(np.asarray(worst) < 1e-2) > 0.5

    def test_fp8_is_near(self, graph: Path, tmp_path: Path) -> None:
        weights = random_weights(ARCHITECTURE)
        model = build_graph(weights, ARCHITECTURE, "fp16")
        add_fp8_scales(model, fp8_scales(weights))
        save_graph(model, tmp_path / "fp8.onnx")
        plugin.LIBRARY = library()
        chosen = replace(options(), precision="fp8")
        Plugin().build(tmp_path / "fp8.onnx", tmp_path / "fp8.engine", chosen)
        session = Plugin().load(tmp_path / "fp8.engine", chosen)
        reference = OrtSession(graph.with_name("fp32.onnx"), optimized=False)
        given = inputs_of([40, 21, 21, 7], 40)
        found, expected = session.run(*given), reference.run(*given)
        mask = given[2] == 1
        for ours, theirs in zip(found[:2], expected[:2], strict=True):
            difference = np.linalg.norm((ours - theirs)[mask]) / np.linalg.norm(theirs[mask])
            assert difference < 0.2

    def test_a_damaged_engine_is_refused(self, engine: Path, tmp_path: Path) -> None:
        damaged = tmp_path / "damaged.engine"
        data = bytearray(engine.read_bytes())
        data[-100] ^= 1
        damaged.write_bytes(data)
        with pytest.raises(UserError, match=r"damaged\.engine is damaged; delete it"):
            Plugin().load(damaged, options())
