"""TransE beside pykeen at equal settings, on the three small graphs that pykeen ships: are the vectors as good?

pykeen is an oracle, no dependency: without it there is nothing to run. Install it into an environment of its own, together with
this library, and run ``python -m bench transe`` there. Both sides corrupt either end of a fact with any entity, one wrong fact
each, under the sum of margin losses and Adam, and are judged by filtered ranks of both ends of the test facts, ties at their
mean rank.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from bench.table import Table
from hasp_models.kg_embedding import filtered_ranking
from hasp_models.transe import pretrain
from hasp_models.triples import Triples

__all__ = ["run"]

GRAPHS = ("umls", "nations", "kinships")
SIZES = {"small": (GRAPHS[1:2], 2, 2), "full": (GRAPHS, 200, 5)}
"""Graphs, epochs, seeds."""
SETTINGS: dict[str, Any] = {"dim": 50, "batch_size": 256, "lr": 0.01, "margin": 1.0, "p": 1}
OURS, THEIRS = "hasp_models", "pykeen"
METRICS = ("mrr", "hits@1", "hits@10", "mean_rank")
DIFFERENCE, FASTER = "mrr - pykeen's ± its standard error", "times faster"
BESIDE = (DIFFERENCE,)
"""Set a row beside pykeen's."""

Found = tuple[dict[str, float], float]
"""Metrics and seconds."""


def run(size: str = "full") -> list[Table]:
    """Metrics and seconds of both; nothing where pykeen is not installed."""
    if importlib.util.find_spec("pykeen") is None:
        print("transe is left out: it needs pykeen, in an environment of its own (pip install pykeen)")
        return []
    return [compare(*SIZES[size], {OURS: ours, THEIRS: theirs}, _graph, f"pykeen {version('pykeen')}")]


def compare(
    graphs: tuple[str, ...],
    epochs: int,
    seeds: int,
    ways: dict[str, Callable[[Any, int, int], Found]],
    graph_of: Callable[[str], Any],
    peer: str,
) -> Table:
    """The table; ``ways`` are (graph, epochs, seed) -> what was found, ours first; ``peer`` is said below it."""
    table = Table(
        "transe",
        f"TransE after {epochs} epochs at equal settings, filtered ranks of the test facts",
        ("graph", "by", *METRICS, DIFFERENCE, "seconds", FASTER),
        notes=[
            f"{peer}. Means ± standard deviation of {seeds} seeds. d={SETTINGS['dim']}, L{SETTINGS['p']}, margin",
            f"{SETTINGS['margin']:g}, Adam at {SETTINGS['lr']}, {SETTINGS['batch_size']} facts a step, one wrong fact each, of",
            "all entities. Its standard error: of the difference of two means over independent seeds; within two of it,",
            "nothing tells them apart.",
        ],
        beside=BESIDE,
    )
    for name in graphs:
        data = graph_of(name)
        # Turn about, so that a slow minute of the machine meets both.
        found: dict[str, list[Found]] = {way: [] for way in ways}
        for seed in range(seeds):
            for way, method in ways.items():
                found[way].append(method(data, epochs, seed))
        _rows(table, name, found)
    return table


def _rows(table: Table, graph: str, found: dict[str, list[Found]]) -> None:
    values = {way: {m: np.array([metrics[m] for metrics, _ in runs]) for m in METRICS} for way, runs in found.items()}
    seconds = {way: float(np.median([s for _, s in runs])) for way, runs in found.items()}
    for way, runs in found.items():
        mine, peer = values[way]["mrr"], values[THEIRS]["mrr"]
        error = np.sqrt((mine.var(ddof=1) + peer.var(ddof=1)) / mine.size) if mine.size > 1 else float("nan")
        difference = mine.mean() - peer.mean()
        table.add(
            graph=graph,
            by=way,
            **{m: f"{v.mean():.3f} ± {v.std(ddof=min(1, v.size - 1)):.3f}" for m, v in values[way].items()},
            **{DIFFERENCE: f"{difference:+.3f} ± {error:.3f}" if way != THEIRS else "0"},
            seconds=seconds[way],
            **{FASTER: seconds[THEIRS] / seconds[way]},
            runs=[[metrics, s] for metrics, s in runs],
        )


def ours(data: Any, epochs: int, seed: int) -> Found:
    """This library."""
    count, relations = data.num_entities, data.num_relations
    train, valid, test = (
        Triples.from_index(torch.as_tensor(part.mapped_triples), count, relations)
        for part in (data.training, data.validation, data.testing)
    )
    start = time.perf_counter()
    embedding = pretrain(train, epochs=epochs, seed=seed, negatives="pool", filter_negatives=False, **SETTINGS)
    seconds = time.perf_counter() - start
    return filtered_ranking(embedding, test, train, valid).to_json(), seconds


def theirs(data: Any, epochs: int, seed: int) -> Found:
    """pykeen."""
    pipeline = importlib.import_module("pykeen.pipeline").pipeline
    result = pipeline(
        dataset=data,
        model="TransE",
        model_kwargs={"embedding_dim": SETTINGS["dim"], "scoring_fct_norm": SETTINGS["p"]},
        loss="marginranking",
        loss_kwargs={"margin": SETTINGS["margin"], "reduction": "sum"},
        optimizer="adam",
        optimizer_kwargs={"lr": SETTINGS["lr"]},
        negative_sampler="basic",
        training_kwargs={"num_epochs": epochs, "batch_size": SETTINGS["batch_size"], "use_tqdm": False},
        evaluation_kwargs={"use_tqdm": False, "batch_size": 128},
        random_seed=seed,
        device="cpu",
    )
    get = result.metric_results.get_metric
    names = {"mrr": "inverse_harmonic_mean_rank", "mean_rank": "arithmetic_mean_rank"}
    names |= {f"hits@{k}": f"hits_at_{k}" for k in (1, 10)}
    return {mine: float(get(f"both.realistic.{name}")) for mine, name in names.items()}, float(result.train_seconds)


def _graph(name: str) -> Any:
    return importlib.import_module("pykeen.datasets").get_dataset(dataset=name)
