"""Auto: which partitioner for a graph, and why, in words.

Size and degrees decide, and nothing of the machine: the same graph gets the same partitioner, and so the same bytes, wherever
it is built. Memory that is short is a reason to refuse (:meth:`hasp.plan.Plan.check`, :func:`hasp.partition`), not to cut
otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hasp.graph import Graph
from hasp.parallel import blocks
from hasp.schema import EdgeType, Roles
from hasp.sizes import num_links

__all__ = ["HUGE", "LARGE", "choose", "choose_for"]

LARGE = 800_000
"""EELs from which METIS is left, unless degrees are low and even, as on a mesh, where its cut is much better."""

HUGE = 20_000_000
"""EELs from which METIS is left whatever the degrees: there it takes 4 GB, and minutes."""

_EVEN = 8.0
_SPARSE = 8.0
_BLOCK = 1 << 24


def choose(num_nodes: int, num_edges: int, max_degree: int) -> tuple[str, str]:
    """Name a backend and say why.

    Args:
        num_nodes: linked entities.
        num_edges: EELs, each pair once.
        max_degree: the most neighbours of one node.

    Returns:
        ``"metis"`` or ``"multilevel"``, and the reason as half a sentence.
    """
    mean = 2 * num_edges / max(num_nodes, 1)
    degrees = f"(mean {mean:.1f}, most {max_degree:,})"
    if num_edges < LARGE:
        return "metis", f"{num_edges:,} EELs are few"
    if num_edges >= HUGE:
        return "multilevel", f"{num_edges:,} EELs are very many"
    if max_degree > _EVEN * mean:
        return "multilevel", f"{num_edges:,} EELs are many, degrees are uneven {degrees}"
    if mean <= _SPARSE:
        return "metis", f"degrees are low and even {degrees}"
    return "multilevel", f"{num_edges:,} EELs are many"


def choose_for(graph: Graph, roles: Roles, links: Mapping[EdgeType, int] | None = None) -> tuple[str, str]:
    """Name a backend for the EELs of a graph, as they are stored: repeats and self-loops count.

    Reads the ends of the EELs once or twice, in blocks; ids out of range are not looked at.

    Args:
        graph: the source.
        roles: of the same graph.
        links: :func:`hasp.sizes.num_links` of each EEL type, where that is known already.

    Returns:
        As :func:`choose`.
    """
    links = {e: num_links(graph, e) for e in roles.eel} if links is None else links
    total = sum(links.values())
    if not LARGE <= total < HUGE:  # degrees do not matter
        return choose(sum(graph.num_nodes[t] for t in roles.entity), total, 0)
    degree = {t: np.zeros(graph.num_nodes[t], dtype=np.int64) for t in roles.entity}
    for edge_type in roles.eel:
        source, destination = edge_type[0], edge_type[2]
        ends = list(zip((source, destination), graph.edges[edge_type], strict=True))
        twice = links[edge_type] < graph.num_edges(edge_type)  # stored in both directions: one column names every neighbour
        for node_type, column in ends[:1] if twice else ends:
            ids, own = column.numpy(), degree[node_type]
            for low, high in blocks(ids.size, _BLOCK):
                block = ids[low:high]
                own += np.bincount(block[(block >= 0) & (block < own.size)], minlength=own.size)
    linked = sum(int(np.count_nonzero(d)) for d in degree.values())
    return choose(linked, total, max(int(d.max(initial=0)) for d in degree.values()))
