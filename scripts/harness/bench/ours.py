"""This project's own CPU backends, through the interface that every command uses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tokenizers import Tokenizer

from ..backends import Session, backends
from ..backends.cpu import OnCpu
from ..batches import AUTO, BatchSize
from ..calibrate import Method, center, quantize
from ..graph import Precision, build_graph, save_graph
from ..measure import run_pass
from ..model import QUANTIZED
from ..options import Options, read_options
from ..profile import Profile
from ..squad import Question
from ..windows import load_tokenizer
from .model import Model
from .system import Pass, Runner, SessionRunner


@dataclass(frozen=True)
class Ours:
    """A backend at a precision, timed over windows, in the batches that are its fastest."""

    backend: str
    precision: str
    ours: bool = True
    batches: tuple[BatchSize, ...] = (AUTO,)

    @property
    def key(self) -> str:
        return f"{self.backend}-{self.precision}"

    @property
    def title(self) -> str:
        return f"this project, {self.backend} {self.precision}"

    def build(self, model: Model, folder: Path) -> None:
        """Build an engine as `make engine` does."""
        build_engine(self._options(model), model, folder)

    def load(self, model: Model, folder: Path) -> Runner:
        """A runner over windows."""
        options = self._options(model)
        return SessionRunner(_session(options, folder), options.backend.token_budget)

    def _options(self, model: Model) -> Options:
        return read_options(
            {
                "PROFILE": model.profile,
                "BACKEND": self.backend,
                "PRECISION": self.precision,
                "BATCH": AUTO,
            }
        )


@dataclass(frozen=True)
class OursEndToEnd(Ours):
    """The same from text to answers, as `make infer` does it."""

    def load(self, model: Model, folder: Path) -> Runner:
        """A runner over questions."""
        options = self._options(model)
        return _Reader(
            _session(options, folder),
            load_tokenizer(model.vocabulary),
            options.profile,
            options.backend.token_budget,
        )


@dataclass(frozen=True)
class _Reader:
    session: Session
    tokenizer: Tokenizer
    profile: Profile
    token_budget: int

    def run(self, work: list[Question], batch: BatchSize) -> Pass:
        """The output maps question ids to answer texts."""
        done = run_pass(
            self.session, work, self.tokenizer, self.profile, batch, self.token_budget, ""
        )
        seconds = done.wall_seconds
        return Pass(seconds, len(work) / seconds, done.predictions, done.execution.shapes)


def cpu_precisions() -> list[tuple[str, str]]:
    """Every CPU backend with every precision it lists, whether or not it can run here."""
    return [
        (backend.name, precision)
        for backend in backends().values()
        if isinstance(backend, OnCpu)
        for precision in backend.precisions
    ]


def build_engine(options: Options, model: Model, folder: Path) -> None:
    """Write the engine of `model`'s weights for `options` into `folder`.

    INT8 is calibrated as `make scales` does it, on the windows that NNCF sees as well.
    """
    weights, architecture = model.read(), model.architecture
    precision, scales = options.graph_precision, None
    if options.quantized:
        scales = quantize(weights, architecture, model.calibration, Method())
        weights = center(weights, architecture, scales.centers)
        precision = QUANTIZED[precision]
    graph = build_graph(weights, architecture, cast(Precision, precision), scales)
    onnx_file = folder / "graph.onnx"
    save_graph(graph, onnx_file)
    options.backend.build(onnx_file, _engine_file(options, folder), options.engine)
    onnx_file.unlink()


def _session(options: Options, folder: Path) -> Session:
    return options.backend.load(_engine_file(options, folder), options.engine)


def _engine_file(options: Options, folder: Path) -> Path:
    return folder / f"engine{options.backend.engine_suffix()}"
