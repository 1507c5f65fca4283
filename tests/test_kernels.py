"""Every kernel equals its naive twin, on narrow and wide dtypes, whole and block by block."""

import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive import bucket as slow_bucket
from naive import csr as slow_csr
from naive import fill as slow_fill

import hasp.bucket
import hasp.split
from hasp.kernels import bucket, csr, fill
from hasp.parallel import blocks, run

IDS = st.sampled_from([np.int32, np.int64])


def ints(low, high, most=40):
    return st.lists(st.integers(low, high), max_size=most)


def same(*pairs):
    for ours, theirs in pairs:
        np.testing.assert_array_equal(ours, theirs)


def test_every_kernel_has_a_twin_and_a_test():
    source = inspect.getsource(inspect.getmodule(test_every_kernel_has_a_twin_and_a_test))
    for fast, slow in ((bucket, slow_bucket), (csr, slow_csr), (fill, slow_fill)):
        for name in fast.__all__:
            if name != "SHIFT":
                assert callable(getattr(slow, name))
                module = fast.__name__.rsplit(".", 1)[1]
                assert f"{module}.{name}(" in source and f"slow_{module}.{name}(" in source


@given(ints(0, 9), st.permutations(range(10)), st.integers(0, 3), IDS, st.integers(1, 7), st.data())
def test_entries(src, numbering, shift, dtype, step, draws):
    dst = draws.draw(st.lists(st.integers(0, 9), min_size=len(src), max_size=len(src)))
    src, dst, new = np.array(src, dtype), np.array(dst, dtype), np.array(numbering, np.int32)
    buckets = -(-10 // 2**shift)
    ours, theirs = np.zeros((2, buckets), np.int64)
    for low in range(0, src.size, step):
        csr.count_entries(src[low : low + step], dst[low : low + step], new, new, shift, ours)
    slow_csr.count_entries(src, dst, new, new, shift, theirs)
    same((ours, theirs))
    first = np.cumsum(ours) - ours
    fast_cursor, slow_cursor = first.copy(), first.copy()
    fast_out, slow_out = np.full((2, 2, ours.sum()), -7, np.int32)
    for low in range(0, src.size, step):
        csr.place_entries(src[low : low + step], dst[low : low + step], new, new, shift, fast_cursor, *fast_out)
    slow_csr.place_entries(src, dst, new, new, shift, slow_cursor, *slow_out)
    same((fast_out, slow_out), (fast_cursor, slow_cursor))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 60)), max_size=120), st.integers(0, 9))
def test_sort_bucket(entries, first_row):
    row = np.array([first_row + r for r, _ in entries], np.int32)
    col = np.array([c for _, c in entries], np.int32)
    ours, theirs = np.zeros((2, row.size), np.int32)
    fast_degree, slow_degree = np.zeros((2, 6), np.int64)
    csr.sort_bucket(row, col, first_row, 6, ours, fast_degree)
    slow_csr.sort_bucket(row, col, first_row, 6, theirs, slow_degree)
    packed = slow_degree.sum()
    same((fast_degree, slow_degree), (ours[:packed], theirs[:packed]))


def test_sort_bucket_long_rows():
    """Rows past the length at which the kernel changes its way of sorting, and just below."""
    for length in (23, 24, 25, 26, 300):
        col = np.random.default_rng(length).integers(0, length, length).astype(np.int32)
        row = np.zeros(length, np.int32)
        ours, theirs = np.zeros((2, length), np.int32)
        fast_degree, slow_degree = np.zeros((2, 1), np.int64)
        csr.sort_bucket(row, col, 0, 1, ours, fast_degree)
        slow_csr.sort_bucket(row, col, 0, 1, theirs, slow_degree)
        same((fast_degree, slow_degree), (ours[: slow_degree[0]], theirs[: slow_degree[0]]))


@given(ints(0, 99), st.integers(0, 40))
def test_copy_rows(values, length):
    packed = np.array(values, np.int32)
    ours, theirs = np.zeros((2, min(length, packed.size)), np.int64)
    csr.copy_rows(packed, ours)
    slow_csr.copy_rows(packed, theirs)
    same((ours, theirs))


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
        bucket.place_both(*block, a_local, b_local, low, fast_cursor, fast_out, fast_id)
    slow_bucket.place_both(src, dst, found, a_local, b_local, 0, slow_cursor, slow_out, slow_id)
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


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 99)), max_size=40), IDS)
def test_sort_rows(rows, dtype):
    key, other = (np.array([r[i] for r in rows], dtype) for i in (0, 1))
    e_id = np.arange(key.size, dtype=np.int32) * 3
    ours = np.zeros((3, key.size), dtype)
    theirs = np.zeros((3, key.size), dtype)
    bucket.sort_rows(key, other, e_id, 6, *ours)
    slow_bucket.sort_rows(key, other, e_id, 6, *theirs)
    same((ours, theirs))


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


@given(st.integers(0, 50), st.integers(1, 9), st.integers(1, 9))
def test_blocks_cover_the_range_once(n, size, most):
    cuts = blocks(n, size, most)
    assert [i for low, high in cuts for i in range(low, high)] == list(range(n))
    assert len(cuts) <= most and all(high - low >= size for low, high in cuts[:-1])


def test_run_keeps_the_order_and_raises():
    assert run(lambda i: i * i, range(20), 3) == [i * i for i in range(20)]
    with pytest.raises(ZeroDivisionError):
        run(lambda i: 1 // i, [1, 0, 2], 3)


@pytest.mark.parametrize("threads", [1, 3])
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=60))
def test_csr_of_small_blocks_and_buckets(threads, pairs):
    """The CSR over many blocks and many buckets, which small graphs do not reach by themselves."""
    used = sorted({i for u, v in pairs if u != v for i in (u, v)})
    new = np.full(13, -1, np.int32)
    new[used] = np.arange(len(used))
    half = len(pairs) // 2
    lists = []
    for part in (pairs[:half], pairs[half:]):
        src, dst = (np.array([p[i] for p in part], np.int64) for i in (0, 1))
        lists.append((src, dst, new, new))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hasp.split, "blocks", lambda n: blocks(n, 3, 256))
        patch.setattr(csr, "SHIFT", 1)
        indptr, indices = hasp.split.symmetric_csr(lists, len(used), threads)
    renumbered = [(new[u], new[v]) for u, v in pairs if u != v]
    slow_indptr, slow_indices = slow_csr.symmetric(renumbered, len(used))
    same((indptr, slow_indptr), (indices, slow_indices))
