"""Gradients of tables with a row per entity, row by row: sent as rows, and applied to rows.

A step touches the entities of its parts only, so of a table's gradient almost every row is zero. Summing the whole of it
over the ranks sends the table every step; gathering the rows that somebody touched sends each row once per epoch, because
an entity is in one part and a part in one step. Keeping rows with an owner instead, and handing them over where parts
change their rank between epochs, would send each row once per epoch as well, with two moments of Adam beside it, and every
rank would still need all rows to validate and to save. So rows are gathered, every rank has the whole table, and the result
is that of one process, whichever objective made the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hasp_models.distributed.ranks import Ranks

__all__ = ["LazyAdamW", "RowGradient", "exchange_rows", "touched_rows"]


class RowGradient(NamedTuple):
    """The rows of a table's gradient that are not zero.

    Attributes:
        ids: int64 ``[m]``, ascending, distinct.
        values: ``[m, d]``.
    """

    ids: Tensor
    values: Tensor


def touched_rows(grad: Tensor | None, table: Tensor) -> RowGradient:
    """The rows of a gradient in which any number is not zero (a NaN is not), or that a sparse gradient names.

    Args:
        grad: ``[N, d]``, dense or sparse (``torch.nn.functional.embedding(..., sparse=True)``), or none at all.
        table: ``[N, d]``, for dtype and device.
    """
    if grad is None:
        return RowGradient(torch.empty(0, dtype=torch.long, device=table.device), table.new_empty((0, table.size(1))))
    if grad.is_sparse:
        grad = grad.coalesce()
        index, values = grad.indices()[0], grad.values()
    else:
        index, values = torch.arange(table.size(0), device=table.device), grad
    keep = (values != 0).any(dim=1).nonzero()[:, 0]
    return RowGradient(index[keep], values[keep])


def exchange_rows(ranks: Ranks, doing: str, mine: RowGradient) -> RowGradient:
    """The sum over all ranks of their rows.

    Sends ``max(m) * (4 d + 8)`` bytes per rank, where a dense sum sends ``4 d N``. Rows that one rank alone touched (those
    of entities, always) are what they were, to the bit.

    Args:
        ranks: who takes part.
        doing: for the error of a broken group.
        mine: of this rank.
    """
    if ranks.size == 1:
        return mine
    counts = [int(n) for n in ranks.gather(doing, torch.tensor([mine.ids.numel()]))]
    most = max(counts)
    if not most:
        return mine
    index, values = mine.ids.new_zeros(most), mine.values.new_zeros((most, mine.values.size(1)))
    index[: counts[ranks.rank]], values[: counts[ranks.rank]] = mine.ids, mine.values
    indices, rows = ranks.gather(doing, index, False), ranks.gather(doing, values, False)
    index = torch.cat([i[:n] for i, n in zip(indices, counts, strict=True)])
    values = torch.cat([r[:n] for r, n in zip(rows, counts, strict=True)])
    distinct, place = torch.unique(index, return_inverse=True)
    return RowGradient(distinct, values.new_zeros((distinct.numel(), values.size(1))).index_add_(0, place, values))


class LazyAdamW(torch.optim.AdamW):
    """AdamW of which some tables move row by row: a row without gradient stays what it is, to the bit.

    Plain AdamW also moves rows that got no gradient: by their momentum, and by weight decay. With parts, that is almost
    every row in almost every step. Here moments, decay and the count of steps that corrects their bias are a row's own, so
    a row that gets a gradient in every step moves as in AdamW.

    Args:
        parameters: all, the tables included.
        tables: those of them that move by :meth:`move_rows`; :meth:`step` leaves them alone, as they have no ``grad``.
        lr: as of AdamW.
        weight_decay: as of AdamW.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], tables: Sequence[nn.Parameter], lr: float, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, lr=lr, weight_decay=weight_decay)
        self.tables = list(tables)

    @torch.no_grad()
    def move_rows(self, table: nn.Parameter, gradient: RowGradient) -> None:
        """One step of the rows of a table, given their gradient."""
        group: dict[str, Any] = self.param_groups[0]
        (beta1, beta2), lr, index = group["betas"], group["lr"], gradient.ids
        state = self.state[table]
        if not state:
            state["step"] = torch.zeros(table.size(0), dtype=torch.float32, device=table.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
        step = state["step"][index] + 1
        mean = state["exp_avg"][index].lerp_(gradient.values, 1 - beta1)
        square = state["exp_avg_sq"][index].mul_(beta2).addcmul_(gradient.values, gradient.values, value=1 - beta2)
        state["step"][index], state["exp_avg"][index], state["exp_avg_sq"][index] = step, mean, square
        # [m] -> [m, 1]
        one, two = ((1 - beta ** step.double()).to(table.dtype)[:, None] for beta in (beta1, beta2))
        move = lr * (mean / one) / ((square / two).sqrt_() + group["eps"])
        table[index] = table[index] * (1 - lr * group["weight_decay"]) - move
