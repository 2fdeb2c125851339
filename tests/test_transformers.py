"""All of SQuAD dev against transformers itself; needs requirements-full.txt and ../shared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import transformers_model
from test_reference_logits import merged

from harness.answers import answer_texts
from harness.assets import AssetStore
from harness.backends.ort import OrtSession
from harness.batches import assemble, plan_batches, scatter
from harness.graph import build_graph, save_graph
from harness.measure import run_windows
from harness.profile import load_profile
from harness.scoring import score
from harness.squad import Question, read_dataset
from harness.weights import Weights
from harness.windows import Float32, Windows, cut_windows, load_tokenizer

__all__ = ["merged"]

DEV = Path(__file__).parents[2] / "shared" / "squad" / "dev-v1.1.pages.json.gz"


def all_tokens_rule(
    questions: Sequence[Question], windows: Windows, start: Float32, end: Float32
) -> dict[str, str]:
    """Answers by Hugging Face's postprocess_qa_predictions: the 20 best starts and ends of all
    tokens of a window, of which those outside the passage are dropped afterwards."""
    best: dict[str, tuple[float, str]] = {}
    for window in range(len(windows)):
        here = slice(windows.starts[window], windows.starts[window + 1])
        question = questions[windows.questions[window]]
        spans = windows.char_spans[here]
        passage = range(windows.context_starts[window], windows.lengths[window] - 1)
        firsts = np.argsort(start[here])[::-1][:20]
        lasts = np.argsort(end[here])[::-1][:20]
        for first in firsts:
            for last in lasts:
                if first in passage and last in passage and 0 <= last - first < 30:
                    score_ = float(start[here][first] + end[here][last])
                    if question.id not in best or score_ > best[question.id][0]:
                        text = question.context[spans[first, 0] : spans[last, 1]]
                        best[question.id] = (score_, text)
    return {key: text for key, (_, text) in best.items()}


@pytest.mark.full
def test_scores_on_dev_equal_those_of_transformers(
    assets: AssetStore, merged: Weights, vocab: Path, tmp_path: Path
) -> None:
    profile = load_profile("minilm-squad")
    questions = read_dataset(DEV).questions
    windows = cut_windows(questions, load_tokenizer(vocab), profile.windows)

    theirs = transformers_model.model(merged, profile.architecture)
    start, end = np.zeros((2, len(windows.tokens)), dtype=np.float32)
    for rows in plan_batches(windows.lengths, 32):
        batch = assemble(windows, rows)
        encoded = {
            "input_ids": batch.input_ids.astype(np.int64),
            "token_type_ids": batch.segment_ids.astype(np.int64),
            "attention_mask": batch.input_mask.astype(np.int64),
        }
        found = transformers_model.logits(theirs, encoded)
        scatter(windows, batch, found[0], start)
        scatter(windows, batch, found[1], end)
    answers = answer_texts(questions, windows, start, end)
    their_score = score(questions, answers)
    their_answers = all_tokens_rule(questions, windows, start, end)
    equal = sum(their_answers.get(key) == text for key, text in answers.items())
    assert equal >= 0.999 * len(questions)

    path = tmp_path / "model.onnx"
    save_graph(build_graph(merged, profile.architecture, "fp32"), path)
    plan = plan_batches(windows.lengths, 32)
    ours = run_windows(OrtSession(path, optimized=True), windows, plan, "dev")
    our_answers = answer_texts(questions, windows, ours.start_logits, ours.end_logits)
    our_score = score(questions, our_answers)

    assert np.abs(ours.start_logits - start).max() <= 1e-3
    assert abs(our_score.exact_match - their_score.exact_match) <= 0.05
    assert abs(our_score.f1 - their_score.f1) <= 0.05
    assert our_score.exact_match >= 74.0
    assert our_score.f1 >= 83.0
