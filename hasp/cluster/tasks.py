"""Tasks: what workers do, each a function of its arguments alone.

Edges come to their parts in two maps, with files between them and no shuffle. A chunk of edges is bucketed by part (the kernel
of the build on one machine) and written as a piece; a group of parts is then put together from its window of every piece, in
the order of the chunks, and written. Edge ids ascend within a chunk and from chunk to chunk, so that each part gets its edges
in the order of one pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hasp.blocks import pair_of
from hasp.bucket import bucket_edges, sort_edges
from hasp.cluster.columns import Chunk, read
from hasp.cluster.pieces import Piece, Window, read_window, tensor, write_piece
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
    "EDGE",
    "PAIR",
    "SOURCE",
    "EdgeJob",
    "GroupJob",
    "column_of",
    "group_edges",
    "group_nodes",
    "unique_ids",
    "write_group",
]

SOURCE, DESTINATION, EDGE, PAIR = "/source", "/destination", "/edge", "/pair"
"""Labels of what a chunk or piece has beside attributes: the ends of edges, their ids, and of cut ones
:func:`hasp.blocks.pair_of` them. No attribute has a slash in its name."""


@dataclass(frozen=True)
class EdgeJob:
    """What is the same for all chunks of an edge type.

    Attributes:
        root: the folder of the parts.
        edge_type: which.
        roles: of the graph.
        num_nodes: nodes of both types.
        num_edges: edges of the type.
        num_parts: parts.
        bounds: ``[groups + 1]``: group ``g`` has the parts ``bounds[g]:bounds[g + 1]``.
        ends: the entity types among both, whose layouts follow the ids in the arguments.
    """

    root: str
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
        nodes: per entity type with attributes, its window of each piece, in the order of the chunks.
        edges: likewise per edge type.
    """

    root: str
    parts: tuple[int, ...]
    first: int
    n_id: Mapping[str, Sequence[Array]]
    num_keys: Mapping[EdgeType, Sequence[int]]
    nodes: Mapping[str, Sequence[Window]] = field(default_factory=dict)
    edges: Mapping[EdgeType, Sequence[Window]] = field(default_factory=dict)


def unique_ids(piece: Rows, first: int, name: str) -> Array:
    """The ids of a column, ascending, each once."""
    found = [np.empty(0, np.int64)]

    def look(at: int, block: Mapping[str, Any]) -> None:
        ids = sorted_unique(piece.ids(block, name, first + at))
        found[:] = [ids if not len(found[0]) else sorted_unique(np.concatenate([found[0], ids]))]

    piece.visit([name], look, 1)
    return found[0]


def column_of(label: str, chunk: Chunk, *maps: Any) -> Array:
    """One array of a chunk."""
    return read(chunk, *maps)[label]


def group_nodes(root: str, chunk: Chunk, num_parts: int, bounds: Sequence[int], where: TypeLayout, *maps: Any) -> Piece:
    """Write the attributes of a chunk of entities, sorted by part."""
    part = where.part[chunk.first : chunk.first + chunk.rows]
    order = np.argsort(part, kind="stable")
    ptr = np.concatenate([[0], np.cumsum(np.bincount(part, minlength=num_parts))]).astype(np.int64)
    return write_piece(root, ptr, _taken(read(chunk, *maps), order), bounds)


def group_edges(job: EdgeJob, chunk: Chunk, *given: Any) -> tuple[Piece, Piece | None]:
    """Bucket a chunk of edges, and write it sorted by part.

    Args:
        job: the same for all chunks.
        chunk: labels :data:`SOURCE` and :data:`DESTINATION` (positions), and attributes.
        given: the ids of :attr:`Chunk.owners`, then the layouts of :attr:`EdgeJob.ends`.

    Returns:
        The edges within parts, and those of the cut, ascending by id, as if they were one part; ``None`` if there are none.
    """
    owners = len(chunk.owners)
    attrs = read(chunk, *given[:owners])
    src, dst = attrs.pop(SOURCE), attrs.pop(DESTINATION)
    layout = Layout(job.num_parts, dict(zip(job.ends, given[owners:], strict=True)))
    mini = Graph(job.num_nodes, {job.edge_type: (tensor(src), tensor(dst))})
    buckets = bucket_edges(mini, job.roles, layout, job.edge_type, 1)
    rows = np.concatenate([buckets.ids(b) for b in range(job.num_parts + 1)])
    inside, total = buckets.ptr[-2:].tolist()
    arrays = _taken(attrs, rows)
    arrays |= {SOURCE: buckets.ends[0], DESTINATION: buckets.ends[1]}
    arrays[EDGE] = rows.astype(numpy_ids(job.num_edges)) + numpy_ids(job.num_edges)(chunk.first)
    found = write_piece(job.root, buckets.ptr[:-1], {k: v[:inside] for k, v in arrays.items()}, job.bounds)
    if inside == total:
        return found, None
    near, far = (layout.types[job.edge_type[i]].part[end[rows[inside:]]] for i, end in ((0, src), (2, dst)))
    cut = {k: v[inside:] for k, v in arrays.items()} | {PAIR: pair_of(near, far, job.num_parts)}
    return found, write_piece(job.root, np.array([0, total - inside], np.int64), cut, (0, 1))


def write_group(job: GroupJob) -> list[Offer]:
    """Put the parts of a group together and offer them to the builder (:func:`hasp.store.offer.offer`)."""
    nodes = {t: [read_window(job.root, w) for w in found] for t, found in job.nodes.items()}
    edges = {e: [read_window(job.root, w) for w in found] for e, found in job.edges.items()}
    out = []
    for i, part_id in enumerate(job.parts):
        at = part_id - job.first
        own = {t: Nodes(tensor(ids[i]), len(ids[i]), _attrs(_joined(nodes.get(t, []), at))) for t, ids in job.n_id.items()}
        links = {e: _edges(_joined(found, at), int(job.num_keys[e][i])) for e, found in edges.items()}
        out.append(offer(Path(job.root), Part(part_id, own, links)))
    return out


def _edges(arrays: dict[str, Array], num_keys: int) -> Edges:
    src, dst, e_id = (arrays.pop(label) for label in (SOURCE, DESTINATION, EDGE))
    return sort_edges(src, dst, e_id, num_keys, _attrs(arrays))


def _joined(windows: Sequence[tuple[Array, dict[str, Array]]], at: int) -> dict[str, Array]:
    """The arrays of a group's part, chunk after chunk."""
    labels = list(windows[0][1]) if windows else []
    return {k: np.concatenate([rows[k][ptr[at] : ptr[at + 1]] for ptr, rows in windows]) for k in labels}


def _attrs(arrays: Mapping[str, Array]) -> dict[str, torch.Tensor]:
    return {k: tensor(v) for k, v in arrays.items()}


def _taken(attrs: Mapping[str, Array], rows: Array) -> dict[str, Array]:
    index = torch.from_numpy(rows)
    return {k: take_rows(tensor(v), index).numpy() for k, v in attrs.items()}
