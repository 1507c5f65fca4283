"""SemanticGNN on parts and on whole graphs; layer-by-layer inference; links added by the model."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch_geometric.data import HeteroData

from hasp import HASPData, HASPLoader, Schema
from hasp.errors import HaspError
from hasp.graph import Graph
from hasp_models.infer import add_neighbors, embed_all, infer_layer
from hasp_models.relation_attention import RelationAttention, RelationCSR
from hasp_models.semantic_gnn import SemanticGNN, relation_vectors

EEL = ("title", "like", "title")
TYPES = [EEL, ("title", "has", "genre"), ("genre", "rev_has", "title")]
METADATA = (["title", "genre"], TYPES)


def small(titles: int = 30, genres: int = 4, seed: int = 0, features: bool = True) -> HeteroData:
    rng = np.random.default_rng(seed)
    data = HeteroData()
    data["title"].num_nodes = titles
    data["genre"].num_nodes = genres
    if features:
        data["title"].x = torch.from_numpy(rng.standard_normal((titles, 5)).astype(np.float32))
    like = torch.from_numpy(rng.integers(0, titles - 2, (2, 3 * titles)))  # the last two titles have no link
    data[EEL].edge_index = torch.cat([like, like.flip(0)], 1)
    has = torch.stack([torch.arange(titles).repeat(2), torch.from_numpy(rng.integers(0, genres, 2 * titles))])
    data[TYPES[1]].edge_index = has
    data[TYPES[2]].edge_index = has.flip(0)
    return data


def model_of(**options: Any) -> SemanticGNN:
    torch.manual_seed(0)
    given: dict[str, Any] = {"in_channels": {"title": 5}, "embed": {"genre": 4}, "dim": 8}
    return SemanticGNN(METADATA, **{**given, **options})


def test_one_part_and_all_parts_merged_are_the_whole_graph() -> None:
    data = small()
    schema = Schema(entity="title", eel=[EEL])
    model = model_of().double()
    want = model(data)
    for num_parts in (1, 3):
        parts = HASPData(data, schema, num_parts=num_parts)
        (batch,) = HASPLoader(parts, batch_size=num_parts)
        got = model(batch)
        for t in want:
            torch.testing.assert_close(got[t], want[t][batch[t].n_id], rtol=1e-10, atol=1e-12)
        grads = [
            torch.autograd.grad(o["title"].square().sum(), list(model.parameters()), retain_graph=True) for o in (got, want)
        ]
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_from_data_reads_widths_links_and_what_needs_a_vector() -> None:
    parts = HASPData(small(), Schema(entity="title", eel=[EEL]), num_parts=2)
    model = SemanticGNN.from_data(parts, dim=8, free=True, entity_dropout=0.5, layers=1)
    assert {n: tuple(p.shape) for n, p in model.inputs.named_parameters()} == {
        "of_x.title.weight": (8, 5), "of_x.title.bias": (8,), "own.genre": (4, 8), "own.title": (30, 8),
    }  # fmt: skip
    table = torch.randn(4, 3)
    model = SemanticGNN.from_data(parts, dim=8, features={"genre": table})
    assert "genre" not in model.inputs.own and torch.equal(model.inputs.tables["genre"], table)
    assert not model.inputs.tables["genre"].requires_grad
    for batch in HASPLoader(parts):
        assert {t: tuple(v.shape) for t, v in model(batch).items()} == {
            "title": (batch["title"].num_nodes, 8), "genre": (4, 8),
        }  # fmt: skip


def test_rows_of_absent_entities_get_no_gradient() -> None:
    parts = HASPData(small(features=False), Schema(entity="title", eel=[EEL]), num_parts=3)
    model = SemanticGNN.from_data(parts, dim=8, free=True)
    batch = parts[0]
    model(batch)["title"].square().sum().backward()
    touched = model.inputs.own["title"].grad.abs().sum(1) > 0
    absent = torch.ones(30, dtype=torch.bool)
    absent[batch["title"].n_id] = False
    assert bool(touched.any()) and not bool((touched & absent).any())


def test_free_vectors_are_dropped_in_training_only_and_new_entities_have_none() -> None:
    model = model_of(in_channels={}, free={"title": 10}, entity_dropout=1.0)
    ids = torch.arange(12)
    assert not bool(model.train().inputs("title", ids, None).detach().any())
    out = model.eval().inputs("title", ids, None)
    assert torch.equal(out[:10], model.inputs.own["title"]) and not bool(out[10:].detach().any())
    with pytest.raises(HaspError, match=r"vectors for 4 nodes of 'genre', got n_id 4"):
        model.inputs("genre", torch.arange(5), None)
    torch.manual_seed(0)
    half = model_of(in_channels={}, free={"title": 1000}, entity_dropout=0.3).train()
    kept = (half.inputs("title", torch.arange(1000), None).detach() != 0).any(1).float().mean()
    assert 0.64 < float(kept) < 0.76


def test_concepts_pass_messages_between_titles_only_if_they_are_updated() -> None:
    data = small(features=True)
    data[EEL].edge_index = torch.zeros((2, 0), dtype=torch.int64)
    for update, reaches in ((None, True), (["title"], False)):
        model = model_of(update=update)
        x = data["title"].x.clone().requires_grad_()
        data["title"].x = x
        genre = int(data[TYPES[1]].edge_index[1, 0])
        fellow = next(int(t) for t, g in data[TYPES[1]].edge_index.t() if g == genre and t != 0)
        (grad,) = torch.autograd.grad(model(data)["title"][fellow].sum(), x)
        assert bool(grad[0].any()) == reaches
        data["title"].x = x.detach()


def test_relation_vectors() -> None:
    edge_types = [*TYPES, ("title", "by", "genre")]
    vector = torch.tensor([3.0, 0.0, 4.0])
    torch.manual_seed(0)
    table = relation_vectors(edge_types, {"has": vector, "like": torch.ones(3)}, 7, eel=[EEL])
    assert torch.equal(table[1], vector) and torch.equal(table[2], -vector)
    mean = (5 + 3**0.5) / 2
    assert not torch.equal(table[0], torch.ones(3))  # pretraining never saw an EEL
    assert torch.allclose(table[[0, 3]].norm(dim=1), torch.full((2,), mean))
    fresh = relation_vectors(edge_types, {}, 7)
    assert fresh.shape == (4, 7) and torch.allclose(fresh.norm(dim=1), torch.ones(4)) and torch.equal(fresh[2], -fresh[1])
    with pytest.raises(HaspError, match="one width"):
        relation_vectors(edge_types, {"has": vector, "by": torch.ones(2)}, 7)
    with pytest.raises(HaspError, match="keyed by"):
        relation_vectors(edge_types, {"had": vector}, 7)
    model = model_of(relation={"has": vector}, eel=[EEL], train_relations=False)
    assert model.relation.shape == (3, 3) and not model.relation.requires_grad
    assert model.layers[0].w_v.shape == (8, 11)


def test_options_of_the_model() -> None:
    data = small()
    unit = model_of(normalize=True, heads=2, beta="bias", activation="elu", last_activation=False)(data)
    assert torch.allclose(unit["title"].norm(dim=1), torch.ones(30), atol=1e-5)
    last = model_of(layers=1, last_activation=False, activation="relu")
    first = model_of(layers=1, activation="relu")
    first.load_state_dict(last.state_dict())
    start = torch.cat([last.inputs("title", torch.arange(30), data["title"].x)])
    assert bool(((first(data)["title"] - start) >= -1e-6).all()) and bool(((last(data)["title"] - start) < -1e-3).any())
    for options, word in [
        ({"layers": 0}, "at least one layer"),
        ({"embed": {"music": 3}}, "embed names"),
        ({"free": {"genre": 3}}, "in both"),
        ({"entity_dropout": 2.0}, "probability"),
    ]:
        with pytest.raises(HaspError, match=word):
            model_of(**options)
    with pytest.raises(HaspError, match="no x for it"):
        model_of()(small(features=False))


@settings(max_examples=12)
@given(chunk=st.integers(1, 40), heads=st.sampled_from([1, 2]), update=st.sampled_from([None, ["title"]]))
def test_layer_by_layer_equals_one_shot_for_any_chunk(chunk: int, heads: int, update: Any) -> None:
    data = small()
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        model = model_of(heads=heads, update=update, layers=3, free={"title": 25}, entity_dropout=0.5).to(dtype)
        got = embed_all(model.train(), data, chunk=chunk)
        assert model.training
        want = model.eval()(data)
        for t in want:
            assert got[t].dtype == dtype and not got[t].requires_grad
            assert float((got[t] - want[t]).detach().abs().max()) <= tolerance * max(1.0, float(want[t].detach().abs().max()))


def test_new_entities_are_embedded_without_retraining() -> None:
    data = small()
    model = model_of(free={"title": 30})
    old = embed_all(model, data)
    more = small()
    more["title"].num_nodes = 31
    more["title"].x = torch.cat([data["title"].x, torch.ones(1, 5)])
    more[TYPES[1]].edge_index = torch.cat([data[TYPES[1]].edge_index, torch.tensor([[30], [2]])], 1)
    new = embed_all(model, more)
    # The new title speaks to no one (its concept edge is not reversed), and hears one genre.
    assert new["title"].shape == (31, 8) and bool(new["title"][30].isfinite().all())
    torch.testing.assert_close(new["title"][:30][model_far(data, 2)], old["title"][model_far(data, 2)])


def model_far(data: HeteroData, genre: int) -> Tensor:
    """Titles that two layers cannot reach from a change at one genre: neither it nor a neighbour has the genre."""
    has = data[TYPES[1]].edge_index
    near = torch.zeros(data["title"].num_nodes, dtype=torch.bool)
    near[has[0][has[1] == genre]] = True
    like = data[EEL].edge_index
    second = near.clone()
    second[like[1][near[like[0]]]] = True
    return (~second).nonzero()[:, 0]


def test_infer_layer_works_in_place_on_any_relation_attention() -> None:
    csr = RelationCSR.from_edge_index_dict({EEL: small()[EEL].edge_index}, {"title": 30}, [EEL])
    layer = RelationAttention(8, (["title"], [EEL]), relation_dim=4)
    h = torch.randn(30, 8)
    want, _ = layer.flat(h, csr)
    infer_layer(layer, h, csr, chunk=7)
    assert torch.allclose(h, want, atol=1e-6)


def test_bad_input_to_inference() -> None:
    model = model_of()
    with pytest.raises(HaspError, match="at least one row"):
        embed_all(model, small(), chunk=0)
    with pytest.raises(HaspError, match="knows the node type 'title'"):
        embed_all(model, Graph({"genre": 4}, {}))


def _line(attrs: bool = False) -> Graph:
    """Five titles on a line at 0, 1, 2.1, 3.3, 10; links 0-1 and 1-2 in both directions."""
    edges = {EEL: (torch.tensor([0, 1, 1, 2]), torch.tensor([1, 0, 2, 1]))}
    weights = {EEL: {"w": torch.ones(4, 2)}} if attrs else {}
    return Graph({"title": 5}, edges, edge_attrs=weights)


PLACES = torch.tensor([[0.0], [1.0], [2.1], [3.3], [10.0]])


def test_add_neighbors_directs_by_degree_and_passes_over_known_links() -> None:
    old = _line(attrs=True)
    new = add_neighbors(old, EEL, 1, PLACES)
    added = list(zip(*(t[4:].tolist() for t in new.edges[EEL]), strict=True))
    # 0 -> 2 (1 is linked already), 1 -> 3, 2 -> 3, 3 -> 2, 4 -> 3. Degrees: 1, 2, 1, 0, 0.
    assert sorted(added) == [(0, 2), (1, 3), (2, 0), (2, 3), (3, 4), (4, 3)]
    assert new.edge_attrs[EEL]["w"].shape == (10, 2) and not bool(new.edge_attrs[EEL]["w"][4:].any())
    assert old.edges[EEL][0].numel() == 4
    new.check()
    both = add_neighbors(old, EEL, 1, PLACES, directed=False)
    added = list(zip(*(t[4:].tolist() for t in both.edges[EEL]), strict=True))
    assert sorted(added) == sorted([(0, 2), (2, 0), (1, 3), (3, 1), (2, 3), (3, 2), (3, 4), (4, 3)])


def test_add_neighbors_takes_degrees_of_training() -> None:
    new = add_neighbors(_line(), EEL, 1, PLACES, degree=torch.tensor([0, 1, 2, 3, 4]))
    added = list(zip(*(t[4:].tolist() for t in new.edges[EEL]), strict=True))
    assert sorted(added) == [(2, 0), (3, 1), (3, 2), (4, 3)]


@settings(max_examples=20)
@given(seed=st.integers(0, 50), k=st.integers(1, 4), directed=st.booleans())
def test_add_neighbors_never_doubles_a_link(seed: int, k: int, directed: bool) -> None:
    graph = Graph.from_hetero_data(small(seed=seed))
    torch.manual_seed(seed)
    new = add_neighbors(graph, EEL, k, torch.randn(30, 3), directed=directed)
    before = graph.num_edges(EEL)
    source, destination = (t.tolist() for t in new.edges[EEL])
    known = {frozenset(p) for p in zip(source[:before], destination[:before], strict=True)}
    added = list(zip(source[before:], destination[before:], strict=True))
    assert len(set(added)) == len(added) and all(a != b for a, b in added)
    assert not known & {frozenset(p) for p in added}
    reached = {x for p in added for x in p}
    assert reached == set(range(30))


def test_add_neighbors_refuses_what_it_cannot_do() -> None:
    for call, word in [
        (lambda: add_neighbors(_line(), TYPES[1], 1, PLACES), "from one type to itself"),
        (lambda: add_neighbors(_line(), EEL, 1, PLACES[:3]), "one row for each"),
        (lambda: add_neighbors(_line(), EEL, 1, PLACES, degree=[1]), "one value for each"),
        (lambda: add_neighbors(_line(), EEL, 0, PLACES), "k is at least 1"),
    ]:
        with pytest.raises(HaspError, match=word):
            call()


def test_importing_the_package_and_the_layer_compiles_nothing() -> None:
    import subprocess
    import sys

    code = "import sys, hasp_models, hasp_models.semantic_gnn; print('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
