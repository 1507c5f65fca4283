"""Count: the report of a build, from the counts that its stages leave behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hasp.blocks import Blocks
from hasp.graph import NotFinite
from hasp.plan import Plan
from hasp.report import Report
from hasp.schema import edge_name
from hasp.sizes import batch_bytes
from hasp.split import EelGraph, entity_offsets

__all__ = ["count"]


def count(
    blocks: Blocks,
    eels: EelGraph,
    part_bytes: list[int],
    rest_bytes: Mapping[str, int],
    plan: Plan | None = None,
    not_finite: NotFinite | None = None,
) -> Report:
    """Count what went where.

    Args:
        blocks: the bucketed graph.
        eels: the EEL graph that was partitioned, for the degrees.
        part_bytes: bytes of every part's tensors.
        rest_bytes: bytes of ``"shared"``, ``"sampled"`` and ``"cut"``.
        plan: what was predicted.
        not_finite: what :meth:`hasp.graph.Graph.check` counted.

    Returns:
        The report without measurements: a function of the graph, the roles and the config.
    """
    graph, roles, layout = blocks.graph, blocks.roles, blocks.layout
    entities = {t: np.diff(where.ptr).tolist() for t, where in layout.types.items()}
    edges = {edge_name(e): b.counts.tolist() for e, b in blocks.buckets.items()}
    cut = {edge_name(e): b.num_cut for e, b in blocks.buckets.items() if roles.edges[e] in ("eel", "entity-entity")}
    groups = _degree_groups(blocks, eels)
    return Report(
        num_parts=layout.num_parts,
        num_nodes=dict(graph.num_nodes),
        node_roles=dict(roles.nodes),
        num_edges={edge_name(e): graph.num_edges(e) for e in graph.edges},
        edge_roles={edge_name(e): r for e, r in roles.edges.items()},
        entities=entities,
        edges=edges,
        cut=cut,
        linked=groups.sum(axis=1).tolist(),
        degree_groups=groups.tolist(),
        quota=dict(roles.quota),
        part_bytes=part_bytes,
        shared_bytes=rest_bytes["shared"],
        sampled_bytes=rest_bytes["sampled"],
        cut_bytes=rest_bytes["cut"],
        loaded_bytes=_loaded(blocks),
        predicted={} if plan is None else {"part_bytes": plan.part_bytes, "peak_build_bytes": plan.peak_build_bytes},
        not_finite={label: list(counts) for label, counts in sorted((not_finite or {}).items())},
    )


def _degree_groups(blocks: Blocks, eels: EelGraph) -> npt.NDArray[np.int64]:
    """Linked entities per part with 1-3, 4-6 and more distinct neighbours, int64 ``[num_parts, 3]``."""
    degree = eels.degree
    out = np.zeros((blocks.layout.num_parts, 3), dtype=np.int64)
    for node_type, offset in entity_offsets(blocks.graph, blocks.roles).items():
        part = blocks.layout.types[node_type].part
        of_type = degree[offset : offset + part.size]
        for group, (low, high) in enumerate(((1, 3), (4, 6), (7, None))):
            chosen = (of_type >= low) & (of_type <= (high or of_type.max(initial=0)))
            out[:, group] += np.bincount(part[chosen], minlength=out.shape[0])
    return out


def _loaded(blocks: Blocks) -> list[int]:
    """Bytes of every part as a batch of the loader."""
    graph, roles, layout = blocks.graph, blocks.roles, blocks.layout
    out: list[Any] = []
    for part_id in range(layout.num_parts):
        nodes: dict[str, float] = {t: int(w.ptr[part_id + 1] - w.ptr[part_id]) for t, w in layout.types.items()}
        nodes |= {t: graph.num_nodes[t] for t in roles.semantic}
        nodes |= {t: roles.quota[t] for t in roles.sampled}
        edges: dict[Any, float] = {e: int(b.counts[part_id]) for e, b in blocks.buckets.items()}
        out.append(batch_bytes(graph, roles, nodes, edges))
    return [int(b) for b in out]
