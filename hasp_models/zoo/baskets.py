"""Baskets: what each graph user engaged with, and the random draws that collaborative recommenders make from them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from hasp.errors import HaspError
from hasp_models.data.benchmark import Benchmark
from hasp_models.data.splits import engagement

__all__ = ["Baskets"]


@dataclass(frozen=True)
class Baskets:
    """One row per user, entities ascending within it, each once.

    Attributes:
        users: int64 ``[M]``, users numbered ``0..U - 1``, ascending.
        items: int64 ``[M]``, the entity of each engagement.
        indptr: int64 ``[U + 1]``; user ``u`` has ``items[indptr[u]:indptr[u + 1]]``.
        num_items: number of entities.
        keys: int64 ``[M]``, ``users * num_items + items``, ascending; :meth:`contains` searches it.
        popularity: int64 ``[N]``, users per entity.
    """

    users: Tensor
    items: Tensor
    indptr: Tensor
    num_items: int
    keys: Tensor = field(init=False)
    popularity: Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", self.users * self.num_items + self.items)
        object.__setattr__(self, "popularity", torch.bincount(self.items, minlength=self.num_items))

    @classmethod
    def of(cls, benchmark: Benchmark) -> Baskets:
        """The baskets of a benchmark's graph users; repeats count once.

        Raises:
            HaspError: nobody engaged with anything.
        """
        matrix = engagement(benchmark.users, benchmark.items, benchmark.num_items)
        if not matrix.nnz:
            raise HaspError(f"baskets need graph users with an engagement, {benchmark.name} has none; use another split")
        matrix.sort_indices()
        indptr = torch.from_numpy(matrix.indptr.astype(np.int64))
        users = torch.repeat_interleave(torch.arange(matrix.shape[0]), indptr.diff())
        return cls(users, torch.from_numpy(matrix.indices.astype(np.int64)), indptr, benchmark.num_items)

    @property
    def num_users(self) -> int:
        """U."""
        return self.indptr.numel() - 1

    def usable(self, least: int = 1) -> Tensor:
        """Places ``[m]`` of the engagements of users with ``least`` entities or more, but not all that anyone engaged with.

        Who engaged with everything has no negative.
        """
        size = self.indptr.diff()[self.users]
        return ((size >= least) & (size < int((self.popularity > 0).sum()))).nonzero()[:, 0]

    def contains(self, users: Tensor, items: Tensor) -> Tensor:
        """Did the user engage with the entity? Bool, of the arguments' common shape."""
        wanted = users * self.num_items + items
        return self.keys[torch.searchsorted(self.keys, wanted).clamp_max(self.keys.numel() - 1)] == wanted

    def partners(self, places: Tensor, generator: torch.Generator) -> Tensor:
        """For each engagement another entity of the same basket, all equally likely.

        Args:
            places: int64 ``[B]``, rows of :attr:`items` whose baskets hold two entities or more.
            generator: of the draw.

        Returns:
            int64 ``[B]``, entities.
        """
        start, size = self.indptr[self.users[places]], self.indptr.diff()[self.users[places]]
        ahead = 1 + (torch.rand(places.shape, generator=generator, dtype=torch.float64) * (size - 1)).long()
        return self.items[start + (places - start + ahead) % size]

    def negatives(self, users: Tensor, count: int, power: float, generator: torch.Generator) -> Tensor:
        """Entities that the user did not engage with, drawn by ``popularity ** power`` among the entities that anyone has.

        Draws that fall into the user's basket are drawn again, so the users must be among those of :meth:`usable`.

        Args:
            users: int64 ``[B]``.
            count: per user.
            power: 0 draws uniformly, 0.75 as word2vec.
            generator: of the draws.

        Returns:
            int64 ``[B, count]``.
        """
        seen = self.popularity.nonzero()[:, 0]
        edges = self.popularity[seen].double().pow(power).cumsum(0)
        asked = users.repeat_interleave(count)
        drawn = torch.empty_like(asked)
        todo = torch.arange(asked.numel())
        while todo.numel():
            at = torch.rand(todo.shape, generator=generator, dtype=torch.float64) * edges[-1]
            drawn[todo] = seen[torch.searchsorted(edges, at, right=True).clamp_max(seen.numel() - 1)]
            todo = todo[self.contains(asked[todo], drawn[todo])]
        return drawn.view(-1, count)
