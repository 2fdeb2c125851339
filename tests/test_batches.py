"""Batches: every window once, sorted and padded as the protocol says, and back again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.batches import AUTO, BatchSize, assemble, plan_batches, scatter
from harness.squad import read_dataset
from harness.windows import WindowOptions, Windows, cut_windows, load_tokenizer

SQUAD = Path(__file__).parents[2] / "shared" / "squad" / "dev-v1.1.pages.json.gz"
LENGTHS = st.lists(st.integers(3, 20), min_size=1, max_size=40)


def windows_of(lengths: list[int], seed: int = 0) -> Windows:
    """Windows of these lengths with random token ids and places of the passage."""
    random = np.random.default_rng(seed)
    total = sum(lengths)
    return Windows(
        random.integers(1, 1000, total, dtype=np.int32),
        np.asarray(lengths, dtype=np.int32),
        np.asarray([random.integers(2, n) for n in lengths], dtype=np.int32),
        np.arange(len(lengths), dtype=np.int32),
        np.zeros((total, 2), dtype=np.int32),
    )


@settings(deadline=None, max_examples=150)
@given(LENGTHS, st.integers(1, 12))
def test_plan_sorts_and_fills_up(lengths: list[int], batch: int) -> None:
    plan = plan_batches(np.asarray(lengths, dtype=np.int32), batch)
    rows = [int(row) for batch_rows in plan for row in batch_rows]
    # Python's sort is stable: of equal lengths the earlier window comes first.
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    while len(order) % batch:
        order.append(order[-1])
    assert rows == order
    assert [len(batch_rows) for batch_rows in plan] == [batch] * (len(order) // batch)


@settings(deadline=None, max_examples=150)
@given(LENGTHS, st.integers(0, 200))
def test_auto_plan_fills_the_budget_longest_first(lengths: list[int], budget: int) -> None:
    plan = plan_batches(np.asarray(lengths, dtype=np.int32), AUTO, budget)
    rows = [int(row) for batch_rows in plan for row in batch_rows]
    # Every window once, and no copies.
    assert sorted(rows) == list(range(len(lengths)))
    assert [lengths[row] for row in rows] == sorted(lengths, reverse=True)
    for number, batch_rows in enumerate(plan):
        longest = max(lengths[row] for row in batch_rows)
        assert len(batch_rows) == 1 or len(batch_rows) * longest <= budget
        # One window more would not have fitted.
        assert number == len(plan) - 1 or (len(batch_rows) + 1) * longest > budget


def test_auto_plan_by_hand() -> None:
    lengths = np.asarray([3, 9, 4, 4, 20, 3, 3], dtype=np.int32)
    shapes = [(len(r), int(lengths[r].max())) for r in plan_batches(lengths, AUTO, 12)]
    # 20 is over the budget and runs alone; 4, 4 and a 3 are 12 tokens with the padding.
    assert shapes == [(1, 20), (1, 9), (3, 4), (2, 3)]


@settings(deadline=None, max_examples=100)
@given(LENGTHS, st.integers(0, 1000), st.data())
def test_assembled_inputs_hold_the_windows(
    lengths: list[int], seed: int, data: st.DataObject
) -> None:
    windows = windows_of(lengths, seed)
    picked = data.draw(st.lists(st.sampled_from(range(len(lengths))), min_size=1, max_size=8))
    rows = np.asarray(picked, dtype=np.int64)
    batch = assemble(windows, rows)
    longest = max(lengths[row] for row in picked)
    assert batch.rows.tolist() == picked
    for array in (batch.input_ids, batch.segment_ids, batch.input_mask):
        assert array.dtype == np.int32
        assert array.shape == (len(picked), longest)
    for line, row in enumerate(picked):
        begin, length = sum(lengths[:row]), lengths[row]
        padding = [0] * (longest - length)
        tokens = windows.tokens[begin : begin + length].tolist()
        context = int(windows.context_starts[row])
        assert batch.input_ids[line].tolist() == tokens + padding
        assert batch.segment_ids[line].tolist() == (
            [0] * context + [1] * (length - context) + padding
        )
        assert batch.input_mask[line].tolist() == [1] * length + padding


@settings(deadline=None, max_examples=100)
@given(LENGTHS, st.integers(1, 12) | st.just(AUTO))
def test_every_logit_comes_back_to_its_token(lengths: list[int], batch: BatchSize) -> None:
    windows = windows_of(lengths)
    packed = np.full(sum(lengths), np.nan, dtype=np.float32)
    for rows in plan_batches(windows.lengths, batch, token_budget=50):
        inputs = assemble(windows, rows)
        column = np.arange(inputs.input_ids.shape[1])
        # A logit that tells its token and its place; padding would be seen at once.
        logits = np.where(inputs.input_mask == 1, inputs.input_ids * 100 + column, -1)
        scatter(windows, inputs, logits.astype(np.float32), packed)
    places = [place for length in lengths for place in range(length)]
    assert packed.tolist() == (windows.tokens * 100 + np.asarray(places)).tolist()


def test_scatter_leaves_other_windows_alone() -> None:
    windows = windows_of([3, 5, 4])
    packed = np.full(12, -7, dtype=np.float32)
    batch = assemble(windows, np.asarray([2, 0]))
    scatter(windows, batch, np.arange(8, dtype=np.float32).reshape(2, 4), packed)
    assert packed.tolist() == [4, 5, 6, -7, -7, -7, -7, -7, 0, 1, 2, 3]


@pytest.mark.full
def test_squad_dev_pads_as_upstream_does(vocab: Path) -> None:
    questions = read_dataset(SQUAD).questions
    windows = cut_windows(questions, load_tokenizer(vocab), WindowOptions(first_only=True))
    plan = plan_batches(windows.lengths, 32)
    assert len(plan) == 331
    padded = [len(rows) * int(windows.lengths[rows].max()) for rows in plan]
    # The last batch holds 10 windows and 22 copies that fill it up.
    fillers = 331 * 32 - 10_570
    assert sum(padded) - fillers * int(windows.lengths.max()) == 1_851_200
    assert assemble(windows, plan[-1]).input_ids.shape == (32, 384)
