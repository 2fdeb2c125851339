"""Mutants of the files that a verdict rests on, and what each of them must come to.

A mutant changes one artifact of a `Site` (some, as a forger would, also sign it: record its hash
where hashes are kept). Whether it still means the same is not left to luck: both contents are
parsed here, by nothing of the harness, and their values compared with their types. What cannot
be parsed, or says a thing twice, means something else.

expected: REFUSED where the meaning is another, or where every byte is hashed; PASSES where the
    meaning is the same and the file is read by its values alone.
"""

from __future__ import annotations

import io
import json
import math
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors
import safetensors.numpy
import yaml
from tamper_site import WINDOWS, Site

from harness.answers import answer_texts
from harness.crosscheck import compare
from harness.files import sha256_file
from harness.run import Logits, read_logits, write_logits
from harness.scoring import score
from harness.squad import read_dataset
from harness.windows import cut_windows, load_tokenizer

PASSES, REFUSED = "passes", "refused"


# --- Meaning ------------------------------------------------------------------------------------


def json_value(data: bytes) -> Any:
    """The value of strict JSON; raises ValueError for NaN, infinity and a key given twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a key occurs twice")
        return dict(pairs)

    def finite(number: str) -> float:
        if not math.isfinite(float(number)):
            raise ValueError("too large")
        return float(number)

    def refuse(constant: str) -> Any:
        raise ValueError(constant)

    return json.loads(
        data.decode("utf-8"), object_pairs_hook=once, parse_float=finite, parse_constant=refuse
    )


def json_meaning(data: bytes) -> Any:
    """Equal for equal values of equal types: 1, 1.0 and true differ, the order of keys does not."""
    return json.dumps(json_value(data), sort_keys=True)


def lock_meaning(data: bytes) -> Any:
    """Size and hash of each pin; where and when it was made is a note for people."""
    pins = json_value(data)
    kept = {name: {key: pin.get(key) for key in ("sha256", "size")} for name, pin in pins.items()}
    return json.dumps(kept, sort_keys=True)


def yaml_meaning(data: bytes) -> Any:
    return repr(yaml.safe_load(data.decode("utf-8")))


def text_meaning(data: bytes) -> Any:
    """The tokens of a vocabulary, one a line; a last line may end."""
    return tuple(data.decode("utf-8").rstrip("\n").split("\n"))


def npz_meaning(data: bytes) -> Any:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in arrays.items()}


def tensors_meaning(data: bytes) -> Any:
    header = json_value(data[8 : 8 + int.from_bytes(data[:8], "little")])
    found = safetensors.numpy.load(data)
    tensors = {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in found.items()}
    return tensors, header.get("__metadata__")


def onnx_meaning(data: bytes) -> Any:
    model = onnx.ModelProto()
    model.ParseFromString(data)
    return model.SerializeToString(deterministic=True)


def history_meaning(data: bytes) -> Any:
    """Its records. What an interrupted write leaves (open, or closed by a mark) is none."""
    *lines, _ = data.split(b"\n")
    return [json_meaning(line) for line in lines if not line.endswith(b" <torn>")]


# --- Artifacts ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Artifact:
    """A file that a verdict rests on.

    same: what is expected of a file that means the same: REFUSED where every byte counts.
    others: files of the same kind from other runs. history: judged by who reads the history.
    signed: the name by which run.json has its hash.
    """

    name: str
    path: Path
    meaning: Callable[[bytes], Any]
    same: str = REFUSED
    others: tuple[Path, ...] = ()
    history: bool = False
    signed: str | None = None

    @property
    def is_json(self) -> bool:
        return self.meaning in (json_meaning, lock_meaning)


def artifacts_of(site: Site) -> list[Artifact]:
    """All files that the verdict of the site's run, or its nights, rest on."""
    run = site.record
    crosscheck = json.loads((site.run / "crosscheck.json").read_text(encoding="utf-8"))
    reference = site.root / crosscheck["reference"]["path"]
    records = site.root / "build" / "records"
    assets = site.root / "assets"

    def elsewhere(name: str) -> tuple[Path, ...]:
        return tuple(folder / name for folder in site.others.values())

    def made_elsewhere(kind: str) -> tuple[Path, ...]:
        records_there = [json.loads(path.read_text("utf-8")) for path in elsewhere("run.json")]
        found = {site.root / record[kind]["path"] for record in records_there}
        return tuple(sorted(found - {site.root / run[kind]["path"]}))

    def recorded_elsewhere(pattern: str, own: Path) -> tuple[Path, ...]:
        return tuple(path for path in sorted(records.glob(pattern)) if path != own)

    def of_run(name: str, meaning: Callable[[bytes], Any] = json_meaning) -> Artifact:
        return Artifact(name, site.run / name, meaning, others=elsewhere(name), signed=name)

    engine = records / "tiny" / "engine-ort-cpu-fp32.json"
    model, dataset = records / "tiny" / "model.json", records / "tiny" / "dataset.json"
    references = tuple(p for p in sorted(reference.parent.glob("*.npz")) if p != reference)
    other_reference_records = tuple(path.with_suffix(".json") for path in references)
    return [
        of_run("predictions.json"),
        of_run("metrics.json"),
        of_run("timings.json"),
        of_run("logits.npz", npz_meaning),
        Artifact("run.json", site.run / "run.json", json_meaning, REFUSED, elsewhere("run.json")),
        Artifact("crosscheck.json", site.run / "crosscheck.json", json_meaning, PASSES,
                 elsewhere("crosscheck.json")),
        Artifact("reference logits", reference, npz_meaning, REFUSED, references),
        Artifact("reference record", reference.with_suffix(".json"), json_meaning, PASSES,
                 other_reference_records),
        Artifact("golden file", site.root / "golden/tiny/fp32.json", json_meaning),
        Artifact("golden schema", site.root / "golden/golden.schema.json", json_meaning),
        Artifact("profile", site.root / "configs/profiles/tiny.yaml", yaml_meaning, REFUSED,
                 (site.root / "configs/profiles/twin.yaml",)),
        Artifact("asset lock file", site.root / "configs/assets.lock.json", lock_meaning, PASSES),
        Artifact("model record", model, json_meaning, PASSES,
                 (*recorded_elsewhere("*/model.json", model), dataset)),
        Artifact("dataset record", dataset, json_meaning, PASSES, (model,)),
        Artifact("engine record", engine, json_meaning, PASSES,
                 recorded_elsewhere("*/engine-*.json", engine)),
        Artifact("weights", assets / "model.safetensors", tensors_meaning, REFUSED,
                 (assets / "adapter.safetensors",)),
        Artifact("adapter", assets / "adapter.safetensors", tensors_meaning, REFUSED,
                 (assets / "twin.safetensors",)),
        Artifact("vocabulary", site.root / "build/assets/tiny/vocab.txt", text_meaning),
        Artifact("dataset", assets / "sample.json", json_meaning, REFUSED,
                 (site.root / "other dataset.json",)),
        Artifact("ONNX graph", site.root / run["onnx"]["path"], onnx_meaning, REFUSED,
                 made_elsewhere("onnx")),
        Artifact("engine", site.root / run["engine"]["path"], onnx_meaning, REFUSED,
                 made_elsewhere("engine")),
        Artifact("history", site.history, history_meaning, PASSES, (site.other_history,), True),
        Artifact("history head", site.history.with_name("history.jsonl.head"), json_meaning,
                 REFUSED, (site.other_history.with_name("other.jsonl.head"),), True),
    ]  # fmt: skip


# --- Mutants ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    """One change of a site. `paths` are all files that `apply` touches; what it changes besides,
    `undo` changes back."""

    artifact: str
    kind: str
    detail: str
    paths: tuple[Path, ...]
    apply: Callable[[], None]
    expected: str
    history: bool = False
    undo: Callable[[], None] | None = None

    def __str__(self) -> str:
        return f"{self.artifact}, {self.kind}: {self.detail}"


def expectation(artifact: Artifact, before: bytes, after: bytes) -> str:
    """What must come of `artifact` with the content `after` instead of `before`."""
    try:
        same = artifact.meaning(after) == artifact.meaning(before)
    except Exception:  # Parsers raise a dozen types for what they cannot parse.
        return REFUSED
    if not same:
        return REFUSED
    if artifact.meaning is history_meaning:
        # Its records are spelled in one way alone; only what follows them may be a torn write.
        return PASSES if after.startswith(before) else REFUSED
    return artifact.same


# What a kind of mutation makes of bytes; None where it has nothing to change.
BytesKind = Callable[[random.Random, bytes], bytes | None]


def flipped(draw: random.Random, data: bytes) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]


def inserted(draw: random.Random, data: bytes) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + draw.randbytes(draw.choice((1, 1, 4))) + data[at:]


def removed(draw: random.Random, data: bytes) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + data[at + draw.choice((1, 1, 8)) :]


def truncated(draw: random.Random, data: bytes) -> bytes:
    return data[: draw.randrange(1, len(data))]


def emptied(draw: random.Random, data: bytes) -> bytes:
    return b""


def zeroed(draw: random.Random, data: bytes) -> bytes:
    size = min(len(data), draw.choice((1, 16, 512)))
    at = draw.randrange(len(data) - size + 1)
    return data[:at] + bytes(size) + data[at + size :]


def appended(draw: random.Random, data: bytes) -> bytes:
    return data + draw.choice((b" ", b"\n", b"\0", b"}", b"x", b"\xff\xfe", b"\n\n", data))


def exchanged(draw: random.Random, data: bytes) -> bytes:
    """Two pieces of it change places."""
    a, b, c = sorted(draw.randrange(len(data) + 1) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def marked(draw: random.Random, data: bytes) -> bytes:
    return b"\xef\xbb\xbf" + data


BYTES_KINDS: dict[str, BytesKind] = {
    "bit flipped": flipped, "bytes inserted": inserted, "bytes removed": removed,
    "truncated": truncated, "empty": emptied, "zeros": zeroed, "appended": appended,
    "pieces exchanged": exchanged, "byte order mark": marked,
}  # fmt: skip

# What a kind of mutation makes of a JSON document: its new text; None where nothing fits.
JsonKind = Callable[[random.Random, Any], str | None]
Place = tuple[Any, Any]


def places(document: Any, kind: type | tuple[type, ...]) -> list[Place]:
    """All (container, key) in `document` whose value is of this type exactly."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    found: list[Place] = []
    todo = [document]
    while todo:
        container = todo.pop()
        entries = container.items() if isinstance(container, dict) else enumerate(container)
        for key, value in entries:
            if type(value) in kinds:
                found.append((container, key))
            if isinstance(value, dict | list):
                todo.append(value)
    return found


def replacing(kind: type | tuple[type, ...], make: Callable[[random.Random, Any], Any]) -> JsonKind:
    """The kind that puts what `make` makes of a value of this type in its place."""

    def mutate(draw: random.Random, document: Any) -> str | None:
        found = places(document, kind)
        if not found:
            return None
        container, key = draw.choice(found)
        container[key] = make(draw, container[key])
        # Python's names of what JSON does not have are those that readers take for numbers.
        return json.dumps(document, indent=1, ensure_ascii=False)

    return mutate


def moved(draw: random.Random, value: float) -> float:
    """A little or much more or less, of the same type."""
    if type(value) is int:
        return value + draw.choice((-1, 1, 7, 1000))
    return value * draw.choice((1 - 1e-6, 1 + 1e-6, 0.5, 1.01, 2)) + draw.choice((0, 1e-3))


def other_text(draw: random.Random, value: str) -> str:
    at = draw.randrange(len(value) + 1)
    return value[:at] + draw.choice("aZ0 ü/") + value[at + draw.choice((0, 1)) :]


def exchanged_values(draw: random.Random, document: Any) -> str | None:
    """Two values of one type change places."""
    found = places(document, draw.choice((str, float, int)))
    if len(found) < 2:
        return None
    (a, i), (b, j) = draw.sample(found, 2)
    a[i], b[j] = b[j], a[i]
    return json.dumps(document, indent=1, ensure_ascii=False)


def missing_key(draw: random.Random, document: Any) -> str | None:
    found = [(c, k) for c, k in places(document, ANY) if isinstance(c, dict)]
    container, key = draw.choice(found)
    del container[key]
    return json.dumps(document, indent=1, ensure_ascii=False)


def extra_key(draw: random.Random, document: Any) -> str | None:
    found = [document, *(container[key] for container, key in places(document, dict))]
    key = draw.choice(("extra", "", "f1 ", "limit_"))
    draw.choice(found)[key] = draw.choice((1, None, "x", {}))
    return json.dumps(document, indent=1, ensure_ascii=False)


def renamed_key(draw: random.Random, document: Any) -> str | None:
    found = [(c, k) for c, k in places(document, ANY) if isinstance(c, dict)]
    container, key = draw.choice(found)
    container[draw.choice((key.upper() + "_", key + " ", key[:-1]))] = container.pop(key)
    return json.dumps(document, indent=1, ensure_ascii=False)


def doubled_key(draw: random.Random, document: Any) -> str | None:
    """A key of the top level is given once more, with its value or another."""
    key = draw.choice(list(document))
    value = draw.choice((document[key], 0, None))
    text = json.dumps(document, indent=1, ensure_ascii=False)
    return f"{text.rstrip()[:-1]}, {json.dumps(key)}: {json.dumps(value)}}}"


def other_list(draw: random.Random, value: list[Any]) -> list[Any]:
    """Longer, shorter, or in another order."""
    found = [[], value + value[:1], value[1:], value[::-1], value[:-1], [value]]
    return draw.choice([new for new in found if new != value])


def other_document(draw: random.Random, document: Any) -> str:
    return draw.choice(("{}", "[]", "null", "0", '"text"', "[{}]", json.dumps([document])))


def nested(draw: random.Random, document: Any) -> str:
    """One value lies under more brackets than a reader's stack is deep, or nearly so."""
    depth = draw.choice((200, 900, 100_000))
    key = draw.choice(list(document))
    text = json.dumps({**document, key: "HERE"}, ensure_ascii=False)
    return text.replace('"HERE"', "[" * depth + "]" * depth)


ANY = (str, int, float, bool, type(None), dict, list)
NUMBER = (int, float)
HUGE = (10**30, -(10**30), 10**400, 1e308, -1e308, 2**63, 4 * 10**9)
JSON_KINDS: dict[str, JsonKind] = {
    "number moved": replacing(NUMBER, moved),
    "number negative": replacing(NUMBER, lambda draw, x: -x if x else -1),
    "number huge": replacing(NUMBER, lambda draw, x: draw.choice(HUGE)),
    "number zero": replacing(NUMBER, lambda draw, x: draw.choice((0, 0.0, -0.0))),
    "number as text": replacing(NUMBER, lambda draw, x: str(x)),
    "number of another type": replacing(
        NUMBER, lambda draw, x: float(x) if type(x) is int else draw.choice((int(x), True))
    ),
    "NaN": replacing(NUMBER, lambda draw, x: math.nan),
    "infinity": replacing(NUMBER, lambda draw, x: draw.choice((math.inf, -math.inf))),
    "text changed": replacing(str, other_text),
    "text hostile": replacing(
        str, lambda draw, x: draw.choice(("", "\0", "\x1b[31m\n", "[/]", "../../x", "\u202e" + x))
    ),
    "text as number": replacing(str, lambda draw, x: draw.choice((0, 1.5, [x], {x: 1}))),
    "value null": replacing(ANY[:4], lambda draw, x: None),
    "flag": replacing(bool, lambda draw, x: not x),
    "value for nothing": replacing(type(None), lambda draw, x: draw.choice((0, "", 3, False))),
    "list": replacing(list, other_list),
    "object for list": replacing((list, dict), lambda draw, x: {} if type(x) is list else []),
    "values exchanged": exchanged_values,
    "key missing": missing_key,
    "key extra": extra_key,
    "key renamed": renamed_key,
    "key twice": doubled_key,
    "document": other_document,
    "nested": nested,
}


def indented(draw: random.Random, document: Any) -> str:
    return json.dumps(document, indent=draw.choice((None, 0, 3)), ensure_ascii=draw.random() < 0.5)


def reordered(draw: random.Random, document: Any) -> str:
    """The same value, the keys of all objects in another order."""

    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            keys = list(value)
            draw.shuffle(keys)
            return {key: shuffled(value[key]) for key in keys}
        return [shuffled(entry) for entry in value] if isinstance(value, list) else value

    return json.dumps(shuffled(document), indent=1)


def blanks(draw: random.Random, document: Any) -> str:
    text = json.dumps(document, indent=1, ensure_ascii=False)
    return draw.choice((" \n", "\t", "\r\n")) + text + draw.choice(("\n\n\n", " ", "\r\n"))


SAME_JSON: dict[str, JsonKind] = {
    "same: spaces": indented, "same: order of keys": reordered, "same: around it": blanks,
}  # fmt: skip


def same_bytes(artifact: Artifact, data: bytes) -> bytes | None:
    """Other bytes of the same meaning, where the format has any."""
    if artifact.meaning is npz_meaning:
        target = io.BytesIO()
        with np.load(io.BytesIO(data)) as arrays:
            np.savez_compressed(target, **arrays)
        return target.getvalue()
    if artifact.meaning is tensors_meaning:
        size = int.from_bytes(data[:8], "little")
        longer = data[8 : 8 + size] + b" " * 8
        return len(longer).to_bytes(8, "little") + longer + data[8 + size :]
    if artifact.meaning is yaml_meaning:
        return b"# Nothing of it changes.\n" + data
    if artifact.meaning is text_meaning:
        return data + b"\n"
    if artifact.meaning is history_meaning:
        return data + b'{"time":"2026-'
    return None


# --- The generator ------------------------------------------------------------------------------


class Generator:
    """Mutants of a site, drawn by a seed: equal seeds over equal sites draw the same kinds."""

    def __init__(self, site: Site, seed: int) -> None:
        self._site = site
        self._draw = random.Random(seed)
        self.artifacts = artifacts_of(site)

    def round(self) -> Iterator[Mutant]:
        """One mutant of every kind of every artifact, and of every way to pose and to forge."""
        for artifact in self.artifacts:
            yield from self._contents(artifact)
            yield from self._files(artifact)
            yield from self._others(artifact)
            yield from self._signed(artifact)
        yield from self._posed()
        yield from self._forged()
        yield from self._golden()

    def _contents(self, artifact: Artifact) -> Iterator[Mutant]:
        before = artifact.path.read_bytes()
        for kind, change in BYTES_KINDS.items():
            after = change(self._draw, before)
            yield from self._written(artifact, kind, before, after)
        if (after := same_bytes(artifact, before)) is not None:
            yield from self._written(artifact, "same: other bytes", before, after)
        if artifact.is_json:
            for kind, mutate in {**JSON_KINDS, **SAME_JSON}.items():
                text = mutate(self._draw, json.loads(before))
                if text is not None:
                    yield from self._written(artifact, kind, before, encoded(text))
        if artifact.history and artifact.path == self._site.history:
            for kind, lines in history_lines(self._draw, before).items():
                yield from self._written(artifact, kind, before, b"".join(lines))

    def _written(
        self, artifact: Artifact, kind: str, before: bytes, after: bytes | None
    ) -> Iterator[Mutant]:
        if after is not None and after != before:
            yield Mutant(
                artifact.name, kind, difference(before, after), (artifact.path,),
                partial(artifact.path.write_bytes, after),
                expectation(artifact, before, after), artifact.history,
            )  # fmt: skip

    def _files(self, artifact: Artifact) -> Iterator[Mutant]:
        """What is there is no file, or a link."""
        path = artifact.path
        copy = path.with_name(path.name + ".copy")

        def linked(target: Path) -> None:
            path.unlink()
            path.symlink_to(target)

        def linked_to_copy() -> None:
            path.rename(copy)
            path.symlink_to(copy)

        def fifo() -> None:
            path.unlink()
            os.mkfifo(path)

        def folder() -> None:
            path.unlink()
            path.mkdir()

        ways = {
            "missing": path.unlink,
            "folder": folder,
            "FIFO": fifo,
            "link to nothing": partial(linked, Path("nothing")),
            "link to itself": partial(linked, path),
            "link to a device": partial(linked, Path("/dev/zero")),
            "link to another file": partial(linked, self._site.root / "read_history.py"),
        }
        for kind, apply in ways.items():
            yield Mutant(artifact.name, kind, "", (path,), apply, REFUSED, artifact.history)
        yield Mutant(
            artifact.name, "same: link to a copy", "", (path, copy), linked_to_copy, PASSES,
            artifact.history,
        )  # fmt: skip

    def _others(self, artifact: Artifact) -> Iterator[Mutant]:
        before = artifact.path.read_bytes()
        for other in artifact.others:
            for mutant in self._written(artifact, "of another run", before, other.read_bytes()):
                detail = str(other.relative_to(self._site.root))
                yield Mutant(**{**vars(mutant), "detail": detail})

    def _signed(self, artifact: Artifact) -> Iterator[Mutant]:
        """The forger writes the new hash into run.json, and that one's into crosscheck.json."""
        if artifact.signed not in ("predictions.json", "metrics.json"):
            return
        before = artifact.path.read_bytes()
        for kind, mutate in JSON_KINDS.items():
            text = mutate(self._draw, json.loads(before))
            after = None if text is None else encoded(text)
            for mutant in self._written(artifact, f"signed: {kind}", before, after):
                # Spaces alone, signed, are the harness's own file once more.
                if artifact_differs(artifact, before, mutant, after):
                    yield self._with_signature(mutant, artifact.signed)

    def _with_signature(self, mutant: Mutant, name: str) -> Mutant:
        run, crosscheck = self._site.run / "run.json", self._site.run / "crosscheck.json"

        def apply() -> None:
            mutant.apply()
            self._sign(name)

        return Mutant(**{**vars(mutant), "paths": (*mutant.paths, run, crosscheck), "apply": apply})

    def _sign(self, *names: str) -> None:
        """Record the hashes of these files of the run as they are, and then run.json's own."""
        run = self._site.run
        hashes = {name: sha256_file(run / name) for name in names}
        edit(run / "run.json", lambda document: document["files"].update(hashes))
        self._sign_run()

    def _sign_run(self) -> None:
        run = self._site.run
        digest = sha256_file(run / "run.json")
        edit(run / "crosscheck.json", lambda document: document.update(run_sha256=digest))

    def _posed(self) -> Iterator[Mutant]:
        """All files of another run stand in the run's folder: as they are, with the options of
        this run, and signed."""
        run = self._site.run
        mine = self._site.record

        def pose(folder: Path, edits: tuple[str, ...], signed: bool) -> None:
            for path in run.iterdir():
                path.write_bytes((folder / path.name).read_bytes())
            own = {key: mine[key] for key in edits}
            edit(run / "run.json", lambda document: document.update(own))
            if signed:
                self._sign_run()

        options = ("options", "profile_sha256")
        # What backend and precision made of the same windows nobody could tell apart then.
        relabelled = ("backend", "precision")
        inputs = (*options, "assets", "dataset", "onnx", "reference", "engine", "engine_made_from")
        ways = {
            "as it is": ((), False), "options edited": (options, False),
            "options edited, signed": (options, True), "inputs edited, signed": (inputs, True),
        }  # fmt: skip
        for name, folder in self._site.others.items():
            if name == "stale":
                # An earlier run of the same options is as good as the later one.
                continue
            for kind, (edits, signed) in ways.items():
                if edits == inputs and name in relabelled:
                    continue
                yield Mutant(
                    "whole run", f"posed: {kind}", f"the run with another {name}",
                    tuple(run.iterdir()), partial(pose, folder, edits, signed), REFUSED,
                )  # fmt: skip

    def _forged(self) -> Iterator[Mutant]:
        """Consistent forgeries: whatever follows from what is altered is computed and signed."""
        run = self._site.run
        dataset = read_dataset(self._site.root / "assets" / "sample.json")
        windows = cut_windows(
            dataset.questions,
            load_tokenizer(self._site.root / "build/assets/tiny/vocab.txt"),
            WINDOWS,
        )
        crosscheck = run / "crosscheck.json"
        stored = json.loads(crosscheck.read_text(encoding="utf-8"))
        true_reference = read_logits(self._site.root / stored["reference"]["path"])

        def metrics(**changes: Any) -> None:
            edit(run / "metrics.json", lambda document: document.update(changes))

        def better_answers() -> None:
            right = {question.id: question.answers[0] for question in dataset.questions}
            edit(run / "predictions.json", lambda document: document.update(right))
            metrics(exact_match=100.0, f1=100.0)
            self._sign("predictions.json", "metrics.json")

        def better_metrics() -> None:
            metrics(exact_match=100.0, f1=100.0)
            self._sign("metrics.json")

        def faster_metrics() -> None:
            document = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
            metrics(qps=2 * document["qps"], qps_interval=[2 * q for q in document["qps_interval"]])
            self._sign("metrics.json")

        def other_logits(own_reference: bool) -> None:
            # One logit more is enough for another answer; only the reference speaks against it.
            logits = read_logits(run / "logits.npz")
            start = logits.start.copy()
            start[int(windows.starts[0]) + int(windows.context_starts[0])] += 100
            forged = Logits(start, logits.end, logits.lengths)
            write_logits(run / "logits.npz", forged)
            said = answer_texts(dataset.questions, windows, forged.start, forged.end)
            scored = score(dataset.questions, said)
            edit(run / "predictions.json", lambda document: document.update(said))
            metrics(exact_match=scored.exact_match, f1=scored.f1)
            found = compare(dataset, windows, forged, forged if own_reference else true_reference)
            edit(crosscheck, lambda document: document.update(vars(found)))
            if own_reference:
                path = str((run / "logits.npz").relative_to(self._site.root))
                entry = {"path": path, "sha256": sha256_file(run / "logits.npz")}
                edit(crosscheck, lambda document: document.update(reference=entry))
            self._sign("predictions.json", "metrics.json", "logits.npz")

        ways = {
            "better answers": better_answers,
            "better scores": better_metrics,
            "more speed": faster_metrics,
            "other logits": partial(other_logits, False),
            "other logits as their own reference": partial(other_logits, True),
        }
        for kind, apply in ways.items():
            yield Mutant("whole run", f"forged: {kind}", "", tuple(run.iterdir()), apply, REFUSED)

    def _golden(self) -> Iterator[Mutant]:
        """The results stay, the golden file is another, and committed."""
        path = self._site.root / "golden/tiny/fp32.json"

        def raised(document: Any) -> None:
            document["accuracy"]["f1"]["value"] += 0.01

        def exact(document: Any) -> None:
            document["accuracy"]["exact_match"]["value"] = 100

        def own(document: Any) -> None:
            accuracy = {**document["accuracy"], "f1": {"value": 100, "allowed_loss": 0}}
            document["backends"] = {"ort-cpu": {"accuracy": accuracy}}

        def other_dataset(document: Any) -> None:
            document["datasets"][0]["sha256"] = "0" * 64

        def tight(document: Any) -> None:
            document["crosscheck"]["max_abs_difference"] = 1e-30

        def other_precision(document: Any) -> None:
            document["precision"] = "fp16"

        def commit(change: Callable[[Any], None]) -> None:
            edit(path, change)
            self._site.git("add", "golden")
            self._site.git("commit", "--quiet", "--allow-empty", "--message", "another promise")

        ways = (raised, exact, own, other_dataset, tight, other_precision)
        for change in ways:
            yield Mutant(
                "whole run", "stale: new golden file", change.__name__, (path,),
                partial(commit, change), REFUSED, undo=partial(commit, lambda document: None),
            )  # fmt: skip


def artifact_differs(artifact: Artifact, before: bytes, mutant: Mutant, after: Any) -> bool:
    """Whether a signed mutant means something else."""
    try:
        return bool(artifact.meaning(after) != artifact.meaning(before))
    except Exception:  # As in `expectation`.
        return True


def history_lines(draw: random.Random, before: bytes) -> dict[str, list[bytes]]:
    """Whole lines removed, doubled, exchanged, altered, or cut off at the end."""
    lines = before.splitlines(keepends=True)
    at = draw.randrange(len(lines))
    other = draw.choice([number for number in range(len(lines)) if number != at])
    swapped = list(lines)
    swapped[at], swapped[other] = lines[other], lines[at]
    digit = re.sub(rb"\d(?=\.)", lambda found: b"%d" % (9 - int(found[0])), lines[at], count=1)
    return {
        "line removed": lines[:at] + lines[at + 1 :],
        "line doubled": [*lines[: at + 1], *lines[at:]],
        "lines exchanged": swapped,
        "line altered": [*lines[:at], digit, *lines[at + 1 :]],
        "last lines cut off": lines[: draw.randrange(1, len(lines))],
        "line closed as torn": [*lines[:at], lines[at][:-1] + b" <torn>\n", *lines[at + 1 :]],
    }


def encoded(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogatepass")


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Let `change` alter the JSON document in `path`."""
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")


def difference(before: bytes, after: bytes) -> str:
    """Where two contents begin to differ, for people."""
    pairs = enumerate(zip(before, after, strict=False))
    at = next((place for place, (a, b) in pairs if a != b), min(len(before), len(after)))
    return f"from byte {at}: {after[at : at + 24]!r}, {len(after) - len(before):+d} bytes"


def remove(path: Path) -> None:
    """Remove whatever stands at `path`."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
