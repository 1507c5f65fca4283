"""GraphSAGE on a heterogeneous graph (Hamilton et al., 2017), as PyG makes it one: a convolution per edge type, summed.

    h_i' = sum over edge types r into i of  W_r mean over r's edges (j -> i) of h_j + b_r + U_r h_i

(``HeteroConv({r: SAGEConv}, aggr="sum")``; ``to_hetero`` does the same.) The sum over edge types is one sum over
all edges into a node, each weighted by one over the edges of its type; where one type leads from many nodes to few, the mean
is taken first and transformed after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hasp.schema import EdgeType
from hasp_models.zoo.graph_model import GraphModel, check_layers
from hasp_models.zoo.sparse import Into, edges_into, weighted_sum

__all__ = ["HeteroSAGE", "SAGELayer"]

Edges = Mapping[str, tuple[Into, Tensor]]


class HeteroSAGE(GraphModel):
    """L layers of :class:`SAGELayer`; other arguments as in :class:`GraphModel`."""

    def __init__(
        self,
        metadata: tuple[Sequence[str], Sequence[EdgeType]],
        in_channels: Mapping[str, int] | None = None,
        dim: int = 64,
        layers: int = 2,
        **options: Any,
    ) -> None:
        super().__init__(metadata, in_channels, dim, **options)
        check_layers(layers, 1, dim)
        self.layers.extend(SAGELayer(dim, self.edge_types) for _ in range(layers))

    def edges(self, batch: Any) -> Edges:
        """Per node type the edges into it, and for each edge one over the number of its type into the node, ``[E]``."""
        like, out = next(self.parameters()), {}
        for node_type, into in edges_into(batch, self.node_types, self.edge_types).items():
            share = into.ptr.diff().clamp_min(1).to(like.dtype).reciprocal()
            out[node_type] = (into, share.index_select(0, into.pair))
        return out


class SAGELayer(nn.Module):
    """The sum above, for every node type.

    Attributes:
        w: ``[R, dim, dim]``, W of each edge type, transposed (``h @ w``).
        b: ``[R, dim]``.
        root: ``[R, dim, dim]``, U transposed.
    """

    def __init__(self, dim: int, edge_types: Sequence[EdgeType]) -> None:
        super().__init__()
        self.edge_types = list(edge_types)
        bound = dim**-0.5  # nn.Linear's
        size = (len(edge_types), dim, dim)
        self.w = nn.Parameter(torch.empty(size).uniform_(-bound, bound))
        self.b = nn.Parameter(torch.empty(size[:2]).uniform_(-bound, bound))
        self.root = nn.Parameter(torch.empty(size).uniform_(-bound, bound))

    def forward(self, h: Mapping[str, Tensor], edges: Edges) -> dict[str, Tensor]:
        """``{type: [n, dim]}`` from ``{type: [n, dim]}``; a type into which no edge type leads gets zeros."""
        out, matrices = {}, self.w.unbind(0)
        for node_type, x in h.items():
            every = [r for r, e in enumerate(self.edge_types) if e[2] == node_type]
            if not every:
                out[node_type] = torch.zeros_like(x)
                continue
            # The own vector goes through the sum of its matrices: one product instead of one per edge type.
            out[node_type] = torch.addmm(self.b[every].sum(0), x, self.root[every].sum(0))
            into, share = edges[node_type]
            if into.late:
                (r,) = into.relations
                out[node_type] = out[node_type] + weighted_sum(h[self.edge_types[r][0]], share, into.csr) @ matrices[r]
            elif into.relations:
                values = torch.cat([h[self.edge_types[r][0]] @ matrices[r] for r in into.relations])
                out[node_type] = out[node_type] + weighted_sum(values, share, into.csr)
        return out
