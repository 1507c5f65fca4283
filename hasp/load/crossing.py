"""Crossing: the cut edges that lead into some parts, found without looking at the rest of the cut.

The cut is grouped by (part of the source, part of the destination). A batch asks for all groups that end in its parts and
begin elsewhere, so the groups are sorted once by where they end; the edges themselves stay where they are, in the map.

Entities are named by *keys* here: ``start[part] + row in the part``, a number in ``0..n-1`` per type that orders entities by
part first. It costs no look-up to go from a cut edge to a key, nor from a key to the part that owns the row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hasp.errors import HaspError
from hasp.load.store import Store
from hasp.part import Edges
from hasp.schema import EdgeType

__all__ = ["Crossing", "Incoming"]

Ints = npt.NDArray[np.int64]

_BLOCK = 1 << 22  # cut edges looked at together when all of them are


@dataclass(frozen=True)
class Incoming:
    """Cut edges of one type.

    Attributes:
        columns: their places in the cut, int64 ``[m]``, ascending.
        source: keys of their sources, int64 ``[m]``.
        destination: keys of their destinations, int64 ``[m]``.
    """

    columns: Ints
    source: Ints
    destination: Ints


class Crossing:
    """The cut of a store, by where its edges lead.

    Args:
        store: what the loader reads.

    Attributes:
        num_parts: parts.
        start: per entity type, the first key of every part and the number of entities, int64 ``[num_parts + 1]``.
        types: the edge types between entities, in the graph's order: those that can be cut.
    """

    def __init__(self, store: Store) -> None:
        self.num_parts = int(store.manifest.config["num_parts"])
        self.start: dict[str, Ints] = {}
        for node_type, labels in store.node_part().items():
            counts = np.bincount(labels.numpy(), minlength=self.num_parts)
            self.start[node_type] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.types = [e for e in store.manifest.roles.edges if e[0] in self.start and e[2] in self.start]
        self._order: dict[EdgeType, tuple[Ints, Ints]] = {}

    def into(self, edge_type: EdgeType, cut: Edges, chosen: npt.NDArray[np.int64]) -> Incoming:
        """The cut edges of a type that end in one of the chosen parts and begin in none of them.

        Args:
            edge_type: one of :attr:`types`.
            cut: its edges in the cut.
            chosen: distinct parts ``[q]``.
        """
        pairs, ptr = _grouped(cut)
        if edge_type not in self._order:
            by_destination = np.argsort(pairs[:, 1], kind="stable")
            first = np.searchsorted(pairs[by_destination, 1], np.arange(self.num_parts + 1))
            self._order[edge_type] = by_destination, first
        by_destination, first = self._order[edge_type]
        groups = np.concatenate([np.empty(0, np.int64), *(by_destination[first[p] : first[p + 1]] for p in chosen)])
        groups = np.sort(groups[~np.isin(pairs[groups, 0], chosen)])
        counts = ptr[groups + 1] - ptr[groups]
        columns = np.repeat(ptr[groups] - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        return self._incoming(edge_type, cut, groups, counts, columns)

    def blocks(self, edge_type: EdgeType, cut: Edges) -> Iterator[tuple[Incoming, npt.NDArray[np.int32]]]:
        """All cut edges of a type, some whole groups at a time, with the part that each leads into, int32 ``[m]``."""
        pairs, ptr = _grouped(cut)
        low, last = 0, len(pairs)
        while low < last:
            high = max(low + 1, int(np.searchsorted(ptr, ptr[low] + _BLOCK, side="right")) - 1)
            groups = np.arange(low, min(high, last))
            counts = ptr[groups + 1] - ptr[groups]
            columns = np.arange(ptr[low], ptr[groups[-1] + 1])
            yield self._incoming(edge_type, cut, groups, counts, columns), np.repeat(pairs[groups, 1], counts)
            low = int(groups[-1]) + 1

    def owner(self, node_type: str, keys: Ints) -> Ints:
        """The part that owns each key, int64, shape of ``keys``."""
        return np.searchsorted(self.start[node_type], keys, side="right") - 1

    def _incoming(self, edge_type: EdgeType, cut: Edges, groups: Ints, counts: Ints, columns: Ints) -> Incoming:
        assert cut.pairs is not None
        ends = []
        for end, node_type in enumerate((edge_type[0], edge_type[2])):
            base = self.start[node_type][cut.pairs.numpy()[groups, end]]
            rows = np.take(cut.edge_index[end].numpy(), columns)
            ends.append(np.repeat(base, counts) + rows)
        return Incoming(columns, *ends)


def _grouped(cut: Edges) -> tuple[npt.NDArray[np.int32], Ints]:
    if cut.pairs is None or cut.ptr is None:
        raise HaspError("the cut is grouped by pairs of parts, but this one has no pairs; rebuild the parts")
    return cut.pairs.numpy(), cut.ptr.numpy()
