"""Distributed GraphSAGE that tells labels: micro-F1 over METIS parts against one process that has the whole graph.

PyG's ``SAGEConv``, two layers, over the links between titles, trained by the trainer on one, two and four gloo ranks. Books:
the themes of a title (several; of half the titles they are known), from what else is known of it. Planted: the community of an
entity, from a noisy vector. All ways take as many optimizer steps; those over parts see a quarter of the graph in each.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch_geometric.data import HeteroData
from torch_geometric.nn import SAGEConv

from bench.forked import on_ranks
from bench.graphs import Planted, planted
from bench.measure import call_in_child
from bench.table import Table
from bench.wire import tcp_bytes_sent
from hasp import HASPData, HASPLoader, Schema, open_source
from hasp_models.objectives import LossTerm
from hasp_models.train import fit

__all__ = ["SIZES", "WAYS", "measure", "micro_f1", "run"]

LINK = ("title", "linked", "title")
WAYS: dict[str, tuple[str, int, bool]] = {
    "the whole graph, 1 process": ("whole", 1, False),
    "the whole graph, as many passes": ("passes", 1, False),
    "METIS parts, 1 process": ("metis", 1, False),
    "METIS parts, 2 ranks": ("metis", 2, False),
    "METIS parts, 4 ranks": ("metis", 4, False),
    "METIS parts and halo, 1 process": ("metis", 1, True),
    "METIS parts and halo, 2 ranks": ("metis", 2, True),
    "METIS parts and halo, 4 ranks": ("metis", 4, True),
    "random parts, 2 ranks": ("random", 2, False),
    "random parts and halo, 2 ranks": ("random", 2, True),
}
"""Way -> how the graph is cut, ranks, and whether far ends of cut links are carried."""

SIZES: dict[str, dict[str, Any]] = {
    "small": {"data": ["planted"], "nodes": 300, "parts": 8, "steps": 4, "seeds": 1, "width": 8},
    "full": {"data": ["books", "planted"], "nodes": 8_000, "parts": 16, "steps": 200, "seeds": 5, "width": 64},
}
PER_STEP = 4
THEMES = 50
F1, APART = "micro-F1", "against one process"
WEIGHTS = "weights apart"
BESIDE = (APART,)


def run(size: str = "full") -> list[Table]:
    """One table: every way on every data set."""
    settings = SIZES[size]
    columns = [
        "data", "by", "links kept", F1, APART, "embedded by parts", "seconds", "CPU seconds of the busiest", "MB sent per rank",
        WEIGHTS,
    ]  # fmt: skip
    title = (
        f"GraphSAGE that tells labels, {settings['parts']} parts, {PER_STEP} in a step, {settings['steps']} steps, "
        f"{settings['seeds']} seeds"
    )
    table = Table("distributed_sage", title, columns, beside=BESIDE)
    about = []
    for name in settings["data"]:
        if name == "books" and not _books().is_dir():
            about.append("The books are not here.")
            continue
        found = call_in_child("bench.distributed_sage:measure", data=name, **{k: v for k, v in settings.items() if k != "data"})
        if "error" in found:
            raise RuntimeError(f"the measurement failed: {found['error']}")
        about.append(found["about"])
        _rows(table, name, found["ways"])
    table.notes += [
        *about,
        "Mean and standard deviation over seeds (of the cut, the known labels and the weights). Micro-F1 of the entities whose "
        "labels training does not see, of vectors made with every link of the graph; embedded by parts: with the links that "
        "training had. Against one process: of the same seed, over the whole graph. A step over parts sees "
        f"{PER_STEP} of {settings['parts']} parts, one over the whole graph all of it; as many passes are as much work, in "
        "fewer steps.",
        "MB: TCP payload, by the kernel's count. Seconds are wall clock, a thread per rank; where ranks outnumber cores, or "
        "others use the machine, the CPU seconds of the busiest rank say more. Weights apart: distance to those of one "
        "process over the same parts, relative to their length, the most of all seeds; ranks add up in another order, and "
        "AdamW moves a weight whose gradient is rounding alone as far as any other.",
    ]
    return [table]


def _rows(table: Table, data: str, ways: dict[str, list[dict[str, Any]]]) -> None:
    base = [r["f1"] for r in ways["the whole graph, 1 process"]]
    for by, runs in ways.items():
        cut, size, halo = WAYS[by]
        alone = ways.get(f"{'METIS parts and halo' if halo else 'METIS parts'}, 1 process", []) if cut == "metis" else []
        apart = [_apart(a["weights"], b["weights"]) for a, b in zip(runs, alone, strict=False)]
        table.add(
            **{
                "data": data,
                "by": by,
                "links kept": f"{np.mean([r['kept'] for r in runs]):.0%}",
                F1: _spread([r["f1"] for r in runs]),
                APART: _spread([r["f1"] - b for r, b in zip(runs, base, strict=True)]),
                "embedded by parts": _spread([r["f1_parts"] for r in runs]),
                "seconds": float(np.median([r["seconds"] for r in runs])),
                "CPU seconds of the busiest": float(np.median([r["cpu"] for r in runs])),
                "MB sent per rank": float(np.mean([r["sent"] for r in runs])) / 1e6 if size > 1 else 0.0,
                WEIGHTS: float(max(apart)) if apart else None,
                "runs": [{k: v for k, v in r.items() if k != "weights"} for r in runs],
            }
        )


def _apart(mine: list[float], theirs: list[float]) -> float:
    """Euclidean distance of two models' weights, relative to their length."""
    return float(np.linalg.norm(np.array(mine) - np.array(theirs)) / np.linalg.norm(theirs))


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.3f}"


def measure(data: str, nodes: int, parts: int, steps: int, seeds: int, width: int) -> dict[str, Any]:
    """In a process of its own: cut one data set in each way, and fork the ranks of one way after the other, by seed."""
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    about = ""
    for seed in range(seeds):
        graph = _books_graph(seed) if data == "books" else _planted_graph(nodes, seed)
        count = int(graph["title"].num_nodes)
        labels, many = graph["title"].y, graph["title"].y.dim() == 2
        kinds = labels.size(1) if many else int(labels.max()) + 1
        about = f"{data}: {count:,} entities, {graph[LINK].num_edges // 2:,} links, {kinds} labels."
        at_random = np.random.default_rng(seed).permutation(np.arange(count) % parts).astype(np.int32)
        how: dict[str, Any] = {"log": False, "seed": seed}
        cuts = {
            "whole": HASPData(graph, Schema(entity="title"), num_parts=1, **how),
            "metis": HASPData(graph, Schema(entity="title"), num_parts=parts, **how),
            "random": HASPData(graph, Schema(entity="title"), num_parts=parts, node_part={"title": at_random}, **how),
        }
        cuts["passes"] = cuts["whole"]
        for way in list(WAYS)[:: 1 if seed % 2 == 0 else -1]:
            cut, size, halo = WAYS[way]
            taken = steps * PER_STEP // parts if cut == "passes" else steps
            ranks = on_ranks(size, _train, cuts[cut], graph, halo, taken, width, kinds, seed)
            busiest = max(r["cpu"] for r in ranks)
            found[way].append({**ranks[0], "cpu": busiest, "sent": float(np.mean([r["sent"] for r in ranks]))})
    return {"ways": found, "about": about}


class _Sage(nn.Module):
    def __init__(self, width: int, inner: int, out: int) -> None:
        super().__init__()
        self.first, self.second = SAGEConv(width, inner), SAGEConv(inner, out)

    def forward(self, batch: HeteroData) -> Tensor:
        """A logit per label ``[n, labels]``."""
        index = batch[LINK].edge_index
        out: Tensor = self.second(self.first(batch["title"].x, index).relu(), index)
        return out


def _objective(model: nn.Module, batch: HeteroData, key: int) -> LossTerm:
    """Cross-entropy of the entities that train, summed; of far ends the mask is false."""
    mask = batch["title"].train_mask
    logits, labels = model(batch)[mask], batch["title"].y[mask]
    if labels.dim() == 1:
        return LossTerm(nn.functional.cross_entropy(logits, labels, reduction="sum"), float(labels.numel()))
    loss = nn.functional.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")
    return LossTerm(loss.sum(), float(labels.size(0)))


def _train(cut: HASPData, graph: HeteroData, halo: bool, steps: int, width: int, kinds: int, seed: int) -> dict[str, Any]:
    """Train one model; seconds and bytes are of the training alone."""
    torch.manual_seed(seed)
    model = _Sage(graph["title"].x.size(1), width, kinds)
    per_step = min(PER_STEP, cut.num_parts)
    loader = HASPLoader(cut, 1, True, seed=seed, parts_per_step=per_step, halo=halo)
    if dist.is_initialized():
        dist.barrier()
    sent, begin, busy = tcp_bytes_sent(), time.perf_counter(), time.process_time()
    run = fit(model, loader, _objective, epochs=max(1, steps * per_step // cut.num_parts), lr=0.01, seed=seed, progress=False)
    out: dict[str, Any] = {"seconds": time.perf_counter() - begin, "cpu": time.process_time() - busy, "steps": run.step}
    after = tcp_bytes_sent()
    out["sent"] = float("nan") if after is None or sent is None else after - sent
    if dist.is_initialized() and dist.get_rank():
        return out
    title = graph["title"]
    by_parts, links = torch.empty(int(title.num_nodes), kinds), 0
    with torch.no_grad():
        for batch in HASPLoader(cut, halo=halo, rank=0, world_size=1):
            owned = batch["title"].n_id[: batch["title"].batch_size]
            by_parts[owned] = model(batch)[: owned.numel()]
            links += batch[LINK].num_edges
        whole = model(graph)
    tested = title.test_mask
    score = {name: micro_f1(v[tested], title.y[tested]) for name, v in (("f1", whole), ("f1_parts", by_parts))}
    weights = torch.cat([p.detach().reshape(-1) for p in model.parameters()])[::11].tolist()
    return out | score | {"kept": links / max(graph[LINK].num_edges, 1), "weights": weights}


def micro_f1(logits: Tensor, labels: Tensor) -> float:
    """Micro-F1: over all pairs of an entity and a label; of one label each, that is the share that is right.

    Args:
        logits: ``[n, labels]``.
        labels: one number each ``[n]``, or a 0 or 1 per label ``[n, labels]``.
    """
    if labels.dim() == 1:
        return float((logits.argmax(1) == labels).float().mean())
    said, true = logits > 0, labels > 0
    both = float((said & true).sum())
    return 2 * both / max(float(said.sum() + true.sum()), 1.0)


def _both_ways(pairs: Any) -> Tensor:
    pairs = np.unique(np.sort(pairs, axis=1), axis=0)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    return torch.from_numpy(np.concatenate([pairs, pairs[:, ::-1]]).T.copy()).long()


def _planted_graph(nodes: int, seed: int) -> HeteroData:
    """Communities, and a vector of noise around that of its community for each entity; 30% of them train."""
    source, destination, community = planted(Planted(nodes, 4 * nodes, seed))
    rng = np.random.default_rng([seed, 3])
    centre = rng.normal(size=(int(community.max()) + 1, 16))
    x = 0.4 * centre[community] + rng.normal(size=(nodes, 16))
    known = torch.from_numpy(rng.random(nodes) < 0.3)
    return _graph(x, torch.from_numpy(community), known, ~known, _both_ways(np.stack([source, destination], 1)))


def _books() -> Path:
    return Path(os.environ.get("HASP_SHARED", Path(__file__).parent.parent.parent / "shared")) / "data" / "books"


def _books_graph(seed: int) -> HeteroData:
    """Titles with the commonest themes as labels; their audience, awards, era, form, language and setting as features."""
    graph = open_source(_books())
    count = graph.num_nodes["title"]
    rng = np.random.default_rng([seed, 4])

    def incidence(name: str, width: int) -> Any:
        out = np.zeros((count, width), np.float32)
        source, destination = graph.edges["title", f"has_{name}", name]
        out[source.numpy(), destination.numpy()] = 1
        return out

    known = ("audience", "award", "era", "form", "language", "setting")
    x = np.concatenate([incidence(name, graph.num_nodes[name]) for name in known], axis=1)
    themes = incidence("theme", graph.num_nodes["theme"])
    labels = themes[:, np.argsort(-themes.sum(0), kind="stable")[:THEMES]]
    has = labels.any(1)  # of others nothing is known, so nothing is asked
    train = rng.random(count) < 0.5
    source, destination = graph.edges["title", "co_engaged", "title"]
    links = _both_ways(np.stack([source.numpy(), destination.numpy()], 1))
    masks = (torch.from_numpy(has & train), torch.from_numpy(has & ~train))
    return _graph(x, torch.from_numpy(labels).to(torch.uint8), *masks, links)


def _graph(x: Any, y: Tensor, train: Tensor, test: Tensor, links: Tensor) -> HeteroData:
    data = HeteroData()
    title = data["title"]
    title.x, title.y, title.train_mask, title.test_mask = torch.from_numpy(x).float(), y, train, test
    title.num_nodes = y.size(0)
    data[LINK].edge_index = links
    return data
