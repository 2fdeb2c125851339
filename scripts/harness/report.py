"""The report: runs beside the published table, one in detail, and the nights; HTML and Markdown.

Arranging happens here and in report_*.py, the templates only lay out. Both files depend on
nothing but the runs, the verdict, the history and the golden files, so the same inputs give the
same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .cell_history import CellHistory
from .charts import Chart, Column, Row, Table, columns, difference_chart, latency_chart
from .errors import UserError, one_line
from .files import write_atomic
from .paths import GOLDEN, RESULTS, ROOT, shown
from .report_answers import AnswersView, arrange_answers
from .report_diagnose import DiagnosisView, arrange_diagnoses
from .report_nights import HISTORY, NIGHTLY, Nights, arrange_nights, read_cells, read_latest
from .report_nights import PREDICTIONS as KEPT
from .report_watch import DISTURBANCES, SAMPLES, Watched, arrange_watch
from .results import (
    NOTHING,
    PUBLISHED_PRECISIONS,
    PUBLISHED_PROFILE,
    RunSummary,
    read_crosscheck,
    read_latency,
    read_published,
    read_questions,
    read_summary,
    read_verdict,
)
from .run import METRICS, PREDICTIONS, RUN
from .squad import Question
from .verdict import VERIFY
from .verify import FAIL, PASS, UNCLEAR, UNPROMISED, Verdict

HTML = "report.html"
MARKDOWN = "report.md"
TEMPLATES = Path(__file__).parent / "templates"
# Shown beside the word, so that a status never depends on its colour.
SYMBOLS = {PASS: "✓", FAIL: "✗", UNCLEAR: "?", UNPROMISED: "–"}
_T = TypeVar("_T")


@dataclass(frozen=True)
class Figure:
    """One headline number of the run in detail."""

    label: str
    value: str
    detail: str


@dataclass(frozen=True)
class Detail:
    """One run in detail; what is missing is None."""

    name: str
    figures: list[Figure]
    latency: Chart | None
    crosscheck: Chart | None
    worst: Table | None
    watched: Watched | None
    environment: Table


@dataclass(frozen=True)
class Report:
    """Everything on the page. None where there is nothing to show; `remarks` say why.

    `summaries` and `cells` are what it was arranged from: all readable runs by name, and the
    cells that are measured every night.
    """

    summaries: dict[str, RunSummary]
    cells: list[CellHistory]
    verdict: Verdict | None
    remarks: list[str]
    runs: Table
    unreadable: Table | None
    checks: Table | None
    detail: Detail | None
    nights: Nights | None
    answers: list[AnswersView]
    diagnoses: list[DiagnosisView]


def write(results: Path = RESULTS, golden: Path = GOLDEN, root: Path = ROOT) -> Path:
    """Write report.html and report.md into `results`; the path of the former."""
    return save(gather(results, golden, root), results)


def save(report: Report, results: Path) -> Path:
    """Write `report` as report.html and report.md into `results`; the path of the former."""
    write_atomic(results / MARKDOWN, render(report, "report.md.j2", _markdown_text))
    write_atomic(results / HTML, render(report, "report.html.j2", _plain_text))
    return results / HTML


def gather(results: Path, golden: Path, root: Path, history: Path | None = None) -> Report:
    """Read what lies under `results` and `golden`; stored paths are relative to `root`.

    The nights are those of the file `history`, by default the one under `results`.

    Raises UserError only when there is neither run nor night: a damaged file is a remark.
    """
    # What the nights keep for themselves lies beside the runs.
    nightly = results / NIGHTLY
    history = history or nightly / HISTORY
    folders = sorted(
        {path.parent for name in (RUN, METRICS, PREDICTIONS) for path in results.rglob(name)
         if not path.is_relative_to(nightly)}
    )  # fmt: skip
    if not folders and not history.is_file():
        raise UserError(f"no run under {shown(results)}; run `make all` first")
    runs: dict[str, RunSummary] = {}
    unreadable = []
    for folder in folders:
        name = folder.relative_to(results).as_posix()
        try:
            runs[name] = read_summary(folder)
        except UserError as error:
            unreadable.append(Row(name, [one_line(error)]))
    remarks: list[str] = []
    verdict = _attempt(lambda: read_verdict(results / VERIFY.name), "No verdict is shown", remarks)
    chosen = _chosen(runs, verdict, root, remarks)
    cells, notes = _attempt(
        lambda: read_cells(history, golden), "No nights are shown", remarks
    ) or ([], [])
    summary, skipped = _attempt(
        lambda: read_latest(history.parent), "The last night's summary is not shown", remarks
    ) or ("", [])
    newest = runs[chosen] if chosen else None
    answers = arrange_answers(cells, runs, newest, history.parent / KEPT, root, remarks)
    return Report(
        summaries=runs,
        cells=cells,
        verdict=verdict,
        remarks=remarks,
        runs=_run_table(_published_rows(golden, remarks), runs),
        unreadable=_unreadable_table(unreadable) if unreadable else None,
        checks=_check_table(verdict) if verdict else None,
        detail=_detail(chosen, runs[chosen], verdict, root, remarks) if chosen else None,
        nights=arrange_nights(cells, summary, [*skipped, *notes]),
        answers=answers,
        diagnoses=arrange_diagnoses(results, runs, remarks),
    )


def _attempt(read: Callable[[], _T], consequence: str, remarks: list[str]) -> _T | None:
    """What `read` returns; where it raises UserError a remark, and None."""
    try:
        return read()
    except UserError as error:
        remarks.append(f"{consequence}: {error}.")
        return None


def _chosen(
    runs: dict[str, RunSummary], verdict: Verdict | None, root: Path, remarks: list[str]
) -> str | None:
    """The name of the verified run; without one that of the run that finished last."""
    if verdict is not None:
        wanted = (root / verdict.run).resolve()
        for name, run in runs.items():
            if run.folder.resolve() == wanted:
                if run.sha256 != verdict.run_sha256:
                    remarks.append("The run has changed since the verdict; run `make verify`.")
                return name
        remarks.append(f"The verified run {verdict.run} is gone or cannot be read.")
    return max(runs, key=lambda name: str(runs[name].record["finished"]), default=None)


def _published_rows(golden: Path, remarks: list[str]) -> list[Row]:
    rows = []
    for precision in PUBLISHED_PRECISIONS:
        entry = _attempt(
            partial(read_published, golden, precision),
            f"The published {precision} row is missing",
            remarks,
        )
        if entry is None:
            continue
        case = [entry["backend"], precision, str(entry["batch"]), entry["device"]]
        scores = [f"{entry[name]:.2f}" for name in ("exact_match", "f1")]
        rows.append(
            Row(
                f"{PUBLISHED_PROFILE}, published",
                [*case, f"{entry['value']:.2f}", *[NOTHING] * 4, *scores, *[NOTHING] * 3],
                [entry["source"]],
                "published",
            )
        )
    return rows


def _run_table(published: list[Row], runs: dict[str, RunSummary]) -> Table:
    return Table(
        "Published results, then every run here",
        columns(
            "Run", "Backend", "Precision", "Batch#", "Device", "QPS#", "Spread#",
            "End-to-end QPS#", "p50 ms#", "p99 ms#", "EM#", "F1#", "Questions#", "Finished",
            "Commit",
        ),
        [*published, *(_run_row(name, run) for name, run in runs.items())],
    )  # fmt: skip


def _run_row(name: str, run: RunSummary) -> Row:
    options, metrics, git = run.record["options"], run.metrics, run.record["git"]
    commit = NOTHING if git["commit"] is None else git["commit"][:8]
    return Row(
        name,
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


def _unreadable_table(rows: list[Row]) -> Table:
    return Table("Folders that hold no readable run", columns("Folder", "Reason"), rows)


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
    check, *values = columns("Check", "Expected#", "Actual#", "Limit#", "Golden file")
    return Table(f"Checks of {verdict.run}", [check, Column("Status", "status"), *values], rows)


def _value(value: str | float | None) -> str:
    if value is None:
        return NOTHING
    # Six digits tell a cosine of 0.99998 from 1.
    return value if isinstance(value, str) else f"{value:.6g}"


def _detail(
    name: str, run: RunSummary, verdict: Verdict | None, root: Path, remarks: list[str]
) -> Detail:
    latency = _attempt(lambda: read_latency(run), "No latency is shown", remarks)
    found = _attempt(lambda: read_crosscheck(run), "No cross-check is shown", remarks)
    questions = None
    if found is not None:
        questions = _attempt(
            lambda: read_questions(run, root), "Questions are shown by id alone", remarks
        )
    return Detail(
        name=name,
        figures=_figures(run, verdict),
        latency=latency_chart(*latency) if latency else None,
        crosscheck=difference_chart(found["histogram"], found["histogram_edges"])
        if found
        else None,
        worst=_worst_table(found["worst"], questions or {}) if found else None,
        watched=_attempt(lambda: arrange_watch(run), "No disturbances are shown", remarks),
        environment=Table(
            "Record of the run",
            columns("Key", "Value"),
            [
                Row(path, [text])
                for path, text in run.leaves.items()
                if path.partition(".")[0] not in (DISTURBANCES, SAMPLES)
            ],
        ),
    )


def _figures(run: RunSummary, verdict: Verdict | None) -> list[Figure]:
    checks = {check.name: check for check in verdict.checks} if verdict else {}

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
        Figure("Latency p50", f"{latency['p50']:.2f} ms", f"p99 {latency['p99']:.2f} ms a batch"),
    ]


def _worst_table(worst: list[dict[str, Any]], questions: dict[str, Question]) -> Table:
    """The windows that are furthest from the reference, with their questions where known."""
    rows = []
    for entry in worst:
        question = questions.get(entry["question"])
        rows.append(
            Row(
                f"window {entry['window']}",
                [
                    f"{entry['max_abs_difference']:.3g}",
                    f"{entry['cosine']:.8g}",
                    entry["question"],
                    question.text if question else NOTHING,
                ],
            )
        )
    return Table(
        "Windows furthest from the reference",
        columns("Window", "Largest difference#", "Cosine#", "Question id", "Question"),
        rows,
    )


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
    environment.globals.update(symbols=SYMBOLS, nothing=NOTHING)
    checks = report.verdict.checks if report.verdict else []
    return environment.get_template(template).render(
        report=report,
        failed=[check for check in checks if check.status == FAIL],
        unclear=[check for check in checks if check.status == UNCLEAR],
    )


def _plain_text(value: Any) -> Any:
    """A value for HTML: texts on one line, without control characters and lone surrogates."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    # A piece of a passage may begin or end with the space between two words.
    before, after = (" " if edge.isspace() else "" for edge in (value[:1], value[-1:]))
    return before + one_line(value) + after


_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\`*_[]|~#"})


def _markdown_text(value: Any) -> Any:
    """A value for Markdown: as for HTML, with the characters that mean something escaped."""
    plain = _plain_text(value)
    return plain.translate(_MARKDOWN) if type(plain) is str else plain
