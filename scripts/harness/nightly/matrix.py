"""What is measured every night: profiles × backends × precisions, those that this machine has."""

from __future__ import annotations

import itertools
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backends import backends
from ..errors import UserError, one_line
from ..options import Options, read_options
from ..paths import ROOT, shown
from ..profile import load_profile
from ..schema import check_schema
from ..yaml_file import read_yaml
from .record import Cell

MATRIX = ROOT / "configs" / "nightly.yaml"
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")

_NAMES = {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}}
_BLOCK = {
    "type": "object",
    "additionalProperties": False,
    "required": ["profiles", "backends"],
    "properties": {
        "profiles": _NAMES,
        "backends": _NAMES,
        "precisions": {**_NAMES, "items": {"enum": PRECISIONS}},
        "batch": {"anyOf": [{"type": "integer", "minimum": 1}, {"const": "auto"}]},
        "device": {"type": "integer", "minimum": 0},
        "dataset": {"type": "string", "minLength": 1},
    },
}
_SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["cells"],
    "properties": {
        "machine": {"type": "string", "minLength": 1},
        "cells": {"type": "array", "minItems": 1, "items": _BLOCK},
    },
}


@dataclass(frozen=True)
class Entry:
    """One cell to measure: its options as stages read them, and the Python that runs it.

    `variables` are the make variables that ask for just this cell.
    """

    cell: Cell
    options: Options
    variables: dict[str, str]
    python: Path

    @property
    def name(self) -> str:
        """`<profile>/<backend>-<precision>` and a suffix as its folder under results has it."""
        return name_of(self.options)


@dataclass(frozen=True)
class Skipped:
    """A cell that this machine does not have, and why in a line."""

    name: str
    reason: str


@dataclass(frozen=True)
class Matrix:
    """The cells of one machine, in the order of the file."""

    machine: str
    entries: tuple[Entry, ...]
    skipped: tuple[Skipped, ...]

    def only(self, **wanted: str) -> Matrix:
        """The cells whose `profile`, `backend` and `precision` are those given; "" is any.

        Raises UserError where none is left, and tells why where all of them were skipped.
        """
        asked = {key: value for key, value in wanted.items() if value}

        def fits(entry: Entry) -> bool:
            return all(getattr(entry.cell, key) == value for key, value in asked.items())

        found = tuple(entry for entry in self.entries if fits(entry))
        if not found:
            words = " ".join(f"{key.upper()}={value}" for key, value in asked.items())
            reasons = "; ".join(f"{s.name}: {s.reason}" for s in self.skipped)
            left = f" ({reasons})" if reasons else ""
            raise UserError(
                f"no cell of the matrix{f' with {words}' if words else ''} can be measured "
                f"here{left}; change the matrix or the variables"
            )
        return Matrix(self.machine, found, () if asked else self.skipped)

    def named(self, name: str) -> Matrix:
        """The cell `name` alone; raises UserError where it is not in the matrix."""
        found = tuple(entry for entry in self.entries if entry.name == name)
        if not found:
            known = ", ".join(entry.name for entry in self.entries) or "none"
            raise UserError(f"no cell {name!r} is measured here; it is one of {known}")
        return Matrix(self.machine, found, ())


def name_of(options: Options) -> str:
    """What the cell of `options` is called."""
    return f"{options.profile.name}/{options.run_name}"


def read_matrix(path: Path) -> Matrix:
    """The cells in the YAML file `path` that this machine has, and those that it has not.

    Raises UserError for a malformed file, an unknown name, and two entries that would be one
    cell of the history.
    """
    if not path.is_file():
        raise UserError(f"matrix {path} does not exist; check MATRIX")
    document = read_yaml(path, "matrix")
    check_schema(document, _SCHEMA, f"matrix {shown(path)}")
    machine = document.get("machine") or platform.node() or "unnamed"
    entries: list[Entry] = []
    skipped: list[Skipped] = []
    reasons: dict[str, str | None] = {}
    for block in document["cells"]:
        _check_names(block, path)
        for profile, backend in itertools.product(block["profiles"], block["backends"]):
            if backend not in reasons:
                reasons[backend] = _absent(backend)
            for precision in block.get("precisions") or ("",):
                found = _entry(machine, block, profile, backend, precision, reasons[backend])
                (entries if isinstance(found, Entry) else skipped).append(found)  # type: ignore[arg-type]
    seen: dict[Cell, str] = {}
    for entry in entries:
        if entry.cell in seen:
            raise UserError(
                f"matrix {shown(path)} names {entry.name} and {seen[entry.cell]}, one cell of the "
                "history; keep one of them"
            )
        seen[entry.cell] = entry.name
    return Matrix(machine, tuple(entries), tuple(skipped))


def python_of(backend: str) -> Path:
    """The interpreter that has the packages of `backend`, as the Makefile chooses it."""
    own = ROOT / ".venv-cuda" / "bin" / "python"
    return own if backend == "ort-cuda" and own.is_file() else Path(sys.executable)


def _check_names(block: Mapping[str, Any], path: Path) -> None:
    known: Sequence[str] = tuple(backends())
    try:
        for profile in block["profiles"]:
            load_profile(profile)
        for backend in block["backends"]:
            if backend not in known:
                raise UserError(f"no backend {backend!r}; BACKEND is one of {', '.join(known)}")
    except UserError as error:
        raise UserError(f"matrix {shown(path)}: {error}") from None


def _entry(
    machine: str,
    block: Mapping[str, Any],
    profile: str,
    backend: str,
    precision: str,
    absent: str | None,
) -> Entry | Skipped:
    given = {
        "PROFILE": profile,
        "BACKEND": backend,
        "PRECISION": precision,
        "BATCH": str(block.get("batch", "")),
        "DEVICE": str(block.get("device", "")),
        "DATASET": block.get("dataset", ""),
    }
    name = f"{profile}/{backend}" + (f"-{precision}" if precision else "")
    if absent is not None:
        return Skipped(name, absent)
    if precision and precision not in backends()[backend].precisions:
        return Skipped(name, f"backend {backend} has no precision {precision}")
    # Where another Python has the backend's packages, this one need not.
    options = read_options(given, available=False)
    index = options.device
    cell = Cell(
        f"{machine}/device{index}" if index else machine,
        profile,
        backend,
        options.precision,
        options.batch,
    )
    return Entry(cell, options, given, python_of(backend))


def _absent(name: str) -> str | None:
    """Why the backend cannot be measured on this machine, in a line; None if it can."""
    python = python_of(name)
    if python == Path(sys.executable):
        backend = backends()[name]
        return backend.unavailable() or backend.cannot_run()
    question = (
        f"from harness.backends import backends; b = backends()[{name!r}]; "
        "print(b.unavailable() or b.cannot_run() or '')"
    )
    done = subprocess.run(
        [python, "-c", question],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return one_line((done.stderr.strip().splitlines() or ["its Python does not start"])[-1])
    return done.stdout.strip() or None
