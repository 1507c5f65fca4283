"""NETFLIX-baseline: the objective in closed form on four entities, what it draws, and training towards given vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from train_graphs import EEL

from hasp import HASPData, HASPLoader, Schema
from hasp.errors import HaspError
from hasp.graph import Graph
from hasp_models.data.benchmark import Benchmark, make_benchmark
from hasp_models.data.splits import GRAPH, TEST, LinkRule
from hasp_models.train import fit
from hasp_models.zoo.gat import HeteroGAT
from hasp_models.zoo.netflix import GivenSimilarity, given_vectors

H = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0], [-1.0, 0.0]], dtype=torch.float64)
UNIT = [[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [-1.0, 0.0]]
GIVEN = torch.tensor([[2.0, 0.0], [0.0, 0.5], [0.0, 0.0], [-0.8, 0.6]], dtype=torch.float64)
Z = [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [-0.8, 0.6]]


def batch(ids: list[int] | None = None) -> HeteroData:
    data = HeteroData()
    data["title"].num_nodes = 4 if ids is None else len(ids)
    if ids is not None:
        data["title"].n_id = torch.tensor(ids, dtype=torch.int64)
    return data


def model(rows: Tensor = H) -> Callable[[Any], dict[str, Tensor]]:
    return lambda b: {"title": rows[b["title"].n_id] if "n_id" in b["title"] else rows}


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_vectors_in_closed_form() -> None:
    # Two known, so that the negative of one is the other, however it is drawn.
    known = torch.tensor([True, True, False, False])
    for margin in (0.0, -0.5):
        term = GivenSimilarity("title", GIVEN, known, negatives=3, margin=margin)(model(), batch(), 5)
        want = 0.0
        for i, n in ((0, 1), (1, 0)):
            want += 1 - dot(UNIT[i], Z[i]) + max(0.0, dot(UNIT[i], Z[n]) - margin)
        assert term.weight == 2
        assert float(term.sum) == pytest.approx(want)


def test_negatives_are_all_other_known_entities_alike() -> None:
    objective = GivenSimilarity("title", GIVEN, negatives=4, margin=-0.99)
    assert objective.known.tolist() == [True, True, False, True]  # a zero row says nothing
    drawn = [objective._others(key, torch.tensor([0, 1, 3]), torch.arange(3), 3).tolist() for key in range(500)]
    assert drawn[7] == objective._others(7, torch.tensor([0, 1, 3]), torch.arange(3), 3).tolist()
    for place in range(3):
        count = np.bincount([n for d in drawn for n in d[place]], minlength=3)
        assert count[place] == 0
        # 2,000 draws from two: five standard deviations.
        assert all(abs(c - 1000) < 5 * math.sqrt(500) for i, c in enumerate(count) if i != place)
    mean = sum(float(objective(model(), batch([3]), key).sum) for key in range(400)) / 400
    want = 1 - dot(UNIT[3], Z[3]) + sum(max(0.0, dot(UNIT[3], Z[n]) + 0.99) for n in (0, 1)) / 2
    assert mean == pytest.approx(want, abs=0.1)


def test_pairs_in_closed_form() -> None:
    # Known: 0, 1, 3. In the batch 0 and 3 alone: each is the other's neighbour and negative.
    objective = GivenSimilarity("title", GIVEN, target="pairs", neighbors=2, negatives=3)
    term = objective(model(), batch([3, 2, 0]), 1)
    off = (dot(UNIT[0], UNIT[3]) - dot(Z[0], Z[3])) ** 2
    assert term.weight == 2
    assert float(term.sum) == pytest.approx(2 * (off + off))
    # One neighbour: 0 and 3 have 1 (cosines 0 and .6), 1 has 3. Without 1, nobody in the batch has one.
    near = GivenSimilarity("title", GIVEN, target="pairs", neighbors=1)
    assert near.near is not None and near.near[:, 0].tolist() == [1, 3, -1, 1]
    assert near(model(), batch([0, 2, 3]), 1).weight == 0
    term = near(model(), batch([1, 3]), 1)
    off = (dot(UNIT[1], UNIT[3]) - dot(Z[1], Z[3])) ** 2
    assert term.weight == 2
    assert float(term.sum) == pytest.approx(4 * off)
    # 0 has its neighbour in the batch, 1 has not: only one asks.
    assert near(model(), batch([0, 1]), 1).weight == 1


def test_pairs_that_agree_cost_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(20, 6, generator=generator, dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))
    objective = GivenSimilarity("title", z, target="pairs")
    data = batch(list(range(20)))
    assert float(objective(model(3 * z @ turn), data, 3).sum) == pytest.approx(0, abs=1e-12)
    assert float(objective(model(torch.randn(20, 6, generator=generator, dtype=torch.float64)), data, 3).sum) > 0.1


@pytest.mark.parametrize("target", ["vectors", "pairs"])
def test_a_batch_without_a_known_entity_weighs_nothing_and_has_a_gradient(target: str) -> None:
    rows = H.clone().requires_grad_()
    for ids in ([2], []):
        rows.grad = None
        term = GivenSimilarity("title", GIVEN, target=target)(model(rows), batch(ids), 0)
        term.sum.backward()  # type: ignore[no-untyped-call]
        assert (float(term.sum.detach()), term.weight) == (0.0, 0.0)
        assert rows.grad is not None and not bool(rows.grad.any())


def test_one_known_entity_has_no_negatives() -> None:
    known = torch.tensor([False, True, False, False])
    term = GivenSimilarity("title", GIVEN.flip(1), known)(model(), batch(), 0)
    assert term.weight == 1
    assert float(term.sum) == pytest.approx(1.0)
    assert GivenSimilarity("title", GIVEN, known, target="pairs")(model(), batch(), 0).weight == 0


@pytest.mark.parametrize("target", ["vectors", "pairs"])
def test_gradients(target: str) -> None:
    objective = GivenSimilarity("title", GIVEN, target=target, margin=-0.5)
    rows = torch.tensor([[1.0, 0.2], [0.3, 2.0], [3.0, 4.0], [-1.0, 0.1]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda h: objective(model(h), batch(), 4).sum, rows)


def test_bad_settings() -> None:
    for arguments, text in [
        ({"target": "mean"}, "target is one of"),
        ({"negatives": 0}, "at least 1"),
        ({"neighbors": 0}, "at least 1"),
        ({"margin": 1.0}, "margin lies in"),
        ({"vectors": torch.ones(4)}, "finite floats"),
        ({"vectors": torch.full((4, 2), torch.nan)}, "finite floats"),
        ({"vectors": torch.ones(4, 2, dtype=torch.int64)}, "finite floats"),
        ({"vectors": torch.zeros(4, 2)}, "got none"),
        ({"known": torch.zeros(4)}, "bool per given vector"),
        ({"known": torch.zeros(3, dtype=torch.bool)}, "bool per given vector"),
        ({"known": torch.zeros(4, dtype=torch.bool)}, "got none"),
    ]:
        with pytest.raises(HaspError, match=text):
            GivenSimilarity("title", **{"vectors": GIVEN, **arguments})  # type: ignore[arg-type, dict-item]
    with pytest.raises(HaspError, match=r"got 2 and 3 given"):
        GivenSimilarity("title", torch.ones(4, 3))(model(), batch(), 0)
    with pytest.raises(HaspError, match=r"for 3 entities, the batch has n_id 3"):
        GivenSimilarity("title", torch.ones(3, 2))(model(), batch(), 0)


def communities(mark_test: bool = False) -> Benchmark:
    """Forty titles of four communities; users of one community each; titles 36 to 39 have one user."""
    rng = np.random.default_rng(0)
    users, items = [], []
    for user in range(80):
        mine = np.arange(9) + 10 * (user % 4) if user % 4 < 3 else np.arange(30, 36)
        some = rng.choice(mine, 6, replace=False)
        users += [user] * 6
        items += some.tolist()
    users += [0] * 4
    items += [36, 37, 38, 39]
    side = np.full(len(users), GRAPH)
    if mark_test:
        users, items = users + [99] * 30, items + list(range(30))
        side = np.concatenate([side, np.full(30, TEST)])
    has = (torch.arange(40), torch.arange(40) // 10)
    edges = {EEL: (torch.empty(0).long(),) * 2, ("title", "has", "genre"): has}
    graph = Graph({"title": 40, "genre": 4}, edges, {"title": {"x": torch.eye(40)}})
    return make_benchmark(graph, np.array(users), np.array(items), side, rule=LinkRule(2, 0.1, 1.0, 10), link_type=EEL)


def test_given_vectors_are_those_of_graph_users_with_gaps() -> None:
    given = given_vectors(communities(), dim=8, min_users=5)
    assert given.vectors.shape == (40, 8) and given.vectors.dtype == torch.float32
    assert not bool(given.known[36:].any()) and int(given.known.sum()) == 33  # 9, 19 and 29 have no user at all
    assert torch.allclose(given.vectors.norm(dim=1), given.known.float(), atol=1e-5)
    with_test_users = given_vectors(communities(mark_test=True), dim=8, min_users=5)
    assert torch.equal(with_test_users.vectors, given.vectors) and torch.equal(with_test_users.known, given.known)
    with pytest.raises(HaspError, match=r"no entity has min_users=1000"):
        given_vectors(communities(), dim=8, min_users=1000)
    with pytest.raises(HaspError, match=r"got dim=100; lower it"):
        given_vectors(communities(), dim=100)


@pytest.mark.parametrize("target", ["vectors", "pairs"])
def test_training_towards_given_vectors(target: str) -> None:
    benchmark = communities()
    given = given_vectors(benchmark, dim=8, min_users=5)
    parts = HASPData(benchmark.graph, Schema(entity="title", eel=[EEL]), num_parts=2, reverse=True, log=False)
    torch.manual_seed(0)
    gat = HeteroGAT.from_data(parts, dim=8, layers=2)
    objective = GivenSimilarity("title", *given, target=target)
    loader = HASPLoader(parts, shuffle=True, parts_per_step=2)
    run = fit(gat, loader, objective, epochs=40, lr=0.02, progress=False)
    losses = [row["loss"] for row in run.history]
    assert run.step == 40 and losses[-1] < 0.6 * losses[0]
