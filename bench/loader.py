"""Loader: parts on disk -> batches whose every byte is in memory of the trainer's own.

A batch of one part is views of a memory map, which costs next to nothing until it is read; so each batch is also copied
once into a staging buffer, as a copy to a GPU would. The floor is a plain ``readinto`` of the same files into such a buffer.
"Cold" means that the kernel was asked to drop the files from its cache before each pass (``posix_fadvise``).
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from bench.graphs import ENTITIES, Planted, hetero
from bench.measure import CLOCK, clock, interleave, median, ratio, warm_up
from bench.table import Table
from hasp.data import HASPData
from hasp.load.loader import HASPLoader
from hasp.load.merge import merge
from hasp.parallel import cores
from hasp.schema import Schema
from hasp.store.read import FolderStore

__all__ = ["finish", "run"]

SIZES = {
    "small": (Planted(2_000, 6_000), (8, 4), 8, 2),
    "full": (Planted(1_000_000, 5_000_000), (64, 8), 64, 5),
}


def run(size: str = "full") -> list[Table]:
    """Parts of two sizes, from the cache and from the disk."""
    spec, num_parts, features, repeats = SIZES[size]
    warm_up()
    torch.set_num_threads(1)  # as in every worker of a DataLoader
    try:
        return [_disk(spec, num_parts, features, repeats)]
    finally:
        torch.set_num_threads(cores())


def _disk(spec: Planted, all_num_parts: tuple[int, ...], features: int, repeats: int) -> Table:
    graph = hetero(spec, features=features)
    edges = sum(graph.num_edges(e) for e in graph.edges)
    table = Table(
        "loader",
        f"One pass over all parts on disk ({spec.nodes:,} entities, {edges:,} edges, {features} floats)",
        ("cache", "parts", "by", "q", "seconds", "MB/s", "share of a plain read"),
    )
    for num_parts in all_num_parts:
        with TemporaryDirectory() as folder:
            root, saved = Path(folder) / "parts", Path(folder) / "saved"
            HASPData(graph, Schema(entity=ENTITIES), num_parts=num_parts, root=root, log=False)
            _rows(table, root, saved, num_parts, repeats)
    table.notes += [
        f"Medians of {repeats} interleaved rounds, torch on one thread as in workers;",
        *(["warm passes in CPU seconds of all threads, cold ones in wall-clock seconds." if CLOCK == "cpu" else "wall clock."]),
        "Every byte of a batch is copied once into a staging buffer, as for a GPU;",
        "MB/s count the bytes of the part files (of the .pt files for torch.load).",
        "int64 doubles the bytes of all indices on the way; as stored (index_dtype=None) a batch of one part is its map.",
        "What a part costs whatever its size (its types and tensors) shows beside the larger parts.",
        '"Views only" leaves the copy out: what a batch costs if nobody reads it.',
    ]
    finish(table)
    return table


def _rows(table: Table, root: Path, saved: Path, num_parts: int, repeats: int) -> None:
    files = sorted(root.glob("part-*.safetensors"))
    size = sum(p.stat().st_size for p in files)
    peers = _save(root, saved)
    saved_size = sum(p.stat().st_size for p in peers)
    store, buffer = FolderStore.open(root, verify="size"), torch.empty(1 << 20, dtype=torch.uint8)
    stored = partial(_merged, store, 1, None)
    ours: dict[str, Callable[[], Iterable[Any]]] = {}
    for q in (1, 4):
        for dtype, words in ((None, "ids as stored"), (torch.int32, "int32"), (torch.int64, "int64")):
            ours[f"merge, {words}|{q}"] = partial(_merged, store, q, dtype)
        ours[f"HASPLoader, ids as stored, prefetch=1|{q}"] = partial(_loaded, store, q, None, 1)
        ours[f"HASPLoader, int64|{q}"] = partial(_loaded, store, q, torch.int64, 0)
    ours["merge, int64, every file hashed|1"] = partial(_hashed, root)
    for cache, drop in (("warm", False), ("cold", True)):
        contenders: dict[str, Callable[[], float]] = {"plain read": partial(_read, files, drop)}
        contenders |= {name: partial(_pass, make, files, buffer, drop) for name, make in ours.items()}
        contenders["torch.load of a saved HeteroData|1"] = partial(_pass, partial(_unpickled, peers), peers, buffer, drop)
        contenders["views only: merge, ids as stored|1"] = partial(_pass, stored, files, None, drop)
        times = interleave(contenders, repeats + 1)
        times = {name: each[1:] for name, each in times.items()}  # the first round fills the cache and the buffer
        for name, each in times.items():
            by, _, q_text = name.partition("|")
            held = saved_size if by.startswith("torch.load") else size
            share = ratio(times["plain read"], each) * held / size
            views = by.startswith("views")
            table.add(
                cache=cache,
                parts=f"{num_parts} of {size / num_parts / 1e6:,.1f} MB",
                by=by,
                q=q_text or "-",
                seconds=median(each),
                runs=each,
                **{
                    "MB/s": None if views else held / median(each) / 1e6,
                    "share of a plain read": None if views else f"{share:.0%}",
                },
            )


def _merged(store: FolderStore, q: int, dtype: torch.dtype | None) -> Iterator[Any]:
    for first in range(0, store.num_parts, q):
        yield merge(store, range(first, min(first + q, store.num_parts)), index_dtype=dtype)


def _hashed(root: Path) -> Iterator[Any]:
    return _merged(FolderStore.open(root, verify="first"), 1, torch.int64)


def _loaded(store: FolderStore, q: int, dtype: torch.dtype | None, prefetch: int) -> Iterable[Any]:
    return HASPLoader(store, batch_size=q, index_dtype=dtype, prefetch=prefetch)


def _unpickled(files: list[Path]) -> Iterator[Any]:
    for path in files:
        yield torch.load(path, weights_only=False)


def _save(root: Path, folder: Path) -> list[Path]:
    """The same batches as ``HeteroData``, the way a PyG user keeps them."""
    folder.mkdir()
    paths = []
    for part_id, batch in enumerate(_merged(FolderStore.open(root, verify="size"), 1, torch.int64)):
        path = folder / f"{part_id}.pt"
        torch.save(batch.clone(), path)  # a view would be saved with the whole map behind it
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)  # or the kernel would not drop it
        os.close(handle)
        paths.append(path)
    return paths


def _pass(make: Callable[[], Iterable[Any]], files: list[Path], buffer: torch.Tensor | None, drop: bool) -> float:
    if drop:
        _drop(files)
    now = _now(drop)
    start = now()
    seen = 0
    for batch in make():
        seen += 1
        if buffer is not None:
            _copy_out(batch, buffer)
    elapsed = now() - start
    assert seen
    return elapsed


def _copy_out(batch: Any, buffer: torch.Tensor) -> None:
    """Copy every tensor once into the buffer, in pieces: it stays in the cache, so this is the cost of reading the batch.

    By NumPy, whose calls are short: a batch has dozens of tensors, and what is measured is not how they are copied.
    """
    into = buffer.numpy()
    found = {id(v): v for s in batch.stores for v in s.values() if isinstance(v, torch.Tensor)}  # ``input_id`` is ``n_id``
    for value in found.values():
        flat = value.numpy().reshape(-1).view(np.uint8)
        for at in range(0, flat.size, into.size):
            piece = flat[at : at + into.size]
            into[: piece.size] = piece


def _read(files: list[Path], drop: bool) -> float:
    if drop:
        _drop(files)
    block = memoryview(bytearray(1 << 20))
    now = _now(drop)
    start = now()
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(block):
                pass
    return now() - start


def _now(drop: bool) -> Callable[[], float]:
    """Waiting for a disk takes no CPU seconds."""
    return time.perf_counter if drop else clock


def _drop(files: list[Path]) -> None:
    gc.collect()  # a page that is mapped somewhere is not dropped
    for path in files:
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def finish(table: Table) -> None:
    """Say beside what the table's figures are."""
    table.beside = ("share of a plain read",)
