"""TransE pretraining, an epoch of it: ours, the same steps in torch, and PyG's own TransE; beside the bytes that must move.

The facts are made up: every entity has a few concepts of several categories, popular ones more often, as in a catalogue.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch_geometric.nn.kge import TransE

from bench.measure import copy_bandwidth, interleave, median, ratio, warm_up
from bench.table import Table
from hasp.graph import Graph
from hasp.parallel import cores
from hasp.schema import Schema
from hasp_models import transe
from hasp_models.row_adam import RowAdam
from hasp_models.triples import Triples

__all__ = ["run"]

# entities, categories, concepts of each, facts per entity and category, widths, repeats
SIZES: dict[str, tuple[int, int, int, int, tuple[int, ...], int]] = {
    "small": (200, 2, 20, 1, (8,), 1),
    "full": (10_000, 8, 100, 1, (64, 512), 3),
}
BATCH, LR, MARGIN = 1024, 0.01, 1.0

BESIDE = ("times faster",)
"""Set a row beside PyG's TransE."""


class SparseSteps:
    """What :class:`hasp_models.row_adam.RowAdam` does, by autograd and ``torch.optim.SparseAdam``."""

    def __init__(self, nodes: npt.NDArray[Any], relations: npt.NDArray[Any], *, lr: float, margin: float, p: int) -> None:
        self.nodes, self.relations, self.margin, self.p = nodes, relations, margin, p
        self._tables = [torch.nn.Parameter(torch.from_numpy(x)) for x in (nodes, relations)]
        self._adam: Any = torch.optim.SparseAdam(self._tables, lr=lr)

    def step(self, ends: npt.NDArray[np.int64], kind: npt.NDArray[np.int64], weight: npt.NDArray[Any]) -> float:
        """See :meth:`RowAdam.step`."""
        at, (nodes, relations) = torch.from_numpy(np.ascontiguousarray(ends)), self._tables
        rows = torch.nn.functional.embedding(at, nodes, sparse=True)
        relation = torch.nn.functional.embedding(torch.from_numpy(kind), relations, sparse=True)
        good, bad = ((rows[h] + relation - rows[h + 1]).norm(p=self.p, dim=1) for h in (0, 2))
        loss: Tensor = ((good - bad + self.margin).clamp_min(0) * torch.from_numpy(weight)).sum()
        self._adam.zero_grad()
        torch.autograd.backward(loss)
        self._adam.step()
        with torch.no_grad():
            touched = torch.from_numpy(np.unique(ends))
            nodes[touched] = torch.nn.functional.normalize(nodes[touched])
        return float(loss.detach())


def run(size: str = "full") -> list[Table]:
    """An epoch of each way, at each width."""
    *shape, widths, repeats = SIZES[size]
    triples = catalogue(*shape)
    warm_up()
    table = Table(
        "pretrain",
        f"An epoch of TransE ({len(triples):,} facts, {triples.num_nodes:,} nodes, {triples.num_relations} relations)",
        ("d", "by", "seconds", "times faster", "times the floor"),
        beside=BESIDE,
    )
    for dim in widths:
        ours, torchs = (one_epoch(triples, dim, steps)[1] for steps in (RowAdam, SparseSteps))
        if abs(ours - torchs) > 1e-3 * torchs:
            raise SystemExit(f"equal steps differ at d={dim}: mean losses {ours} and {torchs}")
        ways: dict[str, Callable[[], float]] = {
            "hasp_models": partial(seconds_of, triples, dim, RowAdam),
            "the same steps, autograd and SparseAdam": partial(seconds_of, triples, dim, SparseSteps),
            "PyG's TransE, its loader and Adam, 1 thread": partial(by_pyg, triples, dim, 1),
            f"PyG's TransE, its loader and Adam, {cores()} threads": partial(by_pyg, triples, dim, cores()),
        }
        times = interleave(ways, repeats)
        floor = moved_bytes(triples, dim) / copy_bandwidth()
        best = min((name for name in ways if name.startswith("PyG")), key=lambda name: median(times[name]))
        for name, each in times.items():
            beside = {"times faster": ratio(times[best], each), "times the floor": median(each) / floor}
            table.add(d=dim, by=name, seconds=median(each), **beside)
    table.notes.append(
        f"Medians of {repeats} interleaved rounds, the second epoch of each, negatives drawn in it; {BATCH:,} facts per step, "
        "one negative each. Faster: than the faster of PyG's, pair by pair. The first two take equal steps: their losses are "
        "equal. PyG draws negatives from all nodes and moves every row in every step. Floor: each touched row and its two "
        "moments, read and written once per step, at the speed of one thread that copies memory."
    )
    return [table]


def catalogue(entities: int, categories: int, concepts: int, each: int) -> Triples:
    """Facts of a made-up catalogue."""
    rng = np.random.default_rng(0)
    edges, nodes = {}, {"title": entities}
    for category in range(categories):
        nodes[f"c{category}"] = concepts
        concept = (rng.random(entities * each) ** 2 * concepts).astype(np.int64)
        edges["title", f"has{category}", f"c{category}"] = (torch.arange(entities).repeat(each), torch.from_numpy(concept))
    return Triples.from_graph(Graph(nodes, edges), Schema(entity="title"))


def one_epoch(triples: Triples, dim: int, steps: type) -> tuple[float, float]:
    """Seconds and mean loss of the second epoch."""
    ends: list[tuple[float, float]] = []
    with mock.patch.object(transe, "RowAdam", steps):
        transe.pretrain(
            triples,
            dim=dim,
            epochs=2,
            batch_size=BATCH,
            lr=LR,
            margin=MARGIN,
            progress=lambda _, loss: ends.append((time.perf_counter(), loss)),
        )
    return ends[1][0] - ends[0][0], ends[1][1]


def seconds_of(triples: Triples, dim: int, steps: type) -> float:
    """Seconds of the second epoch."""
    return one_epoch(triples, dim, steps)[0]


def by_pyg(triples: Triples, dim: int, threads: int) -> float:
    """Seconds of the second epoch as PyG's example trains its TransE."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model = TransE(triples.num_nodes, triples.num_relations, dim, margin=MARGIN, p_norm=2.0)
        loader = model.loader(triples.head, triples.relation, triples.tail, batch_size=BATCH, shuffle=True)
        optimizer = torch.optim.Adam(model.parameters(), lr=LR)
        for _ in range(2):
            start = time.perf_counter()
            for head, relation, tail in loader:
                optimizer.zero_grad()
                loss: Tensor = model.loss(head, relation, tail)
                torch.autograd.backward(loss)
                optimizer.step()
        return time.perf_counter() - start
    finally:
        torch.set_num_threads(before)


def moved_bytes(triples: Triples, dim: int) -> int:
    """Bytes of an epoch: of each row that a step touches, and of its two moments, one read and one write."""
    rng = np.random.default_rng(0)
    order, touched = rng.permutation(len(triples)), 0
    head, tail, relation = (x.numpy()[order] for x in (triples.head, triples.tail, triples.relation))
    for low in range(0, len(triples), BATCH):
        some = slice(low, low + BATCH)
        drawn = rng.integers(0, triples.num_nodes, head[some].size)
        touched += np.unique(np.concatenate([head[some], tail[some], drawn])).size + np.unique(relation[some]).size
    return 4 * dim * 6 * touched
