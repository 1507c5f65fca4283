"""Spread: a graph whose tables are read, bucketed and written by many workers; one machine partitions and keeps the books.

What grows with the graph's edges and attributes goes through tasks (:mod:`hasp.cluster.tasks`). The builder itself holds what
partitioning needs: the ids of the nodes, the EELs, the part of every entity, and what every part repeats. It also hashes all
arrays in order, for the fingerprint, as they come in from the workers.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hasp.blocks import Blocks, group_cut
from hasp.bucket import Buckets
from hasp.cluster import tasks
from hasp.cluster.columns import Column, chunks
from hasp.cluster.executor import Call, Executor
from hasp.cluster.pieces import Piece, Window, read_window
from hasp.graph import Graph, NotFinite, not_finite, row_blocks, warn_of
from hasp.layout import Layout
from hasp.part import CUT, Edges, Part, numpy_ids
from hasp.schema import EdgeType, Roles, edge_name
from hasp.scratch import MEMORY, Scratch
from hasp.sizes import in_parts
from hasp.sources.ids import IdMap
from hasp.store.write import Writer

__all__ = ["CHUNK", "Spread", "SpreadBlocks"]

CHUNK = 1 << 20
"""Rows of a chunk, at least (a row group is read whole)."""

GROUP_BYTES = 1 << 28
"""Bytes of a group of parts, at most, where its parts allow it: what a worker holds at a time."""


@dataclass(frozen=True)
class Spread:
    """A graph in tables and those who work on it; see :func:`hasp.cluster.tables.open_spread`.

    Attributes:
        graph: arrays that stay in the tables are ``meta`` tensors.
        executor: runs the tasks.
        columns: ``id`` of an array of :attr:`graph` -> (the array, its column).
        maps: node type -> ids.
        chunk: rows of a chunk.
        root: the folder of the parts, which all workers see.
    """

    graph: Graph
    executor: Executor
    columns: Mapping[int, tuple[Tensor, Column]]
    maps: Mapping[str, IdMap]
    chunk: int = CHUNK
    root: str = ""
    _handles: dict[str, Any] = dataclasses.field(default_factory=dict)

    # -- reading -----------------------------------------------------------------------------------------------------

    def rows(self, array: Tensor) -> Iterable[Tensor]:
        """The rows of an array of the graph, block by block; workers read those that stay in the tables."""
        if not array.is_meta:
            return row_blocks(array)
        found = self._chunks({"": array}, array.size(0))
        calls = ((tasks.column_of, "", chunk, *self._maps(chunk.owners)) for chunk in found if chunk.rows)
        return (torch.from_numpy(np.array(block)) for block in self.executor.map(calls))

    def check(self) -> NotFinite:
        """As :meth:`hasp.graph.Graph.check`, of the arrays at hand; the others are checked while they are read."""
        graph = self.graph

        def real(attrs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {k: v for k, v in attrs.items() if not v.is_meta}

        edges = {e: ends for e, ends in graph.edges.items() if not any(t.is_meta for t in ends)}
        node_attrs = {t: real(attrs) for t, attrs in graph.node_attrs.items()}
        edge_attrs = {e: real(graph.edge_attrs.get(e, {})) for e in edges}
        return Graph(graph.num_nodes, edges, node_attrs, edge_attrs).check()

    def fingerprint(self, node_part: Any = None, found: NotFinite | None = None) -> str:
        """:meth:`hasp.graph.Graph.fingerprint`, warning of what stays in the tables, as :meth:`check` does of the rest.

        ``found`` is added to: what is NaN or infinite there.
        """
        found = {} if found is None else found
        labels = {id(v): f"{t}.{k}" for t, attrs in self.graph.node_attrs.items() for k, v in attrs.items()}
        labels |= {id(v): f"{edge_name(e)}.{k}" for e, attrs in self.graph.edge_attrs.items() for k, v in attrs.items()}

        def looked_at(array: Tensor) -> Iterator[Tensor]:
            far = array.is_meta and array.is_floating_point()
            nan = infinite = 0
            for block in self.rows(array):
                some = not_finite(block) if far else (0, 0)
                nan, infinite = nan + some[0], infinite + some[1]
                yield block
            if far:
                warn_of(labels[id(array)], array.dtype, nan, infinite, found)

        return self.graph.fingerprint(node_part, looked_at)

    def _chunks(self, arrays: Mapping[str, Tensor], count: int) -> list[Any]:
        return chunks(arrays, count, {key: column for key, (_, column) in self.columns.items()}, self.chunk)

    def _maps(self, owners: Iterable[str]) -> list[Any]:
        """Handles of the ids of node types, each sent once."""
        for node_type in owners:
            if node_type not in self._handles:
                self.maps[node_type].prepare()  # the tables of the look-up travel along
                self._handles[node_type] = self.executor.put(self.maps[node_type])
        return [self._handles[node_type] for node_type in owners]

    # -- bucketing ---------------------------------------------------------------------------------------------------

    def blocks(self, roles: Roles, layout: Layout, scratch: Scratch = MEMORY) -> SpreadBlocks:
        """Bucket every edge type that has an entity end, and all attributes of entities, into the folder of the parts."""
        graph, bounds = self.graph, _bounds(self.graph, roles, layout.num_parts, self.executor.workers)
        where = {
            t: self.executor.put(dataclasses.replace(own, n_id=own.n_id[:0].copy(), ptr=own.ptr))
            for t, own in layout.types.items()
        }
        whose: list[str | EdgeType] = []
        calls: list[Call] = []
        for node_type in layout.types:
            attrs = graph.node_attrs.get(node_type, {})
            if attrs:
                common = (layout.num_parts, bounds, where[node_type])
                for chunk in self._chunks(attrs, graph.num_nodes[node_type]):
                    whose.append(node_type)
                    calls.append((tasks.group_nodes, self.root, chunk, *common, *self._maps(chunk.owners)))
        edge_types = [e for e in graph.edges if in_parts(e, roles)]
        for edge_type in edge_types:
            ends = tuple(dict.fromkeys(t for t in (edge_type[0], edge_type[2]) if roles.nodes[t] == "entity"))
            sizes = {t: graph.num_nodes[t] for t in (edge_type[0], edge_type[2])}
            job = tasks.EdgeJob(self.root, edge_type, roles, sizes, graph.num_edges(edge_type), layout.num_parts, bounds, ends)
            for chunk in self._chunks(_arrays(graph, edge_type), job.num_edges):
                whose.append(edge_type)
                calls.append((tasks.group_edges, job, chunk, *self._maps(chunk.owners), *(where[t] for t in ends)))
        nodes: dict[str, list[Piece]] = {}
        pieces: dict[EdgeType, list[Piece]] = {e: [] for e in edge_types}
        cut: dict[EdgeType, list[Piece]] = {e: [] for e in edge_types}
        for of, found in zip(whose, self.executor.map(calls), strict=True):
            if isinstance(of, str):
                nodes.setdefault(of, []).append(found)
                continue
            pieces[of].append(found[0])
            cut[of] += [] if found[1] is None else [found[1]]
        buckets = {}
        for e in edge_types:
            counts = [sum(p.counts for p in pieces[e]), [sum(p.counts.sum() for p in cut[e])]]
            buckets[e] = _counted(graph, roles, layout, e, np.concatenate(counts))
        return SpreadBlocks(
            graph, roles, layout, buckets, scratch,
            spread=self, bounds=bounds, node_pieces=nodes, edge_pieces=pieces, cut_pieces=cut,
        )  # fmt: skip

    def write(self, blocks: Blocks, writer: Writer, step: Callable[[], None]) -> None:
        """Have workers write all parts of :meth:`blocks` that are not there yet; ``step`` is called after each part."""
        assert isinstance(blocks, SpreadBlocks)
        blocks.write(writer, step)


@dataclass(frozen=True)
class SpreadBlocks(Blocks):
    """A graph whose edges are grouped by part, on workers.

    Attributes:
        spread: whose it is.
        bounds: group ``g`` has the parts ``bounds[g]:bounds[g + 1]``.
        node_pieces: per entity type with attributes, the piece of each chunk.
        edge_pieces: per edge type, the piece of each chunk.
        cut_pieces: per edge type, the cut edges of each chunk that has some.
    """

    spread: Spread = None  # type: ignore[assignment]  # the base has defaults
    bounds: tuple[int, ...] = ()
    node_pieces: Mapping[str, list[Piece]] = dataclasses.field(default_factory=dict)
    edge_pieces: Mapping[EdgeType, list[Piece]] = dataclasses.field(default_factory=dict)
    cut_pieces: Mapping[EdgeType, list[Piece]] = dataclasses.field(default_factory=dict)

    def write(self, writer: Writer, step: Callable[[], None]) -> None:
        """See :meth:`Spread.write`."""
        calls: list[Call] = []
        for group, (low, high) in enumerate(itertools.pairwise(self.bounds)):
            missing = tuple(p for p in range(low, high) if not writer.has(p))
            for _ in range(high - low - len(missing)):
                step()
            if missing:
                calls.append((tasks.write_group, self._job(missing, low, group)))
        for offers in self.spread.executor.map(calls):
            for offer in offers:
                writer.adopt(offer)
                step()

    def _job(self, parts: tuple[int, ...], first: int, group: int) -> tasks.GroupJob:
        types = self.layout.types
        n_id = {t: [w.n_id[w.ptr[p] : w.ptr[p + 1]] for p in parts] for t, w in types.items()}
        num_keys = {e: [int(b.num_keys[p]) for p in parts] for e, b in self.buckets.items()}
        nodes = {t: [piece.windows[group] for piece in found] for t, found in self.node_pieces.items()}
        edges = {e: [piece.windows[group] for piece in found] for e, found in self.edge_pieces.items()}
        return tasks.GroupJob(self.spread.root, parts, first, n_id, num_keys, nodes, edges)

    def cut(self) -> Part:
        """The entity-entity edges between two parts; see :meth:`hasp.blocks.Blocks.cut`."""
        found = {e: own for e, own in self.cut_pieces.items() if self.roles.edges[e] in ("eel", "entity-entity")}
        return Part(CUT, {}, {e: self._cut_of(e, [p.windows[0] for p in own]) for e, own in found.items()})

    def _cut_of(self, edge_type: EdgeType, windows: list[Window]) -> Edges:
        own = self.buckets[edge_type]
        empty = {k: np.empty(0, v.dtype) for k, v in ((tasks.SOURCE, own.ends[0]), (tasks.DESTINATION, own.ends[1]))}
        empty |= {tasks.EDGE: np.empty(0, own.id_type), tasks.PAIR: np.empty(0, np.int32)}
        for name, value in self.graph.edge_attrs.get(edge_type, {}).items():
            empty[name] = np.empty((0, *value.shape[1:]), _numpy(value.dtype))
        rows = [empty, *(read_window(self.spread.root, w)[1] for w in windows)]
        joined = {k: np.concatenate([r[k] for r in rows]) for k in empty}
        src, dst, e_id, pair = (joined.pop(k) for k in (tasks.SOURCE, tasks.DESTINATION, tasks.EDGE, tasks.PAIR))
        # The place of each edge among the cut ones, so that attributes can follow; e_id ascends with it.
        found = group_cut(src, dst, np.arange(e_id.size, dtype=e_id.dtype), pair, self.layout.num_parts, self.scratch)
        at = found.e_id.numpy()
        attrs = {k: torch.from_numpy(v[at]) for k, v in joined.items()}
        return Edges(found.edge_index, torch.from_numpy(e_id[at]), attrs, found.pairs, found.ptr)


def _numpy(dtype: torch.dtype) -> np.dtype[Any]:
    return torch.empty(0, dtype=dtype).numpy().dtype


def _arrays(graph: Graph, edge_type: EdgeType) -> dict[str, Tensor]:
    """The arrays of an edge type by their labels; no attribute has a slash in its name."""
    source, destination = graph.edges[edge_type]
    return {**graph.edge_attrs.get(edge_type, {}), tasks.SOURCE: source, tasks.DESTINATION: destination}


def _counted(graph: Graph, roles: Roles, layout: Layout, edge_type: EdgeType, counts: Any) -> Buckets:
    """Buckets that hold counts and types alone."""
    kinds = [np.int32 if roles.nodes[t] == "entity" else numpy_ids(graph.num_nodes[t]) for t in (edge_type[0], edge_type[2])]
    ptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    if roles.nodes[edge_type[2]] == "entity":
        num_keys = np.diff(layout.types[edge_type[2]].ptr)
    else:
        num_keys = np.full(layout.num_parts, graph.num_nodes[edge_type[2]], dtype=np.int64)
    ends = (np.empty(0, kinds[0]), np.empty(0, kinds[1]))
    return Buckets(ends, np.empty(0, np.uint16), np.empty((0, layout.num_parts + 1), np.int32), ptr, num_keys)


def _bounds(graph: Graph, roles: Roles, num_parts: int, workers: int) -> tuple[int, ...]:
    """Groups of parts that lie side by side: enough for all workers, and small enough for the memory of one."""
    size = sum(t.nbytes for e in graph.edges if in_parts(e, roles) for t in _arrays(graph, e).values())
    size += sum(t.nbytes for node_type in roles.entity for t in graph.node_attrs.get(node_type, {}).values())
    groups = min(num_parts, max(2 * workers, -(-size // GROUP_BYTES)))
    return tuple(num_parts * g // groups for g in range(groups + 1))
