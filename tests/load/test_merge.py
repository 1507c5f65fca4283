"""Merging, against ``HeteroData.subgraph`` of the whole graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from load_fakes import build, example, random_graph, same, stores
from torch import Tensor

from hasp.errors import HaspError
from hasp.load import join, runs
from hasp.load import merge as merging
from hasp.load.merge import merge
from hasp.part import Edges
from hasp.rows import join_rows, room, take_rows
from hasp.sample import sample


def naive(data: Any, store: Any, parts: list[int], epoch: int) -> Any:
    """The induced subgraph, by the definition, with the ids and the order of edges that are promised."""
    roles = store.manifest.roles
    whole = data.clone()
    whole.generate_ids()
    whole["title"].odd = whole["title"].odd.view(torch.int16)  # older torch indexes no uint16
    keep = {}
    for t, role in roles.nodes.items():
        ids = np.arange(data[t].num_nodes)
        if role == "entity":
            ids = ids[np.isin(store.labels[t].numpy(), parts)]
        elif role == "sampled":
            drawn = [sample(store.manifest.config["seed"], p, epoch, t, ids.size, roles.quota[t]) for p in parts]
            ids = np.array(sorted({int(v) for each in drawn for v in each}), dtype=np.int64)
        keep[t] = torch.from_numpy(ids)
    # An empty index is taken for a mask by subgraph(); a mask always works.
    masks = {}
    for t, ids in keep.items():
        masks[t] = torch.zeros(data[t].num_nodes, dtype=torch.bool)
        masks[t][ids] = True
    out = whole.subgraph(masks)
    out["title"].odd = out["title"].odd.view(torch.uint16)
    every = all(int(p) in parts for t in roles.entity for p in store.labels[t])
    for t in () if every else roles.entity:  # subgraph() leaves them by id; some parts stand one after the other
        rank = torch.from_numpy(np.lexsort((keep[t].numpy(), store.labels[t].numpy()[keep[t].numpy()])))
        row = torch.empty_like(rank)
        row[rank] = torch.arange(rank.numel())
        for key, value in list(out[t].items()):
            if isinstance(value, Tensor):
                out[t][key] = take_rows(value, rank)
        for e in data.edge_types:
            for end in (0, 1):
                if e[2 * end] == t:
                    out[e].edge_index[end] = row[out[e].edge_index[end]]
    for e in data.edge_types:
        index, e_id = out[e].edge_index, out[e].e_id
        order = sorted(range(e_id.numel()), key=lambda i, index=index, e_id=e_id: (int(index[1, i]), int(e_id[i])))
        for key, value in list(out[e].items()):
            out[e][key] = value[:, order] if key == "edge_index" else value[order]
    return out


def check_against_naive(data: Any, store: Any, parts: list[int], epoch: int) -> None:
    batch, expected = merge(store, parts, epoch=epoch), naive(data, store, parts, epoch)
    assert batch.metadata() == data.metadata()
    for want in [*expected.node_stores, *expected.edge_stores]:
        got = batch[want._key]
        for key, value in want.items():
            if isinstance(value, Tensor):
                assert got[key].dtype == value.dtype, (want._key, key)
                assert got[key].shape == value.shape, (want._key, key)
                assert torch.equal(got[key], value), (want._key, key)
    for e in data.edge_types:
        # n_id[edge_index] is the source's column e_id
        ends = torch.stack([batch[e[0]].n_id[batch[e].edge_index[0]], batch[e[2]].n_id[batch[e].edge_index[1]]])
        assert torch.equal(ends, data[e].edge_index[:, batch[e].e_id])
    for t in data.node_types:
        assert batch[t].num_nodes == batch[t].n_id.numel()
    for t in store.manifest.roles.entity:
        assert torch.equal(batch[t].owner_part, store.labels[t][batch[t].n_id])
        assert batch[t].batch_size == batch[t].num_nodes
        assert torch.equal(batch[t].input_id, batch[t].n_id)
    assert batch.part_id.tolist() == sorted(parts)


@settings(max_examples=120, deadline=None)
@given(stores(), st.data())
def test_a_batch_is_the_induced_subgraph(made: Any, draw: Any) -> None:
    data, store = made
    num_parts = store.manifest.config["num_parts"]
    parts = draw.draw(st.lists(st.integers(0, num_parts - 1), unique=True, max_size=num_parts))
    check_against_naive(data, store, parts, draw.draw(st.integers(0, 3)))


@settings(max_examples=25, deadline=None)
@given(stores(), st.data())
def test_the_order_of_parts_does_not_matter(made: Any, draw: Any) -> None:
    _, store = made
    parts = list(range(store.manifest.config["num_parts"]))
    same(merge(store, parts), merge(store, draw.draw(st.permutations(parts))))


@settings(max_examples=25, deadline=None)
@given(stores(), st.data())
def test_numbers_too_wide_for_one_key_are_sorted_otherwise(made: Any, draw: Any) -> None:
    _, store = made
    num_parts = store.manifest.config["num_parts"]
    parts = draw.draw(st.lists(st.integers(0, num_parts - 1), unique=True, max_size=num_parts))
    expected = merge(store, parts)
    for bits in (0, 4, 9):  # nothing fits, or only the small types do
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runs, "_BITS", bits)
            same(merge(store, parts), expected)


@settings(max_examples=25, deadline=None)
@given(stores(), st.data())
def test_other_dtypes_of_the_ids_are_the_same_numbers(made: Any, draw: Any) -> None:
    data, store = made
    num_parts = store.manifest.config["num_parts"]
    parts = draw.draw(st.lists(st.integers(0, num_parts - 1), unique=True, max_size=num_parts))
    wide, narrow, stored = (merge(store, parts, index_dtype=d) for d in (torch.int64, torch.int32, None))
    for e in data.edge_types:
        assert [b[e].edge_index.dtype for b in (wide, narrow, stored)] == [torch.int64, torch.int32, torch.int32]
        assert [b[e].e_id.dtype for b in (wide, narrow, stored)] == [torch.int64, torch.int64, torch.int32]
        for batch in (narrow, stored):
            assert batch[e].edge_index.equal(wide[e].edge_index.to(batch[e].edge_index.dtype))
            assert batch[e].e_id.equal(wide[e].e_id.to(batch[e].e_id.dtype))
    for t in store.manifest.roles.entity:
        assert stored[t].n_id.dtype == stored[t].input_id.dtype == torch.int32
    for t in data.node_types:
        assert stored[t].n_id.equal(wide[t].n_id.to(stored[t].n_id.dtype))


def test_ids_as_stored_are_not_copied() -> None:
    _, store = example()
    batch, part = merge(store, [2], index_dtype=None), store.part(2)
    for t, nodes in part.nodes.items():
        assert nodes.n_id is not None
        assert batch[t].n_id.data_ptr() == nodes.n_id.data_ptr()
    for e, edges in part.edges.items():
        if "talent" not in e:
            assert batch[e].edge_index.data_ptr() == edges.edge_index.data_ptr()
            assert batch[e].e_id.data_ptr() == edges.e_id.data_ptr()


def test_a_storage_that_is_no_dictionary_is_set_one_by_one() -> None:
    found: dict[str, int] = {}

    class Other:
        def __setitem__(self, name: str, value: int) -> None:
            found[name] = value

    merging._fill(Other(), {"x": 1, "n_id": 2})
    assert found == {"x": 1, "n_id": 2}


def test_all_parts_with_full_quotas_are_the_input() -> None:
    data, store = example()
    store.manifest.roles.quota["talent"] = 9  # type: ignore[index]
    batch = merge(store, range(6))
    for t in data.node_types:
        assert torch.equal(batch[t].n_id, torch.arange(data[t].num_nodes))
        assert torch.equal(batch[t].x, data[t].x)
    for e in data.edge_types:
        order = sorted(range(data[e].num_edges), key=lambda i, e=e: (int(data[e].edge_index[1, i]), i))
        assert batch[e].e_id.tolist() == order
        assert torch.equal(batch[e].edge_index, data[e].edge_index[:, order])


def test_every_batch_has_the_same_metadata_dtypes_and_widths() -> None:
    rng = np.random.default_rng(1)
    data = random_graph(rng, {"title": 3, "game": 0, "genre": 2, "talent": 0}, 4)
    store = build(data, {"title": [0, 0, 2], "game": []}, 4)

    def shape(batch: Any) -> Any:
        return [
            {k: (v.dtype, v.shape[:1] if k == "edge_index" else v.shape[1:]) for k, v in s.items() if isinstance(v, Tensor)}
            for s in batch.stores
        ]

    expected = shape(merge(store, [0]))
    for parts in ([], [1], [2, 3], [0, 1, 2, 3]):
        batch = merge(store, parts)
        assert shape(batch) == expected
        assert batch.metadata() == data.metadata()
        assert batch.validate()


def test_padding_has_no_entity_and_all_semantic_nodes() -> None:
    data, store = example()
    batch = merge(store, [])
    assert batch["title"].num_nodes == batch["game"].num_nodes == batch["talent"].num_nodes == 0
    assert batch["title"].x.shape == (0, 2) and batch["title"].odd.dtype == torch.uint16
    assert torch.equal(batch["genre"].x, data["genre"].x)
    assert batch["genre", "is", "genre"].num_edges == data["genre", "is", "genre"].num_edges
    assert batch["title", "co", "title"].edge_attr.shape == (0, 3)
    assert batch.part_id.numel() == 0 and batch.part_id.dtype == torch.int64


def test_one_part_is_not_copied() -> None:
    _, store = example()
    batch = merge(store, [2], index_dtype=torch.int32)
    part = store.part(2)
    assert batch["title"].x.data_ptr() == part.nodes["title"].attrs["x"].data_ptr()
    assert batch["genre"].x.data_ptr() == store.shared.nodes["genre"].attrs["x"].data_ptr()
    for e in (("title", "co", "title"), ("title", "has", "genre")):
        assert batch[e].edge_index.data_ptr() == part.edges[e].edge_index.data_ptr()
        assert batch[e].edge_index.dtype == torch.int32 and batch[e].e_id.dtype == torch.int64


def test_the_cut_is_only_read_where_it_is_needed() -> None:
    _, store = example()
    poisoned = store.cut.edges["title", "co", "title"]
    wanted = merge(store, [1, 4])
    pairs = poisoned.pairs.tolist()
    for row, pair in enumerate(pairs):
        if pair not in ([1, 4], [4, 1]):
            poisoned.edge_index[:, int(poisoned.ptr[row]) : int(poisoned.ptr[row + 1])] = 10**6  # out of range if read
    same(merge(store, [4, 1]), wanted)


def test_samples_follow_the_epoch_and_the_part() -> None:
    _, store = example()
    seen = {(p, e): tuple(merge(store, [p], epoch=e)["talent"].n_id.tolist()) for p in range(3) for e in range(3)}
    assert len(set(seen.values())) > 3
    assert all(len(v) == 3 for v in seen.values())
    assert set(merge(store, [0, 1], epoch=2)["talent"].n_id.tolist()) == {*seen[0, 2], *seen[1, 2]}


@pytest.mark.parametrize(
    ("parts", "text"),
    [([6], "numbered 0..5"), ([-1], "numbered 0..5"), ([1, 1], "part 1 twice")],
)
def test_wrong_parts_are_refused(parts: list[int], text: str) -> None:
    _, store = example()
    with pytest.raises(HaspError, match=text):
        merge(store, parts)
    with pytest.raises(HaspError, match="index_dtype"):
        merge(store, [0], index_dtype=torch.int16)


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.bfloat16, torch.bool])
def test_rows_are_joined_whatever_the_dtype(dtype: torch.dtype) -> None:
    for width in (1, 2, 3, 0):
        value = torch.arange(3 * width).view(3, width).to(dtype)
        joined = join_rows([value, value[:1], value[1:]])
        assert joined.dtype == dtype
        expected = torch.stack([value[i] for i in (0, 1, 2, 0, 1, 2)])
        assert torch.equal(joined.view(torch.uint8), expected.view(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.bfloat16, torch.bool])
def test_rows_of_every_dtype(dtype: torch.dtype) -> None:
    value = torch.arange(8).view(4, 2).to(dtype)
    got = take_rows(value, torch.tensor([3, 0]))
    assert got.dtype == dtype
    assert torch.equal(got.view(torch.uint8), torch.stack([value[3], value[0]]).view(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.uint16, torch.float8_e4m3fn, torch.bool, torch.float64, torch.complex128])
@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 0), (2, 1, 4)])
def test_room_is_rows_of_the_same_kind(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    like = torch.zeros(shape, dtype=torch.uint8).to(dtype)
    for count in (0, 5):
        out, expected = room(like, count), like.new_empty((count, *shape[1:]))
        assert (out.dtype, out.shape, out.stride()) == (dtype, expected.shape, expected.stride())
    assert join_rows([like, like]).shape == (2 * shape[0], *shape[1:])


@pytest.mark.parametrize("ptr", [[0, 3], [-1, 2], [2, 1]])
def test_a_cut_whose_groups_lie_outside_is_refused(ptr: list[int]) -> None:
    """Compiled code would read on: the file may not have been hashed."""
    cut = Edges(torch.zeros(2, 2), torch.zeros(2), {}, torch.tensor([[0, 1]], dtype=torch.int32), torch.tensor(ptr))
    with pytest.raises(HaspError, match="within its 2 edges, but one does not; rebuild"):
        join._groups(cut, [0, 1])
