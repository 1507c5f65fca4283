"""Pairs of rows in a hash table: each pair's first edge, which pairs supervise, and negatives, which are pairs not in it.

The table is open: ``keys`` int64, a power of two in length, -1 where nothing is, at least as many free slots as keys; a pair
stands in the first free slot from that of its hash on. A pair's key is ``source * width + destination``. With ``loose`` a pair
has no direction, so that its smaller row comes first, and a row is no pair with itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hasp.kernels.hashing import mixed
from hasp.kernels.jit import jit

__all__ = ["add", "add_first", "corrupt", "draw", "first_edges", "has", "rest"]

njit: Any = jit()
inlined: Any = jit(inline="always")

_FIBONACCI = np.uint64(0x9E3779B97F4A7C15)


@inlined
def _key(source: Any, destination: Any, width: int, loose: bool) -> Any:
    s, d = np.int64(source), np.int64(destination)
    if loose:
        s, d = min(s, d), max(s, d)
    return s * width + d


@inlined
def _slot(keys: Any, shift: Any, key: Any) -> Any:
    """Where a key is, or would go."""
    last = np.uint64(keys.size - 1)
    at = (np.uint64(key) * _FIBONACCI) >> shift
    # One branch, and nearly always the same one: whether the key was there or the slot was free is not told by guessing.
    while (keys[at] != key) & (keys[at] != -1):
        at = (at + np.uint64(1)) & last
    return at


@inlined
def _supervises(
    source: Any, destination: Any, loose: bool, seed: Any, ratio: float, source_id: Any, destination_id: Any
) -> bool:
    """Whether a pair is of the share ``ratio``: a hash of its global ids."""
    if ratio >= 1.0:
        return True
    s, d = np.int64(source_id[source]), np.int64(destination_id[destination])
    if loose:
        s, d = min(s, d), max(s, d)
    bits = mixed(seed, mixed(seed, s) + np.uint64(d))
    share = float(np.float64(bits >> np.uint64(11))) * 2.0**-53
    return share < ratio


@njit
def add(
    keys: Any, shift: Any, slots: Any, count: int, first: Any, source: Any, destination: Any, width: int, loose: bool
) -> int:
    """Put pairs into the table, without an edge of theirs (``first`` -1).

    ``slots[:count]`` are those that are taken, in the order in which they were. Returns the new ``count``.
    """
    for i in range(source.size):
        if loose and source[i] == destination[i]:
            continue
        key = _key(source[i], destination[i], width, loose)
        at = _slot(keys, shift, key)
        new = keys[at] == -1
        # Every other pair is new, as both directions come: a guess would often be wrong, so that nothing is guessed here.
        keys[at], slots[count] = key, at
        first[at] = -1 if new else first[at]
        count += new
    return count


@njit
def add_first(
    keys: Any, shift: Any, slots: Any, first: Any, source: Any, destination: Any, e_id: Any, width: int, loose: bool,
    seed: Any, ratio: float, source_id: Any, destination_id: Any,
) -> int:  # fmt: skip
    """Put the pairs that supervise into the empty table, each with its edge of the smallest ``e_id``.

    ``slots`` gets those that they take, in this order. Returns how many.
    """
    count = 0
    for i in range(source.size):
        if loose and source[i] == destination[i]:
            continue
        if not _supervises(source[i], destination[i], loose, seed, ratio, source_id, destination_id):
            continue
        key = _key(source[i], destination[i], width, loose)
        at = _slot(keys, shift, key)
        new = keys[at] == -1
        keys[at], slots[count] = key, at
        before = np.int64(i) if new else np.int64(first[at])
        first[at] = i if e_id[i] < e_id[before] else before
        count += new
    return count


@njit
def first_edges(
    slots: Any, first: Any, source: Any, destination: Any, loose: bool,
    seed: Any, ratio: float, source_id: Any, destination_id: Any, out: Any,
) -> int:  # fmt: skip
    """``out`` int64 gets the first edge of each pair in ``slots`` that supervises, in this order. Returns how many."""
    count = 0
    for at in slots:
        i = first[at]
        out[count] = i
        count += _supervises(source[i], destination[i], loose, seed, ratio, source_id, destination_id)
    return count


@njit
def rest(
    keys: Any, shift: Any, first: Any, source: Any, destination: Any, width: int, loose: bool,
    seed: Any, ratio: float, source_id: Any, destination_id: Any, out: Any,
) -> int:  # fmt: skip
    """``out`` int64 gets the edges, ascending, whose pair does not supervise. Returns how many."""
    count = 0
    for i in range(source.size):
        out[count] = i
        count += 1
        if loose and source[i] == destination[i]:
            continue
        if _supervises(source[i], destination[i], loose, seed, ratio, source_id, destination_id):
            at = _slot(keys, shift, _key(source[i], destination[i], width, loose))
            if keys[at] != -1 and first[at] >= 0:
                count -= 1
    return count


@njit
def has(keys: Any, shift: Any, source: Any, destination: Any, width: int, loose: bool, out: Any) -> None:
    """Whether each pair is in the table or, with ``loose``, joins a row with itself: bool."""
    for i in range(source.size):
        out[i] = (loose and source[i] == destination[i]) or keys[
            _slot(keys, shift, _key(source[i], destination[i], width, loose))
        ] != -1


@njit
def draw(
    keys: Any, shift: Any, num_source: int, num_destination: int, loose: bool,
    source_key: Any, destination_key: Any, most: int, out: Any,
) -> int:  # fmt: skip
    """Fill ``out`` int64 ``[2, count]`` with pairs that are not in the table: the first good ones of one stream.

    Pair ``c`` of the stream is (hash of ``c`` by ``source_key``, by ``destination_key``), modulo the numbers of nodes. Returns
    how many were found among the first ``most``.
    """
    count = 0
    for c in range(most):
        if count == out.shape[1]:
            break
        s = np.int64(mixed(source_key, c) % np.uint64(num_source))
        d = np.int64(mixed(destination_key, c) % np.uint64(num_destination))
        out[0, count], out[1, count] = s, d
        taken = (loose and s == d) or keys[_slot(keys, shift, _key(s, d, num_destination, loose))] != -1
        count += not taken
    return count


@njit
def corrupt(
    keys: Any, shift: Any, source: Any, amount: int, num_destination: int, loose: bool, turn_keys: Any, out: Any
) -> int:
    """``amount`` destinations for each source, so that no pair is in the table: ``out`` int64 ``[m * amount]``.

    Place ``i`` gets its hash by the first key of ``turn_keys`` that gives a good one, else -1. Returns how many are -1.
    """
    missing = 0
    for i in range(out.size):
        s = np.int64(source[i // amount])
        out[i] = -1
        for turn in range(turn_keys.size):
            d = np.int64(mixed(turn_keys[turn], i) % np.uint64(num_destination))
            taken = (loose and s == d) or keys[_slot(keys, shift, _key(s, d, num_destination, loose))] != -1
            if not taken:
                out[i] = d
                break
        missing += out[i] < 0
    return missing
