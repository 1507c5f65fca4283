"""Edge tables: the ids of both ends become positions, in memory or in scratch files, without all rows at once in memory."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from hasp.errors import InvalidGraph
from hasp.part import numpy_ids
from hasp.schema import EdgeType
from hasp.scratch import MEMORY, Scratch
from hasp.sources.columns import Array, Table, read_table
from hasp.sources.ids import Bad, IdMap, sorted_unique
from hasp.sources.spool import pieces, unique
from hasp.sources.stream import Block, Rows

__all__ = ["ENDS", "EdgeTable", "end_names", "open_edges", "place_ends", "pop", "rest_of", "where_of"]

ENDS = (("src", "dst"), ("source", "target"), ("source", "destination"))
"""What the two columns of ids may be called."""

_END_NAMES = tuple(dict.fromkeys(name for pair in ENDS for name in pair))
_GATHERED = 16  # row groups whose ids are made unique together


class EdgeTable(Protocol):
    """One edge table, opened."""

    path: Path
    rows: int
    typed: bool

    def unique(self, side: int) -> Array:
        """The ids of the sources (0) or destinations (1), ascending, each once."""

    def positions(self, maps: Mapping[str, IdMap], edge_type: EdgeType, scratch: Scratch) -> tuple[Tensor, Tensor]:
        """Positions of sources and destinations among the nodes of their types, int32 (int64 past ``2**31``) ``[rows]``."""

    def rest(self, scratch: Scratch) -> Table:
        """Every other column."""


def open_edges(path: Path, scratch: Scratch = MEMORY, ends: tuple[str, str] | None = None) -> EdgeTable:
    """Open an edge table: Parquet is read a block of rows at a time when asked, CSV now, into ``scratch``.

    Raises:
        InvalidGraph: the file is broken, or has no columns of ids.
    """
    rows = Rows.open(path) if path.name.endswith(".parquet") else None
    if rows is not None and all(rows.may_be_ids(name) for name in end_names(path, rows.names, ends)):
        return _Streamed(rows, ends)
    return _Whole(read_table(path, ids=ends or _END_NAMES, scratch=scratch), ends)


def end_names(path: Path, names: list[str], ends: tuple[str, str] | None = None) -> tuple[str, str]:
    """The two columns of ids among ``names``: ``ends``, or one of :data:`ENDS`."""
    for pair in ENDS if ends is None else (ends,):
        if pair[0] in names and pair[1] in names:
            return pair
    wanted = ends or ENDS[0]
    for name in wanted:
        if name not in names:
            raise _missing(path, name, "an edge table", names)
    return wanted


def pop(table: Table, name: str, what: str) -> Array:
    """Take a column out of a table. Raises :class:`InvalidGraph` where it has none of this name."""
    if name not in table.columns:
        raise _missing(table.path, name, what, [*table.columns, *table.text])
    return table.columns.pop(name)


def _missing(path: Path, name: str, what: str, names: list[str]) -> InvalidGraph:
    return InvalidGraph(f"{path}: {what} has a column {name!r}, got {names}; rename or add it")


class _Whole:
    """A table that has been read, into memory or scratch."""

    def __init__(self, table: Table, ends: tuple[str, str] | None = None) -> None:
        self.path, self.rows, self.typed = table.path, table.rows, table.typed
        self._table, self._ends = table, ends
        names = end_names(table.path, [*table.columns, *table.text], ends)
        self._ids = [pop(table, name, "an edge table") for name in names]

    def unique(self, side: int) -> Array:
        return unique(self._ids[side])

    def positions(self, maps: Mapping[str, IdMap], edge_type: EdgeType, scratch: Scratch) -> tuple[Tensor, Tensor]:
        out = []
        for side in (0, 1):
            ids, where = maps[edge_type[2 * side]], where_of(self.path, edge_type, side, self._ends)
            values, at = self._ids.pop(0), 0
            found: list[Bad] = []
            target = scratch.empty(self.rows, numpy_ids(len(ids)))
            for piece in pieces(values):
                found.append(ids.place(piece, where, self.typed, target[at : at + len(piece)], at))
                at += len(piece)
            ids.refuse(found, self.rows, where)
            out.append(torch.from_numpy(target))
        return out[0], out[1]

    def rest(self, scratch: Scratch) -> Table:
        return self._table


class _Streamed:
    """A Parquet table, read a block of rows at a time."""

    typed = True

    def __init__(self, rows: Rows, ends: tuple[str, str] | None = None) -> None:
        self.path, self.rows = rows.path, rows.rows
        self._rows, self._ends = rows, ends
        self._names = end_names(rows.path, rows.names, ends)

    def unique(self, side: int) -> Array:
        name = self._names[side]
        found: list[Array] = []
        mutex = threading.Lock()

        def look(first: int, block: Block) -> None:
            ids = sorted_unique(self._rows.ids(block, name, first))
            with mutex:
                found.append(ids)
                if len(found) >= _GATHERED:
                    found[:] = [sorted_unique(np.concatenate(found))]

        self._rows.visit([name], look)
        return sorted_unique(np.concatenate(found)) if found else np.empty(0, np.int64)

    def positions(self, maps: Mapping[str, IdMap], edge_type: EdgeType, scratch: Scratch) -> tuple[Tensor, Tensor]:
        own = [maps[edge_type[2 * side]] for side in (0, 1)]
        out = [scratch.empty(self.rows, numpy_ids(len(ids))) for ids in own]
        for ids in own:
            ids.prepare()
        where = [where_of(self.path, edge_type, side, self._ends) for side in (0, 1)]
        place_ends(self._rows, self._names, own, where, out)
        return torch.from_numpy(out[0]), torch.from_numpy(out[1])

    def rest(self, scratch: Scratch) -> Table:
        names = [n for n in self._rows.names if n not in self._names]
        return rest_of(self._rows, names, scratch)


def rest_of(rows: Rows, names: list[str], scratch: Scratch) -> Table:
    """These columns of a Parquet table: numbers into scratch, what depends on the rows through memory, text by name."""
    text = [name for name in names if rows.is_text(name)]
    columns, left = rows.attributes([n for n in names if n not in text], scratch)
    table = Table(rows.path, rows.rows, columns, typed=True)
    if left:
        small = read_table(rows.path, only=left)
        table.columns |= small.columns
        text += small.text
    order = {name: at for at, name in enumerate(rows.names)}
    table.columns = {name: table.columns[name] for name in sorted(table.columns, key=lambda n: order[n])}
    table.text = sorted(text, key=lambda n: order[n])
    return table


def place_ends(
    rows: Rows, names: Sequence[str], maps: Sequence[IdMap], where: Sequence[str], out: Sequence[Array], first: int = 0
) -> None:
    """Columns of ids as positions, in one pass over a Parquet table.

    Args:
        rows: the table, or a piece of one.
        names: of the columns.
        maps: the ids of each column's node type, prepared (:meth:`hasp.sources.ids.IdMap.prepare`).
        where: what each column is called in an error.
        out: gets the positions of each column, ``[rows]``.
        first: the row of the whole table that the piece begins with.

    Raises:
        InvalidGraph: a value is no id of its type.
    """

    def place(at: int, block: Block) -> list[Bad]:
        bad = []
        for name, ids, label, target in zip(names, maps, where, out, strict=True):
            text = rows.text(block, name) if ids.ids.dtype.kind == "U" else None
            window = target[at : at + len(block[name])]
            if text is not None:
                bad.append(ids.place_text(text, window, first + at))
            else:
                bad.append(ids.place(rows.ids(block, name, first + at), label, True, window, first + at))
        return bad

    results = list(rows.visit(names, place))
    for column, (ids, label) in enumerate(zip(maps, where, strict=True)):
        ids.refuse([bad[column] for bad in results], rows.rows, label)


def where_of(path: Path, edge_type: EdgeType, side: int, ends: tuple[str, str] | None = None) -> str:
    """What the sources (0) or destinations (1) of an edge table are called in an error: by the column where it is given."""
    if ends is not None:
        return f"{path}, column {ends[side]!r}"
    return f"{path}, {edge_type[2 * side]!r} as {('source', 'destination')[side]}"
