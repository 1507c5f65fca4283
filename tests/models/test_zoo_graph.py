"""The graph baselines of Table 1 as models: on parts, in memory, in training; and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch_geometric.data import HeteroData
from train_graphs import EEL, small_loader, small_parts
from zoo_graphs import ALL, NODES, TYPES, graph, model_of

from hasp import HASPData, HASPLoader, Schema
from hasp.errors import HaspError
from hasp.graph import Graph
from hasp_models.objectives import InfoNCE
from hasp_models.train import fit
from hasp_models.zoo.gat import HeteroGAT
from hasp_models.zoo.gcn import GCN
from hasp_models.zoo.graph_model import GraphModel, embed
from hasp_models.zoo.hgt import HGT
from hasp_models.zoo.sage import HeteroSAGE


@ALL
def test_the_order_of_nodes_and_edges_does_not_matter(kind: type[Any]) -> None:
    data = graph(4)
    model, moved = model_of(kind, data, layers=2), graph(4)
    order = {t: torch.randperm(int(data[t].num_nodes)) for t in NODES}
    place = {t: o.argsort() for t, o in order.items()}
    for e in TYPES:
        a, b = data[e].edge_index
        index = torch.stack([place[e[0]][a], place[e[2]][b]])
        moved[e].edge_index = index[:, torch.randperm(index.size(1))]
    for t in NODES:
        moved[t].n_id = order[t]
    want, got = model(data), model(moved)
    for t in NODES:
        torch.testing.assert_close(got[t], want[t][order[t]])


def parts_of(num_parts: int, seed: int = 0) -> HASPData:
    data = graph(seed, titles=30, genres=4, authors=3, most=90)
    data["title"].x = torch.randn(30, 5, generator=torch.Generator().manual_seed(seed))
    schema = Schema(entity="title", eel=[EEL])
    return HASPData(data, schema, num_parts=num_parts, log=False)


@ALL
@pytest.mark.parametrize("options", [{}, {"free": True, "normalize": True}])
def test_one_part_and_all_parts_merged_are_the_whole_graph(kind: type[Any], options: dict[str, Any]) -> None:
    data = graph(0, titles=30, genres=4, authors=3, most=90)
    data["title"].x = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = kind.from_data(parts_of(3), dim=4, layers=2, **options).double().eval()
    data["title"].x = data["title"].x.double()
    want = model(data)
    torch.testing.assert_close(embed(model, data), want["title"])
    torch.testing.assert_close(embed(model, Graph.from_hetero_data(data), "genre"), want["genre"])
    for num_parts in (1, 3):
        (batch,) = HASPLoader(parts_of(num_parts), batch_size=num_parts)
        got = model(batch)
        parameters = [p for p in model.parameters() if p.requires_grad]
        same_by_id = {t: got[t][batch[t].n_id.argsort()] for t in NODES}
        for t in NODES:
            torch.testing.assert_close(same_by_id[t], want[t], rtol=1e-6, atol=1e-7)
        a, b = (
            torch.autograd.grad(o["title"].pow(3).sum(), parameters, retain_graph=True, allow_unused=True) for o in (got, want)
        )
        for x, y in zip(a, b, strict=True):
            assert (x is None) == (y is None)
            if x is not None and y is not None:
                torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


@ALL
def test_every_parameter_gets_a_gradient(kind: type[Any]) -> None:
    data, other = graph(0), graph(1)
    for e in TYPES:
        data[e].edge_index = torch.cat([data[e].edge_index, other[e].edge_index], dim=1)
        assert data[e].edge_index.size(1) > 2
    heads = {"heads": 2} if kind in (HeteroGAT, HGT) else {}
    model = model_of(kind, data, layers=2, **heads)
    torch.stack([v.pow(3).sum() for v in model(data).values()]).sum().backward()  # type: ignore[no-untyped-call]
    for name, p in model.named_parameters():
        assert p.grad is not None and bool((p.grad != 0).any()), name


@ALL
def test_parts_without_links_and_types_without_nodes(kind: type[Any]) -> None:
    parts = small_parts()
    torch.manual_seed(0)
    model = kind.from_data(parts, dim=6, layers=2, free=True, entity_dropout=0.5)
    sizes = []
    for batch in small_loader(parts, parts_per_step=1):
        out = model(batch)
        sizes.append(out["title"].size(0))
        assert all(bool(v.isfinite().all()) and v.shape == (int(batch[t].num_nodes), 6) for t, v in out.items())
        model.zero_grad()
        InfoNCE(EEL)(model, batch, 0).sum.backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())
    assert 0 in sizes and 1 in sizes
    none = graph(0, titles=0, genres=0, authors=0)
    assert {t: tuple(v.shape) for t, v in model_of(kind, none)(none).items()} == dict.fromkeys(NODES, (0, 4))


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the most numbers that any dense tensor of floats held."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(t, Tensor) and t.layout == torch.strided and t.is_floating_point():
                self.most = max(self.most, t.numel())
        return out


@pytest.mark.skipif(torch.__version__ < "2.6", reason="a dispatch mode of this torch takes no view as another class")
@ALL
def test_nothing_is_as_large_as_a_vector_per_edge(kind: type[Any]) -> None:
    data = graph(0, titles=200, genres=20, authors=10, most=2)
    data[EEL].edge_index = torch.randint(200, (2, 20_000), generator=torch.Generator().manual_seed(0))
    data[TYPES[1]].edge_index = torch.stack([torch.arange(2000) % 200, torch.arange(2000) % 20])
    data[TYPES[2]].edge_index = data[TYPES[1]].edge_index.flip(0)
    model = model_of(kind, data, dim=16, layers=2)
    with Largest() as seen:  # type: ignore[no-untyped-call]
        model(data)["title"].square().sum().backward()
    # A number per edge and for each place of a sorted list; kqv of HGT is 200 x 48.
    assert 16 * 200 <= seen.most <= 2 * 22_000


def planted() -> HASPData:
    """Four communities of ten: links inside a community, a genre each, features of noise."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(40) // 10
    a, b = torch.randint(40, (2, 900), generator=generator)
    keep = (label[a] == label[b]) & (a != b)
    data = HeteroData()
    data["title"].x = torch.randn(40, 4, generator=generator)
    data["genre"].num_nodes = 4
    data[EEL].edge_index = torch.stack([torch.cat([a[keep], b[keep]]), torch.cat([b[keep], a[keep]])])
    data["title", "has", "genre"].edge_index = torch.stack([torch.arange(40), label])
    return HASPData(data, Schema(entity="title", eel=[EEL]), num_parts=2, reverse=True, log=False)


@ALL
def test_training_over_parts_lowers_the_loss(kind: type[Any]) -> None:
    parts = planted()
    torch.manual_seed(0)
    model = kind.from_data(parts, dim=8, layers=2, normalize=True)
    loader = HASPLoader(parts, seed=1, shuffle=True, parts_per_step=2, edge_label_index=EEL, disjoint_train_ratio=0.5)
    run = fit(model, loader, InfoNCE(EEL, temperature=0.2), epochs=15, lr=0.03, progress=False)
    losses = [row["loss"] for row in run.history]
    assert run.step == 15 and losses[-1] < losses[0] - 0.2


def test_the_mode_of_the_model_is_left_as_it_was() -> None:
    data = graph(0)
    model = model_of(HeteroSAGE, data, embed={}, free={t: int(data[t].num_nodes) for t in NODES}, entity_dropout=0.9)
    first = embed(model.train(), data, "title")
    assert model.training and not first.requires_grad
    assert torch.equal(first, embed(model.eval(), data, "title")) and not model.training


@ALL
def test_bad_settings_and_graphs(kind: type[Any]) -> None:
    data = graph(0)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"layers": 0}, "at least one layer"),
        ({"dim": 0}, "at least one dimension"),
        ({"activation": "sine"}, "activation is one of"),
        ({"embed": {"actor": 3}}, "embed names"),
        ({"entity_dropout": 2.0}, "is a probability"),
    ]
    for options, text in wrong:
        with pytest.raises(HaspError, match=text):
            model_of(kind, data, **options)
    model: GraphModel = model_of(kind, data)
    with pytest.raises(HaspError, match="say what to embed"):
        embed(model, data)
    other = graph(0)
    other["title", "cites", "title"].edge_index = torch.zeros(2, 1, dtype=torch.int64)
    with pytest.raises(HaspError, match=r"the batch also has .*cites"):
        model(other)
    far = graph(0)
    far[EEL].edge_index = torch.tensor([[0], [9]])
    with pytest.raises(HaspError, match=r"rows of 'title' in .* lie in 0\.\.8, got 9\.\.9"):
        model(far)
    with pytest.raises(HaspError, match="knows the node type 'genre'"):
        embed(model, Graph({"title": 4}, {}), "title")


def test_bad_settings_of_one_model() -> None:
    data = graph(0)
    for kind in (HeteroGAT, HGT):
        with pytest.raises(HaspError, match="heads divide the width"):
            model_of(kind, data, heads=3)
    with pytest.raises(HaspError, match="every node type"):
        model_of(GCN, data, degrees={"title": torch.ones(9)})
