"""HGT (Hu et al., 2020), as PyG's ``HGTConv``: keys, queries and values per node type, a matrix per edge type between them.

    a_ji = softmax over ALL edges into i of  (k_j A_r) . q_i * p_r / sqrt(d / H)
    o_i  = W_t gelu( sum_j a_ji v_j M_r ) + b_t
    h_i' = s_t o_i + (1 - s_t) h_i                                                  s_t a learned sigmoid

The nearest relative of Eq. 3: one softmax over all relations, and p_r is beta_r, but the relations speak through a matrix
each and not through embeddings that a pretraining could give. The attention runs on the project's fused kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hasp.schema import EdgeType
from hasp_models.relation_attention import relation_attention
from hasp_models.zoo.graph_model import GraphModel, check_layers, glorot_
from hasp_models.zoo.sparse import Into

__all__ = ["HGT", "HGTLayer"]


class HGT(GraphModel):
    """L layers of :class:`HGTLayer`, nothing between them; other arguments as in :class:`GraphModel`.

    Args:
        metadata: see :class:`GraphModel`.
        in_channels: likewise.
        dim: likewise.
        layers: L.
        heads: of attention; each has ``dim / heads`` channels.
        backend: see :func:`hasp_models.relation_attention.relation_attention`.
        threads: likewise.
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
        backend: str = "auto",
        threads: int = 0,
        activation: str = "none",
        **options: Any,
    ) -> None:
        super().__init__(metadata, in_channels, dim, activation=activation, **options)
        check_layers(layers, heads, dim)
        self.layers.extend(HGTLayer(dim, self.node_types, self.edge_types, heads, backend, threads) for _ in range(layers))


class HGTLayer(nn.Module):
    """The formulas above, for every node type.

    Attributes:
        kqv: ``[T, dim, 3 dim]`` and its bias ``kqv_b [T, 3 dim]``: keys, queries, values side by side.
        a: ``[R, H, dim / H, dim / H]``, A.
        m: likewise, M.
        p: ``[R, H]``.
        w: ``[T, dim, dim]``, W transposed, and ``b [T, dim]``.
        skip: ``[T]``, s before the sigmoid.
    """

    def __init__(
        self,
        dim: int,
        node_types: Sequence[str],
        edge_types: Sequence[EdgeType],
        heads: int = 1,
        backend: str = "auto",
        threads: int = 0,
    ) -> None:
        super().__init__()
        self.node_types, self.edge_types, self.heads = list(node_types), list(edge_types), heads
        self.backend, self.threads = backend, threads
        types, relations, bound, width = len(node_types), len(edge_types), dim**-0.5, dim // heads
        self.kqv = nn.Parameter(torch.empty(types, dim, 3 * dim).uniform_(-bound, bound))
        self.kqv_b = nn.Parameter(torch.empty(types, 3 * dim).uniform_(-bound, bound))
        self.a = nn.Parameter(glorot_(torch.empty(relations, heads, width, width)))
        self.m = nn.Parameter(glorot_(torch.empty(relations, heads, width, width)))
        self.p = nn.Parameter(torch.ones(relations, heads))
        self.w = nn.Parameter(torch.empty(types, dim, dim).uniform_(-bound, bound))
        self.b = nn.Parameter(torch.empty(types, dim).uniform_(-bound, bound))
        self.skip = nn.Parameter(torch.ones(types))

    def forward(self, h: Mapping[str, Tensor], edges: Mapping[str, Into]) -> dict[str, Tensor]:
        """``{type: [n, dim]}`` from ``{type: [n, dim]}``."""
        keys, queries, values, out = {}, {}, {}, {}
        width = self.a.size(2)
        for t, node_type in enumerate(self.node_types):
            # [n, 3 dim] -> three of [n, H, dim / H]
            kqv = torch.addmm(self.kqv_b[t], h[node_type], self.kqv[t]).view(-1, 3, self.heads, width)
            keys[node_type], queries[node_type], values[node_type] = kqv.unbind(1)
        a, m = self.a.unbind(0), self.m.unbind(0)
        for t, node_type in enumerate(self.node_types):
            x, into = h[node_type], edges[node_type]
            heard = x.new_zeros(x.shape)
            if into.relations:
                heard = self._attended(into, queries[node_type], keys, values, a, m).flatten(1)
            spoken = torch.addmm(self.b[t], F.gelu(heard), self.w[t])
            out[node_type] = torch.lerp(x, spoken.to(x.dtype), self.skip[t].sigmoid().to(x.dtype))
        return out

    def _attended(
        self,
        into: Into,
        q: Tensor,
        keys: Mapping[str, Tensor],
        values: Mapping[str, Tensor],
        a: Sequence[Tensor],
        m: Sequence[Tensor],
    ) -> Tensor:
        """``[n, H, dim / H]``, the attended values of one node type."""
        sources = [(r, self.edge_types[r][0]) for r in into.relations]
        if into.late:
            ((r, source),) = sources
            # (k A) . q = k . (q A^T), and sum a (v M) = (sum a v) M.
            q, k, v = _times(q, a[r].transpose(1, 2)), keys[source], values[source]
        else:
            k = torch.cat([_times(keys[s], a[r]) for r, s in sources])
            v = torch.cat([_times(values[s], m[r]) for r, s in sources])
        none = q.new_zeros((len(sources), self.heads, q.size(2)))
        out, _ = relation_attention(
            q, k, v, none, none, self.p[into.relations], into.csr, backend=self.backend, threads=self.threads
        )
        return _times(out, m[r]) if into.late else out


def _times(x: Tensor, matrix: Tensor) -> Tensor:
    """``[n, H, c]`` times ``[H, c, c]``, head by head."""
    if x.size(1) == 1:
        return (x[:, 0] @ matrix[0])[:, None]
    return torch.einsum("nhc,hcd->nhd", x, matrix)
