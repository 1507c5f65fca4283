"""Marks: which ids were met, one bit each, in one pass over them."""

from __future__ import annotations

from typing import Any

import numpy as np

from hasp.kernels.jit import jit

__all__ = ["mark"]

njit: Any = jit()


@njit
def mark(words: Any, ids: Any) -> int:
    """Set the bits of ``ids`` one after the other, up to the first that is set; returns how many were not.

    Bit ``i % 8`` of ``words[i // 8]`` (uint8) is that of id ``i``.
    """
    for i in range(ids.size):
        at = np.uint64(ids[i])
        bit = np.uint8(1 << (at & np.uint64(7)))
        word = words[at >> np.uint64(3)]
        if word & bit:
            return i
        words[at >> np.uint64(3)] = word | bit
    return int(ids.size)
