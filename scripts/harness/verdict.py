"""A verdict where people look: verify.json, JUnit XML, and a table on the terminal."""

from __future__ import annotations

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite
from rich import box
from rich.console import Console
from rich.table import Table

from .files import to_json, write_if_changed
from .paths import RESULTS
from .verify import FAIL, PASS, UNCLEAR, UNPROMISED, Check, Verdict

VERIFY = RESULTS / "verify.json"
JUNIT = RESULTS / "verify.xml"
_STYLE = {PASS: "green", FAIL: "bold red", UNPROMISED: "yellow", UNCLEAR: "bold yellow"}


def write(verdict: Verdict) -> None:
    """Write verify.json and verify.xml, untouched where they say so already."""
    write_if_changed(JUNIT, junit_xml(verdict))
    write_if_changed(VERIFY, to_json(verdict.as_json()))


def withdraw() -> None:
    """Remove verify.json and verify.xml."""
    for path in (VERIFY, JUNIT):
        path.unlink(missing_ok=True)


def junit_xml(verdict: Verdict) -> str:
    """The checks as a JUnit test suite: unpromised is skipped, inconclusive an error."""
    suite = TestSuite(verdict.run)
    for check in verdict.checks:
        case = TestCase(check.name, classname=verdict.run)
        if check.status == FAIL:
            case.result = [Failure(check.note)]
        elif check.status == UNCLEAR:
            case.result = [Error(check.note)]
        elif check.status == UNPROMISED:
            case.result = [Skipped(check.note)]
        suite.add_testcase(case)
    report = JUnitXml()
    report.add_testsuite(suite)
    text: str = report.tostring().decode()  # type: ignore[no-untyped-call]
    return text + "\n"


def show(verdict: Verdict) -> None:
    """Print the checks as a table that fits 80 columns, what went wrong, and the verdict."""
    console = Console(highlight=False)
    table = Table(box=box.SIMPLE_HEAD, title=verdict.run, title_justify="left", pad_edge=False)
    for column in ("check", "expected", "actual", "limit"):
        table.add_column(column, justify="left" if column == "check" else "right")
    table.add_column("status")
    for check in verdict.checks:
        table.add_row(
            check.name,
            *(_cell(value) for value in (check.expected, check.actual, check.limit)),
            f"[{_STYLE[check.status]}]{check.status}[/]",
        )
    console.print(table)
    for check in verdict.checks:
        if check.note:
            console.print(
                f"{check.status}: {check.name}: {check.note}", soft_wrap=True, markup=False
            )
    console.print(
        f"[{_STYLE[verdict.status]}]verify: {verdict.status}[/], {_count(verdict.checks)}"
    )


def _cell(value: str | float | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    # Six digits: a cosine of 0.99998 must not read as 1.
    return f"{value:.6g}"


def _count(checks: list[Check]) -> str:
    states = [check.status for check in checks]
    named = [(state, states.count(state)) for state in (PASS, FAIL, UNCLEAR, UNPROMISED)]
    return ", ".join(f"{number} {state}" for state, number in named if number)
