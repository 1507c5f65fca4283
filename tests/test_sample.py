"""The samples: the definition, uniform, and keyed by everything they depend on and by nothing else."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive import rng as slow

import hasp.sample
from hasp.sample import sample

SMALL = st.integers(0, 30)


@given(SMALL, SMALL, SMALL, st.sampled_from(["talent", "user", "größe"]), SMALL, st.integers(0, 40))
def test_definition(seed, part, epoch, node_type, count, quota):
    ours = sample(seed, part, epoch, node_type, count, quota)
    assert ours.dtype == np.int64
    assert ours.tolist() == slow.sample(seed, part, epoch, node_type, count, quota)
    assert ours.size == min(quota, count)


@given(st.integers(0, 12), st.integers(1, 3), st.integers(0, 5))
def test_ties_go_to_the_lower_id(count, distinct, quota):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hasp.sample, "hash64", lambda key, ids: (ids % distinct).astype(np.uint64))
        ours = sample(0, 0, 0, "talent", count, quota).tolist()
    assert ours == sorted(sorted(range(count), key=lambda i: (i % distinct, i))[:quota])


def test_every_word_of_the_key_matters():
    draws = [
        sample(seed, part, epoch, name, 1000, 10).tolist()
        for seed, part, epoch, name in itertools.product((0, 1), (0, 1), (0, 1), ("talent", "user"))
    ]
    assert len({tuple(d) for d in draws}) == 16


def test_a_larger_quota_only_adds():
    small, large = (set(sample(3, 1, 4, "talent", 500, q).tolist()) for q in (20, 60))
    assert small < large


def test_uniform_over_nodes():
    """Chi-square of how often each of 20 nodes is among 5, over 4,000 epochs: 43.8 at 0.1 % with 19 degrees of freedom.

    Draws without replacement vary less, by 15 / 19, so that the bound is on the safe side.
    """
    seen = np.zeros(20)
    for epoch in range(4000):
        seen[sample(0, 0, epoch, "talent", 20, 5)] += 1
    assert ((seen - 1000) ** 2 / 1000).sum() < 43.8


def test_parts_are_independent():
    """Over 4,000 epochs, two parts that draw 5 of 20 share 1.25 nodes on average; 0.06 is four standard errors."""
    shared = [
        np.intersect1d(sample(0, 0, epoch, "talent", 20, 5), sample(0, 1, epoch, "talent", 20, 5)).size for epoch in range(4000)
    ]
    assert abs(np.mean(shared) - 1.25) < 0.06
