"""Objectives: what a batch is asked for. Each gives a sum and a weight, never a mean.

The mean of per-part means is not Eq. 4: parts differ in size. Only who has seen every batch of a step, on every rank, can
divide; that is :func:`hasp_models.train.fit`. An objective for it is any callable ``(model, batch, key) -> LossTerm``, where
``model(batch)`` gives vectors per node type and ``key`` decides all that the objective draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hasp.errors import HaspError
from hasp.load.links import reverse_of
from hasp.rng import hash64
from hasp.schema import EdgeType
from hasp_models.pair_softmax import answers, pair_softmax

__all__ = ["InfoNCE", "LinkBCE", "LossTerm", "Objective", "full_precision", "supervised", "vectors"]


class LossTerm(NamedTuple):
    """The loss of one batch.

    Attributes:
        sum: scalar tensor with gradients; 0 for a batch that supervises nothing.
        weight: how many terms were summed; 0 for such a batch, which takes part all the same.
    """

    sum: Tensor
    weight: float


Objective = Callable[[Any, Any, int], LossTerm]


class LinkBCE:
    """The paper's Eq. 4-5: binary cross-entropy of ``sigmoid(h_i . h_j)`` over links and as many pairs that are none.

    Wants a loader with ``neg_sampling="binary"`` (one negative per link, the paper's number, or any other).

    Args:
        edge_type: the supervised links.
    """

    def __init__(self, edge_type: EdgeType) -> None:
        self.edge_type = edge_type

    def __call__(self, model: Any, batch: Any, key: int = 0) -> LossTerm:
        """The summed cross-entropy of the batch's pairs; the weight is their number, negatives included."""
        store = batch[self.edge_type]
        if "edge_label_index" not in store or "edge_label" not in store:
            raise HaspError(
                f"the paper's objective needs labelled pairs of {self.edge_type}, but the batch has none; "
                "give the loader edge_label_index=... and neg_sampling='binary'"
            )
        out = vectors(model, batch, dict.fromkeys((self.edge_type[0], self.edge_type[2])))
        source, destination = store.edge_label_index
        logits = (full_precision(out[self.edge_type[0]])[source] * full_precision(out[self.edge_type[2]])[destination]).sum(
            dim=1
        )
        label = (store.edge_label > 0).to(logits.dtype)
        return LossTerm(F.binary_cross_entropy_with_logits(logits, label, reduction="sum"), float(source.numel()))

    def __repr__(self) -> str:
        return f"LinkBCE({self.edge_type})"


class InfoNCE:
    """In-batch softmax over cosines: each end of a link picks its partner among the partners of the other links.

    Both directions count, half each. A partner to which the asking node is linked as well is no wrong answer: known links
    (those that supervise and those that carry messages in this batch) are masked, and so is the node itself.

    Args:
        edge_type: the supervised links.
        temperature: cosines are divided by it.
        max_pairs: links per batch at most; more are thinned out by ``key``. The memory of a step is its square.
        known: further edge types between the same node types whose pairs are no wrong answers.

    Raises:
        HaspError: a setting out of its range.
    """

    def __init__(
        self, edge_type: EdgeType, temperature: float = 0.1, max_pairs: int = 2048, known: Sequence[EdgeType] = ()
    ) -> None:
        if not temperature > 0:
            raise HaspError(f"temperature is above 0, got {temperature}; 0.1 is usual")
        if max_pairs < 2:
            raise HaspError(f"a pair is told from other pairs, so max_pairs is at least 2, got {max_pairs}; raise it")
        self.edge_type, self.temperature, self.max_pairs = edge_type, temperature, max_pairs
        self.known = list(dict.fromkeys([edge_type, reverse_of(edge_type), *known]))

    def __call__(self, model: Any, batch: Any, key: int = 0) -> LossTerm:
        """The summed cross-entropy of the batch's links; the weight is their number."""
        every = supervised(batch, self.edge_type)
        pairs = every.index_select(1, self._chosen(every.size(1), key).to(every.device))
        source_type, _, destination_type = self.edge_type
        out = vectors(model, batch, dict.fromkeys((source_type, destination_type)))
        left, right = full_precision(out[source_type]), full_precision(out[destination_type])
        if not pairs.numel():
            return LossTerm(left[:0].sum() + right[:0].sum(), 0.0)
        masked = answers(self._links(batch, every), pairs, (left.size(0), right.size(0)), source_type == destination_type)
        return LossTerm(pair_softmax(left, right, pairs, masked, self.temperature), float(pairs.size(1)))

    def _chosen(self, count: int, key: int) -> Tensor:
        """At most ``max_pairs`` of ``range(count)``, ascending, by the key alone."""
        if count <= self.max_pairs:
            return torch.arange(count)
        # Different numbers have different hashes, so the largest of those that are wanted tells them from the others.
        draw = hash64(np.uint64(key), np.arange(count, dtype=np.int64))
        return torch.from_numpy(np.flatnonzero(draw <= np.partition(draw, self.max_pairs - 1)[self.max_pairs - 1]))

    def _links(self, batch: Any, every: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Links of the batch, from the node type of left ends to that of right ends."""
        source_type, _, destination_type = self.edge_type
        found = [(every[0], every[1])]
        if source_type == destination_type:
            found.append((every[1], every[0]))
        for edge_type in self.known:
            if edge_type in batch.edge_types:
                a, b = batch[edge_type].edge_index.as_subclass(Tensor)
                if edge_type[0] == source_type and edge_type[2] == destination_type:
                    found.append((a, b))
                if edge_type[2] == source_type and edge_type[0] == destination_type:
                    found.append((b, a))
        return found

    def __repr__(self) -> str:
        return f"InfoNCE({self.edge_type}, temperature={self.temperature}, max_pairs={self.max_pairs})"


def supervised(batch: Any, edge_type: EdgeType) -> Tensor:
    """The links that a batch is asked about, int64 ``[2, n]``: its labelled pairs without the negatives.

    Raises:
        HaspError: the loader has not been asked for any.
    """
    store = batch[edge_type]
    if "edge_label_index" not in store:
        raise HaspError(
            f"this objective needs pairs of {edge_type}, but the batch has none; give the loader edge_label_index=..."
        )
    every: Tensor = store.edge_label_index
    return every[:, store.edge_label > 0] if "edge_label" in store else every


def vectors(model: Any, batch: Any, types: Iterable[str]) -> Mapping[str, Tensor]:
    """Node type -> vectors, of these types at least: a model that ``takes_types`` is told that no others are read."""
    out: Mapping[str, Tensor] = model(batch, types=list(types)) if getattr(model, "takes_types", False) else model(batch)
    return out


def full_precision(x: Tensor) -> Tensor:
    """Losses are computed in float32 at least, whatever mixed precision made of the vectors."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
