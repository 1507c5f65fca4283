"""Table: what a benchmark hands back: rows, and the words without which the numbers could be misread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Table"]


@dataclass
class Table:
    """One table of results.

    Attributes:
        name: of the benchmark; also of the marker in the README.
        title: what was measured, on what.
        columns: keys of the rows that are shown, in order; a row may hold more, which only the history keeps.
        rows: column -> value.
        notes: sentences below the table.
        beside: columns that set a row beside its peer or its floor; a row needs a value in one of them.
        picture: file that shows it, below the root of the repository.
        drawing: the text of that file (SVG).
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    beside: Sequence[str] = ()
    picture: str = ""
    drawing: str = field(default="", repr=False)

    def add(self, **row: Any) -> None:
        """Append a row."""
        self.rows.append(row)

    def alone(self) -> list[dict[str, Any]]:
        """Rows of which nobody can tell whether they are good: neither a peer's number nor a floor stands beside them."""
        return [row for row in self.rows if "error" not in row and all(row.get(column) is None for column in self.beside)]

    def markdown(self) -> str:
        """As GitHub shows it."""
        lines = [self.title + ":", ""]
        lines += [f"![{self.title}]({self.picture})", ""] if self.picture else []
        lines += ["| " + " | ".join(self.columns) + " |", "|" + "---|" * len(self.columns)]
        lines += ["| " + " | ".join(_cell(row.get(c)) for c in self.columns) + " |" for row in self.rows]
        if self.notes:
            lines += ["", " ".join(self.notes)]
        return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value).replace("|", "\\|").replace("\n", " ")
