"""The lock file: which content was first seen of each asset that has no published hash."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .errors import UserError
from .files import read_json
from .paths import shown


def read_pins(path: Path) -> dict[str, dict[str, Any]]:
    """Asset name -> {sha256, size, source, date}; empty where there is no lock file yet.

    Raises UserError for any other content.
    """
    if not path.exists():
        return {}
    pins = read_json(path, "asset lock file")
    if not isinstance(pins, dict) or not all(map(_is_pin, pins.values())):
        raise UserError(
            f"asset lock file {shown(path)} does not map names to entries with a "
            "sha256; restore it with git"
        )
    return pins


def _is_pin(entry: Any) -> bool:
    digest = entry.get("sha256") if isinstance(entry, dict) else None
    return isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) is not None
