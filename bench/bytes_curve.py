"""Quality against cost as an SVG file: x on a logarithmic axis, y linear from its lowest value, a name at each line's end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

__all__ = ["Line", "draw_lines"]

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 400, 60, 180, 40, 46
_COLOURS = ("#3b6fb6", "#d9822b", "#3f9c6b", "#a8518a", "#b8a12e", "#4aa6b5", "#c2504a", "#7a7a7a")
_STYLE = (
    "text{font:12px sans-serif;fill:#222}.t{font-weight:bold}.g{stroke:#8886;stroke-width:.6}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}}"
)


class Line(NamedTuple):
    """A name and its points (x above 0, y), x rising."""

    name: str
    points: Sequence[tuple[float, float]]


def draw_lines(title: str, lines: Sequence[Line], x_name: str, y_name: str) -> str:
    """The text of an SVG file.

    Args:
        title: stands above, and is read out.
        lines: those without a point are left out.
        x_name: of the axis below.
        y_name: of the axis at the left.
    """
    lines = [line for line in lines if line.points]
    points = [p for line in lines for p in line.points]
    decades = [math.floor(math.log10(min(x for x, _ in points))), math.ceil(math.log10(max(x for x, _ in points)))]
    decades[1] = max(decades[1], decades[0] + 1)
    ticks = _ticks([y for _, y in points])
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - decades[0]) / (decades[1] - decades[0])
        return _LEFT + across * (right - _LEFT), bottom - (y - ticks[0]) / (ticks[-1] - ticks[0]) * (bottom - _TOP)

    out = [f'<text class="t" x="8" y="18">{escape(title)}</text>']
    out.append(f'<text x="8" y="{_TOP - 6}">{escape(y_name)}</text>')
    for y in ticks:
        h = at(10.0 ** decades[0], y)[1]
        out.append(f'<line class="g" x1="{_LEFT}" x2="{right}" y1="{h:.1f}" y2="{h:.1f}"/>')
        out.append(f'<text x="{_LEFT - 6}" y="{h + 4:.1f}" text-anchor="end">{y:.3g}</text>')
    for e in range(decades[0], decades[1] + 1):
        w = at(10.0**e, ticks[0])[0]
        out.append(f'<line class="g" x1="{w:.1f}" x2="{w:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        out.append(f'<text x="{w:.1f}" y="{bottom + 16}" text-anchor="middle">{_bytes(10.0**e)}</text>')
    out.append(f'<text x="{(_LEFT + right) / 2:.0f}" y="{bottom + 34}" text-anchor="middle">{escape(x_name)}</text>')
    label = _TOP - 8.0
    order = sorted(range(len(lines)), key=lambda i: -lines[i].points[-1][1])
    for i in order:
        name, spots = lines[i].name, [at(*p) for p in lines[i].points]
        colour = _COLOURS[i % len(_COLOURS)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        for (x, y), (size, value) in zip(spots, lines[i].points, strict=True):
            words = escape(f"{name}: {_bytes(size)}, {value:.4f}")
            out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"><title>{words}</title></circle>')
        label = max(label + 16, spots[-1][1] + 4)
        out.append(f'<text x="{right + 12}" y="{label:.1f}" style="fill:{colour}">{escape(name)}</text>')
    words = escape(title, quote=True)
    size_of = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size_of} role="img" aria-label="{words}"><style>{_STYLE}</style>'
    return head + "\n".join(out) + "</svg>\n"


def _ticks(values: Sequence[float]) -> list[float]:
    """Four to seven round numbers around the values."""
    low, high = min(values), max(values)
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 5))
    step = next(f * power for f in (1, 2, 5, 10) if f * power * 6 >= span)
    first = math.floor(low / step)
    return [step * i for i in range(first, max(math.ceil(high / step), first + 1) + 1)]


def _bytes(size: float) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size:.0f} B"
