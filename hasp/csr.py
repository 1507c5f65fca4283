"""CSR: edge lists -> the graph that partitioners get: symmetric, coalesced, without self-loops and unlinked nodes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hasp.kernels import csr as kernel
from hasp.parallel import blocks, run, run_in_turn
from hasp.scratch import MEMORY, Scratch

__all__ = ["EdgeList", "linked_nodes", "symmetric_csr", "weighted_csr"]

Ints = npt.NDArray[np.integer[Any]]
Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
EdgeList = tuple[Ints, Ints, int, int]
"""Sources and destinations ``[E]``, and what is added to each: the numbers of the first nodes of their types."""

_LEAST_SHIFT = 10  # with fewer rows in a bucket, keys of half the size do not pay
_MOST_BUCKETS = 1 << 12
_BLOCK = 1 << 18  # edges of a task, unless that makes more than _MOST_TASKS
_MOST_TASKS = 16
_GROUP = 1 << 17  # entries of the buckets that are sorted as one task
_CHUNK = (64, 512)  # entries of a chunk: powers of two


def linked_nodes(lists: Sequence[EdgeList], n: int, threads: int = 0) -> npt.NDArray[np.bool_]:
    """Which of ``n`` nodes have a neighbour, bool ``[n]``: a self-loop links nothing.

    Args:
        lists: their nodes are numbered one type after the other, in ``0..n-1``.
        n: nodes of all types.
        threads: never changes the result: all that a thread writes is ``True``.
    """
    mark = np.zeros(n, dtype=np.bool_)

    def look(block: tuple[int, int, int]) -> None:
        which, low, high = block
        src, dst, src_first, dst_first = lists[which]
        kernel.mark_linked(src[low:high], dst[low:high], src_first, dst_first, mark)

    run(look, [(which, low, high) for which, (src, *_) in enumerate(lists) for low, high in blocks(src.size)], threads)
    return mark


def symmetric_csr(
    lists: Sequence[EdgeList], mark: npt.NDArray[np.bool_], threads: int = 0, scratch: Scratch = MEMORY
) -> tuple[Int64s, Int32s]:
    """Make one symmetric CSR, without repeats and self-loops, of several edge lists.

    Args:
        lists: their nodes are numbered one type after the other.
        mark: bool ``[n]``: the nodes that become rows, in their order, fewer than 2**31. One that is not marked may occur in
            self-loops alone.
        threads: never changes the result.
        scratch: where the arrays go that are as long as the lists.

    Returns:
        ``indptr`` int64 ``[rows + 1]``, ``indices`` int32, each row ascending.
    """
    found = _Entries.make(lists, mark, threads, scratch)
    # With room for every repeat, which is given back: what is never written to takes no memory.
    indices = scratch.empty(int(found.sizes.sum()), np.int32)

    def sort(keys: Any, values: Any, bounds: Int64s) -> None:
        for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            keys[low:high].sort()

    indptr = _rows(found, indices, None, sort, threads)
    return indptr, _shortened(indices, int(indptr[-1]))


def weighted_csr(
    lists: Sequence[EdgeList], weights: Sequence[Floats], mark: npt.NDArray[np.bool_], threads: int = 0
) -> tuple[Int64s, Int32s, Int64s]:
    """The same with weights. They are scaled so that the mean is 100: METIS takes whole numbers >= 1.

    The weights of a pair of entities are added in the order of the lists, in either direction, so that both weigh the same to
    the last bit, and a pair stays even if its weights add up to 0.
    """
    scale = max((_heaviest(entry, weight) for entry, weight in zip(lists, weights, strict=True)), default=0.0)
    found = _Entries.make(lists, mark, threads, MEMORY, weights, scale or 1.0)  # scaled so that no sum overflows
    indices, sums = np.empty(int(found.sizes.sum()), np.int32), np.empty(int(found.sizes.sum()), np.float64)
    key_bits = found.row_bits + found.col_bits

    def sort(keys: Any, values: Any, bounds: Int64s) -> None:
        for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            order, keys[low:high] = _stable(keys[low:high], key_bits)
            values[low:high] = values[low:high][order]

    indptr = _rows(found, indices, sums, sort, threads)
    del found
    indices, sums = _shortened(indices, int(indptr[-1])), _shortened(sums, int(indptr[-1]))
    mean = sums.mean() if sums.size else 1.0
    scaled = sums.view(np.int64)
    for low, high in blocks(sums.size):
        # The cap keeps sums of weights far from overflow and METIS's coarsening from being ruled by one edge.
        scaled[low:high] = np.clip(np.rint(sums[low:high] * (100.0 / (mean or 1.0))), 1, 100_000).astype(np.int64)
    return indptr, indices, scaled


@dataclass(frozen=True)
class _Entries:
    """Both directions of all edges, by bucket of their row.

    Attributes:
        keys: row in the bucket and column of each, in chunks (:func:`hasp.kernels.csr.scatter_entries`).
        values: the weight of each, float64; empty without weights.
        chunk: entries of a chunk.
        filled: int64, entries that each chunk holds.
        chunks: int64, all chunks, those of one bucket side by side and in the order of the edges.
        ptr: int64 ``[buckets + 1]``: where those of each bucket begin.
        sizes: int64 ``[buckets]``, entries of each.
        num_rows: of the CSR.
        row_bits, col_bits: of a key.
    """

    keys: npt.NDArray[np.unsignedinteger[Any]]
    values: Floats
    chunk: int
    filled: Int64s
    chunks: Int64s
    ptr: Int64s
    sizes: Int64s
    num_rows: int
    row_bits: int
    col_bits: int

    @classmethod
    def make(
        cls,
        lists: Sequence[EdgeList],
        mark: npt.NDArray[np.bool_],
        threads: int,
        scratch: Scratch,
        weights: Sequence[Floats] = (),
        scale: float = 1.0,
    ) -> _Entries:
        """One pass over the edges."""
        words = np.empty(2 * -(-mark.size // 64), dtype=np.uint64)
        num_rows = int(kernel.rank_words(mark, words))
        col_bits = max(1, (num_rows - 1).bit_length())
        wide = 32 - col_bits < _LEAST_SHIFT
        row_bits = max(kernel.SHIFT, col_bits + 1 - _MOST_BUCKETS.bit_length()) if wide else min(kernel.SHIFT, 32 - col_bits)
        buckets = -(-num_rows // (1 << row_bits))
        total = sum(src.size for src, *_ in lists)
        tasks = list(_tasks(lists, max(_BLOCK, -(-total // _MOST_TASKS))))
        # Room that chunks leave empty, half of one per task and bucket: an eighth of the rest, unless chunks get too small.
        fair = total // max(1, 2 * len(tasks) * buckets)
        chunk = min(max(_CHUNK[0], 1 << fair.bit_length() >> 1), _CHUNK[1])
        entries = np.array([2 * sum(high - low for _, low, high in task) for task in tasks], dtype=np.int64)
        room = np.concatenate([[0], np.cumsum(entries // chunk + np.minimum(buckets, entries))]).astype(np.int64)
        keys = scratch.empty(int(room[-1]) * chunk, np.uint64 if wide else np.uint32)
        values = np.empty(keys.size if weights else 0, dtype=np.float64)
        owner = np.full(int(room[-1]), buckets, dtype=np.int32)
        filled = np.zeros(owner.size, dtype=np.int64)
        none = np.empty(0, dtype=np.float64)

        def put(i: int) -> None:
            mine = slice(int(room[i]), int(room[i + 1]))
            place = slice(mine.start * chunk, mine.stop * chunk)
            cursor = np.zeros(buckets + 1, dtype=np.uint64)
            for which, low, high in tasks[i]:
                src, dst, src_first, dst_first = lists[which]
                weight = weights[which][low:high] if weights else none
                kernel.scatter_entries(
                    src[low:high], dst[low:high], src_first, dst_first, words, row_bits, col_bits, chunk, cursor,
                    keys[place], owner[mine], weight, scale, values[place],
                )  # fmt: skip
            filled[mine][: int(cursor[-1])] = chunk
            at, rest = np.divmod(cursor[:-1].astype(np.int64), chunk)
            filled[mine][at[rest > 0]] = rest[rest > 0]

        run(put, range(len(tasks)), threads)
        chunks = np.argsort(owner, kind="stable")
        ptr = np.searchsorted(owner[chunks], np.arange(buckets + 1))
        sizes = np.bincount(owner, weights=filled, minlength=buckets)[:buckets].astype(np.int64)
        return cls(keys, values, chunk, filled, chunks, ptr, sizes, num_rows, row_bits, col_bits)


def _tasks(lists: Sequence[EdgeList], size: int) -> Iterator[list[tuple[int, int, int]]]:
    """The edges as tasks of at least ``size`` (but the last), each some (number of the list, first edge, last + 1)."""
    task, left = [], size
    for which, (src, *_) in enumerate(lists):
        for low, high in blocks(src.size, _BLOCK):
            task.append((which, low, high))
            left -= high - low
            if left <= 0:
                yield task
                task, left = [], size
    if task:
        yield task


def _rows(
    found: _Entries, indices: Int32s, sums: Floats | None, sort: Callable[[Any, Any, Int64s], None], threads: int
) -> Int64s:
    """Sort bucket after bucket and write its rows to ``indices``, and of each entry the sum of the weights to ``sums``.

    ``sort`` sorts the keys of each range of bounds, in place, and the values with them. Returns ``indptr``.
    """
    indptr = np.zeros(found.num_rows + 1, dtype=np.int64)
    groups = list(_groups(found.sizes))
    most = max((int(found.sizes[low:high].sum()) for low, high in groups), default=0)
    kept = threading.local()  # new arrays would begin outside the cache

    def write(group: tuple[int, int], place: Callable[[int], int]) -> None:
        low, high = group
        bounds = np.concatenate([[0], np.cumsum(found.sizes[low:high])])
        chunks = found.chunks[found.ptr[low] : found.ptr[high]]
        if not hasattr(kept, "keys"):
            kept.keys, kept.values = np.empty(most, found.keys.dtype), np.empty(0 if sums is None else most, np.float64)
        keys, values = kept.keys[: bounds[-1]], kept.values[: bounds[-1]]
        kernel.gather_entries(found.keys, chunks, found.filled, found.chunk, keys)
        if sums is not None:
            kernel.gather_entries(found.values, chunks, found.filled, found.chunk, values)
        sort(keys, values, bounds)
        count = kernel.count_distinct(keys, bounds)
        first = place(count)
        ends = indptr[1:][low << found.row_bits : high << found.row_bits]
        kernel.write_rows(keys, bounds, found.row_bits, found.col_bits, first, indices[first : first + count], ends)
        if sums is not None:
            kernel.sum_repeats(keys, values, bounds, sums[first : first + count])

    run_in_turn(write, groups, threads)
    return indptr


def _groups(sizes: Int64s) -> Iterable[tuple[int, int]]:
    """Ranges of buckets that have :data:`_GROUP` entries or a little more."""
    ends = np.cumsum(sizes)
    low = 0
    while low < sizes.size:
        before = int(ends[low - 1]) if low else 0
        high = min(int(np.searchsorted(ends, before + _GROUP)) + 1, sizes.size)
        yield low, high
        low = high


def _stable(keys: npt.NDArray[Any], bits: int) -> tuple[Int64s, npt.NDArray[Any]]:
    """``(order, keys[order])``; equal keys keep their order. ``bits`` is how many a key has."""
    width = (keys.size - 1).bit_length() if keys.size else 0
    if bits + width > 64:
        order = np.argsort(keys, kind="stable")
        return order, keys[order]
    both = keys.astype(np.uint64) << np.uint64(width)
    both |= np.arange(keys.size, dtype=np.uint64)
    both.sort()
    return (both & np.uint64((1 << width) - 1)).astype(np.int64), (both >> np.uint64(width)).astype(keys.dtype)


def _heaviest(entry: EdgeList, weight: Floats) -> float:
    """The largest weight of an edge that is no self-loop; 0.0 if there is none."""
    src, dst, src_first, dst_first = entry
    most = 0.0
    for low, high in blocks(src.size):
        links = src[low:high].astype(np.int64) + src_first != dst[low:high].astype(np.int64) + dst_first
        most = max(most, float(weight[low:high][links].max(initial=0.0)))
    return most


def _shortened(array: Any, size: int) -> Any:
    """Its first items, the rest given back to the system where it is the array's own memory."""
    if not array.flags.owndata:
        return array[:size]
    array.resize(size, refcheck=False)
    return array
