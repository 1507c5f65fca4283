"""Attend: the sums of Eq. 3 over given queries, keys and values, by the backend that fits the device.

:mod:`hasp_models.relation_attention` makes a layer of it.
"""

from __future__ import annotations

import importlib.util
import math
import os

import torch
from torch import Tensor

from hasp.errors import HaspError
from hasp_models.relation_csr import RelationCSR

__all__ = ["BACKENDS", "relation_attention", "resolve_backend"]

BACKENDS = ("auto", "numba", "torch", "triton")
"""Names of backends; ``auto`` chooses by device."""


def relation_attention(
    q: Tensor,
    k: Tensor | None,
    v: Tensor,
    rel_k: Tensor | None,
    rel_v: Tensor,
    beta: Tensor | None,
    csr: RelationCSR,
    *,
    bias: Tensor | None = None,
    scale: float | None = None,
    backend: str = "auto",
    threads: int = 0,
) -> tuple[Tensor, Tensor]:
    """Attend over the edges of all relations with one softmax per destination and head.

    The logit of an edge (j -> i, r) is ``scale * beta[r] * (q[i] . (k[j] + rel_k[r])) + bias[r]``, its message
    ``v[j] + rel_v[r]``.

    Args:
        q: ``[num_dst, H, dk]``.
        k: ``[num_src, H, dk]``; ``None``: the values are the keys (dk = dv), and each edge moves half the bytes.
        v: ``[num_src, H, dv]``.
        rel_k: ``[R, H, dk]``; ``None`` exactly where ``k`` is.
        rel_v: ``[R, H, dv]``.
        beta: ``[R, H]`` factor of the logits; ``None``: 1.
        csr: the edges.
        bias: ``[R, H]`` added to the logits; ``None``: 0.
        scale: ``None``: ``1 / sqrt(dk)``.
        backend: ``"numba"``: fused, CPU, float32 and float64 (halves are computed in float32), bitwise equal at any number
            of threads, differentiable once. ``"torch"``: any device, memory grows with edges times width, differentiable
            twice. ``"triton"``: fused, CUDA, as numba is on the CPU, and with the same bits in every run; not yet timed on a
            GPU. ``"auto"``: numba on the CPU, torch elsewhere.
        threads: of the fused backend, at most; 0: as many as torch uses. Few edges take one. Never changes the result.

    Returns:
        The attended messages ``[num_dst, H, dv]`` (zero for a row without edges) and the attention ``[E, H]`` in the
        order of ``csr``; the fused backends give no gradient through the latter.

    Raises:
        HaspError: an unknown backend, one off its device, shapes or dtypes that do not fit.
    """
    _check_arguments(q, k, v, rel_k, rel_v, csr)
    heads = q.size(1)
    scale = 1 / math.sqrt(q.size(2)) if scale is None else scale
    kind = torch.float32 if v.dtype in (torch.float16, torch.bfloat16) else v.dtype
    mul = v.new_full((csr.num_relations, heads), scale, dtype=kind) if beta is None else beta.to(kind) * scale
    add = v.new_zeros((csr.num_relations, heads), dtype=kind) if bias is None else bias.to(kind)
    q_, k_, v_, rk_, rv_ = (None if t is None else t.to(kind) for t in (q, k, v, rel_k, rel_v))
    assert q_ is not None and v_ is not None and rv_ is not None
    chosen = resolve_backend(backend, v)
    if chosen == "numba":
        from hasp_models.kernels import numba_csr

        out, alpha = numba_csr.relation_attention(q_, k_, v_, rk_, rv_, mul, add, csr, threads)
    elif chosen == "triton":
        from hasp_models.kernels import triton_csr

        out, alpha = triton_csr.relation_attention(q_, k_, v_, rk_, rv_, mul, add, csr)
    else:
        from hasp_models.kernels import torch_csr

        out, alpha = torch_csr.relation_attention(q_, k_, v_, rk_, rv_, mul, add, csr)
    return out.to(v.dtype), alpha


def resolve_backend(backend: str, like: Tensor) -> str:
    """``"numba"``, ``"torch"`` or ``"triton"`` for tensors like this one.

    Raises:
        HaspError: another name, a backend that is not for this device, or Triton that is not installed.
    """
    if backend not in BACKENDS:
        raise HaspError(f"backend is one of {BACKENDS}, got {backend!r}; 'auto' chooses by device")
    device = like.device.type
    if backend == "auto":
        return "numba" if device == "cpu" else "torch"
    if backend == "numba" and device != "cpu":
        raise HaspError(f"the numba backend works on the CPU, got tensors on {like.device}; use backend='auto'")
    if backend == "triton":
        if importlib.util.find_spec("triton") is None:
            raise HaspError(
                "the triton backend needs Triton, which is not installed; pip install triton, or use backend='auto'"
            )
        # Triton's own switch for running kernels without a GPU, slowly: how they are tested.
        if device != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
            raise HaspError(f"the triton backend works on CUDA, got tensors on {like.device}; use backend='auto'")
    return backend


def _check_arguments(q: Tensor, k: Tensor | None, v: Tensor, rel_k: Tensor | None, rel_v: Tensor, csr: RelationCSR) -> None:
    if (k is None) != (rel_k is None):
        raise HaspError("k and rel_k are given together or left out together; without them values are keys")
    heads, width = v.shape[1:]
    keys = width if k is None else k.size(2)
    want = {
        "q": (q, (csr.num_dst, heads, keys)),
        "k": (k, (csr.num_src, heads, keys)),
        "v": (v, (csr.num_src, heads, width)),
        "rel_k": (rel_k, (csr.num_relations, heads, keys)),
        "rel_v": (rel_v, (csr.num_relations, heads, width)),
    }
    for name, (tensor, shape) in want.items():
        if tensor is None:
            continue
        if tuple(tensor.shape) != shape:
            raise HaspError(f"{name} is {list(shape)} for this CSR, got {list(tensor.shape)}; see relation_attention")
        if tensor.dtype != v.dtype:
            raise HaspError(f"all inputs have one dtype, got {name} as {tensor.dtype} and v as {v.dtype}; cast one")
