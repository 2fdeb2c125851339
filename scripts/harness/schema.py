"""JSON Schema, strictly: 8.0 is no integer, and only what is finite in float64 is a number."""

from __future__ import annotations

import math
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.validators import extend

from .errors import UserError

_LONGEST_REASON = 200


def _is_integer(_: object, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(_: object, value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


_Strict = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"integer": _is_integer, "number": _is_number}
    ),
)


def check_schema(document: Any, schema: dict[str, Any], what: str) -> None:
    """Raise UserError, naming `what` and the place, where `document` breaks `schema`."""
    for problem in _Strict(schema).iter_errors(document):
        where = "/".join(str(part) for part in problem.absolute_path) or "the top level"
        reason = problem.message
        if len(reason) > _LONGEST_REASON:
            reason = reason[:_LONGEST_REASON] + "…"
        raise UserError(f"{what} is malformed at {where} ({reason}); mend it")
