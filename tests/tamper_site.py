"""A small checkout with real runs, whose commands cost milliseconds.

The model is a BERT of two layers with random weights and an adapter. What it answers is what the
dataset calls right, three times in four, so that its scores are neither 0 nor 100.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import yaml
from test_weights import hugging_face
from tiny_bert import random_weights

from harness.adapter import Adapter, merge_adapter, read_adapter, write_adapter
from harness.answers import answer_texts
from harness.backends.ort import OrtSession
from harness.batches import plan_batches
from harness.files import sha256_file, write_atomic
from harness.graph import build_graph, save_graph
from harness.measure import run_windows
from harness.nightly import history
from harness.nightly.record import Cell, Record
from harness.paths import ROOT
from harness.scoring import Score, score
from harness.squad import read_dataset
from harness.weights import Architecture, read_weights
from harness.windows import WindowOptions, cut_windows, load_tokenizer

WINDOWS = WindowOptions(sequence_length=48, doc_stride=16, max_question_tokens=8)
# Umlauts: the text of an answer is more than ASCII, though the vocabulary is not.
_TEXT = (
    "tower bridge river garden market castle square harbour museum station north south east west "
    "opened closed painted built burned sold moved found named old new tall wide green grey stone "
    "iron glass when where who why which how many years people boats trees lamps clocks in on by "
    "of für größe zürich"
)
WORDS = _TEXT.split()
PIECES = [word.replace("ü", "u").replace("ö", "o") for word in WORDS]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *PIECES]
ARCHITECTURE = Architecture(
    layers=2, hidden=64, heads=4, intermediate=96, vocab=len(VOCABULARY), positions=48,
    layer_norm_eps=1e-12,
)  # fmt: skip
# Another run of the site: by what it differs from the one that is tampered with.
OTHERS: dict[str, dict[str, str]] = {
    "limit": {"LIMIT": "6"},
    "batch": {"BATCH": "2"},
    "precision": {"PRECISION": "fp16"},
    "dataset": {"DATASET": "other dataset.json"},
    "profile": {"PROFILE": "twin"},
    "backend": {"BACKEND": "openvino"},
}
NIGHTS = 6
# A verdict takes a fraction of a second; a stage may wait for the processor's lock.
JUDGE_SECONDS, STAGE_SECONDS = 20, 300


@dataclass
class Worker:
    """The process of tamper_worker.py over the checkout `root`."""

    root: Path
    _process: subprocess.Popen[str] | None = None

    def run(
        self, script: str, *argv: str, seconds: int = JUDGE_SECONDS, **variables: str
    ) -> dict[str, Any]:
        """Run a command of the checkout: its `code` ("hung" after `seconds`), `out` and `err`."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("tamper_worker.py")), str(self.root)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8",
            )  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None
        request = {
            "script": script, "argv": argv, "environment": environment(**variables),
            "seconds": seconds,
        }  # fmt: skip
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()


def environment(**variables: str) -> dict[str, str]:
    """The environment of a command of the checkout, `variables` on top."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "TAMPER"))}
    ours = {"PROFILE": "tiny", "BACKEND": "ort-cpu", "OFFLINE": "1", "ASSET_MIRROR": "mirror"}
    return {**clean, **ours, **variables}


@dataclass
class Site:
    """The checkout. `run` is the folder of the run that is tampered with, `others` are complete
    folders of other runs by what is other; "stale" is an earlier run with the same options.

    `history` is a history of NIGHTS nights, `other_history` one of another cell; `nights` is what
    its reader says of it.
    """

    root: Path
    worker: Worker
    run: Path = field(init=False)
    others: dict[str, Path] = field(default_factory=dict)
    nights: str = ""

    def __post_init__(self) -> None:
        self.run = self.root / "results" / "tiny" / "ort-cpu-fp32"

    @property
    def history(self) -> Path:
        return self.root / "results" / "nightly" / "history.jsonl"

    @property
    def other_history(self) -> Path:
        return self.root / "results" / "nightly" / "other.jsonl"

    @property
    def record(self) -> dict[str, Any]:
        """run.json."""
        found: dict[str, Any] = json.loads((self.run / "run.json").read_text(encoding="utf-8"))
        return found

    def verify(self) -> dict[str, Any]:
        """What `scripts/verify.py` says of the run."""
        return self.worker.run("scripts/verify.py")

    def read_history(self) -> dict[str, Any]:
        """What a command that reads the history says of it."""
        return self.worker.run("read_history.py", str(self.history))

    def stage(self, script: str, **variables: str) -> None:
        """Run a stage, which must succeed."""
        done = self.worker.run(f"scripts/{script}", seconds=STAGE_SECONDS, **variables)
        assert done["code"] == 0, (script, variables, done)

    def git(self, *words: str) -> None:
        """Run git in the checkout."""
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
        command = ["git", "-C", str(self.root), *identity, *words]
        subprocess.run(command, check=True, capture_output=True)


def build_site(root: Path, others: dict[str, dict[str, str]]) -> Site:
    """A checkout in which the run has been made, and beside it `others`."""
    site = Site(root, Worker(root))
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "scripts", root / "scripts", ignore=ignored)
    write_atomic(root / "read_history.py", READ_HISTORY)
    expected = write_inputs(root)
    write_golden(root, expected)
    site.git("init", "--quiet")
    site.git("add", "scripts", "configs", "golden")
    site.git("commit", "--quiet", "--message", "as tested")

    make_run(site)
    shutil.copytree(site.run, root / "others" / "stale")
    # The same options once more: other times, the same answers.
    for script in ("infer.py", "crosscheck.py"):
        site.stage(script)
    site.others["stale"] = root / "others" / "stale"
    for name, variables in others.items():
        before = set((root / "results").rglob("run.json"))
        make_run(site, **variables)
        (made,) = set((root / "results").rglob("run.json")) - before
        site.others[name] = made.parent
    write_histories(site)
    site.nights = site.read_history()["out"]
    return site


def make_run(site: Site, **variables: str) -> None:
    """All stages of one run, up to its cross-check. Assets are fetched once, as make does."""
    records = site.root / "build" / "records" / variables.get("PROFILE", "tiny")
    for fetch in ("model", "dataset"):
        if not (records / f"{fetch}.json").is_file():
            site.stage("fetch_assets.py", FETCH=fetch, **variables)
    for script in ("export_onnx.py", "build_engine.py", "infer.py", "crosscheck.py"):
        site.stage(script, **variables)


def write_inputs(root: Path) -> Score:
    """Write weights, adapters, vocabulary, datasets, profiles and manifest; the model's scores."""
    assets, mirror = root / "assets", root / "mirror"
    for folder in (assets, mirror):
        folder.mkdir()
    merged = random_weights(ARCHITECTURE)
    base = {name: array for name, array in merged.items() if not name.startswith("qa.")}
    safetensors.numpy.save_file(hugging_face(base), assets / "model.safetensors")
    write_adapters(assets)
    vocabulary = mirror / "vocab.txt"
    vocabulary.write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")

    write_dataset(assets / "sample.json", answers=None)
    write_dataset(root / "other dataset.json", answers=None, seed=1)
    said = model_answers(assets, vocabulary, root)
    write_dataset(assets / "sample.json", answers=said)
    write_dataset(root / "other dataset.json", answers=None, seed=1)

    write_profiles(root)
    return score(read_dataset(assets / "sample.json").questions, said)


def write_adapters(assets: Path) -> None:
    """The adapter of each profile, with a QA head of its own."""
    hidden = ARCHITECTURE.hidden
    for seed, name in enumerate(("adapter", "twin")):
        random = np.random.default_rng(seed)

        def draw(*shape: int, random: np.random.Generator = random) -> np.ndarray[Any, Any]:
            return random.normal(0, 0.3, shape).astype(np.float32)

        adapter = Adapter(
            rank=2,
            alpha=4.0,
            base_sha256=sha256_file(assets / "model.safetensors"),
            factors={"layer.0.attention.query": (draw(2, hidden), draw(hidden, 2))},
            replacements={"qa.weight": draw(2, hidden), "qa.bias": draw(2)},
        )
        write_adapter(assets / f"{name}.safetensors", adapter)


def write_dataset(path: Path, answers: dict[str, str] | None, seed: int = 0) -> None:
    """Four passages with four questions each. Of every four answers one is only half right."""
    random = np.random.default_rng(seed)
    paragraphs = []
    for passage in range(4):
        context = " ".join(random.choice(WORDS, 70))
        asked = []
        for number in range(4):
            key = f"q{seed}-{passage}{number}"
            text = context.split()[0] if answers is None else answers[key]
            if number == 3:
                text = " ".join([*text.split()[: max(1, len(text.split()) // 2)], "besides"])
            asked.append(
                {
                    "id": key,
                    "question": " ".join(random.choice(WORDS, 5)),
                    "answers": [{"text": text, "answer_start": 0}],
                }
            )
        paragraphs.append({"context": context, "qas": asked})
    document = {"version": "1.1", "data": [{"title": "made up", "paragraphs": paragraphs}]}
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")


def model_answers(assets: Path, vocabulary: Path, folder: Path) -> dict[str, str]:
    """What the model answers to the dataset's questions."""
    base = assets / "model.safetensors"
    change = read_adapter(assets / "adapter.safetensors")
    merged = merge_adapter(read_weights(base), change, base_sha256=sha256_file(base))
    graph = folder / "answers.onnx"
    save_graph(build_graph(merged, ARCHITECTURE, "fp32"), graph)
    questions = read_dataset(assets / "sample.json").questions
    windows = cut_windows(questions, load_tokenizer(vocabulary), WINDOWS)
    session = OrtSession(graph, optimized=False)
    made = run_windows(session, windows, plan_batches(windows.lengths, 4), "answers")
    graph.unlink()
    return answer_texts(questions, windows, made.start_logits, made.end_logits)


def write_profiles(root: Path) -> None:
    """The profiles `tiny` and `twin`, and the manifest of their assets.

    The vocabulary has no published hash: the lock file pins it when it comes from the mirror.
    """
    sizes = {name: getattr(ARCHITECTURE, name) for name in ARCHITECTURE.__dataclass_fields__}
    listed: dict[str, Any] = {
        "tiny/vocab.txt": {"sources": [{"url": "https://example.org/vocab.txt"}]}
    }
    for name in ("model.safetensors", "adapter.safetensors", "twin.safetensors", "sample.json"):
        path = root / "assets" / name
        published = {"size": path.stat().st_size, "sha256": sha256_file(path)}
        listed[f"tiny/{name}"] = {**published, "sources": [{"file": f"assets/{name}"}]}
    for entry in listed.values():
        entry.update(description="made for a test", licence="Apache-2.0")
    (root / "configs" / "profiles").mkdir(parents=True)
    write_yaml(root / "configs" / "assets.yaml", {"assets": listed})
    for name, adapter in (("tiny", "adapter"), ("twin", "twin")):
        profile = {
            "description": f"a BERT for tests, called {name}",
            "model": {"name": "tiny", **sizes},
            "assets": {
                "weights": "tiny/model.safetensors",
                "adapter": f"tiny/{adapter}.safetensors",
                "vocab": "tiny/vocab.txt",
                "dataset": "tiny/sample.json",
            },
            "windows": {
                "sequence_length": WINDOWS.sequence_length,
                "doc_stride": WINDOWS.doc_stride,
                "max_question_tokens": WINDOWS.max_question_tokens,
                "first_only": False,
            },
            "batch": 4,
            "warmup": 1,
            "repeats": 5,
        }
        write_yaml(root / "configs" / "profiles" / f"{name}.yaml", profile)


def write_yaml(path: Path, value: Any) -> None:
    path.write_text(yaml.safe_dump(value, sort_keys=False), encoding="utf-8")


def write_golden(root: Path, expected: Score) -> None:
    """What the run reaches to four digits is promised, and nothing may be lost."""
    folder = root / "golden"
    (folder / "tiny").mkdir(parents=True)
    shutil.copy(ROOT / "golden" / "golden.schema.json", folder)

    def promise(value: float) -> dict[str, float]:
        return {"value": int(value * 1e4) / 1e4, "allowed_loss": 0}

    told = {"source": "this test", "derivation": "this test"}
    document = {
        "profile": "tiny",
        "precision": "fp32",
        "datasets": [{"name": "sample", "sha256": sha256_file(root / "assets" / "sample.json")}],
        "accuracy": {
            "exact_match": promise(expected.exact_match), "f1": promise(expected.f1), **told,
        },
        "crosscheck": {
            "max_abs_difference": 0.001, "mean_abs_difference": 0.0001, "min_cosine": 0.9999,
            "equal_answers": 99.5, **told,
        },
        "qps": [
            {"device": "another", "backend": "ort-cpu", "batch": 4, "value": 1e6,
             "allowed_loss": 1, **told},
        ],
    }  # fmt: skip
    text = json.dumps(document, indent=1)
    (folder / "tiny" / "fp32.json").write_text(text, encoding="utf-8")


def write_histories(site: Site) -> None:
    """Two histories as nights leave them."""
    for path, profile in ((site.history, "tiny"), (site.other_history, "twin")):
        cell = Cell("here", profile, "ort-cpu", "fp32", 4)
        for night in range(NIGHTS):
            repeats = tuple(100.0 + night + number / 8 for number in range(5))
            record = Record(
                f"2026-11-{night + 1:02d}T01:00:00Z", cell, repeats, exact_match=75.0, f1=80.5,
                predictions_sha256="0" * 64, provenance={"device": {"driver": f"4.{night}"}},
            )  # fmt: skip
            history.append(path, record)


# What every command that reads the history begins with; prints what it has read.
READ_HISTORY = '''
"""Read the history that is named."""

import json
import os
import sys
from pathlib import Path

from harness.errors import run_command
from harness.nightly.history import read

path = Path(sys.argv.pop())


def main() -> int:
    print(json.dumps([record.as_json() for record in read(path).records], sort_keys=True))
    return 0


run_command(main, __doc__)
'''
