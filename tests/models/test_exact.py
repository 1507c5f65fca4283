"""ExactSimilarity against its formula in loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hasp.errors import HaspError
from hasp.graph import Graph
from hasp_models.exact import ExactSimilarity

CO, WEAK, HAS = ("title", "co", "title"), ("title", "weak", "title"), ("title", "has", "genre")
COUNT, GENRES = 6, 3
PAIRS = st.lists(st.tuples(st.integers(0, COUNT - 1), st.integers(0, COUNT - 1), st.floats(0.1, 1.0)), max_size=10)
TOLD = st.sets(st.tuples(st.integers(0, COUNT - 1), st.integers(0, GENRES - 1)), max_size=10)
WEIGHTS = st.sampled_from([0.0, 0.5, 2.0])


def graph(co: list, weak: list, told: set) -> Graph:
    edges, attrs = {}, {}
    for edge_type, pairs in ((CO, co), (WEAK, weak)):
        index = torch.tensor([p[:2] for p in pairs], dtype=torch.int64).reshape(-1, 2)
        edges[edge_type] = (index[:, 0], index[:, 1])
        attrs[edge_type] = {"weight": torch.tensor([p[2] for p in pairs], dtype=torch.float32)}
    has = torch.tensor(sorted(told), dtype=torch.int64).reshape(-1, 2)
    edges[HAS] = (has[:, 0], has[:, 1])
    return Graph({"title": COUNT, "genre": GENRES}, edges, edge_attrs=attrs)


def cosine(a: list[float], b: list[float]) -> float:
    long = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / long if long else 0.0


def slow(co: list, weak: list, told: set, direct: float, shared: float, content: float, power: float, own: float) -> list:
    w = [[0.0] * COUNT for _ in range(COUNT)]
    u = [[0.0] * COUNT for _ in range(COUNT)]
    for a, b, x in [*co, *weak]:
        if a != b:
            w[b][a] += x
            u[b][a] += x**power
    for i in range(COUNT):
        u[i][i] = own if any(u[i]) else 0.0
    often = [sum(g == h for _, h in told) for g in range(GENRES)]
    t = [[math.log(COUNT / often[g]) if (i, g) in told else 0.0 for g in range(GENRES)] for i in range(COUNT)]
    each = range(COUNT)
    return [
        [(direct * w[i][j] + shared * cosine(u[i], u[j]) + content * cosine(t[i], t[j])) / (shared + content) for j in each]
        for i in each
    ]


@settings(deadline=None)
@given(PAIRS, PAIRS, TOLD, WEIGHTS, WEIGHTS, st.sampled_from([0.3, 1.0]), st.sampled_from([1.0, 2.0]), WEIGHTS)
@example([(0, 1, 0.5)], [], set(), 2.0, 0.0, 0.3, 1.0, 0.0)  # links alone say something
def test_the_formula(
    co: list, weak: list, told: set, direct: float, shared: float, content: float, power: float, own: float
) -> None:
    options = {"direct": direct, "shared": shared, "content": content, "power": power, "own": own}
    exact = ExactSimilarity.of(graph(co, weak, told), [CO, WEAK], **options)
    queries, ids = torch.tensor([4, 0, 2]), torch.tensor([5, 4, 1, 0, 2])
    wanted = np.array(slow(co, weak, told, **options))[queries.numpy()][:, ids.numpy()]
    found = exact.scores(queries, ids)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-5)
    everyone = torch.arange(COUNT)
    silent = ~exact.known(everyone)
    assert bool((exact.scores(everyone, everyone)[silent] == 0).all())


def test_an_entity_without_links_is_as_near_by_its_concepts_as_one_with_them() -> None:
    both = graph([(0, 1, 0.9), (1, 0, 0.9)], [], {(0, 0), (2, 0), (3, 0), (4, 1)})
    found = ExactSimilarity.of(both, [CO, WEAK]).scores(torch.tensor([3]), torch.tensor([0, 2]))[0]
    assert float(found[0]) == pytest.approx(float(found[1])) and float(found[0]) > 0


def test_links_without_weights_weigh_one() -> None:
    plain = graph([(0, 1, 0.5)], [], set())
    exact = ExactSimilarity.of(Graph(plain.num_nodes, plain.edges), [CO], shared=0.0, content=1.0)
    assert float(exact.scores(torch.tensor([1]), torch.tensor([0]))[0, 0]) == 1.0
    assert float(exact.scores(torch.tensor([0]), torch.tensor([1]))[0, 0]) == 0.0  # only 1 hears


def test_bad_input() -> None:
    some = graph([(0, 1, 0.5)], [(1, 2, -0.5)], {(0, 0)})
    for links in ([], [HAS], [("title", "other", "title")]):
        with pytest.raises(HaspError, match="name its link types"):
            ExactSimilarity.of(some, links)
    with pytest.raises(HaspError, match=r"weights of links are 0 or more, got -0\.5"):
        ExactSimilarity.of(some, [CO, WEAK])
    for wrong in ({"direct": -1.0}, {"shared": 0.0, "content": 0.0}, {"power": math.nan}):
        with pytest.raises(HaspError, match="0 or more"):
            ExactSimilarity.of(some, [CO], **wrong)
