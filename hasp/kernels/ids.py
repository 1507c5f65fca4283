"""Ids -> positions by a hash table of positions: half a cache line read per look-up, where a binary search reads twenty."""

from __future__ import annotations

from typing import Any

import numpy as np

from hasp.kernels.jit import jit

__all__ = ["fill_slots", "fill_text", "find_slots", "find_text"]

njit: Any = jit()


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


@njit
def _end(data: Any, low: int, high: int) -> int:
    """Where a text ends: NumPy's strings do not keep NULs at the end."""
    while high > low and data[high - 1] == 0:
        high -= 1
    return high


@njit
def _text_start(data: Any, low: int, high: int, mask: int) -> Any:
    h = np.uint64(0xCBF29CE484222325)  # FNV-1a
    for i in range(low, high):
        h = (h ^ np.uint64(data[i])) * np.uint64(0x100000001B3)
    return np.int64((h ^ (h >> np.uint64(32))) & np.uint64(mask))


@njit
def _same(a: Any, low: int, high: int, b: Any, first: int, last: int) -> bool:
    if high - low != last - first:
        return False
    for i in range(high - low):  # noqa: SIM110 - compiled
        if a[low + i] != b[first + i]:
            return False
    return True


@njit
def fill_text(data: Any, ptr: Any, slots: Any) -> None:
    """:func:`fill_slots` for texts that all differ: text ``i`` is the bytes ``data[ptr[i]:ptr[i + 1]]``, uint8."""
    mask = slots.size - 1
    for i in range(ptr.size - 1):
        at = _text_start(data, ptr[i], _end(data, ptr[i], ptr[i + 1]), mask)
        while slots[at] >= 0:
            at = (at + 1) & mask
        slots[at] = i


@njit
def find_text(values: Any, value_ptr: Any, data: Any, ptr: Any, slots: Any, out: Any) -> int:
    """:func:`find_slots` for texts: ``values`` and ``value_ptr`` are laid out as ``data`` and ``ptr``."""
    mask = slots.size - 1
    missing = 0
    for i in range(value_ptr.size - 1):
        low = value_ptr[i]
        high = _end(values, low, value_ptr[i + 1])
        at = _text_start(values, low, high, mask)
        while slots[at] >= 0:
            first = ptr[slots[at]]
            if _same(values, low, high, data, first, _end(data, first, ptr[slots[at] + 1])):
                break
            at = (at + 1) & mask
        out[i] = slots[at]
        missing += slots[at] < 0
    return missing
