"""PinSage: walks against a naive twin and an exact answer, its layer by loops, its loss by loops, and training on parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import walks as slow
from torch_geometric.data import HeteroData
from train_graphs import EEL, small_loader, small_parts

from hasp import HASPLoader
from hasp.errors import HaspError
from hasp.rng import subkey, word
from hasp_models.importance import Neighborhoods, WalkGraph, Walks, most_visited
from hasp_models.margin import MaxMargin
from hasp_models.train import fit
from hasp_models.zoo.graph_model import embed
from hasp_models.zoo.pinsage import Convolve, PinSage
from hasp_models.zoo.sparse import weighted_sum

HAS, HELD = ("title", "has", "genre"), ("genre", "rev_has", "title")


@st.composite
def walk_graphs(draw: Any) -> tuple[WalkGraph, bool]:
    n = draw(st.integers(1, 12))
    ends = draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=30))
    a, b = (np.array([e[i] for e in ends], dtype=np.int64) for i in (0, 1))
    weighted = draw(st.booleans())
    weight = np.array(draw(st.lists(st.floats(0, 10), min_size=len(ends), max_size=len(ends)))) if weighted else None
    ids = np.array(draw(st.permutations(range(100, 100 + n))))
    return WalkGraph.from_edges(a, b, ids, weight, draw(st.integers(1, n))), weighted


@settings(deadline=None, max_examples=60)
@given(
    walk_graphs(), st.integers(1, 9), st.integers(1, 5), st.sampled_from([0.0, 0.3, 0.9]), st.integers(1, 6), st.integers(0, 3)
)
def test_the_kernel_equals_its_twin(
    drawn: tuple[WalkGraph, bool], walks: int, length: int, restart: float, top: int, seed: int
) -> None:
    graph, weighted = drawn
    rows = [graph.indices[a:b].tolist() for a, b in zip(graph.indptr, graph.indptr[1:], strict=False)]
    weights = [graph.weight[a:b].tolist() for a, b in zip(graph.indptr, graph.indptr[1:], strict=False)] if weighted else None
    weights = weights if graph.weight.size else None
    nodes, count = most_visited(graph, Walks(walks, length, restart, seed), top, starts=np.arange(graph.num_nodes), threads=1)
    key = int(subkey(seed, word("walks")))
    for start in range(graph.num_nodes):
        want = slow.most_visited(rows, weights, graph.ids.tolist(), start, graph.counted, key, walks, length, restart, top)
        found = [(int(v), int(c)) for v, c in zip(nodes[start], count[start], strict=True) if v >= 0]
        assert found == want
        assert not count[start, len(want) :].any()


def ring(n: int = 3000) -> WalkGraph:
    at = np.arange(n)
    return WalkGraph.from_edges(np.r_[at, at], np.r_[(at + 1) % n, (at + 7) % n], at)


def test_threads_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hasp_models.importance._STARTS", 100)
    one, two = (most_visited(ring(), Walks(10, 3), 5, threads=t) for t in (1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_counts_follow_the_walk() -> None:
    # A star with a tail: from the centre (0) a step goes to 1, 2 or 3 alike, or by weight; 3 leads on to 4.
    ends = (np.array([0, 0, 0, 3]), np.array([1, 2, 3, 4]))
    graph = WalkGraph.from_edges(*ends, np.arange(5))
    nodes, count = most_visited(graph, Walks(20_000, 1, 0.0), 4, starts=[0])
    assert sorted(nodes[0].tolist()) == [-1, 1, 2, 3]
    assert np.allclose(count[0, :3] / 20_000, 1 / 3, atol=0.015)
    weighted = WalkGraph.from_edges(*ends, np.arange(5), np.array([1.0, 2.0, 5.0, 1.0]))
    nodes, count = most_visited(weighted, Walks(20_000, 1, 0.0), 4, starts=[0])
    assert nodes[0, :3].tolist() == [3, 2, 1]
    assert np.allclose(count[0, :3] / 20_000, [5 / 8, 2 / 8, 1 / 8], atol=0.015)
    # Of two steps the second is made unless the walk has ended: half of the time.
    _, once = most_visited(graph, Walks(20_000, 2, 0.5), 4, starts=[1])
    nodes, count = most_visited(graph, Walks(20_000, 2, 0.5), 4, starts=[1])
    seen = dict(zip(nodes[0].tolist(), count[0].tolist(), strict=True))
    assert np.array_equal(once, count) and seen[0] == 20_000
    assert np.allclose([seen[2] / 20_000, seen[3] / 20_000], 1 / 6, atol=0.015)


def test_a_node_draws_by_its_global_id() -> None:
    ends = (np.array([0, 0, 1, 2, 5]), np.array([1, 2, 3, 4, 6]))
    whole = most_visited(WalkGraph.from_edges(ends[0], ends[1], np.arange(7)), Walks(5, 3), 4)
    inner, ids = [e[:4] + 2 for e in ends], np.r_[90, 91, np.arange(5)]
    alone = most_visited(WalkGraph.from_edges(inner[0], inner[1], ids), Walks(5, 3), 4)
    shifted = np.where(whole[0][:5] >= 0, whole[0][:5] + 2, -1)
    assert np.array_equal(alone[0][2:], shifted) and np.array_equal(alone[1][2:], whole[1][:5])


def test_links_are_undirected_and_counted_once() -> None:
    graph = WalkGraph.from_edges([0, 1, 0, 2, 2], [1, 0, 1, 2, 0], np.arange(3), [1.0, 2.0, 4.0, 9.0, 0.5])
    assert graph.indptr.tolist() == [0, 2, 3, 4] and graph.indices.tolist() == [1, 2, 0, 0]
    assert graph.weight.tolist() == [7.0, 0.5, 7.0, 0.5]


def batch_of(seed: int = 0) -> HeteroData:
    generator = torch.Generator().manual_seed(seed)
    data = HeteroData()
    data["title"].num_nodes, data["genre"].num_nodes = 9, 4
    data[EEL].edge_index = torch.randint(7, (2, 16), generator=generator)
    data[EEL].weight = torch.rand(16, generator=generator)
    data[HAS].edge_index = torch.stack([torch.tensor([0, 0, 1, 3, 8]), torch.tensor([0, 1, 1, 3, 2])])
    data[HELD].edge_index = data[HAS].edge_index.flip(0)
    return data


@pytest.mark.parametrize("pooling", ["importance", "visited", "uniform"])
def test_neighborhoods(pooling: str) -> None:
    data = batch_of()
    made = Neighborhoods("title", [EEL], 3, Walks(30, 2), pooling=pooling, weight="weight")
    csr, share = made.csr(data)
    graph = WalkGraph.of(data, "title", [EEL], "weight")
    degree = np.diff(graph.indptr)
    sizes = csr.indptr.diff()
    assert sizes.tolist()[7:] == [0, 0] and (sizes <= 3).all()
    total = weighted_sum(torch.ones(9, 1), share, csr)[:, 0]
    assert torch.allclose(total, (sizes > 0).float())
    if pooling == "uniform":
        assert sizes.tolist() == np.minimum(degree, 3).tolist()
        for i in range(9):
            mine = csr.src[csr.indptr[i] : csr.indptr[i + 1]].tolist()
            assert len(set(mine)) == len(mine) and set(mine) <= set(
                graph.indices[graph.indptr[i] : graph.indptr[i + 1]].tolist()
            )
    if pooling != "importance":
        assert torch.allclose(share, (1.0 / sizes)[csr.row])
    else:
        nodes, count = most_visited(graph, Walks(30, 2), 3)
        some = count[0] / count[0].sum()
        assert torch.allclose(share[: sizes[0]], torch.from_numpy(some[: sizes[0]]).float())
        assert csr.src[: sizes[0]].tolist() == nodes[0, : sizes[0]].tolist()
    # Brought by the batch, as a worker of the loader would make them, they are the same.
    brought, of_batch = made.csr(made(data))
    assert torch.equal(brought.src, csr.src) and torch.equal(brought.indptr, csr.indptr) and torch.equal(of_batch, share)


def test_walks_through_concepts_reach_entities_without_links() -> None:
    data = batch_of()
    del data[EEL].weight
    data[HAS].edge_index = torch.tensor([[7, 8], [0, 0]])
    found = Neighborhoods("title", [EEL], 3, Walks(40, 2, 0.0), through=[HAS]).csr(data)[0]
    assert found.src[found.indptr[7] : found.indptr[8]].tolist() == [8]
    assert found.src[found.indptr[8] : found.indptr[9]].tolist() == [7]


def model_of(data: HeteroData, layers: int = 2, **options: Any) -> PinSage:
    torch.manual_seed(1)
    made = Neighborhoods("title", [EEL], 3, Walks(20, 2))
    sizes = {"title": 9, "genre": 4}
    return PinSage(
        (["title", "genre"], [EEL, HAS, HELD]), dim=4, layers=layers, neighborhoods=made, embed=sizes, **options
    ).double()


def test_the_model_by_loops() -> None:
    data = batch_of()
    model = model_of(data)
    nodes, share = model.neighborhoods.of(WalkGraph.of(data, "title", [EEL]))
    h = []
    assert model.about == [HELD]
    for i in range(9):
        mine = [g for t, g in data[HAS].edge_index.T.tolist() if t == i]
        x = model.inputs.own["title"][i]
        h.append(x + sum((model.inputs.own["genre"][g] @ model.of_concepts[0] / len(mine) for g in mine), torch.zeros(4)))
    for layer in model.layers:
        assert isinstance(layer, Convolve)
        new = []
        for i in range(9):
            pooled = torch.zeros(4, dtype=torch.float64)
            for v, a in zip(nodes[i].tolist(), share[i].tolist(), strict=True):
                if v >= 0:
                    pooled = pooled + a * torch.relu(layer.q(h[v]))
            z = torch.relu(layer.w(torch.cat([h[i], pooled])))
            new.append(z / z.norm().clamp_min(1e-12))
        h = new
    want = torch.stack([model.g2(torch.relu(model.g1(x))) for x in h])
    assert torch.allclose(model(data)["title"], want, atol=1e-7)  # shares are float32
    assert torch.allclose(embed(model, data), want.detach(), atol=1e-7)
    unit = model_of(data, normalize=True)(data)["title"]
    assert torch.allclose(unit.norm(dim=1), torch.ones(9, dtype=torch.float64))


class Fixed:
    """A model whose vectors are given."""

    def __init__(self, z: torch.Tensor) -> None:
        self.z = z

    def __call__(self, batch: Any) -> dict[str, torch.Tensor]:
        return {"title": self.z}


def test_the_loss_by_loops() -> None:
    data, z = batch_of(), torch.randn(9, 4, generator=torch.Generator().manual_seed(2))
    data[EEL].edge_label_index = torch.tensor([[0, 2, 4], [1, 3, 5]])
    loss = MaxMargin(EEL, margin=0.3, negatives=50, hard=0)
    term = loss(Fixed(z), data, key=4)
    linked = {frozenset(e) for e in [*data[EEL].edge_index.T.tolist(), [0, 1], [2, 3], [4, 5]]}
    total = 0.0
    for q, i in [(0, 1), (2, 3), (4, 5), (1, 0), (3, 2), (5, 4)]:
        wrong = [k for k in range(9) if k != q and frozenset([q, k]) not in linked]
        hinges = [max(0.0, float(z[q] @ z[k] - z[q] @ z[i]) + 0.3) for k in wrong]
        total += sum(hinges) / max(len(wrong), 1) / 2
    assert term.weight == 3 and float(term.sum) == pytest.approx(total, rel=1e-5)
    thinned = MaxMargin(EEL, negatives=2, max_pairs=2, hard=0)
    assert thinned(Fixed(z), data, 1).weight == 2
    assert float(thinned(Fixed(z), data, 1).sum) == float(thinned(Fixed(z), data, 1).sum)
    assert len({float(thinned(Fixed(z), data, key).sum) for key in range(8)}) > 2


class Epoch:
    epoch = 0


def test_the_curriculum_adds_one_hard_negative_per_epoch() -> None:
    # A ring of 60: from q, walks of three steps reach the six nodes around it; the two beside it are links.
    data = HeteroData()
    at = torch.arange(60)
    data["title"].num_nodes = 60
    data[EEL].edge_index = torch.stack([at, (at + 1) % 60])
    data[EEL].edge_label_index = torch.tensor([[0, 10], [1, 11]])
    loader = Epoch()
    loss = MaxMargin(EEL, negatives=1, hard=3, every=2, band=(0.0, 1.0), walks=Walks(200, 3, 0.0)).follow(loader)
    numbers = []
    for loader.epoch in range(9):
        numbers.append(loss.hard_now())
    assert numbers == [0, 0, 1, 1, 2, 2, 3, 3, 3]
    asked = torch.tensor([0, 1, 10, 11])
    hard, there = loss._hard(data, loss._links(data, data[EEL].edge_label_index), asked, 3, key=0)
    for q, found, ok in zip(asked.tolist(), hard.tolist(), there.tolist(), strict=True):
        near = {(q + d) % 60 for d in (-3, -2, 2, 3)}
        assert all(ok) and len(set(found)) == 3 and set(found) <= near
    # Only the lower half of the ranking: what is seen least.
    far = MaxMargin(EEL, band=(0.67, 1.0), walks=Walks(500, 3, 0.0))
    hard, there = far._hard(data, far._links(data, asked[None].repeat(2, 1)), asked, 2, key=0)
    assert there.all() and {(h - q) % 60 for q, f in zip(asked.tolist(), hard.tolist(), strict=True) for h in f} <= {3, 57}
    # They count: a query that likes its hard negatives loses more.
    z = torch.nn.functional.one_hot(at % 60, 60).float()
    z[[2, 58]] = z[0].clone()
    loader.epoch = 0
    before = float(loss(Fixed(z), data, 0).sum)
    loader.epoch = 8
    assert float(loss(Fixed(z), data, 0).sum) > before


def test_training_on_parts_resumes_to_the_same_bits(tmp_path: Any) -> None:
    def run(stop: int | None, folder: str) -> tuple[torch.Tensor, list[float]]:
        parts = small_parts()
        torch.manual_seed(3)
        model = PinSage.from_data(parts, dim=6, layers=2, normalize=True)
        loader = small_loader(parts)
        loss = MaxMargin(EEL, negatives=8, hard=2).follow(loader)
        done = fit(model, loader, loss, epochs=4, lr=0.01, progress=False, checkpoint=tmp_path / folder, max_steps=stop)
        return torch.cat([p.detach().reshape(-1) for p in model.parameters()]), [r["loss"] for r in done.history]

    straight = run(None, "straight")
    run(3, "stopped")
    again = run(None, "stopped")
    assert torch.equal(straight[0], again[0]) and straight[1] == again[1]


def test_walks_in_the_workers_of_a_loader() -> None:
    parts = small_parts()
    made = Neighborhoods("title", [EEL], 4, threads=1)
    torch.manual_seed(0)
    model = PinSage.from_data(parts, dim=6, neighborhoods=made)
    bare = HASPLoader(parts, batch_size=2)
    ready = HASPLoader(parts, batch_size=2, transform=made, num_workers=1)
    for a, b in zip(bare, ready, strict=True):
        assert ("title", "visited", "title") in b.edge_types
        assert torch.equal(model(a)["title"], model(b)["title"])


def test_refusals() -> None:
    with pytest.raises(HaspError, match="restart in"):
        Walks(restart=1.0)
    with pytest.raises(HaspError, match="less than 2"):
        Walks(walks=1 << 19, length=2)
    with pytest.raises(HaspError, match=r"ends of links lie in 0\.\.2"):
        WalkGraph.from_edges([0], [3], np.arange(3))
    with pytest.raises(HaspError, match="one finite weight >= 0"):
        WalkGraph.from_edges([0], [1], np.arange(3), [-1.0])
    data = batch_of()
    with pytest.raises(HaspError, match="go over links of 'title'"):
        WalkGraph.of(data, "title", [HAS])
    with pytest.raises(HaspError, match="leave through out"):
        WalkGraph.of(data, "title", [EEL], "weight", [HAS])
    with pytest.raises(HaspError, match="'strength'"):
        WalkGraph.of(data, "title", [EEL], "strength")
    with pytest.raises(HaspError, match="pooling is one of"):
        Neighborhoods("title", [EEL], pooling="max")
    with pytest.raises(HaspError, match="top is at least 1"):
        most_visited(ring(10), Walks(), 0)
    with pytest.raises(HaspError, match="name a node type"):
        PinSage((["title"], [EEL]), neighborhoods=Neighborhoods("book", [EEL]))
    with pytest.raises(HaspError, match="entities of one type"):
        MaxMargin(HAS)
    with pytest.raises(HaspError, match="correct them"):
        MaxMargin(EEL, band=(0.5, 0.5))
    with pytest.raises(HaspError, match="give the loader edge_label_index"):
        MaxMargin(EEL)(Fixed(torch.zeros(9, 2)), data)
