"""Ranking metrics: properties, brute force, closed forms, and PyG's metrics on input they accept."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hasp.errors import HaspError
from hasp_models.data.csr import CSR
from hasp_models.data.metrics import hit_table, per_query

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch 2.13 deprecates torch.jit.script, which PyG 2.8 still calls when imported
    import torch_geometric.metrics as theirs

ITEMS = 12


def truth_of(rows):
    pairs = [(r, i) for r, row in enumerate(rows) for i in row]
    return CSR.from_pairs([p[0] for p in pairs], [p[1] for p in pairs], len(rows))


@st.composite
def rankings(draw):
    """Lists with padding anywhere and repeated ids, and truths with repeated ids and empty rows."""
    queries, width = draw(st.integers(1, 5)), draw(st.integers(0, 8))
    cell, ids = st.integers(-1, ITEMS - 1), st.lists(st.integers(0, ITEMS - 1), max_size=8)
    ranked = [draw(st.lists(cell, min_size=width, max_size=width)) for _ in range(queries)]
    return np.array(ranked, dtype=np.int64).reshape(queries, width), [draw(ids) for _ in range(queries)]


def naive(row, relevant, k):
    """One query, one loop, no shared helper."""
    relevant, seen, good, ap, dcg, first = set(relevant), set(), 0, 0.0, 0.0, 0.0
    if not relevant:
        return [math.nan] * 5
    for place, item in enumerate(list(row)[:k], start=1):
        if item >= 0 and item not in seen and item in relevant:
            good += 1
            ap += good / place
            dcg += 1 / math.log2(place + 1)
        seen.add(item)
    ideal = sum(1 / math.log2(p + 1) for p in range(1, min(len(relevant), k) + 1))
    for place, item in enumerate(row, start=1):
        if item in relevant:
            first = 1 / place
            break
    return [ap / min(len(relevant), k), good / len(relevant), dcg / ideal, float(good > 0), first]


@given(rankings(), st.integers(1, 10))
@settings(max_examples=200, deadline=None)
def test_equals_brute_force(case, k):
    ranked, rows = case
    got = per_query(ranked, truth_of(rows), (k,))
    want = np.array([naive(r, t, k) for r, t in zip(ranked.tolist(), rows, strict=True)])
    for column, name in enumerate((f"map@{k}", f"recall@{k}", f"ndcg@{k}", f"hits@{k}", "mrr")):
        np.testing.assert_allclose(got[name], want[:, column], rtol=1e-12, err_msg=name)


@given(rankings(), st.integers(1, 10))
@settings(max_examples=100, deadline=None)
def test_values_lie_between_0_and_1_and_a_perfect_list_scores_1(case, k):
    ranked, rows = case
    for value in per_query(ranked, truth_of(rows), (k,)).values():
        assert not (value < 0).any() and not (value > 1 + 1e-12).any()
    rows = [r or [0] for r in rows]
    perfect = np.array([(sorted(set(r)) + [-1] * ITEMS)[:ITEMS] for r in rows])
    best = per_query(perfect, truth_of(rows), (k,))
    for name in (f"map@{k}", f"ndcg@{k}", f"hits@{k}", "mrr"):
        np.testing.assert_allclose(best[name], 1.0)


@pytest.mark.skipif(not hasattr(theirs, "LinkPredHitRatio"), reason="this version of PyG has fewer metrics")
@given(rankings(), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_equals_pyg_on_input_that_pyg_accepts(case, k):
    """PyG counts padding, repeated predictions and repeated truth as hits, so each is replaced by an id out of the truth."""
    ranked, rows = case
    rows = [sorted(set(r)) or [0] for r in rows]
    width = max(k, ranked.shape[1])
    clean = np.full((len(rows), width), -1)
    clean[:, : ranked.shape[1]] = ranked
    for q, row in enumerate(clean):
        seen = set()
        for place, item in enumerate(row):
            row[place] = item if item >= 0 and item not in seen else 1000 + 100 * q + place
            seen.add(item)
    index = torch.tensor([(q, i) for q, r in enumerate(rows) for i in r]).t()
    got = per_query(ranked, truth_of(rows), (k,))
    names = {"map": "MAP", "recall": "Recall", "ndcg": "NDCG", "hits": "HitRatio"}
    for name, kind in names.items():
        metric = getattr(theirs, f"LinkPred{kind}")(k=k)
        metric.update(torch.from_numpy(clean), index)
        assert got[f"{name}@{k}"].mean() == pytest.approx(float(metric.compute()), abs=1e-5), name
    metric = theirs.LinkPredMRR(k=width)
    metric.update(torch.from_numpy(clean), index)
    assert got["mrr"].mean() == pytest.approx(float(metric.compute()), abs=1e-5)


def test_closed_forms():
    # Hits at places 1 and 3 of 4, three relevant ids.
    value = per_query(np.array([[5, 9, 7, 8]]), truth_of([[5, 7, 1]]), (2, 4))
    assert value["map@4"][0] == pytest.approx((1 + 2 / 3) / 3)
    assert value["map@2"][0] == pytest.approx(1 / 2)  # the denominator is min(3, 2)
    assert value["recall@4"][0] == pytest.approx(2 / 3)
    assert value["recall@2"][0] == pytest.approx(1 / 3)  # recall divides by all relevant ids
    assert value["ndcg@4"][0] == pytest.approx(1.5 / (1 + 1 / math.log2(3) + 0.5))
    assert value["mrr"][0] == 1.0


def test_the_three_inputs_on_which_others_go_wrong():
    assert per_query(np.array([[-1, -1]]), truth_of([[0, 1]]), (2,))["hits@2"][0] == 0.0
    assert per_query(np.array([[3]]), truth_of([[3, 3]]), (1,))["recall@1"][0] == 1.0
    assert per_query(np.array([[3, 3, 3]]), truth_of([[3]]), (3,))["map@3"][0] == 1.0
    np.testing.assert_array_equal(hit_table(np.array([[3, 3, -1]]), truth_of([[3]])), [[True, False, False]])


def test_a_list_shorter_than_k_and_no_queries():
    assert per_query(np.array([[3]]), truth_of([[3, 4]]), (10,))["map@10"][0] == 0.5
    assert per_query(np.zeros((0, 5), dtype=np.int64), truth_of([]), (10,))["map@10"].shape == (0,)


def test_refusals():
    with pytest.raises(HaspError, match="rank once per query"):
        per_query(np.zeros((2, 3), dtype=np.int64), truth_of([[1]]))
    with pytest.raises(HaspError, match="integers"):
        per_query(np.zeros((1, 3)), truth_of([[1]]))
    with pytest.raises(HaspError, match="at least 1"):
        per_query(np.zeros((1, 3), dtype=np.int64), truth_of([[1]]), (0,))
