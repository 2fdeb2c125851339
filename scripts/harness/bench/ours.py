"""This project's own CPU backends, through the interface that every command uses."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import onnx
from tokenizers import Tokenizer

from ..backends import Session, backends
from ..batches import AUTO, BatchSize
from ..calibrate import Method, calibrate, center, find_centers
from ..files import TEMPORARY_PREFIX
from ..graph import Precision, build_graph, save_graph
from ..measure import run_pass
from ..options import Options, read_options
from ..paths import BUILD
from ..profile import Profile
from ..records import MadeFile, read_record, records_of
from ..squad import Question
from ..weights import Architecture, Weights
from ..windows import Windows, load_tokenizer
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
        """Build an engine of weights that `make engine` knows nothing of."""
        if not model.trained:
            build_engine(self._options(model), model, folder)

    def load(self, model: Model, folder: Path) -> Runner:
        """A runner over windows; raises UserError where `make engine` has not run."""
        options = self._options(model)
        return SessionRunner(_session(options, model, folder), options.backend.token_budget)

    def _options(self, model: Model) -> Options:
        return read_options(
            {
                "PROFILE": model.profile,
                "BACKEND": self.backend,
                "PRECISION": self.precision,
                "BATCH": AUTO,
                "CALIBRATION": str(model.calibration_file or ""),
            }
        )


@dataclass(frozen=True)
class OursEndToEnd(Ours):
    """The same from text to answers, as `make infer` does it."""

    def load(self, model: Model, folder: Path) -> Runner:
        """A runner over questions."""
        options = self._options(model)
        return _Reader(
            _session(options, model, folder),
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
        if backend.lock_name(0) == "cpu"
        for precision in backend.precisions
    ]


def _session(options: Options, model: Model, folder: Path) -> Session:
    """The engine that `make engine` has built, or `build_engine` where the weights are random."""
    engine = _engine_file(options, folder)
    if model.trained:
        target = (
            f"engine PROFILE={model.profile} BACKEND={options.backend.name} "
            f"PRECISION={options.precision} BATCH={options.batch}"
        )
        record = read_record(records_of(options).engine, target)
        engine = MadeFile.from_json(record["file"]).checked(target)
    return options.backend.load(engine, options.engine)


def build_engine(options: Options, model: Model, folder: Path) -> None:
    """Write the engine of `model`'s weights for `options` into `folder`."""
    weights, architecture = model.read(), model.architecture
    if options.quantized:
        graph = int8_graph(weights, architecture, model.calibration)
    else:
        graph = build_graph(weights, architecture, cast(Precision, options.graph_precision))
    onnx_file = folder / "graph.onnx"
    save_graph(graph, onnx_file)
    options.backend.build(onnx_file, _engine_file(options, folder), options.engine)
    onnx_file.unlink()


def int8_graph(weights: Weights, architecture: Architecture, windows: Windows) -> onnx.ModelProto:
    """The INT8 graph of `weights`, calibrated on `windows` as `make scales` does it."""
    with tempfile.TemporaryDirectory(dir=BUILD, prefix=TEMPORARY_PREFIX) as folder:
        plain = Path(folder) / "fp32.onnx"
        save_graph(build_graph(weights, architecture, "fp32"), plain)
        centers = find_centers(plain, windows, architecture)
        centered = center(weights, architecture, centers)
        save_graph(build_graph(centered, architecture, "fp32"), plain)
        found = calibrate(plain, windows, centered, architecture, Method())
    return build_graph(centered, architecture, "fp32", replace(found, centers=centers))


def _engine_file(options: Options, folder: Path) -> Path:
    return folder / f"engine{options.backend.engine_suffix()}"
