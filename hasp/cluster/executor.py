"""Executor: many calls, their results in order. Builds are written against these two methods; threads and Ray both have them.

A task is a function of its arguments alone. It may be run more than once, on any machine; nothing but its result counts, and
what it writes under a name that nobody else has.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from hasp.parallel import cores

__all__ = ["Call", "Executor", "Here"]

Call = tuple[Any, ...]
"""A task and its arguments."""


class Executor(Protocol):
    """Runs tasks.

    Attributes:
        workers: tasks that run at a time.
    """

    workers: int

    def put(self, value: Any) -> Any:
        """A handle of a value that many calls need: it is sent once to each machine."""

    def map(self, calls: Iterable[Call]) -> Iterator[Any]:
        """``task(*arguments)`` for each call, in their order; handles among the arguments (not within them) stand for values.

        Not many more calls are made than are under way, and not many more results wait than that. Raises what a task raised.
        """


class Here:
    """The threads of this process.

    Args:
        threads: 0: one per core.
        ahead: results that may wait while all threads are at work; ``None``: one per thread.
    """

    def __init__(self, threads: int = 0, ahead: int | None = None) -> None:
        self.workers = cores(threads)
        self._most = self.workers + (self.workers if ahead is None else ahead)
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="hasp-here")

    def put(self, value: Any) -> Any:
        """The value itself."""
        return value

    def map(self, calls: Iterable[Call]) -> Iterator[Any]:
        """See :class:`Executor`."""
        waiting: deque[Future[Any]] = deque()
        try:
            for task, *arguments in calls:
                waiting.append(self._pool.submit(task, *arguments))
                if len(waiting) > self._most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # nobody asks for what is left
            for future in waiting:
                future.cancel()

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)
