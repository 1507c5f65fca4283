"""SemanticGNN as a method of the experiments: its graph, pretrained concepts, the start of the model, training on parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from hasp import HASPData, Schema
from hasp.schema import EdgeType
from hasp_models.data.benchmark import Benchmark, co_links, relink
from hasp_models.exact import ExactSimilarity
from hasp_models.experiments.graph_models import TRAINING, fitted, parts_of, train_on_parts
from hasp_models.experiments.method import Fitted, Settings
from hasp_models.kg_embedding import KGEmbedding
from hasp_models.neighbor_softmax import NeighborSoftmax
from hasp_models.recipe import blend_start
from hasp_models.relation_attention import RelationAttention
from hasp_models.runs import new_model
from hasp_models.semantic_gnn import SemanticGNN
from hasp_models.tiers import QUANTILES, Tiers
from hasp_models.transe import pretrain
from hasp_models.triples import Triples

__all__ = ["SEMANTIC", "SEMANTIC_FEW_LINKS", "SEMANTIC_SPACE", "fit_semantic"]

SEMANTIC: Settings = {
    **TRAINING,
    "layers": 1,
    "num_parts": 1,
    "merge": 1,
    "parts_per_step": None,
    "objective": "neighbors",
    "temperature": 0.07,
    "power": 3.0,
    "queries": 512,
    "supervise": 0.3,
    "cold": 0.2,
    "dim": 512,
    "lr": 0.0007,
    "epochs": 40,
    "patience": 20,
    "every": 10,
    "targets": "all",
    "tiers": True,
    "weak": True,
    "shrink": True,
    "free": True,
    "entity_dropout": 0.0,
    "activation": "gelu",
    "beta": "both",
    "tier_power": 1.3,
    "echo": 8.0,
    "concept_length": 0.6,
    "content": 0.26,
    "kg_epochs": 30,
    "schedule": "cosine",
    "trust": 0.0,
    "exact_direct": 1.0,
    "exact_shared": 1.0,
    "exact_content": 0.3,
    "exact_power": 1.0,
}
"""Where the search starts. ``objective`` may also be ``infonce`` or ``paper`` (Eq. 4-5): these ask for single EELs, so the
links stay one relation per type. ``tiers``, ``weak`` and ``shrink`` switch off what the links are made of, for the ablation."""

SEMANTIC_FEW_LINKS: Settings = {
    "num_parts": 4,
    "parts_per_step": 1,
    "queries": 1024,
    "supervise": 0.05,
    "cold": 0.1,
    "lr": 0.004,
    "epochs": 60,
    "every": 10,
    "activation": "none",
    "echo": 3.3,
    "content": 0.8,
    "trust": 1.0,
    "exact_direct": 0.3,
    "exact_shared": 0.3,
    "exact_content": 1.0,
    "exact_power": 1.5,
}
"""What the second trial changes: for graphs where most entities have few links or none, and are found by their concepts. The
model is told the graph's exact similarities; its start is linear, as they are."""

SEMANTIC_SPACE: dict[str, Any] = {
    "temperature": (0.05, 0.07, 0.1),
    "power": (2.0, 3.0),
    "supervise": (0.1, 0.3),
    "cold": (0.0, 0.1, 0.2, 0.3),
    "lr": (0.0007, 0.001, 0.0015),
    "concept_length": (0.4, 0.6, 0.8),
    "content": (0.15, 0.26, 0.45, 0.8),
}
"""What is tuned."""


def fit_semantic(benchmark: Benchmark, settings: Settings, seed: int, *, kg: bool, quiet: bool = True) -> Fitted:
    """Train SemanticGNN, with TransE over the benchmark's concepts first or without.

    Args:
        benchmark: see :class:`hasp_models.experiments.method.Method`.
        settings: the common ones of :mod:`hasp_models.experiments.graph_models`, and those of :data:`SEMANTIC`.
        seed: of pretraining and training.
        kg: ``False``: SemanticGNN_no_KG, where concepts start as random directions and relations at random.
        quiet: no bar.
    """
    benchmark = _links(benchmark, settings)
    concepts = pretrained(benchmark, settings, seed) if kg else None
    if settings["objective"] != "neighbors":
        parts = parts_of(benchmark, int(settings["num_parts"]))
        model: nn.Module = plain_model(parts, settings, concepts, seed)
        return fitted(benchmark, model, train_on_parts(benchmark, parts, model, settings, seed, quiet=quiet))
    cuts = QUANTILES if settings["tiers"] else ()
    tiers = Tiers.of(benchmark.graph, benchmark.link_types, cuts, power=float(settings["tier_power"]))
    parts = parts_of(benchmark, int(settings["num_parts"]), tiers)
    names = ("concept_length", "content", "echo", "beta", "activation", "entity_dropout")
    shape = {"dim": int(settings["dim"]), "layers": int(settings["layers"])}
    options = {k: settings[k] for k in names} | ({} if settings["free"] else {"free": {}})
    model = blend_start(parts, tiers.share, concepts=concepts, seed=seed, **shape, **options)
    objective = NeighborSoftmax(
        tiers.weight,
        temperature=settings["temperature"],
        power=settings["power"],
        queries=int(settings["queries"]),
        supervise=settings["supervise"],
        cold=settings["cold"],
        targets=settings["targets"],
        **({"exact": _exact(benchmark, settings), "trust": settings["trust"]} if settings["trust"] else {}),
    )
    run = train_on_parts(benchmark, parts, model, settings, seed, objective, tiers=tiers, quiet=quiet)
    notes = {"beta": {e[1]: _numbers(model, e) for e in parts.edge_types}}
    return fitted(benchmark, model, run, notes, tiers=tiers)


def _links(benchmark: Benchmark, settings: Settings) -> Benchmark:
    """The benchmark with the links that the settings ask for; its truths and groups stay."""
    if settings["weak"] and settings["shrink"]:
        return benchmark
    weak, shrink = benchmark.weak if settings["weak"] else None, benchmark.shrink if settings["shrink"] else 0.0
    of = (benchmark.users, benchmark.items, benchmark.num_items, benchmark.link_type, benchmark.rule, weak, shrink)
    gone = set(benchmark.link_types)
    edges = {e: v for e, v in benchmark.graph.edges.items() if e not in gone}
    attrs = {e: v for e, v in benchmark.graph.edge_attrs.items() if e not in gone}
    graph = relink(replace(benchmark.graph, edges=edges, edge_attrs=attrs), *co_links(*of))
    return replace(benchmark, graph=graph, weak=weak, shrink=shrink)


def _exact(benchmark: Benchmark, settings: Settings) -> ExactSimilarity:
    weights = {k: settings[f"exact_{k}"] for k in ("direct", "shared", "content", "power")}
    return ExactSimilarity.of(benchmark.graph, benchmark.link_types, **weights)


def pretrained(benchmark: Benchmark, settings: Settings, seed: int) -> KGEmbedding:
    """TransE over the concept edges of the graph."""
    triples = Triples.from_graph(benchmark.graph, Schema(entity=benchmark.entity, eel=benchmark.link_types))
    return pretrain(triples, method="transe", dim=int(settings["dim"]), epochs=int(settings["kg_epochs"]), seed=seed)


def plain_model(parts: HASPData, settings: Settings, concepts: KGEmbedding | None, seed: int) -> nn.Module:
    """The paper's model as it stands: pretrained concepts are the features, everything else starts at random."""
    options: dict[str, Any] = {k: settings[k] for k in ("dim", "layers", "free")}
    options |= {"normalize": settings["objective"] != "paper"}
    options |= {"entity_dropout": settings["entity_dropout"]} if settings["free"] else {}
    torch.manual_seed(seed)
    return new_model(parts, options, concepts, seed)


def _numbers(model: SemanticGNN, edge_type: EdgeType) -> list[list[float]]:
    """Per layer the factor and the log prior mass of a relation, first head."""
    found = []
    for layer in model.layers:
        assert isinstance(layer, RelationAttention)
        at = layer.relations.index(edge_type)
        both = (layer.beta, layer.log_prior)
        found.append([round(float(b[at, 0].detach()), 4) for b in both if isinstance(b, Tensor)])
    return found
