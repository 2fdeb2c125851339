"""The report: what it shows, that nothing on the way can break or inject into it, that it reads."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_builders import HOSTILE, QUESTIONS, write_dataset, write_run

from harness.charts import difference_chart, latency_chart
from harness.errors import UserError
from harness.files import sha256_file
from harness.report import gather, write
from harness.results import read_summary


def write_crosscheck(folder: Path, question: str = "q3") -> None:
    found = {
        "histogram": [4, 2, 0, 1],
        "histogram_edges": [1e-6, 1e-3, 1.0],
        "worst": [
            {"window": 3, "question": question, "max_abs_difference": 2.5, "cosine": 0.99999}
        ],
        "run_sha256": sha256_file(folder / "run.json"),
    }
    (folder / "crosscheck.json").write_text(json.dumps(found), encoding="utf-8")


def check(name: str, status: str, **values: Any) -> dict[str, Any]:
    empty = {"expected": None, "actual": None, "limit": None, "golden": None, "note": ""}
    return {"name": name, "status": status, **empty, **values}


def write_verdict(folder: Path, *checks: dict[str, Any]) -> None:
    speed = json.loads((folder / "metrics.json").read_text())["qps"]
    qps = check("QPS", "unpromised", actual=speed, note="nothing is promised for Test CPU")
    document = {
        "run": str(folder),
        "run_sha256": sha256_file(folder / "run.json"),
        "status": "pass",
        "checks": [*checks, qps],
    }
    (folder.parents[1] / "verify.json").write_text(json.dumps(document), encoding="utf-8")


def write_golden(root: Path) -> None:
    # Not the published values: the report must take them from here.
    for precision, qps in (("fp16", 111.25), ("int8", 222.5)):
        path = root / "golden" / "bert-base-squad" / f"{precision}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "accuracy": {"exact_match": {"value": 61.5}, "f1": {"value": 71.5}},
            "qps": [
                {"device": "other", "backend": "ixrt", "batch": 32, "value": 1, "source": "no"},
                {"device": "MR-V100", "backend": "ixrt", "batch": 32, "value": qps,
                 "source": "the published table"},
            ],
        }  # fmt: skip
        path.write_text(json.dumps(document), encoding="utf-8")


def make(root: Path) -> tuple[str, str]:
    path = write(root / "results", root / "golden", root)
    return path.read_text(encoding="utf-8"), path.with_suffix(".md").read_text(encoding="utf-8")


class Page(HTMLParser):
    """Elements with their attributes, and the text outside style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._style = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._style = tag == "style"

    def handle_data(self, data: str) -> None:
        self.text += "" if self._style else data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def full(root: Path) -> Path:
    folder = write_run(root)
    write_crosscheck(folder)
    write_verdict(
        folder,
        check("f1", "fail", expected=83.0, actual=80.5, limit=82.0, note="80.5 is under 82"),
        check("exact_match", "pass", expected=74.0, actual=75.0, limit=73.0),
    )
    write_golden(root)
    return folder


def test_no_run_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    with pytest.raises(UserError, match="make all"):
        make(tmp_path)


def test_everything_is_shown(tmp_path: Path) -> None:
    full(tmp_path)
    html, markdown = make(tmp_path)
    for text in (Page(html).text, markdown.replace("\\", "")):
        for expected in (
            "✗ FAIL", "80.5 is under 82", "✓ pass", "– unpromised", "111.25", "222.50", "61.50",
            "71.50", "the published table", "800.00", "8.00", "10.00", "75.00", "80.50",
            "Test CPU (2 cores)", "01234567 (dirty)", "2026-01-02 03:04:06 UTC", "p99",
            "environment.packages.numpy", "over 1", "q3",
        ):  # fmt: skip
            assert expected in text, expected
        assert text.index("80.5 is under 82") < text.index("Runs")
    assert "what is <q3>?" in Page(html).text
    assert "1444.69" not in html


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    full(tmp_path)
    assert make(tmp_path) == make(tmp_path)


def test_without_a_verdict_the_latest_run_is_shown(tmp_path: Path) -> None:
    write_run(tmp_path, "p/new", finished="2026-02-01T00:00:00Z")
    write_run(tmp_path, "p/old")
    report = gather(tmp_path / "results", tmp_path / "golden", tmp_path)
    assert report.detail is not None
    assert report.detail.name == "p/new"
    html, markdown = make(tmp_path)
    for text in (html, markdown):
        assert "NOT VERIFIED" in text
        assert "make crosscheck" in text


def test_runs_that_do_not_compare_are_marked(tmp_path: Path) -> None:
    options = {
        "profile": "p", "backend": "b", "precision": "fp32", "batch": 8, "limit": 3,
        "dataset": "mine.json",
    }  # fmt: skip
    folder = write_run(tmp_path, options=options)
    metrics = json.loads((folder / "metrics.json").read_text())
    changed = {**metrics, "qps_spread": 0.2, "unstable_answers": 2}
    (folder / "metrics.json").write_text(json.dumps(changed))
    notes = " | ".join(read_summary(folder).notes)
    for part in ("first 3 questions only: not comparable", "mine.json", "noise", "2 answers",
                 "metrics.json is not what the run wrote"):  # fmt: skip
        assert part in notes


@pytest.mark.parametrize("batch", ["auto", 8, "Auto", 8.5, None])
def test_a_batch_is_a_number_or_auto(tmp_path: Path, batch: Any) -> None:
    options = {
        "profile": "p", "backend": "ort-cpu", "precision": "fp32", "batch": batch, "limit": None,
        "dataset": None,
    }  # fmt: skip
    folder = write_run(tmp_path, options=options)
    if batch not in ("auto", 8):
        with pytest.raises(UserError, match="malformed at options/batch"):
            read_summary(folder)
        return
    report = gather(tmp_path / "results", tmp_path / "golden", tmp_path)
    assert report.runs.rows[-1].cells[2] == str(batch)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("run.json", "{"),
        ("run.json", "[]"),
        ("run.json", '{"options": 3}'),
        ("run.json", "[" * 100_000),
        ("metrics.json", '{"exact_match": "high"}'),
        ("metrics.json", "\udcff"),
        ("metrics.json", None),
        ("run.json", None),
    ],
)
def test_malformed_runs_are_listed(tmp_path: Path, file: str, content: str | None) -> None:
    write_run(tmp_path, "p/good")
    path = write_run(tmp_path, "p/bad") / file
    if content is None:
        path.unlink()
    else:
        path.write_text(content, encoding="utf-8", errors="surrogateescape")
    report = gather(tmp_path / "results", tmp_path / "golden", tmp_path)
    assert report.unreadable is not None
    assert [row.head for row in report.unreadable.rows] == ["p/bad"]
    assert "p/bad" in make(tmp_path)[0]


@pytest.mark.parametrize("value", ["1e999", "-1", "true", "1" * 400, "null"])
def test_numbers_that_are_none_make_a_run_unreadable(tmp_path: Path, value: str) -> None:
    path = write_run(tmp_path) / "metrics.json"
    path.write_text(re.sub(r'"qps": [0-9.]+', f'"qps": {value}', path.read_text()))
    with pytest.raises(UserError, match=r"metrics\.json is (malformed at qps|not valid JSON)"):
        read_summary(path.parent)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"run": "x", "run_sha256": "", "checks": [{"name": "f1"}]}',
        '{"run": "\\u0000", "run_sha256": "", "checks": []}',
        '{"run": "\\ud800", "run_sha256": "", "checks": []}',
    ],
)
def test_damaged_verdict_and_details_are_remarks(tmp_path: Path, content: str) -> None:
    folder = full(tmp_path)
    (tmp_path / "results" / "verify.json").write_text(content)
    (folder / "crosscheck.json").write_text(content)
    (folder / "timings.json").write_text(content)
    remarks = "\n".join(gather(tmp_path / "results", tmp_path / "golden", tmp_path).remarks)
    for part in ("No verdict is shown", "No cross-check is shown", "timings.json cannot be read"):
        assert part in remarks
    assert "NOT VERIFIED" in make(tmp_path)[0]


def test_stale_parts_are_remarks(tmp_path: Path) -> None:
    full(tmp_path)
    assert gather(tmp_path / "results", tmp_path / "golden", tmp_path).remarks == []
    # As fast as before, to the last digit.
    write_run(tmp_path, finished="2026-01-02T03:04:07Z")
    remarks = gather(tmp_path / "results", tmp_path / "golden", tmp_path).remarks
    assert "The run has changed since the verdict; run `make verify`." in remarks
    assert any("cross-check is of an earlier run; run `make crosscheck`" in r for r in remarks)


def test_a_verdict_without_its_run(tmp_path: Path) -> None:
    full(tmp_path).rename(tmp_path / "elsewhere")
    write_run(tmp_path, "p/other", finished="2027-01-01T00:00:00Z")
    report = gather(tmp_path / "results", tmp_path / "golden", tmp_path)
    assert any("is gone" in remark for remark in report.remarks)
    assert not any("has changed" in remark for remark in report.remarks)
    assert report.detail is not None
    assert report.detail.name == "p/other"


def test_questions_of_a_changed_dataset_are_not_shown(tmp_path: Path) -> None:
    full(tmp_path)
    write_dataset(tmp_path, [*QUESTIONS, "another"])
    assert "what is" not in make(tmp_path)[0]


def test_nothing_injects(tmp_path: Path) -> None:
    folder = write_run(
        tmp_path,
        device={"name": HOSTILE, HOSTILE: HOSTILE},
        git={"commit": HOSTILE, "dirty": False},
        finished=HOSTILE,
    )
    write_crosscheck(folder, HOSTILE)
    write_verdict(folder, check(HOSTILE, "fail", expected=HOSTILE, note=HOSTILE, golden=HOSTILE))
    html, markdown = make(tmp_path)
    page = Page(html)
    assert not page.all("script")
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    assert "<script>alert(1)</script>" in page.text
    assert "{{7*7}}" in page.text
    assert "\x1b" not in html + markdown
    assert "\u202e" not in html + markdown
    assert "<script" not in markdown
    tables = [line for line in markdown.splitlines() if line.startswith("| **")]
    for line in tables:
        assert len(re.findall(r"(?<!\\)\|", line)) in (3, 6, 7, 16), line


def test_the_page_stands_alone(tmp_path: Path) -> None:
    full(tmp_path)
    html = make(tmp_path)[0]
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert "://" not in html
    assert "url(" not in html


def test_the_page_reads_without_eyes(tmp_path: Path) -> None:
    full(tmp_path)
    page = Page(make(tmp_path)[0])
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("caption")) == len(page.all("table")) > 4
    assert all(cell.get("scope") in ("row", "col") for cell in page.all("th"))
    assert len(page.all("svg")) == len(page.all("desc")) == 2
    assert all(svg["role"] == "img" for svg in page.all("svg"))
    identifiers = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(identifiers) == len(set(identifiers))
    named = [attrs["aria-labelledby"] for _, attrs in page.elements if "aria-labelledby" in attrs]
    assert {part for name in named for part in (name or "").split()} <= set(identifiers)


def _luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_colours_have_the_contrast_of_wcag_aa(tmp_path: Path) -> None:
    full(tmp_path)
    schemes = re.findall(r":root \{(.*?)\}", make(tmp_path)[0], re.DOTALL)
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", scheme))
        for name in set(colours) - {"page", "panel", "rule"}:
            for ground in ("page", "panel"):
                light, dark = sorted(
                    (_luminance(colours[name]), _luminance(colours[ground])), reverse=True
                )
                # Bars and lines are graphics, the rest is text.
                least = 3.0 if name in ("bar", "line") else 4.5
                assert (light + 0.05) / (dark + 0.05) >= least, (name, ground)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40))
def test_latency_chart_counts_every_batch(times: list[float]) -> None:
    ms = np.asarray(times)
    speed = {"latency_ms": {"p50": float(np.median(ms))}, "repeats": 1}
    chart = latency_chart(ms, speed)
    assert sum(int(row.cells[0]) for row in chart.numbers.rows) == len(times)
    assert max(bar.height for bar in chart.bars) == 1.0
    for mark in (*chart.ticks, *chart.lines):
        assert 0 <= mark.x <= 1
    assert len(chart.ticks) <= 10


def test_latency_ticks_are_round_numbers() -> None:
    speed = {"latency_ms": {}, "repeats": 1}
    labels = [tick.label for tick in latency_chart(np.asarray([3.1, 4.9]), speed).ticks]
    assert labels == ["3.5", "4", "4.5"]
    labels = [tick.label for tick in latency_chart(np.asarray([0.9, 99.0]), speed).ticks]
    assert labels == ["1", "2", "5", "10", "20", "50"]


def test_difference_chart() -> None:
    chart = difference_chart([0, 1_234_567, 5], [1e-3, 1.0])
    assert [row.head for row in chart.numbers.rows] == ["up to 0.001", "up to 1", "over 1"]
    assert [bar.label for bar in chart.bars] == ["0", "1.23M", "5"]
    assert chart.bars[0].height == 0
    assert "1234572 logits" in chart.description
    assert "over 1" in chart.description
    assert difference_chart([0], []).description.endswith("none")
