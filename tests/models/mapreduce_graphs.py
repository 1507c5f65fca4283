"""A graph of every kind of edge in parts, a model, and embedding it in a process that a test can kill."""

from __future__ import annotations

import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hasp import HASPData, Schema
from hasp.errors import HaspError
from hasp.graph import Graph
from hasp.sources.reverse import add_reverse
from hasp_models.mapreduce import embed_parts
from hasp_models.semantic_gnn import SemanticGNN

EEL = ("title", "co", "title")


def source(seed: int = 0, count: int = 40) -> Graph:
    """Two entity types, links within and between them, concepts with edges of their own, a sampled type, lonely nodes."""
    generator = torch.Generator().manual_seed(seed)

    def ends(a: int, b: int, m: int) -> tuple[Tensor, Tensor]:
        return torch.randint(a, (m,), generator=generator), torch.randint(b, (m,), generator=generator)

    edges = {
        EEL: ends(count - 3, count - 3, 4 * count),
        ("title", "with", "person"): ends(count - 3, 9, 2 * count),
        ("title", "has", "genre"): ends(count - 1, 5, 2 * count),
        ("genre", "under", "genre"): ends(5, 6, 7),
        ("title", "seen", "user"): ends(count, 8, count),
        ("genre", "liked", "user"): ends(5, 8, 6),
    }
    x = torch.randn(count, 3, generator=generator)
    return add_reverse(Graph({"title": count, "person": 11, "genre": 6, "user": 8}, edges, {"title": {"x": x}}))


def parts_of(graph: Graph, num_parts: int, root: Path | None = None) -> HASPData:
    schema = Schema(entity=["title", "person"], eel=[EEL], sample={"user": 4})
    parts = HASPData(graph, schema, num_parts=num_parts, root=root, log=False)
    assert num_parts == 1 or any(e.num_edges for e in parts.store.cut.edges.values())
    return parts


def model_of(parts: HASPData, sharp: float = 1.5, **options: Any) -> SemanticGNN:
    torch.manual_seed(5)
    model = SemanticGNN.from_data(parts, dim=8, **{"free": True, "backend": "torch", **options})
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(sharp)  # attention that is not flat
    return model


def main(folder: str) -> None:
    """Embeds with two processes and says who they are; after an error or Ctrl-C it says so and goes on from there."""
    parts = HASPData.open(f"{folder}/parts")
    model = model_of(parts, layers=2)

    def show(stage: int, done: int, total: int) -> None:
        print("workers", *[p.pid for p in multiprocessing.active_children()], flush=True)
        time.sleep(0.3)

    for _ in range(3):
        try:
            embed_parts(model, parts, f"{folder}/vectors", processes=2, progress=show)
        except (HaspError, KeyboardInterrupt) as error:  # noqa: PERF203 - three times
            print("stopped", type(error).__name__, error, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
