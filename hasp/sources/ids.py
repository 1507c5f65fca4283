"""The user's own ids -> ``0..N-1``, by sorting: no Python dict, so a million ids cost megabytes and not gigabytes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hasp.errors import InvalidGraph

__all__ = ["Bad", "IdMap", "Text", "sorted_unique"]

Array = npt.NDArray[Any]
Places = npt.NDArray[np.int64]

_MANY = 1 << 16  # ids from which a hash table pays


def sorted_unique(values: Array) -> Array:
    """``np.unique`` by sorting. NumPy 2.4 hashes whole numbers instead: 80 times slower for a million here."""
    values = np.sort(values)
    first = np.ones(len(values), np.bool_)
    first[1:] = values[1:] != values[:-1]
    return values[first]


class IdMap:
    """Where each id of a node type stands.

    Args:
        ids: int64 or text ``[N]``, each once.
        where: the file and column, for messages.
        node_type: the node type, for messages.
        typed: whether the file itself says that its ids are numbers or text.

    Raises:
        InvalidGraph: an id occurs twice; the message names up to five, with their rows.
    """

    def __init__(self, ids: Array, where: str, node_type: str, typed: bool = False) -> None:
        self.ids, self.where, self.node_type, self.typed = ids, where, node_type, typed
        # They count up by ones, from 0 or from anything else: then nothing has to be looked up.
        self._counts = ids.dtype.kind == "i" and bool((ids[1:] - ids[:-1] == 1).all())
        if self._counts and len(ids):
            self._counts = int(ids[-1]) - int(ids[0]) == len(ids) - 1  # a difference may wrap
        self.is_range = self._counts and not (len(ids) and ids[0])
        self._order: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._slots: npt.NDArray[np.int32] | None = None
        if not self._counts and not self._hash():
            self._sort()

    def __len__(self) -> int:
        return len(self.ids)

    def _hash(self) -> bool:
        """Make the hash table, for many whole numbers; not for few, whose sorting is faster than loading a kernel."""
        if self.ids.dtype.kind != "i" or not _MANY <= len(self.ids) <= np.iinfo(np.int32).max:
            return False
        from hasp.kernels.ids import fill_slots

        low, high = int(self.ids.min()), int(self.ids.max())
        if high - low < 8 * len(self.ids):  # dense: see _table
            return False
        self.ids = self.ids.astype(np.int64, copy=False)
        slots = np.full(1 << (2 * len(self.ids)).bit_length(), -1, np.int32)
        if fill_slots(self.ids, slots):
            self._slots = slots
        return self._slots is not None

    def _sort(self) -> None:
        self._order = np.argsort(self.ids, kind="stable")
        self._sorted = self.ids[self._order]
        twice = np.flatnonzero(self._sorted[1:] == self._sorted[:-1])[:5]
        if twice.size:
            text = "; ".join(f"{_show(self._sorted[i])} in rows {self._order[i]} and {self._order[i + 1]}" for i in twice)
            raise InvalidGraph(f"{self.where}: each {self.node_type!r} has its own id, got {text}; remove the copies")

    def find(self, values: Array, where: str, typed: bool = False) -> Tensor:
        """The position of every value, int64 ``[E]``.

        Raises:
            InvalidGraph: a value is no id of this type (up to five are named, with their rows), or one table says that
                ids are numbers and another that they are text.
        """
        out = np.empty(len(values), np.int64)
        self.refuse([self.place(values, where, typed, out)], len(values), where)
        return torch.from_numpy(out)

    def place(self, values: Array, where: str, typed: bool, out: Array, first: int = 0) -> Bad:
        """Write the position of every value into ``out``, of any whole dtype that holds ``len(self)``.

        Args:
            values: a block of a column of ids.
            where: the file and column, for messages.
            typed: whether the file itself says that its ids are numbers or text.
            out: as long as ``values``.
            first: the row of the table that ``values[0]`` stands in.

        Returns:
            How many values are no ids of this type, and the first of them, for :meth:`refuse`.

        Raises:
            InvalidGraph: one table says that ids are numbers and another that they are text.
        """
        if values.dtype.kind != self.ids.dtype.kind and len(values) and len(self.ids):
            if typed and self.typed:
                raise InvalidGraph(
                    f"ids of {self.node_type!r} have one type, but they are {_kind(self.ids)} in {self.where} and "
                    f"{_kind(values)} in {where}; cast one of them"
                )
            if self.ids.dtype.kind == "i":
                return self._as_text.place(values, where, False, out, first)
            values = values.astype(np.str_)  # exact: a CSV column is read as numbers only if text gives them back
        found, ok = self._look_up(values)
        out[:] = found
        if ok is None:
            return Bad(0, [])
        rows = np.flatnonzero(~ok)
        return Bad(rows.size, [(first + int(row), values[row]) for row in rows[:5]])

    def prepare(self) -> None:
        """Make the tables that several threads are about to share."""
        if self.ids.dtype.kind == "U":
            assert self._text
        elif not self._counts and self._slots is None and len(self.ids):
            assert self._table is None or self._table

    def place_text(self, values: Text, out: Array, first: int = 0) -> Bad:
        """:meth:`place` of a block of texts that are no NumPy strings, where the ids are text too."""
        from hasp.kernels.ids import find_text

        own, slots = self._text
        places = np.empty(len(values.ptr) - 1, np.int64)
        missing = find_text(values.data, values.ptr, own.data, own.ptr, slots, places)
        out[:] = places
        rows = np.flatnonzero(places < 0) if missing else ()
        return Bad(len(rows), [(first + int(row), values.item(int(row))) for row in rows[:5]])

    def refuse(self, found: Iterable[Bad], rows: int, where: str) -> None:
        """Raise :class:`InvalidGraph` if any block of a table of so many rows had values that are no ids of this type."""
        blocks = [bad for bad in found if bad.number]
        if blocks:
            text = ", ".join(f"row {row}: {_show(value)}" for row, value in [v for bad in blocks for v in bad.some][:5])
            raise InvalidGraph(
                f"{where}: every edge ends in a node of {self.where}, but {sum(bad.number for bad in blocks):,} of {rows:,} do "
                f"not ({text}); add these {self.node_type!r} nodes or remove the edges"
            )

    @cached_property
    def _text(self) -> tuple[Text, Places]:
        """The ids as bytes, and their hash table."""
        from hasp.kernels.ids import fill_text

        text = Text.of(self.ids)
        slots: Places = np.full(1 << (2 * len(self.ids)).bit_length(), -1, np.int64)
        fill_text(text.data, text.ptr, slots)
        return text, slots

    @cached_property
    def _as_text(self) -> IdMap:
        return IdMap(self.ids.astype(np.str_), self.where, self.node_type)

    @cached_property
    def _table(self) -> tuple[int, npt.NDArray[np.int64]] | None:
        """(lowest id, position of each id above it), where ids lie densely enough: one read instead of a search."""
        low, high = int(self._sorted[0]), int(self._sorted[-1])
        if high - low >= 8 * len(self.ids) + (1 << 16):
            return None
        table = np.full(high - low + 1, -1, np.int64)
        table[self._sorted - low] = self._order
        return low, table

    def _look_up(self, values: Array) -> tuple[Array, npt.NDArray[np.bool_] | None]:
        """Positions, and which values were found; ``None``: all."""
        if not len(self.ids) or not len(values):
            return np.zeros(len(values), np.int64), np.zeros(len(values), np.bool_)
        if self._counts:
            low = int(self.ids[0])
            high = low + len(self.ids) - 1
            if values.min() >= low and values.max() <= high:
                return values - low if low else values, None
            return np.where(values < low, low, values) - low, (values >= low) & (values <= high)
        if self._slots is not None:
            from hasp.kernels.ids import find_slots

            places = np.empty(len(values), np.int64)
            missing = find_slots(values.astype(np.int64, copy=False), self.ids, self._slots, places)
            return places, places >= 0 if missing else None
        if self.ids.dtype.kind == "i" and self._table is not None:
            low, table = self._table
            if values.min() >= low and values.max() <= low + len(table) - 1:
                found = table[values - low]
                return found, None if found.min() >= 0 else found >= 0
            inside = (values >= low) & (values <= low + len(table) - 1)
            found = table[np.where(inside, values - low, 0)]
            ok = inside & (found >= 0)
            return found, None if ok.all() else ok
        at = np.searchsorted(self._sorted, values).clip(max=len(self.ids) - 1)
        ok = self._sorted[at] == values
        return self._order[at], None if ok.all() else ok


class Text(NamedTuple):
    """Texts side by side.

    Attributes:
        data: their UTF-8, uint8.
        ptr: int32 or int64 ``[n + 1]``: text ``i`` is ``data[ptr[i]:ptr[i + 1]]``.
    """

    data: npt.NDArray[np.uint8]
    ptr: npt.NDArray[np.signedinteger[Any]]

    @classmethod
    def of(cls, strings: Array) -> Text:
        """NumPy strings, a block at a time: as Python's own they take several times the room."""
        blocks, lengths = [], [np.zeros(1, np.int64)]
        for low in range(0, len(strings), _MANY):
            encoded = [s.encode() for s in strings[low : low + _MANY].tolist()]
            blocks.append(np.frombuffer(b"".join(encoded), np.uint8))
            lengths.append(np.fromiter(map(len, encoded), np.int64, len(encoded)))
        data = np.concatenate(blocks) if blocks else np.empty(0, np.uint8)
        return cls(data, np.cumsum(np.concatenate(lengths)))

    def item(self, row: int) -> str:
        """One of them."""
        return self.data[self.ptr[row] : self.ptr[row + 1]].tobytes().decode()


class Bad(NamedTuple):
    """Values of a block that are no ids.

    Attributes:
        number: how many.
        some: up to five of them, each with its row.
    """

    number: int
    some: list[tuple[int, Any]]


def _show(value: Any) -> str:
    return repr(value.item() if isinstance(value, np.generic) else value)


def _kind(ids: Array) -> str:
    return "whole numbers" if ids.dtype.kind == "i" else "text"
