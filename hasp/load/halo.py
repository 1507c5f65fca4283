"""Halo: a batch that also carries, read-only, the entities of other parts which its own entities hear from.

A plain batch leaves cut edges out. With a halo, every entity of the batch has all the edges between entities that lead to it
in the whole graph: those that begin in another part are added together with their far ends. One hop, and one way:

* A far end has its attributes and no edges that lead to it. So the first layer of a model sees for every owned entity what
  it would see in the whole graph; a second layer sees the far ends as a model without neighbours would.
* Edges that lead from an owned entity to another part are not carried: nothing is computed for their far ends.
* Concepts and sampled nodes of a far end are not carried either: they would be messages to it.

A far end never supervises: the halo is added after seeds, links and negatives were chosen among the owned entities, their
rows stay what they are, and in ``train_mask``, ``val_mask`` and ``test_mask`` a far end is ``False`` (a loop that asks
these masks would train on it once per part that carries it).

Source: the halo of distributed graph training (P. Zheng et al., "DistDGL", IA3 2020), here opt-in and read from the parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from hasp.errors import HaspError
from hasp.load.cache import HaloCache, RowCache, capacities
from hasp.load.crossing import Crossing, Incoming
from hasp.load.demand import BatchAsk, Demand, Future
from hasp.load.policies import policy_named
from hasp.load.runs import Run, put_among, rows_among, sorted_by_destination
from hasp.load.sampler import PartSampler
from hasp.load.store import Store
from hasp.part import Edges, Part
from hasp.rows import plain, take_rows

__all__ = ["MASKS", "HaloCount", "Halos", "PartRows"]

Ints = npt.NDArray[np.int64]

MASKS = ("train_mask", "val_mask", "test_mask")
"""Attributes of entities that say who supervises: ``False`` for far ends."""


@dataclass
class HaloCount:
    """What halos have cost so far, in this process.

    Attributes:
        batches: batches that got a halo.
        rows: far ends in them.
        edges: cut edges in them.
        bytes_read: bytes of far ends (ids and attributes) that were read from the parts that own them.
        hits: far ends that were not read, since a cache had them.
        bytes_saved: their bytes.
        cache_bytes: memory set aside for cached rows.
    """

    batches: int = 0
    rows: int = 0
    edges: int = 0
    bytes_read: int = 0
    hits: int = 0
    bytes_saved: int = 0
    cache_bytes: int = 0


class PartRows:
    """Rows of entities, read from the parts that own them; only these rows are touched in the maps.

    Args:
        store: what the loader reads.
        crossing: its keys.
    """

    def __init__(self, store: Store, crossing: Crossing) -> None:
        self._store, self._crossing = store, crossing
        self._parts: dict[int, Part] = {}
        first = self._part(0)
        self.row_bytes = {
            t: sum(v[:1].numel() * v.element_size() if v.size(0) else _width(v) for v in self._named(first, t).values())
            for t in crossing.start
        }

    def read(self, node_type: str, keys: Ints) -> dict[str, Tensor]:
        """``n_id`` and every attribute of some entities.

        Args:
            node_type: an entity type.
            keys: ascending, int64 ``[m]`` (:mod:`hasp.load.crossing`).

        Returns:
            Name -> ``[m, ...]``, fresh tensors of the stored dtypes.
        """
        start = self._crossing.start[node_type]
        first = np.searchsorted(keys, start)
        like = self._named(self._part(0), node_type)
        out = {name: value.new_empty((keys.size, *value.shape[1:])) for name, value in like.items()}
        for part in np.flatnonzero(first[1:] > first[:-1]):
            low, high = first[part], first[part + 1]
            rows = torch.from_numpy(keys[low:high] - start[part])
            for name, value in self._named(self._part(int(part)), node_type).items():
                plain(out[name])[low:high] = plain(take_rows(value, rows))
        return out

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_parts": {}}  # maps do not travel to other processes

    def _part(self, part_id: int) -> Part:
        # A map costs addresses, not memory, and opening one costs a look at the file: they are kept, unless the user wants
        # every file hashed at every mapping.
        if part_id not in self._parts or getattr(self._store, "verify", None) == "always":
            self._parts[part_id] = self._store.part(part_id)
        return self._parts[part_id]

    @staticmethod
    def _named(part: Part, node_type: str) -> dict[str, Tensor]:
        nodes = part.nodes[node_type]
        n_id = torch.arange(nodes.num_nodes) if nodes.n_id is None else nodes.n_id
        return {**nodes.attrs, "n_id": n_id}


class Halos:
    """Adds to every batch its halo.

    Args:
        store: what the loader reads.
        cache: what may be kept of it; ``None``: nothing.
        sampler: the order of the loader, for the clairvoyant policy; ``None``: it is not ours to know.

    Attributes:
        count: what that has cost.

    Raises:
        HaspError: a clairvoyant cache without an order.
    """

    def __init__(self, store: Store, cache: HaloCache | None = None, sampler: PartSampler | None = None) -> None:
        if cache is not None and cache.policy == "clairvoyant" and sampler is None:
            raise HaspError(
                "policy='clairvoyant' looks ahead in the loader's own order, but it has a sampler of yours; choose 'wanted'"
            )
        self._store, self._cache = store, cache
        self._future = None if sampler is None else Future(sampler)
        self.count = HaloCount()
        self._crossing = Crossing(store)
        self._rows = PartRows(store, self._crossing)
        self._demand: Demand | None = None
        self._caches: dict[str, RowCache] = {}
        if cache is not None:
            self._demand = demand = Demand(store, self._crossing)
            types = list(self._crossing.start)
            requests, rows = {t: demand.requests(t) for t in types}, {t: demand.rows(t) for t in types}
            room = capacities(cache.num_bytes, self._rows.row_bytes, requests, rows)
            self._caches = {t: RowCache(policy_named(cache.policy), room[t]) for t in types}

    def apply(self, batch: HeteroData, epoch: int = 0) -> HeteroData:
        """Add the halo of one batch, in place.

        Every entity type gets ``num_owned``, an int: rows from there on are the halo, by ascending (owner, ``n_id``), with
        their attributes, ``n_id`` and ``owner_part``; ``num_nodes`` counts them. ``batch_size`` and ``input_id`` stay what
        they are. Every edge type between entities gets its cut edges that lead from the halo to owned entities, in the
        order of all edges: ascending (destination, ``e_id``).

        Args:
            batch: of :func:`hasp.load.merge.merge`, with or without supervision.
            epoch: tells the clairvoyant policy where it is.
        """
        chosen = batch.part_id.numpy()
        cut = self._store.cut
        found = {e: self._crossing.into(e, cut.edges[e], chosen) for e in self._crossing.types}
        keys: dict[str, Ints] = {}
        home: dict[str, Ints] = {}
        for node_type in self._crossing.start:
            sources = [found[e].source for e in found if e[0] == node_type]
            keys[node_type] = _distinct(sources)
            home[node_type] = self._home(batch[node_type])
            self._add_nodes(batch[node_type], node_type, keys[node_type], epoch, chosen)
        for edge_type, incoming in found.items():
            source, _, destination = edge_type
            if incoming.columns.size:
                rows = np.searchsorted(keys[source], incoming.source) + batch[source].num_owned
                place = self._place(destination, chosen, incoming.destination)
                _add_edges(batch[edge_type], cut.edges[edge_type], incoming, rows, home[destination][place])
                self.count.edges += incoming.columns.size
        self.count.batches += 1
        return batch

    def _fetch(self, node_type: str, keys: Ints, epoch: int, chosen: Ints) -> Mapping[str, Tensor]:
        count, width = self.count, self._rows.row_bytes[node_type]
        count.rows += keys.size
        if self._cache is None or self._demand is None:
            count.bytes_read += keys.size * width
            return self._rows.read(node_type, keys)
        cache, held = self._caches[node_type], self._caches[node_type].hits
        ask = BatchAsk(keys, count.batches, self._cache.seed, node_type, epoch, int(chosen[0]), self._demand, self._future)
        out = cache.fetch(ask, partial(self._rows.read, node_type))
        hits = cache.hits - held
        count.hits += hits
        count.bytes_saved += hits * width
        count.bytes_read += (keys.size - hits) * width
        count.cache_bytes = sum(c.num_bytes for c in self._caches.values())
        return out

    def _add_nodes(self, out: Any, node_type: str, keys: Ints, epoch: int, chosen: Ints) -> None:
        owned = int(out.num_nodes)
        out.num_owned = owned
        if keys.size == 0:
            return
        for name, value in self._fetch(node_type, keys, epoch, chosen).items():
            if name == "n_id":
                value = value.to(out.n_id.dtype)
            elif name in MASKS and value.dtype == torch.bool:
                value = torch.zeros_like(value)
            out[name] = torch.cat([plain(out[name]), plain(value)]).view(value.dtype)
        owner = torch.from_numpy(self._crossing.owner(node_type, keys).astype(np.int32))
        out.owner_part = torch.cat([out.owner_part, owner])
        out.num_nodes = owned + keys.size

    def _home(self, out: Any) -> Ints:
        """Rows of the batch's entities, ordered by their keys. They come so, unless seeds have moved them."""
        n_id, owner = out.n_id.numpy(), out.owner_part.numpy()
        if bool(((owner[1:] > owner[:-1]) | ((owner[1:] == owner[:-1]) & (n_id[1:] > n_id[:-1]))).all()):
            return np.arange(n_id.size)
        return np.lexsort((n_id, owner))

    def _place(self, node_type: str, chosen: Ints, keys: Ints) -> Ints:
        """The place of each key of a chosen part among all keys of the chosen parts."""
        start = self._crossing.start[node_type]
        size = start[chosen + 1] - start[chosen]
        at = np.searchsorted(chosen, self._crossing.owner(node_type, keys))
        moved: Ints = start[chosen] - (np.cumsum(size) - size)
        place: Ints = keys - moved[at]
        return place


def _add_edges(out: Any, cut: Edges, incoming: Incoming, source: Ints, destination: Ints) -> None:
    """Put cut edges among those of the batch, all by ascending (destination, ``e_id``)."""
    columns = torch.from_numpy(incoming.columns)
    index, ids = out.edge_index.numpy(), out.e_id.numpy()
    more = np.take(cut.e_id.numpy(), incoming.columns).astype(np.int64)
    order = sorted_by_destination(destination, more)
    columns = columns[torch.from_numpy(order)]
    few = Run(source[order], destination[order], more[order])
    new = np.empty((2, ids.size + order.size), index.dtype), np.empty(ids.size + order.size, ids.dtype)
    place = put_among([Run(index[0], index[1], ids)], [0], few, *new)
    for name, value in cut.attrs.items():
        out[name] = rows_among(out[name], take_rows(value, columns), place)
    out.edge_index, out.e_id = (torch.from_numpy(values) for values in new)


def _distinct(keys: Sequence[Ints]) -> Ints:
    """The distinct keys of several arrays, ascending."""
    joined = np.sort(np.concatenate([np.empty(0, np.int64), *keys]))
    new = np.ones(joined.size, dtype=np.bool_)
    np.not_equal(joined[1:], joined[:-1], out=new[1:])
    return joined[new]


def _width(value: Tensor) -> int:
    return value.new_empty((1, *value.shape[1:])).numel() * value.element_size()
