"""Dense and sparse together (hybrid search): what vectors say of two entities, and what the graph says of them exactly.

A vector of some hundred numbers cannot hold all links and concepts of an entity: what is left of the others is noise in each
cosine, and among ten thousand entities some are near by noise alone. What the graph says exactly
(:class:`hasp_models.ExactSimilarity`) has no noise, and has learned nothing. What their sum is worth beside each alone is
measured: ``docs/results``, the rows ``exact``, ``semantic_gnn`` and ``semantic_hybrid``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hasp.errors import HaspError
from hasp.graph import Graph
from hasp.schema import EdgeType
from hasp.sources.reverse import add_reverse
from hasp_models.data.neighbors import Scorer
from hasp_models.exact import ExactSimilarity

__all__ = ["ExactScorer", "HybridScorer", "exact_of"]


class ExactScorer:
    """Exact similarities as a ``Scorer`` of all their entities."""

    def __init__(self, exact: ExactSimilarity) -> None:
        self.num_items, self._against = exact.num_items, exact.against(None)

    def scores(self, queries: npt.NDArray[np.int64]) -> Tensor:
        """Float32 ``[len(queries), N]``."""
        return self._against(torch.from_numpy(np.asarray(queries)))


class HybridScorer:
    """``dense + weight * exact``; a ``Scorer``.

    Args:
        dense: cosines of vectors, such as :meth:`hasp_models.embeddings.Embeddings.scorer` gives.
        exact: of the same entities.
        weight: how much the exact similarities count; with 0 the scores are those of ``dense``.

    Raises:
        HaspError: another number of entities, a weight below 0.
    """

    def __init__(self, dense: Scorer, exact: ExactSimilarity, weight: float) -> None:
        if not 0 <= weight < float("inf"):
            raise HaspError(f"the weight of exact similarities is 0 or more, got {weight}; 0.5 is a good start")
        if dense.num_items != exact.num_items:
            raise HaspError(
                f"the exact similarities are of {exact.num_items:,} entities, the vectors of {dense.num_items:,}; "
                "take both from one graph"
            )
        self.dense, self.weight, self.num_items = dense, weight, dense.num_items
        self._exact = ExactScorer(exact)

    def scores(self, queries: npt.NDArray[np.int64]) -> Tensor:
        """Float32 ``[len(queries), N]``."""
        found = self.dense.scores(queries)
        if not self.weight:
            return found
        return found + self.weight * self._exact.scores(queries).to(found.device)


def exact_of(graph: Graph, links: Sequence[EdgeType], entity: str, *, content: float = 0.3) -> ExactSimilarity:
    """The exact similarities of a graph whose links may stand in one direction only.

    Args:
        graph: as it was embedded.
        links: its EEL types; those between ``entity`` and another type are left out.
        entity: the node type that is ranked.
        content: see :meth:`hasp_models.ExactSimilarity.of`.

    Raises:
        HaspError: no link type joins the entity type to itself.
    """
    own = [e for e in links if e[0] == e[2] == entity]
    if not own:
        raise HaspError(
            f"exact similarities are read off links from {entity!r} to {entity!r}, but the links are {list(links)}; "
            "leave hybrid out"
        )
    return ExactSimilarity.of(add_reverse(graph), own, content=content)
