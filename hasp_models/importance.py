"""Importance neighbourhoods (PinSage, Ying et al., 2018, section 3.1): the nodes that short random walks visit most.

A node's neighbourhood is not all that it is linked to, but the T nodes with the most visits of walks that begin at it and
restart there; the visits, divided by their sum, weigh them. So every node has at most T neighbours, whatever the degrees are,
and two nodes may be neighbours over several links. The same visits, further down the ranking, name nodes that are related
but not very: the hard negatives of the paper's curriculum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hasp.errors import HaspError
from hasp.parallel import blocks, run
from hasp.rng import hash64, subkey, word
from hasp.schema import EdgeType
from hasp_models.node_inputs import n_id_of
from hasp_models.relation_csr import RelationCSR

__all__ = ["POOLING", "VISITED", "Neighborhoods", "WalkGraph", "Walks", "most_visited"]

VISITED = "visited"
"""Name of the edge type that :class:`Neighborhoods` adds: (entity, "visited", entity)."""
POOLING = ("importance", "visited", "uniform")
"""Most visited nodes weighed by their visits; the same nodes, each alike; direct neighbours drawn at random, each alike."""

Ints = npt.NDArray[np.int64]
_STARTS = 1 << 12


@dataclass(frozen=True)
class Walks:
    """How walks are made.

    Attributes:
        walks: from each node.
        length: steps of a walk at most.
        restart: chance that a walk ends after a step, and the next one begins at the node again; 0: none ends early.
        seed: of all draws; those of a node depend on its global id alone, not on what else is in the batch.
    """

    walks: int = 100
    length: int = 3
    restart: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.walks < 1 or self.length < 1 or not 0 <= self.restart < 1:
            raise HaspError(
                f"walks and length are at least 1, restart in [0, 1), got {self.walks, self.length, self.restart}; correct it"
            )
        if self.walks * self.length >= 1 << 20:
            raise HaspError(
                f"a node is visited less than 2**20 times, got walks * length = {self.walks * self.length}; lower one"
            )


@dataclass(frozen=True)
class WalkGraph:
    """The undirected graph that walks go over. Parallel links are one, their weights added; loops are left out.

    Attributes:
        indptr: int64 ``[n + 1]``.
        indices: int32 ``[E]``, ascending in each row.
        weight: float64 ``[E]``, or empty: every neighbour alike.
        ids: int64 ``[n]``, by which nodes are hashed.
        counted: nodes ``0..counted - 1`` may be neighbours; the others (concepts) are only walked through.
    """

    indptr: Ints
    indices: npt.NDArray[np.int32]
    weight: npt.NDArray[np.float64]
    ids: Ints
    counted: int

    @classmethod
    def from_edges(cls, source: Any, destination: Any, ids: Any, weight: Any = None, counted: int | None = None) -> WalkGraph:
        """Both directions of a list of edges.

        Args:
            source: integers ``[E]`` below n.
            destination: likewise.
            ids: integers ``[n]``, distinct.
            weight: ``[E]`` or ``None``.
            counted: ``None``: all n.

        Raises:
            HaspError: an end out of range, a weight that is negative or not finite, or 2**31 nodes and more.
        """
        a, b = np.asarray(source, dtype=np.int64), np.asarray(destination, dtype=np.int64)
        ids = np.ascontiguousarray(ids, dtype=np.int64)
        n = ids.size
        if n >= 1 << 31:
            raise HaspError(f"a walk graph has less than 2**31 nodes, got {n:,}; walk over parts")
        if a.size and not 0 <= min(a.min(), b.min()) <= max(a.max(), b.max()) < n:
            raise HaspError(
                f"ends of links lie in 0..{n - 1}, got {min(a.min(), b.min())}..{max(a.max(), b.max())}; correct them"
            )
        proper = a != b
        key = np.concatenate([a[proper] * n + b[proper], b[proper] * n + a[proper]])
        if weight is None:
            key, sums = np.unique(key), np.empty(0, dtype=np.float64)
        else:
            given = np.asarray(weight, dtype=np.float64)
            if given.shape != a.shape or not np.isfinite(given).all() or (given < 0).any():
                raise HaspError(
                    f"walks take one finite weight >= 0 per link, {a.size:,}, got {given.shape}; correct the weights"
                )
            key, place = np.unique(key, return_inverse=True)
            sums = np.bincount(place, weights=np.tile(given[proper], 2), minlength=key.size).astype(np.float64)
        indptr = np.zeros(n + 1, dtype=np.int64)
        np.cumsum(np.bincount(key // max(n, 1), minlength=n), out=indptr[1:])
        return cls(indptr, (key % max(n, 1)).astype(np.int32), sums, ids, n if counted is None else counted)

    @classmethod
    def of(
        cls, batch: Any, entity: str, links: Sequence[EdgeType], weight: str | None = None, through: Sequence[EdgeType] = ()
    ) -> WalkGraph:
        """The links of a batch.

        Args:
            batch: a ``HeteroData``.
            entity: a node type; its rows are the first of the graph.
            links: edge types from it to itself.
            weight: edge attribute of the links; ``None``: all alike.
            through: further edge types, between entities and concepts; walks then go over concepts as well (pins and boards).
        """
        first, ids = {entity: 0}, [n_id_of(batch[entity]).cpu().numpy()]
        size = count = int(batch[entity].num_nodes)
        wrong = [e for e in links if e[0] != entity or e[2] != entity] + [e for e in through if entity not in (e[0], e[2])]
        if wrong or (weight is not None and through):
            what = "weights are of links alone, leave through out" if not wrong else f"correct {wrong[0]}"
            raise HaspError(f"walks go over links of {entity!r} and, through, over edges between it and concepts; {what}")
        for node_type in dict.fromkeys(t for e in through for t in (e[0], e[2]) if t != entity):
            first[node_type] = size
            # Other types have ids of their own range, so that no two nodes of the graph are hashed alike.
            ids.append(n_id_of(batch[node_type]).cpu().numpy() + ((word(node_type) >> 2) + 1 << 32))
            size += int(batch[node_type].num_nodes)
        found = [e for e in (*links, *through) if e in batch.edge_types]
        ends = [batch[e].edge_index.long().cpu().numpy() for e in found]
        source = [e[0] + first[t[0]] for e, t in zip(ends, found, strict=True)]
        destination = [e[1] + first[t[2]] for e, t in zip(ends, found, strict=True)]
        missing = [e for e in found if weight is not None and weight not in batch[e]]
        if missing:
            raise HaspError(f"walks weigh links by {weight!r}, which {missing[0]} lacks; add it, or leave weight out")
        none, values = np.empty(0, np.int64), None
        if weight is not None:
            values = np.concatenate([np.empty(0), *(batch[e][weight].cpu().numpy().reshape(-1) for e in found)])
        joined = (np.concatenate([none, *source]), np.concatenate([none, *destination]))
        return cls.from_edges(*joined, np.concatenate(ids), values, count)

    @property
    def num_nodes(self) -> int:
        """Number of nodes."""
        return self.indptr.size - 1


def most_visited(
    graph: WalkGraph, walks: Walks, top: int, starts: Any = None, threads: int = 0
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """The nodes that walks from each start visit most.

    Args:
        graph: what is walked over.
        walks: how.
        top: nodes per start at most (T).
        starts: nodes ``[m]``; ``None``: all that are counted.
        threads: 0: one per core. Never changes the result.

    Returns:
        nodes int32 ``[m, top]``, most visited first (-1 past the end; never the start), and their visits int32 ``[m, top]``.

    Raises:
        HaspError: ``top`` is below 1 or a start is no node.
    """
    from hasp_models.kernels import walks as kernel

    begin = np.arange(graph.counted) if starts is None else np.ascontiguousarray(starts, dtype=np.int64)
    if top < 1 or (begin.size and not 0 <= begin.min() <= begin.max() < graph.num_nodes):
        raise HaspError(f"top is at least 1 and starts lie in 0..{graph.num_nodes - 1}, got top={top}; correct one of them")
    nodes = np.full((begin.size, top), -1, dtype=np.int32)
    count = np.zeros((begin.size, top), dtype=np.int32)
    total = np.empty(graph.weight.size)
    if total.size:
        kernel.sum_rows(graph.indptr, graph.weight, total)
    key, stop = subkey(walks.seed, word("walks")), np.uint64(int(walks.restart * 2**32))
    how = (key, walks.walks, walks.length, stop)

    def task(block: tuple[int, int]) -> None:
        some = slice(*block)
        where = (graph.indptr, graph.indices, total, graph.ids, begin[some], graph.counted)
        kernel.count_visits(*where, *how, nodes[some], count[some])

    run(task, blocks(begin.size, _STARTS), threads)
    return nodes, count


class Neighborhoods:
    """Adds the importance neighbourhoods of a batch to it, as a ``transform`` of :class:`hasp.HASPLoader` or by itself.

    The batch gets the edge type ``(entity, "visited", entity)``: ``edge_index`` int64 ``[2, m]`` from neighbour to node, sorted
    by node, and ``share`` float32 ``[m]``, which adds up to 1 over each node that has neighbours.

    Args:
        entity: the node type.
        links: edge types from it to itself; only those that carry messages in the batch are walked.
        top: T, neighbours per node at most.
        walks: how walks are made.
        pooling: of :data:`POOLING`.
        weight: edge attribute by which walks choose; ``None``: all links alike.
        through: see :meth:`WalkGraph.of`.
        threads: of the walks; 0: one per core.

    Raises:
        HaspError: a setting out of its range.
    """

    def __init__(
        self,
        entity: str,
        links: Sequence[EdgeType],
        top: int = 10,
        walks: Walks | None = None,
        *,
        pooling: str = "importance",
        weight: str | None = None,
        through: Sequence[EdgeType] = (),
        threads: int = 0,
    ) -> None:
        if pooling not in POOLING or top < 1:
            raise HaspError(f"pooling is one of {POOLING} and top at least 1, got {pooling!r} and {top}; correct it")
        self.entity, self.links, self.top, self.walks = entity, list(links), top, walks or Walks()
        self.pooling, self.weight, self.through, self.threads = pooling, weight, list(through), threads

    @property
    def edge_type(self) -> EdgeType:
        """The edge type that is added."""
        return self.entity, VISITED, self.entity

    def __call__(self, batch: Any) -> Any:
        """Add the neighbourhoods to a batch, in place; returns it."""
        source, destination, share = self._edges(batch)
        out = batch[self.edge_type]
        out.edge_index, out.share = torch.stack([source, destination]), share
        return batch

    def of(self, graph: WalkGraph, starts: Any = None) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Neighbours of ``starts`` ``[m]`` (``None``: all), and their shares.

        Returns:
            int32 ``[m, top]``, -1 past the end, and float32 ``[m, top]``.
        """
        if self.pooling == "uniform":
            nodes = _drawn(graph, self.top, self.walks.seed)
            nodes = nodes if starts is None else nodes[starts]
            count = (nodes >= 0).astype(np.int64)
        else:
            nodes, found = most_visited(graph, self.walks, self.top, starts, self.threads)
            count = found.astype(np.int64) if self.pooling == "importance" else (nodes >= 0).astype(np.int64)
        return nodes, (count / np.maximum(count.sum(1, keepdims=True), 1)).astype(np.float32)

    def csr(self, batch: Any) -> tuple[RelationCSR, Tensor]:
        """The neighbourhoods of a batch as rows by node, and the shares in that order; made now where the batch has none."""
        if self.edge_type in batch.edge_types:
            store = batch[self.edge_type]
            (source, destination), share = store.edge_index, store.share
        else:
            source, destination, share = self._edges(batch)
        count = torch.bincount(destination, minlength=int(batch[self.entity].num_nodes))
        indptr = torch.cat([count.new_zeros(1), count.cumsum(0)])
        rel, perm = torch.zeros_like(source, dtype=torch.int32), torch.arange(source.numel(), device=source.device)
        return RelationCSR(indptr, source.to(torch.int32), rel, perm, int(batch[self.entity].num_nodes), 1), share

    def _edges(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Neighbour and node, int64 ``[m]`` each, sorted by node, and float32 ``[m]``, on the batch's device."""
        nodes, share = self.of(WalkGraph.of(batch, self.entity, self.links, self.weight, self.through))
        row, column = np.nonzero(nodes >= 0)
        device = n_id_of(batch[self.entity]).device
        made = (nodes[row, column].astype(np.int64), row, share[row, column])
        source, destination, of_edge = (torch.from_numpy(a).to(device) for a in made)
        return source, destination, of_edge

    def __repr__(self) -> str:
        return f"Neighborhoods({self.entity!r}, {self.links}, top={self.top}, {self.walks}, pooling={self.pooling!r})"


def _drawn(graph: WalkGraph, top: int, seed: int) -> npt.NDArray[np.int32]:
    """At most ``top`` direct neighbours of each counted node, drawn by a hash of both ids, int32 ``[counted, top]``."""
    row = np.repeat(np.arange(graph.num_nodes), np.diff(graph.indptr))
    key = subkey(seed, word("uniform"))
    draw = hash64(key, hash64(key, graph.ids)[row].view(np.int64) ^ graph.ids[graph.indices])
    keep = graph.indices < graph.counted
    row, node, draw = row[keep], graph.indices[keep], draw[keep]
    order = np.lexsort((draw, row))
    row, node = row[order], node[order]
    first = np.searchsorted(row, np.arange(graph.num_nodes))
    place = np.arange(row.size) - first[row]
    out = np.full((graph.counted, top), -1, dtype=np.int32)
    mine = (place < top) & (row < graph.counted)
    out[row[mine], place[mine]] = node[mine]
    return out
