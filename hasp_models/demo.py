"""The demo: one catalogue through every stage, with nothing but PyG's own layers for a model.

generate -> plan -> build -> report -> train on parts -> embed every title -> rank the held-out links.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.nn import HeteroConv, SAGEConv

from hasp import HASPData, HASPLoader, Schema
from hasp.load.merge import merge
from hasp.sources.synthetic import Catalogue, Generated, generate
from hasp_models.data.csr import CSR
from hasp_models.data.metrics import per_query
from hasp_models.data.neighbors import EmbeddingScorer, Scorer, rank

__all__ = ["ConceptSAGE", "demo"]

EEL = ("title", "co_engaged", "title")


class ConceptSAGE(nn.Module):
    """Two GraphSAGE layers over every edge type; titles start from nothing but their concepts and links.

    Args:
        node_counts: nodes per semantic type, for their embedding tables.
        edge_types: edge types of the batches; only those that end in a title carry messages.
        channels: width of every layer.
    """

    def __init__(self, node_counts: dict[str, int], edge_types: list[tuple[str, str, str]], channels: int = 64) -> None:
        super().__init__()
        self.concepts = nn.ModuleDict({t: nn.Embedding(n, channels) for t, n in node_counts.items()})
        for table in self.concepts.values():
            nn.init.normal_(table.weight, std=0.1)  # type: ignore[arg-type]
        from_concepts = [e for e in edge_types if e[0] in node_counts and e[2] == "title"]
        self.first = HeteroConv({e: SAGEConv((channels, channels), channels) for e in from_concepts})
        self.second = HeteroConv({e: SAGEConv((channels, channels), channels) for e in [*from_concepts, EEL]})
        self.channels = channels

    def forward(self, batch: Any) -> Tensor:
        """Unit vectors of the batch's titles, float32 ``[titles, channels]``."""
        x = {t: table(batch[t].n_id) for t, table in self.concepts.items()}
        x["title"] = torch.zeros(batch["title"].num_nodes, self.channels)
        x["title"] = self.first(x, batch.edge_index_dict)["title"].relu()
        out = self.second(x, batch.edge_index_dict)["title"] + x["title"]
        return nn.functional.normalize(out, dim=1)


def demo(out: str | Path = "demo", titles: int = 20_000, epochs: int = 20, seed: int = 0) -> dict[str, float]:
    """Run the demo and print what happens; returns MAP@10 on held-out links per method.

    Args:
        out: folder for the parts and the report.
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
    schema = Schema(entity="title", eel=[EEL])
    say("\nplan")
    sys.stdout.flush()
    parts = HASPData(made.graph, schema, num_parts=16, seed=seed, root=out / "parts", reverse=True, overwrite=True)
    report = parts.report()
    page = report.to_html(out / "report.html")
    say(f"\nreport\n{report}\n")
    model = _train(parts, epochs, seed, say)
    model.eval()
    with torch.no_grad():  # all parts merged are the input graph: no link is cut here
        titles_out = model(merge(parts.store, range(parts.num_parts)))
    scores = _judge(made, titles_out)
    say("\nheld-out links, MAP@10 (all titles ranked, known links removed)   all titles   titles without a link")
    for name, (everyone, cold) in scores.items():
        say(f"  {name:60s} {everyone:12.3f} {cold:12.3f}")
    say(f"\nreport page: {page.resolve()}\ntook {time.perf_counter() - start:.0f} s")
    return {name: value[0] for name, value in scores.items()}


def _train(parts: HASPData, epochs: int, seed: int, say: Any) -> ConceptSAGE:
    torch.manual_seed(seed)
    counts = {t: parts.num_nodes[t] for t in parts.roles.semantic}
    model = ConceptSAGE(counts, parts.edge_types)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    loader = HASPLoader(
        parts, batch_size=4, shuffle=True, seed=seed, edge_label_index=EEL, neg_sampling="binary", disjoint_train_ratio=0.3
    )
    for epoch in range(epochs):
        total, count, begin = 0.0, 0, time.perf_counter()
        for batch in loader:
            pairs = batch[EEL].edge_label_index
            embedded = model(batch)
            # In-batch softmax: the partner of every linked title against the partners of all others.
            positive = pairs[:, batch[EEL].edge_label > 0]
            logits = embedded[positive[0]] @ embedded[positive[1]].T / 0.1
            loss = nn.functional.cross_entropy(logits, torch.arange(positive.size(1)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, count = total + float(loss.detach()) * positive.size(1), count + positive.size(1)
        if epoch in (0, epochs - 1) or (epoch + 1) % 5 == 0:
            seconds = time.perf_counter() - begin
            say(f"epoch {epoch + 1:3d}   loss {total / count:.3f}   {count:,} links in {seconds:.1f} s")
    return model


def _judge(made: Generated, embedded: Tensor) -> dict[str, tuple[float, float]]:
    """MAP@10 over all queries and over those without a training link, per method."""
    count = made.config.num_titles
    a, b = (ends.numpy() for ends in made.graph.edges[EEL])
    known = CSR.from_pairs(a, b, count)
    truth = CSR.from_pairs(made.test[0], made.test[1], count, symmetric=True)
    queries = np.flatnonzero(truth.counts)
    rows, cold = truth.select(queries), known.counts[queries] == 0
    scorers: dict[str, Scorer] = {
        "popularity (most links first)": _Popularity(known),
        "concepts in common (tf-idf cosine)": EmbeddingScorer(_concepts(made), "cosine"),
        "two SAGE layers of PyG, trained on HASP parts": EmbeddingScorer(embedded, "cosine"),
    }
    out = {}
    for name, scorer in scorers.items():
        ranked, _ = rank(scorer, queries, 10, exclude=known)
        values = per_query(ranked, rows, ks=(10,))["map@10"]
        out[name] = (float(np.mean(values)), float(np.mean(values[cold])) if cold.any() else float("nan"))
    return out


class _Popularity:
    """Every query gets the titles with most links."""

    def __init__(self, known: CSR) -> None:
        self.num_items = known.num_rows
        self._links = torch.from_numpy(known.counts).float()

    def scores(self, queries: Any) -> Tensor:
        return self._links.repeat(len(queries), 1)


def _concepts(made: Generated) -> Tensor:
    """A 0/1 row of concepts per title, rare concepts weighing more (tf-idf)."""
    blocks = []
    for edge_type, (source, destination) in made.graph.edges.items():
        if edge_type != EEL:
            block = torch.zeros(made.config.num_titles, made.graph.num_nodes[edge_type[2]])
            block[source, destination] = 1.0
            blocks.append(block * (block.size(0) / (1 + block.sum(0))).log())
    return torch.cat(blocks, dim=1)
