"""GCN's weights: degrees of the whole graph in every part, what a part hears scaled up, new entities."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from train_graphs import EEL, small_parts
from zoo_graphs import NODES, graph

from hasp import HASPData, HASPLoader, Schema
from hasp.errors import HaspError
from hasp_models.zoo.gcn import GCN, full_degrees, with_degrees
from hasp_models.zoo.graph_model import embed
from hasp_models.zoo.sparse import joined_csr, weighted_sum


def test_degrees_are_those_of_the_whole_graph_however_it_is_cut() -> None:
    for sample, seed in ((None, 0), (None, 2), ({"genre": 2}, 0)):
        data = graph(seed, titles=30, genres=4, authors=3, most=90)
        want = with_degrees(data)
        schema = Schema(entity="title", eel=[EEL], sample=sample)
        for num_parts in (1, 4):
            found = full_degrees(HASPData(data, schema, num_parts=num_parts, log=False))
            for t in NODES:
                assert found[t].tolist() == want[t].full_degree.tolist()
        assert "full_degree" not in data["title"]


def test_a_part_does_not_shift_the_weights_of_gcn() -> None:
    data = graph(0, titles=30, genres=4, authors=3, most=90)
    parts = HASPData(data, Schema(entity="title", eel=[EEL]), num_parts=3, log=False)
    model, plain = GCN.from_data(parts, dim=4, rescale=False), GCN.from_data(parts, dim=4, degrees=None)
    whole = model.edges(data)

    def weights(edges: Any, names: list[tuple[str, int]]) -> dict[Any, float]:
        src, row = edges.csr.src.tolist(), edges.csr.row.tolist()
        return {(names[s], names[d]): float(w) for s, d, w in zip(src, row, edges.weight, strict=True)}

    every = weights(whole, [(t, i) for t in NODES for i in range(int(data[t].num_nodes))])
    differ = 0
    for batch in HASPLoader(parts):
        names = [(t, i) for t in NODES for i in batch[t].n_id.tolist()]
        for pair, w in weights(model.edges(batch), names).items():
            assert w == pytest.approx(every[pair])
        differ += sum(w != pytest.approx(every[p]) for p, w in weights(plain.edges(batch), names).items())
    assert differ > 10


def test_gcn_rescales_what_a_part_hears() -> None:
    parts = small_parts()
    model = GCN.from_data(parts, dim=4)
    batch = next(b for b in HASPLoader(parts) if b["title"].num_nodes == 3)
    edges, degree = model.edges(batch), full_degrees(parts)
    sums = torch.zeros(edges.csr.num_dst).index_add(0, edges.csr.row, edges.weight)
    root = torch.cat([(degree[t][batch[t].n_id] + 1).float().rsqrt() for t in ("title", "genre")])
    here, every = edges.csr.indptr.diff(), torch.cat([degree[t][batch[t].n_id] for t in ("title", "genre")])
    for i in here.nonzero()[:, 0].tolist():
        heard = [float(root[j]) for j, d in zip(edges.csr.src.tolist(), edges.csr.row.tolist(), strict=True) if d == i]
        mean = sum(heard) / len(heard)
        assert float(sums[i]) == pytest.approx(float(root[i]) * mean * int(every[i]), rel=1e-5)


def test_new_entities_have_the_degrees_of_their_own_graph() -> None:
    data = graph(0, titles=30, genres=4, authors=3, most=90)
    data["title"].x = torch.randn(30, 5)
    model = GCN.from_data(HASPData(data, Schema(entity="title", eel=[EEL]), num_parts=2, log=False), dim=4)
    old = embed(model, data)
    data["title"].num_nodes, data["title"].x = 31, torch.cat([data["title"].x, torch.ones(1, 5)])
    torch.testing.assert_close(embed(model, data)[:30], old)
    with pytest.raises(HaspError, match=r"degrees of 30 nodes of 'title', got n_id 30"):
        model(data)


def test_the_weighted_sum_has_gradients_for_parallel_edges() -> None:
    ends = (torch.tensor([0, 0, 2, 2, 2, 1]), torch.tensor([1, 1, 1, 0, 0, 3]))
    csr = joined_csr([(ends, 0, 0)], 4, 3)
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: weighted_sum(a, b, csr), (x, weight))
    half = weighted_sum(x.detach().bfloat16(), weight.detach().bfloat16(), csr)
    assert half.dtype == torch.float32 and half.shape == (4, 2)
