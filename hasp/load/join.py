"""Join: the entities and the edges of q parts, and of the cut between them, in the order of a batch.

Entities stand part after part, as they lie in the parts, so that their rows are copied in one go, and edges that lead to them
are in order when those of one part follow those of another; cut edges are put between (:mod:`hasp.load.interleave`). Where all
entities are there, an entity's row is its id.

Edges that lead to other types, or to all entities, come sorted run by run. Where all bits of an edge fit one 63-bit number
(destination | ``e_id`` | source), they are one sort of such numbers, which NumPy does with vector instructions, and everything
is read off the sorted numbers: no permutation is made, nothing is gathered. Else an argsort and gathers give the same result.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hasp.errors import HaspError
from hasp.load.interleave import Places, sorted_by_destination
from hasp.part import Edges
from hasp.rows import join_rows, spread_rows, take_rows

__all__ = ["Owned", "join_attrs", "join_edges", "join_entities"]

Ints = npt.NDArray[np.signedinteger[Any]]

_BITS = 63  # of a non-negative int64
_KEEP = 1 << 18  # edges: 6 MB in all
_MANY = 16  # times fewer cut edges than others: else sorting all is faster than looking for the places of some
_NUMPY = {torch.int32: np.int32, torch.int64: np.int64}
_local = threading.local()


@dataclass(frozen=True)
class Owned:
    """The entities of one type in the batch.

    Attributes:
        n_id: global ids ``[n]``, part after part, ascending in each, or all of them; int64, or as stored.
        owner: part of each, int32 ``[n]``.
        start: the first place of each part, int64 ``[q]``, if parts stand one after the other.
        row: the row of each such place, int64 ``[n]``; ``None``: they do stand so, and it is its own.
    """

    n_id: Tensor
    owner: Tensor
    start: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64] | None = None

    def rows(self, position: int, local: Ints, out: Ints) -> None:
        """Write the rows of the batch of a part's rows to ``out``; ``position`` is the part's among those of the batch."""
        start = int(self.start[position])
        if self.row is None:
            np.add(local, start, out=out, casting="same_kind")
        else:
            out[:] = self.row[start:][local]


def join_entities(n_ids: Sequence[Tensor], parts: Sequence[int], dtype: torch.dtype, whole: bool = False) -> Owned:
    """The entities of parts, one part after the other, or as in the input.

    Args:
        n_ids: per part, ascending ids of one dtype.
        parts: their numbers.
        dtype: of the joined ids, int32 or int64.
        whole: they are all entities of their type, and shall stand in the order of their ids.
    """
    counts = np.array([ids.numel() for ids in n_ids], dtype=np.int64)
    start, owners = np.cumsum(counts) - counts, np.repeat(np.array(parts, dtype=np.int32), counts)
    if whole:
        row = np.concatenate([ids.numpy() for ids in n_ids], dtype=np.int64)
        owner = np.empty_like(owners)
        owner[row] = owners
        return Owned(torch.arange(row.size, dtype=dtype), torch.from_numpy(owner), start, row)
    if len(n_ids) == 1:
        n_id = n_ids[0].to(dtype)
    else:
        n_id = torch.from_numpy(np.concatenate([ids.numpy() for ids in n_ids], dtype=_NUMPY[dtype]))
    return Owned(n_id, torch.from_numpy(owners), start)


def join_attrs(attrs: Sequence[Mapping[str, Tensor]], owned: Owned | None = None) -> dict[str, Tensor]:
    """The rows of several parts, one part after the other, or where ``owned`` has them. One part: its very tensors."""
    if len(attrs) == 1:
        return dict(attrs[0])
    if owned is None or owned.row is None:
        return {name: join_rows([each[name] for each in attrs]) for name in attrs[0]}
    return {name: spread_rows([each[name] for each in attrs], owned.row) for name in attrs[0]}


def join_edges(
    inside: Sequence[Edges],
    cut: Edges | None,
    chosen: Sequence[int],
    ends: tuple[Owned | int, Owned | int],
    num_edges: int,
    dtypes: tuple[torch.dtype, torch.dtype],
) -> Edges:
    """The edges of one type inside each part and cut between them, renumbered and sorted by (destination, ``e_id``).

    Args:
        inside: per part.
        cut: the cut edges of the type; ``None``: it is never cut.
        chosen: the parts, ascending.
        ends: per end, the entities of its type, or how many nodes the type has: then ids stay what they are.
        num_edges: of the type in the whole graph.
        dtypes: of the new ``edge_index`` and ``e_id``, int32 or int64.
    """
    between = [] if cut is None else _cut_ranges(cut, chosen)
    count = sum(e.num_edges for e in inside)
    more = sum(high - low for low, high, _, _ in between)
    out, e_id = _room(count + more, dtypes)
    attrs = join_attrs([e.attrs for e in inside])
    in_order = isinstance(ends[1], Owned) and ends[1].row is None
    if in_order and not more:
        _put_in_order(inside, ends, out[0], out[1], e_id)
        return Edges(torch.from_numpy(out), torch.from_numpy(e_id), attrs)
    source, destination, ids = _scratch(count + more)
    _put_in_order(inside, ends, source[:count], destination[:count], ids[:count])
    cut_attrs: dict[str, Tensor] = {}
    if cut is not None and between:
        _put_cut(cut, between, ends, source[count:], destination[count:], ids[count:])
        cut_attrs = {k: join_rows([v[low:high] for low, high, _, _ in between]) for k, v in cut.attrs.items()}
    if in_order and more * _MANY < count:
        places = Places.of(destination[:count], ids[:count], destination[count:], ids[count:])
        for values, target in ((source, out[0]), (destination, out[1]), (ids, e_id)):
            places.put(values[:count], values[count:], target)
        attrs = {k: places.rows(v, cut_attrs[k]) for k, v in attrs.items()}
    else:
        attrs = {k: join_rows([v, cut_attrs[k]]) if more else v for k, v in attrs.items()}
        limits = _count(ends[1]), num_edges, _count(ends[0])
        attrs = _sort(source, destination, ids, limits, attrs, out, e_id)
    return Edges(torch.from_numpy(out), torch.from_numpy(e_id), attrs)


def _sort(
    source: npt.NDArray[np.int64],
    key: npt.NDArray[np.int64],
    ids: npt.NDArray[np.int64],
    limits: tuple[int, int, int],
    attrs: Mapping[str, Tensor],
    out: Ints,
    e_id: Ints,
) -> dict[str, Tensor]:
    """Write edges to ``out`` and ``e_id``, by (destination, ``e_id``); ``key`` comes as destinations and is written over.

    ``limits``: above all destinations, ids and sources. Returns the attributes in the same order.
    """
    widths = [_bits(n) for n in (*limits[:2], key.size if attrs else limits[2])]
    order: npt.NDArray[np.int64]
    if sum(widths) <= _BITS:
        key <<= widths[1]
        key |= ids
        key <<= widths[2]
        key |= np.arange(key.size) if attrs else source
        key.sort()
        order = np.bitwise_and(key, (1 << widths[2]) - 1, out=ids if attrs else out[0], casting="same_kind")
        if attrs:
            out[0] = source[order]
        key >>= widths[2]
        np.bitwise_and(key, (1 << widths[1]) - 1, out=e_id, casting="same_kind")
        np.right_shift(key, widths[1], out=out[1], casting="same_kind")
    else:
        order = sorted_by_destination(key, ids)
        out[0], out[1], e_id[:] = source[order], key[order], ids[order]
    return {name: take_rows(value, torch.from_numpy(order)) for name, value in attrs.items()}


def _room(count: int, dtypes: tuple[torch.dtype, torch.dtype]) -> tuple[Ints, Ints]:
    """``edge_index`` and ``e_id``, not initialised."""
    return np.empty((2, count), _NUMPY[dtypes[0]]), np.empty(count, _NUMPY[dtypes[1]])


def _scratch(count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Three arrays of this thread that are written over at the next call.

    Kept, they stay in the processor's cache, where new ones would begin in memory. Large ones are not kept, so that a large
    batch does not hold memory for good.
    """
    kept = getattr(_local, "arrays", None)
    if count > _KEEP:
        kept = np.empty((3, count), dtype=np.int64)
    elif kept is None:
        kept = _local.arrays = np.empty((3, _KEEP), dtype=np.int64)
    return kept[0, :count], kept[1, :count], kept[2, :count]


def _put_in_order(
    inside: Sequence[Edges], ends: tuple[Owned | int, Owned | int], source: Ints, destination: Ints, ids: Ints
) -> None:
    """Write the edges of the parts, one part after the other, as rows of the batch."""
    at = 0
    for position, edges in enumerate(inside):
        here = slice(at, at + edges.num_edges)
        for row, end, out in zip(edges.edge_index.numpy(), ends, (source, destination), strict=True):
            if isinstance(end, int):
                out[here] = row
            else:
                end.rows(position, row, out[here])
        ids[here] = edges.e_id.numpy()
        at = here.stop


def _put_cut(
    cut: Edges,
    between: Sequence[tuple[int, int, int, int]],
    ends: tuple[Owned | int, Owned | int],
    source: Ints,
    destination: Ints,
    ids: Ints,
) -> None:
    """Write the cut edges in ranges, as rows of the batch."""
    low, high, *positions = np.array(between).T
    for rows, out, end, position in zip(cut.edge_index.numpy(), (source, destination), ends, positions, strict=True):
        assert not isinstance(end, int)  # edges are cut between entities
        np.concatenate([rows[a:b] for a, b, _, _ in between], out=out)
        out += np.repeat(end.start[position], high - low)
        if end.row is not None:
            out[:] = end.row[out]
    np.concatenate([cut.e_id.numpy()[a:b] for a, b, _, _ in between], out=ids)


def _cut_ranges(cut: Edges, chosen: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """The cut edges between each two of the chosen parts (ascending), as (first, last + 1, position of the source's part in
    ``chosen``, of the destination's). Looks at the pairs of these parts only.
    """
    if cut.pairs is None or cut.ptr is None:
        raise HaspError("the cut is grouped by pairs of parts, but this one has no pairs; rebuild the parts")
    pairs, ptr = cut.pairs.numpy(), cut.ptr.numpy()
    wanted, source, low = np.array(chosen, dtype=np.int32), pairs[:, 0], 0
    out: list[tuple[int, int, int, int]] = []
    for position, part in enumerate(chosen):  # NumPy would copy a strided column whole to search it, and it may be a large map
        low = bisect_left(source, part, low)
        high = bisect_left(source, part + 1, low)
        row = pairs[low:high, 1]
        at = row.searchsorted(wanted)
        there = np.flatnonzero(row.take(at, mode="clip") == wanted) if row.size else at[:0]
        found = at[there] + low
        out += zip(ptr[found].tolist(), ptr[found + 1].tolist(), [position] * found.size, there.tolist(), strict=True)
        low = high
    return out


def _count(end: Owned | int) -> int:
    return end if isinstance(end, int) else end.n_id.numel()


def _bits(count: int) -> int:
    """Bits of the numbers below ``count``."""
    return max(count - 1, 0).bit_length()
