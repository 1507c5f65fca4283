"""Task: what every partitioner is given; the one signature of all backends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Backend", "Int32s", "Int64s", "Ints", "Task", "edge_cut"]

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Ints = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Task:
    """One balanced k-way partitioning.

    Attributes:
        indptr: int64 ``[n + 1]``.
        indices: int32, or any integers, ``[2 m]``: symmetric, without repeats, self-loops and nodes without a neighbour.
        num_parts: ``2..n``.
        node_weight: int64 ``[n]`` >= 0, or ``None``: each node weighs 1.
        edge_weight: int64, or narrower, ``[2 m]`` >= 1, the same in both directions, or ``None``: each edge weighs 1.
        imbalance: the heaviest part may weigh ``1 + imbalance`` times the mean.
        seed: equal seeds give equal results.
        threads: 0: one per core. Never changes the result.
    """

    indptr: Int64s
    indices: Ints
    num_parts: int
    node_weight: Int64s | None = None
    edge_weight: Int64s | None = None
    imbalance: float = 0.03
    seed: int = 0
    threads: int = 0

    @property
    def num_nodes(self) -> int:
        """``n``."""
        return self.indptr.size - 1

    @property
    def num_edges(self) -> int:
        """``m``: each edge once."""
        return self.indices.size // 2

    @property
    def most(self) -> int:
        """What a part may weigh: ``(1 + imbalance)`` times the mean, but never less than the mean rounded up."""
        total = self.num_nodes if self.node_weight is None else int(self.node_weight.sum())
        return max(int((1 + self.imbalance) * total / self.num_parts), -(-total // self.num_parts))


Backend = Callable[[Task], Int32s]
"""Takes a task; returns the part of every node, int32 ``[n]``."""


def edge_cut(indptr: Int64s, indices: Ints, labels: Int32s) -> int:
    """Edges of a symmetric graph whose ends lie in different parts, each counted once."""
    row = np.repeat(np.arange(indptr.size - 1), np.diff(indptr))
    return int((labels[row] != labels[indices]).sum()) // 2
