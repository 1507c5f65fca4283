"""Objectives in closed form on a graph of four nodes."""

from __future__ import annotations

import math

import pytest
import torch
from torch_geometric.data import HeteroData

from hasp.errors import HaspError
from hasp_models.objectives import InfoNCE, LinkBCE

EEL = ("title", "co", "title")
H = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0], [-1.0, 0.0]], dtype=torch.float64)
UNIT = [[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [-1.0, 0.0]]


def batch(pairs: list[tuple[int, int]], edges: list[tuple[int, int]] = (), label: list[float] | None = None) -> HeteroData:
    data = HeteroData()
    data["title"].num_nodes = 4
    data[EEL].edge_index = torch.tensor(list(edges), dtype=torch.int64).reshape(-1, 2).T.contiguous()
    data[EEL].edge_label_index = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T.contiguous()
    if label is not None:
        data[EEL].edge_label = torch.tensor(label)
    return data


def model(rows: torch.Tensor = H):
    return lambda _: {"title": rows}


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def dot(i: int, j: int) -> float:
    return sum(a * b for a, b in zip(UNIT[i], UNIT[j], strict=True))


def picked(right: float, *wrong: float) -> float:
    """-log softmax of the right cosine at temperature 0.5."""
    return math.log(sum(math.exp(2 * w) for w in (right, *wrong))) - 2 * right


def test_the_papers_loss_is_a_sum_over_pairs() -> None:
    term = LinkBCE(EEL)(model(), batch([(0, 2), (1, 2), (0, 3)], label=[1, 1, 0]))
    # dots: 3, 8, -1; -log sigmoid(x) = softplus(-x), -log(1 - sigmoid(x)) = softplus(x)
    assert term.weight == 3
    assert float(term.sum) == pytest.approx(softplus(-3) + softplus(-8) + softplus(-1), rel=1e-6)


def test_infonce_asks_both_ends() -> None:
    term = InfoNCE(EEL, temperature=0.5)(model(), batch([(0, 1), (2, 3)]))
    rows = picked(dot(0, 1), dot(0, 3)) + picked(dot(2, 3), dot(2, 1))
    columns = picked(dot(0, 1), dot(2, 1)) + picked(dot(2, 3), dot(0, 3))
    assert term.weight == 2
    assert float(term.sum) == pytest.approx((rows + columns) / 2, rel=1e-6)


@pytest.mark.parametrize("edges", [[(0, 3)], [(3, 0)]])
def test_infonce_masks_what_carries_messages(edges: list[tuple[int, int]]) -> None:
    term = InfoNCE(EEL, temperature=0.5)(model(), batch([(0, 1), (2, 3)], edges))
    rows = picked(dot(0, 1)) + picked(dot(2, 3), dot(2, 1))
    columns = picked(dot(0, 1), dot(2, 1)) + picked(dot(2, 3))
    assert float(term.sum) == pytest.approx((rows + columns) / 2, rel=1e-6)


def test_infonce_masks_what_supervises_and_the_node_itself() -> None:
    # (0, 1) and (1, 2): asked from 0, the partner 2 is wrong; asked from 1, the partner 1 is the node itself.
    term = InfoNCE(EEL, temperature=0.5)(model(), batch([(0, 1), (1, 2)]))
    rows = picked(dot(0, 1), dot(0, 2)) + picked(dot(1, 2))
    columns = picked(dot(0, 1)) + picked(dot(1, 2), dot(0, 2))
    assert float(term.sum) == pytest.approx((rows + columns) / 2, rel=1e-6)
    # Three links of one node: no partner of one is wrong for another.
    star = InfoNCE(EEL, temperature=0.5)(model(), batch([(0, 1), (0, 2), (0, 3)]))
    columns = picked(dot(0, 1)) + picked(dot(0, 2)) + picked(dot(0, 3))
    assert float(star.sum) == pytest.approx(columns, abs=1e-6)


def test_infonce_takes_links_for_links_and_not_their_negatives() -> None:
    some = InfoNCE(EEL)(model(), batch([(0, 1), (2, 3)]))
    labelled = InfoNCE(EEL)(model(), batch([(0, 1), (2, 3), (0, 3)], label=[1, 1, 0]))
    assert labelled.weight == 2
    assert float(labelled.sum) == float(some.sum)


def test_the_cap_is_drawn_by_the_key() -> None:
    objective = InfoNCE(EEL, max_pairs=3)
    draws = [objective._chosen(50, key).tolist() for key in range(200)]
    assert all(len(set(d)) == 3 and d == sorted(d) for d in draws)
    assert draws[7] == objective._chosen(50, 7).tolist()
    counts = torch.bincount(torch.tensor(draws).reshape(-1), minlength=50)
    # 600 draws into 50 cells of 12: chi-square with 49 degrees stays below its 1e-6 quantile.
    assert float(((counts - 12) ** 2 / 12).sum()) < 120
    capped = objective(model(), batch([(0, 1), (2, 3), (0, 2), (1, 3)]), 1)
    assert capped.weight == 3


@pytest.mark.parametrize("objective", [LinkBCE(EEL), InfoNCE(EEL)])
def test_nothing_to_supervise_weighs_nothing_and_has_a_gradient(objective) -> None:
    rows = H.clone().requires_grad_()
    term = objective(model(rows), batch([], label=[]))
    term.sum.backward()
    assert (float(term.sum.detach()), term.weight) == (0.0, 0.0)
    assert torch.equal(rows.grad, torch.zeros_like(rows))


def test_gradients() -> None:
    rows = H.clone().requires_grad_()
    labelled = batch([(0, 2), (1, 2), (0, 3)], label=[1, 1, 0])
    for objective in (LinkBCE(EEL), InfoNCE(EEL)):
        assert torch.autograd.gradcheck(lambda h, f=objective: f(model(h), labelled).sum, rows)


def test_bad_settings_and_batches() -> None:
    with pytest.raises(HaspError, match="temperature is above 0, got 0"):
        InfoNCE(EEL, temperature=0)
    with pytest.raises(HaspError, match="max_pairs is at least 2, got 1"):
        InfoNCE(EEL, max_pairs=1)
    with pytest.raises(HaspError, match="neg_sampling='binary'"):
        LinkBCE(EEL)(model(), batch([(0, 1)]))
