"""Samplers: batches for link prediction in memory, ours and those of PyG's loaders.

PyG's neighbour samplers make a new subgraph for every batch of seeds. ``ClusterLoader`` cuts the graph as we do, but takes
homogeneous graphs only: it gets the same graph with types as an attribute, and clusters that METIS made over all of it.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.graphs import Planted, hetero
from bench.measure import interleave, median, warm_up
from bench.table import Table
from hasp.data import HASPData
from hasp.graph import Graph
from hasp.load.loader import HASPLoader
from hasp.parallel import cores
from hasp.schema import EdgeType, Schema

__all__ = ["FANOUT", "SEEDS", "catalogue", "finish", "run"]

# titles of a planted catalogue (0: movies, where they are), rounds
SIZES = {"small": (2_000, 2), "full": (0, 5)}

FANOUT = (10, 10)
SEEDS = 1024
PARTS = 8
PEERS = ("LinkNeighborLoader", "NeighborLoader", "HGTLoader")
CLUSTERS = "ClusterLoader, homogeneous, {} of 8 clusters per batch"

_TIMES = "edges: times PyG's fastest"
_SEEDS = "supervision EELs (seeds) per second"
_EDGES = "message edges per second"


def run(size: str = "full") -> list[Table]:
    """Supervision EELs and message edges per second on a catalogue of real size; movies where it is at hand."""
    titles, repeats = SIZES[size]
    warm_up()
    torch.set_num_threads(1)  # as in every worker of a DataLoader
    try:
        return [_table(titles, repeats)]
    finally:
        torch.set_num_threads(cores())


def _table(titles: int, repeats: int) -> Table:
    data, label, link = catalogue(titles)
    table = Table(
        "samplers",
        f"Batches for link prediction in memory ({label}; {sum(data[e].num_edges for e in data.edge_types):,} edges)",
        ("by", _SEEDS, _EDGES, "MB per batch", "batches"),
        notes=[
            f"PyG's samplers: fan-out {'+'.join(map(str, FANOUT))}, batches of {SEEDS:,}, no workers; NeighborLoader and",
            "HGTLoader count seed entities. HASPLoader: every EEL of a part supervises, one negative each, or none where no",
            "supervision is drawn (as our default objective has it). ClusterLoader takes homogeneous graphs only and is no",
            "sampler: it has the same graph with types as an attribute, in clusters by METIS over all its edges, concepts'",
            "too, and draws no supervision either. No model runs.",
        ],
    )
    made = {**_ours(data, link), **_clusters(data, link)}
    if importlib.util.find_spec("torch_sparse") is None:
        table.notes.append("PyG's samplers were left out: they need torch-sparse, which is not installed.")
    else:
        made |= _peers(data, link)
    limit = 4 if titles else 12
    counted: dict[str, list[tuple[float, float, float]]] = {name: [] for name in made}

    def clocked(name: str) -> float:
        loader = iter(made[name]())
        start = time.perf_counter()
        seeds = messages = size = batches = 0
        for batch in islice(loader, limit):
            found = _counts(batch, link)
            seeds, messages, size, batches = seeds + found[0], messages + found[1], size + found[2], batches + 1
        elapsed = time.perf_counter() - start
        counted[name].append((seeds / elapsed, messages / elapsed, size / max(batches, 1)))
        return elapsed

    interleave({name: partial(clocked, name) for name in made}, repeats)
    for name, each in counted.items():
        seeds, edges, size = (median([one[i] for one in each]) for i in range(3))
        numbers = {_SEEDS: seeds, _EDGES: edges, "MB per batch": size / 1e6}
        table.add(by=name, batches=limit if name in PEERS else f"up to {limit}", runs=each, **numbers)
    finish(table)
    return table


def finish(table: Table) -> None:
    """Set the message edges of the table beside those of PyG's fastest sampler."""
    peers = [row[_EDGES] for row in table.rows if row["by"] in PEERS]
    table.columns = [c for c in table.columns if not c.startswith("edges: times")]
    table.columns.insert(table.columns.index(_EDGES) + 1, _TIMES)
    table.beside = (_TIMES,)
    for row in table.rows:
        row[_TIMES] = row[_EDGES] / max(peers) if peers else None


def _counts(batch: Any, link: EdgeType) -> tuple[int, int, int]:
    """Supervision EELs or seeds, message edges, and bytes of the tensors of a batch, each tensor once."""
    stores = batch.stores
    size = sum(v.nbytes for v in {id(v): v for s in stores for v in s.values() if isinstance(v, torch.Tensor)}.values())
    if not hasattr(batch, "edge_types"):
        return int((batch.edge_type == batch.link).sum()), batch.edge_index.size(1), size
    messages = sum(batch[e].edge_index.size(1) for e in batch.edge_types)
    found = batch[link]
    if "edge_label" in found:
        return int((found.edge_label > 0).sum()), messages, size  # positives
    if "owner_part" in batch["title"]:  # no supervision is drawn: whatever is linked may be asked for
        return found.edge_index.size(1), messages, size
    return int(batch["title"].batch_size), messages, size


def _ours(data: Any, link: EdgeType) -> dict[str, Callable[[], Iterable[Any]]]:
    parts = HASPData(data, Schema(entity="title"), num_parts=PARTS, log=False)
    supervised: dict[str, Any] = {"edge_label_index": (link, None), "neg_sampling": "binary"}
    return {
        "HASPLoader, 1 of 8 parts per batch": partial(HASPLoader, parts, batch_size=1, **supervised),
        "HASPLoader, 4 of 8 parts per batch": partial(HASPLoader, parts, batch_size=4, **supervised),
        "HASPLoader, 1 of 8 parts per batch, ids as stored": partial(
            HASPLoader, parts, batch_size=1, index_dtype=None, **supervised
        ),
        "HASPLoader, 1 of 8 parts per batch, no supervision drawn": partial(HASPLoader, parts, batch_size=1),
        "the same, ids as stored: no supervision drawn, nothing copied": partial(
            HASPLoader, parts, batch_size=1, index_dtype=None
        ),
    }


def _clusters(data: Any, link: EdgeType) -> dict[str, Callable[[], Iterable[Any]]]:
    import pymetis
    from torch_geometric.data import Data
    from torch_geometric.loader import ClusterData, ClusterLoader

    class Clusters(ClusterData):  # type: ignore[misc]
        """With METIS from pymetis: not every torch-sparse was compiled with one."""

        def _metis(self, edge_index: torch.Tensor, num_nodes: int) -> torch.Tensor:
            order = edge_index[0].argsort(stable=True)
            ptr = torch.bincount(edge_index[0], minlength=num_nodes).cumsum(0)
            rows = np.concatenate([[0], ptr.numpy()])
            return torch.tensor(pymetis.part_graph(PARTS, xadj=rows, adjncy=edge_index[1][order].numpy())[1])

    whole = data.to_homogeneous(node_attrs=[], edge_attrs=[])
    numbers = list(data.edge_types)
    plain = Data(edge_index=whole.edge_index, node_type=whole.node_type, edge_type=whole.edge_type, num_nodes=whole.num_nodes)
    plain.link = numbers.index(link)
    clusters = Clusters(plain, PARTS, log=False)
    return {CLUSTERS.format(q): partial(ClusterLoader, clusters, batch_size=q, shuffle=True) for q in (1, 4)}


def _peers(data: Any, link: EdgeType) -> dict[str, Callable[[], Iterable[Any]]]:
    from torch_geometric.loader import HGTLoader, LinkNeighborLoader, NeighborLoader

    fan, both = list(FANOUT), {"batch_size": SEEDS, "shuffle": True}
    return {
        "LinkNeighborLoader": partial(
            LinkNeighborLoader, data, fan, edge_label_index=(link, None), neg_sampling="binary", **both
        ),
        "NeighborLoader": partial(NeighborLoader, data, fan, input_nodes="title", **both),
        "HGTLoader": partial(HGTLoader, data, [SEEDS * 4] * 2, input_nodes="title", **both),
    }


def catalogue(titles: int) -> tuple[Any, str, EdgeType]:
    """Movies, both directions of every edge type; else titles of a planted graph."""
    from hasp.sources import open_source
    from hasp.sources.reverse import add_reverse

    shared = Path(os.environ.get("HASP_SHARED", Path(__file__).parent.parent.parent / "shared")) / "data" / "movies"
    if titles == 0 and shared.is_dir():
        return open_source(shared, reverse=True).to_hetero_data(), "movies", ("title", "co_engaged", "title")
    made = hetero(Planted(titles or 80_000, 3 * (titles or 80_000)))
    keep = ("title", "genre", "theme")
    edges = {e: made.edges[e] for e in made.edges if e[0] in keep and e[2] in keep}
    graph = Graph({t: made.num_nodes[t] for t in keep}, edges)
    return add_reverse(graph).to_hetero_data(), "planted", ("title", "linked", "title")
