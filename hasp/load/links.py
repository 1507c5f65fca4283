"""Links: which pairs a batch is asked about, and the negatives beside them, laid out as PyG's link loaders lay them out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.sampler import NegativeSampling

from hasp.errors import HaspError
from hasp.load.negatives import Forbidden, corrupt_destinations, draw_pairs
from hasp.load.store import Store
from hasp.rng import hash64, subkey, word
from hasp.rows import take_rows
from hasp.schema import EdgeType, edge_name

__all__ = ["Links", "reverse_of"]

Ints = npt.NDArray[np.int64]
_BITS = 63  # of a non-negative int64


def reverse_of(edge_type: EdgeType) -> EdgeType:
    """The name that ``ToUndirected`` gives the reverse of an edge type, and back: ``rev_`` is added or taken off."""
    source, relation, destination = edge_type
    return destination, relation[4:] if relation.startswith("rev_") else f"rev_{relation}", source


class Links:
    """The supervision of a loader: positives of each batch, and how negatives are drawn.

    Args:
        store: what the loader reads.
        edge_label_index: an edge type, ``(edge type, None)``, or ``(edge type, pairs)`` with int64 ``[2, n]`` global ids.
            Without pairs, the edges of the batch are the pairs: each undirected pair once (that of its smallest ``e_id``),
            self-loops left out.
        edge_label: ``[n, ...]``, one per pair (per edge of the type, without pairs).
        neg_sampling: ``None``, ``"binary"``, ``"triplet"``, a dict or a ``NegativeSampling``.
        disjoint_train_ratio: the share of the pairs that supervises and carries no messages, drawn anew every epoch; the
            rest carries messages and does not supervise. 0: every pair does both.
        seed: of the negatives and of that share.

    Raises:
        HaspError: an unknown edge type, one whose pairs are in many parts, ids or labels that do not fit.
    """

    def __init__(
        self,
        store: Store,
        edge_label_index: Any,
        edge_label: Tensor | None = None,
        neg_sampling: NegativeSampling | None = None,
        disjoint_train_ratio: float = 0.0,
        seed: int = 0,
    ) -> None:
        edge_type, pairs = _split(edge_label_index)
        roles, count = store.manifest.roles, store.manifest.num_nodes
        if edge_type not in roles.edges:
            raise HaspError(f"edge_label_index names one of {list(roles.edges)}, got {edge_type}; correct it")
        ends = [roles.nodes[edge_type[i]] for i in (0, 2)]
        if "entity" not in ends or "sampled" in ends:
            raise HaspError(
                f"a supervised pair belongs to one part: one end an entity, none sampled; {edge_type} joins {ends}; "
                "supervise another edge type, or change the schema"
            )
        if not 0.0 <= disjoint_train_ratio <= 1.0:
            raise HaspError(f"disjoint_train_ratio lies in 0..1, got {disjoint_train_ratio}; 0 turns it off")
        if disjoint_train_ratio and pairs is not None:
            raise HaspError(
                "disjoint_train_ratio splits the edges of the parts, but edge_label_index brings its own pairs; "
                "give the edge type alone, or leave disjoint_train_ratio out"
            )
        self.edge_type, self.sampling, self.ratio, self.seed = edge_type, neg_sampling, disjoint_train_ratio, seed
        self.same_type = edge_type[0] == edge_type[2]
        self._pairs = None if pairs is None else _Bucketed(store, edge_type, pairs)
        self._label = _labels(edge_label, neg_sampling, store.manifest.num_edges[edge_type] if pairs is None else pairs.size(1))
        backward = reverse_of(edge_type)
        self._split_types = [e for e in dict.fromkeys((edge_type, backward)) if e in roles.edges]
        # "No training EEL": of any EEL type between the two types, not only of the one that supervises.
        alike = [e for e in roles.eel if {e[0], e[2]} == {edge_type[0], edge_type[2]}] if edge_type in roles.eel else []
        self._known = list(dict.fromkeys([*self._split_types, *alike]))
        self._weights = [
            _weight(neg_sampling, name, count[edge_type[end]], edge_type[end])
            for name, end in (("src_weight", 0), ("dst_weight", 2))
        ]

    def apply(self, batch: HeteroData, epoch: int) -> HeteroData:
        """Add the supervision of one batch (see PyG's ``LinkLoader`` for the names)."""
        store = batch[self.edge_type]
        # Negatives need every pair that there is; without them, only those are looked for that supervise.
        early = self.ratio > 0 and self.sampling is None
        supervises = self._chosen_edges(batch, epoch) if early else None
        if self._pairs is None:
            source, destination, input_id = self._from_edges(batch, supervises)
        else:
            source, destination, input_id = self._pairs.inside(batch)
        # A negative is no edge of the WHOLE graph, though only the batch is looked at: both its ends are in the batch, and
        # the batch has every edge of the graph between two of its nodes (it is the induced subgraph).
        forbidden = self._forbidden(batch, source, destination) if self.sampling is not None else None
        if self.ratio:
            if supervises is None:
                chosen = self._chosen(batch, source, destination, epoch)
                source, destination, input_id = source[chosen], destination[chosen], input_id[chosen]
            pairs = self._keys(batch, source, destination)
            for edge_type in self._split_types:
                self._take_out(batch, edge_type, pairs, supervises if edge_type == self.edge_type else None)
        key = self._key(batch, epoch)
        if self.sampling is not None and self.sampling.is_triplet():
            self._triplets(batch, key, source, destination, input_id, forbidden)
            return batch
        label = None if self._label is None else self._label[torch.from_numpy(input_id)]
        if forbidden is not None and self.sampling is not None:
            weights = self._batch_weights(batch)
            found = draw_pairs(key, math.ceil(source.size * self.sampling.amount), forbidden, *weights)
            label = torch.ones(source.size) if label is None else label
            label = torch.cat([label, label.new_zeros((found[0].size, *label.shape[1:]))])
            source, destination = np.concatenate([source, found[0]]), np.concatenate([destination, found[1]])
        store.edge_label_index = torch.from_numpy(np.stack([source, destination]))
        if label is not None:
            store.edge_label = label
        store.input_id = torch.from_numpy(input_id)
        return batch

    def _from_edges(self, batch: HeteroData, among: npt.NDArray[np.bool_] | None = None) -> tuple[Ints, Ints, Ints]:
        """Each pair of the batch's edges once, by ascending ``e_id``; keeps the direction of the edge it is taken from.

        ``among`` bool ``[e]``: only these edges are looked at.
        """
        store = batch[self.edge_type]
        source, destination = store.edge_index.to(torch.int64).numpy()
        e_id = store.e_id.to(torch.int64).numpy()
        if among is None and self.same_type:
            among = source != destination
        if among is not None:
            source, destination, e_id = source[among], destination[among], e_id[among]
        return _once(source, destination, e_id, self.same_type)

    def _chosen_edges(self, batch: HeteroData, epoch: int) -> npt.NDArray[np.bool_]:
        """Which edges, all copies of a pair alike, stand for pairs that supervise in this epoch; self-loops never do."""
        source, destination = batch[self.edge_type].edge_index.to(torch.int64).numpy()
        chosen = self._chosen(batch, source, destination, epoch)
        return chosen & (source != destination) if self.same_type else chosen

    def _forbidden(self, batch: HeteroData, source: Ints, destination: Ints) -> Forbidden:
        sources, destinations = [source], [destination]
        for edge_type in self._known:
            index = batch[edge_type].edge_index.to(torch.int64).numpy()
            forward = edge_type[0] == self.edge_type[0]
            sources.append(index[0 if forward else 1])
            destinations.append(index[1 if forward else 0])
        rows, columns = (int(batch[self.edge_type[end]].num_nodes) for end in (0, 2))
        return Forbidden(np.concatenate(sources), np.concatenate(destinations), rows, columns, self.same_type)

    def _keys(self, batch: HeteroData, source: Ints, destination: Ints) -> Ints:
        """One number per pair of rows, equal for both directions of a pair of one type."""
        width = max(batch[self.edge_type[0]].num_nodes, batch[self.edge_type[2]].num_nodes, 1)
        if self.same_type:
            source, destination = np.minimum(source, destination), np.maximum(source, destination)
        return np.asarray(source * width + destination, dtype=np.int64)

    def _chosen(self, batch: HeteroData, source: Ints, destination: Ints, epoch: int) -> npt.NDArray[np.bool_]:
        """Which pairs supervise in this epoch: a hash of their GLOBAL ids, so that every batch that has a pair agrees."""
        first, second = batch[self.edge_type[0]].n_id.numpy()[source], batch[self.edge_type[2]].n_id.numpy()[destination]
        if self.same_type:
            first, second = np.minimum(first, second), np.maximum(first, second)
        key = subkey(self.seed, epoch, word("disjoint"), word(edge_name(self.edge_type)))
        with np.errstate(over="ignore"):
            mixed = hash64(key, hash64(key, first) + second.astype(np.uint64))
        return np.asarray((mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53 < self.ratio)

    def _take_out(self, batch: HeteroData, edge_type: EdgeType, pairs: Ints, out: npt.NDArray[np.bool_] | None = None) -> None:
        """Take the supervising pairs, in both directions and in every copy, out of the edges that carry messages.

        ``out`` bool ``[e]``: where it is known already which edges these are.
        """
        store = batch[edge_type]
        if out is None:
            ends = store.edge_index.to(torch.int64).numpy()
            source, destination = ends if edge_type[0] == self.edge_type[0] else ends[::-1]
            keep = torch.from_numpy(np.flatnonzero(~np.isin(self._keys(batch, source, destination), pairs)))
        else:
            keep = torch.from_numpy(np.flatnonzero(~out))
        for key, value in store.items():
            if isinstance(value, Tensor):
                store[key] = value.index_select(1, keep) if key == "edge_index" else take_rows(value, keep)

    def _triplets(
        self, batch: HeteroData, key: np.uint64, source: Ints, destination: Ints, input_id: Ints, forbidden: Forbidden | None
    ) -> None:
        assert forbidden is not None and self.sampling is not None
        amount = int(self.sampling.amount)
        found = corrupt_destinations(key, source, amount, forbidden, self._batch_weights(batch)[1])
        # A source that is joined with everything has no negative, and a triplet needs one: it is left out.
        whole = (found >= 0).all(axis=1)
        negative = torch.from_numpy(found[whole])
        batch[self.edge_type].input_id = torch.from_numpy(input_id[whole])
        batch[self.edge_type[0]].src_index = torch.from_numpy(source[whole])
        batch[self.edge_type[2]].dst_pos_index = torch.from_numpy(destination[whole])
        batch[self.edge_type[2]].dst_neg_index = negative.squeeze(1) if amount == 1 else negative

    def _batch_weights(self, batch: HeteroData) -> list[npt.NDArray[np.float64] | None]:
        ends = (self.edge_type[0], self.edge_type[2])
        return [None if w is None else w[batch[t].n_id.numpy()] for w, t in zip(self._weights, ends, strict=True)]

    def _key(self, batch: HeteroData, epoch: int) -> np.uint64:
        key = subkey(self.seed, epoch, word("negatives"), word(edge_name(self.edge_type)))
        for part in batch.part_id.tolist():
            key = np.uint64(hash64(key, np.array([part], dtype=np.int64))[0])
        return key


class _Bucketed:
    """Given pairs, grouped once by (part of the source, part of the destination), as the cut is."""

    def __init__(self, store: Store, edge_type: EdgeType, pairs: Tensor) -> None:
        self.ends = (edge_type[0], edge_type[2])
        self.pairs = pairs.numpy()
        for node_type, ids in zip(self.ends, self.pairs, strict=True):
            count = store.manifest.num_nodes[node_type]
            if ids.size and (ids.min() < 0 or ids.max() >= count):
                raise HaspError(f"edge_label_index holds ids of {node_type!r} in 0..{count - 1}, got {ids.min()}..{ids.max()}")
        labels = store.node_part()
        # A semantic end is in every part: the pair is where its entity is.
        owner = [labels[t].numpy()[ids] if t in labels else None for t, ids in zip(self.ends, self.pairs, strict=True)]
        source, destination = (mine if mine is not None else other for mine, other in (owner, owner[::-1]))
        assert source is not None and destination is not None
        self.num_parts = int(store.manifest.config["num_parts"])
        key = source.astype(np.int64) * self.num_parts + destination
        self.order = np.argsort(key, kind="stable")
        self.keys, first = np.unique(key[self.order], return_index=True)
        self.ptr = np.append(first, key.size)

    def inside(self, batch: HeteroData) -> tuple[Ints, Ints, Ints]:
        """The pairs with both ends in the batch: rows of the batch, and columns of the given pairs, ascending."""
        parts = batch.part_id.numpy()
        wanted = (parts[:, None] * self.num_parts + parts[None, :]).ravel()
        at = np.searchsorted(self.keys, wanted)
        at = at[(at < self.keys.size)]
        at = at[np.isin(self.keys[at], wanted)]
        columns = np.sort(
            np.concatenate([np.empty(0, np.int64), *(self.order[self.ptr[i] : self.ptr[i + 1]] for i in np.unique(at))])
        )
        source, destination = (_rows(batch[t].n_id.numpy(), ids[columns]) for t, ids in zip(self.ends, self.pairs, strict=True))
        return source, destination, columns


def _rows(n_id: Ints, ids: Ints) -> Ints:
    """Where each of some ids stands among distinct ones."""
    order = np.argsort(n_id)
    rows: Ints = order[np.searchsorted(n_id, ids, sorter=order)]
    return rows


def _once(source: Ints, destination: Ints, e_id: Ints, same_type: bool) -> tuple[Ints, Ints, Ints]:
    """Each pair once, that of its smallest ``e_id`` (for nodes of one type whatever its direction), by ascending ``e_id``."""
    flipped = source > destination if same_type else np.zeros(source.size, dtype=bool)
    low, high = (np.minimum(source, destination), np.maximum(source, destination)) if same_type else (source, destination)
    widths = [int(ids.max(initial=0)).bit_length() for ids in (low, high, e_id)]
    if sum(widths) + 1 <= _BITS:
        # All of an edge in one number, sorted by (pair, e_id), and the first of each pair by e_id: no permutation is made.
        tail = widths[2] + 1
        key = (((low << widths[1]) | high) << tail) | (e_id << 1) | flipped
        key.sort()
        pair = key >> tail
        first = np.empty(key.size, dtype=bool)
        first[:1] = True
        np.not_equal(pair[1:], pair[:-1], out=first[1:])
        key, pair = key[first], pair[first]
        key = ((key & ((1 << tail) - 1)) << (widths[0] + widths[1])) | pair
        key.sort()
        high = key & ((1 << widths[1]) - 1)
        low = (key >> widths[1]) & ((1 << widths[0]) - 1)
        e_id = key >> (widths[0] + widths[1])
        turned = (e_id & 1).astype(bool)
        return np.where(turned, high, low), np.where(turned, low, high), e_id >> 1
    order = np.lexsort((e_id, high, low))
    new = np.diff(low[order], prepend=-1) != 0
    new |= np.diff(high[order], prepend=-1) != 0
    once = order[new]
    once = once[np.argsort(e_id[once], kind="stable")]
    return source[once], destination[once], e_id[once]


def _split(value: Any) -> tuple[EdgeType, Tensor | None]:
    pair = value if isinstance(value, (tuple, list)) else ()
    if len(pair) == 3 and all(isinstance(v, str) for v in pair):
        return (pair[0], pair[1], pair[2]), None
    if len(pair) == 2 and isinstance(pair[0], (tuple, list)) and len(pair[0]) == 3:
        edge_type = (pair[0][0], pair[0][1], pair[0][2])
        if pair[1] is None:
            return edge_type, None
        pairs = torch.as_tensor(pair[1])
        if pairs.dim() == 2 and pairs.size(0) == 2 and not pairs.is_floating_point() and pairs.dtype != torch.bool:
            return edge_type, pairs.to(torch.int64)
        raise HaspError(
            f"pairs of edge_label_index are whole numbers [2, n], got {pairs.dtype} {tuple(pairs.shape)}; transpose or cast"
        )
    raise HaspError("edge_label_index is an edge type or (edge type, pairs or None), got another thing; write it so")


def _labels(label: Tensor | None, sampling: NegativeSampling | None, count: int) -> Tensor | None:
    if label is None:
        return None
    if label.dim() == 0 or label.size(0) != count:
        raise HaspError(f"edge_label has one row per pair, {count}, got shape {tuple(label.shape)}; make them equal")
    if sampling is not None and sampling.is_triplet():
        raise HaspError("edge_label has no place in triplets (every given pair is a positive); leave it out")
    # As PyG does: 0 is the label of negatives, so that labels which start at 0 move up by one.
    shift = sampling is not None and count > 0 and float(label.min()) == 0
    return label + 1 if shift else label


def _weight(sampling: Any, name: str, count: int, node_type: str) -> npt.NDArray[np.float64] | None:
    weight = None if sampling is None else getattr(sampling, name)
    if weight is None:
        return None
    values: npt.NDArray[np.float64] = torch.as_tensor(weight).to(torch.float64).numpy()
    if values.shape != (count,) or not np.isfinite(values).all() or (values < 0).any():
        raise HaspError(f"{name} has one finite weight >= 0 for each of the {count} {node_type!r}, got shape {values.shape}")
    return values
