"""Charts as inline SVG: bars per part, a histogram when there are too many parts for bars, one bar of shares.

Colours are CSS classes of the page (``c0``..``c4``), so that one drawing serves light and dark. Every drawing carries a title
and a description for people who do not see it, and every bar its own tooltip.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

__all__ = ["MAX_BARS", "Line", "Series", "bars", "compact", "histogram", "nice", "share_bar"]

MAX_BARS = 96
"""Parts that are drawn one by one; above, the page shows histograms."""

_W, _H = 480, 250  # a phone shows this at 0.7 of its size: labels of 14 stay readable
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 10, 22, 34

Format = Callable[[float], str]


class Series(NamedTuple):
    """One colour of a stack: its name, its class and one value per part."""

    name: str
    style: str
    values: Sequence[int]


class Line(NamedTuple):
    """A marked level, such as what the plan predicted."""

    name: str
    value: float


def compact(value: float) -> str:
    """``12500`` -> ``"12.5k"``: for axes, where full digits would not fit."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def bars(title: str, series: Sequence[Series], fmt: Format = compact, line: Line | None = None) -> str:
    """Stacked bars, one per part.

    Args:
        title: read out, and shown above.
        series: from the bottom up.
        fmt: value -> text, for the axis and the tooltips.
        line: a dashed level across the bars.
    """
    count = len(series[0].values)
    totals = [sum(s.values[p] for s in series) for p in range(count)]
    top = nice(max([*totals, 1.12 * line.value if line else 0, 1]))
    width = (_W - _LEFT - _RIGHT) / count
    gap = min(4.0, width * 0.2)
    out = [_axis_y(top, fmt)]
    for p in range(count):
        x, level = _LEFT + p * width + gap / 2, 0.0
        text = "; ".join(f"{s.name} {fmt(s.values[p])}" for s in series)
        out.append(f"<g><title>{escape(f'part {p}: {text}')}</title>")
        for s in series:
            height = s.values[p] / top * _inner()
            y = _H - _BOTTOM - level - height
            out.append(f'<rect class="{s.style}" x="{x:.2f}" y="{y:.2f}" width="{width - gap:.2f}" height="{height:.2f}"/>')
            level += height
        out.append("</g>")
    every = max(1, math.ceil(count / 12))
    out += [_text(_LEFT + (p + 0.5) * width, _H - _BOTTOM + 16, str(p)) for p in range(0, count, every)]
    out.append(_text((_LEFT + _W - _RIGHT) / 2, _H - 3, "part"))
    if line is not None:
        y = _H - _BOTTOM - line.value / top * _inner()
        out.append(f'<line class="mark" x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{y:.2f}" y2="{y:.2f}"/>')
        out.append(_text(_W - _RIGHT - 2, y - 5, f"{line.name} {fmt(line.value)}", "end", "strong"))
    low, high = min(totals), max(totals)
    return _svg(title, f"{count} bars, from {fmt(low)} to {fmt(high)}", out)


def histogram(title: str, values: Sequence[int], fmt: Format = compact, line: Line | None = None, style: str = "c3") -> str:
    """How many parts have which size, in at most 32 bins of one width.

    Args:
        title: read out, and shown above.
        values: one per part.
        fmt: value -> text.
        line: a dashed upright at a level.
        style: class of the bars.
    """
    low, high = min(values), max(values)
    bins = min(32, high - low + 1)
    step = (high - low + 1) / bins  # a bin holds whole numbers: its width is at least 1
    counts = [0] * bins
    for value in values:
        counts[int((value - low) / step)] += 1
    # The axis reaches to the marked level, unless that would squeeze the bars into a corner.
    first, last = low - 0.5, high + 0.5
    reach = line is not None and last < line.value <= last + 2 * (last - first)
    end = line.value + 0.02 * (line.value - first) if line is not None and reach else last
    scale = (_W - _LEFT - _RIGHT) / (end - first)
    top = nice(max(counts))
    out = [_axis_y(top, compact)]
    for i, number in enumerate(counts):
        x, height = _LEFT + i * step * scale, number / top * _inner()
        text = f"{number} parts from {fmt(low + math.ceil(i * step))} to {fmt(low + math.ceil((i + 1) * step) - 1)}"
        out.append(
            f'<g><title>{escape(text)}</title><rect class="{style}" x="{x:.2f}" y="{_H - _BOTTOM - height:.2f}" '
            f'width="{max(step * scale - 1, 0.5):.2f}" height="{height:.2f}"/></g>'
        )
    fine = fmt(low) != fmt(high) or low == high  # else tell the two ends apart by their difference
    ticks = [(low, fmt(low))] if low == high else [(low, fmt(low)), (high, fmt(high) if fine else f"+{fmt(high - low)}")]
    for value, text in ticks:
        out.append(_text(_LEFT + (value - first) * scale, _H - _BOTTOM + 16, text, _anchor(value, first, end)))
    out.append(_text((_LEFT + _W - _RIGHT) / 2, _H - 3, "size of a part (height: number of parts)"))
    if line is not None:
        if first <= line.value <= end:
            x = _LEFT + (line.value - first) * scale
            out.append(f'<line class="mark" x1="{x:.2f}" x2="{x:.2f}" y1="{_TOP}" y2="{_H - _BOTTOM}"/>')
        out.append(_text(_W - _RIGHT - 2, _TOP - 6, f"{line.name} {fmt(line.value)}", "end", "strong"))
    return _svg(title, f"{len(values)} parts, from {fmt(low)} to {fmt(high)}", out)


def share_bar(title: str, series: Sequence[Series]) -> str:
    """One horizontal bar of shares; each series has one value."""
    total = sum(s.values[0] for s in series) or 1
    out, x = [], 0.0
    for s in series:
        share = s.values[0] / total
        text = f"{s.name}: {s.values[0]:,} ({100 * share:.1f} %)"
        width = share * _W
        out.append(
            f'<g><title>{escape(text)}</title><rect class="{s.style}" x="{x:.2f}" y="0" width="{width:.2f}" height="30"/></g>'
        )
        x += width
    words = "; ".join(f"{s.name} {100 * s.values[0] / total:.1f} %" for s in series)
    return _svg(title, words, out, height=30).replace("<svg ", '<svg class="shares" preserveAspectRatio="none" ', 1)


def _anchor(value: float, first: float, end: float) -> str:
    """Where a label hangs so that it stays inside the drawing."""
    share = (value - first) / (end - first)
    return "start" if share < 0.1 else "end" if share > 0.9 else "middle"


def _inner() -> int:
    return _H - _TOP - _BOTTOM


def nice(value: float) -> float:
    """The next of 1, 1.5, 2, 3, 4, 5, 6, 8, 10 times a power of ten: where an axis ends; 1 for 0."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(f * power for f in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if f * power >= value * (1 - 1e-9))


def _axis_y(top: float, fmt: Format) -> str:
    out = []
    for i in range(5):
        y = _H - _BOTTOM - i / 4 * _inner()
        out.append(f'<line class="grid" x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        if i % 2 == 0:
            out.append(_text(_LEFT - 6, y + 5, fmt(top * i / 4), "end"))
    return "".join(out)


def _text(x: float, y: float, text: str, anchor: str = "middle", style: str = "") -> str:
    kind = f' class="{style}"' if style else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(title: str, description: str, body: Sequence[str], height: int = _H) -> str:
    label = escape(f"{title}: {description}", quote=True)
    return f'<svg viewBox="0 0 {_W} {height}" role="img" aria-label="{label}">{"".join(body)}</svg>'
