"""What the ranks of tests under Ray run: the small run of ``killed_ranks``, of which one rank may kill itself, once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch.distributed as dist
from killed_ranks import train


def train_or_die(folder: str, rank: int, batch: int) -> dict[str, Any]:
    """Train with a checkpoint in ``folder``; ``rank`` kills itself with signal 9 at ``batch``, if it has not done so before."""
    (Path(folder) / f"attempt-{os.getpid()}").touch()
    died = Path(folder) / "died"
    dies = dist.get_rank() == rank and not died.exists()
    if dies:
        died.touch()
    return train(Path(folder) / "checkpoint", batch if dies else None, None) | {"threads": os.environ.get("OMP_NUM_THREADS")}
