"""Pieces: what workers write of a chunk, sorted by part, and what those who put parts together read of it.

A piece is a file in the folder of the parts, which all machines share: nothing large goes through Ray's memory, and nothing is
lost with a machine. Each group of parts is a window of every array in it, read by another worker and checked by a hash of its
own. The names are those of offers (:mod:`hasp.store.offer`): a build sweeps them when it begins and when it ends.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from blake3 import blake3

from hasp.errors import CorruptPart
from hasp.sources.columns import Array
from hasp.store.disk import Disk
from hasp.store.framing import chunks
from hasp.store.offer import piece_name

__all__ = ["Piece", "Window", "read_window", "tensor", "write_piece"]

PTR = "/ptr"
"""Label of the ends of the parts' rows; no attribute has a slash in its name."""


class Window(NamedTuple):
    """The rows of a piece that go to neighbouring parts.

    Attributes:
        name: of the file.
        num_bytes: of the file.
        low: the first of those parts.
        high: the first part after them.
        digest: blake3 of the rows, in hex.
    """

    name: str
    num_bytes: int
    low: int
    high: int
    digest: str


class Piece(NamedTuple):
    """What :func:`write_piece` wrote.

    Attributes:
        windows: one per group of parts, in order.
        counts: int64 ``[parts]``: rows of each part.
    """

    windows: list[Window]
    counts: npt.NDArray[np.int64]


def write_piece(
    root: str, ptr: npt.NDArray[np.int64], arrays: Mapping[str, Array], bounds: Sequence[int], disk: Disk | None = None
) -> Piece:
    """Write arrays that are sorted by part, durably.

    Args:
        root: the folder of the parts.
        ptr: int64 ``[parts + 1]``: part ``p`` has the rows ``ptr[p]:ptr[p + 1]``.
        arrays: label -> ``[ptr[-1], ...]``.
        bounds: group ``g`` has the parts ``bounds[g]:bounds[g + 1]``.
        disk: what does the I/O.
    """
    name = piece_name()
    size, _ = (disk or Disk()).put(Path(root) / name, chunks({PTR: tensor(ptr), **{k: tensor(v) for k, v in arrays.items()}}))
    windows = []
    for low, high in itertools.pairwise(bounds):
        rows = {k: v[ptr[low] : ptr[high]] for k, v in arrays.items()}
        windows.append(Window(name, size, low, high, _digest(ptr[low : high + 1] - ptr[low], rows)))
    return Piece(windows, np.diff(ptr))


def read_window(root: str, window: Window, disk: Disk | None = None) -> tuple[npt.NDArray[np.int64], dict[str, Array]]:
    """The rows of a window, mapped, and where in them each part begins, int64 ``[high - low + 1]``.

    Raises:
        CorruptPart: the file is not what was written.
    """
    disk, path = disk or Disk(), Path(root) / window.name
    if disk.size(path) != window.num_bytes:
        raise CorruptPart(f"{path} has {disk.size(path):,} bytes, and {window.num_bytes:,} were written; {_REMEDY}")
    arrays = {k: v.numpy() for k, v in disk.map(path).items()}
    ptr = arrays.pop(PTR)
    low, high = (int(ptr[p]) if p < ptr.size else -1 for p in (window.low, window.high))
    if 0 <= low <= high:
        rows = {k: v[low:high] for k, v in arrays.items()}
        ends = ptr[window.low : window.high + 1] - low
        if _digest(ends, rows) == window.digest:
            return ends, rows
    raise CorruptPart(f"{path} does not hold what a worker wrote there; {_REMEDY}")


_REMEDY = "check the disk of the folder, then run it again: a build resumes where it stopped"


def tensor(array: Array) -> torch.Tensor:
    """A tensor of an array, which may lie in memory that is not to be written to: nothing here writes."""
    if array.flags.writeable or not array.size:
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    return torch.from_numpy(np.asarray(_Lent(array)))  # torch warns of an array that says so itself


class _Lent:
    """An array that does not say that it must not be written to."""

    def __init__(self, array: Array) -> None:
        self.array = array
        interface: dict[str, Any] = array.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}


def _digest(ptr: npt.NDArray[np.int64], rows: Mapping[str, Array]) -> str:
    found = blake3()
    for array in (ptr, *(rows[label] for label in sorted(rows))):
        if array.size:
            found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return str(found.hexdigest())
