"""Dot plots as SVG files: names down the side, one panel per number, one dot per thing; no plotting library."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Dots", "Strip", "draw"]

_COLOURS = ("#3b6fb6", "#d9822b", "#3f9c6b", "#a8518a")
_LEFT, _PANEL, _GAP, _ROW, _HEAD, _FOOT = 92, 168, 26, 19, 46, 24
_STYLE = (
    "text{font:12px sans-serif;fill:#222}.t{font-weight:bold;font-size:13px}.g{stroke:#8886;stroke-width:.6}"
    ".k{font-size:10px}@media(prefers-color-scheme:dark){text{fill:#ddd}}"
)


@dataclass(frozen=True)
class Dots:
    """One panel: a number of every name.

    Attributes:
        title: what the number is.
        values: name -> one number per kind of dot; ``None``: there is none.
        text: number -> text of a tick and of a dot's tooltip.
        log: of the axis; else it begins at ``low``.
        low: where a linear axis begins.
        kinds: what the dots are, in the order of their colours; empty: as the strip says.
    """

    title: str
    values: dict[str, Sequence[float | None]]
    text: Callable[[float], str]
    log: bool = False
    low: float = 0.0
    kinds: Sequence[str] = ()


@dataclass(frozen=True)
class Strip:
    """Panels side by side that share their names."""

    title: str
    names: Sequence[str]
    panels: Sequence[Dots]


def draw(title: str, strips: Sequence[Strip], kinds: Sequence[str]) -> str:
    """The text of an SVG file.

    Args:
        title: stands above, and is read out.
        strips: one below the other.
        kinds: what the dots of a name are, in the order of their colours.
    """
    count = max(len(strip.panels) for strip in strips)
    width = _LEFT + count * (_PANEL + _GAP)
    out = [f'<text class="t" x="8" y="18">{escape(title)}</text>', _legend(8, 34, kinds, "")]
    top = 46
    for strip in strips:
        out.append(f'<g transform="translate(0 {top})">{_strip(strip, kinds)}</g>')
        top += _HEAD + len(strip.names) * _ROW + _FOOT
    words = escape(f"{title}: {'; '.join(s.title for s in strips)}", quote=True)
    size = f'width="{width}" height="{top}" viewBox="0 0 {width} {top}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{words}"><style>{_STYLE}</style>'
    return head + "\n".join(out) + "</svg>\n"


def _legend(x: float, y: float, kinds: Sequence[str], style: str) -> str:
    out = []
    for i, kind in enumerate(kinds):
        out.append(f'<circle cx="{x + 4:.0f}" cy="{y - 4}" r="4" fill="{_COLOURS[i % len(_COLOURS)]}"/>')
        out.append(f'<text{style} x="{x + 12:.0f}" y="{y}">{escape(kind)}</text>')
        x += 22 + (5.5 if style else 7) * len(kind)
    return "".join(out)


def _strip(strip: Strip, kinds: Sequence[str]) -> str:
    bottom = _HEAD + len(strip.names) * _ROW
    out = [f'<text class="t" x="8" y="16">{escape(strip.title)}</text>']
    for i, name in enumerate(strip.names):
        out.append(f'<text x="{_LEFT - 10}" y="{_HEAD + i * _ROW + 13}" text-anchor="end">{escape(name)}</text>')
    for k, panel in enumerate(strip.panels):
        left = _LEFT + k * (_PANEL + _GAP)
        out.append(f'<text x="{left}" y="{_HEAD - 16 if panel.kinds else _HEAD - 6}">{escape(panel.title)}</text>')
        if panel.kinds:
            out.append(_legend(left, _HEAD - 3, panel.kinds, ' class="k"'))
        found = [v for name in strip.names for v in panel.values.get(name, ()) if v is not None and (v > 0 or not panel.log)]
        if not found:
            continue
        ticks = _ticks(found, panel)
        spots = [left + _PANEL * at for at in _along(ticks, ticks, panel.log)]
        for tick, x in zip(ticks, spots, strict=True):
            out.append(f'<line class="g" x1="{x:.1f}" x2="{x:.1f}" y1="{_HEAD}" y2="{bottom}"/>')
            out.append(f'<text class="k" x="{x:.1f}" y="{bottom + 13}" text-anchor="middle">{escape(panel.text(tick))}</text>')
        for i, name in enumerate(strip.names):
            y = _HEAD + i * _ROW + 9
            out.append(f'<line class="g" x1="{left}" x2="{left + _PANEL}" y1="{y}" y2="{y}"/>')
            for j, value in enumerate(panel.values.get(name, ())):
                if value is None or (panel.log and value <= 0):
                    continue
                x = left + _PANEL * _along([value], ticks, panel.log)[0]
                words = f"{name}, {(panel.kinds or kinds)[j]}: {panel.text(value)}"
                colour = _COLOURS[j % len(_COLOURS)]
                dot = f'<circle cx="{x:.1f}" cy="{y}" r="4.5" fill="{colour}" fill-opacity=".85">'
                out.append(f"{dot}<title>{escape(words)}</title></circle>")
    return "".join(out)


def _along(values: Sequence[float], ticks: Sequence[float], log: bool) -> list[float]:
    """Where values lie between the first tick (0) and the last (1)."""
    each = [math.log10(v) if log else v for v in (ticks[0], ticks[-1], *values)]
    return [(v - each[0]) / (each[1] - each[0]) for v in each[2:]]


def _ticks(values: Sequence[float], panel: Dots) -> list[float]:
    """Decades, at most five; or round steps."""
    if panel.log:
        first, last = math.floor(math.log10(min(values)) + 1e-9), math.ceil(math.log10(max(values)) - 1e-9)
        last = max(last, first + 1)
        apart = math.ceil((last - first) / 4)
        return [10.0**e for e in range(first, last + apart, apart)]
    span = max(max(values) - panel.low, 1e-3)
    step = 10.0 ** math.floor(math.log10(span / 4))
    step = next(f * step for f in (1, 2, 2.5, 5, 10) if f * step * 4 >= span * (1 - 1e-9))
    return [panel.low + step * i for i in range(math.ceil(span / step - 1e-9) + 1)]
