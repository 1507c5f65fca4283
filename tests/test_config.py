"""Settings: what is allowed, and what the errors say."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hasp import BuildConfig, HaspError
from hasp.config import parse_bytes
from hasp.text import format_bytes


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"num_parts": 0}, "num_parts=0: at least 1 part; 1 keeps the graph whole"),
        ({"num_parts": -3}, "num_parts=-3: at least 1 part"),
        ({"num_parts": 2**15}, "num_parts=32768: at most 32,767 parts; lower num_parts"),
        ({"num_parts": 2.0}, "num_parts=2.0: a whole number; give one without a fraction"),
        ({"num_parts": True}, "num_parts=True: a whole number"),
        ({"num_parts": "8"}, "num_parts='8': a whole number"),
        ({"seed": -1}, r"seed=-1: 0 <= seed < 2\*\*63; choose another seed"),
        ({"seed": 2**63}, r"0 <= seed < 2\*\*63"),
        ({"seed": 0.5}, "seed=0.5: a whole number"),
        ({"balance": "time"}, "balance='time': nodes, edges or bytes; choose one of these"),
        ({"imbalance": 0.0}, "imbalance=0.0: 0 < imbalance <= 1; 0.03 is METIS's own default"),
        ({"imbalance": float("nan")}, "imbalance=nan: 0 < imbalance <= 1"),
        ({"imbalance": 1.5}, "imbalance=1.5"),
        ({"threads": -1}, "threads=-1: 0 or more; 0 uses every core"),
        ({"threads": 1.5}, "threads=1.5: a whole number"),
    ],
)
def test_a_setting_out_of_range(settings, text):
    with pytest.raises(HaspError, match=text):
        BuildConfig(**settings)


def test_limits_are_allowed():
    for settings in ({"num_parts": 1}, {"num_parts": 2**15 - 1}, {"seed": 2**63 - 1}, {"imbalance": 1.0}):
        BuildConfig(**settings)


def test_whole_numbers_of_numpy_become_json():
    config = BuildConfig(num_parts=np.int64(4), seed=np.uint8(3))
    assert config == BuildConfig(num_parts=4, seed=3) and type(config.num_parts) is int and type(config.seed) is int


def test_threads_do_not_decide_the_bytes_and_everything_else_does():
    assert BuildConfig(threads=1).to_json() == BuildConfig(threads=7).to_json()
    assert set(BuildConfig().to_json()) == {f.name for f in fields(BuildConfig)} - {"threads"}
    assert BuildConfig(**BuildConfig(num_parts=3, balance="bytes").to_json()) == BuildConfig(num_parts=3, balance="bytes")


def test_every_field_has_a_help_text():
    assert all(f.metadata["help"] for f in fields(BuildConfig))


@pytest.mark.parametrize(
    ("text", "count"),
    [("2GB", 2 * 10**9), ("512MiB", 2**29), ("1.5 kb", 1500), ("7", 7), ("1t", 10**12), (12, 12), (3.9, 3), ("1Gi", 2**30)],
)
def test_sizes(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GB", "2 PB", "-1GB", "1e9", "2GB2", True, None, "I"])
def test_what_is_no_size(text):
    with pytest.raises(HaspError, match=r"a size is a number with an optional unit .2GB, 512MiB., got .*; write it so"):
        parse_bytes(text)


@pytest.mark.parametrize("size", [0, "0GB", -5, "0.1"])
def test_a_size_is_positive(size):
    with pytest.raises(HaspError, match=r"a size is positive, got .*; give at least one byte"):
        parse_bytes(size)


@given(st.integers(1, 10**15))
def test_a_printed_size_reads_back(count):
    assert parse_bytes(format_bytes(count).replace(",", "")) == pytest.approx(count, rel=0.06)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_size_is_finite(value):
    with pytest.raises(HaspError, match=r"a size is positive, got (nan|inf)"):
        parse_bytes(value)
