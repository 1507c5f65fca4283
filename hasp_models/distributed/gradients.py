"""The gradient of one step, from what each rank has to what moves the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hasp_models.distributed.ranks import Ranks
from hasp_models.distributed.rows import LazyAdamW, RowGradient, exchange_rows, touched_rows

__all__ = ["Gradients", "entity_tables"]


def entity_tables(model: nn.Module) -> list[nn.Parameter]:
    """The tables of a model that have a row per entity: the free vectors of a :class:`hasp_models.SemanticGNN`."""
    from hasp_models.semantic_gnn import NodeInputs

    inputs = [m for m in model.modules() if isinstance(m, NodeInputs)]
    return [m.own[t] for m in inputs for t in m.free if m.own[t].requires_grad]


class Gradients:
    """Sums gradients over ranks, divides them by the step's weight, clips them, and takes the step.

    In three calls, because only the one in the middle is a collective: what may fail comes before or after it.

    Args:
        optimizer: of the parameters; a :class:`LazyAdamW` moves its tables row by row.
        parameters: all that are trained.
        tables: those of them with a row per entity; of these, only touched rows are sent.
        ranks: who takes part.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[nn.Parameter],
        tables: Sequence[nn.Parameter],
        ranks: Ranks,
    ) -> None:
        self.optimizer, self.ranks = optimizer, ranks
        self.by_row = list(tables) if ranks.size > 1 or isinstance(optimizer, LazyAdamW) else []
        rows = {id(p) for p in self.by_row}
        self.dense = [p for p in parameters if id(p) not in rows]
        self._sums: list[Tensor] = []
        self._rows: list[RowGradient] = []

    def collect(self) -> None:
        """Bring this rank's gradients into the form in which they are summed: one flat tensor per dtype, and rows."""
        for p in self.dense:  # one without gradient gets zeros, at any world size
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        self._rows = [touched_rows(p.grad, p) for p in self.by_row]
        if self.ranks.size == 1:
            self._sums = [p.grad for p in self.dense if p.grad is not None]
            return
        self._sums = []
        for kind in dict.fromkeys(p.dtype for p in self.dense):
            some = [p for p in self.dense if p.dtype == kind]
            flat = torch.cat([p.grad.reshape(-1) for p in some if p.grad is not None])
            for p, view in zip(some, torch.split(flat, [p.numel() for p in some]), strict=True):
                p.grad = view.view_as(p)
            self._sums.append(flat)

    def exchange(self) -> None:
        """Sum over all ranks."""
        self.ranks.add_up("summing gradients", self._sums)
        self._rows = [exchange_rows(self.ranks, "gathering rows", rows) for rows in self._rows]

    def move(self, weight: float, clip: float | None) -> None:
        """Divide by the step's weight, clip to a norm, move the weights. A step of weight 0 moves nothing, on any rank."""
        if not weight:
            return
        values = [*self._sums, *(rows.values for rows in self._rows)]
        for value in values:
            value.div_(weight)
        if clip is not None:
            norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(v) for v in values]))
            for value in values:
                value.mul_(torch.clamp(clip / (norm + 1e-6), max=1.0))
        for p, rows in zip(self.by_row, self._rows, strict=True):
            if isinstance(self.optimizer, LazyAdamW):
                p.grad = None
                self.optimizer.move_rows(p, rows)
            else:
                p.grad = torch.zeros_like(p) if p.grad is None or p.grad.is_sparse else p.grad
                p.grad[rows.ids] = rows.values  # what this rank has is among them
        self.optimizer.step()
