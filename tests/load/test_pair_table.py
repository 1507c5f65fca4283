"""Pairs in a hash table, beside dictionaries: which are in, which edge stands for each, which supervise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hasp.load import pairs as module
from hasp.load.pairs import Pairs, Share, ascending
from hasp.rng import hash64, subkey

ENDS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=40)
DTYPES = st.sampled_from([np.int32, np.int64])
RATIOS = st.sampled_from([None, 0.0, 0.3, 0.8, 1.0])


def columns(edges: Any, dtype: Any) -> Any:
    return np.array(edges, dtype=dtype).reshape(-1, 2).T.copy()


def share_of(ratio: float | None, source_id: Any, destination_id: Any) -> Share | None:
    return None if ratio is None else Share(subkey(3), ratio, source_id, destination_id)


def supervises(share: Share | None, pair: tuple[int, int], same_type: bool) -> bool:
    if share is None:
        return True
    first, second = int(share.source_id[pair[0]]), int(share.destination_id[pair[1]])
    if same_type:
        first, second = sorted((first, second))
    with np.errstate(over="ignore"):
        bits = hash64(share.key, hash64(share.key, np.array([first])) + np.uint64(second))[0]
    return bool(int(bits >> np.uint64(11)) / 2**53 < share.ratio)


@settings(max_examples=300, deadline=None)
@given(ENDS, ENDS, st.booleans(), st.randoms(), DTYPES, DTYPES, RATIOS, st.booleans(), st.sampled_from([0, 63]))
def test_pairs_by_the_definition(
    edges: Any, others: Any, same_type: bool, random: Any, rows: Any, ids: Any, ratio: Any, early: bool, bits: int
) -> None:
    """Each pair once, that of its smallest ``e_id``; which supervise, told by global ids; and the edges that are left."""
    e_ids = [7 * i for i in range(len(edges))]
    random.shuffle(e_ids)
    source_id = np.array(random.sample(range(50), 7), dtype=ids)
    share = share_of(ratio, source_id, source_id if same_type else source_id[::-1].copy())
    name = (lambda p: tuple(sorted(p))) if same_type else tuple
    proper = [(e, p) for e, p in zip(e_ids, edges, strict=True) if not same_type or p[0] != p[1]]
    first: dict[Any, Any] = {}
    for e_id, pair in sorted(proper):
        if supervises(share, pair, same_type):
            first.setdefault(name(pair), (e_id, pair))

    source, destination = columns(edges, rows)
    pairs = Pairs(len(edges) + len(others), 7, 7, same_type)
    e_id = np.array(e_ids, dtype=ids)
    pairs.add_edges(source, destination, e_id, share if early else None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BITS", bits)
        found = pairs.first_edges(source, destination, e_id, share)
    assert [(int(e_id[i]), (int(source[i]), int(destination[i]))) for i in found] == sorted(first.values())

    pairs.add(*columns(others, rows))
    assert pairs.first_edges(source, destination, e_id, share).tolist() == found.tolist()  # pairs without edges change nothing
    known = {name(p) for _, p in proper if not early or supervises(share, p, same_type)}
    known |= {name(p) for p in others if not same_type or p[0] != p[1]}
    every = np.stack(np.meshgrid(range(7), range(7), indexing="ij")).reshape(2, -1)
    expected = [(same_type and a == b) or name((a, b)) in known for a, b in every.T.tolist()]
    assert pairs.has(*every).tolist() == expected
    assert pairs.size == sum(expected)
    assert pairs.ordered.tolist() == np.flatnonzero(expected).tolist()

    if share is not None:
        for some in (edges, others):
            left = [i for i, p in enumerate(some) if (same_type and p[0] == p[1]) or name(p) not in first]
            assert pairs.rest(*columns(some, rows), share).tolist() == left


def test_a_large_table_beside_a_set() -> None:
    rng = np.random.default_rng(0)
    edges = rng.integers(0, 2_000, (2, 100_000))
    pairs = Pairs(edges.shape[1], 2_000, 2_000, True)
    pairs.add_edges(*edges, np.arange(edges.shape[1]))
    low, high = np.minimum(*edges), np.maximum(*edges)
    wanted = {p: i for i, p in reversed(list(enumerate(zip(low.tolist(), high.tolist(), strict=True)))) if p[0] != p[1]}
    assert pairs.first_edges(*edges, np.arange(edges.shape[1])).tolist() == sorted(wanted.values())
    assert pairs.size == 2 * len(wanted) + 2_000
    drawn = pairs.draw(50_000, 60_000, (subkey(1), subkey(2)))
    assert drawn.shape == (2, 50_000) and not pairs.has(*drawn).any()


def test_no_more_pairs_than_there_is_room_for() -> None:
    pairs = Pairs(2, 9, 9, False)
    pairs.add(np.array([1, 2]), np.array([3, 4]))
    with pytest.raises(ValueError, match="room for 0 more pairs, got 1"):
        pairs.add(np.array([1]), np.array([3]))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 5) | st.integers(0, 2**62), max_size=30), st.sampled_from([0, 63]))
def test_ascending_is_a_stable_order(values: list[int], bits: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BITS", bits)
        found = ascending(np.array(values, dtype=np.int64))
    assert found.tolist() == sorted(range(len(values)), key=lambda i: (values[i], i))
