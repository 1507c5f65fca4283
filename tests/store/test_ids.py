"""Ids and names as tensors and back, and tensors that are neither."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hasp.errors import CorruptPart, HaspError
from hasp.store import ids as text


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])).filter(lambda s: not s.endswith("\0")), max_size=8))
def test_text_comes_back(rows):
    for array in (np.array(rows, dtype=str), np.array(rows, dtype=object)):
        read = text.decode("ids", "t", text.encode("ids", {"t": array}))
        assert read.dtype.kind == "U"
        assert read.tolist() == rows


@pytest.mark.parametrize(
    "array",
    [
        *(np.arange(3, dtype=d) for d in ("u1", "i2", ">i4", "u8", "f8")),
        np.array([True, False]),
        np.array([5, 2**40], dtype=object),
        np.array([b"ab", b"c"]),
        np.arange(6)[::2],
        np.array([]),
    ],
)
def test_numbers_and_bytes_come_back(array):
    array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = text.decode("ids", "t", text.encode("ids", {"t": array}))
    expected = [v.decode() for v in array.tolist()] if array.dtype.kind == "S" else array.tolist()
    assert read.tolist() == expected
    assert text.decode("ids", "q", {}) is None


def test_one_long_text_does_not_make_every_row_long(monkeypatch):
    monkeypatch.setattr(text, "_WIDE", 100)
    rows = ["a"] * 9 + ["b" * 20]
    read = text.decode("ids", "t", text.encode("ids", {"t": np.array(rows)}))
    assert read.dtype == object
    assert read.tolist() == rows


@pytest.mark.parametrize(
    ("array", "rule"),
    [
        (np.zeros((2, 2)), "one per node"),
        (np.array(["2020-01-01"], dtype="M8[D]"), "numbers or text, got datetime64"),
        (np.array([1j]), "numbers or text, got complex128"),
        (np.array(["a", 1], dtype=object), "all numbers or all text"),
        (np.array([None], dtype=object), "all numbers or all text"),
        (np.array([2**70], dtype=object), "fit 64 bits"),
        (np.array(["\ud800"]), "UTF-8 can carry"),
        (np.array([b"\xff"]), "UTF-8 can carry"),
        (np.array(["a\0"], dtype=object), "do not end in NUL"),
    ],
)
def test_ids_that_cannot_be_stored_are_named(array, rule):
    with pytest.raises(HaspError, match=rf"ids of 't'.*{rule}"):
        text.encode("ids", {"t": array})


@pytest.mark.parametrize(
    ("data", "ptr", "rule"),
    [
        (b"abc", [0, 2], "rises from 0"),
        (b"abc", [1, 3], "rises from 0"),
        (b"abc", [0, 2, 1, 3], "rises from 0"),
        (b"abc", [], "rises from 0"),
        ("č".encode(), [0, 1, 2], "cuts between characters"),
        (b"\xff", [0, 1], "is UTF-8"),
    ],
)
def test_offsets_that_lie_are_refused(data, ptr, rule):
    tensors = {"ids_bytes/t": torch.tensor(list(data), dtype=torch.uint8), "ids_ptr/t": torch.tensor(ptr, dtype=torch.int64)}
    with pytest.raises(CorruptPart, match=rule):
        text.decode("ids", "t", tensors)
    with pytest.raises(CorruptPart, match="ids_ptr/t is missing"):
        text.decode("ids", "t", {"ids_bytes/t": tensors["ids_bytes/t"]})
