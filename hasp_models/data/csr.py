"""CSR: for each row a list of ids. Truths, known links and lists to exclude all have this shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hasp.errors import HaspError

__all__ = ["CSR"]

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CSR:
    """Rows of ids, each row ascending and without duplicates.

    Attributes:
        indptr: int64 ``[R + 1]``; row ``r`` is ``indices[indptr[r]:indptr[r + 1]]``.
        indices: int64 ``[M]``, ids ``>= 0``.
    """

    indptr: Ids
    indices: Ids

    @classmethod
    def from_pairs(cls, rows: Any, ids: Any, num_rows: int, *, symmetric: bool = False) -> CSR:
        """Build from pairs in any order; duplicates are dropped.

        Args:
            rows: integers ``[M]`` in ``0..num_rows - 1``.
            ids: integers ``[M]``, the entry of each row.
            num_rows: number of rows.
            symmetric: add ``(b, a)`` for every ``(a, b)``, and drop ``(a, a)``.

        Raises:
            HaspError: lengths differ, a row is out of range or an id is negative.
        """
        a, b = np.asarray(rows, dtype=np.int64).ravel(), np.asarray(ids, dtype=np.int64).ravel()
        if a.shape != b.shape:
            raise HaspError(f"rows and ids have one length, got {a.size} and {b.size}; repair the pairs")
        if symmetric:
            a, b = np.concatenate([a, b]), np.concatenate([b, a])
            a, b = a[a != b], b[a != b]
        if a.size and (a.min() < 0 or a.max() >= num_rows or b.min() < 0):
            raise HaspError(
                f"rows lie in 0..{num_rows - 1} and ids are >= 0, got rows {a.min()}..{a.max()} and ids from {b.min()}; "
                "correct the pairs or raise num_rows"
            )
        order = np.lexsort((b, a))
        a, b = a[order], b[order]
        new = np.ones(a.size, dtype=bool)
        new[1:] = (a[1:] != a[:-1]) | (b[1:] != b[:-1])
        a, b = a[new], b[new]
        indptr = np.zeros(num_rows + 1, dtype=np.int64)
        np.cumsum(np.bincount(a, minlength=num_rows), out=indptr[1:])
        return cls(indptr, b)

    @property
    def num_rows(self) -> int:
        """Number of rows, empty ones included."""
        return self.indptr.size - 1

    @property
    def counts(self) -> Ids:
        """Entries per row, int64 ``[R]``."""
        return np.diff(self.indptr)

    def row(self, r: int) -> Ids:
        """The ids of one row."""
        return self.indices[self.indptr[r] : self.indptr[r + 1]]

    def rows(self) -> Ids:
        """The row of every entry, int64 ``[M]``."""
        return np.repeat(np.arange(self.num_rows, dtype=np.int64), self.counts)

    def select(self, rows: Any) -> CSR:
        """The given rows, in the given order, as a CSR of ``len(rows)`` rows."""
        rows = np.asarray(rows, dtype=np.int64)
        counts = self.counts[rows]
        indptr = np.zeros(rows.size + 1, dtype=np.int64)
        np.cumsum(counts, out=indptr[1:])
        # Entry j of new row i lies at indptr[rows[i]] + j of the old indices.
        at = np.arange(indptr[-1], dtype=np.int64) + np.repeat(self.indptr[rows] - indptr[:-1], counts)
        return CSR(indptr, self.indices[at])

    def without(self, other: CSR) -> CSR:
        """The same rows less the entries that ``other`` has in the same row."""
        if other.num_rows != self.num_rows:
            raise HaspError(
                f"both sides have one number of rows, got {self.num_rows} and {other.num_rows}; "
                "build both over the same entities"
            )
        keep = ~self.contains(other, self.rows(), self.indices)
        return CSR.from_pairs(self.rows()[keep], self.indices[keep], self.num_rows)

    @staticmethod
    def contains(table: CSR, rows: Any, ids: Any) -> npt.NDArray[np.bool_]:
        """For each pair ``(rows[i], ids[i])``: is it an entry of ``table``? Same shape as ``rows``; negative ids never are."""
        rows, ids = np.asarray(rows, dtype=np.int64), np.asarray(ids, dtype=np.int64)
        if not table.indices.size:
            return np.zeros(rows.shape, dtype=bool)
        span = max(int(table.indices.max()), int(ids.max(initial=0))) + 1
        keys = table.rows() * span + table.indices
        wanted = rows * span + ids
        at = np.minimum(np.searchsorted(keys, wanted), keys.size - 1)
        return np.asarray((keys[at] == wanted) & (ids >= 0))
