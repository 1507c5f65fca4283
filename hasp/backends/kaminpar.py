"""KaMinPar (Gottesbueren et al., 2021), an extra: ``pip install 'hasp-pyg[kaminpar]'``.

It reads graphs from files alone: the graph goes through a temporary one in ParHIP's binary format. Always on one thread, since
its result depends on their number.
"""

from __future__ import annotations

import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from hasp.backends.task import Int32s, Task
from hasp.errors import HaspError

__all__ = ["kaminpar"]

_MEMORY = Path("/dev/shm")


def kaminpar(task: Task) -> Int32s:
    """The library's default preset.

    Raises:
        HaspError: the library is not installed.
    """
    try:
        library: Any = import_module("kaminpar")
    except ImportError as error:
        raise HaspError("backend='kaminpar' needs the kaminpar library; pip install 'hasp-pyg[kaminpar]'") from error
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        path = Path(folder) / "graph.parhip"
        _write(task, path)
        graph = library.load_graph(str(path), library.GraphFileFormat.PARHIP)
    library.reseed(int(task.seed % (2**31)))
    solver = library.KaMinPar(1, library.default_context())
    return np.asarray(solver.compute_partition(graph, task.num_parts, task.imbalance), dtype=np.int32)


def _write(task: Task, path: Path) -> None:
    """Header (which weights are missing, nodes, entries), byte offsets of the rows, neighbours, weights: all of 64 bits."""
    nodes, edges = task.node_weight, task.edge_weight
    header = [int(edges is None) | int(nodes is None) << 1, task.num_nodes, task.indices.size]
    pieces: list[Any] = [header, task.indptr * 8 + 8 * (3 + task.num_nodes + 1), task.indices]
    pieces += [weight for weight in (nodes, edges) if weight is not None]
    with path.open("wb") as file:
        for piece in pieces:
            file.write(np.ascontiguousarray(piece, dtype=np.int64).data)
