"""Spool: a column that is read block by block, kept out of memory where scratch has files, and joined into one array."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hasp.parallel import blocks as cut
from hasp.scratch import Scratch
from hasp.sources.ids import sorted_unique

__all__ = ["Spool", "join", "pieces", "unique"]

Array = npt.NDArray[Any]

_ROWS = 1 << 20  # of a block that goes to scratch; the blocks of a reader are far smaller
_GATHERED = 16  # blocks whose ids are made unique together


class Spool:
    """The blocks of one column in the order of the table.

    Args:
        scratch: where they go; with one in memory they stay as they came.

    Attributes:
        blocks: the blocks; those of one kind (whole numbers, decimals, text...) that follow each other may be joined.
    """

    def __init__(self, scratch: Scratch) -> None:
        self.blocks: list[Array] = []
        self._scratch = scratch
        self._new: list[Array] = []
        self._rows = 0

    def append(self, block: Array) -> None:
        """Take the next block."""
        if self._scratch.folder is None:
            self.blocks.append(block)
            return
        self._new.append(block)
        self._rows += len(block)
        if self._rows >= _ROWS:
            self.close()

    def close(self) -> None:
        """Put what is still in memory to its place."""
        for _, group in itertools.groupby(self._new, key=lambda block: block.dtype.kind):
            self.blocks.append(join(list(group), self._scratch))
        self._new, self._rows = [], 0


def join(blocks: Sequence[Array], scratch: Scratch, dtype: npt.DTypeLike | None = None) -> Array:
    """One array of at least one block, of the dtype that holds all of them or the given one, in scratch."""
    kind = np.result_type(*blocks) if dtype is None else np.dtype(dtype)
    if len(blocks) == 1 and blocks[0].dtype == kind:
        return blocks[0]
    out = scratch.empty(sum(map(len, blocks)), kind)
    at = 0
    for block in blocks:
        for piece in pieces(block):
            out[at : at + len(piece)] = piece
            at += len(piece)
    return out


def pieces(values: Array) -> Iterator[Array]:
    """A column in runs of rows that fit into memory."""
    for low, high in cut(len(values), _ROWS, len(values) // _ROWS + 1):
        yield values[low:high]


def unique(values: Array) -> Array:
    """The values, ascending, each once, without a copy of all of them."""
    found: list[Array] = []
    for piece in pieces(values):
        found.append(sorted_unique(piece))
        if len(found) >= _GATHERED:
            found = [sorted_unique(np.concatenate(found))]
    return sorted_unique(np.concatenate(found)) if found else values[:0].copy()
