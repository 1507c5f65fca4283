"""Merge: q parts become one ``HeteroData``, the subgraph of the source that they induce.

A batch of the parts P holds the entities owned by P, all semantic nodes, and of every sampled type the union of the samples
of P; an edge is in it if and only if both its ends are. So one part is a part, all parts with full quotas are the input
graph, and no parts are the padding batch: every store with its dtypes and widths, no entity. Entities are in ascending
global id and edges in ascending (destination, ``e_id``), so equal sets of parts give equal bytes, whatever their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from hasp.errors import HaspError
from hasp.load.store import Store
from hasp.part import Edges, Nodes, Part
from hasp.rows import plain, take_rows
from hasp.sample import sample
from hasp.schema import EdgeType

__all__ = ["check_parts", "merge", "sorted_by_destination"]


@dataclass(frozen=True)
class _Owned:
    """The entities of one type in the batch.

    Attributes:
        n_id: ascending global ids, int64 ``[n]``.
        owner: part of each, int32 ``[n]``.
        start: where each part's rows begin in the concatenation of the parts, int64 ``[q]``.
        row: position in the concatenation -> row of the batch, int64 ``[n]``; ``None``: they are the same.
    """

    n_id: Tensor
    owner: Tensor
    start: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64] | None


@dataclass(frozen=True)
class _Chunk:
    """Consecutive edges of one block; ``src`` and ``dst`` are positions (not ids) of parts in the batch."""

    edges: Edges
    lo: int
    hi: int
    src: int
    dst: int


def merge(store: Store, part_ids: Sequence[int], *, epoch: int = 0, index_dtype: torch.dtype = torch.int64) -> HeteroData:
    """The subgraph that a set of parts induces.

    Args:
        store: what holds the parts.
        part_ids: distinct parts, in any order; none gives the padding batch.
        epoch: selects the sample of every sampled type.
        index_dtype: of every ``edge_index``; int32 halves it, and spares its copy in a batch of one part.

    Returns:
        Every node type with ``n_id`` (int64 ``[n]``), ``num_nodes`` and the source's attributes; entity types also with
        ``owner_part`` (int32 ``[n]``), ``batch_size`` (number of entities) and ``input_id`` (their ``n_id``). Every edge type
        with ``edge_index`` ``[2, e]``, ``e_id`` (int64 ``[e]``) and the source's attributes. ``part_id`` (int64 ``[q]``,
        ascending) on the batch itself. Attributes of a batch of one part are views of the store: change copies of them.

    Raises:
        HaspError: a part that does not exist, or is named twice; an ``index_dtype`` that is neither int32 nor int64.
    """
    if index_dtype not in (torch.int32, torch.int64):
        raise HaspError(f"index_dtype is torch.int32 or torch.int64, got {index_dtype}; PyG indexes with no other")
    chosen = check_parts(part_ids, int(store.manifest.config["num_parts"]))
    # A padding batch is the first part with its rows left out: that gives every dtype and width.
    parts = [store.part(p) for p in chosen] if chosen else [_emptied(store.part(0))]
    # Each block is asked for once: a store may check its file every time.
    shared, pool, cut = store.shared, store.sampled, store.cut if len(parts) > 1 else None
    roles, seed = store.manifest.roles, int(store.manifest.config["seed"])
    batch = HeteroData()
    owned: dict[str, _Owned] = {}
    sampled: dict[str, Tensor] = {}
    for node_type, role in roles.nodes.items():
        out = batch[node_type]
        if role == "entity":
            owned[node_type] = found = _entities(parts, node_type)
            _set_nodes(out, _scatter([p.nodes[node_type].attrs for p in parts], found), found.n_id)
            out.owner_part = found.owner
            out.batch_size = found.n_id.numel()
            out.input_id = found.n_id
        elif role == "semantic":
            nodes = shared.nodes[node_type]
            _set_nodes(out, nodes.attrs, _ids(nodes))
        else:
            nodes = pool.nodes[node_type]
            each = [sample(seed, p, epoch, node_type, nodes.num_nodes, roles.quota[node_type]) for p in chosen]
            union = each[0] if len(each) == 1 else np.unique(np.concatenate([np.empty(0, np.int64), *each]))
            sampled[node_type] = n_id = torch.from_numpy(union)
            whole = n_id.numel() == nodes.num_nodes
            _set_nodes(out, nodes.attrs if whole else {k: take_rows(v, n_id) for k, v in nodes.attrs.items()}, n_id)
    for edge_type in roles.edges:
        source, _, destination = edge_type
        if source in owned or destination in owned:
            edges = _owned_edges(parts, cut, chosen, edge_type, owned)
        else:
            edges = (pool if source in sampled or destination in sampled else shared).edges[edge_type]
        # Samples are ascending, so that renumbering them keeps the order of the edges.
        for end, node_type in enumerate((source, destination)):
            if node_type in sampled:
                edges = _only(edges, end, sampled[node_type], pool.nodes[node_type].num_nodes)
        out = batch[edge_type]
        for name, value in edges.attrs.items():
            out[name] = value
        out.edge_index = edges.edge_index.to(index_dtype)
        out.e_id = edges.e_id.to(torch.int64)
    batch.part_id = torch.tensor(chosen, dtype=torch.int64)
    return batch


def check_parts(part_ids: Iterable[int], num_parts: int) -> list[int]:
    """The parts in ascending order. Raises :class:`HaspError` for one that does not exist or is named twice."""
    chosen = sorted(int(p) for p in part_ids)
    for before, part in zip([-1, *chosen], chosen, strict=False):
        if not 0 <= part < num_parts:
            raise HaspError(f"parts are numbered 0..{num_parts - 1}, got {part}; choose among these")
        if part == before:
            raise HaspError(f"a batch holds distinct parts, got part {part} twice; name it once")
    return chosen


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


def _entities(parts: Sequence[Part], node_type: str) -> _Owned:
    n_ids = [_ids(part.nodes[node_type]) for part in parts]
    counts = np.array([ids.numel() for ids in n_ids], dtype=np.int64)
    start = np.cumsum(counts) - counts
    if len(parts) == 1:
        owner = torch.full((n_ids[0].numel(),), parts[0].part_id, dtype=torch.int32)
        return _Owned(n_ids[0], owner, start, None)
    joined = torch.cat(n_ids).numpy()
    order = np.argsort(joined, kind="stable")  # sorted runs again
    row = np.empty_like(order)
    row[order] = np.arange(order.size)
    owner_np = np.repeat(np.array([p.part_id for p in parts], dtype=np.int32), counts)[order]
    return _Owned(torch.from_numpy(joined[order]), torch.from_numpy(owner_np), start, row)


def _scatter(attrs: Sequence[Mapping[str, Tensor]], owned: _Owned) -> dict[str, Tensor]:
    """Rows of several parts, each written once, to where it belongs. One part: the very tensors of the part."""
    if owned.row is None:
        return dict(attrs[0])
    row = torch.from_numpy(owned.row)
    out: dict[str, Tensor] = {}
    for name, first in attrs[0].items():
        value = first.new_empty((row.numel(), *first.shape[1:]))
        into = plain(value)
        for start, source in zip(owned.start, attrs, strict=True):
            rows = plain(source[name])
            into.index_copy_(0, row[int(start) : int(start) + rows.size(0)], rows)
        out[name] = value
    return out


def _owned_edges(
    parts: Sequence[Part],
    cut: Part | None,
    chosen: Sequence[int],
    edge_type: EdgeType,
    owned: Mapping[str, _Owned],
) -> Edges:
    """The edges of a type with an entity end: entity ends renumbered, sorted by (destination, ``e_id``)."""
    if len(parts) == 1:
        return parts[0].edges[edge_type]
    source, destination = owned.get(edge_type[0]), owned.get(edge_type[2])
    chunks = [_Chunk(p.edges[edge_type], 0, p.edges[edge_type].num_edges, i, i) for i, p in enumerate(parts)]
    if cut is not None and source is not None and destination is not None:
        chunks += _cut_chunks(cut.edges[edge_type], chosen)
    return _joined(chunks, source, destination)


def _cut_chunks(cut: Edges, chosen: Sequence[int]) -> list[_Chunk]:
    """The cut edges between each two of the chosen parts (ascending). Looks at the pairs of these parts only."""
    if cut.pairs is None or cut.ptr is None:
        raise HaspError("the cut is grouped by pairs of parts, but this one has no pairs; rebuild the parts")
    pairs, ptr = cut.pairs.numpy(), cut.ptr.numpy()
    wanted = np.array(chosen)
    chunks = []
    for i, part in enumerate(chosen):
        lo, hi = (_bisect(pairs[:, 0], value) for value in (part, part + 1))
        others = pairs[lo:hi, 1]
        at = np.searchsorted(others, wanted)
        for j in np.flatnonzero(at < others.size):
            if others[at[j]] == wanted[j]:
                k = lo + int(at[j])
                chunks.append(_Chunk(cut, int(ptr[k]), int(ptr[k + 1]), i, int(j)))
    return chunks


def _bisect(column: npt.NDArray[np.int32], value: int) -> int:
    """``np.searchsorted`` for a strided column, which NumPy would copy whole (it may be a large memory map)."""
    lo, hi = 0, column.size
    while lo < hi:
        mid = (lo + hi) // 2
        if column[mid] < value:
            lo = mid + 1
        else:
            hi = mid
    return lo


def _joined(chunks: Sequence[_Chunk], source: _Owned | None, destination: _Owned | None) -> Edges:
    """Edges of several chunks, entity ends renumbered to rows of the batch, in order."""
    counts = np.array([c.hi - c.lo for c in chunks], dtype=np.int64)
    index = torch.cat([c.edges.edge_index[:, c.lo : c.hi].to(torch.int64) for c in chunks], dim=1).numpy()
    e_id = torch.cat([c.edges.e_id[c.lo : c.hi].to(torch.int64) for c in chunks]).numpy()
    for end, owned in enumerate((source, destination)):
        if owned is not None and owned.row is not None:
            start = owned.start[[c.dst if end else c.src for c in chunks]]
            index[end] = owned.row[index[end] + np.repeat(start, counts)]
    order = sorted_by_destination(index[1], e_id)
    order_t = torch.from_numpy(order)
    attrs = {}
    for name in chunks[0].edges.attrs:
        rows = torch.cat([plain(c.edges.attrs[name][c.lo : c.hi]) for c in chunks])
        attrs[name] = rows.index_select(0, order_t).view(chunks[0].edges.attrs[name].dtype)
    return Edges(torch.from_numpy(index[:, order]), torch.from_numpy(e_id[order]), attrs)


def _only(edges: Edges, end: int, n_id: Tensor, count: int) -> Edges:
    """The edges whose ``end`` is among ``n_id`` (ascending, of ``count`` nodes), that end renumbered."""
    if n_id.numel() == count:
        return edges
    row = np.full(count, -1, dtype=np.int64)
    row[n_id.numpy()] = np.arange(n_id.numel())
    there = row[edges.edge_index[end].numpy()]
    keep = torch.from_numpy(np.flatnonzero(there >= 0))
    index = edges.edge_index.index_select(1, keep).to(torch.int64)
    index[end] = torch.from_numpy(there).index_select(0, keep)
    attrs = {name: take_rows(value, keep) for name, value in edges.attrs.items()}
    return Edges(index, edges.e_id.index_select(0, keep), attrs)


def _emptied(part: Part) -> Part:
    def nodes(value: Nodes) -> Nodes:
        n_id = torch.empty(0, dtype=torch.int64)
        return Nodes(n_id, 0, {k: v[:0] for k, v in value.attrs.items()})

    def edges(value: Edges) -> Edges:
        return Edges(value.edge_index[:, :0], value.e_id[:0], {k: v[:0] for k, v in value.attrs.items()})

    return Part(part.part_id, {t: nodes(v) for t, v in part.nodes.items()}, {t: edges(v) for t, v in part.edges.items()})


def _ids(nodes: Nodes) -> Tensor:
    return torch.arange(nodes.num_nodes) if nodes.n_id is None else nodes.n_id.to(torch.int64)


def _set_nodes(out: Any, attrs: Mapping[str, Tensor], n_id: Tensor) -> None:
    for name, value in attrs.items():
        out[name] = value
    out.n_id = n_id
    out.num_nodes = n_id.numel()
