"""Thousands of random runs that stop anywhere and go on with other ranks, workers and loaders: always the same steps.

The real loader, only that a batch is the list of its parts. A planted mistake of each kind is found by the same check.
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
from load_fakes import example

from hasp.load import order as o
from hasp.load import sampler
from hasp.load.loader import HASPLoader

SCHEDULES = 2000
STORES: dict[int, Any] = {}


class Ids(HASPLoader):
    """Batches are lists of parts; the order, the sharing and the counting are those of every loader."""

    def filter_fn(self, out: Any) -> list[int]:
        return list(out.parts)


class Bare:
    """A store of so many parts of different cost, with nothing in them."""

    def __init__(self, num_parts: int) -> None:
        _, store = example(num_parts=1, titles=2, edges=0)
        self.manifest: Any = type("Manifest", (), dict(vars(store.manifest)))
        self.manifest.config = {"num_parts": num_parts, "seed": 0}
        self.manifest.report = {"part_bytes": [(p * 7919) % 1000 for p in range(num_parts)]}

    def part(self, part_id: int) -> Any:
        raise AssertionError("these tests read no part")


def store_of(num_parts: int) -> Any:
    if num_parts not in STORES:
        STORES[num_parts] = Bare(num_parts)
    return STORES[num_parts]


def make_schedule(rng: np.random.Generator) -> dict[str, Any]:
    """A run: sizes, a seed, and segments of (ranks, batches that each rank takes before all are killed)."""
    q = int(rng.integers(1, 4))
    return {
        "parts": int(rng.integers(1, 25)),
        "q": q,
        "per_step": q * int(rng.integers(1, 5)),
        "seed": int(rng.integers(0, 2**40)),
        "drop_last": bool(rng.random() < 0.2),
        "segments": [(int(rng.integers(1, 7)), int(rng.integers(0, 9))) for _ in range(rng.integers(1, 6))],
    }


def wanted(run: dict[str, Any], steps: int) -> list[list[int]]:
    """The steps of the run from the definition: consecutive parts of each epoch's order."""
    out: list[list[int]] = []
    epoch = 0
    while len(out) < steps:
        order = o.parts_order(run["seed"], epoch, run["parts"], True).tolist()
        out += [sorted(order[at : at + run["per_step"]]) for at in range(0, run["parts"], run["per_step"])]
        epoch += 1
    return out[:steps]


def follow(run: dict[str, Any]) -> list[list[int]]:
    """The steps as ranks see them that are killed and started again; a step that not all had finished is done again."""
    done: list[list[int]] = []
    state = None
    for world_size, batches in run["segments"]:
        ranks = []
        for rank in range(world_size):
            how = {"seed": run["seed"], "parts_per_step": run["per_step"], "drop_last": run["drop_last"]}
            loader = Ids(store_of(run["parts"]), run["q"], True, rank=rank, world_size=world_size, **how)
            if state is not None:
                loader.load_state_dict(json.loads(json.dumps(state)))
            ranks.append(loader)
        iterators = [iter(loader) for loader in ranks]
        left = batches
        while left > 0:
            step = ranks[0].state_dict()["step"]
            if step == ranks[0].steps_per_epoch:
                assert step > 0, "an epoch without steps"
                for it in iterators:
                    assert next(it, None) is None, "a rank has more batches than the others"
                iterators = [iter(loader) for loader in ranks]
                continue
            share = [loader.batches_in_step(step) for loader in ranks]
            assert len(set(share)) == 1 and share[0] > 0, "ranks take unequally many batches in a step"
            if share[0] > left:  # killed within a step: what was taken of it is lost
                for it in iterators:
                    for _ in range(left):
                        next(it)
                assert {loader.state_dict()["step"] for loader in ranks} == {step}
                break
            got = [next(it) for it in iterators for _ in range(share[0])]
            done.append(sorted(p for parts in got for p in parts))
            left -= share[0]
        states = [loader.state_dict() for loader in ranks]
        assert all(s == states[0] for s in states), "ranks disagree on where they are"
        state = states[0]
    return done


def check(run: dict[str, Any]) -> int:
    """Follow a run; the steps that it took. Raises if they are not those of the definition."""
    if run["drop_last"] and run["parts"] < run["per_step"]:
        run = {**run, "drop_last": False}
    done = follow(run)
    if run["drop_last"]:
        full = run["parts"] // run["per_step"]
        whole = -(-run["parts"] // run["per_step"])
        expected = [s for i, s in enumerate(wanted(run, whole * (len(done) // full + 1))) if i % whole < full][: len(done)]
    else:
        expected = wanted(run, len(done))
        per_epoch = -(-run["parts"] // run["per_step"])
        for at in range(0, len(done) - per_epoch + 1, per_epoch):
            assert sorted(p for step in done[at : at + per_epoch] for p in step) == list(range(run["parts"])), run
    assert done == expected, run
    return len(done)


def test_each_part_once_an_epoch_and_the_same_steps_whoever_trains() -> None:
    rng = np.random.default_rng(2)
    runs = [make_schedule(rng) for _ in range(SCHEDULES)]
    steps = sum(check(run) for run in runs)
    assert steps > 2 * SCHEDULES
    assert sum(len({w for w, _ in run["segments"]}) > 1 for run in runs) > SCHEDULES / 2


# ---- does the check notice? ------------------------------------------------------------------------------------------------


def clocked(patch: pytest.MonkeyPatch) -> None:
    """The order depends on the time."""
    real = o.parts_order
    patch.setattr(
        sampler.order,
        "parts_order",
        lambda seed, epoch, n, shuffle: real(seed + (time.monotonic_ns() // 1000) % 997, epoch, n, shuffle),
    )


def by_rank(patch: pytest.MonkeyPatch) -> None:
    """Every rank shuffles for itself."""
    real = sampler.PartSampler.__iter__

    def wrong(self: Any) -> Any:
        keep, self.seed = self.seed, self.seed + self.rank
        try:
            yield from real(self)
        finally:
            self.seed = keep

    patch.setattr(sampler.PartSampler, "__iter__", wrong)


def by_world(patch: pytest.MonkeyPatch) -> None:
    """A step is as many parts as there are ranks, whatever the user asked for."""
    patch.setattr(sampler.PartSampler, "step_size", property(lambda self: self.batch_size * self.place()[1]))


def repeating(patch: pytest.MonkeyPatch) -> None:
    """Ranks are evened out by training a batch twice, as other loaders do."""
    real = o.rank_batches

    def wrong(batches: Any, cost: Any, rank: int, world_size: int) -> Any:
        return [b if b.size else batches[0] for b in real(batches, cost, rank, world_size)]

    patch.setattr(sampler.order, "rank_batches", wrong)


def uneven(patch: pytest.MonkeyPatch) -> None:
    """A rank without work gets no batch instead of padding: the others wait for it for ever."""
    real = o.rank_batches
    patch.setattr(sampler.order, "rank_batches", lambda *a: [b for b in real(*a) if b.size])


def prefetched(patch: pytest.MonkeyPatch) -> None:
    """The state counts a batch that was fetched but not trained on."""
    real = sampler.PartSampler.step_after
    patch.setattr(sampler.PartSampler, "step_after", lambda self, count: real(self, count + 1))


def from_the_start(patch: pytest.MonkeyPatch) -> None:
    """Resuming forgets the step."""
    real = sampler.PartSampler.begin

    def wrong(self: Any) -> None:
        self.resume = 0
        real(self)

    patch.setattr(sampler.PartSampler, "begin", wrong)


@pytest.mark.parametrize("bug", [clocked, by_rank, by_world, repeating, uneven, prefetched, from_the_start])
def test_a_planted_mistake_is_found_within_a_hundred_runs(bug: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    rng = np.random.default_rng(2)
    with pytest.raises((AssertionError, StopIteration, RuntimeError)):
        for _ in range(100):
            check(make_schedule(rng))
