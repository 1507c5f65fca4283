"""Weighted sums and softmaxes over the incoming edges of every node, without one row per edge.

torch's sparse products do the sums: forward over rows by destination, backward over rows by source. Both orders are made
once per batch and serve every layer. What is kept per edge is a number, never a vector, so that memory grows with nodes
times width plus edges; and each row is added up in one order, so that the result does not depend on threads.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hasp.errors import HaspError
from hasp.schema import EdgeType
from hasp_models.relation_csr import RelationCSR

__all__ = ["Into", "counts_of", "edge_softmax", "edges_into", "edges_of", "joined_csr", "weighted_sum"]

Ends = tuple[Tensor, Tensor]


def edges_of(batch: Any, edge_types: Sequence[EdgeType]) -> dict[EdgeType, Ends]:
    """Source and destination rows ``[E]`` of every edge type; an edge type that the batch lacks has none.

    Raises:
        HaspError: an edge type that is not among ``edge_types``, or a row out of range (looked for on the CPU only).
    """
    unknown = [e for e in batch.edge_types if e not in edge_types]
    if unknown:
        raise HaspError(f"the model knows {list(edge_types)}, the batch also has {unknown[0]}; build it from this graph")
    out = {}
    device = next((batch[e].edge_index.device for e in batch.edge_types), torch.device("cpu"))
    none = torch.empty(0, dtype=torch.int64, device=device)
    for edge_type in edge_types:
        if edge_type not in batch.edge_types:
            out[edge_type] = (none, none)
            continue
        index = batch[edge_type].edge_index.as_subclass(Tensor)
        for ids, node_type in zip(index, (edge_type[0], edge_type[2]), strict=True):
            count = int(batch[node_type].num_nodes)
            if ids.device.type == "cpu" and ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < count:
                raise HaspError(
                    f"rows of {node_type!r} in {edge_type} lie in 0..{count - 1}, got {int(ids.min())}..{int(ids.max())}; "
                    "give edge_index and nodes of the same batch"
                )
        out[edge_type] = (index[0], index[1])
    return out


@dataclass(frozen=True)
class Into:
    """The edges into one node type, of all edge types, sorted by (destination, edge type).

    Attributes:
        relations: the numbers of the edge types that have edges here.
        csr: the edges; source rows stand edge type after edge type, and ``csr.rel`` counts ``relations``.
        late: the only edge type has more sources than destinations, so that a matrix is better applied to sums.
    """

    relations: list[int]
    csr: RelationCSR
    late: bool

    @cached_property
    def pair(self) -> Tensor:
        """int64 ``[E]``: destination times the number of relations, plus relation; ascending."""
        return self.csr.row * self.csr.num_relations + self.csr.rel

    @cached_property
    def ptr(self) -> Tensor:
        """int64 ``[num_dst * relations + 1]``: the edges of each pair."""
        count = torch.bincount(self.pair, minlength=self.csr.num_dst * self.csr.num_relations)
        return torch.cat([count.new_zeros(1), count.cumsum(0)])


def edges_into(batch: Any, node_types: Sequence[str], edge_types: Sequence[EdgeType]) -> dict[str, Into]:
    """The edges of a batch by the node type into which they lead; raises as :func:`edges_of`."""
    count, ends = counts_of(batch, node_types), edges_of(batch, edge_types)
    out = {}
    for node_type in node_types:
        into = [r for r, e in enumerate(edge_types) if e[2] == node_type and ends[e][0].numel()]
        start, parts = 0, []
        for r in into:
            parts.append((ends[edge_types[r]], start, 0))
            start += count[edge_types[r][0]]
        out[node_type] = Into(into, joined_csr(parts, count[node_type], start), len(into) == 1 and start > count[node_type])
    return out


def joined_csr(parts: Sequence[tuple[Ends, int, int]], num_dst: int, num_src: int) -> RelationCSR:
    """Several lists of edges as one CSR; the list's number is the relation.

    Args:
        parts: ``((source [E], destination [E]), first source row, first destination row)``: what is added to the ends.
        num_dst: rows that receive.
        num_src: rows that send.
    """
    sources = [ends[0].long() + first for ends, first, _ in parts]
    destinations = [ends[1].long() + first for ends, _, first in parts]
    ptr = torch.tensor([0, *(s.numel() for s in sources)]).cumsum(0)
    none = torch.empty(0, dtype=torch.int64)
    src, dst = (torch.cat(ids) if ids else none for ids in (sources, destinations))
    return RelationCSR.from_edges(src, dst, ptr, num_dst, num_src)


def weighted_sum(x: Tensor, weight: Tensor, csr: RelationCSR) -> Tensor:
    """``out[i] = sum over edges e into i of weight[e] * x[src(e)]``, differentiable once in both.

    Args:
        x: ``[num_src, d]``.
        weight: ``[E]`` in the order of ``csr``.
        csr: the edges.

    Returns:
        ``[num_dst, d]``, in float32 where ``x`` is a half; rows without edges are zero.
    """
    kind = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    return _WeightedSum.apply(x.to(kind), weight.to(kind), csr)  # type: ignore[no-untyped-call, no-any-return]


def edge_softmax(of_src: Tensor, of_dst: Tensor, into: Into, slope: float) -> Tensor:
    """GAT's attention: for each node and edge type, the softmax of ``leaky_relu(of_src[j] + of_dst[i, r])``.

    Args:
        of_src: ``[num_src, H]``.
        of_dst: ``[num_dst, R, H]``.
        into: the edges, at least one.
        slope: of the leaky ReLU below 0.

    Returns:
        ``[H, E]`` in the order of the edges, differentiable once; in float32 where the arguments are halves.
    """
    kind = torch.float32 if of_src.dtype in (torch.float16, torch.bfloat16) else of_src.dtype
    of_dst = of_dst.to(kind).flatten(0, 1)
    heads = zip(of_src.to(kind).unbind(1), of_dst.unbind(1), strict=True)
    return torch.stack([_EdgeSoftmax.apply(a, b, into, slope) for a, b in heads])  # type: ignore[no-untyped-call]


class _EdgeSoftmax(torch.autograd.Function):
    """One head. Every sum is one of consecutive numbers: a gather's own gradient would scatter them one by one."""

    @staticmethod
    def forward(ctx: Any, of_src: Tensor, of_dst: Tensor, into: Into, slope: float) -> Tensor:
        raw = of_src.index_select(0, into.csr.src) + of_dst.index_select(0, into.pair)
        logit = torch.where(raw > 0, raw, raw * slope)
        top = torch.segment_reduce(logit, "max", offsets=into.ptr, axis=0)
        exp = (logit - top.index_select(0, into.pair)).exp_()
        alpha = exp / torch.segment_reduce(exp, "sum", offsets=into.ptr, axis=0).index_select(0, into.pair)
        ctx.save_for_backward(raw > 0, alpha)
        ctx.into, ctx.slope = into, slope
        return alpha

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        positive, alpha = ctx.saved_tensors
        into: Into = ctx.into
        pull = alpha * grad
        mean = torch.segment_reduce(pull, "sum", offsets=into.ptr, axis=0)
        pull = pull - alpha * mean.index_select(0, into.pair)
        pull = torch.where(positive, pull, pull * ctx.slope)
        indptr, _, edge = _by_source(into.csr)
        of_src = torch.segment_reduce(pull.index_select(0, edge), "sum", offsets=indptr, axis=0)
        return of_src, torch.segment_reduce(pull, "sum", offsets=into.ptr, axis=0), None, None


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, csr: RelationCSR) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.csr = csr
        return _product(csr.indptr, csr.src, weight, x)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        csr: RelationCSR = ctx.csr
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            indptr, dst, edge = _by_source(csr)
            of_x = _product(indptr, dst, weight.index_select(0, edge), grad)
        if ctx.needs_input_grad[1]:
            of_weight = _products(csr, grad.contiguous(), x)
        return of_x, of_weight, None


def _products(csr: RelationCSR, left: Tensor, right: Tensor) -> Tensor:
    """``left[i] . right[j]`` of every edge (j -> i), ``[E]``: the product of two matrices at the edges alone."""
    if csr.num_edges > left.size(0) * right.size(0):
        # torch refuses more entries than the matrix has places: parallel edges, and more of them than pairs of nodes.
        return (left.index_select(0, csr.row) * right.index_select(0, csr.src)).sum(1)
    if not csr.num_edges:
        return left.new_zeros(0)
    at = _matrix(csr.indptr, csr.src, left.new_zeros(csr.num_edges), csr.num_src)
    return torch.sparse.sampled_addmm(at, left, right.t(), beta=0.0).values()  # type: ignore[no-any-return]


def _by_source(csr: RelationCSR) -> tuple[Tensor, Tensor, Tensor]:
    """``(indptr [num_src + 1], destination [E], place of the edge in csr [E])``, rows by source."""
    if csr.src.device.type == "cpu":
        return csr.transposed
    edge = csr.src.argsort(stable=True)
    count = torch.bincount(csr.src, minlength=csr.num_src)
    return torch.cat([count.new_zeros(1), count.cumsum(0)]), csr.row[edge], edge


def _product(indptr: Tensor, indices: Tensor, weight: Tensor, x: Tensor) -> Tensor:
    if not weight.numel():
        return x.new_zeros((indptr.numel() - 1, x.size(1)))
    return _matrix(indptr, indices, weight, x.size(0)) @ x.contiguous()


def _matrix(indptr: Tensor, indices: Tensor, weight: Tensor, columns: int) -> Tensor:
    """A sparse matrix. Parallel edges are entries of their own: nothing here needs columns that are distinct."""
    size = (indptr.numel() - 1, columns)
    with warnings.catch_warnings():  # torch calls all of its CSR a beta
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            indptr.to(indices.dtype), indices, weight.contiguous(), size=size, check_invariants=False
        )


def counts_of(batch: Any, node_types: Sequence[str]) -> dict[str, int]:
    """Nodes per type of a batch."""
    return {t: int(batch[t].num_nodes) for t in node_types}
