"""Random walks with restart, counted: which nodes a node visits most (importance pooling, Ying et al., 2018, section 3.1).

Every step is a hash of (key, id of the start, number of the step), so neither threads nor the order of the starts show in
the counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hasp.kernels.hashing import mixed
from hasp.kernels.jit import jit

__all__ = ["COUNT_BITS", "NODE_BITS", "count_visits", "sum_rows"]

njit: Any = jit()

NODE_BITS, COUNT_BITS = 31, 20
"""A node and its count share one number while they are sorted; 12 bits of a hash between them settle ties."""
_TIE_BITS = 63 - NODE_BITS - COUNT_BITS


@njit
def count_visits(
    indptr: Any, indices: Any, total: Any, ids: Any, starts: Any, counted: int,
    key: Any, walks: int, length: int, stop: Any, out: Any, count: Any,
) -> None:  # fmt: skip
    """For each start, the nodes that its walks visit most, most visited first, ties by a hash of (start, node).

    A walk takes ``length`` steps, or fewer: after each it ends where the upper 32 bits of the step's number are below
    ``stop``. The lower 32 bits choose the neighbour: in proportion to its weight where ``total`` holds the running sums of
    the weights of each row (float64 ``[E]``), each alike where ``total`` is empty.

    ``ids`` ``[n]`` are the numbers by which nodes are hashed; ``starts`` int64 ``[m]``; only nodes below ``counted`` are
    counted, and no start is for itself. ``out`` int32 and ``count`` int32 are ``[m, top]`` and come in as -1 and 0.
    """
    weighted = total.size > 0
    low = np.uint64(0xFFFFFFFF)
    visits = np.zeros(indptr.size - 1, dtype=np.int32)
    met = np.empty(walks * length, dtype=np.int64)
    most = np.int64(1) << COUNT_BITS
    for s in range(starts.size):
        u = starts[s]
        own = mixed(key, ids[u])
        used = 0
        for walk in range(walks):
            v = u
            for step in range(length):
                first, last = indptr[v], indptr[v + 1]
                if first == last:
                    break
                bits = mixed(own, walk * length + step)
                chance = bits & low
                if weighted:
                    # The first running sum above the draw; the last edge where rounding puts the draw at the very end.
                    aim = (np.float64(chance) + 0.5) / 4294967296.0 * total[last - 1]
                    below, above = first, last - 1
                    while below < above:
                        middle = (below + above) // 2
                        if total[middle] > aim:
                            above = middle
                        else:
                            below = middle + 1
                    v = np.int64(indices[below])
                else:
                    v = np.int64(indices[first + np.int64((chance * np.uint64(last - first)) >> np.uint64(32))])
                if v != u and v < counted:
                    if visits[v] == 0:
                        met[used] = v
                        used += 1
                    visits[v] += 1
                if (bits >> np.uint64(32)) < stop:
                    break
        for i in range(used):
            v = met[i]
            tie = np.int64(mixed(own, ids[v]) >> np.uint64(64 - _TIE_BITS))
            rank = ((most - 1 - np.int64(visits[v])) << (_TIE_BITS + NODE_BITS)) | (tie << NODE_BITS) | v
            met[i] = rank
        ranked = np.sort(met[:used])
        for i in range(min(used, out.shape[1])):
            v = ranked[i] & ((np.int64(1) << NODE_BITS) - 1)
            out[s, i] = v
            count[s, i] = visits[v]
        for i in range(used):
            visits[met[i] & ((np.int64(1) << NODE_BITS) - 1)] = 0


@njit
def sum_rows(indptr: Any, weight: Any, total: Any) -> None:
    """Running sums of the weights of each row: ``weight`` float ``[E]`` -> ``total`` float64 ``[E]``."""
    for row in range(indptr.size - 1):
        value = 0.0
        for e in range(indptr[row], indptr[row + 1]):
            value += weight[e]
            total[e] = value
