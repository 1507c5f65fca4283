"""Sizes: bytes of a graph's rows, of a part as a loaded batch, and of the machine's memory."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from hasp.graph import Graph
from hasp.memory import available_bytes
from hasp.parallel import run
from hasp.part import id_dtype
from hasp.rng import hash64
from hasp.schema import EdgeType, Roles
from hasp.scratch import scratch_folder

__all__ = [
    "available_memory",
    "batch_bytes",
    "bucket_bytes",
    "expected_share",
    "free_disk",
    "in_parts",
    "input_bytes",
    "is_large",
    "node_bytes",
    "num_links",
    "row_bytes",
    "shared_bytes",
    "slice_bytes",
    "stored_bytes",
]

LARGE = 0.3
"""Share of the free memory above which an attribute counts as large (:func:`is_large`)."""

_ID = 8  # bytes of an id in a loaded batch: PyG works with int64
_OWNER = 4  # owner_part of an entity, int32
_STEP = 1 << 18  # edges looked at in one go


def batch_bytes(graph: Graph, roles: Roles, nodes: Mapping[str, float], edges: Mapping[EdgeType, float]) -> int:
    """Bytes of one part as a loaded batch: n_id, e_id and edge_index as int64, and every attribute.

    Exact without sampled types; edges to sampled nodes are counted as expected.

    Args:
        graph: the source; only counts, dtypes and shapes are read.
        roles: of the same graph.
        nodes: nodes of the batch per node type.
        edges: per edge type with an entity end, the edges in the part's own file; others are counted whole.
    """
    size = sum(count * node_bytes(graph, roles, t) for t, count in nodes.items())
    for edge_type in graph.edges:
        count = edges[edge_type] if in_parts(edge_type, roles) else graph.num_edges(edge_type)
        size += count * expected_share(edge_type, graph, roles) * row_bytes(graph.edge_attrs.get(edge_type, {}), 3)
    return math.ceil(size)


def num_links(graph: Graph, edge_type: EdgeType) -> int:
    """Edges of a type as undirected links: half of them where every edge is stored in both directions.

    Told by a sum of hashes that does not depend on the order of the edges: equal for (source, destination) and
    (destination, source) if these are the same pairs, and else with a chance of ``2**-64``. One pass, in blocks.
    """
    src, dst = graph.edges[edge_type]
    if edge_type[0] != edge_type[2] or src.numel() % 2:
        return src.numel()
    key = np.uint64(0)

    narrow = graph.num_nodes[edge_type[0]] <= 2**32  # then a pair of ids is one number as it is

    def sums(low: int) -> tuple[int, int]:
        ends = [t[low : low + _STEP].numpy() for t in (src, dst)]
        a, b = (e.astype(np.uint64) if narrow else hash64(key, e) for e in ends)
        there, back = (hash64(key, (x << np.uint64(32)) ^ y) for x, y in ((a, b), (b, a)))
        return int(there.sum(dtype=np.uint64)), int(back.sum(dtype=np.uint64))

    found = run(sums, range(0, src.numel(), _STEP))
    there, back = (sum(pair[i] for pair in found) % 2**64 for i in (0, 1))
    return src.numel() // 2 if there == back else src.numel()


def input_bytes(graph: Graph) -> int:
    """Bytes of a graph's arrays that lie in memory; arrays mapped from files are not counted (Linux: /proc/self/maps)."""
    mapped = _mapped_ranges()
    owned = [t for t in graph.tensors() if not any(low <= t.data_ptr() < high for low, high in mapped)]
    return sum(t.numel() * t.element_size() for t in owned)


def bucket_bytes(graph: Graph, roles: Roles, num_parts: int) -> int:
    """Bytes of all edges with an entity end while they are grouped by part (:class:`hasp.bucket.Buckets`), without attributes.

    Parts are taken to hold at most twice the mean of the entities.
    """
    owned = [e for e in graph.edges if in_parts(e, roles)]
    bucket = 1 if num_parts < 2**8 else 2

    def end(node_type: str) -> int:
        count = graph.num_nodes[node_type]
        most = min(count, 2 * count // num_parts) if roles.nodes[node_type] == "entity" else count
        return 2 if most <= 1 << 16 else id_dtype(most).itemsize

    return sum(graph.num_edges(e) * (end(e[0]) + end(e[2]) + 2 + bucket) for e in owned)


def slice_bytes(graph: Graph, roles: Roles, num_parts: int) -> int:
    """Bytes of the counts per slice of 2**16 edges and bucket beside them, which stay in memory: of note with many parts."""
    slices = sum(-(-graph.num_edges(e) // (1 << 16)) for e in graph.edges if in_parts(e, roles))
    return 4 * slices * (num_parts + 1)


def stored_bytes(graph: Graph, roles: Roles) -> int:
    """Bytes of all files of a build, to within their headers and the user's own ids and names where these are text."""
    size = 0
    for node_type, count in graph.num_nodes.items():
        own = 4 + id_dtype(count).itemsize if roles.nodes[node_type] == "entity" else 0  # node_part and n_id
        size += count * (own + row_bytes(graph.node_attrs.get(node_type, {}), 0))
    for edge_type in graph.edges:
        row = _stored_ids(graph, roles, edge_type) + row_bytes(graph.edge_attrs.get(edge_type, {}), 0)
        size += graph.num_edges(edge_type) * row
    return size + sum(
        array.nbytes // (4 if array.dtype.kind == "U" else 1) for array in (*graph.ids.values(), *graph.names.values())
    )


def _stored_ids(graph: Graph, roles: Roles, edge_type: EdgeType) -> int:
    """Bytes of one edge's ends (an entity is a row of its part, any other a global id) and of its id."""
    kinds = [id_dtype(0 if roles.nodes[t] == "entity" else graph.num_nodes[t]) for t in (edge_type[0], edge_type[2])]
    return 2 * max(k.itemsize for k in kinds) + id_dtype(graph.num_edges(edge_type)).itemsize


def free_disk(root: str | Path) -> tuple[int, Path]:
    """Bytes that a build into a folder may take, and that folder or its nearest parent that exists.

    The bytes are what the disk has free and what the folder holds already, which a build replaces or continues.
    """
    where = scratch_folder(root)
    held = sum(p.stat().st_size for p in where.iterdir() if p.is_file()) if where == Path(root).absolute() else 0
    return shutil.disk_usage(where).free + held, where


def is_large(value: Tensor) -> bool:
    """Whether an attribute's rows are put in the order of the parts once, since the system's cache would not hold them."""
    free = available_memory()
    return free is not None and value.nbytes > LARGE * free


def available_memory() -> int | None:
    """Bytes that a process may still take: the machine's free memory, or what its cgroup leaves; ``None`` if unknown."""
    free = available_bytes()
    sizes = [free] if free else []
    for limit, used in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        paths = [Path("/sys/fs/cgroup") / name for name in (limit, used)]
        if all(p.exists() for p in paths):
            words = [p.read_text().strip() for p in paths]
            if all(w.isdigit() for w in words):
                sizes.append(max(0, int(words[0]) - int(words[1])))
    return min(sizes) if sizes else None


def _mapped_ranges() -> list[tuple[int, int]]:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []
    out = []
    for line in maps.read_text().splitlines():
        words = line.split(maxsplit=5)
        if len(words) == 6 and words[5].startswith("/") and words[4] != "0" and not words[5].startswith("/dev/"):
            low, _, high = words[0].partition("-")
            out.append((int(low, 16), int(high, 16)))
    return out


def _width(tensor: Tensor) -> int:
    """Bytes of one row."""
    return tensor.element_size() * math.prod(tensor.shape[1:])


def node_bytes(graph: Graph, roles: Roles, node_type: str) -> int:
    """Bytes of one node in a loaded batch: its id, its attributes and, of an entity, the part that owns it."""
    return row_bytes(graph.node_attrs.get(node_type, {}), 1) + (_OWNER if roles.nodes[node_type] == "entity" else 0)


def row_bytes(attrs: Mapping[str, Tensor], ids: int) -> int:
    """Bytes of one node (``ids=1``: n_id) or one edge (``ids=3``: edge_index and e_id) in a loaded batch."""
    return _ID * ids + sum(_width(t) for t in attrs.values())


def in_parts(edge_type: EdgeType, roles: Roles) -> bool:
    """Whether the edges of a type have an entity end, and so lie in the parts' own files or in the cut."""
    return any(roles.nodes[end] == "entity" for end in (edge_type[0], edge_type[2]))


def expected_share(edge_type: EdgeType, graph: Graph, roles: Roles) -> float:
    """Expected share of the edges of a type whose sampled ends are in one part's sample."""
    share = 1.0
    for end in (edge_type[0], edge_type[2]):
        if end in roles.quota and graph.num_nodes[end]:
            share *= roles.quota[end] / graph.num_nodes[end]
    return share


def shared_bytes(graph: Graph, roles: Roles) -> int:
    """Bytes that every loaded part repeats: semantic nodes, semantic-semantic edges, the sample and its expected edges."""
    nodes = {t: roles.quota.get(t, n) for t, n in graph.num_nodes.items() if roles.nodes[t] != "entity"}
    return batch_bytes(graph, roles, nodes, dict.fromkeys(graph.edges, 0))
