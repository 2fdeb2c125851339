"""Torch checkpoints read without torch, and forged ones refused without running them."""

from __future__ import annotations

import base64
import io
import math
import pickle
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import UserError
from harness.torch_checkpoint import LARGEST_PICKLE_BYTES, read_torch_checkpoint
from harness.weights import read_weights

KINDS: dict[str, npt.DTypeLike] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
FIXTURES_STAY = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)

# What torch 2.13 wrote for {"epoch": 3, "state_dict": ...} with the tensors that
# `test_reads_what_torch_wrote` expects: zlib, then base 85.
WRITTEN_BY_TORCH = """
c-o~^&u`OK9DjBaw{?H4bfpD4e#4dyNMol>(rHj;hJ|D#Lf9m$7teJbiG>^YYrlX%s#Iy}HUuaB03@VINU-}ja$;POrk!@%W
jk@^#(TCCY?m||JjMDde(&?+z4!foUDGmIgocOFjxmn*A`hF+Lc=6xVdI9QDtpjsdTjBVfbx2d0`P`wwSdzyx=8=|#3a~g*c
JiavRuc(7O~y7FJAE)*u#x)>5K@O`8s6tx<CQ9u-$AC$XUeotX9G35Zm!Z!^3MG+i4gCw|&<$ZptDE`Mf?9NVuNa#4r>>MAd
OkaxHu*!m!TKHANWFGc;No9T2rFfzhiP(s+&k3C1*zh4H&B=3;`tCv}+A>1m)f+w@^iA0r#4XRc#{JrSl_)Jm%>f5~*N_tZZ
P)Fqg1i5gE}Z=kvjGa9!Iv!UWX0{iQ5;FsXf+|Te?9S#Nu>073Q;ZTBH2{tE{djf|80U3@^0gk{?Dlk7E5+5UQybdRVtq{|8
;ADd8vfFO<Xg&{UO7I1x5eVe3YFXxUp85PTq&r36bREugHld)8(8UJby~&aS7J~Vr&e8>>O^}0YxrsfW-ZYdn&iDPbPNAj^4
ZrzKxqX61h&{EwIX8_CggIBZ?t1GcF(NKinc10o!H^jF@2~&<k!^!L{mEz1R}p!XIELxi&GtHO6IChq;U6^0i_E~vE%=Xa4D
q`fm_SNsVC^=+E-M37Iro9O-Qn1TIGB0ZKKsvpR!73F9!AkO@2YyCs48ba&HzGNE0p#;{n2OZJah8h^y7Pz^yTCLCzY5JNmW
W8;sjkpD${&Gp1frFo*kfhA*Ly-%F0I`|LXG<rhfn5i(e1E|522Ssh3oRL#y36E{c2<Gf~V&F&9OqHulGhM@81#c2yfgGof0
qhNj-L*^<Z@Up;JoKiK~qT8auN*np2cn^w>rll67OZm5d%|4&mYRw~u9T#=V6%gfcJMX4+=6|0NIa-~`<$yNG#u~MP4%;m3z
YftmkM?P@L1xMBO8SgLSJDexJV`*r-drT)_gh%gfM`?z5`OhX8UiBDu^qe$FynZJVB=rnR^^G((UU8!d>|YraulF=CUN%YK5
7{_SN(18=p9KDy0Lp1#Jb9DAdM*wurGfDr9ZLY8cY%GbC!RNR3FMT3cFX9RCJ3jarH3+SdN45+aa6U>gl>@v>_dnSj=U@Gnw
Aqnj2NsB*S-Z>4g(h
"""


@dataclass(frozen=True)
class Global:
    module: str
    name: str


@dataclass(frozen=True)
class Call:
    function: object
    arguments: object


@dataclass(frozen=True)
class Persistent:
    value: object


@dataclass(frozen=True)
class Built:
    """`value` followed by BUILD with `state`, as an object with attributes is pickled."""

    value: object
    state: object


@dataclass(frozen=True)
class Ordered:
    """An OrderedDict, as torch pickles a state_dict."""

    items: Mapping[Any, object]


@dataclass(frozen=True)
class Raw:
    opcodes: bytes


class Pickler:
    """Writes the protocol-2 opcodes that torch's pickler writes, memo included."""

    def __init__(self) -> None:
        self._data = bytearray(b"\x80\x02")
        self._memo: dict[Any, int] = {}
        self._puts = 0

    def dumps(self, value: object) -> bytes:
        self._write(value)
        return bytes(self._data + b".")

    def _put(self, key: object = None) -> None:
        number, self._puts = self._puts, self._puts + 1
        if key is not None:
            self._memo[key] = number
        self._data += b"q" + bytes([number]) if number < 256 else b"r" + struct.pack("<I", number)

    def _recall(self, key: object) -> bool:
        number = self._memo.get(key)
        if number is None:
            return False
        self._data += b"h" + bytes([number]) if number < 256 else b"j" + struct.pack("<I", number)
        return True

    def _write(self, value: object) -> None:
        data = self._data
        match value:
            case None:
                data += b"N"
            case bool():
                data += b"\x88" if value else b"\x89"
            case int():
                data += _integer(value)
            case float():
                data += b"G" + struct.pack(">d", value)
            case str():
                if not self._recall(value):
                    encoded = value.encode()
                    data += b"X" + struct.pack("<I", len(encoded)) + encoded
                    self._put(value)
            case Global(module, name):
                if not self._recall(value):
                    data += b"c" + f"{module}\n{name}\n".encode()
                    self._put(value)
            case tuple():
                if len(value) > 3:
                    data += b"("
                for item in value:
                    self._write(item)
                data += (b")", b"\x85", b"\x86", b"\x87")[len(value)] if len(value) < 4 else b"t"
                if value:
                    self._put()
            case list():
                data += b"]"
                self._put()
                data += b"("
                for item in value:
                    self._write(item)
                data += b"e"
            case dict():
                data += b"}"
                self._put()
                self._write_items(value)
            case Ordered(items):
                self._write(Call(Global("collections", "OrderedDict"), ()))
                self._write_items(items)
                self._write({"_metadata": {"": {"version": 1}}})
                data += b"b"
            case Call(function, arguments):
                self._write(function)
                self._write(arguments)
                data += b"R"
                self._put()
            case Persistent(inner):
                self._write(inner)
                data += b"Q"
            case Built(inner, state):
                self._write(inner)
                self._write(state)
                data += b"b"
            case Raw(opcodes):
                data += opcodes
            case _:
                raise TypeError(value)

    def _write_items(self, items: Mapping[Any, object]) -> None:
        self._data += b"("
        for key, value in items.items():
            self._write(key)
            self._write(value)
        self._data += b"u"


def _integer(value: int) -> bytes:
    if 0 <= value < 1 << 8:
        return b"K" + bytes([value])
    if 0 <= value < 1 << 16:
        return b"M" + struct.pack("<H", value)
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def tensor(
    kind: str,
    key: str,
    elements: int,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
) -> Call:
    storage = Persistent(("storage", Global("torch", kind), key, "cpu", elements))
    hooks = Call(Global("collections", "OrderedDict"), ())
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, (storage, offset, shape, strides, False, hooks))


def write_zip(
    path: Path,
    pickled: bytes,
    storages: dict[str, bytes] | None = None,
    byteorder: bytes | None = b"little",
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        if byteorder is not None:
            archive.writestr("archive/byteorder", byteorder)
        for key, data in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", data)
        archive.writestr("archive/version", b"3\n")
    return path


def one_float_tensor(path: Path, *layout: Any, elements: int = 6) -> Path:
    """A checkpoint {"x": …} over a storage of six floats, 0 to 5."""
    value = Ordered({"x": tensor("FloatStorage", "0", elements, *layout)})
    return write_zip(path, Pickler().dumps(value), {"0": np.arange(6, dtype="<f4").tobytes()})


def refused(path: Path, *words: str) -> str:
    with pytest.raises(UserError) as caught:
        read_torch_checkpoint(path)
    message = str(caught.value)
    for word in words:
        assert word in message
    assert "\n" not in message and len(message) < 600
    return message


def test_reads_what_torch_wrote(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(zlib.decompress(base64.b85decode("".join(WRITTEN_BY_TORCH.split()))))
    tensors = read_torch_checkpoint(path)
    assert list(tensors) == ["weight", "bias", "scale", "tail"]
    expected: dict[str, npt.NDArray[Any]] = {
        "weight": np.array([[1, 3], [2, 4]], np.float32),
        "bias": np.array([5, 6], np.float16),
        "scale": np.array(1.5, ml_dtypes.bfloat16),
        "tail": np.array([4, 5], np.int64),
    }
    for name, array in expected.items():
        assert tensors[name].dtype == array.dtype and tensors[name].shape == array.shape
        assert np.array_equal(tensors[name], array)
        assert tensors[name].flags.c_contiguous


@FIXTURES_STAY
@given(st.data())
def test_round_trip_of_strided_views(tmp_path: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    dtype = np.dtype(KINDS[kind])
    shape = tuple(data.draw(st.lists(st.integers(0, 4), max_size=3)))
    order = data.draw(st.permutations(range(len(shape))))
    offset = data.draw(st.integers(0, 3))
    swap = data.draw(st.booleans())
    elements = offset + math.prod(shape)
    stored = np.array(
        data.draw(st.lists(st.integers(0, 100), min_size=elements, max_size=elements))
    ).astype(dtype)
    base = stored[offset:].reshape(shape)
    view = base.transpose(order)
    words = stored.view(f"u{dtype.itemsize}").astype(f"{'>' if swap else '<'}u{dtype.itemsize}")
    strides = tuple(stride // dtype.itemsize for stride in view.strides)
    value = {"x": tensor(kind, "7", elements, offset, view.shape, strides)}
    path = write_zip(
        tmp_path / "m.pt",
        Pickler().dumps(Ordered(value) if data.draw(st.booleans()) else value),
        {"7": words.tobytes()},
        b"big" if swap else data.draw(st.sampled_from([b"little", None])),
    )
    if view.nbytes > 2 * path.stat().st_size:
        return
    read = read_torch_checkpoint(path)["x"]
    assert read.dtype == dtype and read.shape == view.shape and read.flags.c_contiguous
    assert np.array_equal(read, view)


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_nested_state_dict(tmp_path: Path, key: str) -> None:
    inner = Ordered({"x": tensor("IntStorage", "0", 2, 0, (2,), (1,))})
    value = {"epoch": 3, "lr": 0.1, "done": True, "log": [1, None, (2, 3, 4, 5)], key: inner}
    path = write_zip(tmp_path / "m.pth", Pickler().dumps(value), {"0": bytes(8)})
    assert list(read_torch_checkpoint(path)) == ["x"]


def test_a_shared_storage_and_a_parameter(tmp_path: Path) -> None:
    shared = tensor("FloatStorage", "0", 6, 0, (6,), (1,))
    hooks = Call(Global("collections", "OrderedDict"), ())
    parameter = Call(Global("torch._utils", "_rebuild_parameter"), (shared, True, hooks))
    path = write_zip(
        tmp_path / "m.bin",
        Pickler().dumps(Ordered({"a": shared, "b": parameter})),
        {"0": np.arange(6, dtype="<f4").tobytes()},
    )
    tensors = read_torch_checkpoint(path)
    assert np.array_equal(tensors["a"], tensors["b"])


def test_expanded_tensor(tmp_path: Path) -> None:
    path = one_float_tensor(tmp_path / "m.bin", 2, (3, 2), (0, 1))
    assert read_torch_checkpoint(path)["x"].tolist() == [[2, 3]] * 3


@pytest.mark.parametrize(
    "layout",
    [
        (0, (7,), (1,)),
        (1, (6,), (1,)),
        (6, (1,), (1,)),
        (0, (2, 3), (4, 1)),
        (0, (2,), (1 << 62,)),
        (1 << 63, (1,), (1,)),
        (-1, (2,), (1,)),
        (0, (-2,), (1,)),
        (5, (2,), (-1,)),
        (0, (2, 3), (3,)),
        (0, (1 << 40, 1 << 40), (0, 0)),
        (0, (0, 1 << 62, 1 << 62), (1, 1, 1)),
        (0, (0, 1 << 2000), (1, 1)),
        (0, (2,), (1 << 2000,)),
        (0, (1,) * 33, (1,) * 33),
        (0, (2.0,), (1,)),
        (0, ("a",), (1,)),
        (0, (True,), (1,)),
        (0, [2], (1,), 0),
        (None, (1,), (1,)),
        (0, 2, (1,)),
    ],
)
def test_layouts_outside_the_storage(tmp_path: Path, layout: tuple[Any, ...]) -> None:
    refused(one_float_tensor(tmp_path / "m.bin", *layout[:3]), "state_dict")


@pytest.mark.parametrize("elements", [5, 7, 0, -6, 1 << 2000])
def test_storage_of_another_length(tmp_path: Path, elements: int) -> None:
    refused(one_float_tensor(tmp_path / "m.bin", 0, (1,), (1,), elements=elements), "storage '0'")


def test_many_tensors_over_one_storage_claim_no_memory(tmp_path: Path) -> None:
    shared = {str(i): tensor("FloatStorage", "0", 50_000, 0, (50_000,), (1,)) for i in range(40)}
    path = write_zip(tmp_path / "m.bin", Pickler().dumps(Ordered(shared)), {"0": bytes(200_000)})
    refused(path, "claim more bytes")


# Each asks for something to be run: what, how, and what the message must name.
ATTACKS: dict[str, tuple[Callable[[str], object], str]] = {
    "os.system": (lambda c: Call(Global("os", "system"), (f"touch {c}",)), "os.system"),
    "posix.system": (lambda c: Call(Global("posix", "system"), (f"touch {c}",)), "posix.system"),
    "eval": (lambda c: Call(Global("builtins", "eval"), (f"open({c!r}, 'w')",)), "builtins.eval"),
    "exec, python 2": (
        lambda c: Call(Global("__builtin__", "eval"), (f"open({c!r}, 'w')",)),
        "__builtin__.eval",
    ),
    "getattr": (
        lambda c: Call(Global("builtins", "getattr"), (Global("os", "system"), "x")),
        "builtins.getattr",
    ),
    "open": (lambda c: Call(Global("io", "open"), (c, "w")), "io.open"),
    "subprocess": (
        lambda c: Call(Global("subprocess", "Popen"), (["touch", c],)),
        "subprocess.Popen",
    ),
    "pickle in a pickle": (
        lambda c: Call(Global("pickle", "loads"), (pickle.dumps(c).hex(),)),
        "pickle.loads",
    ),
    "torch.load": (lambda c: Call(Global("torch.serialization", "load"), (c,)), "torch"),
    "dotted name": (
        lambda c: Call(Global("torch._utils", "_rebuild_tensor_v2.__globals__"), ()),
        "__globals__",
    ),
    "a global that is only stored": (lambda c: Global("os", "system"), "os.system"),
    "code as the metadata of a dict": (
        lambda c: Built(
            Call(Global("collections", "OrderedDict"), ()),
            {"items": Call(Global("os", "system"), (f"touch {c}",))},
        ),
        "os.system",
    ),
    "attributes of a storage type": (
        lambda c: Built(Global("torch", "FloatStorage"), {"dtype": 1}),
        "torch.FloatStorage",
    ),
    "attributes of a function": (
        lambda c: Built(Global("torch._utils", "_rebuild_tensor_v2"), (None, {"__code__": 1})),
        "_rebuild_tensor_v2",
    ),
    "a call of a dictionary": (lambda c: Call({}, (c,)), "dict"),
    "a call of a storage type": (lambda c: Call(Global("torch", "FloatStorage"), (9,)), "Float"),
    "a dictionary from values": (
        lambda c: Call(Global("collections", "OrderedDict"), ([("a", 1)],)),
        "OrderedDict",
    ),
    "a tensor of no storage": (
        lambda c: Call(Global("torch._utils", "_rebuild_tensor_v2"), ("a", 0, (1,), (1,))),
        "_rebuild_tensor_v2",
    ),
    "a parameter of no tensor": (
        lambda c: Call(Global("torch._utils", "_rebuild_parameter"), ("a", True, {})),
        "_rebuild_parameter",
    ),
    "another persistent id": (lambda c: Persistent(c), "persistent id"),
    "a storage of another type": (
        lambda c: Persistent(("storage", Global("collections", "OrderedDict"), "0", "cpu", 1)),
        "persistent id",
    ),
    "a storage outside data/": (
        lambda c: Persistent(("storage", Global("torch", "ByteStorage"), "../x", "cpu", 1)),
        "'../x'",
    ),
    "STACK_GLOBAL": (
        lambda c: Raw(b"\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R"),
        "os.system",
    ),
    "STACK_GLOBAL of no names": (lambda c: Raw(b"K\x01K\x02\x93"), "int"),
    "INST": (lambda c: Raw(b"(X\x01\x00\x00\x00xios\nsystem\n"), "INST"),
    "OBJ": (lambda c: Raw(b"(ccollections\nOrderedDict\no"), "OBJ"),
    "NEWOBJ": (lambda c: Raw(b"ccollections\nOrderedDict\n)\x81"), "NEWOBJ"),
    "NEWOBJ_EX": (lambda c: Raw(b"ccollections\nOrderedDict\n)}\x92"), "NEWOBJ_EX"),
    "EXT1": (lambda c: Raw(b"\x82\x01"), "EXT1"),
    "PERSID": (lambda c: Raw(b"Pstorage\n"), "PERSID"),
    "NEXT_BUFFER": (lambda c: Raw(b"\x97"), "NEXT_BUFFER"),
    "items of a tuple": (lambda c: Raw(b")K\x01K\x02s"), "tuple"),
    "appending to a dictionary": (lambda c: Raw(b"}K\x01a"), "dict"),
    "an odd number of items": (lambda c: Raw(b"}(K\x01u"), "dict"),
    "one entry twice": (lambda c: Raw(b"}(K\x01K\x01K\x01K\x02u"), "twice"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_but_tensors_is_admitted(tmp_path: Path, attack: str) -> None:
    canary = tmp_path / "canary"
    make, named = ATTACKS[attack]
    path = write_zip(tmp_path / "m.bin", Pickler().dumps({"x": make(str(canary))}), {"0": b"x"})
    refused(path, named)
    assert not canary.exists()


class _Touch:
    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return open, (str(self._target), "w")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_python_objects_are_not_rebuilt(tmp_path: Path, protocol: int) -> None:
    canary = tmp_path / "canary"
    pickled = pickle.dumps({"x": _Touch(canary)}, protocol)
    refused(write_zip(tmp_path / "m.bin", pickled))
    assert not canary.exists()
    pickle.loads(pickled)["x"].close()
    assert canary.exists(), "the pickle does nothing, so refusing it shows nothing"


def _tuples(depth: int) -> bytes:
    """() doubled `depth` times: small to store, 2 ** depth to walk or to hash."""
    return b")q\x00" + b"".join(b"h\x00h\x00\x86q\x00" for _ in range(depth))


@pytest.mark.parametrize(
    "opcodes",
    [
        pytest.param(b"}(" + _tuples(200) + b"K\x01u", id="hash of nested tuples"),
        pytest.param(b"}(X\x01\x00\x00\x00x" + _tuples(200) + b"u", id="value of nested tuples"),
        pytest.param(b"}r\xff\xff\xff\x7f", id="memo index"),
        pytest.param(b"\x8e" + struct.pack("<Q", 1 << 40) + b"x", id="declared length"),
        pytest.param(b"\x8b" + struct.pack("<i", 1 << 30) + b"x", id="declared integer"),
        pytest.param(b"(" * 100_000, id="marks"),
        pytest.param(b"]" * 30_000 + b"a" * 29_999, id="nested lists"),
        pytest.param(b"]q\x00h\x00a", id="a list in itself"),
        pytest.param(b"X\x40\x0d\x03\x00" + b"x" * 200_000 + b"N\x86", id="long name"),
        pytest.param(
            b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nByteStorage\n"
            b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQK\x00("
            + b"\x8a\xff" + b"\x7f" * 255 + b"q\x00" + b"h\x00" * 40_000 + b"t"
            + b"(" + b"K\x01" * 40_001 + b"ttR",
            id="product of sizes",
        ),
    ],
)  # fmt: skip
def test_bombs_cost_little(tmp_path: Path, opcodes: bytes) -> None:
    path = write_zip(tmp_path / "m.bin", b"\x80\x02" + opcodes + b".", {"0": b"x"})
    tracemalloc.start()
    try:
        tensors = read_torch_checkpoint(path)
        assert tensors == {}
    except UserError as error:
        assert len(str(error)) < 600
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 64 << 20


def test_a_large_pickle_is_not_begun(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "m.bin", bytes(LARGEST_PICKLE_BYTES + 1))
    refused(path, "MiB")


def test_deeper_entries_and_other_values_are_named(tmp_path: Path) -> None:
    for value, word in (
        ({"encoder": {}}, "'encoder' is a dict"),
        ({3: None}, "3 is a NoneType"),
        ([], "one a list"),
    ):
        refused(write_zip(tmp_path / "m.bin", Pickler().dumps(value)), word.removeprefix("one "))


def test_what_is_not_a_torch_zip(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    refused(path, "does not exist")
    refused(tmp_path, "cannot be read")
    for content in (b"", b"PK", b"text", b"PK\x03\x04" + bytes(40)):
        path.write_bytes(content)
        refused(path, "not a whole torch zip")
    path.write_bytes(pickle.dumps({"x": 1}, 2))
    refused(path, "legacy", "torch >= 1.6")
    pickled = Pickler().dumps({})
    refused(write_zip(path, pickled * 40, compression=zipfile.ZIP_DEFLATED), "compressed")
    refused(write_zip(path, pickled, byteorder=b"middle"), "byte order")
    refused(write_zip(path, pickled[:-1]))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/other", b"")
    refused(path, "no data.pkl")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("b/data.pkl", pickled)
    refused(path, "several data.pkl")


def test_a_missing_storage_is_named(tmp_path: Path) -> None:
    value = {"x": tensor("FloatStorage", "12", 1, 0, (1,), (1,))}
    refused(write_zip(tmp_path / "m.bin", Pickler().dumps(value)), "storage '12'")


def test_a_flipped_bit_in_a_storage_is_found(tmp_path: Path) -> None:
    path = one_float_tensor(tmp_path / "m.bin", 0, (6,), (1,))
    data = bytearray(path.read_bytes())
    data[data.index(np.float32(5).tobytes())] ^= 1
    path.write_bytes(data)
    refused(path, "get it again")


@settings(FIXTURES_STAY, max_examples=100)
@given(cut=st.integers(0, 2000), flips=st.lists(st.tuples(st.integers(0), st.integers(1, 255))))
def test_damage_ends_in_one_line(tmp_path: Path, cut: int, flips: list[tuple[int, int]]) -> None:
    buffer = bytearray(one_float_tensor(tmp_path / "m.bin", 0, (2, 3), (3, 1)).read_bytes())
    del buffer[max(len(buffer) - cut % 100, 0) :]
    for position, change in flips:
        buffer[position % len(buffer)] ^= change
    path = tmp_path / "damaged.bin"
    path.write_bytes(buffer)
    try:
        read_torch_checkpoint(path)
    except UserError as error:
        assert len(str(error)) < 600


# pickletools decodes the text of an opcode before anyone can refuse it.
@pytest.mark.filterwarnings("ignore:.*invalid (octal )?escape")
@settings(FIXTURES_STAY, max_examples=100)
@given(st.data())
def test_damaged_pickles_end_in_one_line(tmp_path: Path, data: st.DataObject) -> None:
    value = Ordered({"x": tensor("FloatStorage", "0", 6, 0, (2, 3), (3, 1))})
    pickled = bytearray(Pickler().dumps(value))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(pickled) - 1))
        pickled[position] = data.draw(st.integers(0, 255))
    path = write_zip(tmp_path / "m.bin", bytes(pickled), {"0": bytes(24)})
    try:
        read_torch_checkpoint(path)
    except UserError as error:
        assert len(str(error)) < 600


def test_the_writer_agrees_with_the_standard_unpickler() -> None:
    value = {"a": [1, -2, 300, 70_000, 1 << 40, 2.5, None, True], "b": ((), (1,), (1, 2, 3, 4))}
    assert pickle.load(io.BytesIO(Pickler().dumps(value))) == value


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth"])
def test_read_weights_takes_checkpoints(tmp_path: Path, suffix: str) -> None:
    value = {
        "bert.encoder.layer.0.output.dense.weight": tensor(
            "HalfStorage", "0", 6, 0, (2, 3), (1, 2)
        ),
        "qa_outputs.bias": tensor("BFloat16Storage", "1", 2, 0, (2,), (1,)),
    }
    path = write_zip(
        tmp_path / f"m{suffix}",
        Pickler().dumps(Ordered(value)),
        {
            "0": np.arange(6, dtype="<f2").tobytes(),
            "1": np.array([1, 2], ml_dtypes.bfloat16).tobytes(),
        },
    )
    weights = read_weights(path)
    assert {name: weight.tolist() for name, weight in weights.items()} == {
        "layer.0.ffn.out.weight": [[0, 2, 4], [1, 3, 5]],
        "qa.bias": [1, 2],
    }
    assert all(w.dtype == np.float32 and w.flags.c_contiguous for w in weights.values())
