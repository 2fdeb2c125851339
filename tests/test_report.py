"""The report: what it shows, that nothing on the way can break or inject into it, that it reads."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from history_builders import (
    MR_V100,
    SAMPLE,
    history_path,
    keep_answers,
    nights,
    provenance,
    write_history,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from run_builders import HOSTILE, QUESTIONS, write_dataset, write_run

from harness.charts import Table, difference_chart, latency_chart
from harness.errors import UserError
from harness.files import sha256_file
from harness.golden import Promise
from harness.nightly.detection import ACCEPTED, CONFIRMED, Verdict
from harness.paths import ROOT
from harness.report import gather, write
from harness.results import read_summary
from harness.trend_chart import Sample, trend_chart


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


# Elements that have no end tag.
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Elements with their attributes, and the text outside style; each must be closed in turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._style = False
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), (tag, attrs)
        self.elements.append((tag, dict(attrs)))
        self._style = tag == "style"
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # SVG's own: HTML has no such spelling.
        assert "svg" in self._open
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

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


def with_nights(root: Path) -> None:
    """A step, a gap, noisy nights, one night and failed ones; changed answers at the end."""
    full(root)
    shutil.copytree(ROOT / "golden", root / "golden", dirs_exist_ok=True)
    before = keep_answers(root)
    now = keep_answers(root, {**{key: key for key in QUESTIONS}, "q2": "q3", "q5": HOSTILE})
    step = nights(
        MR_V100,
        [1450.0] * 24 + [1370.0] * 8,
        f1=88.2,
        provenance=lambda n: provenance(root, "MR-V100", driver="4.3.0" if n < 24 else "4.3.1"),
        verdict=lambda n: Verdict(CONFIRMED, 0.056) if n == 24 else None,
    )
    noisy = nights(
        SAMPLE,
        [None if n == 9 else -800.0 if n in (3, 4) else 800.0 for n in range(20)],
        skipped=(12, 13),
        provenance=lambda n: {} if n == 9 else provenance(root),
        predictions_sha256=lambda n: None if n == 9 else before if n < 19 else now,
    )
    one = nights(replace(SAMPLE, machine="bench-2"), [210.0])
    failed = nights(replace(SAMPLE, machine="bench-3"), [None, None])
    write_history(root, step, noisy, one, failed)


def cells(page: Page) -> int:
    return sum((attrs.get("class") or "").startswith("cell ") for attrs in page.all("article"))


def test_without_nights_nothing_is_said_of_them(tmp_path: Path) -> None:
    full(tmp_path)
    html, markdown = make(tmp_path)
    assert "Nights" not in Page(html).text + markdown
    assert "Changed answers" not in Page(html).text + markdown


def test_nights_show_states_trends_and_steps(tmp_path: Path) -> None:
    with_nights(tmp_path)
    html, markdown = make(tmp_path)
    page = Page(html)
    assert cells(page) == 4
    for text in (page.text, markdown.replace("\\", "")):
        for expected in (
            "✗ no result", "the engine did not build", "✓ quiet", "– learning",
            "−5.4% since 2026-11-13", "device.driver: 4.3.0 → 4.3.1",
        ):  # fmt: skip
            assert expected in text, expected
    assert "golden promises 1444.69, at least 900" in page.text
    assert "a step of −5.4% on 2026-11-13" in page.text
    assert "3 inconclusive" in page.text
    assert "one night, 2026-10-20" in page.text
    # What failed has no charts, every other cell two; latency and differences besides.
    assert len(page.all("svg")) == 3 * 2 + 2
    # What needs attention comes first.
    assert page.text.index("on bench-3") < page.text.index("on mr-v100-a")


def test_one_night_alone(tmp_path: Path) -> None:
    full(tmp_path)
    write_history(tmp_path, nights(SAMPLE, [800.0]))
    page = Page(make(tmp_path)[0])
    assert cells(page) == 1
    assert "not enough nights for a baseline" in page.text


def test_nights_without_any_run(tmp_path: Path) -> None:
    write_history(tmp_path, nights(SAMPLE, [800.0] * 3))
    html, markdown = make(tmp_path)
    assert cells(Page(html)) == 1
    assert "NOT VERIFIED" in markdown


def test_a_night_accepted_says_why(tmp_path: Path) -> None:
    full(tmp_path)
    verdict = Verdict(ACCEPTED, note="a new cooler")
    accept = nights(SAMPLE, [800.0] * 8, verdict=lambda n: verdict if n == 7 else None)
    write_history(tmp_path, accept)
    assert "conclusive; accepted: a new cooler" in Page(make(tmp_path)[0]).text


def test_a_cell_under_its_golden_limit(tmp_path: Path) -> None:
    full(tmp_path)
    shutil.copytree(ROOT / "golden", tmp_path / "golden", dirs_exist_ok=True)
    low = nights(MR_V100, [1400.0] * 6, f1=86.5, provenance=provenance(tmp_path, "MR-V100"))
    slow = nights(replace(MR_V100, machine="b"), [880.0] * 6, f1=88.0, provenance=low[0].provenance)
    write_history(tmp_path, low, slow)
    text = Page(make(tmp_path)[0]).text
    assert "✗ F1 low: F1 is under golden's limit 87" in text
    assert "✗ QPS low: QPS is under golden's limit 900" in text


def test_a_damaged_history_is_a_remark(tmp_path: Path) -> None:
    with_nights(tmp_path)
    path = history_path(tmp_path)
    path.write_text(path.read_text().replace("bench-2", "bench-9"))
    latest = path.with_name("latest.json")
    latest.write_text('{"summary": 3}')
    remarks = gather(tmp_path / "results", tmp_path / "golden", tmp_path).remarks
    assert any(r.startswith("No nights are shown: history") and "line" in r for r in remarks)
    assert any("last night's summary is not shown" in r for r in remarks)
    assert cells(Page(make(tmp_path)[0])) == 0


def test_the_last_night_in_words(tmp_path: Path) -> None:
    with_nights(tmp_path)
    document = {
        "summary": "Nightly: ok <script>",
        "skipped": [{"name": "p/ixrt", "reason": "no device"}],
    }
    history_path(tmp_path).with_name("latest.json").write_text(json.dumps(document))
    for text in map(Page, make(tmp_path)):
        assert "Skipped: p/ixrt: no device." in text.text.replace("\\", "")
        assert not text.all("script")


def test_changed_answers_are_shown_with_their_passages(tmp_path: Path) -> None:
    with_nights(tmp_path)
    html, markdown = make(tmp_path)
    page = Page(html)
    text = " ".join(page.text.split())
    assert "2 of 8 answers changed" in text
    assert "2 lost, 0 gained" in text
    assert "✓ right q2" in text
    assert "✗ wrong q3" in text
    assert "q0 q1 [before: q2 ] [now: q3 ] q4 q5 q6 q7" in text.replace("]", " ]").replace(
        "  ", " "
    )
    assert "| ✓ q2 | ✗ q3 | q2 |" in markdown


def test_changed_answers_whose_files_are_gone(tmp_path: Path) -> None:
    with_nights(tmp_path)
    shutil.rmtree(tmp_path / "results" / "nightly" / "predictions")
    remarks = gather(tmp_path / "results", tmp_path / "golden", tmp_path).remarks
    assert any("have not been kept" in remark for remark in remarks)


def test_a_run_after_the_last_night_is_compared_with_it(tmp_path: Path) -> None:
    with_nights(tmp_path)
    now = {key: key for key in QUESTIONS}
    folder = write_run(tmp_path, predictions=now, finished="2027-01-01T00:00:00Z")
    write_verdict(folder)
    (view,) = gather(tmp_path / "results", tmp_path / "golden", tmp_path).answers
    assert "2 of 8" in view.sentence
    assert "0 lost, 2 gained" in view.sentence
    assert "to 2027-01-01" in view.sentence


def test_changed_answers_of_another_dataset_are_a_remark(tmp_path: Path) -> None:
    full(tmp_path)
    hashes = [keep_answers(tmp_path), keep_answers(tmp_path, {"x": "y"})]
    cell = nights(
        SAMPLE, [800.0] * 2, predictions_sha256=lambda n: hashes[n],
        provenance={"dataset": {"sha256": "0" * 64}},
    )  # fmt: skip
    write_history(tmp_path, cell)
    remarks = gather(tmp_path / "results", tmp_path / "golden", tmp_path).remarks
    assert any("no run here was made over their dataset" in remark for remark in remarks)


def test_disturbances_are_shown(tmp_path: Path) -> None:
    entry = {"what": "other process", "detail": "java <b>", "share": 0.4, "affects": "qps"}
    value = {"min": 1.0, "median": 2.0, "max": 3.0}
    samples = {"count": 4, "values": {"clock_mhz": value}, "unseen": ["power: no sensor"]}
    write_run(tmp_path, disturbances=[entry], samples=samples)
    text = Page(make(tmp_path)[0]).text
    for expected in ("1 disturbance;", "java <b>", "40.0%", "in 4 samples", "power: no sensor"):
        assert expected in text, expected
    write_run(tmp_path, disturbances=[], samples=samples)
    assert "Nothing that was watched disturbed the run." in Page(make(tmp_path)[0]).text


def test_nothing_injects_through_the_history(tmp_path: Path) -> None:
    full(tmp_path)
    hashes = [keep_answers(tmp_path), keep_answers(tmp_path, dict.fromkeys(QUESTIONS, HOSTILE))]
    known = provenance(tmp_path)
    # A history is JSON in UTF-8 as well: half a character is written as an escape.
    cell = nights(
        replace(SAMPLE, machine=HOSTILE), [800.0, None, 800.0],
        predictions_sha256=lambda n: None if n == 1 else hashes[n // 2],
        provenance=lambda n: {**known, HOSTILE: f"{HOSTILE}{n}"},
    )  # fmt: skip
    write_history(tmp_path, cell)
    html, markdown = make(tmp_path)
    page = Page(html)
    assert not page.all("script")
    assert "8 of 8 answers changed" in page.text
    assert "\x1b" not in html + markdown
    assert "<script" not in markdown


def test_nights_read_without_eyes(tmp_path: Path) -> None:
    with_nights(tmp_path)
    page = Page(make(tmp_path)[0])
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(svg["role"] == "img" and svg["aria-labelledby"] for svg in page.all("svg"))
    identifiers = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(identifiers) == len(set(identifiers))
    targets = [a["href"] for a in page.all("a")]
    assert targets[0] == "#main"
    assert {str(target)[1:] for target in targets} <= set(identifiers)
    assert "prefers-reduced-motion" in make(tmp_path)[0]


def test_the_page_with_nights_stands_alone(tmp_path: Path) -> None:
    with_nights(tmp_path)
    html = make(tmp_path)[0]
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert not re.search(r"://|url\(|@import", html)
    assert {str(a["href"])[0] for a in page.all("a")} == {"#"}


def test_many_nights_are_judged_and_few_drawn(tmp_path: Path) -> None:
    full(tmp_path)
    write_history(tmp_path, nights(SAMPLE, [800.0] * 130))
    report = gather(tmp_path / "results", tmp_path / "golden", tmp_path)
    assert report.nights is not None
    (cell,) = report.nights.cells
    assert cell.qps is not None
    assert len(cell.qps.points) == 120
    assert report.nights.overview.rows[0].cells[5] == "130"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(1.0, 1e6), st.floats(1e-3, 1e5), st.sampled_from(["good", "unclear"])),
        max_size=30,
    ),
    st.none() | st.tuples(st.floats(1e-3, 1e5), st.floats(0, 1)),
)
def test_trends_stay_in_their_plot(
    found: list[tuple[float, float, str]], promise: tuple[float, float] | None
) -> None:
    samples, time = [], 0.0
    for step, value, kind in found:
        time += step
        samples.append(Sample(time, value, kind, "", value * 0.9, value * 1.1))
    golden = promise and Promise(promise[0], promise[0] * promise[1])
    trend = trend_chart("t", "d", samples, golden, [], [], 0.01, Table("", [], []))
    if trend is None:
        assert not samples
        return
    assert len(trend.points) == len(samples)
    for point in trend.points:
        assert all(0 <= place <= 1 for place in (point.x, point.y, point.low, point.high))
    good = sum(sample.kind == "good" for sample in samples)
    assert sum(map(len, trend.lines)) <= good
    assert all(0 <= mark.x <= 1 for mark in (*trend.ticks, *trend.levels))
    if trend.band:
        assert 0 <= trend.band.low <= trend.band.high <= 1


def test_a_trend_breaks_at_missing_nights_alone() -> None:
    kinds = ["good", "good", "unclear", "good", "good", "good", "good"]
    times = [0, 1, 2, 3, 4, 8, 9]
    samples = [Sample(t, 100.0, k, "") for t, k in zip(times, kinds, strict=True)]
    trend = trend_chart("t", "d", samples, None, [], [], 4.0, Table("", [], []))
    assert trend is not None
    assert list(map(len, trend.lines)) == [4, 2]


def test_a_distant_promise_does_not_flatten_a_trend() -> None:
    samples = [Sample(t, 1440.0 + t, "good", "") for t in range(9)]
    trend = trend_chart("t", "d", samples, Promise(1444.0, 900.0), [], [], 50.0, Table("", [], []))
    assert trend is not None
    assert trend.band is not None
    assert trend.band.limit is None
    assert trend.band.low == 0
    assert 0.4 < trend.band.high < 0.6


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
