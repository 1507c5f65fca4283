"""``hasp-models train`` without a shell: settings by objective, the model and the loss that they mean, a run folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hasp import HASPData, HASPLoader
from hasp.errors import HaspError
from hasp.schema import EdgeType, edge_name, parse_edge_name
from hasp.store.disk import Disk
from hasp_models.checks import check_features
from hasp_models.data.benchmark import Truth
from hasp_models.data.evaluate import evaluate
from hasp_models.data.pair_table import read_truth
from hasp_models.events import EventLog
from hasp_models.exact import ExactSimilarity
from hasp_models.kg_embedding import KGEmbedding
from hasp_models.neighbor_softmax import NeighborSoftmax
from hasp_models.objectives import InfoNCE, LinkBCE, Objective
from hasp_models.origin import origin_of, own_folder
from hasp_models.recipe import blend_start, shares_of, tiers_of
from hasp_models.runs import new_model, save_run
from hasp_models.semantic_gnn import SemanticGNN
from hasp_models.tiers import Tiers
from hasp_models.train import Fit, fit
from hasp_models.whole_graph import graph_of

__all__ = ["DEFAULTS", "train_run"]

DEFAULTS: dict[str, dict[str, Any]] = {
    "neighbors": {
        "lr": 0.0015, "dim": 256, "layers": 1, "temperature": 0.07, "disjoint": 0.3, "free": True, "dropout": 0.0,
        "content": 0.26, "cold": 0.2, "trust": 0.0, "exact_content": 0.3,
    },
    "infonce": {"lr": 0.01, "dim": 64, "layers": 2, "temperature": 0.1, "disjoint": 0.5, "free": False, "dropout": 0.5},
    "paper": {"lr": 0.01, "dim": 64, "layers": 2, "disjoint": 0.5, "free": False, "dropout": 0.5},
}  # fmt: skip
"""Objective -> the settings of ``hasp-models train`` that it has, and what they are where they are not given."""


def train_run(
    parts: HASPData,
    out: Path,
    *,
    objective: str = "neighbors",
    concepts: Path | None = None,
    eel: str | None = None,
    epochs: int = 20,
    lr: float | None = None,
    dim: int | None = None,
    layers: int | None = None,
    merge: int = 1,
    parts_per_step: int | None = None,
    temperature: float | None = None,
    disjoint: float | None = None,
    free: bool | None = None,
    dropout: float | None = None,
    content: float | None = None,
    cold: float | None = None,
    trust: float | None = None,
    exact_content: float | None = None,
    schedule: str = "constant",
    seed: int = 0,
    truth: Path | None = None,
    patience: int | None = None,
    lazy_rows: bool = False,
    gradients: str = "dense",
    amp: bool = False,
    tensorboard: bool = False,
    checkpoint_steps: int | None = None,
    quiet: bool = False,
) -> Fit:
    """Train a SemanticGNN on parts; ``out`` gets the model, its log, and a checkpoint from which it resumes.

    Args:
        parts: a build.
        out: the run folder.
        objective: ``neighbors`` (:class:`hasp_models.neighbor_softmax.NeighborSoftmax` over all EEL types, in tiers where they
            have a ``weight``, from the start of :mod:`hasp_models.recipe`), ``infonce`` or ``paper`` (Eq. 4-5).
        concepts: folder of :func:`hasp_models.tasks.pretrain_concepts`.
        eel: the link type that supervises, as ``title__co__title``; ``None``: the first. With ``neighbors`` all do.
        epochs: see :func:`hasp_models.train.fit`.
        lr: likewise. This and the next settings, where ``None``: what :data:`DEFAULTS` says of the objective.
        dim: see :class:`hasp_models.SemanticGNN`.
        layers: likewise.
        merge: parts per batch; links between them come back.
        parts_per_step: parts per optimizer step over all ranks.
        temperature: of ``neighbors`` and ``infonce``.
        disjoint: share of the links that supervises and carries no messages, drawn anew every epoch.
        free: give every entity a vector of its own.
        dropout: probability of leaving such a vector out.
        content: of ``neighbors``: see :func:`hasp_models.recipe.blend_start`; higher, and concepts say more.
        cold: of ``neighbors``: share of the entities that train without links in a step; higher, and concepts learn more.
        trust: of ``neighbors``: how much of its targets are exact similarities of the graph
            (:class:`hasp_models.ExactSimilarity`), not links alone: 0 to 1. For graphs with few links per entity.
        exact_content: how much shared concepts count in these similarities, where a link of weight 1 counts 1.
        schedule: see :func:`hasp_models.train.fit`.
        seed: of the model, the order and all draws.
        truth: pairs of similar entities; MAP@10 on them decides which epoch is kept.
        patience: see :func:`hasp_models.train.fit`.
        lazy_rows: likewise.
        gradients: likewise.
        amp: likewise.
        tensorboard: likewise.
        checkpoint_steps: likewise; with 1, a rank that is killed costs one step.
        quiet: no bar.
    """
    settings = {"lr": lr, "dim": dim, "layers": layers, "temperature": temperature, "disjoint": disjoint, "free": free}
    settings |= {"dropout": dropout, "content": content, "cold": cold, "trust": trust, "exact_content": exact_content}
    if patience is not None and truth is None:
        raise HaspError(f"patience counts epochs without a better MAP@10 on a truth, got {patience} and none; give --truth")
    own_folder(out, "run")
    chosen = _chosen(objective, {k: v for k, v in settings.items() if v is not None})
    edge_type = _link_type(parts, eel, merge)
    check_features(parts)
    made = _made(parts, objective, edge_type, chosen, None if concepts is None else KGEmbedding.load(concepts), seed)
    asks = objective != "neighbors"
    loader = HASPLoader(
        parts,
        batch_size=merge,
        shuffle=True,
        seed=seed,
        parts_per_step=parts_per_step,
        edge_label_index=edge_type if asks else None,
        neg_sampling="binary" if objective == "paper" else None,
        disjoint_train_ratio=chosen["disjoint"] if asks else 0.0,
        transform=None if made.tiers is None else made.tiers.split,
    )
    entity = edge_type[0]
    validate = None if truth is None else _validation(parts, read_truth(truth, parts.ids(entity)), entity, made.tiers)
    run = fit(
        made.model,
        loader,
        made.objective,
        epochs=epochs,
        lr=chosen["lr"],
        schedule=schedule,
        seed=seed,
        validate=validate,
        patience=patience,
        lazy_rows=lazy_rows,
        gradients=gradients,
        amp=amp,
        tensorboard=tensorboard,
        checkpoint=out / "checkpoint",
        checkpoint_steps=checkpoint_steps,
        log=out,
        progress=not quiet,
    )
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        used = {"objective": repr(made.objective), "epochs": epochs, "seed": seed, "merge": merge, **chosen}
        inputs = {"concepts": None if concepts is None else _input(concepts)}
        inputs["truth"] = None if truth is None else {"kind": "file", "id": Disk().hash(truth)}
        log = EventLog(out)
        try:
            save_run(out, made.model, made.options, parts, used, made.tiers, inputs)
        except HaspError as error:
            log.fail(error)
            raise
        log("saved", epoch=run.epoch, step=run.step)
    return run


def _chosen(objective: str, given: dict[str, Any]) -> dict[str, Any]:
    """All settings of an objective. Raises :class:`HaspError` for one that would be ignored."""
    if objective not in DEFAULTS:
        raise HaspError(f"objective is one of {list(DEFAULTS)}, got {objective!r}; choose one")
    for name in given:
        if name not in DEFAULTS[objective]:
            having = [o for o, settings in DEFAULTS.items() if name in settings]
            raise HaspError(f"{name} is a setting of {' and '.join(having)}, got objective={objective!r}; leave it out")
    chosen = DEFAULTS[objective] | given
    if chosen["dim"] < 1:
        raise HaspError(f"dim, the length of the embeddings, is at least 1, got {chosen['dim']}; raise it")
    if "exact_content" in given and not chosen["trust"]:
        raise HaspError(
            f"exact_content is about exact similarities, got {given['exact_content']} with trust=0; give trust, too"
        )
    return chosen


def _input(folder: Path) -> dict[str, str]:
    origin = origin_of(folder)
    return {"kind": origin.kind, "id": str(origin.id)}


class _Made(NamedTuple):
    """A model to train, what builds it again, its objective, and the tiers of its links."""

    model: SemanticGNN
    options: dict[str, Any]
    objective: Objective
    tiers: Tiers | None


def _made(
    parts: HASPData, name: str, edge_type: EdgeType, chosen: dict[str, Any], concepts: KGEmbedding | None, seed: int
) -> _Made:
    shape: dict[str, Any] = {"dim": chosen["dim"], "layers": chosen["layers"], "normalize": name != "paper"}
    if name != "neighbors":
        options = {**shape, "free": chosen["free"]} | ({"entity_dropout": chosen["dropout"]} if chosen["free"] else {})
        loss: Objective = LinkBCE(edge_type)
        if name == "infonce":
            loss = InfoNCE(edge_type, chosen["temperature"], known=parts.roles.eel)
        return _Made(new_model(parts, options, concepts, seed), options, loss, None)
    tiers = tiers_of(parts)
    strength = dict.fromkeys(parts.roles.eel, 1.0) if tiers is None else tiers.weight
    shares = shares_of(parts) if tiers is None else tiers.share
    more = {"entity_dropout": chosen["dropout"]} | ({} if chosen["free"] else {"free": {}})
    model = blend_start(parts, shares, concepts=concepts, seed=seed, content=chosen["content"], **shape, **more)
    update = [parts.roles.entity[0]] if chosen["layers"] == 1 else None
    options = {**shape, "entity_dropout": chosen["dropout"], "beta": "both", "activation": "gelu", "update": update}
    given = {"temperature": chosen["temperature"], "supervise": chosen["disjoint"], "cold": chosen["cold"]}
    if chosen["trust"]:
        exact = ExactSimilarity.of(graph_of(parts), parts.roles.eel, content=chosen["exact_content"])
        given |= {"exact": exact, "trust": chosen["trust"]}
    objective = NeighborSoftmax(strength, power=3.0, **given)
    return _Made(model, options, objective, tiers)


def _link_type(parts: HASPData, eel: str | None, merge: int) -> EdgeType:
    known = parts.roles.eel
    if not known:
        raise HaspError("training needs links between entities, but these parts have no EEL type; build with --eel")
    edge_type = known[0] if eel is None else parse_edge_name(eel)
    if edge_type not in known:
        raise HaspError(f"the link type is one of {[edge_name(e) for e in known]}, got {eel!r}; correct --eel")
    inside = sum(parts.report().edges[edge_name(edge_type)])
    total = parts.num_edges[edge_type]
    if not total or (not inside and merge == 1):
        raise HaspError(
            f"training needs links inside parts, but {inside:,} of {total:,} of {edge_name(edge_type)} are; "
            "merge parts, build fewer, or add links"
        )
    return edge_type


def _validation(parts: HASPData, truth: Truth, entity: str, tiers: Tiers | None) -> Callable[[torch.nn.Module], float]:
    """MAP@10 of the whole graph's embeddings."""
    from hasp.load.merge import merge

    whole = merge(parts.store, range(parts.num_parts))
    whole = whole if tiers is None else tiers.split(whole)

    def validate(model: torch.nn.Module) -> float:
        return evaluate(model(whole)[entity], truth, ks=(10,)).mean("map@10")

    return validate
