"""Join: the entities and the edges of q parts, and of the cut between them, in the order of a batch.

What comes in is sorted run by run. Where all bits of an edge fit one 63-bit number (destination | ``e_id`` | source), a batch
is one sort of such numbers, which NumPy does with vector instructions, and everything is read off the sorted numbers: no
permutation is made and nothing is gathered. Else an argsort and gathers give the same result.
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
from hasp.part import Edges
from hasp.rows import put_rows, room, take_rows

__all__ = ["Owned", "join_attrs", "join_edges", "join_entities", "sorted_by_destination"]

Ints = npt.NDArray[np.signedinteger[Any]]

_BITS = 63  # of a non-negative int64
_KEEP = 1 << 18  # edges: 6 MB in all
_NUMPY = {torch.int32: np.int32, torch.int64: np.int64}
_local = threading.local()


@dataclass(frozen=True)
class Owned:
    """The entities of one type in the batch.

    Attributes:
        n_id: ascending global ids ``[n]``, int64, or as stored.
        owner: part of each, int32 ``[n]``.
        start: where each part's rows begin in the concatenation of the parts, int64 ``[q]``.
        row: position in the concatenation -> row of the batch, int64 ``[n]``; ``None``: they are the same.
    """

    n_id: Tensor
    owner: Tensor
    start: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64] | None


def join_entities(n_ids: Sequence[Tensor], parts: Sequence[int], dtype: torch.dtype) -> Owned:
    """The entities of parts, in ascending global id.

    Args:
        n_ids: per part, ascending ids of one dtype.
        parts: their numbers.
        dtype: of the joined ids, int32 or int64.
    """
    if len(parts) == 1:
        owner = torch.full((n_ids[0].numel(),), parts[0], dtype=torch.int32)
        return Owned(n_ids[0].to(dtype), owner, np.zeros(1, dtype=np.int64), None)
    counts = np.array([ids.numel() for ids in n_ids], dtype=np.int64)
    start = np.cumsum(counts) - counts
    order, n_id = _argsort(np.concatenate([ids.numpy() for ids in n_ids], dtype=_NUMPY[dtype]))
    row = np.empty(order.size, dtype=np.int64)
    row[order] = np.arange(order.size)
    owners = np.repeat(np.array(parts, dtype=np.int32), counts).take(order)
    return Owned(torch.from_numpy(n_id), torch.from_numpy(owners), start, row)


def _argsort(ids: Ints) -> tuple[npt.NDArray[np.int64], Ints]:
    """``(order, ids[order])`` of distinct ids, which may be written over."""
    width = _bits(ids.size)
    if _bits(int(ids.max(initial=0)) + 1) + width > _BITS:
        order = np.argsort(ids, kind="stable")
        return order, ids[order]
    key = np.left_shift(ids, width, dtype=np.int64)
    key |= np.arange(ids.size)
    key.sort()
    np.right_shift(key, width, out=ids, casting="same_kind")
    key &= (1 << width) - 1
    return key, ids


def join_attrs(attrs: Sequence[Mapping[str, Tensor]], owned: Owned) -> dict[str, Tensor]:
    """Rows of several parts, each written once, to where it belongs. One part: the very tensors of the part."""
    if owned.row is None:
        return dict(attrs[0])
    out: dict[str, Tensor] = {}
    for name, first in attrs[0].items():
        out[name] = room(first, owned.row.size)
        for start, source in zip(owned.start, attrs, strict=True):
            put_rows(out[name], owned.row[start : start + source[name].size(0)], source[name])
    return out


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
    index = [e.edge_index.numpy() for e in inside]
    ids: list[Ints] = [e.e_id.numpy() for e in inside]
    if cut is not None and between:
        index.append(_cut_edges(cut, between, ends))
        cut_ids = cut.e_id.numpy()
        ids.append(np.concatenate([cut_ids[low:high] for low, high, _, _ in between]))
    count = sum(each.size for each in ids)
    out, e_id = (np.empty(shape, _NUMPY[d]) for shape, d in zip(((2, count), count), dtypes, strict=True))
    key, source, spare = _scratch(count)
    _renumber([each[1] for each in index], ends[1], key, spare)
    _renumber([each[0] for each in index], ends[0], source, spare)
    np.concatenate(ids, out=spare)
    with_attrs = bool(inside[0].attrs)
    widths = [_bits(n) for n in (_count(ends[1]), num_edges, count if with_attrs else _count(ends[0]))]
    order: npt.NDArray[np.int64]
    if sum(widths) <= _BITS:
        key <<= widths[1]
        key |= spare
        key <<= widths[2]
        key |= np.arange(count) if with_attrs else source
        key.sort()
        order = np.bitwise_and(key, (1 << widths[2]) - 1, out=spare if with_attrs else out[0], casting="same_kind")
        if with_attrs:
            out[0] = source[order]
        key >>= widths[2]
        np.bitwise_and(key, (1 << widths[1]) - 1, out=e_id, casting="same_kind")
        np.right_shift(key, widths[1], out=out[1], casting="same_kind")
    else:
        order = sorted_by_destination(key, spare)
        out[0], out[1], e_id[:] = source[order], key[order], spare[order]
    attrs = _edge_attrs(inside, cut, between, torch.from_numpy(order)) if with_attrs else {}
    return Edges(torch.from_numpy(out), torch.from_numpy(e_id), attrs)


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


def _renumber(pieces: Sequence[Ints], end: Owned | int, out: npt.NDArray[np.int64], spare: npt.NDArray[np.int64]) -> None:
    """Write one end of all edges as rows of the batch to ``out``. A piece per part; another one has such rows already."""
    if isinstance(end, int) or end.row is None:
        np.concatenate(pieces, out=out)
        return
    np.concatenate(pieces, out=spare)  # to int64 here, or "take" would make a new array of it
    at = 0
    for position, ids in enumerate(pieces):
        here = slice(at, at + ids.size)
        if position < end.start.size:
            end.row[end.start[position] :].take(spare[here], out=out[here], mode="clip")  # "raise" would go through a buffer
        else:
            out[here] = spare[here]
        at += ids.size


def _cut_edges(cut: Edges, between: Sequence[tuple[int, int, int, int]], ends: tuple[Owned | int, Owned | int]) -> Ints:
    """Both ends of the cut edges in ranges, as rows of the batch, int64 ``[2, m]``."""
    whole = cut.edge_index.numpy()
    index = np.concatenate([whole[:, low:high] for low, high, _, _ in between], axis=1, dtype=np.int64)
    low, high, *positions = np.array(between).T
    for rows, end, position in zip(index, ends, positions, strict=True):
        assert not isinstance(end, int) and end.row is not None  # edges are cut between entities, of several parts
        rows += np.repeat(end.start[position], high - low)
        rows[:] = end.row[rows]
    return index


def _edge_attrs(
    inside: Sequence[Edges], cut: Edges | None, between: Sequence[tuple[int, int, int, int]], order: Tensor
) -> dict[str, Tensor]:
    attrs = {}
    for name, first in inside[0].attrs.items():
        pieces = [each.attrs[name] for each in inside]
        if cut is not None:
            pieces += [cut.attrs[name][low:high] for low, high, _, _ in between]
        joined = room(first, order.numel())
        at = 0
        for piece in pieces:
            joined[at : at + piece.size(0)].copy_(piece)
            at += piece.size(0)
        attrs[name] = take_rows(joined, order)
    return attrs


def _cut_ranges(cut: Edges, chosen: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """The cut edges between each two of the chosen parts (ascending), as (first, last + 1, position of the source's part in
    ``chosen``, of the destination's). Looks at the pairs of these parts only.
    """
    if cut.pairs is None or cut.ptr is None:
        raise HaspError("the cut is grouped by pairs of parts, but this one has no pairs; rebuild the parts")
    pairs, ptr = cut.pairs.numpy(), cut.ptr.numpy()
    source, groups, low = pairs[:, 0], [], 0
    for part in chosen:  # NumPy would copy a strided column whole to search it, and it may be a large memory map
        low = bisect_left(source, part, low)
        high = bisect_left(source, part + 1, low)
        groups.append(np.arange(low, high))
        low = high
    found = np.concatenate(groups)
    wanted = np.array(chosen, dtype=np.int32)
    position = np.searchsorted(wanted, pairs[found])
    there = wanted.take(position[:, 1], mode="clip") == pairs[found, 1]
    found, position = found[there], position[there]
    return list(zip(ptr[found].tolist(), ptr[found + 1].tolist(), *position.T.tolist(), strict=True))


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


def _count(end: Owned | int) -> int:
    return end if isinstance(end, int) else end.n_id.numel()


def _bits(count: int) -> int:
    """Bits of the numbers below ``count``."""
    return max(count - 1, 0).bit_length()
