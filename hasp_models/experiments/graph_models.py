"""How any graph model is trained and used on a benchmark: HASP parts in memory, one loop, cosine of whole-graph embeddings.

The settings that :func:`train_on_parts` reads, for whichever model:

- ``num_parts``, ``merge`` (parts per batch), ``parts_per_step`` (``None``: all, so that an epoch is one step);
- ``objective`` (``infonce``, ``paper``, or ``margin`` with ``margin``, ``negatives``, ``hard`` and ``hard_every``),
  ``temperature``, ``max_pairs``, ``disjoint`` (share of the links that supervises and carries no messages, drawn anew every
  epoch);
- ``lr``, ``schedule`` (``constant`` where it is not given), ``weight_decay``, ``clip``, ``epochs``, ``patience`` (in epochs;
  ``None``: no early end), ``every`` (epochs between two validations), ``max_steps``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hasp import HASPData, HASPLoader, Schema
from hasp.errors import HaspError
from hasp.graph import Graph
from hasp.sources.reverse import add_reverse
from hasp_models.data.benchmark import Benchmark
from hasp_models.data.neighbors import EmbeddingScorer, Scorer
from hasp_models.experiments.judge import EveryFew
from hasp_models.experiments.method import Fitted, Settings
from hasp_models.infer import embed_all
from hasp_models.margin import MaxMargin
from hasp_models.objectives import InfoNCE, LinkBCE, Objective
from hasp_models.semantic_gnn import SemanticGNN
from hasp_models.tiers import Tiers
from hasp_models.train import Fit, fit
from hasp_models.views import TwoViews, concept_view, linked
from hasp_models.zoo.graph_model import GraphModel, embed

__all__ = [
    "QUICK",
    "TRAINING",
    "TRAINING_SPACE",
    "embed_entities",
    "fit_graph",
    "fitted",
    "objective_of",
    "parts_of",
    "train_on_parts",
]

TRAINING: Settings = {
    "dim": 256,
    "layers": 2,
    "num_parts": 8,
    "merge": 2,
    "parts_per_step": 2,
    "objective": "infonce",
    "temperature": 0.1,
    "max_pairs": 1024,
    "disjoint": 0.5,
    "lr": 0.01,
    "weight_decay": 0.0,
    "clip": None,
    "epochs": 60,
    "patience": 15,
    "every": 5,
    "max_steps": None,
}
"""What graph models start from."""

TRAINING_SPACE: dict[str, Any] = {
    "objective": ("infonce", "paper"),
    "temperature": (0.05, 0.1, 0.2),
    "disjoint": (0.3, 0.5, 0.7),
    "lr": (0.003, 0.01, 0.03),
    "layers": (1, 2, 3),
    "weight_decay": (0.0, 1e-3),
}
"""What is tuned for every graph model."""

QUICK: Settings = {"dim": 64, "epochs": 12, "patience": 8, "every": 4, "max_pairs": 512}
"""What a quick run replaces."""

Make = Callable[[HASPData, Settings], nn.Module]


def parts_of(benchmark: Benchmark, num_parts: int = 1, tiers: Tiers | None = None) -> HASPData:
    """The benchmark's graph in parts, in memory, with reverse edge types and, where given, its links in tiers."""
    if num_parts < 1:
        raise HaspError(f"num_parts is at least 1, got {num_parts}; 1 is the whole graph")
    schema = Schema(entity=benchmark.entity, eel=benchmark.link_types if tiers is None else tiers.types)
    graph = _prepared(benchmark.graph, tiers)
    return HASPData(graph, schema, num_parts=num_parts, log=False)


def fit_graph(
    benchmark: Benchmark,
    settings: Settings,
    seed: int,
    *,
    make: Make,
    objective: Objective | None = None,
    quiet: bool = True,
) -> Fitted:
    """Train a model on the parts of a benchmark.

    Args:
        benchmark: its graph is trained on, its validation truths choose the epoch.
        settings: see the module; whatever else it holds is for ``make``.
        seed: of the model, the order of the parts and all draws.
        make: ``(parts, settings) -> model``; torch's generator has been seeded. The model gives ``node type -> [n, d]``.
        objective: see :func:`train_on_parts`.
        quiet: no bar.
    """
    parts = parts_of(benchmark, int(settings["num_parts"]))
    torch.manual_seed(seed)
    model = make(parts, settings)
    return fitted(benchmark, model, train_on_parts(benchmark, parts, model, settings, seed, objective, quiet=quiet))


def fitted(
    benchmark: Benchmark, model: nn.Module, run: Fit, notes: dict[str, Any] | None = None, tiers: Tiers | None = None
) -> Fitted:
    """A trained model as a :class:`Fitted`: cosine of the embeddings of the benchmark's whole graph.

    Whatever graph it embeds later has its links put into the same tiers, if the model knows tiers. Such a model was trained
    with entities made cold, and asks for those without a link by their concepts alone (:mod:`hasp_models.views`).
    """

    def of(graph: Graph) -> Tensor:
        return embed_entities(model, _prepared(graph, tiers), benchmark.entity)

    def scorer_of(graph: Graph) -> Scorer:
        if tiers is None or not isinstance(model, SemanticGNN):
            return EmbeddingScorer(of(graph))
        seen, entity = _prepared(graph, tiers), benchmark.entity
        alone = concept_view(model, seen, tiers.types, entity)
        return TwoViews(embed_entities(model, seen, entity), alone, linked(seen, tiers.types, entity))

    more = {"steps": run.step, "best_epoch": run.best_epoch, **(notes or {})}
    return Fitted(scorer_of(benchmark.graph), of, run.epoch, None, run.history, more, None if tiers is None else scorer_of)


def train_on_parts(
    benchmark: Benchmark,
    parts: HASPData,
    model: nn.Module,
    settings: Settings,
    seed: int,
    objective: Objective | None = None,
    *,
    tiers: Tiers | None = None,
    quiet: bool = True,
) -> Fit:
    """One call of :func:`hasp_models.train.fit`; the epoch that validates best is kept.

    Args:
        benchmark: its validation truths choose the epoch.
        parts: of its graph.
        model: is trained.
        settings: see the module.
        seed: of the order and all draws.
        objective: one that asks for no links, so that all of them carry messages; ``None``: the one of the settings.
        tiers: of the parts' links.
        quiet: no bar.
    """
    linked = objective is None
    objective = objective or objective_of(benchmark, settings)
    per_step = settings["parts_per_step"]
    merge = min(int(settings["merge"]), parts.num_parts)
    loader = HASPLoader(
        parts,
        batch_size=merge,
        shuffle=True,
        seed=seed,
        parts_per_step=-(-parts.num_parts // merge) * merge if per_step is None else int(per_step),
        edge_label_index=benchmark.link_type if linked else None,
        neg_sampling="binary" if linked and settings["objective"] == "paper" else None,
        disjoint_train_ratio=settings["disjoint"] if linked else 0.0,
    )

    if isinstance(objective, MaxMargin):
        objective.follow(loader)

    def scorer(now: nn.Module) -> EmbeddingScorer:
        return EmbeddingScorer(embed_entities(now, whole, benchmark.entity))

    whole = _prepared(benchmark.graph, tiers)
    # Some epoch is validated, and none is given up before it was.
    every = min(int(settings["every"]), int(settings["epochs"]))
    patience = None if settings["patience"] is None else max(int(settings["patience"]), every)
    return fit(
        model,
        loader,
        objective,
        epochs=int(settings["epochs"]),
        lr=settings["lr"],
        weight_decay=settings["weight_decay"],
        schedule=settings.get("schedule", "constant"),
        clip=settings["clip"],
        seed=seed,
        validate=EveryFew(benchmark, scorer, every),
        patience=patience,
        max_steps=settings["max_steps"],
        progress=not quiet,
    )


def objective_of(benchmark: Benchmark, settings: Settings) -> Objective:
    """The objective that the settings name, over the benchmark's EELs; its weak links are no wrong answers."""
    if settings["objective"] == "paper":
        return LinkBCE(benchmark.link_type)
    if settings["objective"] == "margin":
        names = ("margin", "negatives", "max_pairs", "hard", "every")
        options = {n: settings["hard_every" if n == "every" else n] for n in names}
        return MaxMargin(benchmark.link_type, known=benchmark.link_types, **options)
    if settings["objective"] != "infonce":
        raise HaspError(f"objective is 'infonce', 'paper' or 'margin', got {settings['objective']!r}; choose one")
    return InfoNCE(benchmark.link_type, settings["temperature"], settings["max_pairs"], benchmark.link_types)


def _prepared(graph: Graph, tiers: Tiers | None) -> Graph:
    """The graph as models see it: with reverse edge types, its links in tiers.

    Reverse edge types are added where there are none at all; a graph that has them is taken as it is, so that links of one
    direction stay so. Tiers come second: the two directions of a link may be in different ones.
    """
    if not any(e[1].startswith("rev_") for e in graph.edges):
        graph = add_reverse(graph)
    return graph if tiers is None else tiers.apply(graph)


@torch.no_grad()
def embed_entities(model: nn.Module, graph: Graph, entity: str) -> Tensor:
    """Every entity of a whole prepared graph, all edges kept, ``[N, d]`` float32."""
    if isinstance(model, SemanticGNN):
        return embed_all(model, graph)[entity].float()
    if isinstance(model, GraphModel):
        return embed(model, graph, entity).float()
    raise HaspError(f"whole graphs are embedded by SemanticGNN and the graph baselines, got {type(model).__name__}; use one")
