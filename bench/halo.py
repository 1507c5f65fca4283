"""Halos: what they cost per epoch.

One pass over parts on disk by the loader without halos, with them, and with a cache of them; every tensor of every batch is
copied once, as for a GPU. What they bring is ``bench/halo_quality.py``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from bench.graphs import ENTITIES, Planted, hetero
from bench.measure import clock, interleave, median, ratio
from bench.table import Table
from hasp.data import HASPData
from hasp.load.cache import HaloCache
from hasp.load.crossing import Crossing
from hasp.load.demand import Demand
from hasp.load.halo import PartRows
from hasp.load.loader import HASPLoader
from hasp.parallel import cores
from hasp.schema import Schema
from hasp.sources.reverse import add_reverse
from hasp.store.read import FolderStore

__all__ = ["finish", "run"]

# size -> (graph, floats per entity, parts, rounds)
SIZES = {"small": (Planted(1_500, 5_000), 8, 4, 1), "full": (Planted(100_000, 350_000), 64, 32, 5)}


def run(size: str = "full") -> list[Table]:
    """The table."""
    torch.set_num_threads(1)  # as in every worker of a DataLoader
    try:
        return [_cost(*SIZES[size])]
    finally:
        torch.set_num_threads(cores())


def finish(table: Table) -> None:
    """Name the column that sets a row beside its peers."""
    table.beside = ("times no halo",)


def _cost(spec: Planted, features: int, num_parts: int, repeats: int) -> Table:
    with TemporaryDirectory() as folder:
        graph = add_reverse(hetero(spec, features=features))
        HASPData(graph, Schema(entity=ENTITIES), num_parts=num_parts, root=Path(folder) / "parts", log=False)
        store = FolderStore.open(Path(folder) / "parts", verify="size")
        crossing = Crossing(store)
        demand, width = Demand(store, crossing), PartRows(store, crossing).row_bytes
        far = sum(demand.rows(t) * width[t] for t in width)
        fifth = max(1, far // 5)
        ways: dict[str, Any] = {"no halo": False, "halo": True}
        ways |= {f"halo, a fifth of it cached ({p})": HaloCache(fifth, p) for p in ("wanted", "clairvoyant")}
        found: dict[str, dict[str, Any]] = {}
        times = interleave({name: partial(_epoch, store, halo, found, name) for name, halo in ways.items()}, repeats + 1)
    times = {name: each[1:] for name, each in times.items()}  # the first round fills the system's cache of files
    entities, links = sum(graph.num_nodes[t] for t in ENTITIES), sum(graph.num_edges(e) for e in crossing.types)
    table = Table(
        "halo",
        f"An epoch over {num_parts} METIS parts on disk ({entities:,} entities, {features} floats each, {links:,} links)",
        ("loader", "links kept", "entities in batches", "far ends read [MB]", "batches [MB]", "seconds", "times no halo"),
    )
    for name, each in times.items():
        got = found[name]
        table.add(
            loader=name,
            seconds=median(each),
            runs=each,
            **{
                "links kept": f"{got['links'] / links:.1%}",
                "entities in batches": int(got["entities"]),
                "far ends read [MB]": got["read"] / 1e6,
                "batches [MB]": got["bytes"] / 1e6,
                "times no halo": ratio(each, times["no halo"]),
            },
        )
    _, plain, cached, _ = table.rows
    spared, longer = plain["far ends read [MB]"] - cached["far ends read [MB]"], cached["seconds"] - plain["seconds"]
    pays = f"below {spared / longer:,.0f} MB/s" if longer > 0 else "at any speed"
    table.notes += [
        f"Second epoch of each loader (a cache is warm), medians of {repeats} interleaved rounds, one thread, files in the",
        "system's cache, every tensor of a batch copied once. All far ends together are",
        f"{far / 1e6:,.0f} MB. A cache spares reads and costs time to keep: this one pays where rows are read {pays}.",
    ]
    finish(table)
    return table


def _epoch(store: FolderStore, halo: Any, found: dict[str, dict[str, Any]], name: str) -> float:
    loader = HASPLoader(store, shuffle=True, halo=halo)
    if halo:
        for _ in loader:
            pass
    before = loader.halo_count.bytes_read if loader.halo_count is not None else 0
    total: dict[str, Any] = {"links": 0, "entities": 0, "bytes": 0}
    start = clock()
    for batch in loader:
        total["bytes"] += _copied(batch)
        total["links"] += sum(batch[e].edge_index.size(1) for e in batch.edge_types if e[0] in ENTITIES and e[2] in ENTITIES)
        total["entities"] += sum(int(batch[t].num_nodes) for t in ENTITIES)
    elapsed = clock() - start
    after = loader.halo_count.bytes_read if loader.halo_count is not None else 0
    found[name] = {**total, "read": after - before}
    return elapsed


def _copied(batch: HeteroData) -> int:
    copies = [value.clone() for store in batch.stores for value in store.values() if isinstance(value, Tensor)]
    return sum(value.numel() * value.element_size() for value in copies)
