"""Runs: lists of edges that come in order, sorted into one by (destination, ``e_id``), or put among each other.

Where all bits of an edge fit one 63-bit number (destination | ``e_id`` | source), such numbers are merged, and everything is
read off them: no permutation is made, nothing is gathered. Else an argsort and gathers give the same result.

Few edges among many that are in order are sorted alone; the many are copied around them in one pass.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from hasp.rows import room, whole_rows

__all__ = ["Run", "put_among", "rows_among", "scratch", "sort_runs", "sorted_by_destination"]

Ints = npt.NDArray[np.signedinteger[Any]]
Places = npt.NDArray[np.int64]

_BITS = 63  # of a non-negative int64
_KEEP = 1 << 18  # edges: 10 MB in all
_LAST = np.iinfo(np.int64).max
_local = threading.local()


class Run(NamedTuple):
    """Edges, as they are stored and what their ends become.

    Attributes:
        source: ``[e]``.
        destination: ``[e]``.
        e_id: ``[e]``.
        source_add: what is added to each source.
        destination_add: what is added to each destination.
        in_order: they are sorted by (destination, ``e_id``).
    """

    source: Ints
    destination: Ints
    e_id: Ints
    source_add: int = 0
    destination_add: int = 0
    in_order: bool = True


def sort_runs(runs: Sequence[Run], limits: tuple[int, int, int], out: Ints, e_id: Ints, *, ordered: bool) -> Places | None:
    """Write all edges by (destination, ``e_id``).

    Args:
        runs: one or more.
        limits: above all destinations, ids and sources.
        out: ``[2, n]``, gets (sources, destinations).
        e_id: ``[n]``, gets the ids.
        ordered: the order is asked for.

    Returns:
        Which edge each is, counted run after run, int64 ``[n]``; ``None`` if that was not asked for.
    """
    from hasp.kernels import join as kernel

    low_bits, id_bits = _bits(e_id.size if ordered else limits[2]), _bits(limits[1])
    order: Places
    if _bits(limits[0]) + id_bits + low_bits > _BITS:
        source, destination = (
            np.concatenate([np.add(run[end], run[end + 3], dtype=np.int64) for run in runs]) for end in (0, 1)
        )
        ids = np.concatenate([run.e_id for run in runs])
        order = sorted_by_destination(destination, ids)
        out[0], out[1], e_id[:] = source[order], destination[order], ids[order]
        return order if ordered else None
    (key, spare, *_), at = scratch(e_id.size), 0
    ptr = np.cumsum([0, *(run.e_id.size for run in runs)])
    for run in runs:
        low, add = (np.arange(at, at + run.e_id.size), 0) if ordered else (run.source, run.source_add)
        kernel.pack_edges(run.destination, run.destination_add, run.e_id, low, add, id_bits, low_bits, key[at:])
        if not run.in_order:
            key[at : at + run.e_id.size].sort()
        at += run.e_id.size
    if kernel.merge_runs(key, ptr, spare):
        key = spare
    if not ordered:
        kernel.unpack_edges(key, id_bits, low_bits, out[1], e_id, out[0])
        return None
    order = np.empty(e_id.size, dtype=np.int64)
    kernel.unpack_edges(key, id_bits, low_bits, out[1], e_id, order)
    out[0] = np.concatenate([np.add(run.source, run.source_add, dtype=np.int64) for run in runs])[order]
    return order


def put_among(runs: Sequence[Run], ends: Sequence[int], more: Run, out: Ints, e_id: Ints) -> Places:
    """Write runs one after the other, and few edges between.

    Args:
        runs: each sorted by (destination, ``e_id``), the destinations of each above those of the one before.
        ends: of each run, one more than its destinations may be.
        more: as it is, sorted, int64 ``[c]``.
        out: ``[2, n + c]``, gets (sources, destinations).
        e_id: ``[n + c]``, gets the ids.

    Returns:
        The places of the edges of ``more``, int64 ``[c]``, ascending.
    """
    from hasp.kernels import join as kernel

    place, at, first = np.empty(more.e_id.size, dtype=np.int64), 0, 0
    for run, end in zip(runs, [*ends[:-1], _LAST], strict=True):
        at, first = kernel.put_among(
            run.source,
            run.source_add,
            run.destination,
            run.destination_add,
            run.e_id,
            *more[:3],
            first,
            end,
            out[0],
            out[1],
            e_id,
            at,
            place,
        )
    return place


def rows_among(values: Tensor, more: Tensor, place: Places) -> Tensor:
    """Rows of an attribute, ``[n, ...]``, with those of more edges, ``[c, ...]``, in their places: ``[n + c, ...]``."""
    out = room(values, values.size(0) + more.size(0))
    target = whole_rows(out)
    others = np.ones(target.size, dtype=np.bool_)
    others[place] = False
    target[others] = whole_rows(values)
    target[place] = whole_rows(more)
    return out


def sorted_by_destination(destination: npt.NDArray[Any], e_id: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The permutation that sorts edges by (destination, ``e_id``), int64 ``[e]``.

    What comes in is a few sorted runs, one per part and per pair of parts; NumPy's stable sort merges runs in linear time.
    """
    if destination.size == 0:
        return np.empty(0, dtype=np.int64)
    span = int(e_id.max()) + 1
    if (int(destination.max()) + 1) * span < 2**63:
        key = destination.astype(np.int64) * span + e_id
        return np.argsort(key, kind="stable").astype(np.int64, copy=False)
    order = np.argsort(e_id, kind="stable")
    return order[np.argsort(destination[order], kind="stable")].astype(np.int64, copy=False)


def scratch(count: int) -> list[Places]:
    """Five arrays of this thread that are written over at the next call; :func:`sort_runs` takes the first two.

    Kept, they stay in the processor's cache, where new ones would begin in memory. Large ones are not kept, so that a large
    batch does not hold memory for good.
    """
    kept = getattr(_local, "arrays", None)
    if count > _KEEP:
        kept = np.empty((5, count), dtype=np.int64)
    elif kept is None:
        kept = _local.arrays = np.empty((5, _KEEP), dtype=np.int64)
    return [array[:count] for array in kept]


def _bits(count: int) -> int:
    """Bits of the numbers below ``count``."""
    return max(count - 1, 0).bit_length()
