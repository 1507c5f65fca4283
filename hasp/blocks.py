"""Blocks: the parts, the shared and the sampled block and the cut of a bucketed graph, each made on demand as a Part."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hasp.bucket import Buckets, bucket_edges, row_type, sort_by_destination, sort_cut
from hasp.graph import Graph
from hasp.layout import Layout
from hasp.parallel import blocks, cores, run
from hasp.part import CUT, SAMPLED, SHARED, Edges, Nodes, Part, id_dtype, numpy_ids
from hasp.rows import rows_by_part, take_rows
from hasp.schema import EdgeType, NodeRole, Roles
from hasp.scratch import MEMORY, Scratch
from hasp.sizes import is_large

__all__ = ["Blocks", "group_cut", "pair_of"]


@dataclass(frozen=True)
class Blocks:
    """A graph whose edges are grouped by part.

    Attributes:
        graph: the source, whose attributes are gathered when a block is made.
        roles: of the same graph.
        layout: which part owns which entity.
        buckets: per edge type with an entity end, in the graph's order.
        scratch: where arrays go that are as long as an edge type.
        ordered: (node type, attribute) -> its rows in the layout's order, of attributes that are large for the memory.
        threads: for the cut; never changes the result.
    """

    graph: Graph
    roles: Roles
    layout: Layout
    buckets: Mapping[EdgeType, Buckets]
    scratch: Scratch = MEMORY
    ordered: Mapping[tuple[str, str], Tensor] = field(default_factory=dict)
    threads: int = 0

    @classmethod
    def make(cls, graph: Graph, roles: Roles, layout: Layout, threads: int = 0, scratch: Scratch = MEMORY) -> Blocks:
        """Bucket every edge type that has an entity end.

        A type with more than one thread's share of the edges is bucketed by all threads, one after the other; the others are
        dealt out whole, the largest first, which keeps threads busier than cutting each small type in pieces.
        """
        owned = [e for e in graph.edges if "entity" in (roles.nodes[e[0]], roles.nodes[e[2]])]
        share = sum(graph.num_edges(e) for e in owned) / cores(threads)
        found = {e: bucket_edges(graph, roles, layout, e, threads, scratch) for e in owned if graph.num_edges(e) > share}
        small = sorted((e for e in owned if e not in found), key=graph.num_edges, reverse=True)
        found |= zip(small, run(lambda e: bucket_edges(graph, roles, layout, e, 1, scratch), small, threads), strict=True)
        ordered = {
            (t, k): rows_by_part(v, layout.types[t], scratch)
            for t in layout.types
            for k, v in graph.node_attrs.get(t, {}).items()
            if scratch.folder is not None and is_large(v)
        }
        return cls(graph, roles, layout, {e: found[e] for e in owned}, scratch, ordered, threads)

    def part(self, part_id: int) -> Part:
        """What one part owns: its entities, and its edges sorted by destination, with their attributes."""
        nodes = {}
        for node_type, where in self.layout.types.items():
            window = slice(where.ptr[part_id], where.ptr[part_id + 1])
            n_id = torch.from_numpy(where.n_id[window])
            own = self.graph.node_attrs.get(node_type, {})
            attrs = {k: take_rows(v, n_id) for k, v in own.items() if (node_type, k) not in self.ordered}
            attrs |= {k: self.ordered[node_type, k][window] for k in own if k not in attrs}
            nodes[node_type] = Nodes(n_id, n_id.numel(), {k: attrs[k] for k in own})
        edges = {e: self._with_attrs(e, buckets.edges(part_id)) for e, buckets in self.buckets.items()}
        return Part(part_id, nodes, edges)

    def part_bytes(self, part_id: int) -> int:
        """Bytes of :meth:`part` without making it: what a finished file of an interrupted build holds."""
        size = 0
        for node_type, where in self.layout.types.items():
            rows = int(where.ptr[part_id + 1] - where.ptr[part_id])
            size += rows * (where.n_id.itemsize + _row_bytes(self.graph.node_attrs.get(node_type, {})))
        for edge_type, buckets in self.buckets.items():
            ids = 2 * buckets.row_type.itemsize + np.dtype(buckets.id_type).itemsize
            width = ids + _row_bytes(self.graph.edge_attrs.get(edge_type, {}))
            size += int(buckets.counts[part_id]) * width
        return size

    def shared(self) -> Part:
        """What every part repeats: semantic nodes and the edges among them."""
        return self._whole(SHARED, "semantic")

    def sampled(self) -> Part:
        """All nodes of the sampled types, and the edges without an entity end that touch them."""
        return self._whole(SAMPLED, "sampled")

    def cut(self) -> Part:
        """The entity-entity edges between two parts, grouped by (part of the source, part of the destination)."""
        types = [e for e in self.buckets if self.roles.edges[e] in ("eel", "entity-entity")]
        found = run(lambda e: self._with_attrs(e, self._cut_edges(e, self.buckets[e])), types, self.threads)
        return Part(CUT, {}, dict(zip(types, found, strict=True)))

    def _cut_edges(self, edge_type: EdgeType, buckets: Buckets) -> Edges:
        src, dst, e_id = buckets.cut()
        source, destination = (t.numpy() for t in self.graph.edges[edge_type])
        src_part, dst_part = (self.layout.types[edge_type[side]].part for side in (0, 2))
        pair = self.scratch.empty(e_id.size, np.int32)
        for low, high in blocks(e_id.size):
            e = e_id[low:high]
            pair[low:high] = pair_of(src_part[source[e]], dst_part[destination[e]], self.layout.num_parts)
        return group_cut(src, dst, e_id, pair, self.layout.num_parts, self.scratch)

    def _whole(self, part_id: int, role: NodeRole) -> Part:
        nodes = {}
        for node_type in self.roles.types(role):
            attrs = dict(self.graph.node_attrs.get(node_type, {}))
            nodes[node_type] = Nodes(None, self.graph.num_nodes[node_type], attrs)
        edges = {}
        for edge_type, (source, destination) in self.graph.edges.items():
            touched = {self.roles.nodes[edge_type[0]], self.roles.nodes[edge_type[2]]}
            if "entity" not in touched and (role == "sampled") == ("sampled" in touched):
                count = self.graph.num_nodes[edge_type[2]]
                src, dst = (_small(t, max(self.graph.num_nodes[edge_type[i]] for i in (0, 2))) for t in (source, destination))
                e_id = np.arange(src.size, dtype=numpy_ids(src.size))
                edges[edge_type] = self._with_attrs(edge_type, sort_by_destination(src, dst, e_id, count, self.scratch))
        return Part(part_id, nodes, edges)

    def _with_attrs(self, edge_type: EdgeType, edges: Edges) -> Edges:
        own = self.graph.edge_attrs.get(edge_type, {})
        attrs = {k: take_rows(v, edges.e_id) for k, v in own.items() if k not in edges.attrs} | dict(edges.attrs)
        return Edges(edges.edge_index, edges.e_id, {k: attrs[k] for k in own}, edges.pairs, edges.ptr)


def pair_of(src_part: Any, dst_part: Any, num_parts: int) -> npt.NDArray[np.int32]:
    """The pair (part of the source, part of the destination) as one number; at most 2**15 parts, so that it fits int32."""
    return np.asarray(src_part.astype(np.int32) * num_parts + dst_part, dtype=np.int32)


def group_cut(src: Any, dst: Any, e_id: Any, pair: Any, num_parts: int, scratch: Scratch = MEMORY) -> Edges:
    """Cut edges of one type, grouped by pair of parts and sorted by (destination, edge id) within each pair.

    Args:
        src: rows of the sources in their parts, ``[c]``.
        dst: rows of the destinations in theirs.
        e_id: edge ids, ascending.
        pair: :func:`pair_of` each edge.
        num_parts: parts.
        scratch: where the result goes.
    """
    todo = blocks(e_id.size)
    order = sort_cut(pair, dst, num_parts * num_parts, scratch)
    index = scratch.empty((2, e_id.size), row_type(src, dst))
    ids = scratch.empty(e_id.size, e_id.dtype)
    firsts, keys_of, last = [np.empty(0, np.int64)], [np.empty(0, np.int32)], -1
    for low, high in todo:
        rows = order[low:high]
        for values, out in ((src, index[0]), (dst, index[1]), (e_id, ids)):
            out[low:high] = values.take(rows, mode="clip")
        sorted_pair = pair[rows]
        begins = np.flatnonzero(np.diff(sorted_pair, prepend=last))
        firsts.append(begins + low)
        keys_of.append(sorted_pair[begins])
        last = int(sorted_pair[-1])
    keys = np.concatenate(keys_of)
    pairs = np.stack([keys // num_parts, keys % num_parts], axis=1).astype(np.int32)
    ptr = np.append(np.concatenate(firsts), e_id.size).astype(np.int64)
    edge_index, e_id_t, pairs_t, ptr_t = (torch.from_numpy(a) for a in (index, ids, pairs, ptr))
    return Edges(edge_index, e_id_t, {}, pairs_t, ptr_t)


def _row_bytes(attrs: Mapping[str, Tensor]) -> int:
    return sum(v.element_size() * math.prod(v.shape[1:]) for v in attrs.values())


def _small(ids: Tensor, count: int) -> npt.NDArray[np.signedinteger[Any]]:
    out: npt.NDArray[np.signedinteger[Any]] = ids.to(id_dtype(count)).numpy()
    return out
