"""The engine's file, named by everything it was built from, and current as long as that holds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from . import backends
from .errors import UserError
from .files import fingerprint
from .options import Options
from .paths import BUILD, shown
from .provenance import code_sha256
from .records import MadeFile, read_record, records_of


def made_from(options: Options, onnx_sha256: str) -> dict[str, Any]:
    """What the engine of `options` and the ONNX graph with this hash is built from, as JSON."""
    return {
        "onnx": onnx_sha256,
        "backend": options.backend.name,
        "precision": options.precision,
        "options": _inputs(options),
        # The engine's authors are inputs too.
        "code": code_sha256(*_backend_modules()),
    }


def engine_path(options: Options, made_from: dict[str, Any]) -> Path:
    """Where the engine made from these things lies."""
    name = f"{options.profile.model}-{options.precision}-{fingerprint(made_from)}"
    return BUILD / "engine" / options.backend.name / (name + options.backend.engine_suffix())


def checked_engine(options: Options, record: dict[str, Any]) -> Path:
    """The engine of `record`: unchanged since it was built, for the machine as it is.

    Raises UserError otherwise, and where the backend can only build.
    """
    reason = options.backend.cannot_run()
    if reason is not None:
        raise UserError(f"backend {options.backend.name} builds here, but cannot run: {reason}")
    path = MadeFile.from_json(record["file"]).checked("engine")
    then, now = record["made_from"]["options"], _inputs(options)
    changed = [
        f"{key} was {then.get(key)} and is {now.get(key)}"
        for key in sorted({*then, *now})
        if then.get(key) != now.get(key)
    ]
    if changed:
        raise UserError(f"{shown(path)} is stale: {'; '.join(changed)}; run `make engine` again")
    return path


def drop_stale_engine(options: Options) -> None:
    """Remove the engine's record if its machine, drivers or libraries are others by now."""
    path = records_of(options).engine
    if path.is_file():
        try:
            stale = read_record(path, "engine")["made_from"]["options"] != _inputs(options)
        except (UserError, KeyError, TypeError):
            stale = True
        if stale:
            path.unlink()


def _inputs(options: Options) -> Any:
    """The backend's part, as it comes back from a file."""
    return json.loads(json.dumps(options.backend.engine_inputs(options.engine)))


def _backend_modules() -> list[ModuleType]:
    """The modules that backends are written in, by name."""
    package = backends.__name__
    return [module for name, module in sorted(sys.modules.items()) if name.startswith(package)]
