"""METIS (Karypis and Kumar, 1998) through pymetis."""

from __future__ import annotations

from typing import Any

import numpy as np

from hasp.backends.task import Int32s, Task, edge_cut
from hasp.errors import HaspError

__all__ = ["metis"]


def metis(task: Task) -> Int32s:
    """The library, given what it needs and asked for what it reports.

    Raises:
        HaspError: the library counts in too few bits for the graph, or its cut is not that of its labels.
    """
    import pymetis

    dtype = pymetis.zero_copy_dtype()
    if task.indices.size > np.iinfo(dtype).max:
        raise HaspError(
            f"this build of METIS counts in {dtype}, too small for {task.indices.size:,} adjacency entries; "
            "install pymetis's 64-bit wheel or pass node_part="
        )

    def cast(array: Any) -> Any:
        return None if array is None else np.ascontiguousarray(array, dtype=dtype)

    cut, labels = pymetis.part_graph(
        task.num_parts,
        pymetis.CSRAdjacency(cast(task.indptr), cast(task.indices)),
        vweights=cast(task.node_weight),
        eweights=cast(task.edge_weight),
        recursive=False,  # the default takes recursive bisection up to 8 parts: 1.7 times slower for the same cut
        options=pymetis.Options(seed=int(task.seed % (2**31)), ufactor=max(1, round(1000 * task.imbalance))),
    )
    out = np.asarray(labels, dtype=np.int32)
    if task.edge_weight is None and out.size == task.num_nodes and edge_cut(task.indptr, task.indices, out) != cut:
        raise HaspError(
            f"METIS reports a cut of {cut:,}, a recount gives {edge_cut(task.indptr, task.indices, out):,}; "
            "report this graph as a bug"
        )
    return out
