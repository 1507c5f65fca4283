"""Cross-entropy of some rows' softmax over all rows against given targets, with its gradient written out.

Between a thousand queries and ten thousand others, autograd would write and read twenty matrices of all pairs. Here a few
queries at a time go from cosines to their gradient while both are in the cache, and nothing of that size is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["Targets", "target_softmax"]

Targets = Callable[[int, int], tuple[Tensor, Tensor]]
"""``(start, stop)`` of the queries -> their targets ``[stop - start, n]``, 0 and more, and bool: no answer at all."""

_EPS = 1e-12  # as torch.nn.functional.normalize
_CELLS = 1 << 20
"""Pairs at a time: some matrices of them stay in a cache of 32 MB."""


def target_softmax(rows: Tensor, queries: Tensor, targets: Targets, temperature: float) -> Tensor:
    """``-sum_ij q_ij log(exp(s_ij) / sum_k exp(s_ik))`` over queries i and rows j, s = cosine / temperature.

    Args:
        rows: ``[n, d]``; differentiable once.
        queries: int64 ``[m]``, each at most once. A row is no answer to itself.
        targets: q, asked once for each query. What is no answer is no k, and its q counts as 0.
        temperature: cosines are divided by it.

    Returns:
        The sum, a scalar.
    """
    return _TargetSoftmax.apply(rows, queries, targets, temperature)  # type: ignore[no-untyped-call, no-any-return]


class _TargetSoftmax(torch.autograd.Function):
    """Autograd of :func:`target_softmax`: the gradient is made on the way there, while the softmax is at hand."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, queries: Tensor, targets: Targets, temperature: float) -> Any:
        length = torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min_(_EPS)
        units = rows / length
        loss, grad = units.new_zeros((), dtype=torch.float64), torch.zeros_like(units)
        step = max(1, _CELLS // max(units.size(0), 1))
        for start in range(0, queries.numel(), step):
            some = queries[start : start + step]
            q, hidden = targets(start, start + some.numel())
            hidden = hidden.scatter(1, some[:, None], True)
            q = q.to(units.dtype).masked_fill(hidden, 0.0)
            mass = q.sum(1, keepdim=True)
            asked = units.index_select(0, some)
            pull = torch.mm(asked, units.T).div_(temperature)
            loss -= (q * pull).sum(dtype=torch.float64)
            pull.masked_fill_(hidden, -torch.inf)
            whole = pull.logsumexp(1, keepdim=True).clamp_min(torch.finfo(units.dtype).min)  # where nothing is an answer
            loss += (mass * whole).sum(dtype=torch.float64)
            # The gradient of the cosines: p_ij sum_k q_ik - q_ij, over the temperature.
            pull.sub_(whole).exp_().mul_(mass).sub_(q).div_(temperature)
            grad.addmm_(pull.T, asked)
            grad.index_add_(0, some, torch.mm(pull, units))
        # From unit vectors to rows; a length below the clamp does not depend on its row.
        along = torch.linalg.vecdot(units, grad).mul_(length[:, 0] > _EPS)
        ctx.save_for_backward(grad.addcmul_(units, along[:, None], value=-1).div_(length))
        return loss.to(units.dtype)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> Any:
        (mine,) = ctx.saved_tensors
        return mine * grad, None, None, None
