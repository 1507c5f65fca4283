"""Disk: the only code that reads or writes a parts folder.

Every primitive method is one operation of the operating system, and every durable change is composed of them in
:meth:`Disk.put` and :meth:`Disk.append`. A test subclasses the primitives to fail the n-th one, to record them, or to
forget what was never synced: that is how crash safety is shown rather than hoped for.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from blake3 import blake3
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hasp.errors import BuildLocked, CorruptPart, HaspError
from hasp.store.framing import Spec, views

__all__ = ["Disk", "Progress"]

Progress = Callable[[str, int], None]
"""Called with a file name and the bytes of it that were just read."""

_BLOCK = 1 << 23  # bytes read at a time while hashing: large enough for the disk, small enough for the cache
_WISH = 1 << 17  # bytes asked for at a time: Linux's own default of a read-ahead
_TEMPORARY = ".tmp"

_REMEDIES = {
    errno.ENOSPC: "free space on that disk and run it again; a build resumes where it stopped",
    errno.EDQUOT: "raise the quota or free space and run it again; a build resumes where it stopped",
    errno.EROFS: "the disk is read-only; choose a writable folder",
    errno.EACCES: "make the folder accessible to this user, or choose another one",
    errno.EPERM: "make the folder accessible to this user, or choose another one",
    errno.EIO: "the device reports an error; check it, then run it again",
    errno.ENOTDIR: "a parts folder is a folder; choose another path",
    errno.EISDIR: "a file is expected there; move the folder away",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.ELOOP: "a symbolic link is in the way; remove it",
    errno.ENOLCK: "this file system has no flock; build on a local disk and copy the folder",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


@contextlib.contextmanager
def failing(action: str, path: Path) -> Iterator[None]:
    """Turn an ``OSError`` of the block into a one-line :class:`HaspError` that names the file and the remedy."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "check the path and the disk, then run it again")
        raise HaspError(f"cannot {action} {path}: {error.strerror or error}; {remedy}") from error


class Disk:
    """Operations on the files of one parts folder. Stateless; safe to use from several threads."""

    # -- primitives: one operation each; they raise OSError ----------------------------------------------------------

    def mkdir(self, path: Path) -> None:
        """Create one folder."""
        path.mkdir()

    def create(self, path: Path) -> int:
        """Open a new or emptied file for writing. A symbolic link is not followed."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)

    def extend(self, path: Path) -> int:
        """Open an existing file for appending."""
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)

    def write(self, handle: int, data: memoryview) -> int:
        """Write what the system takes in one go; returns how many bytes that was."""
        return os.write(handle, data)

    def sync(self, handle: int) -> None:
        """Make a file's bytes durable."""
        os.fsync(handle)

    def close(self, handle: int) -> None:
        """Close a handle of :meth:`create` or :meth:`extend`."""
        os.close(handle)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file its name, replacing what had it: readers that mapped the old file keep the old bytes."""
        source.replace(target)

    def sync_dir(self, path: Path) -> None:
        """Make the names in a folder durable."""
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def remove(self, path: Path) -> None:
        """Remove one file."""
        path.unlink()

    def names(self, path: Path) -> list[str]:
        """The names in a folder, sorted; none if the folder is not there."""
        try:
            return sorted(os.listdir(path))  # noqa: PTH208 - names, not paths
        except FileNotFoundError:
            return []

    def read(self, path: Path, limit: int) -> bytes:
        """The first ``limit`` bytes of a file."""
        with path.open("rb") as file:
            # Not read(limit): that allocates the limit first.
            return file.read(min(limit, os.fstat(file.fileno()).st_size))

    def stat(self, path: Path) -> os.stat_result:
        """Size, kind and identity of a file; a symbolic link is not followed."""
        return path.lstat()

    def blocks(self, path: Path) -> Iterator[memoryview]:
        """A file's bytes, block by block; each block is overwritten by the next."""
        buffer = bytearray(_BLOCK)
        view = memoryview(buffer)
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                yield view[:count]

    def bytes_of(self, path: Path, size: int) -> npt.NDArray[np.uint8]:
        """The first ``size`` bytes of a file, mapped and private; no handle stays open, however many files are mapped."""
        try:
            storage: Any = torch.UntypedStorage.from_file(str(path), False, size)
        except RuntimeError as error:  # of mmap(2), or the file is shorter
            raise OSError(errno.EIO, str(error).splitlines()[0], str(path)) from error
        return np.asarray(torch.empty(0, dtype=torch.uint8).set_(storage).numpy())

    def resident(self, path: Path) -> bool:
        """Whether both ends of a file are in the system's cache, as far as it tells."""
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            last = max(os.fstat(handle).st_size - 1, 0)
            return all(os.preadv(handle, [bytearray(1)], at, os.RWF_NOWAIT) for at in (0, last))
        except (OSError, AttributeError, NotImplementedError):  # not there, or the system cannot be asked
            return False
        finally:
            os.close(handle)

    def ahead(self, path: Path, most: int) -> int:
        """Ask the system to read a file before it is needed; may wait for the queue of the device, not for the bytes.

        In pieces: of each wish Linux reads no more than the device's read-ahead (``read_ahead_kb``), and forgets the rest.
        Returns how many bytes of the file are on their way, ``most`` at most.
        """
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            size = max(0, min(os.fstat(handle).st_size, most))
            for at in range(0, size, _WISH):
                os.posix_fadvise(handle, at, _WISH, os.POSIX_FADV_WILLNEED)
            return size
        finally:
            os.close(handle)

    def try_lock(self, path: Path) -> int:
        """Take a file's exclusive lock or raise ``BlockingIOError``; returns a handle, whose closing frees it."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise
        return handle

    # -- compositions: they raise HaspError --------------------------------------------------------------------------

    def make_folder(self, path: Path) -> None:
        """Create a folder and its parents durably; nothing happens if it is there."""
        with failing("create", path):
            missing = []
            while not path.exists():
                missing.append(path)
                path = path.parent
            if not path.is_dir():
                raise OSError(errno.ENOTDIR, "a file has that name", str(path))
            for folder in reversed(missing):
                with contextlib.suppress(FileExistsError):  # another builder was faster; the lock decides between us
                    self.mkdir(folder)
                self.sync_dir(folder.parent)

    def put(self, path: Path, chunks: Iterable[bytes | memoryview]) -> tuple[int, str]:
        """Write a file so that it appears whole or not at all, and is durable on return.

        Temporary name, write, sync, rename, sync the folder. The bytes are hashed on their way out.

        Returns:
            Its size and its blake3, in hex.

        Raises:
            HaspError: the system refused an operation; the temporary file is removed if that is still possible.
        """
        temporary = path.with_name(path.name + _TEMPORARY)
        digest, size = blake3(), 0
        with failing("write", path):
            handle = self.create(temporary)
            renamed = False
            try:
                try:
                    for chunk in chunks:
                        view = memoryview(chunk)
                        digest.update(view)
                        size += view.nbytes
                        self._write_all(handle, view)
                    self.sync(handle)
                finally:
                    self.close(handle)
                self.rename(temporary, path)
                renamed = True
                self.sync_dir(path.parent)
            finally:
                if not renamed:
                    # The first error is the one to report; a leftover is removed by the next build.
                    with contextlib.suppress(OSError):
                        self.remove(temporary)
        return size, digest.hexdigest()

    def publish(self, source: Path, target: Path) -> None:
        """Give a durable file its name, durably; both are in one folder."""
        with failing("rename", source):
            self.rename(source, target)
            self.sync_dir(target.parent)

    def append(self, path: Path, data: bytes) -> None:
        """Append to a file, durably. A crash may leave a torn tail, which the reader of the file has to expect."""
        with failing("write", path):
            handle = self.extend(path)
            try:
                self._write_all(handle, memoryview(data))
                self.sync(handle)
            finally:
                self.close(handle)

    def _write_all(self, handle: int, view: memoryview) -> None:
        while view.nbytes:
            view = view[self.write(handle, view) :]

    def discard(self, path: Path) -> None:
        """Remove a file, durably."""
        with failing("remove", path):
            self.remove(path)
            self.sync_dir(path.parent)

    def list(self, path: Path) -> list[str]:
        """The names in a folder, sorted; none if the folder is not there."""
        with failing("list", path):
            return self.names(path)

    def head(self, path: Path, limit: int) -> bytes:
        """The first ``limit`` bytes of a file, or all of a shorter one."""
        with failing("read", path):
            return self.read(path, limit)

    def size(self, path: Path) -> int:
        """Bytes of a regular file.

        Raises:
            CorruptPart: the file is missing, is no regular file, or is a link that leaves its folder.
        """
        with failing("read", path):
            try:
                found = self.stat(path)
                if stat.S_ISLNK(found.st_mode):
                    target = path.resolve()
                    if not target.is_relative_to(path.parent.resolve()):
                        raise CorruptPart(f"{path} is a link that leaves its folder, to {target}; replace it by the file")
                    found = self.stat(target)
            except FileNotFoundError:
                raise CorruptPart(f"{path} is missing; restore it, or run the same build again") from None
        if not stat.S_ISREG(found.st_mode):
            raise CorruptPart(f"{path} is no regular file; restore it, or run the same build again")
        return found.st_size

    def hash(self, path: Path, progress: Progress | None = None) -> str:
        """blake3 of a file in hex, read in blocks: a file that shrinks meanwhile is an error, not a bus error."""
        digest = blake3()
        with failing("read", path):
            for block in self.blocks(path):
                digest.update(block)
                if progress is not None:
                    progress(path.name, block.nbytes)
        return str(digest.hexdigest())

    def map(self, path: Path, order: Mapping[str, Spec] | None = None, start: int = 0) -> dict[str, Tensor]:
        """The tensors of a safetensors file, memory-mapped and private: nothing is read until it is used, and writing
        to a tensor changes this process's copy of the touched pages, never the file.

        Args:
            path: the file.
            order: its tensors in the order of the file, if its header was read already: it is not read again.
            start: with ``order``: the bytes before the first tensor.

        Raises:
            CorruptPart: the file is no safetensors file.
        """
        with failing("map", path):
            if order is not None:
                return views(self.bytes_of(path, start + sum(spec.num_bytes for spec in order.values())), order, start)
            try:
                with safe_open(str(path), framework="pt") as file:
                    return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
            except SafetensorError as error:
                raise CorruptPart(f"{path} is no safetensors file ({error}); restore it, or make it again") from error

    def lock(self, path: Path) -> int:
        """Take the exclusive lock of a folder; it ends with :meth:`unlock` or with the process, however that dies.

        Raises:
            BuildLocked: another process (or another Writer of this one) holds it.
        """
        with failing("lock", path):
            try:
                return self.try_lock(path)
            except BlockingIOError:
                raise BuildLocked(
                    f"one build at a time writes to a folder, and another one is writing to {path.parent}; "
                    "wait for it, or choose another folder"
                ) from None

    def unlock(self, handle: int) -> None:
        """Release the lock. The lock file stays: removing it would let two builders hold two different ones."""
        os.close(handle)
