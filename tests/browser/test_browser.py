"""The report in a real browser, as its readers open it: from a file, on a phone and on a wall."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import Page, browser, find_browser
from full_tools import npm_package
from test_report import make, with_nights

pytestmark = pytest.mark.full

AXE = "axe-core@4.14.1"
AXE_SHA512 = (
    "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
)
PHONE, WALL = 390, 1600
SCHEMES = ("light", "dark")
# What axe calls serious or worse is a wall for somebody.
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with all its parts."""
    root = tmp_path_factory.mktemp("a report ü")
    with_nights(root)
    make(root)
    return root / "results" / "report.html"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if find_browser() is None:
        pytest.skip("needs Debian's package chromium")
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture(scope="module")
def axe() -> str:
    return (npm_package(AXE, AXE_SHA512) / "axe.min.js").read_text(encoding="utf-8")


def events(page: Page, *methods: str) -> list[dict[str, Any]]:
    return [event for event in page.events if event["method"] in methods]


@pytest.mark.parametrize("width", [PHONE, WALL])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_loads_without_errors_and_nothing_but_itself(
    page: Page, report: Path, width: int, scheme: str
) -> None:
    page.open(report, width, prefers_color_scheme=scheme)
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    complaints = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    assert events(page, *complaints) == []
    requests = events(page, "Network.requestWillBeSent")
    assert [event["params"]["request"]["url"] for event in requests] == [report.as_uri()]


@pytest.mark.parametrize("width", [PHONE, 800, WALL])
def test_nothing_is_wider_than_the_window(page: Page, report: Path, width: int) -> None:
    page.open(report, width)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("width", [PHONE, WALL])
def test_charts_are_drawn_and_their_letters_large_enough(
    page: Page, report: Path, width: int
) -> None:
    page.open(report, width)
    charts = json.loads(
        page.evaluate(
            "JSON.stringify([...document.querySelectorAll('svg')].map(svg => ({"
            "width: svg.getBoundingClientRect().width,"
            "marks: [...svg.querySelectorAll('circle, rect.bar, .missing')]"
            ".filter(one => one.getBoundingClientRect().width > 0).length,"
            "letters: Math.min(...[...svg.querySelectorAll('text')]"
            ".map(one => one.getBoundingClientRect().height))})))"
        )
    )
    assert len(charts) == 8
    for chart in charts:
        assert chart["width"] > 250
        assert chart["marks"] > 0
        assert chart["letters"] >= 10


@pytest.mark.parametrize("width", [PHONE, WALL])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("opened", [False, True])
def test_axe_finds_nothing_serious(
    page: Page, report: Path, axe: str, width: int, scheme: str, opened: bool
) -> None:
    page.open(report, width, prefers_color_scheme=scheme)
    if opened:
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    page.evaluate(f"{axe};0")
    found = page.evaluate(
        "axe.run().then(done => done.violations.map(one => "
        "[one.impact, one.id, one.nodes.length, one.nodes[0].html]))"
    )
    assert [one for one in found if one[0] in SERIOUS] == []
    # Axe has looked: it knows of rules that hold.
    assert page.evaluate("axe.run().then(done => done.passes.length)") > 15


def test_the_keyboard_reaches_everything(page: Page, report: Path) -> None:
    page.open(report, WALL)
    focused = (
        "(() => { const one = document.activeElement, style = getComputedStyle(one);"
        "return [one.tagName, one.getAttribute('href') || '', style.outlineStyle,"
        "one.getBoundingClientRect().left >= 0]; })()"
    )
    page.press("Tab")
    assert page.evaluate(focused) == ["A", "#main", "solid", True]
    page.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    # From there on, each summary in turn; Enter opens it.
    page.press("Tab")
    assert page.evaluate(focused) == ["SUMMARY", "", "solid", True]
    page.press("Enter")
    assert page.evaluate("document.activeElement.parentElement.open") is True
    wanted = page.evaluate("document.querySelectorAll('main summary').length")
    seen = 1
    while page.evaluate("document.activeElement.tagName") == "SUMMARY":
        page.press("Tab")
        seen += page.evaluate("document.activeElement.tagName") == "SUMMARY"
    assert seen == wanted


def test_reduced_motion_is_honoured(page: Page, report: Path) -> None:
    scroll = "getComputedStyle(document.documentElement).scrollBehavior"
    page.open(report, WALL, prefers_reduced_motion="reduce")
    assert page.evaluate(scroll) == "auto"
    page.open(report, WALL, prefers_reduced_motion="no-preference")
    assert page.evaluate(scroll) == "smooth"


def test_it_is_well_formed(report: Path) -> None:
    """As the HTML standard reads it: html5lib names every error that a browser forgives."""
    html5lib = pytest.importorskip("html5lib")
    parser = html5lib.HTMLParser(strict=False)
    parser.parse(report.read_text(encoding="utf-8"))
    assert parser.errors == []
