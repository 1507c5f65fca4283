"""Caches of halos: policies against naive ones and the optimum, facts against loops, and real bytes through the loader."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from builds import built, labels
from hypothesis import given, settings
from hypothesis import strategies as st
from load_fakes import example, same
from naive import cache as naive
from strategies import Case, cases, num_parts_for

import hasp
from hasp import HaloCache, HASPLoader
from hasp.errors import HaspError
from hasp.load.cache import RowCache, capacities, simulate
from hasp.load.crossing import Crossing
from hasp.load.demand import BatchAsk, Demand, Future
from hasp.load.halo import Halos
from hasp.load.merge import merge
from hasp.load.policies import _TIE, NEVER, POLICIES, keep
from hasp.load.sampler import PartSampler
from hasp.rng import hash64

BUILDS = cases(sampled=False).flatmap(lambda case: st.tuples(st.just(case), num_parts_for(case)))
TRACES = st.lists(st.sets(st.integers(0, 9)), max_size=14)


@dataclass
class Traced:
    """An ask of a written-down trace; degrees are made up."""

    trace: list[list[int]]
    now: int
    seed: int = 0

    @property
    def keys(self) -> Any:
        return np.array(sorted(self.trace[self.now]), dtype=np.int64)

    def wanted(self) -> Any:
        return np.array([sum(k in b for b in self.trace) for k in self.keys], dtype=np.int64)

    def reach(self, hops: int, outgoing: bool) -> Any:
        return ((self.keys * 7 + 3 * hops + outgoing) % 4).astype(float)

    def next_use(self) -> Any:
        later = range(self.now + 1, len(self.trace))
        return np.array([next((i for i in later if k in self.trace[i]), NEVER) for k in self.keys], dtype=np.int64)


def asks(trace: Any) -> list[Traced]:
    return [Traced([sorted(b) for b in trace], i) for i in range(len(trace))]


@given(st.lists(st.tuples(st.integers(0, 50), st.sampled_from([0.0, 1.0, 2.0, np.inf, -np.inf])), unique_by=lambda p: p[0]),
       st.integers(0, 20))  # fmt: skip
def test_keep_is_a_sort(rows: Any, capacity: int) -> None:
    rows = sorted(rows)
    keys, priority = np.array([k for k, _ in rows], dtype=np.int64), np.array([p for _, p in rows])
    tie = hash64(_TIE, keys)
    best = sorted(range(len(rows)), key=lambda i: (-priority[i], tie[i]))[:capacity]
    assert keep(keys, priority, capacity).tolist() == sorted(best)


@given(TRACES, st.integers(0, 8))
def test_lru_is_an_ordered_dict(trace: Any, capacity: int) -> None:
    def tie(key: int) -> int:
        return int(hash64(_TIE, np.array([key]))[0])

    assert simulate(POLICIES["lru"], asks(trace), capacity) == naive.lru(trace, capacity, tie)


@settings(max_examples=200)
@given(TRACES, st.integers(0, 8))
def test_nothing_beats_the_clairvoyant(trace: Any, capacity: int) -> None:
    """On every prefix of the trace, too: it plans for all of it and is still ahead at every batch."""
    best = np.cumsum(simulate(POLICIES["clairvoyant"], asks(trace), capacity))
    for name, policy in POLICIES.items():
        hits = np.cumsum(simulate(policy, asks(trace), capacity))
        assert (hits <= best).all(), name
        if capacity >= 10:
            assert (hits == best).all()


@settings(max_examples=40)
@given(st.lists(st.sets(st.integers(0, 5), max_size=4), max_size=6), st.integers(0, 4))
def test_the_clairvoyant_is_the_optimum(trace: Any, capacity: int) -> None:
    assert sum(simulate(POLICIES["clairvoyant"], asks(trace), capacity)) == naive.most_hits(trace, capacity)


def test_policies_say_what_they_are() -> None:
    trace = [[1, 2, 3, 4], [1, 2], [2, 4], [1, 2]]
    ask = Traced(trace, 0)
    assert POLICIES["wanted"](ask).tolist() == [3, 4, 1, 2]
    assert POLICIES["lru"](Traced(trace, 2)).tolist() == [2, 2]
    assert POLICIES["clairvoyant"](ask).tolist() == [-1, -1, -float(NEVER), -2]
    assert POLICIES["degree"](ask).tolist() == (ask.reach(1, True) + ask.reach(1, False)).tolist()
    assert len(set(POLICIES["random"](ask).tolist())) == 4
    assert POLICIES["random"](ask).tolist() != POLICIES["random"](Traced(trace, 0, seed=1)).tolist()

    class Degrees(Traced):
        def reach(self, hops: int, outgoing: bool) -> Any:
            return np.array([6.0, 0.0, 4.0, 0.0]) * hops if not outgoing else np.array([3.0, 2.0, 0.0, 0.0])

    assert POLICIES["importance1"](Degrees(trace, 0)).tolist() == [2.0, 0.0, np.inf, 0.0]
    assert POLICIES["importance2"](Degrees(trace, 0)).tolist() == [4.0, 0.0, np.inf, 0.0]
    assert POLICIES["importance1_flipped"](Degrees(trace, 0)).tolist() == [0.5, np.inf, 0.0, 0.0]
    assert POLICIES["importance2_flipped"](Degrees(trace, 0)).tolist() == [0.25, np.inf, 0.0, 0.0]


def test_an_undirected_graph_has_no_important_row() -> None:
    """Links in both directions: Imp_1 is 1 everywhere, which leaves the choice to chance."""
    data, _ = example(num_parts=3, titles=20, edges=40)
    edge = data["title", "co", "title"].edge_index
    graph = hasp.Graph({"title": 20}, {("title", "co", "title"): torch.cat([edge, edge.flip(0)], dim=1)})
    parts = hasp.HASPData(graph, hasp.Schema(entity="title"), num_parts=3)
    crossing = Crossing(parts.store)
    demand = Demand(parts.store, crossing)
    keys = np.flatnonzero(demand.reach(1, True)["title"] > 0)
    ask = BatchAsk(keys, 0, 0, "title", 0, 0, demand, None)
    assert set(POLICIES["importance1"](ask).tolist()) == {1.0}
    assert set(POLICIES["importance2"](ask).tolist()) == {1.0}
    assert (ask.next_use() == NEVER).all()


@settings(max_examples=40)
@given(BUILDS)
def test_facts_are_what_loops_find(build: tuple[Case, int]) -> None:
    case, num_parts = build
    with built(case, num_parts) as parts:
        crossing = Crossing(parts.store)
        demand = Demand(parts.store, crossing)
        where, entity = labels(parts), case.roles.entity
        ids = {t: [i for p in range(num_parts) for i, q in enumerate(where[t]) if q == p] for t in entity}  # by key
        nodes = [(t, i) for t in entity for i in ids[t]]
        edges = [
            ((e[0], s), (e[2], d))
            for e in case.data.edge_types
            if e[0] in entity and e[2] in entity
            for s, d in case.data[e].edge_index.t().tolist()
        ]
        for hops in (1, 2):
            for outgoing in (False, True):
                count = naive.walks([(d, s) for s, d in edges] if outgoing else edges, nodes, hops)
                for t in entity:
                    assert demand.reach(hops, outgoing)[t].tolist() == [count[t, i] for i in ids[t]]
        wants = {(s, where[d[0]][d[1]]) for s, d in edges if where[s[0]][s[1]] != where[d[0]][d[1]]}
        for t in entity:
            count = [sum(node == (t, i) for node, _ in wants) for i in ids[t]]
            assert demand.wanted(t, np.arange(len(count))).tolist() == count
            assert demand.requests(t) == sum(count) and demand.rows(t) == sum(c > 0 for c in count)


@settings(max_examples=40)
@given(BUILDS, st.integers(1, 3), st.booleans())
def test_the_future_is_what_will_come(build: tuple[Case, int], batch_size: int, shuffle: bool) -> None:
    """The next use of every row of every batch, against the batches that were then loaded."""
    case, num_parts = build
    with built(case, num_parts) as parts:
        crossing, halos = Crossing(parts.store), Halos(parts.store)
        demand = Demand(parts.store, crossing)
        sampler = PartSampler(num_parts, batch_size=batch_size, shuffle=shuffle, seed=2)
        future, t = Future(sampler), case.roles.entity[0]
        came: list[tuple[int, list[int], set[int]]] = []
        for epoch in range(3):
            sampler.set_epoch(epoch)
            flat = [item.part for item in sampler]
            for low in range(0, len(flat), batch_size):
                chosen = [p for p in flat[low : low + batch_size] if p >= 0]
                batch = halos.apply(merge(parts.store, chosen))[t]
                came.append((epoch, chosen, set(batch.n_id[batch.num_owned :].tolist())))
        ids = [i for p in range(num_parts) for i, q in enumerate(labels(parts)[t]) if q == p]
        for now, (epoch, chosen, far) in enumerate(came):
            if epoch < 2:
                keys = np.array(sorted(ids.index(i) for i in far), dtype=np.int64)
                expected = [next((j for j in range(now + 1, len(came)) if ids[k] in came[j][2]), NEVER) for k in keys]
                assert demand.next_use(t, keys, epoch, chosen[0], future).tolist() == expected


@settings(max_examples=15)
@given(BUILDS, st.integers(1, 2), st.integers(1, 400))
def test_a_cached_halo_is_the_halo(build: tuple[Case, int], batch_size: int, budget: int) -> None:
    """Whatever is kept, batches are the same; what is not read is saved; and the clairvoyant saves the most."""
    case, num_parts = build
    with built(case, num_parts) as parts:
        plain = HASPLoader(parts, batch_size, shuffle=True, halo=True)
        expected = [list(plain) for _ in range(3)]
        whole, saved = plain.halo_count, {}
        assert whole is not None
        for name in POLICIES:
            loader = HASPLoader(parts, batch_size, shuffle=True, halo=HaloCache(budget, name))
            for epoch in range(3):
                for a, b in zip(loader, expected[epoch], strict=True):
                    same(a, b)
            count = loader.halo_count
            assert count is not None
            assert (count.rows, count.edges, count.batches) == (whole.rows, whole.edges, whole.batches)
            assert count.bytes_read + count.bytes_saved == whole.bytes_read
            assert count.cache_bytes <= budget
            saved[name] = count.bytes_saved
        assert max(saved.values()) == saved["clairvoyant"]


def test_a_cache_that_holds_all_reads_every_row_once() -> None:
    _, store = example()
    loader = HASPLoader(store, halo=HaloCache("1MB"))
    list(loader)
    first = loader.halo_count
    assert first is not None
    distinct = first.rows - first.hits
    assert 0 < distinct <= 72  # titles and games
    list(loader)
    assert first.rows - first.hits == distinct and first.rows > 3 * distinct


def test_room_is_shared_by_what_an_epoch_asks_for() -> None:
    room = capacities(1000, {"title": 10, "game": 20, "empty": 8}, {"title": 60, "game": 20, "empty": 0}, dict.fromkeys(
        ("title", "game", "empty"), 10**6))  # fmt: skip
    assert room == {"title": 60, "game": 20, "empty": 0}
    assert capacities(500, {"title": 10, "game": 20}, {"title": 60, "game": 20}, {"title": 7, "game": 50}) == {
        "title": 7,
        "game": 10,
    }
    assert capacities(500, {"title": 10}, {"title": 0}, {"title": 0}) == {"title": 0}


def test_a_row_cache_counts_its_bytes() -> None:
    def read(keys: Any) -> dict[str, torch.Tensor]:
        return {"x": torch.from_numpy(keys).float().view(-1, 1).repeat(1, 3), "odd": torch.from_numpy(keys).to(torch.uint16)}

    cache = RowCache(POLICIES["lru"], 2)
    for ask in asks([[1, 2], [2, 3], [3], [1, 3]]):
        found = cache.fetch(ask, read)
        for name, value in read(ask.keys).items():
            assert torch.equal(found[name], value) and found[name].dtype == value.dtype
    assert (cache.hits, cache.num_bytes) == (3, 2 * (12 + 2))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("policy", ["wanted", "clairvoyant"])
@pytest.mark.parametrize("per_worker", [True, False])
def test_workers_have_a_cache_each(policy: str, per_worker: bool) -> None:
    _, store = example()
    expected = list(HASPLoader(store, shuffle=True, halo=True))
    loader = HASPLoader(store, shuffle=True, halo=HaloCache(2000, policy), num_workers=2, filter_per_worker=per_worker)
    for a, b in zip(loader, expected, strict=True):
        same(a, b)
    count = loader.halo_count
    assert count is not None and (count.hits > 0) == (not per_worker)


def test_maps_and_rows_do_not_travel_to_other_processes(tmp_path: Any) -> None:
    data, _ = example(num_parts=3, titles=12, edges=20)
    del data["title"]["odd"]
    parts = hasp.HASPData(data, hasp.Schema(entity=["title", "game"]), num_parts=3, root=tmp_path / "parts", log=False)
    loader = HASPLoader(parts, halo=HaloCache("1MB", "clairvoyant"), rank=1, world_size=2)
    empty = len(pickle.dumps(loader))
    expected = [loader([p]) for p in range(3)]
    assert len(pickle.dumps(loader)) < empty + 1000
    other = pickle.loads(pickle.dumps(loader))
    for p in range(3):
        same(other([p]), expected[p])
    assert other._halos._future._rank_of == (1, 2)
    assert other.halo_count.hits - loader.halo_count.hits == loader.halo_count.hits  # it began with an empty cache


def test_a_worker_looks_at_its_own_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    future = Future(PartSampler(5))
    assert future.times(0, 3)[0].tolist() == [0, 1, 2, 3, 4]
    info = type("Info", (), {"num_workers": 2, "id": 1})
    monkeypatch.setattr("hasp.load.demand.get_worker_info", lambda: info)
    assert future.times(0, 3)[0].tolist() == [-1, 1, -1, 3, -1] and future.times(0, 3)[1] == 5
    assert future.times(0, 2)[0].tolist() == [0, 1, 2, 3, 4]  # asked for outside the order: it may be any worker
    for epoch in range(6):
        future.times(epoch, 0)
    assert len(future._places) == 4


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda store: HaloCache("1MB", "best"), "policy is one of"),
        (lambda store: HaloCache(0), "a size is positive"),
        (
            lambda store: HASPLoader(store, sampler=[0, 1], halo=HaloCache(99, "clairvoyant")),
            "looks ahead in the loader's own order",
        ),
    ],
)
def test_wrong_caches_are_refused(make: Any, text: str) -> None:
    _, store = example()
    with pytest.raises(HaspError, match=text):
        make(store)
    assert len(list(HASPLoader(store, sampler=[0, 1], halo=HaloCache(99, "wanted")))) == 2
