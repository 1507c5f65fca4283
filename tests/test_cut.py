"""The cut: what is given to the partitioner, what comes back, and how good it is."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive import csr as slow

import hasp.cut
from hasp import HaspError, partition
from hasp.cut import BACKENDS, edge_cut

EVERYWHERE = ("metis", "multilevel", "stream", "auto", "random", "hash")  # need no extra and no process
CYCLE = (np.arange(13), (np.arange(12) + 1) % 12)


def csr_of(pairs, n):
    """A CSR of directed pairs, as they come."""
    pairs = sorted(pairs)
    indptr = np.cumsum([0] + [sum(u == i for u, _ in pairs) for i in range(n)])
    return indptr, np.array([v for _, v in pairs], np.int64)


def planted(num_groups, size, inside, between, seed=0):
    """Random graph with equal communities in shuffled order: (indptr, indices, labels)."""
    random = np.random.default_rng(seed)
    n = num_groups * size
    label = random.permutation(np.repeat(np.arange(num_groups), size))
    group = [np.flatnonzero(label == g) for g in range(num_groups)]
    own = random.integers(0, size, (2, n * inside))
    node = np.repeat(np.arange(n), inside)
    source, target = node, np.array(group)[label[node], own[0]]
    source = np.concatenate([source, random.integers(0, n, n * between)])
    target = np.concatenate([target, random.integers(0, n, n * between)])
    order = np.argsort(source, kind="stable")
    return np.concatenate([[0], np.cumsum(np.bincount(source, minlength=n))]), target[order], label


GRAPHS = st.integers(1, 12).flatmap(
    lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=40))
)


@given(GRAPHS, st.data(), st.sampled_from(EVERYWHERE), st.booleans())
def test_any_graph_is_cut(graph, draws, backend, weighted):
    n, pairs = graph
    num_parts = draws.draw(st.integers(1, n))
    indptr, indices = csr_of(pairs, n)
    weight = np.arange(len(pairs)) % 4 if weighted else None
    one = partition(indptr, indices, num_parts, backend=backend, edge_weight=weight, seed=3, threads=1)
    two = partition(indptr.astype(np.int32), indices.astype(np.int32), num_parts, backend=backend, edge_weight=weight, seed=3)
    assert one.dtype == np.int32 and one.shape == (n,) and one.min() >= 0 and one.max() < num_parts
    assert (one == two).all()
    if num_parts == 1:
        assert not one.any()


@given(GRAPHS, st.booleans(), st.integers(2, 4))
def test_the_partitioner_never_sees_a_bad_graph(graph, weighted, num_parts):
    n, pairs = graph
    seen = []

    def spy(task):
        seen.append((task.indptr, task.indices, task.edge_weight))
        return np.zeros(task.num_nodes, np.int32)

    indptr, indices = csr_of(pairs, n)
    weight = [(7 * i) % 5 for i in range(len(pairs))] if weighted else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKENDS, "random", spy)
        partition(indptr, indices, min(num_parts, n), backend="random", edge_weight=weight)
    linked = sorted({i for u, v in pairs if u != v for i in (u, v)})
    if not linked or min(num_parts, n) == 1:
        assert not seen
        return
    new = {i: at for at, i in enumerate(linked)}
    kept = [(new[u], new[v]) for u, v in sorted(pairs) if u != v]
    slow_indptr, slow_indices = slow.symmetric(kept, len(linked))
    ((ours_ptr, ours_idx, ours_weight),) = seen
    assert ours_ptr.tolist() == slow_indptr and ours_idx.tolist() == slow_indices
    assert (np.diff(ours_ptr) > 0).all() and (ours_ptr.dtype, ours_idx.dtype) == (np.int64, np.int32)
    if weighted:
        kept_weight = [w for w, (u, v) in zip(weight, sorted(pairs), strict=True) if u != v]
        total = slow.weights(kept, kept_weight)
        row = np.repeat(np.arange(len(linked)), np.diff(slow_indptr))
        values = np.array([total[u, v] for u, v in zip(row.tolist(), slow_indices, strict=True)])
        expected = np.clip(np.rint(values * 100 / (values.mean() or 1)), 1, 100_000)
        assert np.abs(ours_weight - expected).max() <= 1 and ours_weight.min() >= 1


def test_one_direction_is_as_good_as_both():
    """METIS answers edges in one direction with nonsense and a negative cut; here they are the same graph."""
    indptr, indices, _ = planted(4, 60, 8, 1)
    row = np.repeat(np.arange(240), np.diff(indptr))
    pairs = list(zip(row.tolist(), indices.tolist(), strict=True))
    both = csr_of([*pairs, *((v, u) for u, v in pairs)], 240)
    assert (partition(indptr, indices, 4) == partition(*both, 4)).all()


def test_nodes_without_a_neighbour_even_out_the_parts():
    """A clique of 8 and 40 isolated nodes, two with self-loops only."""
    pairs = [(u, v) for u in range(8) for v in range(8) if u != v] + [(20, 20), (21, 21)]
    labels = partition(*csr_of(pairs, 48), 6)
    assert np.bincount(labels, minlength=6).tolist() == [8] * 6


@pytest.mark.parametrize("num_parts", [1, 2, 11, 12])
def test_as_many_parts_as_nodes(num_parts):
    sizes = np.bincount(partition(*CYCLE, num_parts), minlength=num_parts)
    assert sizes.min() >= 1 and sizes.max() <= -(-12 // num_parts) + 1


def test_no_nodes():
    assert partition([0], [], 1).tolist() == [] and partition([0, 0, 0], [], 2).tolist() in ([0, 1], [1, 0])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"num_parts": 0}, r"num_parts=0 is not in 1\.\.12, the number of nodes; change num_parts"),
        ({"num_parts": 13}, r"num_parts=13 is not in 1\.\.12"),
        ({"num_parts": 2.0}, "num_parts=2.0: a whole number"),
        ({"seed": -1}, "seed=-1: 0 or more"),
        ({"indices": [99, *range(11)]}, r"indices lie in 0\.\.11, got \[99\] at \[0\]; correct them"),
        ({"indices": [-1, *range(11)]}, r"indices lie in 0\.\.11, got \[-1\] at \[0\]"),
        ({"indices": np.arange(12.0)}, "indices is one-dimensional and whole numbers, got float64"),
        ({"indptr": np.arange(26).reshape(2, 13)}, "indptr is one-dimensional and whole numbers"),
        ({"indptr": np.arange(1, 14)}, r"indptr ascends from 0 to len\(indices\)=12"),
        ({"indptr": [0, 5, 3, *range(4, 13), 12]}, "build it from sorted rows"),
        ({"indptr": []}, "indptr ascends from 0"),
        ({"backend": "magic"}, r"backend='magic' is not one of \['auto', 'hash', .*\]; choose one of these"),
        ({"imbalance": 0}, "imbalance=0.0: 0 < imbalance <= 1"),
        ({"imbalance": float("nan")}, "imbalance=nan"),
        ({"node_weight": np.ones(3, int)}, r"node_weight is 12 whole numbers >= 0, got int64 \(3,\); round and scale them"),
        ({"node_weight": np.ones(12)}, "node_weight is 12 whole numbers >= 0, got float64"),
        ({"node_weight": -np.ones(12, int)}, "node_weight is 12 whole numbers >= 0"),
        ({"node_weight": np.full(12, 2**60)}, r"node_weight adds up to at most 2\*\*53, got .*; scale it down"),
        ({"edge_weight": np.ones(5)}, r"edge_weight has one number per entry of indices \(12\), got \(5,\)"),
        ({"edge_weight": np.full(12, np.nan)}, "edge_weight is finite and >= 0, and this one is not; clean it"),
        ({"edge_weight": -np.ones(12)}, "edge_weight is finite and >= 0"),
    ],
)
def test_bad_input_never_reaches_the_partitioner(change, text, monkeypatch):
    def never(*arguments):
        raise AssertionError("the partitioner was called")

    monkeypatch.setitem(BACKENDS, "metis", never)
    arguments = {"indptr": CYCLE[0], "indices": CYCLE[1], "num_parts": 3, **change}
    with pytest.raises(HaspError, match=text):
        partition(**arguments)


@pytest.mark.parametrize("labels", [np.full(12, 3), np.full(12, -1), np.zeros(11), np.zeros(13)])
def test_bad_output_of_a_backend_is_caught(labels, monkeypatch):
    monkeypatch.setitem(BACKENDS, "metis", lambda *arguments: labels.astype(np.int32))
    with pytest.raises(HaspError, match=r"backend='metis' returned labels outside 0\.\.2 .*; use another backend"):
        partition(*CYCLE, 3)


def test_a_cut_that_does_not_match_a_recount_is_caught(monkeypatch):
    import pymetis

    monkeypatch.setattr(pymetis, "part_graph", lambda *a, **k: (-495322, np.arange(12) % 3))
    with pytest.raises(HaspError, match="METIS reports a cut of -495,322, a recount gives 12; report this graph as a bug"):
        partition(*CYCLE, 3)


def test_a_build_of_metis_that_counts_in_32_bits(monkeypatch):
    import pymetis

    monkeypatch.setattr(pymetis, "zero_copy_dtype", lambda: np.dtype(np.int8))
    indptr = np.arange(0, 401, 2)
    indices = np.stack([(np.arange(200) + 1) % 200, (np.arange(200) - 1) % 200], axis=1).ravel()
    with pytest.raises(HaspError, match="counts in int8, too small for 400 adjacency entries; install pymetis's 64-bit wheel"):
        partition(indptr, indices, 3)


@pytest.mark.parametrize("num_groups", [4, 12])
def test_planted_communities_are_found(num_groups):
    """Within 5 % of the planted cut, balanced, and far below the random baseline."""
    indptr, indices, truth = planted(num_groups, 150, 12, 2, seed=num_groups)
    clean = _clean(indptr, indices)
    cut = {b: edge_cut(*clean, partition(indptr, indices, num_groups, backend=b)) for b in EVERYWHERE}
    assert cut["metis"] <= 1.05 * edge_cut(*clean, truth.astype(np.int32))
    assert cut["random"] > 3 * cut["metis"]
    sizes = np.bincount(partition(indptr, indices, num_groups), minlength=num_groups)
    assert sizes.max() <= 1.03 * 150 + 1


def test_few_nodes_per_part_still_keep_neighbours_together():
    """With fewer than four nodes per part the order of a shuffled path is found again: 6 parts cut 5 of its edges."""
    order = np.random.default_rng(0).permutation(12).tolist()
    path = csr_of(itertools.pairwise(order), 12)
    labels = partition(*path, 6)
    assert np.bincount(labels).tolist() == [2] * 6 and edge_cut(*_clean(*path), labels) == 5


def test_edge_weights_decide_where_to_cut():
    """A path of 40 whose light edges are every tenth: exactly these are cut."""
    indptr, indices = np.array([*range(40), 39]), np.arange(1, 40)
    weight = np.where(np.arange(1, 40) % 10 == 0, 1, 50)
    labels = partition(indptr, indices, 4, edge_weight=weight)
    assert [i for i in range(1, 40) if labels[i] != labels[i - 1]] == [10, 20, 30]


def test_node_weights_are_what_is_balanced():
    weight = np.where(np.arange(60) < 10, 20, 1)
    indptr, indices = np.array([*range(60), 59]), np.arange(1, 60)
    labels = partition(indptr, indices, 5, node_weight=weight, imbalance=0.1)
    load = np.bincount(labels, weights=weight, minlength=5)
    assert load.max() <= 1.1 * load.mean() + 20


def test_equal_seeds_give_equal_parts_and_seeds_matter():
    indptr, indices, _ = planted(4, 50, 4, 4)
    results = [partition(indptr, indices, 4, seed=s).tolist() for s in (0, 0, 1, 2)]
    assert results[0] == results[1] and len({tuple(r) for r in results}) > 1


def _clean(indptr, indices):
    row = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    ptr, idx = slow.symmetric(zip(row.tolist(), np.asarray(indices).tolist(), strict=True), len(indptr) - 1)
    return np.array(ptr), np.array(idx)


def test_edge_cut_counts_each_edge_once():
    clean = _clean(*CYCLE)
    labels = (np.arange(12) // 6).astype(np.int32)
    assert edge_cut(*clean, labels) == 2 and hasp.cut.edge_cut(*clean, np.zeros(12, np.int32)) == 0
