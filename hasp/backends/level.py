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
from hasp.parallel import blocks, cores, run_in_turn
from hasp.rng import subkey

__all__ = ["Crew", "Level", "coarser", "propagate", "rounds", "sparser"]

T = TypeVar("T")
R = TypeVar("R")

PASSES, GUIDED = 3, 2
"""Passes of label propagation on one level, without and with a guide; the clusters barely change after."""

_ROUNDS, _BLOCKS, _SMALLEST = 24, 8, 2048


class Crew:
    """Threads that stay, for the many short rounds of a partitioner; :func:`hasp.parallel.run` starts its own every time."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
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
        edge_weight: int64, or as narrow as the heaviest fits, ``[2 m]`` or ``[0]``.
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
        guide, _ = propagate(level, guide, community, PASSES, (seed, 5, step), crew)
    cluster, weight = propagate(level, guide, most, GUIDED if guide.size else PASSES, (seed, 3, step), crew)
    _pair_up(level, guide, most, _salt(seed, 3, step), cluster, weight, crew)
    mark = np.zeros(level.num_nodes, dtype=np.bool_)
    mark[cluster] = True
    new = np.cumsum(mark, dtype=np.int32)
    new -= 1
    cluster, size = new[cluster], int(new[-1]) + 1
    del guide, weight, mark, new  # the contraction is where memory peaks
    return _contract(level, cluster, size, crew), cluster


def _salt(seed: int, *words: int) -> int:
    return int(subkey(seed, *words)) & 0xFFFFFFFF


def propagate(
    level: Level, guide: Int32s, most: int, passes: int, words: tuple[int, int, int], crew: Crew
) -> tuple[Int32s, Int64s]:
    """Clusters by label propagation.

    Args:
        level: what is clustered.
        guide: int32 ``[n]``: no cluster reaches over two values; of length 0: none.
        most: what a cluster may weigh.
        passes: over all nodes (in the later ones: those beside a move) at most.
        words: seed and two further words, which decide ties.
        crew: threads.

    Returns:
        int32 ``[n]``: clusters, named after one of the nodes; int64 ``[n]``: their weights.
    """
    salt = _salt(*words)
    n = level.num_nodes
    cluster = np.arange(n, dtype=np.int32)
    weight = level.node_weight.copy() if level.node_weight.size else np.ones(n, dtype=np.int64)
    wanted = np.empty(n, dtype=np.int32)
    active = np.ones(n, dtype=np.bool_)
    state = (*level.arrays, guide, cluster, weight, most, salt)

    def first(block: tuple[int, int]) -> None:
        kernel.propose_neighbours(*state, *block, wanted[slice(*block)])

    def later(block: tuple[int, int]) -> None:
        kernel.propose_clusters(*state, active, *block, wanted[slice(*block)])

    for sweep in range(passes):
        moved = 0
        for todo in rounds(n):
            crew.run(later if sweep else first, todo)
            low, high = todo[0][0], todo[-1][1]
            graph = level.indptr, level.indices, level.node_weight
            moved += kernel.commit_clusters(wanted[low:high], low, *graph, most, sweep == 0, cluster, weight, active)
        if moved < n // 50:
            break
    return cluster, weight


def _pair_up(level: Level, guide: Int32s, most: int, salt: int, cluster: Int32s, weight: Int64s, crew: Crew) -> None:
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
    # Entries before each row, to cut blocks that hold about as many.
    many = np.zeros(size)
    for low, high in blocks(level.num_nodes, 1 << 18, 64):  # bincount copies what it is given to wider numbers
        many += np.bincount(cluster[low:high], np.diff(level.indptr[low : high + 1]), size)
    entries = np.concatenate([[0], np.cumsum(many.astype(np.int64))])
    cuts = np.unique(np.searchsorted(entries, np.linspace(0, entries[-1], 65)[1:-1]))
    cuts = np.unique(np.concatenate([[0], cuts, [size]]))
    total = int(level.edge_weight.sum()) if level.edge_weight.size else level.indices.size
    sums = np.int32 if total < 2**31 else np.int64
    degree = np.empty(size, dtype=np.int64)
    # With room for every entry; what is not written to takes no memory, and is given back.
    indices = np.empty(int(entries[-1]), dtype=np.int32)

    def write(block: tuple[int, int], place: Callable[[int], int]) -> tuple[int, int]:
        low, high = block
        room = int(entries[high] - entries[low])
        index, weight = np.empty(room, dtype=np.int32), np.empty(room, dtype=sums)
        used = kernel.contract(*level.arrays[:3], cluster, order, start, low, high, index, weight, degree[low:high])
        first = place(used)
        indices[first : first + used], weights[first : first + used] = index[:used], weight[:used]
        return used, int(weight[:used].max(initial=0))

    # Most edges of a contracted graph stand for few: narrow weights do, and where the guess was wrong it is all done again.
    heaviest = 4 * int(level.edge_weight.max()) if level.edge_weight.size else 4
    while True:
        dtype = next(dtype for dtype in (np.int16, np.int32, np.int64) if heaviest <= np.iinfo(dtype).max)
        weights = np.empty(indices.size, dtype=dtype)
        found = run_in_turn(write, list(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)), crew.threads)
        heaviest = max((most for _, most in found), default=0)
        if heaviest <= np.iinfo(dtype).max:
            break
    used = sum(count for count, _ in found)
    indptr = np.concatenate([[0], np.cumsum(degree)]).astype(np.int64)
    nodes = np.bincount(cluster, level.node_weight, size) if level.node_weight.size else np.diff(start)
    return Level(indptr, _cut_off(indices, used), _cut_off(weights, used), nodes.astype(np.int64, copy=False))


def _cut_off(array: Any, size: int) -> Any:
    """The first ``size`` elements, the memory of the others given back."""
    array.resize(size, refcheck=False)
    return array


def sparser(level: Level, most: int, seed: int) -> Level:
    """A sample of about ``most`` entries in which every cut weighs what it did, on average; the level itself if it has no more.

    Heavy edges are kept, light ones drawn by weight (Spielman and Srivastava, 2011, without the resistances).
    """
    if level.indices.size <= most or not level.edge_weight.size:
        return level
    weight = level.edge_weight[:: max(1, level.indices.size // 50_000)].astype(np.float64)
    share = most / level.indices.size
    low, high = 1, max(2, int(weight.max() / share))
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if np.minimum(1.0, weight / middle).mean() <= share else (middle + 1, high)
    indices, weights = np.empty(level.indices.size, dtype=np.int32), np.empty(level.indices.size, dtype=np.int64)
    degree = np.empty(level.num_nodes, dtype=np.int64)
    used = kernel.sparsify(*level.arrays[:3], low, _salt(seed, 7), indices, weights, degree)
    indptr = np.concatenate([[0], np.cumsum(degree)])
    return Level(indptr, _cut_off(indices, used), _cut_off(weights, used), level.node_weight)
