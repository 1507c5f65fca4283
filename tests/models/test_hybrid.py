"""Hybrid search: cosines plus exact similarities, from the library and as a method of the experiments."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hasp.errors import HaspError
from hasp.graph import Graph
from hasp_models.data.benchmark import Benchmark
from hasp_models.data.neighbors import EmbeddingScorer
from hasp_models.exact import ExactSimilarity
from hasp_models.experiments.hybrid import HYBRID, fit_hybrid
from hasp_models.experiments.methods import METHODS
from hasp_models.hybrid import HybridScorer, exact_of

LIKE, HAS, MADE = ("title", "like", "title"), ("title", "has", "genre"), ("title", "by", "maker")
TITLES = 5
PAIRS = st.lists(st.tuples(st.integers(0, TITLES - 1), st.integers(0, TITLES - 1)), max_size=8, unique=True)
TOLD = st.lists(st.tuples(st.integers(0, TITLES - 1), st.integers(0, 2)), max_size=8, unique=True)


def graph_of(like: Any, has: Any) -> Graph:
    a, b = (torch.tensor(x, dtype=torch.int64).reshape(-1, 2).T for x in (like, has))
    return Graph({"title": TITLES, "genre": 3, "maker": 1}, {LIKE: (a[0], a[1]), HAS: (b[0], b[1]), MADE: (b[0], b[1] * 0)})


@given(PAIRS, TOLD, st.sampled_from([0.0, 0.5, 3.0]), st.integers(0, 99))
def test_scores_are_cosines_plus_weighted_exact_similarities(like: Any, has: Any, weight: float, seed: int) -> None:
    vectors = torch.randn(TITLES, 4, generator=torch.Generator().manual_seed(seed))
    exact = ExactSimilarity.of(graph_of(like, has), [LIKE])
    scorer = HybridScorer(EmbeddingScorer(vectors), exact, weight)
    queries, everyone = np.array([3, 0]), torch.arange(TITLES)
    unit = torch.nn.functional.normalize(vectors, dim=1)
    wanted = unit[queries] @ unit.T + weight * exact.scores(torch.from_numpy(queries), everyone)
    torch.testing.assert_close(scorer.scores(queries), wanted, rtol=1e-5, atol=1e-6)
    assert scorer.num_items == TITLES


@given(PAIRS, TOLD)
def test_links_may_stand_in_one_direction(like: Any, has: Any) -> None:
    one = [(a, b) for a, b in like if a <= b]
    both = one + [(b, a) for a, b in one if a != b]
    found = [exact_of(graph_of(links, has), [LIKE, MADE], "title") for links in (one, both)]
    everyone = torch.arange(TITLES)
    first, second = (e.scores(everyone, everyone) for e in found)
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(first, first.T)


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_a_weight_is_a_number_from_0_on(weight: float) -> None:
    exact = ExactSimilarity.of(graph_of([(0, 1)], []), [LIKE])
    with pytest.raises(HaspError, match="exact similarities is 0 or more"):
        HybridScorer(EmbeddingScorer(torch.ones(TITLES, 2)), exact, weight)
    with pytest.raises(HaspError, match="take both from one graph"):
        HybridScorer(EmbeddingScorer(torch.ones(TITLES + 1, 2)), exact, 0.5)


def test_without_links_among_the_entities_there_is_nothing_to_add() -> None:
    with pytest.raises(HaspError, match=r"links from 'title' to 'title', but the links are .* leave hybrid out"):
        exact_of(graph_of([], [(0, 1)]), [HAS], "title")


def test_each_entity_is_asked_for_once() -> None:
    exact = ExactSimilarity.of(graph_of([(0, 1)], []), [LIKE])
    with pytest.raises(HaspError, match="each entity is asked for once"):
        exact.against(torch.tensor([2, 1, 2]))


@pytest.mark.usefixtures("tiny")
def test_the_method_adds_exact_similarities_to_the_trained_model(benchmark: Benchmark) -> None:
    settings = METHODS["semantic_hybrid"].settings({"hybrid": 0.7}, quick=True)
    own = {k: v for k, v in settings.items() if not k.startswith("hybrid")}
    plain, queries = METHODS["semantic_gnn"].run(benchmark, own, 0, True), np.arange(9)
    exact = ExactSimilarity.of(benchmark.graph, benchmark.link_types).against(None)(torch.arange(9))
    assert benchmark.weak is not None and settings["hybrid_links"] != benchmark.weak.top
    alone = METHODS["exact"].fit(benchmark, {"links": benchmark.weak.top})
    torch.testing.assert_close(alone.scorer.scores(queries), exact)
    same = fit_hybrid(benchmark, {**settings, "hybrid_links": benchmark.weak.top}, 0)
    torch.testing.assert_close(same.scorer.scores(queries), plain.scorer.scores(queries) + 0.7 * exact)
    assert same.scorer_of is not None
    torch.testing.assert_close(same.scorer_of(benchmark.graph).scores(queries), same.scorer.scores(queries))
    # More weak links for the sparse side: the vectors stay, some pairs come nearer.
    wide = fit_hybrid(benchmark, {**settings, "hybrid_links": 40}, 0)
    nearer = wide.scorer.scores(queries) - same.scorer.scores(queries)
    assert float(nearer.abs().max()) > 0.01
    assert same.embed is not None and wide.embed is not None
    assert torch.equal(wide.embed(benchmark.graph), same.embed(benchmark.graph))
    none = fit_hybrid(replace(benchmark, weak=None), {**settings, "weak": False, "hybrid_links": 40}, 0)
    assert HYBRID["hybrid"] > 0 and none.scorer.scores(queries).isfinite().all()
