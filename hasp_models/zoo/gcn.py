"""GCN (Kipf and Welling, 2017) on the union of all node and edge types: it does not see types, but for the inputs.

    h_i' = W ( sum over edges (j -> i) of all types of h_j / sqrt(d_i d_j)  +  h_i / d_i ) + b,     d = 1 + edges into a node

The degrees are those of the WHOLE graph. A concept is copied into every part with the edges of that part only: with the
degrees of the part its weight for an entity would differ from part to part, and from inference, by the root of their number.
With those of the whole graph alone, though, it hears the fewer the smaller the part: on the books in 8 parts that cost more
(MAP@10 .178 against .188 on Co-Sim, .556 against .594 on series) than it gained. So what is heard is scaled up to the edges
that are not in the batch, supervised links among them (.186 and .592), and training and inference agree in expectation.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hasp.errors import HaspError
from hasp.graph import Graph
from hasp.part import Edges, Nodes, Part
from hasp.schema import EdgeType
from hasp_models.node_inputs import n_id_of
from hasp_models.relation_csr import RelationCSR
from hasp_models.zoo.graph_model import GraphModel, check_layers
from hasp_models.zoo.sparse import counts_of, edges_of, joined_csr, weighted_sum

__all__ = ["GCN", "GCNLayer", "full_degrees", "with_degrees"]


class Union(NamedTuple):
    """All edges as one list.

    Attributes:
        csr: rows of all node types, type after type.
        weight: ``[E]``, of each edge.
        own: ``[n, 1]``, of each node for itself.
    """

    csr: RelationCSR
    weight: Tensor
    own: Tensor


class GCN(GraphModel):
    """L layers of :class:`GCNLayer`; other arguments as in :class:`GraphModel`.

    Args:
        metadata: see :class:`GraphModel`.
        in_channels: likewise.
        dim: likewise.
        layers: L.
        degrees: node type -> ``[N]``, edges into each node of the whole graph (:func:`full_degrees`), looked up by ``n_id``.
            ``None``: the degrees of each batch, as a plain GCN would. A node attribute ``full_degree`` of the batch goes
            before both (:func:`with_degrees`, for a graph that is not that of training; :func:`embed` sees to it).
        rescale: multiply what a node hears in a batch by its edges in the whole graph over its edges in the batch, so that
            a concept that hears a part of its entities hears as much as at inference.
        **options: see :class:`GraphModel`.
    """

    def __init__(
        self,
        metadata: tuple[Sequence[str], Sequence[EdgeType]],
        in_channels: Mapping[str, int] | None = None,
        dim: int = 64,
        layers: int = 2,
        *,
        degrees: Mapping[str, Tensor] | None = None,
        rescale: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(metadata, in_channels, dim, **options)
        check_layers(layers, 1, dim)
        if degrees is not None and set(degrees) != set(self.node_types):
            raise HaspError(f"degrees has every node type of {self.node_types}, got {list(degrees)}; see full_degrees")
        self.rescale = rescale
        # Parameters, as the fixed tables of the inputs: they travel with the weights, and no optimizer sees them.
        self.degrees = nn.ParameterDict(
            {t: nn.Parameter(d.detach().float().clone(), requires_grad=False) for t, d in (degrees or {}).items()}
        )
        self.layers.extend(GCNLayer(dim) for _ in range(layers))

    @classmethod
    def from_data(cls, data: Any, dim: int = 64, layers: int = 2, *, free: bool = False, **options: Any) -> GCN:
        """See :meth:`GraphModel.from_data`; ``degrees`` are counted over all parts unless they are given."""
        if "degrees" not in options:
            options["degrees"] = full_degrees(data)
        return super().from_data(data, dim, layers, free=free, **options)

    def edges(self, batch: Any) -> Union:
        """All edges of a batch in one list, with their weights."""
        count = counts_of(batch, self.node_types)
        offset, total = {}, 0
        for node_type in self.node_types:
            offset[node_type], total = total, total + count[node_type]
        parts = [(ends, offset[e[0]], offset[e[2]]) for e, ends in edges_of(batch, self.edge_types).items()]
        csr = joined_csr(parts, total, total)
        here = csr.indptr.diff()
        degree = torch.cat([self._degree(batch, t, here[offset[t] : offset[t] + count[t]]) for t in self.node_types])
        like = next(p for p in self.parameters() if p.requires_grad)
        degree = degree.to(like.dtype)
        root = (degree + 1).rsqrt()
        into = root * degree / here.clamp_min(1) if self.rescale else root
        return Union(csr, into.index_select(0, csr.row) * root.index_select(0, csr.src), root.square()[:, None])

    def _degree(self, batch: Any, node_type: str, here: Tensor) -> Tensor:
        """``[n]``, edges into each node of one type, in the whole graph as far as that is known."""
        given = batch[node_type].get("full_degree")
        if given is not None:
            return given.to(here.device)  # type: ignore[no-any-return]
        if node_type not in self.degrees:
            return here
        table, n_id = self.degrees[node_type], n_id_of(batch[node_type])
        if n_id.device.type == "cpu" and n_id.numel() and int(n_id.max()) >= table.numel():
            raise HaspError(
                f"the model knows the degrees of {table.numel():,} nodes of {node_type!r}, got n_id {int(n_id.max()):,}; "
                "put those of this graph beside its nodes with with_degrees(graph)"
            )
        return table[n_id]  # type: ignore[no-any-return]

    def whole(self, graph: Any) -> Any:
        """The graph with its own degrees, which need not be those of the graph of training."""
        return with_degrees(graph)


class GCNLayer(nn.Module):
    """The formula above.

    Attributes:
        w: ``[dim, dim]``, W transposed.
        b: ``[dim]``.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        bound = (3.0 / dim) ** 0.5  # Glorot's
        self.w = nn.Parameter(torch.empty(dim, dim).uniform_(-bound, bound))
        self.b = nn.Parameter(torch.zeros(dim))

    def forward(self, h: Mapping[str, Tensor], edges: Union) -> dict[str, Tensor]:
        """``{type: [n, dim]}`` from ``{type: [n, dim]}``, types in the order of the union."""
        x = torch.cat(list(h.values())) @ self.w
        out = weighted_sum(x, edges.weight, edges.csr) + edges.own * x + self.b
        return dict(zip(h, torch.split(out, [v.size(0) for v in h.values()]), strict=True))


def full_degrees(parts: Any) -> dict[str, Tensor]:
    """Edges into every node of the whole graph, over all edge types: int64 ``[N]`` per node type.

    Read part by part: every edge is in one part, in the cut, or in what all parts share.

    Args:
        parts: a :class:`hasp.HASPData`.
    """
    count = {t: torch.zeros(n, dtype=torch.int64) for t, n in parts.num_nodes.items()}
    store = parts.store
    owners = {t: parts.node_part(t).long() for t in parts.roles.entity}
    for i in range(parts.num_parts):
        part: Part = store.part(i)
        for edge_type, edges in part.edges.items():
            _count(count[edge_type[2]], edges.edge_index[1], part.nodes.get(edge_type[2]))
    for block in (store.shared, store.sampled):
        for edge_type, edges in block.edges.items():
            _count(count[edge_type[2]], edges.edge_index[1], None)
    for edge_type, edges in store.cut.edges.items():
        _count_cut(count[edge_type[2]], edges, owners[edge_type[2]])
    return count


def _count(into: Tensor, rows: Tensor, nodes: Nodes | None) -> None:
    """Add the edges that end in ``rows`` of ``nodes`` (of the whole type, where there are none)."""
    if nodes is None or nodes.n_id is None:
        into += torch.bincount(rows.long(), minlength=into.numel())
    else:
        into.index_add_(0, nodes.n_id.long(), torch.bincount(rows.long(), minlength=nodes.num_nodes))


def _count_cut(into: Tensor, edges: Edges, owner: Tensor) -> None:
    """Add the cut edges: their ends are rows of the part of the destination, and parts hold their entities ascending."""
    if edges.pairs is None or edges.ptr is None or not edges.num_edges:
        return
    order = owner.argsort(stable=True)
    first = torch.searchsorted(owner[order], torch.arange(int(owner.max()) + 1))
    part = torch.repeat_interleave(edges.pairs[:, 1].long(), edges.ptr.long().diff())
    n_id = order[first[part] + edges.edge_index[1].long()]
    into += torch.bincount(n_id, minlength=into.numel())


def with_degrees(graph: Any) -> Any:
    """A ``HeteroData`` with each node's edges beside it (``full_degree``), for a GCN that was trained on another graph.

    Args:
        graph: a whole :class:`hasp.Graph` or ``HeteroData``; it is not changed.
    """
    data = graph.to_hetero_data() if isinstance(graph, Graph) else copy.copy(graph)
    for node_type in data.node_types:
        count = int(data[node_type].num_nodes)
        into = [data[e].edge_index[1].long() for e in data.edge_types if e[2] == node_type]
        data[node_type].full_degree = sum((torch.bincount(i, minlength=count) for i in into), torch.zeros(count).long())
    return data
