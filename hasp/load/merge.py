"""Merge: q parts become one ``HeteroData``, the subgraph of the source that they induce.

A batch of the parts P holds the entities owned by P, all semantic nodes, and of every sampled type the union of the samples
of P; an edge is in it if and only if both its ends are. So one part is a part, all parts with full quotas are the input
graph, and no parts are the padding batch: every store with its dtypes and widths, no entity. Entities stand part after part
(PyG's ``ClusterLoader`` has its clusters so), in ascending global id in each; where they are all there, as in the input.
Edges ascend by (destination, ``e_id``). So equal sets of parts give equal bytes, in whatever order they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from hasp.errors import HaspError
from hasp.load.join import Owned, join_attrs, join_edges, join_entities
from hasp.load.store import Store
from hasp.part import Edges, Nodes, Part
from hasp.rows import distinct, take_rows
from hasp.sample import sample

__all__ = ["check_parts", "merge"]


def merge(
    store: Store, part_ids: Sequence[int], *, epoch: int = 0, index_dtype: torch.dtype | None = torch.int64
) -> HeteroData:
    """The subgraph that a set of parts induces.

    Args:
        store: what holds the parts.
        part_ids: distinct parts, in any order; none gives the padding batch.
        epoch: selects the sample of every sampled type.
        index_dtype: of every ``edge_index``; int32 halves it, and spares its copy in a batch of one part. ``None``: every
            id, ``n_id`` and ``e_id`` too, as it is stored (int32 while the graph's counts fit): a batch of one part then
            copies nothing.

    Returns:
        Every node type with ``n_id`` (int64 ``[n]``), ``num_nodes`` and the source's attributes; entity types, whose rows
        ascend by (``owner_part``, ``n_id``), or by ``n_id`` if all are there, also with ``owner_part`` (int32 ``[n]``),
        ``batch_size`` (number of entities) and ``input_id`` (their ``n_id``). Every edge type with ``edge_index`` ``[2, e]``,
        ``e_id`` (int64 ``[e]``) and the source's attributes. ``part_id`` (int64 ``[q]``, ascending) on the batch itself.
        Attributes of a batch of one part are views of the store: change copies of them.

    Raises:
        HaspError: a part that does not exist, or is named twice; an ``index_dtype`` that is neither int32 nor int64.
    """
    if index_dtype not in (torch.int32, torch.int64, None):
        raise HaspError(f"index_dtype is torch.int32, torch.int64 or None, got {index_dtype}; PyG indexes with no other")
    id_dtype = None if index_dtype is None else torch.int64
    chosen = check_parts(part_ids, int(store.manifest.config["num_parts"]))
    # A padding batch is the first part with its rows left out: that gives every dtype and width.
    parts = [store.part(p) for p in chosen] if chosen else [_emptied(store.part(0))]
    # Each block is asked for once: a store may check its file every time.
    shared, pool, cut = store.shared, store.sampled, store.cut if len(parts) > 1 else None
    # The input graph, whose rows others know by their number.
    all_there = len(parts) > 1 and all(
        sum(part.nodes[t].num_nodes for part in parts) == store.manifest.num_nodes[t] for t in store.manifest.roles.entity
    )
    roles, seed = store.manifest.roles, int(store.manifest.config["seed"])
    batch = HeteroData()
    owned: dict[str, Owned] = {}
    sampled: dict[str, Tensor] = {}
    values: dict[str, Any]
    for node_type, role in roles.nodes.items():
        out = batch.get_node_store(node_type)
        if role == "entity":
            n_ids = [_ids(part.nodes[node_type], None) for part in parts]
            numbers = [part.part_id for part in parts]
            owned[node_type] = found = join_entities(n_ids, numbers, id_dtype or n_ids[0].dtype, all_there)
            n_id, count = found.n_id, found.n_id.numel()
            values = {**join_attrs([p.nodes[node_type].attrs for p in parts], found)}
            values |= {"n_id": n_id, "num_nodes": count, "owner_part": found.owner, "batch_size": count, "input_id": n_id}
        elif role == "semantic":
            nodes = shared.nodes[node_type]
            values = {**nodes.attrs, "n_id": _ids(nodes, id_dtype), "num_nodes": nodes.num_nodes}
        else:
            nodes = pool.nodes[node_type]
            each = [sample(seed, p, epoch, node_type, nodes.num_nodes, roles.quota[node_type]) for p in chosen]
            union = each[0] if len(each) == 1 else distinct(np.concatenate([np.empty(0, np.int64), *each]))
            sampled[node_type] = n_id = torch.from_numpy(union)
            whole = n_id.numel() == nodes.num_nodes
            values = dict(nodes.attrs) if whole else {k: take_rows(v, n_id) for k, v in nodes.attrs.items()}
            values |= {"n_id": n_id, "num_nodes": n_id.numel()}
        _fill(out, values)
    for edge_type in roles.edges:
        source, _, destination = edge_type
        if source in owned or destination in owned:
            inside = [part.edges[edge_type] for part in parts]
            # The end of an entity type is renumbered, of any other it is a global id.
            ends = [owned.get(t) or store.manifest.num_nodes[t] for t in (source, destination)]
            between = cut.edges[edge_type] if cut is not None and source in owned and destination in owned else None
            edges = inside[0]
            if len(parts) > 1:
                dtypes = index_dtype or edges.edge_index.dtype, id_dtype or edges.e_id.dtype
                edges = join_edges(inside, between, chosen, (ends[0], ends[1]), store.manifest.num_edges[edge_type], dtypes)
        else:
            edges = (pool if source in sampled or destination in sampled else shared).edges[edge_type]
        # Samples are ascending, so that renumbering them keeps the order of the edges.
        for end, node_type in enumerate((source, destination)):
            if node_type in sampled:
                edges = _only(edges, end, sampled[node_type], pool.nodes[node_type].num_nodes)
        index, e_id = _cast(edges.edge_index, index_dtype), _cast(edges.e_id, id_dtype)
        _fill(batch.get_edge_store(*edge_type), {**edges.attrs, "edge_index": index, "e_id": e_id})
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


def _only(edges: Edges, end: int, n_id: Tensor, count: int) -> Edges:
    """The edges whose ``end`` is among ``n_id`` (ascending, of ``count`` nodes), that end renumbered."""
    if n_id.numel() == count:
        return edges
    row = np.full(count, -1, dtype=np.int64)
    row[n_id.numpy()] = np.arange(n_id.numel())
    there = row[edges.edge_index[end].numpy()]
    keep = torch.from_numpy(np.flatnonzero(there >= 0))
    index = edges.edge_index.index_select(1, keep)
    index[end] = torch.from_numpy(there).index_select(0, keep)
    attrs = {name: take_rows(value, keep) for name, value in edges.attrs.items()}
    return Edges(index, edges.e_id.index_select(0, keep), attrs)


def _emptied(part: Part) -> Part:
    def nodes(value: Nodes) -> Nodes:
        n_id = None if value.n_id is None else value.n_id[:0]
        return Nodes(n_id, 0, {k: v[:0] for k, v in value.attrs.items()})

    def edges(value: Edges) -> Edges:
        return Edges(value.edge_index[:, :0], value.e_id[:0], {k: v[:0] for k, v in value.attrs.items()})

    return Part(part.part_id, {t: nodes(v) for t, v in part.nodes.items()}, {t: edges(v) for t, v in part.edges.items()})


def _ids(nodes: Nodes, dtype: torch.dtype | None) -> Tensor:
    return torch.arange(nodes.num_nodes) if nodes.n_id is None else _cast(nodes.n_id, dtype)


def _cast(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    return value if dtype is None else value.to(dtype)


def _fill(out: Any, values: Mapping[str, Any]) -> None:
    """Set the attributes of a store that was just made. PyG's own setter asks questions of each, which takes longer than to
    map a part; where its storage is not the plain dictionary that it has been, it is asked.
    """
    mapping = getattr(out, "_mapping", None)
    if type(mapping) is dict:
        mapping.update(values)
    else:
        for name, value in values.items():
            out[name] = value
