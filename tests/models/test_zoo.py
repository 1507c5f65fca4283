"""item2vec and LightGCN: planted communities, naive losses, draws, and what a dense propagation gives."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from hasp.errors import HaspError
from hasp.graph import Graph
from hasp_models.data import splits
from hasp_models.data.baselines import BASELINES
from hasp_models.data.benchmark import make_benchmark
from hasp_models.data.evaluate import evaluate
from hasp_models.data.neighbors import Scorer
from hasp_models.zoo import item2vec, lightgcn
from hasp_models.zoo.baskets import Baskets

N, CLUSTERS, LONER = 41, 5, 40
LINK = ("title", "co_engaged", "title")
SMALL = {
    "item2vec": {"dim": 8, "epochs": 8, "lr": 0.05, "batch_size": 256},
    "lightgcn": {"dim": 8, "epochs": 8, "lr": 0.05, "batch_size": 256},
}


def bench_of(users, items, count=N):
    graph = Graph({"title": count}, {LINK: (torch.empty(0, dtype=torch.long),) * 2})
    return make_benchmark(graph, users, items, splits.split_users(np.asarray(users), 0), rule=splits.LinkRule(3, 0.1, 1.0, 3))


@pytest.fixture(scope="module")
def benchmark():
    """Users engage within a community: entities that are equal modulo 5. The last entity has no user."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(600), 5)
    items = rng.integers(0, CLUSTERS, 600).repeat(5) + CLUSTERS * rng.integers(0, 8, users.size)
    return bench_of(users, items)


@pytest.fixture
def baskets():
    """User 0: 0 2; user 1: 1 (twice); user 2: all four that anyone has; user 3: 0 1 3. Entity 4 has nobody."""
    users = np.array([7, 7, 8, 8, 9, 9, 9, 9, 11, 11, 11])
    items = np.array([2, 0, 1, 1, 0, 1, 2, 3, 3, 1, 0])
    matrix = bench_of(users, items, 5)
    return Baskets.of(make_benchmark(matrix.graph, users, items, np.zeros(users.size, dtype=np.int8)))


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("name", SMALL)
def test_planted_communities_are_found(benchmark, name):
    scorer = BASELINES[name](benchmark, **SMALL[name])
    scores = scorer.scores(np.arange(N))
    assert isinstance(scorer, Scorer) and scores.shape == (N, N) and scores.dtype == torch.float32
    best = scores[:LONER].fill_diagonal_(-torch.inf).topk(7, dim=1).indices
    same = (best % CLUSTERS == torch.arange(LONER)[:, None] % CLUSTERS) & (best != LONER)
    assert same.float().mean() > 0.9
    assert not scores[LONER].any() and not scores[:, LONER].any()  # nothing is known of it, so nothing is said
    chance = evaluate(BASELINES["random"](benchmark), benchmark.test["co_sim"]).mean()
    assert evaluate(scorer, benchmark.test["co_sim"]).mean() > 2 * chance


@pytest.mark.parametrize("name", SMALL)
def test_a_seed_decides_every_bit(benchmark, name):
    options = {**SMALL[name], "epochs": 2}
    losses = []
    tables = []
    for seed in (3, 3, 4):
        seen = []
        made = BASELINES[name](benchmark, **options, seed=seed, progress=lambda e, x, s=seen: s.append((e, x)))
        tables.append(made.rows())
        losses.append(seen)
        torch.rand(3)  # the global generator has no say
    assert torch.equal(tables[0], tables[1]) and losses[0] == losses[1] and [e for e, _ in losses[0]] == [0, 1]
    assert not torch.equal(tables[0], tables[2])


def test_baskets_against_sets(baskets):
    sets = [{0, 2}, {1}, {0, 1, 2, 3}, {0, 1, 3}]
    rows = [(u, i) for u, some in enumerate(sets) for i in sorted(some)]
    assert list(zip(baskets.users.tolist(), baskets.items.tolist(), strict=True)) == rows
    assert baskets.num_users == 4 and baskets.popularity.tolist() == [3, 3, 2, 2, 0]
    users, items = torch.cartesian_prod(torch.arange(4), torch.arange(5)).T
    assert baskets.contains(users, items).tolist() == [i in sets[u] for u in range(4) for i in range(5)]
    # User 2 lacks nothing that anyone has; user 1 has no pair.
    assert {rows[p][0] for p in baskets.usable().tolist()} == {0, 1, 3}
    assert {rows[p][0] for p in baskets.usable(2).tolist()} == {0, 3}


def test_partners_are_the_others_of_the_basket_and_equally_likely(baskets):
    places = torch.tensor([0, 1, 7, 8, 9]).repeat(3000)
    drawn = baskets.partners(places, generator())
    want = {0: {2: 1.0}, 1: {0: 1.0}, 7: {1: 0.5, 3: 0.5}, 8: {0: 0.5, 3: 0.5}, 9: {0: 0.5, 1: 0.5}}
    for place, shares in want.items():
        share = torch.bincount(drawn[places == place], minlength=5) / 3000
        assert share.nonzero()[:, 0].tolist() == sorted(shares)
        assert all(abs(float(share[i]) - s) < 0.05 for i, s in shares.items())


@pytest.mark.parametrize("power", [0.0, 0.75, 3.0])
def test_negatives_are_never_positives_and_follow_the_power(baskets, power):
    users = torch.tensor([0, 1, 3]).repeat(3000)
    drawn = baskets.negatives(users, 2, power, generator())
    assert drawn.shape == (9000, 2) and not baskets.contains(users[:, None], drawn).any()
    for user, left in {0: [1, 3], 1: [0, 2, 3], 3: [2]}.items():
        weight = torch.zeros(5)
        weight[left] = baskets.popularity[left].float() ** power
        share = torch.bincount(drawn[users == user].flatten(), minlength=5) / 6000
        assert torch.allclose(share, weight / weight.sum(), atol=0.03)  # entity 4, which nobody has, is never drawn


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_skip_gram_loss_and_gradient_against_a_loop():
    rng = torch.Generator().manual_seed(1)
    centre, context = (torch.randn(5, 3, generator=rng, dtype=torch.float64).requires_grad_() for _ in range(2))
    items, right, wrong = torch.tensor([0, 1, 0]), torch.tensor([1, 2, 2]), torch.tensor([[3, 4], [3, 3], [1, 4]])
    loss = item2vec.skip_gram_loss(centre, context, items, right, wrong)
    loss.backward()
    total, by_centre, by_context = 0.0, np.zeros((5, 3)), np.zeros((5, 3))
    c, x = centre.detach().numpy(), context.detach().numpy()
    for i, j, others in zip(items.tolist(), right.tolist(), wrong.tolist(), strict=True):
        for other, sign in [(j, 1.0), *((n, -1.0) for n in others)]:
            total -= math.log(sigmoid(sign * float(c[i] @ x[other]))) / 3
            pull = -sign * sigmoid(-sign * float(c[i] @ x[other])) / 3
            by_centre[i] += pull * x[other]
            by_context[other] += pull * c[i]
    assert loss.item() == pytest.approx(total, abs=1e-12)
    np.testing.assert_allclose(centre.grad.numpy(), by_centre, atol=1e-12)
    np.testing.assert_allclose(context.grad.numpy(), by_context, atol=1e-12)


def test_bpr_loss_against_a_loop():
    rng = torch.Generator().manual_seed(2)
    final, base = (torch.randn(6, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    users, right, wrong = torch.tensor([0, 1, 0]), torch.tensor([2, 3, 4]), torch.tensor([5, 5, 2])
    total = 0.0
    for u, i, j in zip(users.tolist(), right.tolist(), wrong.tolist(), strict=True):
        total -= math.log(sigmoid(float(final[u] @ final[i] - final[u] @ final[j])))
        total += 0.3 / 2 * sum(float(base[r] @ base[r]) for r in (u, i, j))
    assert lightgcn.bpr_loss(final, base, users, right, wrong, 0.3).item() == pytest.approx(total / 3, abs=1e-12)


def dense_mean(baskets, layers):
    """``mean of A^0..A^layers`` by loops over engagements."""
    size = baskets.num_users + baskets.num_items
    matrix = np.zeros((size, size))
    pairs = list(zip(baskets.users.tolist(), baskets.items.tolist(), strict=True))
    for u, i in pairs:
        value = 1 / math.sqrt(sum(a == u for a, _ in pairs) * sum(b == i for _, b in pairs))
        matrix[u, baskets.num_users + i] = matrix[baskets.num_users + i, u] = value
    return sum(np.linalg.matrix_power(matrix, k) for k in range(layers + 1)) / (layers + 1)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_propagation_equals_a_dense_one_and_is_its_own_transpose(baskets, layers):
    matrix, mean = lightgcn.adjacency(baskets), dense_mean(baskets, layers)
    x = torch.randn(9, 4, generator=generator())
    np.testing.assert_allclose(lightgcn.propagate(matrix, x, layers).numpy(), mean @ x.numpy(), atol=1e-6)
    # What the training loop relies on: the gradient by x of f(M x) is M times the gradient of f.
    grad = torch.randn(9, 4, generator=generator())
    leaf = x.double().requires_grad_()
    ((torch.from_numpy(mean) @ leaf) * grad.double()).sum().backward()
    np.testing.assert_allclose(lightgcn.propagate(matrix, grad, layers).numpy(), leaf.grad.numpy(), atol=1e-6)


def test_one_step_of_lightgcn_equals_autograd_through_the_dense_graph(baskets):
    """One batch, one epoch: the start, the draws and the step of Adam again, with autograd through everything."""
    _, got = lightgcn.embed(baskets, dim=3, layers=2, epochs=1, batch_size=100, lr=0.1, weight=0.5, seed=5)
    draws = torch.Generator().manual_seed(int(lightgcn.subkey(5, lightgcn.word("lightgcn"))) >> 1)
    base = (torch.randn(9, 3, generator=draws) * 0.1).double().requires_grad_()
    rows = baskets.usable()
    rows = rows[torch.randperm(rows.numel(), generator=draws)]
    wrong = baskets.negatives(baskets.users[rows], 1, 0.0, draws)[:, 0]
    mean = torch.from_numpy(dense_mean(baskets, 2))
    step = torch.optim.Adam([base], lr=0.1)
    lightgcn.bpr_loss(mean @ base, base, baskets.users[rows], 4 + baskets.items[rows], 4 + wrong, 0.5).backward()
    step.step()
    want = (mean @ base.detach())[4:]
    np.testing.assert_allclose(got[:4].numpy(), want[:4].numpy(), atol=1e-5)
    assert not got[4].any()  # nobody has it


@pytest.mark.parametrize("name", SMALL)
def test_refusals(benchmark, name):
    fit = BASELINES[name]
    for wrong in ({"dim": 0}, {"epochs": 0}, {"lr": 0.0}, {"batch_size": 0}):
        with pytest.raises(HaspError, match="correct them"):
            fit(benchmark, **wrong)
    everyone = make_benchmark(benchmark.graph, np.repeat(np.arange(3), 2), [0, 1] * 3, np.zeros(6, dtype=np.int8))
    with pytest.raises(HaspError, match="another baseline"):  # nobody lacks anything
        fit(everyone)
    nobody = make_benchmark(benchmark.graph, np.arange(2), [0, 1], np.full(2, splits.TEST, dtype=np.int8))
    with pytest.raises(HaspError, match="graph users"):
        fit(nobody)


def test_importing_the_baselines_imports_no_recommender():
    code = "import sys, hasp_models.data.baselines; print(*[m for m in sys.modules if m.startswith('hasp_models.zoo')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.strip()
