"""Rings: what goes in comes out, in order, within a process and between two."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hasp.errors import HaspError
from hasp.load.ring import Closed, Ring


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 400)), max_size=80), st.integers(448, 700))
def test_what_goes_in_comes_out(moves: list[tuple[bool, int]], capacity: int) -> None:
    """Any order of writes and reads that one process can make without waiting for itself."""
    ring, number = Ring(capacity), 0
    inside: list[bytes] = []

    def read() -> None:
        message = ring.read(timeout=1).numpy().tobytes()
        ring.release()
        assert message == inside.pop(0)

    for write, size in moves:
        if write:
            message = bytes((number + i) % 251 for i in range(size))
            while True:
                try:
                    ring.write(message, alive=lambda: False)
                    break
                except Closed:  # it is full, or the reader has to pass the mark at its end first
                    if inside:
                        read()
                    else:
                        with pytest.raises(Closed):
                            ring.read(alive=lambda: False)
            inside.append(message)
            number += 1
        elif inside:
            read()
    while inside:
        read()
    with pytest.raises(HaspError, match=r"nothing came through a ring for 0\.01 s"):
        ring.read(timeout=0.01)


def test_a_message_stays_until_it_is_released() -> None:
    ring = Ring(256)
    ring.write(b"a" * 100)
    seen = ring.read()
    with pytest.raises(Closed):
        ring.write(b"b" * 100, alive=lambda: False)
    assert bytes(seen.tolist()) == b"a" * 100
    ring.release()
    ring.write(b"b" * 100)
    assert bytes(ring.read().tolist()) == b"b" * 100


def numbers(ring: Ring, count: int) -> None:
    rng = np.random.default_rng(0)
    for i in range(count):
        room = ring.reserve(8 * int(rng.integers(1, 600)))
        room.view(torch.int64)[:] = i
        ring.publish()


def test_two_processes() -> None:
    context = multiprocessing.get_context("fork")
    ring, count = Ring(20_000), 3_000
    process = context.Process(target=numbers, args=(ring, count))
    process.start()
    rng = np.random.default_rng(0)
    for i in range(count):
        message = ring.read(process.is_alive).view(torch.int64)
        assert message.numel() == rng.integers(1, 600) and bool((message == i).all())
        ring.release()
    with pytest.raises(Closed):
        ring.read(process.is_alive)
    process.join(5)
    assert process.exitcode == 0


def test_a_process_that_is_no_fork_gets_the_ring_as_well() -> None:
    context = multiprocessing.get_context("spawn")
    ring = Ring(20_000)
    process = context.Process(target=Ring.write, args=(ring, b"x" * 5_000))
    process.start()
    ring.forget_handle()
    assert ring.read(process.is_alive, 60).tolist() == [ord("x")] * 5_000
    process.join(10)
    assert process.exitcode == 0
