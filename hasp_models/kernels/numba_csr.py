"""Fused relation attention for CPUs: forward and backward over a CSR, on any number of threads with the same bits.

What moves is one row of width d per edge in the forward pass and three in the backward pass (four in all, six where keys
and values differ); what is kept between them is one float per edge and head. See ``attention`` for the loops.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hasp.parallel import run
from hasp_models.kernels import attention as kernel
from hasp_models.relation_csr import RelationCSR, Rows

__all__ = ["packed_attention", "relation_attention"]

Array = Any


def relation_attention(
    q: Tensor,
    k: Tensor | None,
    v: Tensor,
    rel_k: Tensor | None,
    rel_v: Tensor,
    mul: Tensor,
    add: Tensor,
    csr: RelationCSR,
    threads: int = 0,
) -> tuple[Tensor, Tensor]:
    """See :func:`hasp_models.relation_attention.relation_attention`; ``mul`` and ``add`` are ``[R, H]``."""
    return _Fused.apply(q, k, v, rel_k, rel_v, mul, add, csr, threads)  # type: ignore[no-untyped-call, no-any-return]


def packed_attention(
    qv: Tensor, rel_v: Tensor, mul: Tensor, add: Tensor, csr: RelationCSR, threads: int = 0
) -> tuple[Tensor, Tensor]:
    """The same with one head, keys that are the values, and ``[q | v]`` side by side in ``qv [num_src, 2 d]``.

    It saves the copies that slicing one matrix product into q and v costs autograd.
    """
    return _Packed.apply(qv, rel_v, mul, add, csr, threads)  # type: ignore[no-untyped-call, no-any-return]


def _rows(x: Tensor) -> tuple[Array, int]:
    """View ``x`` ``[n, H, d]`` as rows of width d: (array, ld), head h of node i being row ``i * ld + h``."""
    n, heads, d = x.shape
    regular = x.stride(2) == 1 and (heads == 1 or x.stride(1) == d) and d and x.stride(0) % d == 0 and x.stride(0) >= heads * d
    if n < 2 or not regular:
        x = x.contiguous()
        return x.reshape(n * heads, d).numpy(), heads
    ld = x.stride(0) // d
    return x.as_strided(((n - 1) * ld + heads, d), (d, 1)).numpy(), ld


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_k: Tensor,
    rel_v: Tensor,
    mul: Tensor,
    add: Tensor,
    csr: RelationCSR,
    threads: int,
) -> tuple[Tensor, Tensor]:
    """``(out [num_dst, H, dv], alpha [E, H])``."""
    heads, width = v.size(1), v.size(2)
    rows = csr.rows
    out = v.new_zeros((csr.num_dst, heads, width))
    alpha = v.new_empty((csr.num_edges, heads))
    slots = rows.slot_seg.size * heads
    kind = alpha.numpy().dtype
    slot_max, slot_sum = np.empty(slots, kind), np.empty(slots, kind)
    slot_out = np.empty((slots, width), kind)
    flat = alpha.view(-1).numpy()
    outs = out.view(-1, width).numpy()
    relations = [_rows(rel_k)[0], _rows(rel_v)[0], _vector(mul), _vector(add)]
    edges = (csr.src.numpy(), csr.rel.numpy(), heads)
    nodes = (*_rows(q), *_rows(k), *_rows(v))

    def task(block: tuple[int, int]) -> None:
        segments = (*block, rows.seg_ptr, rows.seg_row, rows.seg_slot)
        kernel.forward(*segments, *edges, *nodes, *relations, flat, outs, slot_max, slot_sum, slot_out)

    run(task, rows.blocks, threads)
    if slots:
        split = (rows.split_row, rows.split_ptr, rows.slot_seg, rows.seg_ptr, heads)
        kernel.merge_forward(*split, slot_max, slot_sum, slot_out, flat, outs)
    return out, alpha


def _backward_dst(
    saved: tuple[Tensor, ...], grad: Tensor, csr: RelationCSR, dq: Tensor, threads: int
) -> tuple[Array, Tensor, Tensor, Tensor, Tensor]:
    """Fill ``dq`` ``[num_dst, H, dk]``; return ``coef`` and the gradients of rel_k, rel_v, mul and add."""
    q, k, v, rel_k, rel_v, mul, out, alpha = saved
    heads, dk, dv = v.size(1), q.size(2), v.size(2)
    rows: Rows = csr.rows
    kind = alpha.numpy().dtype
    coef = np.empty((csr.num_edges * heads, 2), kind)
    count = len(rows.blocks)
    of_blocks = [v.new_zeros((count, csr.num_relations * heads, width)) for width in (dk, dv, 1, 1)]
    buffers = [b.numpy() for b in of_blocks]
    slot_dq = np.empty((rows.slot_seg.size * heads, dk), kind)
    of_q, q_ld = _rows(dq)
    edges = (csr.src.numpy(), csr.rel.numpy(), heads)
    nodes = (*_rows(q), *_rows(k), *_rows(v), _rows(rel_k)[0], _rows(rel_v)[0], _vector(mul))
    per_dst = (alpha.view(-1).numpy(), _rows(out)[0], _rows(grad)[0])

    def task(i: int) -> None:
        segments = (*rows.blocks[i], rows.seg_ptr, rows.seg_row, rows.seg_slot)
        sums = (buffers[0][i], buffers[1][i], buffers[2][i, :, 0], buffers[3][i, :, 0])
        kernel.backward_dst(*segments, *edges, *nodes, *per_dst, coef, of_q, q_ld, slot_dq, *sums)

    run(task, range(count), threads)
    if rows.slot_seg.size:
        kernel.merge_rows(rows.split_row, rows.split_ptr, heads, slot_dq, of_q, q_ld)
    drel_k, drel_v, dmul, dadd = (b.sum(0) for b in of_blocks)
    return coef, drel_k.view(-1, heads, dk), drel_v.view(-1, heads, dv), dmul.view(-1, heads), dadd.view(-1, heads)


def _backward_src(q: Tensor, grad: Tensor, coef: Array, csr: RelationCSR, dk: Tensor | None, dv: Tensor, threads: int) -> None:
    """Fill ``dv`` ``[num_src, H, dv]`` and, unless keys are the values, ``dk``."""
    heads = grad.size(1)
    rows = csr.transposed_rows
    _, t_dst, t_edge = csr.transposed
    shared = (t_dst.numpy(), t_edge.numpy(), heads, *_rows(q), _rows(grad)[0], coef)
    slots = rows.slot_seg.size * heads
    slot_dv = np.empty((slots, dv.size(2)), coef.dtype)
    of_v, v_ld = _rows(dv)
    split = (rows.split_row, rows.split_ptr, heads)
    if dk is None:

        def task(block: tuple[int, int]) -> None:
            segments = (*block, rows.seg_ptr, rows.seg_row, rows.seg_slot)
            kernel.backward_src_tied(*segments, *shared, of_v, v_ld, slot_dv)
    else:
        slot_dk = np.empty((slots, dk.size(2)), coef.dtype)
        of_k = _rows(dk)[0]

        def task(block: tuple[int, int]) -> None:
            segments = (*block, rows.seg_ptr, rows.seg_row, rows.seg_slot)
            kernel.backward_src(*segments, *shared, of_k, slot_dk, of_v, slot_dv)

    run(task, rows.blocks, threads)
    if slots:
        kernel.merge_rows(*split, slot_dv, of_v, v_ld)
        if dk is not None:
            kernel.merge_rows(*split, slot_dk, of_k, heads)


def _vector(x: Tensor) -> Array:
    return x.contiguous().view(-1).numpy()


class _Fused(torch.autograd.Function):
    """Autograd of :func:`relation_attention`. ``alpha`` carries no gradient."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor | None, v: Tensor, rel_k: Tensor | None, rel_v: Tensor, *rest: Any) -> Any:
        mul, add, csr, threads = rest
        keys, rel_keys = (v if k is None else k), (rel_v if rel_k is None else rel_k)
        out, alpha = _forward(q.detach(), keys, v, rel_keys, rel_v, mul, add, csr, threads)
        ctx.save_for_backward(q, k, v, rel_k, rel_v, mul, out, alpha)
        ctx.csr, ctx.threads = csr, threads
        ctx.mark_non_differentiable(alpha)
        return out, alpha

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> Any:
        q, k, v, rel_k, rel_v, mul, out, alpha = ctx.saved_tensors
        csr, threads = ctx.csr, ctx.threads
        grad = grad.contiguous()
        keys, rel_keys = (v if k is None else k), (rel_v if rel_k is None else rel_k)
        dq = torch.zeros_like(q, memory_format=torch.contiguous_format)
        saved = (q, keys, v, rel_keys, rel_v, mul, out, alpha)
        coef, drel_k, drel_v, dmul, dadd = _backward_dst(saved, grad, csr, dq, threads)
        dk = dv = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            dv = torch.zeros_like(v, memory_format=torch.contiguous_format)
            dk = None if k is None else torch.zeros_like(k, memory_format=torch.contiguous_format)
            _backward_src(q, grad, coef, csr, dk, dv, threads)
        if rel_k is None:
            return dq, dk, dv, None, drel_k + drel_v, dmul, dadd, None, None
        return dq, dk, dv, drel_k, drel_v, dmul, dadd, None, None


class _Packed(torch.autograd.Function):
    """Autograd of :func:`packed_attention`."""

    @staticmethod
    def forward(ctx: Any, qv: Tensor, rel_v: Tensor, mul: Tensor, add: Tensor, csr: RelationCSR, threads: int) -> Any:
        q, v = (half[:, None] for half in qv.chunk(2, dim=1))
        r = rel_v[:, None]
        out, alpha = _forward(q[: csr.num_dst], v, v, r, r, mul, add, csr, threads)
        ctx.save_for_backward(qv, rel_v, mul, out, alpha)
        ctx.csr, ctx.threads = csr, threads
        ctx.mark_non_differentiable(alpha)
        return out.squeeze(1), alpha

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> Any:
        qv, rel_v, mul, out, alpha = ctx.saved_tensors
        csr, threads = ctx.csr, ctx.threads
        q, v = (half[:, None] for half in qv.chunk(2, dim=1))
        r = rel_v[:, None]
        grad = grad.contiguous()[:, None]
        dqv = torch.zeros_like(qv)
        dq, dv = (half[:, None] for half in dqv.chunk(2, dim=1))
        saved = (q[: csr.num_dst], v, v, r, r, mul, out, alpha)
        coef, drel_k, drel_v, dmul, dadd = _backward_dst(saved, grad, csr, dq[: csr.num_dst], threads)
        _backward_src(q, grad, coef, csr, None, dv, threads)
        return dqv, (drel_k + drel_v).squeeze(1), dmul, dadd, None, None
