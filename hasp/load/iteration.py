"""Iteration: one pass over an epoch, and batches that a thread makes while the loop uses the last one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from hasp.load.loader import HASPLoader

__all__ = ["Ahead", "Iteration", "touch"]

_PAGE = 4096
_END: Any = object()


class Ahead(Iterator[Any]):
    """What an iterator yields, made up to ``count`` items ahead by one thread.

    Nothing is made before the first item is asked for, and nothing more once this object is dropped. An error is raised where
    its item would have come.

    Args:
        inner: the iterator; nobody else may use it.
        count: items, at least 1.
    """

    def __init__(self, inner: Iterator[Any], count: int) -> None:
        self._inner, self._count = inner, count
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="hasp-prefetch")
        self._coming: deque[Future[Any]] = deque()

    def __next__(self) -> Any:
        while len(self._coming) < self._count:
            self._coming.append(self._pool.submit(_make, self._inner))
        item = self._coming.popleft().result()
        if item is _END:
            raise StopIteration
        # The next one is begun now, not when it is asked for.
        self._coming.append(self._pool.submit(_make, self._inner))
        return item

    def __del__(self) -> None:
        for future in self._coming:
            future.cancel()
        self._pool.shutdown(wait=False)

    def __len__(self) -> int:
        return len(self._inner)  # type: ignore[arg-type]


def _make(inner: Iterator[Any]) -> Any:
    try:
        item = next(inner)
    except StopIteration:
        return _END
    touch(item)
    return item


def touch(batch: Any) -> int:
    """Look at one byte of every page of a batch: what is a memory map is then read, by this thread and not by the trainer.

    Returns:
        How many pages.
    """
    pages = 0
    for store in getattr(batch, "stores", ()):
        for value in store.values():
            if isinstance(value, Tensor) and value.is_cpu and value.is_contiguous() and value.nbytes:
                data = value.detach().view(-1).view(torch.uint8).numpy()[::_PAGE]
                np.maximum.reduce(data)
                pages += data.size
    return pages


class Iteration(Iterator[Any]):
    """One pass over an epoch; tells the loader of each batch that the loop takes."""

    def __init__(self, loader: HASPLoader, inner: Any, turn: int) -> None:
        self._loader, self._inner, self._turn = loader, inner, turn

    def __next__(self) -> Any:
        try:
            out = next(self._inner)
        except StopIteration:
            self._loader.took(self._turn, done=True)
            raise
        if not self._loader.filter_per_worker:
            out = self._loader.filter_fn(out)
        self._loader.took(self._turn)
        return out

    def __len__(self) -> int:
        return len(self._inner)
