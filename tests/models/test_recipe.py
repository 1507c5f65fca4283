"""The start of the model: a blend of links and concepts before any training."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hasp import HASPData, Schema
from hasp.errors import HaspError
from hasp.graph import Graph
from hasp.sources.reverse import add_reverse
from hasp_models.infer import embed_all
from hasp_models.recipe import blend_start, linked, rarity, shares_of, tiers_of
from hasp_models.runs import new_model
from hasp_models.transe import pretrain
from hasp_models.triples import Triples

CO, HAS = ("title", "co", "title"), ("title", "has", "genre")
REV = ("genre", "rev_has", "title")
COUNT = 40


def catalogue(weights: bool = False) -> Graph:
    """Titles 0-19 in one ring, 20-39 in another; even titles share genre 0, odd ones have a genre of their own."""
    ring = torch.arange(COUNT)
    after = torch.where(ring % 20 == 19, ring - 19, ring + 1)
    even, odd = ring[::2], ring[1::2]
    edges = {
        CO: (torch.cat([ring, after]), torch.cat([after, ring])),
        HAS: (torch.cat([even, odd]), torch.cat([torch.zeros_like(even), torch.arange(1, 21)])),
    }
    attrs = {CO: {"weight": torch.linspace(0.1, 0.9, 2 * COUNT)}} if weights else {}
    return add_reverse(Graph({"title": COUNT, "genre": 21}, edges, {}, attrs))


def parts_of(graph: Graph) -> HASPData:
    return HASPData(graph, Schema(entity="title", eel=[CO]), num_parts=2, log=False)


def test_an_untrained_model_is_a_blend() -> None:
    parts = parts_of(catalogue())
    shares = shares_of(parts)
    assert shares == {CO: 0.5}  # every title hears two links
    model = blend_start(parts, shares, dim=2048, concept_prior=-1.0, seed=3)
    h = embed_all(model, catalogue())["title"].numpy()
    cos = h @ h.T
    linked = np.mean([cos[i, i + 1] for i in range(0, 18)])
    twice = np.mean([cos[i, i + 2] for i in range(1, 17, 2)])  # odd titles: a common neighbour, no common genre
    genre = np.mean([cos[i, j] for i in range(0, 20, 2) for j in range(20, 40, 2)])  # nothing but the genre
    nothing = np.abs([cos[i, j] for i in range(1, 20, 2) for j in range(21, 40, 2)]).mean()
    assert linked > 0.2 and twice > 0.15 and genre > 2 * nothing and nothing < 0.03


def test_lengths_and_priors_are_those_asked_for() -> None:
    parts = parts_of(catalogue())
    model = blend_start(parts, {CO: 0.25}, dim=512, concept_length=2.0, concept_prior=-1.5)
    layer = model.layers[0]
    at = layer.relations.index
    assert layer.log_prior[at(CO), 0].item() == pytest.approx(math.log(0.25))
    assert layer.log_prior[at(REV), 0].item() == pytest.approx(-1.5)
    assert layer.log_prior[at(HAS), 0].item() == 0.0
    want = torch.tensor([math.log(2.0), *[math.log(COUNT)] * 20])
    torch.testing.assert_close(rarity(parts, REV), want)
    lengths = model.inputs.own["genre"].norm(dim=1)
    torch.testing.assert_close(lengths, 2 * want, rtol=0.15, atol=0)
    assert torch.equal(layer.w_v[:, :512], torch.eye(512) * 8)


@pytest.mark.parametrize("content", [0.1, 0.26, 3.0])
def test_content_is_how_loud_concepts_are_beside_links(content: float) -> None:
    """In one part and in two, and however long concepts are: the message of a title's concepts has this length on average."""
    for length in (0.3, 0.6):
        model = blend_start(parts_of(catalogue()), {CO: 0.5}, dim=2048, content=content, concept_length=length, seed=1)
        layer = model.layers[0]
        prior = layer.log_prior[layer.relations.index(REV), 0].item()
        own = model.inputs.own["genre"].detach()
        source, title = catalogue().edges[REV]
        heard = torch.zeros(COUNT, 2048).index_add_(0, title, own[source]) * math.exp(prior)
        assert heard.norm(dim=1).square().mean().sqrt().item() == pytest.approx(content, rel=0.1)


def test_content_is_above_zero() -> None:
    for wrong in (0.0, -1.0):
        with pytest.raises(HaspError, match="content"):
            blend_start(parts_of(catalogue()), {CO: 0.5}, content=wrong)


@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=12), st.integers(1, 4))
@settings(deadline=None, max_examples=40)
def test_who_is_linked(pairs: list[tuple[int, int]], num_parts: int) -> None:
    ends = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    graph = Graph({"title": 12, "genre": 1}, {CO: (ends[0], ends[1]), HAS: (torch.arange(12), torch.zeros(12).long())})
    parts = HASPData(add_reverse(graph), Schema(entity="title", eel=[CO]), num_parts=num_parts, log=False)
    assert linked(parts).nonzero()[:, 0].tolist() == sorted({i for pair in pairs for i in pair})
    model = blend_start(parts, {CO: 1.0}, dim=4)
    assert torch.equal(model.inputs.own["title"].abs().sum(1) > 0, linked(parts))


def test_pretrained_concepts_start_without_a_say() -> None:
    parts = parts_of(catalogue())
    kg = pretrain(Triples.from_graph(catalogue()), dim=4, epochs=1)
    plain, given = (blend_start(parts, {CO: 0.5}, dim=8, layers=2, concepts=c, seed=1) for c in (None, kg))
    first = plain.inputs("genre", torch.arange(5), None).norm(dim=1)
    second = given.inputs("genre", torch.arange(5), None).norm(dim=1)
    torch.testing.assert_close(first, second, rtol=1.0, atol=0)
    assert not any(p.any() for layer in given.inputs.of_table.values() for p in layer.parameters())
    assert torch.equal(given.inputs.tables["genre"], kg.features("genre"))


def test_tiers_where_links_have_weights() -> None:
    assert tiers_of(parts_of(catalogue())) is None
    found = tiers_of(parts_of(catalogue(weights=True)))
    assert found is not None and sum(found.share.values()) > 1
    model = blend_start(parts_of(catalogue(weights=True)), found.share, dim=8)
    assert CO not in model.edge_types and set(found.types) <= set(model.edge_types)


def test_refusals() -> None:
    one_way = catalogue()
    edges = {e: v for e, v in one_way.edges.items() if e != REV}
    with pytest.raises(HaspError, match="build with --reverse"):
        blend_start(parts_of(Graph(one_way.num_nodes, edges)), {CO: 0.5})
    other = Triples.from_graph(Graph({"title": 3, "genre": 2}, {HAS: (torch.tensor([0, 1]), torch.tensor([1, 0]))}))
    with pytest.raises(HaspError, match="pretrained concepts are of the graph"):
        blend_start(parts_of(catalogue()), {CO: 0.5}, concepts=pretrain(other, dim=4, epochs=1))


def test_without_that_start_pretrained_concepts_are_as_long_as_vectors_that_entities_have() -> None:
    """Else they drown them; where entities have none, there is nothing to drown, and values have the usual scale."""
    graph = catalogue()
    concepts = pretrain(Triples.from_graph(graph, Schema(entity="title", eel=[CO])), dim=48, epochs=2, seed=0)
    parts = parts_of(graph)
    beside, alone = (new_model(parts, {"dim": 256, "layers": 1, "free": free}, concepts, 0).inputs for free in (True, False))
    made = beside("genre", torch.arange(21), None) - beside.of_table["genre"].bias
    own = beside("title", torch.arange(COUNT), None)
    assert made.norm(dim=1).square().mean().sqrt().item() == pytest.approx(1.0, abs=0.15)
    assert own.norm(dim=1).square().mean().sqrt().item() == pytest.approx(1.0, abs=0.15)
    ratio = alone.tables["genre"] / beside.tables["genre"]
    assert torch.allclose(ratio, torch.full_like(ratio, math.sqrt(256 / 3)))
    root = math.sqrt(alone.tables["genre"].square().mean().item())
    assert root == pytest.approx(concepts.features("genre", rms=True).square().mean().sqrt().item())
