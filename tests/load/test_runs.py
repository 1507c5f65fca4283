"""Runs of edges: every kernel equals its naive twin; sorted, and put among each other, they are what sorting all gives."""

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import join as slow

from hasp.kernels import join as fast
from hasp.load import runs
from hasp.load.runs import Run, put_among, rows_among, sort_runs, sorted_by_destination

IDS = st.sampled_from([np.int32, np.int64])
ENDS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=40)


def test_every_kernel_has_a_twin_and_a_test() -> None:
    source = inspect.getsource(inspect.getmodule(test_every_kernel_has_a_twin_and_a_test))  # type: ignore[arg-type]
    for name in fast.__all__:
        assert callable(getattr(slow, name))
        assert f"fast.{name}(" in source and f"slow.{name}(" in source


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.tuples(st.integers(0, 7), st.integers(0, 7)), st.integers(0, 3)), st.data(), IDS)
def test_groups_of_the_chosen_parts(found: Any, draw: Any, dtype: Any) -> None:
    """Those of all pairs of them, and their edges."""
    pairs = sorted(pair for pair in found if pair[0] != pair[1])
    ptr = np.cumsum([0, *(found[pair] for pair in pairs)])
    chosen = np.array(sorted(draw.draw(st.sets(st.integers(0, 7), min_size=1))), np.int32)
    ours, theirs = np.zeros((2, chosen.size * (chosen.size - 1), 4), np.int64)
    table = np.array(pairs, np.int32).reshape(-1, 2)
    count = fast.find_groups(table, ptr, chosen, ours)
    assert count == slow.find_groups(table, ptr, chosen, theirs)
    np.testing.assert_array_equal(ours, theirs)

    src, dst, e_id = (np.arange(int(ptr[-1])) * k % 11 for k in (3, 5, 7))
    src, dst, e_id = (values.astype(dtype) for values in (src, dst, e_id))
    start = np.arange(chosen.size) * 100
    mine, others = np.zeros((2, 3, count[1]), np.int64)
    fast.put_groups(ours[: count[0]], src, dst, e_id, start, 2 * start, *mine)
    slow.put_groups(theirs[: count[0]], src, dst, e_id, start, 2 * start, *others)
    np.testing.assert_array_equal(mine, others)


def edges(draw: Any, count: int, ids: Any, dtype: Any) -> Any:
    """``count`` edges with distinct ids, sorted by (destination, id)."""
    e_id = np.array(ids[:count], np.int64)
    dst = np.array(draw.draw(st.lists(st.integers(0, 6), min_size=count, max_size=count)), np.int64)
    order = np.lexsort((e_id, dst))
    return tuple(values[order].astype(dtype) for values in (e_id * 7 % 13, dst, e_id))


@settings(max_examples=80, deadline=None)
@given(st.data(), st.integers(0, 12), st.integers(0, 6), st.integers(0, 8), IDS, IDS)
def test_few_edges_among_many(draw: Any, count: int, few: int, end: int, dtype: Any, to: Any) -> None:
    ids = draw.draw(st.permutations(range(count + few)))
    base, more = edges(draw, count, ids, dtype), edges(draw, few, ids[count:], np.int64)
    first = draw.draw(st.integers(0, few))
    out, place = np.full((2, 3, 2 + count + few), 99, to), np.full((2, few), -1)
    ours = fast.put_among(base[0], 3, base[1], 1, base[2], *more, first, end, *out[0], 2, place[0])
    theirs = slow.put_among(base[0], 3, base[1], 1, base[2], *more, first, end, *out[1], 2, place[1])
    assert ours == theirs
    np.testing.assert_array_equal(out[0], out[1])
    np.testing.assert_array_equal(place[0], place[1])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30), st.integers(0, 15))), IDS, IDS)
def test_edges_as_numbers(found: Any, dtype: Any, to: Any) -> None:
    dst, e_id, low = (np.array([edge[i] for edge in found], dtype) for i in (0, 1, 2))
    ours, theirs = np.zeros((2, len(found)), np.int64)
    fast.pack_edges(dst, 2**20, e_id, low, 1, 5, 5, ours)
    slow.pack_edges(dst, 2**20, e_id, low, 1, 5, 5, theirs)
    np.testing.assert_array_equal(ours, theirs)
    mine, others = np.zeros((2, 3, len(found)), to)
    fast.unpack_edges(ours, 5, 5, *mine)
    slow.unpack_edges(theirs, 5, 5, *others)
    np.testing.assert_array_equal(mine, others)
    np.testing.assert_array_equal(mine, [dst + 2**20, e_id, low + 1])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.integers(-5, 20), max_size=12), min_size=1, max_size=7))
def test_runs_are_merged(lists: Any) -> None:
    """Long and short ones, empty ones, equal numbers."""
    keys = np.array([key for run in lists for key in sorted(run)], np.int64)
    ptr, spare, expected = np.cumsum([0, *map(len, lists)]), np.zeros_like(keys), keys.copy()
    assert not slow.merge_runs(expected, ptr, spare)
    found = spare if fast.merge_runs(keys, ptr, spare) else keys
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=80, deadline=None)
@given(st.lists(ENDS, min_size=1, max_size=4), IDS, st.sampled_from([63, 12, 0]), st.booleans())
def test_runs_are_sorted_together(lists: Any, dtype: Any, most: int, ordered: bool) -> None:
    count, made, rows, at = sum(map(len, lists)), [], [], 0
    ids = np.random.default_rng(count).permutation(count)
    for k, pairs in enumerate(lists):
        src, dst = (np.array([pair[i] for pair in pairs], dtype) for i in (0, 1))
        e_id = ids[at : at + len(pairs)].astype(dtype)
        order = np.lexsort((e_id, dst)) if k % 2 else np.arange(e_id.size)
        src, dst, e_id = src[order], dst[order], e_id[order]
        made.append(Run(src, dst, e_id, 2 * k, k, bool(k % 2)))
        rows += [(d + k, e, s + 2 * k, i) for i, (s, d, e) in enumerate(zip(src, dst, made[-1].e_id, strict=True), at)]
        at += len(pairs)
    out, e_id = np.zeros((2, count), dtype), np.zeros(count, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "_BITS", most)  # one number per edge, or an argsort
        order = sort_runs(made, (20, max(count, 1), 20), out, e_id, ordered=ordered)
    assert list(zip(out[1], e_id, out[0], strict=True)) == [row[:3] for row in sorted(rows)]
    assert (order is not None) == ordered
    if order is not None:
        assert order.tolist() == [row[3] for row in sorted(rows)]


@settings(max_examples=60, deadline=None)
@given(st.data(), st.lists(st.integers(0, 9), min_size=1, max_size=3), st.integers(0, 7))
def test_more_edges_among_runs(draw: Any, counts: Any, few: int) -> None:
    """Each run has seven destinations of its own; what is put among them keeps all in order, and its rows go along."""
    total = sum(counts)
    ids, made, at = draw.draw(st.permutations(range(total + few))), [], 0
    for k, count in enumerate(counts):
        made.append(Run(*edges(draw, count, ids[at:], np.int32), 0, 7 * k))
        at += count
    src, dst, e_id = edges(draw, few, ids[total:], np.int64)
    dst = np.sort(np.array(draw.draw(st.lists(st.integers(0, 7 * len(counts) - 1), min_size=few, max_size=few)), np.int64))
    order = np.lexsort((e_id, dst))
    more = Run(src[order], dst, e_id[order])
    out, new = np.zeros((2, total + few), np.int64), np.zeros(total + few, np.int64)
    place = put_among(made, [7 * (k + 1) for k in range(len(counts))], more, out, new)
    rows = [
        (d + r.destination_add, e, s) for r in [*made, more] for s, d, e in zip(r.source, r.destination, r.e_id, strict=True)
    ]
    assert list(zip(out[1], new, out[0], strict=True)) == sorted(rows)
    assert new[place].tolist() == more.e_id.tolist()
    values = rows_among(
        torch.from_numpy(np.concatenate([[0], *(r.e_id for r in made)])[1:]), torch.from_numpy(more.e_id), place
    )
    assert values.tolist() == new.tolist()


def test_sorting_falls_back_where_one_key_would_overflow() -> None:
    destination = np.array([2**40, 5, 5, 2**40])
    e_id = np.array([2**40, 9, 2**41, 3])
    assert sorted_by_destination(destination, e_id).tolist() == [1, 2, 3, 0]


def test_large_scratch_is_not_kept() -> None:
    small = runs.scratch(5)
    assert [len(array) for array in small] == [5] * 5
    assert np.shares_memory(small[2], runs.scratch(7)[2])
    large = runs.scratch(runs._KEEP + 1)
    assert not np.shares_memory(large[0], runs.scratch(runs._KEEP + 1)[0])


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.bfloat16, torch.bool])
def test_rows_are_put_among_others_whatever_the_dtype(dtype: torch.dtype) -> None:
    for width in (1, 2, 3, 0):
        value = torch.arange(3 * width).view(3, width).to(dtype)
        mixed = rows_among(value, value[1:], np.array([1, 3]))
        expected = torch.stack([value[i] for i in (0, 1, 1, 2, 2)])
        assert mixed.dtype == dtype
        assert torch.equal(mixed.view(torch.uint8), expected.view(torch.uint8))
