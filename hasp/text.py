"""Plain text for people: sizes and aligned tables, without colour and without a terminal library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["contents", "format_bytes", "table"]


def format_bytes(count: float) -> str:
    """``123456789`` -> ``"123.5 MB"``; powers of ten, as :func:`hasp.config.parse_bytes` reads ``MB``."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 999.95 or (unit == "B" and abs(value) < 1000):
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """An aligned table: the first ``left`` columns flush left, the others flush right, two spaces between."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    out = []
    for line in lines:
        cells = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        out.append("  ".join(cells).rstrip())
    return "\n".join(out)


def contents(
    head: str, nodes: Mapping[str, tuple[int, Mapping[str, Any]]], edges: Mapping[Any, tuple[int, Mapping[str, Any]]]
) -> str:
    """What a graph or a part holds, a line per type, for ``repr``: never a value, however large it is.

    Args:
        head: the first line.
        nodes: node type -> how many, and name -> tensor or array of its rows.
        edges: edge type -> likewise.
    """
    rows = [[str(t), f"{n:,}", "nodes", _attrs(attrs)] for t, (n, attrs) in nodes.items()]
    rows += [[" ".join(e), f"{n:,}", "edges", _attrs(attrs)] for e, (n, attrs) in edges.items()]
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)] if rows else [0, 0]
    lines = [f"  {name:<{widths[0]}}  {count:>{widths[1]}} {what}  {attrs}".rstrip() for name, count, what, attrs in rows]
    return "\n".join([head, *lines])


def _attrs(attrs: Mapping[str, Any]) -> str:
    words = []
    for name, value in attrs.items():
        shape = list(value.shape[1:])
        words.append(f"{name} {str(value.dtype).removeprefix('torch.')}" + (f" {shape}" if shape else ""))
    return ", ".join(words)
