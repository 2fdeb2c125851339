"""GitHub's job page: what a step appends to the file GITHUB_STEP_SUMMARY is shown there."""

from __future__ import annotations

from pathlib import Path

VARIABLE = "GITHUB_STEP_SUMMARY"
# GitHub shows a step's summary up to this size, and none at all beyond it.
MOST_BYTES = 1 << 20
_CUT = "\n\n(cut here: the whole report is among the artifacts)\n"


def append(path: Path, markdown: Path) -> str:
    """Append the report to the summary in `path`, cut between lines where it is too long."""
    taken = path.stat().st_size if path.exists() else 0
    text, room = markdown.read_bytes(), MOST_BYTES - taken
    if len(text) > room:
        # Bytes: a cut at the end of a line divides no character.
        kept = text[: max(0, room - len(_CUT))].rpartition(b"\n")[0]
        text = kept + _CUT.encode() if kept else b""
    with path.open("ab") as stream:
        stream.write(text)
    return f"appended to {path}" if text else "is full; nothing was appended"
