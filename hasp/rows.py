"""Rows of an attribute, whatever its dtype: what building and loading both gather."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["plain", "take_rows"]

# Kernels for rows exist for these everywhere; other dtypes (uint16, float8...) are moved as whole numbers of their size.
_COMMON = frozenset({
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.complex64, torch.complex128,
})  # fmt: skip
_CARRIER = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def plain(value: Tensor) -> Tensor:
    """The same bytes in a dtype that every kernel of torch knows."""
    return value if value.dtype in _COMMON else value.view(_CARRIER[value.element_size()])


def take_rows(value: Tensor, index: Tensor) -> Tensor:
    """``value[index]`` along the first dimension, for every dtype.

    By NumPy, which gathers on the calling thread: parts are built on threads of our own and loaded in workers, and torch's
    threads below each of them wait for one another (ten times the wall-clock time on a busy machine with two cores).

    Args:
        value: ``[n, ...]`` on the CPU.
        index: int32 or int64 ``[m]``, within ``0..n-1``.

    Returns:
        ``[m, ...]``, dtype of ``value``.
    """
    carrier = _CARRIER.get(value.element_size())
    if carrier is None or not value.is_contiguous() or value.is_conj() or value.is_neg():
        return plain(value).index_select(0, index.to(torch.int64)).view(value.dtype)
    source = value.detach().view(carrier).numpy()
    out = np.empty((index.numel(), *source.shape[1:]), dtype=source.dtype)
    np.take(source, index.numpy(), axis=0, out=out, mode="clip")  # "raise" would go through a buffer
    return torch.from_numpy(out).view(value.dtype)
