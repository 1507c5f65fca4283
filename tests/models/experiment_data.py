"""A catalogue of made-up communities that every experiment runs through in seconds."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hasp.graph import Graph
from hasp_models.data import splits
from hasp_models.data.benchmark import Benchmark, make_benchmark
from hasp_models.data.evaluate import Result
from hasp_models.data.neighbors import FixedScorer
from hasp_models.data.splits import LinkRule
from hasp_models.experiments.context import Context, Size
from hasp_models.experiments.judge import METRICS
from hasp_models.experiments.methods import METHODS
from hasp_models.experiments.store import Store

ITEMS, COMMUNITIES, USERS = 120, 6, 900
RULE, WEAK = LinkRule(3, 0.05, 1.0, 5), LinkRule(1, 0.0, 0.0, 8)
LINK = ("title", "co_engaged", "title")
SMALL = {"epochs": 3, "dim": 8, "every": 1, "layers": 1}


def engagements(split: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Users engage within a community (entities equal modulo 6); the higher an entity's number, the rarer it is."""
    rng = np.random.default_rng(7)
    users = np.repeat(np.arange(USERS), 6)
    at = np.minimum(rng.exponential(5.0, users.size).astype(np.int64), ITEMS // COMMUNITIES - 1)
    return users, rng.integers(0, COMMUNITIES, USERS).repeat(6) + COMMUNITIES * at


def graph() -> Graph:
    rng = np.random.default_rng(3)
    at = torch.arange(ITEMS)
    noise = torch.from_numpy(rng.integers(0, 20, 3 * ITEMS))
    edges = {
        ("title", "has", "genre"): (at, at % COMMUNITIES),
        ("title", "about", "theme"): (at.repeat(3), noise),
        LINK: (torch.empty(0, dtype=torch.long),) * 2,
    }
    return Graph({"title": ITEMS, "genre": COMMUNITIES, "theme": 20}, edges)


def curated() -> np.ndarray:
    """Pairs within a community, in many small components."""
    first = np.array([i for i in range(ITEMS - COMMUNITIES) if i // COMMUNITIES % 2 == 0])
    return np.stack([first, first + COMMUNITIES], axis=1)


def source(split: int = 0) -> Benchmark:
    users, items = engagements()
    side = splits.split_users(users, split)
    return make_benchmark(
        graph(),
        users,
        items,
        side,
        curated=curated(),
        rule=RULE,
        weak=WEAK,
        shrink=2.0,
        seed=split,
        raw_queries=40,
        name="made-up",
    )


def scorer_of(benchmark: Benchmark, number: float) -> FixedScorer:
    """Random scores, the same for the same number."""
    generator = torch.Generator().manual_seed(int(number))
    return FixedScorer(torch.rand(benchmark.num_items, generator=generator))


def result(values: Any, method: str = "a", truth: str = "hc") -> Result:
    """The same value of every metric for each query; the first two queries are cold."""
    table = np.asarray(values, dtype=np.float64)
    queries = np.arange(table.size)
    groups = {"cold": queries < 2, "group0": queries >= 0, "group1": queries < 0, "group2": queries < 0}
    return Result(method, truth, "kept", queries, dict.fromkeys(METRICS, table), groups)


def context_of(folder: Path, names: list[str], seeds: int = 2, splits: int = 2) -> Context:
    """An experiment over the methods of these names with their default settings, and an empty store."""
    size = Size(seeds=seeds, splits=splits, trials=1, samples=100)
    methods = [METHODS[n] for n in names]
    return Context(source, Store(folder), size, methods, {m.name: m.settings() for m in methods})


def main(arguments: list[str]) -> None:
    """Run an experiment as the command does, in a process that a test can kill."""
    from hasp_models.experiments.reproduce import reproduce

    torch.set_num_threads(1)
    small()
    out, what, *methods = arguments
    reproduce(what, source, Path(out), quick=True, seeds=1, splits=2, samples=200, methods=methods or None)


def small() -> None:
    """Make all trained methods tiny, for this process."""
    for name, method in list(METHODS.items()):
        sizes = {k: v for k, v in SMALL.items() if k in method.defaults and (method.quick or k != "dim")}
        METHODS[name] = replace(method, quick={**method.quick, **sizes} if method.quick else {})


if __name__ == "__main__":
    main(sys.argv[1:])
