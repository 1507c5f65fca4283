"""The softmax against given targets: the formula in loops, autograd's gradient, and blocks of any size."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hasp_models.target_softmax as module
from hasp_models.target_softmax import target_softmax


def case(seed: int, count: int, queries: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, 3, generator=generator, dtype=torch.float64) * torch.rand(count, 1, generator=generator).exp()
    chosen = torch.randperm(count, generator=generator)[:queries]
    q = torch.rand(queries, count, generator=generator, dtype=torch.float64)
    hidden = torch.rand(queries, count, generator=generator) < 0.3
    return rows, chosen, q * (torch.rand(queries, 1, generator=generator) < 0.8), hidden


def slow(rows: torch.Tensor, chosen: torch.Tensor, q: torch.Tensor, hidden: torch.Tensor, temperature: float) -> torch.Tensor:
    """By loops over pairs, differentiable."""
    unit = rows / rows.norm(dim=1, keepdim=True)
    total = rows.sum() * 0.0
    for at, i in enumerate(chosen.tolist()):
        answers = [j for j in range(rows.size(0)) if j != i and not hidden[at, j]]
        scores = {j: unit[i] @ unit[j] / temperature for j in answers}
        if answers:
            whole = torch.stack(list(scores.values())).logsumexp(0)
            for j in answers:
                total = total - q[at, j] * (scores[j] - whole)
    return total


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(0, 9), st.sampled_from([0.1, 1.0]), st.sampled_from([1, 20, 1000]))
def test_the_formula_and_its_gradient(seed: int, count: int, queries: int, temperature: float, cells: int) -> None:
    rows, chosen, q, hidden = case(seed, count, min(queries, count))
    asked: list[tuple[int, int]] = []

    def targets(start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append((start, stop))
        return q[start:stop], hidden[start:stop]

    mine, theirs = rows.clone().requires_grad_(), rows.clone().requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CELLS", cells)
        found = target_softmax(mine, chosen, targets, temperature)
    wanted = slow(theirs, chosen, q, hidden, temperature)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    assert [a for a, _ in asked] == [0, *(b for _, b in asked[:-1])][: len(asked)]  # each query once, in order
    assert sum(b - a for a, b in asked) == chosen.numel()
    (3 * found).backward()
    (3 * wanted).backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-8, atol=1e-8)


def test_a_row_of_zeros_has_a_finite_gradient() -> None:
    rows = torch.randn(4, 3)
    rows[2] = 0
    rows.requires_grad_()
    q = torch.ones(2, 4)
    target_softmax(rows, torch.tensor([0, 2]), lambda a, b: (q[a:b], torch.zeros(b - a, 4, dtype=torch.bool)), 0.1).backward()
    assert bool(rows.grad.isfinite().all())
