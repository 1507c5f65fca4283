"""Cache: far ends that a process has read once and keeps, under a budget of bytes.

It changes what is read, never what a batch holds: a cached row is the row. Worth it where the parts lie on something slower
than memory (a network disk, object storage): on a local disk the system's own cache of files already does it.

Each entity type has its own share of the budget, by the bytes that an epoch asks of it, so that all rows of one cache are of
one size and the clairvoyant policy is the optimum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hasp.config import parse_bytes
from hasp.load.policies import Ask, Policy, keep, policy_named
from hasp.rows import plain

__all__ = ["HaloCache", "HeldRows", "RowCache", "capacities", "simulate"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class HaloCache:
    """What a loader may keep of its halos: ``HASPLoader(parts, halo=HaloCache("1GB"))``.

    Args:
        bytes: the most bytes of rows kept, by each process that merges batches (workers have a cache each).
        policy: a name in :data:`hasp.load.policies.POLICIES`. ``"wanted"`` needs one look at the cut; ``"clairvoyant"``
            is the best there is; ``"degree"`` and ``"importance1"`` read all edges once per direction, ``"importance2"`` twice.
        seed: of ``"random"``.

    Raises:
        HaspError: an unknown policy, or a size that is none.
    """

    bytes: int | str = "256MB"
    policy: str = "wanted"
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "bytes", parse_bytes(self.bytes))
        policy_named(self.policy)

    @property
    def num_bytes(self) -> int:
        """``bytes`` as a number."""
        return parse_bytes(self.bytes)


@dataclass(frozen=True)
class HeldRows:
    """Rows that a cache holds, and what each is worth to it.

    Attributes:
        keys: ascending, int64 ``[n]``.
        priority: float64 ``[n]``.
    """

    keys: Ints
    priority: npt.NDArray[np.float64]

    @classmethod
    def none(cls) -> HeldRows:
        """An empty cache."""
        return cls(np.empty(0, np.int64), np.empty(0))

    def find(self, keys: Ints) -> tuple[npt.NDArray[np.bool_], Ints]:
        """Which of some keys are held ``[m]``, and where (anywhere, for those that are not) ``[m]``."""
        at = np.searchsorted(self.keys, keys)
        at[at == self.keys.size] = 0
        hit = self.keys[at] == keys if self.keys.size else np.zeros(keys.shape, dtype=np.bool_)
        return hit, at

    def after(self, ask: Ask, policy: Policy, capacity: int) -> HeldRows:
        """What is held when a batch has been served: the best of what was held and what was asked for."""
        hit, at = self.find(ask.keys)
        old = np.ones(self.keys.size, dtype=np.bool_)
        old[at[hit]] = False  # a row that is asked for again gets a new priority
        keys = np.concatenate([self.keys[old], ask.keys])
        priority = np.concatenate([self.priority[old], policy(ask)])
        order = np.argsort(keys, kind="stable")
        stay = keep(keys[order], priority[order], capacity)
        return HeldRows(keys[order][stay], priority[order][stay])


def simulate(policy: Policy, asks: Iterable[Ask], capacity: int) -> list[int]:
    """Hits per batch of a cache that starts empty, without any rows.

    Args:
        policy: of the cache.
        asks: what each batch asks for, in order.
        capacity: rows that there is room for.
    """
    held, hits = HeldRows.none(), []
    for ask in asks:
        hits.append(int(held.find(ask.keys)[0].sum()))
        held = held.after(ask, policy, capacity)
    return hits


def capacities(
    budget: int, row_bytes: Mapping[str, int], requests: Mapping[str, int], rows: Mapping[str, int]
) -> dict[str, int]:
    """Rows that each type may keep.

    Args:
        budget: bytes for all types.
        row_bytes: bytes of a row.
        requests: rows that an epoch asks for: types share the budget by the bytes of these.
        rows: distinct rows; more room than for these is of no use.
    """
    total = sum(row_bytes[t] * requests[t] for t in row_bytes)
    return {t: min(rows[t], int(budget * requests[t] // total)) if total else 0 for t in row_bytes}


class RowCache:
    """The rows of one entity type that are kept.

    Args:
        policy: which.
        capacity: how many at most.

    Attributes:
        hits: rows that were asked for and held.
        num_bytes: bytes set aside for rows.
    """

    def __init__(self, policy: Policy, capacity: int) -> None:
        self._policy, self._capacity = policy, capacity
        self._held = HeldRows.none()
        self._slot = np.empty(0, np.int64)  # of each held row, in the tables
        self._tables: dict[str, Tensor] = {}
        self.hits = 0
        self.num_bytes = 0

    def fetch(self, ask: Ask, read: Callable[[Ints], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The rows of a batch: those held from memory, the rest by ``read``; then decide what to hold.

        Args:
            ask: the rows.
            read: keys ``[k]`` -> name -> ``[k, ...]``.

        Returns:
            Name -> ``[m, ...]``, in the order of ``ask.keys``, equal to ``read(ask.keys)``.
        """
        hit, at = self._held.find(ask.keys)
        slots = torch.from_numpy(self._slot[at[hit]])
        held, missing = torch.from_numpy(np.flatnonzero(hit)), torch.from_numpy(np.flatnonzero(~hit))
        out = {}
        for name, value in read(ask.keys[~hit]).items():
            rows = value.new_empty((ask.keys.size, *value.shape[1:]))
            plain(rows)[missing] = plain(value)
            if slots.numel():
                plain(rows)[held] = plain(self._tables[name]).index_select(0, slots)
            out[name] = rows
        self.hits += slots.numel()
        self._hold(ask, out)
        return out

    def __getstate__(self) -> dict[str, Any]:
        # A process that gets this over a pipe begins with an empty cache.
        return {**self.__dict__, **RowCache(self._policy, self._capacity).__dict__}

    def _hold(self, ask: Ask, rows: Mapping[str, Tensor]) -> None:
        before, after = self._held, self._held.after(ask, self._policy, self._capacity)
        stays, at = before.find(after.keys)
        slot = np.empty(after.keys.size, np.int64)
        slot[stays] = self._slot[at[stays]]
        free = np.setdiff1d(np.arange(self._capacity), slot[stays], assume_unique=True)
        slot[~stays] = free[: int((~stays).sum())]
        self._held, self._slot = after, slot
        new = after.keys[~stays]
        if new.size == 0:
            return
        source, target = torch.from_numpy(np.searchsorted(ask.keys, new)), torch.from_numpy(slot[~stays])
        for name, value in rows.items():
            if name not in self._tables:
                self._tables[name] = value.new_empty((self._capacity, *value.shape[1:]))
                self.num_bytes += self._tables[name].numel() * value.element_size()
            plain(self._tables[name])[target] = plain(value).index_select(0, source)
