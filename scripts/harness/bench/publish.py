"""Where the benches on a GPU leave what they have measured."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..devices import folder_name
from ..files import to_json, write_atomic
from ..paths import RESULTS, shown


def publish(
    name: str, device: str, found: Mapping[str, Any], text: str, chart: str | None = None
) -> None:
    """Write `<name>.json`, `<name>.md` and, with a chart, `<name>.svg` into OUTPUT, or into the
    folder of results/published for the device of this name; print the text and where it is."""
    output = Path(os.environ.get("OUTPUT") or RESULTS / "published" / folder_name(device))
    write_atomic(output / f"{name}.json", to_json(found))
    write_atomic(output / f"{name}.md", text)
    if chart is not None:
        write_atomic(output / f"{name}.svg", chart)
    print(text)
    print(f"bench: {shown(output / f'{name}.md')}")
