"""Ids -> positions by a hash table of positions: half a cache line read per look-up, where a binary search reads twenty."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = ["fill_slots", "find_slots"]

njit: Any = numba.njit(nogil=True, cache=True)


@njit
def _start(value: int, mask: int) -> Any:
    z = np.uint64(value) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return np.int64((z ^ (z >> np.uint64(29))) & np.uint64(mask))


@njit
def fill_slots(ids: Any, slots: Any) -> bool:
    """Put the position of every id into the first free slot from its hash on; whether no id occurred twice.

    ``ids`` int64 ``[n]``; ``slots`` int32 or int64 of ``-1``, a power of two and more than ``n`` long.
    """
    mask = slots.size - 1
    for i in range(ids.size):
        at = _start(ids[i], mask)
        while slots[at] >= 0:
            if ids[slots[at]] == ids[i]:
                return False
            at = (at + 1) & mask
        slots[at] = i
    return True


@njit
def find_slots(values: Any, ids: Any, slots: Any, out: Any) -> int:
    """Write the position of every value into ``out``, ``-1`` where it is no id; how many are none."""
    mask = slots.size - 1
    missing = 0
    for i in range(values.size):
        at = _start(values[i], mask)
        while slots[at] >= 0 and ids[slots[at]] != values[i]:
            at = (at + 1) & mask
        out[i] = slots[at]
        missing += slots[at] < 0
    return missing
