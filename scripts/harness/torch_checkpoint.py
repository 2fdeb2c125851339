"""Tensors out of a torch zip checkpoint, without torch and without running the pickle.

`torch.save` (1.6 and later) writes an uncompressed zip: `<root>/data.pkl`, a pickle of the
saved object in which each storage is a persistent id; `<root>/data/<key>`, the bytes of each
storage; and, since torch 2.0, `<root>/byteorder`. The format is described in torch's notes on
serialization semantics; the arguments of `_rebuild_tensor_v2` are those of `torch/_utils.py`.

A pickle is a program, and the standard unpickler runs it: it imports, calls, and lets a few
bytes claim gigabytes (a memo index, a declared length) or hours (the hash of nested tuples).
So nothing here is a `pickle.Unpickler`: `pickletools` only splits the stream into opcodes, and
`_Machine` knows the two dozen that torch writes. It has no way to import or to call anything;
a "global" is its name, and the names that rebuild tensors are the only ones it acts upon.
"""

from __future__ import annotations

import math
import pickletools
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt

from .errors import UserError

Array = npt.NDArray[Any]

# A tensor costs about 250 bytes of pickle: room for some 4,000 of them.
LARGEST_PICKLE_BYTES = 1 << 20
# Tensors may share a storage (tied embeddings), so together they may exceed the file; by more
# than this factor only a forged file does.
LARGEST_SHARING = 2
# numpy's limit before 2.0; also keeps the product of the sizes a small computation.
MOST_DIMENSIONS = 32

LEGACY_ADVICE = "save it again with torch >= 1.6, which writes the zip format"
_MARK = object()

_STORAGE_DTYPES: dict[str, npt.DTypeLike] = {
    "torch DoubleStorage": np.float64,
    "torch FloatStorage": np.float32,
    "torch HalfStorage": np.float16,
    "torch BFloat16Storage": ml_dtypes.bfloat16,
    "torch LongStorage": np.int64,
    "torch IntStorage": np.int32,
    "torch ShortStorage": np.int16,
    "torch CharStorage": np.int8,
    "torch ByteStorage": np.uint8,
    "torch BoolStorage": np.bool_,
}
_DICTIONARY = "collections OrderedDict"
_TENSOR = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
_GLOBALS = {_DICTIONARY, _TENSOR, _PARAMETER, *_STORAGE_DTYPES}


def read_torch_checkpoint(path: Path) -> dict[str, Array]:
    """The tensors of a state_dict saved with `torch.save`, by their name in it.

    A state_dict nested under "state_dict" or "model" is found. Every array is C-contiguous in
    native byte order and has the dtype it was saved in (bfloat16 as `ml_dtypes.bfloat16`);
    arrays are read-only and may share memory where torch's tensors shared a storage.

    Raises UserError for a missing, damaged or legacy (not zip) file, and for a pickle that asks
    for anything but tensors in dictionaries; the message names what it asked for.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(2)
    except FileNotFoundError:
        raise UserError(f"checkpoint {path} does not exist; check the name") from None
    except OSError as error:
        raise UserError(f"checkpoint {path} cannot be read ({error.strerror}); check it") from None
    if start[:1] == b"\x80":
        raise UserError(f"checkpoint {path} has torch's legacy format; {LEGACY_ADVICE}")
    try:
        with zipfile.ZipFile(path) as archive:
            return _state_dict(_Archive(archive, path.stat().st_size).load())
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError) as error:
        # zipfile seeks where the file tells it to, and quotes what it finds there.
        raise UserError(
            f"checkpoint {path} is not a whole torch zip file ({str(error)[:100]}); get it again"
        ) from None
    except (ValueError, OverflowError) as error:
        raise UserError(
            f"checkpoint {path} is not a dictionary of plain tensors ({str(error)[:200]}); "
            "save the model's state_dict alone"
        ) from None


def _state_dict(saved: object) -> dict[str, Array]:
    for key in ("state_dict", "model"):
        if isinstance(saved, dict) and isinstance(saved.get(key), dict):
            saved = saved[key]
    if not isinstance(saved, dict):
        raise ValueError(f"it holds one {_kind(saved)}")
    tensors: dict[str, Array] = {}
    for name, value in saved.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray):
            raise ValueError(f"entry {_short(name)} is {_kind(value)}")
        tensors[name] = value
    return tensors


class _Archive:
    """The members of the zip file, none of which may claim more than the file holds."""

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        members = archive.infolist()
        # Stored members cannot outgrow the file, unless they overlap.
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("it is compressed, which torch never does")
        if any(member.flag_bits & 1 for member in members):
            raise ValueError("it is encrypted")
        if sum(member.file_size for member in members) > size:
            raise ValueError("its members claim more bytes than the file has")
        self._archive = archive
        self._names = {member.filename for member in members}
        self._root = self._find_root()
        self._storages: dict[str, tuple[str, Array]] = {}
        self._swap = self._byte_order() != sys.byteorder
        self._tensor_bytes_left = LARGEST_SHARING * size

    def load(self) -> object:
        member = f"{self._root}/data.pkl"
        if self._archive.getinfo(member).file_size > LARGEST_PICKLE_BYTES:
            raise ValueError(f"its pickle is larger than {LARGEST_PICKLE_BYTES >> 20} MiB")
        return _Machine(self.storage, self.tensor).run(self._archive.read(member))

    def storage(self, kind: str, key: str, elements: int) -> Array:
        """All elements of the storage `key`, 1-D, read once however often it is asked for."""
        member = f"{self._root}/data/{key}"
        if member not in self._names:
            raise ValueError(f"storage {_short(key)} is missing")
        if member not in self._storages:
            self._storages[member] = kind, self._elements(member, np.dtype(_STORAGE_DTYPES[kind]))
        # One type each, as torch saves them: so a storage is in memory once.
        first, stored = self._storages[member]
        if first != kind or stored.size != elements:
            raise ValueError(
                f"storage {_short(key)} is not of the type and length that its pickle says"
            )
        return stored

    def _elements(self, member: str, dtype: np.dtype[Any]) -> Array:
        stored = self._archive.read(member)
        if len(stored) % dtype.itemsize:
            raise ValueError(f"storage {_short(member)} holds no whole number of {dtype.name}")
        words = np.frombuffer(stored, dtype=f"u{dtype.itemsize}")
        if self._swap:
            words = words.byteswap()
        # A byte that is neither 0 nor 1 is no valid bool.
        return words != 0 if dtype == np.bool_ else words.view(dtype)

    def tensor(
        self, storage: Array, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> Array:
        """The tensor that starts at element `offset` of a 1-D storage, strides in elements."""
        if len(shape) != len(strides) or len(shape) > MOST_DIMENSIONS:
            raise ValueError(f"a tensor has {len(shape)} sizes and {len(strides)} strides")
        if min(offset, *shape, *strides, 0) < 0:
            raise ValueError("a tensor has a negative offset, size or stride")
        elements = math.prod(shape)
        self._tensor_bytes_left -= elements * storage.itemsize
        if self._tensor_bytes_left < 0:
            raise ValueError("its tensors claim more bytes than the file has")
        if elements == 0:
            return np.empty(shape, storage.dtype)
        steps = zip(shape, strides, strict=True)
        last = offset + sum((size - 1) * stride for size, stride in steps)
        if last >= storage.size:
            raise ValueError("a tensor reaches past the end of its storage")
        view = np.lib.stride_tricks.as_strided(
            storage[offset:], shape, [s * storage.itemsize for s in strides], writeable=False
        )
        return np.asarray(view, order="C")

    def _find_root(self) -> str:
        paths = [name.split("/") for name in self._names]
        roots = [path[0] for path in paths if path[1:] == ["data.pkl"]]
        if len(roots) != 1:
            raise ValueError("it has no data.pkl" if not roots else "it has several data.pkl")
        return roots[0]

    def _byte_order(self) -> str:
        member = f"{self._root}/byteorder"
        # Before torch 2.0 the machine's own order was written; that is little-endian today.
        stored = self._archive.read(member) if member in self._names else b"little"
        if stored not in (b"little", b"big"):
            raise ValueError(f"its byte order is {stored[:16]!r}")
        return stored.decode()


class _Global(NamedTuple):
    """What a pickle names with "module name"; a label here, never an object of that module."""

    name: str


class _Storage(NamedTuple):
    elements: Array


class _Machine:
    """The stack machine of a pickle, cut down to the opcodes that save tensors.

    Values on the stack are None, bool, int, float, str, tuple, list, dict, array, `_Global` and
    `_Storage`. Dictionary keys are str or int, so that no hash walks a structure.
    """

    def __init__(
        self,
        storage: Callable[[str, str, int], Array],
        tensor: Callable[[Array, int, tuple[int, ...], tuple[int, ...]], Array],
    ) -> None:
        self._storage = storage
        self._tensor = tensor
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}

    def run(self, pickled: bytes) -> object:
        for opcode, argument, _ in pickletools.genops(pickled):
            if opcode.name == "STOP":
                break
            self._step(opcode.name, argument)
        return self._pop()

    def _step(self, opcode: str, argument: Any) -> None:
        push = self._stack.append
        match opcode:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                push(_MARK)
            case "NONE":
                push(None)
            case "NEWTRUE" | "NEWFALSE":
                push(opcode == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                push(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE":
                push(argument)
            case "EMPTY_TUPLE":
                push(())
            case "EMPTY_LIST":
                push([])
            case "EMPTY_DICT":
                push({})
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [self._pop() for _ in range(int(opcode[-1]))]
                push(tuple(reversed(items)))
            case "TUPLE":
                push(tuple(self._pop_to_mark()))
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._top()
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._top()
            case "BINGET" | "LONG_BINGET":
                if argument not in self._memo:
                    raise ValueError(f"it recalls value {argument}, which it never stored")
                push(self._memo[argument])
            case "APPEND":
                self._extend([self._pop()])
            case "APPENDS":
                self._extend(self._pop_to_mark())
            case "SETITEM":
                value, key = self._pop(), self._pop()
                self._update([key, value])
            case "SETITEMS":
                self._update(self._pop_to_mark())
            case "GLOBAL":
                push(_admitted(argument))
            case "STACK_GLOBAL":
                name, module = self._pop(), self._pop()
                if not (isinstance(module, str) and isinstance(name, str)):
                    raise ValueError(f"it takes {_kind(name)} for a name")
                push(_admitted(f"{module} {name}"))
            case "BINPERSID":
                push(self._load_storage(self._pop()))
            case "REDUCE":
                arguments, function = self._pop(), self._pop()
                push(self._rebuild(function, arguments))
            case "BUILD":
                # torch hangs `_metadata`, module versions, on the state_dict; nothing needs it.
                self._pop()
                if not isinstance(self._top(), dict):
                    raise ValueError(f"it sets attributes of {_kind(self._top())}")
            case _:
                raise ValueError(f"it uses the pickle instruction {opcode}")

    def _pop(self) -> object:
        value = self._top()
        self._stack.pop()
        return value

    def _top(self) -> object:
        if not self._stack or self._stack[-1] is _MARK:
            raise ValueError("its pickle takes a value that is not there")
        return self._stack[-1]

    def _pop_to_mark(self) -> list[object]:
        items: list[object] = []
        while self._stack and self._stack[-1] is not _MARK:
            items.append(self._stack.pop())
        if not self._stack:
            raise ValueError("its pickle takes values that are not there")
        self._stack.pop()
        return items[::-1]

    def _extend(self, items: list[object]) -> None:
        target = self._top()
        if not isinstance(target, list):
            raise ValueError(f"it appends to {_kind(target)}")
        target.extend(items)

    def _update(self, keys_and_values: list[object]) -> None:
        target = self._top()
        if not isinstance(target, dict) or len(keys_and_values) % 2:
            raise ValueError(f"it sets items of {_kind(target)}")
        for key, value in zip(keys_and_values[::2], keys_and_values[1::2], strict=True):
            if type(key) not in (str, int):
                raise ValueError(f"a dictionary key is {_kind(key)}")
            if key in target:
                raise ValueError(f"entry {_short(key)} occurs twice")
            target[key] = value

    def _load_storage(self, persistent_id: object) -> _Storage:
        match persistent_id:
            case ("storage", _Global(name), str(key), str(), int(elements)):
                if name in _STORAGE_DTYPES:
                    return _Storage(self._storage(name, key, elements))
        raise ValueError("a persistent id is not that of a storage")

    def _rebuild(self, function: object, arguments: object) -> object:
        if not isinstance(function, _Global):
            raise ValueError(f"it calls {_kind(function)}")
        match function.name, arguments:
            case str(name), ():
                if name == _DICTIONARY:
                    return {}
            # The tail is requires_grad, backward hooks and metadata, which no weight needs.
            case str(name), (_Storage(storage), int(offset), tuple(shape), tuple(strides), *_):
                if name == _TENSOR and _integers(*shape, *strides):
                    return self._tensor(storage, offset, shape, strides)
            case str(name), (np.ndarray() as data, *_):
                if name == _PARAMETER:
                    return data
        raise ValueError(f"it calls {_dotted(function.name)} with arguments torch never writes")


def _admitted(name: str) -> _Global:
    if name not in _GLOBALS:
        raise ValueError(f"it asks for {_dotted(name)}")
    return _Global(name)


def _dotted(name: str) -> str:
    return name[:100].replace(" ", ".")


def _short(key: object) -> str:
    return repr(key)[:100]


def _integers(*values: object) -> bool:
    return all(type(value) is int for value in values)


def _kind(value: object) -> str:
    if isinstance(value, _Global):
        return _dotted(value.name)
    return "a tensor" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
