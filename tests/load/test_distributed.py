"""Real process groups (gloo): every part once, as many batches on every rank, and the gradient of one process."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from gloo import on_ranks
from load_fakes import build, random_graph
from torch.nn.parallel import DistributedDataParallel

from hasp.load.loader import HASPLoader

PARTS, PER_STEP = 7, 4


def unequal_store() -> Any:
    """Seven parts, of 0 to 30 titles: some ranks get padding, and two parts are empty."""
    rng = np.random.default_rng(2)
    data = random_graph(rng, {"title": 60, "game": 3, "genre": 4, "talent": 5}, 200)
    label = np.repeat(np.arange(PARTS), [0, 30, 3, 0, 17, 9, 1])
    return build(data, {"title": label, "game": [1, 1, 4]}, PARTS)


def train(world_size: int, q: int) -> dict[str, Any]:
    loader = HASPLoader(unequal_store(), q, shuffle=True, seed=4, parts_per_step=PER_STEP)
    torch.manual_seed(0)
    plain = torch.nn.Linear(2, 1)
    model: Any = DistributedDataParallel(plain) if world_size > 1 else plain
    gradients, seen, left = [], [], []
    for _ in range(2):
        batches = iter(loader)
        for step in range(loader.steps_per_epoch):
            mine = [next(batches) for _ in range(loader.batches_in_step(step))]
            seen.append([b.part_id.tolist() for b in mine])
            count = torch.tensor(float(sum(b["title"].num_nodes for b in mine)))
            if world_size > 1:
                dist.all_reduce(count)
            model.zero_grad()
            for i, batch in enumerate(mine):
                last = world_size == 1 or i == len(mine) - 1
                with contextlib.nullcontext() if last else model.no_sync():
                    error = model(batch["title"].x).view(-1) - batch["title"].y
                    ((error**2).sum() * world_size / count).backward()
            gradients.append([float(v) for p in plain.parameters() for v in p.grad.view(-1)])
        left.append(len(list(batches)))
    return {"gradients": gradients, "seen": seen, "left": left}


def run_all(world_size: int, q: int, folder: Path) -> list[Any]:
    return on_ranks(world_size, folder, "test_distributed:train", world_size, q, limit=60)


@pytest.mark.parametrize("q", [1, 2])
def test_two_and_three_ranks_train_as_one(q: int, tmp_path: Path) -> None:
    (alone,) = run_all(1, q, tmp_path / "1")
    for world_size in (2, 3):
        ranks = run_all(world_size, q, tmp_path / str(world_size))
        assert len({tuple(map(len, rank["seen"])) for rank in ranks}) == 1
        assert all(rank["left"] == [0, 0] for rank in ranks)
        steps = [sorted(p for rank in ranks for batch in rank["seen"][s] for p in batch) for s in range(4)]
        assert steps == [sorted(p for batch in alone["seen"][s] for p in batch) for s in range(4)]
        assert sorted(steps[0] + steps[1]) == sorted(steps[2] + steps[3]) == list(range(PARTS))
        for rank in ranks:
            np.testing.assert_allclose(rank["gradients"], alone["gradients"], rtol=2e-5, atol=1e-6)
    assert any(batch == [] for rank in ranks for step in rank["seen"] for batch in step)  # padding did occur
