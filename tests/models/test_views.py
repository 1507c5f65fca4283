"""Views: a known entity by concepts alone is what a new one with the same concepts would be; who is asked for by which."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hasp import HASPData, Schema
from hasp.graph import Graph
from hasp_models.data.neighbors import EmbeddingScorer, Scorer
from hasp_models.infer import embed_all
from hasp_models.semantic_gnn import SemanticGNN
from hasp_models.views import TwoViews, concept_view, concept_view_of_parts, linked

LIKE, HAS, HELD = ("title", "like", "title"), ("title", "has", "genre"), ("genre", "rev_has", "title")


def graph_of(titles: int, like: Any, has: Any) -> Graph:
    a, b = (torch.tensor(x, dtype=torch.int64).reshape(-1, 2).T for x in (like, has))
    return Graph({"title": titles, "genre": 3}, {LIKE: (a[0], a[1]), HAS: (b[0], b[1]), HELD: (b[1], b[0])})


@pytest.mark.parametrize("layers", [1, 2])
@given(
    like=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=8),
    has=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=8),
)
def test_by_concepts_alone_everybody_is_a_new_entity_without_links(layers: int, like: Any, has: Any) -> None:
    torch.manual_seed(0)
    model = SemanticGNN((["title", "genre"], [LIKE, HAS, HELD]), dim=6, layers=layers, embed={"genre": 3}, free={"title": 4})
    alone = concept_view(model, graph_of(4, like, has), [LIKE], "title")
    # The same titles once more behind the known ones, without links, and the known ones without anything.
    later = embed_all(model, graph_of(8, [], [(t + 4, g) for t, g in has]))["title"][4:]
    torch.testing.assert_close(alone, later, rtol=1e-5, atol=1e-6)


def test_parts_that_do_not_tell_give_no_view() -> None:
    graph = graph_of(8, [(i, (i + 1) % 8) for i in range(8)], [(i, i % 3) for i in range(8)])
    model = SemanticGNN((["title", "genre"], [LIKE, HAS, HELD]), dim=6, layers=1, embed={"genre": 3}, free={"title": 8})
    whole = concept_view(model, graph, [LIKE], "title")
    for schema, known in ((Schema(entity="title"), True), (Schema(entity="title", sample={"genre": 1}), False)):
        found = concept_view_of_parts(model, HASPData(graph, schema, num_parts=2, log=False), "title")
        assert (found is not None) == known
        if found is not None:
            torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-6)


def test_who_hears_from_a_link() -> None:
    graph = graph_of(4, [(0, 1), (1, 2)], [])
    assert linked(graph, [LIKE], "title").tolist() == [False, True, True, False]
    assert not linked(graph, [], "title").any()


@pytest.mark.parametrize("score", ["cosine", "dot", "l2"])
def test_each_query_is_scored_in_its_view(score: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors, alone = (torch.randn(7, 3, generator=generator) for _ in range(2))
    mask = np.array([True, False, True, True, False, True, False])
    views = TwoViews(vectors, alone, mask, score)
    assert isinstance(views, Scorer) and views.num_items == 7
    scores = views.scores(np.array([6, 0, 1, 5]))
    want = [
        EmbeddingScorer(table, score).scores(np.array([q]))[0]
        for table, q in ((alone, 6), (vectors, 0), (alone, 1), (vectors, 5))
    ]
    torch.testing.assert_close(scores, torch.stack(want))
    assert views.scores(np.array([], dtype=np.int64)).shape == (0, 7)
