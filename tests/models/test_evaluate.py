"""Evaluation: the three kinds of source agree, links are kept or removed, intervals cover, Holm, popularity's row."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hasp.errors import HaspError
from hasp_models.data.benchmark import Truth
from hasp_models.data.csr import CSR
from hasp_models.data.evaluate import Result, compare, evaluate, holm, table_of
from hasp_models.data.neighbors import EmbeddingScorer, FixedScorer, top_k

N = 9
PAIRS = st.lists(st.tuples(st.integers(0, N - 1), st.integers(0, N - 1)), min_size=1, max_size=30)


def table(pairs):
    return CSR.from_pairs([a for a, _ in pairs], [b for _, b in pairs], N, symmetric=True)


def truth(pairs, **more):
    made = Truth.from_csr("hc", table(pairs))
    return Truth(made.name, made.queries, made.rows, **more)


def result(values, method="a", **groups):
    values = np.asarray(values, dtype=float)
    masks = {k: np.asarray(v, dtype=bool) for k, v in groups.items()}
    return Result(method, "hc", "kept", np.arange(values.size), {"map@10": values}, masks)


@given(PAIRS, st.integers(0, 999))
@settings(max_examples=50, deadline=None)
def test_embeddings_scorers_and_lists_agree(pairs, seed):
    z = np.random.default_rng(seed).integers(-2, 3, (N, 3)).astype(np.float32)
    made = truth(pairs)
    if not made.queries.size:
        return
    lists = top_k(z, N, queries=made.queries, keep_self=True)[0]
    for links, known in (("kept", None), ("removed", table(pairs[::2]))):
        three = [evaluate(s, made, links=links, known=known) for s in (z, EmbeddingScorer(z), torch.from_numpy(lists))]
        for other in three[1:]:
            np.testing.assert_array_equal(three[0].queries, other.queries)
            for name, value in three[0].values.items():
                np.testing.assert_array_equal(value, other.values[name], err_msg=name)


@given(PAIRS, PAIRS)
@settings(max_examples=50, deadline=None)
def test_the_truth_as_scores_is_perfect_and_removed_links_leave_list_and_truth(pairs, known):
    dense = np.zeros((N, N), dtype=np.float32)
    for a, b in pairs:
        dense[a, b] = dense[b, a] = a != b
    made = truth(pairs)

    class Perfect:
        num_items = N

        def scores(self, queries):
            return torch.from_numpy(dense[queries])

    for links in ("kept", "removed"):
        found = evaluate(Perfect(), made, links=links, known=table(known))
        assert (found.values["map@10"] == 1).all()
        rest = made.rows.without(table(known).select(made.queries)) if links == "removed" else made.rows
        np.testing.assert_array_equal(found.queries, made.queries[rest.counts > 0])


def test_groups_are_masks_over_entities():
    found = evaluate(np.eye(N), truth([(0, 1), (4, 5)]), groups={"low": np.arange(N) < 2, "none": np.zeros(N)})
    assert found.groups["low"].tolist() == [True, True, False, False]
    assert found.mean(group="low") == 1.0  # all scores tie, so the lowest ids come first
    assert np.isnan(found.mean(group="none")) and found.interval(group="none").queries == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_intervals_are_seeded_and_hold_the_mean(values, seed):
    one = result(values).interval(seed=seed)
    assert one == result(values).interval(seed=seed) and one.low - 1e-9 <= one.mean <= one.high + 1e-9
    same = compare(result(values), result(values, "b"), samples=200, seed=seed)
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    up = compare(result(np.asarray(values) + 0.25), result(values, "b"), samples=200, seed=seed)
    assert up.low == pytest.approx(0.25) and up.high == pytest.approx(0.25) and up.p == pytest.approx(2 / 201)
    down = compare(result(values, "b"), result(np.asarray(values) + 0.25), samples=200, seed=seed)
    assert down.difference == pytest.approx(-0.25) and down.p == up.p


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    inside = sum(
        (found := result(rng.exponential(size=80)).interval(samples=400, seed=i)).low <= 1.0 <= found.high for i in range(300)
    )
    assert 0.88 <= inside / 300 <= 0.98


def test_relative_gain():
    gain = compare(result([0.4, 0.6, 0.5]), result([0.2, 0.3, 0.25], "b"), samples=500)
    assert gain.relative == pytest.approx(1.0) and gain.relative_low == pytest.approx(1.0)
    assert np.isnan(compare(result([0.5]), result([0.0], "b"), samples=10).relative_low)


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_raw_co_sim_is_never_printed_without_popularity():
    raw = truth([(0, 1), (2, 1), (3, 1)], popularity=np.arange(N)[::-1].copy())
    found = evaluate(np.eye(N), raw, method="mine")
    assert found.beside.method == "popularity"
    assert [line.split()[0] for line in str(found).splitlines()] == ["method", "mine", "popularity"]
    both = table_of([found, evaluate(FixedScorer(torch.arange(N).flip(0)), raw, method="popularity")])
    assert sum("popularity" in line for line in both.splitlines()) == 1
    value = json.loads(json.dumps(found.to_json(samples=50), allow_nan=False))
    assert value["popularity"]["metrics"]["all"]["map@10"]["mean"] == pytest.approx(found.beside.mean())


def test_refusals():
    made = truth([(0, 1)])
    with pytest.raises(HaspError, match="give known="):
        evaluate(np.eye(N), made, links="removed")
    with pytest.raises(HaspError, match="kept or removed"):
        evaluate(np.eye(N), made, links="both")
    with pytest.raises(HaspError, match="one row per query, 2"):
        evaluate(np.zeros((3, 4), dtype=np.int64), made)
    with pytest.raises(HaspError, match="evaluate both alike"):
        compare(result([1, 2]), result([1]))
    with pytest.raises(HaspError, match="choose one or add its k"):
        result([1]).mean("map@7")
    with pytest.raises(HaspError, match="choose one or give groups="):
        result([1]).mean(group="cold")
    with pytest.raises(HaspError, match="choose another group"):
        compare(result([1], g=[False]), result([1], "b", g=[False]), group="g")
