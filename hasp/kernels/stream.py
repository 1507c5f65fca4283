"""Stream: Fennel's rule, one node after the other (Tsourakakis et al., 2014; restreamed as Nishimura and Ugander, 2013).

Reads every row once per pass, in order, so the graph may be a map of a file; keeps one label per node and one load per part.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hasp.kernels.jit import jit

__all__ = ["stream_pass"]

njit: Any = jit()


@njit
def _lighter(load: Any, a: int, b: int) -> bool:
    return bool(load[a] < load[b] or (load[a] == load[b] and a < b))


@njit
def _settle(heap: Any, place: Any, load: Any, p: int) -> None:
    """Move part ``p``, whose load has changed, to its place in the heap of the lightest part first."""
    at = place[p]
    while at > 0 and _lighter(load, heap[at], heap[(at - 1) // 2]):
        up = (at - 1) // 2
        heap[at], heap[up] = heap[up], heap[at]
        place[heap[at]], place[heap[up]] = at, up
        at = up
    while True:
        child = 2 * at + 1
        if child >= heap.size:
            return
        if child + 1 < heap.size and _lighter(load, heap[child + 1], heap[child]):
            child += 1
        if not _lighter(load, heap[child], heap[at]):
            return
        heap[at], heap[child] = heap[child], heap[at]
        place[heap[at]], place[heap[child]] = at, child
        at = child


@njit
def stream_pass(
    indptr: Any, indices: Any, edge_weight: Any, node_weight: Any, fixed: Any, alpha: float, most: int, part: Any, load: Any
) -> int:  # fmt: skip
    """One pass in node order; how many nodes changed their part.

    A node goes to the part with room whose ``ties - 1.5 * alpha * sqrt(load)`` is highest, where ties is the weight of its
    edges into the part and load is without the node itself; among equals to the lighter, then the lower part. If none has
    room, it stays, or goes to the lightest part if it has none. Only neighbouring parts and the lightest one can be best.

    ``part`` int32 ``[n]``, ``-1``: none yet; ``load`` int64 ``[k]``; both are changed. ``fixed`` bool ``[n]``, or of length 0:
    nodes that stay where they are.
    """
    weighted, sized, held = edge_weight.size > 0, node_weight.size > 0, fixed.size > 0
    k = load.size
    heap, place = np.arange(k), np.arange(k)
    for p in range(k):
        _settle(heap, place, load, p)
    ties = np.zeros(k, dtype=np.int64)
    met = np.empty(k, dtype=np.int32)
    moved = 0
    for v in range(indptr.size - 1):
        if held and fixed[v]:
            continue
        mine = part[v]
        own = node_weight[v] if sized else 1
        if mine >= 0:
            load[mine] -= own
            _settle(heap, place, load, mine)
        used = 0
        for e in range(indptr[v], indptr[v + 1]):
            p = part[indices[e]]
            if p >= 0 and indices[e] != v:
                if ties[p] == 0:
                    met[used] = p
                    used += 1
                ties[p] += edge_weight[e] if weighted else 1
        lightest: Any = heap[0]
        best: Any = np.int64(-1)
        if load[lightest] + own <= most:
            best = lightest
        score = ties[lightest] - 1.5 * alpha * np.sqrt(float(load[lightest]))
        for j in range(used):
            q: Any = np.int64(met[j])
            if q != lightest and load[q] + own <= most:
                now = ties[q] - 1.5 * alpha * np.sqrt(float(load[q]))
                if now > score or (now == score and _lighter(load, q, best)):
                    best, score = q, now
        for j in range(used):
            ties[met[j]] = 0
        if best < 0:
            best = lightest if mine < 0 else np.int64(mine)
        if best != mine:
            moved += 1
            part[v] = best
        load[best] += own
        _settle(heap, place, load, best)
    return moved
