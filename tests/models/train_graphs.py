"""Small graphs in uneven parts, a small model, and training on them in one process or several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hasp import HASPData, HASPLoader, Schema
from hasp.graph import Graph
from hasp_models.objectives import InfoNCE, LinkBCE
from hasp_models.semantic_gnn import SemanticGNN
from hasp_models.train import fit

EEL = ("title", "co", "title")
SIZES = [12, 0, 3, 20, 1, 8]  # entities per part: one part has none at all, one a single entity and so no EEL


def small_parts(sizes: list[int] | None = None, seed: int = 0, **options: Any) -> HASPData:
    """Titles with genres and links inside their parts, and a few between."""
    sizes = sizes or SIZES
    generator = torch.Generator().manual_seed(seed)
    label = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    count = label.numel()
    a, b = torch.randint(count, (2, 12 * count), generator=generator)
    keep = (a != b) & ((label[a] == label[b]) | (torch.rand(a.numel(), generator=generator) < 0.1))
    a, b = a[keep], b[keep]
    genres = torch.randint(5, (count,), generator=generator)
    x = torch.randn(count, 4, generator=generator)
    graph = Graph(
        {"title": count, "genre": 5},
        {EEL: (torch.cat([a, b]), torch.cat([b, a])), ("title", "has", "genre"): (torch.arange(count), genres)},
        {"title": {"x": x}},
    )
    schema = Schema(entity="title", eel=[EEL])
    return HASPData(
        graph, schema, num_parts=len(sizes), node_part={"title": label.int().numpy()}, reverse=True, log=False, **options
    )


def small_model(parts: HASPData, dim: int = 6, **options: Any) -> SemanticGNN:
    torch.manual_seed(3)
    return SemanticGNN.from_data(parts, dim=dim, layers=1, backend="torch", **options)  # nothing to compile


def small_loader(parts: HASPData, objective: str = "infonce", parts_per_step: int = 4, **options: Any) -> HASPLoader:
    negatives = "binary" if objective == "paper" else None
    return HASPLoader(
        parts,
        shuffle=True,
        seed=5,
        parts_per_step=parts_per_step,
        edge_label_index=EEL,
        neg_sampling=negatives,
        disjoint_train_ratio=0.5,
        **options,
    )


def mean_of_means(objective: Any) -> Any:
    """The usual loop: each batch's own mean, and then the mean over batches."""

    def planted(model: Any, batch: Any, key: int) -> Any:
        term = objective(model, batch, key)
        return type(term)(term.sum / max(term.weight, 1.0), 1.0)

    return planted


def train_small(objective: str, planted: bool = False, lazy_rows: bool = False) -> dict[str, Any]:
    parts = small_parts()
    model = small_model(parts, free=True, entity_dropout=0.5)
    loss: Any = LinkBCE(EEL) if objective == "paper" else InfoNCE(EEL, max_pairs=16)
    loss = mean_of_means(loss) if planted else loss
    run = fit(
        model,
        small_loader(parts, objective),
        loss,
        epochs=3,
        lr=0.01,
        clip=1.0,
        weight_decay=0.1,
        lazy_rows=lazy_rows,
        progress=False,
    )
    weights = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    return {"weights": weights.tolist(), "loss": [row["loss"] for row in run.history], "step": run.step}


def train_many(world_size: int, folder: Path, *arguments: Any) -> list[dict[str, Any]]:
    from gloo import on_ranks  # scripts beside this file import it without the folder above on their path

    return on_ranks(world_size, folder, "train_graphs:train_small", *arguments, limit=60)
