"""Probe: what a training step of the user's own model costs in memory, measured on a few tiny parts.

For a fixed model the peak of a step is linear in the nodes and edges of its batch, so a line through a few tiny batches
predicts a large one. The tiny batches are made of the graph's own rows and edges, whose entity ends are folded into a small
range: memory depends on counts and widths, not on who is linked to whom.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from hasp.errors import HaspError
from hasp.graph import Graph
from hasp.rng import hash64, subkey
from hasp.schema import Roles
from hasp.sizes import expected_share, in_parts

__all__ = ["Probe", "peak_of", "probe", "tiny_batch"]

_SHAPES = ((1.0, 1.0), (2.0, 1.0), (2.0, 0.5), (4.0, 0.5), (4.0, 1.0))  # (entities, edges per entity), relative


@dataclass(frozen=True)
class Probe:
    """Peak bytes of a step as a line: ``fixed + per_entity * entities + per_edge * edges``.

    Attributes:
        fixed: what every step takes: shared nodes and samples, and on a GPU the model.
        per_entity: bytes per entity of the batch.
        per_edge: bytes per edge with an entity end.
        error: largest deviation of the line from a probe, as a share of that probe.
    """

    fixed: float
    per_entity: float
    per_edge: float
    error: float

    def peak_bytes(self, entities: int, edges: int) -> int:
        """Predicted peak of a step on a batch of this size."""
        return math.ceil(self.fixed + self.per_entity * entities + self.per_edge * edges)


def probe(
    step: Callable[[Any], Any],
    graph: Graph,
    roles: Roles,
    *,
    device: str | torch.device = "cpu",
    entities: int | None = None,
    seed: int = 0,
) -> Probe:
    """Fit the memory of a training step.

    Args:
        step: one forward and backward pass on a ``HeteroData`` batch, whose tensors are on ``device``. It is called six
            times; give it a copy of the model if its weights must not change.
        graph: the graph that will be cut.
        roles: of the same graph.
        device: ``"cpu"`` measures every allocation of torch (through its profiler) on top of what is held before the step,
            plus the batch; ``"cuda"`` measures the peak that is allocated in all, model included.
        entities: of the smallest tiny part; ``None``: 1,000, or fewer if the graph is small.
        seed: which rows and edges are taken.

    Raises:
        HaspError: the graph has no entities.
    """
    total = sum(graph.num_nodes[t] for t in roles.entity)
    if not total:
        raise HaspError("a probe needs entities, and the graph has none; check the roles")
    smallest = min(1000, max(1, total // 8)) if entities is None else entities
    owned = [e for e in graph.edges if in_parts(e, roles)]
    step(tiny_batch(graph, roles, smallest / total, 1.0, seed).to(device))  # buffers that are made once are not a step's
    rows, peaks = [], []
    for size, density in _SHAPES:
        batch = tiny_batch(graph, roles, min(1.0, size * smallest / total), density, seed).to(device)
        rows.append([1.0, sum(batch[t].num_nodes for t in roles.entity), sum(batch[e].edge_index.size(1) for e in owned)])
        peaks.append(float(peak_of(step, batch)))
    a, y = np.array(rows, dtype=np.float64), np.array(peaks)
    scale = a.max(axis=0)
    # Every column divided by its largest value, so that the fit weighs them alike; no cost is negative.
    fixed, per_entity, per_edge = nnls(a / scale, y)[0] / scale
    error = float(np.max(np.abs(a @ [fixed, per_entity, per_edge] - y) / y))
    return Probe(float(fixed), float(per_entity), float(per_edge), error)


def peak_of(step: Callable[[Any], Any], batch: Any) -> int:
    """Peak bytes of one step on one batch, on the device where the batch is."""
    tensors = [v for store in batch.stores for v in store.values() if isinstance(v, Tensor)]
    device = tensors[0].device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step(batch)
        return int(torch.cuda.max_memory_allocated(device))
    held = sum(t.numel() * t.element_size() for t in tensors)
    return held + _cpu_peak(step, batch)


def _cpu_peak(step: Callable[[Any], Any], batch: Any) -> int:
    """The most bytes that torch's CPU allocator held beyond its level before the step.

    Read from the memory events of torch's profiler: exact, and blind to what the C library keeps for later, which on tiny
    batches hides everything from a resident-set measurement.
    """
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step(batch)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    sizes = [(e["ts"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]" and e["args"]["Device Type"] == 0]
    level = peak = 0
    for _, size in sorted(sizes, key=lambda pair: pair[0]):
        level += size
        peak = max(peak, level)
    return peak


def tiny_batch(graph: Graph, roles: Roles, share: float, density: float, seed: int) -> Any:
    """A ``HeteroData`` with a share of the entities and of their edges, and all that every part repeats.

    Args:
        graph: the source.
        roles: of the same graph.
        share: of the entities of each type; at least one of each type that has any.
        density: edges per entity, relative to the graph's.
        seed: which rows and edges.
    """
    from torch_geometric.data import HeteroData

    data = HeteroData()
    for node_type, count in graph.num_nodes.items():
        wanted = {"entity": min(count, math.ceil(share * count)), "sampled": roles.quota.get(node_type, 0)}
        ids = _some(count, wanted.get(roles.nodes[node_type], count), seed)
        data[node_type].num_nodes = ids.numel()
        data[node_type].n_id = ids
        for key, value in graph.node_attrs.get(node_type, {}).items():
            data[node_type][key] = value[ids]
    for edge_type, ends in graph.edges.items():
        part = share * density if in_parts(edge_type, roles) else 1.0
        count = graph.num_edges(edge_type)
        e_id = _some(count, round(count * part * expected_share(edge_type, graph, roles)), seed)
        index = torch.stack([ids[e_id].long() for ids in ends])
        for row, end in zip(index, (edge_type[0], edge_type[2]), strict=True):
            row.remainder_(max(data[end].num_nodes, 1))
        data[edge_type].edge_index = index[:, index[1].argsort()]
        data[edge_type].e_id = e_id
        for key, value in graph.edge_attrs.get(edge_type, {}).items():
            data[edge_type][key] = value[e_id]
    return data


def _some(count: int, wanted: int, seed: int) -> Tensor:
    """``wanted`` ids below ``count``, int64 ascending; all of them, or spread evenly with a random remainder of each step."""
    if wanted >= count:
        return torch.arange(count)
    # One id out of each of `wanted` equal intervals: nothing of the size of the graph is made.
    edge = np.arange(wanted + 1, dtype=np.int64) * count // max(wanted, 1)
    width = np.diff(edge)
    offset = (hash64(subkey(seed, count), edge[:-1]) % np.maximum(width, 1).astype(np.uint64)).astype(np.int64)
    return torch.from_numpy(edge[:-1] + offset)
