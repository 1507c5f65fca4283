"""The fill: the definition, and how even its result is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive import fill as slow
from naive import rng as slow_rng

from hasp import HaspError
from hasp.fill import fill
from hasp.layout import Layout, check_node_part

LABELS = st.integers(1, 6).flatmap(lambda k: st.tuples(st.just(k), st.lists(st.integers(-1, k - 1), max_size=40)))


@given(LABELS, st.integers(0, 9))
def test_definition(labels, seed):
    num_parts, given_parts = labels
    part = np.array(given_parts, np.int32)
    ours = fill(part, num_parts, None, seed)
    free = [i for i, p in enumerate(given_parts) if p < 0]
    key = slow_rng.key_of(seed, 1)
    order = [free[j] for j in sorted(range(len(free)), key=lambda j: (slow_rng.hash_id(key, j), j))]
    theirs, load = list(given_parts), [given_parts.count(p) for p in range(num_parts)]
    slow.emptiest_first(order, [1] * len(order), load, theirs)
    assert ours.tolist() == theirs and ours.dtype == np.int32
    assert part.tolist() == given_parts  # the argument is not written


@given(LABELS, st.data())
def test_definition_with_weights(labels, draws):
    num_parts, given_parts = labels
    weight = draws.draw(st.lists(st.integers(0, 9), min_size=len(given_parts), max_size=len(given_parts)))
    ours = fill(np.array(given_parts, np.int32), num_parts, np.array(weight, np.int64), 0)
    load = [sum(w for w, p in zip(weight, given_parts, strict=True) if p == q) for q in range(num_parts)]
    free = [i for i, p in enumerate(given_parts) if p < 0]
    key = slow_rng.key_of(0, 1)
    order = [free[j] for j in sorted(range(len(free)), key=lambda j: (slow_rng.hash_id(key, j), j))]
    order.sort(key=lambda i: -weight[i])
    theirs = list(given_parts)
    slow.emptiest_first(order, [weight[i] for i in order], load, theirs)
    assert ours.tolist() == theirs


@given(LABELS, st.integers(0, 3))
def test_sizes_are_as_even_as_the_linked_entities_allow(labels, seed):
    num_parts, given_parts = labels
    before = np.bincount([p for p in given_parts if p >= 0], minlength=num_parts)
    after = np.bincount(fill(np.array(given_parts, np.int32), num_parts, None, seed), minlength=num_parts)
    grown = after[after > before]
    # Those that received something are within one of each other, and no part is emptier.
    assert grown.size == 0 or (grown.max() - after.min() <= 1)
    least, rest = divmod(len(given_parts), num_parts)
    allowed = before.max() <= least + (rest > 0) and (before > least).sum() <= rest
    assert (after.max() - after.min() <= 1) == allowed


@given(LABELS)
def test_layout(labels):
    num_parts, given_parts = labels
    part = np.array([max(p, 0) for p in given_parts], np.int32)
    where = Layout.make({"t": part}, num_parts, threads=2).types["t"]
    lists = [[i for i, p in enumerate(part) if p == q] for q in range(num_parts)]
    assert where.n_id.tolist() == [i for own in lists for i in own]
    assert where.ptr.tolist() == np.cumsum([0, *map(len, lists)]).tolist()
    assert where.local.tolist() == [lists[p].index(i) for i, p in enumerate(part)]
    assert where.part.tolist() == part.tolist()


@pytest.mark.parametrize("num_parts", [255, 256, 65535])
def test_layout_of_many_parts(num_parts):
    part = np.arange(num_parts, dtype=np.int32)[::-1].copy()
    where = Layout.make({"t": part}, num_parts).types["t"]
    assert where.part.tolist() == part.tolist() and where.n_id.tolist() == part.tolist()


@pytest.mark.parametrize(
    ("node_part", "text"),
    [
        ({}, r"one array per entity type \['t'\], got \[\]; add or remove some"),
        ({"t": [0, 1, 1], "s": [0]}, r"got \['s', 't'\]; add or remove some"),
        ({"t": [0, 1]}, r"node_part\['t'\] is 3 whole numbers, got int64 \(2,\); one label per entity"),
        ({"t": [0.0, 1.0, 1.0]}, r"is 3 whole numbers, got float64"),
        ({"t": [[0, 1, 1]]}, r"is 3 whole numbers, got int64 \(1, 3\)"),
        ({"t": [0, -1, 2]}, r"lies in 0\.\.1, got \[-1, 2\] at rows \[1, 2\]; give every entity a part"),
    ],
)
def test_a_given_partition_that_is_wrong(node_part, text):
    with pytest.raises(HaspError, match=text):
        check_node_part(node_part, {"t": 3}, 2)


def test_a_given_partition_keeps_the_order_of_the_types():
    out = check_node_part({"b": [1], "a": np.array([0, 1], np.uint8)}, {"a": 2, "b": 1}, 2)
    assert list(out) == ["a", "b"] and all(v.dtype == np.int32 for v in out.values())
