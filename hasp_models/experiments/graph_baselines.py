"""The graph baselines of the paper (GCN, GAT, GraphSAGE, HGT, NETFLIX) and PinSage as methods, trained as SemanticGNN is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from hasp import HASPData
from hasp_models.data.benchmark import Benchmark
from hasp_models.experiments.graph_models import QUICK, TRAINING, TRAINING_SPACE, Make, fit_graph
from hasp_models.experiments.method import Fitted, Method, Settings
from hasp_models.importance import Neighborhoods, Walks
from hasp_models.zoo.gat import HeteroGAT
from hasp_models.zoo.gcn import GCN
from hasp_models.zoo.graph_model import GraphModel
from hasp_models.zoo.hgt import HGT
from hasp_models.zoo.netflix import GivenSimilarity, given_vectors
from hasp_models.zoo.pinsage import PinSage
from hasp_models.zoo.sage import HeteroSAGE

__all__ = ["GRAPH_BASELINES"]

_INPUTS: Settings = {"free": True, "entity_dropout": 0.5}
_INPUT_SPACE: dict[str, Any] = {"free": (False, True)}


def make_of(kind: type[GraphModel], *own: str) -> Make:
    """``(parts, settings) -> model`` of a class; ``own`` are settings that it alone has."""

    def make(parts: HASPData, settings: Settings) -> nn.Module:
        options = {k: settings[k] for k in own} | {"normalize": settings["objective"] != "paper"}
        options |= {"entity_dropout": settings["entity_dropout"]} if settings["free"] else {}
        return kind.from_data(parts, settings["dim"], settings["layers"], free=settings["free"], **options)

    return make


def linked(
    name: str, kind: type[GraphModel], space: Mapping[str, Any] | None = None, lr: float = TRAINING["lr"], **own: Any
) -> Method:
    """A graph baseline trained on link prediction; ``own`` are settings that it alone has."""
    make = make_of(kind, *own)

    def run(benchmark: Benchmark, settings: Settings, seed: int, quiet: bool) -> Fitted:
        return fit_graph(benchmark, settings, seed, make=make, quiet=quiet)

    defaults = {**TRAINING, **_INPUTS, **own, "lr": lr}
    return Method(name, "graph", run, {**TRAINING_SPACE, **_INPUT_SPACE, **(space or {})}, defaults, quick=QUICK)


def _netflix() -> Method:
    make = make_of(HeteroGAT, "heads")

    def run(benchmark: Benchmark, settings: Settings, seed: int, quiet: bool) -> Fitted:
        given = given_vectors(benchmark, int(settings["dim"]), int(settings["min_users"]))
        options = {k: settings[k] for k in ("target", "negatives", "margin")}
        objective = GivenSimilarity(benchmark.entity, given.vectors, given.known, **options)
        return fit_graph(benchmark, settings, seed, make=make, objective=objective, quiet=quiet)

    # It predicts no links: what belongs to that is not tuned, its own settings are.
    unused = ("objective", "temperature", "disjoint")
    space = {k: v for k, v in TRAINING_SPACE.items() if k not in unused}
    own = {"target": ("vectors", "pairs"), "negatives": (5, 20), "margin": (0.0, 0.3), "min_users": (5, 20)}
    defaults = {"heads": 1, "target": "vectors", "negatives": 5, "margin": 0.0, "min_users": 20}
    every = {**space, **_INPUT_SPACE, "heads": (1, 4), **own}
    return Method("netflix", "graph", run, every, {**TRAINING, **_INPUTS, **defaults}, quick=QUICK)


def _pinsage() -> Method:
    walked = {"pooling": "importance", "top": 20, "walks": 100, "length": 3, "restart": 0.3, "weighted": True}
    trained = {
        "objective": "margin",
        "margin": 0.2,
        "negatives": 500,
        "hard": 6,
        "hard_every": 5,
        "lr": 0.003,
        "epochs": 100,
        "patience": 30,
    }

    def make(parts: HASPData, settings: Settings) -> nn.Module:
        how = Walks(int(settings["walks"]), int(settings["length"]), settings["restart"])
        options = {"pooling": settings["pooling"], "weight": "weight" if settings["weighted"] else None}
        entity = parts.roles.entity[0]
        found = Neighborhoods(entity, parts.roles.eel, int(settings["top"]), how, **options)
        return make_of(PinSage, "neighborhoods")(parts, {**settings, "neighborhoods": found})

    def run(benchmark: Benchmark, settings: Settings, seed: int, quiet: bool) -> Fitted:
        return fit_graph(benchmark, settings, seed, make=make, quiet=quiet)

    space = {k: v for k, v in TRAINING_SPACE.items() if k not in ("objective", "temperature")}
    own = {"objective": ("margin", "infonce"), "margin": (0.05, 0.1, 0.2), "top": (10, 20, 40), "hard": (0, 6)}
    space["lr"] = (0.001, 0.003, 0.01)
    return Method(
        "pinsage", "graph", run, {**space, **_INPUT_SPACE, **own}, {**TRAINING, **_INPUTS, **walked, **trained}, QUICK
    )


GRAPH_BASELINES: tuple[Method, ...] = (
    linked("gcn", GCN),
    linked("gat", HeteroGAT, {"heads": (1, 4)}, heads=1),
    linked("sage", HeteroSAGE),
    _pinsage(),
    # At the others' step size HGT did not train (Co-Sim MAP@10 .017 at d=256).
    linked("hgt", HGT, {"heads": (1, 4), "lr": (0.001, 0.003, 0.01)}, lr=0.003, heads=1),
    _netflix(),
)
"""In the order of the table."""
