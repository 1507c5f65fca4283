"""Compiled loops of the backward pass of the fused relation attention over the edges of each source, called by ``numba_csr``.

The conventions are those of :mod:`hasp_models.kernels.attention`, over the transposed CSR.
"""

from __future__ import annotations

from typing import Any

from hasp.kernels.jit import jit

__all__ = ["backward_src", "backward_src_tied", "merge_rows"]

njit: Any = jit(fastmath={"reassoc", "contract", "arcp", "nsz"})


@njit
def merge_rows(split_row: Any, split_ptr: Any, num_rows: int, heads: int, out: Any, ld: int) -> None:
    """Add up the extra rows of the split rows, in their order."""
    d = out.shape[1]
    for i in range(split_row.size):
        for h in range(heads):
            o = split_row[i] * ld + h
            for j in range(d):
                out[o, j] = 0
            for t in range(split_ptr[i], split_ptr[i + 1]):
                part = (num_rows + t) * ld + h
                for j in range(d):
                    out[o, j] += out[part, j]


@njit
def backward_src(
    first: int,
    last: int,
    seg_ptr: Any,
    seg_out: Any,
    dst: Any,
    edge: Any,
    heads: int,
    q: Any,
    q_ld: int,
    grad: Any,
    alpha: Any,
    pull: Any,
    dk: Any,
    dv: Any,
) -> None:
    """Gradients of keys ``dk`` and values ``dv``, gathered by source: no two threads write to one row."""
    wk = q.shape[1]
    wv = grad.shape[1]
    for s in range(first, last):
        for h in range(heads):
            o = seg_out[s] * heads + h
            for j in range(wk):
                dk[o, j] = 0
            for j in range(wv):
                dv[o, j] = 0
            for t in range(seg_ptr[s], seg_ptr[s + 1]):
                at = edge[t] * heads + h
                a = alpha[at]
                w = pull[at]
                g = dst[t] * heads + h
                i = dst[t] * q_ld + h
                for j in range(wv):
                    dv[o, j] += a * grad[g, j]
                for j in range(wk):
                    dk[o, j] += w * q[i, j]


@njit
def backward_src_tied(
    first: int,
    last: int,
    seg_ptr: Any,
    seg_out: Any,
    dst: Any,
    edge: Any,
    heads: int,
    q: Any,
    q_ld: int,
    grad: Any,
    alpha: Any,
    pull: Any,
    dv: Any,
    dv_ld: int,
) -> None:
    """As :func:`backward_src` where keys are the values: one gradient, one store per row."""
    d = q.shape[1]
    for s in range(first, last):
        for h in range(heads):
            o = seg_out[s] * dv_ld + h
            for j in range(d):
                dv[o, j] = 0
            for t in range(seg_ptr[s], seg_ptr[s + 1]):
                at = edge[t] * heads + h
                a = alpha[at]
                w = pull[at]
                g = dst[t] * heads + h
                i = dst[t] * q_ld + h
                for j in range(d):
                    dv[o, j] += a * grad[g, j] + w * q[i, j]
