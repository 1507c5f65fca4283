"""Stream: a partition in a few passes over the rows, for graphs whose edges stay on the disk; memory for the nodes alone.

The first passes grow communities that are at most as heavy as a part (label propagation) and pack them, the last ones move node
after node by Fennel's rule (Tsourakakis et al., 2014) with the labels of the pass before (restreaming: Nishimura and Ugander,
2013). One pass alone cuts twice as much as METIS where ids are in random order, so it is not offered.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hasp.backends.level import Crew, Level, propagate
from hasp.backends.refine import balanced
from hasp.backends.task import Int32s, Task
from hasp.config import number, whole
from hasp.errors import HaspError
from hasp.kernels.fill import emptiest_first
from hasp.kernels.stream import stream_pass

__all__ = ["PASSES", "place", "stream"]

PASSES = 5
"""Passes over the rows, of which three grow communities."""

_NO_NODE: npt.NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)


def stream(task: Task, passes: int = PASSES) -> Int32s:
    """Partition in ``passes`` (at least 2) reads of the rows in order; the graph may be unclean, and a map of a file."""
    if passes < 2:
        raise HaspError(f"passes={passes}: a stream takes at least 2 passes, one alone is little better than random; use 5")
    level = Level.of(task)
    growing = (passes + 1) // 2
    with Crew(task.threads) as crew:
        cluster, weight = propagate(level, np.zeros(0, dtype=np.int32), task.most, growing, (task.seed, 8, 0), crew)
    ids = np.flatnonzero(weight)
    ids = ids[np.argsort(-weight[ids], kind="stable")]
    load = np.zeros(task.num_parts, dtype=np.int64)
    packed = np.zeros(task.num_nodes, dtype=np.int32)
    emptiest_first(ids, weight[ids], load, packed)
    part = packed[cluster]
    del packed, cluster, weight
    _fennel(level, _NO_NODE, task.most, passes - growing, part, load)
    balanced(level, part, load, task.most)  # of rows, it reads those of the nodes that must move
    return part


def place(
    indptr: npt.ArrayLike,
    indices: npt.ArrayLike,
    node_part: npt.ArrayLike,
    num_parts: int,
    *,
    node_weight: npt.ArrayLike | None = None,
    edge_weight: npt.ArrayLike | None = None,
    imbalance: float = 0.03,
    passes: int = 2,
) -> Int32s:
    """Give new nodes a part beside nodes that keep theirs: what a graph that has grown needs instead of a new partition.

    Args:
        indptr: whole numbers ``[n + 1]``, ascending from 0.
        indices: neighbours in ``0..n-1``; both directions of every edge of a new node. May be a map of a file.
        node_part: whole numbers ``[n]`` in ``0..num_parts-1``, or ``-1`` for a new node.
        num_parts: of the old partition.
        node_weight: whole numbers >= 0 ``[n]`` that are balanced instead of the node count; old and new nodes.
        edge_weight: whole numbers >= 0 ``[len(indices)]``: how much it takes a new node to that neighbour's part.
        imbalance: a part takes no new node above ``1 + imbalance`` times the mean of all nodes, by weight.
        passes: reads of the rows, at least 2: the second knows where the neighbours went that came later.

    Returns:
        int32 ``[n]`` without ``-1``; old nodes as they were.

    Raises:
        HaspError: arrays that do not fit together, labels, ids or weights out of range, fewer than 2 passes.
    """
    from hasp.cut import check_csr, check_node_weight

    ptr, idx = check_csr(indptr, indices, copy=False)
    old = np.asarray(node_part)
    num_parts, passes = whole("num_parts", num_parts), whole("passes", passes)
    imbalance = number("imbalance", imbalance)
    n = ptr.size - 1
    if num_parts < 1 or passes < 2:
        raise HaspError(f"num_parts={num_parts} is at least 1 and passes={passes} at least 2; raise it")
    if old.shape != (n,) or old.dtype.kind not in "iu":
        raise HaspError(f"node_part is one whole number per node ({n}), got {old.dtype} {old.shape}; -1 stands for a new node")
    if n and (old.min() < -1 or old.max() >= num_parts):
        raise HaspError(f"node_part lies in -1..{num_parts - 1}, got {int(old.min())}..{int(old.max())}; correct it")
    if not imbalance >= 0:
        raise HaspError(f"imbalance={imbalance}: 0 or more; 0.03 is METIS's own default")
    weight = None if node_weight is None else check_node_weight(node_weight, n)
    part = old.astype(np.int32)
    fixed = part >= 0
    task = Task(ptr, idx, num_parts, weight, _edge_weight(edge_weight, idx.size), imbalance)
    load = np.zeros(num_parts, dtype=np.int64)
    np.add.at(load, part[fixed], 1 if weight is None else weight[fixed])  # bincount would add them as decimals
    _fennel(Level.of(task), fixed, task.most, passes, part, load)
    return part


def _edge_weight(edge_weight: npt.ArrayLike | None, count: int) -> Any:
    if edge_weight is None:
        return None
    weight = np.asarray(edge_weight)
    if weight.shape != (count,) or weight.dtype.kind not in "iu" or (count and weight.min() < 0):
        raise HaspError(
            f"edge_weight is one whole number >= 0 per entry of indices ({count}), got {weight.dtype} {weight.shape}; "
            "round and scale them"
        )
    return weight.astype(np.int64, copy=False) if weight.dtype != np.int32 else weight


def _fennel(level: Level, fixed: Any, most: int, passes: int, part: Int32s, load: Any) -> None:
    """Passes by Fennel's rule, in place. With gamma = 1.5, alpha = m k^0.5 / n^1.5 as in the paper."""
    n = max(level.total, 1)
    edges = level.indices.size / 2 if not level.edge_weight.size else float(level.edge_weight.sum()) / 2
    alpha = edges * load.size**0.5 / n**1.5
    for _ in range(passes):
        stream_pass(*level.arrays, fixed, alpha, most, part, load)
