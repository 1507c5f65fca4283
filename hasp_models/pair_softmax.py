"""The in-batch softmax over cosines of :class:`hasp_models.objectives.InfoNCE`, with its gradient written out.

Per step autograd would keep and walk some forty small tensors, which takes longer than the arithmetic; and the gradient of
both directions is one matrix: with S the cosines over the temperature, a softmax over rows plus one over columns, halved,
minus the identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["answers", "pair_softmax"]

_EPS = 1e-12  # as torch.nn.functional.normalize


def pair_softmax(left: Tensor, right: Tensor, pairs: Tensor, masked: Tensor, temperature: float) -> Tensor:
    """Half the cross-entropy of each pair's right end among all right ends, plus half that of its left among all left ends.

    Args:
        left: ``[n, d]``, vectors of the nodes that ``pairs[0]`` speaks of; differentiable once.
        right: ``[m, d]``, likewise for ``pairs[1]``.
        pairs: int64 ``[2, P]``.
        masked: bool ``[P, P]``: ``j`` is no wrong answer for ``i``; False on the diagonal.
        temperature: cosines are divided by it.

    Returns:
        The sum over the pairs, a scalar.
    """
    return _PairSoftmax.apply(left, right, pairs, masked, temperature)  # type: ignore[no-untyped-call, no-any-return]


class _PairSoftmax(torch.autograd.Function):
    """Autograd of :func:`pair_softmax`."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, pairs: Tensor, masked: Tensor, temperature: float) -> Any:
        a, length_a = _units(left, pairs[0])
        b, length_b = _units(right, pairs[1])
        logits = torch.mm(a, b.T).div_(temperature)
        answer = logits.diagonal().sum()
        logits.masked_fill_(masked, -torch.inf)
        of_rows, of_columns = logits.logsumexp(1, keepdim=True), logits.logsumexp(0, keepdim=True)
        ctx.save_for_backward(a, b, length_a, length_b, pairs, logits, of_rows, of_columns)
        ctx.temperature, ctx.sizes, ctx.one = temperature, (left.size(0), right.size(0)), left is right
        return (of_rows.sum() + of_columns.sum()) / 2 - answer

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> Any:
        a, b, length_a, length_b, pairs, logits, of_rows, of_columns = ctx.saved_tensors
        pull = (logits - of_rows).exp_().add_((logits - of_columns).exp_()).div_(2)
        pull.diagonal().sub_(1)
        pull.mul_(grad / ctx.temperature)
        of_left = a.new_zeros((ctx.sizes[0], a.size(1)))
        of_right = of_left if ctx.one else b.new_zeros((ctx.sizes[1], b.size(1)))
        _pull(of_left, torch.mm(pull, b), a, length_a, pairs[0])
        _pull(of_right, torch.mm(pull.T, a), b, length_b, pairs[1])
        return of_left, None if ctx.one else of_right, None, None, None


def _units(x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors of the rows ``ids``, and the lengths they had, ``[P, 1]``."""
    rows = x.index_select(0, ids)
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min_(_EPS)
    return rows.div_(length), length


def _pull(out: Tensor, grad: Tensor, unit: Tensor, length: Tensor, ids: Tensor) -> None:
    """Turn the gradient of unit vectors into that of the rows of which they were taken, and add it to these rows."""
    # A length below the clamp does not depend on the row.
    along = (unit * grad).sum(1, keepdim=True).mul_(length > _EPS)
    rows = grad.sub_(unit * along).div_(length)
    if ids.device.type == "cpu":
        out.index_add_(0, ids, rows)
    else:  # where index_add_ adds in any order; this sorts, and gives the same bits in every run
        out.index_put_((ids,), rows, accumulate=True)


def answers(links: Sequence[tuple[Tensor, Tensor]], pairs: Tensor, counts: tuple[int, int], same_type: bool) -> Tensor:
    """Which partners are no wrong answers.

    Args:
        links: ``(source [E], destination [E])`` each, rows of the batch: pairs that are linked.
        pairs: int64 ``[2, P]``, at least one.
        counts: nodes of the source's and of the destination's type.
        same_type: both ends are of one type; then a node is no wrong answer to itself.

    Returns:
        Bool ``[P, P]``: the end ``i`` of a pair and the partner ``j`` of another are linked, or are one node.
    """
    # A table over the nodes that occur, filled link by link: a search per cell takes longer than the model does.
    if pairs.device.type != "cpu":
        return answers_off_host(links, pairs, counts, same_type)
    from hasp_models.kernels import pairs as kernel

    a, b = pairs.contiguous().numpy()
    row, column = (torch.full((n,), -1, dtype=torch.int32).numpy() for n in counts)
    table = torch.zeros(kernel.number(a, row), kernel.number(b, column), dtype=torch.bool).numpy()
    for source, destination in links:
        kernel.mark(source.contiguous().numpy(), destination.contiguous().numpy(), row, column, table)
    if same_type:
        kernel.mark(a, a, row, column, table)  # only a node that stands on both sides is marked
    out = torch.empty((a.size, a.size), dtype=torch.bool)
    kernel.spread(table, a, b, row, column, out.numpy())
    return out


def answers_off_host(links: Sequence[tuple[Tensor, Tensor]], pairs: Tensor, counts: tuple[int, int], same_type: bool) -> Tensor:
    """:func:`answers` on any device."""
    device = pairs.device
    (rows, i), (columns, j) = (_places(ends, n) for ends, n in zip(pairs, counts, strict=True))
    seen = torch.zeros(int(i.max()) + 1, int(j.max()) + 1, dtype=torch.bool, device=device)
    node = torch.arange(counts[0] if same_type else 0, device=device)
    for source, destination in [*links, (node, node)]:
        r, c = rows[source.long()], columns[destination.long()]
        both = (r >= 0) & (c >= 0)
        seen[r[both], c[both]] = True
    masked = seen.index_select(0, i).index_select(1, j)
    masked.fill_diagonal_(False)  # the answer itself
    return masked


def _places(ends: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Number the nodes that occur: node -> its number or -1, int64 ``[count]``; and the number of each end, ``[P]``."""
    nodes, inverse = torch.unique(ends, return_inverse=True)
    place = ends.new_full((count,), -1)
    place[nodes] = torch.arange(nodes.numel(), device=ends.device)
    return place, inverse
