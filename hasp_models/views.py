"""Two views of an entity: what its links and concepts say together, and what its concepts alone say.

The vector of a linked entity is mostly links, that of a new one without a link is concepts alone: between the two, the little
that a linked entity's vector says of its concepts is heard through the noise of the rest. So who has no link is compared by
concepts with everybody's concepts. On books, new entities with concepts alone find twice as many of their like this way
(Figure 6, HC-Sim MAP@10 .149 -> .309; tf-idf .287).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hasp import HASPData
from hasp.graph import Graph
from hasp.schema import EdgeType
from hasp_models.data.neighbors import EmbeddingScorer, Score
from hasp_models.infer import embed_all
from hasp_models.semantic_gnn import SemanticGNN

__all__ = ["TwoViews", "concept_view", "concept_view_of_parts", "knows_cold", "linked"]


def concept_view(model: SemanticGNN, graph: Graph, links: Sequence[EdgeType], entity: str) -> Tensor:
    """Embed every entity as if it were new and had no link: ``[N, dim]``.

    Args:
        model: trained with entities made cold (:class:`hasp_models.NeighborSoftmax`), so that it knows such ones.
        graph: as the model sees it, links in tiers where it knows tiers.
        links: the link types of that graph.
        entity: the node type whose vectors are asked for.
    """
    edges = {e: (ends[0][:0], ends[1][:0]) if e in links else ends for e, ends in graph.edges.items()}
    return embed_all(model, replace(graph, edges=edges, edge_attrs={}), free=False)[entity]


def concept_view_of_parts(model: SemanticGNN, parts: HASPData, entity: str) -> Tensor | None:
    """:func:`concept_view`, a part at a time: with one layer an entity hears its own concepts, and a part has all of them.

    ``None`` where a part does not tell: with more layers concepts hear from the entities of all parts, of a sampled type a part
    holds a sample, and of another entity type it holds some.
    """
    if len(model.layers) > 1 or parts.roles.sampled or len(parts.roles.entity) > 1:
        return None
    rows = []
    for part in (parts[p] for p in range(parts.num_parts)):
        counts = {t: int(part[t].num_nodes) for t in part.node_types}
        edges = {e: tuple(part[e].edge_index) for e in part.edge_types if e in model.edge_types}
        features = {t: {"x": part[t].x} for t in part.node_types if "x" in part[t]}
        rows.append(concept_view(model, Graph(counts, edges, features), parts.roles.eel, entity))
    return parts.scatter_back(entity, rows)


def knows_cold(run: Mapping[str, Any]) -> bool:
    """Whether a run (its ``run.json``) was trained with entities made cold: only such a model is asked by concepts alone."""
    return str(run.get("settings", {}).get("objective", "")).startswith("NeighborSoftmax")


def linked(graph: Graph, links: Sequence[EdgeType], entity: str) -> npt.NDArray[np.bool_]:
    """Which entities hear from a link, bool ``[N]``."""
    found = np.zeros(graph.num_nodes[entity], dtype=np.bool_)
    for edge_type in links:
        if edge_type in graph.edges and edge_type[2] == entity:
            found[graph.edges[edge_type][1].numpy()] = True
    return found


class TwoViews:
    """Scores entities with links by their vectors, and entities without by what concepts alone say; a ``Scorer``.

    Args:
        vectors: ``[N, d]``.
        alone: ``[N, d]``, of :func:`concept_view`.
        linked: bool ``[N]``: who is asked for by ``vectors``.
        score: see :class:`hasp_models.data.neighbors.EmbeddingScorer`.
    """

    def __init__(self, vectors: Tensor, alone: Tensor, linked: Any, score: Score = "cosine") -> None:
        self.linked = np.asarray(linked, dtype=np.bool_)
        self.num_items = vectors.size(0)
        self._views = EmbeddingScorer(vectors, score), EmbeddingScorer(alone, score)

    def scores(self, queries: npt.NDArray[np.int64]) -> Tensor:
        """Float32 ``[len(queries), N]``."""
        ids = np.asarray(queries)
        out = torch.empty((ids.size, self.num_items))
        for view, mine in zip(self._views, (self.linked[ids], ~self.linked[ids]), strict=True):
            if mine.any():
                out[torch.from_numpy(mine)] = view.scores(ids[mine])
        return out
