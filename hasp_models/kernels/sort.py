"""Stable counting sorts that turn the edges of all relations into rows by destination, and into rows by source; and the cut
of such rows into segments.
"""

from __future__ import annotations

from typing import Any

from hasp.kernels.jit import jit

__all__ = ["by_destination", "by_source", "count_pieces", "cut_rows", "extents"]

njit: Any = jit()


@njit
def extents(ids: Any, rel_ptr: Any, low: Any, high: Any) -> None:
    """Smallest and largest id of each relation, int64 ``[R]``; a relation without edges keeps what stands there."""
    for r in range(rel_ptr.size - 1):
        if rel_ptr[r] < rel_ptr[r + 1]:
            least = most = ids[rel_ptr[r]]
            for e in range(rel_ptr[r], rel_ptr[r + 1]):
                least = min(least, ids[e])
                most = max(most, ids[e])
            low[r] = least
            high[r] = most


@njit
def by_destination(
    src: Any, dst: Any, rel_ptr: Any, first_src: Any, first_dst: Any, indptr: Any, out_src: Any, out_rel: Any, perm: Any
) -> None:
    """Sort edges by (destination, relation, position).

    ``src`` and ``dst`` hold the edges relation after relation, those of relation ``r`` at ``rel_ptr[r]:rel_ptr[r + 1]``;
    their rows are counted from ``first_src[r]`` and ``first_dst[r]``. ``indptr`` int64 ``[num_dst + 1]`` comes in as zeros;
    ``out_src``, ``out_rel`` and ``perm`` are ``[E]``.
    """
    for r in range(rel_ptr.size - 1):
        for e in range(rel_ptr[r], rel_ptr[r + 1]):
            indptr[dst[e] + first_dst[r] + 1] += 1
    for i in range(indptr.size - 1):
        indptr[i + 1] += indptr[i]
    # Each row's start serves as its cursor; afterwards every start has moved to the next row's, and is moved back.
    for r in range(rel_ptr.size - 1):
        for e in range(rel_ptr[r], rel_ptr[r + 1]):
            row = dst[e] + first_dst[r]
            at = indptr[row]
            indptr[row] = at + 1
            out_src[at] = src[e] + first_src[r]
            out_rel[at] = r
            perm[at] = e
    for i in range(indptr.size - 1, 0, -1):
        indptr[i] = indptr[i - 1]
    indptr[0] = 0


@njit
def by_source(indptr: Any, src: Any, t_indptr: Any, t_dst: Any, t_edge: Any) -> None:
    """Transpose: rows by source, each in the order of the destination rows.

    ``t_indptr`` int64 ``[num_src + 1]`` comes in as zeros; ``t_edge`` ``[E]`` gets positions in the order of ``src``.
    """
    for e in range(src.size):
        t_indptr[src[e] + 1] += 1
    for i in range(t_indptr.size - 1):
        t_indptr[i + 1] += t_indptr[i]
    for row in range(indptr.size - 1):
        for e in range(indptr[row], indptr[row + 1]):
            s = src[e]
            at = t_indptr[s]
            t_indptr[s] = at + 1
            t_dst[at] = row
            t_edge[at] = e
    for i in range(t_indptr.size - 1, 0, -1):
        t_indptr[i] = t_indptr[i - 1]
    t_indptr[0] = 0


@njit
def count_pieces(indptr: Any, most: int) -> Any:
    """``(segments, rows of several segments, segments of such rows, rows without edges)`` of at most ``most`` edges each."""
    segments = 0
    rows = 0
    slots = 0
    empty = 0
    for i in range(indptr.size - 1):
        pieces = (indptr[i + 1] - indptr[i] + most - 1) // most
        segments += pieces
        if pieces > 1:
            rows += 1
            slots += pieces
        elif pieces == 0:
            empty += 1
    return segments, rows, slots, empty


@njit
def cut_rows(
    indptr: Any, most: int, seg_ptr: Any, seg_row: Any, seg_out: Any, split_row: Any, split_ptr: Any, slot_seg: Any, empty: Any
) -> None:
    """Cut rows into segments of at most ``most`` edges; see :class:`hasp_models.relation_csr.Rows` for what is written.

    The arrays have the sizes that :func:`count_pieces` tells; ``seg_ptr`` and ``split_ptr`` one more.
    """
    n = indptr.size - 1
    s = 0
    k = 0
    slot = 0
    none = 0
    seg_ptr[0] = 0
    split_ptr[0] = 0
    for i in range(n):
        begin, end = indptr[i], indptr[i + 1]
        if begin == end:
            empty[none] = i
            none += 1
        whole = end - begin <= most
        while begin < end:
            begin = min(begin + most, end)
            seg_ptr[s + 1] = begin
            seg_row[s] = i
            if whole:
                seg_out[s] = i
            else:
                seg_out[s] = n + slot
                slot_seg[slot] = s
                slot += 1
            s += 1
        if not whole:
            split_row[k] = i
            split_ptr[k + 1] = slot
            k += 1
