"""The graph baselines of Table 1: each against loops over edges and against PyG's layer, on parts, and in training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch_geometric import nn as pyg
from torch_geometric.data import HeteroData
from train_graphs import EEL, small_loader, small_parts

from hasp import HASPData, HASPLoader, Schema
from hasp.errors import HaspError
from hasp.graph import Graph
from hasp_models.objectives import InfoNCE
from hasp_models.train import fit
from hasp_models.zoo.gat import HeteroGAT
from hasp_models.zoo.gcn import GCN, full_degrees, with_degrees
from hasp_models.zoo.graph_model import GraphModel, embed
from hasp_models.zoo.hgt import HGT
from hasp_models.zoo.sage import HeteroSAGE
from hasp_models.zoo.sparse import weighted_sum

MODELS: list[type[Any]] = [HeteroSAGE, HeteroGAT, HGT, GCN]
ALL = pytest.mark.parametrize("kind", MODELS)
TYPES = [
    EEL,
    ("title", "has", "genre"),
    ("genre", "rev_has", "title"),
    ("title", "by", "author"),
    ("author", "rev_by", "title"),
    ("genre", "under", "genre"),
]
NODES = ["title", "genre", "author"]
Layer = Callable[[Any, dict[str, Tensor], HeteroData], dict[str, Tensor]]


def graph(seed: int = 0, titles: int = 9, genres: int = 3, authors: int = 2, most: int = 25) -> HeteroData:
    """A multigraph: loops, parallel edges, a hub, nodes and whole types without edges."""
    generator = torch.Generator().manual_seed(seed)
    data, count = HeteroData(), {"title": titles, "genre": genres, "author": authors}
    for node_type, n in count.items():
        data[node_type].num_nodes = n
    for i, (source, relation, destination) in enumerate(TYPES):
        number = 0 if (seed + i) % 4 == 3 else int(torch.randint(most + 1, (1,), generator=generator))
        number = number if count[source] and count[destination] else 0
        a = torch.randint(max(count[source], 1), (number,), generator=generator)
        b = torch.randint(max(count[destination], 1), (number,), generator=generator)
        b[: number // 3] = 0
        data[source, relation, destination].edge_index = torch.stack([a, b])
    return data


def model_of(kind: type[Any], data: HeteroData, dim: int = 4, layers: int = 1, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    options = {"embed": {t: int(data[t].num_nodes) for t in NODES}, **options}
    return kind((NODES, TYPES), dim=dim, layers=layers, **options).double()


def inputs_of(model: Any) -> dict[str, Tensor]:
    return {t: model.inputs.own[t] for t in NODES}


def into(data: HeteroData, node_type: str, i: int) -> list[tuple[int, str, list[int]]]:
    """(number of the edge type, source type, sources with repeats) of the edges into a node."""
    out = []
    for r, e in enumerate(TYPES):
        if e[2] == node_type:
            a, b = data[e].edge_index.tolist()
            out.append((r, e[0], [s for s, d in zip(a, b, strict=True) if d == i]))
    return out


def slow_sage(layer: Any, h: dict[str, Tensor], data: HeteroData) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for t in NODES:
        rows = []
        for i in range(h[t].size(0)):
            total = torch.zeros_like(h[t][i])
            for r, source, sources in into(data, t, i):
                mean = sum((h[source][j] for j in sources), torch.zeros_like(total)) / max(len(sources), 1)
                total = total + mean @ layer.w[r] + layer.b[r] + h[t][i] @ layer.root[r]
            rows.append(total)
        out[t] = torch.stack(rows) if rows else h[t]
    return out


def slow_gat(layer: Any, h: dict[str, Tensor], data: HeteroData) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for t_number, t in enumerate(NODES):
        rows = []
        for i in range(h[t].size(0)):
            total = h[t][i] @ layer.skip[t_number] + layer.c[t_number]
            for r, source, sources in into(data, t, i):
                asking = (h[t][i] @ layer.v[r]).view(layer.heads, -1)
                values = [(h[source][j] @ layer.w[r]).view(layer.heads, -1) for j in sources]
                heads = []
                for k in range(layer.heads):
                    raw = [(layer.of_src[r, k] * v[k]).sum() + (layer.of_dst[r, k] * asking[k]).sum() for v in values]
                    exp = [torch.where(x > 0, x, layer.slope * x).exp() for x in raw]
                    none = torch.zeros_like(asking[k])
                    heads.append(sum((e / sum(exp) * v[k] for e, v in zip(exp, values, strict=True)), none))
                total = total + torch.cat(heads) + layer.b[r]
            rows.append(total)
        out[t] = torch.stack(rows) if rows else h[t]
    return out


def slow_hgt(layer: Any, h: dict[str, Tensor], data: HeteroData) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    width = layer.w.size(1) // layer.heads
    kqv = {t: (h[t] @ layer.kqv[n] + layer.kqv_b[n]).view(-1, 3, layer.heads, width) for n, t in enumerate(NODES)}
    for n, t in enumerate(NODES):
        rows = []
        for i in range(h[t].size(0)):
            heads = []
            for k in range(layer.heads):
                exp, values = [], []
                for r, source, sources in into(data, t, i):
                    for j in sources:
                        key = kqv[source][j, 0, k] @ layer.a[r, k]
                        exp.append((key @ kqv[t][i, 1, k] * layer.p[r, k] / math.sqrt(width)).exp())
                        values.append(kqv[source][j, 2, k] @ layer.m[r, k])
                none = torch.zeros(width, dtype=torch.float64)
                heads.append(sum((e / sum(exp) * v for e, v in zip(exp, values, strict=True)), none))
            said = torch.nn.functional.gelu(torch.cat(heads)) @ layer.w[n] + layer.b[n]
            gate = 1 / (1 + (-layer.skip[n]).exp())
            rows.append(gate * said + (1 - gate) * h[t][i])
        out[t] = torch.stack(rows) if rows else h[t]
    return out


def slow_gcn(layer: Any, h: dict[str, Tensor], data: HeteroData) -> dict[str, Tensor]:
    degree = {t: [1 + sum(len(s) for _, _, s in into(data, t, i)) for i in range(h[t].size(0))] for t in NODES}
    out: dict[str, Tensor] = {}
    for t in NODES:
        rows = []
        for i in range(h[t].size(0)):
            total = h[t][i] / degree[t][i]
            for _, source, sources in into(data, t, i):
                for j in sources:
                    total = total + h[source][j] / math.sqrt(degree[t][i] * degree[source][j])
            rows.append(total @ layer.w + layer.b)
        out[t] = torch.stack(rows) if rows else h[t]
    return out


SLOW: dict[type[Any], Layer] = {HeteroSAGE: slow_sage, HeteroGAT: slow_gat, HGT: slow_hgt, GCN: slow_gcn}


def same(got: dict[str, Tensor], want: dict[str, Tensor], parameters: list[Tensor]) -> None:
    for t in NODES:
        torch.testing.assert_close(got[t], want[t], rtol=1e-9, atol=1e-11)
    grads = []
    for out in (got, want):
        total = sum(((v * torch.arange(1, v.numel() + 1).view_as(v)).sum() for v in out.values()), torch.zeros(()))
        grads.append(torch.autograd.grad(total, parameters, allow_unused=True))
    for a, b, p in zip(*grads, parameters, strict=True):
        none = torch.zeros_like(p)
        torch.testing.assert_close(none if a is None else a, none if b is None else b, rtol=1e-8, atol=1e-9)


@ALL
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 200),
    titles=st.integers(0, 8),
    genres=st.integers(0, 4),
    authors=st.integers(0, 10),
    heads=st.sampled_from([1, 2]),
)
def test_a_layer_is_its_formula(kind: type[Any], seed: int, titles: int, genres: int, authors: int, heads: int) -> None:
    data = graph(seed, titles, genres, authors)
    options: dict[str, Any] = {"heads": heads} if kind in (HeteroGAT, HGT) else {}
    options |= {"backend": "torch"} if kind is HGT else {}
    model = model_of(kind, data, seed=seed, **options)
    want = SLOW[kind](model.layers[0], inputs_of(model), data)
    same(model(data), want, [p for p in model.parameters() if p.requires_grad])


def test_the_fused_attention_of_hgt_is_that_of_torch() -> None:
    data = graph(1)
    fused, plain = (model_of(HGT, data, heads=2, layers=2, backend=b) for b in ("numba", "torch"))
    parameters = list(fused.parameters())
    grads = [
        torch.autograd.grad(m(data)["title"].square().sum(), list(m.parameters()), allow_unused=True) for m in (fused, plain)
    ]
    assert len(parameters) == len(grads[1])
    for a, b in zip(*grads, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def index_of(data: HeteroData) -> dict[Any, Tensor]:
    return {e: data[e].edge_index for e in TYPES}


def test_sage_and_gat_are_pygs_convolutions_summed_over_edge_types() -> None:
    data = graph(0)
    for heads in (1, 2):
        sage, gat = model_of(HeteroSAGE, data), model_of(HeteroGAT, data, heads=heads)
        mine, his = sage.layers[0], gat.layers[0]
        convs: dict[Any, Any] = {}
        attentions: dict[Any, Any] = {}
        for r, e in enumerate(TYPES):
            convs[e] = pyg.SAGEConv((4, 4), 4).double()
            weights = {"lin_l.weight": mine.w[r].T, "lin_l.bias": mine.b[r], "lin_r.weight": mine.root[r].T}
            convs[e].load_state_dict(weights)
            attentions[e] = pyg.GATConv((4, 4), 4 // heads, heads=heads, add_self_loops=False).double()
            weights = {"lin_src.weight": his.w[r].T, "lin_dst.weight": his.v[r].T, "bias": his.b[r]}
            weights |= {"att_src": his.of_src[r][None], "att_dst": his.of_dst[r][None]}
            attentions[e].load_state_dict(weights)
        x = inputs_of(sage)
        want = pyg.HeteroConv(convs, aggr="sum")(x, index_of(data))
        got = sage(data)
        for t in NODES:
            torch.testing.assert_close(got[t], want[t])
        x = inputs_of(gat)
        want = pyg.HeteroConv(attentions, aggr="sum")(x, index_of(data))
        got = gat(data)
        for n, t in enumerate(NODES):
            torch.testing.assert_close(got[t], want[t] + x[t] @ his.skip[n] + his.c[n])


def test_hgt_is_pygs() -> None:
    data = graph(0)
    model = model_of(HGT, data, heads=2)
    mine, conv = model.layers[0], pyg.HGTConv(4, 4, (NODES, TYPES), heads=2).double()
    state = conv.state_dict()
    for n, t in enumerate(NODES):
        state[f"kqv_lin.lins.{t}.weight"], state[f"kqv_lin.lins.{t}.bias"] = mine.kqv[n].T, mine.kqv_b[n]
        state[f"out_lin.lins.{t}.weight"], state[f"out_lin.lins.{t}.bias"] = mine.w[n].T, mine.b[n]
        state[f"skip.{t}"] = mine.skip[n].view(1)
    # [R, H, c, c] -> [H * R, c, c]: PyG's matrices stand head after head.
    state["k_rel.weight"], state["v_rel.weight"] = (m.transpose(0, 1).flatten(0, 1) for m in (mine.a, mine.m))
    with torch.no_grad():
        mine.p.copy_(torch.randn(mine.p.shape))
    for r, e in enumerate(TYPES):
        state["p_rel." + "__".join(e)] = mine.p[r].view(1, 2)
    conv.load_state_dict(state)
    want, got = conv(inputs_of(model), index_of(data)), model(data)
    for t in NODES:
        torch.testing.assert_close(got[t], want[t])


def test_gcn_is_pygs_on_the_union() -> None:
    data = graph(0)
    model = model_of(GCN, data)
    conv = pyg.GCNConv(4, 4).double()
    conv.load_state_dict({"lin.weight": model.layers[0].w.T, "bias": model.layers[0].b})
    offset = {"title": 0, "genre": 9, "author": 12}
    # PyG keeps a node's own loops instead of adding one; these graphs lose theirs for it.
    for e in TYPES:
        index = data[e].edge_index
        data[e].edge_index = index[:, index[0] != index[1]] if e[0] == e[2] else index
    union = torch.cat([data[e].edge_index + torch.tensor([[offset[e[0]]], [offset[e[2]]]]) for e in TYPES], dim=1)
    want = conv(torch.cat(list(inputs_of(model).values())), union)
    torch.testing.assert_close(torch.cat(list(model(data).values())), want)


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


def test_the_mode_of_the_model_is_left_as_it_was() -> None:
    data = graph(0)
    model = model_of(HeteroSAGE, data, embed={}, free={t: int(data[t].num_nodes) for t in NODES}, entity_dropout=0.9)
    first = embed(model.train(), data, "title")
    assert model.training and not first.requires_grad
    assert torch.equal(first, embed(model.eval(), data, "title")) and not model.training


def test_the_weighted_sum_has_gradients_for_parallel_edges() -> None:
    from hasp_models.zoo.sparse import joined_csr

    ends = (torch.tensor([0, 0, 2, 2, 2, 1]), torch.tensor([1, 1, 1, 0, 0, 3]))
    csr = joined_csr([(ends, 0, 0)], 4, 3)
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: weighted_sum(a, b, csr), (x, weight))
    half = weighted_sum(x.detach().bfloat16(), weight.detach().bfloat16(), csr)
    assert half.dtype == torch.float32 and half.shape == (4, 2)


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
