"""CSR and exact neighbours against Python sets and a full sort."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hasp.errors import HaspError
from hasp_models.data import neighbors
from hasp_models.data.csr import CSR
from hasp_models.data.neighbors import EmbeddingScorer, Scorer, rank, select_top, top_k

PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=30)


def as_sets(table):
    return [set(table.row(r).tolist()) for r in range(table.num_rows)]


def build(pairs, symmetric=False):
    return CSR.from_pairs([a for a, _ in pairs], [b for _, b in pairs], 7, symmetric=symmetric)


@given(PAIRS, PAIRS, st.lists(st.integers(0, 6), max_size=9))
@settings(max_examples=100, deadline=None)
def test_csr_equals_sets(pairs, others, rows):
    want = [{b for a, b in pairs if a == r} for r in range(7)]
    mirrored = [{b for a, b in [*pairs, *[p[::-1] for p in pairs]] if a == r != b} for r in range(7)]
    table, other = build(pairs), build(others)
    assert as_sets(table) == want and as_sets(build(pairs, symmetric=True)) == mirrored
    assert all((np.diff(table.row(r)) > 0).all() for r in range(7))
    assert as_sets(table.select(rows)) == [want[r] for r in rows]
    assert as_sets(table.without(other)) == [w - o for w, o in zip(want, as_sets(other), strict=True)]
    grid = np.indices((7, 9)).reshape(2, -1) - np.array([[0], [1]])
    assert CSR.contains(table, *grid).tolist() == [b in want[a] for a, b in grid.T.tolist()]


def test_csr_refuses_bad_pairs():
    with pytest.raises(HaspError, match="one length"):
        CSR.from_pairs([0], [1, 2], 3)
    with pytest.raises(HaspError, match=r"rows lie in 0\.\.2"):
        CSR.from_pairs([3], [1], 3)
    with pytest.raises(HaspError, match="one number of rows"):
        build([]).without(CSR.from_pairs([], [], 3))


def sorted_list(row, k, barred=()):
    order = sorted((i for i in range(len(row)) if i not in barred and row[i] != -np.inf), key=lambda i: (-row[i], i))[:k]
    return order + [-1] * (k - len(order))


# Few distinct values, so that nearly every list has ties at its end; -0.0 must tie with 0.0.
TIES = hnp.arrays(
    np.float32, st.tuples(st.integers(0, 4), st.integers(1, 9)), elements=st.sampled_from([-np.inf, -2, -1, 0, 1, 2.5])
)


@given(TIES, st.integers(1, 12))
@settings(max_examples=200, deadline=None)
def test_select_top_equals_a_full_sort(scores, k):
    ids, values = select_top(torch.from_numpy(scores), k)
    assert ids.tolist() == [sorted_list(r, k) for r in scores.tolist()]
    for row, found, value in zip(scores, ids.tolist(), values.tolist(), strict=True):
        assert value == [row[i] if i >= 0 else -np.inf for i in found]


@given(st.integers(0, 2**32), st.sampled_from(["cosine", "dot", "l2"]), st.integers(1, 9), st.integers(1, 8), st.booleans())
@settings(max_examples=60, deadline=None)
def test_top_k_equals_a_full_sort(seed, score, k, chunk, keep_self):
    rng = np.random.default_rng(seed)
    table = rng.integers(-1, 2, (7, 2)).astype(np.float32)  # zero rows and equal rows are likely
    exclude = CSR.from_pairs(rng.integers(0, 7, 9), rng.integers(0, 7, 9), 7)
    queries = rng.integers(0, 7, 5)
    ids, values = top_k(table, k, score, queries=queries, exclude=exclude, keep_self=keep_self, chunk=chunk)
    for place, query in enumerate(queries):
        row = []
        for item in range(7):
            a, b = table[query].astype(float), table[item].astype(float)
            norm = np.linalg.norm(a) * np.linalg.norm(b)
            value = {"dot": a @ b, "l2": -((a - b) ** 2).sum(), "cosine": a @ b / norm if norm else 0.0}[score]
            row.append(float(np.float32(value)))
        barred = set(exclude.row(query).tolist()) | (set() if keep_self else {query})
        assert ids[place].tolist() == sorted_list(row, k, barred)
        found = [row[i] for i in ids[place] if i >= 0]
        np.testing.assert_allclose(values[place][: len(found)], found, atol=1e-6)


def test_equal_rows_tie_whatever_the_chunk():
    table = np.random.default_rng(0).normal(size=(300, 33)).astype(np.float32)
    table[1::2] = table[::2]
    whole = top_k(table, 50, chunk=300)[0]
    np.testing.assert_array_equal(whole, top_k(table, 50, chunk=7)[0])
    np.testing.assert_array_equal(whole[0, 0], 1)


def test_refusals():
    with pytest.raises(HaspError, match="2 rows hold NaN or inf"):
        top_k(np.array([[1.0, np.nan], [1, 1], [np.inf, 0]]), 1)
    with pytest.raises(HaspError, match="floats"):
        top_k(np.zeros((2, 2), dtype=np.int64), 1)
    with pytest.raises(HaspError, match="cosine, dot or l2"):
        top_k(np.zeros((2, 2)), 1, "l1")
    with pytest.raises(HaspError, match=r"queries lie in 0\.\.1"):
        top_k(np.zeros((2, 2)), 1, queries=[2])
    with pytest.raises(HaspError, match="one row per entity"):
        top_k(np.zeros((2, 2)), 1, exclude=CSR.from_pairs([], [], 3))
    with pytest.raises(HaspError, match="at least 1"):
        top_k(np.zeros((2, 2)), 0)


def test_an_embedding_scorer_is_a_scorer():
    scorer = EmbeddingScorer(np.eye(3))
    assert isinstance(scorer, Scorer)
    assert rank(scorer, [2], 2)[0].tolist() == [[0, 1]]


@pytest.mark.parametrize("score", ["cosine", "dot", "l2"])
@pytest.mark.parametrize("rows", [1, 3, 7])
def test_a_table_too_large_to_copy_gives_the_same_ranks(score, rows, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    exact = torch.randint(-3, 4, (20, 4), generator=generator).float()  # products without rounding, ties, and a row of zeros
    table = torch.randn(20, 4, generator=generator) if score == "cosine" else exact
    table[5] = 0
    whole = EmbeddingScorer(table, score)
    monkeypatch.setattr(neighbors, "_TABLE_BYTES", rows * 4 * 8)
    by_blocks = EmbeddingScorer(table, score)
    queries = np.array([0, 5, 19])
    assert by_blocks._kept is None and torch.equal(whole.rows(), by_blocks.rows())
    assert torch.equal(whole.rows(queries), by_blocks.rows(queries))
    torch.testing.assert_close(whole.scores(queries), by_blocks.scores(queries), rtol=0, atol=1e-7 if score == "cosine" else 0)
    for a, b in zip(rank(whole, queries, 5), rank(by_blocks, queries, 5), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    table[11, 2] = float("nan")
    with pytest.raises(HaspError, match="1 rows hold NaN"):
        EmbeddingScorer(table, score)
