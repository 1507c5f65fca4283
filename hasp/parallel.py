"""Blocks in threads: the one way in which kernels use more than one core.

Blocks are cut by size alone and results are combined in block order, so the number of threads never shows in a result.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

__all__ = ["blocks", "cores", "run", "run_in_turn", "writers"]

T = TypeVar("T")
R = TypeVar("R")


def cores(threads: int = 0) -> int:
    """``threads``, or for 0 the cores this process may run on."""
    if threads > 0:
        return threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def writers(threads: int = 0) -> int:
    """``threads``, or for 0 one more than cores, for work that ends in waiting for the disk: one works meanwhile."""
    return threads if threads > 0 else cores() + 1


def blocks(n: int, size: int = 1 << 20, most: int = 256, step: int = 1) -> list[tuple[int, int]]:
    """Cut ``range(n)`` into at most ``most`` ranges of at least ``size`` and of a multiple of ``step`` (but the last)."""
    size = -(-max(size, -(-n // most)) // step) * step
    return [(start, min(start + size, n)) for start in range(0, n, size)]


def run(task: Callable[[T], R], items: Iterable[T], threads: int = 0) -> list[R]:
    """``[task(i) for i in items]``, on up to ``threads`` threads; the first exception is raised."""
    todo: Sequence[T] = list(items)
    workers = min(cores(threads), len(todo))
    if workers <= 1:
        return [task(item) for item in todo]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(task, todo))


def run_in_turn(task: Callable[[T, Callable[[int], int]], R], items: Iterable[T], threads: int = 0) -> list[R]:
    """As :func:`run`, for tasks whose results go side by side into one array and which learn late how long theirs is.

    Args:
        task: gets an item and ``place``, which it calls once, with a length, for the first place of a range that begins where
            that of the item before ends. It waits until that one is known, so all work that can go before it should.
        items: what there is to do.
        threads: as in :func:`run`.
    """
    turns = _Turns()

    def one(numbered: tuple[int, T]) -> R:
        try:
            return task(numbered[1], partial(turns.place, numbered[0]))
        except BaseException:
            turns.fail(numbered[0])
            raise

    return run(one, enumerate(items), threads)


class _Turns:
    """Ranges side by side in the order of numbers 0, 1, 2..., asked for in any order."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._number, self._end = 0, 0
        self._failed: float = float("inf")

    def place(self, number: int, length: int) -> int:
        """The first place of a number's range. Raises ``CancelledError`` if a smaller number failed."""
        with self._changed:
            self._changed.wait_for(lambda: self._number == number or self._failed < number)
            if self._failed < number:
                raise CancelledError
            self._number, first = self._number + 1, self._end
            self._end = first + length
            self._changed.notify_all()
            return first

    def fail(self, number: int) -> None:
        """Those after it need not wait."""
        with self._changed:
            self._failed = min(self._failed, number)
            self._changed.notify_all()
