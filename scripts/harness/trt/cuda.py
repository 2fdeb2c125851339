"""The CUDA runtime through cuda-python: memory, a stream and events, with errors as UserError.

cuda-python's functions return a tuple, the error first. Its module is `cuda.bindings.runtime` from
12.6 on, and `cuda.cudart` before, as in the vendor's 11.8 for ixRT.
"""

from __future__ import annotations

import ctypes
import importlib
import weakref
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UserError, one_line

_MODULES = ("cuda.bindings.runtime", "cuda.cudart")
# cudaErrorMemoryAllocation
_OUT_OF_MEMORY = 2


class Cuda:
    """CUDA on the device `device`, counted as CUDA counts; `stream` is a stream of its own.

    What it has made is freed with it, unless the process ends first.
    """

    def __init__(self, device: int) -> None:
        self._runtime = find_cuda()
        self._made = ExitStack()
        weakref.finalize(self, self._made.close).atexit = False
        self.call("cudaSetDevice", device)
        self.stream = self._make("cudaStreamCreate", "cudaStreamDestroy")

    def call(self, function: str, *arguments: Any) -> Any:
        """What `function` returns besides its error; raises UserError if there is one."""
        error, *values = getattr(self._runtime, function)(*arguments)
        if int(error):
            raise UserError(self._message(function, error))
        return values[0] if values else None

    def device_memory(self, size: int) -> int:
        """The address of `size` bytes on the device."""
        return int(self._make("cudaMalloc", "cudaFree", size))

    def host_memory(self, dtype: npt.DTypeLike, count: int) -> npt.NDArray[Any]:
        """`count` numbers (count,) in page-locked memory, from which copies are asynchronous."""
        size = count * np.dtype(dtype).itemsize
        address = int(self._make("cudaMallocHost", "cudaFreeHost", size))
        return np.ctypeslib.as_array((ctypes.c_byte * size).from_address(address)).view(dtype)

    def event(self) -> Any:
        """An event that takes the time."""
        return self._make("cudaEventCreate", "cudaEventDestroy")

    def to_device(self, source: npt.NDArray[Any], target: int) -> None:
        """Put a copy of a contiguous array in page-locked memory to the device on the stream."""
        self._copy(target, source.ctypes.data, source.nbytes, "cudaMemcpyHostToDevice")

    def to_host(self, source: int, target: npt.NDArray[Any]) -> None:
        """The way back."""
        self._copy(target.ctypes.data, source, target.nbytes, "cudaMemcpyDeviceToHost")

    def synchronize(self) -> None:
        """Wait until the stream is done."""
        self.call("cudaStreamSynchronize", self.stream)

    def _copy(self, target: int, source: int, size: int, direction: str) -> None:
        kind = getattr(self._runtime.cudaMemcpyKind, direction)
        self.call("cudaMemcpyAsync", target, source, size, kind, self.stream)

    def _make(self, make: str, free: str, *arguments: Any) -> Any:
        made = self.call(make, *arguments)
        self._made.callback(getattr(self._runtime, free), made)
        return made

    def _message(self, function: str, error: Any) -> str:
        _, text = self._runtime.cudaGetErrorString(error)
        text = one_line(text.decode() if isinstance(text, bytes) else text)
        if int(error) == _OUT_OF_MEMORY:
            return f"the device is out of memory ({function}: {text}); use a smaller BATCH"
        return f"{function} failed ({text}); `make doctor` shows devices and drivers"


class Stopwatch:
    """The device's time between two points of `cuda`'s stream."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._start, self._stop = cuda.event(), cuda.event()

    def start(self) -> None:
        """The device takes the time when it gets here."""
        self._cuda.call("cudaEventRecord", self._start, self._cuda.stream)

    def stop(self) -> None:
        """Likewise."""
        self._cuda.call("cudaEventRecord", self._stop, self._cuda.stream)

    def seconds(self) -> float:
        """From start to stop, once the device has passed both."""
        return float(self._cuda.call("cudaEventElapsedTime", self._start, self._stop)) / 1e3


def find_cuda() -> Any:
    """cuda-python's module of the runtime API; raises UserError where there is none."""
    for name in _MODULES:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            reason = one_line(error)
    raise UserError(
        f"package cuda-python is missing ({reason}); install the version of this CUDA, "
        "for ixRT the vendor's"
    )
