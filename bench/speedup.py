"""Speed-up: training by more ranks, and all vectors by more processes, on a machine that may have fewer cores than those.

What limits either is the process with most to do. Its CPU seconds are measured, with all ranks there and exchanging
gradients; those of map-reduce follow from the CPU seconds of every part in every stage, handed out as they are by the pool:
the next part to whoever is free. With a core each, and none waiting for another, that is the time.
"""

from __future__ import annotations

import heapq
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from bench.curve import Curve, Panel, draw
from bench.forked import on_ranks
from bench.graphs import ENTITIES, Planted, hetero
from bench.measure import call_in_child
from bench.table import Table
from bench.wire import tcp_bytes_sent
from hasp import HASPData, HASPLoader, Schema
from hasp.sources.reverse import add_reverse
from hasp_models.mapreduce import embed_parts
from hasp_models.objectives import InfoNCE
from hasp_models.part_layers import SemanticParts
from hasp_models.semantic_gnn import SemanticGNN
from hasp_models.train import fit

__all__ = ["SIZES", "finish", "handed_out", "run"]

SIZES: dict[str, dict[str, Any]] = {
    "small": {"nodes": 600, "edges": 2_400, "parts": 8, "per_step": 4, "steps": 2, "dim": 8, "rounds": 1, "ranks": [1, 2]},
    "full": {
        "nodes": 40_000, "edges": 160_000, "parts": 24, "per_step": 12, "steps": 4, "dim": 64, "rounds": 3,
        "ranks": [1, 2, 3, 4, 6, 8],
    },
}  # fmt: skip
FASTER = "speed-up"
BESIDE = (FASTER,)
PICTURE = "docs/results/speedup.svg"
LINK = ("title", "linked", "title")


def run(size: str = "full") -> list[Table]:
    """The table, and its picture."""
    settings = SIZES[size]
    found = call_in_child("bench.speedup:measure", **settings)
    if "error" in found:
        raise RuntimeError(f"the measurement failed: {found['error']}")
    title = (
        f"SemanticGNN (d={settings['dim']}) over {settings['parts']} METIS parts of {settings['nodes']:,} entities and "
        f"{settings['edges']:,} EELs, by ranks or processes"
    )
    table = Table("speedup", title, ("what", "by", "CPU seconds of the busiest", FASTER, "of ideal", "MB sent per step"))
    for what, rows in found["rows"].items():
        alone = rows[0]["seconds"]
        for row in rows:
            faster = statistics.median(a / b for a, b in zip(alone, row["seconds"], strict=True))
            table.add(
                **{
                    "what": what,
                    "by": row["by"],
                    "CPU seconds of the busiest": statistics.median(row["seconds"]),
                    FASTER: faster,
                    "of ideal": f"{faster / row['by']:.0%}",
                    "MB sent per step": row.get("sent"),
                    "runs": row["seconds"],
                }
            )
    table.notes += [
        f"Training: {settings['per_step']} parts a step, {settings['steps']} steps, dense gradients over loopback, what "
        "exchanging them takes included; 8 ranks cannot share 12 parts evenly. Embedding: map-reduce from disk to disk, each "
        "part measured in one process, the critical path of several computed; what is put together behind each stage is done "
        f"by one. Medians of {settings['rounds']} interleaved rounds, of each round's ratios; a thread per process.",
    ]
    finish(table)
    return [table]


def finish(table: Table) -> None:
    """Draw, and name the column that sets a row beside its peers."""
    table.beside = BESIDE
    curves, most = [], 1
    for i, what in enumerate(dict.fromkeys(row["what"] for row in table.rows)):
        points = [(float(row["by"]), float(row[FASTER])) for row in table.rows if row["what"] == what]
        most = max(most, *(int(x) for x, _ in points))
        curves.append(Curve(what, points, colour=i))
    curves.append(Curve("ideal", [(1.0, 1.0), (float(most), float(most))], dashed=True, colour=7))
    panel = Panel("times less for the busiest", "ranks or processes", curves, lambda x: f"{x:g}", lambda y: f"{y:g}", log="")
    table.picture, table.drawing = PICTURE, draw("Speed-up by CPU seconds of the busiest", [panel])


def measure(
    nodes: int, edges: int, parts: int, per_step: int, steps: int, dim: int, rounds: int, ranks: list[int]
) -> dict[str, Any]:
    """In a process of its own: cut a graph, train on so many ranks in turns, and embed it part by part."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        graph = add_reverse(hetero(Planted(nodes, edges), features=dim))
        root = Path(folder) / "parts"
        data = HASPData(graph, Schema(entity=ENTITIES), num_parts=parts, root=root, log=False)
        train: dict[int, list[float]] = {size: [] for size in ranks}
        embed: dict[int, list[float]] = {size: [] for size in ranks}
        sent: dict[int, float] = {}
        for i in range(rounds):
            for size in ranks[:: 1 if i % 2 == 0 else -1]:
                found = on_ranks(size, _train, root, per_step, steps, dim)
                train[size].append(max(r["cpu"] for r in found))
                sent[size] = found[0]["sent"] / steps / 1e6
            stages = on_ranks(1, _embed, root, Path(folder) / f"vectors-{i}", dim)[0]["stages"]
            for size in ranks:
                embed[size].append(sum(handed_out(s["parts"], size) + s["rest"] for s in stages))
        assert data.num_parts == parts
    rows = {
        "training": [{"by": k, "seconds": v, "sent": sent[k]} for k, v in train.items()],
        "embedding": [{"by": k, "seconds": v} for k, v in embed.items()],
    }
    return {"rows": rows}


def _model(data: HASPData, dim: int) -> SemanticGNN:
    torch.manual_seed(0)
    return SemanticGNN.from_data(data, dim=dim, layers=2, normalize=True)


def _train(root: Path, per_step: int, steps: int, dim: int) -> dict[str, Any]:
    """One training; CPU seconds of this rank's steps, the first excepted, which compiles or loads kernels."""
    data = HASPData.open(root)
    model = _model(data, dim)

    def go(count: int) -> Any:
        loader = HASPLoader(data, 1, True, parts_per_step=per_step, edge_label_index=LINK, disjoint_train_ratio=0.5)
        objective = InfoNCE(LINK, max_pairs=512, known=[LINK])
        return fit(model, loader, objective, epochs=steps, max_steps=count, lr=0.01, progress=False)

    go(1)
    if dist.is_initialized():
        dist.barrier()
    begin, before = time.process_time(), tcp_bytes_sent() or 0
    run = go(steps)
    assert run.step == steps
    return {"cpu": time.process_time() - begin, "sent": float((tcp_bytes_sent() or 0) - before)}


def _embed(root: Path, out: Path, dim: int) -> dict[str, Any]:
    """CPU seconds of each part in each stage, and of what one process does behind it."""
    data = HASPData.open(root)
    model = _model(data, dim).eval()
    with TemporaryDirectory(dir=out.parent) as warm:
        embed_parts(model, data, warm)  # kernels are compiled, or loaded
    stages: list[dict[str, Any]] = [{"parts": [], "rest": 0.0} for _ in range(len(model.layers) + 1)]
    since = [time.process_time()]
    real = SemanticParts.reduce

    def told(stage: int, done: int, total: int) -> None:
        now = time.process_time()
        stages[stage]["parts"].append(now - since[0])
        since[0] = now

    def reduce(self: SemanticParts, *arguments: Any) -> Any:
        found = real(self, *arguments)
        now = time.process_time()
        stages[arguments[2]]["rest"] += now - since[0]
        since[0] = now
        return found

    with mock.patch.object(SemanticParts, "reduce", reduce):
        embed_parts(model, data, out, progress=told)
    return {"stages": stages}


def handed_out(seconds: list[float], workers: int) -> float:
    """When the last of some tasks ends, each begun in its order by the first worker that is free."""
    free = [0.0] * workers
    for took in seconds:
        heapq.heappush(free, heapq.heappop(free) + took)
    return max(free)
