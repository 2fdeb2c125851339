"""Small files that stand for much: gigabytes, hours, a deep stack, a file elsewhere, a program.

Each is written by a function of its path and read by a target of `fuzz_targets`.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fuzz_seeds as seeds
import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import yaml
from test_torch_checkpoint import Call, Global, Ordered, Persistent, Pickler, Raw, tensor

from harness.files import sha256_bytes

MIB = 1 << 20
Write = Callable[[Path], object]


def lazily(make: Callable[[], Write]) -> Write:
    """What is large only once it is written."""
    return lambda path: make()(path)


def text(content: str | bytes) -> Write:
    data = content.encode() if isinstance(content, str) else content
    return lambda path: path.write_bytes(data)


def sparse(size: int, start: bytes = b"") -> Write:
    """A file of `size` bytes that takes no room."""

    def write(path: Path) -> None:
        with path.open("wb") as stream:
            stream.write(start)
            stream.truncate(size)

    return write


def zeros(mebibytes: int) -> bytes:
    """gzip members that unpack into so many mebibytes of zeros, a thousandth as long."""
    return gzip.compress(bytes(16 * MIB), 6) * (mebibytes // 16)


# ---- JSON ----------------------------------------------------------------------------------


def squad_with(question: str) -> str:
    return f'{{"data": [{{"paragraphs": [{{"context": "c", "qas": [{question}]}}]}}]}}'


def answer_at(start: str) -> str:
    return squad_with(
        f'{{"id": "q", "question": "?", "answers": [{{"text": "c", "answer_start": {start}}}]}}'
    )


def record_with(**fields: Any) -> Write:
    """A history of one record, whole in itself, with other fields."""
    entry = {"previous": sha256_bytes(b""), **seeds.HISTORY[0], **fields}
    line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
    return chained(line)


def chained(line: bytes) -> Write:
    return text(seeds.chained([line]))


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"a": value}
    return value


def golden_with(**fields: Any) -> str:
    return json.dumps({**seeds.GOLDENS[1], **fields})


def promise(value: str) -> str:
    qps = {
        "device": "d", "backend": "ort-cpu", "batch": 8, "value": 0, "allowed_loss": 0,
        "source": "s", "derivation": "d",
    }  # fmt: skip
    return golden_with(qps=[qps]).replace('"value": 0', f'"value": {value}', 1)


# ---- YAML ----------------------------------------------------------------------------------


def laughs(start: str = "[x, x]") -> str:
    lines = [f"a0: &a0 {start}"]
    lines += [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    return "\n".join(lines)


def merges() -> str:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}], x{n}: 1}}" for n in range(1, 40)]
    return "\n".join(lines)


def alternatives(pairs: list[tuple[str, list[str]]]) -> str:
    source = {"description": "d", "licence": "l", "sources": [{"url": "https://example.org/a"}]}
    assets: dict[str, Any] = {
        name: {"description": "d", "licence": "l", "alternatives": others} for name, others in pairs
    }
    return yaml.safe_dump({"assets": {**assets, "leaf": source}})


def lattice(levels: int) -> str:
    """Assets whose alternatives meet again: 2^levels ways to the leaf."""
    pairs: list[tuple[str, list[str]]] = [("a0", ["leaf"]), ("b0", ["leaf"])]
    for n in range(1, levels):
        pairs += [(f"{x}{n}", [f"a{n - 1}", f"b{n - 1}"]) for x in "ab"]
    return alternatives(pairs)


def chain(length: int) -> str:
    return alternatives(
        [(f"a{n}", [f"a{n + 1}" if n + 1 < length else "leaf"]) for n in range(length)]
    )


# ---- tensors -------------------------------------------------------------------------------


def safetensors(header: str, data: bytes = b"", length: int | None = None) -> Write:
    said = len(header.encode()) if length is None else length
    return text(struct.pack("<Q", said) + header.encode() + data)


def one_tensor(shape: list[int], size: int = 4) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}


def tensors(*entries: dict[str, Any]) -> str:
    """A safetensors header of these entries; the first has the name of a weight."""
    names = ["qa_outputs.bias", *map(str, range(1, len(entries)))]
    return json.dumps(dict(zip(names, entries, strict=True)))


def onnx_file(
    initializers: list[onnx.TensorProto],
    nodes: list[onnx.NodeProto],
    properties: dict[str, str] | None = None,
) -> Write:
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [], initializers))
    for key, value in (properties or {}).items():
        model.metadata_props.add(key=key, value=value)
    return lambda path: path.write_bytes(model.SerializeToString())


def array(name: str, shape: tuple[int, ...]) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name)


def claims(name: str, kind: int, *dims: int, raw: bytes = b"") -> onnx.TensorProto:
    made = onnx.TensorProto(name=name, data_type=kind, raw_data=raw)
    made.dims.extend(dims)
    return made


def elsewhere(place: str) -> onnx.TensorProto:
    made = onnx.TensorProto(
        name="qa_outputs.bias", data_type=1, data_location=onnx.TensorProto.EXTERNAL
    )
    made.dims.extend([2])
    made.external_data.add(key="location", value=place)
    return made


def graph_with(properties: dict[str, str] | None = None, *others: onnx.TensorProto) -> Write:
    """The project's own graph with more in it."""
    model = onnx.ModelProto()
    model.CopyFrom(seeds.GRAPHS[0])
    for key, value in (properties or {}).items():
        model.metadata_props.add(key=key, value=value)
    for extra in others:
        for old in [t for t in model.graph.initializer if t.name == extra.name]:
            model.graph.initializer.remove(old)
        model.graph.initializer.append(extra)
    return lambda path: path.write_bytes(model.SerializeToString())


def deep_graph(depth: int) -> Write:
    """A graph in an attribute of a node of a graph in an attribute."""
    data = b""
    for _ in range(depth):
        for field in (b"\x32", b"\x2a", b"\x0a"):  # attribute.g, node.attribute, graph.node
            size = len(data)
            digits = bytearray()
            while size > 127:
                digits.append(size & 127 | 128)
                size >>= 7
            data = field + bytes([*digits, size]) + data
    return text(b"\x08\x08\x3a" + _varint(len(data)) + data)


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def checkpoint(value: object, storages: dict[str, bytes], order: bytes = b"little") -> Write:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("archive/data.pkl", Pickler().dumps(value))
            archive.writestr("archive/byteorder", order)
            for key, data in storages.items():
                archive.writestr(f"archive/data/{key}", data)

    return write


def opcodes(program: bytes) -> Write:
    return checkpoint(Raw(program), {"0": b"x"})


def one_element_views(kind: str, count: int, size: int, order: bytes) -> Write:
    """Many tensors of one element, each over the whole of a storage."""
    views = {str(n): tensor(kind, "0", size, 0, (1,), (1,)) for n in range(count)}
    return checkpoint(Ordered(views), {"0": bytes(size)}, order)


# ---- archives ------------------------------------------------------------------------------


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info.tobuf(tarfile.GNU_FORMAT)


def pax(kind: bytes, records: bytes) -> bytes:
    return header("pax", len(records), kind) + records + bytes(-len(records) % 512)


def record(key: str, value: str) -> bytes:
    body = f" {key}={value}\n".encode()
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def packed(*pieces: bytes) -> Write:
    """gzip members: the pieces, packed one by one, or taken as they are if packed already."""
    return text(b"".join(p if p[:2] == b"\x1f\x8b" else gzip.compress(p) for p in pieces))


def sized(block: bytes, size: int) -> bytes:
    """A header with a size in base 256, which may be negative."""
    field = size.to_bytes(12, "big", signed=True)
    field = bytes([field[0] | 0x80]) + field[1:]
    blank = block[:124] + field + block[136:148] + b" " * 8 + block[156:]
    return blank[:148] + b"%06o\x00 " % sum(blank) + blank[156:]


def keys(count: int) -> bytes:
    return b"".join(record(f"k{n}", "v") for n in range(count))


MEMBER = header("a.bin", 1024) + seeds.CONTENT


def zip_member(kind: int, mebibytes: int) -> Write:
    """A member that unpacks into so many mebibytes."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", kind) as archive, archive.open("a.bin", "w") as stream:
            for _ in range(mebibytes):
                stream.write(bytes(MIB))

    return write


def lying_zip(kind: int, mebibytes: int) -> Write:
    """The same, but it says that the member has 100 bytes."""

    def write(path: Path) -> None:
        zip_member(kind, mebibytes)(path)
        data = bytearray(path.read_bytes())
        for mark, field in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
            place = data.find(mark) + field
            data[place : place + 4] = struct.pack("<I", 100)
        path.write_bytes(data)

    return write


def many_members(count: int) -> Write:
    def write(path: Path) -> None:
        entry = b"PK\x01\x02" + bytes(24) + struct.pack("<H", 5) + bytes(16) + b"a.bin"
        end = struct.pack("<4sHHHHLLH", b"PK\x05\x06", 0, 0, 65535, 65535, len(entry) * count, 0, 0)
        path.write_bytes(entry * count + end)

    return write


def _tar_of_zeros() -> bytes:
    return header("b", 64 * MIB) + bytes(64 * MIB) + MEMBER


def special(kind: str) -> Write:
    """What is no regular file."""

    def write(path: Path) -> None:
        match kind:
            case "fifo":
                os.mkfifo(path)
            case "folder":
                path.mkdir()
            case "loop":
                path.symlink_to(path.name)
            case device:
                path.symlink_to(device)

    return write


def _each(target: str, bombs: dict[str, Write]) -> Iterator[tuple[str, tuple[str, Write]]]:
    return ((f"{target}: {name}", (target, write)) for name, write in bombs.items())


_F32, _INT4 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT4
_SPECIAL = {name: special(name) for name in ("fifo", "folder", "loop", "/dev/zero")}

BOMBS: dict[str, tuple[str, Write]] = dict(
    (
        *_each(
            "squad",
            {
                **_SPECIAL,
                "a million brackets": text("[" * 1_000_000),
                "a million objects": text('{"data":' * 1_000_000),
                "a number of a million digits": text(answer_at("9" * 1_000_000)),
                "a number of 4000 digits": text(answer_at("9" * 4000)),
                "a float of a million digits": text(answer_at("0." + "9" * 1_000_000)),
                "NaN": text(answer_at("NaN")),
                "1e999": text(answer_at("1e999")),
                "as many lists as fit": lazily(
                    lambda: text(b"[" + b"[]," * (40 * MIB // 3 - 2) + b"[]]")
                ),
                "as many objects as fit": lazily(
                    lambda: text(b"[" + b"{}," * (40 * MIB // 3 - 2) + b"{}]")
                ),
                "a list too many": lazily(
                    lambda: text(b"[" + b"[]," * (40 * MIB // 3 + 2) + b"[]]")
                ),
                "a context as large as fits": lazily(
                    lambda: text(
                        json.dumps(
                            {"data": [{"paragraphs": [{"context": "x" * (39 * MIB), "qas": []}]}]}
                        )
                    )
                ),
                "an id of a megabyte, twice": text(
                    squad_with(
                        ",".join(
                            [
                                '{"id":"%s","question":"?","answers":[{"text":"","answer_start":0}]}'
                                % ("i" * MIB)
                            ]
                            * 2
                        )
                    )
                ),
                "a terabyte that is not there": sparse(1 << 40),
                "a gzip bomb": lazily(lambda: text(zeros(1024))),
                "a gzip bomb of brackets": lazily(lambda: text(gzip.compress(b"[" * (39 * MIB)))),
                "a gzip file in a gzip file": lazily(lambda: text(gzip.compress(zeros(64)))),
                "UTF-16": text(answer_at("0").encode("utf-16")),
                "half a surrogate pair": text(answer_at("0").replace('"c"', '"\\ud800"')),
            },
        ),
        *_each(
            "golden",
            {
                "a million brackets": text("[" * 1_000_000),
                "a promise of 400 digits": text(promise("9" * 400)),
                "a promise of 1e308": text(promise("1e308")),
                "a promise of NaN": text(promise("NaN")),
                "a promise of a million digits": text(promise("9" * 1_000_000)),
                "a deep promise": text(promise("[" * 900 + "]" * 900)),
                "a device of a megabyte": text(promise("1").replace('"d"', json.dumps("d" * MIB))),
                "an unknown key of a megabyte": text(golden_with(**{"k" * MIB: 1})),
                "1000 promises alike": lazily(
                    lambda: text(golden_with(qps=json.loads(promise("1"))["qps"] * 1000))
                ),
            },
        ),
        *_each(
            "history",
            {
                "a million brackets": chained(b"[" * 1_000_000 + b"\n"),
                "a record of deep provenance": record_with(provenance=nested(300)),
                "a record of deeper provenance": record_with(provenance=nested(900)),
                "a number of 400 digits": record_with(repeats=[10**400] * 5),
                "a number of 4000 digits": record_with(repeats=[10**4000] * 5),
                "100,000 repeats": record_with(repeats=[1.0] * 100_000),
                "a reason of a megabyte": record_with(reason="r" * MIB),
                "numbers that overflow": record_with(repeats=[1e308] * 5),
                "a line of 64 megabytes": lazily(lambda: chained(b"x" * (64 * MIB) + b"\n")),
                "a million empty lines": chained(b"\n" * 1_000_000),
            },
        ),
        *_each(
            "predictions",
            {
                **_SPECIAL,
                "a million brackets": text("[" * 1_000_000),
                "a million answers": text(json.dumps({str(n): "" for n in range(1_000_000)})),
            },
        ),
        *_each(
            "matrix",
            {
                **_SPECIAL,
                "a billion laughs": text(laughs()),
                "a billion merges": text(merges()),
                "laughs as keys": text(f"{laughs()}\nb:\n  ? *a39\n  : 1\n  ? *a38\n  : 1"),
                "a list in itself": text("cells: &a [*a]"),
                "a key that is a list": text("? [a]\n: 1"),
                "Python": text("cells: !!python/object/apply:os.mknod [canary]"),
                "an int of no digits": text("cells: !!int ''"),
                "a bool of no kind": text("cells: !!bool x"),
                "a time of no kind": text("cells: !!timestamp x"),
                "a hexadecimal of 120,000 digits": text("cells: 0x" + "f" * 120_000),
                "sixties of sixties": text("cells: " + "1:" * 60_000 + "1"),
                "sixties of sixties and a half": text("cells: " + "1:" * 60_000 + "1.5"),
                "120,000 digits": text("cells: " + "9" * 120_000),
                "brackets": text("[" * 120_000),
                "braces": text("{" * 120_000),
                "dashes": text("- " * 60_000),
                "question marks": text("? " * 60_000),
                "keys": text("".join(f"k{n}: 1\n" for n in range(12_000))),
                "keys alike": text("k: 1\n" * 24_000),
                "lists side by side": text("[" + "[]," * 40_000 + "]"),
                "anchors": text("".join(f"k{n}: &a{n} x\n" for n in range(8_000))),
                "more than anyone writes": text("# " + "x" * 300_000),
                "a terabyte that is not there": sparse(1 << 40),
                "deep lists": text("cells: " + "[" * 150 + "]" * 150),
                "no text": text(b"\xff\xfe\x00"),
            },
        ),
        *_each(
            "manifest",
            {
                "alternatives that meet again": text(lattice(60)),
                "1500 alternatives in a row": text(chain(1500)),
                "a name of 60,000 folders": text(alternatives([("a/" * 60_000 + "a", ["leaf"])])),
                "a size of 29 digits": text(
                    alternatives([]).replace("licence: l", "licence: l\n    size: " + "9" * 29)
                ),
                "a URL of brackets": text(alternatives([]).replace("example.org", "[" * 1000)),
            },
        ),
        *_each(
            "profile",
            {
                "a batch of 29 digits": text(
                    yaml.safe_dump({**seeds.PROFILE_FILES[1], "batch": 10**28})
                ),
                "10^28 layers": text(
                    yaml.safe_dump(
                        {
                            **seeds.PROFILE_FILES[1],
                            "model": {**seeds.PROFILE_FILES[1]["model"], "layers": 10**28},
                        }
                    )
                ),
                "a name with a line's end": text(
                    yaml.safe_dump(
                        {
                            **seeds.PROFILE_FILES[1],
                            "model": {**seeds.PROFILE_FILES[1]["model"], "name": "a\n"},
                        }
                    )
                ),
            },
        ),
        *_each(
            "safetensors",
            {
                "a header of 2^63 bytes": safetensors("{}", length=1 << 63),
                "a header of 2^64 - 1 bytes": safetensors("{}", length=(1 << 64) - 1),
                "a header of 100 MB of blanks": sparse(100_000_008, struct.pack("<Q", 99_999_999)),
                "a shape of 2^63": safetensors(
                    '{"a":{"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,4]}}',
                    bytes(4),
                ),
                "a shape of 2^40 x 2^40": safetensors(
                    '{"a":{"dtype":"F32","shape":[1099511627776,1099511627776],"data_offsets":[0,4]}}',
                    bytes(4),
                ),
                "a shape of 0 x 2^62": safetensors(
                    '{"a":{"dtype":"F32","shape":[0,4611686018427387904],"data_offsets":[0,0]}}'
                ),
                "a shape of 100,000 ones": safetensors(
                    tensors(one_tensor([1] * 100_000)),
                    bytes(4),
                ),
                "one place for many": safetensors(
                    tensors(*[one_tensor([250_000], 1_000_000)] * 5000), bytes(1_000_000)
                ),
                "deep": safetensors("[" * 1_000_000),
                "deep metadata": safetensors('{"__metadata__":' * 100_000),
                "200,000 empty tensors": safetensors(tensors(*[one_tensor([0], 0)] * 200_000)),
                "a terabyte that is not there": sparse(1 << 40, struct.pack("<Q", 2) + b"{}"),
                "nothing": text(b""),
                "folder": special("folder"),
            },
        ),
        *_each(
            "adapter",
            {
                "a rank of 4000 digits": text(
                    seeds.ADAPTER.replace(b'"rank":"2"', b'"rank":"%s"' % (b"9" * 4000))
                ),
                "alpha NaN": text(seeds.ADAPTER.replace(b'"alpha":"4.0"', b'"alpha":"nan"')),
            },
        ),
        *_each(
            "checkpoint graph",
            {
                "data of another file": onnx_file([elsewhere("/etc/passwd")], []),
                "data of a file above": onnx_file([elsewhere("../../../etc/passwd")], []),
                "a shape of 2^63 - 1": onnx_file([claims("qa_outputs.bias", _F32, 2**63 - 1)], []),
                "a shape of 2^62 x 4": onnx_file([claims("qa_outputs.bias", _F32, 2**62, 4)], []),
                "a shape of 0 x 2^62": onnx_file([claims("qa_outputs.bias", _F32, 0, 2**62)], []),
                "a shape of 100 ones": onnx_file(
                    [claims("qa_outputs.bias", _F32, *[1] * 100, raw=bytes(4))], []
                ),
                "nibbles by the shape": onnx_file(
                    [claims("qa_outputs.bias", _INT4, 2**40, raw=b"x")], []
                ),
                "an addition of 50,000": onnx_file(
                    [array("qa_outputs.bias", (2,))],
                    [onnx.helper.make_node("Add", ["qa_outputs.bias"] * 50_000, ["y"])],
                ),
                "one tensor under 5000 names": onnx_file(
                    [array("bert.encoder.layer.0.output.dense.weight", (512, 512))],
                    [
                        onnx.helper.make_node(
                            "Identity",
                            ["bert.encoder.layer.0.output.dense.weight"],
                            [f"bert.encoder.layer.{n}.output.dense.weight"],
                        )
                        for n in range(1, 5000)
                    ],
                ),
                "20,000 products of one name": onnx_file(
                    [array(f"bert.encoder.layer.{n}.output.dense.bias", (2,)) for n in range(3000)]
                    + [array("w", (2, 2))],
                    [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])] * 20_000
                    + [
                        onnx.helper.make_node(
                            "Add", [f"bert.encoder.layer.{n}.output.dense.bias", "y"], [f"z{n}"]
                        )
                        for n in range(3000)
                    ],
                ),
                "graphs in graphs": deep_graph(10_000),
                "a terabyte that is not there": sparse(1 << 40),
                "fifo": special("folder"),
            },
        ),
        *_each(
            "graph",
            {
                "data of another file": graph_with({}, elsewhere("/etc/passwd")),
                "scales of a million brackets": graph_with({"other_scales": "[" * 1_000_000}),
                "scales in a list": graph_with({"other_scales": "[1]"}),
                "scales of 400 digits": graph_with(
                    {"other_scales": '{"outputs": {"a": %s}}' % ("9" * 400)}
                ),
                "scales in scales": graph_with({"fp8_scales": '{"activations": [], "weights": 1}'}),
                "scales of a million digits": graph_with({"fp8_scales": "9" * 1_000_000}),
                "heads of no number": graph_with(
                    {}, onnx.numpy_helper.from_array(np.array([0, 0, np.nan, 4]), "split_heads")
                ),
                "a shape of 2^62 x 4": graph_with({}, claims("qa.bias", _F32, 2**62, 4)),
            },
        ),
        *_each(
            "torch checkpoint",
            {
                "one bool of a storage, 4000 times": one_element_views(
                    "BoolStorage", 3500, MIB, b"little"
                ),
                "one float of a storage, 4000 times": one_element_views(
                    "ByteStorage", 3500, MIB, b"big"
                ),
                "a storage of two kinds": checkpoint(
                    Ordered(
                        {
                            "a": tensor("FloatStorage", "0", 1, 0, (1,), (1,)),
                            "b": tensor("IntStorage", "0", 1, 0, (1,), (1,)),
                        }
                    ),
                    {"0": bytes(4)},
                ),
                "a shape of 2^63": checkpoint(
                    Ordered({"a": tensor("FloatStorage", "0", 1, 0, (1 << 63,), (0,))}),
                    {"0": bytes(4)},
                ),
                "os.system": checkpoint(Call(Global("os", "system"), ("touch canary",)), {}),
                "a storage elsewhere": checkpoint(
                    Persistent(("storage", Global("torch", "ByteStorage"), "../../x", "cpu", 1)), {}
                ),
                "a mebibyte of lists": opcodes(b"]" * (MIB - 100)),
                "a mebibyte of dictionaries": opcodes(b"}" * (MIB - 100)),
                "a mebibyte of memos": opcodes(b"N\x94" * (MIB // 2 - 100)),
                "a mebibyte of marks": opcodes(b"(" * (MIB - 100)),
                "lists in lists": opcodes(b"]" * (MIB // 2 - 50) + b"a" * (MIB // 2 - 60)),
                "a number of a million digits": opcodes(b"L" + b"9" * 1_000_000 + b"L\n"),
                "a number of a million bytes": opcodes(
                    b"\x8b" + struct.pack("<i", 1_000_000) + b"\x7f" * 1_000_000
                ),
                "a text of 2^63 bytes": opcodes(b"\x8d" + struct.pack("<Q", 1 << 63)),
                "a terabyte that is not there": sparse(1 << 40),
                "many members": many_members(200_000),
            },
        ),
        *_each(
            "tar",
            {
                "ten gigabytes of zeros": lazily(
                    lambda: packed(header("b", 8 << 30), zeros(10_240), MEMBER)
                ),
                "ten gigabytes of zeros, the member": lazily(
                    lambda: packed(header("a.bin", 8 << 30), zeros(10_240))
                ),
                "a long name of 4 GiB": lazily(
                    lambda: packed(
                        header("x", (4 << 30) - 512, tarfile.GNUTYPE_LONGNAME), zeros(4096), MEMBER
                    )
                ),
                "a pax header of 4 GiB": lazily(
                    lambda: packed(
                        header("x", (4 << 30) - 512, tarfile.XHDTYPE), zeros(4096), MEMBER
                    )
                ),
                "a long name of 2^62 bytes": text(
                    sized(header("x", 0, tarfile.GNUTYPE_LONGNAME), 1 << 62) + MEMBER
                ),
                "a member of 2^80 bytes": text(sized(header("x"), 1 << 80) + MEMBER),
                "a member of -512 bytes": text(MEMBER + sized(header("x"), -512) + MEMBER),
                "a member of -1024 bytes": text(sized(header("x"), -1024) * 2 + MEMBER),
                "a million members": lazily(lambda: packed(*[header("x") * 1000] * 1000)),
                "members for any memory": lazily(
                    lambda: packed(pax(tarfile.XGLTYPE, keys(500_000)), *[header("x") * 1000] * 16)
                ),
                "5000 headers of headers": text(pax(tarfile.XHDTYPE, record("a", "b")) * 5000),
                "long names of long names": text(
                    (header("x", 2, tarfile.GNUTYPE_LONGNAME) + b"a\x00" + bytes(510)) * 5000
                ),
                "a sparse member of 2^60 bytes": text(
                    pax(
                        tarfile.XHDTYPE,
                        record("GNU.sparse.major", "1")
                        + record("GNU.sparse.minor", "0")
                        + record("GNU.sparse.name", "a.bin")
                        + record("GNU.sparse.realsize", str(1 << 60)),
                    )
                    + header("a.bin", 512)
                    + b"1\n0\n1\n".ljust(512, b"\x00")
                ),
                "a sparse map of many": lazily(
                    lambda: packed(
                        pax(
                            tarfile.XHDTYPE,
                            record("GNU.sparse.major", "1")
                            + record("GNU.sparse.minor", "0")
                            + record("GNU.sparse.name", "a.bin"),
                        )
                        + header("a.bin", 64 * MIB)
                        + b"99999999\n"
                        + b"0\n" * (16 * MIB)
                    )
                ),
                "a link": text(header("a.bin", 0, tarfile.SYMTYPE, "/etc/passwd")),
                "a link to a link": text(
                    header("x", 0, tarfile.SYMTYPE, "/etc")
                    + header("x/a.bin", 0, tarfile.LNKTYPE, "x/passwd")
                ),
                "up and away": text(header("../../../a.bin", 1024) + seeds.CONTENT),
                "from the root": text(header("/a.bin", 1024) + seeds.CONTENT),
                "a device": text(header("a.bin", 0, tarfile.CHRTYPE)),
                "xz": lazily(lambda: text(lzma.compress(_tar_of_zeros(), preset=0))),
                "bzip2": lazily(lambda: text(bz2.compress(_tar_of_zeros()))),
                "a terabyte that is not there": sparse(1 << 40),
                "a terabyte after a member": sparse(1 << 40, MEMBER),
            },
        ),
        *_each(
            "wheel",
            {
                "deflate, honest": zip_member(zipfile.ZIP_DEFLATED, 64),
                "deflate, lying": lying_zip(zipfile.ZIP_DEFLATED, 64),
                "bzip2, lying": lying_zip(zipfile.ZIP_BZIP2, 64),
                "LZMA, lying": lying_zip(zipfile.ZIP_LZMA, 64),
                "200,000 members": many_members(200_000),
                "a million members": many_members(1_000_000),
                "a directory of 4 GiB": text(
                    seeds.wheel()[:-22]
                    + struct.pack("<4sHHHHLLH", b"PK\x05\x06", 0, 0, 2, 2, 2**32 - 1, 0, 0)
                ),
                "a directory of 2^63 bytes": text(
                    seeds.wheel()[:-22]
                    + struct.pack("<4sQHHLLQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 2, 2, 1 << 63, 0)
                    + struct.pack("<4sLQL", b"PK\x06\x07", 0, len(seeds.wheel()) - 22, 1)
                    + struct.pack(
                        "<4sHHHHLLH", b"PK\x05\x06", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0
                    )
                ),
                "a terabyte that is not there": sparse(1 << 40),
            },
        ),
    )
)
