"""Emptiest part first, one entity after the other, with a binary heap over the parts."""

from __future__ import annotations

from typing import Any

import numpy as np

from hasp.kernels.jit import jit

__all__ = ["emptiest_first"]

njit: Any = jit()


@njit
def _less(load: Any, a: int, b: int) -> bool:
    return bool(load[a] < load[b] or (load[a] == load[b] and a < b))


@njit
def _sink(heap: Any, load: Any, at: int) -> None:
    size = heap.size
    while True:
        child = 2 * at + 1
        if child >= size:
            return
        if child + 1 < size and _less(load, heap[child + 1], heap[child]):
            child += 1
        if not _less(load, heap[child], heap[at]):
            return
        heap[at], heap[child] = heap[child], heap[at]
        at = child


@njit
def emptiest_first(order: Any, weight: Any, load: Any, part: Any) -> None:
    """Give ``order``'s entities, in turn, to the part with the smallest load (ties: the lowest part).

    ``order`` int64 ``[u]``: rows of ``part``; ``weight`` int64 ``[u]``; ``load`` int64 ``[num_parts]``, moved on; ``part``
    int32: written at ``order``.
    """
    heap = np.arange(load.size)
    for at in range(load.size // 2 - 1, -1, -1):
        _sink(heap, load, at)
    for i in range(order.size):
        p = heap[0]
        part[order[i]] = p
        load[p] += weight[i]
        _sink(heap, load, 0)
