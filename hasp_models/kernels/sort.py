"""Stable counting sorts that turn the edges of all relations into rows by destination, and into rows by source."""

from __future__ import annotations

from typing import Any

import numba

__all__ = ["by_destination", "by_source"]

njit: Any = numba.njit(nogil=True, cache=True)


@njit
def by_destination(src: Any, dst: Any, rel_ptr: Any, indptr: Any, out_src: Any, out_rel: Any, perm: Any) -> None:
    """Sort edges by (destination, relation, position).

    ``src`` and ``dst`` hold the edges relation after relation, those of relation ``r`` at ``rel_ptr[r]:rel_ptr[r + 1]``.
    ``indptr`` int64 ``[num_dst + 1]`` comes in as zeros; ``out_src``, ``out_rel`` and ``perm`` are ``[E]``.
    """
    for e in range(dst.size):
        indptr[dst[e] + 1] += 1
    for i in range(indptr.size - 1):
        indptr[i + 1] += indptr[i]
    # Each row's start serves as its cursor; afterwards every start has moved to the next row's, and is moved back.
    for r in range(rel_ptr.size - 1):
        for e in range(rel_ptr[r], rel_ptr[r + 1]):
            row = dst[e]
            at = indptr[row]
            indptr[row] = at + 1
            out_src[at] = src[e]
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
