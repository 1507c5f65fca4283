"""Pairs: those of a batch's rows that edges join, in a hash table; which of them supervise, and which edge stands for each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Pairs", "Share", "ascending"]

Ints = npt.NDArray[np.int64]
AnyInts = npt.NDArray[np.signedinteger[Any]]

_BITS = 63  # of a non-negative int64
_NONE = np.empty(0, dtype=np.int64)


def ascending(values: AnyInts) -> Ints:
    """The stable order that sorts some numbers >= 0, int64. Where a number and its place fit into one, these are sorted, which
    takes a fraction of the time of ``argsort``.
    """
    bits = int(values.size).bit_length()
    if int(values.max(initial=0)).bit_length() + bits > _BITS:
        return np.argsort(values, kind="stable")
    out = values.astype(np.int64)
    out <<= bits
    out |= np.arange(values.size)
    out.sort()
    out &= (1 << bits) - 1
    return out


@dataclass(frozen=True)
class Share:
    """Which pairs supervise in an epoch: a hash of their GLOBAL ids tells, so that every batch that has a pair agrees.

    Attributes:
        key: of the hash.
        ratio: the share of all pairs, 0 to 1.
        source_id: global ids of the rows of the source's type.
        destination_id: likewise of the destination's.
    """

    key: np.uint64 = field(default=np.uint64(0))
    ratio: float = 1.0
    source_id: AnyInts = field(default_factory=lambda: _NONE)
    destination_id: AnyInts = field(default_factory=lambda: _NONE)

    def arguments(self) -> tuple[np.uint64, float, AnyInts, AnyInts]:
        """As the kernels take them."""
        return self.key, float(self.ratio), self.source_id, self.destination_id


class Pairs:
    """A set of pairs ``(source, destination)`` of rows.

    Args:
        room: as many pairs may be added, equal ones counted each time.
        num_source: nodes of the source's type in the batch.
        num_destination: nodes of the destination's type.
        same_type: both ends are of one type; then a pair has no direction, and no row makes a pair with itself.
    """

    def __init__(self, room: int, num_source: int, num_destination: int, same_type: bool) -> None:
        bits = max((2 * room - 1).bit_length(), 4)
        self._keys = np.full(1 << bits, -1, dtype=np.int64)
        self._first = np.empty(1 << bits, dtype=np.int32 if room < 1 << 31 else np.int64)
        self._slots = np.empty(room + 1, dtype=self._first.dtype)
        self._shift, self._free, self._count, self._edges = np.uint64(64 - bits), room, 0, 0
        self.num_source, self.num_destination, self.same_type = num_source, num_destination, same_type
        self._table = self._keys, self._shift
        self._sorted: Ints | None = None

    def add(self, source: AnyInts, destination: AnyInts) -> None:
        """Add pairs, ``[m]`` rows each; those that are there already are left as they are."""
        from hasp.kernels import pairs as kernel

        self._take_room(source.size)
        width, loose = self.num_destination, self.same_type
        self._count = kernel.add(*self._table, self._slots, self._count, self._first, source, destination, width, loose)

    def add_edges(self, source: AnyInts, destination: AnyInts, e_id: AnyInts, share: Share | None = None) -> None:
        """Add, before all others, the pairs of edges, or those that supervise; for each stands its smallest ``e_id``."""
        from hasp.kernels import pairs as kernel

        self._take_room(source.size)
        which = (share or Share()).arguments()
        width, loose = self.num_destination, self.same_type
        self._edges = kernel.add_first(*self._table, self._slots, self._first, source, destination, e_id, width, loose, *which)
        self._count = self._edges

    def first_edges(self, source: AnyInts, destination: AnyInts, e_id: AnyInts, share: Share | None = None) -> Ints:
        """Of the edges given to :meth:`add_edges`, those that stand for pairs that supervise: columns by ``e_id``."""
        from hasp.kernels import pairs as kernel

        slots, which = self._slots[: self._edges], (share or Share()).arguments()
        out = np.empty(slots.size + 1, dtype=np.int64)
        out = out[: kernel.first_edges(slots, self._first, source, destination, self.same_type, *which, out)]
        return out[ascending(e_id[out])]

    def rest(self, source: AnyInts, destination: AnyInts, share: Share) -> Ints:
        """The edges, columns ascending, of pairs that do not supervise."""
        from hasp.kernels import pairs as kernel

        out = np.empty(source.size, dtype=np.int64)
        width, loose = self.num_destination, self.same_type
        return out[: kernel.rest(*self._table, self._first, source, destination, width, loose, *share.arguments(), out)]

    def has(self, source: AnyInts, destination: AnyInts) -> npt.NDArray[np.bool_]:
        """Whether each pair is in the set, or no pair at all, bool ``[m]``."""
        from hasp.kernels import pairs as kernel

        out = np.empty(source.size, dtype=bool)
        kernel.has(*self._table, source, destination, self.num_destination, self.same_type, out)
        return out

    def __contains__(self, pair: tuple[int, int]) -> bool:
        return bool(self.has(np.array([pair[0]]), np.array([pair[1]]))[0])

    @property
    def size(self) -> int:
        """How many of the ``num_source * num_destination`` ordered pairs are in the set, or are no pairs."""
        return 2 * self._count + self.num_source if self.same_type else self._count

    @property
    def ordered(self) -> Ints:
        """All of these, ``source * num_destination + destination``, ascending; not for every batch, for it sorts."""
        if self._sorted is None:
            keys = self._keys[self._slots[: self._count]]
            if self.same_type and self.num_source:
                low, high = keys // self.num_destination, keys % self.num_destination
                loops = np.arange(self.num_source, dtype=np.int64) * (self.num_destination + 1)
                keys = np.concatenate([keys, high * self.num_destination + low, loops])
            keys.sort()
            self._sorted = keys
        return self._sorted

    def draw(self, count: int, most: int, keys: tuple[np.uint64, np.uint64]) -> Ints:
        """Pairs that are not in the set, int64 ``[2, count]`` or fewer: the good ones among the first ``most`` of a stream."""
        from hasp.kernels import pairs as kernel

        out = np.empty((2, count), dtype=np.int64)
        ends = self.num_source, self.num_destination
        return out[:, : kernel.draw(*self._table, *ends, self.same_type, *keys, most, out)]

    def corrupt(self, source: AnyInts, amount: int, turns: npt.NDArray[np.uint64]) -> tuple[Ints, int]:
        """``amount`` free destinations per source, int64 ``[m * amount]``, and how many no turn has found (-1)."""
        from hasp.kernels import pairs as kernel

        out = np.empty(source.size * amount, dtype=np.int64)
        missing = kernel.corrupt(*self._table, source, amount, self.num_destination, self.same_type, turns, out)
        return out, missing

    def _take_room(self, count: int) -> None:
        if count > self._free:  # no assertion, which -O leaves out: kernels would write beside the table
            raise ValueError(f"there is room for {self._free} more pairs, got {count}; make room for all of them at first")
        self._free -= count
        self._sorted = None
