"""Bar charts with intervals as SVG files: one drawing serves a light and a dark page, and needs no plotting library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from hasp.charts import nice

__all__ = ["Bar", "grouped_bars", "method_bars"]

_COLOURS = ("#3b6fb6", "#d9822b", "#3f9c6b", "#a8518a", "#7a7a7a", "#b8a12e")
_HEIGHT, _TOP, _LEFT, _RIGHT = 300, 54, 56, 12
_STYLE = (
    "text{font:12px sans-serif;fill:#222}.grid{stroke:#ccc}.err{stroke:#222}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.grid{stroke:#444}.err{stroke:#ddd}}"
)


class Bar(NamedTuple):
    """A height and its interval."""

    value: float
    low: float
    high: float


def grouped_bars(title: str, names: Sequence[str], groups: Sequence[tuple[str, Sequence[Bar]]]) -> str:
    """Groups of bars side by side.

    Args:
        title: stands above, and is read out.
        names: of the bars of a group, one colour each.
        groups: label and one bar per name.
    """
    count = max(len(names), 1)
    width = max(26 * count + 18, 46)
    inner = _HEIGHT - _TOP
    total = _LEFT + width * len(groups) + _RIGHT
    total = max(total, _LEFT + sum(26 + 8 * len(n) for n in names) + _RIGHT, 12 + 8 * len(title))
    slant = max((len(label) for label, _ in groups), default=0) * 7 > width
    below = 110 if slant else 30
    values = [v for _, bars in groups for b in bars for v in (b.value, b.low, b.high)]
    top, bottom = nice(max([*values, 0.0])), -nice(max([*(-v for v in values), 0.0])) if min([*values, 0.0]) < 0 else 0.0

    def y(value: float) -> float:
        return _TOP + inner * (top - value) / (top - bottom)

    out = [f'<text x="6" y="18" font-weight="bold">{escape(title)}</text>']
    at = float(_LEFT)
    for i, name in enumerate(names):
        out.append(f'<rect x="{at:.0f}" y="28" width="12" height="12" fill="{_COLOURS[i % len(_COLOURS)]}"/>')
        out.append(f'<text x="{at + 16:.0f}" y="38">{escape(name)}</text>')
        at += 26 + 8 * len(name)
    for i in range(5):
        level = bottom + (top - bottom) * i / 4
        out.append(f'<line class="grid" x1="{_LEFT}" x2="{total - _RIGHT}" y1="{y(level):.1f}" y2="{y(level):.1f}"/>')
        out.append(f'<text x="{_LEFT - 6}" y="{y(level) + 4:.1f}" text-anchor="end">{level:.3g}</text>')
    for g, (label, bars) in enumerate(groups):
        left = _LEFT + g * width + 9
        for i, bar in enumerate(bars):
            x, step = left + i * (width - 18) / count, (width - 18) / count
            high, low = sorted((y(bar.value), y(0)))
            words = f"{label}, {names[i]}: {bar.value:.4f} [{bar.low:.4f}, {bar.high:.4f}]"
            out.append(
                f'<g><title>{escape(words)}</title><rect x="{x + 1:.1f}" y="{high:.1f}" width="{step - 2:.1f}" '
                f'height="{max(low - high, 0.5):.1f}" fill="{_COLOURS[i % len(_COLOURS)]}"/>'
                f'<line class="err" x1="{x + step / 2:.1f}" x2="{x + step / 2:.1f}" '
                f'y1="{y(bar.low):.1f}" y2="{y(bar.high):.1f}"/></g>'
            )
        middle, base = left + (width - 18) / 2, _HEIGHT + 16
        turn = f' transform="rotate(-50 {middle:.1f} {base})" text-anchor="end"' if slant else ' text-anchor="middle"'
        out.append(f'<text x="{middle:.1f}" y="{base}"{turn}>{escape(label)}</text>')
    words = escape(f"{title}; {len(groups)} groups of {', '.join(names)}", quote=True)
    size = f'width="{total}" height="{_HEIGHT + below}" viewBox="0 0 {total} {_HEIGHT + below}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{words}"><style>{_STYLE}</style>'
    return head + "".join(out) + "</svg>\n"


def method_bars(rows: Sequence[Mapping[str, Any]], name: str, titles: Mapping[str, str], by: str = "method") -> dict[str, str]:
    """File name -> a drawing of MAP@10 over all queries, one per truth that has rows, with a bar per method.

    Args:
        rows: of an experiment.
        name: what the names of the files begin with.
        titles: truth -> title.
        by: the column that names a bar.
    """
    drawings = {}
    for truth, title in titles.items():
        some = [r for r in rows if (r["truth"], r["group"], r["metric"]) == (truth, "all", "map@10")]
        if some:
            bars = [(r[by], [Bar(r["mean"], r["low"], r["high"])]) for r in some]
            drawings[f"{name}-{truth}.svg"] = grouped_bars(title, ["MAP@10"], bars)
    return drawings
