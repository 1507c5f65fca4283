"""Plan: predicted bytes against batches that are really loaded, budgets, refusals, and the probe of a model."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from hasp import memory
from hasp.data import HASPData
from hasp.errors import HaspError
from hasp.graph import Graph, HaspWarning
from hasp.needs import BACKEND_BYTES
from hasp.plan import ACTIVATION_FACTOR, EDGE_SPREAD, HEADROOM, Plan, plan
from hasp.probe import peak_of, probe, tiny_batch
from hasp.schema import Schema
from hasp.sizes import available_memory, batch_bytes, input_bytes, num_links, shared_bytes

CO, HAS, SUB, SAW = ("title", "co", "title"), ("title", "has", "genre"), ("genre", "sub", "genre"), ("user", "saw", "title")


def a_graph(titles: int = 400, width: int = 8) -> Graph:
    rng = np.random.default_rng(1)

    def ends(a: int, b: int, count: int) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(rng.integers(0, a, count)), torch.from_numpy(rng.integers(0, b, count))

    return Graph(
        {"title": titles, "genre": 12, "user": 50},
        {
            CO: ends(titles, titles, 5 * titles),
            HAS: ends(titles, 12, 3 * titles),
            SUB: ends(12, 12, 10),
            SAW: ends(50, titles, 2 * titles),
        },
        {
            "title": {"x": torch.zeros(titles, width), "y": torch.zeros(titles, dtype=torch.int16)},
            "genre": {"x": torch.zeros(12, 4)},
        },
        {CO: {"time": torch.zeros(5 * titles, dtype=torch.int64)}},
    )


def roles_of(graph: Graph, quota: int = 50):
    return Schema(entity="title", eel=[CO], sample={"user": quota}).resolve(graph.num_nodes, graph.edges)


def loaded(batch) -> int:
    """Bytes of a batch's ids, edges and attributes: all but what the loader says about the batch itself."""
    size = 0
    for store in batch.stores:
        for key, value in store.items():
            if isinstance(value, Tensor) and key not in ("input_id", "part_id", "part_ptr", "ptr"):
                size += value.numel() * value.element_size()
    return size


def test_one_part_is_predicted_to_the_byte():
    graph = a_graph()
    roles = roles_of(graph)
    planned = plan(graph, roles, num_parts=1)
    batch = HASPData(graph, Schema(entity="title", eel=[CO], sample={"user": 50}), num_parts=1)[0]
    assert planned.part_bytes == loaded(batch)
    assert (planned.entities, planned.edges) == (400, 4000)
    # By hand: 400 titles of n_id 8, owner_part 4, x 32, y 2; 12 genres of 8 and 16; 50 users of 8; edges of 24, co with 8 more.
    assert planned.shared_bytes == 12 * 24 + 10 * 24 + 50 * 8
    assert planned.part_bytes == 400 * 46 + 2000 * 32 + 1200 * 24 + 800 * 24 + planned.shared_bytes


def test_bytes_of_real_parts_are_those_of_loaded_batches():
    graph = a_graph()
    parts = HASPData(graph, Schema(entity="title", eel=[CO], sample={"user": 50}), num_parts=5)
    assert list(parts.report().loaded_bytes) == [loaded(parts[p]) for p in range(5)]


@pytest.mark.parametrize("num_parts", [4, 16])
def test_the_largest_real_part_is_within_the_prediction(num_parts):
    graph = a_graph(2000)
    schema = Schema(entity="title", eel=[CO], sample={"user": 10})
    planned = plan(graph, roles_of(graph, 10), num_parts=num_parts)
    largest = max(HASPData(graph, schema, num_parts=num_parts).report().loaded_bytes)
    assert 0.5 * planned.part_bytes < largest <= planned.part_bytes


def test_more_parts_are_means_with_slack_rounded_up():
    graph = a_graph()
    roles = roles_of(graph)
    shared = shared_bytes(graph, roles)
    rows, links = 400 * 46, 2000 * 32 + 1200 * 24 + 800 * 24
    planned = plan(graph, roles, num_parts=3)
    assert planned.entities == 134
    assert planned.part_bytes == math.ceil(rows * 134 / 400 + links * EDGE_SPREAD / 3) + shared
    assert plan(graph, roles, num_parts=3, balance="bytes").entities == math.ceil(400 / 3 * 1.03)


@pytest.mark.parametrize("gpus", [1, 4, 7])
def test_a_budget_takes_the_fewest_parts_that_fit(gpus):
    graph = a_graph()
    roles = roles_of(graph)
    chosen = plan(graph, roles, max_part_bytes="20kB", gpus=gpus)
    assert chosen.num_parts % gpus == 0 and chosen.part_bytes <= 20_000
    if chosen.num_parts > gpus:
        assert plan(graph, roles, num_parts=chosen.num_parts - gpus).part_bytes > 20_000
    assert plan(graph, roles, max_part_bytes=10**9, gpus=gpus).num_parts == gpus


def test_a_gpu_leaves_headroom_and_takes_the_factor():
    graph = a_graph()
    chosen = plan(graph, roles_of(graph), gpu_memory="2MB")
    assert chosen.step_bytes == ACTIVATION_FACTOR * chosen.part_bytes <= HEADROOM * 2_000_000
    assert "training step" in chosen.explain() and "64 times the batch" in chosen.reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing decides the number of parts"),
        ({"num_parts": 2, "max_part_bytes": 10}, "give one of them"),
        ({"num_parts": 2, "gpu_memory": 10}, "give one of them"),
        ({"num_parts": 0}, "at least 1 part"),
        ({"num_parts": 401}, r"num_parts=401 is more than the 400 entities of title; lower num_parts"),
        ({"num_parts": 2, "gpus": 0}, "gpus=0: at least 1"),
        ({"max_part_bytes": "lots"}, "a size is a number"),
        ({"max_part_bytes": 900}, r"every part repeats 928 B .*, and a part may have 900 B; use sample=\{'user'"),
        ({"gpu_memory": 60_000}, r"every part repeats 928 B .*; use sample="),
        ({"max_part_bytes": 1000}, "even 400 parts have"),
        ({"max_part_bytes": 10**6, "gpus": 500}, "gpus=500 is more than the 400 entities"),
    ],
)
def test_what_cannot_be_planned_is_refused(options, message):
    graph = a_graph()
    with pytest.raises(HaspError, match=message):
        plan(graph, roles_of(graph), **options)


def test_memory_of_the_build_is_checked_before_it_starts():
    planned = Plan(4, 100, 10, 1000)
    planned.check(2000)
    with pytest.warns(HaspWarning, match="close other programs"):
        planned.check(1100)
    with pytest.raises(HaspError, match=r"needs about 1\.0 kB, and 999 B of memory is free; free some"):
        planned.check(999)
    with pytest.raises(HaspError, match=r"needs about 1\.2 kB"):
        planned.check(1100, threads=8)  # four parts in the air, two of them counted already
    planned.check()  # this machine has a kilobyte


def test_explain_names_the_figures():
    text = Plan(3, 2_000_000, 500, 40_000_000, 7_000, 10, 20, 2, "as asked").explain()
    for words in ("3 (as asked)", "2.0 MB loaded", "500 B", "40.0 MB", "7.0 kB", "do not divide among 2 GPUs"):
        assert words in text


def test_links_stored_in_both_directions_count_once():
    a, b = torch.tensor([0, 1, 2, 3]), torch.tensor([1, 2, 0, 3])
    both = torch.cat([a, b]), torch.cat([b, a])
    one = Graph({"t": 5}, {("t", "r", "t"): (a, b)})
    two = Graph({"t": 5}, {("t", "r", "t"): both})
    shuffled = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    assert num_links(one, ("t", "r", "t")) == 4
    assert num_links(two, ("t", "r", "t")) == 4
    assert num_links(Graph({"t": 5}, {("t", "r", "t"): tuple(x[shuffled] for x in both)}), ("t", "r", "t")) == 4


def test_mapped_arrays_are_no_memory(tmp_path):
    if not memory.resident_bytes():
        pytest.skip("no /proc on this system: mapped arrays cannot be told apart")
    np.save(tmp_path / "x.npy", np.zeros((100, 4), dtype=np.float32))
    mapped = torch.from_numpy(np.load(tmp_path / "x.npy", mmap_mode="c"))
    ids = torch.arange(10)
    graph = Graph({"t": 100}, {("t", "r", "t"): (ids, ids.clone())}, {"t": {"x": mapped}})
    assert input_bytes(graph) == 160
    assert input_bytes(dataclasses.replace(graph, node_attrs={"t": {"x": mapped.clone()}})) == 160 + 1600


def test_free_memory_is_a_plausible_number():
    found = available_memory()
    assert found is None or 10**6 < found < 10**15


def test_batch_bytes_counts_expected_sampled_edges():
    graph = a_graph()
    edges = {CO: 0, HAS: 0, SAW: 100}
    sizes = [batch_bytes(graph, roles_of(graph, q), {}, edges) for q in (0, 25, 50)]
    assert np.diff(sizes).tolist() == [50 * 24, 50 * 24]


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = torch.nn.ModuleDict({"title": torch.nn.Linear(8, 16), "genre": torch.nn.Linear(4, 16)})

    def forward(self, batch) -> Tensor:
        title, genre = (self.lin[t](batch[t].x).relu() for t in ("title", "genre"))
        for edge_type, source in ((CO, title), (HAS, genre)):
            src, dst = batch[edge_type].edge_index
            src = src if edge_type == CO else dst
            to = batch[edge_type].edge_index[1] if edge_type == CO else batch[edge_type].edge_index[0]
            title = title + torch.zeros_like(title).index_add(0, to, source[src].sigmoid())
        return title.square().mean()


def test_a_probe_predicts_a_batch_that_it_never_saw():
    graph = a_graph(20_000)
    roles = roles_of(graph)
    model = Model()
    calls = []

    def step(batch) -> None:
        calls.append(batch["title"].num_nodes)
        model(batch).backward()

    found = probe(step, graph, roles)
    assert found.error < 0.02 and len(calls) == 6 and max(calls) <= 4000
    whole = tiny_batch(graph, roles, 1.0, 1.0, 0)
    edges = sum(whole[e].edge_index.size(1) for e in (CO, HAS, SAW))
    assert found.peak_bytes(20_000, edges) == pytest.approx(peak_of(step, whole), rel=0.02)
    chosen = plan(graph, roles, gpu_memory="5MB", probe=found)
    assert chosen.num_parts > 1 and chosen.step_bytes == found.peak_bytes(chosen.entities, chosen.edges) <= HEADROOM * 5e6


def test_the_peak_of_a_step_is_what_it_allocates():
    batch = tiny_batch(a_graph(), roles_of(a_graph()), 1.0, 1.0, 0)
    held = sum(v.numel() * v.element_size() for s in batch.stores for v in s.values() if isinstance(v, Tensor))

    def step(_) -> None:
        first = torch.empty(1_000_000, dtype=torch.uint8)
        del first
        torch.empty(3_000_000, dtype=torch.uint8)

    assert peak_of(step, batch) == held + 3_000_000


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_a_tiny_batch_is_valid_and_as_large_as_said(share):
    graph = a_graph()
    batch = tiny_batch(graph, roles_of(graph, 10), share, 1.0, 0)
    batch.validate()
    assert batch["title"].num_nodes == 400 * share and batch["genre"].num_nodes == 12 and batch["user"].num_nodes == 10
    assert batch[CO].edge_index.size(1) == 2000 * share and batch[SAW].edge_index.size(1) == 800 * share / 5
    if share == 1.0:
        assert torch.equal(batch[CO].edge_index[1], graph.edges[CO][1].sort().values)


def test_a_probe_needs_entities():
    graph = Graph({"t": 0, "s": 3}, {})
    roles = dataclasses.replace(Schema(entity="t").resolve({"t": 1}, []), nodes={"t": "entity", "s": "semantic"})
    with pytest.raises(HaspError, match="a probe needs entities"):
        probe(lambda batch: None, graph, roles)


def test_weights_and_partitioners_have_their_own_need_of_memory(monkeypatch):
    graph = a_graph()
    roles = roles_of(graph)
    needs = {b: plan(graph, roles, num_parts=4, backend=b).peak_build_bytes for b in ("metis", "multilevel", "random")}
    assert needs["metis"] > needs["multilevel"] >= needs["random"]  # making the CSR may take the most
    assert plan(graph, roles, num_parts=4).peak_build_bytes == needs["metis"]  # auto: few EELs
    monkeypatch.setattr("hasp.backends.auto.LARGE", 1000)
    chosen = plan(graph, roles, num_parts=4)
    assert chosen.peak_build_bytes == needs["multilevel"]
    assert "partitioner      multilevel (2,000 EELs are many)" in chosen.explain()
    weighted = plan(graph, roles, num_parts=4, backend="random", weight="time")
    assert weighted.peak_build_bytes - needs["random"] <= 2000 * 110 and weighted.peak_build_bytes > needs["random"]
    assert weighted.scratch_peak_bytes > plan(graph, roles, num_parts=4, backend="random").scratch_peak_bytes


def test_every_partitioner_is_counted():
    from hasp.backends import BACKENDS

    assert set(BACKENDS) <= set(BACKEND_BYTES)


def test_an_unknown_partitioner_is_not_planned_for():
    graph = a_graph()
    for budget in ({"num_parts": 4}, {"max_part_bytes": "1MB"}):
        with pytest.raises(HaspError, match=r"backend='magic' is not one of .*'metis'"):
            plan(graph, roles_of(graph), backend="magic", **budget)
