"""One table file in, typed NumPy columns out: CSV (also .csv.gz) with the standard library, Parquet with pyarrow.

CSV has no types, so a column is read by the strictest type that every cell fits, in this order: bool (``True``/``False``,
``true``/``false``), int64 (only as Python would write the number: ``007`` is text), float32 (float64 where a value is
beyond ``2**24``, which float32 cannot count to), text. An empty cell is NaN in a column of numbers. Columns of ids are int64
or text and nothing else, columns of names are always text. Parquet columns keep their own types.
"""

from __future__ import annotations

import csv
import gc
import gzip
import itertools
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from hasp.errors import InvalidGraph
from hasp.scratch import MEMORY, Scratch
from hasp.sources.spool import Spool, join, pieces

__all__ = ["SUFFIXES", "Array", "Table", "collect", "open_rows", "read_table", "split_suffix"]

Array = npt.NDArray[Any]
SUFFIXES = (".parquet", ".csv.gz", ".csv")

_BLOCK = 1 << 14  # rows turned into arrays at a time: Python strings of a whole table would need ten times the file
_FLOAT = frozenset("0123456789+-.eEinfatyNINFATY")
_BOOL = {"True": True, "False": False, "true": True, "false": False}
_EXACT = 2.0**24


@dataclass
class Table:
    """The columns of one file.

    Attributes:
        path: the file, for messages.
        rows: number of rows.
        columns: name -> array ``[rows, ...]``; ids are int64 or text (kind ``U``), names text, the rest numbers.
        text: names of the columns that are neither ids nor names and hold no numbers.
        typed: whether the file itself says what its types are (Parquet).
    """

    path: Path
    rows: int
    columns: dict[str, Array] = field(default_factory=dict)
    text: list[str] = field(default_factory=list)
    typed: bool = False


def split_suffix(path: Path) -> tuple[str, str] | None:
    """``title.csv.gz`` -> ``("title", ".csv.gz")``; ``None`` for a file that is no table."""
    for suffix in SUFFIXES:
        if path.name.endswith(suffix) and not path.name.startswith((".", "_")):
            return path.name[: -len(suffix)], suffix
    return None


def read_table(
    path: Path,
    *,
    ids: Collection[str] = (),
    names: Collection[str] = (),
    only: Collection[str] | None = None,
    scratch: Scratch = MEMORY,
) -> Table:
    """Read one ``.csv``, ``.csv.gz`` or ``.parquet`` file (or a folder ``*.parquet`` of Parquet files).

    Args:
        path: the file; its suffix says the format.
        ids: columns that hold ids.
        names: columns that hold readable text.
        only: read these columns and leave out every other; all of them by default.
        scratch: where the columns of a CSV file go, a block of rows at a time.

    Raises:
        InvalidGraph: the file is cut short or malformed, a row has too few or too many cells (with its line), two columns
            have one name, a column mixes numbers and text, an id is missing; or pyarrow is missing for a Parquet file.
    """
    if path.name.endswith(".parquet"):
        from hasp.sources.parquet import read_parquet

        return read_parquet(path, ids=ids, names=names, only=only)
    return _read_csv(path, ids, names, only, scratch)


def _read_csv(
    path: Path, ids: Collection[str], names: Collection[str], only: Collection[str] | None, scratch: Scratch
) -> Table:
    with open_rows(path) as rows:
        header = next(rows, None)
        if not header:
            raise InvalidGraph(f"{path}: the first line of a table names its columns, got an empty file; add a header")
        header = [name.strip() for name in header]
        check_header(path, header)
        return collect(path, rows, header, ids=ids, names=names, only=only, scratch=scratch)


def collect(
    path: Path,
    rows: Iterator[list[str]],
    header: list[str],
    *,
    ids: Collection[str] = (),
    names: Collection[str] = (),
    only: Collection[str] | None = None,
    scratch: Scratch = MEMORY,
) -> Table:
    """Turn rows of cells into the columns of a table; empty rows are passed over. See :func:`read_table`."""
    keep = [i for i, name in enumerate(header) if only is None or name in only]
    blocks = {i: Spool(scratch) for i in keep}
    with _no_gc():
        count = _fill(path, rows, header, blocks, ids, names)
    table = Table(path, count)
    for i in keep:
        blocks[i].close()
        _join(table, header[i], blocks.pop(i).blocks, header[i] in ids, header[i] in names, scratch)
    return table


@contextmanager
def _no_gc() -> Iterator[None]:
    """Rows are lists of strings and hold no cycles; looking for cycles among them took half of the time of reading."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _fill(
    path: Path,
    rows: Iterator[list[str]],
    header: list[str],
    blocks: dict[int, Spool],
    ids: Collection[str],
    names: Collection[str],
) -> int:
    """Read all rows into the blocks of the wanted columns; return how many there were."""
    count = 0
    while block := list(itertools.islice(rows, _BLOCK)):
        if set(map(len, block)) != {len(header)}:
            block = [row for row in block if row]  # csv yields [] for an empty line
            if set(map(len, block)) - {len(header)}:
                raise _ragged(path, len(header))
        cells = list(zip(*block, strict=True))
        for i in blocks if block else ():
            name = header[i]
            blocks[i].append(_text(cells[i]) if name in names else _parse(cells[i], name in ids))
        count += len(block)
    return count


class _Double:
    """The rows of a MovieLens ``.dat`` file, whose cells stand between double colons, never in quotes."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.line_num = stream, 0

    def __iter__(self) -> _Double:
        return self

    def __next__(self) -> list[str]:
        line = next(self.stream)
        self.line_num += 1
        line = line.rstrip("\r\n")
        return line.split("::") if line else []


@contextmanager
def open_rows(path: Path) -> Iterator[Any]:
    """The rows of a ``.csv``, ``.csv.gz`` or ``.dat`` file: an iterator of lists of cells with a ``line_num``.

    Every way in which a file can be broken is turned into one line of :class:`InvalidGraph`.
    """
    dat = path.name.endswith(".dat")
    try:
        # MovieLens' .dat files are older than its use of UTF-8.
        with _open(path, "latin-1" if dat else "utf-8-sig") as stream:
            reader: Any = _Double(stream) if dat else csv.reader(stream, strict=True)
            try:
                yield reader
            except csv.Error as error:
                raise InvalidGraph(
                    f"{path}, line {reader.line_num}: not a row of CSV ({error}); repair the quotes of this line"
                ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InvalidGraph(f"{path}: not a whole gzip file ({error}); compress or copy it again") from error
    except UnicodeDecodeError as error:
        raise InvalidGraph(f"{path}: text is UTF-8, got the byte {error.object[error.start]:#x}; re-encode it") from error
    except OSError as error:
        raise InvalidGraph(f"{path}: a table is a file that can be read ({error.strerror}); correct it") from error


def _open(path: Path, encoding: str) -> TextIO:
    if path.name.endswith(".gz"):
        return gzip.open(path if isinstance(path, Path) else path.open("rb"), "rt", encoding=encoding, newline="")
    return path.open(encoding=encoding, newline="")


def check_header(path: Path, header: list[str]) -> None:
    """Raises :class:`InvalidGraph` where two columns have one name or a name holds a slash."""
    for name in header:
        if header.count(name) > 1:
            raise InvalidGraph(f"{path}: each column has its own name, got {name!r} twice; rename one")
        if "/" in name:
            raise InvalidGraph(f"{path}: names of columns have no '/', got {name!r}; rename it")


def _ragged(path: Path, width: int) -> InvalidGraph:
    """Read once more, slowly, to name the line: a quoted cell may span several lines."""
    line = 0
    with open_rows(path) as rows:
        for row in rows:
            line = rows.line_num
            if row and len(row) != width:
                return InvalidGraph(
                    f"{path}, line {line}: every row has {width} cells, got {len(row)}; "
                    "repair the line (a comma inside a cell needs quotes)"
                )
    return InvalidGraph(f"{path}: every row has {width} cells, and the file changed while it was read; read it again")


def _text(cells: tuple[str, ...]) -> Array:
    return np.array(cells, dtype=np.str_)


def _parse(cells: tuple[str, ...], is_id: bool) -> Array:
    """One block of one column by the strictest type that fits it: kind b, i, f or U."""
    whole = _whole(cells)
    if whole is not None:
        return whole
    if is_id:
        return _text(cells)
    stripped = tuple(map(str.strip, cells)) if any(" " in cell for cell in cells[:100]) else cells
    if stripped != cells and (whole := _whole(stripped)) is not None:
        return whole
    numbers = _decimals(stripped)
    if numbers is not None:
        return numbers
    if set(stripped) <= _BOOL.keys():
        return np.array([_BOOL[cell] for cell in stripped], dtype=np.bool_)
    return _text(cells)


def _whole(cells: tuple[str, ...]) -> Array | None:
    """int64, if every cell is written as Python writes that number: '007' and '1_0' are text that looks like a number."""
    try:
        numbers = list(map(int, cells))
        return np.array(numbers, dtype=np.int64) if tuple(map(str, numbers)) == cells else None
    except (ValueError, OverflowError):
        return None


def _decimals(cells: tuple[str, ...]) -> Array | None:
    """float64, with NaN for empty cells, if all are numbers and at least one is empty or has a point or an exponent."""
    try:
        numbers = list(map(float, cells))
    except ValueError:
        if "" not in cells:
            return None
        try:
            numbers = [float(cell or "nan") for cell in cells]
        except ValueError:
            return None
    alphabet = set("".join(cells))
    if alphabet <= _FLOAT and (alphabet & set(".eEnN") or "" in cells):
        return np.array(numbers, dtype=np.float64)
    return None


def _join(table: Table, name: str, blocks: list[Array], is_id: bool, is_name: bool, scratch: Scratch) -> None:
    """Give the blocks of a column one type and put it into the table, or into its list of text."""
    kinds = {block.dtype.kind for block in blocks}
    if is_id or is_name:
        empty: Array = np.empty(0, np.str_ if is_name else np.int64)
        table.columns[name] = join(blocks, scratch) if blocks else empty  # numbers beside text become text
        if is_id and "U" in kinds:
            missing = np.flatnonzero(np.concatenate([piece == "" for piece in pieces(table.columns[name])]))[:5]
            if missing.size:
                raise InvalidGraph(
                    f"{table.path}: every row has an id in column {name!r}, got none in row {_rows(missing)}; "
                    "fill it in or remove the row"
                )
    elif "U" in kinds or ("b" in kinds and len(kinds) > 1):
        _refuse_mixture(table, name, blocks)
        table.text.append(name)
    elif not name:
        table.text.append("(a column without a name)")
    elif "f" in kinds:
        large = any(bool((np.abs(piece[np.isfinite(piece)]) > _EXACT).any()) for block in blocks for piece in pieces(block))
        table.columns[name] = join(blocks, scratch, np.float64 if large else np.float32)
    else:
        table.columns[name] = join(blocks, scratch) if blocks else np.empty(0, np.float32)


def _refuse_mixture(table: Table, name: str, blocks: list[Array]) -> None:
    """A column of numbers in which a few cells are text is a mistake to be repaired, not a column to be left out."""
    start, numbers, bad = 0, 0, None
    for block in blocks:
        if block.dtype.kind == "U":
            for row, cell in enumerate(block.tolist()):
                if _is_number(cell):
                    numbers += 1
                elif bad is None:
                    bad = (start + row, cell)
                elif row >= 1000:  # enough to tell a column of text from a column of numbers
                    break
        else:
            numbers += len(block)
        start += len(block)
    if bad is not None and 2 * numbers > start:
        raise InvalidGraph(
            f"{table.path}: column {name!r} holds numbers, but row {bad[0]} holds {bad[1]!r} (row 0 is the first below "
            "the header); correct the cell, leave it empty, or remove the column"
        )


def _is_number(cell: str) -> bool:
    try:
        float(cell or "nan")
    except ValueError:
        return cell in _BOOL
    return True


def _rows(rows: Array) -> str:
    return ", ".join(str(int(row)) for row in rows)
