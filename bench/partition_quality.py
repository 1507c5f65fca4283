"""Partition quality: every backend's cut, balance, time, memory and kept EELs, as a table and as a picture.

The built-in graphs are here; :mod:`bench.partition_command` measures yours (``python -m bench partition-quality GRAPH``).

Each run is a fresh process that first compiles what it needs on a small graph. Rounds are interleaved and every ratio is one
of the same round; METIS is the peer.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench.dots import Dots, Strip, draw
from bench.measure import Peak, call_in_child, median
from bench.partition_graphs import csr_of
from bench.table import Table
from hasp.report import DEGREE_GROUPS

__all__ = ["BACKENDS", "EXTRAS", "SIZES", "compare", "empty", "finish", "for_readme", "measure", "picture", "run", "warm"]

BOUNDS = ((1, 3), (4, 6), (7, None))  # of DEGREE_GROUPS
BACKENDS = ("metis", "metis32", "kaminpar", "multilevel", "stream", "hash")
EXTRAS = {"metis32": "cmeel-metis", "kaminpar": "kaminpar"}
"""Backend that needs an extra -> the distribution that it brings."""
# graphs, parts, rounds
SIZES: dict[str, tuple[tuple[str, ...], tuple[int, ...], int]] = {
    "small": (("planted:2000:10000", "grid:30"), (8,), 1),
    "full": (
        (
            "books",
            "movies",
            "planted:1000000:5000000",
            "planted:300000:3000000:50",
            "recursive:18:2000000",
            "attached:200000:6",
            "regular:200000:10",
            "grid:900",
        ),
        (8, 64),
        1,
    ),
}
SHOWN = {
    "books": "books",
    "movies": "movies",
    "planted:1000000:5000000": "communities",
    "recursive:18:2000000": "power law",
}
"""Graphs of the README -> what they are called there."""
PICTURE = "docs/results/partition-quality.svg"  # below the root of the repository
_COLUMNS = (
    "graph",
    "EELs",
    "parts",
    "backend",
    "cut",
    "cut / METIS's",
    "entities: largest / mean",
    "edges: largest / mean",
    "seconds",
    "CPU seconds",
    "CPU: faster than METIS",
    "bytes per EEL",
    *(f"kept, degree {group}" for group in DEGREE_GROUPS),
)
_NOTES = (
    "Cut: share of the EELs whose ends lie in different parts. Kept, by degree: share of the neighbours of entities with "
    "so many EELs that are in the same part. Edges: kept EELs of the fullest part over the mean. Bytes: most memory "
    "beside the int64 CSR that every backend is given.",
    "CPU seconds are summed over threads: multilevel and stream use all cores, the others one.",
)


def run(size: str = "full") -> list[Table]:
    """The built-in graphs."""
    graphs, parts, rounds = SIZES[size]
    table = empty("Partitioners on eight graphs, METIS beside them")
    backends = tuple(b for b in BACKENDS if installed(b))
    left_out = [f"{b} (pip install 'hasp-pyg[{b}]')" for b in BACKENDS if b not in backends]
    if left_out:
        table.notes.append(f"Not installed: {', '.join(left_out)}.")
    for graph in graphs:
        source = _real(graph)
        if source is None:
            table.notes.append(f"{graph} was left out: set HASP_SHARED to the folder that holds data/{graph}.")
            continue
        compare(table, *csr_of(source), graph, parts, backends, rounds)
    return [table]


def installed(backend: str) -> bool:
    """Whether the extra that a backend needs is there; other names are the partitioner's to judge."""
    return backend not in EXTRAS or any(metadata.distributions(name=EXTRAS[backend]))


def for_readme(row: dict[str, Any]) -> bool:
    """The table shows the larger number of parts, the picture both."""
    return bool(row["parts"] == SIZES["full"][1][-1])


def finish(table: Table) -> None:
    """What the README shows: two catalogues, a graph of communities and one with a power law; the history keeps all eight."""
    table.rows = [{**row, "graph": SHOWN[row["graph"]]} for row in table.rows if row["graph"] in SHOWN]
    table.title = "Partitioners, METIS beside them, on two catalogues and two made-up graphs"
    table.columns = [c for c in _COLUMNS if c not in ("parts", "seconds")]
    table.beside = ("cut / METIS's",)
    rows = [row for row in table.rows if "kept" in row]
    if rows:
        table.picture, table.drawing = PICTURE, picture("Partitioners beside METIS", rows)
        table.notes.insert(0, f"In {SIZES['full'][1][-1]} parts; the picture shows {SIZES['full'][1][0]}, too.")


def picture(title: str, rows: Sequence[dict[str, Any]]) -> str:
    """A strip per graph, a line per backend, a dot per number of parts; kept EELs for the most parts alone."""
    parts = sorted({row["parts"] for row in rows})
    strips = []
    for graph in dict.fromkeys(row["graph"] for row in rows):
        own = {(row["backend"], row["parts"]): row for row in rows if row["graph"] == graph}
        names = list(dict.fromkeys(backend for backend, _ in own))
        first = next(iter(own.values()))

        def of(column: str, own: dict[Any, Any] = own, names: list[str] = names) -> dict[str, Sequence[float | None]]:
            return {name: [own.get((name, k), {}).get(column) for k in parts] for name in names}

        kept = {name: own.get((name, parts[-1]), {}).get("kept") or () for name in names}
        panels = [
            Dots("cut", of("cut"), _percent),
            Dots("entities: largest / mean", of("entities: largest / mean"), _number, low=1.0),
            Dots("EELs kept: largest / mean", of("edges: largest / mean"), _number, low=1.0),
            Dots("CPU seconds", of("CPU seconds"), _number, log=True),
            Dots("bytes per EEL", of("bytes per EEL"), _number, log=True),
            Dots(f"EELs kept of {parts[-1]} parts, by degree", kept, _percent, kinds=DEGREE_GROUPS),
        ]
        strips.append(Strip(f"{graph}: {first['EELs']:,} EELs", names, panels))
    return draw(title, strips, [f"{k} parts" for k in parts])


def _percent(value: float) -> str:
    return f"{100 * value:.3g}%"


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def compare(
    table: Table,
    indptr: Any,
    indices: Any,
    label: str,
    parts: Sequence[int],
    backends: Sequence[str],
    rounds: int,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Add a row per number of parts and backend.

    Args:
        table: gets the rows.
        indptr, indices: the clean symmetric CSR.
        label: of the graph.
        parts: numbers of parts.
        backends: names.
        rounds: runs of each.
        say: hears what begins.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "graph.npz"
        np.savez(path, indptr=indptr, indices=indices)
        num_edges = indices.size // 2
        del indptr, indices
        for num_parts in parts:
            found: dict[str, list[dict[str, Any]]] = {name: [] for name in backends}
            for i in range(rounds):
                for name in list(backends)[:: 1 if i % 2 == 0 else -1]:
                    say(f"{num_parts} parts by {name}" + (f", round {i + 1} of {rounds}" if rounds > 1 else ""))
                    task: dict[str, Any] = {"path": str(path), "backend": name, "num_parts": num_parts, "seed": i}
                    found[name].append(call_in_child("bench.partition_quality:measure", **task))
            for name, results in found.items():
                table.add(graph=label, EELs=num_edges, parts=num_parts, **_row(name, results, found.get("metis", [])))
                if "error" in table.rows[-1]:
                    table.notes.append(f"{name}, {num_parts} parts: {table.rows[-1]['error'].removeprefix(_ERROR)}.")


_ERROR = "hasp.errors.HaspError: "


def _row(name: str, results: list[dict[str, Any]], peers: list[dict[str, Any]]) -> dict[str, Any]:
    bad = next((r["error"] for r in results if "error" in r), None)
    if bad is not None:
        return {"backend": name, "error": bad}
    pairs = [(r, p) for r, p in zip(results, peers, strict=False) if "error" not in p]
    row: dict[str, Any] = {
        "backend": name,
        "seconds": median([r["seconds"] for r in results]),
        "CPU seconds": median([r["cpu"] for r in results]),
        "CPU: faster than METIS": median([p["cpu"] / max(r["cpu"], 1e-9) for r, p in pairs]) if pairs else None,
        "cut": median([r["cut"] for r in results]),
        "cut / METIS's": median([r["cut"] / p["cut"] if p["cut"] else 1.0 + r["cut"] for r, p in pairs]) if pairs else None,
        "entities: largest / mean": median([r["nodes"] for r in results]),
        "edges: largest / mean": median([r["edges"] for r in results]),
        "bytes per EEL": None if results[0]["bytes"] is None else median([r["bytes"] for r in results]),
    }
    kept: list[float | None] = []
    for i, group in enumerate(DEGREE_GROUPS):
        shares = [r["kept"][i] for r in results if r["kept"][i] is not None]
        kept.append(median(shares) if shares else None)
        row[f"kept, degree {group}"] = f"{median(shares):.1%}" if shares else None
    return {**row, "kept": kept}


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


def empty(title: str) -> Table:
    """Without rows yet."""
    return Table("partition_quality", title, _COLUMNS, notes=list(_NOTES), beside=("cut / METIS's",))


def _real(graph: str) -> str | None:
    if ":" in graph:
        return graph
    found = Path(os.environ.get("HASP_SHARED", Path(__file__).parent.parent.parent / "shared")) / "data" / graph
    return str(found) if found.is_dir() else None
