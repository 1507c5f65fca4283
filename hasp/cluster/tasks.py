"""Tasks: what workers do, each a function of its arguments alone.

Bucketing is a shuffle in two steps. A chunk of edges is bucketed by part (the kernel of the build on one machine) and handed
out in groups of parts; a group is then put together, from its piece of every chunk in the order of the chunks, and written.
Edge ids ascend within a chunk and from chunk to chunk, so that each part gets its edges in the order of one pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from hasp.blocks import pair_of
from hasp.bucket import Buckets, bucket_edges
from hasp.cluster.columns import Chunk, read
from hasp.graph import Graph
from hasp.layout import Layout, TypeLayout
from hasp.part import Edges, Nodes, Part, numpy_ids
from hasp.rows import take_rows
from hasp.schema import EdgeType, Roles
from hasp.sources.columns import Array
from hasp.sources.ids import sorted_unique
from hasp.sources.stream import Rows
from hasp.store.offer import Offer, offer

__all__ = [
    "DESTINATION",
    "SOURCE",
    "CutPiece",
    "EdgeJob",
    "GroupJob",
    "Piece",
    "column_of",
    "group_edges",
    "group_nodes",
    "only",
    "unique_ids",
    "write_group",
]

SOURCE, DESTINATION = "/source", "/destination"
"""Labels of the ends of edges in a chunk; no attribute has a slash in its name."""


class Piece(NamedTuple):
    """What a chunk gives to a group of parts.

    Attributes:
        ptr: int64 ``[parts + 1]``: the rows of the group's i-th part are ``ptr[i]:ptr[i + 1]``.
        ends: of edges: sources and destinations, as in :class:`hasp.bucket.Buckets`; of nodes: none.
        e_id: of edges: their ids.
        attrs: name -> rows.
    """

    ptr: npt.NDArray[np.int64]
    ends: tuple[Array, ...]
    e_id: Array | None
    attrs: Mapping[str, Array]


class CutPiece(NamedTuple):
    """The cut edges of a chunk, ascending by edge id.

    Attributes:
        src, dst: rows in the parts of the ends.
        e_id: edge ids.
        pair: :func:`hasp.blocks.pair_of` each edge.
        attrs: name -> rows.
    """

    src: Array
    dst: Array
    e_id: Array
    pair: Array
    attrs: Mapping[str, Array]


@dataclass(frozen=True)
class EdgeJob:
    """What is the same for all chunks of an edge type.

    Attributes:
        edge_type: which.
        roles: of the graph.
        num_nodes: nodes of both types.
        num_edges: edges of the type.
        num_parts: parts.
        bounds: ``[groups + 1]``: group ``g`` has the parts ``bounds[g]:bounds[g + 1]``.
        ends: the entity types among both, whose layouts follow the ids in the arguments.
    """

    edge_type: EdgeType
    roles: Roles
    num_nodes: Mapping[str, int]
    num_edges: int
    num_parts: int
    bounds: tuple[int, ...]
    ends: tuple[str, ...]


@dataclass(frozen=True)
class GroupJob:
    """What makes the parts of one group, beside its pieces.

    Attributes:
        root: the folder of the parts.
        parts: the parts to write, of those in the group.
        first: the first part of the group.
        n_id: per entity type, the global ids of each part in :attr:`parts`.
        num_keys: per edge type, one more than the largest destination, of each part in :attr:`parts`.
        nodes: per entity type with attributes, how many pieces it has; in the order of the arguments.
        edges: likewise per edge type; after the nodes.
    """

    root: str
    parts: tuple[int, ...]
    first: int
    n_id: Mapping[str, Sequence[Array]]
    num_keys: Mapping[EdgeType, Sequence[int]]
    nodes: Mapping[str, int] = field(default_factory=dict)
    edges: Mapping[EdgeType, int] = field(default_factory=dict)


def unique_ids(piece: Rows, first: int, name: str) -> Array:
    """The ids of a column, ascending, each once."""
    found = [np.empty(0, np.int64)]

    def look(at: int, block: Mapping[str, Any]) -> None:
        ids = sorted_unique(piece.ids(block, name, first + at))
        found[:] = [ids if not len(found[0]) else sorted_unique(np.concatenate([found[0], ids]))]

    piece.visit([name], look, 1)
    return found[0]


def only(task: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
    """The one item that a task gives."""
    return task(*arguments)[0]


def column_of(label: str, chunk: Chunk, *maps: Any) -> Array:
    """One array of a chunk."""
    return read(chunk, *maps)[label]


def group_nodes(chunk: Chunk, num_parts: int, bounds: Sequence[int], where: TypeLayout, *maps: Any) -> tuple[Piece, ...]:
    """The attributes of a chunk of entities, for each group of parts."""
    part = where.part[chunk.first : chunk.first + chunk.rows]
    order = np.argsort(part, kind="stable")
    ptr = np.concatenate([[0], np.cumsum(np.bincount(part, minlength=num_parts))]).astype(np.int64)
    attrs = _taken(read(chunk, *maps), order)
    out = []
    for low, high in itertools.pairwise(bounds):
        window = slice(ptr[low], ptr[high])
        out.append(Piece(ptr[low : high + 1] - ptr[low], (), None, {k: v[window] for k, v in attrs.items()}))
    return tuple(out)


def group_edges(job: EdgeJob, chunk: Chunk, *given: Any) -> tuple[Any, ...]:
    """Bucket a chunk of edges.

    Args:
        job: the same for all chunks.
        chunk: labels :data:`SOURCE` and :data:`DESTINATION` (positions), and attributes.
        given: the ids of :attr:`Chunk.owners`, then the layouts of :attr:`EdgeJob.ends`.

    Returns:
        A :class:`Piece` per group, the :class:`CutPiece`, and the edges per bucket, int64 ``[num_parts + 1]``.
    """
    owners = len(chunk.owners)
    attrs = read(chunk, *given[:owners])
    src, dst = attrs.pop(SOURCE), attrs.pop(DESTINATION)
    layout = Layout(job.num_parts, dict(zip(job.ends, given[owners:], strict=True)))
    mini = Graph(job.num_nodes, {job.edge_type: (_tensor(src), _tensor(dst))})
    buckets = bucket_edges(mini, job.roles, layout, job.edge_type, 1)
    rows, ptr = buckets.e_id, buckets.ptr
    attrs = _taken(attrs, rows)
    e_id = rows.astype(numpy_ids(job.num_edges)) + numpy_ids(job.num_edges)(chunk.first)
    out: list[Any] = []
    for low, high in itertools.pairwise(job.bounds):
        window = slice(ptr[low], ptr[high])
        ends = tuple(end[window] for end in buckets.ends)
        out.append(Piece(ptr[low : high + 1] - ptr[low], ends, e_id[window], {k: v[window] for k, v in attrs.items()}))
    window = slice(ptr[-2], ptr[-1])
    pair = np.empty(0, np.int32)
    if len(job.ends) == len({job.edge_type[0], job.edge_type[2]}):  # both ends are entities: only then is anything cut
        near, far = (layout.types[job.edge_type[i]].part[end[rows[window]]] for i, end in ((0, src), (2, dst)))
        pair = pair_of(near, far, job.num_parts)
    cut = {k: v[window] for k, v in attrs.items()}
    out.append(CutPiece(buckets.ends[0][window], buckets.ends[1][window], e_id[window], pair, cut))
    return (*out, np.diff(ptr))


def write_group(job: GroupJob, *pieces: Piece) -> list[Offer]:
    """Put the parts of a group together and offer them to the builder (:func:`hasp.store.offer.offer`)."""
    left = list(pieces)
    nodes = {t: [left.pop(0) for _ in range(count)] for t, count in job.nodes.items()}
    edges = {e: [left.pop(0) for _ in range(count)] for e, count in job.edges.items()}
    out = []
    for i, part_id in enumerate(job.parts):
        at = part_id - job.first
        own = {t: Nodes(_tensor(ids[i]), len(ids[i]), _joined(nodes.get(t, []), at)) for t, ids in job.n_id.items()}
        links = {e: _edges(found, at, int(job.num_keys[e][i])) for e, found in edges.items()}
        out.append(offer(Path(job.root), Part(part_id, own, links)))
    return out


def _edges(pieces: Sequence[Piece], at: int, num_keys: int) -> Edges:
    windows = [slice(p.ptr[at], p.ptr[at + 1]) for p in pieces]
    ends = [np.concatenate([p.ends[i][w] for p, w in zip(pieces, windows, strict=True)]) for i in (0, 1)]
    e_id = np.concatenate([p.e_id[w] for p, w in zip(pieces, windows, strict=True) if p.e_id is not None])
    ptr = np.array([0, e_id.size, e_id.size], np.int64)
    return Buckets((ends[0], ends[1]), e_id, ptr, np.array([num_keys], np.int64), _joined(pieces, at)).edges(0)


def _joined(pieces: Sequence[Piece], at: int) -> dict[str, torch.Tensor]:
    """The attributes of a group's part, chunk after chunk."""
    names = list(pieces[0].attrs) if pieces else []
    return {k: _tensor(np.concatenate([p.attrs[k][p.ptr[at] : p.ptr[at + 1]] for p in pieces])) for k in names}


def _taken(attrs: Mapping[str, Array], rows: Array) -> dict[str, Array]:
    index = torch.from_numpy(rows)
    return {k: take_rows(_tensor(v), index).numpy() for k, v in attrs.items()}


def _tensor(array: Array) -> torch.Tensor:
    """A tensor of an array, which may lie in memory that is not to be written to: nothing here writes."""
    if array.flags.writeable or not array.size:
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    return torch.from_numpy(np.asarray(_Lent(array)))  # torch warns of an array that says so itself


class _Lent:
    """An array that does not say that it must not be written to."""

    def __init__(self, array: Array) -> None:
        self.array = array
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}
