"""Bucket: send every edge of a type to its part, for all parts together in one pass, never one pass per part."""

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

__all__ = ["Buckets", "bucket_edges", "sort_by_destination", "sort_cut"]

Array = npt.NDArray[np.signedinteger[Any]]

_BLOCK = 1 << 18  # edges of one call of a kernel: small enough that a type of a million edges keeps every core busy


@dataclass(frozen=True)
class Buckets:
    """The edges of one type, grouped by part.

    Attributes:
        ends: (sources, destinations), each ``[E]``; an end of an entity type is a row of its part, any other a global id.
        e_id: ``[E]`` edge ids, ascending within each part.
        ptr: int64 ``[num_parts + 2]``: part ``p`` has ``ptr[p]:ptr[p + 1]``; the last bucket holds the cut edges.
        num_keys: per part, one more than the largest destination that may occur in it, int64 ``[num_parts]``.
        attrs: rows of attributes that are large for the memory, in the order of ``e_id``.
    """

    ends: tuple[Array, Array]
    e_id: Array
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

    def edges(self, part_id: int) -> Edges:
        """The edges of one part, sorted by (destination, edge id), with the attributes of :attr:`attrs` alone."""
        window = slice(self.ptr[part_id], self.ptr[part_id + 1])
        src, dst = (end[window] for end in self.ends)
        e_id, num_keys = self.e_id[window], int(self.num_keys[part_id])
        if not self.attrs:
            return sort_by_destination(src, dst, e_id, num_keys)
        at = sort_by_destination(src, dst, np.arange(e_id.size, dtype=numpy_ids(e_id.size)), num_keys)
        attrs = {k: take_rows(v[window], at.e_id) for k, v in self.attrs.items()}
        return Edges(at.edge_index, torch.from_numpy(e_id[at.e_id.numpy()]), attrs)

    def cut(self) -> tuple[Array, Array, Array]:
        """(sources, destinations, edge ids) of the cut edges, ascending by edge id."""
        window = slice(self.ptr[-2], self.ptr[-1])
        return self.ends[0][window], self.ends[1][window], self.e_id[window]


def sort_cut(pair: Array, dst: Array, num_pairs: int, scratch: Scratch = MEMORY) -> Array:
    """The order of cut edges by (pair of parts, destination, what they came in by), int32 or int64 ``[c]``."""
    order, by_dst = (scratch.empty(dst.size, numpy_ids(dst.size)) for _ in range(2))
    for low, high in blocks(dst.size):
        order[low:high] = np.arange(low, high)
    # Two stable sorts, the minor key first.
    kernel.order_by(dst, order, int(dst.max(initial=-1)) + 1, by_dst)
    if num_pairs > max(dst.size, 1 << 16):  # more pairs than edges: counting them would cost more than sorting
        return by_dst[np.argsort(pair[by_dst], kind="stable")]
    kernel.order_by(pair, by_dst, num_pairs, order)
    return order


def sort_by_destination(src: Array, dst: Array, e_id: Array, num_keys: int, scratch: Scratch = MEMORY) -> Edges:
    """Sort edges by destination (a stable counting sort: equal destinations keep their order)."""
    index = scratch.empty((2, dst.size), np.promote_types(src.dtype, dst.dtype))
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
    e_id: Array = scratch.empty(src.size, numpy_ids(src.size))
    todo = blocks(src.size, _BLOCK)
    counts = np.zeros((len(todo), layout.num_parts + 1), dtype=np.int64)
    # One byte per edge, two from 256 parts on, between counting and placing.
    bucket = scratch.empty(src.size, np.uint8 if layout.num_parts < 2**8 else np.uint16)
    place: Callable[[int], None]
    if roles.nodes[src_type] == roles.nodes[dst_type] == "entity":
        a, b = layout.types[src_type], layout.types[dst_type]
        out = scratch.empty((2, src.size), np.int32)
        ends = (out[0], out[1])
        num_keys = np.diff(b.ptr)
        a_rows, b_rows = _table(a, src.size), _table(b, src.size)

        def count(i: int) -> None:
            low, high = todo[i]
            kernel.count_both(src[low:high], dst[low:high], a.part, b.part, layout.num_parts, counts[i], bucket[low:high])

        def place(i: int) -> None:
            low, high = todo[i]
            block = (src[low:high], dst[low:high], bucket[low:high], a_rows, b_rows)
            kernel.place_both(*block, low, cursors[i], out, e_id)
    else:
        entity_is_source = roles.nodes[src_type] == "entity"
        own = layout.types[src_type if entity_is_source else dst_type]
        other_type = dst_type if entity_is_source else src_type
        end, other = (src, dst) if entity_is_source else (dst, src)
        out_end: Array = scratch.empty(src.size, np.int32)
        out_other: Array = scratch.empty(src.size, numpy_ids(graph.num_nodes[other_type]))
        ends = (out_end, out_other) if entity_is_source else (out_other, out_end)
        whole = np.full(layout.num_parts, graph.num_nodes[dst_type], dtype=np.int64)
        num_keys = whole if entity_is_source else np.diff(own.ptr)
        rows = _table(own, src.size)

        def count(i: int) -> None:
            low, high = todo[i]
            kernel.count_one(end[low:high], own.part, counts[i], bucket[low:high])

        def place(i: int) -> None:
            low, high = todo[i]
            block = (end[low:high], other[low:high], bucket[low:high], rows)
            kernel.place_one(*block, low, cursors[i], out_end, out_other, e_id)

    run(count, range(len(todo)), threads)
    ptr = np.concatenate([[0], np.cumsum(counts.sum(axis=0))]).astype(np.int64)
    # cursors[i, p]: where block i's edges of part p begin = all earlier parts, then the earlier blocks of this part.
    begins = ptr[:-1] + np.cumsum(counts, axis=0) - counts
    cursors = begins.copy()
    run(place, range(len(todo)), threads)
    attrs = {}
    for name, value in graph.edge_attrs.get(edge_type, {}).items():
        if scratch.folder is not None and is_large(value):
            attrs[name] = _spread(value, todo, bucket, begins.copy(), threads, scratch)
    return Buckets(ends, e_id, ptr, num_keys, attrs)


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
