"""What the commands of ``hasp-models`` do, without a shell: check everything first, so that bad input leaves no folder."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from hasp import HASPData, HASPLoader, __version__
from hasp.console import Bar
from hasp.errors import HaspError
from hasp.schema import EdgeType, edge_name, parse_edge_name
from hasp.store.disk import Disk
from hasp_models.data.benchmark import Truth
from hasp_models.data.csr import CSR
from hasp_models.data.evaluate import Result, evaluate
from hasp_models.data.neighbors import Score, rank
from hasp_models.distributed.ranks import Ranks
from hasp_models.events import EventLog
from hasp_models.exact import ExactSimilarity
from hasp_models.kg_embedding import KGEmbedding
from hasp_models.neighbor_softmax import NeighborSoftmax
from hasp_models.objectives import InfoNCE, LinkBCE, Objective
from hasp_models.origin import origin_of, own_folder
from hasp_models.recipe import blend_start, shares_of, tiers_of
from hasp_models.run_log import RunLog
from hasp_models.runs import Embeddings, graph_of, new_model, open_graph, save_run
from hasp_models.semantic_gnn import SemanticGNN
from hasp_models.tiers import Tiers
from hasp_models.train import Fit, fit
from hasp_models.transe import pretrain
from hasp_models.triples import Triples

__all__ = ["DEFAULTS", "evaluate_pairs", "pretrain_concepts", "read_truth", "similar", "train_run"]


DEFAULTS: dict[str, dict[str, Any]] = {
    "neighbors": {
        "lr": 0.0015, "dim": 256, "layers": 1, "temperature": 0.07, "disjoint": 0.3, "free": True, "dropout": 0.0,
        "content": 0.26, "cold": 0.2, "trust": 0.0, "exact_content": 0.3,
    },
    "infonce": {"lr": 0.01, "dim": 64, "layers": 2, "temperature": 0.1, "disjoint": 0.5, "free": False, "dropout": 0.5},
    "paper": {"lr": 0.01, "dim": 64, "layers": 2, "disjoint": 0.5, "free": False, "dropout": 0.5},
}  # fmt: skip
"""Objective -> the settings of ``hasp-models train`` that it has, and what they are where they are not given."""


def pretrain_concepts(source: str, out: Path, *, quiet: bool = False, **options: Any) -> dict[str, Any]:
    """TransE (or another method) over the semantic triples of a graph, saved into ``out`` with a log as a run has one."""
    own_folder(out, "concepts")
    graph, fingerprint = open_graph(source)
    triples = Triples.from_graph(graph)
    epochs = int(options.get("epochs", 100))
    history: list[dict[str, Any]] = []
    log, begin, written = RunLog(out), time.perf_counter(), 0.0
    settings = {k: v for k, v in options.items() if k != "epochs"}
    about = {"fingerprint": fingerprint, "settings": settings, "facts": len(triples)}

    def started() -> None:
        log.begin(Ranks(), 0, run="pretrain", epoch=0, epochs=epochs, **about)

    with log.telling(lambda: {"epoch": len(history)}), Bar(quiet) as bar:

        def progress(epoch: int, loss: float) -> None:
            nonlocal begin, written
            now = time.perf_counter()
            history.append({"epoch": epoch + 1, "loss": loss, "seconds": round(now - begin, 3)})
            begin = now
            if now - written >= 1.0 or epoch + 1 == epochs:  # an epoch may be shorter than writing about it
                written = now
                log.write(history, {"library": __version__, "run": "pretrain", **about, "epoch": epoch + 1, "loss": loss})
            bar("pretraining", epoch + 1, epochs)

        embedding = pretrain(triples, progress=progress, started=started, **options)
        inputs = {"graph": {"kind": "graph", "id": fingerprint}}
        dataclasses.replace(embedding, inputs=inputs).save(out)
        log.say("finished", epoch=len(history))
    losses = [row["loss"] for row in history[-1:]]
    return {"triples": len(triples), "relations": triples.num_relations, "nodes": triples.num_nodes, "loss": losses}


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
        concepts: folder of :func:`pretrain_concepts`.
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
    own_folder(out, "run")
    settings = {"lr": lr, "dim": dim, "layers": layers, "temperature": temperature, "disjoint": disjoint, "free": free}
    settings |= {"dropout": dropout, "content": content, "cold": cold, "trust": trust, "exact_content": exact_content}
    chosen = _chosen(objective, {k: v for k, v in settings.items() if v is not None})
    edge_type = _link_type(parts, eel, merge)
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


def read_truth(path: Path, ids: Any, *, skip_unknown: bool = False) -> Truth:
    """Pairs of similar entities, from a table with the columns ``a`` and ``b`` of the user's ids.

    Args:
        path: CSV (also ``.gz``) or Parquet.
        ids: the ids of all entities ``[N]``.
        skip_unknown: leave pairs with an id that is none of these out, instead of refusing the file.

    Raises:
        HaspError: unknown ids (counted, and up to five named), or no pair at all.
    """
    from hasp.sources.columns import read_table

    columns = read_table(path, ids=("a", "b")).columns
    if "a" not in columns or "b" not in columns:
        raise HaspError(f"{path}: a truth has the columns 'a' and 'b', found {list(columns)}; rename or add them")
    names = [np.asarray(columns[c]).astype(str) for c in ("a", "b")]
    text = np.asarray(ids).astype(str)
    order = np.argsort(text, kind="stable")
    found = []
    for wanted in names:
        at = np.minimum(np.searchsorted(text[order], wanted), max(text.size - 1, 0))
        found.append(np.where(text[order[at]] == wanted, order[at], -1))
    unknown = np.unique(np.concatenate([n[f < 0] for n, f in zip(names, found, strict=True)]))
    if unknown.size and not skip_unknown:
        some = ", ".join(repr(str(u)) for u in unknown[:5])
        raise HaspError(
            f"{path}: every id is an entity, but {unknown.size:,} are not ({some}); correct them, or --skip-unknown"
        )
    keep = (found[0] >= 0) & (found[1] >= 0)
    rows = CSR.from_pairs(found[0][keep], found[1][keep], text.size, symmetric=True)
    if not rows.indices.size:
        raise HaspError(f"{path}: a truth has a pair of two entities, found none among {keep.size:,} rows; correct the file")
    return Truth.from_csr(path.name.split(".")[0], rows)


def evaluate_pairs(embeddings: Embeddings, truth: Truth, *, score: Score = "cosine") -> Result:
    """MAP and its companions on a truth, by group of degree (section 6.4)."""
    degree = embeddings.degree.numpy()
    groups = {"group0": degree <= 3, "group1": (degree > 3) & (degree <= 6), "group2": degree > 6, "cold": degree == 0}
    return evaluate(embeddings.scorer(score), truth, method="SemanticGNN", groups=groups)


def similar(
    embeddings: Embeddings, text: str, *, k: int = 10, score: Score = "cosine", source: str | None = None
) -> dict[str, Any]:
    """The ``k`` nearest entities of one, and what each has in common with it."""
    graph = embeddings.graph(source)
    row = embeddings.find(text)
    ids, scores = rank(embeddings.scorer(score), [row], k)
    found = ids[0][ids[0] >= 0]
    answers = [
        {"id": embeddings.ids[i].item(), "name": embeddings.label(i), "score": round(float(s), 4), **why}
        for i, s, why in zip(found.tolist(), scores[0], embeddings.explain(graph, row, found), strict=False)
    ]
    return {"query": {"id": embeddings.ids[row].item(), "name": embeddings.label(row)}, "similar": answers}
