"""Multilevel: this library's own partitioner, for graphs that METIS is slow on or cannot hold.

Down: clusters of bounded weight are contracted until the graph is small (:mod:`hasp.backends.level`). There: METIS. Up: every
level starts from the labels of the coarser one and moves nodes between parts while the cut falls
(:mod:`hasp.backends.refine`). Meyerhenke, Sanders and Schulz (2014) have the scheme; what is ours is the guide: clusters are
grown inside communities that a first, barely bounded propagation finds, since small bounded clusters alone mix communities.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hasp.backends.level import Crew, Level, coarser
from hasp.backends.metis import metis
from hasp.backends.refine import refine
from hasp.backends.task import Int32s, Task

__all__ = ["Settings", "multilevel"]


@dataclass(frozen=True)
class Settings:
    """What decides speed and cut.

    Attributes:
        small: edges up to which METIS alone is as fast.
        coarse: nodes at which METIS takes over, at least.
        per_part: the same, for every part.
        pieces: clusters that a part can be made of, at least: bounds their weight.
        community: largest share of the graph that the guide may hold together.
    """

    small: int = 250_000
    coarse: int = 5_000
    per_part: int = 100
    pieces: int = 16
    community: float = 0.25


def multilevel(task: Task, settings: Settings | None = None) -> Int32s:
    """Partition by contraction, METIS and refinement; the same at any number of threads.

    Args:
        task: what to partition.
        settings: for experiments and tests.
    """
    settings = settings or Settings()
    if task.num_edges <= settings.small:
        return metis(task)
    with Crew(task.threads) as crew:
        levels, maps = _down(task, settings, crew)
        part = _metis(levels[-1], task)
        for depth in range(len(levels) - 1, -1, -1):
            if depth < len(maps):
                part = part[maps.pop()]
            part = refine(levels.pop(), part, task, depth, crew)
    return part


def _down(task: Task, settings: Settings, crew: Crew) -> tuple[list[Level], list[Int32s]]:
    """All levels, the given graph first, and for each but the last the node of the next that each node belongs to."""
    level = Level.of(task)
    levels: list[Level] = [level]
    maps: list[Int32s] = []
    enough = max(settings.coarse, settings.per_part * task.num_parts)
    total = level.total
    while level.num_nodes > enough * 1.2:
        heaviest = int(level.node_weight.max()) if level.node_weight.size else 1
        most = max(total // (task.num_parts * settings.pieces), heaviest)
        community = int(total * settings.community) if not maps else 0
        below, cluster = coarser(level, most, community, task.seed, len(maps), crew)
        if below.num_nodes > 0.95 * level.num_nodes:
            break
        levels.append(below)
        maps.append(cluster)
        level = below
    return levels, maps


def _metis(level: Level, task: Task) -> Int32s:
    nodes, edges = level.node_weight, level.edge_weight
    return metis(
        replace(
            task,
            indptr=level.indptr,
            indices=level.indices.astype(np.int64, copy=False),
            node_weight=nodes if nodes.size else None,
            edge_weight=edges.astype(np.int64, copy=False) if edges.size else None,
        )
    )
