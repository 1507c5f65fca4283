"""PinSage's ideas one by one, on books: importance pooling, weighted walks, hard negatives, beside GraphSAGE.

One split of the users and one seed; the epoch is chosen on the validation truths, the numbers are of the test truths. Each row
is a fit of the method ``pinsage`` of ``hasp-models reproduce`` with one setting changed.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch

from bench.table import Table
from hasp.parallel import cores
from hasp_models.data.benchmark import Benchmark
from hasp_models.data.catalogues import load_benchmark
from hasp_models.data.evaluate import evaluate
from hasp_models.experiments.methods import METHODS

__all__ = ["ROWS", "run"]

ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "PinSage": ("pinsage", {}),
    "no hard negatives": ("pinsage", {"hard": 0}),
    "visited nodes, each alike": ("pinsage", {"pooling": "visited"}),
    "neighbours at random, each alike": ("pinsage", {"pooling": "uniform"}),
    "walks that ignore weights": ("pinsage", {"weighted": False}),
    "in-batch softmax for the margin": ("pinsage", {"objective": "infonce"}),
    "GraphSAGE": ("sage", {}),
}
SIZES = {"small": {"epochs": 2, "every": 1, "dim": 4, "max_pairs": 64}, "full": {"epochs": 60, "patience": 60, "dim": 64}}


BESIDE = ("Co-Sim", "HC-Sim")
"""Set a row beside its peers."""


def run(size: str = "full") -> list[Table]:
    """One table; no rows where books are not at hand."""
    table = Table(
        "pinsage",
        "PinSage with one idea changed at a time (books, one split, one seed; MAP@10 on the test truths)",
        ("model", "Co-Sim", "HC-Sim", "HC-Sim, no EEL", "CPU seconds of fitting"),
        beside=BESIDE,
    )
    found = _books() if size == "full" else _made_up()
    if found is None:
        table.notes.append("Books were left out: set HASP_SHARED to the folder that holds data/books.")
        return [table]
    torch.set_num_threads(1)
    try:
        for name, (method, settings) in ROWS.items():
            begin = time.process_time()
            fitted = METHODS[method].fit(found, {**SIZES[size], **settings})
            seconds = time.process_time() - begin
            row = {"model": name, "CPU seconds of fitting": seconds, "settings": settings, "epochs": fitted.epochs}
            for truth, column in (("co_sim", "Co-Sim"), ("hc", "HC-Sim")):
                row[column] = evaluate(fitted.scorer, found.test[truth], ks=(10,)).mean("map@10")
            cold = evaluate(fitted.scorer, found.test["hc"], ks=(10,), groups={"cold": found.groups["cold"]})
            table.add(**row, **{"HC-Sim, no EEL": cold.mean("map@10", "cold")})
    finally:
        torch.set_num_threads(cores())
    table.notes += [
        f"{SIZES[size]['epochs']} epochs of 4 steps at width {SIZES[size]['dim']}, the best epoch by validation; one thread.",
        "One seed: differences below about 0.01 mean nothing.",
    ]
    return [table]


def _books() -> Benchmark | None:
    folder = Path(os.environ.get("HASP_SHARED", Path(__file__).parent.parent.parent / "shared")) / "data" / "books"
    return load_benchmark(folder) if folder.is_dir() else None


def _made_up() -> Benchmark:
    import numpy as np

    from hasp.graph import Graph
    from hasp_models.data.benchmark import make_benchmark
    from hasp_models.data.splits import LinkRule, split_users

    rng, items, kinds = np.random.default_rng(7), 60, 5
    users = np.repeat(np.arange(400), 6)
    at = np.minimum(rng.exponential(4.0, users.size).astype(np.int64), items // kinds - 1)
    taken = rng.integers(0, kinds, 400).repeat(6) + kinds * at
    every, link = torch.arange(items), ("title", "co_engaged", "title")
    graph = Graph(
        {"title": items, "genre": kinds}, {("title", "has", "genre"): (every, every % kinds), link: (every[:0], every[:0])}
    )
    pairs = np.array([(i, i + kinds) for i in range(items - kinds) if i // kinds % 2 == 0])
    side, rule, weak = split_users(users, 0), LinkRule(3, 0.05, 1.0, 5), LinkRule(1, 0.0, 0.0, 8)
    options: dict[str, Any] = {"curated": pairs, "rule": rule, "weak": weak, "seed": 0, "raw_queries": 20}
    return make_benchmark(graph, users, taken, side, name="made-up", **options)
