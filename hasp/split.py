"""Split: entities with an EEL | entities without (paper, section 5.2), and the graph that the partitioner sees.

The partitioner gets the EEL graph alone: symmetric, coalesced, without self-loops and without isolated nodes, whatever the
direction and the multiplicity of the EELs in the source.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from hasp.csr import linked_nodes, symmetric_csr, weighted_csr
from hasp.errors import HaspError
from hasp.graph import Graph
from hasp.schema import Roles
from hasp.scratch import MEMORY, Scratch

__all__ = ["EelGraph", "check_weights", "entity_offsets", "split"]


@dataclass(frozen=True)
class EelGraph:
    """The EELs as one symmetric graph over the linked entities.

    Attributes:
        linked: the entities with an EEL, ascending, int64 ``[l]``, numbered over all entity types (:func:`entity_offsets`).
        num_entities: all entities, linked or not.
        indptr: int64 ``[l + 1]``.
        indices: int32 ``[2 m]``: rows of ``linked``; both directions of each of the ``m`` distinct EELs, rows sorted.
        edge_weight: int64 ``[2 m]`` >= 1, or ``None`` where every EEL counts the same.
    """

    linked: npt.NDArray[np.int64]
    num_entities: int
    indptr: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int32]
    edge_weight: npt.NDArray[np.int64] | None

    @property
    def degree(self) -> npt.NDArray[np.int64]:
        """Distinct neighbours per entity over EELs, int64 ``[num_entities]``; 0 for entities without."""
        out = np.zeros(self.num_entities, dtype=np.int64)
        out[self.linked] = np.diff(self.indptr)
        return out


def entity_offsets(graph: Graph, roles: Roles) -> dict[str, int]:
    """First number of each entity type when all entities are numbered one after the other."""
    offsets, total = {}, 0
    for node_type in roles.entity:
        offsets[node_type] = total
        total += graph.num_nodes[node_type]
    return offsets


def split(graph: Graph, roles: Roles, weight: str = "", threads: int = 0, scratch: Scratch = MEMORY) -> EelGraph:
    """Find the linked entities and make the graph that is partitioned.

    Args:
        graph: checked beforehand (:meth:`Graph.check`).
        roles: of the same graph.
        weight: name of a numeric edge attribute ``[E]`` of the EELs; weights of repeated EELs add up. Empty: none.
        threads: never changes the result.
        scratch: where the arrays go that are as long as the EELs; with a weight they are in memory.

    Raises:
        HaspError: an EEL type lacks the weight attribute, or a weight is negative, NaN or infinite.
    """
    offsets = entity_offsets(graph, roles)
    total = sum(graph.num_nodes[t] for t in roles.entity)
    ends = {e: (graph.edges[e][0].numpy(), graph.edges[e][1].numpy()) for e in roles.eel}
    lists = [(src, dst, offsets[e[0]], offsets[e[2]]) for e, (src, dst) in ends.items()]
    mark = linked_nodes(lists, total, threads)
    linked = np.flatnonzero(mark)
    if linked.size > np.iinfo(np.int32).max:
        raise HaspError(f"at most 2**31 - 1 entities may have EELs, got {linked.size:,}; partition elsewhere, pass node_part=")
    if not weight or not lists:
        return EelGraph(linked, total, *symmetric_csr(lists, mark, threads, scratch), None)
    weights = [_weights(graph, edge_type, weight) for edge_type in roles.eel]
    return EelGraph(linked, total, *weighted_csr(lists, weights, mark, threads))


def check_weights(graph: Graph, roles: Roles, weight: str) -> None:
    """Look at the weights of every EEL type. Raises :class:`HaspError` as :func:`split` does, but before any other work."""
    for edge_type in roles.eel if weight else ():
        _weights(graph, edge_type, weight)


def _weights(graph: Graph, edge_type: tuple[str, str, str], name: str) -> npt.NDArray[np.float64]:
    value = graph.edge_attrs.get(edge_type, {}).get(name)
    if value is None or value.numel() != graph.num_edges(edge_type):
        have = sorted(graph.edge_attrs.get(edge_type, {}))
        raise HaspError(f"weight={name!r}: one number per EEL, but {edge_type} has {have}; name one of these or leave it out")
    weights = value.reshape(-1).to(torch.float64).numpy()
    if weights.size and not (np.isfinite(weights).all() and weights.min() >= 0):
        bad = int((~np.isfinite(weights) | (weights < 0)).sum())
        raise HaspError(f"weight={name!r}: EEL weights are finite and >= 0, {bad:,} of {edge_type} are not; clean them")
    return weights
