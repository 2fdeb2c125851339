"""YAML files, safely: plain values only, no key twice, and no more of it than a person writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from .errors import UserError, one_line
from .files import require_regular

# The manifest, the largest of ours, has 5 kB. PyYAML is written in Python: 128 KiB of the densest
# YAML take it a second or two.
LARGEST_YAML_BYTES = 128 << 10
# A float64 and its exponent need 24. Longer ones cost quadratic time and cannot be printed.
LONGEST_NUMBER = 30

_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_MERGE = "tag:yaml.org,2002:merge"


def read_yaml(path: Path, what: str) -> Any:
    """The YAML value in `path`; raises UserError, naming `what`, for anything unreadable.

    Refused are, besides malformed YAML, keys given twice, aliases (a few of them spell out
    gigabytes) and merges, tags (they choose what is made of a text), numbers of more than 30
    characters, and half a surrogate pair.
    """
    try:
        require_regular(path)
        with path.open("rb") as stream:
            stored = stream.read(LARGEST_YAML_BYTES + 1)
        if len(stored) > LARGEST_YAML_BYTES:
            raise ValueError(f"larger than {LARGEST_YAML_BYTES >> 10} KiB")
        return yaml.load(stored.decode("utf-8"), Loader=_PlainLoader)
    # ValueError: a value that looks like a date and is none (2024-13-45). OverflowError: the
    # character "\\UFFFFFFFF".
    except (OSError, OverflowError, ValueError, yaml.YAMLError, RecursionError) as error:
        reason = one_line(error)[:300]
        raise UserError(f"{what} {path} cannot be read ({reason}); mend it") from None


class _PlainLoader(yaml.SafeLoader):
    """Safe YAML without what lets a short text stand for much, or for something else."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The node at the next event; raises ComposerError for what is no plain value."""
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) is not None:
            raise _refusal("an alias or a tag, where a plain value belongs", event)
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode):
            if node.tag == _MERGE:
                raise _refusal("a merge, where a plain value belongs", event)
            if node.tag in _NUMBERS and len(node.value) > LONGEST_NUMBER:
                raise _refusal(f"a number of {len(node.value)} characters", event)
            if any("\ud800" <= c <= "\udfff" for c in node.value):
                raise _refusal("half of a surrogate pair", event)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of `node`; raises ConstructorError for a doubled key.

        PyYAML lets the last one win.
        """
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            seen: set[Any] = set()
            for key_node, _ in node.value:
                key = self.construct_object(key_node)
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key!r} occurs twice", key_node.start_mark
                    )
                seen.add(key)
        return mapping


def _refusal(what: str, event: yaml.Event) -> yaml.YAMLError:
    return yaml.composer.ComposerError(None, None, what, event.start_mark)  # type: ignore[arg-type]
