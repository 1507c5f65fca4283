"""The in-batch softmax and its mask beside what they are by definition; vectors of some node types alone."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import answers as naive
from naive import segments
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import HeteroData

from hasp.errors import HaspError
from hasp_models import relation_csr
from hasp_models.margin import MaxMargin
from hasp_models.objectives import InfoNCE
from hasp_models.pair_softmax import answers, answers_off_host, pair_softmax
from hasp_models.relation_csr import RelationCSR, Rows
from hasp_models.semantic_gnn import SemanticGNN
from hasp_models.train import _adam_w

EEL = ("title", "like", "title")
TYPES = [EEL, ("title", "has", "genre"), ("genre", "rev_has", "title")]


def by_definition(left: Tensor, right: Tensor, pairs: Tensor, masked: Tensor, temperature: float) -> Tensor:
    a, b = F.normalize(left[pairs[0]], dim=1), F.normalize(right[pairs[1]], dim=1)
    logits = (a @ b.T / temperature).masked_fill(masked, -torch.inf)
    target = torch.arange(pairs.size(1))
    both = F.cross_entropy(logits, target, reduction="sum") + F.cross_entropy(logits.T, target, reduction="sum")
    return both / 2


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.booleans(), st.floats(0.05, 2.0), st.integers(0, 10**6))
def test_the_loss_and_its_gradient_are_those_of_cross_entropy(count: int, one: bool, temperature: float, seed: int) -> None:
    torch.manual_seed(seed)
    left = torch.randn(6, 3, dtype=torch.float64)
    left[0] = 0  # a vector without a direction
    right = left if one else torch.randn(5, 3, dtype=torch.float64)
    pairs = torch.stack([torch.randint(0, 6, (count,)), torch.randint(0, len(right), (count,))])
    masked = (torch.rand(count, count) < 0.4).fill_diagonal_(False)
    left.requires_grad_()
    right.requires_grad_()
    inputs = [left] if one else [left, right]
    got, want = (f(left, right, pairs, masked, temperature) for f in (pair_softmax, by_definition))
    torch.testing.assert_close(got, want)
    weight = torch.randn((), dtype=torch.float64)
    for a, b in zip(torch.autograd.grad(got * weight, inputs), torch.autograd.grad(want * weight, inputs), strict=True):
        # By a vector of length 0 the gradient is divided by 1e-12.
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_gradcheck() -> None:
    torch.manual_seed(0)
    left, right = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    pairs, masked = torch.tensor([[0, 1, 2, 0], [3, 1, 1, 2]]), torch.zeros(4, 4, dtype=torch.bool)
    masked[0, 3] = masked[1, 2] = True
    assert torch.autograd.gradcheck(lambda a, b: pair_softmax(a, b, pairs, masked, 0.5), (left, right))
    assert torch.autograd.gradcheck(lambda a: pair_softmax(a, a, pairs, masked, 0.5), (left,))


@settings(max_examples=60, deadline=None)
@given(st.data(), st.booleans())
def test_the_mask_is_that_of_a_search(draw: Any, same_type: bool) -> None:
    counts = (6, 6) if same_type else (6, 4)
    pair = st.tuples(st.integers(0, counts[0] - 1), st.integers(0, counts[1] - 1))
    pairs = draw.draw(st.lists(pair, min_size=1, max_size=9))
    links = draw.draw(st.lists(pair, max_size=9))
    want = naive.answers(links, pairs, same_type)
    cut = draw.draw(st.integers(0, len(links)))

    def ends(of: list[tuple[int, int]], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        index = torch.tensor(of, dtype=dtype).reshape(-1, 2).T
        return index[0], index[1]

    given_links = [ends(links[:cut], torch.int64), ends(links[cut:], torch.int32)]
    index = torch.stack(ends(pairs, torch.int64))
    assert answers(given_links, index, counts, same_type).tolist() == want
    assert answers_off_host(given_links, index, counts, same_type).tolist() == want


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 4))
def test_segments(degrees: list[int], most: int) -> None:
    indptr = np.cumsum([0, *degrees])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relation_csr, "SPLIT", most)
        rows = Rows.of(indptr)
    got = (rows.seg_ptr, rows.seg_row, rows.seg_out, rows.split_row, rows.split_ptr, rows.slot_seg, rows.empty)
    assert [a.tolist() for a in got] == [list(a) for a in segments.cut_rows(indptr.tolist(), most)]
    assert all(a.dtype == np.int64 for a in got)


def test_rows_are_counted_from_where_their_type_begins() -> None:
    src, dst, ptr = torch.tensor([0, 1, 0, 2]), torch.tensor([1, 0, 0, 1]), torch.tensor([0, 2, 2, 4])
    first = torch.tensor([2, 9, 0]), torch.tensor([0, 9, 1])
    csr = RelationCSR.from_edges(src, dst, ptr, 3, 5, first)
    want = RelationCSR.from_edges(torch.tensor([2, 3, 0, 2]), torch.tensor([1, 0, 1, 2]), ptr, 3, 5)
    for name in ("indptr", "src", "rel", "perm"):
        assert torch.equal(getattr(csr, name), getattr(want, name))


@pytest.mark.parametrize(("types", "options"), [
    (["title"], {}), (["genre"], {}), (["title", "genre"], {}), (["title"], {"update": ["title"]}),
    (["genre"], {"update": ["title"]}), (["genre"], {"normalize": True}), (["genre"], {"heads": 2, "backend": "torch"}),
])  # fmt: skip
def test_types_that_are_asked_for_have_the_vectors_and_gradients_of_all(types: list[str], options: dict[str, Any]) -> None:
    rng = np.random.default_rng(1)
    data = HeteroData()
    data["title"].num_nodes, data["genre"].num_nodes = 20, 5
    data["title"].x = torch.from_numpy(rng.standard_normal((20, 3)))
    data[EEL].edge_index = torch.from_numpy(rng.integers(0, 20, (2, 60)))
    has = torch.from_numpy(np.stack([rng.integers(0, 20, 40), rng.integers(0, 5, 40)]))
    data[TYPES[1]].edge_index, data[TYPES[2]].edge_index = has, has.flip(0)
    torch.manual_seed(0)
    model = SemanticGNN((["title", "genre"], TYPES), {"title": 3}, 8, embed={"genre": 5}, **options).double()
    want, got, csr = model(data), model(data, types=types), model.csr(data)
    again = model(data, csr, types)
    for t in types:
        for out in (got, again):
            torch.testing.assert_close(out[t], want[t], rtol=1e-10, atol=1e-12)
            grads = [
                torch.autograd.grad(o[t].square().sum(), list(model.parameters()), retain_graph=True, allow_unused=True)
                for o in (out, want)
            ]
            for a, b in zip(*grads, strict=True):
                a, b = (torch.zeros(()) if g is None else g for g in (a, b))
                torch.testing.assert_close(a.expand_as(b) if a.dim() == 0 else a, b.expand_as(a), check_dtype=False)


@pytest.mark.parametrize("objective", [InfoNCE(EEL), MaxMargin(EEL)])
def test_a_batch_without_pairs_names_what_is_missing(objective: Any) -> None:
    data = HeteroData()
    data["title"].num_nodes = 3
    data[EEL].edge_index = torch.tensor([[0], [1]])
    with pytest.raises(HaspError, match="the batch has none; give the loader edge_label_index"):
        objective(lambda _: {"title": torch.zeros(3, 2)}, data)


def test_the_fused_step_is_the_same_at_any_number_of_threads() -> None:
    torch.manual_seed(0)
    shapes = [(1000, 37), (5,), (64, 64), (301, 3)]
    start, before = [torch.randn(s) for s in shapes], torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            moved = [torch.nn.Parameter(t.clone()) for t in start]
            optimizer = _adam_w(moved, torch.device("cpu"), lr=0.01, weight_decay=0.1)
            for step in range(3):
                for p in moved:
                    p.grad = torch.sin(p.detach() * (step + 1))
                optimizer.step()
            found.append(copy.deepcopy(moved))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
