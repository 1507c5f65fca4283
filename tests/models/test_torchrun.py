"""``torchrun -m hasp_models.train``: real launchers, ranks that are killed and started again, other numbers of ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._C._distributed_c10d import HashStore

from hasp import HASPData
from hasp.errors import HaspError
from hasp.sources import open_source
from hasp_models.distributed.group import TIMEOUT, meet, process_group
from hasp_models.distributed.ranks import Ranks
from hasp_models.events import read_events
from hasp_models.files import load_tensors
from hasp_models.train_task import train_run

PARTS, EPOCHS = 3, 3
SETTINGS = ("--dim", 4, "--layers", 1, "--free", "--parts-per-step", 2)  # two steps an epoch


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("torchrun") / "parts"
    HASPData(open_source("synthetic:300"), num_parts=PARTS, root=folder, reverse=True, log=False)
    return folder


def torchrun(ranks: int, *arguments: Any, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    """Run torchrun with a store of its own on a free port."""
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command += ["--max-restarts", str(restarts), *map(str, arguments)]
    # A script has its own folder on the path, not the one in which it is started: both kinds of ranks run this checkout.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=600)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_tensors(run / "model.safetensors")


def test_killed_ranks_cost_a_restart_each_and_no_bit_of_the_model(parts: Path, tmp_path: Path) -> None:
    whole = torchrun(2, "-m", "hasp_models.train", parts, "--out", tmp_path / "whole", "--epochs", EPOCHS, *SETTINGS)
    assert whole.returncode == 0, whole.stderr
    assert whole.stdout.startswith(f"{EPOCHS} epochs, {2 * EPOCHS} steps, loss ") and whole.stdout.count("\n") == 1
    # A rank has a batch a step. Rank 1 dies in the second epoch, and after the restart rank 0 in the same epoch's last step.
    script = Path(__file__).with_name("torchrun_rank.py")
    out = ("--out", tmp_path / "killed", "--epochs", EPOCHS, "--checkpoint-steps", 1, *SETTINGS)
    killed = torchrun(2, script, "1:3,0:2", parts, *out, restarts=3)
    assert killed.returncode == 0, killed.stderr
    begun = [e.fields for e in read_events(tmp_path / "killed")[0] if e.event in ("started", "resumed")]
    # Each death costs one restart, none is spent on meeting; and one step, which is taken again.
    assert [(b["restart"], b["step"], b["world_size"]) for b in begun] == [(0, 0, 2), (1, 2, 2), (2, 3, 2)]
    assert (tmp_path / "killed" / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    losses = [
        [line.split(",")[:4] for line in (tmp_path / run / "log.csv").read_text().splitlines()] for run in ("whole", "killed")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 1 + EPOCHS


def test_a_run_goes_on_with_more_ranks_than_parts(parts: Path, tmp_path: Path) -> None:
    for out, epochs in (("alone", EPOCHS), ("grown", 1)):
        settings: dict[str, Any] = {"dim": 4, "layers": 1, "free": True, "parts_per_step": 2}
        train_run(HASPData.open(parts), tmp_path / out, epochs=epochs, quiet=True, **settings)
    done = torchrun(PARTS + 1, "-m", "hasp_models.train", parts, "--out", tmp_path / "grown", "--epochs", EPOCHS, *SETTINGS)
    assert done.returncode == 0, done.stderr
    begun = [e.fields for e in read_events(tmp_path / "grown")[0] if e.event in ("started", "resumed")]
    assert [(b["world_size"], b["epoch"], len(b["processes"])) for b in begun] == [(1, 0, 1), (PARTS + 1, 1, PARTS + 1)]
    alone, grown = weights(tmp_path / "alone"), weights(tmp_path / "grown")
    for name, value in alone.items():
        np.testing.assert_allclose(grown[name], value, atol=2e-4, err_msg=name)
    rows = [json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("alone", "grown")]
    assert rows[0]["step"] == rows[1]["step"] and abs(rows[0]["loss"] - rows[1]["loss"]) < 1e-4


# -- the meeting ---------------------------------------------------------------------------------------------------------


def met(store: Any, size: int, seconds: float = 20.0, late: int | None = None) -> list[str | Exception]:
    """What each of ``size`` ranks gets, one thread each; ``late`` does not come."""
    found: list[str | Exception] = [HaspError("absent")] * size

    def run(rank: int) -> None:
        try:
            found[rank] = meet(store, rank, size, seconds)
        except HaspError as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(r,)) for r in range(size) if r != late]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_every_attempt_has_a_name_of_its_own_in_one_store() -> None:
    store, names = HashStore(), []
    for size in (2, 2, 5, 3, 1, 2):  # an attempt may have another number of ranks
        found = met(store, size)
        assert len(set(found)) == 1 and isinstance(found[0], str)
        names.append(found[0])
    assert len(set(names)) == 6


def test_what_an_attempt_left_that_died_in_the_meeting_is_not_believed() -> None:
    """Every state in which an earlier attempt of three ranks may have left the store, one writing after the other."""

    class Dying(Exception):
        """The process ends here."""

    class Store:
        """A store that ends the process after some writings."""

        def __init__(self, inner: Any, left: int) -> None:
            self.inner, self.left = inner, left

        def set(self, key: str, value: str) -> None:
            if not self.left:
                raise Dying
            self.left -= 1
            self.inner.set(key, value)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    for left in range(6):
        store = HashStore()
        dying = Store(store, left)

        def run(rank: int, dying: Any = dying) -> None:
            try:
                meet(dying, rank, 3, 0.2)
            except (Dying, HaspError):
                return

        threads = [threading.Thread(target=run, args=(r,)) for r in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        old = json.loads(store.get("hasp/list"))["name"] if store.check(["hasp/list"]) else None
        found = met(store, 3)
        assert len(set(found)) == 1 and isinstance(found[0], str) and found[0] != old


def test_a_rank_that_does_not_come_is_an_error_on_the_others() -> None:
    for late in (0, 2):
        found = met(HashStore(), 3, seconds=0.2, late=late)
        for rank in (1, 2) if late == 0 else (0,):
            assert f"all 3 ranks meet within 0.2 s, but rank {rank} waits in vain" in str(found[rank])


def test_tensors_of_the_last_collectives_outlive_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the threads of gloo drop them while an older torch waits for these threads with the GIL held, for ever."""
    ends: list[Any] = []
    monkeypatch.setattr("torch.distributed.init_process_group", lambda *a, **k: None)
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: ends.append([tensor() for tensor in kept]))
    ranks, kept = Ranks(), []
    with process_group(environment={"WORLD_SIZE": "2", "RANK": "1"}):
        for i in range(3):
            some = torch.full((2,), float(i))
            kept.append(weakref.ref(some))
            ranks._do("test", some, lambda some=some: some.add_(1))  # type: ignore[misc]
            del some
    assert [t.tolist() for t in ends.pop()] == [[1, 1], [2, 2], [3, 3]]
    assert [tensor() for tensor in kept] == [None] * 3


def test_time_outs_are_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 60 <= TIMEOUT.total_seconds() <= 600
    seen: list[Any] = []
    monkeypatch.setattr("torch.distributed.init_process_group", lambda *a, **k: seen.append(k["timeout"]))
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: seen.append("end"))
    with process_group(environment={"WORLD_SIZE": "2", "RANK": "1"}):
        pass
    with process_group(environment={}):
        pass
    assert seen == [TIMEOUT, "end"]
    # Beside NCCL, ranks speak over a gloo group of their own; torch would give that one half an hour.
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    monkeypatch.setattr("torch.distributed.get_backend", lambda: "nccl")
    monkeypatch.setattr("torch.distributed.new_group", lambda *, backend, timeout: (backend, timeout))
    assert Ranks()._host == ("gloo", TIMEOUT)


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"WORLD_SIZE": "2", "RANK": "3"}, r"RANK lies in 0\.\.1 for WORLD_SIZE=2, got 3; let torchrun set both, or neither"),
        ({"WORLD_SIZE": "2"}, r"RANK lies in 0\.\.1 for WORLD_SIZE=2, got none"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, r"find each other by MASTER_ADDR and MASTER_PORT \(.*MASTER_ADDR.*\); use torchrun"),
    ],
)
def test_half_an_environment_is_refused_at_once(
    environment: dict[str, str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(HaspError, match=text), process_group():
        raise AssertionError("no group")


def test_a_line_of_several_says_whose_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torchrun shows what all ranks print: the same line, or that of the one whose disk lacks a file."""
    from hasp_models.cli import main

    for environment, words in (({"RANK": "1", "WORLD_SIZE": "4"}, "error (rank 1 of 4): "), ({"WORLD_SIZE": "1"}, "error: ")):
        for name in ("RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit, match="2"):
            main(["embed", str(tmp_path), str(tmp_path), "--out", str(tmp_path / "emb")])
        assert capsys.readouterr().err.startswith(words)
