"""A layer of each graph baseline of Table 1 is its formula, by loops over edges, and PyG's layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch_geometric import nn as pyg
from torch_geometric.data import HeteroData
from zoo_graphs import ALL, NODES, TYPES, graph, inputs_of, model_of

from hasp_models.zoo.gat import HeteroGAT
from hasp_models.zoo.gcn import GCN
from hasp_models.zoo.hgt import HGT
from hasp_models.zoo.sage import HeteroSAGE

Layer = Callable[[Any, dict[str, Tensor], HeteroData], dict[str, Tensor]]


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
