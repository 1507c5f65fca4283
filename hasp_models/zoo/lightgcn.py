"""LightGCN (He et al., 2020) on the bipartite graph of graph users and entities; entities are compared by cosine.

The final vectors are ``M x`` with ``M = mean of A^0..A^L`` and ``A`` the normalised adjacency, computed once. M is symmetric,
so a gradient by the final vectors becomes one by x through the very same layers: no layer's output is kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.nn import LGConv

from hasp.errors import HaspError
from hasp.rng import subkey, word
from hasp_models.data.benchmark import Benchmark
from hasp_models.data.neighbors import EmbeddingScorer
from hasp_models.triples import batches
from hasp_models.zoo.baskets import Baskets

__all__ = ["adjacency", "bpr_loss", "embed", "fit", "propagate"]

Progress = Callable[[int, float], None]


def fit(benchmark: Benchmark, **options: Any) -> EmbeddingScorer:
    """Cosine of LightGCN's entity vectors; options as in :func:`embed`."""
    _, items = embed(Baskets.of(benchmark), **options)
    return EmbeddingScorer(items)


def embed(
    baskets: Baskets,
    *,
    dim: int = 64,
    layers: int = 3,
    epochs: int = 40,
    batch_size: int = 32_768,
    lr: float = 0.02,
    weight: float = 1e-4,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """Learn the vectors by BPR, one negative per engagement and epoch.

    Args:
        baskets: of graph users.
        dim: length of the vectors.
        layers: of propagation; 0 is matrix factorisation.
        epochs: passes over the engagements.
        batch_size: engagements per step.
        lr: of Adam.
        weight: of the squared length of the vectors before propagation, see :func:`bpr_loss`.
        seed: of the start, the order and the negatives.
        progress: called after each epoch with its number and its mean loss per engagement.

    Returns:
        float32 ``[U, dim]`` and ``[N, dim]`` after propagation; entities without a user have zeros.

    Raises:
        HaspError: nobody lacks an entity, a setting out of its range, or a loss that is not finite.
    """
    if min(dim, epochs, batch_size) < 1 or min(layers, weight) < 0 or not lr > 0:
        raise HaspError(
            "LightGCN has dim, epochs and batch_size >= 1, layers and weight >= 0, lr > 0, "
            f"got {(dim, epochs, batch_size, layers, weight, lr)}; correct them"
        )
    places = baskets.usable()
    if not places.numel():
        raise HaspError("LightGCN needs a user who lacks an entity that another has, got none; use another baseline")
    generator = torch.Generator().manual_seed(int(subkey(seed, word("lightgcn"))) >> 1)
    matrix, count = adjacency(baskets), baskets.num_users
    base = (torch.randn(count + baskets.num_items, dim, generator=generator) * 0.1).requires_grad_()
    optimizer = torch.optim.Adam([base], lr=lr)
    for epoch in range(epochs):
        total = 0.0
        for rows in batches(places[torch.randperm(places.numel(), generator=generator)], batch_size):
            users = baskets.users[rows]
            wrong = baskets.negatives(users, 1, 0.0, generator)[:, 0]
            final = propagate(matrix, base.detach(), layers).requires_grad_()
            loss = bpr_loss(final, base, users, count + baskets.items[rows], count + wrong, weight)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            assert base.grad is not None and final.grad is not None
            base.grad += propagate(matrix, final.grad, layers)
            optimizer.step()
            total += float(loss.detach()) * rows.numel()
        if not total < float("inf"):
            raise HaspError(f"the loss of epoch {epoch} is {total}; lower lr={lr}")
        if progress is not None:
            progress(epoch, total / places.numel())
    final = propagate(matrix, base.detach(), layers)
    return final[:count], torch.where(baskets.popularity[:, None] > 0, final[count:], 0.0)


def adjacency(baskets: Baskets) -> Tensor:
    """Sparse CSR ``[U + N, U + N]``: ``1 / sqrt(degree of user * degree of entity)`` for each engagement, both ways."""
    size = baskets.num_users + baskets.num_items
    ends = torch.stack([baskets.users, baskets.items + baskets.num_users])
    ends = torch.cat([ends, ends.flip(0)], dim=1)
    degree = torch.bincount(ends[0], minlength=size).float()
    value = (degree[ends[0]] * degree[ends[1]]).rsqrt()
    with warnings.catch_warnings():  # torch calls all of its CSR a beta
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_coo_tensor(ends, value, (size, size), check_invariants=True).coalesce().to_sparse_csr()


def propagate(matrix: Tensor, x: Tensor, layers: int) -> Tensor:
    """The mean of ``x, A x, ..., A^layers x``; outside of autograd, as its transpose is itself."""
    layer, total = LGConv(normalize=False), x.clone()
    with torch.no_grad():
        for _ in range(layers):
            x = layer(x, matrix)
            total += x
    return total / (layers + 1)


def bpr_loss(final: Tensor, base: Tensor, users: Tensor, right: Tensor, wrong: Tensor, weight: float) -> Tensor:
    """The mean of ``-log sigmoid(u . i - u . j) + weight / 2 * (|u0|^2 + |i0|^2 + |j0|^2)`` over triples of rows ``[B]``.

    Args:
        final: float ``[U + N, d]``, vectors after propagation: u, i, j.
        base: float ``[U + N, d]``, before it: u0, i0, j0.
        users: int64 ``[B]``, u.
        right: int64 ``[B]``, i.
        wrong: int64 ``[B]``, j.
        weight: of the second term.
    """
    # F.embedding and not indexing: its gradient adds rows up in one order at any number of threads.
    asks = F.embedding(users, final)
    margin = (asks * (F.embedding(right, final) - F.embedding(wrong, final))).sum(1)
    size = sum(F.embedding(rows, base).square().sum(1) for rows in (users, right, wrong))
    return (F.softplus(-margin) + 0.5 * weight * size).mean()
