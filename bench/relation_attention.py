"""Relation attention, forward and backward: PyG's way, factorised torch, fused on 1 and 2 threads; on a GPU where one is.

Every way computes the same layer from the same weights (Eq. 3 without activation and residual, which cost the same
everywhere) and its gradients; before anything is timed, results are compared. One warm-up each, then the ways take turns
`repeats` times; medians and ratios to PyG's way within the same run are shown.

The graph: half of the edges link entities (with a skew), half lead to or from 1,000 concepts, as the reverse of each
other. All ways get the edges sorted by destination. The fused ways get their CSR built beforehand, as it is for a static
part; what building it costs is a line of its own.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch_geometric.nn import TransformerConv

from bench.measure import Peak, call_in_child
from bench.table import Table
from hasp.parallel import cores
from hasp_models.kernels.reference import NaiveRelationAttention
from hasp_models.relation_attention import RelationAttention, RelationCSR


def random_edges(nodes: int, edges: int, relations: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """(src, dst, rel_ptr): relation 0 links entities; the others lead from concepts to entities and back, in pairs."""
    rng = np.random.default_rng(seed)
    concepts = max(1, nodes // 30)
    entities = nodes - concepts
    links = edges // 2
    src = [(rng.random(links) ** 1.5 * entities).astype(np.int64)]
    dst = [(rng.random(links) ** 1.5 * entities).astype(np.int64)]
    pairs = max(1, (relations - 1) // 2)
    counts = np.diff(np.linspace(0, edges - links, 2 * pairs + 1).astype(np.int64))
    for i, count in enumerate(counts):
        entity = rng.integers(0, entities, count)
        concept = entities + (rng.random(count) ** 3 * concepts).astype(np.int64)
        ends = (concept, entity) if i % 2 == 0 else (entity, concept)
        src.append(ends[0])
        dst.append(ends[1])
    rel_ptr = np.cumsum([0, *(len(s) for s in src), *[0] * (relations - len(src))])
    return torch.from_numpy(np.concatenate(src)), torch.from_numpy(np.concatenate(dst)), torch.from_numpy(rel_ptr)


def copy_bandwidth(device: str = "cpu") -> float:
    """Bytes per second of a large copy (read and write counted), best of five."""
    a = torch.ones(1 << 26, device=device)
    b = torch.empty_like(a)
    best = min(_seconds(lambda: b.copy_(a)) for _ in range(5))
    return 2 * a.numel() * 4 / best


def moved_bytes(nodes: int, edges: int, d: int) -> int:
    """Least that the fused layer moves if no gathered row stays in a cache between two edges.

    Per edge four rows of d floats (forward 1, backward 3) and its ids and weights (forward: source, relation, logit,
    attention; backward: these again, two weights gathered, destination and position); per node: products read h and
    write [q | v], the kernels read q twice, the output and its gradient twice, write dq and dv, the products' gradients
    read those twice and h once and write dh.
    """
    return 4 * (edges * (4 * d + 4 + 5 + 4) + nodes * d * 15)


def _seconds(run: Callable[[], object]) -> float:
    _wait()
    start = time.perf_counter()
    run()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    """A GPU works on after a call has returned."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


CPU = {"fused, 1 thread": ("numba", 1), "fused, 2 threads": ("numba", 2)}
GPU = {"fused by Triton": ("triton", 0)}
"""Name of a fused way -> its backend and threads."""


def ways(
    nodes: int, edges: int, relations: int, d: int, fused: Mapping[str, tuple[str, int]] = CPU, device: str = "cpu"
) -> dict[str, Callable[[], list[Tensor]]]:
    """Name -> a function that runs forward and backward and returns [out, dx, dw_q, dw_k, dw_v, dbeta, drelation]."""
    torch.manual_seed(0)
    src, dst, rel_ptr = (t.to(device) for t in random_edges(nodes, edges, relations))
    csr = RelationCSR.from_edges(src, dst, rel_ptr, nodes, nodes)
    edge_index = torch.stack([csr.src.long(), csr.row])
    edge_type = csr.rel.long()
    x = torch.randn(nodes, d).to(device).requires_grad_()
    grad = torch.randn(nodes, d).to(device)
    naive = NaiveRelationAttention(d, relations).to(device)
    metadata = (["n"], [("n", f"r{i}", "n") for i in range(relations)])

    def step(forward: Callable[[], Tensor], params: list[Tensor]) -> Callable[[], list[Tensor]]:
        def run() -> list[Tensor]:
            out = forward()
            return [out, *torch.autograd.grad(out, params, grad)]

        return run

    def ours(backend: str, threads: int) -> Callable[[], list[Tensor]]:
        layer = RelationAttention(d, metadata, backend=backend, threads=threads).to(device)
        layer.load_state_dict(naive.state_dict())
        assert layer.beta is not None and layer.relation is not None
        params: list[Tensor] = [x, layer.w_q, layer.w_k, layer.w_v, layer.beta, layer.relation]
        return step(lambda: layer.attend(x, csr)[0], params)

    params = [x, naive.w_q, naive.w_k, naive.w_v, naive.beta, naive.relation]
    transformer = TransformerConv(d, d, edge_dim=d, bias=False, root_weight=False).to(device)
    lins = (transformer.lin_query, transformer.lin_key, transformer.lin_value, transformer.lin_edge)
    return {
        "PyG's way": step(lambda: naive(x, edge_index, edge_type), params),
        "TransformerConv(edge_dim)": step(
            lambda: transformer(x, edge_index, naive.relation[edge_type]), [x, *(lin.weight for lin in lins)]
        ),
        "factorised torch": ours("torch", 0),
        **{name: ours(*how) for name, how in fused.items()},
    }


def peak(way: str, nodes: int, edges: int, relations: int, d: int) -> dict[str, object]:
    """Most memory that one forward and backward pass holds above its inputs, in a process of its own, on one thread."""
    torch.set_num_threads(1)
    run = ways(nodes, edges, relations, d)[way]
    run()  # compiles
    with Peak() as held:
        run()
    return {"bytes": held.bytes}


def peaks(names: Iterable[str], nodes: int, edges: int, relations: int, d: int) -> dict[str, float | None]:
    """Way -> peak in MB; ``None`` where the system does not tell."""
    given = {"nodes": nodes, "edges": edges, "relations": relations, "d": d}
    found = {name: call_in_child("bench.relation_attention:peak", way=name, **given).get("bytes") for name in names}
    return {name: None if value is None else value / 1e6 for name, value in found.items()}


def measure(
    nodes: int, edges: int, relations: int, d: int, repeats: int, bandwidth: float, device: str = "cpu"
) -> list[dict[str, object]]:
    """Rows of the table for one width."""
    runs = ways(nodes, edges, relations, d, CPU if device == "cpu" else GPU, device)
    results = {name: run() for name, run in runs.items()}  # the warm-up: compiles, allocates
    want = results["PyG's way"]
    for name, got in results.items():
        if "TransformerConv" not in name:  # another model: no beta, no product of the concatenation
            worst = max(float((g - w).detach().abs().max() / w.detach().abs().max()) for g, w in zip(got, want, strict=True))
            if not worst < 1e-4:
                raise SystemExit(f"{name} differs from PyG's way by {worst:.1e} at d={d}")
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            torch.set_num_threads(1 if "1 thread" in name else min(2, cores()))
            times[name].append(_seconds(run))
    torch.set_num_threads(min(2, cores()))
    base = times["PyG's way"]
    held = peaks(runs, nodes, edges, relations, d) if edges > 100_000 and device == "cpu" else {}
    limit = moved_bytes(nodes, edges, d) / bandwidth
    return [
        {
            "d": d,
            "way": name,
            "ms": 1e3 * statistics.median(t),
            "min_ms": 1e3 * min(t),
            "times faster": statistics.median(b / a for a, b in zip(t, base, strict=True)),
            "times the memory limit": statistics.median(t) / limit,
            "peak MB": held.get(name),
        }
        for name, t in times.items()
    ]


# nodes, edges, relations, widths, repeats
BESIDE = ("times faster",)
SIZES = {"small": (300, 3_000, 4, (16,), 2), "full": (30_000, 300_000, 12, (32, 64, 128), 7)}


def run(size: str = "full") -> list[Table]:
    """The layer's forward and backward pass, beside PyG's ways of writing it and the memory limit."""
    nodes, edges, relations, widths, repeats = SIZES[size]
    torch.set_num_threads(min(2, cores()))
    bandwidth = copy_bandwidth()
    src, dst, rel_ptr = random_edges(nodes, edges, relations)

    def build() -> None:
        csr = RelationCSR.from_edges(src, dst, rel_ptr, nodes, nodes)
        _ = csr.rows, csr.transposed_rows

    build()
    build_ms = 1e3 * statistics.median(_seconds(build) for _ in range(repeats))
    table = Table(
        "relation_attention",
        f"Relation attention (Eq. 3), forward and backward, {nodes:,} nodes, {edges:,} edges, {relations} relations, float32",
        ["d", "way", "ms", "times faster", "times the memory limit", "peak MB"],
        beside=BESIDE,
    )
    for d in widths:
        for row in measure(nodes, edges, relations, d, repeats, bandwidth):
            table.add(**row)
    table.notes.append(
        f"Medians of {repeats} interleaved repeats; a ratio is taken pair by pair against PyG's way. The limit: the bytes that "
        f"the fused layer must move, at the measured copy bandwidth of {bandwidth / 1e9:.1f} GB/s. The CSR and its transpose "
        f"take {build_ms:.1f} ms, once per part. Peak: above the inputs, one thread, a process each."
    )
    return [table, _on_gpu(size)] if torch.cuda.is_available() else [table]


def _on_gpu(size: str) -> Table:
    """The same layer on the first CUDA device."""
    nodes, edges, relations, widths, repeats = SIZES[size]
    bandwidth = copy_bandwidth("cuda")
    table = Table(
        "relation_attention_gpu",
        f"Relation attention (Eq. 3), forward and backward, {nodes:,} nodes, {edges:,} edges, {relations} relations, float32, "
        f"on {torch.cuda.get_device_name()}",
        ["d", "way", "ms", "times faster", "times the memory limit"],
        notes=[f"Medians of {repeats} interleaved repeats. Copy bandwidth of the device: {bandwidth / 1e9:,.0f} GB/s."],
        beside=BESIDE,
    )
    for d in widths:
        for row in measure(nodes, edges, relations, d, repeats, bandwidth, "cuda"):
            table.add(**row)
    return table
