"""METIS in a process of its own: this one goes on meanwhile (METIS holds the GIL), and survives if METIS does not.

The graph goes there and the labels come back as files, in memory where there is room: 8 bytes an edge more than in this one,
and 16 for METIS's own int64.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from hasp.backends import call_metis
from hasp.backends.task import Int32s, Task
from hasp.errors import HaspError

__all__ = ["in_child", "metis_child"]

_MEMORY = Path("/dev/shm")
# The program by its path: as a module, it would import the package above it. And the search path of this process.
_PROGRAM = (
    "import json, runpy, sys; pop = sys.argv.pop; sys.path[:] = json.loads(pop(1)); runpy.run_path(pop(1), run_name='__main__')"
)


def metis_child(task: Task) -> Int32s:
    """The same labels as backend ``metis``.

    Raises:
        HaspError: the process died or METIS failed; with the graph's figures and what to try instead.
    """
    from hasp.backends.metis import checked

    return checked(task, in_child)


def in_child(task: Task) -> tuple[int, Int32s]:
    """:func:`hasp.backends.call_metis.call_metis` in a new process.

    Raises:
        HaspError: as :func:`metis_child`.
    """
    arrays = {a: v for a in call_metis.ARRAYS if (v := getattr(task, a)) is not None}
    with tempfile.TemporaryDirectory(dir=_place(sum(v.nbytes for v in arrays.values()))) as name:
        folder = Path(name)
        for array, value in arrays.items():
            np.save(folder / f"{array}.npy", value, allow_pickle=False)
        rest = {"num_parts": task.num_parts, "imbalance": task.imbalance, "seed": task.seed}
        command = [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), call_metis.__file__, name, json.dumps(rest)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        result = folder / call_metis.OUTPUT
        if done.returncode == 0 and result.is_file():
            found = np.load(result, allow_pickle=False)
            return int(found[-1]), found[:-1].astype(np.int32)
    degree = np.diff(task.indptr)
    how = f"died of signal {-done.returncode}" if done.returncode < 0 else f"failed with code {done.returncode}"
    said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    raise HaspError(
        f"METIS {how} ({said}) on {task.num_nodes:,} nodes, {task.num_edges:,} edges, degrees {int(degree.min())} to "
        f"{int(degree.max())}, {task.num_parts:,} parts; use backend='multilevel'"
    )


def _place(num_bytes: int) -> Path | None:
    """Where the files go: into memory, unless there is little, as in containers that were given 64 MB of it."""
    if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > 2 * num_bytes:
        return _MEMORY
    return None
