"""What the commands of ``hasp-models`` but ``train`` do, without a shell: bad input leaves no folder."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hasp import __version__
from hasp.console import Bar
from hasp.errors import HaspError
from hasp.graph import Graph
from hasp_models.data.benchmark import Truth
from hasp_models.data.evaluate import Result, evaluate
from hasp_models.data.neighbors import Score, Scorer, rank
from hasp_models.distributed.ranks import Ranks
from hasp_models.embeddings import Embeddings
from hasp_models.origin import own_folder
from hasp_models.run_log import RunLog
from hasp_models.transe import pretrain
from hasp_models.triples import Triples
from hasp_models.whole_graph import open_graph

__all__ = ["evaluate_pairs", "pretrain_concepts", "similar"]


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


def _scorer(
    embeddings: Embeddings, score: Score, hybrid: float | None, content: float | None, graph: Callable[[], Graph]
) -> Scorer:
    if hybrid is None:
        if content is not None:
            raise HaspError(f"exact_content is about exact similarities, got {content} without hybrid; give hybrid, too")
        return embeddings.scorer(score)
    if score != "cosine":
        raise HaspError(f"exact similarities are added to cosines, got score {score!r}; leave it, or hybrid, out")
    return embeddings.hybrid(graph(), hybrid, **({} if content is None else {"content": content}))


def evaluate_pairs(
    embeddings: Embeddings,
    truth: Truth,
    *,
    score: Score = "cosine",
    hybrid: float | None = None,
    exact_content: float | None = None,
    source: str | None = None,
) -> Result:
    """MAP and its companions on a truth, by group of degree (section 6.4).

    Args:
        embeddings: are ranked.
        truth: pairs of similar entities.
        score: ``"cosine"``, ``"dot"`` or ``"l2"``.
        hybrid: weight of the graph's exact similarities, see :meth:`Embeddings.hybrid`; ``None``: vectors alone.
        exact_content: with ``hybrid``: how much concepts count in these.
        source: with ``hybrid``: the embedded graph, if it has moved.

    Raises:
        HaspError: another graph, settings that do not go together.
    """
    degree = embeddings.degree.numpy()
    groups = {"group0": degree <= 3, "group1": (degree > 3) & (degree <= 6), "group2": degree > 6, "cold": degree == 0}
    scorer = _scorer(embeddings, score, hybrid, exact_content, lambda: embeddings.graph(source))
    return evaluate(scorer, truth, method="SemanticGNN" if hybrid is None else "SemanticGNN, hybrid", groups=groups)


def similar(
    embeddings: Embeddings,
    text: str,
    *,
    k: int = 10,
    score: Score = "cosine",
    hybrid: float | None = None,
    exact_content: float | None = None,
    source: str | None = None,
) -> dict[str, Any]:
    """The ``k`` nearest entities of one, and what each has in common with it; settings as of :func:`evaluate_pairs`."""
    graph = embeddings.graph(source)
    row = embeddings.find(text)
    ids, scores = rank(_scorer(embeddings, score, hybrid, exact_content, lambda: graph), [row], k)
    found = ids[0][ids[0] >= 0]
    answers = [
        {"id": embeddings.ids[i].item(), "name": embeddings.label(i), "score": round(float(s), 4), **why}
        for i, s, why in zip(found.tolist(), scores[0], embeddings.explain(graph, row, found), strict=False)
    ]
    return {"query": {"id": embeddings.ids[row].item(), "name": embeddings.label(row)}, "similar": answers}
