"""Rows of an attribute, whatever its dtype: what building and loading both gather."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hasp.parallel import blocks

if TYPE_CHECKING:
    from hasp.layout import TypeLayout
    from hasp.scratch import Scratch

__all__ = ["distinct", "join_rows", "plain", "room", "room_for_rows", "rows_by_part", "spread_rows", "take_rows", "whole_rows"]

# Kernels for rows exist for these everywhere; other dtypes (uint16, float8...) are moved as whole numbers of their size.
_COMMON = frozenset({
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.complex64, torch.complex128,
})  # fmt: skip
_CARRIER = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

_NUMBER = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}

_BLOCK = 1 << 24  # bytes of rows moved at a time


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


def distinct(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The different keys, ascending. Writes over the array. (``np.unique`` hashes, which takes tens of times longer.)"""
    keys.sort()
    if keys.size < 2:
        return keys
    first = np.empty(keys.size, dtype=bool)
    first[0] = True
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    return keys[first]


def join_rows(values: Sequence[Tensor]) -> Tensor:
    """Rows of several tensors of one dtype and width, one tensor after the other."""
    if len(values) == 1:
        return values[0]
    out = room(values[0], sum(value.size(0) for value in values))
    torch.cat([plain(value) for value in values], out=plain(out))  # copies twice as fast as NumPy's assignment
    return out


def spread_rows(values: Sequence[Tensor], row: npt.NDArray[np.int64]) -> Tensor:
    """What :func:`join_rows` gives, its ``i``-th row in the place ``row[i]`` (int64 ``[n]``); rows are moved as elements."""
    out = room(values[0], row.size)
    target, at = whole_rows(out), 0
    number = _NUMBER.get(target.itemsize)  # a number is moved faster than as many bytes
    for value in values:
        rows, here = whole_rows(value), row[at : at + value.size(0)]
        if number is None:
            target[here] = rows
        else:
            target.view(number)[here] = rows.view(number)
        at += value.size(0)
    return out


def room(like: Tensor, count: int) -> Tensor:
    """``count`` rows like those of a tensor, not initialised.

    By NumPy, which asks the system for huge pages where there are many bytes; torch gets small ones, whose page faults take
    longer than a copy.
    """
    number = _NUMBER.get(like.element_size())
    if number is None or not count or 0 in like.shape[1:]:  # NumPy gives what is empty strides of its own
        return like.new_empty((count, *like.shape[1:]))
    return torch.from_numpy(np.empty((count, *like.shape[1:]), number)).view(like.dtype)


def rows_by_part(value: Tensor, where: TypeLayout, scratch: Scratch) -> Tensor:
    """All rows in the order of the layout's ``n_id``: part after part, so that a part's rows lie side by side.

    One pass that reads in order and writes in order within each part. A map that is larger than memory would be read from the
    disk again for nearly every part, if each gathered its own rows from it.

    Args:
        value: ``[n, ...]`` on the CPU.
        where: the layout of the same ``n`` entities.
        scratch: where the result goes.

    Returns:
        ``[n, ...]``, dtype of ``value``.
    """
    target, out = room_for_rows(value, scratch)
    step = max(1, _BLOCK // max(1, target.itemsize))
    for low, high in blocks(value.size(0), step, value.size(0)):
        target[where.ptr[where.part[low:high]] + where.local[low:high]] = whole_rows(value[low:high])
    return out


def room_for_rows(value: Tensor, scratch: Scratch) -> tuple[npt.NDArray[np.void], Tensor]:
    """Room for as many rows as ``value`` has: as an array in which a row is one element, and as a tensor like ``value``."""
    count, width = value.size(0), value[:1].numel() * value.element_size()
    if not count or not width:
        return np.empty(count, "V1"), torch.empty_like(value, memory_format=torch.contiguous_format)
    out = scratch.empty((count, width), np.uint8)
    return out.view(f"V{width}")[:, 0], torch.from_numpy(out).view(-1).view(value.dtype).view(value.shape)


def whole_rows(value: Tensor) -> npt.NDArray[np.void]:
    """The rows of a tensor, each as one element that is moved as a whole."""
    width = value[:1].numel() * value.element_size()
    if not value.size(0) or not width:
        return np.empty(value.size(0), "V1")
    dense = value.detach().resolve_conj().resolve_neg().contiguous()
    return dense.view(-1).view(torch.uint8).numpy().view(f"V{width}")
