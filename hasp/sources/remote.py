"""Paths on other file systems (``s3://``, ``gs://``, ``memory://``...), through fsspec: the one file that imports it.

What fsspec opens is read by the same code whatever the protocol. Tested here are ``memory://``, local folders and, where s3fs
and moto are installed, ``s3://`` on a server of this machine.
"""

from __future__ import annotations

import importlib
import io
import posixpath
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

from hasp.errors import HaspError

__all__ = ["RemotePath", "is_url", "place"]


def is_url(path: str | Path) -> bool:
    """Whether this names a file system: ``<protocol>://...``."""
    return not isinstance(path, Path) and "://" in str(path)


def place(path: str | Path) -> Path:
    """A path that sources can read: a :class:`RemotePath` for a URL, which is used as a :class:`Path` is; else a Path.

    Raises:
        HaspError: fsspec, or what it needs for this protocol, is missing; or nobody knows the protocol.
    """
    if not is_url(path):
        return path if isinstance(path, RemotePath) else Path(path)
    protocol, _, rest = str(path).partition("://")
    if protocol in ("file", "local"):
        return Path(rest)
    return cast(Path, RemotePath(str(path)))


class _Stat(NamedTuple):
    st_size: int


class _Stream:
    """An open binary file of fsspec, whose reads raise what ``asking`` makes of an error."""

    def __init__(self, file: Any, asking: Callable[[], AbstractContextManager[None]]) -> None:
        self._file, self._asking = file, asking

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, *size: int) -> bytes:
        """See :class:`io.BufferedIOBase`, as of the others."""
        with self._asking():
            return cast(bytes, self._file.read(*size))

    def read1(self, *size: int) -> bytes:
        """What one request brings; fsspec has no other."""
        return self.read(*size)

    def readline(self, *size: int) -> bytes:
        """One line."""
        with self._asking():
            return cast(bytes, self._file.readline(*size))

    def readinto(self, buffer: Any) -> int:
        """Into a buffer; how many bytes."""
        with self._asking():
            return cast(int, self._file.readinto(buffer))

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class RemotePath:
    """The few methods of :class:`pathlib.Path` that sources use, for a URL. Travels between processes as its URL.

    Args:
        url: ``<protocol>://<path>``.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        try:
            fsspec = importlib.import_module("fsspec.core")
        except ImportError as error:
            raise HaspError(
                f"{self.url} is read through fsspec, which is not installed; pip install fsspec, or copy the folder here"
            ) from error
        try:
            return cast(tuple[Any, str], fsspec.url_to_fs(self.url))
        except (ImportError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise HaspError(
                f"fsspec does not open {self.url} ({reason}); install what it names, or copy the folder here"
            ) from error

    @property
    def fs(self) -> Any:
        """The file system, of fsspec."""
        return self._opened[0]

    @property
    def inner(self) -> str:
        """The path within the file system."""
        return self._opened[1]

    @property
    def name(self) -> str:
        """The last piece of the path."""
        return posixpath.basename(self.url)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """A block that asks the file system; whatever its library raises is one line that says what to look at."""
        try:
            yield
        except HaspError:
            raise
        except Exception as error:  # each library has errors of its own, and not all of them are an OSError
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise HaspError(
                f"cannot read {self.url} ({reason}); check the path, the address of the store, the network and the credentials"
            ) from error

    def is_file(self) -> bool:
        """Whether it is a file."""
        with self.asking():
            return bool(self.fs.isfile(self.inner))

    def is_dir(self) -> bool:
        """Whether it is a folder, or what object stores have in its place."""
        with self.asking():
            return bool(self.fs.isdir(self.inner))

    def exists(self) -> bool:
        """Whether it is there."""
        with self.asking():
            return bool(self.fs.exists(self.inner))

    def iterdir(self) -> Iterator[RemotePath]:
        """What a folder holds."""
        with self.asking():
            found = self.fs.ls(self.inner, detail=False)
        for inner in found:
            name = posixpath.basename(inner.rstrip("/"))
            if name and inner.rstrip("/") != self.inner.rstrip("/"):
                yield self / name

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """What a folder holds that ends as the pattern, ``*<ending>``."""
        return (p for p in self.iterdir() if p.name.endswith(pattern.removeprefix("*")))

    def rglob(self, pattern: str) -> Iterator[RemotePath]:
        """All files below a folder; ``pattern`` is ``"*"``."""
        with self.asking():
            found = self.fs.find(self.inner)
        return (RemotePath(self.fs.unstrip_protocol(inner)) for inner in found)

    def stat(self) -> _Stat:
        """The size."""
        with self.asking():
            return _Stat(int(self.fs.size(self.inner)))

    def open(self, mode: str = "r", encoding: str | None = None, newline: str | None = None) -> Any:
        """Open the file for reading. A store that breaks off later is told as one that does not answer at all."""
        with self.asking():
            stream: Any = _Stream(self.fs.open(self.inner, "rb"), self.asking)
        return stream if "b" in mode else io.TextIOWrapper(stream, encoding=encoding, newline=newline)

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.url}/{name}")

    def __str__(self) -> str:
        return self.url

    __repr__ = __str__

    def __lt__(self, other: RemotePath) -> bool:
        return self.url < other.url

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and self.url == other.url

    def __hash__(self) -> int:
        return hash(self.url)

    def __reduce__(self) -> tuple[Any, ...]:
        return RemotePath, (self.url,)
