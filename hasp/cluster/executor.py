"""Executor: start a task, get its result. Builds are written against these three methods; threads and Ray both have them.

A task is a function of its arguments alone. It may be started more than once, on any machine; nothing but its result counts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

from hasp.parallel import cores

__all__ = ["Executor", "Here", "in_order"]


class Executor(Protocol):
    """Runs tasks.

    Attributes:
        workers: tasks that run at a time.
    """

    workers: int

    def put(self, value: Any) -> Any:
        """A handle of a value that many tasks need: it is sent once to each machine."""

    def start(self, task: Callable[..., Any], *arguments: Any, returns: int = 1) -> list[Any]:
        """Start ``task(*arguments)``, where handles among the arguments (not within them) stand for their values.

        Returns:
            ``returns`` handles: of the result, or, where there are several, of each item of the tuple that it is.
        """

    def get(self, handle: Any) -> Any:
        """Wait for a value. Raises what the task raised."""


def in_order(executor: Executor, task: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """``task(*call)`` for each call, in their order; few are under way at a time, so that no more results wait than that."""
    waiting: deque[Any] = deque()
    for call in calls:
        waiting.extend(executor.start(task, *call))
        if len(waiting) > 2 * executor.workers:
            yield executor.get(waiting.popleft())
    while waiting:
        yield executor.get(waiting.popleft())


class _Item(NamedTuple):
    """One of several values that a task gives."""

    future: Future[Any]
    number: int | None

    def value(self) -> Any:
        found = self.future.result()
        return found if self.number is None else found[self.number]


class Here:
    """The threads of this process. All that tasks give lies in its memory until its handle goes.

    Args:
        threads: 0: one per core.
    """

    def __init__(self, threads: int = 0) -> None:
        self.workers = cores(threads)
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="hasp-here")

    def put(self, value: Any) -> Any:
        """The value itself."""
        return value

    def start(self, task: Callable[..., Any], *arguments: Any, returns: int = 1) -> list[Any]:
        """See :class:`Executor`. Tasks begin in the order in which they were started, so that none waits for a later one."""

        def run() -> Any:
            return task(*(a.value() if isinstance(a, _Item) else a for a in arguments))

        future = self._pool.submit(run)
        return [_Item(future, None)] if returns == 1 else [_Item(future, i) for i in range(returns)]

    def get(self, handle: Any) -> Any:
        """See :class:`Executor`."""
        return handle.value()

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)
