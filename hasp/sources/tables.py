"""A folder of tables, read and written: what Spark, DuckDB, pandas and spreadsheets can all produce.

Layout::

    nodes/<type>.{parquet,csv,csv.gz}                        column id; every other column is an attribute
    (a Parquet table may be a folder <name>.parquet/ of files)
    nodes/<type>.<attribute>.npy                             optional: one row of numbers per node, mapped, never read whole
    edges/<source>__<relation>__<destination>.{...}          columns src and dst; every other column is an attribute

- Ids are whole numbers or text. A node's position in its table is its id in the graph; a type without a node table has the
  ids ``0..N-1`` where a ``.npy`` file says how many there are, and else those that its edges name, in ascending order.
- Tables are read a block of rows at a time. Edges and attributes that are large for the memory at hand go to files without a
  name in ``TMPDIR`` (``/var/tmp`` without one), which vanish with the graph.
- ``src``/``dst`` may also be called ``source``/``target`` or ``source``/``destination``.
- A text column ``name`` (or, without one, ``title``) of a node table holds readable names. Other text columns cannot be
  carried into parts and are named in one warning.
- Columns ``x_0``, ``x_1`` ... ``x_k`` of numbers, complete from 0, become one attribute ``x`` ``[N, k + 1]``; so do lists of
  one length in Parquet.
"""

from __future__ import annotations

import csv
import gzip
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import torch
from torch import Tensor

from hasp.errors import HaspError, InvalidGraph
from hasp.graph import Graph, HaspWarning
from hasp.parallel import blocks
from hasp.schema import EdgeType, edge_name, parse_edge_name
from hasp.scratch import MEMORY, Scratch
from hasp.sources.arrays import mapped_arrays
from hasp.sources.columns import SUFFIXES, Array, Table, read_table, split_suffix
from hasp.sources.edges import ENDS, EdgeTable, open_edges, pop, rest_of
from hasp.sources.ids import IdMap, sorted_unique
from hasp.sources.remote import place
from hasp.sources.stream import Rows, room_for

__all__ = ["Reader", "attributes", "numbered", "read_tables", "write_tables"]

_NAMES = ("name", "title")
_LOOKALIKES = (".tsv", ".pq", ".parq", ".csv.bz2", ".csv.zst", ".csv.zip", ".json", ".jsonl", ".feather", ".arrow", ".xlsx")
_NUMBERED = re.compile(r"(.+)_(0|[1-9][0-9]*)")


class Reader:
    """How the columns of tables become arrays: read now, into memory or scratch files."""

    def open_edges(self, path: Path, scratch: Scratch) -> EdgeTable:
        """Open an edge table; what is read at once goes to ``scratch``."""
        return open_edges(path, scratch)

    def edge_attributes(self, table: EdgeTable, label: str, left: list[str], scratch: Scratch) -> dict[str, Tensor]:
        """The attributes of an edge table; see :func:`attributes`."""
        return attributes(table.rest(scratch), label, left, scratch)

    def node_attributes(
        self, table: Table, rows: Rows | None, rest: list[str], label: str, left: list[str], scratch: Scratch
    ) -> dict[str, Tensor]:
        """The attributes of a node table, of which ``table`` holds all, or all but the columns ``rest`` of ``rows``."""
        if rows is not None:
            more = rest_of(rows, rest, scratch)
            table.columns |= more.columns
            table.text += more.text
        return attributes(table, label, left, scratch)


def read_tables(folder: str | Path, scratch: Scratch | None = None, reader: Reader | None = None) -> Graph:
    """Read the folder described at the top of this module.

    Args:
        folder: holds ``edges/`` and, for types with attributes or nodes without edges, ``nodes/``.
        scratch: where edges and attributes go; ``None``: to memory, or to files if they are more than
            :data:`hasp.sources.stream.READ_SPILL` of what is free.
        reader: makes arrays of columns.

    Returns:
        The graph; node types and edge types in the order of their names. Ends of edges are int32 where they fit. ``ids``
        holds the ids of the types whose ids are not already ``0..N-1``.

    Raises:
        InvalidGraph: a table breaks a rule; the message names the file, the rule, the value and the remedy.

    Warns:
        HaspWarning: text columns were left out.
    """
    folder, reader = place(folder), reader or Reader()
    node_files, edge_files = _tables(folder / "nodes"), _tables(folder / "edges")
    if not node_files and not edge_files:
        raise InvalidGraph(
            f"{folder}: a folder of tables holds nodes/<type> or edges/<source>__<relation>__<destination>, ending in "
            f"{', '.join(SUFFIXES)}, got neither; see hasp.sources.tables for the layout"
        )
    arrays = mapped_arrays(folder / "nodes")
    if scratch is None:
        scratch = room_for([*node_files.values(), *edge_files.values()])
    left: list[str] = []
    with scratch:
        maps, names, node_attrs = _read_nodes(node_files, arrays, scratch, left, reader)
        tables = {parse_edge_name(relation): reader.open_edges(path, scratch) for relation, path in edge_files.items()}
        _infer(tables, maps)
        edges: dict[EdgeType, tuple[Tensor, Tensor]] = {}
        edge_attrs: dict[EdgeType, dict[str, Tensor]] = {}
        for edge_type in list(tables):
            table = tables.pop(edge_type)
            edges[edge_type] = table.positions(maps, edge_type, scratch)
            edge_attrs[edge_type] = reader.edge_attributes(table, edge_name(edge_type), left, scratch)
    if left:
        warnings.warn(
            f"columns of text are not carried into parts: {', '.join(left)}; turn them into numbers or node types",
            HaspWarning,
            stacklevel=2,
        )
    maps = dict(sorted(maps.items()))
    return Graph(
        {t: len(m) for t, m in maps.items()},
        edges,
        {t: node_attrs.get(t, {}) for t in maps},
        edge_attrs,
        {t: m.ids for t, m in maps.items() if not m.is_range},
        names,
    )


def _read_nodes(
    files: Mapping[str, Path], arrays: Mapping[str, dict[str, Tensor]], scratch: Scratch, left: list[str], reader: Reader
) -> tuple[dict[str, IdMap], dict[str, Array], dict[str, dict[str, Tensor]]]:
    """Per node type its ids, its readable names where it has some, and its attributes."""
    maps: dict[str, IdMap] = {}
    names: dict[str, Array] = {}
    attrs: dict[str, dict[str, Tensor]] = {}
    for node_type, path in files.items():
        if "__" in node_type:
            raise InvalidGraph(f"{path}: names of node types have no '__', got {node_type!r}; rename the file")
        rows = Rows.open(path) if path.name.endswith(".parquet") else None
        table = read_table(path, ids=("id",), names=_NAMES, only=None if rows is None else ("id", *_NAMES), scratch=scratch)
        rest = [] if rows is None else [n for n in rows.names if n not in table.columns and n not in table.text]
        maps[node_type] = IdMap(pop(table, "id", "a node table"), str(path), node_type, table.typed)
        name = next((n for n in _NAMES if n in table.columns and table.columns[n].dtype.kind == "U"), None)
        if name is not None:
            names[node_type] = table.columns.pop(name)
        attrs[node_type] = reader.node_attributes(table, rows, rest, node_type, left, scratch)
    for node_type, own in arrays.items():
        lengths = {name: value.size(0) for name, value in own.items()}
        if node_type not in maps:
            count = next(iter(lengths.values()))
            maps[node_type] = IdMap(np.arange(count), f"the .npy files of {node_type!r}", node_type)
        for name, length in lengths.items():
            if length != len(maps[node_type]) or name in attrs.get(node_type, {}):
                what = "is an attribute of the table too" if length == len(maps[node_type]) else f"has {length:,} rows"
                raise InvalidGraph(
                    f"{node_type}.{name}.npy has a row for each of the {len(maps[node_type]):,} nodes and a name of its own, "
                    f"but it {what}; repair or rename it"
                )
        attrs.setdefault(node_type, {}).update(own)
    return maps, names, attrs


def write_tables(graph: Graph, folder: str | Path, format: Literal["csv", "csv.gz", "parquet"] = "csv") -> None:
    """Write a graph as the folder that :func:`read_tables` reads.

    Parquet gives back every dtype and shape; CSV gives back every value, as bool, int64 or float32 (float64 for numbers
    past ``2**24``), in at most two dimensions.

    Raises:
        HaspError: an unknown format; the folder already holds tables; an attribute that the format cannot give back.
    """
    if format not in ("csv", "csv.gz", "parquet"):
        raise HaspError(f"format is csv, csv.gz or parquet, got {format!r}; choose one of these")
    folder = Path(folder)
    for part in ("nodes", "edges"):
        if (folder / part).is_dir() and any((folder / part).iterdir()):
            raise HaspError(f"{folder / part} already holds files; choose an empty folder, or remove them")
        (folder / part).mkdir(parents=True, exist_ok=True)
    for node_type, count in graph.num_nodes.items():
        columns: dict[str, Array] = {"id": graph.ids.get(node_type, np.arange(count))}
        if node_type in graph.names:
            columns["name"] = graph.names[node_type]
        _add(columns, graph.node_attrs.get(node_type, {}), node_type, format, ("id", *_NAMES))
        _write(folder / "nodes" / f"{node_type}.{format}", columns)
    for edge_type, ends in graph.edges.items():
        columns = {}
        for name, end, node_type in zip(("src", "dst"), ends, (edge_type[0], edge_type[2]), strict=True):
            local = end.numpy()
            columns[name] = graph.ids[node_type][local] if node_type in graph.ids else local
        _add(columns, graph.edge_attrs.get(edge_type, {}), edge_name(edge_type), format, {n for pair in ENDS for n in pair})
        _write(folder / "edges" / f"{edge_name(edge_type)}.{format}", columns)


def _tables(folder: Path) -> dict[str, Path]:
    """Stem -> file, in the order of the stems."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        pieces = split_suffix(path)
        if pieces is None:
            _refuse_lost(path)
            continue
        stem = pieces[0]
        if stem in found:
            raise InvalidGraph(f"{stem!r} is one table, got {found[stem]} and {path}; remove one of them")
        found[stem] = path
    return dict(sorted(found.items()))


def _refuse_lost(path: Path) -> None:
    """Refuse what was meant for a table and would not be read; ``.npy`` files, notes and hidden files are passed over."""
    if path.name.startswith((".", "_")):
        return
    if path.name.endswith(_LOOKALIKES):
        raise InvalidGraph(f"{path}: a table ends in {', '.join(SUFFIXES)}; write it so, or move it away")
    inside = [p.name for p in path.iterdir()] if path.is_dir() else []
    if any(name.endswith((*SUFFIXES, *_LOOKALIKES)) for name in inside):
        raise InvalidGraph(
            f"{path}: a table in several Parquet files is a folder whose name ends in .parquet; call it {path.name}.parquet, "
            "or put one table in its place"
        )


def _infer(tables: Mapping[EdgeType, EdgeTable], maps: dict[str, IdMap]) -> None:
    """Node types without a table have the ids that their edges name."""
    seen: dict[str, list[tuple[Array, EdgeTable]]] = {}
    for edge_type, table in tables.items():
        for side in (0, 1):
            if edge_type[2 * side] not in maps:
                seen.setdefault(edge_type[2 * side], []).append((table.unique(side), table))
    for node_type, found in sorted(seen.items()):
        full = [(ids, table) for ids, table in found if len(ids)]
        text = [pair for pair in full if pair[0].dtype.kind == "U"]
        if text and len(text) < len(full):
            number = next(pair for pair in full if pair[0].dtype.kind != "U")
            if number[1].typed and text[0][1].typed:
                raise InvalidGraph(
                    f"ids of {node_type!r} have one type, but they are whole numbers in {number[1].path} and text in "
                    f"{text[0][1].path}; cast one of them"
                )
            full = [(ids.astype(np.str_), table) for ids, table in full]
        unique = sorted_unique(np.concatenate([ids for ids, _ in full])) if full else np.empty(0, np.int64)
        typed = bool(full) and all(table.typed for _, table in full)
        maps[node_type] = IdMap(unique, f"the edges of {node_type!r}", node_type, typed)


def attributes(table: Table, label: str, left: list[str], scratch: Scratch = MEMORY) -> dict[str, Tensor]:
    """What is left of a table when ids and names are taken: numbers become tensors, numbered columns stand side by side.

    Args:
        table: read from one file; its columns are used up.
        label: the node or edge type, for messages.
        left: gets ``<label>.<column>`` of every column that holds text.
        scratch: where columns that stand side by side go.

    Raises:
        InvalidGraph: columns ``x_0, x_1 ...`` beside a column ``x``.
    """
    columns = table.columns
    for name in [n for n, values in columns.items() if values.dtype.kind == "U"]:
        del columns[name]  # a title beside a name
        table.text.append(name)
    left.extend(f"{label}.{name}" for name in table.text)
    for stem, members in numbered(columns).items():
        if stem in columns:
            raise InvalidGraph(
                f"{table.path}: columns {members[0]!r}... become the attribute {stem!r}, which is a column too; rename it"
            )
        block = [columns.pop(name) for name in members]
        dtype = np.result_type(*block)
        if dtype.kind == "f" and all(b.dtype != np.float64 for b in block):
            dtype = np.dtype(np.result_type(*[b for b in block if b.dtype.kind == "f"]))  # int64 beside float32
        columns[stem] = scratch.empty((table.rows, len(block)), dtype)
        for low, high in blocks(table.rows):
            np.stack([b[low:high] for b in block], axis=1, out=columns[stem][low:high], casting="unsafe")
    return {name: torch.from_numpy(_writable(values)) for name, values in columns.items()}


def numbered(columns: Mapping[str, Any]) -> dict[str, list[str]]:
    """Stem -> its columns ``stem_0 ... stem_k``, where they are complete and one-dimensional."""
    groups: dict[str, list[int]] = {}
    for name, values in columns.items():
        match = _NUMBERED.fullmatch(name)
        if match is not None and values.ndim == 1:
            groups.setdefault(match[1], []).append(int(match[2]))
    return {
        stem: [f"{stem}_{i}" for i in range(len(numbers))]
        for stem, numbers in groups.items()
        if sorted(numbers) == list(range(len(numbers)))
    }


def _writable(values: Array) -> Array:
    # pyarrow hands out read-only views; torch warns of them, so that they are copied once, here.
    return values if values.flags.writeable and values.flags.c_contiguous else values.copy()


def _add(columns: dict[str, Array], attrs: Mapping[str, Tensor], label: str, format: str, reserved: Iterable[str]) -> None:
    for name, value in attrs.items():
        if name in reserved:
            raise HaspError(f"attribute {label}.{name} has the name of a column of the layout; rename it")
        if value.dtype in (torch.bfloat16,) or value.is_complex():
            raise HaspError(f"tables hold no {value.dtype}, which {label}.{name} is; cast it")
        array = value.detach().numpy()
        if array.ndim > 1 and 0 in array.shape[1:]:
            raise HaspError(f"tables hold no attribute of width 0, which {label}.{name} is; remove it")
        if format == "parquet" or array.ndim == 1:
            columns[name] = array
        elif array.ndim == 2:
            columns.update({f"{name}_{i}": array[:, i] for i in range(array.shape[1])})
        else:
            raise HaspError(f"CSV holds one or two dimensions, and {label}.{name} has {array.ndim}; use parquet")
    two_dimensional = {name for name, value in attrs.items() if value.dim() == 2} if format != "parquet" else set()
    clash = sorted(set(numbered(columns)) - two_dimensional)
    if clash or len(columns) < len(set(columns)):
        raise HaspError(f"attribute {label}.{clash[0]}_0 would be read back as a column of {clash[0]!r}; rename it")


def _write(path: Path, columns: dict[str, Array]) -> None:
    if path.name.endswith(".parquet"):
        from hasp.sources.parquet import write_parquet

        write_parquet(path, columns)
        return
    with _create(path) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        rows = len(next(iter(columns.values())))
        for start in range(0, rows, 1 << 16):
            block = [_cells(values[start : start + (1 << 16)]) for values in columns.values()]
            writer.writerows(zip(*block, strict=True))


def _create(path: Path) -> TextIO:
    if path.name.endswith(".gz"):
        return gzip.open(path, "wt", encoding="utf-8", newline="")
    return path.open("w", encoding="utf-8", newline="")


def _cells(values: Array) -> list[Any]:
    if values.dtype.kind == "f":
        # str() of NumPy's own scalars is the shortest text that gives the same float back; Python floats are doubles.
        wide = values.astype(np.float32) if values.dtype == np.float16 else values
        return [str(v) for v in wide]
    return list(values.tolist())
