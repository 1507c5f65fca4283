"""Reverse edge types on request, so that messages also flow from concepts to entities (as PyG's ``ToUndirected``)."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from hasp.graph import Graph
from hasp.schema import EdgeType

__all__ = ["add_reverse"]


def add_reverse(graph: Graph) -> Graph:
    """The graph with every edge in both directions.

    Between two node types, ``(a, rel, b)`` is joined by ``(b, "rev_rel", a)``: the same two tensors, swapped, and the same
    attribute tensors, so that nothing is copied and the i-th edge of both is one edge. Where the reverse type is
    already there, it is left as it is, so that a second call changes nothing.

    From a node type to itself, the missing opposite directions are appended, with their attributes: an edge whose opposite
    is there is not doubled, and a self-loop stays single. (``ToUndirected`` adds up the attributes of the two
    directions and doubles those of self-loops; here every edge keeps its own.)

    Args:
        graph: any graph; it is not changed.

    Returns:
        A new graph; the reverse types follow the types of the input.
    """
    edges: dict[EdgeType, tuple[Tensor, Tensor]] = {}
    attrs = {edge_type: dict(graph.edge_attrs.get(edge_type, {})) for edge_type in graph.edges}
    added: dict[EdgeType, EdgeType] = {}
    for edge_type, (source, destination) in graph.edges.items():
        first, relation, second = edge_type
        if first != second:
            edges[edge_type] = (source, destination)
            reverse = (second, f"rev_{relation}", first)
            is_reverse = relation.startswith("rev_") and (second, relation[4:], first) in graph.edges
            if reverse not in graph.edges and not is_reverse:
                added[reverse] = edge_type
        else:
            rows = _without_opposite(source, destination, graph.num_nodes[first])
            edges[edge_type] = (
                torch.cat([source, destination[rows].to(source.dtype)]),
                torch.cat([destination, source[rows].to(destination.dtype)]),
            )
            attrs[edge_type] = {name: torch.cat([v, v[rows]]) for name, v in attrs[edge_type].items()}
    for reverse, edge_type in added.items():
        edges[reverse] = (edges[edge_type][1], edges[edge_type][0])
        attrs[reverse] = dict(attrs[edge_type])
    return dataclasses.replace(graph, edges=edges, edge_attrs=attrs)


def _without_opposite(source: Tensor, destination: Tensor, count: int) -> Tensor:
    """Positions of the edges ``a -> b`` for which there is no edge ``b -> a``."""
    if not source.numel():
        return torch.empty(0, dtype=torch.int64)
    there = (source.long() * count + destination.long()).sort().values
    wanted = destination.long() * count + source.long()
    at = torch.searchsorted(there, wanted).clamp_(max=there.numel() - 1)
    return (there[at] != wanted).nonzero()[:, 0]
