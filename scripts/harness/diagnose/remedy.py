"""What it brings back to keep a place in higher precision, and what it costs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from tokenizers import Tokenizer

from ..answers import answer_texts
from ..backends import Backend, EngineOptions, Session
from ..backends.ort import OrtSession
from ..batches import BatchSize, plan_batches
from ..errors import UserError
from ..files import TEMPORARY_PREFIX
from ..graph import save_graph
from ..measure import Execution, qps, run_windows
from ..options import Options
from ..paths import BUILD
from ..scoring import Score, score
from ..spread import spread
from ..squad import Question
from ..windows import Windows, cut_windows
from .diagnosis import Diagnosis
from .places import Place
from .reference import Reference
from .surgery import kept_wide, part_of
from .survey import LARGEST, Survey

# Questions that F1 is computed over, and how many of them are timed.
QUESTIONS, TIMED_QUESTIONS = 400, 48
REPEATS = 5


@dataclass(frozen=True)
class Remedy:
    """The graph as it is, and with `places` taken from the FP32 reference.

    Scores in per cent over the same `questions`, also the reference's; QPS in 1/s, medians of
    repeats in turn, with their spreads. Without `fused` both were timed as graphs that the
    backend's own fusions have not gone over, since these do not take the mended one.
    """

    places: list[str]
    questions: int
    reference: Score
    before: Score
    after: Score
    qps_before: float
    qps_after: float
    qps_spread: float
    fused: bool


def widened(group: Sequence[Place], survey: Survey, reference: onnx.ModelProto) -> list[Place]:
    """`group` and what takes its tensors where these exceed the range of the type around."""
    everything = {m.place.tensor: m for m in survey.measured}
    takes = {tensor: part_of(reference, tensor, everything).takes for tensor in everything}
    chosen = {place.tensor for place in group}
    while True:
        beyond = {t for t in chosen if everything[t].largest > LARGEST[survey.arithmetic]}
        takers = {t for t, taken in takes.items() if beyond & set(taken)}
        if takers <= chosen:
            return [m.place for m in survey.measured if m.place.tensor in chosen]
        chosen |= takers


def mended(
    tested: onnx.ModelProto,
    reference: onnx.ModelProto,
    group: Sequence[Place],
    survey: Survey,
) -> onnx.ModelProto:
    """`tested` with the places of `group` in FP32 and with the reference's weights."""
    tensors = [m.place.tensor for m in survey.measured]
    return kept_wide(tested, reference, [place.tensor for place in group], tensors)


def attempt(
    found: Diagnosis,
    tested: Path,
    reference: Reference,
    options: Options,
    questions: Sequence[Question],
    tokenizer: Tokenizer,
) -> tuple[Remedy, None] | tuple[None, str]:
    """The remedy of `found`, which `tested` and `reference` gave, or why there is none."""
    if not found.candidate:
        return None, "no sub-layer makes an error that could be taken back"
    if found.survey.arithmetic == "bf16" and found.survey.tested.scales is None:
        return None, "the runtime takes BF16 for the whole graph; use PRECISION=fp32"
    try:
        return _tried(found, tested, reference, options, questions, tokenizer), None
    except UserError as error:
        return None, str(error)


def _tried(
    found: Diagnosis,
    tested: Path,
    reference: Reference,
    options: Options,
    questions: Sequence[Question],
    tokenizer: Tokenizer,
) -> Remedy:
    """Score and time the graph `tested` with and without the remedy.

    Raises UserError where the backend takes neither the mended graph nor its plain form.
    """
    profile, backend = options.profile, options.backend
    chosen = widened(found.candidate, found.survey, reference.graph)
    with TemporaryDirectory(dir=BUILD, prefix=TEMPORARY_PREFIX) as name:
        folder = Path(name)
        graph = mended(onnx.load(tested), reference.graph, chosen, found.survey)
        save_graph(graph, folder / "mended.onnx")
        del graph
        before, after, fused = _sessions(tested, folder, backend, options.engine)
    true = OrtSession(reference.path, optimized=True)
    windows = cut_windows(questions, tokenizer, profile.windows)

    def scored(session: Session, batch: BatchSize, label: str) -> Score:
        plan = plan_batches(windows.lengths, batch, backend.token_budget)
        made = run_windows(session, windows, plan, label)
        texts = answer_texts(questions, windows, made.start_logits, made.end_logits)
        return score(questions, texts)

    scores = (
        scored(true, profile.batch, "F1 of the reference"),
        scored(before, options.batch, "F1 as it is"),
        scored(after, options.batch, "F1 with the remedy"),
    )
    timed = cut_windows(questions[:TIMED_QUESTIONS], tokenizer, profile.windows)
    speeds = _timed((before, after), timed, options.batch, backend.token_budget)
    return Remedy(
        [place.name for place in chosen],
        len(questions),
        *scores,
        statistics.median(speeds[0]),
        statistics.median(speeds[1]),
        max(spread(rates) for rates in speeds),
        fused,
    )


def _sessions(
    tested: Path, folder: Path, backend: Backend, options: EngineOptions
) -> tuple[Session, Session, bool]:
    """Sessions of the graph and the mended one, and whether both are engines."""
    suffix = backend.engine_suffix()
    paths = folder / f"before{suffix}", folder / f"after{suffix}"
    try:
        for graph, path in zip((tested, folder / "mended.onnx"), paths, strict=True):
            backend.build(graph, path, options)
        return backend.load(paths[0], options), backend.load(paths[1], options), True
    except UserError:
        if suffix != ".onnx":
            raise
    # An engine that is an ONNX file may be any.
    return (
        backend.load(tested, options),
        backend.load(folder / "mended.onnx", options),
        False,
    )


def _timed(
    sessions: Sequence[Session], windows: Windows, batch: BatchSize, token_budget: int
) -> list[list[float]]:
    """QPS of each session in each repeat, in turn, another one first every time."""
    plan = plan_batches(windows.lengths, batch, token_budget)
    rates: list[list[float]] = [[] for _ in sessions]
    for repeat in range(REPEATS + 1):
        order = range(len(sessions)) if repeat % 2 else reversed(range(len(sessions)))
        for index in order:
            made: Execution = run_windows(
                sessions[index], windows, plan, f"QPS, repeat {repeat} of {REPEATS}"
            )
            # The first repeat warms up.
            if repeat:
                rates[index].append(qps(len(windows), batch, made.seconds, made.wall_seconds))
    return rates
