"""Triton kernels of the fused relation attention (Eq. 3), called by ``triton_csr``: one program per segment and head.

The conventions are those of :mod:`hasp_models.kernels.attention`: a segment is a run of edges of one row, rows with many edges
have several; what a split row's segments give stands in extra rows, and is added up in their order. Every program writes
only its own rows and edges: no atomics, and the same bits in every run. Arrays are contiguous: ``[rows, heads, width]``, and
``[edges, heads]``.

``EDGES`` edges are in flight at a time; ``WIDTH`` is the next power of two of the width, the lanes beyond it masked. Sums are
kept in the dtype of the inputs, float32 or float64.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def"
# Triton gives the annotations of a kernel a meaning of its own; what the arrays are is said above.

__all__ = ["backward_dst", "backward_src", "forward"]

constexpr: Any = tl.constexpr


@triton.jit
def forward(
    seg_ptr, seg_row, seg_out, src, rel, q, k, v, rel_k, rel_v, mul, add, raw, logit, out, seg_max, seg_sum,
    HEADS: constexpr, DK: constexpr, DV: constexpr, WK: constexpr, WV: constexpr, EDGES: constexpr, TIED: constexpr,
):  # fmt: skip
    """Logits and the weighted sum of a segment, the softmax taken on the way (running maximum and sum).

    Writes ``raw``, ``logit`` ``[E, H]``, ``seg_max`` and ``seg_sum`` ``[S, H]``, and ``out``: divided by the sum already.
    """
    at = tl.program_id(0)
    s, h = at // HEADS, at % HEADS
    begin, end, row = tl.load(seg_ptr + s), tl.load(seg_ptr + s + 1), tl.load(seg_row + s)
    wide, tall = tl.arange(0, WK), tl.arange(0, WV)
    query = tl.load(q + (row * HEADS + h) * DK + wide, mask=wide < DK, other=0.0)
    lanes = tl.arange(0, EDGES)
    top = tl.full((), float("-inf"), query.dtype)
    total = tl.full((), 0.0, query.dtype)
    sums = tl.zeros((WV,), query.dtype)
    for low in range(begin, end, EDGES):
        e = low + lanes
        there = e < end
        node = tl.load(src + e, mask=there, other=0).to(tl.int64) * HEADS + h
        r = tl.load(rel + e, mask=there, other=0).to(tl.int64) * HEADS + h
        value = tl.load(v + node[:, None] * DV + tall[None, :], mask=there[:, None] & (tall < DV)[None, :], other=0.0)
        value += tl.load(rel_v + r[:, None] * DV + tall[None, :], mask=there[:, None] & (tall < DV)[None, :], other=0.0)
        if TIED:
            x = tl.sum(value * query[None, :], 1)
        else:
            key = tl.load(k + node[:, None] * DK + wide[None, :], mask=there[:, None] & (wide < DK)[None, :], other=0.0)
            key += tl.load(rel_k + r[:, None] * DK + wide[None, :], mask=there[:, None] & (wide < DK)[None, :], other=0.0)
            x = tl.sum(key * query[None, :], 1)
        m = x * tl.load(mul + r, mask=there, other=0.0) + tl.load(add + r, mask=there, other=0.0)
        tl.store(raw + e * HEADS + h, x, mask=there)
        tl.store(logit + e * HEADS + h, m, mask=there)
        m = tl.where(there, m, float("-inf"))
        higher = tl.maximum(top, tl.max(m, 0))
        shrink = tl.exp(top - higher)
        p = tl.where(there, tl.exp(m - higher), 0.0)
        total = total * shrink + tl.sum(p, 0)
        sums = sums * shrink + tl.sum(p[:, None] * value, 0)
        top = higher
    tl.store(seg_max + s * HEADS + h, top)
    tl.store(seg_sum + s * HEADS + h, total)
    tl.store(out + (tl.load(seg_out + s) * HEADS + h) * DV + tall, sums / total, mask=tall < DV)


@triton.jit
def backward_dst(
    seg_ptr, seg_row, seg_out, src, rel, k, v, rel_k, rel_v, mul, alpha, out, grad, pull, dq,
    HEADS: constexpr, DK: constexpr, DV: constexpr, WK: constexpr, WV: constexpr, EDGES: constexpr, TIED: constexpr,
):  # fmt: skip
    """Gradients that are gathered by destination: ``dq``, and ``pull`` ``[E, H]``, that of the logits.

    With D = grad . out, the softmax's gradient is alpha * (grad . message - D).
    """
    at = tl.program_id(0)
    s, h = at // HEADS, at % HEADS
    begin, end, row = tl.load(seg_ptr + s), tl.load(seg_ptr + s + 1), tl.load(seg_row + s)
    wide, tall = tl.arange(0, WK), tl.arange(0, WV)
    lanes = tl.arange(0, EDGES)
    g = tl.load(grad + (row * HEADS + h) * DV + tall, mask=tall < DV, other=0.0)
    mean = tl.sum(g * tl.load(out + (row * HEADS + h) * DV + tall, mask=tall < DV, other=0.0), 0)
    sums = tl.zeros((WK,), g.dtype)
    for low in range(begin, end, EDGES):
        e = low + lanes
        there = e < end
        node = tl.load(src + e, mask=there, other=0).to(tl.int64) * HEADS + h
        r = tl.load(rel + e, mask=there, other=0).to(tl.int64) * HEADS + h
        value = tl.load(v + node[:, None] * DV + tall[None, :], mask=there[:, None] & (tall < DV)[None, :], other=0.0)
        value += tl.load(rel_v + r[:, None] * DV + tall[None, :], mask=there[:, None] & (tall < DV)[None, :], other=0.0)
        a = tl.load(alpha + e * HEADS + h, mask=there, other=0.0)
        w = a * (tl.sum(value * g[None, :], 1) - mean)
        tl.store(pull + e * HEADS + h, w, mask=there)
        w = w * tl.load(mul + r, mask=there, other=0.0)
        if TIED:
            sums += tl.sum(w[:, None] * value, 0)
        else:
            key = tl.load(k + node[:, None] * DK + wide[None, :], mask=there[:, None] & (wide < DK)[None, :], other=0.0)
            key += tl.load(rel_k + r[:, None] * DK + wide[None, :], mask=there[:, None] & (wide < DK)[None, :], other=0.0)
            sums += tl.sum(w[:, None] * key, 0)
    tl.store(dq + (tl.load(seg_out + s) * HEADS + h) * DK + wide, sums, mask=wide < DK)


@triton.jit
def backward_src(
    seg_ptr, seg_out, dst, edge, rel, q, mul, alpha, grad, pull, dk, dv,
    HEADS: constexpr, DK: constexpr, DV: constexpr, WK: constexpr, WV: constexpr, EDGES: constexpr, TIED: constexpr,
):  # fmt: skip
    """Gradients of keys and values, gathered by source over the transposed CSR; tied: one gradient, ``dv``."""
    at = tl.program_id(0)
    s, h = at // HEADS, at % HEADS
    begin, end, place = tl.load(seg_ptr + s), tl.load(seg_ptr + s + 1), tl.load(seg_out + s) * HEADS + h
    wide, tall = tl.arange(0, WK), tl.arange(0, WV)
    lanes = tl.arange(0, EDGES)
    of_keys = tl.zeros((WK,), q.dtype.element_ty)
    of_values = tl.zeros((WV,), q.dtype.element_ty)
    for low in range(begin, end, EDGES):
        t = low + lanes
        there = t < end
        node = tl.load(dst + t, mask=there, other=0).to(tl.int64) * HEADS + h
        e = tl.load(edge + t, mask=there, other=0).to(tl.int64)
        a = tl.load(alpha + e * HEADS + h, mask=there, other=0.0)
        r = tl.load(rel + e, mask=there, other=0).to(tl.int64) * HEADS + h
        w = tl.load(pull + e * HEADS + h, mask=there, other=0.0) * tl.load(mul + r, mask=there, other=0.0)
        g = tl.load(grad + node[:, None] * DV + tall[None, :], mask=there[:, None] & (tall < DV)[None, :], other=0.0)
        of_values += tl.sum(a[:, None] * g, 0)
        x = tl.load(q + node[:, None] * DK + wide[None, :], mask=there[:, None] & (wide < DK)[None, :], other=0.0)
        of_keys += tl.sum(w[:, None] * x, 0)
    if TIED:
        tl.store(dv + place * DV + tall, of_values + of_keys, mask=tall < DV)
    else:
        tl.store(dk + place * DK + wide, of_keys, mask=wide < DK)
        tl.store(dv + place * DV + tall, of_values, mask=tall < DV)
