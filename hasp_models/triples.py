"""Triples: the semantic part of a graph as (head, relation, tail), and negatives drawn from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hasp.errors import HaspError
from hasp.graph import Graph
from hasp.schema import EdgeType, Roles, Schema

__all__ = ["KnownTriples", "Negatives", "Triples", "batches", "corrupt"]

Negatives = Literal["type", "pool"]


@dataclass(frozen=True)
class Triples:
    """Facts over one numbering of all nodes, type after type.

    Attributes:
        head, relation, tail: int64 ``[T]``.
        offsets: node type -> ``(first, last + 1)`` of its nodes.
        relations: the edge type of each relation.
    """

    head: Tensor
    relation: Tensor
    tail: Tensor
    offsets: Mapping[str, tuple[int, int]]
    relations: Sequence[EdgeType]

    @classmethod
    def from_graph(cls, graph: Graph, roles: Roles | Schema | None = None) -> Triples:
        """The semantic triples of a graph: edges between an entity and a concept, or between concepts; never an EEL.

        Where a relation stands in both directions (``has`` and ``rev_has``), only the one that starts at the entity is
        taken: the other says the same and would leak every held-out fact.

        Args:
            graph: the graph.
            roles: of its types; a schema is resolved, ``None`` infers it.

        Raises:
            HaspError: the graph has no semantic edge.
        """
        if not isinstance(roles, Roles):
            roles = (roles or Schema()).resolve(graph.num_nodes, list(graph.edges))
        taken: list[EdgeType] = []
        for edge_type, role in roles.edges.items():
            backwards = role == "entity-semantic" and roles.nodes[edge_type[0]] == "semantic"
            forwards = any(e[0] == edge_type[2] and e[2] == edge_type[0] for e in roles.edges)
            if role in ("entity-semantic", "semantic-semantic") and not (backwards and forwards):
                taken.append(edge_type)
        offsets, at = {}, 0
        for node_type in dict.fromkeys(t for e in taken for t in (e[0], e[2])):
            offsets[node_type] = (at, at + graph.num_nodes[node_type])
            at += graph.num_nodes[node_type]
        columns: list[tuple[Tensor, Tensor, Tensor]] = []
        for number, edge_type in enumerate(taken):
            head, tail = (end.long() for end in graph.edges[edge_type])
            head, tail = head + offsets[edge_type[0]][0], tail + offsets[edge_type[2]][0]
            columns.append((head, torch.full_like(head, number), tail))
        if not any(c[0].numel() for c in columns):
            raise HaspError(
                f"pretraining reads edges to concepts, but the graph has none among {list(graph.edges)}; "
                "add concepts, or train without pretraining"
            )
        head, relation, tail = (torch.cat(c) for c in zip(*columns, strict=True))
        return cls(head, relation, tail, offsets, taken)

    @classmethod
    def from_index(cls, triples: Tensor, num_nodes: int, num_relations: int) -> Triples:
        """Untyped facts int64 ``[T, 3]`` (head, relation, tail), as knowledge-graph benchmarks ship them."""
        if triples.dim() != 2 or triples.size(1) != 3:
            raise HaspError(f"triples are integers [T, 3], got {tuple(triples.shape)}; stack head, relation, tail")
        head, relation, tail = triples.long().unbind(1)
        for name, ids, count in (("head", head, num_nodes), ("relation", relation, num_relations), ("tail", tail, num_nodes)):
            if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < count:
                raise HaspError(f"{name} ids lie in 0..{count - 1}, got {int(ids.min())}..{int(ids.max())}; correct them")
        names: list[EdgeType] = [("node", f"relation{r}", "node") for r in range(num_relations)]
        return cls(head, relation, tail, {"node": (0, num_nodes)}, names)

    @property
    def num_nodes(self) -> int:
        """Nodes of all types in the numbering."""
        return max((last for _, last in self.offsets.values()), default=0)

    @property
    def num_relations(self) -> int:
        """Number of relations."""
        return len(self.relations)

    def __len__(self) -> int:
        return self.head.numel()

    def ranges(self) -> tuple[Tensor, Tensor]:
        """Where heads and tails of each relation may come from: int64 ``[R, 2]`` twice, ``(first, last + 1)``."""
        heads = torch.tensor([self.offsets[e[0]] for e in self.relations]).reshape(-1, 2)
        tails = torch.tensor([self.offsets[e[2]] for e in self.relations]).reshape(-1, 2)
        return heads, tails

    def select(self, rows: Tensor) -> Triples:
        """Some of the facts, by position or mask, over the same numbering."""
        return Triples(self.head[rows], self.relation[rows], self.tail[rows], self.offsets, self.relations)


class KnownTriples:
    """A set of facts that answers "is this one known?" for whole batches.

    Args:
        facts: one or more collections over the same numbering.
    """

    def __init__(self, *facts: Triples) -> None:
        self.nodes, self.relations = facts[0].num_nodes, facts[0].num_relations
        if self.relations * self.nodes**2 >= 2**62:
            raise HaspError(f"{self.nodes:,} nodes and {self.relations:,} relations overflow a 64-bit key; use fewer relations")
        self.keys: Tensor = torch.unique(torch.cat([self.key(f.head, f.relation, f.tail) for f in facts]))

    def key(self, head: Tensor, relation: Tensor, tail: Tensor) -> Tensor:
        """One int64 per fact, different for different facts."""
        return (relation * self.nodes + head) * self.nodes + tail

    def __call__(self, head: Tensor, relation: Tensor, tail: Tensor) -> Tensor:
        """Bool of the shape of ``head``."""
        wanted = self.key(head, relation, tail)
        if not self.keys.numel():
            return torch.zeros_like(wanted, dtype=torch.bool)
        at = torch.searchsorted(self.keys, wanted).clamp_(max=self.keys.numel() - 1)
        return self.keys[at].eq(wanted)


def batches(order: Tensor, size: int) -> Iterator[Tensor]:
    """Consecutive pieces of ``order``, the last one shorter."""
    for start in range(0, order.numel(), size):
        yield order[start : start + size]


def corrupt(
    head: Tensor,
    relation: Tensor,
    tail: Tensor,
    ranges: tuple[Tensor, Tensor],
    generator: torch.Generator,
    *,
    known: KnownTriples | None = None,
    tries: int = 4,
) -> tuple[Tensor, Tensor, Tensor]:
    """Replace either the head or the tail of each fact (Eq. 2), each with probability 1/2.

    Args:
        head: int64 ``[B]``.
        relation: int64 ``[B]``.
        tail: int64 ``[B]``.
        ranges: per relation where heads and tails are drawn from, int64 ``[R, 2]`` each: the node's own type, or everything.
        generator: the only source of randomness.
        known: facts that are no negatives; such a draw is repeated.
        tries: draws per fact; one that is still a fact after the last keeps weight 0.

    Returns:
        heads and tails int64 ``[B]``, and a weight float32 ``[B]``, 0 where no negative was found. A side whose type has one
        node is never the one that is replaced, unless the other has one too (weight 0).
    """
    bounds = torch.stack([ranges[0][relation], ranges[1][relation]])  # [2, B, (first, last + 1)]
    size = bounds[..., 1] - bounds[..., 0]
    new_head, new_tail = head.clone(), tail.clone()
    open_ = torch.arange(head.numel())
    for _ in range(tries):
        h, r, t = head[open_], relation[open_], tail[open_]
        at_tail = torch.rand(open_.numel(), generator=generator) < 0.5
        at_tail = torch.where(size[0, open_] == 1, True, torch.where(size[1, open_] == 1, False, at_tail))
        side = at_tail.long()
        first, count = bounds[side, open_, 0], size[side, open_]
        # Drawn among the others: a step of 1..count-1 from the old node never returns to it.
        old = torch.where(at_tail, t, h) - first
        step = 1 + (torch.rand(open_.numel(), generator=generator, dtype=torch.float64) * (count - 1)).long()
        node = first + torch.where(count > 1, (old + step) % count, old)
        h, t = torch.where(at_tail, h, node), torch.where(at_tail, node, t)
        new_head[open_], new_tail[open_] = h, t
        bad = (count == 1) if known is None else (count == 1) | known(h, r, t)
        open_ = open_[bad]
        if not open_.numel():
            break
    weight = torch.ones(head.numel())
    weight[open_] = 0.0
    return new_head, new_tail, weight
