"""Parquet, through pyarrow (the extra ``parquet``): the one file that imports it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from hasp.errors import HaspError, InvalidGraph
from hasp.sources.columns import Array, Table, check_header

__all__ = ["id_values", "is_text", "numbers", "parquet_file", "pyarrow", "read_parquet", "reading", "write_parquet"]

_BUFFER = 1 << 20  # bytes read at a time


def read_parquet(
    path: Path, *, ids: Collection[str] = (), names: Collection[str] = (), only: Collection[str] | None = None
) -> Table:
    """Read a Parquet file, or a folder of Parquet files in the order of their names (what Spark and Dask write).

    Integers, floats, bools, timestamps (as int64 in their own unit) and lists of those, all of one length, become columns;
    a missing number is NaN (an integer column with missing values becomes float64). Everything else is listed as text.

    Raises:
        InvalidGraph: the file is cut short, lists differ in length, an id is missing or a float; or pyarrow is missing.
    """
    pa, pq = pyarrow()
    with nullcontext() if isinstance(path, Path) else path.asking(), reading(pa, path):
        source = pq.read_table(**_where(path), columns=None if only is None else _present(pq, path, only))
    check_header(path, source.column_names)
    table = Table(path, source.num_rows, typed=True)
    for name in source.column_names:
        column = source.column(name).combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # what combine_chunks returns changed between versions
            column = column.chunk(0) if column.num_chunks else pa.array([], column.type)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if name in ids:
            table.columns[name] = id_values(pa, path, name, column)
        elif is_text(pa, column.type):
            if name in names:
                table.columns[name] = np.array([cell or "" for cell in column.to_pylist()], dtype=np.str_)
            else:
                table.text.append(name)
        else:
            values = numbers(pa, path, name, column)
            if values is None:
                table.text.append(name)
            else:
                table.columns[name] = values
    return table


def write_parquet(path: Path, columns: Mapping[str, Array]) -> None:
    """Write columns ``[rows, ...]`` of numbers or text; further dimensions become lists of a fixed size."""
    pa, pq = pyarrow()
    arrays = {}
    for name, values in columns.items():
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        for size in reversed(values.shape[1:]):
            flat = pa.FixedSizeListArray.from_arrays(flat, size)
        arrays[name] = flat
    pq.write_table(pa.table(arrays), path)


def pyarrow() -> tuple[Any, Any]:
    """``pyarrow`` and ``pyarrow.parquet``. Raises :class:`HaspError` with the pip line where they are missing."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise HaspError(
            "Parquet files need pyarrow, which is not installed; pip install 'hasp-pyg[parquet]', or use CSV"
        ) from error
    return pyarrow, pyarrow.parquet


@contextmanager
def reading(pa: Any, path: Path) -> Iterator[None]:
    """Turn what pyarrow says of a broken file into one line of :class:`InvalidGraph`, and what a disk or a store says of
    a file that it does not give out into one of :class:`HaspError`.
    """
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, OSError) and (error.errno or type(error) is not OSError):  # pyarrow's own have neither
            raise HaspError(
                f"cannot read {path} ({type(error).__name__}: {reason}); check the path, its permissions, and the disk or store"
            ) from error
        if path.is_dir() and any(word in reason for word in ("parse", "cast", "schema")):
            raise InvalidGraph(
                f"{path}: the files of one table have columns of one type, but here they differ ({reason}); cast them to one"
            ) from error
        raise InvalidGraph(f"{path}: not a whole Parquet file ({reason}); write or copy it again") from error


@contextmanager
def parquet_file(path: Path, metadata: Any = None) -> Iterator[Any]:
    """A ``pyarrow.parquet.ParquetFile``, of which a column of a row group may be larger than memory."""
    pq = pyarrow()[1]
    if isinstance(path, Path):
        with pq.ParquetFile(path, metadata=metadata, buffer_size=_BUFFER, pre_buffer=False) as file:
            yield file
    else:  # over a network, few large reads are better than many small ones
        with path.open("rb") as stream, pq.ParquetFile(stream, metadata=metadata, pre_buffer=True) as file:
            yield file


def _present(pq: Any, path: Path, only: Collection[str]) -> list[str]:
    where = _where(path)
    return [name for name in pq.ParquetDataset(where.pop("source"), **where).schema.names if name in only]


def _where(path: Path) -> dict[str, Any]:
    """Where a file or folder is, in the arguments of pyarrow."""
    return {"source": path} if isinstance(path, Path) else {"source": path.inner, "filesystem": path.fs}


def is_text(pa: Any, kind: Any) -> bool:
    """Whether a column of this type holds text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def id_values(pa: Any, path: Path, name: str, column: Any, first: int = 0) -> Array:
    """A column of ids, whose first row is the file's row ``first``, as int64 or text."""
    if column.null_count:
        row = first + next(i for i, valid in enumerate(column.is_valid().to_pylist()) if not valid)
        raise InvalidGraph(
            f"{path}: every row has an id in column {name!r}, got none in row {row}; fill it in or remove the row"
        )
    if is_text(pa, column.type):
        return np.array(column.to_pylist(), dtype=np.str_)
    if not pa.types.is_integer(column.type):
        raise InvalidGraph(
            f"{path}: ids are whole numbers or text, but column {name!r} is {column.type}; cast it to int64 or string"
        )
    values: Array = column.to_numpy(zero_copy_only=False)
    if values.dtype == np.uint64 and values.size and values.max() > np.iinfo(np.int64).max:
        return values.astype(np.str_)  # exact; int64 would wrap
    return values.astype(np.int64, copy=False)


def numbers(pa: Any, path: Path, name: str, column: Any) -> Array | None:
    """The column as numbers ``[rows, ...]``, or ``None`` if it holds something else."""
    types, shape = pa.types, [len(column)]
    while types.is_fixed_size_list(column.type) or types.is_list(column.type) or types.is_large_list(column.type):
        lengths = np.unique(np.asarray(column.value_lengths().to_numpy(zero_copy_only=False), dtype=np.float64))
        if column.null_count or lengths.size > 1:
            raise InvalidGraph(
                f"{path}: the lists of column {name!r} have one length, got "
                f"{'missing lists' if column.null_count else f'{lengths[0]:.0f} to {lengths[-1]:.0f}'}; pad them"
            )
        fixed = column.type.list_size if types.is_fixed_size_list(column.type) else 0
        shape.append(int(lengths[0]) if lengths.size else fixed)
        column = column.flatten()
    if types.is_timestamp(column.type) or types.is_date64(column.type):
        column = column.cast(pa.int64())
    if not (types.is_integer(column.type) or types.is_floating(column.type) or types.is_boolean(column.type)):
        return None
    if types.is_boolean(column.type) and column.null_count:
        raise InvalidGraph(f"{path}: column {name!r} is true or false, got missing values; fill them in")
    numbers: Array = column.to_numpy(zero_copy_only=False)
    values = numbers.reshape(shape)
    if values.dtype.kind == "u" and values.dtype != np.uint8:  # torch computes with uint8 only
        if values.size and int(values.max()) > np.iinfo(np.int64).max:
            raise InvalidGraph(f"{path}: column {name!r} holds {values.max()}, which int64 cannot hold; cast it")
        values = values.astype(np.int32 if values.dtype == np.uint16 else np.int64)
    return values
