"""Marks: which of the ids ``0..n-1`` were met, and which of them again."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Marks"]


class Marks:
    """A bit per id.

    Args:
        count: of ids.
        kernel: three times as fast, but for numba, which takes half a second to wake up.
    """

    def __init__(self, count: int, kernel: bool = False) -> None:
        self.count, self._kernel = count, kernel
        self._words = np.zeros(-(-count // 8), dtype=np.uint8)
        if count % 8:
            self._words[-1] = 256 - (1 << count % 8)  # what is beyond the last id is not missing

    def add(self, ids: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
        """Mark ids, each of them in ``0..count-1``.

        Returns:
            The positions in ``ids`` of those that were marked before this call, ascending.
        """
        fresh = 0
        if self._kernel:
            from hasp.kernels.verify import mark

            fresh = mark(self._words, ids)
            if fresh == ids.size:
                return np.empty(0, np.int64)
        # One was marked before, or is twice among these: back to the start, and slowly.
        word, bit = ids >> 3, np.uint8(1) << (ids & 7).astype(np.uint8)
        np.bitwise_and.at(self._words, word[:fresh], ~bit[:fresh])
        again = np.flatnonzero(self._words[word] & bit)
        np.bitwise_or.at(self._words, word, bit)
        return again

    def missing(self) -> tuple[int, int]:
        """How many ids were not marked, and the first of them (0 if there is none)."""
        gaps = np.flatnonzero(self._words != 255)
        if not gaps.size:
            return 0, 0
        bits = np.unpackbits(self._words[gaps], bitorder="little")
        return bits.size - int(np.count_nonzero(bits)), int(8 * gaps[0] + bits.argmin())
