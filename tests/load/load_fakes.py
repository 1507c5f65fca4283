"""A store made by the definition, edge by edge, and random heterogeneous graphs to make it from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch_geometric.data import HeteroData

from hasp.part import CUT, SAMPLED, SHARED, Edges, Nodes, Part
from hasp.schema import Roles, Schema

SCHEMA = Schema(
    entity=["title", "game"],
    eel=[("title", "co", "title"), ("title", "like", "game"), ("game", "rev_like", "title")],
    sample={"talent": 3},
)
TYPES = ("title", "genre", "game", "talent")
EDGE_TYPES = (
    ("title", "co", "title"),
    ("title", "has", "genre"),
    ("genre", "rev_has", "title"),
    ("genre", "is", "genre"),
    ("title", "like", "game"),
    ("game", "rev_like", "title"),
    ("game", "near", "title"),  # between entities, but no EEL
    ("title", "by", "talent"),
    ("talent", "rev_by", "title"),
    ("talent", "knows", "talent"),
    ("talent", "in", "genre"),
)


@dataclass(frozen=True)
class FakeManifest:
    """The fields of a manifest that the loader reads."""

    fingerprint: str
    config: dict[str, Any]
    roles: Roles
    num_nodes: dict[str, int]
    num_edges: dict[tuple[str, str, str], int]
    report: dict[str, Any]


@dataclass(frozen=True)
class FakeStore:
    """The store interface over a list of parts."""

    manifest: FakeManifest
    parts: list[Part]
    shared: Part
    sampled: Part
    cut: Part
    labels: dict[str, Tensor]

    def part(self, part_id: int) -> Part:
        return self.parts[part_id]

    def node_part(self) -> dict[str, Tensor]:
        return self.labels


def rows_of(value: Tensor, index: Tensor) -> Tensor:
    """``value[index]`` by NumPy: older torch cannot index every dtype."""
    return torch.from_numpy(value.numpy()[index.numpy()])


def build(data: HeteroData, node_part: dict[str, Any], num_parts: int, schema: Schema = SCHEMA, seed: int = 0) -> FakeStore:
    """Make a store from labels, one edge at a time."""
    roles = schema.resolve({t: data[t].num_nodes for t in data.node_types}, data.edge_types)
    label = {t: [int(v) for v in node_part[t]] for t in roles.entity}
    rows = {t: [[v for v, p in enumerate(label[t]) if p == part] for part in range(num_parts)] for t in label}
    local = {t: {v: i for part in rows[t] for i, v in enumerate(part)} for t in label}
    homes: dict[Any, dict[Any, list[Any]]] = {}
    for edge_type in data.edge_types:
        source, _, destination = edge_type
        homes[edge_type] = {}
        for e, (u, v) in enumerate(data[edge_type].edge_index.t().tolist()):
            ends = [label[t][w] for t, w in ((source, u), (destination, v)) if t in label]
            if len(set(ends)) == 2:
                home: Any = ("cut", *ends)
            elif ends:
                home = ends[0]
            else:
                home = "sampled" if roles.edges[edge_type] == "sampled" else "shared"
            mine = local.get(source, {}).get(u, u), local.get(destination, {}).get(v, v)
            homes[edge_type].setdefault(home, []).append((mine[1], e, mine[0]))

    def edges(edge_type: Any, found: list[Any], pairs: Tensor | None = None, ptr: Tensor | None = None) -> Edges:
        index = torch.tensor([[u for _, _, u in found], [v for v, _, _ in found]], dtype=torch.int32).view(2, -1)
        e_id = torch.tensor([e for _, e, _ in found], dtype=torch.int32)
        attrs = {k: rows_of(v, e_id) for k, v in data[edge_type].items() if k != "edge_index"}
        return Edges(index, e_id, attrs, pairs, ptr)

    def attrs_of(node_type: str) -> dict[str, Tensor]:
        return {k: v for k, v in data[node_type].items() if k != "num_nodes"}

    parts = []
    for part in range(num_parts):
        nodes = {}
        for t in roles.entity:
            n_id = torch.tensor(rows[t][part], dtype=torch.int32)
            nodes[t] = Nodes(n_id, n_id.numel(), {k: rows_of(v, n_id) for k, v in attrs_of(t).items()})
        own = {e: edges(e, sorted(homes[e].get(part, []))) for e in data.edge_types if {e[0], e[2]} & set(label)}
        parts.append(Part(part, nodes, own))
    blocks = []
    for block, role in ((SHARED, "semantic"), (SAMPLED, "sampled")):
        name = "shared" if role == "semantic" else "sampled"
        whole = {t: Nodes(None, data[t].num_nodes, attrs_of(t)) for t in roles.types(role)}
        mine = [
            e for e in data.edge_types if not {e[0], e[2]} & set(label) and (roles.edges[e] == "sampled") == (role == "sampled")
        ]
        blocks.append(Part(block, whole, {e: edges(e, sorted(homes[e].get(name, []))) for e in mine}))
    cut = {}
    for e in data.edge_types:
        if e[0] in label and e[2] in label:
            keys = sorted(h[1:] for h in homes[e] if isinstance(h, tuple))
            groups = [sorted(homes[e][("cut", *k)]) for k in keys]
            ptr = torch.tensor(np.cumsum([0, *map(len, groups)]), dtype=torch.int64)
            pairs = torch.tensor(keys, dtype=torch.int32).view(-1, 2)
            cut[e] = edges(e, [edge for group in groups for edge in group], pairs, ptr)
    manifest = FakeManifest(
        f"{num_parts}-{sum(data[e].num_edges for e in data.edge_types)}",
        {"num_parts": num_parts, "seed": seed},
        roles,
        {t: data[t].num_nodes for t in data.node_types},
        {e: data[e].num_edges for e in data.edge_types},
        {"part_bytes": [p.num_bytes for p in parts]},
    )
    labels = {t: torch.tensor(label[t], dtype=torch.int32) for t in label}
    return FakeStore(manifest, parts, *blocks, Part(CUT, {}, cut), labels)


def random_graph(rng: np.random.Generator, counts: dict[str, int], edges: int) -> HeteroData:
    """Every type of ``TYPES`` and ``EDGE_TYPES``; self-loops, parallel edges and empty types come by themselves."""
    data = HeteroData()
    for t in TYPES:
        n = counts[t]
        data[t].num_nodes = n
        data[t].x = torch.from_numpy(rng.normal(size=(n, 2 + TYPES.index(t))).astype(np.float32))
    data["title"].y = torch.arange(counts["title"])
    data["title"].flag = torch.from_numpy(rng.integers(0, 2, counts["title"]).astype(bool))
    data["title"].odd = torch.arange(counts["title"]).to(torch.uint16).view(-1, 1)
    for e in EDGE_TYPES:
        count = edges if counts[e[0]] and counts[e[2]] else 0
        index = [rng.integers(0, max(counts[end], 1), count) for end in (e[0], e[2])]
        data[e].edge_index = torch.from_numpy(np.stack(index)).long()
        if e[1] in ("co", "by"):
            data[e].edge_weight = torch.from_numpy(rng.normal(size=count))
            data[e].edge_attr = torch.from_numpy(rng.integers(0, 9, (count, 3)))
    return data


@st.composite
def stores(draw: Any, max_parts: int = 5) -> tuple[HeteroData, FakeStore]:
    """A random graph and its parts."""
    counts = {
        "title": draw(st.integers(0, 12)),
        "game": draw(st.integers(0, 5)),
        "genre": draw(st.integers(0, 4)),
        "talent": draw(st.integers(0, 8)),
    }
    if not counts["title"] + counts["game"] or counts["genre"] > counts["title"] + counts["game"]:
        counts["title"] = max(counts["genre"], 1)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    data = random_graph(rng, counts, draw(st.integers(0, 30)))
    num_parts = draw(st.integers(1, max_parts))
    labels = {t: rng.integers(0, num_parts, counts[t]) for t in ("title", "game")}
    return data, build(data, labels, num_parts, seed=draw(st.integers(0, 3)))


def example(num_parts: int = 6, titles: int = 60, edges: int = 300, seed: int = 0) -> tuple[HeteroData, FakeStore]:
    """One fixed graph of a middling size."""
    rng = np.random.default_rng(seed)
    data = random_graph(rng, {"title": titles, "game": 12, "genre": 7, "talent": 9}, edges)
    labels = {t: rng.integers(0, num_parts, data[t].num_nodes) for t in ("title", "game")}
    return data, build(data, labels, num_parts)


def parts_of(loader: Any) -> list[list[int]]:
    """The parts of each batch."""
    return [b.part_id.tolist() for b in loader]


def tag(batch: HeteroData) -> HeteroData:
    """A transform that leaves a trace."""
    batch.tag = torch.tensor([batch["title"].num_nodes])
    return batch


def same(a: Any, b: Any) -> None:
    """Two batches hold the same attributes with the same bytes."""
    assert a.metadata() == b.metadata()
    assert [list(s.keys()) for s in a.stores] == [list(s.keys()) for s in b.stores]
    for left, right in zip(a.stores, b.stores, strict=True):
        for key in left:
            x, y = left[key], right[key]
            if isinstance(x, Tensor):
                assert x.dtype == y.dtype and x.shape == y.shape, key
                x, y = (v.float() if v.dtype == torch.bfloat16 else v for v in (x, y))  # NumPy has no bfloat16
                assert x.numpy(force=True).tobytes() == y.numpy(force=True).tobytes(), key
            else:
                assert x == y, key
