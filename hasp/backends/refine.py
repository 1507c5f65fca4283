"""Refine: better labels for one level, from those of the coarser one."""

from __future__ import annotations

import numpy as np

from hasp.backends.level import Crew, Level, rounds
from hasp.backends.task import Int32s, Int64s, Task
from hasp.kernels import refine as kernel
from hasp.rng import hash64, subkey

__all__ = ["balanced", "cut_weight", "refine"]

SWEEPS = 6
"""Sweeps of label propagation at most; only nodes beside a move are looked at after the first."""

FINE = 10_000
"""Nodes up to which local search takes its time."""

_ENOUGH = 0.0005  # of all edges: a sweep or a search that gains less is the last
_LOOK = 64  # neighbours of a node that is reached
_READS = (1, 7)  # of the whole graph: by a first search, and by one that goes on where the first was worth it
_WORTH = 0.002  # of all edges, see above: in communities the first gains less, and the sweeps of finer levels find it anyway
_SHORT_BOUNDARY, _POOR_CUT = 0.15, 0.3


def refine(level: Level, part: Int32s, task: Task, depth: int, crew: Crew) -> Int32s:
    """Lower the cut of ``part`` (changed in place) at the balance of the task; returns it.

    First :func:`balanced`, which may raise the cut; from there on it never rises.
    """
    n, most = level.num_nodes, task.most
    nodes = level.node_weight
    load = np.bincount(part, nodes if nodes.size else None, task.num_parts).astype(np.int64)
    balanced(level, part, load, most)
    total = int(level.edge_weight.sum()) if level.edge_weight.size else level.indices.size
    enough = total / 2 * _ENOUGH
    _sweeps(level, part, load, most, enough, crew)
    tries, patience = 3, 30
    for attempt in range(tries):
        seeds, cut = _boundary(level, part, crew)
        if n > FINE and seeds.size > _SHORT_BOUNDARY * n:
            # Communities leave little to find, at the price of everything else; without them sweeps alone are 5 % off.
            if cut < _POOR_CUT * total:
                break
            tries, patience = 1, 15
        if attempt >= tries or seeds.size == 0:
            break
        seeds = seeds[np.argsort(hash64(subkey(task.seed, 4, depth, attempt), seeds), kind="stable")]
        if _search(level, part, load, most, seeds, patience, total / 2 * _WORTH if n > FINE else 0) <= enough:
            break
    return part


def _search(level: Level, part: Int32s, load: Int64s, most: int, seeds: Int32s, patience: int, worth: float) -> int:
    """Local search from boundary nodes; by how much the cut fell."""
    fell = 0
    for reads in _READS:
        budget = reads * level.indices.size
        gain, seen = kernel.search(*level.arrays, most, seeds, patience, _LOOK, budget, part, load)
        fell, seeds = fell + gain, seeds[seen:]
        if gain < worth:
            break
    return fell


def _sweeps(level: Level, part: Int32s, load: Int64s, most: int, enough: float, crew: Crew) -> None:
    active = np.ones(level.num_nodes, dtype=np.bool_)
    wanted = np.empty(level.num_nodes, dtype=np.int32)

    def propose(block: tuple[int, int]) -> None:
        low, high = block
        kernel.propose_moves(*level.arrays, part, load, most, active, low, high, wanted[low:high])

    for _ in range(SWEEPS):
        fell = 0
        for todo in rounds(level.num_nodes):
            crew.run(propose, todo)
            low, high = todo[0][0], todo[-1][1]
            fell += kernel.commit_moves(wanted[low:high], low, *level.arrays, most, part, load, active)
        if fell <= enough:
            break


def _boundary(level: Level, part: Int32s, crew: Crew) -> tuple[Int32s, int]:
    """The nodes beside another part, ascending, and the weight of the entries between two parts."""
    mark = np.empty(level.num_nodes, dtype=np.bool_)

    def look(block: tuple[int, int]) -> int:
        low, high = block
        return int(kernel.boundary(*level.arrays[:3], part, low, high, mark[low:high]))

    cut = sum(crew.run(look, [block for todo in rounds(level.num_nodes) for block in todo]))
    return np.flatnonzero(mark).astype(np.int32), cut


def cut_weight(level: Level, part: Int32s, crew: Crew) -> int:
    """Weight of the entries between two parts: twice the cut."""
    return _boundary(level, part, crew)[1]


def balanced(level: Level, part: Int32s, load: Int64s, most: int) -> None:
    """Move nodes out of parts above ``most``, the lightest first, so that no more moves than it must; in place."""
    for _ in range(3):
        heavy = load > most
        if not heavy.any():
            return
        order = np.flatnonzero(heavy[part]).astype(np.int32)
        if level.node_weight.size:
            order = order[np.argsort(level.node_weight[order], kind="stable")]
        kernel.rebalance(*level.arrays, most, order, part, load)
