"""Splits: no user on two sides, links and truths against loops over sets, and the taint test."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hasp.errors import HaspError
from hasp.graph import Graph
from hasp_models.data import splits
from hasp_models.data.baselines import BASELINES
from hasp_models.data.benchmark import make_benchmark
from hasp_models.data.catalogues import load_benchmark
from hasp_models.data.csr import CSR
from hasp_models.data.splits import GRAPH, TEST, VALIDATION, LinkRule

N = 7
LINK = ("title", "co_engaged", "title")
ENGAGEMENTS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, N - 1)), min_size=1, max_size=120)


def columns(rows):
    return np.array([r[0] for r in rows]), np.array([r[1] for r in rows])


def naive_nearest(users, items, top, min_count, min_cosine, min_lift):
    """Directed pairs, by sets of users and one sort per entity."""
    fans = [{u for u, i in zip(users, items, strict=True) if i == item} for item in range(N)]
    everyone, found = len(set(users)), set()
    for a in range(N):
        ranked = []
        for b in range(N):
            shared = len(fans[a] & fans[b])
            if a == b or shared < min_count:
                continue
            cosine = shared / math.sqrt(len(fans[a]) * len(fans[b]))
            if cosine >= min_cosine and shared * everyone >= min_lift * len(fans[a]) * len(fans[b]):
                ranked.append((-cosine, b))
        found |= {(a, b) for _, b in sorted(ranked)[:top]}
    return found


@given(ENGAGEMENTS, st.integers(1, 3), st.integers(1, 3), st.sampled_from([0.0, 0.3]), st.sampled_from([0.0, 1.0]))
@settings(max_examples=100, deadline=None)
def test_links_and_truth_equal_sets(rows, top, count, cosine, lift):
    users, items = columns(rows)
    want = naive_nearest(users.tolist(), items.tolist(), top, count, cosine, lift)
    got = splits.co_engagement(users, items, N, LinkRule(count, cosine, lift, top))
    assert got.tolist() == sorted([a, b] for a, b in {(min(p), max(p)) for p in want})
    truth = splits.co_sim(users, items, N, top=top, min_count=count)
    assert {(r, i) for r in range(N) for i in truth.row(r).tolist()} == naive_nearest(users, items, top, count, 0, 0)
    queries = np.array([3, 0])
    raw = splits.co_sim_raw(users, items, N, queries)
    for place, query in enumerate(queries.tolist()):
        fans = {u for u, i in rows if i == query}
        assert set(raw.row(place).tolist()) == {i for u, i in rows if u in fans and i != query}


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=60), st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_a_users_side_depends_on_no_other_user(users, seed):
    side = splits.split_users(np.array(users), seed)
    for user, where in zip(users, side.tolist(), strict=True):
        assert splits.split_users(np.array([user]), seed).tolist() == [where]
    text = splits.split_users(np.array([str(u) for u in users]), seed)
    assert len({(u, s) for u, s in zip(users, text.tolist(), strict=True)}) == len(set(users))


def test_shares_are_near_the_fractions():
    for users in (np.arange(20_000), np.array([f"user {i}" for i in range(20_000)])):
        share = np.bincount(splits.split_users(users, 3), minlength=3) / 20_000
        np.testing.assert_allclose(share, [0.6, 0.2, 0.2], atol=0.015)
    assert (splits.split_users(np.arange(99), 0, (1, 0, 0)) == GRAPH).all()


@given(st.lists(st.integers(0, 20), min_size=1, max_size=50))
@settings(max_examples=50, deadline=None)
def test_a_split_by_time_never_looks_ahead(times):
    side = splits.split_time(np.array(times))
    for a, s in zip(times, side, strict=True):
        assert all(s <= t for b, t in zip(times, side, strict=True) if a <= b)


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), min_size=1, max_size=25), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_a_series_never_stands_on_both_sides(pairs, seed):
    held = splits.split_components(np.array(pairs), 20, seed, 0.5)
    sides = [{i for p, h in zip(pairs, held, strict=True) if h == which for i in p} for which in (True, False)]
    assert not sides[0] & sides[1]


def test_degree_groups():
    ends = [(0, b) for b in range(1, 8)] + [(1, b) for b in range(2, 5)]
    links = CSR.from_pairs([a for a, _ in ends], [b for _, b in ends], 9, symmetric=True)
    groups = splits.degree_groups(links)
    assert [np.flatnonzero(groups[g]).tolist() for g in ("group0", "group1", "group2", "cold")] == [
        [2, 3, 4, 5, 6, 7, 8],
        [1],
        [0],
        [8],
    ]


def catalogue():
    return Graph(
        {"title": N, "genre": 2},
        {LINK: (torch.tensor([0]), torch.tensor([1])), ("title", "has", "genre"): (torch.arange(N), torch.arange(N) % 2)},
    )


def training_tensors(benchmark):
    """Everything that a model or a baseline may read before the test truths are opened."""
    graph = benchmark.graph
    yield from (end for ends in graph.edges.values() for end in ends)
    yield from (value for attrs in graph.edge_attrs.values() for value in attrs.values())
    yield from (value for attrs in graph.node_attrs.values() for value in attrs.values())
    yield from map(torch.as_tensor, (benchmark.links.indptr, benchmark.links.indices))
    yield from map(torch.as_tensor, (benchmark.users, benchmark.items, benchmark.popularity))
    yield from map(torch.as_tensor, benchmark.groups.values())


def learned(name, benchmark):
    """Scores of a baseline that is fitted on engagements; its refusal where the graph users are too few."""
    try:
        return BASELINES[name](benchmark, dim=2, epochs=1, batch_size=16).scores(np.arange(N))
    except HaspError as error:
        return str(error)


def build(users, items):
    side = splits.split_users(users, 0)
    rules = {"rule": LinkRule(2, 0.0, 0.0, 1), "weak": LinkRule(1, 0.0, 0.0, 3)}
    return make_benchmark(catalogue(), users, items, side, curated=[(0, 1), (2, 3)], **rules, raw_queries=3)


@given(ENGAGEMENTS, st.integers(0, 2**32), st.sampled_from([(TEST,), (VALIDATION, TEST)]))
@settings(max_examples=60, deadline=None)
def test_taint_other_users_never_reach_training(rows, seed, tainted):
    """Other users' engagements are changed, removed and added at will: every training tensor keeps every bit."""
    rng = np.random.default_rng(seed)
    users, items = columns(rows)
    before = build(users, items)
    theirs = np.isin(splits.split_users(users, 0), tainted)
    changed = np.where(theirs, rng.integers(0, N, users.size), items)
    keep = ~theirs | (rng.random(users.size) < 0.5)
    fresh = rng.integers(0, 10**6, 40)
    fresh = fresh[np.isin(splits.split_users(fresh, 0), tainted)]
    at = np.sort(rng.integers(0, keep.sum() + 1, fresh.size))
    after = build(np.insert(users[keep], at, fresh), np.insert(changed[keep], at, rng.integers(0, N, fresh.size)))
    pairs = list(zip(training_tensors(before), training_tensors(after), strict=True))
    assert len(pairs) == 17 and all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)
    for name in ("item2vec", "lightgcn"):
        a, b = learned(name, before), learned(name, after)
        assert type(a) is type(b) and (torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b)
    if tainted == (TEST,):  # nor does a test user reach the choice of a model
        for name, truth in before.validation.items():
            np.testing.assert_array_equal(truth.rows.indices, after.validation[name].rows.indices)
            np.testing.assert_array_equal(truth.queries, after.validation[name].queries)


def test_graph_users_do_reach_training_and_test_users_the_truth():
    """The taint test would also pass if nothing reached anything."""
    users, items = np.repeat(np.arange(60), 3), np.tile(np.arange(N), 26)[:180]
    side = splits.split_users(users, 0)
    before, graph, test = build(users, items), items.copy(), items.copy()
    graph[side == GRAPH] = 0
    test[side == TEST] = 0
    assert before.links.indices.size and not build(users, graph).links.indices.size
    weak = before.link_types[1]
    assert before.graph.num_edges(weak) and not build(users, graph).graph.num_edges(weak)
    for name in ("item2vec", "lightgcn"):
        scores = learned(name, before)
        changed = items.copy()
        changed[(side == GRAPH) & (users % 2 == 0)] = 1
        assert not torch.equal(scores, learned(name, build(users, changed)))
    assert before.test["co_sim"].queries.size and not build(users, test).test["co_sim"].queries.size


def test_the_old_links_of_the_graph_are_thrown_away():
    users, items = np.zeros(2, dtype=np.int64), np.array([5, 6])
    links = make_benchmark(catalogue(), users, items, np.zeros(2, dtype=np.int8), rule=LinkRule(1, 0, 0, 3))
    source, destination = links.graph.edges[LINK]
    assert source.tolist() == [5, 6] and destination.tolist() == [6, 5]
    assert [e[0] for e in links.concepts()] == [("title", "has", "genre")]


def test_refusals(tmp_path):
    with pytest.raises(HaspError, match="three shares"):
        splits.split_users(np.arange(3), 0, (0.5, 0.6, 0.1))
    with pytest.raises(HaspError, match="integers or text"):
        splits.split_users(np.zeros(3), 0)
    with pytest.raises(HaspError, match=r"items lie in 0\.\.6"):
        splits.co_engagement([0], [N], N)
    with pytest.raises(HaspError, match="one length"):
        splits.co_engagement([0, 1], [1], N)
    with pytest.raises(HaspError, match="link rule"):
        LinkRule(min_count=0)
    with pytest.raises(HaspError, match="give recipe"):
        load_benchmark(tmp_path)
    graph = Graph({"title": 2}, {})
    with pytest.raises(HaspError, match="give link_type="):
        make_benchmark(graph, [0], [0], [0])


@given(ENGAGEMENTS, st.sampled_from([0.0, 1.0, 5.0]))
@settings(deadline=None)
def test_weights_are_cosines_shrunk_where_few_users_speak(rows, shrink):
    users, items = columns(rows)
    pairs = np.array([(a, b) for a in range(N) for b in range(N) if a != b])
    fans = [{u for u, i in zip(users, items, strict=True) if i == item} for item in range(N)]
    got = splits.pair_weight(users, items, N, pairs, shrink)
    for (a, b), weight in zip(pairs, got, strict=True):
        both = len(fans[a] & fans[b])
        want = both / math.sqrt(max(len(fans[a]) * len(fans[b]), 1)) * both / max(both + shrink, 1)
        assert weight == pytest.approx(want, rel=1e-5)
