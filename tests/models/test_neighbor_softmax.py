"""NeighborSoftmax against a slow reference, and what it hides from the messages."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import HeteroData

from hasp.errors import HaspError
from hasp.graph import Graph
from hasp_models.exact import ExactSimilarity
from hasp_models.neighbor_softmax import NeighborSoftmax

CO, WEAK, HAS = ("title", "co", "title"), ("title", "weak", "title"), ("genre", "rev_has", "title")
STRENGTH = {CO: 0.8, WEAK: 0.2}
COUNT = 7
PAIRS = st.lists(st.tuples(st.integers(0, COUNT - 1), st.integers(0, COUNT - 1)), max_size=14)


def batch(co: list[tuple[int, int]], weak: list[tuple[int, int]], n_id: list[int] | None = None) -> HeteroData:
    data = HeteroData()
    data["title"].num_nodes = COUNT
    data["genre"].num_nodes = 2
    if n_id is not None:
        data["title"].n_id = torch.tensor(n_id)
    for edge_type, pairs in ((CO, co), (WEAK, weak)):
        index = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
        data[edge_type].edge_index = torch.cat([index, index.flip(0)], dim=1)
        data[edge_type].weight = torch.arange(data[edge_type].edge_index.size(1)).float()
    data[HAS].edge_index = torch.tensor([[0, 1], [2, 3]])
    return data


class Recorder:
    """A model that returns fixed vectors and keeps the batch that it saw."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows

    def __call__(self, seen: HeteroData) -> dict[str, torch.Tensor]:
        self.seen = seen
        return {"title": self.rows}


def kept(data: HeteroData, edge_type: tuple[str, str, str]) -> set[tuple[int, int]]:
    return {(int(a), int(b)) for a, b in data[edge_type].edge_index.T}


def slow(
    objective: NeighborSoftmax, rows: torch.Tensor, data: HeteroData, seen: HeteroData, cold: set[int]
) -> tuple[float, int]:
    """The formula, in loops. What supervises is what the model did not see, apart from links into cold entities."""
    linked: dict[int, dict[int, list[float]]] = {i: {} for i in range(COUNT)}
    carries = kept(seen, CO) | kept(seen, WEAK)
    for edge_type, w in STRENGTH.items():
        for a, b in data[edge_type].edge_index.T.tolist():
            if a != b:
                linked[a].setdefault(b, []).append(w)
    cos = [
        [float(torch.dot(rows[i], rows[j]) / rows[i].norm() / rows[j].norm()) / objective.temperature for j in range(COUNT)]
        for i in range(COUNT)
    ]
    total, count = 0.0, 0
    every = objective.targets == "all"
    for i in range(COUNT):
        # An edge into a cold entity is gone either way; its pair carried messages if the other direction is there.
        told = {j: ws for j, ws in linked[i].items() if every or ((i, j) not in carries and (j, i) not in carries)}
        if not every and any({i, j} <= cold for j in linked[i]):
            return math.nan, -1  # not to be told apart from outside
        if not told:
            continue
        hidden = {i} | (set(linked[i]) - set(told))
        norm = math.log(sum(math.exp(cos[i][k]) for k in range(COUNT) if k not in hidden))
        weights = [(j, w**objective.power) for j, ws in told.items() for w in ws]
        mass = sum(w for _, w in weights)
        total += sum(w / mass * (norm - cos[i][j]) for j, w in weights)
        count += 1
    return total, count


@settings(deadline=None)
@given(
    PAIRS,
    PAIRS,
    st.integers(0, 2**40),
    st.sampled_from([0.3, 0.7, 1.0]),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from(["all", "supervising"]),
)
def test_the_formula(co: list, weak: list, key: int, supervise: float, cold: float, targets: str) -> None:
    rows = torch.randn(COUNT, 3, generator=torch.Generator().manual_seed(key % 1000), dtype=torch.float64)
    objective = NeighborSoftmax(STRENGTH, temperature=0.5, supervise=supervise, cold=cold, targets=targets)
    data, model = batch(co, weak), Recorder(rows)
    term = objective(model, data, key)
    gone = set(model.seen["title"].cold.nonzero()[:, 0].tolist())
    total, count = slow(objective, rows, data, model.seen, gone)
    if count >= 0:
        assert term.weight == count
        assert float(term.sum) == pytest.approx(total, rel=1e-6, abs=1e-6)


@settings(deadline=None)
@given(PAIRS, st.integers(0, 2**40), st.sampled_from([0.3, 1.0]))
def test_the_formula_with_exact_similarities(co: list, key: int, trust: float) -> None:
    generator = torch.Generator().manual_seed(key % 1000)
    rows = torch.randn(COUNT, 3, generator=generator, dtype=torch.float64)
    n_id = torch.randperm(COUNT, generator=generator)
    data = batch(co, [], n_id.tolist())
    of = {HAS[::-1]: (torch.tensor([2, 3, 5]), torch.tensor([0, 1, 1])), CO: tuple(n_id[data[CO].edge_index])}
    exact = ExactSimilarity.of(Graph({"title": COUNT, "genre": 2}, of), [CO])  # type: ignore[arg-type]
    objective = NeighborSoftmax(STRENGTH, temperature=0.5, exact=exact, trust=trust)
    term = objective(Recorder(rows), data, key)
    unit = torch.nn.functional.normalize(rows, dim=1)
    total, count = 0.0, 0
    for i in range(COUNT):
        linked: dict[int, float] = {}
        for a, b in data[CO].edge_index.T.tolist():
            if a == i and b != i:
                linked[b] = linked.get(b, 0.0) + STRENGTH[CO] ** objective.power
        if not linked and not bool(exact.known(n_id[i : i + 1])):
            continue
        others = [j for j in range(COUNT) if j != i]
        said = (exact.scores(n_id[i : i + 1], n_id[others])[0].double() / 0.5).softmax(0)
        mine = trust if linked else 1.0
        logp = (unit[i] @ unit[others].T / 0.5).log_softmax(0)
        for at, j in enumerate(others):
            q = mine * float(said[at]) + (1 - mine) * linked.get(j, 0.0) / (sum(linked.values()) or 1.0)
            total -= q * float(logp[at])
        count += 1
    assert term.weight == count
    assert float(term.sum) == pytest.approx(total, rel=1e-5, abs=1e-6)


@settings(deadline=None)
@given(PAIRS, PAIRS, st.integers(0, 2**40))
def test_a_pair_supervises_or_carries_messages_as_a_whole(co: list, weak: list, key: int) -> None:
    data, model = batch(co, weak), Recorder(torch.randn(COUNT, 3))
    before = {e: data[e].edge_index.clone() for e in data.edge_types}
    NeighborSoftmax(STRENGTH, cold=0.0)(model, data, key)
    seen = {e: kept(model.seen, e) for e in (CO, WEAK)}
    for edge_type in (CO, WEAK):
        for a, b in seen[edge_type]:
            assert (b, a) in seen[edge_type]
            assert all((a, b) in seen[e] or (a, b) not in kept(data, e) for e in (CO, WEAK))
        assert model.seen[edge_type].weight.numel() == model.seen[edge_type].edge_index.size(1)
    assert torch.equal(model.seen[HAS].edge_index, before[HAS])
    assert all(torch.equal(data[e].edge_index, before[e]) for e in before), "the batch itself is not changed"
    assert "cold" not in data["title"]


def test_cold_entities_hear_no_link_but_are_heard() -> None:
    pairs = [(a, b) for a in range(COUNT) for b in range(a)]
    model, shares = Recorder(torch.randn(COUNT, 3)), []
    heard = False
    for key in range(300):
        NeighborSoftmax(STRENGTH, supervise=0.2, cold=0.4)(model, batch(pairs, []), key)
        cold = model.seen["title"].cold
        shares.append(float(cold.float().mean()))
        into = model.seen[CO].edge_index
        assert not bool(cold[into[1]].any())
        heard |= bool(cold[into[0]].any())
    assert heard and bool(model.seen["title"].cold.any())
    # 2,100 draws of 0.4: five standard deviations are 0.053.
    assert abs(np.mean(shares) - 0.4) < 0.053


def test_entities_without_a_link_go_without_their_vector() -> None:
    model = Recorder(torch.randn(COUNT, 3))
    NeighborSoftmax(STRENGTH, cold=0.0)(model, batch([(0, 1), (3, 3)], [(1, 4)]), 0)
    assert model.seen["title"].cold.tolist() == [False, False, True, True, False, True, True]


def test_draws_follow_global_ids_not_places() -> None:
    ids = [40, 3, 17, 29, 8, 55, 21]
    pairs = [(a, b) for a in range(COUNT) for b in range(a)]
    order = np.argsort(ids).tolist()
    place = {old: new for new, old in enumerate(order)}
    moved = [(place[a], place[b]) for a, b in pairs]
    first, second = Recorder(torch.randn(COUNT, 3)), Recorder(torch.randn(COUNT, 3))
    objective = NeighborSoftmax(STRENGTH)
    objective(first, batch(pairs, [], ids), 9)
    objective(second, batch(moved, [], sorted(ids)), 9)
    assert {(ids[a], ids[b]) for a, b in kept(first.seen, CO)} == {
        (sorted(ids)[a], sorted(ids)[b]) for a, b in kept(second.seen, CO)
    }


def test_queries_are_capped_and_drawn() -> None:
    pairs = [(a, b) for a in range(COUNT) for b in range(a)]
    objective = NeighborSoftmax(STRENGTH, queries=3, supervise=1.0, cold=0.0)
    rows = torch.randn(COUNT, 3)
    values = {round(float(objective(Recorder(rows), batch(pairs, []), key).sum), 4) for key in range(20)}
    assert objective(Recorder(rows), batch(pairs, []), 1).weight == 3
    assert len(values) > 5


def test_a_batch_without_links_weighs_nothing_and_has_a_gradient() -> None:
    rows = torch.randn(COUNT, 3, requires_grad=True)
    term = NeighborSoftmax(STRENGTH)(Recorder(rows), batch([], [(2, 2)]), 0)
    term.sum.backward()
    assert (float(term.sum.detach()), term.weight) == (0.0, 0.0)
    assert torch.equal(rows.grad, torch.zeros_like(rows))


def test_gradient() -> None:
    rows = torch.randn(COUNT, 3, dtype=torch.float64, requires_grad=True)
    data = batch([(0, 1), (1, 2), (3, 4)], [(0, 5), (2, 6), (0, 1)])
    objective = NeighborSoftmax(STRENGTH, supervise=0.8, cold=0.0)
    assert torch.autograd.gradcheck(lambda h: objective(Recorder(h), data, 3).sum, rows)


@pytest.mark.parametrize(
    ("strength", "options", "says"),
    [
        ({}, {}, "strength gives"),
        ({HAS: 1.0}, {}, "strength gives"),
        ({CO: 0.0}, {}, "above 0"),
        (STRENGTH, {"temperature": 0}, "temperature is above 0"),
        (STRENGTH, {"queries": 0}, "queries at least 1"),
        (STRENGTH, {"supervise": 0}, "supervise lies in"),
        (STRENGTH, {"cold": 1}, "cold in"),
        (STRENGTH, {"trust": 0.0}, "trust lies in"),
        (STRENGTH, {"targets": "some"}, "targets is 'all' or 'supervising', got 'some'"),
    ],
)
def test_bad_settings(strength: dict, options: dict, says: str) -> None:
    with pytest.raises(HaspError, match=says):
        NeighborSoftmax(strength, **options)


def test_a_batch_of_another_graph() -> None:
    data = HeteroData()
    data["title"].num_nodes = 3
    with pytest.raises(HaspError, match="needs links of"):
        NeighborSoftmax(STRENGTH)(Recorder(torch.randn(3, 2)), data)


def test_a_batch_with_a_halo_is_refused() -> None:
    data = batch([(0, 1)], [])
    data["title"].num_owned = COUNT - 1
    with pytest.raises(HaspError, match="load without halo="):
        NeighborSoftmax(STRENGTH)(Recorder(torch.randn(COUNT, 3)), data, 0)
