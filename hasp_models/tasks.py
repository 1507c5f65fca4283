"""What the commands of ``hasp-models`` do, without a shell: check everything first, so that bad input leaves no folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hasp import HASPData, HASPLoader
from hasp.console import Bar
from hasp.errors import HaspError
from hasp.schema import EdgeType, edge_name, parse_edge_name
from hasp_models.data.benchmark import Truth
from hasp_models.data.csr import CSR
from hasp_models.data.evaluate import Result, evaluate
from hasp_models.data.neighbors import EmbeddingScorer, Score, rank
from hasp_models.kg_embedding import KGEmbedding
from hasp_models.objectives import InfoNCE, LinkBCE, Objective
from hasp_models.runs import Embeddings, new_model, open_graph, save_run
from hasp_models.train import Fit, fit
from hasp_models.transe import pretrain
from hasp_models.triples import Triples

__all__ = ["evaluate_pairs", "pretrain_concepts", "read_truth", "similar", "train_run"]


def pretrain_concepts(source: str, out: Path, *, quiet: bool = False, **options: Any) -> dict[str, Any]:
    """TransE (or another method) over the semantic triples of a graph, saved into ``out``."""
    graph, _ = open_graph(source)
    triples = Triples.from_graph(graph)
    epochs = int(options.get("epochs", 100))
    losses: list[float] = []
    with Bar(quiet) as bar:

        def progress(epoch: int, loss: float) -> None:
            losses.append(loss)
            bar("pretraining", epoch + 1, epochs)

        embedding = pretrain(triples, progress=progress, **options)
    embedding.save(out)
    return {"triples": len(triples), "relations": triples.num_relations, "nodes": triples.num_nodes, "loss": losses[-1:]}


def train_run(
    parts: HASPData,
    out: Path,
    *,
    objective: str = "infonce",
    concepts: Path | None = None,
    eel: str | None = None,
    epochs: int = 20,
    lr: float = 0.01,
    dim: int = 64,
    layers: int = 2,
    merge: int = 1,
    parts_per_step: int | None = None,
    temperature: float = 0.1,
    max_pairs: int = 2048,
    disjoint: float = 0.5,
    free: bool = False,
    dropout: float = 0.5,
    seed: int = 0,
    truth: Path | None = None,
    patience: int | None = None,
    lazy_rows: bool = False,
    amp: bool = False,
    tensorboard: bool = False,
    quiet: bool = False,
) -> Fit:
    """Train a SemanticGNN on parts; ``out`` gets the model, its log, and a checkpoint from which it resumes.

    Args:
        parts: a build.
        out: the run folder.
        objective: ``infonce`` or ``paper`` (Eq. 4-5).
        concepts: folder of :func:`pretrain_concepts`.
        eel: the link type that supervises, as ``title__co__title``; ``None``: the first.
        epochs: see :func:`hasp_models.train.fit`.
        lr: likewise.
        dim: see :class:`hasp_models.SemanticGNN`.
        layers: likewise.
        merge: parts per batch; links between them come back.
        parts_per_step: parts per optimizer step over all ranks.
        temperature: of ``infonce``.
        max_pairs: of ``infonce``.
        disjoint: share of the links that supervises and carries no messages, drawn anew every epoch.
        free: give every entity a vector of its own.
        dropout: probability of leaving such a vector out.
        seed: of the model, the order and all draws.
        truth: pairs of similar entities; MAP@10 on them decides which epoch is kept.
        patience: see :func:`hasp_models.train.fit`.
        lazy_rows: likewise.
        amp: likewise.
        tensorboard: likewise.
        quiet: no bar.
    """
    edge_type = _link_type(parts, eel, merge)
    loss: Objective
    if objective == "paper":
        loss = LinkBCE(edge_type)
    elif objective == "infonce":
        loss = InfoNCE(edge_type, temperature, max_pairs, parts.roles.eel)
    else:
        raise HaspError(f"objective is 'infonce' or 'paper', got {objective!r}; choose one")
    options: dict[str, Any] = {"dim": dim, "layers": layers, "free": free, "normalize": objective != "paper"}
    options |= {"entity_dropout": dropout} if free else {}
    pretrained = None if concepts is None else KGEmbedding.load(concepts)
    model = new_model(parts, options, pretrained, seed)
    loader = HASPLoader(
        parts,
        batch_size=merge,
        shuffle=True,
        seed=seed,
        parts_per_step=parts_per_step,
        edge_label_index=edge_type,
        neg_sampling="binary" if objective == "paper" else None,
        disjoint_train_ratio=disjoint,
    )
    validate = None if truth is None else _validation(parts, read_truth(truth, parts.ids(edge_type[0])), edge_type[0])
    run = fit(
        model,
        loader,
        loss,
        epochs=epochs,
        lr=lr,
        seed=seed,
        validate=validate,
        patience=patience,
        lazy_rows=lazy_rows,
        amp=amp,
        tensorboard=tensorboard,
        checkpoint=out / "checkpoint",
        log=out,
        progress=not quiet,
    )
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        settings = {"objective": repr(loss), "epochs": epochs, "lr": lr, "seed": seed, "merge": merge, "disjoint": disjoint}
        save_run(out, model, options, parts, settings)
    return run


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


def _validation(parts: HASPData, truth: Truth, entity: str) -> Callable[[torch.nn.Module], float]:
    """MAP@10 of the whole graph's embeddings."""
    from hasp.load.merge import merge

    whole = merge(parts.store, range(parts.num_parts))

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
    return evaluate(embeddings.vectors, truth, method="SemanticGNN", score=score, groups=groups)


def similar(
    embeddings: Embeddings, text: str, *, k: int = 10, score: Score = "cosine", source: str | None = None
) -> dict[str, Any]:
    """The ``k`` nearest entities of one, and what each has in common with it."""
    graph = embeddings.graph(source)
    row = embeddings.find(text)
    ids, scores = rank(EmbeddingScorer(embeddings.vectors, score), [row], k)
    found = ids[0][ids[0] >= 0]
    answers = [
        {"id": embeddings.ids[i].item(), "name": embeddings.label(i), "score": round(float(s), 4), **why}
        for i, s, why in zip(found.tolist(), scores[0], embeddings.explain(graph, row, found), strict=False)
    ]
    return {"query": {"id": embeddings.ids[row].item(), "name": embeddings.label(row)}, "similar": answers}
