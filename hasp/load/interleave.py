"""Interleave: put a few edges among many that are in order, by (destination, ``e_id``).

The many are never sorted again. Only the few look for their places; between these the many are moved as runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hasp.rows import room, take_rows, whole_rows

__all__ = ["Places", "sorted_by_destination"]

Ints = npt.NDArray[np.signedinteger[Any]]

_BITS = 63  # of a non-negative int64


@dataclass(frozen=True)
class Places:
    """Where two lists of edges go in the one list of both.

    Attributes:
        first: whether an edge of the result is one of the first list, bool ``[k + c]``; these keep their order.
        place: where the edges of the second list go, ascending, int64 ``[c]``.
        order: which edge of the second list goes to each of these places, int64 ``[c]``.
    """

    first: npt.NDArray[np.bool_]
    place: npt.NDArray[np.int64]
    order: npt.NDArray[np.int64]

    @classmethod
    def of(cls, destination: Ints, e_id: Ints, more_destination: Ints, more_e_id: Ints) -> Places:
        """The places of two lists.

        Args:
            destination: of the first list, which is sorted by (destination, ``e_id``), ``[k]``.
            e_id: of the first list, ``[k]``.
            more_destination: of the second list, in any order, ``[c]``.
            more_e_id: of the second list, ``[c]``.
        """
        most = [
            max(int(a.max(initial=0)), int(b.max(initial=0))) for a, b in ((destination, more_destination), (e_id, more_e_id))
        ]
        if sum(value.bit_length() for value in most) > _BITS:
            every = sorted_by_destination(np.concatenate([destination, more_destination]), np.concatenate([e_id, more_e_id]))
            first = every < destination.size
            return cls(first, np.flatnonzero(~first), every[~first] - destination.size)
        width = most[1].bit_length()
        key, more = (np.left_shift(d, width, dtype=np.int64) for d in (destination, more_destination))
        key |= e_id
        more |= more_e_id
        order = np.argsort(more, kind="stable")
        place = np.searchsorted(key, more[order])
        place += np.arange(order.size)
        first = np.ones(destination.size + order.size, dtype=np.bool_)
        first[place] = False
        return cls(first, place, order)

    def put(self, values: Any, more: Any, out: Any) -> None:
        """Write both lists to ``out``, whatever the numbers are: arrays ``[k]``, ``[c]``, ``[k + c]``."""
        out[self.first] = values
        out[self.place] = more[self.order]

    def rows(self, values: Tensor, more: Tensor) -> Tensor:
        """Rows of an attribute of both lists, ``[k, ...]`` and ``[c, ...]``, as one, ``[k + c, ...]``."""
        out = room(values, self.first.size)
        target = whole_rows(out)
        target[self.first] = whole_rows(values)
        target[self.place] = whole_rows(take_rows(more, torch.from_numpy(self.order)))
        return out


def sorted_by_destination(destination: npt.NDArray[Any], e_id: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The permutation that sorts edges by (destination, ``e_id``), int64 ``[e]``.

    What comes in is a few sorted runs, one per part and per pair of parts; NumPy's stable sort merges runs in linear time.
    """
    if destination.size == 0:
        return np.empty(0, dtype=np.int64)
    span = int(e_id.max()) + 1
    if (int(destination.max()) + 1) * span < 2**63:
        key = destination.astype(np.int64) * span + e_id
        return np.argsort(key, kind="stable").astype(np.int64, copy=False)
    order = np.argsort(e_id, kind="stable")
    return order[np.argsort(destination[order], kind="stable")].astype(np.int64, copy=False)
