"""Tiers: links by strength, one relation each, so that a relation-aware model can weigh strong and weak links apart.

Eq. 3 knows relations, not edge weights. Cut at a few quantiles of their strength, links of one kind become relations of
their own, each with its vector, its beta and its prior mass. The strength of a link is its share of what its destination
hears, ``w ** power / sum of w ** power into the destination``: so links speak as loud, beside the concepts, to an entity with
few engagements as to a popular one. The two directions of a link may therefore be in different tiers: add reverse edges
before the tiers are cut, not after.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hasp.errors import HaspError
from hasp.graph import Graph
from hasp.schema import EdgeType, edge_name, parse_edge_name

__all__ = ["QUANTILES", "Tiers"]

QUANTILES = (0.25, 0.45, 0.6, 0.72, 0.82, 0.89, 0.93, 0.96, 0.98, 0.99)
"""Finer towards the strong end: there a model has most to tell apart."""


@dataclass(frozen=True)
class Tiers:
    """How links are cut by weight.

    Attributes:
        links: the link types that are pooled; all join one entity type to itself.
        bounds: float32 ``[k - 1]``, ascending: a link of share s is in tier ``number of bounds <= s``.
        share: tier -> mean share of its links in the graph that the bounds are from.
        weight: tier -> mean weight of the same links.
        typical: the mean weight of all; a link without a weight (one that a model added) counts as such.
        power: above 1, strong links get more of the whole.
        attr: the edge attribute that holds the weight.
    """

    links: tuple[EdgeType, ...]
    bounds: Tensor
    share: dict[EdgeType, float]
    weight: dict[EdgeType, float]
    typical: float
    power: float = 1.3
    attr: str = "weight"

    @classmethod
    def of(
        cls,
        graph: Graph,
        links: Sequence[EdgeType],
        quantiles: Sequence[float] = QUANTILES,
        power: float = 1.3,
        attr: str = "weight",
    ) -> Tiers:
        """Bounds at quantiles of the shares in a graph; equal bounds are merged.

        Raises:
            HaspError: no link, a link type between two node types, or links without a weight above 0.
        """
        if not links or len({t for e in links for t in (e[0], e[2])}) != 1:
            raise HaspError(f"tiers are cut from links of one node type to itself, got {list(links)}; name its link types")
        _, destination, weight = _pool(graph, links, attr)
        if not weight.numel() or not bool((weight > 0).all()):
            raise HaspError(f"tiers need links with a weight above 0, got {weight.numel():,} of {list(links)}; give {attr!r}")
        share = _shares(weight, destination, graph.num_nodes[links[0][0]], power)
        bounds = torch.from_numpy(np.unique(np.quantile(share.numpy(), quantiles).astype(np.float32)))
        tier = torch.bucketize(share, bounds, right=True)
        used = torch.unique(tier).tolist()
        names = {int(t): _name(links[0], i) for i, t in enumerate(used)}
        mean = {names[t]: float(share[tier == t].double().mean()) for t in used}
        heavy = {names[t]: float(weight[tier == t].double().mean()) for t in used}
        # An empty tier has no relation: its lower bound goes.
        return cls(tuple(links), bounds[[t - 1 for t in used[1:]]], mean, heavy, float(weight.double().mean()), power, attr)

    @property
    def types(self) -> list[EdgeType]:
        """The tiers, weakest first."""
        return list(self.share)

    def apply(self, graph: Graph) -> Graph:
        """The graph with its links in tiers, each in one and without attributes; every other edge as it was."""
        present = [e for e in self.links if e in graph.edges]
        source, destination, weight = _pool(graph, present, self.attr)
        tier = self.numbers(weight, destination, graph.num_nodes[self.links[0][0]])
        edges = {e: v for e, v in graph.edges.items() if e not in self.links}
        for i, name in enumerate(self.types):
            edges[name] = (source[tier == i], destination[tier == i])
        return replace(graph, edges=edges, edge_attrs={e: v for e, v in graph.edge_attrs.items() if e not in self.links})

    def numbers(self, weight: Tensor, destination: Tensor, count: int) -> Tensor:
        """The tier of every link, int64 ``[E]``.

        Args:
            weight: float32 ``[E]``; 0: none.
            destination: int64 ``[E]``; all links into a node are there.
            count: nodes.
        """
        weight = torch.where(weight > 0, weight, self.typical)
        return torch.bucketize(_shares(weight, destination, count, self.power), self.bounds, right=True)

    def split(self, batch: Any) -> Any:
        """A ``HeteroData`` with its links in tiers: :meth:`apply` for a batch, and a ``transform`` for a loader.

        Shares are those of the links in the batch; what was cut away is heard by nobody.
        """
        out = copy.copy(batch)
        entity, ends, weights = self.links[0][0], [torch.empty(2, 0).long()], [torch.empty(0)]
        for edge_type in self.links:
            ends.append(out[edge_type].edge_index.long())
            weights.append(out[edge_type][self.attr].float().reshape(-1))
            del out[edge_type]
        index, weight = torch.cat(ends, dim=1), torch.cat(weights)
        tier = self.numbers(weight, index[1], int(out[entity].num_nodes))
        for i, name in enumerate(self.types):
            out[name].edge_index = index[:, tier == i]
        return out

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a run folder."""
        return {
            "links": [edge_name(e) for e in self.links],
            "bounds": self.bounds.tolist(),
            "share": {edge_name(e): v for e, v in self.share.items()},
            "weight": {edge_name(e): v for e, v in self.weight.items()},
            "typical": self.typical,
            "power": self.power,
            "attr": self.attr,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Tiers:
        """What :meth:`to_json` gave."""
        share, weight = ({parse_edge_name(e): v for e, v in value[k].items()} for k in ("share", "weight"))
        bounds = torch.tensor(value["bounds"], dtype=torch.float32)
        links = tuple(parse_edge_name(e) for e in value["links"])
        return cls(links, bounds, share, weight, value["typical"], value["power"], value["attr"])


def _pool(graph: Graph, links: Sequence[EdgeType], attr: str) -> tuple[Tensor, Tensor, Tensor]:
    """Sources, destinations int64 ``[E]`` and weights float32 ``[E]`` (0 where there is none) of all links."""
    found = [(torch.empty(0).long(), torch.empty(0).long(), torch.empty(0))]
    for edge_type in links:
        if edge_type not in graph.edges:
            raise HaspError(f"tiers name the link type {edge_type}, the graph has {list(graph.edges)}; correct it")
        source, destination = (end.long() for end in graph.edges[edge_type])
        weight = graph.edge_attrs.get(edge_type, {}).get(attr)
        weight = torch.zeros(source.numel()) if weight is None else weight.float().reshape(-1)
        found.append((source, destination, weight))
    source, destination, weight = (torch.cat(columns) for columns in zip(*found, strict=True))
    return source, destination, weight


def _shares(weight: Tensor, destination: Tensor, count: int, power: float) -> Tensor:
    """Float32 ``[E]``; sums to 1 over the links into a node."""
    mass = weight.double() ** power
    total = torch.zeros(count, dtype=torch.float64).index_add_(0, destination, mass)
    return (mass / total[destination]).float()


def _name(link: EdgeType, tier: int) -> EdgeType:
    return (link[0], f"{link[1]}_tier{tier}", link[2])
