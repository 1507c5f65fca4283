"""Halos: what they bring to a model of two layers.

GraphSAGE on a planted graph whose features are noise around the vector of a community, so that a node is understood through
its neighbours. One model tells the community, another which of two pairs is a held-out link. Embeddings are made part by
part, as the model was trained, and once more of the whole graph. METIS cuts few links; a random partition shows what halos
do where many are cut.
"""

from __future__ import annotations

import time
from collections.abc import Callable
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
WIDTH, LABELLED = 16, 0.3
F1, AUC, NOISE = "F1", "AUC", "of the cut links, between communities"
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
    table.beside = (F1,)


class _Sage(nn.Module):
    def __init__(self, out: int) -> None:
        super().__init__()
        self.first, self.second = SAGEConv(WIDTH, 32), SAGEConv(32, out)

    def forward(self, batch: HeteroData) -> Tensor:
        """A row per title ``[n, out]``."""
        index = batch[LINK].edge_index
        out: Tensor = self.second(self.first(batch["title"].x, index).relu(), index)
        return out


def _quality(spec: Planted, num_parts: int, steps: int, seeds: int) -> Table:
    table = Table(
        "halo_quality",
        f"Two layers of GraphSAGE with and without halos, {num_parts} parts "
        f"({spec.nodes:,} entities, {spec.edges:,} links, {steps} steps, {seeds} seeds)",
        ("parts", "halo", "links kept", NOISE, F1, f"{F1}, whole", AUC, f"{AUC}, whole", "seconds"),
    )
    ways = [("one", 1, "metis", False)]
    ways += [(backend, num_parts, backend, halo) for backend in ("metis", "random") for halo in (False, True)]
    each: dict[int, list[tuple[float, ...]]] = {i: [] for i in range(len(ways))}
    share = 0.0
    for seed in range(seeds):
        data, test, negative = _drawn(spec, seed)
        share += float((data["title"].y[data[LINK].edge_index].diff(dim=0) != 0).float().mean()) / seeds
        for i, (_, count, backend, halo) in enumerate(ways):
            start = time.process_time()
            parts = HASPData(data, Schema(entity="title"), num_parts=count, backend=backend, log=False, seed=seed)
            kept = sum(b[LINK].edge_index.size(1) for b in HASPLoader(parts, halo=halo)) / data[LINK].num_edges
            found = (*_classified(parts, data, halo, steps, seed), *_ranked(parts, data, halo, steps, seed, test, negative))
            each[i].append((kept, _noise(parts, data), *found, time.process_time() - start))
    columns = (F1, f"{F1}, whole", AUC, f"{AUC}, whole")
    for i, (name, _, _, halo) in enumerate(ways):
        kept, noise, *values, seconds = np.array(each[i]).T
        row: dict[str, Any] = {"parts": name, "halo": "yes" if halo else "no", "links kept": f"{kept.mean():.0%}"}
        row[NOISE] = f"{noise.mean():.0%}" if name != "one" else None
        row |= {column: _spread(v) for column, v in zip(columns, values, strict=True)}
        table.add(**row, seconds=float(seconds.mean()), runs=[v.tolist() for v in values])
    rows = {(row["parts"], row["halo"]): np.array(row["runs"]) for row in table.rows}
    for name in ("metis", "random"):
        gain = rows[name, "yes"] - rows[name, "no"]
        table.notes.append(f"What a halo brings to {name} parts, by seed: F1 {_spread(gain[0])}, AUC {_spread(gain[2])}.")
    table.notes[:0] = [
        f"Mean and standard deviation over seeds. F1: micro-F1 of the community, of the {1 - LABELLED:.0%} of the entities",
        "without a label. AUC: held-out links against random pairs. Both of embeddings made part by part, as the model was",
        "trained, and of the whole graph. Negatives of training come from the same batch, so those of one part are easier.",
        f"{share:.0%} of all links join two communities. CPU seconds of one seed.",
    ]
    finish(table)
    return table


def _spread(values: Any) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.3f}"


def _drawn(spec: Planted, seed: int) -> tuple[HeteroData, Tensor, Tensor]:
    """A graph without a tenth of its links (in both directions), these links, and as many random pairs."""
    source, destination, community = planted(Planted(spec.nodes, spec.edges, seed))
    pairs = np.unique(np.sort(np.stack([source, destination], axis=1), axis=1), axis=0)
    rng = np.random.default_rng([seed, 3])
    pairs = pairs[rng.permutation(len(pairs))]
    test, train = np.split(pairs, [len(pairs) // 10])
    centre = rng.normal(size=(int(community.max()) + 1, WIDTH))
    data = HeteroData()
    data["title"].num_nodes = spec.nodes
    data["title"].x = torch.from_numpy(0.4 * centre[community] + rng.normal(size=(spec.nodes, WIDTH))).float()
    data["title"].y = torch.from_numpy(community)
    data["title"].train_mask = torch.from_numpy(rng.random(spec.nodes) < LABELLED)
    data[LINK].edge_index = torch.from_numpy(np.concatenate([train, train[:, ::-1]]).T.copy())
    return data, torch.from_numpy(test.T.copy()), torch.from_numpy(rng.integers(0, spec.nodes, test.T.shape))


def _noise(parts: HASPData, data: HeteroData) -> float:
    """Of the links between two parts, the share that joins two communities: to a model that tells communities, noise."""
    owner, (source, destination) = parts.node_part("title"), data[LINK].edge_index
    cut = owner[source] != owner[destination]
    return float((data["title"].y[source] != data["title"].y[destination])[cut].float().mean()) if bool(cut.any()) else 0.0


def _classified(parts: HASPData, data: HeteroData, halo: bool, steps: int, seed: int) -> list[float]:
    """Micro-F1 of the communities of entities without a label, part by part and whole."""

    def loss(model: nn.Module, batch: HeteroData) -> Tensor:
        mask = batch["title"].train_mask  # of a far end it is false
        return nn.functional.cross_entropy(model(batch)[mask], batch["title"].y[mask])

    title = data["title"]
    found = _fitted(parts, data, halo, steps, seed, int(title.y.max()) + 1, loss, {})
    return [float((out.argmax(1) == title.y)[~title.train_mask].float().mean()) for out in found]


def _ranked(
    parts: HASPData, data: HeteroData, halo: bool, steps: int, seed: int, test: Tensor, negative: Tensor
) -> list[float]:
    """How often a held-out link scores above a random pair (ties count half), part by part and whole."""

    def loss(model: nn.Module, batch: HeteroData) -> Tensor:
        ends = model(batch)[batch[LINK].edge_label_index]
        return nn.functional.binary_cross_entropy_with_logits((ends[0] * ends[1]).sum(-1), batch[LINK].edge_label)

    make = {"edge_label_index": LINK, "neg_sampling": "binary", "disjoint_train_ratio": 0.2}
    values = []
    for out in _fitted(parts, data, halo, steps, seed, 32, loss, make):
        yes, no = ((out[pairs[0]] * out[pairs[1]]).sum(-1).numpy() for pairs in (test, negative))
        no = np.sort(no)
        below = np.searchsorted(no, yes, side="left") + np.searchsorted(no, yes, side="right")
        values.append(float(below.mean() / 2 / no.size))
    return values


def _fitted(
    parts: HASPData,
    data: HeteroData,
    halo: bool,
    steps: int,
    seed: int,
    width: int,
    loss: Callable[[nn.Module, HeteroData], Tensor],
    make: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """Train, and give a row per entity: made part by part as the model was trained, and of the whole graph."""
    torch.manual_seed(seed)
    model = _Sage(width)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    loader, done = HASPLoader(parts, shuffle=True, halo=halo, seed=seed, **make), 0
    while done < steps:
        for batch in loader:
            optimizer.zero_grad()
            loss(model, batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            done += 1
            if done == steps:
                break
    out = torch.empty(int(data["title"].num_nodes), width)
    with torch.no_grad():
        for batch in HASPLoader(parts, halo=halo):
            owned = batch["title"].n_id[: batch["title"].batch_size]
            out[owned] = model(batch)[: owned.numel()]
        return out, model(data)
