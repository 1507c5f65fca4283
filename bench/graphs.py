"""The graphs that are measured: degree-corrected planted partitions with concepts, deterministic per seed.

Node ids are permuted at random and edges are in random order and direction: the worst locality a kernel can meet.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hasp.graph import Graph
from hasp.schema import edge_name

__all__ = ["ENTITIES", "Planted", "hetero", "load", "planted", "save"]

ENTITIES = ("title", "game", "person")

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Planted:
    """Size and shape of a planted partition.

    Attributes:
        nodes: entities.
        edges: EELs; self-loops are drawn again, repeats stay (there are few).
        seed: every other number gives another graph.
        gamma: exponent of the power law of the degrees.
        mixing: share of the edges that go anywhere instead of into the node's own community.
        smallest, largest: nodes of a community; sizes follow a power law of exponent 2. ``largest=0``: ``nodes / 20``.
    """

    nodes: int
    edges: int
    seed: int = 0
    gamma: float = 2.5
    mixing: float = 0.2
    smallest: int = 50
    largest: int = 0


def planted(spec: Planted) -> tuple[Ints, Ints, Ints]:
    """Draw one.

    Returns:
        ``(sources, destinations, community)``: int64 ``[edges]``, ``[edges]``, ``[nodes]``.
    """
    rng = np.random.default_rng([spec.seed, spec.nodes, spec.edges])
    largest = max(spec.smallest + 1, spec.largest or spec.nodes // 20)
    sizes = _power_law(rng, spec.nodes // spec.smallest + 1, 2.0, spec.smallest, largest).astype(np.int64)
    ends = np.minimum(np.cumsum(sizes), spec.nodes)
    ends = ends[: int(np.searchsorted(ends, spec.nodes)) + 1]
    begins = np.concatenate([[0], ends[:-1]])
    community = np.repeat(np.arange(ends.size), ends - begins)
    # Expected degrees; node i of the line [0, total) owns the interval weight[i].
    weight = _power_law(rng, spec.nodes, spec.gamma, 1.0, max(2.0, spec.nodes**0.5 * 3.5))
    line = np.concatenate([[0.0], np.cumsum(weight)])
    src = np.empty(spec.edges, dtype=np.int64)
    dst = np.empty(spec.edges, dtype=np.int64)
    todo = np.arange(spec.edges)
    while todo.size:
        u = _draw(rng, line, np.zeros(todo.size), np.full(todo.size, line[-1]))
        away = rng.random(todo.size) < spec.mixing
        low = np.where(away, 0.0, line[begins[community[u]]])
        high = np.where(away, line[-1], line[ends[community[u]]])
        v = _draw(rng, line, low, high)
        flip = rng.random(todo.size) < 0.5
        src[todo], dst[todo] = np.where(flip, v, u), np.where(flip, u, v)
        todo = todo[u == v]
    name = rng.permutation(spec.nodes)
    out = np.empty_like(community)
    out[name] = community
    return name[src], name[dst], out


def hetero(spec: Planted, *, features: int = 0, semantic_edges: int = 0) -> Graph:
    """Three entity types, two semantic types, fifteen edge types: the EELs of a planted partition, and links to concepts.

    Args:
        spec: entities and EELs.
        features: width of the float32 attribute ``x`` of every entity; 0: none.
        semantic_edges: entity-concept edges in all; 0: three for every five EELs.
    """
    rng = np.random.default_rng([spec.seed, 7])
    src, dst, _ = planted(spec)
    kinds = {"title": 0.5, "game": 0.3, "person": 0.2}
    kind = np.searchsorted(np.cumsum(list(kinds.values()))[:-1], rng.random(spec.nodes), side="right")
    local = np.empty(spec.nodes, dtype=np.int64)
    num_nodes: dict[str, int] = {}
    for i, name in enumerate(kinds):
        members = np.flatnonzero(kind == i)
        local[members] = np.arange(members.size)
        num_nodes[name] = members.size
    num_nodes |= {"genre": min(40, max(2, spec.nodes // 50)), "theme": max(4, spec.nodes // 500)}
    edges: dict[tuple[str, str, str], Any] = {}
    pair = kind[src] * 3 + kind[dst]
    for i, a in enumerate(kinds):
        for j, b in enumerate(kinds):
            chosen = pair == i * 3 + j
            edges[a, "linked", b] = (_t(local[src[chosen]]), _t(local[dst[chosen]]))
    each = (semantic_edges or 3 * spec.edges // 5) // 6
    for a in kinds:
        for concept in ("genre", "theme"):
            # Popular concepts: the square of a uniform number.
            to = (rng.random(each) ** 2 * num_nodes[concept]).astype(np.int64)
            edges[a, "has", concept] = (_t(rng.integers(0, max(1, num_nodes[a]), each)), _t(to))
    attrs = {}
    if features:
        draw = torch.Generator().manual_seed(spec.seed)
        attrs = {a: {"x": torch.randn(num_nodes[a], features, generator=draw)} for a in kinds}
    return Graph(num_nodes, edges, attrs)


def _draw(rng: np.random.Generator, line: npt.NDArray[np.float64], low: Any, high: Any) -> Ints:
    at = low + rng.random(low.size) * (high - low)
    out: Ints = np.clip(np.searchsorted(line, at, side="right") - 1, 0, line.size - 2)
    return out


def _power_law(rng: np.random.Generator, n: int, exponent: float, low: float, high: float) -> npt.NDArray[np.float64]:
    """``n`` draws from a density ~ x ** -exponent on [low, high], by its inverse distribution function."""
    a, b = low ** (1 - exponent), high ** (1 - exponent)
    out: npt.NDArray[np.float64] = (a + rng.random(n) * (b - a)) ** (1 / (1 - exponent))
    return out


def _t(values: Ints) -> torch.Tensor:
    return torch.from_numpy(values)


def save(graph: Graph, path: Path) -> Path:
    """Write a graph so that a contender in another process need not draw it again."""
    tensors = {f"edge {edge_name(e)} {i}": ids.contiguous() for e, ends in graph.edges.items() for i, ids in enumerate(ends)}
    tensors |= {f"node {t} {k}": v for t, attrs in graph.node_attrs.items() for k, v in attrs.items()}
    save_file(tensors, path, metadata={"num_nodes": json.dumps(dict(graph.num_nodes)), "edges": json.dumps(list(graph.edges))})
    return path


def load(path: Path | str) -> Graph:
    """Read what :func:`save` wrote, into memory (not as a map, whose pages would be counted as the contender's)."""
    with safe_open(path, framework="pt") as file:
        meta = file.metadata()
        num_nodes = json.loads(meta["num_nodes"])
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    edges: dict[tuple[str, str, str], Any] = {}
    for a, relation, b in json.loads(meta["edges"]):
        name = edge_name((a, relation, b))
        edges[a, relation, b] = (tensors[f"edge {name} 0"], tensors[f"edge {name} 1"])
    attrs: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        kind, owner, key = name.split(" ")
        if kind == "node":
            attrs.setdefault(owner, {})[key] = value
    return Graph(num_nodes, edges, attrs)
