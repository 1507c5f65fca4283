"""The demo: a made-up catalogue through every stage, from a plan to titles that are similar to a title.

generate -> plan -> build -> report -> pretrain -> train on parts -> embed every title -> rank held-out links -> similar titles.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from hasp import HASPData, Schema
from hasp.sources.synthetic import Catalogue, Generated, generate
from hasp_models.data.csr import CSR
from hasp_models.data.metrics import per_query
from hasp_models.data.neighbors import FixedScorer, Scorer, rank
from hasp_models.embeddings import Embeddings
from hasp_models.runs import load_run
from hasp_models.tasks import pretrain_concepts, similar
from hasp_models.train_task import train_run

__all__ = ["demo"]

EEL = ("title", "co_engaged", "title")

Say = Callable[[str], None]


def demo(out: str | Path = "demo", titles: int = 20_000, epochs: int = 20, seed: int = 0) -> dict[str, float]:
    """Run the demo and print what happens; returns MAP@10 on held-out links per method.

    Args:
        out: folder for the parts, the report, the pretrained concepts, the run and the embeddings. What it holds is used
            again: an interrupted demo goes on where it was.
        titles: size of the made-up catalogue.
        epochs: passes over all parts.
        seed: of the catalogue, the parts, the order and the model.
    """
    out, start = Path(out), time.perf_counter()

    def say(text: str = "") -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    made = generate(Catalogue(num_titles=titles, seed=seed))
    say(f"catalogue   {titles:,} titles, {sum(made.graph.num_nodes.values()) - titles:,} concepts in ten categories")
    say("\nplan")
    schema = Schema(entity="title", eel=[EEL])
    parts = HASPData(made.graph, schema, num_parts=8, seed=seed, root=out / "parts", reverse=True, overwrite=True)
    report = parts.report()
    page = report.to_html(out / "report.html", parts.manifest.origin)
    say(f"\nreport\n{report}\n")
    embeddings = _embed(parts, out, epochs, seed, say)
    scores = _judge(made, embeddings)
    say("\nheld-out links, MAP@10 (all titles ranked, known links removed)   all titles   titles without a link")
    for name, (everyone, cold) in scores.items():
        say(f"  {name:60s} {everyone:12.3f} {cold:12.3f}")
    _show(embeddings, say)
    say(f"\nreport page: {page.resolve()}\ntook {time.perf_counter() - start:.0f} s")
    return {name: value[0] for name, value in scores.items()}


def _embed(parts: HASPData, out: Path, epochs: int, seed: int, say: Say) -> Embeddings:
    """Pretrain the concepts, train a SemanticGNN on the parts, embed the whole graph with every edge."""
    begin = time.perf_counter()
    facts = pretrain_concepts(str(out / "parts"), out / "kg", quiet=True, dim=64, epochs=10, seed=seed)
    say(f"pretrain    {facts['triples']:,} facts, {facts['relations']} relations, TransE: {time.perf_counter() - begin:.1f} s")
    # Two parts a batch: links between the two come back, and each batch tells a title from twice as many others.
    # This catalogue's concepts say much and its links have no weight: concepts get a louder voice than by default.
    options: dict[str, Any] = {"dim": 256, "lr": 0.004, "content": 2.3, "cold": 0.6, "merge": 2, "parts_per_step": 2}
    run = train_run(parts, out / "run", concepts=out / "kg", epochs=epochs, seed=seed, quiet=True, **options)
    for row in run.history:
        if row["epoch"] in (1, epochs) or row["epoch"] % 5 == 0:
            say(f"train       epoch {row['epoch']:2d}   loss {row['loss']:.3f}   {row['seconds']:.1f} s")
    begin = time.perf_counter()
    model, meta = load_run(out / "run")
    found = Embeddings.of(model, meta, str((out / "parts").resolve()))
    found.save(out / "embeddings")
    say(f"embed       {found.vectors.size(0):,} titles, every edge kept: {time.perf_counter() - begin:.1f} s")
    return found


def _judge(made: Generated, embeddings: Embeddings) -> dict[str, tuple[float, float]]:
    """MAP@10 over all queries and over those without a training link, per method."""
    count = made.config.num_titles
    a, b = (ends.numpy() for ends in made.graph.edges[EEL])
    known = CSR.from_pairs(a, b, count)
    truth = CSR.from_pairs(made.test[0], made.test[1], count, symmetric=True)
    queries = np.flatnonzero(truth.counts)
    rows, cold = truth.select(queries), known.counts[queries] == 0
    scorers: dict[str, Scorer] = {
        "popularity (most links first)": FixedScorer(torch.from_numpy(known.counts.astype(np.float32))),
        "links in common (cosine)": _Rows(
            _unit(sp.csr_array((np.ones(a.size), known.indices, known.indptr), shape=(count, count)))
        ),
        "concepts in common (tf-idf cosine)": _Rows(_concepts(made)),
        "SemanticGNN, trained on HASP parts": embeddings.scorer(),
        "the same, and what the graph says exactly (hybrid search)": embeddings.hybrid(embeddings.graph(), 0.5),
    }
    out = {}
    for name, scorer in scorers.items():
        ranked, _ = rank(scorer, queries, 10, exclude=known)
        values = per_query(ranked, rows, ks=(10,))["map@10"]
        out[name] = (float(np.mean(values)), float(np.mean(values[cold])) if cold.any() else float("nan"))
    return out


def _show(embeddings: Embeddings, say: Say, titles: int = 5, k: int = 3) -> None:
    """What is similar to a few titles, well linked and not linked at all, and why."""
    order = np.argsort(-embeddings.degree.numpy(), kind="stable")
    say("\nsimilar titles")
    for row in order[np.linspace(0, order.size - 1, titles).astype(int)].tolist():
        found = similar(embeddings, embeddings.label(row), k=k)
        say(f"  {found['query']['name']} ({int(embeddings.degree[row])} links)")
        for answer in found["similar"]:
            why = (["linked"] if answer["linked"] else []) + answer["concepts"][:3]
            why += [f"both with {name}" for name in answer["links"][:2]]
            say(f"    {answer['score']:.2f}  {answer['name']:14s} {'; '.join(why) or 'near to the same titles'}")


class _Rows:
    """Cosines of sparse unit rows ``[N, F]``."""

    def __init__(self, rows: sp.csr_array) -> None:
        self.num_items, self._rows, self._columns = rows.shape[0], rows, rows.T.tocsr()

    def scores(self, queries: np.ndarray) -> Tensor:  # type: ignore[type-arg]
        return torch.from_numpy((self._rows[queries] @ self._columns).toarray().astype(np.float32))


def _concepts(made: Generated) -> sp.csr_array:
    """A row of concepts per title, rare concepts weighing more (tf-idf)."""
    blocks = []
    for edge_type, (source, destination) in made.graph.edges.items():
        if edge_type != EEL:
            size = made.graph.num_nodes[edge_type[2]]
            rarity = np.log(made.config.num_titles / (1 + np.bincount(destination.numpy(), minlength=size)))
            ends = (source.numpy(), destination.numpy())
            blocks.append(sp.csr_array((rarity[ends[1]], ends), shape=(made.config.num_titles, size)))
    return _unit(sp.hstack(blocks).tocsr())


def _unit(rows: sp.csr_array) -> sp.csr_array:
    norm = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
    return sp.csr_array(sp.diags_array(1 / np.maximum(norm, 1e-30)) @ rows)
