"""Policies: which rows a cache keeps when it cannot keep all. One small pure function each, one signature, one dict.

A policy gives every row that a batch asks for a *priority*. After each batch the cache keeps, of the rows that it held and
the rows that were asked for, those of the highest priority (:func:`keep`). A row's priority is that of its last request.
That one rule makes a policy of a score that never changes (the best rows of all end up in the cache), of the time of the
request (least recently used), and of the time of the next one (the clairvoyant optimum).

Sources: ``importance``: R. Zhu et al., "AliGraph", VLDB 2019, section 3.2; ``degree``: PaGraph (Z. Lin et al., SoCC 2020);
``clairvoyant``: L. Belady, "A study of replacement algorithms", 1966, with the choice not to keep a row at all. For rows of
one size that is the most hits any cache can have, since it is the greedy colouring of intervals (request to next request)
with as many colours as there is room for rows (M. Carlisle and E. Lloyd, "On the k-coloring of intervals", 1995).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hasp.errors import HaspError
from hasp.rng import hash64, subkey, word

__all__ = ["NEVER", "POLICIES", "Ask", "Policy", "keep", "policy_named"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

NEVER = np.int64(2**53)
"""The time of a request that is not foreseen: a whole number that float64 still holds."""

_TIE = subkey(0, word("ties of the cache"))


class Ask(Protocol):
    """The rows of one type that one batch asks for, and what is known of them. Facts are worked out when asked for."""

    @property
    def keys(self) -> Ints:
        """The rows, distinct and ascending, int64 ``[m]``."""

    @property
    def now(self) -> int:
        """The number of this batch, counted by the cache."""

    @property
    def seed(self) -> int:
        """Of policies that draw."""

    def wanted(self) -> Ints:
        """By how many parts each row is wanted ``[m]``."""

    def reach(self, hops: int, outgoing: bool) -> Floats:
        """Walks of so many edges between entities that end (or begin) at each row ``[m]``."""

    def next_use(self) -> Ints:
        """A number that rises with the time of the next request; :data:`NEVER` if none is foreseen ``[m]``."""


Policy = Callable[[Ask], Floats]


def by_chance(ask: Ask) -> Floats:
    """Some rows, drawn once: the floor of every policy that knows something."""
    return hash64(subkey(ask.seed, word("random cache")), ask.keys).astype(np.float64)


def by_degree(ask: Ask) -> Floats:
    """Edges between entities at the row, both directions counted."""
    return ask.reach(1, False) + ask.reach(1, True)


def by_importance(ask: Ask, hops: int) -> Floats:
    """Imp_k(v) = D_in^k(v) / D_out^k(v): walks of k edges that end at v, over those that begin there.

    AliGraph counts neighbours; here one that is reached in two ways counts twice. Links in both directions have as many in
    as out, so that all rows of an undirected graph are equally important.
    """
    return _ratio(ask.reach(hops, False), ask.reach(hops, True))


def by_importance_flipped(ask: Ask, hops: int) -> Floats:
    """D_out^k(v) / D_in^k(v): the importance, read along the messages.

    An edge of AliGraph leads from a vertex that asks to the neighbour that is asked, so that D_in counts who asks for v. In
    PyG a message follows the edge: who asks for v is where the edges of v lead.
    """
    return _ratio(ask.reach(hops, True), ask.reach(hops, False))


def by_wanted(ask: Ask) -> Floats:
    """Parts that want the row: how often an epoch asks for it, as far as the parts alone decide that."""
    return ask.wanted().astype(np.float64)


def by_recency(ask: Ask) -> Floats:
    """Least recently used goes first. A batch asks for all its rows at once, so these tie."""
    return np.full(ask.keys.shape, float(ask.now))


def clairvoyant(ask: Ask) -> Floats:
    """The row whose next request is farthest goes first: the order of the parts is seeded, so the future is known."""
    return -ask.next_use().astype(np.float64)


POLICIES: dict[str, Policy] = {
    "random": by_chance,
    "importance1": partial(by_importance, hops=1),
    "importance2": partial(by_importance, hops=2),
    "importance1_flipped": partial(by_importance_flipped, hops=1),
    "importance2_flipped": partial(by_importance_flipped, hops=2),
    "degree": by_degree,
    "wanted": by_wanted,
    "lru": by_recency,
    "clairvoyant": clairvoyant,
}


def policy_named(name: str) -> Policy:
    """Look a policy up. Raises :class:`HaspError` for a name that :data:`POLICIES` does not have."""
    if name not in POLICIES:
        raise HaspError(f"policy is one of {list(POLICIES)}, got {name!r}; choose one")
    return POLICIES[name]


def _ratio(above: Floats, below: Floats) -> Floats:
    """``above / below``; infinite over nothing, and 0 for nothing over nothing."""
    out = np.full(above.shape, np.inf)
    np.divide(above, below, out=out, where=below > 0)
    out[(above == 0) & (below == 0)] = 0.0
    return out


def keep(keys: Ints, priority: Floats, capacity: int) -> Ints:
    """Which rows stay: the ``capacity`` of the highest priority, ties by a hash of the key.

    Args:
        keys: distinct rows ``[n]``.
        priority: of each, not NaN ``[n]``.
        capacity: rows that there is room for.

    Returns:
        Their places in ``keys``, ascending, int64 ``[min(n, capacity)]``.
    """
    if keys.size <= capacity:
        return np.arange(keys.size)
    if capacity == 0:
        return np.empty(0, np.int64)
    least = np.partition(priority, keys.size - capacity)[keys.size - capacity]
    sure, tied = np.flatnonzero(priority > least), np.flatnonzero(priority == least)
    # Not by the key itself: keys follow the parts, and the rows of some parts would always win.
    order = np.argsort(hash64(_TIE, keys[tied]), kind="stable")
    return np.sort(np.concatenate([sure, tied[order[: capacity - sure.size]]]))
