"""Equal time: one model trained with HASPLoader and with PyG's LinkNeighborLoader for the same CPU seconds.

The clock runs while a batch is made and trained on, not while the model is judged; it counts CPU seconds of this one thread,
so that a busy machine changes nothing. Both loaders see the same training graph and supervise pairs that carry no messages:
HASPLoader draws that share anew every epoch, LinkNeighborLoader gets one draw of it, as PyG's ``RandomLinkSplit`` makes it.
Validation pairs are in neither; judged is the area under the ROC curve against as many random pairs, all scored by one pass
over the whole training graph.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.nn import HeteroConv, SAGEConv

from bench.samplers import FANOUT, SEEDS, catalogue
from bench.table import Table
from hasp.data import HASPData
from hasp.load.loader import HASPLoader
from hasp.parallel import cores
from hasp.schema import EdgeType, Schema

__all__ = ["run"]

SIZES = {"small": (600, (0.2, 0.4), 1), "full": (0, (3.0, 10.0, 30.0), 3)}
WIDTH, DISJOINT, HELD_OUT = 32, 0.3, 0.1


def run(size: str = "full") -> list[Table]:
    """Validation AUC at each of a few CPU seconds."""
    titles, marks, seeds = SIZES[size]
    torch.set_num_threads(1)
    try:
        return [_compare(titles, marks, seeds)]
    finally:
        torch.set_num_threads(cores())


def _compare(titles: int, marks: tuple[float, ...], seeds: int) -> Table:
    data, label, link = catalogue(titles)
    train, positive, negative = _hold_out(data, link)
    columns = [f"AUC after {mark:g} s" for mark in marks]
    table = Table(
        "equal_time",
        f"Validation AUC of one model at equal CPU time ({label}; {positive.size(1):,} held-out pairs)",
        ("by", *columns, "supervised pairs trained on", "batches"),
        notes=[
            f"Two layers of SAGEConv per edge type over free vectors, {WIDTH} wide, Adam, 1 thread; means and the range of",
            f"{seeds} seeds. HASPLoader: 2 of 8 parts a batch; LinkNeighborLoader: {SEEDS:,} pairs, fan-out "
            f"{'+'.join(map(str, FANOUT))}. One negative a pair; {DISJOINT:.0%} of the pairs supervise.",
        ],
    )
    finish(table)
    parts = HASPData(train, Schema(entity="title"), num_parts=8, log=False)
    for node_type in train.node_types:  # what parts bring by themselves
        train[node_type].n_id = torch.arange(train[node_type].num_nodes)
    contenders: dict[str, Callable[[int], Iterable[Any]]] = {"HASPLoader": lambda seed: _ours(parts, link, seed)}
    if importlib.util.find_spec("torch_sparse") is None:
        table.notes.append("LinkNeighborLoader was left out: it needs torch-sparse, which is not installed.")
    else:
        contenders["LinkNeighborLoader"] = lambda seed: _theirs(train, link, seed)
    for name, make in contenders.items():
        runs = [_train(make(seed), train, link, positive, negative, marks, seed) for seed in range(seeds)]
        scores = np.array([each[0] for each in runs])
        cells = [f"{column.mean():.3f} ({column.min():.3f} to {column.max():.3f})" for column in scores.T]
        table.add(
            by=name,
            **dict(zip(columns, cells, strict=True)),
            **{"supervised pairs trained on": int(np.mean([each[1] for each in runs]))},
            batches=int(np.mean([each[2] for each in runs])),
            runs=scores.tolist(),
        )
    return table


def finish(table: Table) -> None:
    """Each loader's scores stand beside the other's."""
    table.beside = [column for column in table.columns if column.startswith("AUC after")]


class _Model(nn.Module):
    def __init__(self, counts: dict[str, int], edge_types: list[EdgeType]) -> None:
        super().__init__()
        self.free = nn.ModuleDict({t: nn.Embedding(max(n, 1), WIDTH) for t, n in counts.items()})
        self.layers = nn.ModuleList(HeteroConv({e: SAGEConv(WIDTH, WIDTH) for e in edge_types}, aggr="mean") for _ in range(2))

    def forward(self, batch: Any) -> Tensor:
        x = {t: self.free[t](batch[t].n_id) for t in self.free}
        for layer in self.layers:
            new = layer(x, batch.edge_index_dict)
            x = {t: x[t] + new[t].relu() if t in new else x[t] for t in x}
        found: Tensor = x["title"]
        return found


def _train(
    loader: Iterable[Any],
    train: Any,
    link: EdgeType,
    positive: Tensor,
    negative: Tensor,
    marks: tuple[float, ...],
    seed: int,
) -> tuple[list[float], int, int]:
    """AUC at each mark, supervised pairs and batches."""
    torch.manual_seed(seed)
    model = _Model({t: train[t].num_nodes for t in train.node_types}, train.edge_types)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    scores: list[float] = []
    used, pairs, batches = 0.0, 0, 0
    while True:
        start = time.process_time()
        for batch in loader:
            title = model(batch)
            asked = batch[link]
            source, destination = asked.edge_label_index
            logits = (title[source] * title[destination]).sum(dim=1)
            target = (asked.edge_label > 0).to(logits.dtype)
            loss = nn.functional.binary_cross_entropy_with_logits(logits, target)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            pairs, batches = pairs + int(target.sum()), batches + 1
            used += time.process_time() - start
            while len(scores) < len(marks) and used >= marks[len(scores)]:
                scores.append(_auc(model, train, positive, negative))
            if len(scores) == len(marks):
                return scores, pairs, batches
            start = time.process_time()


@torch.no_grad()
def _auc(model: _Model, train: Any, positive: Tensor, negative: Tensor) -> float:
    """The share of (held-out, random) that the model puts in the right order; ties count half."""
    title = model(train)
    good, bad = ((title[i] * title[j]).sum(dim=1).numpy() for i, j in (positive, negative))
    both = np.concatenate([good, bad])
    low, high = (np.searchsorted(np.sort(both), good, side=side) for side in ("left", "right"))
    rank = (low + high + 1) / 2
    return float((rank.sum() - good.size * (good.size + 1) / 2) / (good.size * bad.size))


def _ours(parts: HASPData, link: EdgeType, seed: int) -> Iterable[Any]:
    return HASPLoader(
        parts, 2, True, seed=seed, edge_label_index=(link, None), neg_sampling="binary", disjoint_train_ratio=DISJOINT
    )


def _theirs(train: Any, link: EdgeType, seed: int) -> Iterable[Any]:
    from torch_geometric.loader import LinkNeighborLoader

    torch.manual_seed(seed)
    messages = train.clone()
    index = train[link].edge_index
    low, high = index.min(dim=0).values, index.max(dim=0).values
    key = low * train["title"].num_nodes + high
    asked = torch.unique(key)
    asked = asked[torch.rand(asked.numel()) < DISJOINT]
    messages[link].edge_index = index[:, ~torch.isin(key, asked)]
    pairs = torch.stack([asked // train["title"].num_nodes, asked % train["title"].num_nodes])
    found: Iterable[Any] = LinkNeighborLoader(
        messages, list(FANOUT), edge_label_index=(link, pairs), neg_sampling="binary", batch_size=SEEDS, shuffle=True
    )
    return found


def _hold_out(data: Any, link: EdgeType) -> tuple[Any, Tensor, Tensor]:
    """The training graph (structure and ids alone), held-out pairs and as many random ones ``[2, n]``."""
    from torch_geometric.data import HeteroData

    rng = torch.Generator().manual_seed(0)
    count = data["title"].num_nodes
    index = data[link].edge_index
    key = index.min(dim=0).values * count + index.max(dim=0).values
    pairs = torch.unique(key)
    held = pairs[torch.rand(pairs.numel(), generator=rng) < HELD_OUT]
    train = HeteroData()
    for t in data.node_types:
        train[t].num_nodes = data[t].num_nodes
    for e in data.edge_types:
        kept = data[e].edge_index[:, ~torch.isin(key, held)] if e == link else data[e].edge_index
        train[e].edge_index = kept.contiguous()
    negative = torch.randint(count, (2, held.numel()), generator=rng)
    return train, torch.stack([held // count, held % count]), negative
