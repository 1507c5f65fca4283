"""Undirected pairs as directed edges, a block of rows at a time: copies left out, both directions, attributes alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hasp.parallel import blocks
from hasp.scratch import Scratch

__all__ = ["distinct", "doubled", "parted", "rows_at_once"]

Array = npt.NDArray[Any]

_ROWS = 1 << 20
_SORTED = 1 << 22  # pairs that are compared at once


def rows_at_once(count: int) -> list[tuple[int, int]]:
    """``range(count)`` in runs of rows that fit into memory."""
    return blocks(count, _ROWS, count // _ROWS + 1)


def distinct(a: Tensor, b: Tensor, scratch: Scratch) -> tuple[Array, int]:
    """Which pairs stand for the first time, bool ``[m]``, and how many do; (a, b) and (b, a) are one pair."""
    count = a.numel()
    first: Array = scratch.empty(count, np.bool_)
    first[:] = False
    heaps, total = -(-count // _SORTED), 0
    for heap in range(heaps):  # equal pairs fall into one
        keys, rows = [], []
        for low, high in rows_at_once(count):
            one, two = a[low:high].numpy().astype(np.int64), b[low:high].numpy().astype(np.int64)
            low_end, high_end = np.minimum(one, two), np.maximum(one, two)
            own = np.flatnonzero((low_end + high_end) % heaps == heap)
            keys.append(low_end[own] << 32 | high_end[own])
            rows.append(own + low)
        each = np.unique(np.concatenate(keys), return_index=True)[1]
        first[np.concatenate(rows)[each]] = True
        total += each.size
    return first, total


def parted(values: Sequence[Tensor], group: Array, counts: Sequence[int], scratch: Scratch) -> list[list[Tensor]]:
    """Rows of several columns, group by group, in their order.

    Args:
        values: columns ``[m, ...]``.
        group: of each row ``[m]``, whole numbers or bools; rows of groups from ``len(counts)`` on are left out.
        counts: rows of each group.
        scratch: where the columns go.

    Returns:
        Per group its columns.
    """
    out: list[list[Array]] = [[_like(v, count, scratch) for v in values] for count in counts]
    filled = [0] * len(counts)
    for low, high in rows_at_once(len(group)):
        own = np.asarray(group[low:high]).astype(np.int64)
        for number in np.unique(own[own < len(counts)]).tolist():
            rows = np.flatnonzero(own == number)
            at, filled[number] = filled[number], filled[number] + rows.size
            for target, value in zip(out[number], values, strict=True):
                target[at : filled[number]] = value[low:high].numpy()[rows]
    return [[torch.from_numpy(column) for column in columns] for columns in out]


def doubled(a: Tensor, b: Tensor, attrs: Sequence[Tensor], scratch: Scratch) -> tuple[Tensor, Tensor, list[Tensor]]:
    """All pairs as they stand, then all turned round; a self-loop stays single. The attributes of both are the pair's."""
    count = a.numel()
    back = sum(int((a[low:high] != b[low:high]).sum()) for low, high in rows_at_once(count))
    columns = [(a, b), (b, a), *((v, v) for v in attrs)]
    out = [_like(v, count + back, scratch) for v, _ in columns]
    at = 0
    for turned in (False, True):
        for rows in _rows(a, b, turned):
            at += rows.size
            for target, column in zip(out, columns, strict=True):
                value = column[turned][int(rows[0]) : int(rows[-1]) + 1].numpy()
                target[at - rows.size : at] = value[rows - rows[0]]
    source, destination, *rest = (torch.from_numpy(column) for column in out)
    return source, destination, rest


def _rows(a: Tensor, b: Tensor, turned: bool) -> Iterator[Array]:
    for low, high in rows_at_once(a.numel()):
        rows = np.flatnonzero((a[low:high] != b[low:high]).numpy()) if turned else np.arange(high - low)
        if rows.size:
            yield rows + low


def _like(value: Tensor, rows: int, scratch: Scratch) -> Array:
    return scratch.empty((rows, *value.shape[1:]), value[:0].numpy().dtype)
