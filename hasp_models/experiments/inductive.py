"""Entities that come later (section 6.5): hold a fifth of them out of everything, train, then add them with their edges.

Entities are numbered anew: those that are trained on first, the new ones behind, as a model's embedding tables need it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hasp.errors import HaspError
from hasp.graph import Graph
from hasp.rng import permutation, subkey, word
from hasp_models.data import splits
from hasp_models.data.benchmark import Benchmark, Truth, co_links, relink
from hasp_models.data.csr import CSR

__all__ = ["Inductive", "hold_out", "inductive"]

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Inductive:
    """What is trained on, and what comes later.

    Attributes:
        train: the known entities alone: their concepts, the engagements of graph users with them, links made of these, and the
            validation truths among them. New entities are in none of it.
        cold: all entities, with all concepts; links and engagements are those of ``train``.
        warm: all entities, with all concepts, links and engagements of graph users.
        truths: the test truths with new entities as queries; any entity may be the answer. Same for both modes.
        new: int64, the old numbers of the new entities, in their new order.
    """

    train: Benchmark
    cold: Benchmark
    warm: Benchmark
    truths: dict[str, Truth]
    new: Ids


def hold_out(benchmark: Benchmark, seed: int = 0, fraction: float = 0.2) -> Ids:
    """Which entities come later: int64, ascending; a share of each degree group.

    Raises:
        HaspError: the fraction leaves no entity on one side.
    """
    if not 0 < fraction < 1:
        raise HaspError(f"the share of new entities lies between 0 and 1, got {fraction}; the paper's is 0.2")
    chosen = []
    for i, name in enumerate(("group0", "group1", "group2")):
        members = np.flatnonzero(benchmark.groups[name])
        order = permutation(subkey(seed, word("inductive"), i), members.size)
        chosen.append(members[order[: round(fraction * members.size)]])
    return np.sort(np.concatenate(chosen))


def inductive(benchmark: Benchmark, new: Ids) -> Inductive:
    """Split a benchmark by entity.

    Args:
        benchmark: all of it. The links of ``train`` are made anew by its rules, since a link may stand or fall with an entity
            that is not there.
        new: the entities to hold out.

    Raises:
        HaspError: no test truth has a new entity as a query, or nothing is left to train on.
    """
    count, entity = benchmark.num_items, benchmark.entity
    is_new = np.zeros(count, dtype=bool)
    is_new[new] = True
    order = np.concatenate([np.flatnonzero(~is_new), np.flatnonzero(is_new)])
    known = int(count - is_new.sum())
    place = np.empty(count, dtype=np.int64)
    place[order] = np.arange(count)
    items = place[benchmark.items]
    seen = items < known
    users, some = benchmark.users[seen], items[seen]
    rules = (benchmark.rule, benchmark.weak, benchmark.shrink)
    pairs, weights = co_links(users, some, known, benchmark.link_type, *rules)
    strong = pairs[benchmark.link_type]
    if not len(strong):
        raise HaspError(f"entities are linked without the {is_new.sum():,} new ones, but no link is left; hold fewer out")
    whole = _renumber(benchmark.graph, entity, order)
    links = CSR.from_pairs(strong[:, 0], strong[:, 1], known, symmetric=True)
    every = CSR.from_pairs(place[benchmark.links.rows()], place[benchmark.links.indices], count)
    groups = {k: mask[order] for k, mask in benchmark.groups.items()}
    popularity = benchmark.popularity[order]
    warm = replace(benchmark, graph=whole, items=items, popularity=popularity, links=every, groups=groups, test={})
    truths = {k: t for k, v in benchmark.test.items() if (t := _truth(v, place, known, count, count)).queries.size}
    if not truths:
        raise HaspError("new entities are judged by test truths, but none asks for one of them; hold more out")
    validation = {k: _truth(v, place, 0, known, known) for k, v in benchmark.validation.items()}
    far = CSR(np.concatenate([links.indptr, np.full(count - known, links.indptr[-1])]), links.indices)
    heard = np.where(np.arange(count) < known, popularity, 0)
    cold = replace(warm, graph=relink(whole, pairs, weights), links=far, users=users, items=some, popularity=heard)
    train = replace(
        warm,
        graph=relink(_first(whole, entity, known), pairs, weights),
        links=links,
        users=users,
        items=some,
        popularity=popularity[:known],
        validation=validation,
        groups=splits.degree_groups(links),
    )
    return Inductive(train, cold, warm, truths, order[known:])


def _truth(truth: Truth, place: Ids, first: int, stop: int, answers: int) -> Truth:
    """The truth in new numbers, with the queries in ``first..stop - 1`` and the answers below ``answers``."""
    rows, ids = place[truth.queries][truth.rows.rows()], place[truth.rows.indices]
    keep = (rows >= first) & (rows < stop) & (ids < answers)
    return Truth.from_csr(truth.name, CSR.from_pairs(rows[keep], ids[keep], place.size))


def _renumber(graph: Graph, entity: str, order: Ids) -> Graph:
    """The graph with its entities in another order."""
    rows = torch.from_numpy(order)
    place = torch.empty_like(rows)
    place[rows] = torch.arange(rows.numel())

    def moved(node_type: str, ids: Tensor) -> Tensor:
        return place[ids.long()] if node_type == entity else ids

    edges = {e: (moved(e[0], a), moved(e[2], b)) for e, (a, b) in graph.edges.items()}
    attrs = {t: {k: v[rows] if t == entity else v for k, v in own.items()} for t, own in graph.node_attrs.items()}
    tables = [{t: v[order] if t == entity else v for t, v in own.items()} for own in (graph.ids, graph.names)]
    return replace(graph, edges=edges, node_attrs=attrs, ids=tables[0], names=tables[1])


def _first(graph: Graph, entity: str, known: int) -> Graph:
    """The graph of the first ``known`` entities."""
    edges, edge_attrs = {}, {}
    for edge_type, (a, b) in graph.edges.items():
        keep = torch.ones(a.numel(), dtype=torch.bool)
        for node_type, ids in ((edge_type[0], a), (edge_type[2], b)):
            keep &= (ids < known) | (node_type != entity)
        edges[edge_type] = (a[keep], b[keep])
        edge_attrs[edge_type] = {k: v[keep] for k, v in graph.edge_attrs.get(edge_type, {}).items()}
    cut: Any = slice(0, known)
    attrs = {t: {k: v[cut] if t == entity else v for k, v in own.items()} for t, own in graph.node_attrs.items()}
    tables = [{t: v[cut] if t == entity else v for t, v in own.items()} for own in (graph.ids, graph.names)]
    num_nodes = {**graph.num_nodes, entity: known}
    return Graph(num_nodes, edges, attrs, edge_attrs, tables[0], tables[1])
