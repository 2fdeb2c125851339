"""The plugin library: which one, and how a runtime gets to know its plugins.

Two libraries are called libixrt_plugin.so: the vendor's beside ixRT's module, and this project's.
ixRT takes the vendor's unless PLUGIN_LIBRARY names another; TensorRT has this project's alone. One
process loads one of them, since both register plugins under the same names.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from ..errors import UserError, one_line
from ..paths import BUILD, shown
from .library import Library

# Where `make plugin` leaves it.
OURS = BUILD / "plugin" / "plugin" / "lib" / "libixrt_plugin.so"

# A library that is open stays so: what it registered points into it.
_open: dict[tuple[int, Path], Any] = {}


def plugin_library(library: Library, chosen: Path | None) -> Path:
    """The file to load: `chosen`, or the runtime's own choice.

    Raises UserError where that does not exist.
    """
    path = chosen or library.plugin_library or OURS
    if not path.is_file():
        raise UserError(
            f"no plugin library {shown(path)}; run `make plugin USE_TENSORRT=true`, name one with "
            "PLUGIN_LIBRARY=, or use NETWORK=onnx"
        )
    return path.resolve()


def load_plugins(library: Library, path: Path) -> None:
    """Load the plugin library `path` into the runtime's registry, once.

    Raises UserError for a file that cannot be loaded, and after another library.
    """
    key = (id(library.module), path)
    if key in _open:
        return
    for module, other in _open:
        if module == key[0]:
            raise UserError(f"plugins of {other} are loaded already; use one PLUGIN_LIBRARY a run")
    library.log.clear()
    remedy = f"build it for {library.title} with `make plugin`, or name another PLUGIN_LIBRARY"
    try:
        # ixRT's registry loads nothing: its plugins register themselves when a library is opened.
        if library.plugin_library is not None:
            _open[key] = ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
            return
        handle = library.module.get_plugin_registry().load_library(str(path))
    except (OSError, RuntimeError, TypeError) as error:
        raise UserError(f"{shown(path)} cannot be loaded ({one_line(error)}); {remedy}") from None
    if handle is None:
        cause = library.log.cause()
        raise UserError(f"{shown(path)} cannot be loaded ({cause}); {remedy}")
    _open[key] = handle
