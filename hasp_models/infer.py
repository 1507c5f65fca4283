"""Inference over a whole graph on the CPU (section 5.2, end), and links added by the model itself (section 6.6).

Layer by layer, every edge kept. A layer's values are made for all nodes once; then rows of destinations go through in
chunks. Since a row reads the values and its own old vector only, it is written in place: what is held is two (three with
several heads) floats per node and channel, the CSR (8 bytes per edge with up to 2**31 nodes; 8 more while it is sorted),
and one chunk.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hasp.errors import HaspError
from hasp.graph import Graph
from hasp.schema import EdgeType
from hasp_models.data.csr import CSR
from hasp_models.data.neighbors import top_k
from hasp_models.relation_attention import RelationAttention
from hasp_models.relation_csr import RelationCSR
from hasp_models.semantic_gnn import SemanticGNN

__all__ = ["add_neighbors", "embed_all", "infer_layer"]


@torch.no_grad()
def embed_all(model: SemanticGNN, graph: Any, *, chunk: int = 1 << 16, free: bool = True) -> dict[str, Tensor]:
    """Embed every node of a graph, with all its edges.

    The result equals ``model.eval()(graph)`` for any ``chunk``, to rounding. New entities are rows like any other: put them,
    with their edges, behind the known ones (they have no free vector; see :class:`hasp_models.semantic_gnn.NodeInputs`).

    Args:
        model: is put into eval mode and left in the mode it came in.
        graph: a :class:`hasp.Graph` or a ``HeteroData`` on the CPU; node ids are global ids.
        chunk: destination rows, and at most about 16 times as many edges, at a time.
        free: ``False``: entities go without their free vectors, as if all were new.

    Returns:
        Node type -> ``[N, dim]``.

    Raises:
        HaspError: ``chunk`` is below 1, or an edge type or node type of the model is missing in the graph.
    """
    if chunk < 1:
        raise HaspError(f"chunk is at least one row, got {chunk}; 65536 is the default")
    graph = graph if isinstance(graph, Graph) else Graph.from_hetero_data(graph)
    missing = [t for t in model.node_types if t not in graph.num_nodes]
    if missing:
        raise HaspError(f"the model knows the node type {missing[0]!r}, the graph has {list(graph.num_nodes)}; use its graph")
    first: RelationAttention = model.layers[0]  # type: ignore[assignment]
    counts = {t: graph.num_nodes[t] for t in model.node_types}
    csr = RelationCSR.from_edge_index_dict(dict(graph.edges), counts, first.relations, first.update)
    training = model.training
    model.eval()
    try:
        h = model.relation.new_empty((csr.num_src, model.dim))
        at = 0
        for node_type in model.order(csr):
            x = graph.node_attrs.get(node_type, {}).get("x")
            for start in range(0, counts[node_type], chunk):
                stop = min(start + chunk, counts[node_type])
                ids = torch.arange(start, stop)
                cold = None if free else torch.ones(stop - start, dtype=torch.bool)
                h[at + start : at + stop] = model.inputs(node_type, ids, None if x is None else x[start:stop], cold)
            at += counts[node_type]
        for layer in model.layers:
            infer_layer(layer, h, csr, model.relation, chunk)  # type: ignore[arg-type]
        return model.split(h, csr)
    finally:
        model.train(training)


@torch.no_grad()
def infer_layer(
    layer: RelationAttention, h: Tensor, csr: RelationCSR, relation: Tensor | None = None, chunk: int = 1 << 16
) -> None:
    """Run one layer over all nodes, in place.

    Args:
        layer: any relation attention.
        h: ``[num_src, channels]`` in the order of ``csr``; overwritten.
        csr: all edges.
        relation: see :meth:`RelationAttention.forward`.
        chunk: see :func:`embed_all`.
    """
    rel_v = layer.relation_values(relation)
    v = torch.empty_like(h)
    k = torch.empty_like(h) if layer.heads > 1 else None
    for start in range(0, h.size(0), chunk):
        rows = slice(start, start + chunk)
        v[rows] = layer.values(h[rows])
        if k is not None:
            k[rows] = layer.keys(v[rows])  # type: ignore[assignment]
    start = 0
    while start < csr.num_dst:
        # As many rows as fit, at least one: a hub with more edges than that is a chunk of its own.
        most = int(csr.indptr[start]) + 16 * chunk
        stop = int(torch.searchsorted(csr.indptr, torch.tensor(most), right=True)) - 1
        stop = max(start + 1, min(stop, start + chunk, csr.num_dst))
        out, _ = layer.attend_rows(h[start:stop], v, k, csr.slice(start, stop), rel_v)
        h[start:stop] += layer.activation(out)
        start = stop


def add_neighbors(
    graph: Graph,
    eel_type: EdgeType,
    k: int,
    embeddings: Any,
    *,
    directed: bool = True,
    score: Literal["l2", "cosine", "dot"] = "l2",
    degree: Any = None,
) -> Graph:
    """Link every entity to its ``k`` nearest neighbours that it is not linked to yet (section 6.6), without retraining.

    A pair is added once, whichever of the two found the other; an entity is never linked to itself, and pairs that
    are linked in either direction are passed over, so that each entity contributes ``k`` new pairs (fewer where its
    neighbours have found it already).

    Args:
        graph: not changed. It must hold training links only: test links must never become edges.
        eel_type: an edge type from an entity type to itself.
        k: neighbours per entity; the paper's 3.
        embeddings: ``[N, d]``, one row per entity.
        directed: messages go from the entity of higher degree to that of lower degree only, so that well-linked
            entities are left as they are; pairs of equal degree get both directions. ``False``: both directions always.
        score: the paper's L2 distance, or another of :func:`hasp_models.data.neighbors.top_k`.
        degree: ``[N]``; ``None``: distinct neighbours over ``eel_type`` in ``graph``. Give the training degrees if
            ``graph`` holds more than what the model was trained on.

    Returns:
        A new graph: the new edges stand behind the old ones of ``eel_type``; their attributes are zero.

    Raises:
        HaspError: an unknown or two-typed ``eel_type``, ``k`` below 1, embeddings or degrees of another length.
    """
    if eel_type not in graph.edges or eel_type[0] != eel_type[2]:
        raise HaspError(
            f"new links have an edge type from one type to itself, got {eel_type}; the graph has {list(graph.edges)}"
        )
    count = graph.num_nodes[eel_type[0]]
    source, destination = graph.edges[eel_type]
    table = torch.as_tensor(embeddings)
    if table.dim() != 2 or table.size(0) != count:
        raise HaspError(f"embeddings have one row for each of the {count} entities, got {tuple(table.shape)}; embed this graph")
    linked = CSR.from_pairs(source.numpy(), destination.numpy(), count, symmetric=True)
    rank = np.diff(linked.indptr) if degree is None else np.asarray(degree)
    if rank.shape != (count,):
        raise HaspError(f"degree has one value for each of the {count} entities, got shape {rank.shape}; see degree=")
    ids, _ = top_k(table, k, score, exclude=linked)
    a = np.repeat(np.arange(count, dtype=np.int64), ids.shape[1])
    b = ids.reshape(-1)  # [N, k] -> [N * k]
    found = b >= 0
    low, high = np.minimum(a, b)[found], np.maximum(a, b)[found]
    pairs = np.unique(low * count + high)
    low, high = pairs // max(count, 1), pairs % max(count, 1)
    keep_up = (rank[low] >= rank[high]) | (not directed)  # a message from low to high
    keep_down = (rank[high] >= rank[low]) | (not directed)
    new_source = torch.from_numpy(np.concatenate([low[keep_up], high[keep_down]]))
    new_destination = torch.from_numpy(np.concatenate([high[keep_up], low[keep_down]]))
    edges = dict(graph.edges)
    edges[eel_type] = (
        torch.cat([source, new_source.to(source.dtype)]),
        torch.cat([destination, new_destination.to(destination.dtype)]),
    )
    attrs = {e: dict(a) for e, a in graph.edge_attrs.items()}
    attrs[eel_type] = {
        name: torch.cat([value, value.new_zeros((new_source.numel(), *value.shape[1:]))])
        for name, value in graph.edge_attrs.get(eel_type, {}).items()
    }
    return dataclasses.replace(graph, edges=edges, edge_attrs=attrs)
