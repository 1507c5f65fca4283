"""GraphSAGE on a heterogeneous graph (Hamilton et al., 2017), as PyG makes it one: a convolution per edge type, summed.

    h_i' = sum over edge types r into i of  W_r mean over r's edges (j -> i) of h_j + b_r + U_r h_i

(``HeteroConv({r: SAGEConv}, aggr="sum")``; ``to_hetero`` does the same.) Where an edge type has more sources than
destinations, the mean is taken first and transformed after: the same sum with fewer products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hasp.schema import EdgeType
from hasp_models.relation_csr import RelationCSR
from hasp_models.zoo.graph_model import GraphModel, check_layers
from hasp_models.zoo.sparse import counts_of, edges_of, joined_csr, weighted_sum

__all__ = ["HeteroSAGE", "SAGELayer"]

Edges = Mapping[EdgeType, tuple[RelationCSR, Tensor]]


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
        """Per edge type a CSR, and for each of its edges one over the number of edges into its destination, ``[E]``."""
        count, out = counts_of(batch, self.node_types), {}
        like = next(self.parameters())
        for edge_type, ends in edges_of(batch, self.edge_types).items():
            csr = joined_csr([(ends, 0, 0)], count[edge_type[2]], count[edge_type[0]])
            share = (1.0 / csr.indptr.diff().clamp_min(1)).to(like.dtype)
            out[edge_type] = (csr, share.index_select(0, csr.row))
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
        out = {}
        matrices = self.w.unbind(0)
        for node_type, x in h.items():
            into = [r for r, e in enumerate(self.edge_types) if e[2] == node_type]
            if not into:
                out[node_type] = torch.zeros_like(x)
                continue
            # The own vector goes through the sum of its matrices: one product instead of one per edge type.
            total = torch.addmm(self.b[into].sum(0), x, self.root[into].sum(0))
            for r in into:
                csr, share = edges[self.edge_types[r]]
                source = h[self.edge_types[r][0]]
                if csr.num_edges:
                    early = csr.num_src < csr.num_dst
                    mean = weighted_sum(source @ matrices[r] if early else source, share, csr)
                    total = total + (mean if early else mean @ matrices[r])
            out[node_type] = total
        return out
