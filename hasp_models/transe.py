"""KG pretraining (paper, section 4.1): TransE over the semantic triples, and by name the methods that PyG has.

Eq. 2 with ``f(h, r, t) = -||h + r - t||``: f is a plausibility, so that the hinge pushes true facts above corrupted ones. The
loss is summed over facts, and a step moves only the rows that it touches (:mod:`hasp_models.row_adam`). Rows of nodes have
Euclidean length 1 after every step, and are exported like that: what leaves here is what was scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from hasp.errors import HaspError
from hasp.rng import subkey, word
from hasp_models.kg_embedding import KGEmbedding, KGMethod
from hasp_models.row_adam import RowAdam
from hasp_models.triples import KnownTriples, Negatives, Triples, batches, corrupt

__all__ = ["pretrain"]

_AHEAD = 1 << 16  # facts whose negatives are drawn in one go
Progress = Callable[[int, float], None]


def pretrain(
    triples: Triples,
    *,
    method: KGMethod = "transe",
    dim: int = 64,
    epochs: int = 100,
    margin: float = 1.0,
    p: Literal[1, 2] = 2,
    negatives: Negatives = "type",
    num_negatives: int = 1,
    filter_negatives: bool = True,
    batch_size: int = 1024,
    lr: float = 0.01,
    seed: int = 0,
    progress: Progress | None = None,
    started: Callable[[], None] | None = None,
) -> KGEmbedding:
    """Embed nodes and relations so that facts score above corrupted facts.

    Args:
        triples: the facts to learn.
        method: ``transe``, or ``distmult``, ``complex``, ``rotate`` with PyG's module and that module's own loss.
        dim: length of the vectors (of real and imaginary part each, for ``complex`` and ``rotate``).
        epochs: passes over the facts.
        margin: gamma of Eq. 2.
        p: the norm of ``f``.
        negatives: ``type`` draws replacements among nodes of the replaced node's type; ``pool`` is the paper's "whole entity
            pool", where a concept is nearly always replaced by an entity, which is no question at all.
        num_negatives: per fact and epoch (of the other methods: always 1).
        filter_negatives: draw again where a corrupted fact is a known fact.
        batch_size: facts per step.
        lr: of Adam, moving touched rows only.
        seed: of the start, the order and the negatives.
        progress: called after each epoch with its number and its mean loss per fact.
        started: called once, when all settings have been found good.

    Raises:
        HaspError: no facts, or a setting out of its range.
    """
    _check(triples, method, dim, epochs, margin, p, negatives, num_negatives, batch_size, lr)
    if started is not None:
        started()
    with _threads(1):
        return _pretrain(
            triples, method, dim, epochs, margin, p, negatives, num_negatives, filter_negatives, batch_size, lr, seed, progress
        )


def _pretrain(
    triples: Triples,
    method: KGMethod,
    dim: int,
    epochs: int,
    margin: float,
    p: int,
    negatives: Negatives,
    num_negatives: int,
    filter_negatives: bool,
    batch_size: int,
    lr: float,
    seed: int,
    progress: Progress | None,
) -> KGEmbedding:
    generator = torch.Generator().manual_seed(int(subkey(seed, word("pretrain"))) >> 1)
    if negatives == "type":
        ranges = triples.ranges()
    else:
        whole = torch.tensor([[0, triples.num_nodes]]).repeat(triples.num_relations, 1)
        ranges = (whole, whole)
    known = KnownTriples(triples) if filter_negatives else None

    def draw(head: Tensor, relation: Tensor, tail: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return corrupt(head, relation, tail, ranges, generator, known=known)

    if method != "transe":
        from hasp_models.kg_pyg import pretrain_pyg

        tables = pretrain_pyg(triples, method, dim, epochs, margin, batch_size, lr, generator, draw, seed, progress)
        return KGEmbedding(method, *tables, triples.offsets, triples.relations, p=2)
    nodes = _uniform(triples.num_nodes, dim, generator)
    relations = _normalised(_uniform(triples.num_relations, dim, generator))
    steps = RowAdam(_normalised(nodes).numpy(), relations.numpy(), lr=lr, margin=margin, p=p)
    # Negatives of many batches are drawn in one go: a draw is some thirty calls of torch, whatever their number.
    ahead = batch_size * max(1, _AHEAD // (batch_size * num_negatives))
    for epoch in range(epochs):
        total = 0.0
        for some in batches(torch.randperm(len(triples), generator=generator), ahead):
            head, relation, tail = (x[some].repeat(num_negatives) for x in (triples.head, triples.relation, triples.tail))
            drawn = draw(head, relation, tail)
            ends = torch.stack([head, tail, *drawn[:2]]).view(4, num_negatives, -1)
            rest = relation.view(num_negatives, -1), drawn[2].view(num_negatives, -1)
            for low in range(0, some.numel(), batch_size):
                kind, weight = (x[:, low : low + batch_size].reshape(-1).numpy() for x in rest)
                total += steps.step(ends[..., low : low + batch_size].reshape(4, -1).numpy(), kind, weight)
        if not np.isfinite(total):
            raise HaspError(f"the loss of epoch {epoch} is {total}; lower lr={lr}")
        if progress is not None:
            progress(epoch, total / (len(triples) * num_negatives))
    tables = _normalised(torch.from_numpy(steps.nodes)), torch.from_numpy(steps.relations)
    return KGEmbedding("transe", *tables, triples.offsets, triples.relations, p=p)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Torch's threads, for a while. What is left to torch here is many small operations: on a busy machine two threads that
    wait for each other at every one of them were 20 times slower than one, and on an idle one hardly faster.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _normalised(table: Tensor) -> Tensor:
    return torch.nn.functional.normalize(table, dim=1)


def _uniform(rows: int, dim: int, generator: torch.Generator) -> Tensor:
    """The start of Bordes et al. (2013): uniform in +-6 / sqrt(d)."""
    return torch.empty(rows, dim).uniform_(-6.0 / dim**0.5, 6.0 / dim**0.5, generator=generator)


def _check(triples: Triples, method: str, *settings: Any) -> None:
    dim, epochs, margin, p, negatives, num_negatives, batch_size, lr = settings
    rules = (
        (method in get_args(KGMethod), f"method is one of {get_args(KGMethod)}, got {method!r}"),
        (dim >= 1, f"dim is at least 1, got {dim}"),
        (epochs >= 0, f"epochs is at least 0, got {epochs}"),
        (margin > 0, f"margin is above 0, got {margin}"),
        (p in (1, 2), f"p is 1 or 2, got {p}"),
        (negatives in get_args(Negatives), f"negatives is type or pool, got {negatives!r}"),
        (num_negatives >= 1, f"num_negatives is at least 1, got {num_negatives}"),
        (batch_size >= 1, f"batch_size is at least 1, got {batch_size}"),
        (lr > 0, f"lr is above 0, got {lr}"),
    )
    for ok, text in rules:
        if not ok:
            raise HaspError(f"{text}; choose such a value")
    if not len(triples):
        raise HaspError("pretraining needs at least one fact, got none; check that the graph has edges to concepts")
