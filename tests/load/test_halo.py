"""Halos: against their definition, over random graphs; and that they change nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from builds import WHERE, built, equal, labels
from hypothesis import given, settings
from hypothesis import strategies as st
from load_fakes import example, same
from naive import halo as naive
from strategies import Case, cases, num_parts_for
from torch_geometric.data import HeteroData

from hasp import HaloCache, HASPData, HASPLoader, Schema
from hasp.errors import HaspError
from hasp.load.halo import Halos
from hasp.load.merge import merge

BUILDS = cases().flatmap(lambda case: st.tuples(st.just(case), num_parts_for(case)))
CO = ("title", "co", "title")


def check(case: Case, parts: Any, batch: HeteroData, chosen: list[int], epoch: int = 0) -> None:
    """Node for node, edge for edge and row for row, what the definition says."""
    roles, seed, where = case.roles, parts.manifest.config["seed"], labels(parts)
    nodes, owned = naive.nodes_of(case.data, roles.nodes, where, set(chosen), epoch, seed, roles.quota)
    edges = naive.edges_of(case.data, roles.nodes, nodes, owned)
    for t, ids in nodes.items():
        store = batch[t]
        assert store.n_id.tolist() == ids and store.num_nodes == len(ids) and store.n_id.dtype == torch.int64
        assert ("num_owned" in store) == (roles.nodes[t] == "entity")
        for key, value in case.graph.node_attrs[t].items():
            rows = value[ids]
            if key in naive.MASKS and roles.nodes[t] == "entity":
                rows[owned[t] :] = False
            assert equal(store[key], rows), (t, key)
        if roles.nodes[t] == "entity":
            assert store.num_owned == store.batch_size == owned[t] == store.input_id.numel()
            assert store.owner_part.tolist() == [where[t][i] for i in ids] and store.owner_part.dtype == torch.int32
    for e, found in edges.items():
        store = batch[e]
        assert [(s, d, k) for (s, d), k in zip(store.edge_index.t().tolist(), store.e_id.tolist(), strict=True)] == found
        for key, value in case.graph.edge_attrs[e].items():
            assert equal(store[key], value[[k for _, _, k in found]]), (e, key)


@pytest.mark.parametrize("where", WHERE)
@given(BUILDS, st.data())
def test_a_halo_is_what_the_definition_says(where: str, build: tuple[Case, int], data: Any) -> None:
    case, num_parts = build
    with built(case, num_parts, where) as parts:
        for chosen in ([], [num_parts - 1], sorted(data.draw(st.sets(st.integers(0, num_parts - 1))))):
            batch = Halos(parts.store).apply(merge(parts.store, chosen))
            check(case, parts, batch, chosen)


@settings(max_examples=30)
@given(BUILDS, st.integers(1, 3), st.integers(0, 2))
def test_an_epoch_has_every_edge_between_entities_once(build: tuple[Case, int], batch_size: int, epoch: int) -> None:
    """Every batch is of one kind, and over an epoch every edge between entities comes exactly once: where it leads."""
    case, num_parts = build
    with built(case, num_parts) as parts:
        loader = HASPLoader(parts, batch_size=batch_size, shuffle=True, halo=True)
        loader.set_epoch(epoch)
        batches = list(loader)
        for batch in batches:
            check(case, parts, batch, batch.part_id.tolist(), epoch)
        for e in case.data.edge_types:
            if {case.roles.nodes[t] for t in (e[0], e[2])} == {"entity"}:
                assert sorted(i for b in batches for i in b[e].e_id.tolist()) == list(range(case.data[e].num_edges))
        count = loader.halo_count
        assert count is not None and count.batches == len(batches)
        far = sum(b[t].num_nodes - b[t].num_owned for b in batches for t in case.roles.entity)
        assert count.rows == far and (count.bytes_read > 0) == (far > 0)


def kind(batch: HeteroData) -> Any:
    tensors = {
        (str(name), key): (value.dtype, value.size(0) if "edge" in key and "index" in key else value.shape[1:])
        for name, store in zip(batch.node_types + batch.edge_types, batch.node_stores + batch.edge_stores, strict=True)
        for key, value in store.items()
        if isinstance(value, torch.Tensor)
    }
    return batch.metadata(), [list(s.keys()) for s in batch.stores], tensors


@pytest.mark.parametrize("how", ["plain", "seeds", "links", "triplets", "pairs", "int32", "stored"])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_owned_rows_and_supervision_stay_what_they_are(how: str, batch_size: int) -> None:
    """A batch with its halo, halo taken off again, is byte for byte the batch without."""
    data, store = example()
    make: dict[str, Any] = {"shuffle": True, "seed": 3}
    if how == "seeds":
        make |= {"input_nodes": ("title", torch.randperm(60, generator=torch.Generator().manual_seed(0))[:30])}
    if how in ("links", "triplets"):
        sampling = "binary" if how == "links" else "triplet"
        make |= {"edge_label_index": CO, "neg_sampling": sampling, "disjoint_train_ratio": 0.4}
    if how == "pairs":
        make |= {"edge_label_index": (CO, torch.randint(0, 60, (2, 50), generator=torch.Generator().manual_seed(1)))}
    if how == "int32":
        make |= {"index_dtype": torch.int32}
    if how == "stored":
        make |= {"index_dtype": None}
    plain = list(HASPLoader(store, batch_size, **make))
    batches = list(HASPLoader(store, batch_size, halo=True, **make))
    padding = HASPLoader(store, batch_size, halo=True, **make)([])
    entity = ("title", "game")
    for batch, expected in zip(batches, plain, strict=True):
        assert kind(batch) == kind(padding)
        assert all(batch[t].num_nodes > batch[t].num_owned == expected[t].num_nodes for t in entity)
        for e in batch.edge_types:
            source, _, destination = e
            edges = batch[e]
            assert (edges.edge_index[1] < expected[destination].num_nodes).all()  # nothing leads to a far end
            ends = [batch[t].n_id[edges.edge_index[i].long()] for i, t in enumerate((source, destination))]
            assert torch.equal(torch.stack(ends).long(), data[e].edge_index[:, edges.e_id.long()])
            keep = edges.edge_index[0] < expected[source].num_nodes
            rows = keep.nonzero().view(-1)
            for key in ("edge_index", "e_id", "edge_weight", "edge_attr"):
                if key in edges:
                    edges[key] = edges[key][:, rows] if key == "edge_index" else edges[key][rows]
        for t in entity:
            owned = batch[t].num_owned
            assert (batch[t].owner_part[owned:, None] != batch.part_id).all()
            for key in (*data[t].keys(), "n_id", "owner_part"):
                if key != "num_nodes":
                    batch[t][key] = batch[t][key][:owned]
            batch[t].num_nodes = owned
            del batch[t]["num_owned"]
        same(batch, expected)


def test_masks_say_who_supervises() -> None:
    data = HeteroData()
    data["title"].num_nodes = 6
    data["title"].train_mask = torch.ones(6, dtype=torch.bool)
    data["title"].other_mask = torch.ones(6, dtype=torch.bool)
    data["title"].val_mask = torch.ones(6)  # no mask: numbers
    data["title", "like", "title"].edge_index = torch.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 0]])
    parts = HASPData(data, Schema(entity="title"), num_parts=2, node_part={"title": torch.tensor([0, 1] * 3)})
    for batch in HASPLoader(parts, halo=True):
        title = batch["title"]
        assert title.num_owned == 3 and title.num_nodes == 6
        assert title.train_mask.tolist() == [True] * 3 + [False] * 3
        assert title.other_mask.all() and title.val_mask.all()


@pytest.mark.parametrize("halo", [True, HaloCache(2000, "clairvoyant")])
def test_batches_made_ahead_are_the_same(halo: Any) -> None:
    _, store = example()
    ahead, plain = (HASPLoader(store, 2, shuffle=True, halo=halo, prefetch=n) for n in (2, 0))
    for _ in range(2):
        for a, b in zip(ahead, plain, strict=True):
            same(ahead([1, 3]), plain([1, 3]))  # a caller beside the thread
            same(a, b)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("per_worker", [True, False])
def test_workers_give_the_same_bytes(per_worker: bool) -> None:
    _, store = example()
    make: dict[str, Any] = {"shuffle": True, "halo": True, "edge_label_index": CO, "neg_sampling": "binary"}
    expected = list(HASPLoader(store, 2, **make))
    loader = HASPLoader(store, 2, num_workers=2, filter_per_worker=per_worker, **make)
    for a, b in zip(loader, expected, strict=True):
        same(a, b)
    assert HASPLoader(store).halo_count is None


def test_every_file_is_hashed_again_where_the_user_wants_that(tmp_path: Any) -> None:
    data, _ = example(num_parts=3, titles=12, edges=20)
    del data["title"]["odd"]
    HASPData(data, Schema(entity=["title", "game"]), num_parts=3, root=tmp_path / "parts")
    loader = HASPLoader(HASPData.open(tmp_path / "parts", verify="always"), halo=True)
    assert loader([0])["title"].num_nodes > loader([0])["title"].num_owned
    for path in (tmp_path / "parts").glob("part-0000[12]*"):
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        path.write_bytes(raw)
    with pytest.raises(HaspError, match="blake3"):
        loader([0])
