"""Real gloo processes for tests: a function of a module beside the tests, on every rank, and what each returned as JSON."""

from __future__ import annotations

import datetime
import importlib
import json
import multiprocessing
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

PRELOAD = [
    "torch_geometric.loader",
    "torch.nn.parallel",
    "hasp.build",
    "hasp.load.loader",
    "hasp_models.train",
    "hasp_models.semantic_gnn",
    "hypothesis.strategies",
]


def _rank(rank: int, world_size: int, folder: str, limit: float, module: str, name: str, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    meet = f"file://{folder}/meet"
    dist.init_process_group("gloo", meet, datetime.timedelta(seconds=limit), world_size, rank)
    found = getattr(importlib.import_module(module), name)(*arguments)
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    # What the function made is gone by now: a DDP reducer must not outlive the group.
    dist.barrier()
    dist.destroy_process_group()


def on_ranks(world_size: int, folder: Path, target: str, *arguments: Any, limit: float = 30) -> list[Any]:
    """Run ``module:function(*arguments)`` on so many ranks; each must end within two minutes.

    ``limit``: seconds that a collective waits for a rank.
    """
    folder.mkdir(exist_ok=True)
    module, _, name = target.partition(":")
    context = multiprocessing.get_context("forkserver")
    # Forked from a clean process that has imported everything once: quick, and without the threads of earlier tests. Only
    # what is installed: a module of the tests is not on the path of that process.
    context.set_forkserver_preload(PRELOAD)
    given = (world_size, str(folder), limit, module, name, arguments)
    ranks = [context.Process(target=_rank, args=(r, *given)) for r in range(world_size)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    for process in ranks:
        if process.is_alive():
            process.kill()
    assert [process.exitcode for process in ranks] == [0] * world_size
    return [json.loads((folder / f"{r}.json").read_text()) for r in range(world_size)]
