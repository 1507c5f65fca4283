"""Tiers: every link in one of them, the strong in the strong; what is not a link stays."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.data import HeteroData

from hasp.errors import HaspError
from hasp.graph import Graph
from hasp_models.tiers import Tiers

CO, WEAK, HAS = ("title", "co", "title"), ("title", "weak", "title"), ("title", "has", "genre")


def graph(strong: list[float], weak: list[float]) -> Graph:
    def edges(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.arange(count) % 5, (torch.arange(count) * 3 + 1) % 5

    return Graph(
        {"title": 5, "genre": 2},
        {HAS: (torch.tensor([0, 1]), torch.tensor([1, 0])), CO: edges(len(strong)), WEAK: edges(len(weak))},
        {},
        {CO: {"weight": torch.tensor(strong)}, WEAK: {"weight": torch.tensor(weak)}},
        {},
        {},
    )


@given(
    st.lists(st.floats(0.0078125, 1, width=32), max_size=30),
    st.lists(st.floats(0.0078125, 1, width=32), max_size=30),
    st.lists(st.floats(0, 1), min_size=1, max_size=4),
)
def test_every_link_is_in_the_tier_of_its_weight(strong: list[float], weak: list[float], quantiles: list[float]) -> None:
    source = graph(strong, weak)
    if not strong and not weak:
        with pytest.raises(HaspError, match="weight above 0, got 0"):
            Tiers.of(source, [CO, WEAK], quantiles)
        return
    tiers = Tiers.of(source, [CO, WEAK], quantiles, power=1.5)
    out = tiers.apply(source)
    assert out.edges[HAS] is source.edges[HAS]
    assert CO not in out.edges and WEAK not in out.edges
    weights = np.array(strong + weak, dtype=np.float64)
    ends = torch.cat([torch.stack(source.edges[CO]), torch.stack(source.edges[WEAK])], dim=1)
    total = [sum(w**1.5 for w, d in zip(weights, ends[1].tolist(), strict=True) if d == node) for node in range(5)]
    shares = np.array([w**1.5 / total[d] for w, d in zip(weights, ends[1].tolist(), strict=True)])
    assert len(tiers.types) == len(tiers.bounds) + 1
    seen = 0
    for i, name in enumerate(tiers.types):
        low, high = ([-np.inf, *tiers.bounds.tolist()][i], [*tiers.bounds.tolist(), np.inf][i])
        inside = (shares >= low * (1 + 1e-6)) & (shares < high * (1 - 1e-6))  # shares at a bound may round to either side
        found = {tuple(e) for e in torch.stack(out.edges[name]).T.tolist()}
        assert {tuple(e) for e in ends[:, torch.from_numpy(inside)].T.tolist()} <= found
        assert found, "no tier is empty"
        seen += out.edges[name][0].numel()
    assert seen == weights.size
    assert list(tiers.share.values()) == sorted(tiers.share.values())
    mean = sum(tiers.weight[t] * out.edges[t][0].numel() for t in tiers.types) / seen
    assert mean == pytest.approx(float(weights.mean()), rel=1e-5)
    assert tiers.typical == pytest.approx(float(weights.mean()), rel=1e-5)


def test_shares_are_relative_to_the_destination() -> None:
    # 0 hears .8 and .2, 1 hears .08 and .02: the same shares, so the same tiers.
    ends = (torch.tensor([2, 3, 2, 3]), torch.tensor([0, 0, 1, 1]))
    source = Graph({"title": 4}, {CO: ends}, {}, {CO: {"weight": torch.tensor([0.8, 0.2, 0.08, 0.02])}}, {}, {})
    tiers = Tiers.of(source, [CO], (0.5,), power=1.0)
    assert list(tiers.share.values()) == pytest.approx([0.2, 0.8])
    weak, strong = (torch.stack(tiers.apply(source).edges[t]).tolist() for t in tiers.types)
    assert (weak, strong) == ([[3, 3], [0, 1]], [[2, 2], [0, 1]])


def test_a_batch_is_split_like_a_graph() -> None:
    source = graph([0.1, 0.9, 0.4, 0.4, 0.2], [0.2, 0.8, 0.5])
    tiers = Tiers.from_json(json.loads(json.dumps(Tiers.of(source, [CO, WEAK], (0.3, 0.6)).to_json())))
    want = tiers.apply(source)
    batch = HeteroData()
    for node_type, count in source.num_nodes.items():
        batch[node_type].num_nodes = count
    for edge_type, ends in source.edges.items():
        batch[edge_type].edge_index = torch.stack(ends)
    for edge_type in (CO, WEAK):
        batch[edge_type].weight = source.edge_attrs[edge_type]["weight"]
    found = tiers.split(batch)
    assert set(found.edge_types) == set(want.edges) and CO in batch.edge_types
    for edge_type in want.edges:
        assert torch.equal(found[edge_type].edge_index, torch.stack(want.edges[edge_type]))


def test_links_without_a_weight_are_typical() -> None:
    source = graph([0.1, 0.9], [0.2, 0.8])
    tiers = Tiers.of(source, [CO, WEAK], (0.5,))
    assert tiers.typical == pytest.approx(0.5)
    bare, same = graph([0.3, 0.0], [0.2, 0.0]), graph([0.3, 0.5], [0.2, 0.5])
    for tier in tiers.types:
        assert torch.equal(torch.stack(tiers.apply(bare).edges[tier]), torch.stack(tiers.apply(same).edges[tier]))


def test_refusals() -> None:
    with pytest.raises(HaspError, match="one node type to itself"):
        Tiers.of(graph([0.5], []), [HAS])
    with pytest.raises(HaspError, match="name the link type"):
        Tiers.of(graph([0.5], []), [("title", "other", "title")])
    with pytest.raises(HaspError, match="weight above 0"):
        Tiers.of(graph([0.5, 0.0], []), [CO])
