"""RelationCSR: the edges of all relations as one list sorted by destination, with relation ids, and its transpose.

Build it once per graph or part and hand it to every layer and every step; nothing here is cached behind the caller's back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hasp.errors import HaspError
from hasp.part import id_dtype
from hasp.schema import EdgeType

__all__ = ["RelationCSR", "Rows"]

SPLIT = 1024
"""A row with more edges is cut into segments of this many, so that a hub is spread over threads."""
BLOCK = 1 << 14
"""Edges (plus four per row) per block of work; at most 64 blocks. Blocks follow from the graph, never from threads."""


@dataclass(frozen=True)
class Rows:
    """Rows of a CSR cut into segments (units of work) and blocks of segments.

    Attributes:
        seg_ptr: int64 ``[S + 1]``: the edges of segment ``s`` are ``seg_ptr[s]:seg_ptr[s + 1]``; none is empty.
        seg_row: int64 ``[S]``: its row.
        seg_out: int64 ``[S]``: where its result goes: its row if it is the whole row, else ``n + slot``, one of the extra
            rows that stand behind the ``n`` rows of an output.
        split_row: int64 ``[K]``: the rows that have several segments.
        split_ptr: int64 ``[K + 1]``: the slots of ``split_row[k]`` are ``split_ptr[k]:split_ptr[k + 1]``.
        slot_seg: int64 ``[slots]``: slot -> segment.
        empty: int64: the rows without edges, of which no segment speaks.
        blocks: ranges of segments of about equal cost.
    """

    seg_ptr: npt.NDArray[np.int64]
    seg_row: npt.NDArray[np.int64]
    seg_out: npt.NDArray[np.int64]
    split_row: npt.NDArray[np.int64]
    split_ptr: npt.NDArray[np.int64]
    slot_seg: npt.NDArray[np.int64]
    empty: npt.NDArray[np.int64]
    blocks: list[tuple[int, int]]

    @classmethod
    def of(cls, indptr: npt.NDArray[np.int64]) -> Rows:
        """Cut the rows of ``indptr`` ``[n + 1]``."""
        from hasp_models.kernels import sort

        segments, rows, slots, bare = sort.count_pieces(indptr, SPLIT)
        sizes = (segments + 1, segments, segments, rows, rows + 1, slots, bare)
        arrays = [np.empty(size, dtype=np.int64) for size in sizes]
        sort.cut_rows(indptr, SPLIT, *arrays)
        seg_ptr, seg_row, seg_out, split_row, split_ptr, slot_seg, empty = arrays
        cost = seg_ptr + 4 * np.arange(segments + 1)
        count = int(min(64, max(1, -(-int(cost[-1]) // BLOCK)))) if segments else 0
        cuts = np.searchsorted(cost, np.linspace(0, cost[-1], count + 1)) if count else np.zeros(1, np.int64)
        blocks = [(int(a), int(b)) for a, b in pairwise(cuts) if a < b]
        return cls(seg_ptr, seg_row, seg_out, split_row, split_ptr, slot_seg, empty, blocks)


@dataclass(frozen=True)
class RelationCSR:
    """Edges of all relations, sorted by (destination, relation, position in the relation).

    Nodes of all types stand in one list, type after type; ``offset`` says where each begins. Types that are updated stand
    first, so that destinations are the rows ``0..num_dst-1`` of the same list.

    Attributes:
        indptr: int64 ``[num_dst + 1]``.
        src: ``[E]`` int32 (int64 past 2**31 - 1 nodes): rows of the node list.
        rel: int32 ``[E]``: relation ids.
        perm: int64 ``[E]``: position -> column of the concatenated ``edge_index`` of all relations, in relation order.
        num_src: nodes of all types.
        num_relations: R, edge types without edges included.
        relations: the edge types, id after id; empty if built from plain arrays.
        rel_ptr: int64 ``[R + 1]``: the columns of each relation in the concatenated order.
        offset: node type -> first row.
        num_nodes: node type -> rows.
    """

    indptr: Tensor
    src: Tensor
    rel: Tensor
    perm: Tensor
    num_src: int
    num_relations: int
    relations: tuple[EdgeType, ...] = ()
    rel_ptr: Tensor | None = None
    offset: Mapping[str, int] | None = None
    num_nodes: Mapping[str, int] | None = None

    @classmethod
    def from_edges(
        cls,
        src: Tensor,
        dst: Tensor,
        rel_ptr: Tensor,
        num_dst: int,
        num_src: int,
        first: tuple[Tensor, Tensor] | None = None,
        **fields: Any,
    ) -> RelationCSR:
        """Sort edges that stand relation after relation.

        Args:
            src: ``[E]`` integer rows below ``num_src``.
            dst: ``[E]`` integer rows below ``num_dst``.
            rel_ptr: int64 ``[R + 1]``: the edges of relation ``r`` are ``rel_ptr[r]:rel_ptr[r + 1]``.
            num_dst: rows that receive.
            num_src: rows that send.
            first: int64 ``[R]`` each, on the host: what is added to the rows of each relation's sources and destinations
                (ids within a type become rows of the list of all nodes); ``None``: nothing.
            **fields: the descriptive attributes of the class.
        """
        ids = id_dtype(max(num_src, num_dst))
        relations = rel_ptr.numel() - 1
        first = (torch.zeros(relations, dtype=torch.int64),) * 2 if first is None else first
        if dst.device.type == "cpu":
            from hasp_models.kernels import sort

            indptr = torch.zeros(num_dst + 1, dtype=torch.int64)
            out_src = torch.empty(src.numel(), dtype=ids)
            rel = torch.empty(src.numel(), dtype=torch.int32)
            perm = torch.empty(src.numel(), dtype=torch.int64)
            arrays = [t.contiguous().numpy() for t in (src, dst, rel_ptr, *first)]
            sort.by_destination(*arrays, indptr.numpy(), out_src.numpy(), rel.numpy(), perm.numpy())
        else:
            every = torch.arange(relations, device=dst.device)
            every = torch.repeat_interleave(every, rel_ptr.to(dst.device).diff(), output_size=dst.numel())
            src, dst = (t + f.to(dst.device)[every] for t, f in zip((src, dst), first, strict=True))
            perm = dst.argsort(stable=True)
            count = torch.bincount(dst, minlength=num_dst)
            indptr = torch.cat([count.new_zeros(1), count.cumsum(0)])
            rel = every[perm].to(torch.int32)
            out_src = src[perm].to(ids)
        return cls(indptr, out_src, rel, perm, num_src, relations, rel_ptr=rel_ptr, **fields)

    @classmethod
    def from_edge_index_dict(
        cls,
        edge_index_dict: Mapping[EdgeType, Tensor | tuple[Tensor, Tensor]],
        num_nodes: Mapping[str, int],
        relations: Sequence[EdgeType],
        update: Sequence[str] | None = None,
    ) -> RelationCSR:
        """Flatten the edges of a ``HeteroData``.

        Args:
            edge_index_dict: edge type -> integer ``[2, E]``, or a pair of ``[E]``; one that is left out has no edges.
            num_nodes: node type -> nodes.
            relations: the edge types, in the order of the relation ids.
            update: node types that receive messages; edges into other types are left out. ``None``: every type.

        Raises:
            HaspError: an edge type that is no relation, an end or an updated type without a count, or an id out of range
                (looked for on the CPU only: on another device it would cost a synchronisation).
        """
        unknown = [e for e in edge_index_dict if e not in relations]
        if unknown:
            raise HaspError(
                f"every edge type is a relation of the layer, but {unknown[0]} is not among {list(relations)}; "
                "build the layer with the metadata of this graph"
            )
        strangers = [(e, t) for e in edge_index_dict for t in (e[0], e[2]) if t not in num_nodes]
        if strangers:
            raise HaspError(f"{strangers[0][0]} ends in {strangers[0][1]!r}, which has no nodes here; give it 0 rows at least")
        receives = list(num_nodes) if update is None else [t for t in num_nodes if t in update]
        offset: dict[str, int] = {}
        total = 0
        for node_type in [*receives, *(t for t in num_nodes if t not in receives)]:
            offset[node_type] = total
            total += num_nodes[node_type]
        num_dst = sum(num_nodes[t] for t in receives)
        given: list[tuple[Tensor, Tensor] | Tensor] = []
        counts, first = [0], []
        device = next((t[0].device for t in edge_index_dict.values()), torch.device("cpu"))
        for relation in relations:
            index = edge_index_dict.get(relation)
            first.append([offset.get(relation[0], 0), offset.get(relation[2], 0)])
            if index is None or relation[2] not in receives:
                counts.append(0)
                continue
            # An EdgeIndex would check and cache what is thrown away at once.
            given.append(index.as_subclass(Tensor) if isinstance(index, Tensor) else index)
            counts.append(index[0].numel())
        src, dst = _joined(given, device)
        rel_ptr, starts = torch.tensor(counts).cumsum(0), torch.tensor(first, dtype=torch.int64).reshape(-1, 2).T
        _check((src, dst), rel_ptr, relations, num_nodes)
        described: dict[str, Any] = {"relations": tuple(relations), "offset": offset, "num_nodes": dict(num_nodes)}
        return cls.from_edges(src, dst, rel_ptr, num_dst, total, (starts[0], starts[1]), **described)

    @property
    def num_dst(self) -> int:
        """Rows that receive messages."""
        return self.indptr.numel() - 1

    @property
    def num_edges(self) -> int:
        """Edges of all relations."""
        return self.src.numel()

    def slice(self, start: int, stop: int) -> RelationCSR:
        """The rows ``start:stop`` with all their edges, over the same sources (views, but for ``indptr``)."""
        low, high = int(self.indptr[start]), int(self.indptr[stop])
        indptr = self.indptr[start : stop + 1] - low
        window = slice(low, high)
        return RelationCSR(indptr, self.src[window], self.rel[window], self.perm[window], self.num_src, self.num_relations)

    @cached_property
    def rows(self) -> Rows:
        """Work units of the rows by destination (kept with this object, which its owner may drop)."""
        return Rows.of(self.indptr.cpu().numpy())

    @cached_property
    def transposed(self) -> tuple[Tensor, Tensor, Tensor]:
        """``(indptr int64 [num_src + 1], dst [E], edge int32 or int64 [E])``: by source, in the order of edges."""
        if self.src.device.type != "cpu":
            return _by_source(self)
        from hasp_models.kernels import sort

        t_indptr = torch.zeros(self.num_src + 1, dtype=torch.int64)
        t_dst = torch.empty_like(self.src)
        t_edge = torch.empty(self.num_edges, dtype=id_dtype(self.num_edges))
        arrays = [t.numpy() for t in (self.indptr, self.src, t_indptr, t_dst, t_edge)]
        sort.by_source(*arrays)
        return t_indptr, t_dst, t_edge

    @cached_property
    def transposed_rows(self) -> Rows:
        """Work units of the rows by source."""
        return Rows.of(self.transposed[0].cpu().numpy())

    @cached_property
    def row(self) -> Tensor:
        """int64 ``[E]``: the destination of each edge."""
        every = torch.arange(self.num_dst, device=self.indptr.device)
        return torch.repeat_interleave(every, self.indptr.diff(), output_size=self.num_edges)

    def to_edge_dict(self, values: Tensor) -> dict[EdgeType, Tensor]:
        """Put one value per edge ``[E, ...]`` (in the order of this CSR) back under its edge type, in the caller's order.

        Raises:
            HaspError: the CSR was built from plain arrays.
        """
        if not self.relations or self.rel_ptr is None:
            raise HaspError("values go back to edge types only with from_edge_index_dict; use perm for plain arrays")
        back = torch.empty_like(values)
        back[self.perm] = values
        ptr = self.rel_ptr.tolist()
        return {r: back[ptr[i] : ptr[i + 1]] for i, r in enumerate(self.relations)}


def _by_source(csr: RelationCSR) -> tuple[Tensor, Tensor, Tensor]:
    """:attr:`RelationCSR.transposed` by torch, on any device."""
    edge = csr.src.argsort(stable=True)
    count = torch.bincount(csr.src, minlength=csr.num_src)
    indptr = torch.cat([count.new_zeros(1), count.cumsum(0)])
    return indptr, csr.row[edge].to(csr.src.dtype), edge.to(id_dtype(csr.num_edges))


def _joined(given: Sequence[tuple[Tensor, Tensor] | Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """All sources and all destinations, relation after relation; ids within their types, as they came."""
    if not given:
        none = torch.empty(0, dtype=torch.int64, device=device)
        return none, none
    if all(isinstance(index, Tensor) for index in given):
        src, dst = torch.cat(given, dim=1)  # type: ignore[arg-type]
        return src, dst
    return torch.cat([index[0] for index in given]), torch.cat([index[1] for index in given])


def _check(ends: tuple[Tensor, Tensor], rel_ptr: Tensor, relations: Sequence[EdgeType], num_nodes: Mapping[str, int]) -> None:
    """Every id is one of its type."""
    if ends[0].device.type != "cpu":
        return
    from hasp_models.kernels import sort

    for ids, end in zip(ends, (0, 2), strict=True):
        low, high = np.zeros(len(relations), np.int64), np.full(len(relations), -1, np.int64)
        sort.extents(ids.contiguous().numpy(), rel_ptr.numpy(), low, high)
        for relation, least, most in zip(relations, low.tolist(), high.tolist(), strict=True):
            if least < 0 or most >= num_nodes.get(relation[end], most + 1):
                raise HaspError(
                    f"ids of {relation[end]!r} in {relation} lie in 0..{num_nodes[relation[end]] - 1}, "
                    f"got {least if least < 0 else most}; give edge_index and x_dict of the same batch"
                )
