"""power.json as people read it: a table in Markdown and a drawing."""

from __future__ import annotations

import math
from typing import Any

from jinja2 import Environment, StrictUndefined

from .power import SIGMAS, TARGET, WITHIN, found, meets

_SHAPES = ("gaussian", "heavy", "measured", "persistent", "drifting")
# Nights that know nothing of each other, and such as do.
GROUPS = {
    "independent nights": ("gaussian", "heavy", "measured"),
    "persistent (AR(1))": ("persistent",),
    "slow machine drift": ("drifting",),
}
_LEFT, _WIDTH, _HEIGHT = 60, 280, 200
_RIGHT = 410
_TOP = 64
# The false alarms' axis, in machine-nights' shares.
_FALSE = (1e-5, 1e-1)


def markdown(document: dict[str, Any]) -> str:
    """One table with a comparator and one without: a line a kind of noise and sigma.

    Where a line stands for several shapes, each number is that of the worst of them.
    """
    lines: list[str] = []
    for comparator, title in ((True, "With a comparator"), (False, "Without a comparator")):
        lines += [
            f"**{title}**", "",
            "| noise | σ | 5 % found within 1, 3, 10 nights | within 3 after 6 nights | "
            "2 %, 3 %, 10 % found within 3 | false alarms (at most) | re-measured | conclusive | "
            "targets |",
            "|---|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for title, shapes in GROUPS.items():
            for sigma in SIGMAS:
                entries = [
                    entry
                    for entry in document["points"]
                    if (entry["comparator"], entry["sigma"]) == (comparator, sigma)
                    and entry["shape"] in shapes
                ]
                lines.append(_line(title, sigma, entries))
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _line(title: str, sigma: float, entries: list[dict[str, Any]]) -> str:
    def least(loss: float, nights: int, history: str = "full") -> str:
        return _percent(min(found(entry, loss, nights, history)["found"] for entry in entries))

    def most(name: str) -> float:
        return max(float(entry[name]) for entry in entries)

    met = [meets(entry) for entry in entries]
    missed = [name for name in ("found", "false") if not all(one[name] for one in met)]
    cells = (
        title, f"{100 * sigma:.1f} %",
        ", ".join(least(0.05, nights) for nights in WITHIN),
        least(0.05, 3, "few"),
        # A loss of 2 % is about what is allowed: here the most is what counts.
        ", ".join(
            [_percent(max(found(entry, 0.02, 3)["found"] for entry in entries)),
             least(0.03, 3), least(0.10, 3)]
        ),
        f"{_rate(most('false_per_machine_night'))} ({_rate(most('false_upper'))})",
        f"{most('remeasured_per_machine_night'):.2f}",
        _percent(min(entry["conclusive"] for entry in entries)),
        "met" if not missed else "missed: " + ", ".join(missed),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _percent(share: float) -> str:
    # Rounded down: what is not quite all is not called all.
    return f"{math.floor(1000 * share) / 10:.1f} %"


def _rate(share: float) -> str:
    return f"{float(f'{1000 * share:.2g}'):g}"


def svg(document: dict[str, Any]) -> str:
    """Two plots over sigma: losses of 5 % found within 3 nights, and false alarms' upper bounds.

    One line a shape of noise; blue with a comparator, grey without.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    lines = []
    for comparator in (False, True):
        for shape in _SHAPES:
            drawn = (comparator, shape)
            entries = [e for e in document["points"] if (e["comparator"], e["shape"]) == drawn]
            shares = [found(e, TARGET["loss"], int(TARGET["nights"]))["found"] for e in entries]
            x = [_x(e["sigma"]) for e in entries]
            power = _path(x, [_TOP + _HEIGHT * (1 - share) for share in shares], _LEFT)
            false = _path(x, [_log_y(e["false_upper"]) for e in entries], _RIGHT)
            lines.append({"comparator": comparator, "shape": shape, "paths": (power, false)})
    found_at = [
        {"y": _TOP + _HEIGHT * (1 - share), "label": f"{100 * share:g} %"}
        for share in (0.0, 0.25, 0.5, 0.75, 0.99)
    ]
    false_at = [
        {"y": _log_y(10.0**power), "label": f"{10.0 ** (power + 3):g}"} for power in range(-5, 0)
    ]
    good = [e for e in document["points"] if e["comparator"] and e["sigma"] <= TARGET["sigma"]]
    least = min(found(e, TARGET["loss"], int(TARGET["nights"]))["found"] for e in good)
    most = max(e["false_upper"] for e in good)
    summary = (
        f"With a comparator and nights that spread by at most {100 * TARGET['sigma']:g} %, at "
        f"least {_percent(least)} of 5 % losses are found within 3 nights, with at most "
        f"{_rate(most)} false alarms in 1,000 machine-nights (upper 95 % bound)."
    )
    return environment.from_string(_SVG).render(
        lines=lines, panels=(
            {"left": _LEFT, "title": "5 % loss found within 3 nights", "ticks": found_at,
             "target": TARGET["found"], "target_y": _TOP + _HEIGHT * (1 - TARGET["found"])},
            {"left": _RIGHT, "title": "False alarms in 1,000 machine-nights", "ticks": false_at,
             "target": TARGET["false"], "target_y": _log_y(TARGET["false"])},
        ),
        sigmas=[{"x": _x(s), "label": f"{100 * s:g} %"} for s in SIGMAS],
        top=_TOP, width=_WIDTH, height=_HEIGHT, summary=summary,
        note=f"{document['series']:,} series a point; {document['cells']} cells a machine; "
        "false alarms: upper 95 % bound",
    )  # fmt: skip


def _x(sigma: float) -> float:
    """Offset of `sigma` on a logarithmic axis."""
    return _WIDTH * math.log(sigma / SIGMAS[0]) / math.log(SIGMAS[-1] / SIGMAS[0])


def _log_y(share: float) -> float:
    low, high = _FALSE
    clipped = min(max(share, low), high)
    return _TOP + _HEIGHT * (1 - math.log(clipped / low) / math.log(high / low))


def _path(x: list[float], y: list[float], left: float) -> str:
    return "M" + "L".join(f"{left + a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))


_SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 356" role="img" \
aria-labelledby="title desc">
<title id="title">Losses found and false alarms by the noise of a machine's nights</title>
<desc id="desc">{{ summary }}</desc>
<style>
text { font: 12px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: #16191d; }
.head { font-size: 14px; font-weight: 650; } .muted { fill: #4f5863; }
.page { fill: #ffffff; } .grid { stroke: #d5dae0; fill: none; }
.target { stroke: #b3432f; stroke-dasharray: 5 4; fill: none; }
.with, .without { fill: none; stroke-width: 1.8; stroke: #2f6fb5; } .without { stroke: #98a3b0; }
.heavy { stroke-dasharray: 7 3; } .measured { stroke-dasharray: 2 2; }
.persistent { stroke-dasharray: 9 3 2 3; } .drifting { stroke-width: 1; }
@media (prefers-color-scheme: dark) {
text { fill: #e8ebef; } .muted { fill: #a5afbb; } .page { fill: #101318; }
.grid { stroke: #2c333b; } .target { stroke: #e0705c; }
.with { stroke: #5b9be0; } .without { stroke: #5d6874; }
}
</style>
<rect class="page" width="720" height="356"/>
{% for panel in panels %}
<text class="head" x="{{ panel.left - 48 }}" y="24">{{ panel.title }}</text>
{% for tick in panel.ticks %}
<path class="grid" d="M{{ panel.left }} {{ tick.y|round(1) }}h{{ width }}"/>
<text class="muted" x="{{ panel.left - 6 }}" y="{{ (tick.y + 4)|round(1) }}" \
text-anchor="end">{{ tick.label }}</text>
{% endfor %}
{% for sigma in sigmas %}
<text class="muted" x="{{ (panel.left + sigma.x)|round(1) }}" y="{{ top + height + 18 }}" \
text-anchor="middle">{{ sigma.label }}</text>
{% endfor %}
<path class="target" d="M{{ panel.left }} {{ panel.target_y|round(1) }}h{{ width }}"/>
{% for line in lines %}
<path class="{{ "with" if line.comparator else "without" }} {{ line.shape }}" \
d="{{ line.paths[panels.index(panel)] }}"/>
{% endfor %}
{% endfor %}
<text class="muted" x="12" y="44">blue: with a comparator, grey: without</text>
<text class="muted" x="362" y="44">red dashes: the target</text>
<text class="muted" x="12" y="308">x axis: standard deviation of a night's median QPS</text>
<text class="muted" x="12" y="326">lines: Gaussian (thin where the machine drifts), long dashes \
heavy tails, dots measured repeats, mixed AR(1)</text>
<text class="muted" x="12" y="344">{{ note }}</text>
</svg>
"""
