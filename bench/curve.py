"""Curves as SVG files: one drawing serves a light and a dark page, and needs no plotting library."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Curve", "Panel", "draw", "spread"]

_WIDTH, _HEIGHT = 560, 330  # of a panel
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 150, 34, 44
_COLOURS = ("#3b6fb6", "#d9822b", "#3f9c6b", "#a8518a", "#b8a12e", "#4aa6b5", "#c2504a", "#7a7a7a")
_STYLE = (
    "text{font:12px sans-serif;fill:#222}.t{font-weight:bold;font-size:13px}.g{stroke:#8886;stroke-width:.6}"
    ".h{stroke-dasharray:5 4}.o{fill:#fff;stroke-width:1.5}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.o{fill:#111}}"
)
_LINE = 14  # between two labels


@dataclass(frozen=True)
class Curve:
    """A line of a panel.

    Attributes:
        name: stands at its right end.
        points: (x, y), x rising; both above zero on logarithmic axes.
        dashed: a reference, drawn without marks.
        colour: number of its colour, so that one thing keeps it over panels.
        hollow: x of the points that are drawn hollow.
    """

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False
    colour: int = 0
    hollow: Collection[float] = ()


@dataclass(frozen=True)
class Panel:
    """Axes with curves.

    Attributes:
        title: above.
        x: what the axis below says.
        curves: one or more, each with a point.
        x_text, y_text: value -> text of a tick.
        log: the axes that are logarithmic: ``"xy"``, ``"x"`` or neither.
        low: where a linear y begins; ``None``: at the lowest value.
    """

    title: str
    x: str
    curves: Sequence[Curve]
    x_text: Callable[[float], str]
    y_text: Callable[[float], str]
    log: str = "xy"
    low: float | None = 0.0


def draw(title: str, panels: Sequence[Panel], columns: int = 2) -> str:
    """Panels in rows, as the text of an SVG file."""
    columns = max(1, min(columns, len(panels)))
    rows = math.ceil(len(panels) / columns)
    width, height = columns * _WIDTH, rows * _HEIGHT + 26
    out = [f'<text class="t" x="8" y="18">{escape(title)}</text>']
    for i, panel in enumerate(panels):
        left, top = i % columns * _WIDTH, i // columns * _HEIGHT + 26
        out.append(f'<g transform="translate({left} {top})">{_panel(panel)}</g>')
    words = escape(f"{title}: {'; '.join(p.title for p in panels)}", quote=True)
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{words}"><style>{_STYLE}</style>'
    return head + "\n".join(out) + "</svg>\n"


def _panel(panel: Panel) -> str:
    points = [p for c in panel.curves for p in c.points]
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    x_scale, y_scale = (math.log10 if axis in panel.log else float for axis in "xy")
    x_ticks = _decades(xs) if "x" in panel.log else sorted(set(xs))
    y_ticks = _decades(ys) if "y" in panel.log else _linear(min(ys) if panel.low is None else panel.low, max(ys))
    x_low, x_high = x_scale(min(*xs, *x_ticks)), x_scale(max(*xs, *x_ticks))
    y_low, y_high = y_scale(min(y_ticks)), y_scale(max(y_ticks))
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x_scale(x) - x_low) / ((x_high - x_low) or 1.0)
        up = (y_scale(y) - y_low) / ((y_high - y_low) or 1.0)
        return _LEFT + across * (right - _LEFT), bottom - up * (bottom - _TOP)

    out = [f'<text x="{_LEFT}" y="20" class="t">{escape(panel.title)}</text>']
    for tick in y_ticks:
        y = at(xs[0], tick)[1]
        out.append(f'<line class="g" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(panel.y_text(tick))}</text>')
    for tick in x_ticks:
        x = at(tick, y_ticks[0])[0]
        out.append(f'<line class="g" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        out.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{escape(panel.x_text(tick))}</text>')
    out.append(f'<text x="{(_LEFT + right) / 2:.0f}" y="{bottom + 34}" text-anchor="middle">{escape(panel.x)}</text>')
    ends = spread([at(*c.points[-1])[1] for c in panel.curves], _TOP, bottom)
    for curve, end in zip(panel.curves, ends, strict=True):
        out.append(_line(curve, [at(*p) for p in curve.points], end, right, panel))
    return "".join(out)


def _line(curve: Curve, spots: Sequence[tuple[float, float]], end: float, right: float, panel: Panel) -> str:
    colour = _COLOURS[curve.colour % len(_COLOURS)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    style = ' class="h"' if curve.dashed else ""
    out = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"{style}/>']
    if not curve.dashed:
        for (x, y), point in zip(spots, curve.points, strict=True):
            words = escape(f"{curve.name}: {panel.x_text(point[0])}, {panel.y_text(point[1])}")
            kind = f'class="o" stroke="{colour}"' if point[0] in curve.hollow else f'fill="{colour}"'
            out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" {kind}><title>{words}</title></circle>')
    last = spots[-1]
    out.append(f'<line class="g" x1="{last[0]:.1f}" x2="{right + 12}" y1="{last[1]:.1f}" y2="{end:.1f}"/>')
    out.append(f'<text x="{right + 15}" y="{end + 4:.1f}" style="fill:{colour}">{escape(curve.name)}</text>')
    return "".join(out)


def spread(wanted: Sequence[float], low: float, high: float, apart: float = _LINE) -> list[float]:
    """Places near those wanted, in the same order, at least ``apart`` from each other, within the bounds if they fit."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed: list[float] = []
    for i in order:
        placed.append(max(wanted[i], placed[-1] + apart if placed else low))
    for k in range(len(placed) - 1, -1, -1):  # what was pushed out below goes back up
        limit = high if k == len(placed) - 1 else placed[k + 1] - apart
        placed[k] = min(placed[k], limit)
    out = [0.0] * len(wanted)
    for i, y in zip(order, placed, strict=True):
        out[i] = y
    return out


def _decades(values: Sequence[float]) -> list[float]:
    low, high = math.floor(math.log10(min(values)) + 1e-9), math.ceil(math.log10(max(values)) - 1e-9)
    return [10.0**e for e in range(low, max(high, low + 1) + 1)]


def _linear(low: float, high: float) -> list[float]:
    """Up to seven round numbers around the values."""
    span = (high - low) or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(span / 4))
    step = next(f * step for f in (1, 2, 2.5, 5, 10) if f * step * 5 >= span)
    first = math.floor(low / step + 1e-9)
    return [step * i for i in range(first, max(math.ceil(high / step - 1e-9), first + 1) + 1)]
