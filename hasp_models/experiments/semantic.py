"""SemanticGNN as a method of the experiments: pretrained concepts, inputs and options of the model, training on parts."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hasp import HASPData
from hasp.graph import Graph
from hasp.schema import Schema
from hasp_models.data.benchmark import Benchmark
from hasp_models.experiments.graph_models import fitted, parts_of, train_on_parts
from hasp_models.experiments.method import Fitted, Settings
from hasp_models.kg_embedding import KGEmbedding
from hasp_models.runs import new_model
from hasp_models.transe import pretrain
from hasp_models.triples import Triples

__all__ = ["SEMANTIC", "SEMANTIC_SPACE", "fit_semantic"]

SEMANTIC: Settings = {"free": False, "entity_dropout": 0.5, "kg_epochs": 30}
"""Settings of the model's own, behind the common ones."""

SEMANTIC_SPACE: dict[str, Any] = {"free": (False, True)}


def fit_semantic(benchmark: Benchmark, settings: Settings, seed: int, *, kg: bool, quiet: bool = True) -> Fitted:
    """Train SemanticGNN, with TransE over the benchmark's concepts first or without.

    Args:
        benchmark: see :class:`hasp_models.experiments.method.Method`.
        settings: the common ones of :mod:`hasp_models.experiments.graph_models`, and :data:`SEMANTIC`.
        seed: of pretraining and training.
        kg: ``False``: SemanticGNN_no_KG, where concepts and relations start at random.
        quiet: no bar.
    """
    parts = parts_of(benchmark, int(settings["num_parts"]))
    concepts = pretrained(benchmark.graph, benchmark, settings, seed) if kg else None
    model = model_of(parts, settings, concepts, seed)
    return fitted(benchmark, model, train_on_parts(benchmark, parts, model, settings, seed, quiet=quiet))


def pretrained(graph: Graph, benchmark: Benchmark, settings: Settings, seed: int) -> KGEmbedding:
    """TransE over the concept edges of the graph."""
    triples = Triples.from_graph(graph, Schema(entity=benchmark.entity, eel=[benchmark.link_type]))
    return pretrain(triples, method="transe", dim=int(settings["dim"]), epochs=int(settings["kg_epochs"]), seed=seed)


def model_of(parts: HASPData, settings: Settings, concepts: KGEmbedding | None, seed: int) -> nn.Module:
    """The model that the settings describe."""
    options: dict[str, Any] = {k: settings[k] for k in ("dim", "layers", "free")}
    options |= {"normalize": settings["objective"] != "paper"}
    options |= {"entity_dropout": settings["entity_dropout"]} if settings["free"] else {}
    torch.manual_seed(seed)
    return new_model(parts, options, concepts, seed)
