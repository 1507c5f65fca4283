"""Compiled loops of the fused relation attention (Eq. 3) over the edges of each destination, called by ``numba_csr``.

Conventions. ``H`` heads of width ``d``; head ``h`` of row ``i`` of a node array is row ``i * ld + h`` of a C-contiguous 2-D
array (so that slices of a wider matrix need no copy). A segment is a run of edges of one destination (or, transposed, of
one source); within a destination the edges stand relation after relation, so that what depends on the relation alone is
done once per run. The logit of an edge is ``mul[r] * (q . (k[src] + rel_k[r])) + add[r]``.

Each kernel works on the segments ``first:last`` and writes only to their rows, slots and edges, or to the buffers of its
own block: no atomics, and the same bits for any number of threads. Outputs have extra rows at their end, one per segment
of a split row; ``seg_out`` says where a segment's output goes, and the merge kernels add up the extra rows.

The inner loops run over the contiguous width, which LLVM turns into vector instructions. Rows are indexed, never sliced: a
slice is counted by reference, two calls that cost as much as the row. Of fast-math, reassociation and contraction are
allowed, so NaN and infinity keep their meaning.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hasp.kernels.jit import jit

__all__ = ["backward_dst", "forward", "merge_forward"]

njit: Any = jit(fastmath={"reassoc", "contract", "arcp", "nsz"})


@njit
def _dots(x: Any, i: int, y: Any, ld: int, h: int, ids: Any, begin: int, end: int, heads: int, into: Any) -> None:
    """``into[e * heads + h] = x[i] . y[ids[e] * ld + h]`` for the edges ``begin:end``, four rows at a time."""
    d = x.shape[1]
    zero = x.dtype.type(0)
    e = begin
    while e + 4 <= end:
        c0 = ids[e] * ld + h
        c1 = ids[e + 1] * ld + h
        c2 = ids[e + 2] * ld + h
        c3 = ids[e + 3] * ld + h
        s0 = zero
        s1 = zero
        s2 = zero
        s3 = zero
        for j in range(d):
            t = x[i, j]
            s0 += t * y[c0, j]
            s1 += t * y[c1, j]
            s2 += t * y[c2, j]
            s3 += t * y[c3, j]
        into[e * heads + h] = s0
        into[(e + 1) * heads + h] = s1
        into[(e + 2) * heads + h] = s2
        into[(e + 3) * heads + h] = s3
        e += 4
    while e < end:
        c0 = ids[e] * ld + h
        s0 = zero
        for j in range(d):
            s0 += x[i, j] * y[c0, j]
        into[e * heads + h] = s0
        e += 1


@njit
def _weighted(out: Any, o: int, y: Any, ld: int, h: int, ids: Any, begin: int, end: int, heads: int, weight: Any) -> None:
    """``out[o] = sum of weight[e * heads + h] * y[ids[e] * ld + h]`` over the edges ``begin:end``, four rows at a time."""
    d = out.shape[1]
    for j in range(d):
        out[o, j] = 0
    e = begin
    while e + 4 <= end:
        c0 = ids[e] * ld + h
        c1 = ids[e + 1] * ld + h
        c2 = ids[e + 2] * ld + h
        c3 = ids[e + 3] * ld + h
        w0 = weight[e * heads + h]
        w1 = weight[(e + 1) * heads + h]
        w2 = weight[(e + 2) * heads + h]
        w3 = weight[(e + 3) * heads + h]
        for j in range(d):
            out[o, j] += (w0 * y[c0, j] + w1 * y[c1, j]) + (w2 * y[c2, j] + w3 * y[c3, j])
        e += 4
    while e < end:
        c0 = ids[e] * ld + h
        w0 = weight[e * heads + h]
        for j in range(d):
            out[o, j] += w0 * y[c0, j]
        e += 1


@njit
def forward(
    first: int, last: int, seg_ptr: Any, seg_row: Any, seg_out: Any, src: Any, rel: Any, heads: int,
    q: Any, q_ld: int, k: Any, k_ld: int, v: Any, v_ld: int,
    rel_k: Any, rel_v: Any, mul: Any, add: Any,
    raw: Any, alpha: Any, out: Any, seg_max: Any, seg_sum: Any,
) -> None:  # fmt: skip
    """Logits, softmax and weighted sum of each segment.

    Writes ``raw [E * H]`` (q . key, which the gradient of ``mul`` needs), ``alpha [E * H]`` and
    ``out [(num_dst + slots) * H, dv]``; for a segment of a split row the last two are unnormalised, and their maximum and
    sum go to ``seg_max`` and ``seg_sum [S * H]``.
    """
    dk = q.shape[1]
    dv = v.shape[1]
    zero = q.dtype.type(0)
    one = q.dtype.type(1)
    for s in range(first, last):
        begin = seg_ptr[s]
        end = seg_ptr[s + 1]
        for h in range(heads):
            i = seg_row[s] * q_ld + h
            o = seg_out[s] * heads + h
            _dots(q, i, k, k_ld, h, src, begin, end, heads, raw)
            run = -1
            of_rel = zero
            scale = one
            shift = zero
            top = q.dtype.type(-np.inf)
            for e in range(begin, end):
                r = rel[e] * heads + h
                if r != run:
                    run = r
                    of_rel = zero
                    for j in range(dk):
                        of_rel += q[i, j] * rel_k[r, j]
                    scale = mul[r]
                    shift = add[r]
                x = raw[e * heads + h] + of_rel
                raw[e * heads + h] = x
                m = x * scale + shift
                alpha[e * heads + h] = m
                # Written so that a NaN logit becomes the maximum, and with it every weight of the row.
                if not m <= top:
                    top = m
            total = zero
            for e in range(begin, end):
                p = math.exp(alpha[e * heads + h] - top)
                alpha[e * heads + h] = p
                total += p
            if seg_out[s] == seg_row[s]:
                norm = one / total
                for e in range(begin, end):
                    alpha[e * heads + h] *= norm
            else:
                seg_max[s * heads + h] = top
                seg_sum[s * heads + h] = total
            _weighted(out, o, v, v_ld, h, src, begin, end, heads, alpha)
            e = begin
            while e < end:
                of_run = rel[e]
                total = zero
                while e < end and rel[e] == of_run:
                    total += alpha[e * heads + h]
                    e += 1
                r = of_run * heads + h
                for j in range(dv):
                    out[o, j] += total * rel_v[r, j]


@njit
def merge_forward(
    split_row: Any,
    split_ptr: Any,
    slot_seg: Any,
    seg_ptr: Any,
    num_rows: int,
    heads: int,
    seg_max: Any,
    seg_sum: Any,
    alpha: Any,
    out: Any,
) -> None:
    """Combine the segments of the split rows, in their order."""
    dv = out.shape[1]
    for i in range(split_row.size):
        for h in range(heads):
            top = seg_max[slot_seg[split_ptr[i]] * heads + h]
            for t in range(split_ptr[i], split_ptr[i + 1]):
                m = seg_max[slot_seg[t] * heads + h]
                if not m <= top:
                    top = m
            total = seg_sum.dtype.type(0)
            for t in range(split_ptr[i], split_ptr[i + 1]):
                s = slot_seg[t] * heads + h
                total += seg_sum[s] * math.exp(seg_max[s] - top)
            o = split_row[i] * heads + h
            for j in range(dv):
                out[o, j] = 0
            for t in range(split_ptr[i], split_ptr[i + 1]):
                weight = math.exp(seg_max[slot_seg[t] * heads + h] - top) / total
                part = (num_rows + t) * heads + h
                for j in range(dv):
                    out[o, j] += weight * out[part, j]
                for e in range(seg_ptr[slot_seg[t]], seg_ptr[slot_seg[t] + 1]):
                    alpha[e * heads + h] *= weight


@njit
def backward_dst(
    first: int, last: int, seg_ptr: Any, seg_row: Any, seg_out: Any, src: Any, rel: Any, heads: int, q: Any,
    q_ld: int, k: Any, k_ld: int, v: Any, v_ld: int, rel_k: Any, rel_v: Any, mul: Any, raw: Any, alpha: Any,
    out: Any, grad: Any, pull: Any, dq: Any, dq_ld: int, drel_k: Any, drel_v: Any, dmul: Any, dadd: Any,
) -> None:  # fmt: skip
    """Gradients that are gathered by destination.

    ``grad`` and ``out`` are ``[num_dst * H, dv]``. Writes ``dq`` and ``pull [E * H]``, the gradient of ``q . key``, and adds
    to this block's relation gradients. With D = grad . out, the softmax's gradient is a * (grad . message - D).
    """
    dk = q.shape[1]
    dv = v.shape[1]
    zero = q.dtype.type(0)
    for s in range(first, last):
        begin = seg_ptr[s]
        end = seg_ptr[s + 1]
        for h in range(heads):
            i = seg_row[s] * q_ld + h
            g = seg_row[s] * heads + h
            o = seg_out[s] * dq_ld + h
            mean = zero
            for j in range(dv):
                mean += grad[g, j] * out[g, j]
            _dots(grad, g, v, v_ld, h, src, begin, end, heads, pull)
            e = begin
            while e < end:
                of_run = rel[e]
                r = of_run * heads + h
                scale = mul[r]
                base = -mean
                for j in range(dv):
                    base += grad[g, j] * rel_v[r, j]
                sum_a = zero
                sum_g = zero
                sum_raw = zero
                while e < end and rel[e] == of_run:
                    at = e * heads + h
                    a = alpha[at]
                    w = a * (pull[at] + base)
                    sum_a += a
                    sum_g += w
                    sum_raw += w * raw[at]
                    pull[at] = w * scale
                    e += 1
                dmul[r] += sum_raw
                dadd[r] += sum_g
                sum_g *= scale
                for j in range(dk):
                    drel_k[r, j] += sum_g * q[i, j]
                for j in range(dv):
                    drel_v[r, j] += sum_a * grad[g, j]
            _weighted(dq, o, k, k_ld, h, src, begin, end, heads, pull)
            e = begin
            while e < end:
                of_run = rel[e]
                sum_g = zero
                while e < end and rel[e] == of_run:
                    sum_g += pull[e * heads + h]
                    e += 1
                r = of_run * heads + h
                for j in range(dk):
                    dq[o, j] += sum_g * rel_k[r, j]
