"""Work in threads: the results of a loop, the error of the first item that failed, nobody left waiting or running."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hasp.parallel import blocks, run, run_in_turn

ITEMS, THREADS = st.integers(0, 20), st.integers(1, 5)


@given(ITEMS, THREADS)
def test_the_results_of_a_loop(count, threads):
    before = threading.active_count()
    assert run(lambda i: i * i, range(count), threads) == [i * i for i in range(count)]
    assert threading.active_count() == before


@given(st.lists(st.booleans(), min_size=1, max_size=20), THREADS)
def test_the_first_that_fails_is_raised_and_no_more_are_taken(wrong, threads):
    seen = []

    def task(i):
        seen.append(i)
        if wrong[i]:
            raise ValueError(i)
        return i

    if not any(wrong):
        assert run(task, range(len(wrong)), threads) == list(range(len(wrong)))
        return
    first = wrong.index(True)
    with pytest.raises(ValueError, match=f"^{first}$"):
        run(task, range(len(wrong)), threads)
    assert sorted(seen) == list(range(len(seen)))  # in their order, none twice
    assert len(seen) <= first + 1 + threads * sum(wrong)


def test_as_many_at_a_time_as_threads_the_calling_one_among_them():
    meet = threading.Barrier(3, timeout=20)

    def task(i):
        meet.wait()
        return threading.get_ident()

    found = run(task, range(3), 3)
    assert len(set(found)) == 3 and threading.get_ident() in found


def test_an_interrupt_waits_for_those_at_work():
    ended = threading.Event()

    def task(i):
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        time.sleep(0.05)
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        run(task, range(100), 2)
    alive = [t for t in threading.enumerate() if t.name == "hasp-run"]
    assert not alive


def test_a_system_without_more_threads(monkeypatch):
    real, started = threading.Thread.start, []

    def start(self):
        if started:
            raise RuntimeError("can't start new thread")
        started.append(self)
        real(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    assert run(lambda i: i, range(9), 4) == list(range(9))
    assert len(started) == 1


@given(st.integers(0, 300), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
def test_blocks_cover_a_range(n, size, most, step):
    found = blocks(n, size, most, step)
    assert [i for low, high in found for i in range(low, high)] == list(range(n))
    assert len(found) <= most
    assert all(low % step == 0 for low, _ in found)
    assert all(high - low >= size for low, high in found[:-1])


@given(st.lists(st.integers(0, 5), max_size=12), THREADS)
def test_ranges_in_turn_stand_side_by_side(lengths, threads):
    out = np.full(sum(lengths), -1)

    def task(i, place):
        first = place(lengths[i])
        out[first : first + lengths[i]] = i
        return first

    firsts = run_in_turn(task, range(len(lengths)), threads)
    assert firsts == [sum(lengths[:i]) for i in range(len(lengths))]
    assert out.tolist() == [i for i, n in enumerate(lengths) for _ in range(n)]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@given(st.integers(0, 9), st.integers(2, 5))
def test_nobody_waits_for_the_turn_of_one_that_failed(error, wrong, threads):
    def task(i, place):
        if i == wrong:
            raise error(i)
        return place(1)

    with pytest.raises(error, match=f"^{wrong}$"):
        run_in_turn(task, range(10), threads)
