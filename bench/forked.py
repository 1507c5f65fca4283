"""Ranks forked from a process that has loaded the data: once per machine, not once per rank.

Call :func:`on_ranks` in a process that has run nothing in parallel, and nothing backward (see ``measure.call_in_child``).
"""

from __future__ import annotations

import datetime
import json
import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["on_ranks"]


def on_ranks(size: int, task: Callable[..., dict[str, Any]], *arguments: Any) -> list[dict[str, Any]]:
    """Run ``task(*arguments)`` on so many gloo ranks, or in one process without a group; what each returned, by JSON."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        processes = [context.Process(target=_rank, args=(r, size, folder, task, arguments)) for r in range(size)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise RuntimeError(f"ranks ended with {[p.exitcode for p in processes]}; see their output above")
        return [json.loads(Path(folder, f"{r}.json").read_text()) for r in range(size)]


def _rank(rank: int, size: int, folder: str, task: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group("gloo", f"file://{folder}/meet", datetime.timedelta(minutes=10), size, rank)
    Path(folder, f"{rank}.json").write_text(json.dumps(task(*arguments)))
    if size > 1:
        dist.barrier()
        dist.destroy_process_group()
