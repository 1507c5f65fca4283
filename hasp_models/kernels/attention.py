"""Compiled loops of the fused relation attention (Eq. 3), called by ``numba_csr``.

Conventions. ``H`` heads of width ``d``; head ``h`` of row ``i`` of a node array is row ``i * ld + h`` of a C-contiguous 2-D
array (so that slices of a wider matrix need no copy). A segment is a run of edges of one destination (or, transposed, of
one source); within a destination the edges stand relation after relation, so that what depends on the relation alone is
done once per run. The logit of an edge is ``mul[r] * (q . (k[src] + rel_k[r])) + add[r]``.

Each kernel works on the segments ``first:last`` and writes only to their rows, slots and edges, or to the buffers of its
own block: no atomics, and the same bits for any number of threads. The inner loops run over the contiguous width, which is
what LLVM turns into vector instructions; of fast-math only reassociation and contraction are allowed, so NaN and infinity
keep their meaning.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

__all__ = ["backward_dst", "backward_src", "backward_src_tied", "forward", "merge_forward", "merge_rows"]

njit: Any = numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "arcp", "nsz"})


@njit
def forward(
    first: int,
    last: int,
    seg_ptr: Any,
    seg_row: Any,
    seg_slot: Any,
    src: Any,
    rel: Any,
    heads: int,
    q: Any,
    q_ld: int,
    k: Any,
    k_ld: int,
    v: Any,
    v_ld: int,
    rel_k: Any,
    rel_v: Any,
    mul: Any,
    add: Any,
    alpha: Any,
    out: Any,
    slot_max: Any,
    slot_sum: Any,
    slot_out: Any,
) -> None:
    """Logits, softmax and weighted sum of each segment.

    Writes ``alpha [E * H]`` and ``out [num_dst * H, dv]``; for a segment of a split row, the unnormalised weights, and the
    maximum, sum and unnormalised output to its slot.
    """
    dk = q.shape[1]
    dv = v.shape[1]
    zero = q.dtype.type(0)
    one = q.dtype.type(1)
    for s in range(first, last):
        row = seg_row[s]
        slot = seg_slot[s]
        begin = seg_ptr[s]
        end = seg_ptr[s + 1]
        for h in range(heads):
            qi = q[row * q_ld + h]
            acc = out[row * heads + h] if slot < 0 else slot_out[slot * heads + h]
            run = -1
            of_rel = zero
            m = q.dtype.type(0)
            scale = one
            shift = zero
            top = q.dtype.type(-np.inf)
            for e in range(begin, end):
                r = rel[e]
                if r != run:
                    run = r
                    rk = rel_k[r * heads + h]
                    of_rel = zero
                    for j in range(dk):
                        of_rel += qi[j] * rk[j]
                    scale = mul[r * heads + h]
                    shift = add[r * heads + h]
                ke = k[src[e] * k_ld + h]
                raw = zero
                for j in range(dk):
                    raw += qi[j] * ke[j]
                m = (raw + of_rel) * scale + shift
                alpha[e * heads + h] = m
                # Written so that a NaN logit becomes the maximum, and with it every weight of the row.
                if not m <= top:
                    top = m
            for j in range(dv):
                acc[j] = zero
            total = zero
            in_run = zero
            run = rel[begin]
            for e in range(begin, end):
                p = math.exp(alpha[e * heads + h] - top)
                alpha[e * heads + h] = p
                r = rel[e]
                if r != run:
                    rv = rel_v[run * heads + h]
                    for j in range(dv):
                        acc[j] += in_run * rv[j]
                    total += in_run
                    in_run = zero
                    run = r
                in_run += p
                ve = v[src[e] * v_ld + h]
                for j in range(dv):
                    acc[j] += p * ve[j]
            rv = rel_v[run * heads + h]
            for j in range(dv):
                acc[j] += in_run * rv[j]
            total += in_run
            if slot < 0:
                norm = one / total
                for j in range(dv):
                    acc[j] *= norm
                for e in range(begin, end):
                    alpha[e * heads + h] *= norm
            else:
                slot_max[slot * heads + h] = top
                slot_sum[slot * heads + h] = total


@njit
def merge_forward(
    split_row: Any,
    split_ptr: Any,
    slot_seg: Any,
    seg_ptr: Any,
    heads: int,
    slot_max: Any,
    slot_sum: Any,
    slot_out: Any,
    alpha: Any,
    out: Any,
) -> None:
    """Combine the segments of the split rows, in their order."""
    dv = out.shape[1]
    for i in range(split_row.size):
        for h in range(heads):
            top = slot_max[split_ptr[i] * heads + h]
            for t in range(split_ptr[i], split_ptr[i + 1]):
                m = slot_max[t * heads + h]
                if not m <= top:
                    top = m
            total = slot_sum.dtype.type(0)
            for t in range(split_ptr[i], split_ptr[i + 1]):
                total += slot_sum[t * heads + h] * math.exp(slot_max[t * heads + h] - top)
            acc = out[split_row[i] * heads + h]
            for j in range(dv):
                acc[j] = 0
            for t in range(split_ptr[i], split_ptr[i + 1]):
                weight = math.exp(slot_max[t * heads + h] - top) / total
                part = slot_out[t * heads + h]
                for j in range(dv):
                    acc[j] += weight * part[j]
                for e in range(seg_ptr[slot_seg[t]], seg_ptr[slot_seg[t] + 1]):
                    alpha[e * heads + h] *= weight


@njit
def backward_dst(
    first: int,
    last: int,
    seg_ptr: Any,
    seg_row: Any,
    seg_slot: Any,
    src: Any,
    rel: Any,
    heads: int,
    q: Any,
    q_ld: int,
    k: Any,
    k_ld: int,
    v: Any,
    v_ld: int,
    rel_k: Any,
    rel_v: Any,
    mul: Any,
    alpha: Any,
    out: Any,
    grad: Any,
    coef: Any,
    dq: Any,
    dq_ld: int,
    slot_dq: Any,
    drel_k: Any,
    drel_v: Any,
    dmul: Any,
    dadd: Any,
) -> None:
    """Gradients that are gathered by destination.

    ``grad`` and ``out`` are ``[num_dst * H, dv]``. Writes ``dq`` (or ``slot_dq``), the two weights per edge and head that
    the pass by source needs, ``coef [E * H, 2]`` = (attention, gradient of ``q . k``), and adds to this block's relation
    gradients. With D = grad . out, the softmax's gradient is a * (grad . message - D): one pass over the edges.
    """
    dk = q.shape[1]
    dv = v.shape[1]
    zero = q.dtype.type(0)
    pull = np.empty(dk, q.dtype)  # sum over a run of (gradient of the logit) * key
    for s in range(first, last):
        row = seg_row[s]
        slot = seg_slot[s]
        begin = seg_ptr[s]
        end = seg_ptr[s + 1]
        for h in range(heads):
            qi = q[row * q_ld + h]
            gi = grad[row * heads + h]
            oi = out[row * heads + h]
            acc = dq[row * dq_ld + h] if slot < 0 else slot_dq[slot * heads + h]
            mean = zero
            for j in range(dv):
                mean += gi[j] * oi[j]
            for j in range(dk):
                acc[j] = zero
            e = begin
            while e < end:
                at = rel[e] * heads + h
                scale = mul[at]
                rv = rel_v[at]
                rk = rel_k[at]
                of_rel = zero
                for j in range(dv):
                    of_rel += gi[j] * rv[j]
                for j in range(dk):
                    pull[j] = zero
                sum_a = zero
                sum_g = zero
                run = rel[e]
                while e < end and rel[e] == run:
                    ve = v[src[e] * v_ld + h]
                    ke = k[src[e] * k_ld + h]
                    dot = zero
                    for j in range(dv):
                        dot += gi[j] * ve[j]
                    a = alpha[e * heads + h]
                    g = a * (dot + of_rel - mean)
                    for j in range(dk):
                        pull[j] += g * ke[j]
                    coef[e * heads + h, 0] = a
                    coef[e * heads + h, 1] = g * scale
                    sum_a += a
                    sum_g += g
                    e += 1
                drk = drel_k[at]
                drv = drel_v[at]
                raw = zero
                g = sum_g * scale
                for j in range(dk):
                    pulled = pull[j] + sum_g * rk[j]
                    raw += qi[j] * pulled
                    acc[j] += scale * pulled
                    drk[j] += g * qi[j]
                for j in range(dv):
                    drv[j] += sum_a * gi[j]
                dmul[at] += raw
                dadd[at] += sum_g


@njit
def merge_rows(split_row: Any, split_ptr: Any, heads: int, slots: Any, out: Any, out_ld: int) -> None:
    """Add up the slots of the split rows, in their order."""
    d = out.shape[1]
    for i in range(split_row.size):
        for h in range(heads):
            acc = out[split_row[i] * out_ld + h]
            for j in range(d):
                acc[j] = 0
            for t in range(split_ptr[i], split_ptr[i + 1]):
                part = slots[t * heads + h]
                for j in range(d):
                    acc[j] += part[j]


@njit
def backward_src(
    first: int,
    last: int,
    seg_ptr: Any,
    seg_row: Any,
    seg_slot: Any,
    dst: Any,
    edge: Any,
    heads: int,
    q: Any,
    q_ld: int,
    grad: Any,
    coef: Any,
    dk: Any,
    slot_dk: Any,
    dv: Any,
    slot_dv: Any,
) -> None:
    """Gradients of keys ``dk`` and values ``dv``, gathered by source: no two threads write to one row."""
    wk = q.shape[1]
    wv = grad.shape[1]
    for s in range(first, last):
        row = seg_row[s]
        slot = seg_slot[s]
        for h in range(heads):
            at = row * heads + h if slot < 0 else slot * heads + h
            of_k = dk[at] if slot < 0 else slot_dk[at]
            of_v = dv[at] if slot < 0 else slot_dv[at]
            for j in range(wk):
                of_k[j] = 0
            for j in range(wv):
                of_v[j] = 0
            for t in range(seg_ptr[s], seg_ptr[s + 1]):
                i = dst[t]
                a = coef[edge[t] * heads + h, 0]
                c = coef[edge[t] * heads + h, 1]
                gi = grad[i * heads + h]
                qi = q[i * q_ld + h]
                for j in range(wv):
                    of_v[j] += a * gi[j]
                for j in range(wk):
                    of_k[j] += c * qi[j]


@njit
def backward_src_tied(
    first: int,
    last: int,
    seg_ptr: Any,
    seg_row: Any,
    seg_slot: Any,
    dst: Any,
    edge: Any,
    heads: int,
    q: Any,
    q_ld: int,
    grad: Any,
    coef: Any,
    dv: Any,
    dv_ld: int,
    slot_dv: Any,
) -> None:
    """As :func:`backward_src` where keys are the values: one gradient, one store per row."""
    d = q.shape[1]
    for s in range(first, last):
        row = seg_row[s]
        slot = seg_slot[s]
        for h in range(heads):
            acc = dv[row * dv_ld + h] if slot < 0 else slot_dv[slot * heads + h]
            for j in range(d):
                acc[j] = 0
            for t in range(seg_ptr[s], seg_ptr[s + 1]):
                i = dst[t]
                a = coef[edge[t] * heads + h, 0]
                c = coef[edge[t] * heads + h, 1]
                gi = grad[i * heads + h]
                qi = q[i * q_ld + h]
                for j in range(d):
                    acc[j] += a * gi[j] + c * qi[j]
