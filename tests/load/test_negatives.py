"""Negatives: uniform over what is allowed, never what is forbidden, however dense the graph."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from hasp.load.negatives import corrupt_destinations, draw_pairs
from hasp.load.pairs import Pairs
from hasp.rng import hash64, subkey


def pairs_of(source: Any, destination: Any, rows: int, columns: int, same_type: bool) -> Pairs:
    out = Pairs(len(source), rows, columns, same_type)
    out.add(np.ascontiguousarray(source), np.ascontiguousarray(destination))
    return out


def made(draw: Any, same_type: bool) -> tuple[Pairs, set[tuple[int, int]]]:
    """A random forbidden set, and the pairs that are allowed by the definition."""
    rows = draw(st.integers(1, 7))
    columns = rows if same_type else draw(st.integers(1, 7))
    every = list(itertools.product(range(rows), range(columns)))
    pairs = draw(st.lists(st.sampled_from(every), max_size=2 * len(every)))
    source, destination = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    out = set(every) - set(pairs)
    if same_type:
        out -= {(b, a) for a, b in pairs} | {(a, a) for a in range(rows)}
    return pairs_of(source, destination, rows, columns, same_type), out


@settings(max_examples=300, deadline=None)
@given(st.data(), st.booleans(), st.integers(0, 999), st.integers(0, 50))
def test_pairs_are_allowed_and_as_many_as_asked(data: Any, same_type: bool, seed: int, count: int) -> None:
    forbidden, allowed = made(data.draw, same_type)
    for pair in itertools.product(range(forbidden.num_source), range(forbidden.num_destination)):
        assert (pair in forbidden) == (pair not in allowed)
    weights = [
        data.draw(st.none() | st.lists(st.sampled_from([0.0, 1.0, 7.5]), min_size=n, max_size=n).map(np.array))
        for n in (forbidden.num_source, forbidden.num_destination)
    ]
    possible = {p for p in allowed if all(w is None or w[v] > 0 for w, v in zip(weights, p, strict=True))}
    source, destination = draw_pairs(subkey(seed), count, forbidden, *weights)
    assert source.size == destination.size == (count if possible else 0)
    assert set(zip(source.tolist(), destination.tolist(), strict=True)) <= possible
    assert forbidden.size == len(
        set(itertools.product(range(forbidden.num_source), range(forbidden.num_destination))) - allowed
    )
    width = forbidden.num_destination
    assert [divmod(k, width) for k in forbidden.ordered.tolist()] == sorted(
        set(itertools.product(range(forbidden.num_source), range(width))) - allowed
    )


@pytest.mark.parametrize("edges", [0, 300, 900])
def test_pairs_are_the_first_good_ones_of_one_stream(edges: int) -> None:
    rng = np.random.default_rng(edges)
    forbidden = pairs_of(*rng.integers(0, 60, (edges, 2)).T, 60, 60, True)
    key, good = subkey(5), []
    for counter in itertools.count():
        s, d = (int(hash64(hash64(key, np.array([i]))[0], np.array([counter]))[0]) % 60 for i in (0, 1))
        if (s, d) not in forbidden:
            good.append((s, d))
        if len(good) == 500:
            break
    for count in (1, 70, 500):
        assert list(zip(*(v.tolist() for v in draw_pairs(key, count, forbidden)), strict=True)) == good[:count]


@pytest.mark.parametrize("amount", [1, 3])
@pytest.mark.parametrize("edges", [0, 300, 900])
def test_destinations_are_the_first_good_ones_of_some_turns(edges: int, amount: int) -> None:
    rng = np.random.default_rng(edges)
    forbidden = pairs_of(*rng.integers(0, 60, (2, edges)), 60, 60, True)
    key, source = subkey(5), rng.integers(0, 60, 200)
    turns = [hash64(key, np.array([turn]))[0] for turn in range(16)]
    wanted = []
    for i, s in enumerate(np.repeat(source, amount).tolist()):
        drawn = (int(hash64(turn, np.array([i]))[0]) % 60 for turn in turns)
        wanted.append(next(d for d in drawn if (s, d) not in forbidden))
    assert corrupt_destinations(key, source, amount, forbidden).ravel().tolist() == wanted


@settings(max_examples=300, deadline=None)
@given(st.data(), st.booleans(), st.integers(0, 999), st.integers(1, 4))
def test_destinations_are_allowed_wherever_there_are_any(data: Any, same_type: bool, seed: int, amount: int) -> None:
    forbidden, allowed = made(data.draw, same_type)
    source = np.array(data.draw(st.lists(st.integers(0, forbidden.num_source - 1), max_size=12)), dtype=np.int64)
    found = corrupt_destinations(subkey(seed), source, amount, forbidden)
    assert found.shape == (source.size, amount)
    for s, row in zip(source.tolist(), found.tolist(), strict=True):
        if any(a == s for a, _ in allowed):
            assert all((s, d) in allowed for d in row)
        else:
            assert row == [-1] * amount


def fits(counts: dict[Any, float], expected: dict[Any, float]) -> bool:
    """Pearson's test at one in a million; the seeds are fixed, so it passes always or never."""
    statistic = sum((counts.get(k, 0) - e) ** 2 / e for k, e in expected.items())
    return bool(chi2.sf(statistic, len(expected) - 1) > 1e-6)


# 10 nodes: a path is sparse (rejection), and all but a few pairs are dense (written out).
PATH = [(i, i + 1) for i in range(9)]
DENSE = [p for p in itertools.combinations(range(10), 2) if p not in {(0, 5), (0, 6), (3, 7), (2, 9)}]


@pytest.mark.parametrize("edges", [PATH, DENSE], ids=["sparse", "dense"])
@pytest.mark.parametrize("weighted", [False, True])
def test_pairs_have_the_right_distribution(edges: list[tuple[int, int]], weighted: bool) -> None:
    source, destination = np.array(edges).T
    forbidden = pairs_of(source, destination, 10, 10, True)
    weights = [np.arange(1.0, 11.0), np.arange(10.0, 0.0, -1.0)] if weighted else [None, None]
    count = 40_000
    drawn = draw_pairs(subkey(3), count, forbidden, *weights)
    counts: dict[Any, float] = {}
    for pair in zip(*(v.tolist() for v in drawn), strict=True):
        counts[pair] = counts.get(pair, 0) + 1
    mass = {
        (a, b): (1.0 if weights[0] is None else weights[0][a]) * (1.0 if weights[1] is None else weights[1][b])
        for a in range(10)
        for b in range(10)
        if (a, b) not in forbidden
    }
    total = sum(mass.values())
    assert fits(counts, {p: count * m / total for p, m in mass.items()})
    assert set(counts) == set(mass)


@pytest.mark.parametrize("edges", [PATH, DENSE], ids=["sparse", "dense"])
def test_destinations_have_the_right_distribution(edges: list[tuple[int, int]]) -> None:
    source, destination = np.array(edges).T
    forbidden = pairs_of(source, destination, 10, 10, True)
    found = corrupt_destinations(subkey(4), np.zeros(20_000, dtype=np.int64), 2, forbidden)
    allowed = [d for d in range(10) if (0, d) not in forbidden]
    counts = {d: float((found == d).sum()) for d in range(10)}
    assert fits(counts, {d: found.size / len(allowed) for d in allowed})


def test_a_hub_joined_to_all_but_one_gets_that_one() -> None:
    n = 5000
    forbidden = pairs_of(np.zeros(n - 2, dtype=np.int64), np.arange(1, n - 1), n, n, True)
    assert (corrupt_destinations(subkey(0), np.zeros(7, dtype=np.int64), 3, forbidden) == n - 1).all()


def test_a_complete_graph_has_no_negatives() -> None:
    a, b = np.array(list(itertools.combinations(range(6), 2))).T
    forbidden = pairs_of(a, b, 6, 6, True)
    assert draw_pairs(subkey(0), 10, forbidden)[0].size == 0
    assert (corrupt_destinations(subkey(0), a, 2, forbidden) == -1).all()


def test_weights_that_leave_one_pair_find_it() -> None:
    weight = np.zeros(1000)
    weight[[3, 8]] = 1.0
    forbidden = pairs_of(np.array([3]), np.array([3]), 1000, 1000, False)
    source, destination = draw_pairs(subkey(0), 500, forbidden, weight, weight)
    assert set(zip(source.tolist(), destination.tolist(), strict=True)) == {(3, 8), (8, 3), (8, 8)}
    zero = np.zeros(1000)
    assert draw_pairs(subkey(0), 5, forbidden, zero, weight)[0].size == 0
    assert (corrupt_destinations(subkey(0), np.array([1, 2]), 1, forbidden, zero) == -1).all()
