"""Training that is killed with signal 9 and started again, in one process or in several; run as a program of its own.

``python killed_ranks.py alone FOLDER RUNS`` kills one process at random moments until one ends by itself, and prints the
number of kills of each run. :func:`train_ranks` is for tests: a group of ranks of which one may be killed.
"""

from __future__ import annotations

import datetime
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from blake3 import blake3

from hasp_models.objectives import InfoNCE
from hasp_models.train import fit

EPOCHS = 3


class Deadly:
    """The objective of the run, and after so many batches the end of this process; equal to it in its settings."""

    def __init__(self, eel: Any, batches: int | None) -> None:
        self.inner, self.left = InfoNCE(eel, max_pairs=16), batches

    def __repr__(self) -> str:
        return repr(self.inner)

    def __call__(self, model: Any, batch: Any, key: int) -> Any:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.inner(model, batch, key)


def train(folder: Path | None, batches: int | None = None, steps: int | None = 1) -> dict[str, Any]:
    """A small run with a checkpoint every ``steps`` steps; the hash of what it ends with, and what it counted."""
    from train_graphs import EEL, small_loader, small_model, small_parts

    parts = small_parts()
    model = small_model(parts, free=True, entity_dropout=0.5)
    how: dict[str, Any] = {"epochs": EPOCHS, "lr": 0.01, "clip": 1.0, "weight_decay": 0.1, "checkpoint_steps": steps}
    loader = small_loader(parts, parts_per_step=2)
    run = fit(model, loader, Deadly(EEL, batches), checkpoint=folder, progress=False, **how)
    digest = blake3(b"".join(v.detach().numpy().tobytes() for v in model.state_dict().values())).hexdigest()
    return {"weights": digest, "step": run.step, "losses": [row["loss"] for row in run.history]}


def _rank(rank: int, world_size: int, out: str, checkpoint: str, deaths: dict[int, int]) -> None:
    torch.set_num_threads(1)
    limit = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", f"file://{out}/meet", limit, world_size, rank)
    try:
        found = train(Path(checkpoint), deaths.get(rank), None)
    except Exception as error:
        found = {"error": str(error)}
    Path(out, f"{rank}.json").write_text(json.dumps(found))
    os._exit(0)  # a group that lost a rank cannot be taken down in order


def train_ranks(world_size: int, out: Path, checkpoint: Path, deaths: dict[int, int] | None = None) -> list[Any]:
    """What each rank ended with, ``None`` for one that was killed (``deaths``: rank -> after how many batches)."""
    out.mkdir()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch_geometric.loader", "hasp.build", "hasp_models.train", "hasp_models.semantic_gnn"])
    arguments = (world_size, str(out), str(checkpoint), deaths or {})
    ranks = [context.Process(target=_rank, args=(r, *arguments)) for r in range(world_size)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        assert process.exitcode is not None, "a rank hangs"
    files = [out / f"{r}.json" for r in range(world_size)]
    return [json.loads(f.read_text()) if f.is_file() else None for f in files]


def kill_until_finished(folder: Path, seed: int) -> int:
    """Fork runs and kill each after a random time, until one ends by itself; how many were killed."""
    moments = random.Random(seed)
    for kills in range(1000):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                found = train(folder / "checkpoint")
                (folder / "end.json").write_text(json.dumps(found))
                code = 0
            finally:
                os._exit(code)
        time.sleep(moments.random() * 0.8 + 0.3 * kills)
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if status == 0:
            return kills
        if status != signal.SIGKILL:
            raise RuntimeError(f"a run ended with status {status}")
    raise RuntimeError("no run ever finished")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for _seed in range(int(sys.argv[2])):
        _folder = Path(sys.argv[1]) / str(_seed)
        _folder.mkdir()
        print(kill_until_finished(_folder, _seed))
