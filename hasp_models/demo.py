"""The demo: one catalogue through every stage, with nothing but PyG's own layers for a model.

generate -> plan -> build -> report -> train on parts -> embed every title -> rank the held-out links.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.nn import SAGEConv

from hasp import HASPData, HASPLoader, Schema
from hasp.load.merge import merge
from hasp.sources.synthetic import Catalogue, Generated, generate
from hasp_models.data.csr import CSR
from hasp_models.data.metrics import per_query
from hasp_models.data.neighbors import EmbeddingScorer, Scorer, rank

__all__ = ["ConceptSAGE", "demo"]

EdgeType = tuple[str, str, str]
EEL: EdgeType = ("title", "co_engaged", "title")


class ConceptSAGE(nn.Module):
    """GraphSAGE in two steps: a title is the sum of its concepts, then it looks at its linked titles.

    Args:
        concept_degree: per semantic type, how many titles each concept has ``[n]``: rare concepts start with larger vectors,
            so that the untrained model already is a random projection of tf-idf.
        edge_types: edge types of the batches; those from a concept to a title are used, and the EELs.
        num_titles: all titles.
        channels: width.
    """

    def __init__(
        self, concept_degree: dict[str, Tensor], edge_types: list[EdgeType], num_titles: int, channels: int = 128
    ) -> None:
        super().__init__()
        self.channels = channels
        self.to_title = [e for e in edge_types if e[0] in concept_degree and e[2] == "title"]
        self.concepts, self.first = nn.ModuleDict(), nn.ModuleDict()
        for concept, _, _ in self.to_title:
            degree = concept_degree[concept]
            idf = (num_titles / (1 + degree)).log()[:, None]
            self.concepts[concept] = nn.Embedding(degree.numel(), channels, _weight=torch.randn(degree.numel(), channels) * idf)
            self.first[concept] = SAGEConv((channels, channels), channels, aggr="sum", root_weight=False)
        self.second = SAGEConv(channels, channels)
        nn.init.zeros_(self.second.lin_r.weight)

    def forward(self, batch: Any) -> Tensor:
        """Unit vectors of the batch's titles, float32 ``[titles, channels]``."""
        nothing = torch.zeros(batch["title"].num_nodes, self.channels)
        title = nothing
        for edge_type in self.to_title:
            concept = edge_type[0]
            rows = self.concepts[concept](batch[concept].n_id)
            title = title + self.first[concept]((rows, nothing), batch[edge_type].edge_index)
        title = nn.functional.normalize(title, dim=1)
        out: Tensor = nn.functional.normalize(title + self.second(title, batch[EEL].edge_index), dim=1)
        return out


def demo(out: str | Path = "demo", titles: int = 20_000, epochs: int = 12, seed: int = 0) -> dict[str, float]:
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
    parts = HASPData(made.graph, schema, num_parts=8, seed=seed, root=out / "parts", reverse=True, overwrite=True)
    report = parts.report()
    page = report.to_html(out / "report.html")
    say(f"\nreport\n{report}\n")
    model = _train(parts, made, epochs, seed, say)
    model.eval()
    with torch.no_grad():  # all parts merged are the input graph: no link is cut here
        titles_out = model(merge(parts.store, range(parts.num_parts)))
    scores = _judge(made, titles_out)
    say("\nheld-out links, MAP@10 (all titles ranked, known links removed)   all titles   titles without a link")
    for name, (everyone, cold) in scores.items():
        say(f"  {name:60s} {everyone:12.3f} {cold:12.3f}")
    say(f"\nreport page: {page.resolve()}\ntook {time.perf_counter() - start:.0f} s")
    return {name: value[0] for name, value in scores.items()}


def _train(parts: HASPData, made: Generated, epochs: int, seed: int, say: Callable[[str], None]) -> ConceptSAGE:
    torch.manual_seed(seed)
    degree = {
        e[2]: torch.bincount(ends[1], minlength=made.graph.num_nodes[e[2]]) for e, ends in made.graph.edges.items() if e != EEL
    }
    model = ConceptSAGE(degree, parts.edge_types, made.config.num_titles)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    # Two parts a batch: links between the two come back. 30 % of the links supervise and carry no message, others each epoch.
    loader = HASPLoader(parts, batch_size=2, shuffle=True, seed=seed, edge_label_index=EEL, disjoint_train_ratio=0.3)
    for epoch in range(epochs):
        total, count, begin = 0.0, 0, time.perf_counter()
        for batch in loader:
            embedded = model(batch)
            pairs = batch[EEL].edge_label_index
            pairs = pairs[:, torch.randperm(pairs.size(1))[:1024]]
            # In-batch softmax: the partner of a title against the partners of the others.
            logits = embedded[pairs[0]] @ embedded[pairs[1]].T / 0.1
            loss = nn.functional.cross_entropy(logits, torch.arange(pairs.size(1)))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total, count = total + float(loss.detach()) * pairs.size(1), count + pairs.size(1)
        if epoch == 0 or (epoch + 1) % 4 == 0:
            say(f"epoch {epoch + 1:3d}   loss {total / count:.3f}   {time.perf_counter() - begin:.1f} s")
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
        "SAGE layers of PyG, trained on HASP parts": EmbeddingScorer(embedded, "cosine"),
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
