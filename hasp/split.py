"""Split: entities with an EEL | entities without (paper, section 5.2), and the graph that the partitioner sees.

The partitioner gets the EEL graph alone: symmetric, coalesced, without self-loops and without isolated nodes, whatever the
direction and the multiplicity of the EELs in the source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hasp.errors import HaspError
from hasp.graph import Graph
from hasp.kernels import csr as kernel
from hasp.parallel import blocks, run
from hasp.schema import Roles
from hasp.scratch import MEMORY, Scratch

__all__ = ["EelGraph", "check_weights", "entity_offsets", "split", "symmetric_csr", "weighted_csr"]

Ints = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class EelGraph:
    """The EELs as one symmetric graph over the linked entities.

    Attributes:
        linked: the entities with an EEL, ascending, int64 ``[l]``, numbered over all entity types (:func:`entity_offsets`).
        num_entities: all entities, linked or not.
        indptr: int64 ``[l + 1]``.
        indices: int64 ``[2 m]``: rows of ``linked``; both directions of each of the ``m`` distinct EELs, rows sorted.
        edge_weight: int64 ``[2 m]`` >= 1, or ``None`` where every EEL counts the same.
    """

    linked: npt.NDArray[np.int64]
    num_entities: int
    indptr: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int64]
    edge_weight: npt.NDArray[np.int64] | None

    @property
    def degree(self) -> npt.NDArray[np.int64]:
        """Distinct neighbours per entity over EELs, int64 ``[num_entities]``; 0 for entities without."""
        out = np.zeros(self.num_entities, dtype=np.int64)
        out[self.linked] = np.diff(self.indptr)
        return out


def entity_offsets(graph: Graph, roles: Roles) -> dict[str, int]:
    """First number of each entity type when all entities are numbered one after the other."""
    offsets, total = {}, 0
    for node_type in roles.entity:
        offsets[node_type] = total
        total += graph.num_nodes[node_type]
    return offsets


def split(graph: Graph, roles: Roles, weight: str = "", threads: int = 0, scratch: Scratch = MEMORY) -> EelGraph:
    """Find the linked entities and make the graph that is partitioned.

    Args:
        graph: checked beforehand (:meth:`Graph.check`).
        roles: of the same graph.
        weight: name of a numeric edge attribute ``[E]`` of the EELs; weights of repeated EELs add up. Empty: none.
        threads: never changes the result.
        scratch: where the arrays go that are as long as the EELs; with a weight they are in memory.

    Raises:
        HaspError: an EEL type lacks the weight attribute, or a weight is negative, NaN or infinite.
    """
    offsets = entity_offsets(graph, roles)
    total = sum(graph.num_nodes[t] for t in roles.entity)
    pairs = [(e, graph.edges[e][0].numpy(), graph.edges[e][1].numpy()) for e in roles.eel]
    mark = np.zeros(total, dtype=np.bool_)
    for edge_type, all_src, all_dst in pairs:
        first, second = (mark[offsets[edge_type[i]] :][: graph.num_nodes[edge_type[i]]] for i in (0, 2))
        for low, high in blocks(all_src.size):
            src, dst = all_src[low:high], all_dst[low:high]
            # A self-loop links nothing: an entity that has no other EEL counts as unlinked.
            links = src != dst if edge_type[0] == edge_type[2] else slice(None)
            first[src[links]] = True
            second[dst[links]] = True
    linked = np.flatnonzero(mark)
    if linked.size > np.iinfo(np.int32).max:
        raise HaspError(f"at most 2**31 - 1 entities may have EELs, got {linked.size:,}; partition elsewhere, pass node_part=")
    new = np.full(total, -1, dtype=np.int32)
    new[linked] = np.arange(linked.size, dtype=np.int32)

    def numbering(node_type: str) -> Ints:
        return new[offsets[node_type] :][: graph.num_nodes[node_type]]

    lists = [(src, dst, numbering(e[0]), numbering(e[2])) for e, src, dst in pairs]
    if not weight or not lists:
        indptr, indices = symmetric_csr(lists, linked.size, threads, scratch)
        return EelGraph(linked, total, indptr, indices, None)
    weights = [_weights(graph, edge_type, weight) for edge_type in roles.eel]
    return EelGraph(linked, total, *weighted_csr(lists, weights, linked.size))


def symmetric_csr(
    lists: list[tuple[Ints, Ints, Ints, Ints]], num_rows: int, threads: int = 0, scratch: Scratch = MEMORY
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Make one symmetric CSR, without repeats and self-loops, of several edge lists.

    Args:
        lists: per edge list (sources, destinations, new number of each source id, new number of each destination id).
            The new numbers (int32) are ``-1`` only for ids that occur in self-loops alone.
        num_rows: rows of the result.
        threads: never changes the result.
        scratch: where the arrays go that are as long as the lists.

    Returns:
        ``indptr`` int64 ``[num_rows + 1]``, ``indices`` int64, each row ascending.
    """
    buckets = max(1, -(-num_rows // (1 << kernel.SHIFT)))
    todo = [(entry, low, high) for entry in lists for low, high in blocks(entry[0].size)]
    counts = np.zeros((len(todo), buckets), dtype=np.int64)

    def count(i: int) -> None:
        (src, dst, src_new, dst_new), low, high = todo[i]
        kernel.count_entries(src[low:high], dst[low:high], src_new, dst_new, kernel.SHIFT, counts[i])

    run(count, range(len(todo)), threads)
    # cursors[i, b]: where block i's entries of bucket b begin = all earlier buckets, then earlier blocks of this one.
    bucket_ptr = np.concatenate([[0], np.cumsum(counts.sum(axis=0))])
    cursors = bucket_ptr[:-1] + np.cumsum(counts, axis=0) - counts
    row, col = (scratch.empty(int(bucket_ptr[-1]), np.int32) for _ in range(2))

    def place(i: int) -> None:
        (src, dst, src_new, dst_new), low, high = todo[i]
        kernel.place_entries(src[low:high], dst[low:high], src_new, dst_new, kernel.SHIFT, cursors[i], row, col)

    run(place, range(len(todo)), threads)
    degree = np.zeros(num_rows, dtype=np.int64)

    def sort(b: int) -> None:
        first = b << kernel.SHIFT
        rows = min(1 << kernel.SHIFT, num_rows - first)
        low, high = bucket_ptr[b], bucket_ptr[b + 1]
        packed = np.empty(high - low, dtype=np.int32)
        kernel.sort_bucket(row[low:high], col[low:high], first, rows, packed, degree[first : first + rows])
        col[low:high] = packed

    run(sort, range(buckets) if num_rows else (), threads)
    indptr = np.concatenate([[0], np.cumsum(degree)]).astype(np.int64, copy=False)
    indices = scratch.empty(int(indptr[-1]), np.int64)

    def copy(b: int) -> None:
        first = b << kernel.SHIFT
        low, high = indptr[first], indptr[min(first + (1 << kernel.SHIFT), num_rows)]
        kernel.copy_rows(col[bucket_ptr[b] :], indices[low:high])

    run(copy, range(buckets) if num_rows else (), threads)
    return indptr, indices


def check_weights(graph: Graph, roles: Roles, weight: str) -> None:
    """Look at the weights of every EEL type. Raises :class:`HaspError` as :func:`split` does, but before any other work."""
    for edge_type in roles.eel if weight else ():
        _weights(graph, edge_type, weight)


def _weights(graph: Graph, edge_type: tuple[str, str, str], name: str) -> npt.NDArray[np.float64]:
    value = graph.edge_attrs.get(edge_type, {}).get(name)
    if value is None or value.numel() != graph.num_edges(edge_type):
        have = sorted(graph.edge_attrs.get(edge_type, {}))
        raise HaspError(f"weight={name!r}: one number per EEL, but {edge_type} has {have}; name one of these or leave it out")
    weights = value.reshape(-1).to(torch.float64).numpy()
    if weights.size and not (np.isfinite(weights).all() and weights.min() >= 0):
        bad = int((~np.isfinite(weights) | (weights < 0)).sum())
        raise HaspError(f"weight={name!r}: EEL weights are finite and >= 0, {bad:,} of {edge_type} are not; clean them")
    return weights


def weighted_csr(
    lists: list[tuple[Ints, Ints, Ints, Ints]], weights: list[npt.NDArray[np.float64]], num_rows: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The same with weights. They are scaled so that the mean is 100: METIS takes whole numbers >= 1.

    Every pair of entities is summed once and then mirrored, so that both directions weigh the same to the last bit, and a
    pair stays even if its weights add up to 0.
    """
    total = sum(value.size for value in weights)
    key, value = np.empty(total, dtype=np.int64), np.empty(total, dtype=np.float64)  # key: both ends as one number
    kept = 0
    for (src, dst, src_new, dst_new), weight in zip(lists, weights, strict=True):
        for begin, end in blocks(src.size):
            u, v = src_new[src[begin:end]].astype(np.int64), dst_new[dst[begin:end]].astype(np.int64)
            links = u != v
            size = int(np.count_nonzero(links))
            key[kept : kept + size] = (np.minimum(u, v) * num_rows + np.maximum(u, v))[links]
            value[kept : kept + size] = weight[begin:end][links]
            kept += size
    key, value = key[:kept], value[:kept]
    value /= value.max(initial=0.0) or 1.0  # so that no sum overflows
    order = np.argsort(key, kind="stable")
    key, value = key[order], value[order]
    del order
    first = np.flatnonzero(np.diff(key, prepend=-1))
    sums = np.add.reduceat(value, first) if first.size else value
    del value
    key = key[first]
    del first
    mean = sums.mean() if sums.size else 1.0
    # The cap keeps sums of weights far from overflow and METIS's coarsening from being ruled by one edge.
    scaled = np.clip(np.rint(sums * (100.0 / (mean or 1.0))), 1, 100_000).astype(np.int64)
    low, high = np.divmod(key, max(num_rows, 1))
    del key, sums
    return _mirrored(low, high, scaled, num_rows)


def _mirrored(
    low: npt.NDArray[np.int64], high: npt.NDArray[np.int64], weight: npt.NDArray[np.int64], num_rows: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pairs ``low < high``, ascending, as a CSR of both directions: each row has its lower neighbours first."""
    below, above = (np.bincount(ends, minlength=num_rows) for ends in (high, low))
    indptr = np.concatenate([[0], np.cumsum(below + above)]).astype(np.int64)
    indices, out = np.empty((2, 2 * low.size), dtype=np.int64)
    at = np.arange(low.size) + np.repeat(indptr[:-1] + below - (np.cumsum(above) - above), above)
    indices[at], out[at] = high, weight
    order = np.argsort(high, kind="stable")
    at = np.arange(low.size) + np.repeat(indptr[:-1] - (np.cumsum(below) - below), below)
    indices[at], out[at] = low[order], weight[order]
    return indptr, indices, out
