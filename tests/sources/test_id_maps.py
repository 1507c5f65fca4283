"""Ids of any kind are found as a dictionary would find them, hashed, counted up or sorted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive import ids as naive

from hasp.errors import InvalidGraph
from hasp.sources.ids import IdMap, Text, sorted_unique


@given(st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, min_size=1, max_size=30), st.booleans(), st.randoms())
def test_ids_of_any_kind_are_found_as_a_dict_would(ids: list[int], text: bool, random) -> None:
    array = np.array(ids, np.int64)
    if text:
        array = np.char.add("k", array.astype(np.str_))
    asked = [random.randrange(len(ids)) for _ in range(20)]
    naive = {value: place for place, value in enumerate(array.tolist())}
    found = IdMap(array, "nodes", "user").find(array[asked], "edges")
    assert found.tolist() == [naive[v] for v in array[asked].tolist()]
    missing = "none" if text else next(i for i in range(-2, len(ids) + 1) if i not in ids)
    with pytest.raises(InvalidGraph, match="1 of 2 do not"):
        IdMap(array, "nodes", "user").find(np.array([array[0], missing], dtype=None if text else np.int64), "edges")


@given(st.lists(st.integers(-3, 3)))
def test_sorted_unique_is_a_sorted_set(values: list[int]) -> None:
    assert sorted_unique(np.array(values, np.int64)).tolist() == sorted(set(values))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, min_size=1, max_size=40), st.lists(st.integers(-3, 3)))
def test_a_hash_table_finds_what_a_dict_finds(ids: list[int], near: list[int]) -> None:
    from hasp.kernels.ids import fill_slots, find_slots

    array = np.array(ids, np.int64)
    asked = np.array([*ids[::-1], *ids[:2], *near], np.int64)
    slots = np.full(1 << (len(ids)).bit_length(), -1, np.int32)  # nearly full: every search goes far
    mine, theirs = np.empty((2, len(asked)), np.int64)
    assert fill_slots(array, slots) is naive.fill_slots(array, None) is True
    assert find_slots(asked, array, slots, mine) == naive.find_slots(asked, array, None, theirs)
    assert mine.tolist() == theirs.tolist()
    twice = np.append(array, array[0])
    assert fill_slots(twice, np.full(128, -1, np.int32)) is naive.fill_slots(twice, None) is False


def test_many_ids_are_hashed_and_tell_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(0).integers(-(2**62), 2**62, 500)
    few = IdMap(array, "nodes", "user")
    monkeypatch.setattr("hasp.sources.ids._MANY", 2)
    many = IdMap(array, "nodes", "user")
    assert few._slots is None and many._slots is not None
    assert few.find(array[::-1].copy(), "edges").equal(many.find(array[::-1].copy(), "edges"))
    for ids in (few, many):
        with pytest.raises(InvalidGraph, match=r"2 of 3 do not \(row 1: 5, row 2: 6\)"):
            ids.find(np.array([array[3], 5, 6]), "edges")
    array[7] = array[3]
    with pytest.raises(InvalidGraph, match=rf"'user' has its own id, got {array[3]} in rows 3 and 7; remove the copies"):
        IdMap(array, "nodes", "user")


@given(st.lists(st.text(max_size=4).map(lambda s: s.rstrip("\0")), unique=True, min_size=1, max_size=30), st.lists(st.text()))
def test_texts_are_found_as_a_dict_would(ids: list[str], near: list[str]) -> None:
    from hasp.kernels.ids import fill_text, find_text

    def lay_out(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        encoded = [t.encode("utf-8", "surrogatepass") for t in texts]
        return np.frombuffer(b"".join(encoded), np.uint8), np.cumsum([0, *map(len, encoded)])

    data, ptr = lay_out(ids)
    values, value_ptr = lay_out([*ids[::-1], *near, ids[0] + "\0"])
    slots = np.full(1 << len(ids).bit_length(), -1, np.int64)  # nearly full: every search goes far
    fill_text(data, ptr, slots)
    mine, theirs = np.empty((2, len(value_ptr) - 1), np.int64)
    assert find_text(values, value_ptr, data, ptr, slots, mine) == naive.find_text(values, value_ptr, data, ptr, None, theirs)
    assert mine.tolist() == theirs.tolist() and mine[-1] == 0


def test_numpy_strings_become_bytes_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hasp.sources.ids._MANY", 2)
    text = Text.of(np.array(["a", "", "\u00e9\u00e9", "long"]))
    assert text.ptr.tolist() == [0, 1, 1, 5, 9] and [text.item(i) for i in range(4)] == ["a", "", "\u00e9\u00e9", "long"]
    assert Text.of(np.array([], dtype=np.str_)).ptr.tolist() == [0]


@pytest.mark.parametrize("low", [0, 7, -3, -(2**63), 2**63 - 5])
def test_ids_that_count_up_from_anywhere(low: int) -> None:
    ids = IdMap(np.array([low + i for i in range(5)], np.int64), "nodes", "user")
    assert ids.is_range is (low == 0) and ids.find(ids.ids[[4, 0, 2]], "edges").tolist() == [4, 0, 2]
    outside = [v for v in (low - 1, low + 5, -(2**63), 2**63 - 1, 0) if not low <= v < low + 5 and -(2**63) <= v < 2**63]
    for value in outside:
        with pytest.raises(InvalidGraph, match=rf"1 of 2 do not \(row 1: {value}\)"):
            ids.find(np.array([low, value], np.int64), "edges")


def test_differences_that_wrap_do_not_count_up() -> None:
    edge = np.array([2**63 - 1, -(2**63)], np.int64)  # the difference is 1 only because it wraps
    assert IdMap(edge, "nodes", "user").find(edge[::-1].copy(), "edges").tolist() == [1, 0]
    with pytest.raises(InvalidGraph, match="1 of 1 do not"):
        IdMap(edge, "nodes", "user").find(np.array([5]), "edges")
