"""Opening a folder of tables for a build by many workers: what they will read is not read here."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hasp.cluster import tasks
from hasp.cluster.columns import Column, End, lazy_attributes
from hasp.cluster.executor import Executor
from hasp.cluster.spread import CHUNK, Spread
from hasp.errors import HaspError, InvalidGraph
from hasp.part import id_dtype
from hasp.schema import EdgeType, Roles, Schema
from hasp.scratch import Scratch, scratch_folder
from hasp.sizes import available_memory, in_parts
from hasp.sources import without
from hasp.sources.columns import Array, Table
from hasp.sources.edges import EdgeTable, end_names, open_edges, where_of
from hasp.sources.ids import IdMap, sorted_unique
from hasp.sources.remote import is_url
from hasp.sources.reverse import add_reverse
from hasp.sources.stream import READ_SPILL, Rows
from hasp.sources.tables import Reader, attributes, read_tables

__all__ = ["open_spread"]


def open_spread(
    source: str | Path,
    executor: Executor,
    schema: Schema | None = None,
    *,
    exclude: Collection[str] = (),
    reverse: bool = False,
    weight: str = "",
    chunk: int = CHUNK,
) -> tuple[Spread, Roles]:
    """Open a folder of tables (:mod:`hasp.sources.tables`) so that workers read what is large.

    Edges and attributes in Parquet stay where they are, but for those that partitioning or every part needs: EELs, and what
    has no entity end. CSV, ``.npy`` files, and columns whose type only their rows tell are read here and sent out.

    Args:
        source: a folder that all workers see, or a URL.
        executor: who the workers are.
        schema: the roles; ``None``: inferred.
        exclude: node types to leave out.
        reverse: add reverse edge types (:func:`hasp.sources.reverse.add_reverse`).
        weight: the edge attribute that weighs the EELs, if any.
        chunk: rows that a task reads.

    Returns:
        The graph, spread, and the roles of its types.

    Raises:
        HaspError: no folder of tables, or what :func:`hasp.sources.tables.read_tables` and
            :meth:`hasp.schema.Schema.resolve` raise.
    """
    if not is_url(source):
        source = Path(source).absolute()
        if not any((source / part).is_dir() for part in ("edges", "nodes")):
            raise HaspError(
                f"workers read a folder of tables, which has edges/ or nodes/, but {source} has neither; write it as tables "
                "(hasp.sources.tables.write_tables), or build on one machine"
            )
    reader = _Lazy(executor, chunk)
    graph = read_tables(source, reader=reader)
    spread = Spread(without(graph, exclude) if exclude else graph, executor, reader.columns, reader.maps, chunk)
    if reverse:  # which looks at the edges from a type to itself
        spread = _with_edges(spread, {e: None for e in spread.graph.edges if e[0] == e[2]})
        spread = dataclasses.replace(spread, graph=add_reverse(spread.graph))
    roles = (schema or Schema()).resolve(spread.graph.num_nodes, spread.graph.edges)
    need: dict[EdgeType, list[str] | None] = {e: [weight] for e in roles.eel}
    need |= {e: None for e in spread.graph.edges if not in_parts(e, roles)}
    spread = _with_edges(spread, need)
    node_attrs = spread.graph.node_attrs
    rows = _Rows(spread, (v for t, own in node_attrs.items() if roles.nodes[t] != "entity" for v in own.values()))
    nodes = {t: {k: rows.get(v) for k, v in own.items()} for t, own in node_attrs.items()}
    return dataclasses.replace(spread, graph=dataclasses.replace(spread.graph, node_attrs=nodes)), roles


class _Lazy(Reader):
    """Leaves the columns of Parquet tables where they are, and notes where that is."""

    def __init__(self, executor: Executor, chunk: int) -> None:
        self.columns: dict[int, tuple[Tensor, Column]] = {}
        self.maps: Mapping[str, IdMap] = {}
        self.executor, self.chunk = executor, chunk

    def keep(self, array: Tensor, column: Column) -> None:
        """Note the column of an array."""
        self.columns[id(array)] = (array, column)

    def open_edges(self, path: Path, scratch: Scratch) -> EdgeTable:
        rows = Rows.open(path) if path.name.endswith(".parquet") else None
        if rows is not None and all(rows.may_be_ids(name) for name in end_names(path, rows.names)):
            return _LazyEdges(rows, self)
        return open_edges(path)

    def edge_attributes(self, table: EdgeTable, label: str, left: list[str], scratch: Scratch) -> dict[str, Tensor]:
        if not isinstance(table, _LazyEdges):
            return super().edge_attributes(table, label, left, scratch)
        names = [n for n in table.source.names if n not in table.names]
        return lazy_attributes(table.source, names, label, left, self.keep)

    def node_attributes(
        self, table: Table, rows: Rows | None, rest: list[str], label: str, left: list[str], scratch: Scratch
    ) -> dict[str, Tensor]:
        if rows is None:
            return super().node_attributes(table, rows, rest, label, left, scratch)
        own = attributes(table, label, left, scratch)
        more = lazy_attributes(rows, rest, label, left, self.keep)
        if twice := sorted(own.keys() & more.keys()):
            raise InvalidGraph(
                f"{table.path}: columns {twice[0] + '_0'!r}... become the attribute {twice[0]!r}, which is a column too; "
                "rename it"
            )
        return own | more


class _LazyEdges:
    """A Parquet table of edges that workers will read."""

    typed = True

    def __init__(self, rows: Rows, reader: _Lazy) -> None:
        self.path, self.rows, self.source = rows.path, rows.rows, rows
        self.names = end_names(rows.path, rows.names)
        self._reader = reader

    def unique(self, side: int) -> Array:
        pieces = self.source.pieces(self._reader.chunk)
        calls = [(tasks.unique_ids, piece, first, self.names[side]) for first, piece in pieces]
        found = np.empty(0, np.int64)
        for ids in self._reader.executor.map(calls):
            found = sorted_unique(np.concatenate([found, ids])) if len(found) else ids
        return found

    def positions(self, maps: Mapping[str, IdMap], edge_type: EdgeType, scratch: Scratch) -> tuple[Tensor, Tensor]:
        self._reader.maps = maps
        out = []
        for side in (0, 1):
            node_type = edge_type[2 * side]
            array = torch.empty(self.rows, dtype=id_dtype(len(maps[node_type])), device="meta")
            recipe = End(self.names[side], node_type, where_of(self.path, edge_type, side))
            self._reader.keep(array, Column(self.source, recipe))
            out.append(array)
        return out[0], out[1]

    def rest(self, scratch: Scratch) -> Table:
        raise HaspError(f"{self.path} is read by workers; its attributes are asked for one by one")


class _Rows:
    """Arrays whose rows are here, or now read in; each once, also where two edge types share it."""

    def __init__(self, spread: Spread, wanted: Iterable[Tensor]) -> None:
        self._found: dict[int, Tensor] = {}
        todo = list({id(v): v for v in wanted if v.is_meta}.values())
        free, size = available_memory(), sum(v.nbytes for v in todo)
        # In files where they are large, as read_tables would.
        scratch = Scratch(scratch_folder() if free is not None and size > READ_SPILL * free else None)
        with scratch:
            for array in todo:
                self._found[id(array)] = real = torch.from_numpy(scratch.empty(tuple(array.shape), _dtype(array)))
                at = 0
                for block in spread.rows(array):
                    real[at : at + block.size(0)] = block
                    at += block.size(0)

    def get(self, array: Tensor) -> Tensor:
        """The array with its rows, if they were wanted; else as it is."""
        return self._found.get(id(array), array)


def _with_edges(spread: Spread, need: Mapping[EdgeType, list[str] | None]) -> Spread:
    """With the ends of these edge types read in, and their attributes of these names (``None``: all)."""
    graph = spread.graph
    chosen = {
        e: [v for k, v in graph.edge_attrs.get(e, {}).items() if names is None or k in names] for e, names in need.items()
    }
    rows = _Rows(spread, (v for e, attrs in chosen.items() for v in (*graph.edges[e], *attrs)))
    edges = {e: (rows.get(a), rows.get(b)) for e, (a, b) in graph.edges.items()}
    attrs = {e: {k: rows.get(v) for k, v in own.items()} for e, own in graph.edge_attrs.items()}
    columns = dict(spread.columns)
    # Where a worker can read them, they are not sent: the column stays known.
    for old, new in ((a, rows.get(a)) for a, _ in spread.columns.values()):
        if new is not old:
            columns[id(new)] = (new, spread.columns[id(old)][1])
    return dataclasses.replace(spread, graph=dataclasses.replace(graph, edges=edges, edge_attrs=attrs), columns=columns)


def _dtype(array: Tensor) -> np.dtype[np.generic]:
    return np.asarray(torch.empty(0, dtype=array.dtype)).dtype
