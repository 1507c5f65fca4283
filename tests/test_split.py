"""The split: which entities are linked, and the graph that the partitioner gets, over several types at once."""

import numpy as np
import pytest
import torch
from hypothesis import given
from naive import csr as slow
from naive import report as slow_report
from strategies import cases
from torch_geometric.data import HeteroData

from hasp import Graph, HASPData, HaspError, Schema
from hasp.split import entity_offsets, split

LIKE = ("t", "like", "t")


def numbered(case):
    """All entities in one numbering, and the EELs as pairs of these numbers."""
    number, total = {}, 0
    for node_type in case.roles.entity:
        for i in range(int(case.data[node_type].num_nodes)):
            number[node_type, i] = total
            total += 1
    pairs = []
    for edge_type in case.roles.eel:
        ends = case.data[edge_type].edge_index.t().tolist()
        pairs += [(number[edge_type[0], s], number[edge_type[2], d]) for s, d in ends]
    return number, total, pairs


@given(cases(sampled=False))
def test_the_graph_of_the_links(case):
    number, total, pairs = numbered(case)
    eels = split(case.graph, case.roles, threads=2)
    assert entity_offsets(case.graph, case.roles) == {
        t: min((n for (u, _), n in number.items() if u == t), default=_before(case, t)) for t in case.roles.entity
    }
    linked = sorted({i for u, v in pairs if u != v for i in (u, v)})
    assert eels.linked.tolist() == linked and eels.num_entities == total and eels.edge_weight is None
    new = {old: at for at, old in enumerate(linked)}
    indptr, indices = slow.symmetric([(new[u], new[v]) for u, v in pairs if u != v], len(linked))
    assert eels.indptr.tolist() == indptr and eels.indices.tolist() == indices
    degree = {number[node]: len(others) for node, others in slow_report.neighbours(case.data, case.roles.eel).items()}
    assert eels.degree.tolist() == [degree.get(i, 0) for i in range(total)]


def _before(case, node_type):
    types = case.roles.entity
    return sum(int(case.data[t].num_nodes) for t in types[: types.index(node_type)])


@given(cases(sampled=False, attrs=False))
def test_weights_add_up_over_repeats_directions_and_types(case):
    _, _, pairs = numbered(case)
    values = [(3 * i) % 4 / 2 for i in range(len(pairs))]
    at = 0
    for edge_type in case.roles.eel:
        count = case.data[edge_type].edge_index.size(1)
        case.data[edge_type].strength = torch.tensor(values[at : at + count])
        at += count
    eels, plain = split(case.graph, case.roles, weight="strength"), split(case.graph, case.roles)
    # Weights of 0 keep their edge: the graph is that without weights.
    assert eels.linked.tolist() == plain.linked.tolist()
    assert eels.indptr.tolist() == plain.indptr.tolist() and eels.indices.tolist() == plain.indices.tolist()
    if not case.roles.eel:
        assert eels.edge_weight is None
        return
    total = slow.weights(pairs, values)
    row = np.repeat(eels.linked, np.diff(eels.indptr)).tolist()
    column = eels.linked[eels.indices].tolist()
    sums = np.array([total[u, v] for u, v in zip(row, column, strict=True)])
    expected = np.clip(np.rint(sums * 100 / (sums.mean() or 1)), 1, 100_000) if sums.size else sums
    assert np.abs(eels.edge_weight - expected).max(initial=0) <= 1
    back = {(u, v): w for u, v, w in zip(row, column, eels.edge_weight.tolist(), strict=True)}
    assert all(back[v, u] == w >= 1 for (u, v), w in back.items())


@pytest.mark.parametrize("weight", [1e308, 5e-324, 0.0])
def test_weights_of_any_size_do_not_overflow(weight):
    data = chain(torch.full((5,), weight, dtype=torch.float64))
    case = Schema(entity="t").resolve({"t": 6}, [LIKE])
    assert split(Graph.from_hetero_data(data), case, weight="w").edge_weight.min() >= 1


def chain(weight):
    data = HeteroData()
    data["t"].num_nodes = 6
    data[LIKE].edge_index = torch.stack([torch.arange(5), torch.arange(1, 6)])
    data[LIKE].w = weight
    return data


@pytest.mark.filterwarnings("ignore:.* infinite values:hasp.graph.HaspWarning")
@pytest.mark.parametrize(
    ("weight", "text"),
    [
        (torch.ones(5, 2), r"weight='w': one number per EEL, but .* has \['w'\]; name one of these or leave it out"),
        (-torch.ones(5), "weight='w': EEL weights are finite and >= 0, 5 of .* are not; clean them"),
        (torch.tensor([1, 2, torch.inf, 1, 1]), "weight='w': EEL weights are finite and >= 0, 1 of .* are not"),
    ],
)
def test_weights_that_are_none(weight, text):
    with pytest.raises(HaspError, match=text):
        HASPData(chain(weight), Schema(entity="t"), num_parts=2, weight="w")


def test_a_weight_that_is_not_there():
    with pytest.raises(HaspError, match=r"weight='heat': one number per EEL, but .* has \['w'\]"):
        HASPData(chain(torch.ones(5)), Schema(entity="t"), num_parts=2, weight="heat")
