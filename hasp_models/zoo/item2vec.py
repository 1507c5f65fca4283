"""item2vec (Barkan and Koenigstein, 2016): skip-gram with negative sampling, where a user's basket is the sentence.

A basket has no order, so the window is the whole basket: each epoch pairs every engagement with one other entity of its
basket, drawn at random. Each basket thus weighs by its size, not by its square.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hasp.errors import HaspError
from hasp.rng import subkey, word
from hasp_models.data.benchmark import Benchmark
from hasp_models.data.neighbors import EmbeddingScorer
from hasp_models.triples import batches
from hasp_models.zoo.baskets import Baskets

__all__ = ["embed", "fit", "skip_gram_loss"]

Progress = Callable[[int, float], None]


def fit(benchmark: Benchmark, **options: Any) -> EmbeddingScorer:
    """Cosine of item2vec's entity vectors; options as in :func:`embed`."""
    return EmbeddingScorer(embed(Baskets.of(benchmark), **options))


def embed(
    baskets: Baskets,
    *,
    dim: int = 64,
    epochs: int = 40,
    num_negatives: int = 5,
    power: float = 0.75,
    batch_size: int = 8192,
    lr: float = 0.01,
    seed: int = 0,
    progress: Progress | None = None,
) -> Tensor:
    """Learn one vector per entity.

    Args:
        baskets: of graph users.
        dim: length of the vectors.
        epochs: pairs drawn per engagement.
        num_negatives: per pair; never out of the basket that the pair is from.
        power: negatives are drawn in proportion to ``popularity ** power``.
        batch_size: pairs per step.
        lr: of Adam.
        seed: of the start, the pairs and the negatives.
        progress: called after each epoch with its number and its mean loss per pair.

    Returns:
        float32 ``[N, dim]``, the centre vectors; entities that are in no pair have zeros.

    Raises:
        HaspError: no basket with a pair, a setting out of its range, or a loss that is not finite.
    """
    if min(dim, epochs, num_negatives, batch_size) < 1 or not lr > 0:
        raise HaspError(
            "item2vec has dim, epochs, num_negatives and batch_size >= 1 and lr > 0, "
            f"got {(dim, epochs, num_negatives, batch_size, lr)}; correct them"
        )
    places = baskets.usable(2)
    if not places.numel():
        raise HaspError("item2vec needs a user with two entities who lacks a third, got none; use another baseline")
    generator = torch.Generator().manual_seed(int(subkey(seed, word("item2vec"))) >> 1)
    # As word2vec: small random centres, contexts at zero.
    centre = ((torch.rand(baskets.num_items, dim, generator=generator) - 0.5) / dim).requires_grad_()
    context = torch.zeros(baskets.num_items, dim, requires_grad=True)
    optimizer = torch.optim.Adam([centre, context], lr=lr)
    for epoch in range(epochs):
        total = 0.0
        for rows in batches(places[torch.randperm(places.numel(), generator=generator)], batch_size):
            wrong = baskets.negatives(baskets.users[rows], num_negatives, power, generator)
            right = baskets.partners(rows, generator)
            loss = skip_gram_loss(centre, context, baskets.items[rows], right, wrong)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += float(loss.detach()) * rows.numel()
        if not total < float("inf"):
            raise HaspError(f"the loss of epoch {epoch} is {total}; lower lr={lr}")
        if progress is not None:
            progress(epoch, total / places.numel())
    paired = torch.bincount(baskets.items[places], minlength=baskets.num_items) > 0
    return torch.where(paired[:, None], centre.detach(), 0.0)


def skip_gram_loss(centre: Tensor, context: Tensor, items: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
    """The mean over pairs of ``-log sigmoid(c_i . x_j) - sum_n log sigmoid(-c_i . x_n)``.

    Args:
        centre: float ``[N, d]``, c.
        context: float ``[N, d]``, x.
        items: int64 ``[B]``, i.
        right: int64 ``[B]``, j.
        wrong: int64 ``[B, k]``, n.
    """
    # F.embedding and not indexing: its gradient adds rows up in one order at any number of threads.
    asks = F.embedding(items, centre)
    good = (asks * F.embedding(right, context)).sum(1)
    bad = torch.bmm(F.embedding(wrong, context), asks.unsqueeze(2)).squeeze(2)
    return (F.softplus(-good) + F.softplus(bad).sum(1)).mean()
