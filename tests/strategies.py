"""Hypothesis strategies for random heterogeneous graphs with a schema: small, odd, and quick to shrink.

``cases()`` draws a :class:`Case`: a graph, as ``HeteroData`` and as :class:`hasp.Graph`, and the :class:`hasp.Schema` that
gives every type its role. The draws are numbers of nodes and lists of pairs, so a failing example shrinks to a few edges.
What is drawn covers: one to three entity types (some of them empty), EELs between and within them with repeats, self-loops,
both directions and parallel edges; entity-entity types that are no EEL; entity-semantic and semantic-semantic types in either
direction; sampled types with a quota from 0 to more than there are, joined to entities, to semantic nodes and to each other;
types without nodes, without edges, isolated nodes, a hub joined to everything; attributes of many dtypes and widths.

Example:
    >>> from hypothesis import given
    >>> @given(cases())
    ... def test_mine(case): HASPData(case.data, case.schema, num_parts=2)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch_geometric.data import HeteroData

from hasp.graph import Graph
from hasp.schema import EdgeType, Roles, Schema

__all__ = ["Case", "attribute", "cases", "hetero_graphs", "num_parts_for", "pairs"]

ENTITY = ("title", "game", "actor")
SEMANTIC = ("genre", "place")
SAMPLED = ("talent", "user")

NODE_ATTRS = ("x", "half", "double", "y", "train_mask", "small", "empty")
EDGE_ATTRS = ("edge_weight", "edge_attr", "time", "flag", "label")


@dataclass(frozen=True)
class Case:
    """One random graph with its schema.

    Attributes:
        data: the graph as a user has it.
        schema: names every entity type, every EEL type and every sampled type; the rest is semantic.
    """

    data: HeteroData
    schema: Schema

    @property
    def graph(self) -> Graph:
        """The graph as this library sees it."""
        return Graph.from_hetero_data(self.data)

    @property
    def roles(self) -> Roles:
        """The resolved schema."""
        graph = self.graph
        return self.schema.resolve(graph.num_nodes, graph.edges)

    @property
    def num_entities(self) -> int:
        """Entities of all types."""
        return sum(int(self.data[t].num_nodes) for t in self.schema.entity or ())

    def __repr__(self) -> str:
        nodes = {t: self.data[t].num_nodes for t in self.data.node_types}
        keys = {t: sorted(set(self.data[t].keys()) - {"num_nodes", "edge_index"}) for t in nodes}
        edges = {e: self.data[e].edge_index.t().tolist() for e in self.data.edge_types}
        more = {e: sorted(set(self.data[e].keys()) - {"edge_index"}) for e in edges}
        return f"Case(nodes={nodes}, attrs={keys}, edges={edges}, edge_attrs={more}, {self.schema})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # what hypothesis prints of a failing example


def pairs(num_source: int, num_destination: int, most: int = 14) -> st.SearchStrategy[list[tuple[int, int]]]:
    """Edges between two types as (source, destination) pairs, in any order, repeats included; none if a type is empty."""
    if not num_source or not num_destination:
        return st.just([])
    ends = st.tuples(st.integers(0, num_source - 1), st.integers(0, num_destination - 1))
    return st.lists(ends, max_size=most)


def attribute(name: str, count: int) -> Tensor:
    """The attribute of this name for ``count`` rows. Every row differs from the others (masks aside), so that a row in the
    wrong place shows; the values of one name are the same in every graph, so that nothing about them has to be drawn."""
    row = torch.arange(count)
    makers: dict[str, Any] = {
        "x": lambda: torch.stack([row + 0.5, -row.float(), row * 3.0], dim=1),
        "half": lambda: (row + 1).half(),
        "double": lambda: torch.stack([row.double() / 3, row.double()], dim=1),
        "y": lambda: row * 7 + 1,
        "train_mask": lambda: row % 3 == 0,
        "small": lambda: (row % 200).to(torch.uint8).view(-1, 1, 1).repeat(1, 2, 2),
        "empty": lambda: torch.empty(count, 0),
        "edge_weight": lambda: (row % 5 + 1).float() / 2,
        "edge_attr": lambda: torch.stack([row.half(), -row.half()], dim=1),
        "time": lambda: 1_700_000_000_000 + row,
        "flag": lambda: row % 2 == 0,
        "label": lambda: row.to(torch.int32) - 1,
    }
    value: Tensor = makers[name]()
    return value


@st.composite
def cases(draw: st.DrawFn, most_nodes: int = 10, attrs: bool = True, sampled: bool = True) -> Case:
    """A random heterogeneous graph with its schema.

    Args:
        draw: given by hypothesis.
        most_nodes: the most nodes of one entity type.
        attrs: with attributes.
        sampled: with sampled types.
    """
    counts: dict[str, int] = {}
    entity = ENTITY[: draw(st.integers(1, len(ENTITY)))]
    counts[entity[0]] = draw(st.integers(1, most_nodes))
    for name in entity[1:]:
        counts[name] = draw(st.integers(0, most_nodes))
    total = sum(counts.values())
    semantic = SEMANTIC[: draw(st.integers(0, len(SEMANTIC)))]
    for name in semantic:
        counts[name] = draw(st.integers(0, min(total, 4)))
    quota = {}
    for name in SAMPLED[: draw(st.integers(0, len(SAMPLED))) if sampled else 0]:
        counts[name] = draw(st.integers(0, 9))
        quota[name] = draw(st.one_of(st.integers(0, 4), st.just(counts[name]), st.just(counts[name] + 3)))
    edges, eel = _edges(draw, counts, entity, semantic, tuple(quota))

    data = HeteroData()
    order = draw(st.permutations(list(counts))) if draw(st.booleans()) else list(counts)
    for name in order:
        data[name].num_nodes = counts[name]
        for key in draw(st.sets(st.sampled_from(NODE_ATTRS), max_size=3)) if attrs else ():
            data[name][key] = attribute(key, counts[name])
    wide = draw(st.sampled_from([torch.int64, torch.int64, torch.int32]))
    for edge_type, ends in edges.items():
        data[edge_type].edge_index = torch.tensor(ends, dtype=wide).reshape(-1, 2).t()
        for key in draw(st.sets(st.sampled_from(EDGE_ATTRS), max_size=2)) if attrs else ():
            data[edge_type][key] = attribute(key, len(ends))
    return Case(data, Schema(entity=entity, eel=eel, sample=quota))


def hetero_graphs(**options: Any) -> st.SearchStrategy[HeteroData]:
    """The graph of :func:`cases` alone, as a ``HeteroData``."""
    return cases(**options).map(lambda case: case.data)


def num_parts_for(case: Case) -> st.SearchStrategy[int]:
    """Legal numbers of parts of a case: from 1 to one per entity, small ones first."""
    return st.integers(1, max(1, case.num_entities))


def _edges(
    draw: st.DrawFn, counts: dict[str, int], entity: tuple[str, ...], semantic: tuple[str, ...], sampled: tuple[str, ...]
) -> tuple[dict[EdgeType, list[tuple[int, int]]], list[EdgeType]]:
    """Edge lists per edge type, and which of them are EELs. Relations are named by what they are for."""
    first, last = entity[0], entity[-1]
    links: list[EdgeType] = [(first, "like", first), (first, "near", last), (last, "seen", last)]
    others: list[EdgeType] = [(last, "copies", first), (first, "before", first)]
    for s in semantic:
        others += [(first, "has", s), (s, "of", last), (s, "parent", semantic[0])]
    for t in sampled:
        others += [(first, "cast", t), (t, "in", last), (t, "knows", sampled[0])]
        others += [(t, "likes", s) for s in semantic[:1]] + [(s, "tags", t) for s in semantic[-1:]]
    links, others = list(dict.fromkeys(links)), list(dict.fromkeys(others))
    chosen = draw(st.sets(st.sampled_from(others), max_size=6))
    eel = [e for e in links if draw(st.booleans())]
    edges = {}
    for edge_type in [*eel, *(e for e in others if e in chosen)]:
        ends = draw(pairs(counts[edge_type[0]], counts[edge_type[2]]))
        edges[edge_type] = ends
    for edge_type in eel:
        shape = draw(st.sampled_from(["plain", "plain", "both", "twice", "hub", "none"]))
        ends, same = edges[edge_type], edge_type[0] == edge_type[2]
        if shape == "both" and same:
            edges[edge_type] = ends + [(d, s) for s, d in ends]
        elif shape == "twice":
            edges[edge_type] = ends + ends
        elif shape == "hub" and counts[edge_type[0]]:
            edges[edge_type] = ends + [(0, d) for d in range(counts[edge_type[2]])]
        elif shape == "none":
            edges[edge_type] = []
    return edges, eel
