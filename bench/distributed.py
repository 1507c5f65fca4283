"""Distributed GraphSAGE over METIS parts: one, two and four processes that take the same steps, and what parts cost.

A step covers the same parts at any number of processes, so all learn the same model, up to the order of float sums. Beside
them: parts cut at random, and the whole graph in one batch, in as many steps.
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from bench.forked import on_ranks
from bench.ladder import catalogue
from bench.measure import call_in_child, interleave
from bench.table import Table
from hasp import HASPData, HASPLoader
from hasp.graph import Graph
from hasp.sources.reverse import add_reverse
from hasp_models.data.benchmark import Truth
from hasp_models.data.evaluate import evaluate
from hasp_models.experiments.graph_models import embed_entities
from hasp_models.objectives import InfoNCE
from hasp_models.train import fit
from hasp_models.zoo.sage import HeteroSAGE

__all__ = ["CONTENDERS", "SIZES", "run"]

CONTENDERS = {
    "METIS parts, 1 process": ("metis", 1),
    "METIS parts, 2 processes": ("metis", 2),
    "METIS parts, 4 processes": ("metis", 4),
    "random parts, 1 process": ("random", 1),
    "the whole graph, 1 process": ("whole", 1),
}
"""Contender -> how the graph is cut, and the number of processes."""

SIZES: dict[str, dict[str, int]] = {
    "small": {"titles": 300, "queries": 50, "dim": 8, "parts": 4, "per_step": 4, "steps": 4, "rounds": 1},
    "full": {"titles": 0, "queries": 800, "dim": 64, "parts": 8, "per_step": 4, "steps": 40, "rounds": 3},
}
"""Size -> settings; ``titles`` 0: the books, where they are."""

BESIDE = ("faster",)


def run(size: str = "full") -> list[Table]:
    """Train all contenders, in turns, and tabulate."""
    found = call_in_child("bench.distributed:measure", **SIZES[size])
    if "error" in found:
        raise RuntimeError(f"the measurement failed: {found['error']}")
    return [_table(found, SIZES[size])]


def measure(**settings: int) -> dict[str, Any]:
    """In a process of its own: load the data, cut it in each way, fork the ranks of one contender after the other."""
    torch.set_num_threads(1)
    graph, schema, link, truth, name = catalogue(settings["titles"], settings["queries"])
    whole = graph if any(e[1].startswith("rev_") for e in graph.edges) else add_reverse(graph)
    count, parts = graph.num_nodes[link[0]], settings["parts"]
    at_random = np.random.default_rng(0).permutation(np.arange(count) % parts).astype(np.int32)
    how: dict[str, Any] = {"reverse": True, "log": False}
    cuts = {
        "metis": HASPData(graph, schema, num_parts=parts, **how),
        "random": HASPData(graph, schema, num_parts=parts, node_part={link[0]: at_random}, **how),
        "whole": HASPData(graph, schema, num_parts=1, **how),
    }
    found: dict[str, list[Any]] = {way: [] for way in CONTENDERS}

    def contend(way: str) -> float:
        cut, size = CONTENDERS[way]
        ranks = on_ranks(size, _train, cuts[cut], whole, link, truth, settings)
        found[way].append(ranks)
        return float(ranks[0]["seconds"])

    interleave({way: partial(contend, way) for way in CONTENDERS}, settings["rounds"])
    return {"data": name, "rounds": found}


def _table(measured: dict[str, Any], settings: dict[str, int]) -> Table:
    found, data = measured["rounds"], measured["data"]
    base = found["METIS parts, 1 process"]
    columns = [
        "by",
        "edges kept",
        "MAP@10",
        "largest difference of a weight",
        "ms per step",
        "faster",
        "CPU ms of the busiest",
        "less",
    ]
    title = f"HeteroSAGE on {data} in {settings['parts']} parts, {settings['per_step']} parts a step, {settings['steps']} steps"
    table = Table("distributed", title, columns, beside=BESIDE)
    for name, rounds in found.items():
        pairs = list(zip(base, rounds, strict=True))
        first = rounds[0][0]
        alike = name.startswith("METIS")
        table.add(
            **{
                "by": name,
                "edges kept": first["kept"],
                "MAP@10": first["map"],
                "largest difference of a weight": _apart(first, base[0][0]) if alike else None,
                "ms per step": 1e3 * statistics.median(r[0]["seconds"] for r in rounds) / settings["steps"],
                "faster": statistics.median(a[0]["seconds"] / b[0]["seconds"] for a, b in pairs),
                "CPU ms of the busiest": 1e3 * statistics.median(_busiest(r) for r in rounds) / settings["steps"],
                "less": statistics.median(_busiest(a) / _busiest(b) for a, b in pairs),
            }
        )
    table.notes += [
        f"Medians of {settings['rounds']} interleaved rounds, of each round's ratios; a thread per process, one machine. "
        "CPU: of the process that had most to do, exchange included; with a core each, and none waiting for another, that is "
        "the time of a step. MAP@10 on held-out links, one seed; every 101st weight after all steps. "
        "Where others use the machine, or there are fewer cores than processes, CPU says more than the clock.",
    ]
    return table


def _apart(one: dict[str, Any], other: dict[str, Any]) -> float:
    return float(np.abs(np.array(one["weights"]) - np.array(other["weights"])).max())


def _busiest(ranks: list[dict[str, Any]]) -> float:
    return max(float(r["cpu"]) for r in ranks)


def _train(data: HASPData, whole: Graph, link: Any, truth: Truth, settings: dict[str, int]) -> dict[str, Any]:
    """Train one model with the trainer; seconds and CPU seconds are of the training alone."""
    parts = data.num_parts
    per_step = min(settings["per_step"], parts)
    epochs = settings["steps"] * per_step // parts
    torch.manual_seed(0)
    model = HeteroSAGE.from_data(data, dim=settings["dim"], layers=2, normalize=True)
    loader = HASPLoader(data, 1, True, seed=0, parts_per_step=per_step, edge_label_index=link, disjoint_train_ratio=0.5)
    objective = InfoNCE(link, max_pairs=512, known=[link])
    if dist.is_initialized():
        dist.barrier()
    begin, busy = time.perf_counter(), time.process_time()
    run = fit(model, loader, objective, epochs=epochs, lr=0.01, progress=False)
    out: dict[str, Any] = {"seconds": time.perf_counter() - begin, "cpu": time.process_time() - busy, "steps": run.step}
    if not dist.is_initialized() or dist.get_rank() == 0:
        out["map"] = round(evaluate(embed_entities(model, whole, link[0]), truth, ks=(10,)).mean("map@10"), 4)
        out["weights"] = torch.cat([p.detach().reshape(-1) for p in model.parameters()])[::101].tolist()
        inside = sum(data.part(p).edges[link].num_edges for p in range(parts))
        out["kept"] = inside / max(data.num_edges[link], 1)
    return out
