"""Pipeline: a HeteroData in memory -> parts on disk, by three routes, each in a fresh process.

* hasp: ``HASPData(data, schema, num_parts=..., root=...)``. It also checks and fingerprints the input, hashes what it writes
  and syncs it to the disk, which the others do not.
* multilevel: the same with this library's own partitioner in METIS's place.
* loop: what a careful PyG user writes. ``to_undirected`` on the entity-entity links, METIS (the same library, options and
  graph: the labels are the same, which is asserted), then ``data.subgraph`` and ``torch.save``, part after part.
* Partitioner: ``torch_geometric.distributed.Partitioner``, the only route of PyG that takes a ``HeteroData``. It runs METIS on
  the homogenised graph. METIS comes from pymetis behind PyG's own entry point, since PyG's build of it has no wheel for current
  torch; that stand-in symmetrises the graph first, which METIS needs and PyG leaves out.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from bench.graphs import ENTITIES, Planted, hetero, load, save
from bench.measure import Peak, call_in_child, median, warm_up
from bench.table import Table
from hasp.graph import Graph
from hasp.schema import Schema

__all__ = ["finish", "hasp", "loop", "multilevel", "partitioner", "run"]

FEATURES = 64
# graph -> (planted, features) or a catalogue's folder; numbers of parts; rounds; whether Partitioner runs, too
SIZES: dict[str, list[tuple[Planted | str, tuple[int, ...], int, bool]]] = {
    "small": [(Planted(2_000, 8_000), (4,), 1, True)],
    "full": [
        (Planted(1_000_000, 5_000_000), (16, 64), 1, True),
        ("movies", (8, 64), 3, False),
        ("books", (8, 64), 3, False),
    ],
}
PARTITIONER_SECONDS = 900


def run(size: str = "full") -> list[Table]:
    """Every route on every graph."""
    table = Table(
        "pipeline",
        "Graph in memory -> parts on disk, one run per route and round, in fresh processes, interleaved",
        (
            "graph",
            "parts",
            "route",
            "seconds",
            "CPU seconds",
            "in the partitioner",
            "all else [s]",
            "all else / partitioner",
            "peak memory [MB]",
            "written [MB]",
            "EELs kept",
        ),
    )
    with TemporaryDirectory() as folder:
        for spec, all_num_parts, rounds, with_partitioner in SIZES[size]:
            source, label = _source(spec, Path(folder))
            if source is None:
                table.notes.append(f"{label} was left out: set HASP_SHARED to the folder that holds data/{label}.")
                continue
            for num_parts in all_num_parts:
                routes = ["hasp", "multilevel", "loop"] + ["partitioner"] * (with_partitioner and num_parts == all_num_parts[0])
                _compare(table, source, label, num_parts, routes, rounds)
    finish(table)
    table.notes += [
        "hasp and the loop partition with METIS on one thread and the same options; their labels are the same.",
        "The loop's subgraphs are cut on one thread, which is faster than on two.",
        "hasp also checks and fingerprints the input, hashes every file and waits until it is on the disk.",
        f"PyG's ClusterData on a HeteroData: `{_cluster_data()}`.",
    ]
    return [table]


def finish(table: Table) -> None:
    """Set every route beside the loop of the same graph and number of parts."""
    if _ALONE not in table.notes:
        table.notes.insert(0, _ALONE)
    columns = [c for c in table.columns if c not in _BESIDE]
    at = columns.index("seconds") + 1
    table.columns, table.beside = [*columns[:at], *_BESIDE, *columns[at:]], _BESIDE
    peers = {(row["graph"], row["parts"]): row for row in table.rows if row["route"] == "loop"}
    for row in table.rows:
        peer = peers.get((row["graph"], row["parts"]), {})
        if "seconds" in row and "seconds" in peer:
            row["faster than the loop"] = peer["seconds"] / row["seconds"]
            held, other = row["peak memory [MB]"], peer["peak memory [MB]"]
            row["memory / the loop's"] = None if held is None or not other else held / other


_BESIDE = ("faster than the loop", "memory / the loop's")
_ALONE = "The peak of hasp leaves out METIS, which has a process of its own on large graphs; that of the loop has it."


def _compare(table: Table, source: str, label: str, num_parts: int, routes: list[str], rounds: int) -> None:
    found: dict[str, list[dict[str, Any]]] = {route: [] for route in routes}
    for i in range(rounds):
        for route in routes if i % 2 == 0 else routes[::-1]:
            limit = PARTITIONER_SECONDS if route == "partitioner" else 3600
            found[route].append(call_in_child(f"bench.pipeline:{route}", limit, source=source, num_parts=num_parts))
    digests = {r["labels"] for route in ("hasp", "loop") for r in found[route] if "labels" in r}
    assert len(digests) <= 1, f"METIS's labels differ: {digests}"
    for route, results in found.items():
        good = [r for r in results if "error" not in r]
        if not good:
            table.add(graph=label, parts=num_parts, route=f"{route}: {results[0]['error']}")
            continue
        whole, metis = (median([r[k] for r in good]) for k in ("seconds", "metis"))
        table.add(
            graph=label,
            parts=num_parts,
            route=route,
            seconds=whole,
            **{
                "CPU seconds": median([r["cpu"] for r in good]),
                "in the partitioner": f"{metis / whole:.0%}",
                "all else [s]": whole - metis,
                "all else / partitioner": median([(r["seconds"] - r["metis"]) / r["metis"] for r in good]),
                "peak memory [MB]": None if good[0]["peak"] is None else max(r["peak"] for r in good) / 1e6,
                "written [MB]": good[0]["bytes"] / 1e6,
                "EELs kept": f"{good[0]['kept']:.2%}" if "kept" in good[0] else None,
            },
            stages=[r["stages"] for r in good],
        )


def hasp(source: str, num_parts: int, backend: str = "metis") -> dict[str, Any]:
    """The route of this library."""
    from bench.partition_quality import warm
    from hasp.data import HASPData

    warm_up()
    warm(backend)
    data, schema = _data(source)
    with TemporaryDirectory() as folder:
        root = Path(folder) / "parts"
        with Peak() as held:
            start, cpu = time.perf_counter(), time.process_time()
            parts = HASPData(data, schema, num_parts=num_parts, root=root, backend=backend, log=False)
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        stages = dict((parts.report().measured or {})["seconds"])
        labels = [parts.node_part(t).numpy() for t in parts.roles.entity]
        written = _bytes(root)
        disk = _write_seconds(Path(folder) / "floor", written)
    stages["write and sync the same bytes (floor)"] = disk
    result = _result(seconds, cpu, stages["cut"], held, stages, labels, written)
    return {**result, "kept": 1 - parts.report().edge_cut}


def multilevel(source: str, num_parts: int) -> dict[str, Any]:
    """The route of this library without METIS (but for the last few thousand clusters)."""
    return hasp(source, num_parts, "multilevel")


def loop(source: str, num_parts: int) -> dict[str, Any]:
    """METIS, then ``HeteroData.subgraph`` and ``torch.save`` in a loop."""
    import pymetis
    from torch_geometric.utils import to_undirected
    from torch_geometric.utils.sparse import index2ptr

    from hasp.fill import fill
    from hasp.split import entity_offsets

    data, schema = _data(source)
    graph = Graph.from_hetero_data(data)
    roles = schema.resolve(graph.num_nodes, graph.edges)
    offsets = entity_offsets(graph, roles)
    total = sum(graph.num_nodes[t] for t in roles.entity)
    fill(np.array([0, -1], dtype=np.int32), 2, None, 0)  # compiled; the unlinked entities are filled as hasp does
    clock = _Clock()
    with TemporaryDirectory() as folder, Peak() as held:
        start, cpu = time.perf_counter(), time.process_time()
        with clock("csr"):
            index = torch.cat([data[e].edge_index + torch.tensor([[offsets[e[0]]], [offsets[e[2]]]]) for e in roles.eel], dim=1)
            index = index[:, index[0] != index[1]]
            linked = torch.zeros(total, dtype=torch.bool)
            linked[index.view(-1)] = True
            new = linked.cumsum(0) - 1
            count = int(linked.sum())
            index = to_undirected(new[index], num_nodes=count)
            indptr, indices = index2ptr(index[0], count).numpy(), index[1].contiguous().numpy()
        with clock("metis"):
            options = pymetis.Options(seed=0, ufactor=30)
            csr = pymetis.CSRAdjacency(indptr, indices)
            membership = np.asarray(pymetis.part_graph(num_parts, csr, recursive=False, options=options)[1], dtype=np.int32)
        with clock("fill"):
            labels = np.full(total, -1, dtype=np.int32)
            labels[linked.numpy()] = membership
            labels = fill(labels, num_parts, None, 0)
            each = {t: labels[at : at + graph.num_nodes[t]] for t, at in offsets.items()}
            del index, indptr, indices, csr
        torch.set_num_threads(1)  # bench.materialise times both: one is faster, and far faster on a busy machine
        for part_id in range(num_parts):
            with clock("subgraph"):
                part = data.subgraph({t: torch.from_numpy(np.flatnonzero(v == part_id)) for t, v in each.items()})
            with clock("torch.save"):
                torch.save(part, Path(folder) / f"part-{part_id}.pt")
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        written = _bytes(Path(folder))
    return _result(seconds, cpu, clock.seconds["metis"], held, clock.seconds, list(each.values()), written)


def partitioner(source: str, num_parts: int) -> dict[str, Any]:
    """``torch_geometric.distributed.Partitioner``."""
    from torch_geometric.distributed import Partitioner

    data, _ = _data(source)
    clock = _Clock()
    _stand_in(clock)
    with TemporaryDirectory() as folder, Peak() as held:
        start, cpu = time.perf_counter(), time.process_time()
        Partitioner(data, num_parts, folder).generate_partition()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        written = _bytes(Path(folder))
    return _result(seconds, cpu, clock.seconds["metis"], held, clock.seconds, [], written)


def _stand_in(clock: _Clock) -> None:
    """pymetis as the operator ``torch_sparse::partition``, which is where PyG looks for METIS."""
    import pymetis
    import torch_geometric.typing
    from scipy import sparse

    def partition(rowptr: torch.Tensor, col: torch.Tensor, weight: Any, num_parts: int, recursive: bool) -> torch.Tensor:
        with clock("symmetrise"):
            n = rowptr.numel() - 1
            ones = np.ones(col.numel(), dtype=np.int8)
            matrix = sparse.csr_matrix((ones, col.numpy(), rowptr.numpy()), shape=(n, n))
            matrix = (matrix + matrix.T).tocsr()
            matrix.setdiag(0)
            matrix.eliminate_zeros()
        with clock("metis"):
            csr = pymetis.CSRAdjacency(matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64))
            return torch.tensor(pymetis.part_graph(num_parts, csr, recursive=recursive)[1])

    # Not through torch.library: the wheel of torch-sparse may define the same operator, without METIS behind it.
    vars(torch.ops.torch_sparse)["partition"] = partition
    torch_geometric.typing.WITH_TORCH_SPARSE = True


def _cluster_data() -> str:
    from torch_geometric.loader import ClusterData

    data = hetero(Planted(200, 600), semantic_edges=60).to_hetero_data()
    try:
        ClusterData(data, num_parts=2, log=False)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "works"


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def _source(spec: Planted | str, folder: Path) -> tuple[str | None, str]:
    if isinstance(spec, Planted):
        path = folder / f"{spec.nodes}.safetensors"
        graph = hetero(spec, features=FEATURES)
        save(graph, path)
        edges = sum(graph.num_edges(e) for e in graph.edges)
        return str(path), f"planted, {spec.nodes:,} entities, {edges:,} edges, {FEATURES} floats"
    shared = Path(os.environ.get("HASP_SHARED", Path(__file__).parent.parent.parent / "shared"))
    found = shared / "data" / spec
    return (str(found) if found.is_dir() else None), spec


def _data(source: str) -> tuple[Any, Schema]:
    if source.endswith(".safetensors"):
        return load(source).to_hetero_data(), Schema(entity=ENTITIES)
    from hasp.sources import open_source

    return open_source(source).to_hetero_data(), Schema()


def _bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def _write_seconds(path: Path, size: int) -> float:
    """Write and sync one file of that size."""
    block = np.random.default_rng(0).bytes(1 << 22)
    start = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for at in range(0, size, len(block)):
            file.write(block[: size - at])
        os.fsync(file.fileno())
    return time.perf_counter() - start


def _result(
    seconds: float, cpu: float, metis: float, held: Peak, stages: dict[str, float], labels: list[Any], written: int
) -> dict[str, Any]:
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(v).tobytes() for v in labels)).hexdigest()
    out = {"seconds": seconds, "cpu": cpu, "metis": metis, "peak": held.bytes, "stages": stages, "bytes": written}
    return {**out, "labels": digest} if labels else out
