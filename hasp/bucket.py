"""Bucket: send every edge of a type to its part, for all parts together in one pass, never one pass per part.

Grouped edges are the largest thing that a build holds, or writes and reads back, so they are kept narrow: a row of a part or
a concept's id in 16 bits where they fit, and 16 bits of the edge's id. The others are told by the slice of 2**16 edges that
it comes from: edges of a bucket stand in the order of their ids, and it is known how many come from each slice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hasp.graph import Graph
from hasp.kernels import bucket as kernel
from hasp.layout import Layout, TypeLayout
from hasp.parallel import blocks, run
from hasp.part import Edges, numpy_ids
from hasp.rows import room_for_rows, take_rows, whole_rows
from hasp.schema import EdgeType, Roles
from hasp.scratch import MEMORY, Scratch
from hasp.sizes import is_large

__all__ = ["Buckets", "bucket_edges", "row_type", "sort_by_destination", "sort_cut", "sort_edges"]

Array = npt.NDArray[np.integer[Any]]

_SLICE = 1 << 16  # edges whose ids differ in 16 bits alone
_FEW = 4  # keys per edge that are still counted
_BLOCK = 1 << 18  # edges that one thread places in one go: few enough that a type of a million edges keeps every core busy


@dataclass(frozen=True)
class Buckets:
    """The edges of one type, grouped by part.

    Attributes:
        ends: (sources, destinations), each ``[E]``, uint16, int32 or int64; an end of an entity type is a row of its part,
            any other a global id.
        low: the low 16 bits of the edge ids, uint16 ``[E]``; ids ascend within each part.
        slices: int32 ``[ceil(E / 2**16), num_parts + 1]``: how many edges of each bucket come from each slice of ids.
        ptr: int64 ``[num_parts + 2]``: part ``p`` has ``ptr[p]:ptr[p + 1]``; the last bucket holds the cut edges.
        num_keys: per part, one more than the largest destination that may occur in it, int64 ``[num_parts]``.
        attrs: rows of attributes that are large for the memory, in the order of the buckets.
    """

    ends: tuple[Array, Array]
    low: npt.NDArray[np.uint16]
    slices: npt.NDArray[np.int32]
    ptr: npt.NDArray[np.int64]
    num_keys: npt.NDArray[np.int64]
    attrs: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Edges per part, int64 ``[num_parts]``."""
        return np.diff(self.ptr)[:-1]

    @property
    def num_cut(self) -> int:
        """Edges between two parts."""
        return int(self.ptr[-1] - self.ptr[-2])

    @property
    def id_type(self) -> type[np.signedinteger[Any]]:
        """Of the edge ids."""
        return numpy_ids(int(self.ptr[-1]))

    @property
    def row_type(self) -> np.dtype[Any]:
        """Of the two ends side by side."""
        return row_type(*self.ends)

    def ids(self, bucket: int) -> Array:
        """The edge ids of a bucket, ascending, int32 or int64."""
        out = np.empty(int(self.ptr[bucket + 1] - self.ptr[bucket]), self.id_type)
        kernel.whole_ids(self.low[self.ptr[bucket] : self.ptr[bucket + 1]], self.slices[:, bucket], _SLICE, out)
        return out

    def edges(self, part_id: int) -> Edges:
        """The edges of one part, sorted by (destination, edge id), with the attributes of :attr:`attrs` alone."""
        window = slice(self.ptr[part_id], self.ptr[part_id + 1])
        src, dst = (end[window] for end in self.ends)
        num_keys = int(self.num_keys[part_id])
        if self.attrs or num_keys > max(_FEW * dst.size, _SLICE):  # counters of so many keys would be most of the work
            attrs = {k: v[window] for k, v in self.attrs.items()}
            return sort_edges(src, dst, self.ids(part_id), num_keys, attrs)
        index, ids = np.empty((2, dst.size), self.row_type), np.empty(dst.size, self.id_type)
        start = np.zeros(num_keys + 1, numpy_ids(dst.size))
        kernel.sort_bucket(dst, src, self.low[window], self.slices[:, part_id], _SLICE, start, index[1], index[0], ids)
        return Edges(torch.from_numpy(index), torch.from_numpy(ids))

    def cut(self) -> tuple[Array, Array, Array]:
        """(sources, destinations, edge ids) of the cut edges, ascending by edge id."""
        window = slice(self.ptr[-2], self.ptr[-1])
        return self.ends[0][window], self.ends[1][window], self.ids(self.ptr.size - 2)


def row_type(src: Array, dst: Array) -> np.dtype[Any]:
    """The dtype of an ``edge_index`` with these ends: int32, or int64."""
    return np.promote_types(np.promote_types(src.dtype, dst.dtype), np.int32)


def sort_cut(pair: Array, dst: Array, num_pairs: int, scratch: Scratch = MEMORY) -> Array:
    """The order of cut edges by (pair of parts, destination, what they came in by), int32 or int64 ``[c]``."""
    order, by_dst = (scratch.empty(dst.size, numpy_ids(dst.size)) for _ in range(2))
    for low, high in blocks(dst.size):
        order[low:high] = np.arange(low, high)
    # Two stable sorts, the minor key first.
    kernel.order_by(dst, order, int(dst.max(initial=0)) + 1, by_dst)
    if num_pairs > max(dst.size, 1 << 16):  # more pairs than edges: counting them would cost more than sorting
        return by_dst[np.argsort(pair[by_dst], kind="stable")]
    kernel.order_by(pair, by_dst, num_pairs, order)
    return order


def sort_edges(src: Array, dst: Array, e_id: Array, num_keys: int, attrs: Mapping[str, Tensor]) -> Edges:
    """Sort edges by (destination, edge id), and their attributes with them.

    Args:
        src: ``[n]``.
        dst: ``[n]``, below ``num_keys``.
        e_id: ``[n]``, ascending.
        num_keys: see :class:`Buckets`.
        attrs: rows in the same order.
    """
    if not attrs:
        return sort_by_destination(src, dst, e_id, num_keys)
    at = sort_by_destination(src, dst, np.arange(e_id.size, dtype=numpy_ids(e_id.size)), num_keys)
    rows = {k: take_rows(v, at.e_id) for k, v in attrs.items()}
    return Edges(at.edge_index, torch.from_numpy(e_id[at.e_id.numpy()]), rows)


def sort_by_destination(src: Array, dst: Array, e_id: Array, num_keys: int, scratch: Scratch = MEMORY) -> Edges:
    """Sort edges by destination (a stable counting sort: equal destinations keep their order)."""
    index = scratch.empty((2, dst.size), row_type(src, dst))
    ids = scratch.empty(dst.size, e_id.dtype)
    bits = max(dst.size - 1, 0).bit_length()
    if bits + max(num_keys - 1, 0).bit_length() <= 32:
        # Key and position in 32 bits: NumPy sorts these with vector instructions, in half the time of a counting sort.
        packed = np.empty(dst.size, dtype=np.uint32)
        kernel.pack_rows(dst, bits, packed)
        packed.sort()
        kernel.unpack_rows(packed, bits, src, e_id, index[1], index[0], ids)
    else:
        kernel.sort_rows(dst, src, e_id, num_keys, index[1], index[0], ids)
    return Edges(torch.from_numpy(index), torch.from_numpy(ids))


def bucket_edges(
    graph: Graph, roles: Roles, layout: Layout, edge_type: EdgeType, threads: int = 0, scratch: Scratch = MEMORY
) -> Buckets:
    """Bucket one edge type that has an entity end (the first entity end decides, if only one is).

    Args:
        graph: checked beforehand.
        roles: of the same graph.
        layout: of the same graph.
        edge_type: an edge type with at least one entity end.
        threads: never changes the result.
        scratch: where the grouped edges go.
    """
    src, dst = (t.numpy() for t in graph.edges[edge_type])
    src_type, _, dst_type = edge_type
    low_id = scratch.empty(src.size, np.uint16)
    todo = blocks(src.size, _BLOCK, step=_SLICE)
    counts = np.zeros((-(-src.size // _SLICE), layout.num_parts + 1), dtype=np.int32)
    # One byte per edge, two from 256 parts on, between counting and placing.
    bucket = scratch.empty(src.size, np.uint8 if layout.num_parts < 2**8 else np.uint16)
    count: Callable[[slice, Array], None]
    place: Callable[[slice, npt.NDArray[np.int64]], None]
    if roles.nodes[src_type] == roles.nodes[dst_type] == "entity":
        a, b = layout.types[src_type], layout.types[dst_type]
        a_rows, b_rows = _table(a, src.size), _table(b, src.size)
        ends = scratch.empty(src.size, a_rows.dtype), scratch.empty(src.size, b_rows.dtype)
        num_keys = np.diff(b.ptr)

        def count(some: slice, into: Array) -> None:
            kernel.count_both(src[some], dst[some], a.part, b.part, layout.num_parts, into, bucket[some])

        def place(some: slice, cursor: npt.NDArray[np.int64]) -> None:
            kernel.place_both(src[some], dst[some], bucket[some], a_rows, b_rows, some.start, cursor, *ends, low_id)
    else:
        entity_is_source = roles.nodes[src_type] == "entity"
        own = layout.types[src_type if entity_is_source else dst_type]
        other_type = dst_type if entity_is_source else src_type
        end, other = (src, dst) if entity_is_source else (dst, src)
        rows, others = _table(own, src.size), graph.num_nodes[other_type]
        out_end = scratch.empty(src.size, rows.dtype)
        out_other: Array = scratch.empty(src.size, np.uint16 if others <= 1 << 16 else numpy_ids(others))
        ends = (out_end, out_other) if entity_is_source else (out_other, out_end)
        whole = np.full(layout.num_parts, graph.num_nodes[dst_type], dtype=np.int64)
        num_keys = whole if entity_is_source else np.diff(own.ptr)

        def count(some: slice, into: Array) -> None:
            kernel.count_one(end[some], own.part, into, bucket[some])

        def place(some: slice, cursor: npt.NDArray[np.int64]) -> None:
            kernel.place_one(end[some], other[some], bucket[some], rows, some.start, cursor, out_end, out_other, low_id)

    def count_block(i: int) -> None:
        for low in range(todo[i][0], todo[i][1], _SLICE):
            count(slice(low, min(low + _SLICE, src.size)), counts[low // _SLICE])

    run(count_block, range(len(todo)), threads)
    ptr, begins = _begins(counts, [low // _SLICE for low, _ in todo])
    run(lambda i: place(slice(*todo[i]), begins[i].copy()), range(len(todo)), threads)
    attrs = {}
    for name, value in graph.edge_attrs.get(edge_type, {}).items():
        if scratch.folder is not None and is_large(value):
            attrs[name] = _spread(value, todo, bucket, begins.copy(), threads, scratch)
    return Buckets(ends, low_id, counts, ptr, num_keys, attrs)


def _begins(counts: npt.NDArray[np.int32], first: list[int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where buckets begin, ``[buckets + 1]``, and where each block's edges of each bucket do, ``[blocks, buckets]``.

    A block's edges of a bucket stand after all earlier buckets, then the earlier blocks of this one. ``first`` are the blocks'
    first slices.
    """
    per_block = np.add.reduceat(counts, first, axis=0, dtype=np.int64) if first else np.zeros((0, counts.shape[1]), np.int64)
    ptr = np.concatenate([[0], np.cumsum(per_block.sum(axis=0))]).astype(np.int64)
    return ptr, ptr[:-1] + np.cumsum(per_block, axis=0) - per_block


def _table(where: TypeLayout, lookups: int) -> npt.NDArray[np.integer[Any]]:
    """The row of every entity in its part, to be looked up at random: in 16 bits where they fit, more stays in the cache."""
    fits = int(np.diff(where.ptr).max(initial=0)) <= 1 << 16
    return where.local.astype(np.uint16) if fits and lookups >= where.local.size else where.local


def _spread(
    value: Tensor,
    todo: list[tuple[int, int]],
    bucket: npt.NDArray[np.unsignedinteger[Any]],
    cursors: npt.NDArray[np.int64],
    threads: int,
    scratch: Scratch,
) -> Tensor:
    """The rows of an attribute in the order of the buckets, in one pass; see :func:`hasp.rows.rows_by_part`."""
    target, out = room_for_rows(value, scratch)

    def move(i: int) -> None:
        low, high = todo[i]
        at = np.empty(high - low, dtype=np.int64)
        kernel.where(bucket[low:high], cursors[i], at)
        target[at] = whole_rows(value[low:high])

    run(move, range(len(todo)), threads)
    return out
