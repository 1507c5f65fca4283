"""Auto: which partitioner for a graph, and why, in words.

Size and degrees decide; the memory that is free only where what they chose would not fit, so that a machine with room enough
always gives the same parts as another.
"""

from __future__ import annotations

from hasp.text import format_bytes

__all__ = ["METIS_BYTES", "MULTILEVEL_BYTES", "choose"]

METIS_BYTES, MULTILEVEL_BYTES, STREAM_NODE_BYTES = 220, 40, 40
"""Bytes beside the graph itself: of METIS and ``multilevel`` per edge, of ``stream`` per node. Measured, rounded up."""

_LARGE = 800_000
_EVEN = 8.0
_SPARSE = 8.0


def choose(num_nodes: int, num_edges: int, max_degree: int, num_parts: int, free_bytes: int | None) -> tuple[str, str]:
    """Name a backend and say why.

    Args:
        num_nodes: linked entities.
        num_edges: EELs, each pair once.
        max_degree: the most neighbours of one node.
        num_parts: parts.
        free_bytes: memory that may be used beside the graph; ``None``: unknown.

    Returns:
        Name of a backend, and the reason as half a sentence.
    """
    mean = 2 * num_edges / max(num_nodes, 1)
    free = float("inf") if free_bytes is None else free_bytes
    needs = {
        "metis": METIS_BYTES * num_edges,
        "multilevel": MULTILEVEL_BYTES * num_edges,
        "stream": STREAM_NODE_BYTES * num_nodes,
    }
    even = mean <= _SPARSE and max_degree <= _EVEN * mean
    if num_edges < _LARGE or even:
        wanted = "metis"
        why = (
            f"{num_edges:,} EELs are few"
            if num_edges < _LARGE
            else f"degrees are low and even (mean {mean:.1f}, most {max_degree:,})"
        )
    else:
        wanted = "multilevel"
        why = f"{num_edges:,} EELs are many, degrees are uneven (mean {mean:.1f}, most {max_degree:,})"
        if max_degree <= _EVEN * mean:
            why = f"{num_edges:,} EELs are many"
    order = ["metis", "multilevel", "stream"]
    chosen = next((b for b in order[order.index(wanted) :] if needs[b] <= 0.8 * free), "stream")
    if chosen != wanted:
        why = f"{wanted} would take {format_bytes(needs[wanted])} and {format_bytes(int(free))} are free"
    return chosen, why
