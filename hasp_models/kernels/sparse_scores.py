"""Products of sparse rows with many others, straight into dense scores: no sparse result is made, sorted and spread again."""

from __future__ import annotations

from typing import Any

from hasp.kernels.jit import jit

__all__ = ["add_products", "add_rows"]

njit: Any = jit()


@njit
def add_products(
    asked: Any, ptr: Any, column: Any, value: Any, by_ptr: Any, by_row: Any, by_value: Any, low: int, high: int, out: Any
) -> None:
    """``out[q] += A[asked[q]] @ B.T`` for ``low <= q < high``.

    Args:
        asked: int64 ``[Q]``: rows of A.
        ptr: of A in CSR form; with ``column`` and ``value``.
        column: likewise.
        value: likewise, float32.
        by_ptr: of B, by column (CSC); with ``by_row`` and ``by_value``.
        by_row: likewise.
        by_value: likewise, float32.
        low: of the queries.
        high: of the queries.
        out: float32 ``[Q, rows of B]``.
    """
    for q in range(low, high):
        for at in range(ptr[asked[q]], ptr[asked[q] + 1]):
            c, x = column[at], value[at]
            for i in range(by_ptr[c], by_ptr[c + 1]):
                out[q, by_row[i]] += x * by_value[i]


@njit
def add_rows(asked: Any, ptr: Any, column: Any, value: Any, place: Any, low: int, high: int, out: Any) -> None:
    """``out[q, place[c]] += A[asked[q], c]`` for ``low <= q < high``, where ``place[c]`` (int64 ``[columns]``) is not -1."""
    for q in range(low, high):
        for at in range(ptr[asked[q]], ptr[asked[q] + 1]):
            c = place[column[at]]
            if c >= 0:
                out[q, c] += value[at]
