"""Recount: a build's report once more, from the parts instead of from the builder's own counters."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hasp.errors import HaspError
from hasp.graph import Graph, HaspWarning
from hasp.part import CUT, SAMPLED, SHARED, Part
from hasp.report import Report
from hasp.rows import take_rows
from hasp.schema import EdgeType, edge_name
from hasp.sizes import batch_bytes

if TYPE_CHECKING:
    from hasp.store.manifest import Manifest

__all__ = ["Recount", "compare"]

Array = npt.NDArray[Any]

_ROWS = 1 << 20  # rows compared in one go, so that a mapped source stays on disk


class Recount:
    """Counts what parts hold, fed part by part: first the cut, then the parts in any order, on any threads.

    Args:
        manifest: roles, totals, and the report that is counted again.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest, self.roles = manifest, manifest.roles
        self.num_parts = int(manifest.config["num_parts"])
        zeros = [0] * self.num_parts
        owned = [e for e in manifest.num_edges if "entity" in (self.roles.nodes[e[0]], self.roles.nodes[e[2]])]
        self.entities = {t: list(zeros) for t in self.roles.entity}
        self.edges = {e: list(zeros) for e in owned}
        self.cut_edges = {e: 0 for e in owned if self.roles.edges[e] in ("eel", "entity-entity")}
        self.part_bytes = list(zeros)
        self.block_bytes = {SHARED: 0, SAMPLED: 0, CUT: 0}
        self.linked = list(zeros)
        self.degree_groups = [[0, 0, 0] for _ in zeros]
        self._labels: dict[str, Array] = {}
        self._order: dict[str, Array] = {}
        self._ptr: dict[str, Array] = {}
        self._first: dict[str, int] = {}  # all entities numbered one type after the other
        self._total = 0
        self._cut: Part | None = None
        self._by_destination: dict[EdgeType, Array] = {}

    @property
    def placed(self) -> bool:
        """Whether the labels were good, so that rows of a part can be turned into ids."""
        return bool(self._ptr)

    def places(self, node_part: dict[str, Array]) -> None:
        """Derive from the labels which row of which part is which entity."""
        for node_type, labels in node_part.items():
            self._labels[node_type] = labels
            self._ptr[node_type] = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=self.num_parts))])
            self._first[node_type] = self._total
            self._total += labels.size

    def sizes(self, node_type: str) -> Array:
        """Entities of a type per part, int64 ``[num_parts]``."""
        return np.diff(self._ptr[node_type])

    def global_ids(self, node_type: str, part: Array | int, row: Array) -> Array:
        """Ids of rows of parts."""
        if node_type not in self._order:
            self._order[node_type] = np.argsort(self._labels[node_type], kind="stable")
        ids: Array = self._order[node_type][self._ptr[node_type][part] + row]
        return ids

    def bytes(self, part: Part) -> None:
        """Note the bytes of a block."""
        if part.part_id >= 0:
            self.part_bytes[part.part_id] = part.num_bytes
        else:
            self.block_bytes[part.part_id] = part.num_bytes

    def cut(self, part: Part) -> None:
        """Count the cut, and keep it at hand (it is mapped, not read) for the degrees."""
        self._cut = part
        for edge_type, edges in part.edges.items():
            self.cut_edges[edge_type] = edges.num_edges
            if edges.pairs is not None:
                self._by_destination[edge_type] = np.argsort(edges.pairs.numpy()[:, 1], kind="stable")

    def part(self, part: Part) -> None:
        """Count one part."""
        for node_type, nodes in part.nodes.items():
            self.entities[node_type][part.part_id] = nodes.num_nodes
        for edge_type, edges in part.edges.items():
            self.edges[edge_type][part.part_id] = edges.num_edges
        if self.placed and self._cut is not None:
            degree = self._degree(part, self._cut)
            self.linked[part.part_id] = int(np.count_nonzero(degree))
            below = [int(np.count_nonzero(degree <= most)) for most in (0, 3, 6)] + [degree.size]
            self.degree_groups[part.part_id] = np.diff(below).tolist()

    def _degree(self, part: Part, cut: Part) -> Array:
        """Distinct neighbours over EELs of every entity of a part, without itself; types one after the other."""
        first_row, rows = {}, 0
        for node_type, nodes in part.nodes.items():
            first_row[node_type] = rows
            rows += nodes.num_nodes
        keys, bits = [np.empty(0, dtype=np.int64)], self._total.bit_length()

        def link(own: str, row: Array, other: str, other_part: Array | int, other_row: Array) -> None:
            # Entities by their place in the order of type, part and row: as good as an id, and without a look-up.
            key = row.astype(np.int64) + first_row[own]
            key <<= bits
            key += other_row
            key += self._first[other] + self._ptr[other][other_part]
            within = own == other and isinstance(other_part, int)
            keys.append(key[row != other_row] if within else key)

        for a, relation, b in self.roles.eel:
            src, dst = part.edges[a, relation, b].edge_index.numpy()
            link(a, src, b, part.part_id, dst)
            link(b, dst, a, part.part_id, src)
            edges = cut.edges[a, relation, b]
            if edges.pairs is None or edges.ptr is None:
                continue
            pairs, ptr, index = edges.pairs.numpy(), edges.ptr.numpy(), edges.edge_index.numpy()
            low, high = np.searchsorted(pairs[:, 0], [part.part_id, part.part_id + 1])
            window = slice(ptr[low], ptr[high])
            link(a, index[0, window], b, np.repeat(pairs[low:high, 1], np.diff(ptr[low : high + 1])), index[1, window])
            order = self._by_destination[a, relation, b]
            low, high = np.searchsorted(pairs[order, 1], [part.part_id, part.part_id + 1])
            chosen = order[low:high]
            columns = np.concatenate([np.arange(ptr[k], ptr[k + 1]) for k in chosen] or [np.empty(0, np.int64)])
            others = np.repeat(pairs[chosen, 0], (ptr[1:] - ptr[:-1])[chosen])
            link(b, index[1, columns], a, others, index[0, columns])
        key = np.concatenate(keys)
        key.sort()  # np.unique on keys of edges is many times slower
        fresh = np.ones(key.size, dtype=np.bool_)
        np.not_equal(key[1:], key[:-1], out=fresh[1:])
        return np.bincount(key[fresh] >> bits, minlength=rows)

    def differences(self, source: Graph | None) -> list[str]:
        """Every figure of the stored report that this recount does not confirm, and the promise of balance.

        Args:
            source: if given, the bytes of loaded parts and what is not finite are counted again too.
        """
        try:
            stored = Report.from_json(self.manifest.report)
        except HaspError as error:
            return [str(error)]
        names = self.manifest.num_edges
        found: dict[str, Any] = {
            "num_parts": self.num_parts,
            "num_nodes": dict(self.manifest.num_nodes),
            "node_roles": dict(self.roles.nodes),
            "num_edges": {edge_name(e): n for e, n in names.items()},
            "edge_roles": {edge_name(e): r for e, r in self.roles.edges.items()},
            "entities": self.entities,
            "edges": {edge_name(e): n for e, n in self.edges.items()},
            "cut": {edge_name(e): n for e, n in self.cut_edges.items()},
            "linked": self.linked,
            "degree_groups": self.degree_groups,
            "quota": dict(self.roles.quota),
            "part_bytes": self.part_bytes,
            "shared_bytes": self.block_bytes[SHARED],
            "sampled_bytes": self.block_bytes[SAMPLED],
            "cut_bytes": self.block_bytes[CUT],
        }
        if source is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", HaspWarning)  # the build has said so
                found["not_finite"] = {label: list(counts) for label, counts in source.check().items()}
        if source is not None and stored.loaded_bytes:
            found["loaded_bytes"] = [self._loaded(source, p) for p in range(self.num_parts)]
        out = []
        for name, value in found.items():
            told = getattr(stored, name)
            if told != value:
                out.append(f"{name} is {_difference(told, value)}")
        return out + self._uneven()

    def _loaded(self, source: Graph, part_id: int) -> int:
        nodes = {t: self.roles.quota.get(t, n) for t, n in self.manifest.num_nodes.items()}
        nodes |= {t: n[part_id] for t, n in self.entities.items()}
        return batch_bytes(source, self.roles, nodes, {e: n[part_id] for e, n in self.edges.items()})

    def _uneven(self) -> list[str]:
        """A part that was filled up must not be larger than the smallest part by more than one entity."""
        config = self.manifest.config
        if config.get("balance") != "nodes" or config.get("backend") == "given":
            return []
        sizes = [sum(column) for column in zip(*self.entities.values(), strict=True)]
        filled = [n for n, linked in zip(sizes, self.linked, strict=True) if n > linked]
        if filled and max(filled) > min(sizes) + 1:
            return [f"filled parts are within one entity of the smallest, {min(sizes):,}, got one of {max(filled):,}"]
        return []


def compare(mine: Tensor, own: Tensor, ids: Array | None) -> str | None:
    """Compare rows byte for byte (a NaN equals itself).

    Args:
        mine: ``[n, ...]``, as stored.
        own: ``[N, ...]``, of the source.
        ids: ``mine[i]`` is to be ``own[ids[i]]``; ``None``: ``own[i]``.

    Returns:
        What differs first, in words, or ``None``.
    """
    count = own.size(0) if ids is None else ids.size
    if mine.dtype != own.dtype or mine.shape != (count, *own.shape[1:]):
        return f"{count} rows of {own.dtype} {tuple(own.shape[1:])}, got {mine.dtype} {tuple(mine.shape)}"
    for start in range(0, count, _ROWS):
        stop = min(count, start + _ROWS)
        rows = own[start:stop] if ids is None else take_rows(own, torch.from_numpy(ids[start:stop].astype(np.int64)))
        a, b = (_raw(t).numpy() for t in (mine[start:stop], rows))  # as torch, it would wake threads below each of ours
        if not np.array_equal(a, b):
            row = start + int((a != b).any(axis=1).argmax())
            where = row if ids is None else int(ids[row])
            return f"row {row} is that of {where} in the source, and this one is not"
    return None


def _raw(value: Tensor) -> Tensor:
    """The bytes of each row, uint8 ``[n, bytes]``."""
    dense = value.detach().contiguous()
    # [n, ...] -> [n, elements] -> [n, bytes]
    return dense.view(value.size(0), -1).view(torch.uint8) if value.numel() else dense.new_empty(0, 1).byte()


def _difference(told: Any, found: Any) -> str:
    """The first difference of two equally shaped values, in words."""
    if isinstance(told, dict) and isinstance(found, dict):
        if set(told) != set(found):
            return f"of {sorted(told)}, recounted for {sorted(found)}"
        key = next(k for k in told if told[k] != found[k])
        return f"{_difference(told[key], found[key])} for {key}"
    if isinstance(told, list) and isinstance(found, list) and len(told) == len(found):
        at = next(i for i, (a, b) in enumerate(zip(told, found, strict=True)) if a != b)
        return f"{_difference(told[at], found[at])} at {at}"
    return f"{told!r}, recounted {found!r}"
