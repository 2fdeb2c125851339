"""What building, loading and running engines calls of the vendors' module, as protocols.

Beside `tensorrt_api`, which has what a network of plugins calls. Parameters go by position, since
their names have changed between releases. A call that some runtimes lack says so. Calls that
return None or False have failed, and the logger has been told why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ..tensorrt_api import DataType, Registry, TensorRT

Shape = tuple[int, int]


class TimingCache(Protocol):
    """An `ITimingCache`."""

    def serialize(self) -> Any:
        """An `IHostMemory`."""


class Profile(Protocol):
    """An `IOptimizationProfile`."""

    def set_shape(self, name: str, least: Any, best: Any, most: Any, /) -> Any: ...


class Config(Protocol):
    """An `IBuilderConfig`. Flags are members of the module's `BuilderFlag`."""

    def set_flag(self, flag: Any, /) -> None: ...

    def clear_flag(self, flag: Any, /) -> None: ...

    def add_optimization_profile(self, profile: Any, /) -> int: ...

    def create_timing_cache(self, data: bytes, /) -> TimingCache | None:
        """TensorRT alone."""

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool, /) -> bool:
        """TensorRT alone."""
        ...

    def get_timing_cache(self) -> TimingCache | None:
        """TensorRT alone."""


class Builder(Protocol):
    """An `IBuilder`."""

    def create_network(self, flags: int, /) -> Any: ...

    def create_builder_config(self) -> Any: ...

    def create_optimization_profile(self) -> Profile: ...

    def build_serialized_network(self, network: Any, config: Any, /) -> Any:
        """An `IHostMemory`, or None."""


class Parser(Protocol):
    """An `OnnxParser`."""

    @property
    def num_errors(self) -> int: ...

    def get_error(self, index: int, /) -> Any: ...

    def parse(self, model: bytes, /) -> bool: ...


class Inspector(Protocol):
    """An `EngineInspector`."""

    def get_engine_information(self, format: Any, /) -> str: ...


class NamedEngine(Protocol):
    """An `ICudaEngine` whose tensors go by name: TensorRT 8.6 and later."""

    @property
    def num_io_tensors(self) -> int: ...

    def get_tensor_name(self, index: int, /) -> str: ...

    def get_tensor_dtype(self, name: str, /) -> DataType: ...

    def get_tensor_profile_shape(self, name: str, profile: int, /) -> Sequence[Any]:
        """The smallest, the best and the largest shape."""
        ...

    def create_execution_context(self) -> Any: ...

    def create_engine_inspector(self) -> Inspector: ...


class NamedContext(Protocol):
    """An `IExecutionContext` of a `NamedEngine`."""

    def set_input_shape(self, name: str, shape: Shape, /) -> bool: ...

    def set_tensor_address(self, name: str, address: int, /) -> bool: ...

    def execute_async_v3(self, stream: int, /) -> bool: ...


class BindingEngine(Protocol):
    """An `ICudaEngine` whose tensors go by number: ixRT, and TensorRT before 10."""

    @property
    def num_bindings(self) -> int: ...

    def get_binding_name(self, index: int, /) -> str: ...

    def get_binding_dtype(self, index: int, /) -> DataType: ...

    def get_profile_shape(self, profile: int, binding: int, /) -> Sequence[Any]:
        """The smallest, the best and the largest shape."""
        ...

    def create_execution_context(self) -> Any: ...


class BindingContext(Protocol):
    """An `IExecutionContext` of a `BindingEngine`."""

    @property
    def all_binding_shapes_specified(self) -> bool: ...

    def set_optimization_profile_async(self, profile: int, stream: int, /) -> bool: ...

    def set_binding_shape(self, index: int, shape: Shape, /) -> bool: ...

    def execute_async_v2(self, bindings: list[int], stream: int, /) -> bool: ...


class Runtime(Protocol):
    """An `IRuntime`."""

    def deserialize_cuda_engine(self, plan: bytes, /) -> Any: ...


class LibraryRegistry(Registry, Protocol):
    """An `IPluginRegistry` that loads plugin libraries: all but ixRT's."""

    def load_library(self, path: str, /) -> Any: ...


class Module(TensorRT, Protocol):
    """The module. Classes are called as functions are; enumerations are Any."""

    @property
    def __version__(self) -> str: ...

    @property
    def ILogger(self) -> Any: ...

    @property
    def Logger(self) -> Any: ...

    @property
    def BuilderFlag(self) -> Any: ...

    @property
    def NetworkDefinitionCreationFlag(self) -> Any: ...

    @property
    def ProfilingVerbosity(self) -> Any: ...

    @property
    def LayerInformationFormat(self) -> Any: ...

    @property
    def ComputeCapability(self) -> Any:
        """TensorRT-RTX alone."""

    def Builder(self, logger: Any, /) -> Builder: ...

    def Runtime(self, logger: Any, /) -> Runtime: ...

    def OnnxParser(self, network: Any, logger: Any, /) -> Parser: ...

    def get_plugin_registry(self) -> Any: ...
