"""CSR: an edge list in random order -> the symmetric, coalesced, sorted CSR that METIS gets.

Peers: ``torch_geometric.utils.to_undirected``, SciPy, and NumPy's sort of 64-bit keys (vectorised with AVX-512 where there is).
All make the same ``indptr`` and ``indices``, which is asserted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from scipy import sparse

from bench.graphs import Planted, planted
from bench.measure import Peak, call_in_child, clock, copy_bandwidth, interleave, median, ratio, warm_up
from bench.table import Table
from hasp.csr import symmetric_csr
from hasp.parallel import cores

__all__ = ["CONTENDERS", "peak", "run"]

BESIDE = ("times the floor",)
SIZES = {
    "small": ([Planted(1_000, 4_000)], 1),
    "full": ([Planted(100_000, 500_000), Planted(1_000_000, 5_000_000)], 5),
    "large": ([Planted(4_000_000, 30_000_000)], 3),
}
Result = tuple[Any, Any]


def _ours(src: Any, dst: Any, n: int, threads: int) -> Result:
    return symmetric_csr([(src, dst, 0, 0)], np.ones(n, dtype=np.bool_), threads)


def _pyg(src: Any, dst: Any, n: int, threads: int) -> Result:
    from torch_geometric.utils import to_undirected
    from torch_geometric.utils.sparse import index2ptr

    torch.set_num_threads(threads)
    index = to_undirected(torch.from_numpy(np.stack([src, dst])), num_nodes=n)
    return index2ptr(index[0], n).numpy(), index[1].numpy()


def _scipy(src: Any, dst: Any, n: int, threads: int) -> Result:
    row, col = np.concatenate([src, dst]), np.concatenate([dst, src])
    matrix = sparse.coo_matrix((np.ones(row.size, dtype=np.int8), (row, col)), shape=(n, n)).tocsr()
    matrix.sort_indices()
    matrix.sum_duplicates()
    return matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64)


def _sort(src: Any, dst: Any, n: int, threads: int) -> Result:
    key = np.concatenate([src * n + dst, dst * n + src])
    key.sort()
    first = np.empty(key.size, dtype=np.bool_)
    first[:1] = True
    np.not_equal(key[1:], key[:-1], out=first[1:])
    key = key[first]
    row = key // n
    indptr = np.zeros(n + 1, dtype=np.int64)
    np.cumsum(np.bincount(row, minlength=n), out=indptr[1:])
    return indptr, key - row * n


CONTENDERS: dict[str, tuple[Callable[[Any, Any, int, int], Result], int]] = {
    "hasp, 1 thread": (_ours, 1),
    "hasp, 2 threads": (_ours, 2),
    "to_undirected, 1 thread": (_pyg, 1),
    "to_undirected, 2 threads": (_pyg, 2),
    "SciPy": (_scipy, 1),
    "NumPy sort": (_sort, 1),
}


def run(size: str = "full") -> list[Table]:
    """Every contender on every graph; peak memory in a process of its own."""
    specs, repeats = SIZES[size]
    warm_up()
    table = Table(
        "csr",
        "Symmetrise, coalesce and sort an edge list",
        ("EELs", "by", "seconds", "hasp on as many threads is faster by", "times the floor", "peak bytes per EEL"),
        notes=[
            f"Medians of {repeats} interleaved rounds; results are equal.",
            "Floor: 16 bytes read per EEL, 8 written per EEL and 8 per entity, at the speed of one thread that copies memory.",
        ],
        beside=BESIDE,
    )
    for spec in specs:
        src, dst, _ = planted(spec)
        first = _ours(src, dst, spec.nodes, 1)
        for name, (make, threads) in CONTENDERS.items():
            result = make(src, dst, spec.nodes, threads)
            assert all(np.array_equal(a, b) for a, b in zip(first, result, strict=True)), f"{name} made another graph"
        times = interleave({k: _clocked(v, src, dst, spec.nodes) for k, v in CONTENDERS.items()}, repeats)
        copy_bandwidth()
        moved = 16 * spec.edges + first[0].nbytes + first[1].nbytes
        with TemporaryDirectory() as folder:
            path = Path(folder) / "edges.npy"
            np.save(path, np.stack([src, dst]))
            peaks = {
                name: call_in_child("bench.csr:peak", path=str(path), n=spec.nodes, name=name)
                for name, (_, threads) in CONTENDERS.items()
                if threads == 1
            }
        for name, (_, threads) in CONTENDERS.items():
            ours = times[f"hasp, {threads} thread" + "s" * (threads > 1)]
            held = peaks.get(name, {}).get("peak")
            table.add(
                EELs=spec.edges,
                by=name,
                seconds=median(times[name]),
                **{
                    "hasp on as many threads is faster by": None if name.startswith("hasp") else ratio(times[name], ours),
                    "peak bytes per EEL": None if held is None else held / spec.edges,
                },
                bytes_that_move=moved,
                runs=times[name],
            )
    for row in table.rows:
        row["times the floor"] = row["seconds"] / (row["bytes_that_move"] / copy_bandwidth())
    return [table]


def peak(path: str, n: int, name: str) -> dict[str, Any]:
    """Peak memory of one contender, above its input. Runs in a fresh process."""
    make, threads = CONTENDERS[name]
    make(np.array([0, 1, 1]), np.array([1, 2, 0]), 3, threads)  # imports and compilation are not the contender's
    src, dst = np.load(path)
    with Peak() as held:
        make(src, dst, n, threads)
    return {"peak": held.bytes}


def _clocked(contender: tuple[Callable[..., Result], int], src: Any, dst: Any, n: int) -> Callable[[], float]:
    make, threads = contender

    def clocked() -> float:
        start = clock()
        make(src, dst, n, threads)
        elapsed = clock() - start
        torch.set_num_threads(cores())
        return elapsed

    return clocked
