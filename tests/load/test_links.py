"""Link supervision: which pairs, which negatives, and what still carries messages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from load_fakes import build, example, random_graph, same, stores
from torch_geometric.data import HeteroData
from torch_geometric.sampler import NegativeSampling

from hasp.errors import HaspError
from hasp.load.links import reverse_of
from hasp.load.loader import HASPLoader
from hasp.load.merge import merge
from hasp.schema import Schema

CO, LIKE, REV = ("title", "co", "title"), ("title", "like", "game"), ("game", "rev_like", "title")


def global_pairs(batch: Any, edge_type: Any, index: Any) -> list[tuple[int, int]]:
    ends = batch[edge_type[0]].n_id[index[0]].tolist(), batch[edge_type[2]].n_id[index[1]].tolist()
    return list(zip(*ends, strict=True))


def joined(data: Any, edge_type: Any) -> set[tuple[int, int]]:
    """Every pair that an EEL of the whole graph joins, in the direction of ``edge_type``."""
    out = set()
    for e in (CO, LIKE, REV):
        for u, v in data[e].edge_index.t().tolist():
            if (e[0], e[2]) == (edge_type[0], edge_type[2]):
                out.add((u, v))
            if (e[2], e[0]) == (edge_type[0], edge_type[2]):
                out.add((v, u))
    return out


@settings(max_examples=60, deadline=None)
@given(stores(), st.sampled_from([CO, LIKE, REV]), st.integers(1, 3), st.sampled_from(["binary", "triplet"]), st.data())
def test_no_negative_is_a_link_of_the_whole_graph(made: Any, edge_type: Any, q: int, mode: str, draw: Any) -> None:
    data, store = made
    amount = draw.draw(st.integers(1, 3))
    ratio = draw.draw(st.sampled_from([0.0, 0.4]))
    loader = HASPLoader(
        store,
        q,
        shuffle=True,
        edge_label_index=edge_type,
        neg_sampling={"mode": mode, "amount": amount},
        disjoint_train_ratio=ratio,
    )
    known = joined(data, edge_type)
    for batch in loader:
        if mode == "binary":
            label = batch[edge_type].edge_label
            index = batch[edge_type].edge_label_index
            assert index.shape == (2, label.numel()) and label.dtype == torch.float32
            positives = int(label.sum())
            assert batch[edge_type].input_id.numel() == positives
            assert label.tolist() == [1.0] * positives + [0.0] * (label.numel() - positives)
            assert label.numel() - positives in (0, positives * amount)
            negatives = global_pairs(batch, edge_type, index[:, positives:])
            good = global_pairs(batch, edge_type, index[:, :positives])
        else:
            source, positive = batch[edge_type[0]].src_index, batch[edge_type[2]].dst_pos_index
            negative = batch[edge_type[2]].dst_neg_index
            assert negative.shape == ((source.numel(),) if amount == 1 else (source.numel(), amount))
            good = global_pairs(batch, edge_type, [source, positive])
            negatives = [
                p for j in range(amount) for p in global_pairs(batch, edge_type, [source, negative.view(-1, amount)[:, j]])
            ]
            assert "edge_label_index" not in batch[edge_type] and "edge_label" not in batch[edge_type]
        assert set(good) <= known
        assert not set(negatives) & known
        if edge_type == CO:
            assert all(a != b for a, b in negatives) and not {(b, a) for a, b in negatives} & known
        columns = data[edge_type].edge_index[:, batch[edge_type].input_id].t().tolist()
        assert [tuple(c) for c in columns] == good


@settings(max_examples=40, deadline=None)
@given(stores(), st.sampled_from([CO, LIKE]))
def test_edges_alone_give_each_pair_once(made: Any, edge_type: Any) -> None:
    data, store = made
    everything = list(range(store.manifest.config["num_parts"]))
    batch = HASPLoader(store, edge_label_index=(edge_type, None))(everything)
    pairs = global_pairs(batch, edge_type, batch[edge_type].edge_label_index)
    undirected = {frozenset(p) if edge_type == CO else p for p in map(tuple, data[edge_type].edge_index.t().tolist())}
    expected = {p for p in undirected if edge_type != CO or len(p) == 2}
    assert len(pairs) == len(expected)
    assert {frozenset(p) if edge_type == CO else p for p in pairs} == expected
    assert "edge_label" not in batch[edge_type]
    # each is the first edge of its pair in the source
    first: dict[Any, int] = {}
    for i, p in enumerate(map(tuple, data[edge_type].edge_index.t().tolist())):
        first.setdefault(frozenset(p) if edge_type == CO else p, i)
    assert set(batch[edge_type].input_id.tolist()) == {first[p] for p in expected}


@settings(max_examples=60, deadline=None)
@given(stores(), st.sampled_from([CO, LIKE, ("title", "has", "genre")]), st.integers(0, 40), st.integers(0, 99), st.data())
def test_given_pairs_are_those_with_both_ends_in_the_batch(made: Any, edge_type: Any, n: int, seed: int, draw: Any) -> None:
    data, store = made
    rng = np.random.default_rng(seed)
    ends = [data[edge_type[i]].num_nodes for i in (0, 2)]
    pairs = torch.from_numpy(np.stack([rng.integers(0, max(c, 1), n if min(ends) else 0) for c in ends]))
    label = torch.from_numpy(rng.integers(0, 3, pairs.size(1)))
    num_parts = store.manifest.config["num_parts"]
    parts = draw.draw(st.lists(st.integers(0, num_parts - 1), unique=True))
    batch = HASPLoader(store, edge_label_index=(edge_type, pairs), edge_label=label)(parts)
    inside = [
        i
        for i, (u, v) in enumerate(pairs.t().tolist())
        if u in batch[edge_type[0]].n_id.tolist() and v in batch[edge_type[2]].n_id.tolist() and parts
    ]
    assert batch[edge_type].input_id.tolist() == inside
    assert global_pairs(batch, edge_type, batch[edge_type].edge_label_index) == [tuple(pairs[:, i].tolist()) for i in inside]
    assert torch.equal(batch[edge_type].edge_label, label[inside])


def test_given_pairs_are_no_negatives_either() -> None:
    _, store = example(num_parts=2, titles=12, edges=10)
    every = torch.cartesian_prod(torch.arange(12), torch.arange(12)).t()
    held_out = every[:, :100]
    loader = HASPLoader(store, edge_label_index=(CO, held_out), neg_sampling="binary")
    banned = {frozenset(p) for p in held_out.t().tolist()}
    drawn = 0
    for batch in loader:
        index = batch[CO].edge_label_index[:, batch[CO].input_id.numel() :]
        drawn += index.size(1)
        assert not {frozenset(p) for p in global_pairs(batch, CO, index)} & banned
    assert drawn


def test_labels_move_up_where_zero_means_negative() -> None:
    data, store = example()
    pairs = data[CO].edge_index
    label = torch.arange(pairs.size(1)) % 3
    batch = HASPLoader(store, edge_label_index=(CO, pairs), edge_label=label, neg_sampling="binary")([0, 1])
    positives = batch[CO].input_id.numel()
    assert positives and torch.equal(batch[CO].edge_label[:positives], label[batch[CO].input_id] + 1)
    assert (batch[CO].edge_label[positives:] == 0).all() and batch[CO].edge_label.dtype == torch.int64
    by_edge = HASPLoader(store, edge_label_index=CO, edge_label=label)([0, 1])
    assert torch.equal(by_edge[CO].edge_label, label[by_edge[CO].input_id])


@settings(max_examples=60, deadline=None)
@given(stores(), st.sampled_from([CO, LIKE, REV]), st.floats(0.05, 1.0), st.integers(0, 5), st.data())
def test_disjoint_pairs_carry_no_messages(made: Any, edge_type: Any, ratio: float, epoch: int, draw: Any) -> None:
    data, store = made
    num_parts = store.manifest.config["num_parts"]
    parts = draw.draw(st.lists(st.integers(0, num_parts - 1), unique=True, min_size=1))
    loader = HASPLoader(store, edge_label_index=edge_type, disjoint_train_ratio=ratio, neg_sampling="binary")
    loader.set_epoch(epoch)
    batch, whole = loader(parts), merge(store, parts, epoch=epoch)
    count = batch[edge_type].input_id.numel()
    supervised = {
        frozenset(enumerate(p)) if edge_type != CO else frozenset(p)
        for p in global_pairs(batch, edge_type, batch[edge_type].edge_label_index[:, :count])
    }
    assert len(supervised) == count
    for e in data.edge_types:
        if e not in (edge_type, reverse_of(edge_type)):
            for key in whole[e]:
                assert torch.equal(whole[e][key], batch[e][key])
            continue
        keep = []
        for i, (u, v) in enumerate(global_pairs(whole, e, whole[e].edge_index)):
            pair = frozenset((u, v)) if edge_type == CO else frozenset(enumerate((u, v) if e == edge_type else (v, u)))
            keep += [] if pair in supervised and (u != v or edge_type != CO) else [i]
        for key in whole[e]:  # every copy is gone, and all attributes with it
            value = whole[e][key]
            assert torch.equal(value[:, keep] if key == "edge_index" else value[keep], batch[e][key]), (e, key)
    if ratio == 1.0:
        remaining = batch[edge_type].edge_index
        assert edge_type != CO or bool((remaining[0] == remaining[1]).all())


def test_the_disjoint_share_is_redrawn_every_epoch_and_does_not_depend_on_the_batch() -> None:
    _, store = example(titles=120, edges=2000)

    def supervised(q: int, epoch: int) -> set[frozenset[int]]:
        loader = HASPLoader(store, q, edge_label_index=CO, disjoint_train_ratio=0.3)
        loader.set_epoch(epoch)
        return {
            frozenset(p) for b in loader for p in global_pairs(b, CO, b[CO].edge_label_index) if len({*b.part_id.tolist()}) == q
        }

    whole = supervised(6, 0)
    assert supervised(1, 0) < supervised(2, 0) < whole
    pairs = HASPLoader(store, 6, edge_label_index=CO)(range(6))[CO].input_id.numel()
    assert abs(len(whole) / pairs - 0.3) < 0.05
    other = supervised(6, 1)
    assert abs(len(whole & other) / pairs - 0.09) < 0.04


def test_weights_choose_the_negatives() -> None:
    _, store = example()
    weight = torch.zeros(60)
    weight[::2] = 1
    sampling = NegativeSampling("binary", 2, src_weight=weight, dst_weight=1 - weight)
    for batch in HASPLoader(store, 2, edge_label_index=CO, neg_sampling=sampling):
        index = batch[CO].edge_label_index[:, batch[CO].input_id.numel() :]
        pairs = global_pairs(batch, CO, index)
        assert pairs and all(a % 2 == 0 and b % 2 == 1 for a, b in pairs)


def test_negatives_depend_on_seed_epoch_and_parts_only() -> None:
    _, store = example()
    make = {"edge_label_index": CO, "neg_sampling": "binary"}
    one = HASPLoader(store, **make)
    torch.manual_seed(1)
    first = one([2, 4])
    torch.manual_seed(2)
    np.random.seed(2)
    same(HASPLoader(store, 3, shuffle=True, **make)([4, 2]), first)
    one.set_epoch(1)
    for other in (one([2, 4]), HASPLoader(store, seed=1, **make)([2, 4])):
        assert torch.equal(other[CO].edge_index, first[CO].edge_index)
        assert not torch.equal(other[CO].edge_label_index, first[CO].edge_label_index)


@pytest.mark.parametrize("mode", [None, "binary", "triplet"])
def test_padding_has_the_same_stores(mode: str | None) -> None:
    _, store = example()
    loader = HASPLoader(store, edge_label_index=CO, neg_sampling=mode)
    full, empty = loader([0]), loader([])
    for a, b in zip(full.stores, empty.stores, strict=True):
        assert list(a.keys()) == list(b.keys())
        for key in a:
            if isinstance(a[key], torch.Tensor):
                assert a[key].dtype == b[key].dtype and a[key].dim() == b[key].dim(), key
    empty.validate()


def test_a_triplet_needs_a_negative() -> None:
    rng = np.random.default_rng(0)
    data = random_graph(rng, {"title": 4, "game": 0, "genre": 1, "talent": 0}, 0)
    data[CO].edge_index = torch.tensor([[0, 0, 0, 1], [1, 2, 3, 2]])
    data[CO].edge_weight, data[CO].edge_attr = torch.zeros(4), torch.zeros(4, 3)
    store = build(data, {"title": [0] * 4, "game": []}, 1)
    batch = HASPLoader(store, edge_label_index=CO, neg_sampling={"mode": "triplet", "amount": 2})([0])
    # 0 is joined to all: its three positives have no negative. 1 may only be paired with 3.
    assert batch["title"].src_index.tolist() == [1]
    assert batch["title"].dst_pos_index.tolist() == [2]
    assert batch["title"].dst_neg_index.tolist() == [[3, 3]]
    assert batch[CO].input_id.tolist() == [3]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        ({"edge_label_index": ("title", "no", "title")}, "names one of"),
        ({"edge_label_index": ("genre", "is", "genre")}, "belongs to one part"),
        ({"edge_label_index": ("title", "by", "talent")}, "belongs to one part"),
        ({"edge_label_index": "co"}, "edge_label_index is an edge type or"),
        ({"edge_label_index": (CO, torch.zeros(3, 2))}, "whole numbers"),
        ({"edge_label_index": (CO, torch.tensor([[0], [60]]))}, r"in 0..59, got 60..60"),
        ({"edge_label_index": (CO, torch.tensor([[-1], [0]]))}, r"in 0..59, got -1..-1"),
        ({"edge_label_index": CO, "edge_label": torch.zeros(3)}, "one row per pair, 300"),
        ({"edge_label_index": CO, "edge_label": torch.ones(300), "neg_sampling": "triplet"}, "no place in triplets"),
        ({"edge_label_index": CO, "neg_sampling": "many"}, "neg_sampling is"),
        ({"edge_label_index": CO, "neg_sampling": {"mode": "binary", "amount": -1}}, "neg_sampling is"),
        ({"edge_label_index": CO, "neg_sampling": NegativeSampling("binary", 1, torch.ones(3))}, "src_weight has one"),
        ({"edge_label_index": CO, "disjoint_train_ratio": 1.5}, "lies in 0..1"),
        ({"edge_label_index": (CO, torch.zeros(2, 1).long()), "disjoint_train_ratio": 0.5}, "own pairs"),
        ({"neg_sampling": "binary"}, "neg_sampling belongs to pairs"),
        ({"edge_label": torch.ones(3)}, "edge_label belongs to pairs"),
        ({"disjoint_train_ratio": 0.5}, "splits a supervised edge type"),
        ({"edge_label_index": CO, "input_nodes": "title"}, "nodes or links"),
    ],
)
def test_what_does_not_fit_is_refused(make: Any, text: str) -> None:
    _, store = example()
    with pytest.raises(HaspError, match=text):
        HASPLoader(store, **make)


def test_an_eel_between_two_types_without_its_reverse() -> None:
    rng = np.random.default_rng(5)
    data = random_graph(rng, {"title": 20, "game": 10, "genre": 1, "talent": 0}, 30)
    del data[REV]
    store = build(
        data, {"title": rng.integers(0, 2, 20), "game": rng.integers(0, 2, 10)}, 2, Schema(entity=["title", "game"], eel=[LIKE])
    )
    seen = {p for b in HASPLoader(store, 2, edge_label_index=LIKE) for p in global_pairs(b, LIKE, b[LIKE].edge_label_index)}
    assert seen == set(map(tuple, data[LIKE].edge_index.t().tolist()))


def test_a_link_of_another_eel_type_is_no_negative_either() -> None:
    data = HeteroData()
    data["title"].num_nodes = 6
    every = torch.combinations(torch.arange(6)).t()
    data[CO].edge_index = every[:, :3]
    data["title", "also", "title"].edge_index = every[:, 3:14].flip(0)  # only the pair (4, 5) is free
    store = build(data, {"title": [0] * 6}, 1, Schema(entity="title", eel=[CO, ("title", "also", "title")]))
    batch = HASPLoader(store, edge_label_index=CO, neg_sampling={"mode": "binary", "amount": 5})([0])
    index = batch[CO].edge_label_index[:, 3:]
    assert index.size(1) == 15 and {tuple(p) for p in index.t().tolist()} == {(4, 5), (5, 4)}


@settings(max_examples=40, deadline=None)
@given(stores(), st.sampled_from([CO, LIKE, REV]), st.integers(1, 3), st.integers(0, 3))
def test_the_share_that_supervises_is_the_same_with_and_without_negatives(
    made: Any, edge_type: Any, q: int, epoch: int
) -> None:
    """Without them only the edges that supervise are looked for, with them all."""
    _, store = made
    given_both = {"edge_label_index": edge_type, "disjoint_train_ratio": 0.5}
    alone = HASPLoader(store, q, **given_both)
    beside = HASPLoader(store, q, neg_sampling="binary", **given_both)
    for loader in (alone, beside):
        loader.set_epoch(epoch)
    for a, b in zip(alone, beside, strict=True):
        positive = b[edge_type].edge_label > 0
        assert torch.equal(a[edge_type].edge_label_index, b[edge_type].edge_label_index[:, positive])
        assert torch.equal(a[edge_type].input_id, b[edge_type].input_id)
        for other in a.edge_types:
            assert torch.equal(a[other].edge_index, b[other].edge_index)
            assert torch.equal(a[other].e_id, b[other].e_id)


@pytest.mark.parametrize("bad", [-1, 60])
@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_rows_outside_the_batch_are_refused(bad: int, ratio: float) -> None:
    """Where a file was damaged and nobody verified it: compiled code would read what lies beside the array."""
    _, store = example()
    loader = HASPLoader(store, 6, edge_label_index=CO, disjoint_train_ratio=ratio)
    batch = merge(store, range(6))
    batch[CO].edge_index[0, 3] = bad
    with pytest.raises(HaspError, match=r"joins rows of the batch, but one is none of 'title'; rebuild the parts"):
        loader._links.apply(batch, 0)
