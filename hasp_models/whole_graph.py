"""The whole graph again: of parts that have been built, or of anything that ``hasp build`` reads."""

from __future__ import annotations

from pathlib import Path

from hasp import HASPData
from hasp.errors import HaspError
from hasp.graph import Graph
from hasp.schema import EdgeType

__all__ = ["graph_of", "open_graph"]


def graph_of(parts: HASPData) -> Graph:
    """The input graph of a build with full quotas: all parts merged, with ids and names."""
    from hasp.load.merge import merge

    merged = merge(parts.store, range(parts.num_parts))
    own = {t: parts.manifest.node_attrs.get(t, {}) for t in parts.node_types}
    edges = {}
    for edge_type in parts.edge_types:
        index = merged[edge_type].edge_index
        edges[edge_type] = (index[0], index[1])
    attrs = {t: {k: merged[t][k] for k in names} for t, names in own.items()}
    edge_attrs = {e: {k: merged[e][k] for k in parts.manifest.edge_attrs.get(e, {})} for e in parts.edge_types}
    ids = {t: parts.ids(t) for t in parts.node_types if parts.store.ids(t) is not None}
    names = {t: found for t in parts.node_types if (found := parts.names(t)) is not None}
    return Graph({t: int(merged[t].num_nodes) for t in parts.node_types}, edges, attrs, edge_attrs, ids, names)


def open_graph(source: str, relations: list[EdgeType] | None = None) -> tuple[Graph, str]:
    """A graph and its fingerprint, from a folder of parts or from anything that ``hasp build`` reads.

    Args:
        source: where it is.
        relations: what a model expects; reverse edge types are added if that is what is missing.
    """
    if (Path(source) / "manifest.json").is_file():
        parts = HASPData.open(source)
        return graph_of(parts), parts.manifest.fingerprint
    from hasp.sources import open_source
    from hasp.sources.reverse import add_reverse

    graph = open_source(source)
    if relations is not None and any(e not in graph.edges for e in relations):
        graph = add_reverse(graph)
    missing = [e for e in relations or () if e not in graph.edges]
    if missing:
        raise HaspError(
            f"the model knows the edge type {missing[0]}, the graph has {list(graph.edges)}; embed a graph like its own"
        )
    return graph, graph.fingerprint()
