"""Balanced k-way partitioning that minimises the edge cut: backends behind one function signature.

Every backend gets a valid graph (symmetric, coalesced, no self-loops, no isolated nodes) and has its result checked, because
METIS does neither: edges in one direction give silent nonsense, an id out of range a crash, more parts than nodes garbage.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hasp.backends import BACKENDS, Task, choose
from hasp.backends.slices import slices
from hasp.backends.task import edge_cut
from hasp.config import number, whole
from hasp.csr import linked_nodes, symmetric_csr, weighted_csr
from hasp.errors import HaspError
from hasp.fill import fill
from hasp.needs import BACKEND_BYTES
from hasp.sizes import available_memory
from hasp.text import format_bytes

__all__ = ["BACKENDS", "check_backend", "check_csr", "check_node_weight", "cut_linked", "edge_cut", "partition", "resolve"]

Int64s = npt.NDArray[np.int64]
Ints = npt.NDArray[np.integer[Any]]


def partition(
    indptr: npt.ArrayLike,
    indices: npt.ArrayLike,
    num_parts: int,
    *,
    backend: str = "auto",
    node_weight: npt.ArrayLike | None = None,
    edge_weight: npt.ArrayLike | None = None,
    imbalance: float = 0.03,
    seed: int = 0,
    threads: int = 0,
) -> npt.NDArray[np.int32]:
    """Balanced k-way partitioning that minimises the edge cut, of any graph in CSR.

    The graph need not be clean: directions are added, repeats and self-loops dropped, and nodes without a neighbour are kept
    from the partitioner and go to the emptiest part first.

    Args:
        indptr: integers ``[n + 1]``, ascending from 0 to ``len(indices)``.
        indices: integers in ``0..n-1``.
        num_parts: ``1..n``.
        backend: ``"auto"`` (METIS, or ``multilevel`` for large graphs; :func:`resolve` says what and why) or one of
            :data:`BACKENDS`: ``"metis"``, ``"multilevel"``, ``"stream"`` (``indptr`` and ``indices`` may be maps of files,
            which are then read row by row and not copied), ``"metis_child"``, the extras ``"metis32"`` and ``"kaminpar"``,
            the baselines ``"random"`` and ``"hash"``.
        node_weight: whole numbers >= 0 ``[n]`` that are balanced instead of the node count.
        edge_weight: numbers >= 0 ``[len(indices)]``; weights of repeats and of the two directions add up.
        imbalance: the heaviest part is at most ``1 + imbalance`` times the mean where the backend can.
        seed: equal seeds give equal results.
        threads: never changes the result.

    Returns:
        Part per node, int32 ``[n]``, in ``0..num_parts-1``.

    Raises:
        HaspError: arrays that are no CSR, ids out of range, bad weights, ``num_parts`` out of range; what ``auto`` takes needs
            more than the free memory (a backend that you name is tried).
    """
    streamed = backend == "stream" and edge_weight is None
    ptr, idx = check_csr(indptr, indices, copy=not streamed)
    n = ptr.size - 1
    num_parts, seed, threads = whole("num_parts", num_parts), whole("seed", seed), whole("threads", threads)
    imbalance = number("imbalance", imbalance)
    if threads < 0:
        raise HaspError(f"threads={threads}: 0 or more; 0 uses every core")
    resolve(backend, ptr, idx.size // 2)
    if not 1 <= num_parts <= max(n, 1):
        raise HaspError(f"num_parts={num_parts} is not in 1..{n}, the number of nodes; change num_parts")
    if seed < 0:
        raise HaspError(f"seed={seed}: 0 or more; choose another seed")
    if not 0 < imbalance <= 1:
        raise HaspError(f"imbalance={imbalance}: 0 < imbalance <= 1; 0.03 is METIS's own default")
    weight = None if node_weight is None else check_node_weight(node_weight, n)
    if streamed and num_parts > 1:  # edges are read where they are
        return BACKENDS["stream"](Task(ptr, idx, num_parts, weight, None, imbalance, seed, threads))
    row = np.repeat(np.arange(n, dtype=np.int32), np.diff(ptr))
    linked_mask = linked_nodes([(row, idx, 0, 0)], n, threads)
    linked = np.flatnonzero(linked_mask)
    edge_w = None
    if edge_weight is None:
        clean_ptr, clean_idx = symmetric_csr([(row, idx, 0, 0)], linked_mask, threads)
    else:
        value = _checked_weight(np.asarray(edge_weight), idx)
        clean_ptr, clean_idx, edge_w = weighted_csr([(row, idx, 0, 0)], [value], linked_mask, threads)
    if backend == "auto":
        backend = resolve(backend, clean_ptr, clean_idx.size // 2)[0]
        _check_memory(backend, clean_idx.size // 2 if num_parts > 1 else 0)
    labels = cut_linked(
        clean_ptr, clean_idx, num_parts, backend, None if weight is None else weight[linked], edge_w, imbalance, seed, threads
    )
    out = np.full(n, -1, dtype=np.int32)
    out[linked] = labels
    return fill(out, num_parts, weight, seed)


def check_backend(name: str) -> None:
    """Let a partitioner that is an extra cut a ring of eight, so that a missing one is refused before anything is written."""
    if name in ("kaminpar", "metis32"):
        ring = np.arange(8)
        ends = np.stack([(ring - 1) % 8, (ring + 1) % 8], axis=1).reshape(-1)
        BACKENDS[name](Task(np.arange(0, 17, 2), ends, 2))


def cut_linked(
    indptr: Int64s,
    indices: Ints,
    num_parts: int,
    backend: str,
    node_weight: Int64s | None,
    edge_weight: Int64s | None,
    imbalance: float,
    seed: int,
    threads: int = 0,
) -> npt.NDArray[np.int32]:
    """Partition a clean graph (see the module) whose nodes all have a neighbour; check what the backend returns.

    With fewer than four nodes per part no k-way partitioner is at its best and METIS breaks: then a bandwidth-reducing order
    (reverse Cuthill-McKee) is cut into equal slices.
    """
    backend = resolve(backend, indptr, indices.size // 2)[0]
    n = indptr.size - 1
    if n == 0 or num_parts == 1:
        return np.zeros(n, dtype=np.int32)
    method = BACKENDS[backend] if n >= 4 * num_parts or backend in ("random", "hash") else slices
    labels = method(Task(indptr, indices, num_parts, node_weight, edge_weight, imbalance, seed, threads))
    if labels.shape != (n,) or labels.min() < 0 or labels.max() >= num_parts:
        raise HaspError(
            f"backend={backend!r} returned labels outside 0..{num_parts - 1} for a graph of {n:,} nodes and "
            f"{indices.size // 2:,} edges; use another backend"
        )
    return labels


def resolve(backend: str, indptr: Int64s, num_edges: int) -> tuple[str, str]:
    """What ``auto`` means for a graph: the same on every machine.

    Args:
        backend: as in :func:`partition`.
        indptr: of the graph of the linked nodes.
        num_edges: of the same graph, each once.

    Returns:
        A name of :data:`BACKENDS`, and why; the reason is ``"as asked"`` for every backend but ``auto``.

    Raises:
        HaspError: there is no such backend, or it is ``given``, which partitions nothing.
    """
    if backend == "given":
        raise HaspError("backend='given' is not one of those that partition; choose one, or pass node_part=")
    if backend == "auto":
        most = int(np.diff(indptr).max(initial=0))
        return choose(indptr.size - 1, num_edges, most)
    if not isinstance(backend, str) or backend not in BACKENDS:
        raise HaspError(f"backend={backend!r} is not one of {['auto', *sorted(BACKENDS)]}; choose one of these")
    return backend, "as asked"


def _check_memory(backend: str, num_edges: int) -> None:
    """Refuse what would not fit; another backend is the user's to name, since it makes other parts."""
    free = available_memory()
    if free is None or num_edges * BACKEND_BYTES[backend] <= free:
        return
    need = {name: format_bytes(num_edges * BACKEND_BYTES[name]) for name in (backend, "multilevel")}
    less = f"'multilevel' ({need['multilevel']}) or 'stream'" if backend == "metis" else "'stream'"
    raise HaspError(
        f"backend='auto' takes {backend} for {num_edges:,} edges, which needs about {need[backend]} of memory, and "
        f"{format_bytes(free)} is free; free some, or choose backend={less}, which need less"
    )


def check_csr(indptr: npt.ArrayLike, indices: npt.ArrayLike, copy: bool = True) -> tuple[Int64s, Any]:
    """The arrays of a CSR as int64; without ``copy``, the indices as they come. Raises :class:`HaspError` if they are none."""
    try:
        ptr, idx = np.asarray(indptr), np.asarray(indices)
    except ValueError as error:  # rows of several lengths
        raise HaspError(f"indptr and indices are one-dimensional and whole numbers ({error}); flatten them") from error
    for name, array in (("indptr", ptr), ("indices", idx)):
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise HaspError(f"{name} is one-dimensional and whole numbers, got {array.dtype} {array.shape}; convert it")
    ptr = ptr.astype(np.int64, copy=False)
    idx = idx.astype(np.int64, copy=False) if copy or not idx.size else idx
    if ptr.size == 0 or ptr[0] != 0 or ptr[-1] != idx.size or (np.diff(ptr) < 0).any():
        raise HaspError(f"indptr ascends from 0 to len(indices)={idx.size}, which this one does not; build it from sorted rows")
    n = ptr.size - 1
    if n > np.iinfo(np.int32).max:
        raise HaspError(f"at most 2**31 - 1 nodes, got {n:,}; cut a coarser graph")
    if idx.size and (idx.min() < 0 or idx.max() >= n):
        bad = np.flatnonzero((idx < 0) | (idx >= n))[:5]
        raise HaspError(f"indices lie in 0..{n - 1}, got {idx[bad].tolist()} at {bad.tolist()}; correct them")
    return ptr, idx


def check_node_weight(node_weight: npt.ArrayLike, n: int) -> Int64s:
    """Weights of ``n`` nodes as int64. Raises :class:`HaspError` for numbers that are none."""
    weight = np.asarray(node_weight)
    if weight.shape != (n,) or weight.dtype.kind not in "iu" or (n and weight.min() < 0):
        raise HaspError(f"node_weight is {n} whole numbers >= 0, got {weight.dtype} {weight.shape}; round and scale them")
    if weight.astype(np.float64).sum() > 2.0**53:  # METIS adds and scales them without a look at overflow
        raise HaspError(f"node_weight adds up to at most 2**53, got {weight.astype(np.float64).sum():.3g}; scale it down")
    return weight.astype(np.int64, copy=False)


def _checked_weight(weight: npt.NDArray[Any], idx: Int64s) -> npt.NDArray[np.float64]:
    if weight.shape != idx.shape or weight.dtype.kind not in "biuf":
        raise HaspError(f"edge_weight has one number per entry of indices ({idx.size}), got {weight.shape}; repeat or cut it")
    value = weight.astype(np.float64)
    if value.size and not (np.isfinite(value).all() and value.min() >= 0):
        raise HaspError("edge_weight is finite and >= 0, and this one is not; clean it")
    return value
