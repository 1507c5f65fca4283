"""Part: the frozen value that every stage before it makes and every stage after it reads.

A part file, the shared block, the sampled block and the cut all have this one shape; :meth:`Part.to_tensors` spells it
with the names of the file format (``docs/format.md``), :meth:`Part.from_tensors` reads it back without copying.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hasp.errors import CorruptPart
from hasp.schema import EdgeType, edge_name, parse_edge_name
from hasp.text import contents

__all__ = ["CUT", "SAMPLED", "SHARED", "Edges", "Nodes", "Part", "id_dtype", "numpy_ids"]

SHARED, SAMPLED, CUT = -1, -2, -3
"""``part_id`` of the three blocks that stand beside the parts."""


def id_dtype(count: int) -> torch.dtype:
    """int32 while every id below ``count`` fits, else int64; checked here, never by a silent cast."""
    return torch.int32 if count <= torch.iinfo(torch.int32).max else torch.int64


def numpy_ids(count: int) -> type[np.signedinteger[Any]]:
    """:func:`id_dtype` for NumPy."""
    return np.int32 if id_dtype(count) == torch.int32 else np.int64


@functools.lru_cache(maxsize=1 << 12)  # the names of one part are those of all
def _parsed(name: str) -> tuple[str, str, EdgeType, str]:
    """``(kind, owner, the owner as an edge type, attribute)`` of a tensor's name."""
    kind, _, rest = name.partition("/")
    owner, _, key = rest.partition("/")
    if (kind == "n_id" and owner) or (kind == "node" and key):
        return kind, owner, ("", "", ""), key
    if (kind == "edge" and key) or (kind in ("edge_index", "e_id", "pairs", "ptr") and owner and not key):
        return kind, owner, parse_edge_name(owner), key
    raise CorruptPart(f"the format has no tensor named {name!r}; rebuild the parts")


@dataclass(frozen=True)
class Nodes:
    """Nodes of one type in one block.

    Attributes:
        n_id: global ids ``[n]``, int32 or int64, ascending; ``None`` where the block holds the whole type in order.
        num_nodes: ``n``.
        attrs: name -> ``[n, ...]``: the source's rows of these nodes.
    """

    n_id: Tensor | None
    num_nodes: int
    attrs: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Edges:
    """Edges of one type in one block.

    Attributes:
        edge_index: ``[2, e]``, int32 or int64. An end of an entity type is a row of its part's nodes; an end of a semantic
            or a sampled type is the global id. Sorted by destination within the block (in the cut: within each pair).
        e_id: global edge ids ``[e]``, int32 or int64: the column of the source's ``edge_index``.
        attrs: name -> ``[e, ...]``.
        pairs: only in the cut: ``[k, 2]`` int32, (part of the source, part of the destination), in lexicographic order.
        ptr: only in the cut: ``[k + 1]`` int64; the edges of ``pairs[i]`` are the columns ``ptr[i]:ptr[i + 1]``.
    """

    edge_index: Tensor
    e_id: Tensor
    attrs: Mapping[str, Tensor] = field(default_factory=dict)
    pairs: Tensor | None = None
    ptr: Tensor | None = None

    @property
    def num_edges(self) -> int:
        """Edges in the block."""
        return self.edge_index.size(1)


@dataclass(frozen=True)
class Part:
    """One block of a build.

    * ``part_id >= 0``: what that part owns: its entities, and every edge with an entity end that is not cut.
    * ``SHARED``: what every part repeats: all semantic nodes, all semantic-semantic edges.
    * ``SAMPLED``: all nodes of the sampled types, and the edges between sampled and sampled or semantic nodes.
    * ``CUT``: the entity-entity edges between two parts, grouped by pair of parts.

    Attributes:
        part_id: see above.
        nodes: per node type. Every entity type is present in every part, with 0 rows where it is empty.
        edges: per edge type. Likewise complete.
    """

    part_id: int
    nodes: Mapping[str, Nodes]
    edges: Mapping[EdgeType, Edges]

    def __repr__(self) -> str:
        name = {SHARED: "shared", SAMPLED: "sampled", CUT: "cut"}.get(self.part_id, str(self.part_id))
        nodes = {t: (v.num_nodes, v.attrs) for t, v in self.nodes.items()}
        return contents(f"Part {name}", nodes, {e: (v.num_edges, v.attrs) for e, v in self.edges.items()})

    def to_tensors(self) -> dict[str, Tensor]:
        """Name -> tensor, as stored. ``None`` fields are left out; nothing is copied."""
        out: dict[str, Tensor] = {}
        for node_type, nodes in self.nodes.items():
            if nodes.n_id is not None:
                out[f"n_id/{node_type}"] = nodes.n_id
            for key, value in nodes.attrs.items():
                out[f"node/{node_type}/{key}"] = value
        for edge_type, edges in self.edges.items():
            name = edge_name(edge_type)
            out[f"edge_index/{name}"] = edges.edge_index
            out[f"e_id/{name}"] = edges.e_id
            if edges.pairs is not None and edges.ptr is not None:
                out[f"pairs/{name}"] = edges.pairs
                out[f"ptr/{name}"] = edges.ptr
            for key, value in edges.attrs.items():
                out[f"edge/{name}/{key}"] = value
        return out

    @classmethod
    def from_tensors(cls, part_id: int, tensors: Mapping[str, Tensor], num_nodes: Mapping[str, int]) -> Part:
        """Rebuild from :meth:`to_tensors`.

        Args:
            part_id: which block this is.
            tensors: name -> tensor.
            num_nodes: nodes per node type of the block; needed for types without ``n_id`` (and taken from it otherwise).

        Raises:
            CorruptPart: a name that the format does not know, or edges without ``e_id``.
        """
        n_id: dict[str, Tensor] = {}
        node_attrs: dict[str, dict[str, Tensor]] = {t: {} for t in num_nodes}
        edge_fields: dict[EdgeType, dict[str, Tensor]] = {}
        edge_attrs: dict[EdgeType, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            kind, owner, edge_type, key = _parsed(name)
            if kind == "n_id":
                n_id[owner] = tensor
                node_attrs.setdefault(owner, {})
            elif kind == "node":
                node_attrs.setdefault(owner, {})[key] = tensor
            elif kind == "edge":
                edge_attrs.setdefault(edge_type, {})[key] = tensor
            else:
                edge_fields.setdefault(edge_type, {})[kind] = tensor
        nodes = {}
        for node_type, attrs in node_attrs.items():
            ids = n_id.get(node_type)
            count = num_nodes.get(node_type, 0) if ids is None else ids.numel()
            nodes[node_type] = Nodes(ids, count, attrs)
        edges = {}
        for edge_type, fields in edge_fields.items():
            if "edge_index" not in fields or "e_id" not in fields:
                raise CorruptPart(f"edges of {edge_name(edge_type)} lack edge_index or e_id; rebuild the parts")
            edges[edge_type] = Edges(
                fields["edge_index"],
                fields["e_id"],
                edge_attrs.get(edge_type, {}),
                fields.get("pairs"),
                fields.get("ptr"),
            )
        return cls(part_id, nodes, edges)

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors, as stored."""
        return sum(t.numel() * t.element_size() for t in self.to_tensors().values())
