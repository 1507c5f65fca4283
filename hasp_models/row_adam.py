"""The steps of TransE over NumPy tables: Eq. 2 and its optimizer in one, a few passes over the rows that a step touches."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hasp.parallel import blocks, run
from hasp_models.kernels import transe as kernels

__all__ = ["RowAdam"]

Table = npt.NDArray[Any]
_BLOCK = 256  # facts, or nodes, in one go
_WIDE = 1 << 17  # numbers per table of facts; below, a further thread costs more than it does


class RowAdam:
    """TransE's steps: Eq. 2, and Adam that moves only the rows of a step (the rule of ``torch.optim.SparseAdam``).

    A dense Adam keeps moving rows that got no gradient. Nodes have length 1 after each step.

    Args:
        nodes: float ``[N, d]``, is changed.
        relations: float ``[R, d]``, is changed.
        lr: of Adam.
        margin: gamma.
        p: the norm, 1 or 2.
        threads: see :func:`hasp.parallel.run`; narrow steps are one thread's work. Never changes the result.
    """

    def __init__(self, nodes: Table, relations: Table, *, lr: float, margin: float, p: int, threads: int = 0) -> None:
        self.nodes, self.relations, self.lr, self.margin, self.p, self.threads = nodes, relations, lr, margin, p, threads
        self._moments = [np.zeros_like(x) for x in (nodes, nodes, relations, relations)]
        self._place = [np.full(len(x), -1, dtype=np.int64) for x in (nodes, relations)]
        self._slope, self._groups = np.empty((2, 0, 0), nodes.dtype), [_groups(0), _groups(0)]
        self.steps = 0

    def step(self, ends: npt.NDArray[np.int64], kind: npt.NDArray[np.int64], weight: Table) -> float:
        """One step; gives the summed loss.

        Args:
            ends: ``[4, B]``: head, tail, corrupted head, corrupted tail.
            kind: ``[B]``, the relations.
            weight: float ``[B]`` of each pair of fact and negative.
        """
        count, (dim, real) = kind.size, (self.nodes.shape[1], self.nodes.dtype.type)
        if self._slope.shape[1] != count:
            self._slope, self._groups = np.empty((2, count, dim), self.nodes.dtype), [_groups(4 * count), _groups(count)]
        ends, loss = np.ascontiguousarray(ends), np.empty(count, self.nodes.dtype)
        threads = self.threads if count * dim >= _WIDE else 1
        given = (self.nodes, self.relations, ends, kind, weight.astype(self.nodes.dtype, copy=False), real(self.margin), self.p)
        run(lambda b: kernels.distances(*given, *b, self._slope, loss), blocks(count, _BLOCK), threads)
        self.steps += 1
        size = real(self.lr * np.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps))
        (nodes, relations), (first, second, first_, second_) = self._groups, self._moments
        found = kernels.group(ends.reshape(-1), self._place[0], *nodes)
        after = (self._slope, loss, size)
        run(lambda b: kernels.move_nodes(self.nodes, first, second, *nodes, *b, *after), blocks(found, 2 * _BLOCK), threads)
        found = kernels.group(kind, self._place[1], *relations)
        kernels.move_relations(self.relations, first_, second_, *relations, found, *after)
        return float(loss.sum(dtype=np.float64))


def _groups(ids: int) -> tuple[Any, Any, Any]:
    """Memory of :func:`hasp_models.kernels.transe.group`: rows, where their members begin, members."""
    return np.empty(ids, np.int64), np.empty(ids + 1, np.int64), np.empty(ids, np.int64)
