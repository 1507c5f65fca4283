"""Floors: how far each kernel is from the time in which its bytes can be copied.

The floor is the bytes that must be read and written, each once, at the speed of one thread that copies memory. The page
faults of the results, which a copy into memory that was used before does not have, count against the kernel.

A floor of bytes says nothing of work: looking up, sorting and placing are not copying. So beside the CSR stand the parts of it
that nothing can leave out, each with the bytes that it must move itself: sorting both directions of all edges in cache, and
writing the neighbours to new memory. What a kernel would take if all else were free is their sum. Beside a merge stands the
copy of the same tensors into new ones, part after part, in the dtypes of the batch: a merge in which no row and no edge has to
find its place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from bench.graphs import ENTITIES, Planted, hetero, planted
from bench.measure import CLOCK, clock, copy_bandwidth, interleave, median, ratio, warm_up
from bench.table import Table
from hasp.blocks import Blocks
from hasp.build import assign, build
from hasp.config import BuildConfig
from hasp.csr import symmetric_csr
from hasp.graph import Graph
from hasp.kernels.csr import SHIFT
from hasp.layout import Layout
from hasp.load.merge import merge
from hasp.load.store import Store
from hasp.parallel import blocks, cores
from hasp.parallel import run as run_threads
from hasp.rows import take_rows
from hasp.schema import Roles, Schema
from hasp.split import split

__all__ = ["run"]

SIZES = {"small": (Planted(2_000, 6_000), 4, 8, 2), "full": (Planted(1_000_000, 5_000_000), 64, 64, 5)}
JOINED = 4
DTYPES: dict[str, torch.dtype | None] = {"int64": torch.int64, "ids as stored": None}
MERGE, COPY = f"merge {JOINED} parts at a time, {{}}", f"of it: copy the tensors of {JOINED} parts, {{}}"

BESIDE = ("floor [s]",)
"""Set a row beside its floor."""


def run(size: str = "full") -> list[Table]:
    """Every kernel on one thread and on all."""
    spec, num_parts, features, repeats = SIZES[size]
    warm_up()
    torch.set_num_threads(1)
    try:
        return [_floors(spec, num_parts, features, repeats)]
    finally:
        torch.set_num_threads(cores())


def _floors(spec: Planted, num_parts: int, features: int, repeats: int) -> Table:
    graph = hetero(spec, features=features)
    roles = Schema(entity=ENTITIES).resolve(graph.num_nodes, graph.edges)
    config = BuildConfig(num_parts=num_parts, backend="metis")
    labels = assign(graph, roles, config, split(graph, roles))
    layout = Layout.make(labels, num_parts)
    tasks: dict[str, tuple[int, Callable[[int], Any]]] = {
        "symmetrise + coalesce + CSR": _csr(spec),
        "of it: sort the keys, bucket by bucket": _sort(spec),
        "of it: write the neighbours to new memory": _write(spec),
        "bucket + relabel + sort by destination": _bucket(graph, roles, layout),
        "gather features of all parts": _gather(graph, layout),
    }
    store = build(graph, roles, config)
    for words, dtype in DTYPES.items():
        tasks |= {MERGE.format(words): _merge(store, dtype), COPY.format(words): _copy(store, dtype)}
    threads = {"1 thread": 1, f"{cores()} threads": 0}
    contenders = {
        f"{name}|{words}": partial(_clocked, task, n) for name, (_, task) in tasks.items() for words, n in threads.items()
    }
    copy_bandwidth()
    times = interleave(contenders, repeats)
    speed = copy_bandwidth()
    table = Table(
        "floors",
        f"Kernels beside their floor ({spec.nodes:,} entities, {spec.edges:,} EELs, {features} floats, {num_parts} parts)",
        (
            "kernel",
            "MB that must move",
            "floor [s]",
            *(f"{w} [s]" for w in threads),
            *(f"{w}: times the floor" for w in threads),
        ),
        notes=[
            f"Medians of {repeats} interleaved rounds. Copying moves {speed / 1e9:.1f} GB/s (read and written) on one thread.",
            "Results are the same bytes at any number of threads. A merge runs on one thread: workers are its threads.",
        ],
        beside=BESIDE,
    )
    if CLOCK == "cpu":
        table.notes.append("Seconds are CPU seconds, summed over threads: more threads cannot make them fewer.")
    for words in DTYPES:
        share = ratio(times[f"{MERGE.format(words)}|1 thread"], times[f"{COPY.format(words)}|1 thread"])
        table.notes.append(f"A merge, {words}, takes {share:.2g} times the copy of the same tensors.")
    for name, (moved, _) in tasks.items():
        runs = {words: times[f"{name}|{words}"] for words in threads}
        floor = moved / speed
        table.add(
            kernel=name,
            runs=runs,
            **{"MB that must move": moved / 1e6, "floor [s]": floor},
            **{f"{w} [s]": median(each) for w, each in runs.items()},
            **{f"{w}: times the floor": median(each) / floor for w, each in runs.items()},
        )
    return table


def _clocked(task: Callable[[int], Any], threads: int) -> float:
    start = clock()
    kept = task(threads)
    elapsed = clock() - start
    assert kept is not None
    return elapsed


def _csr(spec: Planted) -> tuple[int, Callable[[int], Any]]:
    """Two int64 ids read per EEL, two int32 neighbours and the row pointers written."""
    src, dst, _ = planted(spec)
    mark = np.zeros(spec.nodes, dtype=np.bool_)  # as a build does: entities without an EEL are no rows
    mark[src] = mark[dst] = True
    indptr, indices = symmetric_csr([(src, dst, 0, 0)], mark)
    moved = src.nbytes + dst.nbytes + mark.nbytes + indptr.nbytes + indices.nbytes
    return moved, lambda threads: symmetric_csr([(src, dst, 0, 0)], mark, threads)


def _sort(spec: Planted) -> tuple[int, Callable[[int], Any]]:
    """Two keys of 32 bits per EEL (to 4 million entities) read and written: buckets are copied into the cache and sorted."""
    keys = np.random.default_rng(0).integers(0, 2**32, 2 * spec.edges, dtype=np.uint32)
    size = max(1, keys.size >> max(0, (spec.nodes - 1).bit_length() - SHIFT))

    def sort(low: int) -> int:
        bucket = keys[low : low + size].copy()
        bucket.sort()
        return bucket.size

    return 2 * keys.nbytes, lambda threads: run_threads(sort, range(0, keys.size, size), threads)


def _write(spec: Planted) -> tuple[int, Callable[[int], Any]]:
    """Two int32 per EEL written."""
    count = 2 * spec.edges
    todo = blocks(count)

    def task(threads: int) -> Any:
        out = np.empty(count, dtype=np.int32)
        run_threads(lambda block: out[block[0] : block[1]].fill(1), todo, threads)
        return out

    return 4 * count, task


def _bucket(graph: Graph, roles: Roles, layout: Layout) -> tuple[int, Callable[[int], Any]]:
    """Every id of the source read, part and row of every entity read, ``edge_index`` and ``e_id`` of the parts written."""
    plain = Graph(graph.num_nodes, graph.edges)

    def task(threads: int) -> Any:
        blocks = Blocks.make(plain, roles, layout, threads)
        return run_threads(lambda p: [b.edges(p) for b in blocks.buckets.values()], range(layout.num_parts), threads)

    written = sum(e.edge_index.nbytes + e.e_id.nbytes for part in task(1) for e in part)
    read = sum(a.nbytes + b.nbytes for a, b in graph.edges.values())
    return read + written + sum(t.part.nbytes + t.local.nbytes for t in layout.types.values()), task


def _gather(graph: Graph, layout: Layout) -> tuple[int, Callable[[int], Any]]:
    """Every row read and written."""
    todo = [
        (graph.node_attrs[t]["x"], where.n_id[where.ptr[p] : where.ptr[p + 1]])
        for t, where in layout.types.items()
        for p in range(layout.num_parts)
    ]

    def task(threads: int) -> Any:
        return run_threads(lambda one: take_rows(one[0], torch.from_numpy(one[1])), todo, threads)

    return sum(2 * x.nbytes for x in {id(x): x for x, _ in todo}.values()), task


def _merge(store: Store, dtype: torch.dtype | None) -> tuple[int, Callable[[int], Any]]:
    """Every tensor of the parts read, every tensor of the batches written."""

    def task(threads: int) -> Any:
        return sum(merge(store, parts, index_dtype=dtype).part_id.numel() for parts in _steps(store))

    return _moved(store, dtype), task


def _copy(store: Store, dtype: torch.dtype | None) -> tuple[int, Callable[[int], Any]]:
    """The same bytes, but for what a batch has of the shared block and the owners of its entities."""
    loaded = [store.part(p).to_tensors() for p in range(store.manifest.num_parts)]

    def task(threads: int) -> Any:
        return sum(len([_joined(name, [loaded[p] for p in parts], dtype) for name in loaded[0]]) for parts in _steps(store))

    return _moved(store, dtype), task


def _joined(name: str, parts: list[dict[str, torch.Tensor]], dtype: torch.dtype | None) -> torch.Tensor:
    """A tensor of several parts, one part after the other."""
    values = [part[name] for part in parts]
    dim = int(name.startswith("edge_index/"))
    shape = list(values[0].shape)
    shape[dim] = sum(value.size(dim) for value in values)
    ids = name.startswith(("edge_index/", "e_id/", "n_id/"))
    out = torch.empty(shape, dtype=dtype if dtype is not None and ids else values[0].dtype)
    at = 0
    for value in values:
        out.narrow(dim, at, value.size(dim)).copy_(value)
        at += value.size(dim)
    return out


def _steps(store: Store) -> list[range]:
    return [range(p, min(p + JOINED, store.manifest.num_parts)) for p in range(0, store.manifest.num_parts, JOINED)]


def _moved(store: Store, dtype: torch.dtype | None) -> int:
    written = sum(_bytes(merge(store, parts, index_dtype=dtype)) for parts in _steps(store))
    return written + sum(store.part(p).num_bytes for p in range(store.manifest.num_parts))


def _bytes(batch: Any) -> int:
    """Of distinct tensors: ``input_id`` is ``n_id``."""
    found = {v.data_ptr(): v.nbytes for s in batch.stores for v in s.values() if isinstance(v, torch.Tensor) and v.nbytes}
    return sum(found.values())
