"""Training on several ranks, real gloo processes, of which some fail; what each rank ends with is written down."""

from __future__ import annotations

import datetime
import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from train_graphs import EEL, small_loader, small_model, small_parts

from hasp import HASPData
from hasp_models.distributed.ranks import Ranks
from hasp_models.objectives import InfoNCE
from hasp_models.train import fit

LIMIT = 40.0  # the group's time-out; every failure must be told in far less


class Broken:
    """An objective that does something else on some ranks in step 3 (its fourth call: one batch per rank and step)."""

    def __init__(self, ranks: list[int], what: str) -> None:
        self.inner, self.ranks, self.what, self.calls = InfoNCE(EEL), ranks, what, 0

    def __repr__(self) -> str:
        return "Broken"

    def __call__(self, model: Any, batch: Any, key: int) -> Any:
        self.calls += 1
        if self.calls == 4 and dist.get_rank() in self.ranks:
            if self.what == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.what == "memory":
                raise torch.OutOfMemoryError("tried to allocate 3.00 GiB")
            raise KeyError("no such thing")
        return self.inner(model, batch, key)


def kill_worker(batch: Any) -> Any:
    """A transform in a loader's worker process."""
    if torch.utils.data.get_worker_info() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return batch


def kill_in_collective() -> None:
    """From now on, the first collective of this rank that finds a worker process kills it, and goes on some time after."""
    collective = dist.all_reduce

    def all_reduce(*args: Any, **kwargs: Any) -> Any:
        for worker in multiprocessing.active_children():
            os.kill(worker.pid or 0, signal.SIGKILL)
            time.sleep(0.3)  # in which the signal is handled; a worker that somebody waited for would give none
        return collective(*args, **kwargs)

    dist.all_reduce = all_reduce


def slow(model: Any) -> float:
    """A validation that takes longer than the group's time-out."""
    time.sleep(3.0)
    return 0.5


def fail(rank: int, world_size: int, folder: Path, case: str) -> None:
    """One training run in which ``case`` happens."""
    parts = small_parts()
    options: dict[str, Any] = {"epochs": 3}
    loading: dict[str, Any] = {"parts_per_step": world_size}
    objective: Any = InfoNCE(EEL)
    if case in ("objective", "memory", "die"):
        objective = Broken([1], "" if case == "objective" else case)
    elif case == "everyone":
        objective = Broken(list(range(world_size)), "")
    elif case == "validate":
        options["validate"] = lambda m: 1 / 0
    elif case == "nan":
        options["validate"] = lambda m: float("nan")
    elif case == "slow":
        Ranks.beat = 0.3
        options |= {"validate": slow, "epochs": 1}
    elif case == "settings":
        options["lr"] = 0.1 + 0.1 * rank
    elif case == "checkpoint":
        before = small_loader(parts, **loading)
        fit(small_model(parts), before, objective, epochs=1, checkpoint=folder / "c", max_steps=1, progress=False)
        options["checkpoint"] = folder / ("c" if rank == 0 else "elsewhere")
    elif case == "corrupt":  # every rank reads a copy of its own, and one copy has a flipped byte
        own = folder / f"copy{rank}"
        shutil.copytree(folder / "parts", own)
        if rank == 1:
            for path in own.glob("part-*.safetensors"):
                data = bytearray(path.read_bytes())
                data[-1] ^= 1
                path.write_bytes(bytes(data))
        parts = HASPData.open(own)
    elif case == "worker in a collective":
        loading |= {"num_workers": 1, "multiprocessing_context": "fork"}
        if rank == 1:
            kill_in_collective()
    elif case == "worker":
        loading |= {"num_workers": 1, "multiprocessing_context": "fork", "transform": kill_worker if rank == 1 else None}
    fit(small_model(parts), small_loader(parts, **loading), objective, progress=False, **options)


def _rank(rank: int, world_size: int, folder: str, case: str, limit: float) -> None:
    torch.set_num_threads(1)
    where = Path(folder)
    dist.init_process_group("gloo", f"file://{folder}/meet", datetime.timedelta(seconds=limit), world_size, rank)
    start = time.monotonic()
    try:
        fail(rank, world_size, where, case)
        found = {"error": "", "text": ""}
    except Exception as error:
        found = {"error": type(error).__name__, "text": str(error)}
    (where / f"{rank}.json").write_text(json.dumps({**found, "seconds": time.monotonic() - start}))
    os._exit(0)  # a group that lost a rank cannot be taken down in order


def run_failing(case: str, world_size: int, folder: Path, limit: float = LIMIT) -> list[dict[str, Any] | None]:
    """What each rank ended with; ``None`` for one that died."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch_geometric.loader", "hasp.build", "hasp_models.train", "hasp_models.semantic_gnn"])
    ranks = [context.Process(target=_rank, args=(r, world_size, str(folder), case, limit)) for r in range(world_size)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(2 * LIMIT)
        assert process.exitcode is not None, "a rank hangs"
    files = [folder / f"{r}.json" for r in range(world_size)]
    return [json.loads(f.read_text()) if f.is_file() else None for f in files]
