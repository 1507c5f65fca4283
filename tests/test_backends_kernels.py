"""The kernels of the partitioners equal their naive twins on any weighted graph."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive import coarsen as slow_coarsen
from naive import refine as slow_refine
from naive import stream as slow_stream

from hasp.backends import level
from hasp.kernels import coarsen, refine, stream


@st.composite
def graphs(draw, num_parts=4):
    """(indptr, indices, edge weights or none, node weights or none), rows unsorted, and parts with their loads."""
    n = draw(st.integers(2, 14))
    pairs = draw(st.sets(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda p: p[0] < p[1]), max_size=40))
    weights = {p: draw(st.integers(1, 4)) for p in sorted(pairs)} if draw(st.booleans()) else None
    entries = [(u, v) for u, v in pairs] + [(v, u) for u, v in pairs]
    random = np.random.default_rng(draw(st.integers(0, 9)))
    entries = [entries[i] for i in random.permutation(len(entries))]
    entries.sort(key=lambda e: e[0])
    indptr = np.concatenate([[0], np.cumsum([sum(e[0] == v for e in entries) for v in range(n)])]).astype(np.int64)
    indices = np.array([v for _, v in entries], draw(st.sampled_from([np.int32, np.int64])))
    edge = np.array([weights[min(e), max(e)] for e in entries] if weights else [], np.int64)
    node = random.integers(0, 4, n) if draw(st.booleans()) else np.zeros(0, np.int64)
    part = random.integers(0, num_parts, n).astype(np.int32)
    return (indptr, indices, edge, node), part, random


def clusters_of(graph, random):
    n = graph[0].size - 1
    cluster = random.integers(0, n, n).astype(np.int32)
    weight = np.bincount(cluster, graph[3] if graph[3].size else None, n).astype(np.int64)
    guide = random.integers(0, 2, n).astype(np.int32) if random.random() < 0.5 else np.zeros(0, np.int32)
    return cluster, weight, guide


def loads(graph, part, num_parts=4):
    return np.bincount(part, graph[3] if graph[3].size else None, num_parts).astype(np.int64)


def same(ours, theirs):
    assert np.array_equal(np.asarray(ours), np.asarray(theirs)), (ours, theirs)


@given(graphs(), st.integers(1, 12), st.integers(0, 2**32 - 1), st.data())
def test_proposals_of_clusters(case, most, salt, draws):
    graph, _, random = case
    n = graph[0].size - 1
    cluster, weight, guide = clusters_of(graph, random)
    low = draws.draw(st.integers(0, n))
    high = draws.draw(st.integers(low, n))
    wanted = np.full(high - low, -7, np.int32)
    coarsen.propose_neighbours(*graph, guide, cluster, weight, most, salt, low, high, wanted)
    same(wanted, slow_coarsen.propose_neighbours(graph, guide, cluster, weight, most, salt, low, high))
    active = random.random(n) < 0.8
    coarsen.propose_clusters(*graph, guide, cluster, weight, most, salt, active, low, high, wanted)
    same(wanted, slow_coarsen.propose_clusters(graph, guide, cluster, weight, most, salt, active, low, high))
    coarsen.favourites(*graph, guide, cluster, weight, salt, low, high, wanted)
    same(wanted, slow_coarsen.favourites(graph, guide, cluster, weight, salt, low, high))


@given(graphs(), st.integers(1, 12), st.booleans())
def test_commits_of_clusters(case, most, pin):
    graph, _, random = case
    n = graph[0].size - 1
    cluster, weight, _ = clusters_of(graph, random)
    first = int(random.integers(0, n))
    wanted = random.integers(0, n, n - first).astype(np.int32)
    active = random.random(n) < 0.5
    ours, theirs = (cluster.copy(), weight.copy(), active.copy()), (cluster.copy(), weight.copy(), active.copy())
    moved = coarsen.commit_clusters(wanted, first, graph[0], graph[1], graph[3], most, pin, *ours)
    assert moved == slow_coarsen.commit_clusters(wanted, first, graph, most, pin, *theirs)
    for a, b in zip(ours, theirs, strict=True):
        same(a, b)
    favourite = random.integers(-1, n, n).astype(np.int32)
    joined = coarsen.join_pairs(favourite, graph[3], most, *ours[:2])
    assert joined == slow_coarsen.join_pairs(favourite, graph, most, *theirs[:2])
    same(ours[0], theirs[0])


@given(graphs(), st.integers(1, 6))
def test_contraction_adds_up(case, count):
    graph, _, random = case
    n = graph[0].size - 1
    cluster = random.integers(0, count, n).astype(np.int32)
    start, order = np.zeros(count + 1, np.int64), np.empty(n, np.int32)
    coarsen.group(cluster, start, order)
    same(order, sorted(range(n), key=lambda v: (cluster[v], v)))
    expected = slow_coarsen.contract(graph, cluster, count)
    middle = count // 2
    found = []
    for low, high in ((0, middle), (middle, count)):
        index, weight, degree = (
            np.empty(graph[1].size, np.int32),
            np.empty(graph[1].size, np.int64),
            np.empty(high - low, np.int64),
        )
        used = coarsen.contract(*graph[:3], cluster, order, start, low, high, index, weight, degree)
        assert used == degree.sum()
        for at, many in zip(np.cumsum(degree) - degree, degree, strict=True):
            found.append(dict(zip(index[at : at + many].tolist(), weight[at : at + many].tolist(), strict=True)))
    assert found == expected


@given(graphs(), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_a_sparse_sample_is_symmetric(case, tau, salt):
    graph, _, _ = case
    if not graph[2].size:
        return
    n = graph[0].size - 1
    index, weight, degree = np.zeros(graph[1].size, np.int32), np.zeros(graph[1].size, np.int64), np.zeros(n, np.int64)
    used = coarsen.sparsify(*graph[:3], tau, salt, index, weight, degree)
    row = np.repeat(np.arange(n), degree)
    kept = list(zip(row.tolist(), index[:used].tolist(), weight[:used].tolist(), strict=True))
    assert kept == slow_coarsen.sparsify(graph, tau, salt)
    assert {(u, v, w) for v, u, w in kept} == set(kept)


@given(graphs(), st.integers(1, 30), st.data())
def test_rounds_of_moves_never_raise_the_cut(case, most, draws):
    graph, part, random = case
    n = graph[0].size - 1
    load = loads(graph, part)
    active = random.random(n) < 0.8
    low = draws.draw(st.integers(0, n))
    wanted = np.full(n - low, -7, np.int32)
    refine.propose_moves(*graph, part, load, most, active, low, n, wanted)
    same(wanted, slow_refine.propose_moves(graph, part, load, most, active, low, n))
    ours, theirs = (part.copy(), load.copy(), active.copy()), (part.copy(), load.copy(), active.copy())
    fell = refine.commit_moves(wanted, low, *graph, most, *ours)
    assert fell == slow_refine.commit_moves(wanted, low, graph, most, *theirs) >= 0
    for a, b in zip(ours, theirs, strict=True):
        same(a, b)
    same(ours[1], slow_refine.loads(graph, ours[0], 4))
    mark = np.empty(n, np.bool_)
    assert 2 * slow_refine.cut(graph, part) == refine.boundary(*graph[:3], part, 0, n, mark)
    same(mark, [any(part[u] != part[v] for u, _ in slow_coarsen.row(graph, v)) for v in range(n)])


@given(graphs(), st.integers(1, 30), st.integers(1, 6), st.integers(1, 8))
def test_local_search_never_raises_the_cut(case, most, patience, look):
    graph, part, random = case
    order = random.permutation(part.size).astype(np.int32)
    ours, theirs = (part.copy(), loads(graph, part)), (part.copy(), loads(graph, part))
    fell, seen = refine.search(*graph, most, order, patience, look, 10**9, *ours)
    assert fell == slow_refine.search(graph, most, order, patience, look, *theirs) >= 0
    assert seen == order.size
    same(ours[0], theirs[0])
    same(ours[1], theirs[1])
    assert refine.search(*graph, most, order, patience, look, -1, *ours) == (0, 0)


@given(graphs(), st.integers(0, 60))
def test_local_search_stops_between_two_nodes_when_its_budget_is_spent(case, budget):
    graph, part, random = case
    order = random.permutation(part.size).astype(np.int32)
    most = int(loads(graph, part).max())
    ours, theirs = (part.copy(), loads(graph, part)), (part.copy(), loads(graph, part))
    fell, seen = refine.search(*graph, most, order, 5, 8, budget, *ours)
    assert seen <= order.size
    assert fell == slow_refine.search(graph, most, order[:seen], 5, 8, *theirs)
    same(ours[0], theirs[0])


@given(graphs(), st.integers(1, 30))
def test_rebalance(case, most):
    graph, part, random = case
    order = random.permutation(part.size).astype(np.int32)
    ours, theirs = (part.copy(), loads(graph, part)), (part.copy(), loads(graph, part))
    refine.rebalance(*graph, most, order, *ours)
    slow_refine.rebalance(graph, most, order, *theirs)
    same(ours[0], theirs[0])
    same(ours[1], theirs[1])


@given(graphs(), st.integers(1, 30), st.sampled_from([0.0, 0.3, 2.0]), st.booleans())
def test_a_pass_of_the_stream(case, most, alpha, held):
    graph, part, random = case
    part = np.where(random.random(part.size) < 0.3, -1, part).astype(np.int32)
    known = part >= 0
    load = np.bincount(part[known], graph[3][known] if graph[3].size else None, 4).astype(np.int64)
    fixed = known & (random.random(part.size) < 0.5) if held else np.zeros(0, np.bool_)
    ours, theirs = (part.copy(), load.copy()), (part.copy(), load.copy())
    moved = stream.stream_pass(*graph, fixed, alpha, most, *ours)
    assert moved == slow_stream.stream_pass(graph, fixed, alpha, most, *theirs)
    same(ours[0], theirs[0])
    same(ours[1], theirs[1])


@pytest.mark.parametrize(
    ("side", "weight", "narrowest"),
    [(20, 0, np.int16), (200, 0, np.int32), (9, 1 << 28, np.int64), (9, 100, np.int16), (20, 1 << 31, np.int64)],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_contracted_graph_has_narrow_weights_that_hold_every_sum(side, weight, narrowest, threads):
    """Three clusters, each node joined with all of the other clusters; 0: edges of weight 1."""
    cluster = np.repeat(np.arange(3, dtype=np.int32), side)[np.random.default_rng(0).permutation(3 * side)]
    row, column = np.nonzero(cluster[:, None] != cluster[None, :])
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=3 * side))])
    weights = np.full(column.size if weight else 0, weight, dtype=np.int64)
    with level.Crew(threads) as crew:
        found = level._contract(level.Level(indptr, column, weights, np.zeros(0, np.int64)), cluster, 3, crew)
    assert found.indptr.tolist() == [0, 2, 4, 6] and found.node_weight.tolist() == [side] * 3
    assert [sorted(found.indices[i : i + 2].tolist()) for i in (0, 2, 4)] == [[1, 2], [0, 2], [0, 1]]
    assert found.edge_weight.tolist() == [side * side * (weight or 1)] * 6 and found.edge_weight.dtype == narrowest
    assert found.indices.size == found.edge_weight.size == 6
