"""Joining edges of several parts: which cut edges lie between them, edges as one number each, and few put among many."""

from __future__ import annotations

from typing import Any

import numpy as np

from hasp.kernels.jit import jit

__all__ = ["find_groups", "merge_runs", "pack_edges", "put_among", "put_groups", "unpack_edges"]

njit: Any = jit()


@njit
def find_groups(pairs: Any, ptr: Any, chosen: Any, out: Any) -> tuple[int, int]:
    """The groups of cut edges between each two of some parts.

    ``pairs`` ``[m, 2]``, in lexicographic order, are the parts that group ``g`` of edges, ``ptr[g]:ptr[g + 1]``, leads from
    and to; ``chosen`` ``[q]`` ascends. ``out`` int64 ``[q * (q - 1), 4]`` gets (first edge, last + 1, position in ``chosen``
    of the part they lead from, of the one they lead to). Returns how many groups and how many edges there are.
    """
    found = edges = low = 0
    for i in range(chosen.size):
        for j in range(chosen.size):
            if i == j:
                continue
            # Pairs are asked for in their order: from where the last one was, in growing steps, then between the last two.
            high, step = low, 1
            while high < pairs.shape[0] and (
                pairs[high, 0] < chosen[i] or (pairs[high, 0] == chosen[i] and pairs[high, 1] < chosen[j])
            ):
                low = high + 1
                high += step
                step *= 2
            high = min(high, pairs.shape[0])
            while low < high:
                middle = (low + high) // 2
                if pairs[middle, 0] < chosen[i] or (pairs[middle, 0] == chosen[i] and pairs[middle, 1] < chosen[j]):
                    low = middle + 1
                else:
                    high = middle
            if low < pairs.shape[0] and pairs[low, 0] == chosen[i] and pairs[low, 1] == chosen[j]:
                out[found, 0], out[found, 1], out[found, 2], out[found, 3] = ptr[low], ptr[low + 1], i, j
                edges += ptr[low + 1] - ptr[low]
                found += 1
    return found, edges


@njit
def put_groups(
    groups: Any, src: Any, dst: Any, e_id: Any, src_start: Any, dst_start: Any, out_src: Any, out_dst: Any, out_id: Any
) -> None:
    """Copy the edges of ``groups`` (of :func:`find_groups`), one after the other, ends moved on by the start of their part.

    ``src_start`` and ``dst_start`` are by position in ``chosen``.
    """
    at = np.uint64(0)
    for g in range(groups.shape[0]):
        src_add, dst_add = src_start[groups[g, 2]], dst_start[groups[g, 3]]
        for i in range(groups[g, 0], groups[g, 1]):
            out_src[at] = src[np.uint64(i)] + src_add
            out_dst[at] = dst[np.uint64(i)] + dst_add
            out_id[at] = e_id[np.uint64(i)]
            at += np.uint64(1)


@njit
def put_among(
    src: Any,
    src_add: int,
    dst: Any,
    dst_add: int,
    e_id: Any,
    more_src: Any,
    more_dst: Any,
    more_id: Any,
    first: int,
    end: int,
    out_src: Any,
    out_dst: Any,
    out_id: Any,
    at: int,
    place: Any,
) -> tuple[Any, Any]:
    """Write edges in order to ``out`` from ``at`` on, ends moved on, and put more of them in between, ``first`` and following.

    Both lists are sorted by (destination, ``e_id``). Of the second, those that lead to ``end`` or beyond are left alone.
    ``place[c]`` gets where its edge ``c`` went. Returns the next ``at`` and the next ``first``.
    """
    i, to, c = np.uint64(0), np.uint64(at), np.uint64(first)
    count = np.uint64(dst.size)
    while c < np.uint64(more_dst.size) and more_dst[c] < end:
        before, before_id = more_dst[c] - dst_add, more_id[c]
        while i < count and (dst[i] < before or (dst[i] == before and e_id[i] < before_id)):
            out_src[to] = src[i] + src_add
            out_dst[to] = dst[i] + dst_add
            out_id[to] = e_id[i]
            i += np.uint64(1)
            to += np.uint64(1)
        out_src[to], out_dst[to], out_id[to] = more_src[c], more_dst[c], before_id
        place[c] = to
        c += np.uint64(1)
        to += np.uint64(1)
    rest = count - i
    for k in range(rest):
        out_src[to + k] = src[i + k] + src_add
    for k in range(rest):
        out_dst[to + k] = dst[i + k] + dst_add
    for k in range(rest):
        out_id[to + k] = e_id[i + k]
    return np.int64(to + rest), np.int64(c)


@njit
def pack_edges(dst: Any, dst_add: int, e_id: Any, low: Any, low_add: int, id_bits: int, low_bits: int, out: Any) -> None:
    """``out`` int64 gets (destination | ``e_id`` | ``low``) of each edge; sorted, they are in order."""
    for i in range(dst.size):
        key = np.int64(dst[i]) + dst_add
        out[i] = (key << np.int64(id_bits) | np.int64(e_id[i])) << np.int64(low_bits) | (np.int64(low[i]) + low_add)


@njit
def unpack_edges(packed: Any, id_bits: int, low_bits: int, out_dst: Any, out_id: Any, out_low: Any) -> None:
    """What :func:`pack_edges` put into each number."""
    ids, lows = (np.int64(1) << np.int64(id_bits)) - 1, (np.int64(1) << np.int64(low_bits)) - 1
    for i in range(packed.size):
        key = packed[i]
        out_low[i] = key & lows
        key >>= np.int64(low_bits)
        out_id[i] = key & ids
        out_dst[i] = key >> np.int64(id_bits)


@njit
def merge_runs(keys: Any, ptr: Any, spare: Any) -> bool:
    """Merge sorted runs, ``keys[ptr[r]:ptr[r + 1]]`` int64, two by two; returns whether the result is in ``spare``.

    All three are written over. With few runs this is twice as fast as a sort with vector instructions.
    """
    runs, swapped = ptr.size - 1, False
    source, target = keys, spare
    while runs > 1:
        for r in range(0, runs, 2):
            low, middle, high = ptr[r], ptr[r + 1], ptr[min(r + 2, runs)]
            _merge_two(source[low:middle], source[middle:high], target[low:high])
            ptr[r // 2] = low
        ptr[(runs + 1) // 2] = ptr[runs]
        runs = (runs + 1) // 2
        source, target = target, source
        swapped = not swapped
    return swapped


@njit
def _merge_two(a: Any, b: Any, out: Any) -> None:
    """Merge two sorted arrays from both ends at once: two chains of loads that do not wait for each other, and no branch."""
    one = np.uint64(1)
    i, j, first = np.uint64(0), np.uint64(0), np.uint64(0)
    p, q, last = np.uint64(a.size - 1), np.uint64(b.size - 1), np.uint64(out.size - 1)
    # So many steps from each end empty neither array, and do not meet.
    for _ in range(min(a.size, b.size)):
        left = np.uint64(a[i] <= b[j])
        out[first] = min(a[i], b[j])
        i += left
        j += one - left
        first += one
        right = np.uint64(a[p] > b[q])
        out[last] = max(a[p], b[q])
        p -= right
        q -= one - right
        last -= one
    # What is between: of the longer array as many as it is longer, and maybe some of the shorter.
    i_end, j_end = np.int64(p) + 1, np.int64(q) + 1
    while np.int64(i) < i_end and np.int64(j) < j_end:
        left = np.uint64(a[i] <= b[j])
        out[first] = min(a[i], b[j])
        i += left
        j += one - left
        first += one
    while np.int64(i) < i_end:
        out[first] = a[i]
        i += one
        first += one
    while np.int64(j) < j_end:
        out[first] = b[j]
        j += one
        first += one
