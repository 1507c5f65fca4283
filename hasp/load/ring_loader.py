"""RingLoader: workers that prepare batches hand them to the training step through rings of shared memory, one ring each.

torch's workers move every tensor of a batch to a segment of shared memory of its own, pickle its name, and send that through a
pipe: some system calls per tensor, on both sides. Here a batch is one frame of bytes in a ring that is there already
(:mod:`hasp.load.ring`): no lock, no pickle, one copy in and one out. Order, epochs, resumption and contents are HASPLoader's.

When it pays, and when not, is measured in ``bench/queues.py``.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch

from hasp import errors
from hasp.errors import HaspError
from hasp.load.frames import Frame, decode
from hasp.load.loader import HASPLoader
from hasp.load.ring import Closed, Ring
from hasp.load.sampler import Request

__all__ = ["RingLoader"]

_ASKING = 1 << 16  # bytes of the ring of requests; they are a few hundred bytes each


class RingLoader(HASPLoader):
    """A :class:`hasp.HASPLoader` whose ``num_workers`` are connected by rings; without workers it is that very loader.

    Batches hold tensors, numbers, text and lists of these, also after ``transform``. Workers take turns, so that batches come
    in the order of the loader. ``worker_init_fn``, ``prefetch_factor``, ``persistent_workers``, ``multiprocessing_context`` and
    ``timeout`` are obeyed as by torch; ``torch.utils.data.get_worker_info()`` knows nothing of these workers.

    Args:
        *args: of :class:`hasp.HASPLoader`.
        ring_bytes: of each worker's ring: as many batches are made ahead as fit in, at most ``prefetch_factor``. Pages are
            taken from the system when they are first written to.
        copy: copy each batch out of the ring into memory of its own. ``False``: its tensors lie in the ring and are gone when
            the next batch is asked for; right where each batch is copied to a device, or used up, before that.
        **kwargs: of :class:`hasp.HASPLoader`.

    Raises:
        HaspError: arguments that do not fit each other. While iterating: a worker died (told within a second), failed (its
            own error), or made a batch that is larger than its ring or holds something else than is said above.
    """

    def __init__(self, *args: Any, ring_bytes: int = 1 << 28, copy: bool = True, **kwargs: Any) -> None:
        if kwargs.get("filter_per_worker") is False or kwargs.get("pin_memory"):
            raise HaspError("workers with rings merge parts and do not pin memory; leave filter_per_worker and pin_memory out")
        super().__init__(*args, **{**kwargs, "filter_per_worker": True})
        self.ring_bytes, self.copy = ring_bytes, copy

    def _get_iterator(self) -> Any:
        return _Crew(self) if self.num_workers else super()._get_iterator()


class _Crew(Iterator[Any]):
    """The workers of an epoch (of all epochs, if they are persistent)."""

    def __init__(self, loader: RingLoader) -> None:
        context, self._pid = loader.multiprocessing_context or multiprocessing, os.getpid()
        self._ahead = loader.prefetch_factor or 2
        self._persistent, self._timeout, self._copy = loader.persistent_workers, loader.timeout, loader.copy
        self._asks = [Ring(_ASKING) for _ in range(loader.num_workers)]
        self._gives = [Ring(loader.ring_bytes) for _ in range(loader.num_workers)]
        seed = int(torch.empty((), dtype=torch.int64).random_(generator=loader.generator))
        self._processes = []
        for i, rings in enumerate(zip(self._asks, self._gives, strict=True)):
            arguments = (loader, *rings, i, seed + i, os.getpid())
            process = context.Process(target=_work, args=arguments, daemon=True, name=f"hasp-ring-{i}")
            process.start()
            self._processes.append(process)
            for ring in rings:
                ring.forget_handle()
        self._turn = 0
        self._last: Ring | None = None  # what the last batch lies in
        self._reset(loader)

    def _reset(self, loader: RingLoader) -> None:
        """Begin an epoch. What was asked for in the one before, and not taken, is passed over."""
        self._turn += 1
        self._requests = iter(loader.batch_sampler)  # type: ignore[arg-type]
        self._epoch, self._length = loader.epoch, len(loader.batch_sampler)  # type: ignore[arg-type]
        self._workers = itertools.cycle(range(len(self._processes)))
        self._coming: deque[int] = deque()  # workers, in the order of the batches they owe
        for _ in range(self._ahead * len(self._processes)):
            self._ask()

    def _ask(self) -> None:
        for index in self._requests:
            worker = next(self._workers)
            message = json.dumps([self._turn, *Request.of(index, self._epoch)]).encode()
            self._guarded(worker, lambda w=worker, m=message: self._asks[w].write(m, self._processes[w].is_alive))
            self._coming.append(worker)
            return

    def __next__(self) -> Any:
        if self._last is not None:
            self._last.release()
            self._last = None
        if not self._coming:
            if not self._persistent:
                self.close()
            raise StopIteration
        worker = self._coming.popleft()
        ring, process = self._gives[worker], self._processes[worker]
        while True:
            frame = self._guarded(worker, lambda: ring.read(process.is_alive, self._timeout))
            batch, (turn, failure) = decode(frame.clone() if self._copy else frame)
            if self._copy or turn != self._turn:
                ring.release()
            if turn == self._turn:
                break
        if failure is not None:
            self.close()
            kind, text = failure
            raise getattr(errors, kind, HaspError)(text)
        self._last = None if self._copy else ring
        self._ask()
        return batch

    def __len__(self) -> int:
        return self._length

    def _guarded(self, worker: int, task: Any) -> Any:
        try:
            return task()
        except HaspError as error:
            process = self._processes[worker]
            process.join(1)
            self.close()
            if not isinstance(error, Closed):
                raise
            raise HaspError(
                f"worker {worker} of the loader died (exit code {process.exitcode}; -9: killed, often for want of memory); "
                "see its output, use fewer workers, or num_workers=0 to see the error"
            ) from error

    def close(self) -> None:
        """End the workers. Rings have no name, so their memory goes with the last tensor in it."""
        if os.getpid() != self._pid:
            return  # a forked process has a copy of this object, and no say in it
        for ring in (*self._asks, *self._gives):
            ring.close()
        for process in self._processes:
            process.join(2)
            if process.is_alive():
                process.kill()
                process.join()

    def __del__(self) -> None:
        if sys is not None and not sys.is_finalizing():  # later, daemons are ended by multiprocessing
            self.close()


def _work(loader: RingLoader, asks: Ring, gives: Ring, worker: int, seed: int, parent: int) -> None:
    """What a worker does: a batch for each request, until the ring of requests is closed or the trainer is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the trainer decides
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    father, begin = multiprocessing.parent_process(), os.getppid()

    def alive() -> bool:
        # A forked worker holds its siblings' ends of the pipes that tell of the trainer's death: the parent's id tells, too.
        return os.getppid() == begin and (father is None or father.is_alive())

    if loader.worker_init_fn is not None:
        loader.worker_init_fn(worker)
    try:
        while True:
            turn, parts, epoch, later = json.loads(asks.read(alive).numpy().tobytes())
            asks.release()
            frame = _made(loader, turn, Request(parts, epoch, later), gives.capacity)
            frame.write(gives.reserve(frame.size, alive))
            gives.publish()
    except Closed:
        return


def _made(loader: RingLoader, turn: int, request: Request, capacity: int) -> Frame:
    """The frame of a batch, or of the error that came instead."""
    from torch_geometric.data import HeteroData

    try:
        frame = Frame(loader.filter_fn(request), [turn, None])
        if frame.size + 64 > capacity:
            raise HaspError(
                f"a batch of {frame.size:,} bytes does not fit a ring of {capacity:,}; raise ring_bytes to twice that or more"
            )
        return frame
    except Exception as error:
        known = isinstance(error, HaspError)
        text = str(error) if known else f"{type(error).__name__}: {error}"
        return Frame(HeteroData(), [turn, [type(error).__name__ if known else "HaspError", " ".join(text.split())[:4096]]])
