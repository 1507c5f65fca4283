"""Fused relation attention for CPUs: forward and backward over a CSR, on any number of threads with the same bits.

What moves is one row of width d per edge in the forward pass and three in the backward pass (four in all, six where keys
and values differ); what is kept between them is two floats per edge and head. See ``attention`` for the loops.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hasp.parallel import run
from hasp_models.kernels import attention as kernel
from hasp_models.kernels import attention_sources as by_source
from hasp_models.relation_csr import RelationCSR, Rows

__all__ = ["packed_attention", "relation_attention"]

Array = Any

_FEW = 3 << 21
"""Edges times width below which one thread does it all: a second one saves a millisecond or two at best, and in training,
where torch's own threads want the cores as well, it costs more. Measured on two cores, a step over 65,000 edges of width 64:
47 to 53 ms with it, 27 to 31 without; over 130,000 edges: 70 to 76 with it, 83 to 92 without."""


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


def _empty(csr_rows: Rows, n: int, heads: int, width: int, like: Tensor) -> Tensor:
    """``[n + slots, heads, width]``: rows without edges are zero, all others are written by a kernel."""
    x = like.new_empty((n + csr_rows.slot_seg.size, heads, width))
    _clear(x, csr_rows)
    return x


def _clear(x: Tensor, csr_rows: Rows) -> None:
    """Zero the rows without edges, which no kernel writes."""
    if csr_rows.empty.size:
        x.index_fill_(0, torch.from_numpy(csr_rows.empty), 0)


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
) -> tuple[Tensor, Tensor, Tensor]:
    """``(out [num_dst, H, dv], alpha [E, H], raw [E * H])``."""
    heads, width = v.size(1), v.size(2)
    rows = csr.rows
    out = _empty(rows, csr.num_dst, heads, width, v)
    alpha = v.new_empty((csr.num_edges, heads))
    raw = v.new_empty(csr.num_edges * heads)
    flat = alpha.view(-1).numpy()
    of_segments = np.empty((2, rows.seg_row.size * heads if rows.slot_seg.size else 0), flat.dtype)
    outs = out.view(-1, width).numpy()
    relations = (_rows(rel_k)[0], _rows(rel_v)[0], _vector(mul), _vector(add))
    edges = (csr.src.numpy(), csr.rel.numpy(), heads)
    nodes = (*_rows(q), *_rows(k), *_rows(v))

    def task(block: tuple[int, int]) -> None:
        segments = (*block, rows.seg_ptr, rows.seg_row, rows.seg_out)
        kernel.forward(*segments, *edges, *nodes, *relations, raw.numpy(), flat, outs, of_segments[0], of_segments[1])

    run(task, rows.blocks, threads)
    if rows.slot_seg.size:
        split = (rows.split_row, rows.split_ptr, rows.slot_seg, rows.seg_ptr, csr.num_dst, heads)
        kernel.merge_forward(*split, of_segments[0], of_segments[1], flat, outs)
    return out[: csr.num_dst], alpha, raw


def _backward_dst(
    saved: tuple[Tensor, ...], grad: Tensor, csr: RelationCSR, dq: Tensor, threads: int
) -> tuple[Array, Tensor, Tensor, Tensor, Tensor]:
    """Fill ``dq`` ``[num_dst + slots, H, dk]``; return ``pull [E * H]`` and the gradients of rel_k, rel_v, mul and add."""
    q, k, v, rel_k, rel_v, mul, out, alpha, raw = saved
    heads, dk, dv = v.size(1), q.size(2), v.size(2)
    rows: Rows = csr.rows
    pull = np.empty(csr.num_edges * heads, alpha.numpy().dtype)
    count = len(rows.blocks)
    of_blocks = [v.new_zeros((count, csr.num_relations * heads, width)) for width in (dk, dv, 1, 1)]
    buffers = [b.numpy() for b in of_blocks]
    of_q, q_ld = _rows(dq)
    edges = (csr.src.numpy(), csr.rel.numpy(), heads)
    nodes = (*_rows(q), *_rows(k), *_rows(v), _rows(rel_k)[0], _rows(rel_v)[0], _vector(mul))
    per_dst = (raw.numpy(), alpha.view(-1).numpy(), _rows(out)[0], _rows(grad)[0])

    def task(i: int) -> None:
        segments = (*rows.blocks[i], rows.seg_ptr, rows.seg_row, rows.seg_out)
        sums = (buffers[0][i], buffers[1][i], buffers[2][i, :, 0], buffers[3][i, :, 0])
        kernel.backward_dst(*segments, *edges, *nodes, *per_dst, pull, of_q, q_ld, *sums)

    run(task, range(count), threads)
    by_source.merge_rows(rows.split_row, rows.split_ptr, csr.num_dst, heads, of_q, q_ld)
    drel_k, drel_v, dmul, dadd = (b.sum(0) for b in of_blocks)
    return pull, drel_k.view(-1, heads, dk), drel_v.view(-1, heads, dv), dmul.view(-1, heads), dadd.view(-1, heads)


def _backward_src(
    q: Tensor, grad: Tensor, alpha: Tensor, pull: Array, csr: RelationCSR, dk: Tensor | None, dv: Tensor, threads: int
) -> None:
    """Fill ``dv`` ``[num_src + slots, H, dv]`` and, unless keys are the values, ``dk``."""
    heads = grad.size(1)
    rows = csr.transposed_rows
    _, t_dst, t_edge = csr.transposed
    shared = (t_dst.numpy(), t_edge.numpy(), heads, *_rows(q), _rows(grad)[0], alpha.view(-1).numpy(), pull)
    of_v, v_ld = _rows(dv)
    of_k = None if dk is None else _rows(dk)[0]

    def task(block: tuple[int, int]) -> None:
        segments = (*block, rows.seg_ptr, rows.seg_out)
        if of_k is None:
            by_source.backward_src_tied(*segments, *shared, of_v, v_ld)
        else:
            by_source.backward_src(*segments, *shared, of_k, of_v)

    run(task, rows.blocks, threads)
    by_source.merge_rows(rows.split_row, rows.split_ptr, csr.num_src, heads, of_v, v_ld)
    if of_k is not None:
        by_source.merge_rows(rows.split_row, rows.split_ptr, csr.num_src, heads, of_k, heads)


def _threads(csr: RelationCSR, v: Tensor, threads: int) -> int:
    """How many threads are worth it."""
    return 1 if csr.num_edges * v.size(1) * v.size(2) < _FEW else threads or torch.get_num_threads()


def _vector(x: Tensor) -> Array:
    return x.contiguous().view(-1).numpy()


class _Fused(torch.autograd.Function):
    """Autograd of :func:`relation_attention`. ``alpha`` carries no gradient."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor | None, v: Tensor, rel_k: Tensor | None, rel_v: Tensor, *rest: Any) -> Any:
        mul, add, csr, threads = rest
        threads = _threads(csr, v, threads)
        keys, rel_keys = (v if k is None else k), (rel_v if rel_k is None else rel_k)
        out, alpha, raw = _forward(q.detach(), keys, v, rel_keys, rel_v, mul, add, csr, threads)
        ctx.save_for_backward(q, k, v, rel_k, rel_v, mul, out, alpha, raw)
        ctx.csr, ctx.threads = csr, threads
        ctx.mark_non_differentiable(alpha)
        return out, alpha

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> Any:
        q, k, v, rel_k, rel_v, mul, out, alpha, raw = ctx.saved_tensors
        csr, threads = ctx.csr, ctx.threads
        grad = grad.contiguous()
        keys, rel_keys = (v if k is None else k), (rel_v if rel_k is None else rel_k)
        heads = q.size(1)
        dq = _empty(csr.rows, q.size(0), heads, q.size(2), q)
        saved = (q, keys, v, rel_keys, rel_v, mul, out, alpha, raw)
        pull, drel_k, drel_v, dmul, dadd = _backward_dst(saved, grad, csr, dq, threads)
        dk = dv = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            dv = _empty(csr.transposed_rows, v.size(0), heads, v.size(2), v)
            dk = None if k is None else _empty(csr.transposed_rows, v.size(0), heads, k.size(2), v)
            _backward_src(q, grad, alpha, pull, csr, dk, dv, threads)
            dv, dk = dv[: v.size(0)], (None if dk is None else dk[: v.size(0)])
        dq = dq[: q.size(0)]
        if rel_k is None:
            return dq, dk, dv, None, drel_k + drel_v, dmul, dadd, None, None
        return dq, dk, dv, drel_k, drel_v, dmul, dadd, None, None


class _Packed(torch.autograd.Function):
    """Autograd of :func:`packed_attention`."""

    @staticmethod
    def forward(ctx: Any, qv: Tensor, rel_v: Tensor, mul: Tensor, add: Tensor, csr: RelationCSR, threads: int) -> Any:
        q, v = (half[:, None] for half in qv.chunk(2, dim=1))
        threads = _threads(csr, v, threads)
        r = rel_v[:, None]
        out, alpha, raw = _forward(q[: csr.num_dst], v, v, r, r, mul, add, csr, threads)
        ctx.save_for_backward(qv, rel_v, mul, out, alpha, raw)
        ctx.csr, ctx.threads = csr, threads
        ctx.mark_non_differentiable(alpha)
        return out.squeeze(1), alpha

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> Any:
        qv, rel_v, mul, out, alpha, raw = ctx.saved_tensors
        csr, threads = ctx.csr, ctx.threads
        q, v = (half[:, None] for half in qv.chunk(2, dim=1))
        r = rel_v[:, None]
        grad = grad.contiguous()[:, None]
        # One buffer for both halves, with room for the extra rows of either. No segment writes the queries of rows without
        # edges or beyond num_dst, nor values that nobody reads.
        n, slots = qv.size(0), max(r.slot_seg.size for r in (csr.rows, csr.transposed_rows))
        dqv = qv.new_empty((n + slots, qv.size(1)))
        dq, dv = (half[:, None] for half in dqv.chunk(2, dim=1))
        _clear(dq, csr.rows)
        _clear(dv, csr.transposed_rows)
        saved = (q[: csr.num_dst], v, v, r, r, mul, out, alpha, raw)
        pull, drel_k, drel_v, dmul, dadd = _backward_dst(saved, grad, csr, dq, threads)
        dq[csr.num_dst : n] = 0  # after the pass: its extra rows stand here too
        _backward_src(q, grad, alpha, pull, csr, None, dv, threads)
        return dqv[:n], (drel_k + drel_v).squeeze(1), dmul, dadd, None, None
