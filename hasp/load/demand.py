"""Demand: who asks for which far ends, and when. What the policies of a cache (:mod:`hasp.load.policies`) know.

All of it follows from the parts and the order of the loader: which parts want an entity is in the cut, how many links it has
is in the parts and the cut, and when a part is next loaded is a function of (seed, epoch).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import get_worker_info

from hasp.load import order
from hasp.load.crossing import Crossing
from hasp.load.policies import NEVER
from hasp.load.sampler import PartSampler
from hasp.load.store import Store
from hasp.rows import distinct

__all__ = ["BatchAsk", "Demand", "Future"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Future:
    """When this process loads which part: the order of :class:`PartSampler`, looked at ahead of time.

    Args:
        sampler: the loader's.
    """

    def __init__(self, sampler: PartSampler) -> None:
        self._sampler = sampler
        self._places: dict[tuple[int, ...], tuple[Ints, int]] = {}
        self._rank_of: tuple[int, int] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A worker that was spawned has no process group to ask.
        return {**self.__dict__, "_rank_of": self._sampler.place()}

    def times(self, epoch: int, part: int) -> tuple[Ints, int]:
        """The batch in which each part comes, and the number of batches of an epoch.

        A worker that gets every n-th batch of its rank looks at these only.

        Args:
            epoch: which.
            part: one that this process is loading.

        Returns:
            int64 ``[num_parts]``, -1 for a part that does not come; the batches of this rank.
        """
        place, length = self._rank(epoch)
        info = get_worker_info()
        if info is not None and place[part] % info.num_workers == info.id:
            return np.where(place % info.num_workers == info.id, place, -1), length
        return place, length

    def _rank(self, epoch: int) -> tuple[Ints, int]:
        sampler = self._sampler
        rank, world_size = self._rank_of or sampler.place()
        key = (epoch, sampler.step_size, rank, world_size)
        if key not in self._places:
            if len(self._places) >= 4:  # this epoch and the next are looked at
                self._places.pop(next(iter(self._places)))
            parts = order.parts_order(sampler.seed, epoch, sampler.num_parts, sampler.shuffle)
            place, count = np.full(sampler.num_parts, -1, dtype=np.int64), 0
            for step in range(sampler.num_steps):
                batches = order.step_batches(parts, step, sampler.batch_size, sampler.step_size)
                for batch in order.rank_batches(batches, sampler.cost, rank, world_size):
                    place[batch] = count
                    count += 1
            self._places[key] = place, count
        return self._places[key]


class Demand:
    """The far ends of a store, by who wants them.

    Args:
        store: what the loader reads. Its cut is read once, its parts only for :meth:`reach`.
        crossing: its keys.
    """

    def __init__(self, store: Store, crossing: Crossing) -> None:
        self._store, self._crossing = store, crossing
        self._reach: dict[tuple[int, bool], dict[str, Floats]] = {}
        # (key, part that wants it) as one number, ascending. Of one group of the cut first, so that little is sorted twice.
        found: dict[str, list[Ints]] = {t: [np.empty(0, np.int64)] for t in crossing.start}
        cut = store.cut
        for edge_type in crossing.types:
            for incoming, part in crossing.blocks(edge_type, cut.edges[edge_type]):
                found[edge_type[0]].append(distinct(incoming.source * crossing.num_parts + part))
        self._codes = {t: distinct(np.concatenate(codes)) for t, codes in found.items()}

    def requests(self, node_type: str) -> int:
        """Rows of a type that an epoch asks for, one part per batch."""
        return int(self._codes[node_type].size)

    def rows(self, node_type: str) -> int:
        """Distinct rows of a type that any part wants."""
        keys = self._codes[node_type] // self._crossing.num_parts
        return int((keys[1:] != keys[:-1]).sum()) + int(keys.size > 0)

    def wanted(self, node_type: str, keys: Ints) -> Ints:
        """By how many parts each row is wanted, int64 ``[m]``."""
        low, high = self._range(node_type, keys)
        return high - low

    def next_use(self, node_type: str, keys: Ints, epoch: int, part: int, future: Future) -> Ints:
        """The batch that next asks for each row, counted from epoch 0; :data:`NEVER` if that is not in this epoch or the next.

        Exact, also for merged parts: a part asks for no row of a part in its own batch. With one rank every part comes every
        epoch, so there is nothing beyond; with several, what is beyond is unforeseen.

        Args:
            node_type: of the rows.
            keys: rows that some part wants ``[m]``.
            epoch: now.
            part: one of the parts of the batch that asks now.
            future: of this process.

        Returns:
            int64 ``[m]``.
        """
        if keys.size == 0:
            return np.empty(0, np.int64)
        low, high = self._range(node_type, keys)
        counts = high - low
        first = np.cumsum(counts) - counts
        wants = self._codes[node_type][np.repeat(low - first, counts) + np.arange(counts.sum())] % self._crossing.num_parts
        owner = np.repeat(self._crossing.owner(node_type, keys), counts)
        best = np.full(wants.size, NEVER)
        for ahead in (1, 0):  # what is nearer overwrites what is farther
            times, length = future.times(epoch + ahead, part)
            time = times[wants]
            comes = (time >= 0) & (time != times[owner])
            if ahead == 0:
                comes &= time > times[part]
            best[comes] = time[comes] + (epoch + ahead) * length
        return np.minimum.reduceat(best, first)

    def reach(self, hops: int, outgoing: bool) -> dict[str, Floats]:
        """Walks of so many edges between entities that end (or begin) at each entity, by key, float64 ``[n]`` per type.

        One pass over all edges per hop; the result is kept.
        """
        if (hops, outgoing) not in self._reach:
            total = {t: np.zeros(int(start[-1])) for t, start in self._crossing.start.items()}
            before = self.reach(hops - 1, outgoing) if hops > 1 else None
            for source, destination, (source_type, destination_type) in self._edges():
                here, there = (source, destination) if outgoing else (destination, source)
                here_type, there_type = (source_type, destination_type) if outgoing else (destination_type, source_type)
                if here.size == 0:
                    continue
                weight = None if before is None else before[there_type][there]
                low = int(here.min())
                sums = np.bincount(here - low, weights=weight)
                total[here_type][low : low + sums.size] += sums
            self._reach[hops, outgoing] = total
        return self._reach[hops, outgoing]

    def _edges(self) -> Iterator[tuple[Ints, Ints, tuple[str, str]]]:
        """Keys of both ends of all edges between entities, a part or some groups of the cut at a time."""
        start, cut = self._crossing.start, self._store.cut
        for part_id in range(self._crossing.num_parts):
            part = self._store.part(part_id)
            for e in self._crossing.types:
                source, destination = part.edges[e].edge_index.numpy()
                yield source + start[e[0]][part_id], destination + start[e[2]][part_id], (e[0], e[2])
        for e in self._crossing.types:
            for incoming, _ in self._crossing.blocks(e, cut.edges[e]):
                yield incoming.source, incoming.destination, (e[0], e[2])

    def _range(self, node_type: str, keys: Ints) -> tuple[Ints, Ints]:
        codes, count = self._codes[node_type], self._crossing.num_parts
        return np.searchsorted(codes, keys * count), np.searchsorted(codes, (keys + 1) * count)


@dataclass(frozen=True)
class BatchAsk:
    """What one batch of the loader asks for of one type (see :class:`hasp.load.policies.Ask`).

    Attributes:
        keys: the rows.
        now: number of the batch.
        seed: of policies that draw.
        node_type: of the rows.
        epoch: of the batch.
        part: one of its parts.
        demand: of the store.
        future: of this process; ``None``: unknown.
    """

    keys: Ints
    now: int
    seed: int
    node_type: str
    epoch: int
    part: int
    demand: Demand
    future: Future | None

    def wanted(self) -> Ints:
        """By how many parts each row is wanted."""
        return self.demand.wanted(self.node_type, self.keys)

    def reach(self, hops: int, outgoing: bool) -> Floats:
        """Walks of so many edges that end (or begin) at each row."""
        return self.demand.reach(hops, outgoing)[self.node_type][self.keys]

    def next_use(self) -> Ints:
        """The batch that next asks for each row."""
        if self.future is None:
            return np.full(self.keys.shape, NEVER)
        return self.demand.next_use(self.node_type, self.keys, self.epoch, self.part, self.future)
