"""KG pretraining (paper, section 4.1): TransE over the semantic triples, and by name the methods that PyG has.

Eq. 2 with ``f(h, r, t) = -||h + r - t||``: f is a plausibility, so that the hinge pushes true facts above corrupted ones. The
loss is summed over facts; gradients are written out, touch only the rows of a batch and move only these (a dense Adam keeps
moving rows that got no gradient). Rows of nodes have Euclidean length 1 after every step, and are exported like that: what
leaves here is what was scored.
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
from hasp_models.triples import KnownTriples, Negatives, Triples, batches, corrupt

__all__ = ["hinge_gradients", "pretrain"]

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
    nodes = _RowAdam(_uniform(triples.num_nodes, dim, generator), lr, unit=True)
    relations = _RowAdam(_normalised(_uniform(triples.num_relations, dim, generator)), lr, unit=False)
    nodes.table.copy_(_normalised(nodes.table))
    for epoch in range(epochs):
        total = 0.0
        for rows in batches(torch.randperm(len(triples), generator=generator), batch_size):
            head, relation, tail = (x[rows].repeat(num_negatives) for x in (triples.head, triples.relation, triples.tail))
            bad_head, bad_tail, weight = draw(head, relation, tail)
            ends, place = torch.unique(torch.cat([head, tail, bad_head, bad_tail]), return_inverse=True)
            kinds, kind = torch.unique(relation, return_inverse=True)
            loss, node_grad, relation_grad = hinge_gradients(
                nodes.table[ends], relations.table[kinds], place.view(4, -1), kind, weight, margin, p
            )
            nodes.step(ends, node_grad)
            relations.step(kinds, relation_grad)
            total += loss
        if not np.isfinite(total):
            raise HaspError(f"the loss of epoch {epoch} is {total}; lower lr={lr}")
        if progress is not None:
            progress(epoch, total / (len(triples) * num_negatives))
    return KGEmbedding("transe", _normalised(nodes.table), relations.table.clone(), triples.offsets, triples.relations, p=p)


def hinge_gradients(
    nodes: Tensor, relations: Tensor, ends: Tensor, kind: Tensor, weight: Tensor, margin: float, p: int
) -> tuple[float, Tensor, Tensor]:
    """Eq. 2 of one batch: the summed loss, and its gradients.

    Args:
        nodes: float ``[n, d]``.
        relations: float ``[m, d]``.
        ends: int64 ``[4, B]``: rows of head, tail, corrupted head, corrupted tail.
        kind: int64 ``[B]``: row of the relation.
        weight: float ``[B]`` of each pair of fact and negative.
        margin: gamma.
        p: the norm, 1 or 2.

    Returns:
        loss, gradient ``[n, d]`` by nodes, gradient ``[m, d]`` by relations.
    """
    relation = relations[kind]
    good = nodes[ends[0]] + relation - nodes[ends[1]]
    bad = nodes[ends[2]] + relation - nodes[ends[3]]
    good_size, bad_size = good.norm(p=p, dim=1), bad.norm(p=p, dim=1)
    hinge = (good_size - bad_size + margin).clamp_min(0) * weight
    active = (weight * (hinge > 0)).unsqueeze(1)
    if p == 1:
        good, bad = good.sign_().mul_(active), bad.sign_().mul_(active)
    else:
        # The subgradient 0 is taken where a distance is 0.
        good = good.mul_(active / good_size.clamp_min(1e-12).unsqueeze(1))
        bad = bad.mul_(active / bad_size.clamp_min(1e-12).unsqueeze(1))
    node_grad = torch.zeros_like(nodes).index_add_(0, ends.reshape(-1), torch.cat([good, -good, -bad, bad]))
    relation_grad = torch.zeros_like(relations).index_add_(0, kind, good - bad)
    return float(hinge.sum()), node_grad, relation_grad


class _RowAdam:
    """Adam that touches only the rows of a step (the rule of ``torch.optim.SparseAdam``), rows kept at length 1 on demand."""

    def __init__(self, table: Tensor, lr: float, unit: bool) -> None:
        self.table, self.lr, self.unit = table, lr, unit
        self.first, self.second, self.steps = torch.zeros_like(table), torch.zeros_like(table), 0

    def step(self, rows: Tensor, grad: Tensor) -> None:
        self.steps += 1
        first = self.first[rows].mul_(0.9).add_(grad, alpha=0.1)
        second = self.second[rows].mul_(0.999).addcmul_(grad, grad, value=0.001)
        self.first[rows], self.second[rows] = first, second
        size = self.lr * float(np.sqrt(1 - 0.999**self.steps)) / (1 - 0.9**self.steps)
        moved = self.table[rows].addcdiv_(first, second.sqrt_().add_(1e-8), value=-size)
        self.table[rows] = _normalised(moved) if self.unit else moved


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Torch's threads, for a while. A step here is many small operations: on a busy machine two threads that wait for each
    other at every one of them were 20 times slower than one, and on an idle one hardly faster.
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
