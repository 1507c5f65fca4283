"""TransE beside pykeen at equal settings, on the three small graphs that pykeen ships; and the time of the books.

Run: ``python bench/transe.py [--seeds 3] [--epochs 200]`` where pykeen is importable (it is no dependency: install it into
an environment of its own, with this repository on PYTHONPATH). Filtered ranks of both sides, ties at their mean rank, test.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from typing import Any

import numpy as np
import torch

from hasp_models.kg_embedding import filtered_ranking
from hasp_models.transe import pretrain
from hasp_models.triples import Triples

SETTINGS: dict[str, Any] = {"dim": 50, "batch_size": 256, "lr": 0.01, "margin": 1.0, "p": 1}


Found = tuple[dict[str, float], float]
"""Metrics and seconds."""


def ours(data: Any, epochs: int, seed: int) -> Found:
    """This library."""
    count, relations = data.num_entities, data.num_relations
    train, valid, test = (
        Triples.from_index(torch.as_tensor(part.mapped_triples), count, relations)
        for part in (data.training, data.validation, data.testing)
    )
    start = time.perf_counter()
    embedding = pretrain(train, epochs=epochs, seed=seed, negatives="pool", filter_negatives=False, **SETTINGS)
    return filtered_ranking(embedding, test, train, valid).to_json(), time.perf_counter() - start


def theirs(data: Any, epochs: int, seed: int) -> Found:
    """pykeen."""
    pipeline = importlib.import_module("pykeen.pipeline").pipeline

    start = time.perf_counter()
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
    seconds = time.perf_counter() - start
    get = result.metric_results.get_metric
    names = {"mrr": "inverse_harmonic_mean_rank", "mean_rank": "arithmetic_mean_rank"}
    names |= {f"hits@{k}": f"hits_at_{k}" for k in (1, 3, 10)}
    return {ours_: float(get(f"both.realistic.{name}")) for ours_, name in names.items()}, seconds


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=200)
    options = parser.parse_args()
    try:
        get_dataset = importlib.import_module("pykeen.datasets").get_dataset
    except ImportError:
        print("skipped: pykeen is not importable here; pip install pykeen into an environment of its own")
        return
    for name in ("umls", "nations", "kinships"):
        data = get_dataset(dataset=name)
        for method in (ours, theirs):
            rows, seconds = zip(*(method(data, options.epochs, seed) for seed in range(options.seeds)), strict=True)
            table = {k: [round(float(f([r[k] for r in rows])), 4) for f in (np.mean, np.std)] for k in rows[0]}
            who = "hasp_models" if method is ours else "pykeen"
            print(json.dumps({"graph": name, "by": who, "seconds": round(float(np.mean(seconds)), 1), **table}), flush=True)


if __name__ == "__main__":
    main()
