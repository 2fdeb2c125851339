"""A stand-in for cuda-python's CUDA runtime, over host memory.

It is lazy where a GPU is fast: what is put on a stream happens when the host waits for it, and
not a moment earlier, and memory is full of garbage until something writes it. So whoever reads a
result too early, overwrites an input too early, or frees what a copy still needs gets wrong
numbers or `Misuse`, every time.

Errors that CUDA reports are returned as it returns them, as (error, value) tuples. What CUDA
leaves undefined, and what this project does not want (copies that are asynchronous in name alone,
since their host memory is pageable), raises `Misuse`. Device addresses point nowhere: reading
one on the host crashes, as it should.

Names, parameters, results and error codes were checked against the wheels of cuda-bindings 11.8,
12.9 and 13.5; what the calls do follows CUDA's documentation, and no GPU has confirmed it.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from enum import IntEnum
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Layout = Literal["11.8", "12", "13"]

# Beyond what any process maps.
_FIRST_ADDRESS = 1 << 52
_ALIGNMENT = 256
_PAGE = 4096
_GARBAGE = 0xCD


class Misuse(AssertionError):
    """A call whose effect CUDA or TensorRT leaves undefined."""


class cudaError_t(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInitializationError = 3
    cudaErrorInvalidMemcpyDirection = 21
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorInvalidResourceHandle = 400
    cudaErrorIllegalState = 401
    cudaErrorNotReady = 600
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901
    cudaErrorStreamCaptureMerge = 902
    cudaErrorStreamCaptureUnmatched = 903
    cudaErrorStreamCaptureUnjoined = 904
    cudaErrorStreamCaptureIsolation = 905
    cudaErrorStreamCaptureImplicit = 906
    cudaErrorCapturedEvent = 907


class cudaMemcpyKind(IntEnum):
    cudaMemcpyHostToHost = 0
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3
    cudaMemcpyDefault = 4


class cudaStreamCaptureMode(IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1
    cudaStreamCaptureModeRelaxed = 2


class cudaStreamCaptureStatus(IntEnum):
    cudaStreamCaptureStatusNone = 0
    cudaStreamCaptureStatusActive = 1
    cudaStreamCaptureStatusInvalidated = 2


class cudaDeviceAttr(IntEnum):
    cudaDevAttrWarpSize = 10
    cudaDevAttrClockRate = 13
    cudaDevAttrMultiProcessorCount = 16
    cudaDevAttrL2CacheSize = 38
    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76


class _Handle:
    """An opaque pointer."""

    def __init__(self, init_value: int = 0) -> None:
        self._value = int(init_value)

    def __int__(self) -> int:
        return self._value

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._value:#x}>"


class cudaStream_t(_Handle):
    pass


class cudaEvent_t(_Handle):
    pass


class cudaGraph_t(_Handle):
    pass


class cudaGraphExec_t(_Handle):
    pass


class cudaGraphNode_t(_Handle):
    pass


_CONSTANTS = {
    "cudaStreamDefault": 0,
    "cudaStreamNonBlocking": 1,
    "cudaEventDefault": 0,
    "cudaEventBlockingSync": 1,
    "cudaEventDisableTiming": 2,
    "cudaHostAllocDefault": 0,
    "cudaHostAllocPortable": 1,
    "cudaHostAllocMapped": 2,
    "cudaHostAllocWriteCombined": 4,
    "cudaHostRegisterDefault": 0,
}
_TYPES = (
    cudaError_t,
    cudaMemcpyKind,
    cudaStreamCaptureMode,
    cudaStreamCaptureStatus,
    cudaDeviceAttr,
    cudaStream_t,
    cudaEvent_t,
    cudaGraph_t,
    cudaGraphExec_t,
    cudaGraphNode_t,
)
_VERSIONS = {"11.8": 11080, "12": 12090, "13": 13000}
OK = cudaError_t.cudaSuccess
_H2D, _D2H, _D2D = (cudaMemcpyKind(i) for i in (1, 2, 3))
_ENDS = {_H2D: ("host", "device"), _D2H: ("device", "host"), _D2D: ("device", "device")}


@dataclass(frozen=True)
class Hardware:
    """What the device says of itself."""

    name: str = "NVIDIA H100 80GB HBM3"
    capability: tuple[int, int] = (9, 0)
    multiprocessors: int = 132
    warp: int = 32
    l2: int = 50 << 20
    memory: int = 80 << 30


@dataclass(eq=False)
class _Block:
    """Memory of one allocation; `place` is "device" or "host", where it is pinned."""

    address: int
    data: Bytes
    place: str
    # What registered memory belongs to is not ours to free.
    registered: bool = False

    @property
    def size(self) -> int:
        return len(self.data)


@dataclass(eq=False)
class _Graph:
    nodes: list[_Operation] = field(default_factory=list)


@dataclass(eq=False)
class _Capture:
    origin: _Stream
    mode: cudaStreamCaptureMode
    graph: _Graph = field(default_factory=_Graph)
    # Streams that joined through an event, and have not been waited for since.
    forked: set[_Stream] = field(default_factory=set)
    valid: bool = True


@dataclass(eq=False)
class _Stream:
    handle: int
    blocking: bool
    queue: list[_Operation] = field(default_factory=list)
    capture: _Capture | None = None


@dataclass(eq=False)
class _Record:
    """One recording of an event; `time` when it has happened."""

    stream: _Stream
    capture: _Capture | None
    time: float | None = None


@dataclass(eq=False)
class _Event:
    timed: bool
    record: _Record | None = None


@dataclass(eq=False)
class _Operation:
    """`sequence` orders operations of streams that wait for one another implicitly."""

    run: Callable[[], None]
    sequence: int = 0


class Cuda:
    """One process's CUDA. Its methods called cuda… are the runtime's functions.

    `devices` devices like `hardware`; `refuse_from` makes device allocations of at least that
    many bytes fail. `memory_used` is what is allocated, by the runtime's callers and, through
    `reserve`, by libraries.
    """

    def __init__(
        self, layout: Layout = "13", *, devices: int = 1, hardware: Hardware | None = None
    ) -> None:
        self.layout = layout
        self.devices = devices
        self.hardware = hardware or Hardware()
        self.refuse_from: int | None = None
        self.memory_used = 0
        self.clock: Callable[[], float] = time.perf_counter
        self._device = 0
        self._blocks: dict[int, _Block] = {}
        # Freed pinned memory stays mapped, so that a view of it shows garbage.
        self._freed: list[_Block] = []
        self._streams: dict[int, _Stream] = {0: _Stream(0, blocking=True)}
        self._events: dict[int, _Event] = {}
        self._graphs: dict[int, _Graph] = {}
        self._executables: dict[int, _Graph] = {}
        self._next_address = _FIRST_ADDRESS
        self._next_handle = 0x1000
        self._sequence = 0
        self._last_error = OK

    # What tests and the TensorRT double call.

    def leaks(self) -> list[str]:
        """What has been made and not given back, in words."""
        found = [f"{block.size} bytes of {block.place} memory" for block in self._blocks.values()]
        found += [f"stream {handle:#x}" for handle in self._streams if handle]
        for kind, things in (
            ("event", self._events),
            ("graph", self._graphs),
            ("executable graph", self._executables),
        ):
            found += [f"{kind} {handle:#x}" for handle in things]
        return found

    def reserve(self, size: int) -> bool:
        """Allocate memory for a library, if that can be; `release` gives it back."""
        if self._allocation_error(size) is not OK:
            return False
        self.memory_used += size
        return True

    def release(self, size: int) -> None:
        self.memory_used -= size

    def memory(self, address: int, size: int, place: str) -> Bytes:
        """The bytes at an address, which must lie within one live allocation."""
        for block in self._blocks.values():
            offset = address - block.address
            if 0 <= offset < max(block.size, 1):
                if block.place != place:
                    raise Misuse(f"{address:#x} is {block.place} memory, not {place} memory")
                if offset + size > block.size:
                    raise Misuse(
                        f"{size} bytes at {address:#x} reach beyond an allocation of {block.size}"
                    )
                return block.data[offset : offset + size]
        for block in self._freed:
            if 0 <= address - block.address < max(block.size, 1):
                raise Misuse(f"{address:#x} has been freed")
        raise Misuse(f"{address:#x} is no {'pinned host' if place == 'host' else place} memory")

    def enqueue(self, stream: Any, run: Callable[[], None]) -> cudaError_t:
        """Put an operation on a stream, or into the graph that the stream captures."""
        found = self._streams.get(int(stream))
        if found is None:
            return self._fail("cudaErrorInvalidResourceHandle")
        operation = _Operation(run, self._sequence)
        self._sequence += 1
        if found.capture is not None:
            if not found.capture.valid:
                return self._fail("cudaErrorStreamCaptureInvalidated")
            found.capture.graph.nodes.append(operation)
            return OK
        if found.handle == 0 and self._captures(blocking=True):
            # The default stream waits for the others, which a capture cannot do.
            return self._invalidate(self._captures(blocking=True), "cudaErrorStreamCaptureImplicit")
        found.queue.append(operation)
        return OK

    def is_capturing(self, stream: Any) -> bool:
        found = self._streams.get(int(stream))
        return found is not None and found.capture is not None

    def invalidate_capture(self, stream: Any) -> None:
        """What a library does to a capture by a call that CUDA refuses there."""
        capture = self._streams[int(stream)].capture
        assert capture is not None
        capture.valid = False

    def idle(self, stream: Any) -> bool:
        """Whether a stream has nothing left to do."""
        return not self._streams[int(stream)].queue

    # Errors and versions.

    def cudaGetErrorName(self, error: cudaError_t) -> tuple[cudaError_t, bytes]:
        return OK, cudaError_t(error).name.encode()

    def cudaGetErrorString(self, error: cudaError_t) -> tuple[cudaError_t, bytes]:
        words = cudaError_t(error).name.removeprefix("cudaError").removeprefix("cuda")
        return OK, "".join(f" {c.lower()}" if c.isupper() else c for c in words).strip().encode()

    def cudaGetLastError(self) -> tuple[cudaError_t]:
        error, self._last_error = self._last_error, OK
        return (error,)

    def cudaPeekAtLastError(self) -> tuple[cudaError_t]:
        return (self._last_error,)

    def cudaRuntimeGetVersion(self) -> tuple[cudaError_t, int]:
        return OK, _VERSIONS[self.layout]

    def cudaDriverGetVersion(self) -> tuple[cudaError_t, int]:
        return OK, _VERSIONS[self.layout] if self.devices else 0

    # Devices.

    def cudaGetDeviceCount(self) -> tuple[cudaError_t, int | None]:
        return (OK, self.devices) if self.devices else (self._fail("cudaErrorNoDevice"), None)

    def cudaSetDevice(self, device: int) -> tuple[cudaError_t]:
        error = self._check_device(device)
        if error is OK:
            self._device = device
        return (error,)

    def cudaGetDevice(self) -> tuple[cudaError_t, int | None]:
        error = self._check_device(self._device)
        return error, self._device if error is OK else None

    def cudaGetDeviceProperties(self, device: int) -> tuple[cudaError_t, Any]:
        error = self._check_device(device)
        if error is not OK:
            return error, None
        major, minor = self.hardware.capability
        found = {
            "name": self.hardware.name.encode(),
            "major": major,
            "minor": minor,
            "totalGlobalMem": self.hardware.memory,
            "multiProcessorCount": self.hardware.multiprocessors,
            "warpSize": self.hardware.warp,
            "l2CacheSize": self.hardware.l2,
            "pciBusID": device + 1,
        }
        if self.layout != "13":
            found.update(clockRate=1_980_000, memoryClockRate=2_619_000)
        return OK, SimpleNamespace(**found)

    def cudaDeviceGetAttribute(
        self, attr: cudaDeviceAttr, device: int
    ) -> tuple[cudaError_t, int | None]:
        _member(attr, cudaDeviceAttr)
        error = self._check_device(device)
        if error is not OK:
            return error, None
        major, minor = self.hardware.capability
        return OK, {10: self.hardware.warp, 13: 1_980_000, 16: self.hardware.multiprocessors,
                    38: self.hardware.l2, 75: major, 76: minor}[int(attr)]  # fmt: skip

    def cudaDeviceGetPCIBusId(self, length: int, device: int) -> tuple[cudaError_t, bytes | None]:
        error = self._check_device(device)
        text = f"0000:{device + 1:02X}:00.0".encode().ljust(length, b"\0")
        return error, text if error is OK else None

    def cudaDeviceSynchronize(self) -> tuple[cudaError_t]:
        captures = self._captures()
        if captures:
            return (self._invalidate(captures, "cudaErrorStreamCaptureUnsupported"),)
        for stream in self._streams.values():
            self._run(stream, with_blocking=stream.blocking)
        return (self._check_device(self._device),)

    def cudaMemGetInfo(self) -> tuple[cudaError_t, int | None, int | None]:
        error = self._check_device(self._device)
        if error is not OK:
            return error, None, None
        return OK, self.hardware.memory - self.memory_used, self.hardware.memory

    # Memory.

    def cudaMalloc(self, size: int) -> tuple[cudaError_t, int | None]:
        error = self._allocation_error(size)
        if error is not OK:
            return error, None
        step = -(-max(size, 1) // _ALIGNMENT) * _ALIGNMENT
        block = _Block(self._next_address, np.full(size, _GARBAGE, np.uint8), "device")
        # A gap, so that what is written past the end is nobody's.
        self._next_address += step + _ALIGNMENT
        self._blocks[block.address] = block
        self.memory_used += size
        return OK, block.address

    def cudaFree(self, devPtr: Any) -> tuple[cudaError_t]:
        return self._free(_address(devPtr), "device")

    def cudaMallocHost(self, size: int) -> tuple[cudaError_t, int | None]:
        return self.cudaHostAlloc(size, 0)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[cudaError_t, int | None]:
        error = self._allocation_error(0)
        if error is not OK:
            return error, None
        data = np.full(size + _PAGE, _GARBAGE, np.uint8)
        start = -data.ctypes.data % _PAGE
        block = _Block(data.ctypes.data + start, data[start : start + size], "host")
        self._blocks[block.address] = block
        return OK, block.address

    def cudaFreeHost(self, ptr: Any) -> tuple[cudaError_t]:
        return self._free(_address(ptr), "host")

    def cudaHostRegister(self, ptr: Any, size: int, flags: int) -> tuple[cudaError_t]:
        address = _address(ptr)
        data = _at(address, size)
        self._blocks[address] = _Block(address, data, "host", registered=True)
        return (OK,)

    def cudaHostUnregister(self, ptr: Any) -> tuple[cudaError_t]:
        block = self._blocks.get(_address(ptr))
        if block is None or not block.registered:
            return (self._fail("cudaErrorInvalidValue"),)
        del self._blocks[block.address]
        return (OK,)

    def cudaMemcpyAsync(
        self, dst: Any, src: Any, count: int, kind: cudaMemcpyKind, stream: Any
    ) -> tuple[cudaError_t]:
        _member(kind, cudaMemcpyKind)
        if kind not in _ENDS:
            raise Misuse(f"{kind.name} says nothing of the memory that it copies")
        source, target = _address(src), _address(dst)
        from_place, to_place = _ENDS[kind]

        def copy() -> None:
            self.memory(target, count, to_place)[:] = self.memory(source, count, from_place)

        # Now, where the caller can be seen, as well as when it happens.
        self.memory(source, count, from_place)
        self.memory(target, count, to_place)
        return (self.enqueue(stream, copy),)

    def cudaMemcpy(
        self, dst: Any, src: Any, count: int, kind: cudaMemcpyKind
    ) -> tuple[cudaError_t]:
        """Synchronous, so pageable memory will do."""
        _member(kind, cudaMemcpyKind)
        if self._captures():
            error = self._invalidate(self._captures(), "cudaErrorStreamCaptureImplicit")
            return (error,)
        from_place, to_place = _ENDS[kind]
        self._run(self._streams[0], with_blocking=True)
        self._end(dst, count, to_place)[:] = self._end(src, count, from_place)
        return (OK,)

    def cudaMemsetAsync(
        self, devPtr: Any, value: int, count: int, stream: Any
    ) -> tuple[cudaError_t]:
        address = _address(devPtr)
        self.memory(address, count, "device")

        def fill() -> None:
            self.memory(address, count, "device")[:] = value & 0xFF

        return (self.enqueue(stream, fill),)

    # Streams.

    def cudaStreamCreate(self) -> tuple[cudaError_t, cudaStream_t | None]:
        return self.cudaStreamCreateWithFlags(0)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[cudaError_t, cudaStream_t | None]:
        error = self._check_device(self._device)
        if error is not OK:
            return error, None
        handle = self._handle()
        self._streams[handle] = _Stream(handle, blocking=not flags & 1)
        return OK, cudaStream_t(handle)

    def cudaStreamCreateWithPriority(
        self, flags: int, priority: int
    ) -> tuple[cudaError_t, cudaStream_t | None]:
        return self.cudaStreamCreateWithFlags(flags)

    def cudaStreamDestroy(self, stream: Any) -> tuple[cudaError_t]:
        """Returns at once; CUDA lets what is queued happen, and so does this."""
        if int(stream) == 0 or int(stream) not in self._streams:
            return (self._fail("cudaErrorInvalidResourceHandle"),)
        found = self._streams[int(stream)]
        if found.capture is not None:
            raise Misuse("destroys a stream that captures")
        self._run(found)
        del self._streams[found.handle]
        return (OK,)

    def cudaStreamSynchronize(self, stream: Any) -> tuple[cudaError_t]:
        found = self._streams.get(int(stream))
        if found is None:
            return (self._fail("cudaErrorInvalidResourceHandle"),)
        if found.capture is not None:
            return (self._invalidate([found.capture], "cudaErrorStreamCaptureUnsupported"),)
        if found.handle == 0 and self._captures(blocking=True):
            captures = self._captures(blocking=True)
            return (self._invalidate(captures, "cudaErrorStreamCaptureImplicit"),)
        self._run(found, with_blocking=found.blocking)
        return (OK,)

    def cudaStreamQuery(self, stream: Any) -> tuple[cudaError_t]:
        """Does one operation a call, so that whoever polls gets there."""
        found = self._streams.get(int(stream))
        if found is None:
            return (self._fail("cudaErrorInvalidResourceHandle"),)
        if found.capture is not None:
            return (self._invalidate([found.capture], "cudaErrorStreamCaptureUnsupported"),)
        if not found.queue:
            return (OK,)
        found.queue.pop(0).run()
        return (cudaError_t.cudaErrorNotReady,)

    def cudaStreamWaitEvent(self, stream: Any, event: Any, flags: int) -> tuple[cudaError_t]:
        found, awaited = self._streams.get(int(stream)), self._events.get(int(event))
        if found is None or awaited is None:
            return (self._fail("cudaErrorInvalidResourceHandle"),)
        record = awaited.record
        if record is None:
            return (OK,)
        if record.capture is not None:
            return (self._join(found, record),)
        if found.capture is not None:
            # It would wait for work outside the graph.
            return (self._invalidate([found.capture], "cudaErrorStreamCaptureIsolation"),)
        return (self.enqueue(found.handle, lambda: self._run_until(record)),)

    # Events.

    def cudaEventCreate(self) -> tuple[cudaError_t, cudaEvent_t | None]:
        return self.cudaEventCreateWithFlags(0)

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[cudaError_t, cudaEvent_t | None]:
        error = self._check_device(self._device)
        if error is not OK:
            return error, None
        handle = self._handle()
        self._events[handle] = _Event(timed=not flags & 2)
        return OK, cudaEvent_t(handle)

    def cudaEventRecord(self, event: Any, stream: Any) -> tuple[cudaError_t]:
        found, where = self._events.get(int(event)), self._streams.get(int(stream))
        if found is None or where is None:
            return (self._fail("cudaErrorInvalidResourceHandle"),)
        record = _Record(where, where.capture)

        def happen() -> None:
            record.time = self.clock()

        error = self.enqueue(where.handle, happen)
        if error is OK:
            found.record = record
        return (error,)

    def cudaEventSynchronize(self, event: Any) -> tuple[cudaError_t]:
        found = self._events.get(int(event))
        if found is None:
            return (self._fail("cudaErrorInvalidResourceHandle"),)
        if found.record is None:
            return (OK,)
        if found.record.capture is not None:
            return (self._invalidate([found.record.capture], "cudaErrorCapturedEvent"),)
        self._run_until(found.record)
        return (OK,)

    def cudaEventQuery(self, event: Any) -> tuple[cudaError_t]:
        found = self._events.get(int(event))
        if found is None:
            return (self._fail("cudaErrorInvalidResourceHandle"),)
        if found.record is None or found.record.time is not None:
            return (OK,)
        if found.record.capture is not None:
            return (self._invalidate([found.record.capture], "cudaErrorCapturedEvent"),)
        found.record.stream.queue.pop(0).run()
        return (cudaError_t.cudaErrorNotReady,)

    def cudaEventElapsedTime(self, start: Any, end: Any) -> tuple[cudaError_t, float | None]:
        found = [self._events.get(int(event)) for event in (start, end)]
        times = []
        for event in found:
            if event is None or not event.timed or event.record is None or event.record.capture:
                return self._fail("cudaErrorInvalidResourceHandle"), None
            if event.record.time is None:
                return self._fail("cudaErrorNotReady"), None
            times.append(event.record.time)
        return OK, (times[1] - times[0]) * 1000

    def cudaEventDestroy(self, event: Any) -> tuple[cudaError_t]:
        if self._events.pop(int(event), None) is None:
            return (self._fail("cudaErrorInvalidResourceHandle"),)
        return (OK,)

    # Graphs.

    def cudaStreamBeginCapture(
        self, stream: Any, mode: cudaStreamCaptureMode
    ) -> tuple[cudaError_t]:
        _member(mode, cudaStreamCaptureMode)
        found = self._streams.get(int(stream))
        if found is None:
            return (self._fail("cudaErrorInvalidResourceHandle"),)
        if found.handle == 0:
            return (self._fail("cudaErrorStreamCaptureUnsupported"),)
        if found.capture is not None:
            return (self._fail("cudaErrorIllegalState"),)
        found.capture = _Capture(found, mode)
        return (OK,)

    def cudaStreamIsCapturing(
        self, stream: Any
    ) -> tuple[cudaError_t, cudaStreamCaptureStatus | None]:
        found = self._streams.get(int(stream))
        if found is None:
            return self._fail("cudaErrorInvalidResourceHandle"), None
        capture = found.capture
        return OK, cudaStreamCaptureStatus(0 if capture is None else 1 if capture.valid else 2)

    def cudaStreamEndCapture(self, stream: Any) -> tuple[cudaError_t, cudaGraph_t | None]:
        found = self._streams.get(int(stream))
        if found is None:
            return self._fail("cudaErrorInvalidResourceHandle"), None
        capture = found.capture
        if capture is None:
            return self._fail("cudaErrorIllegalState"), None
        if capture.origin is not found:
            return self._fail("cudaErrorStreamCaptureUnmatched"), None
        for other in self._streams.values():
            if other.capture is capture:
                other.capture = None
        if not capture.valid:
            return self._fail("cudaErrorStreamCaptureInvalidated"), None
        if capture.forked:
            return self._fail("cudaErrorStreamCaptureUnjoined"), None
        handle = self._handle()
        self._graphs[handle] = capture.graph
        return OK, cudaGraph_t(handle)

    def cudaGraphInstantiateWithFlags(
        self, graph: Any, flags: int
    ) -> tuple[cudaError_t, cudaGraphExec_t | None]:
        found = self._graphs.get(int(graph))
        if found is None:
            return self._fail("cudaErrorInvalidValue"), None
        handle = self._handle()
        self._executables[handle] = _Graph(list(found.nodes))
        return OK, cudaGraphExec_t(handle)

    def cudaGraphInstantiate(self, graph: Any, *arguments: Any) -> tuple[Any, ...]:
        """CUDA 12 replaced a buffer for messages, and the node at fault, by flags."""
        if self.layout == "11.8":
            buffer, size = arguments
            assert isinstance(buffer, bytes) and len(buffer) >= size
            return (*self.cudaGraphInstantiateWithFlags(graph, 0), cudaGraphNode_t())
        (flags,) = arguments
        return self.cudaGraphInstantiateWithFlags(graph, flags)

    def cudaGraphUpload(self, graphExec: Any, stream: Any) -> tuple[cudaError_t]:
        if int(graphExec) not in self._executables:
            return (self._fail("cudaErrorInvalidValue"),)
        return (self.enqueue(stream, lambda: None),)

    def cudaGraphLaunch(self, graphExec: Any, stream: Any) -> tuple[cudaError_t]:
        found = self._executables.get(int(graphExec))
        if found is None:
            return (self._fail("cudaErrorInvalidValue"),)

        def launch() -> None:
            for node in found.nodes:
                node.run()

        return (self.enqueue(stream, launch),)

    def cudaGraphExecDestroy(self, graphExec: Any) -> tuple[cudaError_t]:
        if self._executables.pop(int(graphExec), None) is None:
            return (self._fail("cudaErrorInvalidValue"),)
        return (OK,)

    def cudaGraphDestroy(self, graph: Any) -> tuple[cudaError_t]:
        if self._graphs.pop(int(graph), None) is None:
            return (self._fail("cudaErrorInvalidValue"),)
        return (OK,)

    # How it works.

    def _fail(self, name: str) -> cudaError_t:
        self._last_error = cudaError_t[name]
        return self._last_error

    def _handle(self) -> int:
        self._next_handle += 0x10
        return self._next_handle

    def _check_device(self, device: int) -> cudaError_t:
        if not self.devices:
            return self._fail("cudaErrorNoDevice")
        return OK if 0 <= device < self.devices else self._fail("cudaErrorInvalidDevice")

    def _captures(self, *, blocking: bool = False) -> list[_Capture]:
        """Those in progress; or those alone that the default stream would wait for."""
        return [
            stream.capture
            for stream in self._streams.values()
            if stream.capture is not None and (stream.blocking or not blocking)
        ]

    def _invalidate(self, captures: list[_Capture], error: str) -> cudaError_t:
        for capture in captures:
            capture.valid = False
        return self._fail(error)

    def _allocation_error(self, size: int) -> cudaError_t:
        """Unless a capture is relaxed, it forbids calls that might synchronize."""
        strict = [c for c in self._captures() if c.mode != 2]
        if strict:
            return self._invalidate(strict, "cudaErrorStreamCaptureUnsupported")
        refused = self.refuse_from is not None and size >= self.refuse_from
        if refused or self.memory_used + size > self.hardware.memory:
            return self._fail("cudaErrorMemoryAllocation")
        return self._check_device(self._device)

    def _free(self, address: int, place: str) -> tuple[cudaError_t]:
        if address == 0:
            return (OK,)
        strict = [c for c in self._captures() if c.mode != 2]
        if strict:
            return (self._invalidate(strict, "cudaErrorStreamCaptureUnsupported"),)
        block = self._blocks.get(address)
        if block is None or block.registered:
            freed = any(address == other.address for other in self._freed)
            raise Misuse(f"{address:#x} is freed twice" if freed else f"{address:#x} is not ours")
        if block.place != place:
            raise Misuse(f"frees {block.place} memory as {place} memory")
        del self._blocks[address]
        block.data[:] = ~_GARBAGE & 0xFF
        self._freed.append(block)
        if place == "device":
            self.memory_used -= block.size
        return (OK,)

    def _end(self, end: Any, count: int, place: str) -> Bytes:
        """One end of a synchronous copy."""
        address = _address(end)
        if place == "device":
            return self.memory(address, count, place)
        return _at(address, count)

    def _run(self, stream: _Stream, *, with_blocking: bool = False) -> None:
        """All that is queued; the default stream and blocking streams keep a common order."""
        others = [s for s in self._streams.values() if s.blocking and s is not stream]
        if with_blocking and stream.handle:
            others = [self._streams[0]]
        while stream.queue:
            if with_blocking:
                sequence = stream.queue[0].sequence
                for other in others:
                    while other.queue and other.queue[0].sequence < sequence:
                        other.queue.pop(0).run()
            stream.queue.pop(0).run()

    def _run_until(self, record: _Record) -> None:
        while record.time is None:
            assert record.stream.queue, "an event was lost"
            record.stream.queue.pop(0).run()

    def _join(self, stream: _Stream, record: _Record) -> cudaError_t:
        """Waiting for a captured event takes a stream into the capture, or back out of it."""
        capture = record.capture
        assert capture is not None
        if not capture.valid:
            return self._fail("cudaErrorStreamCaptureInvalidated")
        if stream.capture is None:
            stream.capture = capture
            capture.forked.add(stream)
        elif stream.capture is not capture:
            return self._invalidate([capture, stream.capture], "cudaErrorStreamCaptureMerge")
        else:
            capture.forked.discard(record.stream)
        return OK

    # Modules.

    def modules(self) -> dict[str, ModuleType]:
        """What `import` has to find, by name, as cuda-python of this layout has it."""
        runtime = "cuda.cudart" if self.layout == "11.8" else "cuda.bindings.runtime"
        names = ["cuda", runtime] if self.layout == "11.8" else ["cuda", "cuda.bindings", runtime]
        found = {name: _module(name) for name in names}
        for name in dir(self):
            if name.startswith("cuda"):
                setattr(found[runtime], name, getattr(self, name))
        for thing in _TYPES:
            setattr(found[runtime], thing.__name__, thing)
        vars(found[runtime]).update(_CONSTANTS)
        for name, module in found.items():
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(found[parent], child, module)
        version = {"11.8": "11.8.0", "12": "12.9.0", "13": "13.0.0"}[self.layout]
        vars(found[names[-2]]).update(__version__=version)
        return found

    def install(self, modules: MutableMapping[str, ModuleType]) -> None:
        """Put the modules into `sys.modules` or the like."""
        modules.update(self.modules())


def _module(name: str) -> ModuleType:
    module = ModuleType(name)
    # Whoever asks importlib for the module's specification gets one.
    module.__spec__ = ModuleSpec(name, None, is_package=True)
    module.__path__ = []
    return module


def _member(value: Any, kind: type[IntEnum]) -> None:
    """cuda-python's older versions take members alone, and no integers."""
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is no member of {kind.__name__}")


def _at(address: int, size: int) -> Bytes:
    """Whatever the host has there."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


def _address(pointer: Any) -> int:
    """Of an integer or of a buffer, as cuda-python takes either."""
    if isinstance(pointer, int | np.integer):
        return int(pointer)
    return int(np.frombuffer(pointer, np.uint8).ctypes.data)
