"""Baselines against dense references on a small planted catalogue."""

import numpy as np
import pytest
import torch

from hasp.errors import HaspError
from hasp.graph import Graph
from hasp_models.data import baselines, splits
from hasp_models.data.baselines import BASELINES
from hasp_models.data.benchmark import make_benchmark
from hasp_models.data.evaluate import evaluate
from hasp_models.data.neighbors import Scorer
from hasp_models.data.splits import LinkRule

N, CLUSTERS = 40, 5
LINK = ("title", "co_engaged", "title")


@pytest.fixture(scope="module")
def benchmark():
    """Users shelve within a cluster; entity 39 has no user and one concept no entity."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(600), 5)
    items = (rng.integers(0, CLUSTERS, 600).repeat(5) + CLUSTERS * rng.integers(0, N // CLUSTERS, users.size)) % N
    users, items = users[items != 39], items[items != 39]
    graph = Graph(
        {"title": N, "genre": 6, "mood": 3},
        {
            LINK: (torch.empty(0, dtype=torch.long),) * 2,
            ("title", "has", "genre"): (torch.arange(N), torch.arange(N) % CLUSTERS),
            ("title", "feels", "mood"): (torch.arange(0, N, 2), torch.arange(0, N, 2) % 3),
            ("genre", "rev_has", "title"): (torch.arange(N) % CLUSTERS, torch.arange(N)),
        },
    )
    curated = np.array([(a, b) for a in range(N) for b in range(a + 1, N) if b - a == CLUSTERS and a % 2 == 0])
    rule = LinkRule(3, 0.1, 1.0, 3)
    return make_benchmark(graph, users, items, splits.split_users(users, 0), curated=curated, rule=rule, raw_queries=9)


def dense(benchmark):
    users = np.unique(benchmark.users, return_inverse=True)[1]
    matrix = np.zeros((users.max() + 1, N))
    matrix[users, benchmark.items] = 1
    return matrix


def unit(rows):
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0)


def content(benchmark):
    table = np.zeros((N, 9))
    for item in range(N):
        table[item, item % CLUSTERS] = np.log(N / (N // CLUSTERS))
        if item % 2 == 0:
            table[item, 6 + item % 3] = np.log(N / sum(i % 3 == item % 3 for i in range(0, N, 2)))
    return unit(table)


def reference(name, benchmark):
    matrix, fans = dense(benchmark), dense(benchmark).sum(0)
    near = unit(matrix.T) @ unit(matrix.T).T
    linked = np.zeros((N, N))
    linked[benchmark.links.rows(), benchmark.links.indices] = 1
    if name == "popularity":
        return np.tile(fans, (N, 1))
    if name == "cosine":
        return near
    if name == "cosine_shrunk":
        both = matrix.T @ matrix
        return near * both / np.maximum(both + 5, 1)
    if name == "cosine_links":
        return near * linked
    if name == "tf_idf":
        return content(benchmark) @ content(benchmark).T
    if name == "tf_idf_smoothed":
        mean = np.divide(
            linked, linked.sum(1, keepdims=True), out=np.zeros_like(linked), where=linked.sum(1, keepdims=True) > 0
        )
        rows = unit(content(benchmark) + mean @ content(benchmark))
        return rows @ rows.T
    if name == "ease":
        inverse = np.linalg.inv(matrix.T @ matrix + 100 * np.eye(N))
        weights = -inverse / np.diag(inverse)
        np.fill_diagonal(weights, 0)
        weights[fans == 0] = weights[:, fans == 0] = 0
        return weights
    _, _, right = np.linalg.svd(matrix)
    rows = unit(right[:8].T)
    return rows @ rows.T


@pytest.mark.parametrize(
    "name", ["popularity", "cosine", "cosine_shrunk", "cosine_links", "tf_idf", "tf_idf_smoothed", "ease", "pure_svd"]
)
def test_equals_a_dense_reference(benchmark, name):
    options = {"pure_svd": {"dim": 8}, "cosine_shrunk": {"shrink": 5}}.get(name, {})
    scorer = BASELINES[name.removesuffix("_shrunk")](benchmark, **options)
    want = reference(name, benchmark)
    skip = benchmark.popularity == 0 if name == "pure_svd" else np.zeros(N, dtype=bool)  # a zero vector has no direction
    for queries in (np.arange(N), np.array([7]), np.array([3, 3, 0])):
        got = scorer.scores(queries).numpy()
        assert got.dtype == np.float32 and got.shape == (queries.size, N)
        keep = np.ix_(~skip[queries], ~skip)
        np.testing.assert_allclose(got[keep], want[queries][keep], atol=1e-5)
    assert isinstance(scorer, Scorer) and scorer.num_items == N


@pytest.mark.parametrize("name", ["cosine", "ease", "pure_svd", "tf_idf", "tf_idf_smoothed", "blend"])
def test_what_was_planted_is_found(benchmark, name):
    chance = evaluate(BASELINES["random"](benchmark), benchmark.test["co_sim"]).mean()
    options = {"dim": 8} if name == "pure_svd" else {}
    assert evaluate(BASELINES[name](benchmark, **options), benchmark.test["co_sim"]).mean() > 2 * chance


def test_ease_leaves_out_the_least_popular(benchmark):
    scorer = baselines.ease(benchmark, max_items=10)
    kept = np.sort(np.lexsort((np.arange(N), -benchmark.popularity))[:10])
    np.testing.assert_array_equal(scorer.items, kept)
    assert not scorer.scores(np.arange(N))[:, np.setdiff1d(np.arange(N), kept)].any()


def test_the_blend_chooses_on_validation_alone(benchmark):
    weights = (0.0, 0.5, 5.0)
    chosen = baselines.blend(benchmark, weights=weights, truth="hc")
    tries = [baselines.BlendScorer(chosen.first, chosen.second, w) for w in weights]
    means = [evaluate(s, benchmark.validation["hc"]).mean() for s in tries]
    assert chosen.weight == weights[int(np.argmax(means))]
    with pytest.raises(HaspError, match="choose a validation truth"):
        baselines.blend(benchmark, truth="co_sim_raw")


def test_random_depends_on_seed_and_query_only(benchmark):
    scorer = baselines.random(benchmark)
    whole = scorer.scores(np.arange(N))
    assert torch.equal(whole[5:6], scorer.scores(np.array([5]))) and not torch.equal(whole[5], whole[6])
    other = baselines.RandomScorer(N, seed=1).scores(np.arange(N))
    assert not torch.equal(whole, other) and float(whole.min()) >= 0 and float(whole.max()) <= 1
