"""GAT on a heterogeneous graph (Velickovic et al., 2018), as PyG makes it one: a convolution per edge type, summed.

    a_ji = softmax over r's edges into i of  leaky_relu(s_r . (W_r h_j) + d_r . (V_r h_i))        one softmax per edge type
    h_i' = S_t h_i + c_t + sum over edge types r into i of ( sum_j a_ji W_r h_j + b_r )

This is ``to_hetero`` of the example in PyG's documentation, to which the paper points: ``GATConv((-1, -1), d,
add_self_loops=False)`` plus a ``Linear`` of the node's own vector, summed over edge types. It differs from Eq. 3 in what
the paper is about: no softmax over all relations, and no relation embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hasp.schema import EdgeType
from hasp_models.zoo.graph_model import GraphModel, check_layers, glorot_
from hasp_models.zoo.sparse import Into, edge_softmax, weighted_sum

__all__ = ["GATLayer", "HeteroGAT"]


class HeteroGAT(GraphModel):
    """L layers of :class:`GATLayer`; other arguments as in :class:`GraphModel`.

    Args:
        metadata: see :class:`GraphModel`.
        in_channels: likewise.
        dim: likewise.
        layers: L.
        heads: of attention, side by side: each has ``dim / heads`` channels.
        slope: of the leaky ReLU.
        **options: see :class:`GraphModel`.
    """

    def __init__(
        self,
        metadata: tuple[Sequence[str], Sequence[EdgeType]],
        in_channels: Mapping[str, int] | None = None,
        dim: int = 64,
        layers: int = 2,
        *,
        heads: int = 1,
        slope: float = 0.2,
        **options: Any,
    ) -> None:
        super().__init__(metadata, in_channels, dim, **options)
        check_layers(layers, heads, dim)
        self.layers.extend(GATLayer(dim, self.node_types, self.edge_types, heads, slope) for _ in range(layers))


class GATLayer(nn.Module):
    """The formulas above, for every node type.

    Attributes:
        w: ``[R, dim, dim]``, W of each edge type, transposed (``h @ w``).
        v: ``[R, dim, dim]``, V transposed.
        of_src: ``[R, H, dim / H]``, s.
        of_dst: ``[R, H, dim / H]``, d.
        b: ``[R, dim]``.
        skip: ``[T, dim, dim]``, S of each node type, transposed.
        c: ``[T, dim]``.
    """

    def __init__(
        self, dim: int, node_types: Sequence[str], edge_types: Sequence[EdgeType], heads: int = 1, slope: float = 0.2
    ) -> None:
        super().__init__()
        self.node_types, self.edge_types, self.heads, self.slope = list(node_types), list(edge_types), heads, slope
        count, bound = len(edge_types), dim**-0.5
        self.w = nn.Parameter(glorot_(torch.empty(count, dim, dim)))
        self.v = nn.Parameter(glorot_(torch.empty(count, dim, dim)))
        self.of_src = nn.Parameter(glorot_(torch.empty(count, heads, dim // heads)))
        self.of_dst = nn.Parameter(glorot_(torch.empty(count, heads, dim // heads)))
        self.b = nn.Parameter(torch.zeros(count, dim))
        self.skip = nn.Parameter(torch.empty(len(node_types), dim, dim).uniform_(-bound, bound))
        self.c = nn.Parameter(torch.empty(len(node_types), dim).uniform_(-bound, bound))

    def forward(self, h: Mapping[str, Tensor], edges: Mapping[str, Into]) -> dict[str, Tensor]:
        """``{type: [n, dim]}`` from ``{type: [n, dim]}``."""
        dim = self.w.size(1)
        # s . (W h) = (W^T s) . h: two numbers per node and head, and no product of matrices for the attention.
        each = (len(self.edge_types), dim, self.heads, dim // self.heads)
        of_src = (self.w.view(each) * self.of_src[:, None]).sum(3).unbind(0)  # [R, dim, H]
        of_dst = (self.v.view(each) * self.of_dst[:, None]).sum(3)
        matrices, out = self.w.unbind(0), {}
        for t, node_type in enumerate(self.node_types):
            every = [r for r, e in enumerate(self.edge_types) if e[2] == node_type]
            x, into = h[node_type], edges[node_type]
            out[node_type] = torch.addmm(self.c[t] + self.b[every].sum(0), x, self.skip[t])
            if not into.relations:
                continue
            sources = [h[self.edge_types[r][0]] for r in into.relations]
            asked = torch.cat([s @ of_src[r] for r, s in zip(into.relations, sources, strict=True)])
            # [R', dim, H] -> [dim, R' * H]; then [n, R' * H] -> [n, R', H]
            asking = x @ of_dst[into.relations].transpose(0, 1).flatten(1)
            alpha = edge_softmax(asked, asking.view(x.size(0), -1, self.heads), into, self.slope)
            if into.late:
                blocks = matrices[into.relations[0]].chunk(self.heads, dim=1)
                sums = [weighted_sum(sources[0], a, into.csr) @ w for a, w in zip(alpha, blocks, strict=True)]
            else:
                values = torch.cat([s @ matrices[r] for r, s in zip(into.relations, sources, strict=True)])
                columns = values.chunk(self.heads, dim=1)
                sums = [weighted_sum(v, a, into.csr) for a, v in zip(alpha, columns, strict=True)]
            out[node_type] = out[node_type] + (sums[0] if self.heads == 1 else torch.cat(sums, dim=1))
        return out
