"""METIS built with 32-bit numbers, an extra: ``pip install 'hasp-pyg[metis32]'``. Half the memory and time; the GIL is free.

At most 2**31 - 1 adjacency entries: a billion edges.
"""

from __future__ import annotations

import ctypes
from importlib import metadata
from typing import Any

import numpy as np

from hasp.backends.task import Int32s, Task
from hasp.errors import HaspError

__all__ = ["metis32"]

_OPTIONS, _SEED, _UFACTOR = 40, 9, 18  # of METIS 5.2's metis.h
_PIP = "pip install 'hasp-pyg[metis32]'"


def metis32(task: Task) -> Int32s:
    """METIS's k-way partitioning through ctypes.

    Raises:
        HaspError: the library is not installed, the graph or its weights need more than 32 bits, or METIS gives up.
    """
    library = _library()
    total = [int(w.sum()) for w in (task.node_weight, task.edge_weight) if w is not None]
    if max([task.indices.size, *total]) > np.iinfo(np.int32).max:
        raise HaspError(
            f"backend='metis32' counts to 2**31 - 1, too few for {task.indices.size:,} adjacency entries of these weights; "
            "use backend='multilevel'"
        )
    arrays = [task.indptr, task.indices, task.node_weight, task.edge_weight]
    ptr, idx, nodes, edges = (None if a is None else np.ascontiguousarray(a, dtype=np.int32) for a in arrays)
    options = np.full(_OPTIONS, -1, dtype=np.int32)
    options[[_SEED, _UFACTOR]] = task.seed % (2**31), max(1, round(1000 * task.imbalance))
    part = np.empty(task.num_nodes, dtype=np.int32)
    cut = ctypes.c_int32()
    status = library.METIS_PartGraphKway(
        *(_number(n) for n in (task.num_nodes, 1)),
        *(_address(a) for a in (ptr, idx, nodes, None, edges)),
        _number(task.num_parts),
        *(None, None, _address(options), ctypes.byref(cut), _address(part)),
    )
    if status != 1:
        raise HaspError(
            f"METIS gave up with status {status} on {task.num_nodes:,} nodes and {task.num_edges:,} edges; "
            "use backend='multilevel'"
        )
    return part


def _number(value: int) -> Any:
    return ctypes.byref(ctypes.c_int32(value))


def _address(array: Any) -> Any:
    return None if array is None else array.ctypes.data_as(ctypes.c_void_p)


def _library() -> Any:
    """The shared library of the wheel, and the one that it needs."""
    try:
        found = metadata.distribution("cmeel-metis")
        if not found.version.startswith("5.2."):
            raise HaspError(f"backend='metis32' knows METIS 5.2, found cmeel-metis {found.version}; {_PIP}")
        kit = metadata.distribution("cmeel-gklib")
        ctypes.CDLL(str(kit.locate_file("cmeel.prefix/lib/libGKlib.so")), mode=ctypes.RTLD_GLOBAL)
        return ctypes.CDLL(str(found.locate_file("cmeel.prefix/lib/libmetis.so")))
    except (metadata.PackageNotFoundError, OSError) as error:
        raise HaspError(f"backend='metis32' needs a 32-bit METIS ({error}); {_PIP}") from error
