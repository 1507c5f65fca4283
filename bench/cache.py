"""Caches of halos: what share of the far ends each policy spares, at equal bytes, on real and made-up graphs.

The loader's own order and the loader's own policies (:mod:`hasp.load.policies`), without moving a row: one part per batch, a
cache that starts empty, everything that it reads counted. "Clairvoyant" is what no cache can beat.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.curve import Curve, Panel, draw
from bench.graphs import Planted, planted
from bench.table import Table
from hasp.data import HASPData
from hasp.graph import Graph
from hasp.load.cache import capacities, simulate
from hasp.load.crossing import Crossing
from hasp.load.demand import BatchAsk, Demand, Future
from hasp.load.policies import POLICIES
from hasp.load.sampler import PartSampler
from hasp.schema import Schema
from hasp.sources import open_source

__all__ = ["Trace", "finish", "run", "trace"]

ROOMS = (0.05, 0.1, 0.2, 0.4, 0.8)  # of the bytes of all far ends
COLUMN = {room: f"{room:.0%}" for room in ROOMS}
PICTURE = "docs/results/cache.svg"
# size -> (planted graph, parts of each graph, epochs, with the real catalogues)
SIZES = {"small": (Planted(1_500, 5_000), 6, 2, False), "full": (Planted(60_000, 200_000), 32, 6, True)}


@dataclass(frozen=True)
class Trace:
    """What the batches of some epochs ask for.

    Attributes:
        demand: of the parts.
        room: rows per type that a budget of so many bytes allows, and bytes of a row, by budget as a share of all far ends.
        asks: type -> one ask per batch.
        entities: in the graph.
        kept: share of the edges between entities that are not cut.
        seconds: CPU seconds of working out who wants what; of one and of two hops of degrees on top of that.
    """

    demand: Demand
    room: dict[float, dict[str, int]]
    asks: dict[str, list[BatchAsk]]
    entities: int
    kept: float
    seconds: tuple[float, float, float]


def run(size: str = "full") -> list[Table]:
    """The table, and its picture."""
    spec, num_parts, epochs, real = SIZES[size]
    table = Table(
        "cache",
        f"Share of the far ends that need not be read, by cache size ({num_parts} METIS parts, {epochs} epochs, cold start)",
        ("graph", "policy", *COLUMN.values()),
    )
    for name, graph, schema in _graphs(spec, real):
        found = trace(graph, schema, num_parts, epochs)
        asked = {t: sum(a.keys.size for a in asks) for t, asks in found.asks.items()}
        rows = {t: found.demand.rows(t) for t in asked}
        total, far = sum(asked.values()), sum(rows.values())
        for policy in POLICIES:
            row: dict[str, Any] = {"graph": name, "policy": policy, "requests": total, "far_ends": far}
            for share in ROOMS:
                hits = sum(sum(simulate(POLICIES[policy], found.asks[t], found.room[share][t])) for t in asked)
                row[COLUMN[share]] = round(100 * hits / max(total, 1), 1)
            table.add(**row)
        ready, once, twice = found.seconds
        table.notes.append(
            f"{name}: {found.kept:.0%} of the links are kept, {far:,} of {found.entities:,} entities are far ends, an epoch"
            f" asks for {total / epochs:,.0f}; knowing who wants what took {ready:.2g} s, degrees {once:.2g} s more, two hops"
            f" {twice:.2g} s more (CPU)."
        )
    table.notes[:0] = [
        "Per cent. The cache holds so many per cent of the bytes of all far ends; what fills it is counted as read.",
        "Where every link goes both ways, D_in = D_out, and importance is chance.",
    ]
    finish(table)
    return [table]


def finish(table: Table) -> None:
    """Draw the table; each policy stands beside chance and the optimum."""
    panels = []
    for name in dict.fromkeys(row["graph"] for row in table.rows):
        rows = [row for row in table.rows if row["graph"] == name]
        curves = [
            Curve(row["policy"], [(share, row[column]) for share, column in COLUMN.items()], row["policy"] == "clairvoyant", i)
            for i, row in enumerate(rows)
        ]
        panels.append(
            Panel(name, "room for this share of the far ends", curves, lambda x: f"{x:.0%}", lambda y: f"{y:.0f} %", log="")
        )
    table.beside = tuple(COLUMN.values())
    table.picture, table.drawing = PICTURE, draw("Far ends that need not be read", panels)


def trace(graph: Any, schema: Schema, num_parts: int, epochs: int) -> Trace:
    """Cut a graph, and write down what the halos of all batches of some epochs ask for."""
    parts = HASPData(graph, schema, num_parts=num_parts, log=False)
    start = time.process_time()
    crossing = Crossing(parts.store)
    demand = Demand(parts.store, crossing)
    ready = time.process_time()
    degrees = []
    for hops in (1, 2):
        demand.reach(hops, False)
        demand.reach(hops, True)
        degrees.append(time.process_time())
    sampler = PartSampler(num_parts, shuffle=True)
    future, types, cut = Future(sampler), list(crossing.start), parts.store.cut
    far: dict[int, dict[str, Any]] = {}
    for part in range(num_parts):
        into = {e: crossing.into(e, cut.edges[e], np.array([part])).source for e in crossing.types}
        empty = np.empty(0, np.int64)
        far[part] = {t: np.unique(np.concatenate([empty, *(s for e, s in into.items() if e[0] == t)])) for t in types}
    asks: dict[str, list[BatchAsk]] = {t: [] for t in types}
    for now, (epoch, part) in enumerate(_batches(sampler, epochs)):
        for t in types:
            asks[t].append(BatchAsk(far[part][t], now, 0, t, epoch, part, demand, future))
    requests, rows = {t: demand.requests(t) for t in types}, {t: demand.rows(t) for t in types}
    room = {share: capacities(round(share * sum(rows.values())), dict.fromkeys(types, 1), requests, rows) for share in ROOMS}
    links = sum(parts.manifest.num_edges[e] for e in crossing.types)
    kept = 1 - sum(cut.edges[e].num_edges for e in crossing.types) / max(links, 1)
    entities = sum(parts.manifest.num_nodes[t] for t in types)
    return Trace(demand, room, asks, entities, kept, (ready - start, degrees[0] - ready, degrees[1] - degrees[0]))


def _batches(sampler: PartSampler, epochs: int) -> Iterator[tuple[int, int]]:
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        yield from ((item.epoch, item.part) for item in sampler)


def _graphs(spec: Planted, real: bool) -> Iterator[tuple[str, Any, Schema]]:
    shared = Path(os.environ.get("HASP_SHARED", Path(__file__).parent.parent.parent / "shared")) / "data"
    for name in ("books", "movies") if real else ():
        if (shared / name).is_dir():
            yield name, open_source(shared / name), Schema(entity="title")
    source, destination, _ = planted(spec)
    pairs = np.unique(np.sort(np.stack([source, destination]), axis=0), axis=1)  # no link twice: or hubs would be lopsided
    flip = np.random.default_rng(spec.seed).random(pairs.shape[1]) < 0.5
    ends = torch.from_numpy(np.where(flip, pairs[::-1], pairs))
    schema, link = Schema(entity="title"), ("title", "linked", "title")
    yield "planted, both directions", Graph({"title": spec.nodes}, {link: tuple(torch.cat([ends, ends.flip(0)], 1))}), schema
    yield "planted, one direction", Graph({"title": spec.nodes}, {link: tuple(ends)}), schema
