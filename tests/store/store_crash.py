"""Disks that fail, die or forget: what shows that a build survives a crash, and that these tests would notice if not."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from store_build import Quick, build

from hasp.store.disk import Disk
from hasp.store.write import Writer

PRIMITIVES = (
    *("mkdir", "create", "extend", "write", "sync", "close", "rename", "sync_dir", "remove"),
    *("names", "read", "stat", "blocks", "try_lock"),
)


class Failing(Quick):
    """Raises ``code`` at the n-th operation, counted over all kinds; with ``lasting`` at all later writes too."""

    def __init__(self, at: int, code: int, *, lasting: bool = False) -> None:
        self.at, self.code, self.lasting, self.count = at, code, lasting, 0
        self.failed = False

    def tick(self, kind: str) -> None:
        self.count += 1
        if self.count == self.at or (self.lasting and self.failed and kind in ("create", "write", "extend", "mkdir")):
            self.failed = True
            raise OSError(self.code, os.strerror(self.code))


def _counting(kind: str):
    def operation(self: Failing, *args):
        if kind == "close":
            getattr(Quick, kind)(self, *args)  # the system closes the handle even where it reports an error
            self.tick(kind)
            return None
        self.tick(kind)
        return getattr(Quick, kind)(self, *args)

    return operation


for _kind in PRIMITIVES:
    setattr(Failing, _kind, _counting(_kind))


class Trickle(Quick):
    """The system takes a few bytes at a time."""

    def write(self, handle: int, data: memoryview) -> int:
        return super().write(handle, data[:7])


class Trusting(Writer):
    """Wrong on purpose: what the journal claims is not hashed on resumption."""

    def _verified(self, claimed):
        real, self._disk = self._disk, _Believing({name: digest for name, (_, digest) in claimed.items()})
        try:
            return super()._verified(claimed)
        finally:
            self._disk = real


class _Believing(Quick):
    def __init__(self, digests):
        self.digests = digests

    def hash(self, path, progress=None):
        return self.digests[path.name]


class InPlaceQuick(Quick):
    """Wrong on purpose: writes over the bytes that readers have mapped."""

    def create(self, path: Path) -> int:
        final = path.with_name(path.name.removesuffix(".tmp"))
        return os.open(final, os.O_WRONLY | os.O_CREAT) if final.suffix == ".safetensors" else super().create(path)

    def rename(self, source: Path, target: Path) -> None:
        if target.suffix != ".safetensors":
            super().rename(source, target)


@dataclass
class File:
    """One file as the system sees it (``cached``) and as it would be after a power loss (``durable``)."""

    cached: bytearray = field(default_factory=bytearray)
    durable: bytes = b""


class Recording(Disk):
    """Does the real operations, and keeps the images of the folder that a power loss after each of them could leave.

    Names become durable when the folder is synced, bytes when the file is. Before that anything may be true: names none, all,
    or only the last; bytes dropped, torn in the middle, read as zeros, or all there.
    """

    def __init__(self, before: dict[str, bytes] | None = None) -> None:
        self.durable = {name: File(bytearray(data), data) for name, data in (before or {}).items()}
        self.cached = dict(self.durable)
        self.pending: list[tuple[str, ...]] = []
        self.handles: dict[int, File] = {}
        self.images: dict[tuple[tuple[str, bytes], ...], int] = {}
        self.operations = 0
        self._keep()

    def create(self, path: Path) -> int:
        handle = super().create(path)
        self.handles[handle] = self.cached[path.name] = File()
        return self._name(("link", path.name), self.handles[handle], handle)

    def extend(self, path: Path) -> int:
        handle = super().extend(path)
        self.handles[handle] = self.cached[path.name]
        return handle

    def write(self, handle: int, data: memoryview) -> int:
        count = super().write(handle, data)
        self.handles[handle].cached += bytes(data[:count])
        self._keep()
        return count

    def sync(self, handle: int) -> None:
        self.handles[handle].durable = bytes(self.handles[handle].cached)
        self._keep()

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self.cached[target.name] = self.cached.pop(source.name)
        self._name(("rename", source.name, target.name), self.cached[target.name], 0)

    def remove(self, path: Path) -> None:
        super().remove(path)
        self._name(("remove", path.name), self.cached.pop(path.name), 0)

    def sync_dir(self, path: Path) -> None:
        self.durable, self.pending = dict(self.cached), []
        self._keep()

    def _name(self, change: tuple[str, ...], file: File, handle: int) -> int:
        self.pending.append((*change, file))  # type: ignore[arg-type]
        self._keep()
        return handle

    def _keep(self) -> None:
        self.operations += 1
        for changes in (self.pending, [], self.pending[-1:]):
            names = dict(self.durable)
            for kind, *args in changes:
                *words, file = args
                if kind != "link":
                    names.pop(words[0], None)
                if kind != "remove":
                    names[words[-1]] = file  # type: ignore[assignment]
            for lose in (_drop, _tear, _zero, _keep_all):
                self.images.setdefault(tuple(sorted((name, lose(file)) for name, file in names.items())), self.operations)


def _drop(file: File) -> bytes:
    return file.durable


def _tear(file: File) -> bytes:
    return bytes(file.cached[: (len(file.durable) + len(file.cached)) // 2])


def _zero(file: File) -> bytes:
    return file.durable + bytes(len(file.cached) - len(file.durable))


def _keep_all(file: File) -> bytes:
    return bytes(file.cached)


def restore(image: tuple[tuple[str, bytes], ...], root: Path) -> None:
    """Make a folder out of an image."""
    root.mkdir()
    for name, data in image:
        (root / name).write_bytes(data)


class Slow(Disk):
    """A moment before each operation, so that a kill finds the build anywhere."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)


def _slowed(kind: str):
    def operation(self: Slow, *args):
        time.sleep(self.random.random() * 1e-3)
        return getattr(Disk, kind)(self, *args)

    return operation


for _kind in PRIMITIVES:
    setattr(Slow, _kind, _slowed(_kind))


def kill_until_finished(root: Path, seed: int) -> Iterator[int]:
    """Fork builders and kill each with signal 9 after a random time, until one ends by itself; yields the exit statuses."""
    moments = random.Random(seed)
    for attempt in range(1000):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                build(root, Slow(seed * 1000 + attempt))
                code = 0
            finally:
                os._exit(code)
        time.sleep(moments.random() * 0.04 + 0.004 * attempt)
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        yield status
        if status == 0:
            return
    raise RuntimeError("no builder ever finished")


if __name__ == "__main__":
    # A process of its own: it forks, which a test process with threads must not.
    for _seed in range(int(sys.argv[2])):
        _root = Path(sys.argv[1]) / str(_seed)
        print(*kill_until_finished(_root, _seed))
