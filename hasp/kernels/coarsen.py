"""Coarsen: size-constrained label propagation, and the contraction of what it finds.

Label propagation after Raghavan, Albert and Kumara (2007) with bounded clusters as in Meyerhenke, Sanders and Schulz (2014).
Every block of nodes proposes against the same clusters; :func:`commit_clusters` then takes the proposals in node order, so
that the number of threads never shows. ``edge_weight`` or ``node_weight`` of length 0 stands for ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hasp.kernels.jit import jit

__all__ = [
    "LOOK",
    "commit_clusters",
    "contract",
    "favourites",
    "group",
    "join_pairs",
    "propose_clusters",
    "propose_neighbours",
    "rank",
    "sparsify",
]

LOOK = 4096
"""Neighbours of one node that are looked at: the cluster of a hub decides nothing, and its table should stay in cache."""

njit: Any = jit()


@njit
def rank(number: Any, salt: int) -> Any:
    """Which of equals comes first: a hash of a number below 2**31 with a salt below 2**32. The smaller one wins."""
    return ((np.int64(number) * 2654435769) & 0xFFFFFFFF) ^ salt


@njit
def propose_neighbours(
    indptr: Any, indices: Any, edge_weight: Any, node_weight: Any, guide: Any, cluster: Any, weight: Any, most: int, salt: int,
    low: int, high: int, wanted: Any,
) -> None:  # fmt: skip
    """For the first pass, when nearly every node is a cluster: the cluster of the neighbour at the heaviest edge.

    Nodes ``low..high-1``; equal edges: the neighbour of lower :func:`rank`. A full cluster is not wanted: the node stays. The
    other arguments are those of :func:`propose_clusters`.
    """
    weighted, sized, guided = edge_weight.size > 0, node_weight.size > 0, guide.size > 0
    for v in range(low, high):
        best, best_mass, best_rank = np.int64(-1), np.int64(-1), np.int64(0)
        for e in range(indptr[v], min(indptr[v + 1], indptr[v] + LOOK)):
            u = np.int64(indices[e])
            if guided and guide[u] != guide[v]:
                continue
            m = np.int64(edge_weight[e]) if weighted else np.int64(1)
            r = rank(u, salt)
            if m > best_mass or (m == best_mass and r < best_rank):
                best, best_mass, best_rank = u, m, r
        wanted[v - low] = cluster[v]
        if best >= 0:
            c = wanted[best - low] if low <= best < v else cluster[best]
            if weight[c] + (node_weight[v] if sized else 1) <= most:
                wanted[v - low] = c


@njit
def propose_clusters(
    indptr: Any, indices: Any, edge_weight: Any, node_weight: Any, guide: Any, cluster: Any, weight: Any, most: int, salt: int,
    active: Any, low: int, high: int, wanted: Any,
) -> None:  # fmt: skip
    """The cluster that each active node of ``low..high-1`` is tied to most and that has room for it.

    ``cluster`` int32 ``[n]``, ``weight`` int64 ``[n]`` (of each cluster) and ``most`` are as before the round; within the
    block, earlier nodes count as moved already. Neighbours of another ``guide`` (int32 ``[n]``, or of length 0: all alike) are
    not looked at. Equal ties: the cluster of lower :func:`rank`. ``wanted`` int32 ``[high - low]`` gets the answers.
    """
    weighted, sized, guided = edge_weight.size > 0, node_weight.size > 0, guide.size > 0
    keys = np.full(2 * LOOK, -1, dtype=np.int32)
    mass = np.zeros(2 * LOOK, dtype=np.int64)
    slots = np.empty(LOOK, dtype=np.int32)
    near = np.empty(LOOK, dtype=np.int32)
    for i in range(high - low):
        wanted[i] = cluster[low + i]
    for v in range(low, high):
        if not active[v]:
            continue
        begin = indptr[v]
        end = min(indptr[v + 1], begin + LOOK)
        size = 8
        while size < 2 * (end - begin):
            size *= 2
        mask = size - 1
        for e in range(begin, end):  # all far reads first: none waits for a branch of the table below
            u = indices[e]
            near[e - begin] = cluster[u] if not guided or guide[u] == guide[v] else -1
        for e in range(begin, end):
            if low <= indices[e] < v and near[e - begin] >= 0:
                near[e - begin] = wanted[indices[e] - low]
        used = 0
        for e in range(begin, end):
            c = np.int64(near[e - begin])
            if c < 0:
                continue
            at = ((c * 2654435769) >> 15) & mask
            while keys[at] != c and keys[at] != -1:
                at = (at + 1) & mask
            if keys[at] == -1:
                keys[at] = c
                slots[used] = at
                used += 1
            mass[at] += edge_weight[e] if weighted else 1
        mine = np.int64(cluster[v])
        own = node_weight[v] if sized else 1
        best, best_mass, best_rank = mine, np.int64(-1), np.int64(0)
        for j in range(used):
            at = slots[j]
            c, m = np.int64(keys[at]), mass[at]
            keys[at] = -1
            mass[at] = 0
            if m < best_mass or (c != mine and weight[c] + own > most):
                continue
            r = rank(c, salt)
            if m > best_mass or r < best_rank:
                best, best_mass, best_rank = c, m, r
        wanted[v - low] = best


@njit
def commit_clusters(
    wanted: Any, first: int, indptr: Any, indices: Any, node_weight: Any, most: int, pin: bool, cluster: Any, weight: Any,
    active: Any,
) -> int:  # fmt: skip
    """Take the proposals of nodes ``first...`` in node order, where there is room; how many moved.

    With ``pin`` (the first pass), a node whose cluster bears its own number stays once another node has joined it: two nodes
    that want each other's cluster would otherwise change places forever. Without, the nodes of the range are no longer
    ``active`` but the neighbours of those that move are.
    """
    sized = node_weight.size > 0
    moved = 0
    if not pin:
        for i in range(wanted.size):
            active[first + i] = False
    for i in range(wanted.size):
        v = first + i
        mine, c = cluster[v], wanted[i]
        own = node_weight[v] if sized else 1
        if c == mine or weight[c] + own > most or (pin and mine == v and weight[mine] > own):
            continue
        weight[mine] -= own
        weight[c] += own
        cluster[v] = c
        moved += 1
        if not pin:
            for e in range(indptr[v], indptr[v + 1]):
                active[indices[e]] = True
    return moved


@njit
def favourites(
    indptr: Any, indices: Any, edge_weight: Any, node_weight: Any, guide: Any, cluster: Any, weight: Any, salt: int,
    low: int, high: int, out: Any,
) -> None:  # fmt: skip
    """For each node of ``low..high-1`` alone in its cluster, a neighbour's cluster that it is tied to most, full or not.

    ``out`` int32 ``[high - low]``; ``-1`` for nodes that are not alone. Looks at the heaviest edge only, the first of equals
    by the :func:`rank` of the neighbour's cluster: a sum over clusters would be the same for the leaves that this is meant for.
    """
    weighted, sized, guided = edge_weight.size > 0, node_weight.size > 0, guide.size > 0
    for v in range(low, high):
        out[v - low] = -1
        own = node_weight[v] if sized else 1
        if weight[cluster[v]] != own:
            continue
        best_mass, best_rank = np.int64(-1), np.int64(0)
        for e in range(indptr[v], min(indptr[v + 1], indptr[v] + LOOK)):
            m = np.int64(edge_weight[e]) if weighted else np.int64(1)
            c = cluster[indices[e]]
            if m >= best_mass and c != cluster[v] and not (guided and guide[indices[e]] != guide[v]):
                r = rank(c, salt)
                if m > best_mass or r < best_rank:
                    best_mass, best_rank = m, r
                    out[v - low] = c


@njit
def join_pairs(favourite: Any, node_weight: Any, most: int, cluster: Any, weight: Any) -> int:
    """Put lonely nodes with the same favourite together (two-hop clusters: the leaves of a full hub); how many joined.

    In node order: the first opens a cluster, its own; the next ones join it while there is room, then open another.
    """
    sized = node_weight.size > 0
    opened = np.full(cluster.size, -1, dtype=np.int32)
    joined = 0
    for v in range(cluster.size):
        f = favourite[v]
        own = node_weight[v] if sized else 1
        if f < 0 or weight[cluster[v]] != own:
            continue
        c = opened[f]
        if c >= 0 and weight[c] + own <= most:
            weight[cluster[v]] -= own
            weight[c] += own
            cluster[v] = c
            joined += 1
        else:
            opened[f] = cluster[v]
    return joined


@njit
def group(cluster: Any, start: Any, order: Any) -> None:
    """Nodes by cluster, ascending within each: ``order`` int32 ``[n]``; ``start`` int64 ``[clusters + 1]``, zeros before."""
    for v in range(cluster.size):
        start[cluster[v] + 1] += 1
    for c in range(start.size - 1):
        start[c + 1] += start[c]
    cursor = start[:-1].copy()
    for v in range(cluster.size):
        order[cursor[cluster[v]]] = v
        cursor[cluster[v]] += 1


@njit
def contract(
    indptr: Any, indices: Any, edge_weight: Any, cluster: Any, order: Any, start: Any, low: int, high: int,
    out_index: Any, out_weight: Any, degree: Any,
) -> int:  # fmt: skip
    """Rows ``low..high-1`` of the contracted graph: neighbouring clusters and summed edge weights, in the order they are met.

    ``out_index`` int32 and ``out_weight`` have room for every entry of the block; ``degree`` int64 ``[high - low]``. Returns
    the entries written.
    """
    weighted = edge_weight.size > 0
    position = np.zeros(start.size, dtype=np.int32)  # where a cluster stands in the row at hand; checked, so never cleared
    at = 0
    for row in range(low, high):
        begin = at
        for i in range(start[row], start[row + 1]):
            v = order[i]
            for e in range(indptr[v], indptr[v + 1]):
                c = cluster[indices[e]]
                if c == row:
                    continue
                w = edge_weight[e] if weighted else 1
                p = begin + position[c]
                if p < at and out_index[p] == c:
                    out_weight[p] += w
                else:
                    position[c] = at - begin
                    out_index[at] = c
                    out_weight[at] = w
                    at += 1
        degree[row - low] = at - begin
    return at


@njit
def sparsify(
    indptr: Any, indices: Any, edge_weight: Any, tau: int, salt: int, out_index: Any, out_weight: Any, degree: Any
) -> int:  # fmt: skip
    """Keep every edge of weight ``tau`` or more as it is, and a lighter one with probability ``weight / tau``, as ``tau``.

    So every cut keeps its expected weight. Whether an edge is kept is a hash of its two ends: both directions agree.
    Returns the entries written; ``degree`` int64 ``[n]``.
    """
    n = indptr.size - 1
    at = 0
    for v in range(n):
        begin = at
        for e in range(indptr[v], indptr[v + 1]):
            u, w = np.int64(indices[e]), np.int64(edge_weight[e])
            if w < tau:
                z = np.uint64(min(u, v) * n + max(u, v)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(salt)
                z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                z = z ^ (z >> np.uint64(31))
                if np.float64(z >> np.uint64(32)) * tau >= np.float64(w) * 4294967296.0:
                    continue
                w = np.int64(tau)
            out_index[at] = u
            out_weight[at] = w
            at += 1
        degree[v] = at - begin
    return at
