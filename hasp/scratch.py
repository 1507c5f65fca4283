"""Scratch: arrays that are too large for memory live in files without a name, and their pages do not pile up.

An array of :meth:`Scratch.empty` is an ordinary NumPy array, so that every stage runs the same code on it and makes the same
bytes. Behind it is memory, or a file that was created without a name (``O_TMPFILE``): the system frees it when the array
goes, or when the process dies, however it dies. Nothing is left behind after a crash and nothing has to be cleaned up.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
import threading
import weakref
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from hasp import memory
from hasp.errors import HaspError

__all__ = ["MAPPED_BYTES", "MEMORY", "Scratch", "scratch_folder"]

MAPPED_BYTES = 2 << 30
"""Resident pages of mapped files above which all of them are dropped; they stay in the system's own cache."""

_LEAST = 1 << 20  # bytes of the smallest array that is worth a file
_SECONDS = 0.02  # between two looks at the resident pages


def scratch_folder(start: str | Path | None = None) -> Path:
    """Where scratch files go: the folder ``start`` or its nearest parent that exists.

    Without one, ``TMPDIR``, or ``/var/tmp`` before ``/tmp``, which often is memory itself.
    """
    if start is not None:
        path = Path(start).absolute()
        while not path.is_dir():
            path = path.parent
        return path
    var = Path("/var/tmp")
    return Path(tempfile.gettempdir()) if "TMPDIR" in os.environ or not os.access(var, os.W_OK) else var


class Scratch:
    """Makes arrays in memory or in files, and keeps the resident pages of mapped files bounded while it is entered.

    Args:
        folder: holds the files; ``None``: arrays are in memory, and nothing is watched.
        limit: resident bytes of mapped files above which they are dropped (:data:`MAPPED_BYTES`). What was written to
            them stays in the system's cache and goes to the disk; touching a page again brings it back.

    Attributes:
        folder: see above.
        num_bytes: bytes of all files made so far.
    """

    def __init__(self, folder: str | Path | None = None, limit: int | None = None) -> None:
        self.folder = None if folder is None else scratch_folder(folder)
        self.num_bytes = 0
        self._limit, self._floor = MAPPED_BYTES if limit is None else limit, 0
        self._files: list[weakref.ref[mmap.mmap]] = []
        self._watched: list[tuple[Any, int, int]] = []
        self._mutex = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def empty(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """An array ``shape`` to be filled; a small one is in memory in any case.

        Raises:
            HaspError: the disk has no room for it; said now, because later the process would die of it.
        """
        if self.folder is None:
            return np.empty(shape, dtype=dtype)
        kind = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        if size < _LEAST:
            return np.empty(shape, dtype=kind)
        try:
            with tempfile.TemporaryFile(dir=self.folder) as file:
                os.posix_fallocate(file.fileno(), 0, size)
                mapped = mmap.mmap(file.fileno(), size)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOMEM):
                raise
            raise HaspError(
                f"scratch of {size:,} bytes does not go into {self.folder} ({error.strerror}); free space there, or build on a "
                "larger disk (TMPDIR says where tables are read to)"
            ) from error
        with self._mutex:
            self.num_bytes += size
            self._files = [ref for ref in self._files if ref() is not None]
            self._files.append(weakref.ref(mapped))
        return np.frombuffer(mapped, dtype=kind).reshape(shape)

    def watch(self, tensors: Iterable[Tensor]) -> None:
        """Keep the pages of these bounded too, where they are mapped from files and shared with them.

        Private maps are left alone: dropping a page of one would drop what was written to it.
        """
        if self.folder is None:
            return
        ranges = memory.shared_ranges()
        for tensor in tensors:
            low = tensor.data_ptr()
            high = low + tensor.nbytes
            if high - low >= _LEAST and tensor.is_contiguous() and any(a <= low and high <= b for a, b in ranges):
                self._watched.append((tensor, low, high))  # which keeps the map alive as long as its pages may be dropped

    def drop(self) -> None:
        """Drop the resident pages of all files of this scratch, and of what is watched, from this process."""
        with self._mutex:
            files = [ref() for ref in self._files]
        for mapped in files:
            if mapped is not None:
                mapped.madvise(mmap.MADV_DONTNEED)  # of a shared map, what was written stays
        for _, low, high in self._watched:
            memory.drop(low, high)

    def __enter__(self) -> Scratch:
        if self.folder is not None:
            self._stop.clear()
            self._floor = memory.mapped_bytes()
            self._thread = threading.Thread(target=self._keep, name="hasp-pages", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self.drop()
        self._watched.clear()

    def _keep(self) -> None:
        while not self._stop.wait(_SECONDS):
            if memory.mapped_bytes() - self._floor > self._limit:
                self.drop()
                self._floor = memory.mapped_bytes()  # libraries, and maps of others, which are not ours to drop


MEMORY = Scratch()
"""Arrays in memory."""
