"""Graph: counts, edge arrays and attributes of one heterogeneous graph, as views of what the user already has.

Nothing is copied and nothing is homogenised: an array in a :class:`Graph` is the user's own tensor (or memory map) behind
a ``torch.Tensor``. Sources (``hasp.sources``) make Graphs; :func:`hasp.build.build` reads them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from blake3 import blake3
from torch import Tensor

from hasp.errors import HaspError, InvalidGraph
from hasp.schema import EdgeType, edge_name
from hasp.text import contents

__all__ = ["Graph", "HaspWarning", "NotFinite", "RowsOf", "not_finite", "row_blocks", "warn_of"]

RowsOf = Callable[[Tensor], Iterable[Tensor]]
"""Gives the rows of an array, block by block."""

NotFinite = dict[str, tuple[int, int]]
"""Of every attribute that has some, by its label: how many values are NaN, and how many infinite."""

_SET_BY_BATCHES = frozenset({"n_id", "e_id", "input_id", "batch_size", "owner_part"})
# PyG's own names of attributes that are rows of nodes or edges; any other name may be something else.
_ALWAYS_ROWS = frozenset({"x", "y", "pos", "time", "edge_attr", "edge_weight", "train_mask", "val_mask", "test_mask"})
_STEP = 1 << 24  # elements looked at in one go, so that checking a memory map stays bounded


class HaspWarning(UserWarning):
    """Something in the input is legal but suspicious; the message names it and counts it."""


@dataclass(frozen=True)
class Graph:
    """One heterogeneous graph.

    Attributes:
        num_nodes: nodes per node type, in a fixed order of types.
        edges: per edge type ``(source, destination)``: two integer tensors ``[E]`` of ids within their types.
        node_attrs: per node type, name -> tensor ``[N, ...]`` of any dtype.
        edge_attrs: per edge type, name -> tensor ``[E, ...]`` of any dtype.
        ids: per node type the user's own ids ``[N]`` (any NumPy dtype), where they are not ``0..N-1``.
        names: per node type readable names ``[N]`` (NumPy strings), where the source has them.
    """

    num_nodes: Mapping[str, int]
    edges: Mapping[EdgeType, tuple[Tensor, Tensor]]
    node_attrs: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    edge_attrs: Mapping[EdgeType, Mapping[str, Tensor]] = field(default_factory=dict)
    ids: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    names: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    def __repr__(self) -> str:
        own = {t: {k: v[t] for k, v in (("ids", self.ids), ("names", self.names)) if t in v} for t in self.num_nodes}
        nodes = {t: (n, {**self.node_attrs.get(t, {}), **own[t]}) for t, n in self.num_nodes.items()}
        edges = {e: (ends[0].numel(), self.edge_attrs.get(e, {})) for e, ends in self.edges.items()}
        return contents("Graph", nodes, edges)

    @classmethod
    def from_hetero_data(cls, data: Any) -> Graph:
        """View a ``torch_geometric.data.HeteroData`` (nothing is copied; NumPy arrays and memory maps are wrapped).

        Every tensor or array attribute of a node or edge store whose first dimension counts nodes or edges is kept.
        ``edge_label`` and ``edge_label_index`` belong to a split, not to the graph: hand them to the loader. Other
        attributes cannot be cut, or have a name that every batch sets itself (``n_id``, ``e_id``...), and are named in one
        warning.

        Raises:
            InvalidGraph: no node types, a store without ``num_nodes`` or ``edge_index``, a sparse or ragged tensor.
        """
        if not hasattr(data, "node_types") or not hasattr(data, "edge_types"):
            raise InvalidGraph(f"HASP cuts a HeteroData, got {type(data).__name__}; use Data.to_heterogeneous() or a Graph")
        left: list[str] = []
        num_nodes: dict[str, int] = {}
        node_attrs: dict[str, dict[str, Tensor]] = {}
        for node_type in data.node_types:
            store = data[node_type]
            count = _num_nodes(store, node_type)
            num_nodes[node_type] = count
            node_attrs[node_type] = {}
            for key, value in store.items():
                if key != "num_nodes":
                    _take(value, f"{node_type}.{key}", key, count, node_attrs[node_type], left)
        edges: dict[EdgeType, tuple[Tensor, Tensor]] = {}
        edge_attrs: dict[EdgeType, dict[str, Tensor]] = {}
        for edge_type in data.edge_types:
            store = data[edge_type]
            if "edge_index" not in store:
                raise InvalidGraph(
                    f"edge type {edge_type} has no edge_index (it has {sorted(store.keys())}); "
                    "convert a transposed adjacency matrix back with edge_index first"
                )
            index = _tensor(store["edge_index"])
            if index is None or index.dim() != 2 or index.size(0) != 2 or index.layout != torch.strided:
                shape = None if index is None else tuple(index.shape)
                raise InvalidGraph(f"edge_index of {edge_type} has shape [2, E], got {shape}; transpose or convert it")
            _on_cpu(index, f"edge_index of {edge_type}")
            edges[edge_type] = (index[0], index[1])
            edge_attrs[edge_type] = {}
            for key, value in store.items():
                if key not in ("edge_index", "edge_label", "edge_label_index"):
                    _take(value, f"{edge_name(edge_type)}.{key}", key, index.size(1), edge_attrs[edge_type], left)
        if left:
            warnings.warn(
                "attributes without a row per node or edge, or with a name that every batch sets itself, are not carried into "
                f"parts: {', '.join(left)}",
                HaspWarning,
                stacklevel=3,
            )
        return cls(num_nodes, edges, node_attrs, edge_attrs)

    def to_hetero_data(self) -> Any:
        """The same graph as a ``HeteroData`` (``edge_index`` is stacked, attributes are shared)."""
        from torch_geometric.data import HeteroData

        data = HeteroData()
        for node_type, count in self.num_nodes.items():
            data[node_type].num_nodes = count
            for key, value in self.node_attrs.get(node_type, {}).items():
                data[node_type][key] = value
        for edge_type, (source, destination) in self.edges.items():
            data[edge_type].edge_index = torch.stack([source.long(), destination.long()])
            for key, value in self.edge_attrs.get(edge_type, {}).items():
                data[edge_type][key] = value
        return data

    def num_edges(self, edge_type: EdgeType) -> int:
        """Edges of one type."""
        return self.edges[edge_type][0].numel()

    def tensors(self) -> Iterator[Tensor]:
        """Every array of the graph: the ends of all edges, and all attributes."""
        for ends in self.edges.values():
            yield from ends
        for attrs in (*self.node_attrs.values(), *self.edge_attrs.values()):
            yield from attrs.values()

    def check(self) -> NotFinite:
        """Look at every id once and every floating-point attribute once.

        Returns:
            What is NaN or infinite.

        Raises:
            InvalidGraph: a negative id, an id past its type's count, a non-integer id, sources and destinations or
                attributes of different lengths.

        Warns:
            HaspWarning: a floating-point attribute holds NaN or infinite values; the message names it and counts them.
        """
        found: NotFinite = {}
        if not self.num_nodes or not any(self.num_nodes.values()):
            raise InvalidGraph("a graph has at least one node, got none; check that the source is not empty")
        for edge_type, (source, destination) in self.edges.items():
            if source.shape != destination.shape or source.dim() != 1:
                raise InvalidGraph(
                    f"sources and destinations of {edge_type} have one length, got {tuple(source.shape)} and "
                    f"{tuple(destination.shape)}; repair the table"
                )
            for end, ids in ((edge_type[0], source), (edge_type[2], destination)):
                if end not in self.num_nodes:
                    raise InvalidGraph(f"{edge_type} ends in {end!r}, but the node types are {list(self.num_nodes)}")
                _check_ids(ids, end, self.num_nodes[end], edge_type)
            for key, value in self.edge_attrs.get(edge_type, {}).items():
                _check_attr(value, f"{edge_name(edge_type)}.{key}", source.numel(), "edges", found)
        for node_type, attrs in self.node_attrs.items():
            if node_type not in self.num_nodes:
                raise InvalidGraph(f"attributes name the node type {node_type!r}, but the types are {list(self.num_nodes)}")
            for key, value in attrs.items():
                _check_attr(value, f"{node_type}.{key}", self.num_nodes[node_type], "nodes", found)
        return found

    def fingerprint(self, node_part: Mapping[str, npt.NDArray[np.int32]] | None = None, rows: RowsOf | None = None) -> str:
        """blake3 of types, counts, edges and attributes, in order: equal only for graphs that are equal byte for byte.

        Args:
            node_part: a partition made elsewhere, which then counts as part of the source.
            rows: gives the rows of an array of this graph, block by block; ``None``: the array holds them.
        """
        digest = blake3(max_threads=blake3.AUTO)

        def add(label: str, value: Tensor | None = None) -> None:
            shape = "" if value is None else f"{value.dtype}{tuple(value.shape)}"
            digest.update(f"{label}|{shape}\n".encode())
            if value is not None:
                for block in (rows or row_blocks)(value):
                    # Not view(-1): one element counts as contiguous whatever its stride, and then cannot be viewed as bytes.
                    flat = block.contiguous().as_strided((block.numel(),), (1,))
                    digest.update(flat.view(torch.uint8).numpy().data)

        for node_type, count in self.num_nodes.items():
            add(f"node {node_type} {count}")
            for key, value in sorted(self.node_attrs.get(node_type, {}).items()):
                add(f"node {node_type} {key}", value)
        for edge_type, (source, destination) in self.edges.items():
            add(f"edge {edge_name(edge_type)} source", source)
            add(f"edge {edge_name(edge_type)} destination", destination)
            for key, value in sorted(self.edge_attrs.get(edge_type, {}).items()):
                add(f"edge {edge_name(edge_type)} {key}", value)
        for label, arrays in (("id", self.ids), ("name", self.names)):
            for node_type, values in arrays.items():
                add(f"{label} {node_type} {values.dtype.str}")
                digest.update(np.ascontiguousarray(values).data.cast("B"))
        for node_type, labels in (node_part or {}).items():
            add(f"node_part {node_type}", torch.from_numpy(labels))
        return str(digest.hexdigest())


def _num_nodes(store: Any, node_type: str) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyG guesses from edges, with a warning; we refuse to guess
        count = store.num_nodes if len(store) else None
    if count is None:
        raise InvalidGraph(f"node type {node_type!r} has no count; set data[{node_type!r}].num_nodes")
    return int(count)


def _tensor(value: Any) -> Tensor | None:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of read-only arrays; parts never write to their source
            return torch.from_numpy(value)
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return value if isinstance(value, Tensor) else None
    # EdgeIndex and other subclasses carry caches of the whole graph; the plain tensor is what is cut, without a gradient.
    return value.as_subclass(Tensor).detach().resolve_conj().resolve_neg()


def _on_cpu(tensor: Tensor, label: str) -> None:
    if tensor.device.type != "cpu":
        raise InvalidGraph(f"graphs are cut in main memory, but {label} is on {tensor.device}; call data.cpu() first")


def _take(value: Any, label: str, key: str, count: int, into: dict[str, Tensor], left: list[str]) -> None:
    tensor = _tensor(value)
    if tensor is not None and tensor.layout != torch.strided:
        raise InvalidGraph(f"{label} is a sparse tensor, and parts hold dense rows; store it as an edge type")
    if tensor is not None and key in _ALWAYS_ROWS and (tensor.dim() == 0 or tensor.size(0) != count):
        raise InvalidGraph(f"{label} has one row per item, got {tuple(tensor.shape)} for {count}; repair the table")
    if tensor is None or tensor.dim() == 0 or tensor.size(0) != count or key in _SET_BY_BATCHES:
        left.append(label)
        return
    _on_cpu(tensor, label)
    if "/" in key:
        raise HaspError(f"attribute names have no '/', got {key!r}; rename it")
    into[key] = tensor


def row_blocks(value: Tensor) -> list[Tensor]:
    """An array as blocks of rows, so that looking at all of a memory map stays bounded."""
    if value.dim() == 0 or value.numel() <= _STEP:
        return [value] if value.numel() else []
    return list(torch.split(value, max(1, _STEP * value.size(0) // value.numel())))


def _check_ids(ids: Tensor, node_type: str, count: int, edge_type: EdgeType) -> None:
    if ids.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8):
        raise InvalidGraph(f"ids are integers, but those of {edge_type} are {ids.dtype}; cast them")
    for start in range(0, ids.numel(), _STEP):
        block = ids[start : start + _STEP]
        low, high = (int(v) for v in torch.aminmax(block))
        if low < 0 or high >= count:
            bad = ((block < 0) | (block >= count)).nonzero()[:5, 0]
            rows = ", ".join(f"row {start + int(i)}: {int(block[i])}" for i in bad)
            raise InvalidGraph(
                f"ids of {node_type!r} in {edge_type} lie in 0..{count - 1}, got {rows}; "
                f"correct them or raise num_nodes of {node_type!r}"
            )


def _check_attr(value: Tensor, label: str, count: int, what: str, found: NotFinite) -> None:
    if value.dim() == 0 or value.size(0) != count:
        raise InvalidGraph(f"{label} has one row per item, got {tuple(value.shape)} for {count} {what}; repair the table")
    if value.is_floating_point():
        counts = [not_finite(block) for block in row_blocks(value)]
        warn_of(label, value.dtype, sum(nan for nan, _ in counts), sum(infinite for _, infinite in counts), found)


def not_finite(block: Tensor) -> tuple[int, int]:
    """How many values of a block are NaN, and how many infinite."""
    # A sum is one fast pass; only where it is not finite does anybody look closely (huge values may add up to that, too).
    wide = block.float() if block.element_size() == 1 else block  # torch cannot add up float8
    if bool(wide.sum(dtype=torch.float32 if wide.element_size() < 4 else None).isfinite()):
        return 0, 0
    return int(wide.isnan().sum()), int(wide.isinf().sum())


def warn_of(label: str, dtype: torch.dtype, nan: int, infinite: int, found: NotFinite) -> None:
    """Count and warn of what is not finite in an attribute: it may be meant, and is stored as it is, but never silently."""
    if not nan and not infinite:
        return
    found[label] = (nan, infinite)
    said = " and ".join(f"{n:,} {word}" for n, word in ((nan, "NaN"), (infinite, "infinite")) if n)
    limit = torch.finfo(dtype).max
    why = f" ({str(dtype).removeprefix('torch.')} ends at {limit:,.0f}: what is larger becomes infinite)" if limit < 1e6 else ""
    text = f"{label} holds {said} values{why if infinite else ''}; they are kept as they are"
    warnings.warn(text, HaspWarning, stacklevel=5)
