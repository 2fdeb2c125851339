"""A diagnosis on the terminal, no line longer than 80 columns."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..compare import COLUMNS
from ..errors import one_line
from ..results import NOTHING
from .harm import TIED

_LOST = "NaN/inf"


def show(made: dict[str, Any], console: Console | None = None) -> None:
    """Print a diagnosis as diagnose.json holds it."""
    console = console or Console(highlight=False, markup=False, emoji=False)
    # A narrower terminal is honoured, a wider one is not needed.
    console.width = min(console.width, COLUMNS)
    options, windows, logits = made["options"], made["windows"], made["logits"]
    console.print(
        _text(
            f"{options['profile']}, {options['backend']} {options['precision']}: "
            f"{len(windows['worst'])} worst windows ({windows['chosen_by']}) and "
            f"{len(windows['random'])} by chance, {windows['tokens']} tokens"
        )
    )
    if logits["reference"] is not None:
        console.print(
            _text(
                "reference: FP32 with the weights as they are before quantization; its logits "
                f"are {_error(logits['reference'])} from the profile's own FP32"
            )
        )
    console.print()
    console.print(_places(made["places"]))
    console.print(
        _text(
            "error: relative, over all real tokens; local: the same when given the reference's "
            "tensors; times: what the precision explains of that; range: the largest value "
            "over what the type, or the input's scale, holds; sat.: input beyond that scale"
        )
    )
    console.print()
    engine = "" if logits["engine"] is None else f", the engine's {_error(logits['engine'])}"
    console.print(
        _text(
            f"logits: with all tensors in sight {_error(logits['tapped'])} from the "
            f"reference{engine}; apart from each other {_error(logits['apart'])}"
        )
    )
    _show_verdict(made["verdict"], console)
    if made["harm"] is not None:
        _show_harm(made["harm"], console)
    _show_remedy(made, console)


def _places(places: list[dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True, overflow="ellipsis")
    for heading in ("error", "cosine", "local", "times", "range", "sat."):
        table.add_column(heading, justify="right", no_wrap=True)
    for place in places:
        used = place["used"] if place["input_used"] is None else place["input_used"]
        saturated = place["saturated"]
        table.add_row(
            _text(("» " if place["at_fault"] else "  ") + place["name"]),
            _error(place["error"]),
            f"{place['cosine']:.5f}",
            _error(place["local"]),
            NOTHING if place["excess"] is None else f"{place['excess']:.2g}",
            NOTHING if used < 1e-9 else f"{used:.2g}",
            NOTHING if saturated is None else f"{100 * saturated:.2g}%",
        )
    return table


def _show_verdict(verdict: dict[str, Any], console: Console) -> None:
    place = verdict["place"]
    head = verdict["kind"] if place is None else f"first at {place}: {verdict['kind']}"
    console.print(_text(f"diagnose: {head}"))
    for sentence in verdict["sentences"]:
        console.print(_text(f"  {sentence}"))
    if verdict["others"]:
        listed = ", ".join(verdict["others"][:5]) + (", …" if verdict["others"][5:] else "")
        console.print(_text(f"  behind it as well: {listed}"))


def _show_harm(harm: dict[str, Any], console: Console) -> None:
    console.print()
    console.print(_text("relative error of the logits with one kind's own error alone"))
    for name, value in harm["kinds"].items():
        console.print(_text(f"  {name:<28}{value:.3g}"))
    worst = max(harm["kinds"].values())
    tied = [kind for kind, value in harm["kinds"].items() if value >= TIED * worst]
    if len(tied) > 1:
        console.print(_text(f"within {1 - TIED:.0%} of each other, so a tie: {_listed(tied)}"))
    name, value = next(iter(harm["layers"].items()))
    console.print(_text(f"most harmful: {name}, {value:.3g} alone"))


def _show_remedy(made: dict[str, Any], console: Console) -> None:
    remedy = made["remedy"]
    console.print()
    if remedy is None:
        console.print(_text(f"no remedy was tried: {made['no_remedy']}"))
        return
    before, after, whole = (remedy[name] for name in ("before", "after", "reference"))
    console.print(
        _text(
            f"with {_listed(remedy['places'])} from the FP32 reference, "
            f"{remedy['questions']} questions (one answer is "
            f"{100 / remedy['questions']:.2g} points):"
        )
    )
    back = after["f1"] - before["f1"]
    cost = remedy["qps_after"] / remedy["qps_before"] - 1
    noise = f"repeats spread by {remedy['qps_spread']:.1%}"
    unfused = "" if remedy["fused"] else "; both without the engine's fusions"
    console.print(
        _text(f"  F1 {after['f1']:.2f}: {back:+.2f} points; the reference has {whole['f1']:.2f}")
    )
    console.print(_text(f"  QPS {remedy['qps_after']:.4g}: {cost:+.1%} ({noise}{unfused})"))


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _error(value: float | None) -> str:
    return _LOST if value is None else f"{value:.1e}"


def _text(value: str) -> Text:
    """Text that rich takes as it is: nothing in it is markup or moves the cursor."""
    start = len(value) - len(value.lstrip())
    return Text(value[:start] + one_line(value))
