"""Hostile files, drawn by hypothesis, for each format that the harness reads from outside.

A target takes valid files, changes what they say (a value of a document, a field of a header, an
instruction of a pickle) or their bytes, and gives the result to the function that reads such
files. That either takes it or refuses it with one line.
"""

from __future__ import annotations

import contextlib
import copy
import gzip
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fuzz_seeds as seeds
import onnx
import yaml
from hypothesis import strategies as st

from harness.adapter import read_adapter
from harness.archives import copy_tar_member, copy_wheel_member
from harness.files import sha256_bytes, to_json
from harness.golden import load_golden
from harness.graph_reader import read_graph
from harness.manifest import load_manifest
from harness.nightly import history
from harness.nightly.matrix import read_matrix
from harness.profile import read_profile
from harness.run import read_predictions
from harness.squad import read_dataset
from harness.weights import read_weights

Draw = Callable[[st.SearchStrategy[Any]], Any]
Content = st.SearchStrategy[bytes]


@dataclass(frozen=True)
class Target:
    """`file` is what an input is called in its folder, `read` what it is given to.

    `corpus` are valid files, `content` draws hostile ones.
    """

    file: str
    read: Callable[[Path], object]
    corpus: Sequence[bytes]
    content: Content


def _target(
    file: str, read: Callable[[Path], object], corpus: Sequence[bytes], told: Content
) -> Target:
    """Half of its inputs say something else (`told`), half have other bytes than the corpus."""
    return Target(file, read, corpus, told | damaged(corpus))


# ---- bytes ---------------------------------------------------------------------------------

_INTERESTING = (
    b"", b"\x00", b"\xff" * 8, b"\x00" * 8, b"\x7f" + b"\xff" * 7, b"\x80" + b"\x00" * 7, b"/..",
    b"../", b"\n", b'"', b"\\u0000", b"9" * 40, b"-1", b"PK\x01\x02", b"PK\x03\x04", b"ustar",
)  # fmt: skip


@st.composite
def damaged(draw: Draw, files: Sequence[bytes]) -> bytes:
    """One of `files` with up to six changes: bytes altered, put in, left out, doubled, cut off."""
    data = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, len(data)))
        length = draw(st.integers(1, 24))
        match draw(
            st.sampled_from(("flip", "flip", "set", "put in", "leave out", "double", "cut"))
        ):
            case "flip":
                if place < len(data):
                    data[place] ^= 1 << draw(st.integers(0, 7))
            case "set":
                word = draw(st.sampled_from(_INTERESTING))
                data[place : place + len(word)] = word
            case "put in":
                data[place:place] = draw(st.sampled_from(_INTERESTING) | st.binary(max_size=12))
            case "leave out":
                del data[place : place + length]
            case "double":
                data[place:place] = data[place : place + length] * draw(st.integers(1, 9))
            case _:
                del data[place:]
    return bytes(data)


# ---- documents -----------------------------------------------------------------------------

_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63) - 1, 10**25, 0.5, -0.0, 1e308, 5e-324, "",
    " ", "a\nb", "..", "../../etc/passwd", "/etc/passwd", "\x00", "\x1b[2J", "é" * 300, "$(id)",
    "x" * 5000, [], {}, [[]], {"a": {}}, [None] * 50, "http://[", "https://u:p@h/", "0" * 64,
    "auto",
)  # fmt: skip
# Spelled so in the file. Canaries would be files beside it.
_JSON = (
    "NaN", "-Infinity", "1e999", "-1e999", "9" * 5000, "-" + "9" * 400, "1." + "0" * 5000, "1e-999",
    '"\\ud800"', '"\\u0000"', '{"a":1,"a":2}', "[" * 3000, '{"a":' * 3000, "[" * 300 + "]" * 300,
    "\\", "'", "0x10", "01", "1 2", "", "\ufeff", '"', "/*", "[1,]",
)  # fmt: skip
_YAML = (
    ".nan", "-.inf", "1e999", "9" * 5000, "0x" + "f" * 5000, "1:" * 300 + "1", "1:" * 300 + "1.5",
    "2024-13-45", "2024-02-30 25:61:61", "2001-01-01 00:00:00 +99:99", "0b_", "0o7", "~", "<<", "=",
    "&a [*a]", "*a", "&a x", "!!python/object/apply:os.mknod [canary]", "!!int ''", "!!float ''",
    "!!bool x", "!!timestamp x", "!!binary '*'", "!!set {a, b}", "!!omap [a]", "!x y",
    "{<<: {a: 1}}",
    "{[a]: b}", "{a: 1, a: 2}", "{{a: b}: c}", "{1: 2, true: 3}", "{? a}", "[" * 400, "{a: " * 400,
    "[" * 150 + "]" * 150, '"\\ud800"', '"\\UFFFFFFFF"', "'", "|", "---", "...", "%YAML 9.9", "#",
    "@",
)  # fmt: skip


@st.composite
def altered(draw: Draw, documents: Sequence[Any], spelled: Sequence[str]) -> tuple[Any, list[str]]:
    """One of `documents` with up to three changes of what it says.

    Where a value is to be spelled as in `spelled`, it is replaced by the mark of its number in
    the list that comes with it.
    """
    document = [copy.deepcopy(draw(st.sampled_from(documents)))]
    texts: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        place: Any = document
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            deeper = place[key]
            if not isinstance(deeper, dict | list) or not draw(st.integers(0, 5)):
                _change(draw, place, key, spelled, texts)
                break
            place = deeper
    return document[0] if document else None, texts


def _change(draw: Draw, place: Any, key: Any, spelled: Sequence[str], texts: list[str]) -> None:
    match draw(st.sampled_from(("value", "value", "spelling", "spelling", "none", "name", "more"))):
        case "value":
            value = draw(st.sampled_from(_VALUES) | st.integers() | st.text(max_size=8))
            place[key] = copy.deepcopy(value)
        case "spelling":
            texts.append(draw(st.sampled_from(spelled)))
            place[key] = _mark(len(texts) - 1)
        case "none":
            del place[key]
        case "name" if isinstance(place, dict):
            place[draw(st.text(max_size=8))] = place.pop(key)
        case _ if isinstance(place, list):
            place.extend([place[key]] * draw(st.integers(1, 3)))
        case _:
            place[draw(st.text(max_size=8))] = copy.deepcopy(place[key])


def _mark(number: int) -> str:
    """What stands for a spelling until the document is written: YAML quotes it as JSON does."""
    return f"@@{number}@@"


def _spell(text: str, texts: list[str]) -> bytes:
    for number, spelling in enumerate(texts):
        for quote in "\"'":
            text = text.replace(f"{quote}{_mark(number)}{quote}", spelling)
    return text.encode("utf-8", "surrogatepass")


def _json_file(drawn: tuple[Any, list[str]]) -> bytes:
    document, texts = drawn
    return _spell(json.dumps(document, ensure_ascii=False), texts)


class _Plain(yaml.SafeDumper):
    """Without aliases, which are always refused."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _yaml_file(drawn: tuple[Any, list[str]]) -> bytes:
    document, texts = drawn
    dumped = yaml.dump(
        document,
        Dumper=_Plain,
        default_flow_style=True,
        allow_unicode=True,
        width=1 << 20,
    )
    return _spell(dumped, texts)


def _json_target(file: str, read: Callable[[Path], object], *documents: Any) -> Target:
    corpus = [json.dumps(document, ensure_ascii=False).encode() for document in documents]
    return _target(file, read, corpus, altered(documents, _JSON).map(_json_file))


def _yaml_target(file: str, read: Callable[[Path], object], *documents: Any) -> Target:
    corpus = [yaml.safe_dump(document).encode() for document in documents]
    return _target(file, read, corpus, altered(documents, _YAML).map(_yaml_file))


# ---- the history: lines that follow from one another ----------------------------------------


@st.composite
def histories(draw: Draw) -> bytes:
    """A history whose chain and head are whole, of which some lines say something else.

    The head comes first, in a line of its own.
    """
    lines, tip = [], sha256_bytes(b"")
    for entry in seeds.HISTORY:
        if draw(st.integers(0, 2)):
            entry, texts = draw(altered([entry], _JSON))
        else:
            texts = []
        entry = {"previous": tip, **entry} if isinstance(entry, dict) else entry
        text = json.dumps(entry, separators=(",", ":"))
        lines.append(_spell(text, texts) + b"\n")
        tip = sha256_bytes(lines[-1])
    return seeds.chained(lines)


def _read_history(path: Path) -> object:
    head, _, lines = path.read_bytes().partition(b"\n")
    file = path.with_suffix(".jsonl")
    file.write_bytes(lines)
    # A damaged head is what is to be read then.
    with contextlib.suppress(ValueError, RecursionError):
        head = to_json(json.loads(head)).encode()
    file.with_name(f"{file.name}.head").write_bytes(head)
    found = history.read(file)
    for before, after in zip(found.records, found.records[1:], strict=False):
        [str(change) for change in history.changes(before, after)]
    return found


# ---- golden files, at their place ------------------------------------------------------------


def _read_golden(path: Path) -> object:
    """The golden file, and everything that is asked of it."""
    precision = "fp32" if b'"fp32"' in path.read_bytes() else "fp16"
    place = path.parent / "minilm-squad" / f"{precision}.json"
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(path.read_bytes())
    golden = load_golden("minilm-squad", precision, path.parent)
    assert golden is not None
    golden.accuracy("ort-cpu")
    golden.crosscheck("ort-cpu")
    for entry in golden.document["qps"]:
        golden.qps(entry["device"], entry["backend"], entry["batch"])
    return golden


# ---- tensors -------------------------------------------------------------------------------

_LENGTHS = (0, 1, 8, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 100_000_001)
_DTYPES = (
    "BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F4", "F6_E2M3", "F6_E3M2", "I16", "U16",
    "F16", "BF16", "I32", "U32", "F32", "C64", "F64", "I64", "U64", "f32", "",
)  # fmt: skip


@st.composite
def safetensors_files(draw: Draw, files: Sequence[bytes]) -> bytes:
    """A safetensors file whose header says something else: types, shapes, places, its length."""
    file = draw(st.sampled_from(files))
    (length,) = struct.unpack_from("<Q", file)
    header, data = json.loads(file[8 : 8 + length]), file[8 + length :]
    texts: list[str] = []
    if draw(st.booleans()):
        entry = header[draw(st.sampled_from(sorted(header)))]
        match draw(st.sampled_from(("dtype", "shape", "data_offsets"))):
            case "dtype" if "dtype" in entry:
                entry["dtype"] = draw(st.sampled_from(_DTYPES))
            case "shape" if "shape" in entry:
                entry["shape"] = draw(st.lists(st.sampled_from(_LENGTHS), max_size=4))
            case _:
                entry["data_offsets"] = draw(
                    st.lists(
                        st.sampled_from(_LENGTHS) | st.integers(0, 4000), min_size=1, max_size=3
                    )
                )
    else:
        header, texts = draw(altered([header], _JSON))
    text = _spell(json.dumps(header, ensure_ascii=False), texts)
    said = len(text) if draw(st.integers(0, 3)) else draw(st.sampled_from(_LENGTHS))
    return struct.pack("<Q", said) + text + data[: draw(st.sampled_from((len(data), 0, 7)))]


@st.composite
def onnx_files(draw: Draw, models: Sequence[onnx.ModelProto]) -> bytes:
    """An ONNX file whose tensors, nodes and properties say something else."""
    model = onnx.ModelProto()
    model.CopyFrom(draw(st.sampled_from(models)))
    graph = model.graph
    name = st.sampled_from(
        [t.name for t in graph.initializer] + ["", "x", "é", "layer.9.ffn.in.bias"]
    )
    for _ in range(draw(st.integers(1, 3))):
        tensor = graph.initializer[draw(st.integers(0, len(graph.initializer) - 1))]
        node = graph.node[draw(st.integers(0, len(graph.node) - 1))]
        match draw(st.sampled_from(("dims", "type", "name", "data", "field", "elsewhere", "node",
                                    "inputs", "attribute", "property", "double"))):  # fmt: skip
            case "dims":
                tensor.dims[:] = draw(
                    st.lists(
                        st.integers(-2, 9) | st.sampled_from((2**31, 2**40, 2**63 - 1, -(2**63))),
                        max_size=5,
                    )
                )
            case "type":
                tensor.data_type = draw(st.integers(0, 40))
            case "name":
                tensor.name = draw(name)
            case "data":
                tensor.raw_data = draw(
                    st.sampled_from((b"", b"\xff" * 40, bytes(7), tensor.raw_data))
                )
            case "field":
                tensor.ClearField("raw_data")
                tensor.float_data.extend(draw(st.lists(st.floats(width=32), max_size=4)))
                tensor.int32_data.extend(
                    draw(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4))
                )
                tensor.string_data.extend(draw(st.lists(st.binary(max_size=4), max_size=2)))
            case "elsewhere":
                tensor.data_location = onnx.TensorProto.EXTERNAL
                place = draw(st.sampled_from(("/etc/passwd", "../../etc/passwd", "input", "")))
                tensor.external_data.add(key="location", value=place)
            case "node":
                node.op_type = draw(
                    st.sampled_from(("MatMul", "Gemm", "Add", "Identity", "If", ""))
                )
            case "inputs":
                node.input[:] = draw(st.lists(name, max_size=5))
                node.output[:] = draw(st.lists(name, max_size=3))
            case "attribute":
                value = draw(st.floats(width=32))
                node.attribute.add(name="epsilon", type=onnx.AttributeProto.FLOAT, f=value)
            case "property":
                key = draw(st.sampled_from(("other_scales", "fp8_scales")))
                scales = {"activations": {"qa.input": 0.5}, "weights": {"qa": 1}, "outputs": {}}
                text = draw(altered([scales], _JSON).map(_json_file))
                model.metadata_props.add(key=key, value=text.decode("utf-8", "replace"))
            case _:
                graph.initializer.add().CopyFrom(tensor)
    return model.SerializeToString()


@st.composite
def torch_files(draw: Draw) -> bytes:
    """A torch checkpoint with a forged or damaged pickle, or damaged as a file."""
    pickled = draw(st.sampled_from(seeds.pickles("canary")))
    match draw(st.sampled_from(("as it is", "damaged", "spliced", "file"))):
        case "damaged":
            pickled = draw(damaged([pickled]))
        case "spliced":
            other = draw(st.sampled_from(seeds.pickles("canary")))
            cut, start = draw(st.integers(0, len(pickled))), draw(st.integers(0, len(other)))
            pickled = pickled[:cut] + other[start:]
        case "file":
            return draw(damaged([seeds.torch_zip(pickled), pickled]))
    return seeds.torch_zip(pickled)


# ---- archives ------------------------------------------------------------------------------

_KINDS = (
    tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE,
    tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK, tarfile.GNUTYPE_SPARSE, tarfile.XHDTYPE, tarfile.XGLTYPE, b"Z",
)  # fmt: skip
_NAMES = (
    "a.bin",
    "x/a.bin",
    "./a.bin",
    "/a.bin",
    "../a.bin",
    "x/../a.bin",
    "a.bin/",
    "é",
    "",
    "..",
)
_SIZES = (0, 1, 1024, 4000, 2**31, 2**33, 2**62, 2**70, -1)
_PAX = (
    ("size", "99999999999"), ("size", "-1"), ("size", "x"), ("path", "../a.bin"), ("path", "a.bin"),
    ("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", "a.bin"),
    ("GNU.sparse.map", "0,1,x"), ("GNU.sparse.size", "9" * 30), ("GNU.sparse.realsize", "-5"),
    ("hdrcharset", "BINARY"), ("mtime", "nan"), ("uid", "9" * 400), ("path", "a\x00b"),
)  # fmt: skip


@st.composite
def tar_files(draw: Draw) -> bytes:
    """A tar, packed or not, whose members are of hostile names, kinds and sizes."""
    file = io.BytesIO()
    for _ in range(draw(st.integers(1, 5))):
        info = tarfile.TarInfo(draw(st.sampled_from(_NAMES)))
        info.type = draw(st.sampled_from(_KINDS))
        info.linkname = draw(st.sampled_from(_NAMES))
        size = draw(st.sampled_from(_SIZES))
        pax = dict(draw(st.lists(st.sampled_from(_PAX), max_size=3)))
        info.size = max(size, 0)
        info.pax_headers = pax
        kind = tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT
        try:
            head = info.tobuf(kind, "utf-8", "surrogateescape")
        except (ValueError, OverflowError):
            continue
        if size < 0:
            head = head[:-512] + _resized(head[-512:], b"\xff" * 12)
        content = seeds.CONTENT[: draw(st.sampled_from((0, 512, 1024)))]
        file.write(head + content + bytes(-len(content) % 512))
    file.write(bytes(draw(st.sampled_from((0, 512, 1024)))))
    data = file.getvalue()
    return gzip.compress(data, mtime=0) if draw(st.booleans()) else data


def _resized(block: bytes, size: bytes) -> bytes:
    """A tar header with another size field, and the checksum that belongs to it."""
    blank = block[:124] + size + block[136:148] + b" " * 8 + block[156:]
    return blank[:148] + b"%06o\x00 " % sum(blank) + blank[156:]


@st.composite
def wheel_files(draw: Draw) -> bytes:
    """A zip whose members are of hostile names, kinds and sizes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in draw(st.lists(st.sampled_from(_NAMES), min_size=1, max_size=4, unique=True)):
            info = zipfile.ZipInfo(name or "x")
            info.external_attr = draw(st.sampled_from((0, 0o100644, 0o120777, 0o40755))) << 16
            info.compress_type = draw(st.sampled_from((0, 8, 12, 14)))
            info.extra = draw(
                st.sampled_from((b"", b"\x01\x00\x08\x00" + b"\xff" * 8, b"\x01\x00"))
            )
            archive.writestr(info, seeds.CONTENT * draw(st.sampled_from((0, 1, 5))))
    data = bytearray(file.getvalue())
    for _ in range(draw(st.integers(0, 2))):
        # A field of the directory, or of the record that ends it.
        entry = data.rfind(b"PK\x01\x02" if draw(st.booleans()) else b"PK\x05\x06")
        place = entry + draw(st.integers(4, 44))
        value = draw(st.sampled_from((0, 1, 2**16 - 1, 2**31, 2**32 - 1)))
        data[place : place + 4] = struct.pack("<I", value)
    return bytes(data)


LIMIT = 4000


def _copy(copy_member: Callable[..., None], path: Path) -> None:
    target = path.parent / "copied"
    target.unlink(missing_ok=True)
    copy_member(path, "a.bin", target, limit=LIMIT)
    assert target.stat().st_size <= LIMIT


def _onnx_target(
    file: str, read: Callable[[Path], object], models: Sequence[onnx.ModelProto]
) -> Target:
    corpus = [model.SerializeToString() for model in models]
    return _target(file, read, corpus, onnx_files(models))


TARGETS = {
    "squad": _json_target("d.json", read_dataset, seeds.SQUAD),
    "golden": _json_target("golden.json", _read_golden, *seeds.GOLDENS),
    "history": _target("history", _read_history, [seeds.history()], histories()),
    "predictions": _json_target("p.json", read_predictions, seeds.PREDICTIONS),
    "manifest": _yaml_target("assets.yaml", load_manifest, *seeds.MANIFESTS),
    "profile": _yaml_target("p.yaml", read_profile, *seeds.PROFILE_FILES),
    "matrix": _yaml_target("nightly.yaml", read_matrix, *seeds.MATRICES),
    "safetensors": _target(
        "w.safetensors", read_weights, [seeds.CHECKPOINT], safetensors_files([seeds.CHECKPOINT])
    ),
    "adapter": _target(
        "a.safetensors", read_adapter, [seeds.ADAPTER], safetensors_files([seeds.ADAPTER])
    ),
    "checkpoint graph": _onnx_target("w.onnx", read_weights, seeds.CHECKPOINT_GRAPHS),
    "graph": _onnx_target("g.onnx", read_graph, seeds.GRAPHS),
    "torch checkpoint": _target(
        "w.pt", read_weights, [seeds.torch_zip(p) for p in seeds.pickles("canary")], torch_files()
    ),
    "tar": _target(
        "b.tar",
        lambda path: _copy(copy_tar_member, path),
        [seeds.tars(packed=False), seeds.tars(packed=True)],
        tar_files(),
    ),
    "wheel": _target(
        "b.whl", lambda path: _copy(copy_wheel_member, path), [seeds.wheel()], wheel_files()
    ),
}
