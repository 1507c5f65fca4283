"""PinSage's objective: a max-margin loss over negatives that a batch shares, and a curriculum of hard ones.

Ying et al. (2018), section 3.3: for a query q and an entity i that belong together, with negatives k,

    J(q, i) = mean over k of max(0, z_q . z_k - z_q . z_i + margin)

where all pairs of a batch share the same random entities as negatives, and in epoch n each query gets n - 1 *hard* negatives
of its own beside them: entities that walks from q visit, but not often ("related, but not as related as the positive").
The paper takes ranks 2,000 to 5,000 of three billion by personalised PageRank; a part is smaller, and the ranks are shares
of what the walks from q have reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hasp.errors import HaspError
from hasp.load.links import reverse_of
from hasp.rng import hash64, permutation, subkey, word
from hasp.schema import EdgeType
from hasp_models.importance import WalkGraph, Walks, most_visited
from hasp_models.objectives import LossTerm, full_precision, supervised, vectors

__all__ = ["MaxMargin"]

_FAR = 500  # ranks that are looked at


class MaxMargin:
    """PinSage's max-margin loss. Both ends of a link ask, half each. What a query is linked to in its batch is no negative.

    Args:
        edge_type: the supervised links, between entities of one type; the loader gives their pairs (``edge_label_index``).
        margin: of the loss. Vectors are compared as the model gives them.
        negatives: entities of the batch that all pairs share; the paper's 500.
        max_pairs: links per batch at most; more are thinned out by ``key``.
        known: further edge types whose pairs are no negatives; walks for hard negatives go over these, too.
        hard: hard negatives per query at most; 0: no curriculum. The paper ends with 6.
        every: epochs after which one more is added.
        band: where in the ranking of a query's visited entities its hard negatives lie, as shares of its length.
        walks: for the ranking.

    Raises:
        HaspError: a setting out of its range, or links between two types.
    """

    def __init__(
        self,
        edge_type: EdgeType,
        *,
        margin: float = 0.2,
        negatives: int = 500,
        max_pairs: int = 1024,
        known: Sequence[EdgeType] = (),
        hard: int = 6,
        every: int = 1,
        band: tuple[float, float] = (0.3, 1.0),
        walks: Walks | None = None,
    ) -> None:
        if edge_type[0] != edge_type[2]:
            raise HaspError(f"a margin is between entities of one type, got {edge_type}; name a link type of entities")
        if not margin > 0 or min(negatives, max_pairs, every) < 1 or hard < 0 or not 0 <= band[0] < band[1] <= 1:
            raise HaspError(
                "margin > 0, negatives, max_pairs and every >= 1, hard >= 0, 0 <= band[0] < band[1] <= 1, "
                f"got {(margin, negatives, max_pairs, every, hard, band)}; correct them"
            )
        self.edge_type, self.margin, self.negatives, self.max_pairs = edge_type, margin, negatives, max_pairs
        self.known = list(dict.fromkeys([edge_type, reverse_of(edge_type), *known]))
        self.hard, self.every, self.band, self.walks = hard, every, band, walks or Walks(100, 5, 0.15)
        self._loader: Any = None

    def follow(self, loader: Any) -> MaxMargin:
        """Read the epoch off this loader (without one, it is always the first); returns itself."""
        self._loader = loader
        return self

    def hard_now(self) -> int:
        """Hard negatives per query in the epoch under way: n - 1 in the n-th, for ``every=1``."""
        epoch = 0 if self._loader is None else int(self._loader.epoch)
        return min(epoch // self.every, self.hard)

    def __call__(self, model: Any, batch: Any, key: int = 0) -> LossTerm:
        """The summed loss of the batch's links; the weight is their number."""
        every = supervised(batch, self.edge_type)
        z = full_precision(vectors(model, batch, [self.edge_type[0]])[self.edge_type[0]])
        chosen = torch.from_numpy(np.sort(permutation(subkey(key, word("pairs")), every.size(1))[: self.max_pairs]))
        pairs = every[:, chosen.to(every.device)]
        if not pairs.numel():
            return LossTerm(z.sum() * 0.0, 0.0)
        query, answer = torch.cat([pairs[0], pairs[1]]), torch.cat([pairs[1], pairs[0]])
        asked, place = torch.unique(query, return_inverse=True)
        links = self._links(batch, every)
        right = (z[query] * z[answer]).sum(1) - self.margin
        shared = self._shared(z.size(0), key).to(z.device)
        # One row per distinct query: several of its pairs share its products.
        wrong, allowed = z[asked] @ z[shared].T, ~_linked(links, asked[:, None], shared[None, :], z.size(0))
        loss = (F.relu(wrong[place] - right[:, None]) * allowed[place]).sum(1)
        count = allowed.sum(1)[place]
        if number := self.hard_now():
            hard, there = self._hard(batch, links, asked, number, key)
            wrong = torch.einsum("qd,qkd->qk", z[asked], z[hard.view(-1)].view(*hard.shape, -1))
            loss = loss + (F.relu(wrong[place] - right[:, None]) * there[place]).sum(1)
            count = count + there.sum(1)[place]
        return LossTerm((loss / count.clamp_min(1)).sum() / 2, float(pairs.size(1)))

    def _shared(self, count: int, key: int) -> Tensor:
        """The entities that all pairs share as negatives, int64 ``[min(negatives, count)]``, by the key alone."""
        return torch.from_numpy(permutation(subkey(key, word("negatives")), count)[: self.negatives])

    def _links(self, batch: Any, every: Tensor) -> Tensor:
        """What is linked in the batch, both ways: ascending ``a * n + b``, int64."""
        n = int(batch[self.edge_type[0]].num_nodes)
        ends = [every, *(batch[e].edge_index.long() for e in self.known if e in batch.edge_types)]
        a, b = torch.cat(ends, dim=1)
        both: Tensor = torch.unique(torch.cat([a * n + b, b * n + a]))
        return both

    def _hard(self, batch: Any, links: Tensor, asked: Tensor, number: int, key: int) -> tuple[Tensor, Tensor]:
        """``number`` hard negatives of each query, int64 ``[Q, number]``, and bool ``[Q, number]``: there are as many."""
        entity = self.edge_type[0]
        graph = WalkGraph.of(batch, entity, [e for e in self.known if e in batch.edge_types])
        found, _ = most_visited(graph, self.walks, min(_FAR, self.walks.walks * self.walks.length), asked.cpu().numpy())
        reached = (found >= 0).sum(1, keepdims=True)
        rank = np.arange(found.shape[1])
        inside = (rank >= np.floor(self.band[0] * reached)) & (rank < np.ceil(self.band[1] * reached))
        nodes = torch.from_numpy(np.maximum(found, 0)).long().to(asked.device)
        linked = _linked(links, asked[:, None], nodes, graph.counted).cpu().numpy()
        # The first by a hash of (query, rank) among those in the band that are no link.
        draw = hash64(subkey(key, word("hard")), np.arange(found.size)).reshape(found.shape)
        draw = np.where(inside & ~linked, draw >> np.uint64(1), np.uint64(2**64 - 1))
        number = min(number, found.shape[1])
        first = np.argsort(draw, axis=1, kind="stable")[:, :number]
        there = np.take_along_axis(draw, first, 1) != np.uint64(2**64 - 1)
        column = torch.from_numpy(first).to(asked.device)
        return nodes.gather(1, column), torch.from_numpy(there).to(asked.device)

    def __repr__(self) -> str:
        names = ("margin", "negatives", "max_pairs", "hard", "every", "band", "walks")
        return f"MaxMargin({self.edge_type}, {', '.join(f'{n}={getattr(self, n)!r}' for n in names)})"


def _linked(links: Tensor, a: Tensor, b: Tensor, n: int) -> Tensor:
    """Bool, of the shape that ``a`` and ``b`` broadcast to: they are linked, or one node."""
    wanted = a * n + b
    if not links.numel():
        return (a == b).expand(wanted.shape)
    at = torch.searchsorted(links, wanted).clamp_max(links.numel() - 1)
    return (links[at] == wanted) | (a == b)
