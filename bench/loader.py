"""Loader: parts on disk -> batches whose every byte is in memory of the trainer's own.

A batch of one part is views of a memory map, which costs next to nothing until it is read; so each batch is also copied
once into a staging buffer, as a copy to a GPU would. The floor is a plain ``readinto`` of the same files into such a buffer.
"Cold" means that the kernel was asked to drop the files from its cache before each pass (``posix_fadvise``).

PyG's samplers, which make a new subgraph for every batch of seeds, are a second table.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from bench.graphs import ENTITIES, Planted, hetero
from bench.measure import CLOCK, clock, interleave, median, ratio, warm_up
from bench.table import Table
from hasp.data import HASPData
from hasp.graph import Graph
from hasp.load.loader import HASPLoader
from hasp.load.merge import merge
from hasp.parallel import cores
from hasp.schema import EdgeType, Schema
from hasp.store.read import FolderStore

__all__ = ["finish", "run"]

SIZES = {
    "small": (Planted(2_000, 6_000), (8, 4), 8, 2, 2_000),
    "full": (Planted(1_000_000, 5_000_000), (64, 8), 64, 5, 0),
}
FANOUT = (10, 10)
SEEDS = 1024


def run(size: str = "full") -> list[Table]:
    """Both tables."""
    spec, num_parts, features, repeats, titles = SIZES[size]
    warm_up()
    torch.set_num_threads(1)  # as in every worker of a DataLoader
    try:
        return [_disk(spec, num_parts, features, repeats), _samplers(titles, repeats)]
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


def _samplers(titles: int, repeats: int) -> Table:
    """Supervision EELs and message edges per second on a catalogue of real size; movies where it is at hand."""
    data, label, link = _catalogue(titles)
    table = Table(
        "samplers",
        f"Batches for link prediction in memory ({label}; {sum(data[e].num_edges for e in data.edge_types):,} edges)",
        ("by", "supervision EELs (seeds) per second", "message edges per second", "batches"),
        notes=[
            f"PyG's samplers: fan-out {'+'.join(map(str, FANOUT))}, batches of {SEEDS:,}, no workers; NeighborLoader and",
            "HGTLoader count seed entities. HASPLoader: every EEL of a part supervises, one negative each, or none where no",
            "supervision is drawn (as our default objective has it). No model runs.",
        ],
    )
    parts = HASPData(data, Schema(entity="title"), num_parts=8, log=False)
    limit = 4 if titles else 12
    made: dict[str, Callable[[], Iterable[Any]]] = {
        f"HASPLoader, {q} of 8 parts per batch": partial(
            HASPLoader, parts, batch_size=q, edge_label_index=(link, None), neg_sampling="binary"
        )
        for q in (1, 4)
    }
    made["HASPLoader, 1 of 8 parts per batch, no supervision drawn"] = partial(HASPLoader, parts, batch_size=1)
    made["the same, ids as stored: no supervision drawn, nothing copied"] = partial(
        HASPLoader, parts, batch_size=1, index_dtype=None
    )
    if importlib.util.find_spec("torch_sparse") is None:
        table.notes.append("PyG's samplers were left out: they need torch-sparse, which is not installed.")
    else:
        made |= _peers(data, link)
    counted: dict[str, list[tuple[float, float]]] = {name: [] for name in made}

    def clocked(name: str) -> float:
        loader = iter(made[name]())
        start = time.perf_counter()
        seeds = messages = 0
        for batch in islice(loader, limit):
            seeds += _seeds(batch, name, link)
            messages += sum(batch[e].edge_index.size(1) for e in batch.edge_types)
        elapsed = time.perf_counter() - start
        counted[name].append((seeds / elapsed, messages / elapsed))
        return elapsed

    interleave({name: partial(clocked, name) for name in made}, repeats)
    for name, each in counted.items():
        table.add(
            by=name,
            **{
                "supervision EELs (seeds) per second": median([a for a, _ in each]),
                "message edges per second": median([b for _, b in each]),
            },
            batches=limit if name in PEERS else f"up to {limit}",
            runs=each,
        )
    finish(table)
    return table


def finish(table: Table) -> None:
    """Set the batches of the second table beside those of PyG's fastest sampler."""
    if table.name != "samplers":
        table.beside = ("share of a plain read",)
        return
    column = "message edges per second"
    peers = [row[column] for row in table.rows if row["by"] in PEERS]
    table.columns = [c for c in table.columns if c != _TIMES]
    table.columns.insert(table.columns.index(column) + 1, _TIMES)
    table.beside = (_TIMES,)
    for row in table.rows:
        row[_TIMES] = row[column] / max(peers) if peers else None


_TIMES = "edges: times PyG's fastest"
PEERS = ("LinkNeighborLoader", "NeighborLoader", "HGTLoader")


def _seeds(batch: Any, name: str, link: EdgeType) -> int:
    if "no supervision" in name:
        return int(batch[link].edge_index.size(1))
    found = batch[link]
    if "edge_label" in found:
        return int((found.edge_label > 0).sum())  # positives
    return int(batch["title"].batch_size)


def _peers(data: Any, link: EdgeType) -> dict[str, Callable[[], Iterable[Any]]]:
    from torch_geometric.loader import HGTLoader, LinkNeighborLoader, NeighborLoader

    fan, both = list(FANOUT), {"batch_size": SEEDS, "shuffle": True}
    return {
        "LinkNeighborLoader": partial(
            LinkNeighborLoader, data, fan, edge_label_index=(link, None), neg_sampling="binary", **both
        ),
        "NeighborLoader": partial(NeighborLoader, data, fan, input_nodes="title", **both),
        "HGTLoader": partial(HGTLoader, data, [SEEDS * 4] * 2, input_nodes="title", **both),
    }


def _catalogue(titles: int) -> tuple[Any, str, EdgeType]:
    """Movies, both directions of every edge type; else titles of a planted graph."""
    from hasp.sources import open_source
    from hasp.sources.reverse import add_reverse

    shared = Path(os.environ.get("HASP_SHARED", Path(__file__).parent.parent.parent / "shared")) / "data" / "movies"
    if titles == 0 and shared.is_dir():
        return open_source(shared, reverse=True).to_hetero_data(), "movies", ("title", "co_engaged", "title")
    made = hetero(Planted(titles or 80_000, 3 * (titles or 80_000)))
    keep = ("title", "genre", "theme")
    edges = {e: made.edges[e] for e in made.edges if e[0] in keep and e[2] in keep}
    graph = Graph({t: made.num_nodes[t] for t in keep}, edges)
    return add_reverse(graph).to_hetero_data(), "planted", ("title", "linked", "title")
