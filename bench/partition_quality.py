"""Partition quality: every backend's cut, balance, time, memory and kept EELs, on the graphs here or on your own.

``python -m bench partition-quality GRAPH [--parts 8,64] [--backends metis,multilevel]`` measures one graph: a folder of
tables, a catalogue, an ``.npz`` with ``indptr`` and ``indices``, or a made-up one (``grid:900``, ``planted:1000000:5000000``).

Each run is a fresh process that first compiles what it needs on a small graph. Rounds are interleaved and every ratio is one
of the same round; METIS is the peer.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench.measure import Peak, call_in_child, median
from bench.partition_graphs import KINDS, csr_of
from bench.table import Table
from hasp.report import DEGREE_GROUPS

__all__ = ["SIZES", "compare", "main", "measure", "run", "warm"]

BOUNDS = ((1, 3), (4, 6), (7, None))  # of DEGREE_GROUPS
BACKENDS = ("metis", "multilevel", "stream", "hash")
# graphs, parts, rounds
SIZES: dict[str, tuple[tuple[str, ...], tuple[int, ...], int]] = {
    "small": (("planted:2000:10000", "grid:30"), (8,), 1),
    "full": (
        (
            "planted:1000000:5000000",
            "planted:300000:3000000:50",
            "movies",
            "books",
            "grid:900",
            "attached:200000:6",
            "recursive:18:2000000",
            "regular:200000:10",
        ),
        (8, 64),
        1,
    ),
}
_COLUMNS = (
    "graph",
    "EELs",
    "parts",
    "backend",
    "seconds",
    "CPU seconds",
    "CPU: faster than METIS",
    "cut",
    "cut / METIS's",
    "entities: largest / mean",
    "edges: largest / mean",
    "bytes per EEL",
)


def run(size: str = "full") -> list[Table]:
    """The built-in graphs."""
    graphs, parts, rounds = SIZES[size]
    table = _table("The graphs of this benchmark")
    for graph in graphs:
        source = _real(graph)
        if source is None:
            table.notes.append(f"{graph} was left out: set HASP_SHARED to the folder that holds data/{graph}.")
            continue
        compare(table, source, graph, parts, BACKENDS, rounds)
    return [table]


def main(arguments: Sequence[str]) -> Table:
    """The stand-alone command."""
    spelled = "; ".join(text for _, text in KINDS.values())
    parser = argparse.ArgumentParser(prog="python -m bench partition-quality", description="Compare partitioners on a graph.")
    parser.add_argument("graph", metavar="GRAPH", help=f"a folder, an .npz with indptr and indices, or one of: {spelled}")
    parser.add_argument("--parts", default="8,64", help="numbers of parts, with commas")
    parser.add_argument("--backends", default=",".join(BACKENDS), help="with commas; kaminpar and metis32 are extras")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each, interleaved")
    given = parser.parse_args(arguments)
    table = _table(f"Partitioners on {given.graph}")
    parts = tuple(int(k) for k in given.parts.split(","))
    compare(table, given.graph, given.graph, parts, tuple(given.backends.split(",")), given.rounds)
    return table


def compare(table: Table, graph: str, label: str, parts: Sequence[int], backends: Sequence[str], rounds: int) -> None:
    """Add a row per number of parts and backend."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "graph.npz"
        indptr, indices = csr_of(graph)
        np.savez(path, indptr=indptr, indices=indices)
        num_edges = indices.size // 2
        del indptr, indices
        for num_parts in parts:
            found: dict[str, list[dict[str, Any]]] = {name: [] for name in backends}
            for i in range(rounds):
                for name in list(backends)[:: 1 if i % 2 == 0 else -1]:
                    task: dict[str, Any] = {"path": str(path), "backend": name, "num_parts": num_parts, "seed": i}
                    found[name].append(call_in_child("bench.partition_quality:measure", **task))
            for name, results in found.items():
                table.add(graph=label, EELs=num_edges, parts=num_parts, **_row(name, results, found.get("metis", [])))


def _row(name: str, results: list[dict[str, Any]], peers: list[dict[str, Any]]) -> dict[str, Any]:
    bad = next((r["error"] for r in results if "error" in r), None)
    if bad is not None:
        return {"backend": f"{name}: {bad}"}
    pairs = [(r, p) for r, p in zip(results, peers, strict=False) if "error" not in p]
    row: dict[str, Any] = {
        "backend": name,
        "seconds": median([r["seconds"] for r in results]),
        "CPU seconds": median([r["cpu"] for r in results]),
        "CPU: faster than METIS": median([p["cpu"] / r["cpu"] for r, p in pairs]) if pairs else None,
        "cut": median([r["cut"] for r in results]),
        "cut / METIS's": median([r["cut"] / (p["cut"] or 1.0) for r, p in pairs]) if pairs else None,
        "entities: largest / mean": median([r["nodes"] for r in results]),
        "edges: largest / mean": median([r["edges"] for r in results]),
        "bytes per EEL": None if results[0]["bytes"] is None else median([r["bytes"] for r in results]),
    }
    for i, group in enumerate(DEGREE_GROUPS):
        shares = [r["kept"][i] for r in results if r["kept"][i] is not None]
        row[f"kept, degree {group}"] = f"{median(shares):.1%}" if shares else None
    return row


def measure(path: str, backend: str, num_parts: int, seed: int) -> dict[str, Any]:
    """One run of one backend, in this process."""
    from hasp.cut import cut_linked, edge_cut

    with np.load(path, allow_pickle=False) as file:
        indptr, indices = file["indptr"], file["indices"]
    warm(backend)
    with Peak() as held:
        start, cpu = time.perf_counter(), _cpu()
        part = cut_linked(indptr, indices, num_parts, backend, None, None, 0.03, seed)
        seconds, cpu = time.perf_counter() - start, _cpu() - cpu
    num_edges = indices.size // 2
    row = np.repeat(np.arange(part.size, dtype=np.int32), np.diff(indptr))
    inside = np.bincount(row[part[row] == part[indices]], minlength=part.size)
    degree = np.diff(indptr)
    edges = np.bincount(part, inside, num_parts)
    kept = []
    for low, high in BOUNDS:
        group = (degree >= low) & (degree <= (degree.max(initial=0) if high is None else high))
        kept.append(float(inside[group].sum() / degree[group].sum()) if group.any() else None)
    return {
        "seconds": seconds,
        "cpu": cpu,
        "cut": edge_cut(indptr, indices, part) / max(num_edges, 1),
        "nodes": float(np.bincount(part, minlength=num_parts).max() * num_parts / part.size),
        "edges": float(edges.max() / max(edges.mean(), 1e-12)),
        "bytes": None if held.bytes is None else held.bytes / max(num_edges, 1),
        "kept": kept,
    }


def warm(backend: str) -> None:
    """Compile, on a graph of the same dtypes that is small but not left to METIS."""
    from hasp.backends import BACKENDS as known
    from hasp.backends import Task
    from hasp.backends.multilevel import Settings, multilevel

    task = Task(*csr_of("planted:3000:15000"), 4)
    if backend in ("multilevel", "auto"):
        multilevel(task, Settings(small=0, coarse=200, per_part=10, share=2))
    elif backend in known:
        known[backend](task)


def _cpu() -> float:
    """Of this process and of those it waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _table(title: str) -> Table:
    columns = (*_COLUMNS, *(f"kept, degree {group}" for group in DEGREE_GROUPS))
    notes = [
        "Cut: share of the EELs whose ends lie in different parts. Kept, by degree: share of the neighbours of entities with "
        "so many EELs that are in the same part. Edges: kept EELs of the fullest part over the mean. Bytes: most memory "
        "beside the int64 CSR that every backend is given.",
        "CPU seconds are summed over threads: multilevel and stream use all cores, the others one.",
    ]
    return Table("partition_quality", title, columns, notes=notes)


def _real(graph: str) -> str | None:
    if ":" in graph:
        return graph
    found = Path(os.environ.get("HASP_SHARED", Path(__file__).parent.parent.parent / "shared")) / "data" / graph
    return str(found) if found.is_dir() else None
