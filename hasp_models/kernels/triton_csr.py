"""Fused relation attention for GPUs: forward and backward over a CSR by Triton kernels, with the same bits in every run.

What moves is one row of width d per edge in the forward pass and three in the backward pass; what is kept between them is
two numbers per edge and head. The kernels are in ``attention_triton``; this file cuts rows into segments, adds up the rows that
have several, and makes the gradients of the relations from sums per (destination, relation), of which each is written once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hasp_models.relation_csr import RelationCSR, Rows

__all__ = ["relation_attention"]

_TILE = 4096  # numbers of one row block that a program holds: edges at a time, times the width
_EDGES = 32


def relation_attention(
    q: Tensor,
    k: Tensor | None,
    v: Tensor,
    rel_k: Tensor | None,
    rel_v: Tensor,
    mul: Tensor,
    add: Tensor,
    csr: RelationCSR,
) -> tuple[Tensor, Tensor]:
    """See :func:`hasp_models.relation_attention.relation_attention`; ``mul`` and ``add`` are ``[R, H]``."""
    return _Fused.apply(q, k, v, rel_k, rel_v, mul, add, csr)  # type: ignore[no-untyped-call, no-any-return]


class _Cut:
    """The segments of a CSR's rows on its device."""

    def __init__(self, rows: Rows, device: torch.device) -> None:
        names = ("seg_ptr", "seg_row", "seg_out", "split_row", "split_ptr", "slot_seg")
        moved = (torch.from_numpy(getattr(rows, name)).to(device) for name in names)
        self.ptr, self.row, self.out, self.split_row, self.split_ptr, self.slot = moved
        self.count, self.slots = rows.seg_row.size, rows.slot_seg.size

    def sums(self, parts: Tensor) -> Tensor:
        """``[slots, ...]`` added up per split row, in their order."""
        return _segment(parts, "sum", self.split_ptr)


def _cut(csr: RelationCSR, transposed: bool) -> _Cut:
    """Made once per CSR and kept with it, as its other work units are."""
    name = "_triton_transposed" if transposed else "_triton_rows"
    if name not in csr.__dict__:
        csr.__dict__[name] = _Cut(csr.transposed_rows if transposed else csr.rows, csr.src.device)
    return csr.__dict__[name]  # type: ignore[no-any-return]


def _segment(values: Tensor, how: str, ptr: Tensor) -> Tensor:
    if ptr.numel() == 1:
        return values[:0]
    flat = values.reshape(values.size(0), -1)
    return torch.segment_reduce(flat, how, offsets=ptr, axis=0).view(ptr.numel() - 1, *values.shape[1:])


def _shape(keys: Tensor, values: Tensor, tied: bool) -> dict[str, Any]:
    wide, tall = (1 << max(0, x.size(2) - 1).bit_length() for x in (keys, values))
    edges = max(1, min(_EDGES, _TILE // max(wide, tall)))
    return {"HEADS": values.size(1), "DK": keys.size(2), "DV": values.size(2), "WK": wide, "WV": tall, "EDGES": edges,
            "TIED": tied}  # fmt: skip


def _forward(
    q: Tensor, k: Tensor, v: Tensor, rel_k: Tensor, rel_v: Tensor, mul: Tensor, add: Tensor, csr: RelationCSR, tied: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """``(out [num_dst, H, dv], alpha [E, H], raw [E, H])``."""
    from hasp_models.kernels import attention_triton as kernel

    cut, heads, n = _cut(csr, False), v.size(1), csr.num_dst
    raw, alpha = v.new_empty((2, csr.num_edges, heads)).unbind(0)
    out = v.new_zeros((n + cut.slots, heads, v.size(2)))
    top, total = v.new_empty((2, cut.count, heads)).unbind(0)
    if cut.count:
        arrays = (csr.src, csr.rel, q, k, v, rel_k, rel_v, mul, add, raw, alpha, out, top, total)
        kernel.forward[(cut.count * heads,)](cut.ptr, cut.row, cut.out, *arrays, **_shape(k, v, tied))
    # Maximum and sum of each row: those of its segment, or of its segments together.
    row_top, row_total = v.new_zeros((n, heads)), v.new_ones((n, heads))
    whole = (cut.out < n).nonzero()[:, 0]
    row_top[cut.row[whole]], row_total[cut.row[whole]] = top[whole], total[whole]
    if cut.slots:
        highest = _segment(top[cut.slot], "max", cut.split_ptr)
        at = torch.repeat_interleave(cut.split_ptr.diff(), output_size=cut.slots)
        weight = total[cut.slot] * (top[cut.slot] - highest[at]).exp()
        sums = cut.sums(weight)
        row_top[cut.split_row], row_total[cut.split_row] = highest, sums
        out[cut.split_row] = cut.sums(out[n:] * (weight / sums[at])[:, :, None])
    alpha.sub_(row_top[csr.row]).exp_().div_(row_total[csr.row])
    return out[:n], alpha, raw


def _by_relation(csr: RelationCSR, values: Tensor) -> Tensor:
    """``[E, ...]`` added up per (relation, destination): ``[R, num_dst, ...]``. Edges of one pair stand side by side."""
    pair = csr.rel.long() * csr.num_dst + csr.row
    found, counts = torch.unique_consecutive(pair, return_counts=True)
    ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    out = values.new_zeros((csr.num_relations * csr.num_dst, *values.shape[1:]))
    out[found] = _segment(values, "sum", ptr)
    return out.view(csr.num_relations, csr.num_dst, *values.shape[1:])


class _Fused(torch.autograd.Function):
    """Autograd of :func:`relation_attention`. ``alpha`` carries no gradient."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor | None, v: Tensor, rel_k: Tensor | None, rel_v: Tensor, *rest: Any) -> Any:
        mul, add, csr = rest
        q, v, rel_v, mul, add = (x.contiguous() for x in (q, v, rel_v, mul, add))
        keys, rel_keys = (v if k is None else k.contiguous()), (rel_v if rel_k is None else rel_k.contiguous())
        out, alpha, raw = _forward(q, keys, v, rel_keys, rel_v, mul, add, csr, k is None)
        ctx.save_for_backward(
            q, None if k is None else keys, v, None if rel_k is None else rel_keys, rel_v, mul, out, alpha, raw
        )
        ctx.csr = csr
        ctx.mark_non_differentiable(alpha)
        return out, alpha

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> Any:
        from hasp_models.kernels import attention_triton as kernel

        q, k, v, rel_k, rel_v, mul, out, alpha, raw = ctx.saved_tensors
        csr, tied, heads = ctx.csr, k is None, v.size(1)
        grad = grad.contiguous()
        keys, rel_keys = (v if tied else k), (rel_v if tied else rel_k)
        shape, cut = _shape(keys, v, tied), _cut(csr, False)
        pull = torch.zeros_like(alpha)
        dq = q.new_zeros((csr.num_dst + cut.slots, heads, q.size(2)))
        if cut.count:
            arrays = (csr.src, csr.rel, keys, v, rel_keys, rel_v, mul, alpha, out, grad, pull, dq)
            kernel.backward_dst[(cut.count * heads,)](cut.ptr, cut.row, cut.out, *arrays, **shape)
        if cut.slots:
            dq[cut.split_row] = cut.sums(dq[csr.num_dst :])
        dk = dv = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            dk, dv = _of_sources(q, keys, v, mul, alpha, grad, pull, csr, shape)
        # Three sums per (relation, destination) are all that the relations' gradients need.
        of_alpha, of_pull, of_raw = _by_relation(csr, torch.stack([alpha, pull, pull * raw], 1)).unbind(2)
        drel_k = torch.einsum("rnh,nhd->rhd", of_pull * mul[:, None], q)
        drel_v = torch.einsum("rnh,nhd->rhd", of_alpha, grad)
        dmul, dadd = of_raw.sum(1), of_pull.sum(1)
        if tied:
            return dq[: csr.num_dst], None, dv, None, drel_k + drel_v, dmul, dadd, None
        return dq[: csr.num_dst], dk, dv, drel_k, drel_v, dmul, dadd, None


def _of_sources(
    q: Tensor, keys: Tensor, v: Tensor, mul: Tensor, alpha: Tensor, grad: Tensor, pull: Tensor, csr: RelationCSR, shape: Any
) -> tuple[Tensor | None, Tensor]:
    """The gradients of keys (``None`` where they are the values) and of values."""
    from hasp_models.kernels import attention_triton as kernel

    cut, heads, n = _cut(csr, True), v.size(1), csr.num_src
    _, dst, edge = csr.transposed
    dv = v.new_zeros((n + cut.slots, heads, v.size(2)))
    dk = dv if shape["TIED"] else v.new_zeros((n + cut.slots, heads, keys.size(2)))
    if cut.count:
        arrays = (dst, edge, csr.rel, q, mul, alpha, grad, pull, dk, dv)
        kernel.backward_src[(cut.count * heads,)](cut.ptr, cut.out, *arrays, **shape)
    for made in (dv,) if shape["TIED"] else (dk, dv):
        if cut.slots:
            made[cut.split_row] = cut.sums(made[n:])
    return (None if shape["TIED"] else dk[:n]), dv[:n]
