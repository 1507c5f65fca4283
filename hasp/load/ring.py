"""Ring: messages from one process to one other through memory that both see, without a lock and without a copy of the system.

One process writes, one reads (single producer, single consumer). ``head`` counts the bytes ever written and belongs to the
writer, ``tail`` the bytes ever freed and belongs to the reader; each is one aligned word of 64 bits on a cache line of its own,
which a processor reads and writes whole. A message is contiguous; where it would not fit before the end, a mark sends the
reader back to the beginning.

Why no lock is needed: the writer first fills the message, then moves ``head`` (a *release*); the reader first reads ``head``,
then the message (an *acquire*), and moves ``tail`` when it is done with it. What has to hold is that the other side sees the
two in this order. x86-64 keeps the order of stores among themselves and of loads among themselves, and the interpreter is an
opaque call between the two for the compiler. Arm may reorder both; there :func:`_fence` stands between, which is the
release and the acquisition of a private lock: stores before the release are seen before anything after the acquisition is
(Armv8: STLR followed by LDAR are ordered), and the same for loads. That argument was made, and tested on x86-64 only.

The memory has no name: it is a ``memfd``, or a file that is unlinked at once, handed over as a descriptor. So nothing is left
in ``/dev/shm``, whoever dies, and its size is no limit.
"""

from __future__ import annotations

import mmap
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.reduction import DupFd
from typing import Any

import torch
from torch import Tensor

from hasp.errors import HaspError

__all__ = ["Closed", "Ring"]

_LINE = 64
_HEAD, _TAIL, _CLOSED = 0, 8, 16  # words, each on a line of its own
_DATA = 4 * _LINE
_SKIP = -1
_STRONG = platform.machine() in ("x86_64", "AMD64", "i686")
_SHORTEST, _LONGEST, _LOOK = 2e-5, 1e-2, 0.05  # seconds: between two looks at the ring; between two looks at the peer


class Closed(HaspError):
    """The other side has closed the ring, or its process is gone."""


class Ring:
    """The ring. Either end may be handed to one other process as an argument of it, under any start method.

    Args:
        capacity: bytes; rounded up to a multiple of 64. A message with its 64 bytes of frame is no longer than that.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 2 * _LINE:
            raise HaspError(f"a ring holds at least {2 * _LINE} bytes, got capacity={capacity}; raise it")
        size = -(-capacity // _LINE) * _LINE
        if hasattr(os, "memfd_create"):
            handle = os.memfd_create("hasp-ring", os.MFD_CLOEXEC)
        else:
            with tempfile.TemporaryFile() as file:
                handle = os.dup(file.fileno())
        os.ftruncate(handle, _DATA + size)
        self._open(handle, size)

    def _open(self, handle: int, size: int) -> None:
        self._handle, self.capacity = handle, size
        # The map lives as long as a tensor over it does.
        self._bytes = torch.frombuffer(mmap.mmap(handle, _DATA + size), dtype=torch.uint8)
        self._words = self._bytes[:_DATA].view(torch.int64).numpy()
        self.data = self._bytes[_DATA:]
        self._lengths = self.data.view(torch.int64).numpy()
        self._freed = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach, (DupFd(self._handle), self.capacity)

    def forget_handle(self) -> None:
        """Close this process's descriptor, once the peer has its own; the memory stays."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __del__(self) -> None:
        if getattr(self, "_handle", -1) >= 0:
            os.close(self._handle)

    # -- writer ------------------------------------------------------------------------------------------------------

    def reserve(self, size: int, alive: Callable[[], bool] | None = None) -> Tensor:
        """Room for a message, uint8 ``[size]``, to be filled and then published by :meth:`publish`; waits for it.

        Args:
            size: bytes.
            alive: asked now and then whether the reader still is.

        Raises:
            HaspError: no ring of this capacity has room for it.
            Closed: the reader is gone.
        """
        length = _framed(size)
        if length > self.capacity:
            raise HaspError(f"a message of {size:,} bytes does not fit a ring of {self.capacity:,}; make the ring larger")
        head = int(self._words[_HEAD])
        at = head % self.capacity
        if at + length > self.capacity:  # send the reader back to the beginning
            rest = self.capacity - at
            self._wait(lambda: head + rest - int(self._words[_TAIL]) <= self.capacity, alive)
            self._lengths[at // 8] = _SKIP
            _fence()
            head += rest
            self._words[_HEAD] = head
            at = 0
        self._wait(lambda: head + length - int(self._words[_TAIL]) <= self.capacity, alive)
        _fence()  # the room is written to only after the reader was seen to have left it
        self._lengths[at // 8] = size
        return self.data[at + _LINE : at + _LINE + size]

    def publish(self) -> None:
        """Show the reader the message that was written last."""
        head = int(self._words[_HEAD])
        length = _framed(int(self._lengths[head % self.capacity // 8]))
        _fence()
        self._words[_HEAD] = head + length

    def write(self, message: bytes, alive: Callable[[], bool] | None = None) -> None:
        """Write a whole message; see :meth:`reserve`."""
        room = self.reserve(len(message), alive)
        if message:
            room.copy_(torch.frombuffer(bytearray(message), dtype=torch.uint8))
        self.publish()

    # -- reader ------------------------------------------------------------------------------------------------------

    def read(self, alive: Callable[[], bool] | None = None, timeout: float = 0.0) -> Tensor:
        """The next message, uint8 ``[size]``, in the ring: it is there until :meth:`release`. Waits for it.

        Args:
            alive: asked now and then whether the writer still is. What it wrote before it died is still read.
            timeout: seconds to wait at most; 0: for ever.

        Raises:
            Closed: the writer is gone, or has closed the ring, and nothing is left.
            HaspError: the time is over.
        """
        while True:
            tail = int(self._words[_TAIL])
            self._wait(lambda tail=tail: int(self._words[_HEAD]) != tail, alive, timeout)  # type: ignore[misc]
            _fence()
            at = tail % self.capacity
            size = int(self._lengths[at // 8])
            if size != _SKIP:
                self._freed = tail + _framed(size)
                return self.data[at + _LINE : at + _LINE + size]
            _fence()
            self._words[_TAIL] = tail + self.capacity - at

    def release(self) -> None:
        """Give the room of the message that was read last back to the writer."""
        if self._freed:
            _fence()
            self._words[_TAIL] = self._freed
            self._freed = 0

    # -- both --------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Tell the other side that this one has no more to say, or no more to hear."""
        _fence()
        self._words[_CLOSED] = 1

    def _wait(self, ready: Callable[[], bool], alive: Callable[[], bool] | None, timeout: float = 0.0) -> None:
        if ready():
            return
        begin, looked = time.monotonic(), -_LOOK
        while True:
            closed = bool(self._words[_CLOSED])
            now = time.monotonic()
            gone = closed
            if not closed and alive is not None and now - looked > _LOOK:
                looked, gone = now, not alive()
            if ready():  # asked after: what was written before the end counts
                return
            if gone:
                raise Closed("the other side of a ring has closed it, or its process is gone; see its output")
            if timeout and now - begin > timeout:
                raise HaspError(f"nothing came through a ring for {timeout:g} s; raise timeout, or see what the writer does")
            # A quarter of what was waited already: few looks where a wait is long, little delay where it is short.
            time.sleep(min(_LONGEST, max(_SHORTEST, (now - begin) / 4)))


def _framed(size: int) -> int:
    return _LINE + -(-size // _LINE) * _LINE


_private = threading.Lock()
_private.acquire()


def _fence() -> None:
    """Keep memory accesses before from those after; see the module."""
    if not _STRONG:
        _private.release()
        _private.acquire()


def _attach(handle: Any, capacity: int) -> Ring:
    ring = Ring.__new__(Ring)
    ring._open(handle.detach(), capacity)
    return ring
