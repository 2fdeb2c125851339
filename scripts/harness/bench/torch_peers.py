"""PyTorch: Hugging Face's model as it is, compiled, and inside its question answering pipeline.

Each runs with PyTorch's own default of one thread a core.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..answers import MAX_ANSWER_TOKENS
from ..backends import Outputs
from ..batches import BatchSize
from ..profile import load_profile
from ..squad import Question
from ..weights import internal_name
from ..windows import Int32, WindowOptions
from .model import Model
from .system import Pass, Peer, Runner, SessionRunner


@dataclass(frozen=True)
class TransformersEager(Peer):
    """BertForQuestionAnswering in FP32 with its default attention (PyTorch's SDPA)."""

    key: str = "transformers"
    title: str = "transformers, FP32"

    def load(self, model: Model, folder: Path) -> Runner:
        """A runner over windows."""
        return SessionRunner(TorchSession(bert(model)))


@dataclass(frozen=True)
class TorchCompile(Peer):
    """The same module through torch.compile, its weights frozen into the code for inference."""

    key: str = "torch-compile"
    title: str = "torch.compile, FP32"

    def load(self, model: Model, folder: Path) -> Runner:
        """A runner over windows; from the second shape on the code serves every shape."""
        # Compile in this process: a pool of compiler processes would stay beside the others.
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
        import torch
        from torch._inductor import config

        # Packs the weights for the processor: a quarter faster on MiniLM. dynamic=True was slower.
        config.freezing = True
        return SessionRunner(TorchSession(torch.compile(bert(model))))


@dataclass(frozen=True)
class TransformersPipeline(Peer):
    """transformers' question-answering pipeline, from text to answers by its own span rule."""

    key: str = "transformers-pipeline"
    title: str = "transformers pipeline, FP32"

    def load(self, model: Model, folder: Path) -> Runner:
        """A runner over questions."""
        from transformers import BertTokenizerFast, pipeline

        tokenizer = BertTokenizerFast(str(model.vocabulary))
        return _PipelineRunner(
            pipeline("question-answering", model=bert(model), tokenizer=tokenizer, device="cpu"),
            load_profile(model.profile).windows,
        )


@dataclass(frozen=True)
class _PipelineRunner:
    pipeline: Any
    windows: WindowOptions

    def run(self, work: list[Question], batch: BatchSize) -> Pass:
        """The output maps question ids to answer texts."""
        began = time.perf_counter()
        # The pipeline batches neighbours, padded to the longest: of like length they pad least.
        ordered = sorted(work, key=lambda question: len(question.context) + len(question.text))
        found = self.pipeline(
            question=[question.text for question in ordered],
            context=[question.context for question in ordered],
            batch_size=batch,
            max_seq_len=self.windows.sequence_length,
            doc_stride=self.windows.doc_stride,
            max_question_len=self.windows.max_question_tokens,
            max_answer_len=MAX_ANSWER_TOKENS,
        )
        # One question alone comes back without a list around it.
        answers = found if isinstance(found, list) else [found]
        pairs = zip(ordered, answers, strict=True)
        output = {question.id: answer["answer"] for question, answer in pairs}
        seconds = time.perf_counter() - began
        return Pass(seconds, len(work) / seconds, output, [])


class TorchSession:
    """A module of transformers' question answering kind as a session."""

    streams = 1

    def __init__(self, module: Any) -> None:
        self._module = module

    def run(self, input_ids: Int32, segment_ids: Int32, input_mask: Int32) -> Outputs:
        """Start and end logits, float32 (batch, seq), and their time."""
        import torch

        given = {
            "input_ids": input_ids,
            "token_type_ids": segment_ids,
            "attention_mask": input_mask,
        }
        inputs = {name: torch.from_numpy(array.astype(np.int64)) for name, array in given.items()}
        began = time.perf_counter()
        with torch.inference_mode():
            output = self._module(**inputs)
            start, end = output.start_logits.numpy(), output.end_logits.numpy()
        return Outputs(start, end, time.perf_counter() - began)


def bert(model: Model) -> Any:
    """BertForQuestionAnswering in evaluation mode, FP32, with exactly `model`'s weights."""
    import torch
    from transformers import BertConfig, BertForQuestionAnswering

    sizes = model.architecture
    config = BertConfig(
        vocab_size=sizes.vocab,
        hidden_size=sizes.hidden,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        intermediate_size=sizes.intermediate,
        max_position_embeddings=sizes.positions,
        layer_norm_eps=sizes.layer_norm_eps,
    )
    module = BertForQuestionAnswering(config).eval()
    weights = model.read()
    state = {}
    for name in module.state_dict():
        ours = internal_name(name)
        if ours is None:
            raise ValueError(f"transformers has a weight {name} that BERT does not have")
        state[name] = torch.from_numpy(weights.pop(ours))
    if weights:
        raise ValueError(f"transformers has no weight {next(iter(weights))}")
    module.load_state_dict(state)
    return module
