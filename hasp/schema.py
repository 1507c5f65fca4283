"""Schema: the role of every node type and every edge type.

Roles of node types (paper, section 5.2): an *entity* is partitioned, a *semantic* node is duplicated in every part, a
*sampled* type contributes a random, user-sized sample to each part. Roles of edge types follow from their two ends.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hasp.errors import HaspError

__all__ = ["EdgeRole", "EdgeType", "NodeRole", "Roles", "Schema", "edge_name", "parse_edge_name"]

EdgeType = tuple[str, str, str]
NodeRole = Literal["entity", "semantic", "sampled"]
EdgeRole = Literal["eel", "entity-entity", "entity-semantic", "semantic-semantic", "sampled"]


def edge_name(edge_type: EdgeType) -> str:
    """``("title", "has", "genre")`` -> ``"title__has__genre"``: the spelling used in files and reports."""
    return "__".join(edge_type)


def parse_edge_name(name: str) -> EdgeType:
    """Invert :func:`edge_name`. Raises :class:`HaspError` unless the name has exactly three parts."""
    pieces = name.split("__")
    if len(pieces) != 3 or not all(pieces):
        raise HaspError(
            f"an edge type is spelled <source>__<relation>__<destination>, got {name!r}; "
            "rename it, and keep '__' out of the names of types and relations"
        )
    return pieces[0], pieces[1], pieces[2]


@dataclass(frozen=True)
class Schema:
    """What the user says about roles; everything left out is inferred by :meth:`resolve`.

    Args:
        entity: the node type(s) that are partitioned. ``None``: the source type of ``eel``, or, without ``eel``, every
            node type with an edge type to itself or, if there is none, the largest type.
        eel: entity-entity link types whose cut is minimised. ``None``: every edge type between two entity types.
        semantic: node types duplicated in every part. ``None``: every type that is neither entity nor sampled.
        sample: ``{node type: quota}``; each part gets ``min(quota, count)`` random nodes of that type.

    Raises:
        HaspError: a type has two roles, a quota is negative, an edge type is not a triple.
    """

    entity: str | Sequence[str] | None = None
    eel: Sequence[EdgeType] | None = None
    semantic: str | Sequence[str] | None = None
    sample: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "entity", _names(self.entity))
        set_(self, "semantic", _names(self.semantic))
        if not isinstance(self.sample, (Mapping, type(None))):
            raise HaspError(f"sample is a quota per node type, got {self.sample!r:.80}; write {{'talent': 50_000}}")
        if isinstance(self.eel, str) or not isinstance(self.eel, (Iterable, type(None))):
            raise HaspError(f"eel is a list of edge types, got {self.eel!r:.80}; write [('title', 'co_engaged', 'title')]")
        set_(self, "sample", dict(self.sample or {}))
        if self.eel is not None:
            # One triple may stand without a list; an empty tuple or one of spelled-out names is a list.
            names = [e for e in self.eel if isinstance(e, str) and "__" not in e]
            one = isinstance(self.eel, tuple) and len(self.eel) > 0 and len(names) == len(self.eel)
            set_(self, "eel", tuple(_edge_type(e) for e in ([self.eel] if one else self.eel)))
        for name, quota in self.sample.items():  # type: ignore[union-attr]
            if isinstance(quota, bool) or not isinstance(quota, (int, np.integer)) or quota < 0:
                raise HaspError(f"sample[{name!r}] is a number of nodes >= 0, got {quota!r}; give a whole number")
        given = [*(self.entity or ()), *(self.semantic or ()), *self.sample]  # type: ignore[misc]
        for name in given:
            if given.count(name) > 1:
                raise HaspError(f"node type {name!r} has two roles; name it once among entity, semantic and sample")

    def resolve(self, node_counts: Mapping[str, int], edge_types: Iterable[EdgeType]) -> Roles:
        """Give every type of a graph its role.

        Args:
            node_counts: nodes per node type.
            edge_types: the edge types of the graph.

        Raises:
            HaspError: an unknown type is named, an EEL ends in a type that is no entity, a semantic type has more
                nodes than all entity types together, or no entity type can be inferred.
        """
        edge_types = [_edge_type(e) for e in edge_types]
        types = list(node_counts)
        for name in types:
            _check_name(name)
        for source, relation, destination in edge_types:
            for end in (source, destination):
                if end not in node_counts:
                    raise HaspError(
                        f"edge type {(source, relation, destination)} ends in the node type {end!r}, which the graph "
                        f"does not have; its node types are {types}"
                    )
        for name in [*(self.entity or ()), *(self.semantic or ()), *(self.sample or {})]:
            if name not in node_counts:
                raise HaspError(f"the schema names the node type {name!r}, but the graph has {types}; correct the name")
        for edge_type in self.eel or ():
            if edge_type not in edge_types:
                raise HaspError(f"the schema names the EEL type {edge_type}, but the graph has {edge_types}; correct the name")
        entity, how = self._entities(node_counts, edge_types)
        eel = tuple(self.eel) if self.eel is not None else tuple(e for e in edge_types if e[0] in entity and e[2] in entity)
        for edge_type in eel:
            for end in (edge_type[0], edge_type[2]):
                if end not in entity:
                    raise HaspError(
                        f"both ends of an EEL are entities, but {edge_type} ends in {end!r}; "
                        f"add {end!r} to entity= or remove {edge_type} from eel="
                    )
        node_roles: dict[str, NodeRole] = {}
        total = sum(node_counts[t] for t in entity)
        for name in types:
            if name in entity:
                node_roles[name] = "entity"
            elif name in (self.sample or {}):
                node_roles[name] = "sampled"
            else:
                if self.semantic is not None and name not in self.semantic:
                    raise HaspError(
                        f"node type {name!r} has no role; name it in entity=, semantic= or sample=, or leave semantic= out"
                    )
                if node_counts[name] > max(total, 1):
                    raise HaspError(
                        f"a semantic type is duplicated in every part, but {name!r} has {node_counts[name]:,} nodes, "
                        f"more than the {total:,} entities of {list(entity)}; "
                        f"use sample={{{name!r}: <nodes per part>}}, or make it an entity"
                    )
                node_roles[name] = "semantic"
        edge_roles = {e: _edge_role(e, node_roles, eel) for e in edge_types}
        quota = {t: min(int(q), node_counts[t]) for t, q in (self.sample or {}).items()}
        return Roles(node_roles, edge_roles, quota, how)

    def _entities(
        self, node_counts: Mapping[str, int], edge_types: Sequence[EdgeType]
    ) -> tuple[tuple[str, ...], dict[str, str]]:
        """The entity types, and for each inferred one the reason in words."""
        if self.entity is not None:
            if not self.entity:
                raise HaspError(f"a graph has at least one entity type, got entity=[]; name one of {list(node_counts)}")
            return tuple(self.entity), {}
        taken = {*(self.semantic or ()), *(self.sample or {})}
        if self.eel:
            ends = dict.fromkeys(t for e in self.eel for t in (e[0], e[2]))
            for name in ends:
                if name in taken:
                    raise HaspError(
                        f"both ends of an EEL are entities, but {name!r} is named in sample= or semantic=; "
                        "remove it there, or its EELs from eel="
                    )
            return tuple(ends), dict.fromkeys(ends, "an end of an EEL")
        linked = dict.fromkeys(e[0] for e in edge_types if e[0] == e[2] and e[0] not in taken)
        if linked:
            # A small vocabulary with edges to itself (genre -> sub-genre) is semantic, not an entity.
            largest = max(node_counts[t] for t in linked)
            linked = {t: None for t in linked if node_counts[t] * 10 >= largest}
            return tuple(linked), dict.fromkeys(linked, "has links to its own type")
        free = [t for t in node_counts if t not in taken]
        if not free or not any(node_counts[t] for t in free):
            raise HaspError("a graph has at least one entity, but no node type with nodes is left; name it in entity=")
        best = max(free, key=lambda t: node_counts[t])
        return (best,), {best: "the largest node type"}


@dataclass(frozen=True)
class Roles:
    """The resolved schema of one graph.

    Attributes:
        nodes: role per node type, in the graph's order.
        edges: role per edge type, in the graph's order. Edges between entities that are no EEL are ``entity-entity``:
            they live where both ends do, as EELs, but their cut is not minimised.
        quota: nodes per part of each sampled type, already capped by the type's count.
        inferred: entity types that the user did not name -> the reason.
    """

    nodes: Mapping[str, NodeRole]
    edges: Mapping[EdgeType, EdgeRole]
    quota: Mapping[str, int]
    inferred: Mapping[str, str]

    def types(self, role: NodeRole) -> list[str]:
        """Node types with this role, in the graph's order."""
        return [t for t, r in self.nodes.items() if r == role]

    @property
    def entity(self) -> list[str]:
        """The partitioned node types."""
        return self.types("entity")

    @property
    def semantic(self) -> list[str]:
        """The node types that every part holds whole."""
        return self.types("semantic")

    @property
    def sampled(self) -> list[str]:
        """The node types of which each part holds a sample."""
        return self.types("sampled")

    @property
    def eel(self) -> list[EdgeType]:
        """The edge types whose cut is minimised."""
        return [e for e, r in self.edges.items() if r == "eel"]

    def explain(self) -> str:
        """One line per role, for people: which types, and why where it was inferred."""
        lines = []
        for role in ("entity", "semantic", "sampled"):
            names = [f"{t} ({self.inferred[t]})" if t in self.inferred else t for t in self.types(role)]  # type: ignore[arg-type]
            lines.append(f"{role:9s} {', '.join(names) or '-'}")
        lines.append(f"{'EEL':9s} {', '.join(edge_name(e) for e in self.eel) or '-'}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """A JSON value that :meth:`from_json` turns back into an equal object."""
        return {
            "nodes": dict(self.nodes),
            "edges": {edge_name(e): r for e, r in self.edges.items()},
            "quota": dict(self.quota),
            "inferred": dict(self.inferred),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Roles:
        """Rebuild from :meth:`to_json`; JSON objects keep their order, and so do the types."""
        try:
            return cls(
                dict(value["nodes"]),
                {parse_edge_name(e): r for e, r in value["edges"].items()},
                {t: int(q) for t, q in value["quota"].items()},
                dict(value.get("inferred", {})),
            )
        except (KeyError, AttributeError, TypeError) as error:
            text = json.dumps(value, default=str)[:80]
            raise HaspError(f"a stored schema has the keys nodes, edges and quota, got {text}; rebuild the parts") from error


def _edge_role(edge_type: EdgeType, nodes: Mapping[str, NodeRole], eel: Sequence[EdgeType]) -> EdgeRole:
    ends = {nodes[edge_type[0]], nodes[edge_type[2]]}
    if "sampled" in ends:
        return "sampled"
    if ends == {"entity"}:
        return "eel" if edge_type in eel else "entity-entity"
    return "semantic-semantic" if ends == {"semantic"} else "entity-semantic"


def _names(value: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str):
        return (value,)
    names = tuple(value) if isinstance(value, Iterable) else (value,)
    if not all(isinstance(name, str) for name in names):
        raise HaspError(f"node types are named by text, one or a list, got {str(value)[:80]}; write ['title']")
    return names


def _edge_type(value: Any) -> EdgeType:
    if isinstance(value, str):
        return parse_edge_name(value)
    if not isinstance(value, (tuple, list)) or len(value) != 3 or not all(isinstance(v, str) for v in value):
        raise HaspError(f"an edge type is (source, relation, destination), got {value!r}; give three names")
    for name in value:
        _check_name(name)
    return (value[0], value[1], value[2])


def _check_name(name: Any) -> None:
    """Names are spelled in files as ``a__b__c`` and ``kind/a__b__c/attribute``, so they hold neither ``__`` nor ``/``."""
    if not isinstance(name, str) or not name or "__" in name or "/" in name or not name.isprintable():
        raise HaspError(
            f"names of types and relations are not empty, are printable and have no '__' or '/', got {name!r}; rename it"
        )
