"""Multilevel: this library's own partitioner, for graphs that METIS is slow on or cannot hold.

Down: clusters of bounded weight are contracted until the graph is small (:mod:`hasp.backends.level`). There: METIS. Up: every
level starts from the labels of the coarser one and moves nodes between parts while the cut falls
(:mod:`hasp.backends.refine`). Meyerhenke, Sanders and Schulz (2014) have the scheme; what is ours is the guide: clusters are
grown inside communities that a first, barely bounded propagation finds, since small bounded clusters alone mix communities.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hasp.backends.level import Crew, Level, coarser, sparser
from hasp.backends.metis import metis
from hasp.backends.refine import cut_weight, refine
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
        tries: seeds for METIS where the coarsest level has ``cheap`` times fewer edges than the first.
        cheap: see ``tries``.
        share: METIS is given at most one in so many of the edges (a sample, where the coarsest level has more), for its
            time and memory,
        degree: but at least this many entries per node.
    """

    small: int = 800_000
    coarse: int = 5_000
    per_part: int = 100
    pieces: int = 16
    tries: int = 4
    cheap: int = 10
    share: int = 112
    degree: int = 24


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
        part = _coarsest(levels, task, settings, crew)
        for depth in range(len(levels) - 2, -1, -1):
            levels.pop()
            part = refine(levels[depth], part[maps.pop()], task, depth, crew)
        return _or_core(levels[0], part, task, crew)


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
        community = int(1.5 * task.most) if not maps else 0  # heavier ones merge with all around them
        below, cluster = coarser(level, most, community, task.seed, len(maps), crew)
        if below.num_nodes > 0.95 * level.num_nodes:
            break
        levels.append(below)
        maps.append(cluster)
        level = below
    return levels, maps


def _coarsest(levels: list[Level], task: Task, settings: Settings, crew: Crew) -> Int32s:
    """The best of some tries, each refined: one, or more where the coarsest level is next to nothing beside the first."""
    level, depth = levels[-1], len(levels) - 1
    cheap = level.indices.size * settings.cheap <= levels[0].indices.size
    sample = sparser(level, max(settings.degree * level.num_nodes, levels[0].indices.size // settings.share), task.seed)
    found: list[tuple[int, int, Int32s]] = []
    for attempt in range(settings.tries if cheap else 1):
        part = refine(level, _metis(sample, replace(task, seed=task.seed + attempt)), task, depth, crew)
        found.append((cut_weight(level, part, crew), attempt, part))
    return min(found, key=lambda one: one[:2])[2]


def _metis(level: Level, task: Task) -> Int32s:
    nodes, edges = level.node_weight, level.edge_weight
    return metis(
        replace(
            task,
            indptr=level.indptr,
            indices=level.indices,
            node_weight=nodes if nodes.size else None,
            edge_weight=edges if edges.size else None,
        )
    )


def _or_core(level: Level, part: Int32s, task: Task, crew: Crew) -> Int32s:
    """``part``, or for graphs that are a core with a fringe the slices of the nodes by degree, if their cut is far lower.

    Where the nodes of one part can hold most ends of edges, the best cut keeps the core whole, and clusters of core and fringe
    hide that from every coarser level. The part of the core is then heavy in edges, as it is in METIS's own answer.
    """
    n, k = level.num_nodes, task.num_parts
    degree = np.diff(level.indptr)
    if int(np.partition(degree, n - n // k)[n - n // k :].sum()) * 2 < level.indices.size:
        return part
    order = np.argsort(-degree, kind="stable")
    before = np.arange(n) if task.node_weight is None else np.cumsum(task.node_weight[order]) - task.node_weight[order]
    core = np.empty(n, dtype=np.int32)
    core[order] = np.minimum(before * k // max(level.total, 1), k - 1)
    if cut_weight(level, core, crew) > 0.9 * cut_weight(level, part, crew):
        return part
    return refine(level, core, task, 0, crew)
