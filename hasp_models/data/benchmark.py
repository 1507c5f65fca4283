"""Benchmark: one graph to train on, and the truths it is judged by, cut from one table of engagements without a leak."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hasp.errors import HaspError
from hasp.graph import Graph
from hasp.schema import EdgeType
from hasp_models.data import splits
from hasp_models.data.csr import CSR
from hasp_models.data.splits import GRAPH, TEST, VALIDATION, LinkRule

__all__ = [
    "Benchmark",
    "Truth",
    "make_benchmark",
    "relink",
    "weak_of",
]

Ids = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Truth:
    """What is similar to what.

    Attributes:
        name: ``co_sim``, ``co_sim_raw`` or ``hc``.
        queries: int64 ``[Q]``, entities with at least one relevant entity, ascending.
        rows: ``Q`` rows of relevant entities.
        popularity: int64 ``[N]`` where a list of popular entities answers this truth well (raw Co-Sim): its result then
            stands beside every other.
    """

    name: str
    queries: Ids
    rows: CSR
    popularity: Ids | None = None

    @classmethod
    def from_csr(cls, name: str, table: CSR) -> Truth:
        """From one row per entity: entities with an empty row are no queries."""
        queries = np.flatnonzero(table.counts)
        return cls(name, queries, table.select(queries))


@dataclass(frozen=True)
class Benchmark:
    """A graph, and truths that share no user with it.

    Attributes:
        name: for tables.
        graph: entities, concepts, EELs and weak links (both directions) of graph users only; links have a ``weight``, the
            shrunk cosine of co-engagement.
        entity: the entity type.
        link_type: the EEL type.
        links: the EELs as one row per entity.
        rule: by which graph users link entities.
        weak: by which they link those weakly that have no EEL; ``None``: never.
        shrink: of the weights; see :func:`hasp_models.data.splits.pair_weight`.
        users, items: engagements of graph users, int64/text ``[M]`` and int64 ``[M]``; what collaborative baselines fit.
        popularity: graph users per entity, int64 ``[N]``.
        validation, test: truths by name.
        groups: masks ``[N]`` by EEL degree: group0, group1, group2, cold.
        seed: of the split.
    """

    name: str
    graph: Graph
    entity: str
    link_type: EdgeType
    links: CSR
    users: npt.NDArray[Any]
    items: Ids
    popularity: Ids
    validation: dict[str, Truth]
    test: dict[str, Truth]
    groups: dict[str, Bools] = field(default_factory=dict)
    seed: int = 0
    rule: LinkRule = field(default_factory=LinkRule)
    weak: LinkRule | None = None
    shrink: float = 0.0

    @property
    def link_types(self) -> list[EdgeType]:
        """The EEL type and, if there are weak links, theirs."""
        return [self.link_type] if self.weak is None else [self.link_type, weak_of(self.link_type)]

    @property
    def num_items(self) -> int:
        """Number of entities, the ones that are ranked."""
        return self.graph.num_nodes[self.entity]

    def concepts(self) -> list[tuple[EdgeType, torch.Tensor, torch.Tensor]]:
        """The entity -> concept edges: ``(edge type, entity ids, concept ids)``, without reverse copies."""
        return [(e, *ends) for e, ends in self.graph.edges.items() if e[0] == self.entity and e[2] != self.entity]


def make_benchmark(
    graph: Graph,
    users: Any,
    items: Any,
    side: Any,
    *,
    curated: Any | None = None,
    link_type: EdgeType | None = None,
    rule: LinkRule | None = None,
    weak: LinkRule | None = None,
    shrink: float = 0.0,
    seed: int = 0,
    name: str = "benchmark",
    raw_queries: int = 0,
    curated_validation: float = 0.2,
) -> Benchmark:
    """Cut one table of engagements into a training graph and truths.

    Args:
        graph: entities and concepts. Its own EELs are thrown away: nobody knows which users they came from.
        users: integers or text ``[M]``.
        items: entity ids ``[M]``.
        side: int8 ``[M]`` from :func:`~hasp_models.data.splits.split_users` or ``split_time``.
        curated: pairs ``[P, 2]`` that people judged similar (HC-Sim); they never touch the graph.
        link_type: the EEL type; ``None``: the graph's only edge type from a node type to itself.
        rule: when two entities are linked.
        weak: when two entities without an EEL are linked weakly; ``None``: never.
        shrink: of the weights; see :func:`hasp_models.data.splits.pair_weight`.
        seed: of the split of curated pairs and of the sample of raw queries.
        name: for tables.
        raw_queries: entities in the raw Co-Sim truth; 0: leave it out.
        curated_validation: share of the curated pairs' connected components that is for validation.
    """
    link_type = link_type or _link_type(graph)
    entity, count = link_type[0], graph.num_nodes[link_type[0]]
    users, items, side = np.asarray(users), np.asarray(items, dtype=np.int64), np.asarray(side)
    mine = side == GRAPH
    rule = rule or LinkRule()
    pairs, weights = co_links(users[mine], items[mine], count, link_type, rule, weak, shrink)
    links = CSR.from_pairs(pairs[link_type][:, 0], pairs[link_type][:, 1], count, symmetric=True)
    popularity = np.asarray(splits.engagement(users[mine], items[mine], count).sum(axis=0)).ravel().astype(np.int64)
    truths: dict[int, dict[str, Truth]] = {VALIDATION: {}, TEST: {}}
    for part, into in truths.items():
        theirs = side == part
        into["co_sim"] = Truth.from_csr("co_sim", splits.co_sim(users[theirs], items[theirs], count))
    if raw_queries:
        truths[TEST]["co_sim_raw"] = _raw(users[side == TEST], items[side == TEST], popularity, raw_queries, seed)
    if curated is not None and len(curated):
        judged = np.asarray(curated, dtype=np.int64).reshape(-1, 2)
        held = splits.split_components(judged, count, seed, curated_validation)
        for part, some in ((VALIDATION, judged[held]), (TEST, judged[~held])):
            truths[part]["hc"] = Truth.from_csr("hc", CSR.from_pairs(some[:, 0], some[:, 1], count, symmetric=True))
    return Benchmark(
        name,
        relink(graph, pairs, weights),
        entity,
        link_type,
        links,
        users[mine],
        items[mine],
        popularity,
        truths[VALIDATION],
        truths[TEST],
        splits.degree_groups(links),
        seed,
        rule,
        weak,
        shrink,
    )


def _link_type(graph: Graph) -> EdgeType:
    loops = [e for e in graph.edges if e[0] == e[2]]
    if len(loops) != 1:
        raise HaspError(f"the graph has one edge type from a node type to itself, got {loops}; give link_type=")
    return loops[0]


def weak_of(link_type: EdgeType) -> EdgeType:
    """The type of the weak links beside an EEL type."""
    return (link_type[0], f"{link_type[1]}_weak", link_type[2])


def co_links(
    users: Any, items: Ids, count: int, link_type: EdgeType, rule: LinkRule, weak: LinkRule | None, shrink: float = 0.0
) -> tuple[dict[EdgeType, Ids], dict[EdgeType, npt.NDArray[np.float32]]]:
    """The links of some users: per type pairs int64 ``[L, 2]``, ``a < b``, and their weights float32 ``[L]``.

    A pair with an EEL has no weak link.
    """
    pairs = {link_type: splits.co_engagement(users, items, count, rule)}
    if weak is not None:
        found, strong = splits.co_engagement(users, items, count, weak), pairs[link_type]
        new = ~np.isin(found[:, 0] * count + found[:, 1], strong[:, 0] * count + strong[:, 1])
        pairs[weak_of(link_type)] = found[new]
    return pairs, {e: splits.pair_weight(users, items, count, some, shrink) for e, some in pairs.items()}


def relink(graph: Graph, pairs: Mapping[EdgeType, Ids], weights: Mapping[EdgeType, npt.NDArray[np.float32]]) -> Graph:
    """The graph with these links in the place of its own.

    Args:
        graph: is not changed.
        pairs: link type -> undirected pairs int64 ``[L, 2]``, each once; they become edges of both directions.
        weights: link type -> float32 ``[L]``, the edge attribute ``weight``.
    """
    edges, attrs = dict(graph.edges), dict(graph.edge_attrs)
    for edge_type, some in pairs.items():
        both = np.concatenate([some, some[:, ::-1]])
        order = np.lexsort((both[:, 1], both[:, 0]))
        a, b = np.ascontiguousarray(both[order].T)
        edges[edge_type] = (torch.from_numpy(a), torch.from_numpy(b))
        attrs[edge_type] = {"weight": torch.from_numpy(np.concatenate([weights[edge_type]] * 2)[order])}
    return replace(graph, edges=edges, edge_attrs=attrs)


def _raw(users: Any, items: Ids, popularity: Ids, count: int, seed: int) -> Truth:
    from hasp.rng import hash64, subkey, word

    seen = np.unique(items)
    queries = np.sort(seen[np.argsort(hash64(subkey(seed, word("raw")), seen), kind="stable")[:count]])
    rows = splits.co_sim_raw(users, items, popularity.size, queries)
    some = np.flatnonzero(rows.counts)
    return Truth("co_sim_raw", queries[some], rows.select(some), popularity)
