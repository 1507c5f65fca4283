"""Level: one graph of the hierarchy that :mod:`hasp.backends.multilevel` climbs down and up, and the way down.

Rounds and blocks are cut by size alone, and what a round proposes is taken in node order: the number of threads never shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from hasp.backends.task import Int32s, Int64s, Task
from hasp.kernels import coarsen as kernel
from hasp.parallel import blocks, cores
from hasp.rng import subkey

__all__ = ["Crew", "Level", "coarser", "rounds"]

T = TypeVar("T")
R = TypeVar("R")

PASSES, GUIDED = 4, 3
"""Passes of label propagation on one level, without and with a guide; the clusters barely change after."""

_ROUNDS, _BLOCKS, _SMALLEST = 24, 8, 2048


class Crew:
    """Threads that stay, for the many short rounds of a partitioner; :func:`hasp.parallel.run` starts its own every time."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(cores(threads)) if cores(threads) > 1 else None

    def run(self, task: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """``[task(i) for i in items]``; the first exception is raised."""
        todo = list(items)
        if self._pool is None or len(todo) <= 1:
            return [task(item) for item in todo]
        return list(self._pool.map(task, todo))

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()


@dataclass(frozen=True)
class Level:
    """A graph with weights; arrays of length 0 stand for weights of 1.

    Attributes:
        indptr: int64 ``[n + 1]``.
        indices: int64 or int32 ``[2 m]``.
        edge_weight: int64 or int32 ``[2 m]`` or ``[0]``.
        node_weight: int64 ``[n]`` or ``[0]``.
    """

    indptr: Int64s
    indices: Any
    edge_weight: Any
    node_weight: Int64s

    @classmethod
    def of(cls, task: Task) -> Level:
        """The finest level; nothing is copied."""
        none = np.zeros(0, dtype=np.int64)
        nodes, edges = task.node_weight, task.edge_weight
        return cls(task.indptr, task.indices, none if edges is None else edges, none if nodes is None else nodes)

    @property
    def num_nodes(self) -> int:
        """``n``."""
        return self.indptr.size - 1

    @property
    def total(self) -> int:
        """Weight of all nodes."""
        return int(self.node_weight.sum()) if self.node_weight.size else self.num_nodes

    @property
    def arrays(self) -> tuple[Any, ...]:
        """What every kernel takes first."""
        return self.indptr, self.indices, self.edge_weight, self.node_weight


def rounds(n: int) -> list[list[tuple[int, int]]]:
    """Rounds of blocks that cover ``range(n)``: the blocks of a round see the same state."""
    out = []
    for low, high in blocks(n, _SMALLEST, _ROUNDS):
        size = max(_SMALLEST // _BLOCKS, -(-(high - low) // _BLOCKS))
        out.append([(at, min(at + size, high)) for at in range(low, high, size)])
    return out


def coarser(level: Level, most: int, community: int, seed: int, step: int, crew: Crew) -> tuple[Level, Int32s]:
    """Contract clusters of nodes that weigh at most ``most`` together.

    Args:
        level: what is contracted.
        most: bound of a cluster.
        community: bound of the communities that no cluster may reach out of; 0: none are looked for.
        seed: with ``step``, decides ties.
        step: number of the level.
        crew: threads.

    Returns:
        The coarser level, and int32 ``[n]``: the node of it that each node is now part of.
    """
    guide = np.zeros(0, dtype=np.int32)
    if community > most:
        guide, _ = _propagate(level, guide, community, PASSES, subkey(seed, 5, step), crew)
    salt = subkey(seed, 3, step)
    cluster, weight = _propagate(level, guide, most, GUIDED if guide.size else PASSES, salt, crew)
    _pair_up(level, guide, most, salt, cluster, weight, crew)
    mark = np.zeros(level.num_nodes, dtype=np.bool_)
    mark[cluster] = True
    new = np.cumsum(mark, dtype=np.int32)
    new -= 1
    cluster = new[cluster]
    return _contract(level, cluster, int(new[-1]) + 1, crew), cluster


def _propagate(level: Level, guide: Int32s, most: int, passes: int, salt: np.uint64, crew: Crew) -> tuple[Int32s, Int64s]:
    """Clusters by label propagation, int32 ``[n]`` (named after one of their nodes at the start), and their weights."""
    n = level.num_nodes
    cluster = np.arange(n, dtype=np.int32)
    weight = level.node_weight.copy() if level.node_weight.size else np.ones(n, dtype=np.int64)
    wanted = np.empty(n, dtype=np.int32)

    def propose(block: tuple[int, int]) -> None:
        low, high = block
        kernel.propose_clusters(*level.arrays, guide, cluster, weight, most, salt, low, high, wanted[low:high])

    for sweep in range(passes):
        moved = 0
        for todo in rounds(n):
            crew.run(propose, todo)
            low, high = todo[0][0], todo[-1][1]
            moved += kernel.commit_clusters(wanted[low:high], low, level.node_weight, most, sweep == 0, cluster, weight)
        if moved < n // 50:
            break
    return cluster, weight


def _pair_up(level: Level, guide: Int32s, most: int, salt: np.uint64, cluster: Int32s, weight: Int64s, crew: Crew) -> None:
    """Put nodes that are still alone together with others that have the same favourite; in place."""
    favourite = np.empty(level.num_nodes, dtype=np.int32)

    def favour(block: tuple[int, int]) -> None:
        low, high = block
        kernel.favourites(*level.arrays, guide, cluster, weight, salt, low, high, favourite[low:high])

    crew.run(favour, [block for todo in rounds(level.num_nodes) for block in todo])
    kernel.join_pairs(favourite, level.node_weight, most, cluster, weight)


def _contract(level: Level, cluster: Int32s, size: int, crew: Crew) -> Level:
    start = np.zeros(size + 1, dtype=np.int64)
    order = np.empty(level.num_nodes, dtype=np.int32)
    kernel.group(cluster, start, order)
    weights = level.edge_weight
    heaviest = int(weights.sum()) if weights.size else level.indices.size
    dtype = np.int32 if heaviest < 2**31 else np.int64
    # Entries before each row, to cut blocks that hold about as many.
    entries = np.concatenate([[0], np.cumsum(np.bincount(cluster, np.diff(level.indptr), size).astype(np.int64))])
    cuts = np.unique(np.searchsorted(entries, np.linspace(0, entries[-1], 65)[1:-1]))
    cuts = np.unique(np.concatenate([[0], cuts, [size]]))
    degree = np.empty(size, dtype=np.int64)

    def pack(block: tuple[int, int]) -> tuple[Any, Any]:
        low, high = block
        room = int(entries[high] - entries[low])
        index, weight = np.empty(room, dtype=np.int32), np.empty(room, dtype=dtype)
        used = kernel.contract(*level.arrays[:3], cluster, order, start, low, high, index, weight, degree[low:high])
        return index[:used].copy(), weight[:used].copy()

    packed = crew.run(pack, list(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)))
    indptr = np.concatenate([[0], np.cumsum(degree)]).astype(np.int64)
    # One array after the other, so that not everything is there twice.
    indices = np.concatenate([index for index, _ in packed])
    values = [weight for _, weight in packed]
    packed.clear()
    nodes = np.bincount(cluster, level.node_weight, size) if level.node_weight.size else np.bincount(cluster, minlength=size)
    return Level(indptr, indices, np.concatenate(values), nodes.astype(np.int64))
