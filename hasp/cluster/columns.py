"""Columns: arrays of a graph that stay in their Parquet tables, and are read a piece at a time wherever they are needed.

On the builder such an array is a tensor on torch's ``meta`` device: it has a type and a shape, and no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hasp.errors import InvalidGraph
from hasp.parallel import blocks
from hasp.part import numpy_ids
from hasp.scratch import MEMORY
from hasp.sources.columns import Array, Table, read_table
from hasp.sources.edges import place_ends
from hasp.sources.ids import IdMap
from hasp.sources.stream import Rows
from hasp.sources.tables import attributes, numbered

__all__ = ["Attribute", "Chunk", "Column", "End", "chunks", "lazy_attributes", "read"]


class End(NamedTuple):
    """A column of ids, which become positions.

    Attributes:
        column: its name.
        node_type: whose ids they are.
        where: what it is called in an error.
    """

    column: str
    node_type: str
    where: str


class Attribute(NamedTuple):
    """An attribute: one column, or several side by side.

    Attributes:
        name: of the attribute.
        columns: that it is made of.
        dtype: of the array, as NumPy writes it.
        shape: of a row.
    """

    name: str
    columns: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Column:
    """Where the rows of an array are.

    Attributes:
        rows: the table.
        recipe: what they are in it.
    """

    rows: Rows
    recipe: End | Attribute


@dataclass(frozen=True)
class Chunk:
    """Rows of the arrays of one node type or edge type; small enough to be sent.

    Attributes:
        first: the row that they begin with.
        rows: how many.
        piece: of the Parquet table; ``None`` if every array is in :attr:`given`.
        recipes: label -> what to read from :attr:`piece`.
        given: label -> these rows, of arrays that the builder holds.
    """

    first: int
    rows: int
    piece: Rows | None
    recipes: Mapping[str, End | Attribute] = field(default_factory=dict)
    given: Mapping[str, Array] = field(default_factory=dict)

    @property
    def owners(self) -> list[str]:
        """The node types whose ids have to be looked up."""
        return list(dict.fromkeys(r.node_type for r in self.recipes.values() if isinstance(r, End)))


def lazy_attributes(
    rows: Rows, names: Sequence[str], label: str, left: list[str], keep: Callable[[Tensor, Column], None]
) -> dict[str, Tensor]:
    """The attributes of a table: those whose type its files tell as ``meta`` tensors, the others read now.

    Args:
        rows: the table.
        names: the columns that are neither ids nor readable names.
        label: the node or edge type, for messages.
        left: gets ``<label>.<column>`` of every column that holds text.
        keep: told of every ``meta`` tensor and its column.

    Returns:
        As :func:`hasp.sources.tables.attributes`, in the same order.
    """
    text = [name for name in names if rows.is_text(name)]
    kinds = {name: rows.kind(name) for name in names if name not in text}
    whole = [name for name, kind in kinds.items() if kind is None]
    found = read_table(rows.path, only=whole) if whole else Table(rows.path, rows.rows)
    probe = {
        n: found.columns[n][:0] if k is None else np.empty((0, *k[1]), k[0]) for n, k in kinds.items() if _holds(n, k, found)
    }
    groups = numbered(probe)
    # Columns that stand side by side are read in one way: all now, if one has to be.
    more = [n for members in groups.values() if set(members) & set(whole) for n in members if n not in whole]
    if more:
        found.columns |= read_table(rows.path, only=more).columns
    now = {name: found.columns[name] for name in probe if name in found.columns}
    made = attributes(Table(rows.path, rows.rows, now, [], typed=True), label, [])
    out: dict[str, Tensor] = {}
    table = Table(rows.path, 0, dict(probe), [*text, *found.text], typed=True)
    table.text.sort(key=rows.names.index)
    for name, value in attributes(table, label, left).items():
        if name in made:
            out[name] = made[name]
            continue
        out[name] = torch.empty((rows.rows, *value.shape[1:]), dtype=value.dtype, device="meta")
        kind = str(value.numpy().dtype)
        keep(out[name], Column(rows, Attribute(name, tuple(groups.get(name, [name])), kind, tuple(value.shape[1:]))))
    return out


def _holds(name: str, kind: Any, found: Table) -> bool:
    """Whether a column became numbers."""
    return kind is not None or name in found.columns


def chunks(arrays: Mapping[str, Tensor], count: int, columns: Mapping[int, Column], size: int) -> list[Chunk]:
    """Cut the arrays of one type into chunks of about ``size`` rows; there is one even if there are no rows.

    Args:
        arrays: label -> array ``[count, ...]``.
        count: rows.
        columns: ``id`` of an array -> its column, of those that are in tables.
        size: rows of a chunk.
    """
    recipes = {label: columns[id(v)].recipe for label, v in arrays.items() if id(v) in columns}
    own = {label: v for label, v in arrays.items() if label not in recipes}
    if not count:
        given = {k: np.empty((0, *v.shape[1:]), _numpy(v.dtype)) for k, v in arrays.items()}
        return [Chunk(0, 0, None, {}, given)]
    if not recipes:
        return [Chunk(a, b - a, None, {}, {k: v[a:b].numpy() for k, v in own.items()}) for a, b in blocks(count, size, count)]
    table = columns[id(next(arrays[label] for label in recipes))].rows
    out = []
    for first, piece in table.pieces(size):
        given = {k: v[first : first + piece.rows].numpy() for k, v in own.items()}
        out.append(Chunk(first, piece.rows, piece, recipes, given))
    return out


def read(chunk: Chunk, *maps: IdMap) -> dict[str, Array]:
    """The rows of a chunk: label -> ``[rows, ...]``. ``maps``: the ids of its :attr:`Chunk.owners`.

    Raises:
        InvalidGraph: an edge ends in a node that is not there, or the files of a table disagree.
    """
    out = dict(chunk.given)
    if chunk.piece is None:
        return out
    own = dict(zip(chunk.owners, maps, strict=True))
    ends = {label: r for label, r in chunk.recipes.items() if isinstance(r, End)}
    if ends:
        out |= {label: np.empty(chunk.rows, numpy_ids(len(own[r.node_type]))) for label, r in ends.items()}
        names, where = ([r[i] for r in ends.values()] for i in (0, 2))
        ids = [own[r.node_type] for r in ends.values()]
        place_ends(chunk.piece, names, ids, where, [out[label] for label in ends], chunk.first)
    wanted = {label: r for label, r in chunk.recipes.items() if isinstance(r, Attribute)}
    if wanted:
        names = list(dict.fromkeys(name for r in wanted.values() for name in r.columns))
        columns, rest = chunk.piece.attributes(names, MEMORY)
        table = Table(chunk.piece.path, chunk.rows, columns, rest, typed=True)
        made = {} if rest else attributes(table, "", [])
        for label, r in wanted.items():
            value = made[r.name].numpy() if r.name in made else np.empty((0, 0))
            if str(value.dtype) != r.dtype or value.shape[1:] != r.shape:
                raise InvalidGraph(
                    f"{chunk.piece.path}: the attribute {r.name!r} is {r.dtype} {r.shape} in every row, got {value.dtype} "
                    f"{value.shape[1:]} from row {chunk.first} on; write the table again"
                )
            out[label] = value
    return out


def _numpy(dtype: torch.dtype) -> np.dtype[Any]:
    return torch.empty(0, dtype=dtype).numpy().dtype
