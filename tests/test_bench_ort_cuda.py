"""The bench of ort-cuda's variants, with sessions that tell what they were given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from test_batches import windows_of
from test_ort_cuda import ARCHITECTURE, options
from tiny_bert import inputs_of, random_weights

from harness.backends import Outputs
from harness.backends.ort_cuda import OrtCuda, OrtCudaSession
from harness.bench import ort_cuda
from harness.graph import build_graph, save_graph
from harness.windows import Int32

Log = list[tuple[str, tuple[int, ...]]]


class Session:
    """Takes `seconds` for each batch and writes its title and shape into `log`."""

    streams = 1

    def __init__(self, title: str, seconds: float, log: Log) -> None:
        self.title, self.seconds, self.log = title, seconds, log

    def run(self, input_ids: Int32, segment_ids: Int32, input_mask: Int32) -> Outputs:
        self.log.append((self.title, input_ids.shape))
        return Outputs(input_ids.astype(np.float32), input_mask.astype(np.float32), self.seconds)


def test_passes_are_interleaved_and_rates_are_upstreams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort_cuda, "BATCHES", (2,))
    monkeypatch.setattr(ort_cuda, "_FULL_BATCHES", 3)
    log: Log = []
    sessions = {"fast": Session("fast", 0.25, log), "slow": Session("slow", 0.5, log)}
    rates = ort_cuda.compare(sessions, windows_of([3, 9, 5]), 12, repeats=2)
    # The last batch is filled up.
    expected = {"fast": [8.0, 8.0], "slow": [4.0, 4.0]}
    assert rates == {"dataset, batch 2": expected, "2 x 12": expected}

    passes = [("fast", (2, 5)), ("fast", (2, 9)), ("slow", (2, 5)), ("slow", (2, 9))] * 2
    full = [("fast", (2, 12))] * 3 + [("slow", (2, 12))] * 3
    measured = passes + full * 2
    warm, timed = log[: -len(measured)], log[-len(measured) :]
    assert timed == measured
    # No shape is first seen in a timed pass.
    assert set(warm) == set(timed)

    header, _, first, second = ort_cuda.table(rates)
    assert header == "|  | dataset, batch 2 | 2 x 12 |"
    assert first == "| fast | 8 (0.0%) | 8 (0.0%) |"
    assert second == "| slow | 4 (0.0%) | 4 (0.0%) |"


def test_packed_graph_removes_padding_before_the_first_layer(tmp_path: Path) -> None:
    graph, engine = tmp_path / "graph.onnx", tmp_path / "engine.onnx"
    save_graph(build_graph(random_weights(ARCHITECTURE), ARCHITECTURE, "fp16"), graph)
    OrtCuda().build(graph, engine, options("fp16"))
    packed = ort_cuda._packed(engine)
    kinds = [node.op_type for node in packed.graph.node]
    assert kinds.index("RemovePadding") < kinds.index("PackedAttention")
    assert kinds.count("PackedAttention") == ARCHITECTURE.layers and "Attention" not in kinds
    onnx.save(packed, engine)
    produced = {value.name for value in (*packed.graph.input, *packed.graph.initializer)}
    for node in packed.graph.node:
        assert set(filter(None, node.input)) <= produced
        produced |= set(node.output)


def test_fewer_shapes_widen_and_crop(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Log = []
    double = Session("", 1.0, seen)
    monkeypatch.setattr(OrtCudaSession, "run", lambda self, *given: double.run(*given))
    session = ort_cuda._FewerShapes.__new__(ort_cuda._FewerShapes)
    ids, segments, mask = inputs_of([9, 4], 9)
    found = session.run(ids, segments, mask)
    assert seen == [("", (2, 16))]
    assert np.array_equal(found.start_logits, ids) and np.array_equal(found.end_logits, mask)
