"""Parquet a block of rows at a time: what is read goes to its place at once, so that a table never is in memory whole.

Row groups are dealt out to threads. A block's place follows from its rows alone, so that their number never shows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from hasp.errors import InvalidGraph
from hasp.parallel import run
from hasp.scratch import MEMORY, Scratch, scratch_folder
from hasp.sizes import available_memory
from hasp.sources.columns import Array, check_header
from hasp.sources.ids import Text
from hasp.sources.parquet import id_values, is_text, numbers, parquet_file, pyarrow, reading

__all__ = ["READ_SPILL", "Rows", "room_for"]

READ_SPILL = 0.2
"""Share of the free memory above which what is read from Parquet goes to scratch files."""

_ROWS = 1 << 20  # of a block
_PACKED = 4  # times smaller: a .csv.gz

R = TypeVar("R")
Block = Mapping[str, Any]
"""Name -> pyarrow array of one block of rows."""


@dataclass(frozen=True)
class _Group:
    """One row group: its file, its number there, and the row of the table that it begins with."""

    file: int
    number: int
    first: int


class Rows:
    """The rows of a Parquet file, or of a folder of such files with the same columns.

    Args:
        path: the file or folder.

    Attributes:
        path: the same.
        rows: how many there are.
        names: of the columns.

    Raises:
        InvalidGraph: a file is cut short, or two columns have one name; or pyarrow is missing.
    """

    def __init__(self, path: Path) -> None:
        self._pa = pyarrow()[0]
        self.path = path
        self._files = [path] if path.is_file() else sorted(p for p in path.iterdir() if not p.name.startswith((".", "_")))
        self._meta: list[Any] = []
        self._groups: list[_Group] = []
        self._schema: Any = None
        self.rows, self.whole = 0, not self._files
        for number, file in enumerate(self._files):
            with reading(self._pa, path), parquet_file(file) as opened:
                meta, schema = opened.metadata, opened.schema_arrow
            self._meta.append(meta)
            self.whole |= self._schema is not None and not schema.remove_metadata().equals(self._schema.remove_metadata())
            self._schema = schema
            for group in range(meta.num_row_groups):
                self._groups.append(_Group(number, group, self.rows))
                self.rows += meta.row_group(group).num_rows
        self.names: list[str] = [] if self._schema is None else list(self._schema.names)
        check_header(path, self.names)

    @classmethod
    def open(cls, path: Path) -> Rows | None:
        """The rows of ``path``; ``None`` where only :func:`read_parquet` understands it (folders in folders, files whose
        columns differ).
        """
        if path.is_dir() and any(p.is_dir() for p in path.iterdir()):
            return None
        rows = cls(path)
        return None if rows.whole else rows

    def pieces(self, rows: int) -> list[tuple[int, Rows]]:
        """Cut at row groups into tables of at least so many rows (but the last): (first row, table whose rows begin at 0).

        A piece knows its own files alone, so that it is small enough to be sent to another machine.
        """
        out: list[tuple[int, Rows]] = []
        taken: list[_Group] = []
        for at, group in enumerate(self._groups):
            taken.append(group)
            end = self._groups[at + 1].first if at + 1 < len(self._groups) else self.rows
            if end - taken[0].first >= max(rows, 1) or (end == self.rows and end > taken[0].first):
                out.append((taken[0].first, self._piece(taken, end)))
                taken = []
        return out

    def _piece(self, groups: list[_Group], end: int) -> Rows:
        files = sorted({group.file for group in groups})
        piece, first = copy.copy(self), groups[0].first
        piece._files, piece._meta = [self._files[i] for i in files], [self._meta[i] for i in files]
        piece._groups = [_Group(files.index(group.file), group.number, group.first - first) for group in groups]
        piece.rows = end - first
        return piece

    def type(self, name: str) -> Any:
        """The pyarrow type of a column, of its values where it is encoded by a dictionary."""
        kind = self._schema.field(name).type
        return kind.value_type if self._pa.types.is_dictionary(kind) else kind

    def visit(self, names: Sequence[str], task: Callable[[int, Block], R], threads: int = 0) -> Iterable[R]:
        """Call ``task(first row, block)`` for all blocks of these columns, on several threads; the results in row order."""

        def group(item: _Group) -> list[R]:
            out, first = [], item.first
            with reading(self._pa, self.path), parquet_file(self._files[item.file], self._meta[item.file]) as file:
                for batch in file.iter_batches(_ROWS, row_groups=[item.number], columns=list(names), use_threads=False):
                    out.append(task(first, {name: self._plain(batch.column(name)) for name in names}))
                    first += batch.num_rows
            return out

        return [result for results in run(group, self._groups, threads) for result in results]

    def _plain(self, column: Any) -> Any:
        return column.dictionary_decode() if self._pa.types.is_dictionary(column.type) else column

    def ids(self, block: Block, name: str, first: int) -> Array:
        """A column of ids of a block: int64 or text."""
        return id_values(self._pa, self.path, name, block[name], first)

    def text(self, block: Block, name: str) -> Text | None:
        """A column of text of a block as it lies in memory; ``None`` for a column of something else, or with gaps."""
        column = block[name]
        if not self.is_text(name) or column.null_count or not len(column):
            return None
        column = column.cast(self._pa.large_string())
        _, ptr, data = column.buffers()
        offsets = np.frombuffer(ptr, np.int64)[column.offset : column.offset + len(column) + 1]
        return Text(np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8), offsets)

    def may_be_ids(self, name: str) -> bool:
        """Whether each block of a column gives ids of one kind (whole numbers past int64 become text, all or none)."""
        return bool(self.type(name) != self._pa.uint64())

    def attributes(self, names: Iterable[str], scratch: Scratch) -> tuple[dict[str, Array], list[str]]:
        """Columns of numbers, whose type does not depend on the rows, ``[rows, ...]``; and the columns that are not such."""
        out: dict[str, Array] = {}
        rest = []
        for name in names:
            kind = self.kind(name)
            if kind is None:
                rest.append(name)
            else:
                out[name] = scratch.empty((self.rows, *kind[1]), kind[0])

        def put(first: int, block: Block) -> None:
            for name, target in out.items():
                values = numbers(self._pa, self.path, name, block[name])
                assert values is not None
                if values.shape[1:] != target.shape[1:]:
                    raise InvalidGraph(
                        f"{self.path}: the lists of column {name!r} have one length, got {target.shape[1:]} and "
                        f"{values.shape[1:]} from row {first} on; pad them"
                    )
                target[first : first + len(values)] = values

        if out and self.rows:
            self.visit(list(out), put)
        return out, rest

    def is_text(self, name: str) -> bool:
        """Whether a column holds text."""
        return is_text(self._pa, self.type(name))

    def kind(self, name: str) -> tuple[npt.DTypeLike, tuple[int, ...]] | None:
        """Type and trailing shape of a column of numbers; ``None`` where they depend on what the rows hold."""
        types, kind = self._pa.types, self._schema.field(name).type
        shape: list[int] = []
        while types.is_fixed_size_list(kind):
            shape.append(kind.list_size)
            kind = kind.value_type
        if types.is_list(kind) or types.is_large_list(kind):
            if not self.rows:
                return None
            first = self._first(name)
            return None if first is None or first.dtype.kind != "f" else (first.dtype, first.shape[1:])
        if types.is_floating(kind):
            return np.dtype(f"f{kind.bit_width // 8}"), tuple(shape)
        moment = types.is_timestamp(kind) or types.is_date64(kind)
        if not (types.is_integer(kind) or types.is_boolean(kind) or moment) or not self._full(name):
            return None
        if moment:
            return np.int64, tuple(shape)
        letter = "u" if types.is_unsigned_integer(kind) else "i"
        dtype = np.dtype(np.bool_ if types.is_boolean(kind) else f"{letter}{kind.bit_width // 8}")
        if dtype.kind == "u" and dtype != np.uint8:  # as read_parquet: torch computes with uint8 only
            dtype = np.dtype(np.int32 if dtype == np.uint16 else np.int64)
        return dtype, tuple(shape)

    def _first(self, name: str) -> Array | None:
        with reading(self._pa, self.path), parquet_file(self._files[self._groups[0].file]) as file:
            batch = next(file.iter_batches(1, columns=[name]))
        return numbers(self._pa, self.path, name, batch.column(name))

    def _full(self, name: str) -> bool:
        """Whether the files themselves say that nothing is missing in a column."""
        for meta in self._meta:
            for group in range(meta.num_row_groups):
                row_group = meta.row_group(group)
                for number in range(row_group.num_columns):
                    column = row_group.column(number)
                    if column.path_in_schema.split(".")[0] == name.split(".")[0]:
                        known = column.statistics
                        if known is None or not known.has_null_count or known.null_count:
                            return False
        return True


def room_for(paths: Iterable[Path]) -> Scratch:
    """Memory, or files if the tables are large for the memory at hand (as they lie on disk, unpacked, or are counted)."""
    sizes, free = 0, available_memory()
    for path in paths:
        if path.name.endswith(".parquet"):
            rows = Rows.open(path)
            files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
            sizes += max(sum(p.stat().st_size for p in files), 0 if rows is None else 8 * rows.rows)
        else:
            sizes += path.stat().st_size * (_PACKED if path.name.endswith(".gz") else 1)
    return Scratch(scratch_folder()) if free is not None and sizes > READ_SPILL * free else MEMORY
