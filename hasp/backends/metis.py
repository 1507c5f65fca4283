"""METIS (Karypis and Kumar, 1998) through pymetis, guarded against other threads.

METIS takes its random numbers from ``srand`` and ``rand`` of the C library (GKlib's ``gk_randint32``), whose one state all
threads of a process share. A thread that draws from it while METIS runs, as those of gRPC and so of Ray do, changes the
result. So a large graph goes to a process of its own, where nobody else draws, and whose start is little beside METIS; a small
one is cut twice, and goes there only if the two differ.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np

from hasp.backends.call_metis import ARRAYS, call_metis
from hasp.backends.child import in_child
from hasp.backends.task import Int32s, Task, edge_cut
from hasp.errors import HaspError

__all__ = ["ALONE", "checked", "metis"]

ALONE = 500_000
"""Adjacency entries from which METIS gets a process of its own: there, cutting twice takes as long as starting one."""


def metis(task: Task) -> Int32s:
    """The library, given what it needs and asked for what it reports; other threads may do what they like.

    Raises:
        HaspError: the library counts in too few bits for the graph, or its cut is not that of its labels.
    """
    return checked(task, in_child if task.indices.size >= ALONE else _twice)


def checked(task: Task, run: Callable[[Task], tuple[int, Int32s]]) -> Int32s:
    """Labels, after what can be checked before and behind METIS.

    Raises:
        HaspError: see :func:`metis`.
    """
    import pymetis

    dtype = pymetis.zero_copy_dtype()
    if task.indices.size > np.iinfo(dtype).max:
        raise HaspError(
            f"this build of METIS counts in {dtype}, too small for {task.indices.size:,} adjacency entries; "
            "install pymetis's 64-bit wheel or pass node_part="
        )
    cut, out = run(task)
    if task.edge_weight is None and out.size == task.num_nodes and edge_cut(task.indptr, task.indices, out) != cut:
        raise HaspError(
            f"METIS reports a cut of {cut:,}, a recount gives {edge_cut(task.indptr, task.indices, out):,}; "
            "report this graph as a bug"
        )
    return out


def _twice(task: Task) -> tuple[int, Int32s]:
    """In this process, if that gives the same twice: the same labels, and as many numbers drawn."""
    (cut, labels, after), (_, again, after_again) = _here(task), _here(task)
    return (cut, labels) if after == after_again and np.array_equal(labels, again) else in_child(task)


def _here(task: Task) -> tuple[int, Int32s, int]:
    """The cut, the labels, and the number that ``rand`` gives behind METIS: another one, if anybody else drew."""
    library = ctypes.CDLL(None)
    library.srand(0)  # a METIS that draws nothing leaves what it found
    cut, labels = call_metis({a: getattr(task, a) for a in ARRAYS}, task.num_parts, task.imbalance, task.seed)
    return cut, labels, int(library.rand())
