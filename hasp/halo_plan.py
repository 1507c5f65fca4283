"""Halo plan: what ``HASPLoader(parts, halo=True)`` will carry and read, before a part is written.

How many far ends a part has depends on where the partitioner cuts, so the graph is cut to find out, as the build will cut it:
the figures are those of the build, not estimates. Only the cut links are looked at, type by type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from torch import Tensor

from hasp.backends.auto import choose_for
from hasp.config import BuildConfig
from hasp.graph import Graph
from hasp.parallel import blocks
from hasp.part import numpy_ids
from hasp.rows import distinct as each_once
from hasp.schema import Roles
from hasp.sizes import node_bytes, row_bytes
from hasp.split import split
from hasp.text import format_bytes

__all__ = ["HaloPlan", "plan_halo", "predict_halo"]

Ints = npt.NDArray[np.int64]

_BLOCK = 1 << 22


@dataclass(frozen=True)
class HaloPlan:
    """What a one-hop halo adds to batches of one part each.

    Attributes:
        rows: far ends of each part, over all entity types.
        edges: cut edges that lead into each part.
        batch_bytes: bytes that these add to each part's batch: ids as int64, every attribute.
        read_bytes: bytes of far ends that an epoch reads from other parts without a cache.
        distinct: entities that are a far end of some part.
        cache_bytes: bytes of all of them: a :class:`hasp.HaloCache` with less has to choose.
        replication: entities in all batches of an epoch, over entities.
    """

    rows: tuple[int, ...]
    edges: tuple[int, ...]
    batch_bytes: tuple[int, ...]
    read_bytes: int
    distinct: int
    cache_bytes: int
    replication: float

    def explain(self) -> str:
        """Lines for people, as :meth:`hasp.plan.Plan.explain`."""
        parts = max(len(self.rows), 1)
        most, mean = max(self.batch_bytes, default=0), sum(self.batch_bytes) / parts
        return "\n".join(
            [
                f"halo             {format_bytes(most)} on top of the batch of one part, at most; {format_bytes(mean)} in the "
                f"mean; {max(self.rows, default=0):,} far ends, {max(self.edges, default=0):,} cut edges at most",
                f"an epoch reads   {format_bytes(self.read_bytes)} of far ends without a cache; batches hold "
                f"{self.replication:.2f} times the entities",
                f"cache            {format_bytes(self.cache_bytes)} holds all {self.distinct:,} far ends",
            ]
        )


def predict_halo(graph: Graph, roles: Roles, config: BuildConfig) -> HaloPlan:
    """The halos of the parts that a build with these settings will make: its cut and its fill, and nothing after them.

    Args:
        graph: the source, checked.
        roles: of the same graph.
        config: as for :func:`hasp.build.build`.
    """
    from hasp.build import assign

    if config.backend == "auto":
        config = replace(config, backend=choose_for(graph, roles)[0])
    labels = assign(graph, roles, config, split(graph, roles, config.weight, config.threads))
    return plan_halo(graph, roles, labels, config.num_parts)


def plan_halo(graph: Graph, roles: Roles, node_part: Mapping[str, npt.NDArray[np.int32]], num_parts: int) -> HaloPlan:
    """Count the halos of a partition.

    Args:
        graph: the source, checked.
        roles: of the same graph.
        node_part: per entity type, the part of every entity, int32 ``[n]``, as :func:`hasp.build.assign` gives it.
        num_parts: parts.
    """
    rows, edges, added = (np.zeros(num_parts, np.int64) for _ in range(3))
    read = distinct = kept = 0
    wants: dict[str, list[Ints]] = {t: [] for t in roles.entity}
    for edge_type, ends in graph.edges.items():
        if roles.nodes[edge_type[0]] == roles.nodes[edge_type[2]] == "entity":
            count, keys = _crossing(ends, node_part, edge_type[0], edge_type[2], num_parts)
            edges += count
            added += count * row_bytes(graph.edge_attrs.get(edge_type, {}), 3)
            wants[edge_type[0]].append(keys)
    for node_type, found in wants.items():
        total = graph.num_nodes[node_type]
        keys = each_once(np.concatenate([np.empty(0, np.int64), *found]))  # (part that wants it, entity)
        count = np.bincount(keys // max(total, 1), minlength=num_parts)
        attrs = row_bytes(graph.node_attrs.get(node_type, {}), 0)
        stored = attrs + np.dtype(numpy_ids(total)).itemsize  # a far end is read as it lies in its part
        one = each_once(keys % max(total, 1)).size
        rows += count
        added += count * node_bytes(graph, roles, node_type)
        read, distinct, kept = read + keys.size * stored, distinct + one, kept + one * stored
    entities = sum(graph.num_nodes[t] for t in roles.entity)
    return HaloPlan(
        tuple(rows.tolist()),
        tuple(edges.tolist()),
        tuple(added.tolist()),
        read,
        distinct,
        kept,
        (entities + int(rows.sum())) / max(entities, 1),
    )


def _crossing(
    ends: tuple[Tensor, Tensor], node_part: Mapping[str, npt.NDArray[np.int32]], source: str, destination: str, num_parts: int
) -> tuple[Ints, Ints]:
    """Cut edges into each part ``[num_parts]``, and ``part * sources + source`` of them, each once, ascending."""
    total, count, keys = node_part[source].size, np.zeros(num_parts, np.int64), [np.empty(0, np.int64)]
    src, dst = (t.numpy() for t in ends)
    for low, high in blocks(src.size, _BLOCK, max(src.size, 1)):
        near, far = node_part[destination][dst[low:high]], node_part[source][src[low:high]]
        cut = np.flatnonzero(near != far)
        count += np.bincount(near[cut], minlength=num_parts)
        keys.append(each_once(near[cut].astype(np.int64) * total + src[low:high][cut]))
    return count, each_once(np.concatenate(keys))
