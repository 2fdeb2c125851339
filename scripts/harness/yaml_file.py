"""YAML files, safely: plain values only, and no key twice."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from .errors import UserError


def read_yaml(path: Path, what: str) -> Any:
    """The YAML value in `path`; raises UserError, naming `what`, for anything unreadable."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    # ValueError: a value that looks like a date and is none (2024-13-45).
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{what} {path} cannot be read ({error}); mend it") from None


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, where PyYAML lets the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """The mapping of `node`; raises ConstructorError for a doubled key."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        doubled = [key for position, key in enumerate(keys) if key in keys[:position]]
        if doubled:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {doubled[0]!r} occurs twice", node.start_mark
            )
        return super().construct_mapping(node, deep)
