"""Entities that come later: nothing of them reaches what is trained on, and they come with what they should."""

from __future__ import annotations

import experiment_data as data
import numpy as np
import pytest
import torch

from hasp.errors import HaspError
from hasp.graph import Graph
from hasp_models.data.benchmark import Benchmark, make_benchmark
from hasp_models.data.splits import split_users
from hasp_models.experiments.graph_models import parts_of
from hasp_models.experiments.inductive import hold_out, inductive
from hasp_models.experiments.methods import METHODS
from hasp_models.triples import Triples

pytestmark = pytest.mark.usefixtures("tiny")


def altered(new: np.ndarray) -> Benchmark:
    """The catalogue with other concepts and other graph engagements for the new entities, and for no other."""
    users, items = data.engagements()
    side = split_users(users, 0)
    theirs = np.isin(items, new) & (side == 0)
    keep = ~theirs | (np.arange(items.size) % 2 == 0)  # half of their engagements are gone,
    extra = users[side == 0][:300]  # and these are new
    moved = np.concatenate([items[keep], new[np.arange(300) % new.size]])
    graph = data.graph()
    edges = dict(graph.edges)
    for edge_type, (a, b) in graph.edges.items():
        if edge_type != data.LINK:
            other = (b + 1) % graph.num_nodes[edge_type[2]]
            edges[edge_type] = (a, torch.where(torch.isin(a, torch.from_numpy(new)), other, b))
    sides = np.concatenate([side[keep], np.zeros(300, dtype=side.dtype)])
    graph = Graph(graph.num_nodes, edges)
    return make_benchmark(
        graph,
        np.concatenate([users[keep], extra]),
        moved,
        sides,
        curated=data.curated(),
        rule=data.RULE,
        weak=data.WEAK,
        shrink=2.0,
        name="made-up",
    )


def test_nothing_of_new_entities_reaches_what_is_trained_on(benchmark: Benchmark) -> None:
    new = hold_out(benchmark, seed=1)
    one, two = inductive(benchmark, new), inductive(altered(new), new)
    assert not np.array_equal(one.warm.links.indices, two.warm.links.indices)  # the change is one
    assert one.train.graph.fingerprint() == two.train.graph.fingerprint()
    for name in ("users", "items", "popularity"):
        assert np.array_equal(getattr(one.train, name), getattr(two.train, name))
    assert np.array_equal(one.train.links.indices, two.train.links.indices)
    for truth, other in zip(one.train.validation.values(), two.train.validation.values(), strict=True):
        assert np.array_equal(truth.queries, other.queries) and np.array_equal(truth.rows.indices, other.rows.indices)
    known = data.ITEMS - new.size
    graph = one.train.graph
    assert graph.num_nodes["title"] == known == one.train.num_items and one.train.items.max() < known
    assert parts_of(one.train, 2).num_nodes["title"] == known  # METIS and negatives know no other
    first, last = Triples.from_graph(graph).offsets["title"]
    assert last - first == known
    assert all(
        int(end.max()) < known for e, ends in graph.edges.items() for t, end in zip(e[::2], ends, strict=True) if t == "title"
    )
    # and training on the two gives the same weights
    made = [METHODS["semantic_gnn"].fit(some.train, METHODS["semantic_gnn"].settings(quick=True)) for some in (one, two)]
    queries = np.arange(known)
    assert torch.equal(made[0].scorer.scores(queries), made[1].scorer.scores(queries))


def test_new_entities_come_with_their_concepts_and_in_warm_with_their_links(benchmark: Benchmark) -> None:
    new = hold_out(benchmark, seed=1)
    found = inductive(benchmark, new)
    known = data.ITEMS - new.size
    for name, mask in benchmark.groups.items():
        if name != "cold":
            assert abs(mask[new].sum() - 0.2 * mask.sum()) <= 0.5 + 1e-9  # a fifth of each group
    assert found.new.tolist() == new.tolist()
    order = np.concatenate([np.setdiff1d(np.arange(data.ITEMS), new), new])
    for place, old in enumerate(order.tolist()):
        assert np.array_equal(np.sort(order[found.warm.links.row(place)]), benchmark.links.row(old))
    assert not found.cold.links.counts[known:].any() and found.cold.links.indices.max() < known
    assert np.array_equal(found.cold.links.indices, found.train.links.indices)
    for edge_type in benchmark.graph.edges:
        if edge_type not in benchmark.link_types:
            was = {(int(a), int(b)) for a, b in zip(*benchmark.graph.edges[edge_type], strict=True)}
            now = {(int(order[a]), int(b)) for a, b in zip(*found.cold.graph.edges[edge_type], strict=True)}
            assert was == now
    for name, truth in found.truths.items():
        assert truth.queries.min() >= known and truth.rows.indices.max() < data.ITEMS
        old = order[truth.queries]
        wanted = [benchmark.test[name].rows.row(i).tolist() for i in np.searchsorted(benchmark.test[name].queries, old)]
        assert [np.sort(order[truth.rows.row(i)]).tolist() for i in range(old.size)] == wanted
    with pytest.raises(HaspError, match="lies between 0 and 1"):
        hold_out(benchmark, fraction=1.0)
    with pytest.raises(HaspError, match="hold more out"):
        inductive(benchmark, np.zeros(0, dtype=np.int64))
