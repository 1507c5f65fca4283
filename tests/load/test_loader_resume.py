"""A stopped epoch of HASPLoader goes on anywhere: at any step, any world size, with the state of the same loader alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from load_fakes import example, parts_of

from hasp.errors import HaspError
from hasp.load.loader import HASPLoader

EXAMPLE = example(num_parts=7, titles=14, edges=10)
# Two cores are enough for the workers; torch says otherwise where there is one.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 9)), min_size=1, max_size=4),
    st.booleans(),
)
def test_a_run_resumes_anywhere_at_any_world_size(q: int, per: int, schedule: Any, drop_last: bool) -> None:
    """Ranks that stop after each has got some batches, then go on at another world size, see the same steps."""
    _, store = EXAMPLE
    make: dict[str, Any] = {"shuffle": True, "seed": 9, "drop_last": drop_last}
    alone = HASPLoader(store, q, parts_per_step=q * per, **make)
    wanted = [
        sorted(p for _ in range(alone.batches_in_step(s)) for p in next(it))
        for it in [iter(parts_of(alone))]
        for s in range(alone.steps_per_epoch)
    ]
    done: list[list[int]] = []
    state = None
    for world, more in [*schedule, (2, 10**6)]:
        ranks = [
            HASPLoader(store, q, rank=r, world_size=world, parts_per_step=q * per if r or not state else None, **make)
            for r in range(world)
        ]
        for loader in ranks:
            if state:
                loader.load_state_dict(state)
        iterators = [iter(loader) for loader in ranks]
        for _ in range(more):
            step = ranks[0].state_dict()["step"]
            if step == ranks[0].steps_per_epoch:
                break
            got = [p for it in iterators for _ in range(ranks[0].batches_in_step(step)) for p in next(it).part_id.tolist()]
            done.append(sorted(got))
        states = [json.loads(json.dumps(loader.state_dict())) for loader in ranks]
        assert all(s == states[0] for s in states)
        state = states[0]
    assert done == wanted


@pytest.mark.parametrize("workers", [0, 2])
def test_the_state_counts_what_the_loop_got(workers: int) -> None:
    _, store = example()
    make: dict[str, Any] = {"shuffle": True, "num_workers": workers}
    whole = parts_of(HASPLoader(store, **make))
    loader = HASPLoader(store, **make)
    states = [loader.state_dict()]
    states.extend(loader.state_dict() for _ in loader)
    assert [s["step"] for s in states] == list(range(7)) and {s["epoch"] for s in states} == {0}
    states.append(loader.state_dict())
    assert (states[-1]["epoch"], states[-1]["step"]) == (1, 0)
    after = parts_of(loader)
    for i, state in enumerate(states[:7]):
        resumed = HASPLoader(store, **make)
        resumed.load_state_dict(state)
        resumed.set_epoch(0)  # as a training loop does; it must not undo the resumption
        assert parts_of(resumed) == whole[i:]
        assert parts_of(resumed) == after
    resumed = HASPLoader(store, **make)
    resumed.load_state_dict(states[3])
    for _ in resumed:
        break
    assert resumed.state_dict()["step"] == 4
    assert parts_of(resumed) == whole  # after a break, the epoch from its start


def test_half_a_step_is_done_again() -> None:
    _, store = example()
    loader = HASPLoader(store, parts_per_step=4)
    steps = [loader.state_dict()["step"] for _ in loader]
    assert steps == [0, 0, 0, 1, 1, 2]
    assert [loader.batches_in_step(s) for s in range(2)] == [4, 2]


def test_the_steps_of_the_state_are_taken_over() -> None:
    _, store = example()
    state = HASPLoader(store, rank=0, world_size=2).state_dict()
    assert state["parts_per_step"] == 2
    alone = HASPLoader(store)
    alone.load_state_dict(state)
    assert alone.steps_per_epoch == 3 and alone.batches_in_step(0) == 2


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"fingerprint": "x"}, "fingerprint='x'"),
        ({"num_parts": 8}, "num_parts=8"),
        ({"seed": 4}, "seed=4, this loader has 0"),
        ({"batch_size": 2}, "batch_size=2"),
        ({"shuffle": True}, "shuffle=True"),
        ({"drop_last": True}, "drop_last=True"),
        ({"parts_per_step": 5}, "parts_per_step=5, this loader has 3"),
        ({"version": 9}, "version 1"),
        ({"step": 3}, "within an epoch of 2 steps"),
        ({"step": -1}, "within an epoch of 2 steps"),
        ({"epoch": -1}, "within an epoch"),
    ],
)
def test_a_state_of_something_else_is_refused(change: Any, text: str) -> None:
    _, store = example()
    loader = HASPLoader(store, parts_per_step=3)
    before = loader.state_dict()
    with pytest.raises(HaspError, match=text):
        loader.load_state_dict({**before, **change})
    with pytest.raises(HaspError, match="all its keys"):
        loader.load_state_dict({k: v for k, v in before.items() if k != "seed"})
    assert loader.state_dict() == before and parts_of(loader) == [[p] for p in range(6)]
