"""Two runs side by side on the terminal: scores, speed, changed answers, changed environment."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .errors import UserError, one_line
from .paths import RESULTS, ROOT, shown
from .results import NOTHING, RunSummary, read_questions, read_summary
from .run import PREDICTIONS, RUN, read_predictions
from .scoring import exact_match
from .squad import Question

COLUMNS = 80
_SHOWN_ANSWERS = 20
_SCORES = {"EM": "exact_match", "F1": "f1"}
# Differ between any two runs, or follow from what else is compared: times, loads, clocks, hashes
# of the outputs, and the variables that `options` holds resolved.
_NOT_COMPARED = (
    "started", "finished", "wall_seconds", "files.", "device.clock", "environment.load_average",
    "environment.variables",
)  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One question's two answers; `right` is A, B, both or neither, None where unknown."""

    question: str
    a: str
    b: str
    right: str | None


@dataclass(frozen=True)
class Difference:
    """What differs between the runs `a` and `b`.

    `answers` in the order of A's predictions; `environment` maps a leaf of run.json to A's and
    B's value; `remarks` limit what the numbers say.
    """

    a: RunSummary
    b: RunSummary
    questions: int
    answers: list[Change]
    environment: dict[str, tuple[str, str]]
    remarks: list[str]


def find_run(name: str, value: str | None, results: Path = RESULTS, root: Path = ROOT) -> Path:
    """The run's folder that variable `name` names: a path, also one without results/ in front.

    Raises UserError when it is unset or names no run; the message lists the runs there are.
    """
    there = sorted(path.parent.relative_to(results).as_posix() for path in results.rglob(RUN))
    known = f"runs: {', '.join(there)}" if there else "there is none; run `make infer`"
    if not value:
        raise UserError(f"{name} is not set; run `make compare A=... B=...` ({known})")
    for folder in (Path(value), root / value, results / value):
        if (folder / RUN).is_file():
            return folder.resolve()
    raise UserError(f"{name} {value!r} holds no {RUN}; name a run's folder ({known})")


def compare(first: Path, second: Path, root: Path = ROOT) -> Difference:
    """Compare the runs in two folders; datasets' paths are relative to `root`.

    Raises UserError when one cannot be read and when they answer different questions.
    """
    a, b = read_summary(first), read_summary(second)
    ours, theirs = (read_predictions(folder / PREDICTIONS) for folder in (first, second))
    if ours.keys() != theirs.keys():
        raise UserError(
            f"A answers {len(ours)} questions and B {len(theirs)}, and they are not the same; "
            "compare runs made with the same DATASET and LIMIT"
        )
    remarks = [f"{name}: {note}" for name, run in (("A", a), ("B", b)) for note in run.notes]
    if a.record["dataset"]["sha256"] != b.record["dataset"]["sha256"]:
        remarks.append("the dataset files differ; A's decides which answer is right")
    changed = [key for key in ours if ours[key] != theirs[key]]
    questions = _questions(a, root, remarks) if changed else {}
    answers = [
        Change(key, ours[key], theirs[key], _right(questions.get(key), ours[key], theirs[key]))
        for key in changed
    ]
    return Difference(a, b, len(ours), answers, _environment(a, b), remarks)


def _questions(run: RunSummary, root: Path, remarks: list[str]) -> dict[str, Question]:
    """The run's questions by id; none, with a remark, where its dataset is not at hand."""
    try:
        return read_questions(run, root)
    except UserError as error:
        remarks.append(f"which answer is right is unknown: {error}")
        return {}


def _right(question: Question | None, a: str, b: str) -> str | None:
    if question is None:
        return None
    a_right, b_right = (
        any(exact_match(text, answer) for answer in question.answers) for text in (a, b)
    )
    if a_right == b_right:
        return "both" if a_right else "neither"
    return "A" if a_right else "B"


def _environment(a: RunSummary, b: RunSummary) -> dict[str, tuple[str, str]]:
    paths = [path for path in {**a.leaves, **b.leaves} if not path.startswith(_NOT_COMPARED)]
    pairs = {path: (a.leaves.get(path, NOTHING), b.leaves.get(path, NOTHING)) for path in paths}
    return {path: pair for path, pair in pairs.items() if pair[0] != pair[1]}


def show(found: Difference, console: Console | None = None) -> None:
    """Print `found`, no line longer than 80 columns."""
    console = console or Console(highlight=False, markup=False, emoji=False)
    # A narrower terminal is honoured, a wider one is not needed.
    console.width = min(console.width, COLUMNS)
    for name, run in (("A", found.a), ("B", found.b)):
        console.print(_text(f"{name}  {shown(run.folder)}, {run.record['device']['name']}"),
                      no_wrap=True, overflow="ellipsis")  # fmt: skip
    for remark in found.remarks:
        console.print(_text(f"note: {remark}"))
    console.print()
    console.print(_numbers(found.a, found.b))
    console.print()
    right = Counter(change.right for change in found.answers)
    known = ", ".join(f"{right[who]} {_RIGHT[who]}" for who in _RIGHT if right[who])
    console.print(
        _text(
            f"{len(found.answers)} of {found.questions} answers changed"
            + (f": {known}" if known else "")
        )
    )
    if found.answers:
        console.print(_answers(found.answers[:_SHOWN_ANSWERS]))
        if len(found.answers) > _SHOWN_ANSWERS:
            console.print(_text(f"{len(found.answers) - _SHOWN_ANSWERS} more are not shown"))
    console.print()
    console.print(_text(f"{len(found.environment)} differences of environment and options"))
    if found.environment:
        console.print(_changes(found.environment))


_RIGHT = {"A": "A alone right", "B": "B alone right", "both": "both right", "neither": "none right"}


def _text(value: str) -> Text:
    """Text that rich takes as it is: nothing in it is markup or moves the cursor."""
    return Text(one_line(value))


def _grid(*columns: tuple[str, dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=0)
    for heading, options in columns:
        table.add_column(heading, no_wrap=True, overflow="ellipsis", **options)
    return table


def _numbers(a: RunSummary, b: RunSummary) -> Table:
    right: dict[str, Any] = {"justify": "right"}
    table = _grid(("", {}), ("A", right), ("B", right), ("B - A", right))
    for label, key in _SCORES.items():
        before, after = a.metrics[key], b.metrics[key]
        table.add_row(label, f"{before:.2f} %", f"{after:.2f} %", f"{after - before:+.2f}")
    for label, key in (("QPS", "qps"), ("end-to-end QPS", "qps_end_to_end")):
        table.add_row(label, *_speeds(a.metrics[key], b.metrics[key]))
        spreads = [run.metrics[f"{key}_spread"] for run in (a, b)]
        table.add_row("  spread", *(f"{spread:.1%}" for spread in spreads), "")
    for name in ("p50", "p90", "p99"):
        times = [run.metrics["latency_ms"][name] for run in (a, b)]
        table.add_row(f"{name} ms a batch", *_speeds(*times))
    return table


def _speeds(before: float, after: float) -> tuple[str, str, str]:
    return f"{before:.2f}", f"{after:.2f}", f"{after / before - 1:+.1%}"


def _answers(changes: list[Change]) -> Table:
    table = _grid(
        ("question", {"max_width": 24}),
        ("A", {"ratio": 1}),
        ("B", {"ratio": 1}),
        ("right", {"min_width": 7}),
    )
    table.expand = True
    for change in changes:
        cells = (change.question, *_apart(change.a, change.b, 20), change.right or NOTHING)
        table.add_row(*(_text(cell) for cell in cells))
    return table


def _changes(environment: dict[str, tuple[str, str]]) -> Table:
    table = _grid(("run.json", {"max_width": 32}), ("A", {"ratio": 1}), ("→ B", {"ratio": 1}))
    table.expand = True
    for path, (a, b) in environment.items():
        before, after = _apart(a, b, 20)
        table.add_row(_text(path), _text(before), _text(after))
    return table


def _apart(a: str, b: str, width: int) -> tuple[str, str]:
    """Both texts, cut in front where else an ellipsis would hide all that differs."""
    a, b = one_line(a), one_line(b)
    common = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y),
                  min(len(a), len(b)))  # fmt: skip
    if common <= width // 2 or max(len(a), len(b)) <= width:
        return a, b
    start = common - width // 2
    return f"…{a[start:]}", f"…{b[start:]}"
