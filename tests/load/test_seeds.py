"""Input nodes: seeds first, as PyG's NeighborLoader."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from load_fakes import example, same, stores

from hasp.errors import HaspError
from hasp.load.loader import HASPLoader
from hasp.load.merge import merge


@settings(max_examples=100, deadline=None)
@given(stores(), st.data(), st.booleans(), st.integers(0, 99))
def test_seeds_come_first_and_the_graph_stays_the_same(made: Any, draw: Any, as_mask: bool, seed: int) -> None:
    data, store = made
    rng = np.random.default_rng(seed)
    count = data["title"].num_nodes
    mask = torch.from_numpy(rng.random(count) < 0.5)
    nodes = mask if as_mask else torch.from_numpy(rng.permutation(mask.nonzero().view(-1).numpy()))
    parts = draw.draw(st.lists(st.integers(0, store.manifest.config["num_parts"] - 1), unique=True))
    plain, batch = merge(store, parts), HASPLoader(store, input_nodes=("title", nodes))(parts)
    title = batch["title"]
    wanted = set(mask.nonzero().view(-1).tolist())
    inside = [v for v in plain["title"].n_id.tolist() if v in wanted]
    others = [v for v in plain["title"].n_id.tolist() if v not in wanted]
    assert title.n_id.tolist() == inside + others
    assert title.batch_size == len(inside) == title.input_id.numel()
    if as_mask:
        assert title.input_id.tolist() == inside  # PyG: the position in a mask is the node
    else:
        assert nodes[title.input_id].tolist() == inside
    assert batch["game"].batch_size == batch["game"].num_nodes
    for t in data.node_types:
        for key in plain[t]:
            if isinstance(plain[t][key], torch.Tensor) and key != "input_id":
                mine, other = (each[t][key].view(torch.int16) if key == "odd" else each[t][key] for each in (batch, plain))
                assert torch.equal(mine[batch[t].n_id.argsort()], other[plain[t].n_id.argsort()])
    for e in data.edge_types:
        index, e_id = batch[e].edge_index, batch[e].e_id
        ends = torch.stack([batch[e[0]].n_id[index[0]], batch[e[2]].n_id[index[1]]])
        assert torch.equal(ends, data[e].edge_index[:, e_id])
        assert sorted(e_id.tolist()) == sorted(plain[e].e_id.tolist())
        keys = list(zip(index[1].tolist(), e_id.tolist(), strict=True))
        assert keys == sorted(keys)
        for key in ("edge_weight", "edge_attr"):
            if key in data[e]:
                assert torch.equal(batch[e][key], data[e][key][e_id])


def test_a_type_alone_and_none_mean_all() -> None:
    _, store = example()
    for nodes in ("title", ("title", None), ["title", torch.ones(60, dtype=torch.bool)]):
        same(HASPLoader(store, input_nodes=nodes)([1, 2]), merge(store, [1, 2]))


def test_lists_are_taken_and_no_seed_is_fine() -> None:
    _, store = example()
    batch = HASPLoader(store, input_nodes=("title", [5, 3]))(range(6))
    assert batch["title"].n_id[:2].tolist() == [3, 5] and batch["title"].input_id.tolist() == [1, 0]
    none = HASPLoader(store, input_nodes=("title", torch.empty(0, dtype=torch.long)))([0])
    assert none["title"].batch_size == 0 and none["title"].input_id.shape == (0,)
    assert none["title"].input_id.dtype == torch.int64


def test_int32_edges_stay_int32() -> None:
    _, store = example()
    loader = HASPLoader(store, input_nodes=("title", [59, 7, 30]), index_dtype=torch.int32)
    assert all(loader([0, 5])[e].edge_index.dtype == torch.int32 for e in store.manifest.roles.edges)


@pytest.mark.parametrize(
    ("nodes", "text"),
    [
        ("genre", "of an entity type"),
        (("talent", None), "of an entity type"),
        (("title", torch.ones(3, dtype=torch.bool)), r"shape \(60,\)"),
        (("title", [1, 60]), "in 0..59, got 1..60"),
        (("title", [-1]), "in 0..59, got -1..-1"),
        (("title", [4, 9, 4]), "got 4 twice"),
        (7, "input_nodes is a node type or"),
    ],
)
def test_what_does_not_fit_is_refused(nodes: Any, text: str) -> None:
    _, store = example()
    with pytest.raises(HaspError, match=text):
        HASPLoader(store, input_nodes=nodes)
