"""What a partitioner is measured against: labels that do not look at a single edge."""

from __future__ import annotations

import numpy as np

from hasp.backends.task import Int32s, Task
from hasp.fill import fill
from hasp.rng import hash64, permutation, subkey

__all__ = ["hashed", "random"]


def random(task: Task) -> Int32s:
    """Equal sizes (or weights), random members."""
    part = np.full(task.num_nodes, -1, dtype=np.int32)
    if task.node_weight is not None:
        return fill(part, task.num_parts, task.node_weight, task.seed)
    part[permutation(subkey(task.seed, 2), part.size)] = np.arange(part.size) % task.num_parts
    return part


def hashed(task: Task) -> Int32s:
    """The part is a hash of the node's number: no state, sizes even only on average, weights not looked at."""
    number = hash64(subkey(task.seed, 6), np.arange(task.num_nodes))
    return (number % np.uint64(task.num_parts)).astype(np.int32)
