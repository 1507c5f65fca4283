"""Relation-aware attention (Huang et al., section 4.2, Eq. 3): a convolution over heterogeneous graphs.

For a node t with incoming edges (c, r) of every relation r:

    m_c(r) = W_v [h_c ; r]
    a_ct^r = (W_k m_c(r)) . (W_q h_t) / sqrt(d) * beta_r          ONE softmax over all incoming edges of all relations
    h_t'   = h_t + sigma( sum softmax(a) m_c(r) )

No matrix product per edge is needed, and nothing is approximated: W_v [h ; r] = W_vh h + W_vr r is a product per node plus
one per relation, and (W_k m) . (W_q h) = m . (W_k' W_q h), so that with one head a message is its own key and an edge
moves one row instead of two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hasp.errors import HaspError
from hasp.schema import EdgeType
from hasp_models.attend import BACKENDS, relation_attention, resolve_backend
from hasp_models.relation_csr import RelationCSR

__all__ = ["ACTIVATIONS", "RelationAttention", "RelationCSR", "relation_attention"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": F.elu,
    "gelu": F.gelu,
    "relu": F.relu,
    "tanh": torch.tanh,
    "none": lambda x: x,
}
"""Activations by name. All have sigma(0) = 0, so that a node without neighbours keeps its vector."""


class RelationAttention(nn.Module):
    """One layer of Eq. 3, over ``x_dict`` and ``edge_index_dict`` as any PyG convolution.

    What the paper leaves open, and what is chosen here: the softmax is joint over all relations (the formula; a softmax
    per type would be another model). Every type is updated (``update`` limits it; messages still come from all). A
    reverse relation is a relation of its own. ``beta`` is per layer, relation and head, starts at 1 and multiplies the
    logit: a temperature, so that 0 makes a relation's edges count equally and does not silence them. Activations keep 0 at
    0, so an isolated node keeps its vector; there are no biases, and input and output have one width. Parallel edges
    are entries of their own. Attention is scaled by the width of a head.

    Args:
        channels: width d of the node vectors, in and out.
        metadata: ``(node types, edge types)`` as of ``HeteroData.metadata()``; relation ids follow its order.
        heads: divides ``channels``. W_k mixes all of a message before it is cut into heads. One head is the fastest.
        beta: ``"scale"`` (Eq. 3); ``"bias"``: ``log b_r`` is added instead, which sets a prior mass
            (starts at b = 1); ``"both"``: a factor and a prior mass of its own; ``"none"``: neither.
        activation: a name of :data:`ACTIVATIONS` or a function with ``f(0) = 0``.
        update: node types that are updated; ``None``: all. Others are returned as they came.
        relation_dim: width of the relation embeddings; ``None``: ``channels``.
        own_relations: ``False``: relation embeddings are always handed to ``forward`` (shared between layers).
        backend: see :func:`relation_attention`.
        threads: see :func:`relation_attention`.

    Raises:
        HaspError: a setting is out of its range; the message names it.
    """

    def __init__(
        self,
        channels: int,
        metadata: tuple[Sequence[str], Sequence[EdgeType]],
        heads: int = 1,
        *,
        beta: str = "scale",
        activation: str | Callable[[Tensor], Tensor] = "elu",
        update: Sequence[str] | None = None,
        relation_dim: int | None = None,
        own_relations: bool = True,
        backend: str = "auto",
        threads: int = 0,
    ) -> None:
        super().__init__()
        if channels < 1 or heads < 1 or channels % heads:
            raise HaspError(f"heads divides channels, got channels={channels} and heads={heads}; change one of them")
        if beta not in ("scale", "bias", "both", "none"):
            raise HaspError(f"beta is 'scale', 'bias', 'both' or 'none', got {beta!r}; 'scale' is the paper's")
        self.node_types = list(metadata[0])
        self.relations: list[EdgeType] = [(e[0], e[1], e[2]) for e in metadata[1]]
        missing = [t for t in update or () if t not in self.node_types]
        if missing:
            raise HaspError(f"update names the node type {missing[0]!r}, but the graph has {self.node_types}; correct it")
        if backend not in BACKENDS:
            raise HaspError(f"backend is one of {BACKENDS}, got {backend!r}; 'auto' chooses by device")
        self.channels, self.heads, self.beta_mode = channels, heads, beta
        self.update = None if update is None else list(update)
        self.relation_dim = relation_dim or channels
        self.activation = _activation(activation)
        self.backend, self.threads = backend, threads
        count = len(self.relations)
        self.w_q = nn.Parameter(torch.empty(channels, channels))
        self.w_k = nn.Parameter(torch.empty(channels, channels))
        self.w_v = nn.Parameter(torch.empty(channels, channels + self.relation_dim))
        self.beta = nn.Parameter(torch.empty(count, heads)) if beta in ("scale", "both") else None
        self.log_prior = nn.Parameter(torch.empty(count, heads)) if beta in ("bias", "both") else None
        self.relation = nn.Parameter(torch.empty(count, self.relation_dim)) if own_relations else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Glorot for the matrices, unit-variance-over-width for relations, beta at its neutral value."""
        for weight in (self.w_q, self.w_k, self.w_v):
            nn.init.xavier_uniform_(weight)
        if self.beta is not None:
            nn.init.ones_(self.beta)
        if self.log_prior is not None:
            nn.init.zeros_(self.log_prior)
        if self.relation is not None:
            nn.init.normal_(self.relation, std=self.relation_dim**-0.5)

    def forward(
        self,
        x_dict: Mapping[str, Tensor],
        edge_index_dict: Mapping[EdgeType, Tensor] | None = None,
        relation: Tensor | None = None,
        *,
        csr: RelationCSR | None = None,
        return_attention: bool = False,
    ) -> Any:
        """Update every node.

        Args:
            x_dict: node type -> ``[N, channels]``.
            edge_index_dict: edge type -> integer ``[2, E]``. Not needed with ``csr``.
            relation: ``[R, relation_dim]``, in the place of the layer's own embeddings.
            csr: from :meth:`csr` of any layer with the same relations and ``update``; build it once, use it in every layer.
            return_attention: also return edge type -> ``[E, heads]``, in the order of ``edge_index_dict``.

        Returns:
            Node type -> ``[N, channels]``, in the order of ``x_dict``; with ``return_attention`` a pair.

        Raises:
            HaspError: neither edges nor a CSR, a CSR of other nodes, a vector of another width, no relation embeddings.
        """
        counts = {t: x.size(0) for t, x in x_dict.items()}
        for node_type, x in x_dict.items():
            if x.dim() != 2 or x.size(1) != self.channels:
                raise HaspError(
                    f"vectors of {node_type!r} are [N, {self.channels}], got {tuple(x.shape)}; put a Linear before the layer"
                )
        if csr is None:
            if edge_index_dict is None:
                raise HaspError("a layer needs edges, got neither edge_index_dict nor csr; give one of them")
            csr = self.csr(edge_index_dict, counts)
        if csr.offset is None or dict(csr.num_nodes or {}) != counts:
            raise HaspError(f"the CSR is of nodes {csr.num_nodes}, but x_dict has {counts}; build it from this batch")
        order = sorted(x_dict, key=lambda t: (csr.offset[t], counts[t]))  # type: ignore[index]
        h, alpha = self.flat(torch.cat([x_dict[t] for t in order]), csr, relation)
        out = {t: h[csr.offset[t] : csr.offset[t] + counts[t]] for t in x_dict}
        return (out, csr.to_edge_dict(alpha)) if return_attention else out

    def csr(self, edge_index_dict: Mapping[EdgeType, Tensor], num_nodes: Mapping[str, int]) -> RelationCSR:
        """The edges of a batch in this layer's order of relations."""
        return RelationCSR.from_edge_index_dict(edge_index_dict, num_nodes, self.relations, self.update)

    def flat(self, h: Tensor, csr: RelationCSR, relation: Tensor | None = None, *, rest: bool = True) -> tuple[Tensor, Tensor]:
        """The layer over one list of nodes ``[num_src, channels]`` in the order of ``csr``: (new list, attention).

        ``rest``: behind the rows that the CSR updates, the list goes on with those that it does not.
        """
        out, alpha = self.attend(h, csr, relation)
        # A slice of everything would still cost its gradient two copies.
        new = (h if csr.num_dst == h.size(0) else h[: csr.num_dst]) + self.activation(out)
        return (torch.cat([new, h[csr.num_dst :]]) if rest and csr.num_dst < h.size(0) else new), alpha

    def attend(self, h: Tensor, csr: RelationCSR, relation: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``sum att * msg`` ``[num_dst, channels]``, before activation and residual, and the attention ``[E, heads]``."""
        rel_v = self.relation_values(relation)
        fused = h.dtype in (torch.float32, torch.float64) and resolve_backend(self.backend, h) == "numba"
        if self.heads == 1 and fused and 3 * csr.num_dst >= h.size(0):
            from hasp_models.kernels import numba_csr

            mul, add = self._beta()
            mul = h.new_full((csr.num_relations, 1), self.channels**-0.5) if mul is None else mul * self.channels**-0.5
            add = h.new_zeros((csr.num_relations, 1)) if add is None else add
            # One product for queries and values of all nodes: where some types are not updated it computes queries in vain,
            # which costs less than a second pass over h unless these are most nodes.
            qv = F.linear(h, torch.cat([self.query_weight(), self.w_v[:, : self.channels]]))
            # Under autocast products are made in half precision; what is exponentiated is float32 all the same.
            return numba_csr.packed_attention(qv.to(h.dtype), rel_v.to(h.dtype), mul, add, csr, self.threads)
        v = self.values(h)
        return self.attend_rows(h[: csr.num_dst], v, self.keys(v), csr, rel_v)

    def attend_rows(self, h_dst: Tensor, v: Tensor, k: Tensor | None, csr: RelationCSR, rel_v: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`attend` with :meth:`values`, :meth:`keys` and :meth:`relation_values` already made (inference)."""
        mul, add = self._beta()
        scale = (self.channels // self.heads) ** -0.5
        options: dict[str, Any] = {"bias": add, "scale": scale, "backend": self.backend, "threads": self.threads}

        def split(t: Tensor) -> Tensor:
            # [n, channels] -> [n, heads, channels / heads]; under autocast back to what h has: softmax is no place to save
            return t.to(h_dst.dtype).view(t.size(0), self.heads, t.size(1) // self.heads)

        q = split(F.linear(h_dst, self.query_weight() if k is None else self.w_q))
        keys, rel_k = (None, None) if k is None else (split(k), split(F.linear(rel_v, self.w_k)))
        with torch.autocast(h_dst.device.type, enabled=False):
            out, alpha = relation_attention(q, keys, split(v), rel_k, split(rel_v), mul, csr, **options)
        return out.reshape(out.size(0), self.channels), alpha

    def keys(self, v: Tensor) -> Tensor | None:
        """``W_k W_vh h`` ``[n, channels]`` from :meth:`values`; ``None`` with one head, where values are keys."""
        return None if self.heads == 1 else F.linear(v, self.w_k)

    def values(self, h: Tensor) -> Tensor:
        """The node's share of the message, ``W_vh h``: ``[n, channels]``."""
        return F.linear(h, self.w_v[:, : self.channels])

    def relation_values(self, relation: Tensor | None = None) -> Tensor:
        """The relation's share of the message, ``W_vr r``: ``[R, channels]``."""
        r = self.relation if relation is None else relation
        if r is None:
            raise HaspError("this layer has no relation embeddings (own_relations=False); give relation= [R, relation_dim]")
        if r.shape != (len(self.relations), self.relation_dim):
            raise HaspError(
                f"relation embeddings are [{len(self.relations)}, {self.relation_dim}], got {tuple(r.shape)}; "
                "one row per edge type of the metadata"
            )
        return F.linear(r, self.w_v[:, self.channels :])

    def query_weight(self) -> Tensor:
        """``W_k' W_q``: with one head, (W_k m) . (W_q h) = m . (W_k' W_q h)."""
        return self.w_k.t() @ self.w_q

    def _beta(self) -> tuple[Tensor | None, Tensor | None]:
        return self.beta, self.log_prior

    def extra_repr(self) -> str:
        """What ``print(model)`` shows of the layer."""
        return f"{self.channels}, relations={len(self.relations)}, heads={self.heads}, beta={self.beta_mode!r}"


def _activation(activation: str | Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            raise HaspError(f"activation is one of {list(ACTIVATIONS)} or a function, got {activation!r}; choose one")
        return ACTIVATIONS[activation]
    at_zero = float(activation(torch.zeros(1)))
    if at_zero != 0:
        raise HaspError(
            f"an activation keeps 0 at 0, so that a node without neighbours keeps its vector, got f(0)={at_zero:g}; "
            "subtract it, or use elu or gelu"
        )
    return activation
