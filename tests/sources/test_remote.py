"""Paths on other file systems, by ``memory://``: what they are, and what their errors are."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builds import on_memory

from hasp import open_source
from hasp.errors import HaspError
from hasp.sources.parquet import write_parquet
from hasp.sources.remote import RemotePath, place

fsspec = pytest.importorskip("fsspec")
MemoryFile = pytest.importorskip("fsspec.implementations.memory").MemoryFile


def test_places() -> None:
    assert place("a/b") == Path("a/b") and place("file:///tmp/x") == Path("/tmp/x") and place(Path("x://y")) == Path("x:/y")
    assert isinstance(place("memory://a/"), RemotePath) and str(place("memory://a/")) == "memory://a"
    with pytest.raises(HaspError, match=r"fsspec does not open nothing://a \(.*\); install what it names"):
        place("nothing://a").is_dir()


def test_whatever_a_file_system_raises_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise _NoAnswer("could not connect\nto the endpoint")

    fs = fsspec.filesystem("memory")
    path = place("memory://bucket/tables")
    tries = {"isfile": path.is_file, "isdir": path.is_dir, "exists": path.exists, "size": path.stat}
    tries |= {"ls": lambda: list(path.iterdir()), "find": lambda: list(path.rglob("*")), "open": path.open}
    for name, ask in tries.items():
        monkeypatch.setattr(type(fs), name, refuse)
        message = (
            r"cannot read memory://bucket/tables \(_NoAnswer: could not connect to the endpoint\); check the path, the address"
        )
        with pytest.raises(HaspError, match=message):
            ask()
        monkeypatch.undo()


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
@pytest.mark.parametrize("after", [0, 9000])
def test_a_store_that_breaks_off_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, suffix: str, after: int) -> None:
    folder = tmp_path / "tables"
    (folder / "nodes").mkdir(parents=True)
    (folder / "edges").mkdir()
    columns = {"src": np.random.default_rng(0).integers(0, 1 << 40, 20_000), "dst": np.arange(20_000) % 7}
    table = folder / "edges" / f"title__has__genre{suffix}"
    if suffix == ".parquet":
        write_parquet(table, columns)
    else:
        rows = "\n".join(["src,dst", *(f"{a},{b}" for a, b in zip(columns["src"], columns["dst"], strict=True))])
        data = (rows + "\n").encode()
        table.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    with on_memory(folder) as url:
        read, seen = MemoryFile.read, list[int]()

        def broken(self: Any, *size: int) -> bytes:
            data = read(self, *size)
            seen.append(len(data))
            if sum(seen) > after:
                raise _NoAnswer("connection reset")
            return data

        monkeypatch.setattr(MemoryFile, "read", broken)
        with pytest.raises(HaspError, match=rf"cannot read {url}/edges/.*\(_NoAnswer: connection reset\); check the path"):
            open_source(url)


class _NoAnswer(Exception):
    """No OSError, as those of some libraries."""


def test_without_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(HaspError, match="read through fsspec, which is not installed; pip install fsspec, or copy"):
        open_source("s3://bucket/tables")
