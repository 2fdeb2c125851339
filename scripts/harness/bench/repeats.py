"""BENCH_REPEATS, for every bench."""

from __future__ import annotations

import os

from ..errors import UserError


def read_repeats(least: int, most: int) -> int:
    """BENCH_REPEATS, by default `least`. Raises UserError for anything but least to most."""
    text = os.environ.get("BENCH_REPEATS") or str(least)
    if text not in map(str, range(least, most + 1)):
        raise UserError(f"BENCH_REPEATS is {text!r}; it is a whole number from {least} to {most}")
    return int(text)
