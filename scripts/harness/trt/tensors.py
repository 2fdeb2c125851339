"""An engine's inputs and outputs, by name or by number: the two APIs that runtimes have.

`NamedTensors` and `Bindings` do the same: tell the largest batch, and put one batch on a stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ..errors import UserError
from ..plugin_network import INPUTS, OUTPUTS
from .api import BindingContext, BindingEngine, NamedContext, NamedEngine, Shape
from .library import Library
from .plan import PlanError


class Executor(Protocol):
    """A loaded engine; `largest` is the largest (batch, seq) that it takes."""

    largest: Shape

    def enqueue(self, shape: Shape, addresses: Mapping[str, int], stream: int) -> bool:
        """Put one batch of `shape` on `stream`; False if the runtime refuses.

        `addresses` are the device's, of inputs int32 and outputs float32 (batch, seq), by name.
        """
        ...


class NamedTensors:
    """TensorRT 8.6 and later, and TensorRT-RTX."""

    def __init__(self, library: Library, engine: NamedEngine) -> None:
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        _check(library, {name: engine.get_tensor_dtype(name) for name in names})
        self.largest = _largest(engine.get_tensor_profile_shape(INPUTS[0], 0))
        self._context: NamedContext = _context(library, engine)

    def enqueue(self, shape: Shape, addresses: Mapping[str, int], stream: int) -> bool:
        """See `Executor`."""
        context = self._context
        return (
            all(context.set_input_shape(name, shape) for name in INPUTS)
            and all(context.set_tensor_address(name, addresses[name]) for name in addresses)
            and context.execute_async_v3(stream)
        )


class Bindings:
    """ixRT."""

    def __init__(self, library: Library, engine: BindingEngine) -> None:
        self._names = [engine.get_binding_name(i) for i in range(engine.num_bindings)]
        kinds = {name: engine.get_binding_dtype(i) for i, name in enumerate(self._names)}
        _check(library, kinds)
        first = self._names.index(INPUTS[0])
        self.largest = _largest(engine.get_profile_shape(0, first))
        self._context: BindingContext = _context(library, engine)
        self._stream: int | None = None

    def enqueue(self, shape: Shape, addresses: Mapping[str, int], stream: int) -> bool:
        """See `Executor`."""
        context = self._context
        if self._stream != stream:
            if not context.set_optimization_profile_async(0, stream):
                return False
            self._stream = stream
        return (
            all(context.set_binding_shape(self._names.index(name), shape) for name in INPUTS)
            and context.all_binding_shapes_specified
            and context.execute_async_v2([addresses[name] for name in self._names], stream)
        )


def executor(library: Library, engine: Any) -> Executor:
    """The engine's tensors through the API that `library` has.

    Raises PlanError for an engine of another model, and UserError when the device's memory does
    not hold what it needs to run.
    """
    return NamedTensors(library, engine) if library.named else Bindings(library, engine)


def _check(library: Library, kinds: Mapping[str, Any]) -> None:
    trt = library.module
    expected = {**dict.fromkeys(INPUTS, trt.int32), **dict.fromkeys(OUTPUTS, trt.float32)}
    if dict(kinds) != expected:
        listed = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
        raise PlanError(f"it has {listed}, so is no engine of this project")


def _largest(profile: Sequence[Any]) -> Shape:
    batch, length = tuple(profile[2])
    return int(batch), int(length)


def _context(library: Library, engine: Any) -> Any:
    library.log.clear()
    context = engine.create_execution_context()
    if context is None:
        raise UserError(
            f"{library.title} cannot get the device's memory ({library.log.cause()}); "
            "use a smaller BATCH"
        )
    return context
