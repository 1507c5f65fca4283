"""Needs: bytes of memory and of disk that a build takes, as closed forms of counts, with what was measured per item."""

from __future__ import annotations

from typing import NamedTuple

from hasp.graph import Graph
from hasp.schema import Roles
from hasp.scratch import MAPPED_BYTES
from hasp.sizes import bucket_bytes, in_parts, is_large, slice_bytes

__all__ = ["BACKEND_BYTES", "Needs"]

BACKEND_BYTES = {
    "metis": 244,
    "metis_child": 244,
    "metis32": 110,
    "kaminpar": 60,
    "multilevel": 40,
    "stream": 0,
    "random": 0,
    "hash": 0,
    "given": 0,
}
"""Bytes per undirected EEL that a partitioner takes at its peak, beside its input, on graphs without any structure, the worst
for all: METIS 190 to 230 and 24 for its input in a process of its own, half of that on catalogues; multilevel 12 on
communities, 18 to 20 on power laws, 12 to 36 without structure (with weights 39)."""

CUT_BYTES = 32
"""Bytes per cut edge while the cut is grouped by pair of parts: six int32, and what is being moved. A partitioner is taken to
cut at most every other EEL."""

ENTITY_BYTES = 40
"""Bytes per entity: linked or not, number among the linked, part, row, order by part."""

BASE_BYTES = 55_000_000
"""What compiled kernels and libraries take, whatever the graph (measured: 30 to 55 MB)."""

CSR_BYTES = 56
"""Bytes per undirected EEL stored in both directions while its CSR is made: four keys of 8 bytes and the room that their chunks
leave, two int32 of the result."""

CSR_SCRATCH = 56
"""The same of disk, where the result also has room for the repeats, which are dropped."""

WEIGHTED_BYTES = 80
"""Bytes per stored EEL where EELs have weights, which are summed over repeats first (measured: 59, from 4
million entities on 69, and 8 of the weights)."""


class Needs(NamedTuple):
    """Bytes of a build into a folder: memory if everything is held there; memory and disk of one with scratch files.

    The larger of two stages, which do not overlap. Partitioning: making the CSR of the EELs, or the CSR and the partitioner.
    Writing: every edge with an entity end, grouped by part, and two parts with their attributes, or the cut being
    sorted. Beside both: number, part and row of every entity.

    Attributes:
        memory: if everything is held in memory, beside the input.
        scratch_memory: with scratch files, resident pages of mapped files included.
        scratch: disk that those take.
    """

    memory: int
    scratch_memory: int
    scratch: int

    @classmethod
    def of(
        cls, graph: Graph, roles: Roles, links: int, num_parts: int, part_bytes: int, backend: str, weighted: bool = False
    ) -> Needs:
        """What a build into ``num_parts`` parts, the largest of ``part_bytes`` when loaded, takes.

        ``links`` are the undirected EELs (:func:`hasp.sizes.num_links`); ``backend`` is a key of :data:`BACKEND_BYTES`.
        """
        entities = sum(graph.num_nodes[t] for t in roles.entity)
        stored = sum(graph.num_edges(e) for e in roles.eel)
        own = links * (BACKEND_BYTES.get(backend, BACKEND_BYTES["metis"]) if num_parts > 1 else 0)
        # The weights, then a CSR of int32 neighbours and int64 weights that stays in memory.
        making, kept = (stored * WEIGHTED_BYTES, links * 24) if weighted else (0, 0)
        buckets = bucket_bytes(graph, roles, num_parts)
        cut = 0 if num_parts == 1 else stored * CUT_BYTES // (1 if backend in ("random", "hash") else 2)
        fixed = BASE_BYTES + entities * ENTITY_BYTES + slice_bytes(graph, roles, num_parts)
        memory = fixed + max(making or links * CSR_BYTES, (kept or links * 8) + own, buckets + max(2 * part_bytes, cut))
        rows = [v for t in roles.entity for v in graph.node_attrs.get(t, {}).values()]
        rows += [v for e in graph.edges if in_parts(e, roles) for v in graph.edge_attrs.get(e, {}).values()]
        scratch = max(links * CSR_SCRATCH, buckets + cut + sum(v.nbytes for v in rows if is_large(v)))
        mapped = min(MAPPED_BYTES, scratch + sum(t.nbytes for t in graph.tensors()))
        return cls(memory, fixed + mapped + max(making, kept + own, 2 * part_bytes), scratch)
