"""Negatives: pairs of nodes of a batch that no edge of the whole graph joins. Every draw is a hash of a counter.

Pairs are drawn and those that are forbidden are drawn again, which leaves the rest uniform. Where a graph is so dense that
this would not end soon, what is allowed is written out instead: first the row masses (how much is allowed per source,
exact, O(forbidden pairs)), then the row. Draws without weights are compiled; those with weights are NumPy's.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hasp.load.pairs import Pairs
from hasp.rng import hash64, hash_one

__all__ = ["corrupt_destinations", "draw_pairs"]

Ints = npt.NDArray[np.int64]
Weight = npt.NDArray[np.float64] | None
_ROUNDS = 16
_SPARE = 1024  # draws, for those few pairs of which none may be good for long


def draw_pairs(
    key: np.uint64, count: int, forbidden: Pairs, source_weight: Weight = None, destination_weight: Weight = None
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
    found = np.empty((2, 0), np.int64)
    if not count or _weightless(source_weight) or _weightless(destination_weight):
        return found[0], found[1]
    size = forbidden.num_source * forbidden.num_destination
    keys = hash_one(key, 0), hash_one(key, 1)
    if 0 < size >= 2 * forbidden.size:
        if source_weight is None and destination_weight is None:
            # Half of all pairs at least are good: so many draws that are too few do not happen.
            found = forbidden.draw(count, 4 * count + _SPARE, keys)
        else:
            found = _weighted(keys, count, forbidden, source_weight, destination_weight)
    missing = count - found.shape[1]
    if not missing:
        return found[0], found[1]
    mass = _row_mass(forbidden, destination_weight) * (1.0 if source_weight is None else source_weight)
    if not mass.sum() > 0:
        return found[0], found[1]
    more = _pick(hash64(hash_one(key, 2), np.arange(missing, dtype=np.int64)), forbidden.num_source, mass)
    ends = corrupt_destinations(hash_one(key, 3), more, 1, forbidden, destination_weight)[:, 0]
    return np.concatenate([found[0], more]), np.concatenate([found[1], ends])


def corrupt_destinations(
    key: np.uint64, source: Ints, amount: int, forbidden: Pairs, destination_weight: Weight = None
) -> Ints:
    """Draw ``amount`` allowed destinations for every source.

    Args:
        key: of the random stream.
        source: int64 ``[m]``.
        amount: destinations per source.
        forbidden: see :class:`hasp.load.pairs.Pairs`.
        destination_weight: float64 ``[num_destination]``; ``None``: uniform.

    Returns:
        int64 ``[m, amount]``; a row of ``-1`` where a source may have no destination at all.
    """
    turns = np.array([hash_one(key, turn) for turn in range(_ROUNDS)], dtype=np.uint64)
    if destination_weight is None and forbidden.num_destination:
        out, missing = forbidden.corrupt(source, amount, turns)
        todo = np.flatnonzero(out < 0) if missing else np.empty(0, np.int64)
        flat = np.repeat(source, amount) if missing else source
    else:
        flat = np.repeat(source, amount)
        out = np.full(flat.size, -1, dtype=np.int64)
        todo = np.arange(0 if _weightless(destination_weight) else flat.size)
        for turn in turns:
            if not todo.size:
                break
            drawn = _pick(hash64(turn, todo), forbidden.num_destination, destination_weight)
            good = ~forbidden.has(flat[todo], drawn)
            out[todo[good]] = drawn[good]
            todo = todo[~good]
    # What is left belongs, but for bad luck, to sources joined with most destinations: their rows cost O(their edges).
    todo = todo[np.argsort(flat[todo], kind="stable")]
    bounds = np.flatnonzero(np.diff(flat[todo], prepend=-1))
    for rows in np.split(todo, bounds[1:]) if todo.size else []:
        free = _allowed(forbidden, int(flat[rows[0]]), destination_weight)
        if free.size:
            weight = None if destination_weight is None else destination_weight[free]
            out[rows] = free[_pick(hash64(hash_one(key, _ROUNDS), rows), free.size, weight)]
    return out.reshape(source.size, amount)


def _weighted(
    keys: tuple[np.uint64, np.uint64], count: int, forbidden: Pairs, source_weight: Weight, destination_weight: Weight
) -> Ints:
    """As :meth:`Pairs.draw`, with weights."""
    out, drawn = np.empty((2, 0), np.int64), 0
    for _ in range(_ROUNDS):
        # How many are drawn at a time does not show: the first good ones are taken, in order.
        counter = np.arange(drawn, drawn + 2 * (count - out.shape[1]) + 16, dtype=np.int64)
        drawn += counter.size
        s = _pick(hash64(keys[0], counter), forbidden.num_source, source_weight)
        d = _pick(hash64(keys[1], counter), forbidden.num_destination, destination_weight)
        out = np.concatenate([out, np.stack([s, d])[:, ~forbidden.has(s, d)]], axis=1)
        if out.shape[1] >= count:
            break
    return out[:, :count]


def _allowed(forbidden: Pairs, source: int, weight: Weight) -> Ints:
    """The destinations that one source may have, ascending; those without weight are left out."""
    width = forbidden.num_destination
    lo, hi = np.searchsorted(forbidden.ordered, [source * width, (source + 1) * width])
    free = np.ones(width, dtype=bool) if weight is None else weight > 0
    free[forbidden.ordered[lo:hi] - source * width] = False
    return np.flatnonzero(free)


def _row_mass(forbidden: Pairs, weight: Weight) -> npt.NDArray[np.float64]:
    """How much destination weight each source may draw from, float64 ``[num_source]``; exactly 0 where none is left."""
    rows, width = forbidden.num_source, forbidden.num_destination
    row, column = forbidden.ordered // max(width, 1), forbidden.ordered % max(width, 1)
    if weight is None:
        return width - np.bincount(row, minlength=rows).astype(np.float64)
    taken = np.bincount(row, weights=weight[column], minlength=rows)
    left = np.count_nonzero(weight) - np.bincount(row[weight[column] > 0], minlength=rows)
    return np.where(left > 0, np.maximum(weight.sum() - taken, np.finfo(np.float64).tiny), 0.0)


def _weightless(weight: Weight) -> bool:
    return weight is not None and not weight.sum() > 0


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
