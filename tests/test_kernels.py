"""Every kernel equals its naive twin, on narrow and wide dtypes, whole and block by block."""

import inspect
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive import bucket as slow_bucket
from naive import csr as slow_csr
from naive import fill as slow_fill
from naive import verify as slow_verify

import hasp.bucket
import hasp.csr
from hasp.kernels import bucket, csr, fill, verify
from hasp.parallel import blocks, run, run_in_turn

IDS = st.sampled_from([np.int32, np.int64])


def ints(low, high, most=40):
    return st.lists(st.integers(low, high), max_size=most)


def same(*pairs):
    for ours, theirs in pairs:
        np.testing.assert_array_equal(ours, theirs)


def test_every_kernel_has_a_twin_and_a_test():
    source = inspect.getsource(inspect.getmodule(test_every_kernel_has_a_twin_and_a_test))
    for fast, slow in ((bucket, slow_bucket), (csr, slow_csr), (fill, slow_fill), (verify, slow_verify)):
        for name in fast.__all__:
            if name != "SHIFT":
                assert callable(getattr(slow, name))
                module = fast.__name__.rsplit(".", 1)[1]
                assert f"{module}.{name}(" in source and f"slow_{module}.{name}(" in source


@given(st.lists(st.booleans(), max_size=200))
def test_rank_words(mark):
    mark = np.array(mark, np.bool_)
    ours, theirs = np.full((2, 2 * -(-mark.size // 64)), 7, np.uint64)
    assert csr.rank_words(mark, ours) == slow_csr.rank_words(mark, theirs) == mark.sum()
    same((ours, theirs))


@given(st.data(), st.integers(1, 9), st.integers(1, 9), st.booleans(), IDS, st.integers(1, 3))
def test_mark_linked(draws, left, right, same_type, dtype, threads):
    """Both ends of what is no self-loop, in one numbering over two types or one; never a node of another type."""
    right, gap = (left, 0) if same_type else (right, draws.draw(st.integers(0, 70)))
    first = 3, 3 if same_type else 3 + left + gap
    pairs = draws.draw(st.lists(st.tuples(st.integers(0, left - 1), st.integers(0, right - 1)), max_size=20))
    src, dst = (np.array([p[i] for p in pairs], dtype) for i in (0, 1))
    ours, theirs = np.zeros((2, first[1] + right + 2), np.bool_)
    csr.mark_linked(src, dst, *first, ours)
    slow_csr.mark_linked(src, dst, *first, theirs)
    same((ours, theirs), (ours, hasp.csr.linked_nodes([(src, dst, *first)], ours.size, threads)))


@given(st.data(), st.integers(1, 150), st.integers(0, 3), IDS, st.sampled_from([np.uint32, np.uint64]), st.booleans())
def test_entries(draws, nodes, row_bits, dtype, kind, weighted):
    """Numbers anew, goes to its bucket's chunk and comes back in the order of the edges, over blocks of any size."""
    node = st.integers(0, nodes - 1)
    pairs = draws.draw(st.lists(st.tuples(node, node), max_size=30))
    step, first = draws.draw(st.integers(1, 7)), draws.draw(st.integers(0, 70))
    chunk = draws.draw(st.sampled_from([1, 2, 8]))
    src, dst = (np.array([p[i] for p in pairs], dtype) for i in (0, 1))
    weight = np.arange(src.size, dtype=np.float64) if weighted else np.empty(0)
    mark = np.zeros(first + nodes, np.bool_)
    mark[first + np.array([i for u, v in pairs if u != v for i in (u, v)], np.int64)] = True
    words = np.zeros(2 * -(-mark.size // 64), np.uint64)
    col_bits = max(1, (csr.rank_words(mark, words) - 1).bit_length())
    buckets = -(-int(mark.sum()) // 2**row_bits)
    chunks = 2 * src.size // chunk + min(buckets, 2 * src.size)
    cursors, (fast_keys, slow_keys) = np.zeros((2, buckets + 1), np.uint64), np.full((2, chunks * chunk), 99, kind)
    fast_owner, slow_owner = np.full((2, chunks), buckets, np.int32)
    fast_values, slow_values = np.full((2, chunks * chunk), -1.0)
    for low in range(0, src.size, step):
        block = src[low : low + step], dst[low : low + step]
        shape = first, first, words, row_bits, col_bits, chunk, cursors[0], fast_keys, fast_owner
        csr.scatter_entries(*block, *shape, weight[low : low + step], 2.0, fast_values)
    shape = first, first, words, row_bits, col_bits, chunk, cursors[1], slow_keys, slow_owner
    slow_csr.scatter_entries(src, dst, *shape, weight, 2.0, slow_values)
    same(cursors, (fast_keys, slow_keys), (fast_owner, slow_owner), (fast_values, slow_values))
    taken = int(cursors[0, -1])
    filled = np.full(taken, chunk, np.int64)
    for at in cursors[0, :-1].tolist():
        if at % chunk:
            filled[at // chunk] = at % chunk
    order = np.argsort(fast_owner[:taken], kind="stable")
    ours, theirs = np.full((2, 2 * src.size), 99, kind)
    csr.gather_entries(fast_keys, order, filled, chunk, ours)
    slow_csr.gather_entries(fast_keys, order, filled, chunk, theirs)
    same((ours, theirs))
    number = np.cumsum(mark) - 1
    entries = [(int(number[first + a]), int(number[first + b])) for u, v in pairs if u != v for a, b in ((u, v), (v, u))]
    by_bucket = sorted(entries, key=lambda e: e[0] >> row_bits)
    assert ours[: len(entries)].tolist() == [(u % 2**row_bits << col_bits) + v for u, v in by_bucket]


@given(st.lists(st.lists(st.integers(0, 63)), max_size=4), st.integers(0, 9), st.sampled_from([np.uint32, np.uint64]))
def test_rows(buckets, first, kind):
    """Buckets of 4 rows and 16 columns, the last of which may have fewer rows: sorted keys to rows without repeats."""
    bounds = np.concatenate([[0], np.cumsum([len(b) for b in buckets])]).astype(np.int64)
    keys = np.array([k for b in buckets for k in sorted(b)], kind)
    values = np.arange(keys.size, dtype=np.float64) / 8
    count = csr.count_distinct(keys, bounds)
    assert count == slow_csr.count_distinct(keys, bounds)
    num_rows = 4 * len(buckets) - (2 if buckets and max(buckets[-1], default=0) < 32 else 0)
    ours, theirs = np.full((2, count), -7, np.int64)
    fast_ends, slow_ends = np.full((2, num_rows), -7, np.int64)
    csr.write_rows(keys, bounds, 2, 4, first, ours, fast_ends)
    slow_csr.write_rows(keys, bounds, 2, 4, first, theirs, slow_ends)
    same((ours, theirs), (fast_ends, slow_ends))
    fast_sums, slow_sums = np.full((2, count), -7.0)
    csr.sum_repeats(keys, values, bounds, fast_sums)
    slow_csr.sum_repeats(keys, values, bounds, slow_sums)
    same((fast_sums, slow_sums))


@given(st.data(), st.integers(1, 5), IDS, st.integers(1, 7), st.sampled_from([np.uint8, np.uint16]))
def test_both_ends(draws, num_parts, dtype, step, small):
    edges = draws.draw(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 8)), max_size=30))
    a, b = (np.array(draws.draw(st.lists(st.integers(0, num_parts - 1), min_size=n, max_size=n)), small) for n in (7, 9))
    src, dst = (np.array([e[i] for e in edges], dtype) for i in (0, 1))
    a_local, b_local = np.arange(7, dtype=np.int32)[::-1].copy(), np.arange(100, 109, dtype=np.int32)
    ours, theirs = np.zeros((2, num_parts + 1), np.int64)
    cuts = range(0, src.size, step)
    found, naive_found = np.full((2, src.size), 99, small)
    for low in cuts:
        ends = (src[low : low + step], dst[low : low + step])
        bucket.count_both(*ends, a, b, num_parts, ours, found[low : low + step])
    slow_bucket.count_both(src, dst, a, b, num_parts, theirs, naive_found)
    same((ours, theirs), (found, naive_found))
    fast_cursor, slow_cursor = (np.cumsum(ours) - ours for _ in range(2))
    fast_out, slow_out = np.full((2, 2, src.size), -7, np.int32)
    fast_id, slow_id = np.full((2, src.size), -7, np.int32)
    for low in cuts:
        block = (src[low : low + step], dst[low : low + step], found[low : low + step])
        bucket.place_both(*block, a_local, b_local, low, fast_cursor, *fast_out, fast_id)
    slow_bucket.place_both(src, dst, found, a_local, b_local, 0, slow_cursor, *slow_out, slow_id)
    same((fast_out, slow_out), (fast_id, slow_id), (fast_cursor, slow_cursor))
    cursor, naive_cursor = (np.cumsum(ours) - ours for _ in range(2))
    where, naive_where = np.full((2, src.size), -7, np.int64)
    for low in cuts:
        bucket.where(found[low : low + step], cursor, where[low : low + step])
    slow_bucket.where(found, naive_cursor, naive_where)
    same((where, naive_where), (cursor, fast_cursor), (fast_id[where], np.arange(src.size, dtype=np.int32)))


@given(st.data(), st.integers(1, 5), IDS, st.integers(1, 7))
def test_one_end(draws, num_parts, dtype, step):
    edges = draws.draw(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 99)), max_size=30))
    part = np.array(draws.draw(st.lists(st.integers(0, num_parts - 1), min_size=7, max_size=7)), np.uint8)
    end, other = (np.array([e[i] for e in edges], dtype) for i in (0, 1))
    local = np.arange(7, dtype=np.int32)[::-1].copy()
    ours, theirs = np.zeros((2, num_parts), np.int64)
    cuts = range(0, end.size, step)
    found, naive_found = np.full((2, end.size), 99, np.uint8)
    for low in cuts:
        bucket.count_one(end[low : low + step], part, ours, found[low : low + step])
    slow_bucket.count_one(end, part, theirs, naive_found)
    same((ours, theirs), (found, naive_found))
    fast_cursor, slow_cursor = (np.cumsum(ours) - ours for _ in range(2))
    fast_out, slow_out = np.full((2, 3, end.size), -7, np.int32)
    for low in cuts:
        block = (end[low : low + step], other[low : low + step], found[low : low + step])
        bucket.place_one(*block, local, low, fast_cursor, *fast_out)
    slow_bucket.place_one(end, other, found, local, 0, slow_cursor, *slow_out)
    same((fast_out, slow_out), (fast_cursor, slow_cursor))
    cursor, naive_cursor = (np.cumsum(ours) - ours for _ in range(2))
    where, naive_where = np.full((2, end.size), -7, np.int64)
    for low in cuts:
        bucket.where(found[low : low + step], cursor, where[low : low + step])
    slow_bucket.where(found, naive_cursor, naive_where)
    same((where, naive_where), (cursor, fast_cursor), (fast_out[2][where], np.arange(end.size, dtype=np.int32)))


@given(st.lists(st.lists(st.integers(0, 3), unique=True), max_size=9), IDS, st.sampled_from([4, 40_000, 2**16]), st.data())
def test_whole_ids(slices, dtype, size, draw):
    """The low bits of ids, and how many are in each slice, give the ids; and edges with such ids are sorted in one go."""
    ids = [size * s + i for s, some in enumerate(slices) for i in sorted(some)]
    low, counts = np.array([i % 2**16 for i in ids], np.uint16), np.array([len(some) for some in slices], np.int32)
    ours, theirs = np.full((2, len(ids)), -7, dtype)
    bucket.whole_ids(low, counts, size, ours)
    slow_bucket.whole_ids(low, counts, size, theirs)
    same((ours, theirs), (ours, np.array(ids, dtype)))
    key, other = (np.array(draw.draw(st.lists(st.integers(0, n), min_size=len(ids), max_size=len(ids))), dtype) for n in (5, 9))
    ours, theirs = np.zeros((2, 3, len(ids)), dtype)
    bucket.sort_bucket(key, other, low, counts, size, np.zeros(7, np.int32), *ours)
    slow_bucket.sort_bucket(key, other, low, counts, size, np.zeros(7, np.int32), *theirs)
    same((ours, theirs))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 99)), max_size=40), IDS)
def test_sort_rows(rows, dtype):
    key, other = (np.array([r[i] for r in rows], dtype) for i in (0, 1))
    e_id = np.arange(key.size, dtype=np.int32) * 3
    ours = np.zeros((3, key.size), dtype)
    theirs = np.zeros((3, key.size), dtype)
    bucket.sort_rows(key, other, e_id, 6, *ours)
    slow_bucket.sort_rows(key, other, e_id, 6, *theirs)
    same((ours, theirs))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 99)), max_size=40), IDS, st.integers(0, 3))
def test_packed_rows(rows, dtype, more):
    """Packed, sorted and unpacked is what sorting the rows gives."""
    key, other = (np.array([r[i] for r in rows], dtype) for i in (0, 1))
    e_id = np.arange(key.size, dtype=np.int32) * 3
    bits = max(key.size - 1, 0).bit_length() + more
    packed, slow_packed = np.zeros((2, key.size), np.uint32)
    bucket.pack_rows(key, bits, packed)
    slow_bucket.pack_rows(key, bits, slow_packed)
    same((packed, slow_packed))
    packed.sort()
    ours, theirs, wanted = np.zeros((3, 3, key.size), dtype)
    bucket.unpack_rows(packed, bits, other, e_id, *ours)
    slow_bucket.unpack_rows(packed, bits, other, e_id, *theirs)
    slow_bucket.sort_rows(key, other, e_id, 6, *wanted)
    same((ours, theirs), (ours, wanted))


@pytest.mark.parametrize("num_keys", [6, 2**33])
@given(ints(0, 5), IDS)
def test_few_and_many_keys_sort_alike(num_keys, values, dtype):
    dst, e_id = np.array(values, dtype), np.arange(len(values), dtype=np.int32)
    with pytest.MonkeyPatch.context() as patch:
        if num_keys > 6:  # does not fit 32 bits beside a position; the counters of so many keys would be 32 GiB
            patch.setattr(bucket, "pack_rows", None)
            real = bucket.sort_rows
            patch.setattr(bucket, "sort_rows", lambda key, other, ids, n, *out: real(key, other, ids, 6, *out))
        edges = hasp.bucket.sort_by_destination(dst * 2, dst, e_id, num_keys)
    order = np.argsort(dst, kind="stable")
    same((edges.edge_index.numpy(), np.stack([dst * 2, dst])[:, order]), (edges.e_id.numpy(), order))


@given(ints(0, 5), st.randoms(use_true_random=False), IDS)
def test_order_by(values, random, dtype):
    key = np.array(values, dtype)
    shuffled = list(range(key.size))
    random.shuffle(shuffled)
    order = np.array(shuffled, np.int64)
    ours, theirs = np.zeros((2, key.size), np.int64)
    bucket.order_by(key, order, 6, ours)
    slow_bucket.order_by(key, order, 6, theirs)
    same((ours, theirs))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=60), st.booleans())
def test_sort_cut(entries, sparse):
    pair, dst = (np.array([e[i] for e in entries], np.int64) for i in (0, 1))
    num_pairs = 1 << 20 if sparse else 4  # with many more pairs than edges another sort is taken
    same((hasp.bucket.sort_cut(pair, dst, num_pairs), slow_bucket.cut_order(pair, dst)))


@given(ints(0, 6), st.lists(st.integers(0, 9), min_size=1, max_size=9))
def test_emptiest_first(weights, load):
    order = np.random.default_rng(len(weights)).permutation(len(weights))
    weight = np.array(weights, np.int64)
    fast_load, slow_load = np.array([load, load], np.int64)
    ours, theirs = np.full((2, weight.size), -1, np.int32)
    fill.emptiest_first(order, weight, fast_load, ours)
    slow_fill.emptiest_first(order, weight, slow_load, theirs)
    same((ours, theirs), (fast_load, slow_load))


@given(st.lists(ints(0, 20), max_size=4), IDS)
def test_mark(calls, dtype):
    ours, theirs = np.zeros((2, 3), np.uint8)
    for ids in calls:
        ids = np.array(ids, dtype)
        assert verify.mark(ours, ids) == slow_verify.mark(theirs, ids)
        same((ours, theirs))


@given(st.integers(0, 50), st.integers(1, 9), st.integers(1, 9))
def test_blocks_cover_the_range_once(n, size, most):
    cuts = blocks(n, size, most)
    assert [i for low, high in cuts for i in range(low, high)] == list(range(n))
    assert len(cuts) <= most and all(high - low >= size for low, high in cuts[:-1])


def test_run_keeps_the_order_and_raises():
    assert run(lambda i: i * i, range(20), 3) == [i * i for i in range(20)]
    with pytest.raises(ZeroDivisionError):
        run(lambda i: 1 // i, [1, 0, 2], 3)


def test_places_come_in_the_order_of_the_items():
    lengths = [5, 0, 3, 2, 7, 1, 4, 4]

    def task(length, place):
        time.sleep(0.001 * length)  # so that later items are ready before earlier ones
        return place(length)

    wanted = [sum(lengths[:i]) for i in range(len(lengths))]
    assert [run_in_turn(task, lengths, threads) for threads in (1, 2, 3)] == [wanted] * 3


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_who_waits_for_its_turn_behind_a_failure_does_not_wait_for_ever(threads):
    def task(item, place):
        if item == 2:
            raise KeyError(item)
        return place(1)

    with pytest.raises(KeyError):
        run_in_turn(task, range(9), threads)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 3])
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=60))
def test_csr_of_small_blocks_and_buckets(threads, wide, pairs):
    """The CSR over many blocks and many buckets, which small graphs do not reach by themselves."""
    used = sorted({i for u, v in pairs if u != v for i in (u, v)})
    mark = np.zeros(15, np.bool_)
    mark[2:][used] = True  # the node type is not the first
    new = {old: at for at, old in enumerate(used)}
    half = len(pairs) // 2
    lists, weights = [], []
    for low, part in ((0, pairs[:half]), (half, pairs[half:])):
        src, dst = (np.array([p[i] for p in part], np.int64) for i in (0, 1))
        lists.append((src, dst, 2, 2))
        weights.append(np.arange(low, low + len(part)) / 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hasp.csr, "blocks", lambda n, *_: blocks(n, 3, 256))
        for name, value in (("_BLOCK", 3), ("_MOST_TASKS", 99), ("_GROUP", 4), ("_CHUNK", (2, 2))):
            patch.setattr(hasp.csr, name, value)
        patch.setattr(hasp.csr, "_LEAST_SHIFT", 33 if wide else 10)
        patch.setattr(csr, "SHIFT", 1)
        indptr, indices = hasp.csr.symmetric_csr(lists, mark, threads)
        pieces = hasp.csr.weighted_csr(lists, weights, mark, threads)
    renumbered = [(new[u], new[v]) for u, v in pairs if u != v]
    slow_indptr, slow_indices = slow_csr.symmetric(renumbered, len(used))
    same((indptr, slow_indptr), (indices, slow_indices), *zip(pieces[:2], (indptr, indices), strict=True))
    same(*zip(pieces, hasp.csr.weighted_csr(lists, weights, mark), strict=True))


@given(st.lists(st.integers(0, 9), max_size=50), st.sampled_from([np.uint32, np.uint64]), st.sampled_from([4, 63]))
def test_stable_order_of_narrow_and_wide_keys(keys, kind, bits):
    keys = np.array(keys, kind)
    order, ascending = hasp.csr._stable(keys, bits)
    same((order, np.argsort(keys, kind="stable")), (ascending, np.sort(keys)))
    assert ascending.dtype == kind
