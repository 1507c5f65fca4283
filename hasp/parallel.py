"""Blocks in threads: the one way in which kernels use more than one core.

Blocks are cut by size alone and results are combined in block order, so the number of threads never shows in a result.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError
from functools import partial
from typing import Generic, TypeVar

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


def run(
    task: Callable[[T], R], items: Iterable[T], threads: int = 0, given_up: Callable[[int], None] = lambda _: None
) -> list[R]:
    """``[task(i) for i in items]``, on up to ``threads`` threads, the calling one among them.

    Items are taken in their order. Once one fails no more are taken, and the exception of the first one is raised when those
    at work have ended. A call costs a tenth of a millisecond per further thread, a seventh of what an executor's does, which a
    training step would notice; threads that stand by would make a later fork unsafe.

    Args:
        task: what is to be done with an item.
        items: what there is to do.
        threads: 0: the cores that this process may run on. Never changes the result.
        given_up: told the number of an item that failed, or that was taken and not begun because of an interrupt.
    """
    todo: Sequence[T] = list(items)
    workers = min(cores(threads), len(todo))
    if workers <= 1:
        return [task(item) for item in todo]
    shared: _Shared[T, R] = _Shared(task, todo, given_up)
    others = []
    try:
        for _ in range(workers - 1):
            other = threading.Thread(target=shared.work, name="hasp-run")
            try:
                other.start()
            except RuntimeError:  # the system gives no more threads: those there are do it all
                break
            others.append(other)
        shared.work()
    except BaseException:  # interrupted before the work, or after
        shared.stop = True
        raise
    finally:
        for other in others:
            other.join()
    return shared.result()


class _Shared(Generic[T, R]):
    """Items that several threads take from one list."""

    def __init__(self, task: Callable[[T], R], todo: Sequence[T], given_up: Callable[[int], None]) -> None:
        self.stop = False
        self._task, self._todo, self._given_up, self._next = task, todo, given_up, 0
        self._out: dict[int, R] = {}
        self._failed: dict[int, BaseException] = {}
        self._mutex = threading.Lock()

    def work(self) -> None:
        """Take items until there are no more, or one failed."""
        i = 0
        try:
            while not self.stop:
                with self._mutex:
                    i, self._next = self._next, self._next + 1
                if i >= len(self._todo):
                    return
                self._out[i] = self._task(self._todo[i])
        except BaseException as error:
            self._failed[i], self.stop = error, True
            self._given_up(i)

    def result(self) -> list[R]:
        """All results in order; raises the exception of the first item that failed."""
        if not self._failed:
            return [self._out[i] for i in range(len(self._todo))]
        try:
            raise self._failed[min(self._failed)]
        finally:
            self._failed.clear()  # whose tracebacks lead back here


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
        return task(numbered[1], partial(turns.place, numbered[0]))

    return run(one, enumerate(items), threads, turns.fail)


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
