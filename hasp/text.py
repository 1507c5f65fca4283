"""Plain text for people: sizes and aligned tables, without colour and without a terminal library."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["format_bytes", "table"]


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
