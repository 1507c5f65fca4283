"""Slow references of Eq. 3, for tests and benchmarks: loops in float64, and the layer as one writes it with PyG.

Neither shares a line with the fast ways. The loops follow the paper's formulas symbol by symbol, concatenation included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import softmax

__all__ = ["NaiveRelationAttention", "attend_loops"]


def attend_loops(
    h: Tensor,
    relation: Tensor,
    w_q: Tensor,
    w_k: Tensor,
    w_v: Tensor,
    beta: Tensor | None,
    edges: Sequence[tuple[int, int, int]],
    num_dst: int,
    *,
    heads: int = 1,
    log_prior: Tensor | None = None,
    sigma: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:
    """``h_t + sigma(sum att * msg)`` for the nodes ``0..num_dst-1``; other rows are returned as they came.

    Args:
        h: ``[N, d]``.
        relation: ``[R, dr]``.
        w_q: ``[d, d]``.
        w_k: ``[d, d]``.
        w_v: ``[d, d + dr]``.
        beta: ``[R, H]``, factors of the logits; ``None``: 1.
        edges: triples (source row, destination row, relation id), in any order.
        num_dst: nodes that are updated.
        heads: H.
        log_prior: ``[R, H]``, added to the logits; ``None``: 0.
        sigma: the activation.
    """
    width = h.size(1) // heads
    rows = []
    for t in range(h.size(0)):
        incoming = [(c, r) for c, dst, r in edges if dst == t]
        if t >= num_dst or not incoming:
            rows.append(h[t] + sigma(torch.zeros_like(h[t])) if t < num_dst else h[t])
            continue
        messages = [w_v @ torch.cat([h[c], relation[r]]) for c, r in incoming]
        query = w_q @ h[t]
        pieces = []
        for head in range(heads):
            columns = slice(head * width, (head + 1) * width)
            logits = []
            for (_, r), message in zip(incoming, messages, strict=True):
                logit = (w_k @ message)[columns] @ query[columns] / math.sqrt(width)
                logit = logit if beta is None else logit * beta[r, head]
                logits.append(logit if log_prior is None else logit + log_prior[r, head])
            top = max(float(x.detach()) for x in logits)
            weights = [(x - top).exp() for x in logits]
            total = sum(weights[1:], weights[0])
            terms = [w / total * m[columns] for w, m in zip(weights, messages, strict=True)]
            pieces.append(sum(terms[1:], terms[0]))
        rows.append(h[t] + sigma(torch.cat(pieces)))
    return torch.stack(rows)


class NaiveRelationAttention(MessagePassing):  # type: ignore[misc]  # PyG is untyped
    """The layer as PyG's own ``TransformerConv`` is written: gathers per edge, ``[h ; r]`` per edge, products per edge.

    Parameters have the names and shapes of :class:`hasp_models.RelationAttention` with one head, so that a state dict fits
    both. No activation and no residual: ``forward`` is the attended message ``[N, d]``.
    """

    def __init__(self, channels: int, num_relations: int) -> None:
        super().__init__(aggr="add", node_dim=0)
        self.channels = channels
        self.w_q = nn.Parameter(torch.empty(channels, channels))
        self.w_k = nn.Parameter(torch.empty(channels, channels))
        self.w_v = nn.Parameter(torch.empty(channels, 2 * channels))
        self.beta = nn.Parameter(torch.ones(num_relations, 1))
        self.relation = nn.Parameter(torch.randn(num_relations, channels) * channels**-0.5)
        for weight in (self.w_q, self.w_k, self.w_v):
            nn.init.xavier_uniform_(weight)

    def forward(self, x: Tensor, edge_index: Tensor, edge_type: Tensor) -> Tensor:
        """``x`` ``[N, d]``, ``edge_index`` int64 ``[2, E]``, ``edge_type`` int64 ``[E]`` -> ``[N, d]``."""
        out: Tensor = self.propagate(edge_index, x=x, query=x @ self.w_q.t(), edge_type=edge_type)
        return out

    def message(self, query_i: Tensor, x_j: Tensor, edge_type: Tensor, index: Tensor, ptr: Any, size_i: int) -> Tensor:
        """One row per edge, throughout."""
        message = torch.cat([x_j, self.relation[edge_type]], dim=-1) @ self.w_v.t()
        key = message @ self.w_k.t()
        logit = (query_i * key).sum(-1, keepdim=True) / math.sqrt(self.channels) * self.beta[edge_type]
        attention: Tensor = softmax(logit, index, ptr, size_i)
        return message * attention
