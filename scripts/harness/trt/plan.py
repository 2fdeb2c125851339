"""A plan: the bytes that a runtime has serialized an engine into, and takes back."""

from __future__ import annotations

from typing import Any

from ..errors import UserError, one_line
from .library import Library


class PlanError(Exception):
    """Why a plan is none that can be run here."""


def deserialize(library: Library, plan: bytes) -> Any:
    """The engine of a plan on the current device, or None, and the library's log says why.

    Raises UserError where the runtime does not start.
    """
    library.log.clear()
    try:
        runtime = library.module.Runtime(library.log.logger)
        engine = runtime.deserialize_cuda_engine(plan)
    # The bindings turn a null pointer into a TypeError and what C++ throws into a RuntimeError.
    except (RuntimeError, TypeError) as error:
        raise UserError(
            f"{library.title} does not start ({one_line(error)}); `make doctor` shows devices and "
            "drivers"
        ) from None
    return engine


def describe(library: Library, plan: bytes) -> str | None:
    """What the runtime's inspector tells of a plan, as JSON text; None where it has none."""
    engine = deserialize(library, plan)
    if engine is None or not hasattr(engine, "create_engine_inspector"):
        return None
    form = library.module.LayerInformationFormat.JSON
    text: str = engine.create_engine_inspector().get_engine_information(form)
    return text
