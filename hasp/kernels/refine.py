"""Refine: moves of nodes between parts that lower the cut and keep the balance.

Three kinds: label propagation over all nodes in rounds (proposals in threads, taken in node order with their gain computed
anew, so that the cut never rises); local search around each boundary node in the manner of Fiduccia and Mattheyses (1982),
k-way, with rollback; and rebalancing. ``edge_weight`` or ``node_weight`` of length 0 stands for ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hasp.kernels.jit import jit

__all__ = ["best_move", "boundary", "commit_moves", "propose_moves", "rebalance", "search"]

njit: Any = jit()


@njit
def propose_moves(
    indptr: Any, indices: Any, edge_weight: Any, node_weight: Any, part: Any, load: Any, most: int, active: Any,
    low: int, high: int, wanted: Any,
) -> None:  # fmt: skip
    """The part that each active node of ``low..high-1`` is tied to most and that has room for it; its own for the others.

    A part as close as the node's own counts only if it stays lighter. Among equals, the lighter, then the lower part.
    ``part`` int32 ``[n]``, ``load`` int64 ``[k]``, ``active`` bool ``[n]``, ``wanted`` int32 ``[high - low]``.
    """
    weighted, sized = edge_weight.size > 0, node_weight.size > 0
    ties = np.zeros(load.size, dtype=np.int64)
    met = np.empty(load.size, dtype=np.int32)
    for v in range(low, high):
        mine = part[v]
        wanted[v - low] = mine
        if not active[v]:
            continue
        used = 0
        for e in range(indptr[v], indptr[v + 1]):
            p = part[indices[e]]
            if ties[p] == 0:
                met[used] = p
                used += 1
            ties[p] += edge_weight[e] if weighted else 1
        own = node_weight[v] if sized else 1
        best, best_ties, best_load = mine, ties[mine], load[mine]
        for j in range(used):
            p = met[j]
            t, after = ties[p], load[p] + own
            if (
                p != mine
                and after <= most
                and (
                    t > best_ties
                    or (t == best_ties and (after < best_load or (after == best_load and p < best and best != mine)))
                )
            ):
                best, best_ties, best_load = p, t, after
        for j in range(used):
            ties[met[j]] = 0
        wanted[v - low] = best


@njit
def commit_moves(
    wanted: Any, first: int, indptr: Any, indices: Any, edge_weight: Any, node_weight: Any, most: int, part: Any, load: Any,
    active: Any,
) -> Any:  # fmt: skip
    """Take the proposals of nodes ``first...`` in node order if they still lower the cut, or even out two parts at the same
    cut; return by how much the cut fell. Neighbours of what moved become active, everything else of the range does not.
    """
    weighted, sized = edge_weight.size > 0, node_weight.size > 0
    fell = np.int64(0)
    for i in range(wanted.size):
        active[first + i] = False
    for i in range(wanted.size):
        v = first + i
        mine, to = part[v], wanted[i]
        if to == mine:
            continue
        own = node_weight[v] if sized else 1
        if load[to] + own > most:
            continue
        gain = np.int64(0)
        for e in range(indptr[v], indptr[v + 1]):
            p = part[indices[e]]
            w = edge_weight[e] if weighted else 1
            if p == to:
                gain += w
            elif p == mine:
                gain -= w
        if gain < 0 or (gain == 0 and load[to] + own >= load[mine]):
            continue
        part[v] = to
        load[mine] -= own
        load[to] += own
        fell += gain
        for e in range(indptr[v], indptr[v + 1]):
            active[indices[e]] = True
    return fell


@njit
def boundary(indptr: Any, indices: Any, edge_weight: Any, part: Any, low: int, high: int, out: Any) -> Any:
    """Which nodes of ``low..high-1`` have a neighbour in another part, bool ``out`` ``[high - low]``; the weight of the entries
    of these rows whose ends lie in different parts.
    """
    weighted = edge_weight.size > 0
    total = np.int64(0)
    for v in range(low, high):
        mine, before = part[v], total
        for e in range(indptr[v], indptr[v + 1]):
            if part[indices[e]] != mine:
                total += edge_weight[e] if weighted else 1
        out[v - low] = total > before
    return total


@njit
def best_move(
    v: int, indptr: Any, indices: Any, edge_weight: Any, node_weight: Any, part: Any, load: Any, most: int, ties: Any, met: Any
) -> Any:  # fmt: skip
    """``(gain, part)`` of the best move of ``v`` to a neighbouring part with room: the most gain, then the lightest, then the
    lowest part; part ``-1`` if there is none. ``ties`` int64 ``[k]`` of zeros and ``met`` int32 ``[k]`` are scratch.
    """
    weighted, sized = edge_weight.size > 0, node_weight.size > 0
    mine = part[v]
    used = 0
    for e in range(indptr[v], indptr[v + 1]):
        p = part[indices[e]]
        if ties[p] == 0:
            met[used] = p
            used += 1
        ties[p] += edge_weight[e] if weighted else 1
    own = node_weight[v] if sized else 1
    best, best_ties = np.int32(-1), np.int64(-1)
    for j in range(used):
        p = met[j]
        t = ties[p]
        if p == mine or load[p] + own > most:
            continue
        if t > best_ties or (t == best_ties and (load[p] < load[best] or (load[p] == load[best] and p < best))):
            best, best_ties = p, t
    gain = best_ties - ties[mine]
    for j in range(used):
        ties[met[j]] = 0
    return gain, best


@njit
def _before(gain: Any, heap: Any, a: int, b: int) -> bool:
    x, y = heap[a], heap[b]
    return bool(gain[x] > gain[y] or (gain[x] == gain[y] and x < y))


@njit
def _rise(heap: Any, place: Any, gain: Any, at: int) -> None:
    while at > 0:
        up = (at - 1) // 2
        if not _before(gain, heap, at, up):
            return
        heap[at], heap[up] = heap[up], heap[at]
        place[heap[at]], place[heap[up]] = at, up
        at = up


@njit
def _sink(heap: Any, size: int, place: Any, gain: Any, at: int) -> None:
    while True:
        child = 2 * at + 1
        if child >= size:
            return
        if child + 1 < size and _before(gain, heap, child + 1, child):
            child += 1
        if not _before(gain, heap, child, at):
            return
        heap[at], heap[child] = heap[child], heap[at]
        place[heap[at]], place[heap[child]] = at, child
        at = child


@njit
def _undo(trail: Any, origin: Any, node_weight: Any, part: Any, load: Any) -> None:
    """Send the nodes of ``trail`` back to where they came from."""
    for i in range(trail.size):
        v = trail[i]
        own = node_weight[v] if node_weight.size > 0 else 1
        load[part[v]] -= own
        load[origin[i]] += own
        part[v] = origin[i]


@njit
def search(
    indptr: Any, indices: Any, edge_weight: Any, node_weight: Any, most: int, order: Any, patience: int, look: int,
    budget: int, part: Any, load: Any,
) -> Any:  # fmt: skip
    """Local searches, one from each node of ``order`` (int32, boundary nodes).

    A search keeps the best move of every node it has reached in a heap, makes the best one, good or bad, reaches the
    neighbours of what moved (those with at most ``look`` neighbours), and gives up ``patience`` moves after its best state,
    to which it returns. A node moves once at most. No search begins once more than ``budget`` adjacency entries were read.
    ``part`` int32 and ``load`` int64 are changed in place. Returns by how much the cut fell, and at how many nodes of
    ``order`` it has been: those after them are as they were.
    """
    sized = node_weight.size > 0
    n, k = part.size, load.size
    done = np.zeros(n, dtype=np.bool_)
    place = np.full(n, -1, dtype=np.int32)
    gain = np.zeros(n, dtype=np.int64)
    heap = np.empty(n, dtype=np.int32)
    trail = np.empty(n, dtype=np.int32)
    origin = np.empty(n, dtype=np.int32)
    ties = np.zeros(k, dtype=np.int64)
    met = np.empty(k, dtype=np.int32)
    fell = np.int64(0)
    read = np.int64(0)
    for s in range(order.size):
        seed = order[s]
        if read > budget:
            return fell, s
        if done[seed]:
            continue
        g, to = best_move(seed, indptr, indices, edge_weight, node_weight, part, load, most, ties, met)
        read += indptr[seed + 1] - indptr[seed]
        if to < 0:
            continue
        size, moves, keep = 1, 0, 0
        heap[0], place[seed], gain[seed] = seed, 0, g
        now = best = np.int64(0)
        while size > 0 and moves - keep < patience:
            v = heap[0]
            g, to = best_move(v, indptr, indices, edge_weight, node_weight, part, load, most, ties, met)
            read += indptr[v + 1] - indptr[v]
            if to >= 0 and g < gain[v]:  # a part has filled up since: look again when its turn comes
                gain[v] = g
                _sink(heap, size, place, gain, 0)
                continue
            size -= 1
            place[v] = -1
            if size > 0:
                heap[0] = heap[size]
                place[heap[0]] = 0
                _sink(heap, size, place, gain, 0)
            if to < 0:
                continue
            own = node_weight[v] if sized else 1
            trail[moves], origin[moves] = v, part[v]
            moves += 1
            done[v] = True
            load[part[v]] -= own
            load[to] += own
            part[v] = to
            now += g
            if now > best:
                best, keep = now, moves
            for e in range(indptr[v], indptr[v + 1]):
                u = indices[e]
                many = indptr[u + 1] - indptr[u]
                if done[u] or many > look:
                    continue
                gu, tu = best_move(u, indptr, indices, edge_weight, node_weight, part, load, most, ties, met)
                read += many
                if place[u] < 0:
                    if tu < 0:
                        continue
                    heap[size] = u
                    place[u] = size
                    gain[u] = gu
                    size += 1
                    _rise(heap, place, gain, size - 1)
                elif tu >= 0:
                    old = gain[u]
                    gain[u] = gu
                    if gu > old:
                        _rise(heap, place, gain, place[u])
                    else:
                        _sink(heap, size, place, gain, place[u])
        for j in range(size):
            place[heap[j]] = -1
        _undo(trail[keep:moves], origin[keep:moves], node_weight, part, load)
        fell += best
    return fell, order.size


@njit
def rebalance(
    indptr: Any, indices: Any, edge_weight: Any, node_weight: Any, most: int, order: Any, part: Any, load: Any
) -> None:  # fmt: skip
    """Move nodes out of parts above ``most``: ``order`` int32 (first those whose move costs least) names the candidates.

    Each goes to the neighbouring part with room that it is tied to most, or else to the lightest part if that
    has room, or at least stays lighter than the one it leaves: then no part ends above the mean plus the heaviest node.
    """
    sized = node_weight.size > 0
    ties = np.zeros(load.size, dtype=np.int64)
    met = np.empty(load.size, dtype=np.int32)
    for i in range(order.size):
        v = order[i]
        own = node_weight[v] if sized else 1
        if load[part[v]] <= most or own == 0:
            continue
        _, to = best_move(v, indptr, indices, edge_weight, node_weight, part, load, most, ties, met)
        if to < 0:
            lightest = np.argmin(load)
            if load[lightest] + own > most and load[lightest] + own >= load[part[v]]:
                continue
            to = np.int32(lightest)
        load[part[v]] -= own
        load[to] += own
        part[v] = to
