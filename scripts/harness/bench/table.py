"""bench.md: the comparisons as tables for the documentation."""

from __future__ import annotations

from typing import Any

from ..charts import Row, Table, columns
from ..measure import NOISE_SPREAD
from ..results import NOTHING


def markdown(document: dict[str, Any]) -> str:
    """All comparisons of bench.json, where they were made, and which systems failed."""
    return "\n".join(
        [
            *_surroundings(document),
            *(line for part in document["comparisons"] for line in _comparison(part)),
        ]
    )


def ranked(part: dict[str, Any]) -> list[dict[str, Any]]:
    """A comparison's systems, the fastest first and those that failed last."""
    return sorted(part["systems"], key=lambda s: (s["failure"] is not None, -s.get("rate", 0.0)))


def _surroundings(document: dict[str, Any]) -> list[str]:
    dataset, git, environment = document["dataset"], document["git"], document["environment"]
    commit = (git["commit"] or "none")[:8] + (" (dirty)" if git["dirty"] else "")
    versions = ", ".join(f"{name} {version}" for name, version in document["packages"].items())
    return [
        f"{document['device']['name']}, {document['finished'][:10]}, commit {commit}. "
        f"Median of {document['repeats']} interleaved passes; spread is (max − min) / median, "
        f"and over {NOISE_SPREAD:.0%} it is noise. The better of "
        "the batch sizes counts. EM and F1 in per cent over "
        f"{dataset['questions']} questions of `{dataset['name']}`.",
        "",
        f"Python {environment['python']}, {_text(versions)}.",
        "",
    ]


def _comparison(part: dict[str, Any]) -> list[str]:
    table = _table(part)
    # A column in which nobody has a value says nothing.
    shown = [
        index
        for index in range(len(table.columns))
        if index == 0 or any(row.cells[index - 1] != NOTHING for row in table.rows)
    ]
    heads = [table.columns[index] for index in shown]
    lines = [
        f"### {_text(part['title'])}",
        "",
        _line([column.label for column in heads]),
        _line(["---:" if column.kind == "number" else "---" for column in heads]),
    ]
    for row in table.rows:
        cells = [f"**{row.head}**" if row.status == "ours" else row.head, *row.cells]
        lines.append(_line([cells[index] for index in shown]))
    lines.append("")
    for system in part["systems"]:
        if system["failure"] is not None:
            lines += [f"{_text(system['title'])} failed: {_text(system['failure'])}", ""]
    return lines


def _table(part: dict[str, Any]) -> Table:
    labels = ("System", "Batch#", f"{part['unit'].capitalize()}/s#", "Spread#", "EM#", "F1#",
              "Logits differ by#", "Memory, MiB#")  # fmt: skip
    rows = [
        Row(_text(system["title"]), _cells(system), status="ours" if system["ours"] else "")
        for system in ranked(part)
    ]
    return Table(part["title"], columns(*labels), rows)


def _cells(system: dict[str, Any]) -> list[str]:
    if system["failure"] is not None:
        return ["failed", *[NOTHING] * 6]
    noise = " (noise)" if system["spread"] > NOISE_SPREAD else ""
    return [
        str(system["batch"]),
        f"{system['rate']:.1f}",
        f"{system['spread']:.1%}{noise}",
        _number(system["exact_match"], ".2f"),
        _number(system["f1"], ".2f"),
        _number(system["difference"], ".2g"),
        _number(system["memory_mib"], ".0f"),
    ]


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None else format(value, form)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


_ESCAPED = str.maketrans({character: f"\\{character}" for character in "\\`*_[]<>|"})


def _text(text: str) -> str:
    return text.translate(_ESCAPED)
