"""Pretraining: gradients, negatives, filtered ranks against a slow oracle, exports, and the methods of PyG."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hasp.errors import HaspError
from hasp.graph import Graph
from hasp.schema import Schema
from hasp_models.kernels.transe import group
from hasp_models.kg_embedding import KGEmbedding, Ranking, filtered_ranking
from hasp_models.row_adam import RowAdam
from hasp_models.transe import pretrain
from hasp_models.triples import KnownTriples, Triples, corrupt

NODES, RELATIONS = 8, 3
FACTS = st.lists(
    st.tuples(st.integers(0, NODES - 1), st.integers(0, RELATIONS - 1), st.integers(0, NODES - 1)), min_size=1, max_size=25
)


def untyped(facts):
    return Triples.from_index(torch.tensor(facts), NODES, RELATIONS)


def typed(titles=30, genres=5, moods=1):
    """Titles with one genre and one mood; the mood is the same for all."""
    at = torch.arange(titles)
    edges = {
        ("title", "co_engaged", "title"): (at[:-1], at[1:]),
        ("title", "has", "genre"): (at, at % genres),
        ("title", "feels", "mood"): (at, at % moods),
        ("genre", "rev_has", "title"): (at % genres, at),
        ("genre", "under", "genre"): (torch.tensor([1]), torch.tensor([0])),
    }
    return Graph({"title": titles, "genre": genres, "mood": moods}, edges)


def facts_of(graph):
    return Triples.from_graph(graph, Schema(entity="title"))


@pytest.mark.parametrize("p", [1, 2])
@given(st.integers(0, 2**31), st.integers(1, 6), st.floats(0.1, 2))
@settings(max_examples=40, deadline=None)
def test_steps_equal_autograd_and_sparse_adam(p, seed, batch, margin):
    torch.manual_seed(seed)
    tables = [torch.nn.functional.normalize(torch.randn(n, 4, dtype=torch.float64)) for n in (5, 2)]
    nodes, relations = (torch.nn.Embedding.from_pretrained(x.clone(), freeze=False, sparse=True) for x in tables)
    adam = torch.optim.SparseAdam([nodes.weight, relations.weight], lr=0.01)
    steps = RowAdam(*(x.numpy() for x in tables), lr=0.01, margin=margin, p=p)
    for _ in range(4):
        ends, kind = torch.randint(0, 5, (4, batch)), torch.randint(0, 2, (batch,))
        weight = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)[torch.randint(0, 3, (batch,))]
        row, relation = nodes(ends), relations(kind)
        good, bad = ((row[h] + relation - row[h + 1]).norm(p=p, dim=1) for h in (0, 2))
        loss = ((good - bad + margin).clamp_min(0) * weight).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            touched = ends.unique()
            nodes.weight[touched] = torch.nn.functional.normalize(nodes.weight[touched])
        assert steps.step(ends.numpy(), kind.numpy(), weight.numpy()) == pytest.approx(loss.item())
        torch.testing.assert_close(tables[0], nodes.weight.detach(), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(tables[1], relations.weight.detach(), rtol=1e-6, atol=1e-6)


def test_a_loss_that_is_no_number_is_told():
    steps = RowAdam(np.eye(3, 2, dtype=np.float32), np.array([[np.inf, 0]], np.float32), lr=0.1, margin=1.0, p=2)
    loss = steps.step(np.array([[0, 0], [1, 1], [2, 0], [0, 0]]), np.zeros(2, np.int64), np.ones(2, np.float32))
    assert np.isnan(loss)
    with pytest.raises(HaspError, match="lower lr"):
        pretrain(facts_of(typed()), dim=4, epochs=3, lr=1e38)


@given(st.lists(st.integers(0, 9), max_size=40))
@settings(deadline=None)
def test_groups_hold_every_position_once_in_order(ids):
    place, rows, ptr, member = np.full(10, -1), *(np.empty(len(ids) + n, dtype=np.int64) for n in (0, 1, 0))
    count = group(np.array(ids, dtype=np.int64), place, rows, ptr, member)
    assert rows[:count].tolist() == list(dict.fromkeys(ids)) and (place == -1).all()
    for c in range(count):
        assert member[ptr[c] : ptr[c + 1]].tolist() == [m for m, i in enumerate(ids) if i == rows[c]]


def test_threads_do_not_show_in_a_step():
    rng = np.random.default_rng(0)
    ends, kind, found = rng.integers(0, 3000, (4, 1100)), rng.integers(0, 4, 1100), []
    start = [rng.normal(size=(n, 128)).astype(np.float32) for n in (3000, 4)]
    for threads in (1, 2):
        steps = RowAdam(*(x.copy() for x in start), lr=0.1, margin=1.0, p=2, threads=threads)
        losses = [steps.step(ends, kind, np.ones(1100, dtype=np.float32)) for _ in range(3)]
        found.append((losses, steps.nodes.tobytes(), steps.relations.tobytes()))
    assert found[0] == found[1] and found[0][0][0] > found[0][0][2]


def oracle_scores(embedding, h, r, t):
    node, relation = embedding.nodes[[h, t]].double().numpy(), embedding.relations[r].double().numpy()
    if embedding.method == "transe":
        return -np.linalg.norm(node[0] + relation - node[1], ord=embedding.p)
    if embedding.method == "distmult":
        return (node[0] * relation * node[1]).sum()
    half = node.shape[1] // 2
    a, b = node[0, :half] + 1j * node[0, half:], node[1, :half] + 1j * node[1, half:]
    if embedding.method == "complex":
        return (a * (relation[:half] + 1j * relation[half:]) * b.conj()).sum().real
    return -np.linalg.norm(a * np.exp(1j * relation) - b)


@given(
    FACTS,
    FACTS,
    st.sampled_from([("transe", 1), ("transe", 2), ("distmult", 2), ("complex", 2), ("rotate", 2)]),
    st.integers(0, 99),
    st.integers(1, 9),
)
@settings(max_examples=80, deadline=None)
def test_filtered_ranks_equal_a_slow_oracle(facts, others, method, seed, batch):
    torch.manual_seed(seed)
    name, p = method
    # Small whole numbers tie often; of rotate the phases are 0 or pi, whose sines are not exactly 0, hence the rounding.
    nodes = torch.randint(-1, 2, (NODES, 4)).float()
    relations = torch.randint(-1, 2, (RELATIONS, 2 if name == "rotate" else 4)).float()
    embedding = KGEmbedding(name, nodes, relations, {"node": (0, NODES)}, untyped(facts).relations, p=p)
    known = set(facts) | set(others)
    got = filtered_ranking(embedding, untyped(facts), untyped(others), batch_size=batch)
    for place, (h, r, t) in enumerate(facts):
        true = np.float32(oracle_scores(embedding, h, r, t))
        for ranks, rivals in (
            (got.head, [(x, r, t) for x in range(NODES) if x != h]),
            (got.tail, [(h, r, x) for x in range(NODES) if x != t]),
        ):
            scores = [np.float32(oracle_scores(embedding, *f)) for f in rivals if f not in known]
            low = 1 + sum(s > true + 1e-5 for s in scores)
            high = low + sum(abs(s - true) <= 1e-5 for s in scores)
            assert low <= ranks[place] <= high
            if name != "rotate":
                assert ranks[place] == (low + high) / 2


def test_candidates_of_the_right_type_alone():
    facts = facts_of(typed())
    embedding = pretrain(facts, dim=4, epochs=0)
    free, held = filtered_ranking(embedding, facts), filtered_ranking(embedding, facts, candidates="type")
    assert (held.tail <= free.tail).all() and held.tail.max() <= 5 and free.tail.max() > 5
    assert (held.tail[facts.relation.numpy() == 1] == 1).all()  # the one mood has no rival


@given(FACTS, st.integers(0, 2**31), st.booleans())
@settings(max_examples=100, deadline=None)
def test_negatives_change_one_end_and_are_no_facts(facts, seed, filtered):
    triples = untyped(facts)
    known = KnownTriples(triples) if filtered else None
    generator = torch.Generator().manual_seed(seed)
    columns = triples.head, triples.relation, triples.tail
    head, tail, weight = corrupt(*columns, triples.ranges(), generator, known=known)
    changed = (head != triples.head).int() + (tail != triples.tail).int()
    assert (changed == 1).all() and int(head.min()) >= 0 and int(tail.max()) < NODES
    for h, r, t, w in zip(head.tolist(), triples.relation.tolist(), tail.tolist(), weight.tolist(), strict=True):
        assert w == (0.0 if filtered and (h, r, t) in facts else 1.0)
    again = corrupt(*columns, triples.ranges(), torch.Generator().manual_seed(seed), known=known)
    assert torch.equal(head, again[0]) and torch.equal(tail, again[1])


def test_negatives_keep_the_type_and_are_uniform():
    triples = facts_of(typed(titles=4, genres=3))
    rows = (triples.relation == 0).nonzero()[:1, 0].repeat(24_000)
    columns = triples.head[rows], triples.relation[rows], triples.tail[rows]
    head, tail, weight = corrupt(*columns, triples.ranges(), torch.Generator().manual_seed(0))
    assert weight.all()
    # Title 0 has genre 0: three other titles and two other genres, each side with probability 1/2.
    counts = [int(((head == n) & (tail == 4)).sum()) for n in (1, 2, 3)] + [
        int(((tail == n) & (head == 0)).sum()) for n in (5, 6)
    ]
    assert sum(counts) == 24_000
    expected = np.array([4000, 4000, 4000, 6000, 6000])
    assert ((np.array(counts) - expected) ** 2 / expected).sum() < 18.5  # chi-square, 4 degrees of freedom, p = .001


def test_a_category_with_one_concept_and_a_type_without_rivals():
    triples = facts_of(typed())
    mood = triples.select(triples.relation == 1)
    head, tail, weight = corrupt(mood.head, mood.relation, mood.tail, mood.ranges(), torch.Generator().manual_seed(0))
    assert torch.equal(tail, mood.tail) and (head != mood.head).all() and weight.all()
    lonely = Triples(torch.tensor([0]), torch.tensor([0]), torch.tensor([1]), {"a": (0, 1), "b": (1, 2)}, [("a", "r", "b")])
    assert corrupt(lonely.head, lonely.relation, lonely.tail, lonely.ranges(), torch.Generator())[2].tolist() == [0.0]
    assert torch.isfinite(pretrain(lonely, dim=3, epochs=2).nodes).all()


def test_semantic_triples_without_links_and_reverse_copies():
    triples = facts_of(typed())
    assert list(triples.relations) == [("title", "has", "genre"), ("title", "feels", "mood"), ("genre", "under", "genre")]
    assert len(triples) == 61 and triples.num_nodes == 36 and triples.offsets["mood"] == (35, 36)
    assert int(triples.tail[triples.relation == 1].unique()) == 35


def test_training_learns_and_is_reproducible():
    triples = facts_of(typed())
    losses = []
    embedding = pretrain(triples, dim=16, epochs=60, batch_size=16, progress=lambda _, loss: losses.append(loss))
    assert losses[-1] < 0.4 * losses[0] and len(losses) == 60
    start = filtered_ranking(pretrain(triples, dim=16, epochs=0), triples, candidates="type")
    assert filtered_ranking(embedding, triples, candidates="type").mrr > 1.5 * start.mrr
    again = pretrain(triples, dim=16, epochs=60, batch_size=16)
    assert torch.equal(embedding.nodes, again.nodes) and torch.equal(embedding.relations, again.relations)
    assert not torch.equal(embedding.nodes, pretrain(triples, dim=16, epochs=60, batch_size=16, seed=1).nodes)


def test_rows_that_got_no_gradient_stay():
    triples = untyped([(0, 0, 1), (1, 0, 2)])
    alone = Triples(triples.head, triples.relation, triples.tail, {"node": (0, 3), "spare": (3, 8)}, triples.relations)
    before, after = pretrain(alone, dim=4, epochs=0), pretrain(alone, dim=4, epochs=9)
    torch.testing.assert_close(before.nodes[3:], after.nodes[3:], atol=1e-6, rtol=0)
    torch.testing.assert_close(before.relations[1:], after.relations[1:], atol=1e-6, rtol=0)
    assert not torch.allclose(before.nodes[:3], after.nodes[:3], atol=1e-3)


def test_export_is_what_was_scored(tmp_path):
    graph = typed()
    embedding = pretrain(facts_of(graph), dim=16, epochs=3)
    torch.testing.assert_close(embedding.nodes.norm(dim=1), torch.ones(36))
    title, genre = embedding.features("title"), embedding.features("genre")
    assert title.shape == (30, 16) and torch.equal(genre, embedding.nodes[30:35])
    want = -(title[7] + embedding.relation(("title", "has", "genre")) - genre[2]).norm()
    got = embedding.score(torch.tensor([7]), torch.tensor([0]), torch.tensor([32]))
    assert got.item() == pytest.approx(want.item(), abs=1e-6)
    assert embedding.features("genre", rms=True).pow(2).mean().item() == pytest.approx(1.0, abs=1e-5)
    embedding.save(tmp_path / "kg")
    loaded = KGEmbedding.load(tmp_path / "kg")
    assert torch.equal(loaded.nodes, embedding.nodes) and torch.equal(loaded.relations, embedding.relations)
    assert (loaded.method, loaded.p, loaded.offsets) == (embedding.method, embedding.p, embedding.offsets)
    assert list(loaded.relation_types) == list(embedding.relation_types)


@pytest.mark.parametrize("method", ["distmult", "complex", "rotate"])
def test_the_methods_of_pyg_learn_and_score_as_pyg_does(method):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.13 deprecates torch.jit.script, which PyG 2.8 still calls when imported
        from torch_geometric.nn import kge
    triples = facts_of(typed())
    start = filtered_ranking(pretrain(triples, method=method, dim=8, epochs=0), triples, candidates="type").mrr
    trained = pretrain(triples, method=method, dim=8, epochs=80, batch_size=16, lr=0.05)
    assert filtered_ranking(trained, triples, candidates="type").mrr > 1.3 * start
    torch.manual_seed(0)
    model = {"distmult": kge.DistMult, "complex": kge.ComplEx, "rotate": kge.RotatE}[method](36, 3, 8)
    with torch.no_grad():
        nodes, relations = trained.nodes.chunk(2, 1), trained.relations.chunk(2, 1)
        model.node_emb.weight.copy_(trained.nodes if method == "distmult" else nodes[0])
        model.rel_emb.weight.copy_(relations[0] if method == "complex" else trained.relations)
        if method != "distmult":
            model.node_emb_im.weight.copy_(nodes[1])
        if method == "complex":
            model.rel_emb_im.weight.copy_(relations[1])
        for i in range(0, len(triples), 9):  # one at a time: PyG's RotatE takes one norm over the whole batch
            h, r, t = triples.head[i : i + 1], triples.relation[i : i + 1], triples.tail[i : i + 1]
            want = model(h, r, t) - (model.margin if method == "rotate" else 0)
            assert trained.score(h, r, t).item() == pytest.approx(want.item(), abs=1e-5)


def test_closed_form_of_the_ranking():
    ranking = Ranking(np.array([1.0, 4.0]), np.array([2.0, 12.0]))
    assert ranking.mrr == pytest.approx((1 + 1 / 4 + 1 / 2 + 1 / 12) / 4) and ranking.mean_rank == 4.75
    assert ranking.to_json()["hits@3"] == 0.5 and ranking.hits(10) == 0.75


def test_refusals(tmp_path):
    links = {("title", "co_engaged", "title"): (torch.tensor([0]), torch.tensor([1]))}
    with pytest.raises(HaspError, match="edges to concepts"):
        Triples.from_graph(Graph({"title": 3}, links))
    with pytest.raises(HaspError, match=r"tail ids lie in 0\.\.7"):
        untyped([(0, 0, 9)])
    with pytest.raises(HaspError, match="at least one fact"):
        pretrain(untyped([(0, 0, 1)]).select(torch.tensor([], dtype=torch.long)))
    for bad in ({"dim": 0}, {"margin": 0.0}, {"p": 3}, {"method": "transh"}, {"negatives": "hard"}, {"lr": 0.0}):
        with pytest.raises(HaspError, match=next(iter(bad))):
            pretrain(untyped([(0, 0, 1)]), **bad)
    with pytest.raises(HaspError, match="correct the name"):
        pretrain(untyped([(0, 0, 1)]), dim=2, epochs=0).features("genre")
    with pytest.raises(HaspError, match="hasp-models pretrain"):
        KGEmbedding.load(tmp_path)
