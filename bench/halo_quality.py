"""Halos: what they bring to a model of two layers.

GraphSAGE on a planted graph whose features are noise around the vector of a community, so that a node is understood through
its neighbours; links are held out, and the model says which of two pairs is one. Embeddings are made part by part, as the
model was trained, and once more on the whole graph. METIS cuts few links; a random partition shows what halos do where many
are cut.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData
from torch_geometric.nn import SAGEConv

from bench.graphs import Planted, planted
from bench.table import Table
from hasp.data import HASPData
from hasp.load.loader import HASPLoader
from hasp.parallel import cores
from hasp.schema import Schema

__all__ = ["finish", "run"]

LINK = ("title", "linked", "title")
# size -> (graph, parts, steps, seeds)
SIZES = {"small": (Planted(400, 1_600), 4, 8, 1), "full": (Planted(8_000, 32_000), 16, 400, 5)}


def run(size: str = "full") -> list[Table]:
    """The table."""
    torch.set_num_threads(1)
    try:
        return [_quality(*SIZES[size])]
    finally:
        torch.set_num_threads(cores())


def finish(table: Table) -> None:
    """Name the column that sets a row beside its peers."""
    table.beside = ("AUC, embedded part by part",)


class _Sage(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = SAGEConv(width, 32), SAGEConv(32, 32)

    def forward(self, batch: HeteroData) -> Tensor:
        """Embeddings ``[n, 32]`` of the titles of a batch."""
        index = batch[LINK].edge_index
        out: Tensor = self.second(self.first(batch["title"].x, index).relu(), index)
        return out


def _quality(spec: Planted, num_parts: int, steps: int, seeds: int) -> Table:
    table = Table(
        "halo_quality",
        f"Held-out links told from random pairs (AUC) by two layers of GraphSAGE, with and without halos "
        f"({spec.nodes:,} entities, {spec.edges:,} links, {num_parts} parts, {steps} steps, {seeds} seeds)",
        ("parts", "halo", "links kept", "AUC, embedded part by part", "AUC, embedded whole", "seconds per seed"),
    )
    ways = [("one", 1, "metis", False)]
    ways += [(backend, num_parts, backend, halo) for backend in ("metis", "random") for halo in (False, True)]
    each: dict[int, list[tuple[float, float, float, float]]] = {i: [] for i in range(len(ways))}
    for seed in range(seeds):
        data, test, negative = _held_out(spec, seed)
        for i, (_, count, backend, halo) in enumerate(ways):
            start = time.process_time()
            parts = HASPData(data, Schema(entity="title"), num_parts=count, backend=backend, log=False, seed=seed)
            each[i].append((*_trained(parts, data, halo, steps, seed, test, negative), time.process_time() - start))
    for i, (name, _, _, halo) in enumerate(ways):
        kept, by_part, whole, seconds = np.array(each[i]).T
        row: dict[str, Any] = {"parts": name, "halo": "yes" if halo else "no", "links kept": f"{kept.mean():.0%}"}
        row |= {"AUC, embedded part by part": _spread(by_part), "AUC, embedded whole": _spread(whole)}
        table.add(**row, **{"seconds per seed": float(seconds.mean())}, by_part=by_part.tolist(), whole=whole.tolist())
    rows = {(row["parts"], row["halo"]): row for row in table.rows}
    for name in ("metis", "random"):
        gain = np.array(rows[name, "yes"]["by_part"]) - np.array(rows[name, "no"]["by_part"])
        table.notes.append(f"A halo brings {name} parts {_spread(gain)} (same seeds, part by part).")
    table.notes.insert(0, "Mean and standard deviation over seeds. CPU seconds, build, training and embedding together.")
    finish(table)
    return table


def _spread(values: Any) -> str:
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.4f}"


def _held_out(spec: Planted, seed: int) -> tuple[HeteroData, Tensor, Tensor]:
    """A graph without a tenth of its links (in both directions), these links, and as many random pairs."""
    source, destination, community = planted(Planted(spec.nodes, spec.edges, seed))
    pairs = np.unique(np.sort(np.stack([source, destination], axis=1), axis=1), axis=0)
    rng = np.random.default_rng([seed, 3])
    pairs = pairs[rng.permutation(len(pairs))]
    test, train = np.split(pairs, [len(pairs) // 10])
    centre = rng.normal(size=(int(community.max()) + 1, 16))
    data = HeteroData()
    data["title"].x = torch.from_numpy(0.4 * centre[community] + rng.normal(size=(spec.nodes, 16))).float()
    data["title"].num_nodes = spec.nodes
    data[LINK].edge_index = torch.from_numpy(np.concatenate([train, train[:, ::-1]]).T.copy())
    return data, torch.from_numpy(test.T.copy()), torch.from_numpy(rng.integers(0, spec.nodes, test.T.shape))


def _trained(
    parts: HASPData, data: HeteroData, halo: bool, steps: int, seed: int, test: Tensor, negative: Tensor
) -> tuple[float, float, float]:
    """Share of the links that batches held, and the AUC of embeddings made part by part and of those of the whole graph."""
    torch.manual_seed(seed)
    model = _Sage(16)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    make: dict[str, Any] = {"edge_label_index": LINK, "neg_sampling": "binary", "disjoint_train_ratio": 0.2}
    loader = HASPLoader(parts, shuffle=True, halo=halo, seed=seed, **make)
    done = 0
    while done < steps:
        for batch in loader:
            ends = model(batch)[batch[LINK].edge_label_index]
            score, label = (ends[0] * ends[1]).sum(-1), batch[LINK].edge_label
            loss = nn.functional.binary_cross_entropy_with_logits(score, label)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            done += 1
            if done == steps:
                break
    model.eval()
    out, links = torch.empty(int(data["title"].num_nodes), 32), 0
    with torch.no_grad():
        for batch in HASPLoader(parts, halo=halo):
            owned = int(batch["title"].batch_size)
            out[batch["title"].n_id[:owned]] = model(batch)[:owned]
            links += batch[LINK].edge_index.size(1)
        whole = model(data)
    return links / data[LINK].num_edges, _auc(out, test, negative), _auc(whole, test, negative)


def _auc(out: Tensor, test: Tensor, negative: Tensor) -> float:
    """How often a link scores above a random pair; ties count half."""
    yes, no = ((out[pairs[0]] * out[pairs[1]]).sum(-1).numpy() for pairs in (test, negative))
    no = np.sort(no)
    below = np.searchsorted(no, yes, side="left") + np.searchsorted(no, yes, side="right")
    return float(below.mean() / 2 / no.size)
