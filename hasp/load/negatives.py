"""Negatives: pairs of nodes of a batch that no edge of the whole graph joins. NumPy only; every draw is a hash of a counter.

Pairs are drawn and those that are forbidden are drawn again, which leaves the rest uniform. Where a graph is so dense that
this would not end soon, what is allowed is written out instead: first the row masses (how much is allowed per source,
exact, O(forbidden pairs)), then the row.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hasp.rng import hash64

__all__ = ["Forbidden", "corrupt_destinations", "distinct", "draw_pairs"]

Ints = npt.NDArray[np.int64]
Weight = npt.NDArray[np.float64] | None
_ROUNDS = 16
_FEW = 64  # pairs that are searched for without a table
_SLOTS = 8  # per key


def distinct(keys: Ints) -> Ints:
    """The different keys, ascending. Writes over the array. (``np.unique`` hashes, which takes tens of times longer.)"""
    keys.sort()
    if keys.size < 2:
        return keys
    first = np.empty(keys.size, dtype=bool)
    first[0] = True
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    return keys[first]


class Forbidden:
    """A sorted set of ordered pairs ``(source, destination)`` that are no negatives.

    Args:
        source: rows of the batch, int64 ``[e]``.
        destination: likewise.
        num_source: nodes of the source's type in the batch.
        num_destination: nodes of the destination's type.
        same_type: both ends are of one type; then both directions of each pair, and every pair of a node with itself, are
            forbidden.
    """

    def __init__(self, source: Ints, destination: Ints, num_source: int, num_destination: int, same_type: bool) -> None:
        keys = [source * num_destination + destination]
        if same_type:
            keys += [destination * num_destination + source, np.arange(num_source, dtype=np.int64) * (num_destination + 1)]
        self.keys: Ints = distinct(np.concatenate(keys))
        self.num_source, self.num_destination = num_source, num_destination
        self._seen: npt.NDArray[np.bool_] | None = None
        self._shift = 0

    def __contains__(self, pair: tuple[int, int]) -> bool:
        return bool(self.has(np.array([pair[0]]), np.array([pair[1]]))[0])

    def has(self, source: Ints, destination: Ints) -> npt.NDArray[np.bool_]:
        """Whether each pair is in the set, bool ``[m]``."""
        if self.keys.size == 0:
            return np.zeros(source.size, dtype=bool)
        keys = source * self.num_destination + destination
        if keys.size < _FEW:
            return self._is_key(keys)
        table = self._table()
        # Most pairs are in no edge, and nearly all of these are told by one look; the rest are searched for.
        found: npt.NDArray[np.bool_] = table[self._slot(keys) if self._shift else keys]
        if not self._shift:
            return found
        unsure = np.flatnonzero(found)
        found[unsure] = self._is_key(keys[unsure])
        return found

    def _is_key(self, keys: Ints) -> npt.NDArray[np.bool_]:
        at = np.minimum(np.searchsorted(self.keys, keys), self.keys.size - 1)
        found: npt.NDArray[np.bool_] = self.keys[at] == keys
        return found

    def _table(self) -> npt.NDArray[np.bool_]:
        """Marks of the keys: of each pair its own where there are few pairs, else of a slot that pairs share by a hash."""
        if self._seen is None:
            pairs = self.num_source * self.num_destination
            bits = (_SLOTS * self.keys.size).bit_length()
            self._shift = 64 - bits if pairs > 1 << bits else 0
            self._seen = np.zeros(1 << bits if self._shift else pairs, dtype=bool)
            self._seen[self._slot(self.keys) if self._shift else self.keys] = True
        return self._seen

    def _slot(self, keys: Ints) -> Ints:
        """The upper bits of a product with an odd number (Fibonacci hashing)."""
        mixed = keys.astype(np.uint64)
        mixed *= np.uint64(0x9E3779B97F4A7C15)
        mixed >>= np.uint64(self._shift)
        return mixed.view(np.int64)

    def allowed(self, source: int, weight: Weight) -> Ints:
        """The destinations that one source may have, ascending; those without weight are left out."""
        lo, hi = np.searchsorted(self.keys, [source * self.num_destination, (source + 1) * self.num_destination])
        free = np.ones(self.num_destination, dtype=bool) if weight is None else weight > 0
        free[self.keys[lo:hi] - source * self.num_destination] = False
        return np.flatnonzero(free)

    def row_mass(self, weight: Weight) -> npt.NDArray[np.float64]:
        """How much destination weight each source may draw from, float64 ``[num_source]``; exactly 0 where none is left."""
        row, column = self.keys // max(self.num_destination, 1), self.keys % max(self.num_destination, 1)
        if weight is None:
            return self.num_destination - np.bincount(row, minlength=self.num_source).astype(np.float64)
        taken = np.bincount(row, weights=weight[column], minlength=self.num_source)
        left = np.count_nonzero(weight) - np.bincount(row[weight[column] > 0], minlength=self.num_source)
        return np.where(left > 0, np.maximum(weight.sum() - taken, np.finfo(np.float64).tiny), 0.0)


def draw_pairs(
    key: np.uint64, count: int, forbidden: Forbidden, source_weight: Weight = None, destination_weight: Weight = None
) -> tuple[Ints, Ints]:
    """Draw ``count`` allowed pairs, independently, each with probability proportional to the product of its weights.

    Args:
        key: of the random stream; equal keys give equal pairs.
        count: pairs to draw.
        forbidden: the pairs that are none, and how many nodes there are.
        source_weight: float64 ``[num_source]``; ``None``: uniform.
        destination_weight: float64 ``[num_destination]``; ``None``: uniform.

    Returns:
        Sources and destinations, int64 ``[count]`` each; ``[0]`` if every pair is forbidden.
    """
    source, destination = np.empty(0, np.int64), np.empty(0, np.int64)
    if not count or _weightless(source_weight) or _weightless(destination_weight):
        return source, destination
    size = forbidden.num_source * forbidden.num_destination
    dense = 2 * forbidden.keys.size > size
    even = source_weight is None and destination_weight is None
    likely = 1.05 * size / max(size - forbidden.keys.size, 1) if even else 2.0
    drawn = 0
    for _ in range(0 if dense else _ROUNDS):
        # As many as are likely to do. How many are drawn at a time does not show: the first good ones are taken, in order.
        counter = np.arange(drawn, drawn + int((count - source.size) * likely) + 16, dtype=np.int64)
        drawn += counter.size
        s = _pick(hash64(_child(key, 0), counter), forbidden.num_source, source_weight)
        d = _pick(hash64(_child(key, 1), counter), forbidden.num_destination, destination_weight)
        good = ~forbidden.has(s, d)
        source, destination = np.concatenate([source, s[good]]), np.concatenate([destination, d[good]])
        if source.size >= count:
            return source[:count], destination[:count]
    missing = count - source.size
    mass = forbidden.row_mass(destination_weight) * (1.0 if source_weight is None else source_weight)
    if not mass.sum() > 0:
        return source, destination
    more = _pick(hash64(_child(key, 2), np.arange(missing, dtype=np.int64)), forbidden.num_source, mass)
    found = corrupt_destinations(_child(key, 3), more, 1, forbidden, destination_weight)[:, 0]
    return np.concatenate([source, more]), np.concatenate([destination, found])


def corrupt_destinations(
    key: np.uint64, source: Ints, amount: int, forbidden: Forbidden, destination_weight: Weight = None
) -> Ints:
    """Draw ``amount`` allowed destinations for every source.

    Args:
        key: of the random stream.
        source: int64 ``[m]``.
        amount: destinations per source.
        forbidden: see :class:`Forbidden`.
        destination_weight: float64 ``[num_destination]``; ``None``: uniform.

    Returns:
        int64 ``[m, amount]``; a row of ``-1`` where a source may have no destination at all.
    """
    flat = np.repeat(source, amount)
    out = np.full(flat.size, -1, dtype=np.int64)
    todo = np.arange(0 if _weightless(destination_weight) else flat.size)
    for turn in range(_ROUNDS):
        if not todo.size:
            break
        drawn = _pick(hash64(_child(key, turn), todo), forbidden.num_destination, destination_weight)
        good = ~forbidden.has(flat[todo], drawn)
        out[todo[good]] = drawn[good]
        todo = todo[~good]
    # What is left belongs, but for bad luck, to sources joined with most destinations: their rows cost O(their edges).
    todo = todo[np.argsort(flat[todo], kind="stable")]
    bounds = np.flatnonzero(np.diff(flat[todo], prepend=-1))
    for rows in np.split(todo, bounds[1:]) if todo.size else []:
        free = forbidden.allowed(int(flat[rows[0]]), destination_weight)
        if free.size:
            weight = None if destination_weight is None else destination_weight[free]
            out[rows] = free[_pick(hash64(_child(key, _ROUNDS), rows), free.size, weight)]
    return out.reshape(source.size, amount)


def _weightless(weight: Weight) -> bool:
    return weight is not None and not weight.sum() > 0


def _child(key: np.uint64, index: int) -> np.uint64:
    return np.uint64(hash64(key, np.array([index], dtype=np.int64))[0])


def _pick(bits: npt.NDArray[np.uint64], count: int, weight: Weight) -> Ints:
    """Turn 64 random bits each into one of ``range(count)``. (The bias of the remainder is below count / 2**64.)"""
    if weight is None:
        return np.asarray(bits % np.uint64(max(count, 1)), dtype=np.int64)
    edge = np.cumsum(weight)
    point = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53 * edge[-1]
    at = np.searchsorted(edge, point, side="right")
    # Rounding may put a point at the very end; the last node that has a weight takes it.
    last = int(np.flatnonzero(weight)[-1])
    return np.asarray(np.minimum(at, last), dtype=np.int64)
