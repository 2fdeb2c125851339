"""Networks that return what is between their sub-layers, and the backends that run them.

A backend can be diagnosed if it is `Tapped`. One that runs no ONNX graphs could be if its engine
returned tensors by name and took them: then its `GraphSession` would be over that engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import onnx

from ..backends import Backend, EngineOptions, backends
from ..backends.ort import OrtGraph, cpu_session
from ..batches import Batch
from ..errors import UserError
from ..files import TEMPORARY_PREFIX
from ..paths import BUILD
from ..weights import Array

Arithmetic = Literal["fp32", "fp16", "bf16"]


class GraphSession(Protocol):
    """An ONNX graph in a runtime."""

    def run(self, feed: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """All outputs by name; `feed` holds at least the inputs that the graph takes, of their
        types."""
        ...


@runtime_checkable
class Tapped(Protocol):
    """A backend that runs any ONNX graph as it runs an engine's: same runtime, optimizations and
    arithmetic. Only fusions across an output that the graph returns are not made."""

    name: str

    def arithmetic(self, options: EngineOptions) -> Arithmetic:
        """The type of everything that is not quantized."""
        ...

    def graph_session(self, model: Path, options: EngineOptions) -> GraphSession:
        """A session over the ONNX file `model`, which is not needed any more afterwards.

        Raises UserError where the runtime refuses it.
        """
        ...


class Network:
    """A graph in a session, with float32 arrays outside whatever it has inside."""

    def __init__(self, model: onnx.ModelProto, session: GraphSession) -> None:
        self._session = session
        self._types = {
            value.name: onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            for value in model.graph.input
        }

    def run(self, batch: Batch, given: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """All outputs by name for the inputs of `batch`, and for the tensors `given` where the
        graph takes some. A float16 input gets the nearest value of its range."""
        feed: dict[str, npt.NDArray[Any]] = dict(batch.inputs)
        for name, array in (given or {}).items():
            if name in self._types:
                feed[name] = narrowed(array, self._types[name])
        found = self._session.run(feed)
        return {name: array.astype(np.float32, copy=False) for name, array in found.items()}


def narrowed(array: Array, kind: npt.DTypeLike) -> npt.NDArray[Any]:
    """`array` in the float type `kind`; what is beyond its range becomes its largest value."""
    if np.dtype(kind) == array.dtype:
        return array
    largest = np.finfo(kind).max
    return array.clip(-largest, largest).astype(kind)


def open_network(model: onnx.ModelProto, backend: Tapped, options: EngineOptions) -> Network:
    """`model` in the backend's runtime."""
    with _saved(model) as path:
        return Network(model, backend.graph_session(path / "model.onnx", options))


def open_reference(model: onnx.ModelProto) -> Network:
    """`model` in ONNX Runtime on the CPU, node by node as it is written."""
    with _saved(model) as path:
        return Network(model, OrtGraph(cpu_session(path / "model.onnx", optimized=False)))


def tapped_backend(backend: Backend) -> Tapped:
    """`backend` as one that can be diagnosed; raises UserError where it is none."""
    if not isinstance(backend, Tapped):
        able = [name for name, other in backends().items() if isinstance(other, Tapped)]
        raise UserError(
            f"backend {backend.name} shows nothing of what is between its layers; "
            f"use BACKEND={_or(able)}"
        )
    return backend


def _or(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


class _saved:
    """A folder with the graph as model.onnx for as long as the block lasts.

    By way of a file: as bytes the model would be in memory once more.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        BUILD.mkdir(exist_ok=True)
        self._folder = TemporaryDirectory(dir=BUILD, prefix=TEMPORARY_PREFIX)
        onnx.save(model, Path(self._folder.name) / "model.onnx")

    def __enter__(self) -> Path:
        return Path(self._folder.name)

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()
