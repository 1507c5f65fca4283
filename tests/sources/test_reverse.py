"""Reverse edge types: against PyG's ``ToUndirected`` where the two must agree, against a naive count elsewhere."""

from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.transforms import ToUndirected

from hasp.graph import Graph
from hasp.sources.reverse import add_reverse

LINK = ("title", "co", "title")
HAS = ("title", "has", "genre")


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    def edges(most: int, other: int) -> tuple[torch.Tensor, torch.Tensor]:
        pairs = draw(st.lists(st.tuples(st.integers(0, most - 1), st.integers(0, other - 1)), max_size=12))
        both = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
        return both[:, 0], both[:, 1]

    ends = {LINK: edges(5, 5), HAS: edges(5, 3)}
    attrs = {e: {"w": torch.arange(ends[e][0].numel()) + 100} for e in ends}
    return Graph({"title": 5, "genre": 3}, ends, {}, attrs)


def pairs(graph: Graph, edge_type) -> list[tuple[int, int]]:
    source, destination = graph.edges[edge_type]
    return list(zip(source.tolist(), destination.tolist(), strict=True))


@given(graphs())
def test_as_to_undirected_up_to_copies_and_order(graph: Graph) -> None:
    bare = Graph(graph.num_nodes, graph.edges)
    expected = ToUndirected()(bare.to_hetero_data())
    got = add_reverse(bare)
    got.check()
    assert set(got.edges) == set(expected.edge_types)
    for edge_type in expected.edge_types:
        ours, theirs = pairs(got, edge_type), [tuple(p) for p in expected[edge_type].edge_index.t().tolist()]
        assert set(ours) == set(theirs)
        if edge_type != LINK:
            assert ours == theirs


@given(graphs())
def test_every_edge_has_its_opposite_and_its_attributes(graph: Graph) -> None:
    got = add_reverse(graph)
    before, after = Counter(pairs(graph, LINK)), Counter(pairs(got, LINK))
    # Naive: an edge is turned round exactly if no edge of the input runs the other way.
    extra = Counter({(b, a): n for (a, b), n in before.items() if (b, a) not in before})
    assert after == before + extra
    weight = dict(zip(pairs(graph, LINK), graph.edge_attrs[LINK]["w"].tolist(), strict=True))
    count = graph.num_edges(LINK)
    assert pairs(got, LINK)[:count] == pairs(graph, LINK)
    assert got.edge_attrs[LINK]["w"][:count].tolist() == graph.edge_attrs[LINK]["w"].tolist()
    turned = Counter(zip(pairs(got, LINK)[count:], got.edge_attrs[LINK]["w"][count:].tolist(), strict=True))
    assert sum(turned.values()) == sum(extra.values())
    assert all(before[(b, a)] > 1 or weight[(b, a)] == w for (a, b), w in turned)


@given(graphs())
def test_a_second_call_changes_nothing(graph: Graph) -> None:
    once = add_reverse(graph)
    assert add_reverse(once).fingerprint() == once.fingerprint()


def test_reverse_types_share_their_tensors() -> None:
    source, destination, weight = torch.tensor([0, 1]), torch.tensor([2, 0]), torch.rand(2)
    graph = Graph({"title": 2, "genre": 3}, {HAS: (source, destination)}, {}, {HAS: {"w": weight}})
    got = add_reverse(graph)
    back = ("genre", "rev_has", "title")
    assert got.edges[back][0] is destination and got.edges[back][1] is source
    assert got.edge_attrs[back]["w"] is weight
    assert list(graph.edges) == [HAS]  # the input is as it was
