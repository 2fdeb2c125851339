"""The report: every run beside the published table, and one run in detail, as HTML and Markdown.

Reading and arranging happen here, the templates only lay out. Both files depend on nothing but
the runs, the verdict and the golden files, so the same inputs give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jsonschema import Draft202012Validator
from markupsafe import Markup

from .errors import UserError, one_line
from .files import read_json, sha256_file, write_atomic
from .measure import NOISE_SPREAD, summarize
from .paths import GOLDEN, RESULTS, ROOT, shown
from .records import MadeFile
from .run import CROSSCHECK, METRICS, PREDICTIONS, RUN, TIMINGS
from .squad import read_dataset
from .verify import FAIL, PASS, UNCLEAR, UNPROMISED, Check, Verdict

VERIFY = "verify.json"
HTML = "report.html"
MARKDOWN = "report.md"
TEMPLATES = Path(__file__).parent / "templates"
# The table that the project reproduces: these golden files hold it, with its source.
PUBLISHED_PROFILE = "bert-base-squad"
PUBLISHED_PRECISIONS = ("fp16", "int8")
PUBLISHED_DEVICE = "MR-V100"
PUBLISHED_BATCH = 32
# Shown beside the word, so that a status never depends on its colour.
SYMBOLS = {PASS: "✓", FAIL: "✗", UNCLEAR: "?", UNPROMISED: "–"}
NOTHING = "–"


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


_TEXT = {"type": "string"}
# Upper ends keep out infinity, which JSON can spell 1e999.
_COUNT = {"type": "integer", "minimum": 0, "maximum": 10**12}
_POSITIVE = {"type": "number", "exclusiveMinimum": 0, "maximum": 1e15}
_AMOUNT = {"type": "number", "minimum": 0, "maximum": 1e15}
_PERCENT = {"type": "number", "minimum": 0, "maximum": 100}
_FILE = _object(path=_TEXT, sha256=_TEXT)
_RUN = _object(
    options=_object(
        profile=_TEXT,
        backend=_TEXT,
        precision=_TEXT,
        batch=_COUNT,
        limit={"type": ["integer", "null"]},
        dataset={"type": ["string", "null"]},
    ),
    dataset=_FILE,
    files=_object(**dict.fromkeys((PREDICTIONS, METRICS, TIMINGS), _TEXT)),
    finished=_TEXT,
    device=_object(name=_TEXT),
    git=_object(commit={"type": ["string", "null"]}, dirty={"type": ["boolean", "null"]}),
)
_METRICS = _object(
    exact_match=_PERCENT,
    f1=_PERCENT,
    questions=_COUNT,
    windows=_COUNT,
    unstable_answers=_COUNT,
    qps=_POSITIVE,
    qps_spread=_AMOUNT,
    qps_end_to_end=_POSITIVE,
    qps_end_to_end_spread=_AMOUNT,
    latency_ms=_object(p50=_POSITIVE, p90=_POSITIVE, p99=_POSITIVE),
    repeats=_COUNT,
)
_VALUE = {"type": ["string", "number", "null"]}
_VERDICT = _object(
    run=_TEXT,
    checks={
        "type": "array",
        "items": _object(
            name=_TEXT,
            expected=_VALUE,
            actual=_VALUE,
            limit=_VALUE,
            status={"enum": list(SYMBOLS)},
            golden={"type": ["string", "null"]},
            note=_TEXT,
        ),
    },
)
_CROSSCHECK = _object(
    histogram={"type": "array", "minItems": 1, "items": _COUNT},
    histogram_edges={"type": "array", "items": _POSITIVE},
    worst={
        "type": "array",
        "items": _object(
            window=_COUNT,
            question=_TEXT,
            max_abs_difference=_AMOUNT,
            cosine={"type": "number", "minimum": -2, "maximum": 2},
        ),
    },
    run_sha256=_TEXT,
)
_PROMISE = _object(
    accuracy=_object(exact_match=_object(value=_PERCENT), f1=_object(value=_PERCENT)),
    qps={
        "type": "array",
        "items": _object(device=_TEXT, backend=_TEXT, batch=_COUNT, value=_POSITIVE, source=_TEXT),
    },
)


@dataclass(frozen=True)
class Run:
    """A run's record and metrics, in which every value that is shown has its type.

    `leaves` holds the whole record, one text a leaf, by dotted path; `notes` say why its
    numbers do not stand for themselves.
    """

    folder: Path
    record: dict[str, Any]
    metrics: dict[str, Any]
    leaves: dict[str, str]
    notes: list[str]


def read(folder: Path) -> Run:
    """The run in `folder`; raises UserError where it is unfinished or malformed."""
    if not (folder / RUN).is_file():
        raise UserError(f"{shown(folder)} holds no {RUN}: the run is unfinished; run `make infer`")
    record = _valid(folder / RUN, _RUN)
    metrics = _valid(folder / METRICS, _METRICS)
    try:
        leaves = dict(_leaves(record))
    except RecursionError:
        raise UserError(f"{shown(folder / RUN)} is nested too deeply; run `make infer`") from None
    return Run(folder, record, metrics, leaves, list(_notes(folder, record, metrics)))


def _valid(path: Path, schema: dict[str, Any]) -> dict[str, Any]:
    """The JSON object in `path`; raises UserError where `schema` does not hold."""
    document = read_json(path, "file")
    error = next(iter(Draft202012Validator(schema).iter_errors(document)), None)
    if error is not None:
        where = "/".join(str(part) for part in error.absolute_path) or "the top level"
        reason = error.message if len(error.message) <= 120 else error.message[:119] + "…"
        raise UserError(f"{shown(path)} is malformed at {where} ({reason}); write it again")
    valid: dict[str, Any] = document
    return valid


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        yield path, ", ".join(str(entry) for entry in value) or NOTHING
    else:
        yield path, NOTHING if value is None else str(value)


def _notes(folder: Path, record: dict[str, Any], metrics: dict[str, Any]) -> Iterator[str]:
    limit, dataset = record["options"]["limit"], record["options"]["dataset"]
    if limit is not None:
        yield f"first {limit} questions only: not comparable"
    if dataset is not None:
        yield f"over {dataset} instead of the profile's dataset"
    if metrics["qps_spread"] > NOISE_SPREAD:
        yield f"QPS is noise: repeats spread by more than {NOISE_SPREAD:.0%}"
    if metrics["unstable_answers"]:
        yield f"{metrics['unstable_answers']} answers changed between passes"
    for name in (PREDICTIONS, METRICS, TIMINGS):
        if MadeFile(folder / name, record["files"][name]).problem() is not None:
            yield f"{name} is not what the run wrote"


@dataclass(frozen=True)
class Column:
    """A column's heading and kind: text, number (set flush right) or status (coloured)."""

    label: str
    kind: str = "text"


@dataclass(frozen=True)
class Row:
    """A row: its heading, the remaining cells, remarks under the heading, a check's status."""

    head: str
    cells: list[str]
    notes: list[str] = field(default_factory=list)
    status: str = ""


@dataclass(frozen=True)
class Table:
    """A table ready to lay out; the first column holds the rows' headings."""

    caption: str
    columns: list[Column]
    rows: list[Row]


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram: x and width as fractions of the plot, height as one of its top."""

    x: float
    width: float
    height: float
    label: str = ""


@dataclass(frozen=True)
class Mark:
    """A labelled place on the x axis, `x` as a fraction of the plot."""

    x: float
    label: str


@dataclass(frozen=True)
class Chart:
    """A histogram: bars, ticks below, lines through it, and the same as a table."""

    title: str
    description: str
    axis: str
    bars: list[Bar]
    ticks: list[Mark]
    lines: list[Mark]
    numbers: Table


@dataclass(frozen=True)
class Figure:
    """One headline number of the run in detail."""

    label: str
    value: str
    detail: str


@dataclass(frozen=True)
class Report:
    """Everything on the page. None where there is nothing to show; `remarks` say why."""

    verdict: Verdict | None
    remarks: list[str]
    runs: Table
    unreadable: Table | None
    name: str | None
    figures: list[Figure]
    checks: Table | None
    latency: Chart | None
    crosscheck: Chart | None
    worst: Table | None
    environment: Table | None


def write(results: Path = RESULTS, golden: Path = GOLDEN, root: Path = ROOT) -> Path:
    """Write report.html and report.md into `results`; the path of the former."""
    report = gather(results, golden, root)
    write_atomic(results / MARKDOWN, render(report, "report.md.j2", _markdown_text))
    write_atomic(results / HTML, render(report, "report.html.j2", _plain_text))
    return results / HTML


def gather(results: Path, golden: Path, root: Path) -> Report:
    """Read what lies under `results` and `golden`; stored paths are relative to `root`.

    Raises UserError only when there is no run at all: a damaged file is a remark.
    """
    folders = sorted(
        {path.parent for name in (RUN, METRICS, PREDICTIONS) for path in results.rglob(name)}
    )
    if not folders:
        raise UserError(f"no run under {shown(results)}; run `make all` first")
    remarks: list[str] = []
    runs, unreadable = [], []
    for folder in folders:
        try:
            runs.append(read(folder))
        except UserError as error:
            unreadable.append(Row(_name(folder, results), [one_line(error)]))
    verdict = _verdict(results, remarks)
    run = _detailed(verdict, runs, root, remarks)
    detail = _Detail(run, root, remarks) if run is not None else None
    if detail is not None and verdict is not None:
        detail.note_if_stale(verdict)
    return Report(
        verdict=verdict,
        remarks=remarks,
        runs=_run_table(_published(golden, remarks), runs, results),
        unreadable=Table("Folders that hold no readable run", _columns("Folder", "Reason"),
                         unreadable) if unreadable else None,
        name=None if run is None else _name(run.folder, results),
        figures=[] if run is None else _figures(run, verdict),
        checks=None if verdict is None else _check_table(verdict),
        latency=None if detail is None else detail.latency(),
        crosscheck=None if detail is None else detail.crosscheck(),
        worst=None if detail is None else detail.worst(),
        environment=None if run is None else Table(
            "Record of the run", _columns("Key", "Value"),
            [Row(path, [text]) for path, text in run.leaves.items()],
        ),
    )  # fmt: skip


def _name(folder: Path, results: Path) -> str:
    return folder.relative_to(results).as_posix()


def _verdict(results: Path, remarks: list[str]) -> Verdict | None:
    if not (results / VERIFY).is_file():
        remarks.append("No run has been verified; run `make verify`.")
        return None
    try:
        stored = _valid(results / VERIFY, _VERDICT)
    except UserError as error:
        remarks.append(f"The verdict cannot be read: {error}.")
        return None
    keys = Check.__dataclass_fields__
    checks = [Check(**{key: entry[key] for key in keys}) for entry in stored["checks"]]
    return Verdict(stored["run"], checks)


def _detailed(
    verdict: Verdict | None, runs: list[Run], root: Path, remarks: list[str]
) -> Run | None:
    """The verified run; without one the run that finished last."""
    if verdict is not None:
        wanted = (root / verdict.run).resolve()
        for run in runs:
            if run.folder.resolve() == wanted:
                return run
        remarks.append(f"The verified run {verdict.run} is gone or cannot be read.")
    return max(runs, key=lambda run: str(run.record["finished"]), default=None)


def _columns(*labels: str) -> list[Column]:
    """Columns by label; a trailing `#` marks numbers."""
    return [
        Column(label[:-1], "number") if label.endswith("#") else Column(label) for label in labels
    ]


def _published(golden: Path, remarks: list[str]) -> list[Row]:
    rows = []
    for precision in PUBLISHED_PRECISIONS:
        path = golden / PUBLISHED_PROFILE / f"{precision}.json"
        try:
            promised = _valid(path, _PROMISE)
            entry = next(
                entry
                for entry in promised["qps"]
                if PUBLISHED_DEVICE in entry["device"] and entry["batch"] == PUBLISHED_BATCH
            )
        except UserError as error:
            remarks.append(f"The published {precision} row is missing: {error}.")
            continue
        except StopIteration:
            remarks.append(f"The published {precision} row is missing from {shown(path)}.")
            continue
        scores = [f"{promised['accuracy'][name]['value']:.2f}" for name in ("exact_match", "f1")]
        case = [entry["backend"], precision, str(entry["batch"]), entry["device"]]
        rows.append(
            Row(
                PUBLISHED_PROFILE,
                [*case, f"{entry['value']:.2f}", *[NOTHING] * 4, *scores, *[NOTHING] * 3],
                [f"published: {entry['source']}"],
                "published",
            )
        )
    return rows


def _run_table(published: list[Row], runs: list[Run], results: Path) -> Table:
    return Table(
        "Published results, then every run here",
        _columns(
            "Run", "Backend", "Precision", "Batch#", "Device", "QPS#", "Spread#",
            "End-to-end QPS#", "p50 ms#", "p99 ms#", "EM#", "F1#", "Questions#", "Finished",
            "Commit",
        ),
        [*published, *(_run_row(run, results) for run in runs)],
    )  # fmt: skip


def _run_row(run: Run, results: Path) -> Row:
    options, metrics, git = run.record["options"], run.metrics, run.record["git"]
    commit = NOTHING if git["commit"] is None else git["commit"][:8]
    return Row(
        _name(run.folder, results),
        [
            options["backend"],
            options["precision"],
            str(options["batch"]),
            run.record["device"]["name"],
            f"{metrics['qps']:.2f}",
            f"{metrics['qps_spread']:.1%}",
            f"{metrics['qps_end_to_end']:.2f}",
            f"{metrics['latency_ms']['p50']:.2f}",
            f"{metrics['latency_ms']['p99']:.2f}",
            f"{metrics['exact_match']:.2f}",
            f"{metrics['f1']:.2f}",
            str(metrics["questions"]),
            run.record["finished"].replace("T", " ").replace("Z", " UTC"),
            f"{commit} (dirty)" if git["dirty"] else commit,
        ],
        run.notes,
    )


def _check_table(verdict: Verdict) -> Table:
    rows = [
        Row(
            check.name,
            [
                f"{SYMBOLS[check.status]} {check.status}",
                *(_value(value) for value in (check.expected, check.actual, check.limit)),
                check.golden or NOTHING,
            ],
            [check.note] if check.note else [],
            check.status,
        )
        for check in verdict.checks
    ]
    check, *values = _columns("Check", "Expected#", "Actual#", "Limit#", "Golden file")
    return Table(f"Checks of {verdict.run}", [check, Column("Status", "status"), *values], rows)


def _value(value: str | float | None) -> str:
    if value is None:
        return NOTHING
    # Six digits tell a cosine of 0.99998 from 1.
    return value if isinstance(value, str) else f"{value:.6g}"


def _figures(run: Run, verdict: Verdict | None) -> list[Figure]:
    checks = {} if verdict is None else {check.name: check for check in verdict.checks}

    def promise(name: str) -> str:
        check = checks.get(name)
        if check is None or check.limit is None:
            return "nothing promised"
        return f"promised {_value(check.expected)}, at least {_value(check.limit)}"

    metrics, latency = run.metrics, run.metrics["latency_ms"]
    return [
        Figure("Exact match", f"{metrics['exact_match']:.2f} %", promise("exact_match")),
        Figure("F1", f"{metrics['f1']:.2f} %", promise("f1")),
        Figure("QPS", f"{metrics['qps']:.2f}", promise("QPS")),
        Figure("End-to-end QPS", f"{metrics['qps_end_to_end']:.2f}", "text to answers"),
        Figure(
            "Latency p50", f"{latency['p50']:.2f} ms", f"p99 {latency['p99']:.2f} ms a batch"
        ),
    ]  # fmt: skip


class _Detail:
    """Charts and tables of one run; what cannot be shown becomes a remark."""

    def __init__(self, run: Run, root: Path, remarks: list[str]) -> None:
        self._run, self._root, self._remarks = run, root, remarks
        self._timings = self._read_timings()
        self._crosscheck = self._read_crosscheck()

    def _read_timings(self) -> dict[str, Any] | None:
        """timings.json with its batches' times as an array and the speed that follows."""
        try:
            timings = read_json(self._run.folder / TIMINGS, "timings file")
            milliseconds = np.asarray(timings["seconds"], dtype=np.float64).ravel() * 1e3
            if not (len(milliseconds) and np.all(np.isfinite(milliseconds) & (milliseconds > 0))):
                raise ValueError("a batch took no positive time")
            return {"ms": milliseconds, "speed": summarize(timings)}
        except (UserError, KeyError, TypeError, ValueError, ArithmeticError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            self._remarks.append(f"No latency is shown: {TIMINGS} cannot be read ({reason}).")
            return None

    def _read_crosscheck(self) -> dict[str, Any] | None:
        path = self._run.folder / CROSSCHECK
        if not path.is_file():
            self._remarks.append("The run has not been cross-checked; run `make crosscheck`.")
            return None
        try:
            found = _valid(path, _CROSSCHECK)
        except UserError as error:
            self._remarks.append(f"The cross-check cannot be read: {error}.")
            return None
        if len(found["histogram"]) != len(found["histogram_edges"]) + 1:
            self._remarks.append(f"The cross-check's histogram in {shown(path)} is malformed.")
            return None
        if found["run_sha256"] != sha256_file(self._run.folder / RUN):
            self._remarks.append("The cross-check is of an earlier run; run `make crosscheck`.")
            return None
        return found

    def note_if_stale(self, verdict: Verdict) -> None:
        """Remark on a verdict whose speed is not that of the run's timings."""
        judged = next((check.actual for check in verdict.checks if check.name == "QPS"), None)
        if self._timings is None or not isinstance(judged, int | float):
            return
        # Two runs never take equally long to the last digit; no hash in verify.json is needed.
        if not math.isclose(judged, self._timings["speed"]["qps"], rel_tol=1e-9):
            self._remarks.append("The run has changed since the verdict; run `make verify`.")

    def latency(self) -> Chart | None:
        """Times of all batches of all repeats, in bins of equal ratio."""
        return None if self._timings is None else latency_chart(**self._timings)

    def crosscheck(self) -> Chart | None:
        """Absolute differences of the logits by decade."""
        if self._crosscheck is None:
            return None
        return difference_chart(self._crosscheck["histogram"], self._crosscheck["histogram_edges"])

    def worst(self) -> Table | None:
        """The windows that are furthest from the reference, with their questions."""
        if self._crosscheck is None:
            return None
        texts = self._questions()
        rows = [
            Row(
                f"window {entry['window']}",
                [
                    f"{entry['max_abs_difference']:.3g}",
                    f"{entry['cosine']:.8g}",
                    entry["question"],
                    texts.get(entry["question"], NOTHING),
                ],
            )
            for entry in self._crosscheck["worst"]
        ]
        columns = _columns("Window", "Largest difference#", "Cosine#", "Question id", "Question")
        return Table("Windows furthest from the reference", columns, rows)

    def _questions(self) -> dict[str, str]:
        entry = self._run.record["dataset"]
        try:
            dataset = read_dataset(self._root / entry["path"])
        except (UserError, ValueError) as error:
            self._remarks.append(f"Questions are shown by id alone: {error}.")
            return {}
        if dataset.sha256 != entry["sha256"]:
            self._remarks.append("Questions are shown by id alone: the dataset has changed.")
            return {}
        return {question.id: question.text for question in dataset.questions}


_LATENCY_BINS = 30
# A tick's label needs a ninth of the plot's width.
_TICK_DISTANCE = 0.11


def latency_chart(ms: np.ndarray[Any, np.dtype[np.float64]], speed: dict[str, Any]) -> Chart:
    """Histogram of batch times (N,) in ms on a logarithmic axis.

    Batches are sorted by length, so their times span a wide range by design; equal ratios show
    its short and its long end alike, and a lone straggler does not squeeze the rest.
    """
    low, high = float(ms.min()), float(ms.max())
    if high < 1.2 * low:
        middle = math.sqrt(low * high)
        low, high = middle / 1.1, middle * 1.1
    edges = np.geomspace(low, high, _LATENCY_BINS + 1)
    counts = np.histogram(ms, edges)[0].tolist()
    span = math.log(high / low)

    def place(value: float) -> float:
        return min(max(math.log(value / low) / span, 0.0), 1.0)

    percentiles = [
        Mark(place(value), f"{name} {value:.4g} ms") for name, value in speed["latency_ms"].items()
    ]
    return Chart(
        title="Latency of a batch",
        description=f"{len(ms)} batches over {speed['repeats']} repeats, "
        f"{ms.min():.4g} to {ms.max():.4g} ms; " + ", ".join(mark.label for mark in percentiles),
        axis="ms a batch (log scale); height: batches",
        bars=_bars(counts, lambda count: float(count)),
        ticks=_spaced([Mark(place(tick), f"{tick:g}") for tick in _ticks(low, high)]),
        lines=percentiles,
        numbers=Table(
            "Batches by latency",
            _columns("Latency", "Batches#"),
            [
                Row(f"{start:.4g} to {end:.4g} ms", [str(count)])
                for start, end, count in zip(edges, edges[1:], counts, strict=False)
            ],
        ),
    )


def difference_chart(counts: list[int], edges: list[float]) -> Chart:
    """Histogram of the logits' absolute differences: bin i ends at edge i, the last is open.

    Heights are logarithmic: a handful of large differences among millions must be seen.
    """
    labels = [f"{edge:g}" for edge in edges]
    names = [f"up to {label}" for label in labels] + [f"over {labels[-1]}" if labels else "all"]
    filled = [name for name, count in zip(names, counts, strict=True) if count]
    bars = _bars(counts, lambda count: math.log10(1 + count), [_compact(n) for n in counts])
    return Chart(
        title="Differences from the reference",
        description=f"{sum(counts)} logits by absolute difference from ONNX Runtime FP32; "
        + (f"the largest are {filled[-1]}" if filled else "none"),
        axis="absolute difference of a logit; height: logits (log scale)",
        bars=bars,
        ticks=[Mark((i + 1) / len(counts), label) for i, label in enumerate(labels)],
        lines=[],
        numbers=Table(
            "Logits by absolute difference",
            _columns("Difference", "Logits#"),
            [Row(name, [str(count)]) for name, count in zip(names, counts, strict=True)],
        ),
    )


def _bars(
    counts: list[int], height: Callable[[int], float], labels: list[str] | None = None
) -> list[Bar]:
    """Bars of equal width, the highest of height 1."""
    top = max(height(count) for count in counts) or 1.0
    return [
        Bar(i / len(counts), 1 / len(counts), height(count) / top, labels[i] if labels else "")
        for i, count in enumerate(counts)
    ]


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers in [low, high]: 1, 2, 5 in each decade, or even steps in a short range."""
    if high / low > 10:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        numbers = [factor * 10.0**decade for decade in decades for factor in (1, 2, 5)]
    else:
        step = 10.0 ** math.floor(math.log10((high - low) / 2))
        step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
        numbers = [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    # Ten digits: 3 * 0.1 is 0.3 on an axis.
    return [float(f"{number:.10g}") for number in numbers if low <= number <= high]


def _spaced(ticks: list[Mark]) -> list[Mark]:
    kept: list[Mark] = []
    for tick in ticks:
        if not kept or tick.x - kept[-1].x >= _TICK_DISTANCE:
            kept.append(tick)
    return kept


def _compact(count: int) -> str:
    """At most three digits and a unit, short enough to stand over a bar."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g}{unit}" if count < 999 * size else f"{count // size}{unit}"
    return str(count)


def render(report: Report, template: str, text: Callable[[Any], Any]) -> str:
    """`report` laid out by `template`; every value passes through `text` and HTML escaping."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=text,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    failed = [] if report.verdict is None else _with(report.verdict, FAIL)
    unclear = [] if report.verdict is None else _with(report.verdict, UNCLEAR)
    return environment.get_template(template).render(
        report=report, failed=failed, unclear=unclear, symbols=SYMBOLS, nothing=NOTHING
    )


def _with(verdict: Verdict, status: str) -> list[Check]:
    return [check for check in verdict.checks if check.status == status]


def _plain_text(value: Any) -> Any:
    """A value for HTML: texts on one line, without control characters and lone surrogates."""
    return one_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value


_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\`*_[]|~#"})


def _markdown_text(value: Any) -> Any:
    """A value for Markdown: as for HTML, with the characters that mean something escaped."""
    plain = _plain_text(value)
    return plain.translate(_MARKDOWN) if type(plain) is str else plain
