"""PartSampler: the order of :mod:`hasp.load.order` as a torch sampler, one flat item per part."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from hasp.config import whole
from hasp.errors import HaspError
from hasp.load import order

__all__ = ["Item", "PartDataset", "PartSampler", "Request", "part_sampler"]


class Item(NamedTuple):
    """One part of one epoch. The epoch travels with the part, so that persistent workers need not be told of it.

    Attributes:
        part: a part, or -1: nothing (it fills a short batch up, and is left out when parts are merged).
        epoch: counts from 0.
        later: the part that has this one's place in the next batch of this rank, or -1: the system may read it meanwhile.
    """

    part: int
    epoch: int
    later: int = -1


class Request(NamedTuple):
    """Which parts to merge, on its way from a worker to the main process (``filter_per_worker=False``).

    Attributes:
        parts: distinct parts; none: padding.
        epoch: selects samples, negatives and the disjoint share.
        later: parts of the batch after it, where it is known.
    """

    parts: list[int]
    epoch: int
    later: list[int]

    @classmethod
    def of(cls, index: Any, epoch: int) -> Request:
        """What a sampler's index asks for: a part, several, or :class:`Item` s, which bring their own epoch."""
        if isinstance(index, (Tensor, np.ndarray)):
            index = index.reshape(-1).tolist()
        chosen, later = [], []
        several = isinstance(index, Iterable) and not isinstance(index, str)
        for item in index if several else [index]:
            if isinstance(item, Item):
                epoch = item.epoch
                later += [item.later] if item.later >= 0 else []
                item = item.part
                if item < 0:
                    continue
            chosen.append(_part(item))
        return cls(chosen, epoch, later)


def _part(value: Any) -> int:
    """A part's number, and not one entry of a mask."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        remedy = "mask.nonzero()" if isinstance(value, bool) else "list(range(...))"
        raise HaspError(f"a loader is called with a part or several, as whole numbers, got {value!r:.80}; give {remedy}")
    return operator.index(value)


class PartDataset(Dataset[Any]):
    """The parts as a dataset: what a sampler asks for is what it gets, and the collate function merges it."""

    def __init__(self, num_parts: int) -> None:
        self.num_parts = num_parts

    def __len__(self) -> int:
        return self.num_parts

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, int) and not 0 <= item < self.num_parts:
            raise IndexError(f"parts are numbered 0..{self.num_parts - 1}, got {item}")
        return item

    def __repr__(self) -> str:
        return f"PartDataset({self.num_parts})"


class PartSampler(DistributedSampler[Any]):
    """This rank's parts of an epoch, in order, flat: every ``batch_size`` consecutive items are one batch.

    A ``DistributedSampler`` so that frameworks leave it in place and call its ``set_epoch``; nothing else of that class is
    used, which repeats samples to even out ranks (here: train a whole part twice).

    Args:
        num_parts: parts.
        cost: per part, to share a step's work among ranks ``[num_parts]``.
        batch_size: parts per batch.
        parts_per_step: parts per optimizer step over all ranks; ``None``: ``batch_size * world_size``.
        shuffle: draw a new order every epoch.
        seed: of that order.
        drop_last: leave out a last step that is not full.
        rank: ``None``: that of ``torch.distributed`` when an epoch begins (0 without a process group).
        world_size: likewise.

    Attributes:
        epoch: the epoch that the next iteration yields.
        resume: the step that it starts from.
        start: the step that the iteration under way started from.
    """

    # The initialiser of DistributedSampler asks for a process group, which need not exist yet.
    def __init__(
        self,
        num_parts: int,
        cost: Sequence[float] | None = None,
        *,
        batch_size: int = 1,
        parts_per_step: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        if (rank is None) != (world_size is None):
            raise HaspError(f"rank and world_size come together, got rank={rank}, world_size={world_size}; give both or none")
        batch_size, seed = whole("batch_size", batch_size), whole("seed", seed)
        parts_per_step = None if parts_per_step is None else whole("parts_per_step", parts_per_step)
        if rank is not None and world_size is not None:
            rank, world_size = whole("rank", rank), whole("world_size", world_size)
        self.num_parts = num_parts
        self.cost = np.ones(num_parts) if cost is None else np.asarray(cost, dtype=np.float64)
        self.batch_size, self.parts_per_step = batch_size, parts_per_step
        self.shuffle, self.seed, self.drop_last = shuffle, seed, drop_last
        self._rank, self._world_size = rank, world_size
        order.check_order(
            num_parts, batch_size, parts_per_step or batch_size, rank or 0, 1 if world_size is None else world_size
        )
        self.epoch = 0
        self.resume = 0
        self.start = 0

    def place(self) -> tuple[int, int]:
        """``(rank, world_size)`` as they are now."""
        if self._rank is not None and self._world_size is not None:
            return self._rank, self._world_size
        if dist.is_available() and dist.is_initialized():
            return dist.get_rank(), dist.get_world_size()
        return 0, 1

    @property
    def rank(self) -> int:  # type: ignore[override]
        """This rank."""
        return self.place()[0]

    @property
    def num_replicas(self) -> int:  # type: ignore[override]
        """Number of ranks, by the name that ``DistributedSampler`` gives it."""
        return self.place()[1]

    @property
    def step_size(self) -> int:
        """Parts per optimizer step, over all ranks."""
        return self.parts_per_step or self.batch_size * self.place()[1]

    @property
    def num_steps(self) -> int:
        """Optimizer steps per epoch."""
        return order.num_steps(self.num_parts, self.step_size, self.drop_last)

    def batches(self, step: int) -> int:
        """Batches of this rank (of every rank) in one step, padding included."""
        return order.batches_per_rank(self.num_parts, step, self.batch_size, self.step_size, self.place()[1])

    def step_after(self, count: int) -> int:
        """The step that is under way, or next, once ``count`` batches were handed out since :attr:`start`."""
        step = self.start
        while step < self.num_steps and count >= self.batches(step):
            count -= self.batches(step)
            step += 1
        return step

    def begin(self) -> None:
        """Start an iteration at :attr:`resume`; the one after it starts the epoch from its beginning."""
        self.start, self.resume = self.resume, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch. Choosing the one that is set already changes nothing: a point to resume from stays."""
        if epoch < 0:
            raise HaspError(f"epochs count from 0, got {epoch}; give a number >= 0")
        if epoch != self.epoch:
            self.epoch, self.resume, self.start = int(epoch), 0, 0

    def __iter__(self) -> Iterator[Item]:
        rank, world_size = self.place()
        epoch, waiting = self.epoch, deque[int]()
        for part in self._parts(rank, world_size):
            waiting.append(part)
            if len(waiting) > self.batch_size:
                yield Item(waiting.popleft(), epoch, part)
        for part in waiting:
            yield Item(part, epoch)

    def _parts(self, rank: int, world_size: int) -> Iterator[int]:
        """The parts of :meth:`__iter__`, -1 where a batch is short."""
        step_size = self.step_size
        parts = order.parts_order(self.seed, self.epoch, self.num_parts, self.shuffle)
        for step in range(self.start, order.num_steps(self.num_parts, step_size, self.drop_last)):
            batches = order.step_batches(parts, step, self.batch_size, step_size)
            for batch in order.rank_batches(batches, self.cost, rank, world_size):
                yield from batch.tolist()
                yield from [-1] * (self.batch_size - batch.size)

    def __len__(self) -> int:
        """Items of a whole epoch (an epoch that is resumed yields fewer)."""
        steps = self.num_steps
        total = (steps - 1) * self.batches(0) + self.batches(steps - 1) if steps else 0
        return total * self.batch_size


def part_sampler(sampler: Any, batch_sampler: Any) -> PartSampler | None:
    """Our own sampler, if one of these is it or leads to it (Lightning wraps batch samplers in its own)."""
    for found in (sampler, getattr(batch_sampler, "sampler", None)):
        if isinstance(found, PartSampler):
            return found
    return None
