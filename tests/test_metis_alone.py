"""METIS draws from the C library's ``rand``, and so may any thread: what is cut does not depend on it."""

from __future__ import annotations

import ctypes
import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
import pytest

from hasp import backends, partition
from hasp.backends import call_metis, child
from hasp.backends.task import Task

metis: Any = importlib.import_module("hasp.backends.metis")  # the package has a function of that name


def task(nodes: int = 2000, seed: int = 7) -> Task:
    """A graph without structure, of five neighbours each way."""
    rng = np.random.default_rng(seed)
    pairs = np.concatenate([np.stack([np.arange(nodes), rng.integers(0, nodes, nodes)], 1) for _ in range(5)])
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    both = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(both[:, 0], minlength=nodes))])
    return Task(indptr.astype(np.int64), both[:, 1].astype(np.int64), 8, seed=3)


rand = ctypes.CDLL(None).rand
rand.argtypes, rand.restype = [], ctypes.c_int


@numba.njit(nogil=True)
def draws(count: int) -> None:
    """Without the GIL, which METIS holds: a thread of Python's would draw once in a while."""
    for _ in range(count):
        rand()


@contextmanager
def somebody_draws() -> Iterator[None]:
    """A thread that draws from ``rand`` all the time."""
    done = threading.Event()
    draws(1)  # compiled

    def draw() -> None:
        while not done.is_set():
            draws(3_000_000)  # longer than a cut

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("alone", [0, metis.ALONE])
def test_a_thread_that_draws_changes_no_label(alone: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = task()
    monkeypatch.setattr(metis, "ALONE", alone)
    want = metis.metis(given)
    assert np.array_equal(want, metis._here(given)[1])  # as METIS has it when nobody draws
    with somebody_draws():
        assert any(not np.array_equal(want, metis._here(given)[1]) for _ in range(500))  # unguarded, it would
        for _ in range(4):
            assert np.array_equal(metis.metis(given), want)
            assert np.array_equal(child.metis_child(given), want)


def test_a_thread_that_draws_changes_no_label_of_multilevel() -> None:
    given = task(3000)
    arguments = (given.indptr, given.indices, 8)
    want = partition(*arguments, seed=1, backend="multilevel")
    with somebody_draws():
        assert np.array_equal(partition(*arguments, seed=1, backend="multilevel"), want)


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    """The tasks that a process of their own was started for; none is."""
    started: list[Task] = []

    def start(given: Task) -> Any:
        started.append(given)
        return call_metis.call_metis({a: getattr(given, a) for a in call_metis.ARRAYS}, 8, given.imbalance, given.seed)

    monkeypatch.setattr(metis, "in_child", start)
    return started


def test_when_a_process_is_started(children: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    given = task(300)
    want = metis.metis(given)
    assert not children
    monkeypatch.setattr(metis, "ALONE", given.indices.size)
    assert np.array_equal(metis.metis(given), want) and len(children) == 1
    monkeypatch.setattr(metis, "ALONE", given.indices.size + 1)
    assert np.array_equal(metis.metis(given), want) and len(children) == 1


@pytest.mark.parametrize("how", ["labels", "draws"])
def test_a_difference_between_two_cuts_is_noticed(how: str, children: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    """Other labels, or the same with a number drawn by somebody else."""
    given, calls = task(300), list[int]()
    want = metis.metis(given)
    real = call_metis.call_metis

    def disturbed(*arguments: Any) -> Any:
        cut, labels = real(*arguments)
        calls.append(1)
        if len(calls) == 2:
            labels = (labels + 1) % 8 if how == "labels" else labels
            if how == "draws":
                ctypes.CDLL(None).rand()
        return cut, labels

    monkeypatch.setattr(metis, "call_metis", disturbed)
    assert np.array_equal(metis.metis(given), want)
    assert len(calls) == 2 and len(children) == 1


def test_little_memory_for_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that has 64 MB of /dev/shm: the files go elsewhere."""
    given = task(200)
    assert child._place(1 << 60) is None
    monkeypatch.setattr(child, "_place", lambda num_bytes: None)
    assert np.array_equal(child.metis_child(given), backends.BACKENDS["metis"](given))
