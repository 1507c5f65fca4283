"""The order of an epoch: a property of numbers, checked without torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hasp.errors import HaspError
from hasp.load import order as o


def epoch_of(n: int, q: int, g: int, world: int, **how: Any) -> list[list[list[tuple[int, ...]]]]:
    """All batches of an epoch: ``[step][rank][turn]`` -> parts."""
    cost = how.pop("cost", np.ones(n))
    drop_last = how.pop("drop_last", False)
    order = o.parts_order(how.get("seed", 0), how.get("epoch", 0), n, how.get("shuffle", True))
    out = []
    for step in range(o.num_steps(n, g, drop_last)):
        batches = o.step_batches(order, step, q, g)
        ranks = [o.rank_batches(batches, cost, rank, world) for rank in range(world)]
        for mine in ranks:
            assert len(mine) == o.batches_per_rank(n, step, q, g, world)
        out.append([[tuple(b.tolist()) for b in mine] for mine in ranks])
    return out


def flat(step: list[list[tuple[int, ...]]]) -> list[tuple[int, ...]]:
    return [b for mine in step for b in mine if b]


SIZES = st.tuples(st.integers(1, 60), st.integers(1, 4), st.integers(1, 5))


@settings(max_examples=1500, deadline=None)
@given(SIZES, st.integers(1, 6), st.integers(0, 2**40), st.integers(0, 99), st.booleans(), st.booleans(), st.data())
def test_each_part_once_in_as_many_batches_on_every_rank(
    sizes: Any, world: int, seed: int, epoch: int, shuffle: bool, drop_last: bool, draw: Any
) -> None:
    n, q, per = sizes
    g = q * per
    cost = np.array(draw.draw(st.lists(st.integers(0, 1000), min_size=n, max_size=n)))
    how = {"seed": seed, "epoch": epoch, "shuffle": shuffle, "drop_last": drop_last}
    steps = epoch_of(n, q, g, world, cost=cost, **how)
    seen = [p for step in steps for b in flat(step) for p in b]
    expected = n // g * g if drop_last else n
    assert len(seen) == len(set(seen)) == expected
    for step in steps:
        assert len({len(mine) for mine in step}) == 1
        for mine in step:  # the padding is last, and never a whole turn of it
            assert mine == [b for b in mine if b] + [b for b in mine if not b]
        assert any(len(mine) == len([b for b in mine if b]) for mine in step)
    # The steps and the batches in them do not depend on the ranks.
    alone = epoch_of(n, q, g, 1, **how)
    assert [sorted(flat(step)) for step in steps] == [sorted(flat(step)) for step in alone]
    assert [b for step in alone for b in flat(step)] == [
        tuple(b)
        for start in range(0, expected, g)
        for b in chunks(o.parts_order(seed, epoch, n, shuffle)[start : start + g], q)
    ]


def chunks(values: Any, size: int) -> list[list[int]]:
    return [values[i : i + size].tolist() for i in range(0, len(values), size)]


@settings(max_examples=1500, deadline=None)
@given(SIZES, st.lists(st.tuples(st.integers(1, 6), st.integers(0, 5)), min_size=1, max_size=5), st.integers(0, 9))
def test_a_run_that_moves_between_world_sizes_sees_the_same_steps(sizes: Any, schedule: Any, seed: int) -> None:
    n, q, per = sizes
    g = q * per
    done: list[list[tuple[int, ...]]] = []
    for world, more in [*schedule, (1, 10**6)]:
        steps = epoch_of(n, q, g, world, seed=seed)
        done += [sorted(flat(step)) for step in steps[len(done) : len(done) + more]]
    assert done == [sorted(flat(step)) for step in epoch_of(n, q, g, 1, seed=seed)]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=24), st.integers(1, 6))
def test_work_is_shared_by_cost(cost: list[int], world: int) -> None:
    batches = [np.array([i]) for i in range(len(cost))]
    load = [sum(cost[int(b[0])] for b in o.rank_batches(batches, np.array(cost), r, world) if b.size) for r in range(world)]
    # The bound of list scheduling with limited places: two ranks never differ by more than one place's worth a turn.
    places = -(-len(cost) // world)
    assert max(load) - min(load) <= max(cost) * places
    assert max(load) <= sum(sorted(cost)[-places:])


def test_the_dearest_parts_are_spread() -> None:
    cost = np.array([9, 1, 1, 9, 1, 1])
    batches = [np.array([i]) for i in range(6)]
    ranks = [[int(b[0]) for b in o.rank_batches(batches, cost, r, 2)] for r in range(2)]
    assert ranks == [[0, 1, 4], [2, 3, 5]]


def test_the_order_is_pinned() -> None:
    """A change here would silently break the resumption of every run that is under way."""
    assert o.parts_order(0, 0, 8, True).tolist() == [0, 2, 3, 7, 5, 1, 6, 4]
    assert o.parts_order(7, 3, 8, True).tolist() == [7, 1, 3, 0, 4, 5, 2, 6]
    assert o.parts_order(7, 3, 4, False).tolist() == [0, 1, 2, 3]


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(o.parts_order(seed, epoch, 30, True)) for seed in range(6) for epoch in range(6)}
    assert len(orders) == 36


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0, 1, 1, 0, 1), "num_parts is at least 1"),
        ((4, 0, 1, 0, 1), "batch_size is at least 1"),
        ((4, 2, 3, 0, 1), "multiple of batch_size=2, got 3; use 2"),
        ((4, 2, 0, 0, 1), "got 0; use 2"),
        ((4, 2, 2, 3, 3), "rank lies in 0..2"),
        ((4, 2, 2, 0, 0), "world_size is at least 1"),
    ],
)
def test_wrong_numbers_are_refused(numbers: tuple[int, int, int, int, int], text: str) -> None:
    with pytest.raises(HaspError, match=text):
        o.check_order(*numbers)


def test_order_needs_no_torch() -> None:
    code = "import sys, hasp.load.order; sys.exit('torch' in sys.modules or 'numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
