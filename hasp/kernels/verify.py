"""Marks: which edges were seen already, in one pass over their ids."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = ["mark"]

njit: Any = numba.njit(nogil=True, cache=True)


@njit
def mark(seen: Any, ids: Any) -> int:
    """Set ``seen`` (bool ``[n]``) at ``ids``, one after the other, up to the first that is set; returns how many were not."""
    for i in range(ids.size):
        at = np.uint64(ids[i])
        if seen[at]:
            return i
        seen[at] = True
    return int(ids.size)
