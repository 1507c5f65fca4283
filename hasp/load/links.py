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
from hasp.load.negatives import corrupt_destinations, draw_pairs
from hasp.load.pairs import AnyInts, Pairs, Share, ascending
from hasp.load.store import Store
from hasp.rng import hash_one, subkey, word
from hasp.rows import take_rows
from hasp.schema import EdgeType, edge_name

__all__ = ["Links", "reverse_of"]

Ints = npt.NDArray[np.int64]


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
        share = self._share(batch, epoch) if self.ratio else None
        pairs, positive, input_id = self._positives(batch, share)
        if share is not None:
            for edge_type in self._split_types:
                _keep(batch[edge_type], pairs.rest(*self._ends(batch, edge_type), share))
        key = self._key(batch, epoch)
        if self.sampling is not None and self.sampling.is_triplet():
            self._triplets(batch, key, positive, input_id, pairs)
            return batch
        label = None if self._label is None else self._label[torch.from_numpy(input_id)]
        if self.sampling is not None:
            count = math.ceil(input_id.size * self.sampling.amount)
            negative = np.stack(draw_pairs(key, count, pairs, *self._batch_weights(batch)))
            if label is None:
                label = torch.zeros(input_id.size + negative.shape[1])
                label[: input_id.size] = 1
            else:
                label = torch.cat([label, label.new_zeros((negative.shape[1], *label.shape[1:]))])
            positive = np.concatenate([positive, negative], axis=1)
        store = batch[self.edge_type]
        store.edge_label_index = torch.from_numpy(positive)
        if label is not None:
            store.edge_label = label
        store.input_id = torch.from_numpy(input_id)
        return batch

    def _positives(self, batch: HeteroData, share: Share | None) -> tuple[Pairs, Ints, Ints]:
        """The pairs that are known; those that supervise, int64 ``[2, n]``, and their ``input_id``.

        Each pair of the batch's edges comes once, by ascending ``e_id``, in the direction of the edge it is taken from.
        """
        # Without negatives only the pairs that supervise need be known.
        known = {e: self._ends(batch, e) for e in (self._known if self.sampling is not None else [])}
        rows, columns = (int(batch[self.edge_type[end]].num_nodes) for end in (0, 2))
        room = sum(ends[0].size for ends in known.values())
        if self._pairs is None:
            source, destination = known.pop(self.edge_type) if known else self._ends(batch, self.edge_type)
            e_id = batch[self.edge_type].e_id.numpy()
            pairs = Pairs(max(room, e_id.size), rows, columns, self.same_type)
            pairs.add_edges(source, destination, e_id, share if self.sampling is None else None)
            first = pairs.first_edges(source, destination, e_id, share)
            positive, input_id = np.stack([source[first], destination[first]], dtype=np.int64), e_id[first].astype(np.int64)
        else:
            *ends, input_id = self._pairs.inside(batch)
            positive = np.stack(ends)
            pairs = Pairs(room + input_id.size, rows, columns, self.same_type)
            pairs.add(*positive)
        # A negative is no edge of the WHOLE graph, though only the batch is looked at: both its ends are in the batch, and
        # the batch has every edge of the graph between two of its nodes (it is the induced subgraph).
        for others in known.values():
            pairs.add(*others)
        return pairs, positive, input_id

    def _ends(self, batch: HeteroData, edge_type: EdgeType) -> tuple[AnyInts, AnyInts]:
        """The rows that edges join, in the direction of the type that supervises."""
        index = batch[edge_type].edge_index.numpy()
        for rows, node_type in zip(index, (edge_type[0], edge_type[2]), strict=True):
            # Kernels do not look whether a row is there, and the file may not have been hashed.
            if rows.size and (rows.min() < 0 or rows.max() >= batch[node_type].num_nodes):
                raise HaspError(f"{edge_type} joins rows of the batch, but one is none of {node_type!r}; rebuild the parts")
        source, destination = index
        return (source, destination) if edge_type[0] == self.edge_type[0] else (destination, source)

    def _share(self, batch: HeteroData, epoch: int) -> Share:
        key = subkey(self.seed, epoch, word("disjoint"), word(edge_name(self.edge_type)))
        return Share(key, self.ratio, batch[self.edge_type[0]].n_id.numpy(), batch[self.edge_type[2]].n_id.numpy())

    def _triplets(self, batch: HeteroData, key: np.uint64, positive: Ints, input_id: Ints, forbidden: Pairs) -> None:
        assert self.sampling is not None
        source, destination = positive
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
            key = hash_one(key, part)
        return key


class _Bucketed:
    """Given pairs, grouped once by (part of the source, part of the destination), as the cut is, and their rows there."""

    def __init__(self, store: Store, edge_type: EdgeType, pairs: Tensor) -> None:
        labels = {t: owner.numpy() for t, owner in store.node_part().items()}
        self.num_parts = int(store.manifest.config["num_parts"])
        self.counts = {t: np.bincount(owner, minlength=self.num_parts) for t, owner in labels.items()}
        self.ends = (edge_type[0], edge_type[2])
        self.ids, self.rows, owners = pairs.numpy(), list(pairs.numpy()), []
        for end, node_type in enumerate(self.ends):
            ids, count = self.ids[end], store.manifest.num_nodes[node_type]
            if ids.size and (ids.min() < 0 or ids.max() >= count):
                raise HaspError(f"edge_label_index holds ids of {node_type!r} in 0..{count - 1}, got {ids.min()}..{ids.max()}")
            if node_type in labels:
                owners.append(labels[node_type][ids])
                order = np.argsort(labels[node_type], kind="stable")
                rows = np.empty(count, dtype=np.int64)
                rows[order] = np.arange(count) - np.repeat(_starts(self.counts[node_type]), self.counts[node_type])
                self.rows[end] = rows[ids]
        # A semantic end is in every part, in the row of its id: the pair is where its entity is.
        source, destination = owners[0], owners[-1]
        key = source.astype(np.int64) * self.num_parts + destination
        self.order = np.argsort(key, kind="stable")
        self.keys, first = np.unique(key[self.order], return_index=True)
        self.ptr = np.append(first, key.size)

    def inside(self, batch: HeteroData) -> tuple[Ints, Ints, Ints]:
        """The pairs with both ends in the batch: rows of the batch, and columns of the given pairs, ascending."""
        parts = batch.part_id.numpy()
        wanted = (parts[:, None] * self.num_parts + parts[None, :]).ravel()  # ascends, as parts do
        at = np.searchsorted(self.keys, wanted)
        here = at < self.keys.size
        here[here] = self.keys[at[here]] == wanted[here]
        at, positions = at[here], np.divmod(np.flatnonzero(here), max(parts.size, 1))
        counts = self.ptr[at + 1] - self.ptr[at]
        columns = np.concatenate([np.empty(0, np.int64), *(self.order[self.ptr[i] : self.ptr[i + 1]] for i in at)])
        # Entities stand part after part, or, where all are there, as in the input (see merge).
        whole = parts.size > 1 and all(each[parts].sum() == each.sum() for each in self.counts.values())
        ends = []
        for node_type, ids, rows, position in zip(self.ends, self.ids, self.rows, positions, strict=True):
            if whole or node_type not in self.counts:
                ends.append(ids[columns])
            else:
                ends.append(rows[columns] + np.repeat(_starts(self.counts[node_type][parts])[position], counts))
        if at.size > 1:
            order = ascending(columns)
            columns, ends = columns[order], [end[order] for end in ends]
        return ends[0], ends[1], columns


def _starts(counts: Ints) -> Ints:
    return np.cumsum(counts) - counts


def _keep(store: Any, edges: Ints) -> None:
    """Leave only some edges, columns ascending, in a store of a batch."""
    keep = torch.from_numpy(edges)
    for key, value in store.items():
        if isinstance(value, Tensor):
            store[key] = value.index_select(1, keep) if key == "edge_index" else take_rows(value, keep)


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
