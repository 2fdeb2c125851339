"""Which of the TensorRT family this Python has, and how it differs from the others.

runtime             plugins  types            tensors by  times kernels
TensorRT 8.6        V2       builder's flags  name        yes
ixRT                V2       builder's flags  number      its own way
TensorRT 10 and 11  V3       the network's    name        yes
TensorRT-RTX        none     the network's    name        when it runs
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ..errors import UserError, one_line
from ..tensorrt_api import Api
from .api import Module
from .log import Log

_OLDEST = (8, 6)
# Upstream's setting for ixRT; the driver reads it when it starts.
_IXRT_VARIABLES = {"UMD_ENABLEDCPRINGNUM": "16"}
# Wheels that carry TensorRT-RTX's libraries, by the package they are in.
_RTX_LIBRARIES = ("libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1")
_RTX_PACKAGE = "onnxruntime_ep_nv_tensorrt_rtx"


@dataclass(frozen=True)
class Library:
    """A runtime: its module, its logger, and what the other modules need to know of it.

    `api` is the generation of plugins. `typed` says that networks are strongly typed; the others
    take types from the builder's flags. `named` says that tensors go by name. `timed` says that
    the builder times kernels, and keeps the times in a cache. `plugin_library` is the vendor's
    own, where there is one.
    """

    name: str
    version: str
    module: Module
    log: Log
    api: Api
    typed: bool
    named: bool
    timed: bool
    plugin_library: Path | None = None

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}"

    @property
    def folder(self) -> Path:
        """Where the module lies."""
        return Path(str(getattr(self.module, "__file__", None) or "")).parent


# The runtimes hold on to the first logger they see: a module's is made once and never freed.
_found: dict[int, Library] = {}


def find_tensorrt() -> Library:
    """NVIDIA's TensorRT; raises UserError where its module is missing, older, or ixRT's."""
    module = _import("tensorrt", "TensorRT", "install TensorRT's Python package")
    if _vendor_plugins(module) is not None:
        raise UserError("module tensorrt is ixRT's; use BACKEND=ixrt, or another Python")
    version = _version(module)
    if version < _OLDEST:
        raise UserError(f"TensorRT {module.__version__} is too old; install 8.6 or later")
    typed = version >= (10,)
    return _remember("TensorRT", module, api=3 if typed else 2, typed=typed, named=True, timed=True)


def find_ixrt() -> Library:
    """Iluvatar's ixRT; raises UserError where its module is missing or another vendor's."""
    for name, value in _IXRT_VARIABLES.items():
        os.environ.setdefault(name, value)
    module = _import("tensorrt", "ixRT", "install the vendor's ixRT wheel")
    plugins = _vendor_plugins(module)
    if plugins is None:
        raise UserError(
            "module tensorrt is not ixRT's: no lib/libixrt_plugin.so beside it; install the "
            "vendor's ixRT wheel"
        )
    return _remember(
        "ixRT", module, api=2, typed=False, named=False, timed=False, plugin_library=plugins
    )


def find_tensorrt_rtx() -> Library:
    """TensorRT-RTX; raises UserError where its module or its libraries are missing."""
    remedy = "run `make tensorrt-rtx`"
    try:
        module = _import("tensorrt_rtx", "TensorRT-RTX", remedy)
    except UserError:
        _load_rtx_libraries(remedy)
        module = _import("tensorrt_rtx_bindings", "TensorRT-RTX", remedy)
    return _remember("TensorRT-RTX", module, api=3, typed=True, named=True, timed=False)


def _import(name: str, title: str, remedy: str) -> Module:
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        raise UserError(f"{title} has no module {name} ({one_line(error)}); {remedy}") from None
    # Packages of type stubs make the import succeed as an empty namespace.
    if not hasattr(module, "Builder"):
        raise UserError(f"module {name} has no Builder, so is not {title}; {remedy}")
    return cast(Module, module)


def _vendor_plugins(module: Module) -> Path | None:
    """The plugin library that ixRT's wheel has beside its module, and no other wheel."""
    file = getattr(module, "__file__", None)
    path = Path(str(file)).parent / "lib" / "libixrt_plugin.so"
    return path if file and path.is_file() else None


def _version(module: Module) -> tuple[int, ...]:
    numbers = module.__version__.split("+")[0].split(".")[:2]
    return tuple(int(number) for number in numbers if number.isdecimal())


def _load_rtx_libraries(remedy: str) -> None:
    """The bindings look for libraries that the loader has already."""
    spec = importlib.util.find_spec(_RTX_PACKAGE)
    folder = None if spec is None or spec.origin is None else Path(spec.origin).parent
    if folder is None:
        raise UserError(f"package {_RTX_PACKAGE} is missing; {remedy}")
    for library in _RTX_LIBRARIES:
        # Its name has the full version, and maybe links to it have less.
        try:
            ctypes.CDLL(str(min(folder.glob(f"{library}*"))), ctypes.RTLD_GLOBAL)
        except (OSError, ValueError) as error:
            raise UserError(f"{library} cannot be loaded ({one_line(error)}); {remedy}") from None


def _remember(
    name: str,
    module: Module,
    *,
    api: Api,
    typed: bool,
    named: bool,
    timed: bool,
    plugin_library: Path | None = None,
) -> Library:
    key = id(module)
    if key not in _found:
        _found[key] = Library(
            name=name,
            version=module.__version__,
            module=module,
            log=Log(module),
            api=api,
            typed=typed,
            named=named,
            timed=timed,
            plugin_library=plugin_library,
        )
    return _found[key]
