"""The few calls of TensorRT's Python API that this project makes, as protocols.

No runtime is imported: functions take the module that the vendor calls `tensorrt`. Two
generations of it are told apart by the plugins that their networks take:

    2    TensorRT 8.6 and ixRT: weakly typed, `IPluginV2DynamicExt`
    3    TensorRT 10 and 11: strongly typed, `IPluginV3`

A call of one generation alone says so. Parameters go by position, since their names have changed
between releases.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol, SupportsInt

import numpy.typing as npt

Api = Literal[2, 3]

# An enumeration's member; `int` gives nvinfer1::DataType's number.
DataType = SupportsInt


class Tensor(Protocol):
    """An `ITensor`."""

    name: str

    def set_dynamic_range(self, low: float, high: float, /) -> object:
        """Generation 2 alone: what an INT8 tensor's scale follows from."""


class Layer(Protocol):
    """An `ILayer`; `reshape_dims` is a shuffle's alone, where 0 copies the input's extent."""

    name: str
    reshape_dims: Sequence[int]

    def get_output(self, index: int, /) -> Tensor: ...

    def set_output_type(self, index: int, dtype: DataType, /) -> None:
        """Generation 2 alone: TensorRT 11's networks are typed by their layers."""


class Network(Protocol):
    """An `INetworkDefinition`. What adds a layer returns None if the layer cannot be."""

    def add_input(self, name: str, dtype: DataType, shape: Sequence[int], /) -> Tensor | None: ...

    def mark_output(self, tensor: Tensor, /) -> None: ...

    def add_constant(self, shape: Sequence[int], weights: npt.NDArray[Any], /) -> Layer | None: ...

    def add_gather(self, data: Tensor, indices: Tensor, axis: int, /) -> Layer | None: ...

    def add_shuffle(self, tensor: Tensor, /) -> Layer | None: ...

    def add_identity(self, tensor: Tensor, /) -> Layer | None: ...

    def add_cast(self, tensor: Tensor, dtype: DataType, /) -> Layer | None:
        """Maybe missing in generation 2."""

    def add_plugin_v2(self, inputs: list[Tensor], plugin: Any, /) -> Layer | None:
        """Generation 2 alone."""

    def add_plugin_v3(
        self, inputs: list[Tensor], shape_inputs: list[Tensor], plugin: Any, /
    ) -> Layer | None:
        """Generation 3 alone."""


class Registry(Protocol):
    """An `IPluginRegistry`. A creator that is not registered is None."""

    def get_plugin_creator(self, name: str, version: str, namespace: str, /) -> Any:
        """Generation 2: the creator, with `create_plugin(name, collection)`."""

    def get_creator(self, name: str, version: str, namespace: str, /) -> Any:
        """Generation 3: the creator, with `create_plugin(name, collection, phase)`."""


class TensorRT(Protocol):
    """The module. `PluginFieldType`'s members are called FLOAT32, INT32, INT8, …"""

    @property
    def float32(self) -> DataType: ...

    @property
    def float16(self) -> DataType: ...

    @property
    def int32(self) -> DataType: ...

    @property
    def int8(self) -> DataType: ...

    @property
    def PluginFieldType(self) -> Any: ...

    def PluginField(self, name: str, data: npt.NDArray[Any], kind: Any, /) -> Any: ...

    def PluginFieldCollection(self, fields: Iterable[Any], /) -> Any: ...

    @property
    def IPluginCreatorV3One(self) -> type:
        """Generation 3 alone."""

    @property
    def TensorRTPhase(self) -> Any:
        """Generation 3 alone."""
