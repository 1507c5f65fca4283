"""Which partners of an in-batch softmax are no wrong answers: a table over the nodes that occur, filled link by link."""

from __future__ import annotations

from typing import Any

from hasp.kernels.jit import jit

__all__ = ["mark", "number", "spread"]

njit: Any = jit()


@njit
def number(ends: Any, place: Any) -> int:
    """Number the different nodes in ``ends`` ``[P]`` as they come; returns how many. ``place`` comes in as -1 per node."""
    count = 0
    for p in range(ends.size):
        if place[ends[p]] < 0:
            place[ends[p]] = count
            count += 1
    return count


@njit
def mark(a: Any, b: Any, row: Any, column: Any, table: Any) -> None:
    """``table[row[a], column[b]] = True`` for the links ``a -> b`` ``[E]`` whose ends both have a number."""
    for e in range(a.size):
        r = row[a[e]]
        if r >= 0:
            c = column[b[e]]
            if c >= 0:
                table[r, c] = True


@njit
def spread(table: Any, a: Any, b: Any, row: Any, column: Any, out: Any) -> None:
    """``out[i, j]``: the table's entry for ``a[i]`` and ``b[j]``, but False for ``i = j``, the answer itself."""
    for i in range(a.size):
        r = row[a[i]]
        for j in range(b.size):
            out[i, j] = table[r, column[b[j]]]
        out[i, i] = False
