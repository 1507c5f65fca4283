"""Relation attention against the paper's formulas in loops (float64), and the properties that no backend may lose."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from attention_cases import equals_the_loops, flattened, inputs, layer_of, multigraphs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hasp.errors import HaspError
from hasp_models import relation_csr
from hasp_models.kernels import numba_csr
from hasp_models.kernels.reference import NaiveRelationAttention
from hasp_models.relation_attention import ACTIVATIONS, RelationAttention, RelationCSR, relation_attention

BACKENDS = ("numba", "torch")


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", ["scale", "bias", "both", "none"])
@settings(max_examples=20)
@given(g=multigraphs())
def test_forward_and_every_gradient_equal_the_loops(g: dict[str, Any], mode: str, backend: str, short: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if short:
            patch.setattr(relation_csr, "SPLIT", 2)
            patch.setattr(relation_csr, "BLOCK", 3)
        layer = layer_of(g, backend=backend, beta=mode)
        equals_the_loops(layer, g)


@pytest.mark.parametrize("tied", [True, False])
@settings(max_examples=12)
@given(g=multigraphs())
def test_gradcheck_of_the_fused_kernel(g: dict[str, Any], tied: bool) -> None:
    csr = RelationCSR.from_edge_index_dict(g["edges"], g["counts"], g["relations"], g["update"])
    generator = torch.Generator().manual_seed(g["seed"])

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    heads, count = g["heads"], len(g["relations"])
    width = 2 if tied else 3
    q, v = draw(csr.num_dst, heads, width), draw(csr.num_src, heads, 2)
    k = None if tied else draw(csr.num_src, heads, 3)
    rel_v, rel_k = draw(count, heads, 2), None if tied else draw(count, heads, 3)
    beta, bias = draw(count, heads), draw(count, heads)

    def run(*given: Any) -> Tensor:
        q, k, v, rel_k, rel_v, beta, bias = given
        return relation_attention(q, k, v, rel_k, rel_v, beta, csr, bias=bias, backend="numba")[0]

    assert torch.autograd.gradcheck(run, (q, k, v, rel_k, rel_v, beta, bias))


@settings(max_examples=20)
@given(g=multigraphs(), backend=st.sampled_from(BACKENDS))
def test_equivariant_to_nodes_edges_and_relations(g: dict[str, Any], backend: str) -> None:
    layer, x = layer_of(g, backend=backend), inputs(g)
    base = layer(x, g["edges"])
    generator = torch.Generator().manual_seed(1)
    # New numbers of nodes: old id i becomes place[i].
    place = {t: torch.randperm(n, generator=generator) for t, n in g["counts"].items()}
    moved = {t: torch.empty_like(v).index_copy(0, place[t], v) for t, v in x.items()}
    edges = {}
    for relation, index in g["edges"].items():
        shuffled = index[:, torch.randperm(index.size(1), generator=generator)]
        edges[relation] = torch.stack([place[relation[0]][shuffled[0]], place[relation[2]][shuffled[1]]])
    order = torch.randperm(len(g["relations"]), generator=generator)
    other = layer_of({**g, "relations": [g["relations"][i] for i in order]}, backend=backend)
    state = layer.state_dict()
    state["beta"], state["relation"] = state["beta"][order], state["relation"][order]
    other.load_state_dict(state)
    out = other(moved, edges)
    for t in x:
        torch.testing.assert_close(out[t][place[t]], base[t], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_beta_zero_is_uniform_and_beta_scales_one_relation(backend: str) -> None:
    relations = [("a", "r", "a"), ("a", "s", "a")]
    edges = {relations[0]: torch.tensor([[1, 2], [0, 0]]), relations[1]: torch.tensor([[1, 3], [0, 0]])}
    torch.manual_seed(0)
    layer = RelationAttention(4, (["a"], relations), backend=backend).double()
    x = {"a": torch.randn(4, 4, dtype=torch.float64)}
    with torch.no_grad():
        layer.beta.zero_()
    _, attention = layer(x, edges, return_attention=True)
    for value in attention.values():
        torch.testing.assert_close(value, torch.full_like(value, 0.25))
    with torch.no_grad():
        layer.beta.copy_(torch.tensor([[2.0], [-0.5]]))
    _, attention = layer(x, edges, return_attention=True)
    logits = []
    for r, relation in enumerate(relations):
        for s in edges[relation][0].tolist():
            message = layer.w_v @ torch.cat([x["a"][s], layer.relation[r]])
            logits.append((layer.w_k @ message) @ (layer.w_q @ x["a"][0]) / 2 * layer.beta[r, 0])
    want = torch.softmax(torch.stack(logits), 0)  # 2 = sqrt(4)
    torch.testing.assert_close(torch.cat(list(attention.values()))[:, 0], want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bias_mode_is_a_prior_mass(backend: str) -> None:
    relations = [("a", "r", "a"), ("a", "s", "a")]
    edges = {relations[0]: torch.tensor([[1], [0]]), relations[1]: torch.tensor([[1], [0]])}
    layer = RelationAttention(2, (["a"], relations), beta="bias", backend=backend).double()
    with torch.no_grad():
        layer.w_q.zero_()
        layer.log_prior.copy_(torch.tensor([[math.log(3.0)], [0.0]], dtype=torch.float64))
    _, attention = layer({"a": torch.ones(2, 2, dtype=torch.float64)}, edges, return_attention=True)
    assert [round(float(v.detach()), 12) for v in attention.values()] == [0.75, 0.25]


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_softmax_over_all_relations_not_one_per_type(backend: str) -> None:
    relations = [("a", "r", "a"), ("b", "s", "a")]
    both = {relations[0]: torch.tensor([[1], [0]]), relations[1]: torch.tensor([[0], [0]])}
    torch.manual_seed(1)
    layer = RelationAttention(4, (["a", "b"], relations), activation="none", backend=backend).double()
    x = {"a": torch.randn(2, 4, dtype=torch.float64), "b": torch.randn(1, 4, dtype=torch.float64)}
    joint, attention = layer(x, both, return_attention=True)
    assert sum(float(v[0, 0].detach()) for v in attention.values()) == pytest.approx(1)
    each = [layer(x, {r: both[r]})["a"][0] - x["a"][0] for r in relations]
    per_type = x["a"][0] + each[0] + each[1]  # a softmax per type gives each of the two single edges the weight 1
    assert float((joint["a"][0] - per_type).detach().abs().max()) > 0.01


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_isolated_nodes_and_types_that_are_not_updated_keep_their_vectors(activation: str) -> None:
    relations = [("a", "r", "a"), ("a", "s", "b")]
    edges = {relations[0]: torch.tensor([[0], [1]]), relations[1]: torch.tensor([[0], [0]])}
    x = {"a": torch.randn(3, 4), "b": torch.randn(2, 4)}
    layer = RelationAttention(4, (["a", "b"], relations), activation=activation, update=["a"])
    out = layer(x, edges)
    assert torch.equal(out["a"][[0, 2]], x["a"][[0, 2]]) and not torch.equal(out["a"][1], x["a"][1])
    assert torch.equal(out["b"], x["b"])
    everyone = RelationAttention(4, (["a", "b"], relations), activation=activation)(x, edges)
    assert not torch.equal(everyone["b"][0], x["b"][0]) and torch.equal(everyone["b"][1], x["b"][1])


def _skewed(nodes: int = 400, edges: int = 30_000, relations: int = 5) -> RelationCSR:
    rng = np.random.default_rng(0)
    src, dst = ((rng.random(edges) ** 3 * nodes).astype(np.int64) for _ in range(2))
    rel_ptr = torch.linspace(0, edges, relations + 1).long()
    return RelationCSR.from_edges(torch.from_numpy(src), torch.from_numpy(dst), rel_ptr, nodes, nodes)


def _step(csr: RelationCSR, heads: int, backend: str, threads: int, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    layer = RelationAttention(
        16, (["n"], [("n", f"r{i}", "n") for i in range(csr.num_relations)]), heads, backend=backend, threads=threads
    ).to(dtype)
    x = torch.randn(csr.num_src, 16).to(dtype).requires_grad_()
    out, alpha = layer.attend(x, csr)
    weight = torch.linspace(-1, 1, out.numel()).view_as(out)
    return [out, alpha, *torch.autograd.grad((out * weight).sum(), [x, *layer.parameters()])]


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_bits_at_any_number_of_threads(heads: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    csr = _skewed()
    monkeypatch.setattr(numba_csr, "_FEW", 0)
    assert csr.rows.slot_seg.size and csr.transposed_rows.slot_seg.size and len(csr.rows.blocks) > 1
    one = _step(csr, heads, "numba", 1, dtype)
    for threads in (2, 3):
        assert all(torch.equal(a, b) for a, b in zip(one, _step(csr, heads, "numba", threads, dtype), strict=True))


@pytest.mark.parametrize(("few", "expected"), [(0, 3), (1 << 40, 1)])
def test_few_edges_take_one_thread(few: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()
    real = numba_csr.run

    def run(task: Any, items: Any, threads: int) -> Any:
        seen.add(threads)
        return real(task, items, threads)

    monkeypatch.setattr(numba_csr, "run", run)
    monkeypatch.setattr(numba_csr, "_FEW", few)
    _step(_skewed(), 1, "numba", 3, torch.float32)
    assert seen == {expected}


@pytest.mark.parametrize("heads", [1, 4])
def test_backends_agree_in_float32(heads: int) -> None:
    csr = _skewed()
    exact = _step(csr, heads, "torch", 0, torch.float64)
    for backend in BACKENDS:
        for got, want in zip(_step(csr, heads, backend, 0, torch.float32), exact, strict=True):
            assert float((got - want).detach().abs().max() / want.detach().abs().max()) < 2e-5


def test_the_naive_module_is_the_same_layer() -> None:
    csr = _skewed(50, 500)
    naive = NaiveRelationAttention(8, 5).double()
    layer = RelationAttention(8, (["n"], [("n", f"r{i}", "n") for i in range(5)])).double()
    layer.load_state_dict(naive.state_dict())
    x = torch.randn(50, 8, dtype=torch.float64)
    edge_index = torch.stack([csr.src.long(), csr.row])
    torch.testing.assert_close(layer.attend(x, csr)[0], naive(x, edge_index, csr.rel.long()))


@settings(max_examples=30)
@given(g=multigraphs(), length=st.sampled_from([1, 2, 1024]))
def test_csr_holds_every_edge_once_sorted_and_its_work_units_cover_it(g: dict[str, Any], length: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relation_csr, "SPLIT", length)
        patch.setattr(relation_csr, "BLOCK", 2)
        csr = RelationCSR.from_edge_index_dict(g["edges"], g["counts"], g["relations"], g["update"])
        triples, _, num_dst = flattened(g)
        assert csr.num_dst == num_dst
        keys = list(zip(csr.row.tolist(), csr.rel.tolist(), csr.perm.tolist(), strict=True))
        assert keys == sorted(keys)
        want = sorted(triples)
        assert sorted(zip(csr.src.tolist(), csr.row.tolist(), csr.rel.tolist(), strict=True)) == want
        t_indptr, t_dst, t_edge = csr.transposed
        source = torch.repeat_interleave(torch.arange(csr.num_src), t_indptr.diff())
        assert torch.equal(csr.src[t_edge.long()].long(), source) and torch.equal(csr.row[t_edge.long()], t_dst.long())
        assert sorted(t_edge.tolist()) == list(range(csr.num_edges))
        for rows, indptr in ((csr.rows, csr.indptr), (csr.transposed_rows, t_indptr)):
            spans = list(pairwise(rows.seg_ptr.tolist()))
            assert all(0 < high - low <= length for low, high in spans)
            for (low, high), row in zip(spans, rows.seg_row.tolist(), strict=True):
                assert int(indptr[row]) <= low < high <= int(indptr[row + 1])
            assert [s for a, b in rows.blocks for s in range(a, b)] == list(range(len(spans)))
            written = {*rows.seg_out.tolist(), *rows.empty.tolist(), *rows.split_row.tolist()}
            assert written == set(range(indptr.numel() - 1 + rows.slot_seg.size))


def test_values_go_back_to_their_edges() -> None:
    relations = [("a", "r", "a"), ("b", "s", "a"), ("a", "t", "b")]
    edges = {relations[0]: torch.tensor([[1, 0, 1], [1, 0, 0]]), relations[1]: torch.tensor([[0, 2], [1, 0]])}
    csr = RelationCSR.from_edge_index_dict(edges, {"a": 2, "b": 3}, relations)
    back = csr.to_edge_dict(torch.stack([csr.src.long(), csr.row], 1))
    assert back[relations[0]].tolist() == [[1, 1], [0, 0], [1, 0]]
    assert back[relations[1]].tolist() == [[2, 1], [4, 0]] and back[relations[2]].shape == (0, 2)


def test_int32_ids_and_a_ready_csr_change_nothing() -> None:
    g = {
        "counts": {"title": 3, "genre": 2}, "relations": [("title", "has", "genre"), ("title", "like", "title")],
        "heads": 1, "update": None, "seed": 3,
    }  # fmt: skip
    edges = {g["relations"][0]: torch.tensor([[0, 1, 2], [1, 1, 0]]), g["relations"][1]: torch.tensor([[0, 1], [1, 0]])}
    layer, x = layer_of(g), inputs(g)
    want = layer(x, edges)
    small = {e: i.int() for e, i in edges.items()}
    ready = layer.csr(edges, g["counts"])
    for got in (layer(x, small), layer(x, csr=ready), layer(dict(reversed(x.items())), edges)):
        assert all(torch.allclose(got[t], want[t], rtol=1e-12) for t in want)


def test_halves_are_computed_in_float32() -> None:
    csr = _skewed(30, 200)
    v = torch.randn(30, 1, 8, dtype=torch.bfloat16)
    rel = torch.randn(5, 1, 8, dtype=torch.bfloat16)
    out, _ = relation_attention(v, None, v, None, rel, None, csr)
    exact, _ = relation_attention(v.double(), None, v.double(), None, rel.double(), None, csr)
    assert out.dtype == torch.bfloat16 and float((out - exact).abs().max()) < 0.02


@pytest.mark.parametrize("backend", BACKENDS)
def test_huge_logits_stay_finite_and_nan_stays_visible(backend: str) -> None:
    csr = _skewed(30, 5000)
    v = torch.randn(30, 1, 8) * 1e4
    out, alpha = relation_attention(v, None, v, None, torch.zeros(5, 1, 8), None, csr, backend=backend)
    assert bool(out.isfinite().all()) and bool(alpha.isfinite().all())
    v[csr.src[0]] = float("nan")
    out, _ = relation_attention(torch.ones(30, 1, 8), None, v, None, torch.zeros(5, 1, 8), None, csr, backend=backend)
    assert bool(out[csr.row[0]].isnan().all())


def test_bad_settings_name_the_rule() -> None:
    metadata = (["a"], [("a", "r", "a")])
    for options, word in [
        ({"heads": 3}, "heads divides channels"),
        ({"beta": "none!"}, "beta is"),
        ({"activation": "sigmoid"}, "activation is one of"),
        ({"activation": torch.sigmoid}, "keeps 0 at 0"),
        ({"update": ["b"]}, "update names"),
        ({"backend": "fast"}, "backend is one of"),
    ]:
        with pytest.raises(HaspError, match=word):
            RelationAttention(4, metadata, **options)
    layer = RelationAttention(4, metadata)
    x, edges = {"a": torch.zeros(2, 4)}, {("a", "r", "a"): torch.tensor([[0], [5]])}
    for call, word in [
        (lambda: layer(x, edges), r"lie in 0\.\.1, got 5"),
        (lambda: layer(x), "neither edge_index_dict nor csr"),
        (lambda: layer({"a": torch.zeros(2, 3)}, {}), r"\[N, 4\]"),
        (lambda: layer(x, {("a", "q", "a"): edges["a", "r", "a"]}), "not among"),
        (lambda: layer({"b": torch.zeros(2, 4)}, edges), "has no nodes"),
        (lambda: layer({"a": torch.zeros(3, 4)}, csr=layer.csr({}, {"a": 2})), "build it from this batch"),
        (lambda: layer(x, {}, torch.zeros(2, 4)), "relation embeddings are"),
        (lambda: RelationAttention(4, metadata, own_relations=False)(x, {}), "own_relations=False"),
    ]:
        with pytest.raises(HaspError, match=word):
            call()
    csr = layer.csr({}, {"a": 2})
    v, rel = torch.zeros(2, 1, 4), torch.zeros(1, 1, 4)
    with pytest.raises(HaspError, match="rel_v is"):
        relation_attention(v, None, v, None, torch.zeros(2, 1, 4), None, csr)
    with pytest.raises(HaspError, match="one dtype"):
        relation_attention(v.double(), None, v, None, rel, None, csr)
    with pytest.raises(HaspError, match="together"):
        relation_attention(v, v, v, None, rel, None, csr)
