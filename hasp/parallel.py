"""Blocks in threads: the one way in which kernels use more than one core.

Blocks are cut by size alone and results are combined in block order, so the number of threads never shows in a result.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["blocks", "cores", "run"]

T = TypeVar("T")
R = TypeVar("R")


def cores(threads: int = 0) -> int:
    """``threads``, or for 0 the cores this process may run on."""
    if threads > 0:
        return threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def blocks(n: int, size: int = 1 << 20, most: int = 256) -> list[tuple[int, int]]:
    """Cut ``range(n)`` into at most ``most`` ranges of at least ``size`` (but the last)."""
    size = max(size, -(-n // most))
    return [(start, min(start + size, n)) for start in range(0, n, size)]


def run(task: Callable[[T], R], items: Iterable[T], threads: int = 0) -> list[R]:
    """``[task(i) for i in items]``, on up to ``threads`` threads; the first exception is raised."""
    todo: Sequence[T] = list(items)
    workers = min(cores(threads), len(todo))
    if workers <= 1:
        return [task(item) for item in todo]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(task, todo))
