"""A run that is killed at any moment and started again ends with the weights of one that was not, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from killed_ranks import EPOCHS, train, train_ranks
from train_graphs import train_many, train_small

STEPS = 3  # of an epoch: six parts, two a step


def test_kill_9_at_random_moments_of_a_run(tmp_path: Path) -> None:
    script = Path(__file__).with_name("killed_ranks.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(script), str(tmp_path), "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    kills = [int(line) for line in done.stdout.split()]
    assert len(kills) == 2 and sum(kills) >= 1  # a kill may come after the end of a short run
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = train(None)
    finally:
        torch.set_num_threads(threads)
    assert whole["step"] == EPOCHS * STEPS
    for run in range(2):
        assert json.loads((tmp_path / str(run) / "end.json").read_text()) == whole


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> object:
    root = tmp_path_factory.mktemp("undisturbed")
    ranks = train_ranks(2, root / "out", root / "checkpoint")
    assert ranks[0] == ranks[1] and ranks[0]["step"] == EPOCHS * STEPS
    return ranks[0]


# A rank has one batch a step: it dies in the first, the middle or the last step of the second epoch.
@pytest.mark.parametrize(("rank", "batch"), [(1, STEPS), (0, STEPS + 1), (1, 2 * STEPS - 1)])
def test_one_of_two_ranks_is_killed_in_the_second_epoch(undisturbed: object, rank: int, batch: int, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    ranks = train_ranks(2, tmp_path / "first", checkpoint, {rank: batch})
    assert ranks[rank] is None and "lost another rank, which died or hangs" in ranks[1 - rank]["error"]
    assert json.loads((checkpoint / "checkpoint.json").read_text())["progress"]["epoch"] == 1
    ranks = train_ranks(2, tmp_path / "second", checkpoint)
    assert ranks == [undisturbed, undisturbed]


def test_five_ranks_train_as_one_although_a_step_has_four_parts(tmp_path: Path) -> None:
    alone = train_small("infonce")
    for rank in train_many(5, tmp_path / "5", "infonce"):
        assert rank["step"] == alone["step"]
        np.testing.assert_allclose(rank["loss"], alone["loss"], rtol=1e-5)
        np.testing.assert_allclose(rank["weights"], alone["weights"], atol=2e-4)
