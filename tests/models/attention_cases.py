"""Small random graphs for relation attention, and what the formulas in loops need of them."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from hasp_models.kernels.reference import attend_loops
from hasp_models.relation_attention import ACTIVATIONS, RelationAttention

__all__ = ["equals_the_loops", "flattened", "inputs", "layer_of", "multigraphs"]


@st.composite
def multigraphs(draw: Any) -> dict[str, Any]:
    """A few nodes of two types, up to three relations with repeats, self-loops, parallel relations, a hub, or no edge."""
    counts = {"title": draw(st.integers(1, 4)), "genre": draw(st.integers(0, 3))}
    kinds = [("title", "like", "title"), ("genre", "of", "title"), ("title", "has", "genre"), ("genre", "by", "title")]
    relations = draw(st.permutations(kinds))[: draw(st.integers(1, 4))]
    edges = {}
    for relation in relations:
        m, n = counts[relation[0]], counts[relation[2]]
        ends = st.tuples(st.integers(0, m - 1), st.integers(0, n - 1)) if m and n else st.nothing()
        found = draw(st.lists(ends, max_size=6)) if m and n else []
        if found and draw(st.booleans()):
            found += [(i, found[0][1]) for i in range(m)] * 2  # a hub, every link twice
        edges[relation] = torch.tensor(found, dtype=torch.int64).view(-1, 2).t()
    heads = draw(st.sampled_from([1, 2]))
    update = draw(st.sampled_from([None, ["title"]]))
    seed = draw(st.integers(0, 99))
    return {"counts": counts, "relations": relations, "edges": edges, "heads": heads, "update": update, "seed": seed}


def layer_of(g: dict[str, Any], channels: int = 4, **options: Any) -> RelationAttention:
    torch.manual_seed(g["seed"])
    options = {"update": g["update"], "heads": g["heads"], **options}
    layer = RelationAttention(channels, (list(g["counts"]), g["relations"]), relation_dim=3, **options).double()
    for factor in (layer.beta, layer.log_prior):
        if factor is not None:
            torch.nn.init.normal_(factor)
    return layer


def inputs(g: dict[str, Any], channels: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(g["seed"])
    return {t: torch.randn(n, channels, generator=generator, dtype=torch.float64) for t, n in g["counts"].items()}


def flattened(g: dict[str, Any]) -> tuple[list[tuple[int, int, int]], dict[str, int], int]:
    """Triples over one list of nodes, written independently of RelationCSR: titles first, then genres."""
    offset = {"title": 0, "genre": g["counts"]["title"]}
    triples = []
    for r, relation in enumerate(g["relations"]):
        for s, d in g["edges"][relation].t().tolist():
            if g["update"] is None or relation[2] in g["update"]:
                triples.append((offset[relation[0]] + s, offset[relation[2]] + d, r))
    num_dst = g["counts"]["title"] + (g["counts"]["genre"] if g["update"] is None else 0)
    return triples, offset, num_dst


def equals_the_loops(layer: RelationAttention, g: dict[str, Any]) -> None:
    """The layer's output and its gradients are those of the formulas in loops, to float64's rounding."""
    x = {t: v.requires_grad_() for t, v in inputs(g).items()}
    out = layer(x, g["edges"])
    triples, _, num_dst = flattened(g)
    h = torch.cat([x["title"], x["genre"]])
    want = attend_loops(
        h, layer.relation, layer.w_q, layer.w_k, layer.w_v, layer.beta, triples, num_dst,
        heads=g["heads"], log_prior=layer.log_prior, sigma=ACTIVATIONS["elu"],
    )  # fmt: skip
    got = torch.cat([out["title"], out["genre"]])
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)
    weight = torch.linspace(-1, 1, want.numel(), dtype=torch.float64).view_as(want)
    variables = [*x.values(), *layer.parameters()]
    ours = torch.autograd.grad((got * weight).sum(), variables, allow_unused=True, materialize_grads=True)
    theirs = torch.autograd.grad((want * weight).sum(), variables, allow_unused=True, materialize_grads=True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
