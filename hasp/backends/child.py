"""METIS in a process of its own: this one goes on meanwhile (METIS holds the GIL), and survives if METIS does not.

The graph goes there and the labels come back as files in memory: 16 bytes an edge more than in this process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from hasp.backends.task import Int32s, Task
from hasp.errors import HaspError

__all__ = ["metis_child"]

_MEMORY = Path("/dev/shm")
_ARRAYS = ("indptr", "indices", "node_weight", "edge_weight")


def metis_child(task: Task) -> Int32s:
    """The same labels as backend ``metis``.

    Raises:
        HaspError: the process died or METIS failed; with the graph's figures and what to try instead.
    """
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as name:
        folder = Path(name)
        for array in _ARRAYS:
            value = getattr(task, array)
            if value is not None:
                np.save(folder / f"{array}.npy", value, allow_pickle=False)
        rest = {"num_parts": task.num_parts, "imbalance": task.imbalance, "seed": task.seed}
        command = [sys.executable, "-m", "hasp.backends.child", name, json.dumps(rest)]
        path = str(Path(__file__).resolve().parents[2])
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=path)
        result = folder / "part.npy"
        if done.returncode == 0 and result.is_file():
            return np.asarray(np.load(result, allow_pickle=False), dtype=np.int32)
    degree = np.diff(task.indptr)
    how = f"died of signal {-done.returncode}" if done.returncode < 0 else f"failed with code {done.returncode}"
    said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    raise HaspError(
        f"METIS {how} ({said}) on {task.num_nodes:,} nodes, {task.num_edges:,} edges, degrees {int(degree.min())} to "
        f"{int(degree.max())}, {task.num_parts:,} parts; use backend='multilevel'"
    )


def _main(folder: str, rest: str) -> None:
    from hasp.backends.metis import metis

    arrays = {a: np.load(f, mmap_mode="r", allow_pickle=False) for a in _ARRAYS if (f := Path(folder) / f"{a}.npy").is_file()}
    np.save(Path(folder) / "part.npy", metis(Task(**arrays, **json.loads(rest))), allow_pickle=False)


if __name__ == "__main__":
    _main(*sys.argv[1:])
