"""Which comparisons are made: of which model, on what work, between which systems."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..doctor import BERT_BASE
from ..inputs import Inputs
from ..model import merged_weights
from ..profile import load_profile
from ..squad import Question
from ..windows import cut_windows, load_tokenizer
from .catalog import end_to_end_systems, execution_systems
from .model import Model, calibration_questions, random_weights, save_model
from .system import System
from .work import Task, end_to_end, execution


@dataclass(frozen=True)
class Comparison:
    """Every system of `systems` does `task` with `model`."""

    title: str
    model: Model
    task: Task
    systems: list[System]


def comparisons(
    inputs: Inputs, calibration: list[Question], keys: list[str], folder: Path
) -> list[Comparison]:
    """The profile's model, executed alone and from text to answers, and BERT-base's shape.

    The model of BERT-base's size has random weights, which cost the same and need no checkpoint
    that not everybody can get; it has no score. `keys` leaves only the systems it names, if it
    names any. The models' files go into `folder`.
    """
    profile, questions = inputs.options.profile, inputs.dataset.questions
    vocabulary = inputs.file("vocab").checked("assets")
    tokenizer = load_tokenizer(vocabulary)
    windows = cut_windows(questions, tokenizer, profile.windows)
    # One window a question: its other windows hold the same question and passage.
    examples = cut_windows(
        calibration_questions(calibration, questions),
        tokenizer,
        replace(profile.windows, first_only=True),
    )
    save = partial(save_model, vocabulary=vocabulary, calibration=examples)
    trained = save(merged_weights(inputs), profile, folder / "trained", trained=True)
    base = load_profile(BERT_BASE)
    shape = save(random_weights(base.architecture), base, folder / "shape", trained=False)
    found = [
        Comparison(
            f"{profile.name}, execution alone",
            trained,
            execution(windows, questions, profile.architecture, scored=True),
            _chosen(execution_systems(), keys),
        ),
        Comparison(
            f"{profile.name}, from text to answers",
            trained,
            end_to_end(questions),
            _chosen(end_to_end_systems(), keys),
        ),
        Comparison(
            f"{base.model} with random weights, execution alone",
            shape,
            execution(windows, questions, base.architecture, scored=False),
            _chosen(execution_systems(), keys),
        ),
    ]
    return [comparison for comparison in found if comparison.systems]


def _chosen(systems: list[System], keys: list[str]) -> list[System]:
    return [system for system in systems if not keys or system.key in keys]
