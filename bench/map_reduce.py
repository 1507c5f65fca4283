"""Inference: all vectors of a graph at once in memory, and part by part from disk to disk by one or several processes.

Every way reads the graph's parts from disk, keeps every edge, and is a fresh process with one thread per process. Times are
wall clock, begin when the model is there, and hold the start of the processes. Memory is what a process held at most beyond
what it held at the start. The vectors are compared with those of the whole graph.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from bench.graphs import ENTITIES, Planted, hetero
from bench.measure import Peak, call_in_child, median, ratio
from bench.table import Table
from hasp.data import HASPData
from hasp.parallel import cores
from hasp.schema import Schema
from hasp.sources.reverse import add_reverse
from hasp_models.files import load_tensors, save_tensors
from hasp_models.importance import Neighborhoods, Walks
from hasp_models.infer import embed_all
from hasp_models.mapreduce import embed_parts
from hasp_models.semantic_gnn import SemanticGNN
from hasp_models.whole_graph import graph_of
from hasp_models.zoo.graph_model import embed
from hasp_models.zoo.pinsage import PinSage

__all__ = ["at_once", "by_parts", "run"]

# planted graph, parts, width, rounds
SIZES = {"small": (Planted(1_500, 6_000), 4, 8, 1), "full": (Planted(300_000, 1_500_000), 32, 64, 1)}


BESIDE = ("faster than one process", "largest difference")
"""Set a row beside its peers."""


def run(size: str = "full") -> list[Table]:
    """One table: both models, each by all ways."""
    spec, num_parts, dim, rounds = SIZES[size]
    most = min(2, cores()) if size != "small" else 2
    table = Table(
        "map_reduce",
        f"All vectors (d={dim}) of {spec.nodes:,} entities and {spec.edges:,} EELs in {num_parts} parts",
        ("model", "by", "seconds", "faster than one process", "peak memory [MB]", "largest difference"),
        beside=BESIDE,
    )
    with TemporaryDirectory() as folder:
        graph = add_reverse(hetero(spec, features=dim))
        HASPData(graph, Schema(entity=ENTITIES), num_parts=num_parts, root=Path(folder) / "parts", log=False)
        del graph
        for model in ("SemanticGNN", "PinSage"):
            ways = {"the whole graph": 0, "parts, 1 process": 1, **({f"parts, {most} processes": most} if most > 1 else {})}
            found: dict[str, list[dict[str, Any]]] = {by: [] for by in ways}
            for i in range(rounds):
                for by in list(ways)[:: 1 if i % 2 == 0 else -1]:
                    task = "by_parts" if ways[by] else "at_once"
                    more = {"processes": ways[by]} if ways[by] else {}
                    made = call_in_child(f"bench.map_reduce:{task}", folder=folder, model=model, dim=dim, **more)
                    assert "error" not in made, made["error"]
                    found[by].append(made)
            want = load_tensors(Path(folder) / f"{model}-0.safetensors")["vectors"]
            alone = [r["seconds"] for r in found["parts, 1 process"]]
            for by, results in found.items():
                seconds, peaks = [r["seconds"] for r in results], [r["peak"] for r in results if r["peak"] is not None]
                got = load_tensors(Path(folder) / f"{model}-{ways[by]}.safetensors")["vectors"]
                table.add(
                    model=model,
                    by=by,
                    seconds=median(seconds),
                    runs=seconds,
                    **{
                        "faster than one process": ratio(alone, seconds),
                        "peak memory [MB]": max(peaks) / 1e6 if peaks else None,
                        "largest difference": float((got - want).abs().max()),
                    },
                )
    table.notes += [
        f"{rounds} round(s) of fresh processes, interleaved, medians; one thread each.",
        f"Load average {os.getloadavg()[0]:.0f} on {cores()} cores: where that is more, mistrust the seconds.",
        "Parts are read from disk, and each stage's vectors are written to it, hashed and synced.",
        "Memory of the whole graph is that of merging its parts and embedding them.",
    ]
    return [table]


def _model(parts: HASPData, name: str, dim: int) -> Any:
    torch.manual_seed(0)
    if name == "SemanticGNN":
        return SemanticGNN.from_data(parts, dim=dim, layers=2, normalize=True).eval()
    links = [("title", "linked", "title")]
    made = Neighborhoods("title", links, 10, Walks(100, 3), threads=1)
    return PinSage.from_data(parts, dim=dim, layers=2, neighborhoods=made, normalize=True).eval()


def at_once(folder: str, model: str, dim: int) -> dict[str, Any]:
    """The whole graph in this process."""
    torch.set_num_threads(1)
    parts = HASPData.open(f"{folder}/parts")
    made = _model(parts, model, dim)
    _compile(model, dim)
    with Peak() as peak:
        begin = time.perf_counter()
        graph = graph_of(parts)
        vectors = embed_all(made, graph)["title"] if model == "SemanticGNN" else embed(made, graph, "title")
        seconds = time.perf_counter() - begin
    save_tensors(Path(folder) / f"{model}-0.safetensors", {"vectors": vectors})
    return {"seconds": seconds, "peak": peak.bytes}


def by_parts(folder: str, model: str, dim: int, processes: int) -> dict[str, Any]:
    """Part by part, in this process or in several."""
    torch.set_num_threads(1)
    parts = HASPData.open(f"{folder}/parts")
    made = _model(parts, model, dim)
    _compile(model, dim)
    with TemporaryDirectory(dir=folder) as out:
        with Peak() as peak:
            begin = time.perf_counter()
            found = embed_parts(made, parts, Path(out) / "vectors", processes=processes)
            seconds = time.perf_counter() - begin
        save_tensors(Path(folder) / f"{model}-{processes}.safetensors", {"vectors": found.vectors("title")})
    return {"seconds": seconds, "peak": peak.bytes if processes == 1 else None}


def _compile(name: str, dim: int) -> None:
    """Kernels are compiled, or loaded from numba's cache, before the clock starts."""
    graph = add_reverse(hetero(Planted(300, 900), features=dim))
    parts = HASPData(graph, Schema(entity=ENTITIES), num_parts=2, log=False)
    model = _model(parts, name, dim)
    if name == "SemanticGNN":
        embed_all(model, graph)
    else:
        embed(model, graph, "title")
    with TemporaryDirectory() as folder:
        embed_parts(model, parts, folder)
