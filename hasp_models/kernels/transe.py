"""A step of TransE in three passes over the rows that it touches: distances, then each node once, then each relation once.

Torch takes some thirty passes over ``[facts, d]`` for the same step. Sums have a fixed order whatever runs beside them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hasp.kernels.jit import jit

__all__ = ["distances", "group", "move_nodes", "move_relations"]

# Without error_model, each division asks whether it divides by 0, and no loop with one is vectorised.
njit: Any = jit(error_model="numpy", fastmath={"reassoc", "contract", "arcp", "nsz"})


@njit
def _distance(nodes: Any, a: int, relations: Any, r: int, b: int, p: int, out: Any, side: int, at: int) -> Any:
    """``out[side, at] = nodes[a] + relations[r] - nodes[b]``; its p-norm."""
    total = np.float32(0.0)
    if p == 1:
        for i in range(nodes.shape[1]):
            x = nodes[a, i] + relations[r, i] - nodes[b, i]
            out[side, at, i] = x
            total += abs(x)
        return total
    for i in range(nodes.shape[1]):
        x = nodes[a, i] + relations[r, i] - nodes[b, i]
        out[side, at, i] = x
        total += x * x
    return np.sqrt(total)


@njit
def _slope(out: Any, side: int, at: int, size: Any, p: int, weight: Any) -> None:
    """The gradient of the norm, weighted, in the place of the vector; 0 where a distance, or an entry of it, is 0."""
    if p == 1:
        for i in range(out.shape[2]):
            out[side, at, i] = np.sign(out[side, at, i]) * weight
    else:
        scale = weight / max(size, np.float32(1e-12))
        for i in range(out.shape[2]):
            out[side, at, i] *= scale


@njit
def distances(
    nodes: Any,
    relations: Any,
    ends: Any,
    kind: Any,
    weight: Any,
    margin: Any,
    p: int,
    low: int,
    high: int,
    slope: Any,
    loss: Any,
) -> None:
    """Eq. 2 of the facts ``low..high``: their losses, and the gradients of both distances where a loss is above 0.

    Args:
        nodes: float32 ``[N, d]``.
        relations: float32 ``[R, d]``.
        ends: int64 ``[4, B]``: head, tail, corrupted head, corrupted tail.
        kind: int64 ``[B]``.
        weight: float32 ``[B]``.
        margin: gamma, float32.
        p: the norm, 1 or 2.
        low: of the facts.
        high: of the facts.
        slope: float32 ``[2, B, d]``: gradients of the fact's distance and of the corrupted one's, weighted.
        loss: float32 ``[B]``.
    """
    for b in range(low, high):
        near = _distance(nodes, ends[0, b], relations, kind[b], ends[1, b], p, slope, 0, b)
        far = _distance(nodes, ends[2, b], relations, kind[b], ends[3, b], p, slope, 1, b)
        hinge = (near - far + margin) * weight[b]
        loss[b] = np.float32(0.0) if hinge <= 0 else hinge  # a NaN stays one, and is told
        if hinge > 0:
            _slope(slope, 0, b, near, p, weight[b])
            _slope(slope, 1, b, far, p, weight[b])


@njit
def group(ids: Any, place: Any, rows: Any, ptr: Any, member: Any) -> int:
    """The different ids in the order in which they come, and where each stands; returns how many.

    Args:
        ids: int64 ``[M]``.
        place: int64, -1 per possible id; comes back like that.
        rows: int64 ``[M]``: the ids, each once.
        ptr: int64 ``[M + 1]``: where each one's members begin.
        member: int64 ``[M]``: positions in ``ids``, ascending within an id.
    """
    count = 0
    for m in range(ids.size):
        if place[ids[m]] < 0:
            place[ids[m]] = count
            rows[count] = ids[m]
            ptr[count] = 0
            count += 1
        ptr[place[ids[m]]] += 1
    total = 0
    for c in range(count):
        total, ptr[c] = total + ptr[c], total
    for m in range(ids.size):
        at = place[ids[m]]
        member[ptr[at]] = m
        ptr[at] += 1
    for c in range(count, 0, -1):
        ptr[c] = ptr[c - 1]
    ptr[0] = 0
    for c in range(count):
        place[rows[c]] = -1
    return count


@njit
def _adam(table: Any, first: Any, second: Any, r: int, grad: Any, size: Any) -> None:
    for i in range(grad.size):
        m = np.float32(0.9) * first[r, i] + np.float32(0.1) * grad[i]
        v = np.float32(0.999) * second[r, i] + np.float32(0.001) * grad[i] * grad[i]
        first[r, i], second[r, i] = m, v
        table[r, i] -= size * m / (np.sqrt(v) + np.float32(1e-8))


@njit
def move_nodes(
    nodes: Any, first: Any, second: Any, rows: Any, ptr: Any, member: Any, low: int, high: int, slope: Any, loss: Any, size: Any
) -> None:
    """Adam for the nodes ``rows[low:high]``, each left with length 1.

    Args:
        nodes: float32 ``[N, d]``.
        first: Adam's mean of the gradients, like ``nodes``.
        second: Adam's mean of their squares, like ``nodes``.
        rows: of :func:`group` over the flat ``ends``.
        ptr: likewise.
        member: likewise.
        low: of ``rows``.
        high: of ``rows``.
        slope: of :func:`distances`.
        loss: likewise.
        size: of the step, float32.
    """
    count = loss.size
    grad = np.empty(nodes.shape[1], dtype=nodes.dtype)
    for c in range(low, high):
        grad[:] = 0
        for m in range(ptr[c], ptr[c + 1]):
            side, b = member[m] // count, member[m] % count
            if loss[b] > 0:
                # A head of a fact goes with its distance, a tail against it; of a corrupted fact the other way round.
                sign, pair = np.float32(1.0 if side == 0 or side == 3 else -1.0), side // 2
                for i in range(grad.size):
                    grad[i] += sign * slope[pair, b, i]
        r, total = rows[c], np.float32(0.0)
        _adam(nodes, first, second, r, grad, size)
        for i in range(grad.size):
            total += nodes[r, i] * nodes[r, i]
        scale = np.float32(1.0) / max(np.sqrt(total), np.float32(1e-12))
        for i in range(grad.size):
            nodes[r, i] *= scale


@njit
def move_relations(
    relations: Any, first: Any, second: Any, rows: Any, ptr: Any, member: Any, count: int, slope: Any, loss: Any, size: Any
) -> None:
    """Adam for the ``count`` relations of a step; arguments as of :func:`move_nodes`, grouped over ``kind``."""
    grad = np.empty(relations.shape[1], dtype=relations.dtype)
    for c in range(count):
        grad[:] = 0
        for m in range(ptr[c], ptr[c + 1]):
            b = member[m]
            if loss[b] > 0:
                for i in range(grad.size):
                    grad[i] += slope[0, b, i] - slope[1, b, i]
        _adam(relations, first, second, rows[c], grad, size)
