"""SemanticGNN part by part: what one part adds to a layer (map), and how concepts are put together from it (reduce).

An entity is owned by one part, so a layer's new vector of it is made there, from all its edges: those inside the part, and
the cut links into it, whose far ends are read from the other parts' vectors of the layer before. A concept hears from
entities of all parts. Its attention is a softmax over all of them, and such a softmax can be put together from pieces: over
the edges E_p of one part, keep its result and the logarithm of its mass,

    o_p = sum over e in E_p of exp(l_e - m_p) message_e,    m_p = log sum over e in E_p of exp(l_e)

and then o = sum over p of exp(m_p - m) o_p with m = log sum over p of exp(m_p), exactly the softmax over all edges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hasp.errors import HaspError
from hasp.part import Edges, Part
from hasp.schema import EdgeType
from hasp_models.relation_attention import RelationAttention
from hasp_models.relation_csr import RelationCSR
from hasp_models.semantic_gnn import SemanticGNN
from hasp_models.tiers import Tiers

__all__ = ["Piece", "SemanticParts", "cut_into", "merge_pieces", "partial_attention"]

Tensors = dict[str, Tensor]
Read = Callable[[int | None], Tensors]
"""The vectors that the stage before left: of a part, or (``None``) of the shared types; node type -> ``[n, d]``."""


class Piece(NamedTuple):
    """A softmax over some of the edges into some nodes.

    Attributes:
        rows: int64 ``[m]``, the nodes, ascending.
        out: ``[m, channels]``, the attended messages.
        mass: ``[m, heads]``, the logarithm of the sum of ``exp(logit)``.
    """

    rows: Tensor
    out: Tensor
    mass: Tensor


class SemanticParts:
    """The stages of a SemanticGNN: 0 makes the first vectors, stage l is layer l. See :mod:`hasp_models.mapreduce`.

    Args:
        model: on the CPU.
        tiers: into which the links of the parts are put for it. All links into an entity are at hand in its part and the cut,
            so that its shares are those of the whole graph.
    """

    def __init__(self, model: SemanticGNN, tiers: Tiers | None = None) -> None:
        self.model, self.stages, self.tiers = model, len(model.layers), tiers

    def prepare(self, store: Any) -> Tensors:
        """Nothing is needed by all parts."""
        missing = [t for t in self.model.node_types if t not in store.manifest.num_nodes]
        made, links = ((), ()) if self.tiers is None else (self.tiers.types, self.tiers.links)
        wanted = [*(e for e in self.model.edge_types if e not in made), *links]
        missing += [str(e) for e in wanted if e not in store.manifest.num_edges]
        if missing:
            raise HaspError(f"the model knows {missing[0]!r}, these parts do not; use the parts of its graph")
        return {}

    def map(self, store: Any, common: Tensors, stage: int, part_id: int, read: Read) -> Tensors:
        """One part's share of a stage: ``h/<entity type>``, and of each concept type a :class:`Piece`."""
        part, entities = store.part(part_id), store.manifest.roles.entity
        if not stage:
            return {f"h/{t}": self._first(part, t) for t in entities}
        layer: RelationAttention = self.model.layers[stage - 1]  # type: ignore[assignment]
        own, shared = read(part_id), read(None)
        rows = _Rows(own, shared, layer.update)
        for edge_type in layer.relations:
            if edge_type[2] in rows.updated:
                edges = part.edges.get(edge_type)
                if edges is not None:
                    rows.add(edge_type, edges.edge_index[0].long(), edges.edge_index[1].long())
        far = cut_into(store, part_id, [e for e in layer.relations if e[2] in rows.updated])
        for (edge_type, other), (source, destination) in far.items():
            rows.add(edge_type, source, destination, other)
        if self.tiers is not None and self.tiers.links[0][2] in rows.updated:
            self._add_tiers(self.tiers, store, part, rows)
        out, pieces = rows.attend(layer, self.model.relation, read)
        new = {t: own[t] + layer.activation(out[t]) if t in out else own[t] for t in own}
        found = {f"h/{t}": self._last(v, stage) for t, v in new.items()}
        for node_type, piece in pieces.items():
            found |= {f"{k}/{node_type}": v for k, v in piece._asdict().items()}
        return found

    def _add_tiers(self, tiers: Tiers, store: Any, part: Part, rows: _Rows) -> None:
        """The links into a part's entities, in their tiers."""
        found: list[tuple[Tensor, Tensor, Tensor, int]] = []
        for edge_type in tiers.links:
            inside = part.edges[edge_type]
            found.append((inside.edge_index[0].long(), inside.edge_index[1].long(), _weight(inside, tiers.attr), -1))
            weight = _weight(store.cut.edges[edge_type], tiers.attr)
            for other, columns in _groups(store.cut.edges[edge_type], part.part_id, 1):
                source, destination = store.cut.edges[edge_type].edge_index[:, columns].long()
                found.append((source, destination, weight[columns], other))
        weight, destination = torch.cat([f[2] for f in found]), torch.cat([f[1] for f in found])
        tier = tiers.numbers(weight, destination, part.nodes[tiers.links[0][2]].num_nodes)
        for (source, to, _, other), own in zip(found, torch.split(tier, [f[0].numel() for f in found]), strict=True):
            for i, name in enumerate(tiers.types):
                rows.add(name, source[own == i], to[own == i], other)

    def reduce(self, store: Any, common: Tensors, stage: int, read: Read, pieces: Callable[[int], Tensors]) -> Tensors:
        """The concepts after a stage: ``h/<type>``. ``pieces(part)`` is what :meth:`map` gave."""
        blocks = [b for b in (store.shared, store.sampled) if b.nodes]
        if not stage:
            return {f"h/{t}": self._first(b, t) for b in blocks for t in b.nodes}
        layer: RelationAttention = self.model.layers[stage - 1]  # type: ignore[assignment]
        shared = read(None)
        rows = _Rows({}, shared, layer.update)
        for block in blocks:
            for edge_type, edges in block.edges.items():
                if edge_type in layer.relations and edge_type[2] in rows.updated:
                    rows.add(edge_type, edges.edge_index[0].long(), edges.edge_index[1].long())
        _, own = rows.attend(layer, self.model.relation, read)
        new = {}
        for node_type, h in shared.items():
            if node_type in rows.updated:
                every = [own[node_type]] if node_type in own else []
                out = merge_pieces(h, layer.heads, (*every, *self._told(store, pieces, node_type)))
                h = h + layer.activation(out)
            new[f"h/{node_type}"] = self._last(h, stage)
        return new

    def _told(self, store: Any, pieces: Callable[[int], Tensors], node_type: str) -> Any:
        for part_id in range(store.num_parts):
            found = pieces(part_id)
            if f"rows/{node_type}" in found:
                yield Piece(*(found[f"{k}/{node_type}"] for k in Piece._fields))

    def _first(self, block: Part, node_type: str) -> Tensor:
        nodes = block.nodes[node_type]
        n_id = torch.arange(nodes.num_nodes) if nodes.n_id is None else nodes.n_id.long()
        vectors: Tensor = self.model.inputs(node_type, n_id, nodes.attrs.get("x"))
        return vectors

    def _last(self, h: Tensor, stage: int) -> Tensor:
        return F.normalize(h, dim=1) if self.model.normalize and stage == self.stages else h


def cut_into(store: Any, part_id: int, edge_types: Any, end: int = 1) -> dict[tuple[EdgeType, int], tuple[Tensor, Tensor]]:
    """The cut links into a part (``end`` 1) or out of it (0): (edge type, the other part) -> sources, destinations.

    Both are int64 ``[e]``: rows of the part that owns them.
    """
    found = {}
    for edge_type in edge_types:
        edges: Edges | None = store.cut.edges.get(edge_type)
        for other, columns in () if edges is None else _groups(edges, part_id, end):
            some = edges.edge_index[:, columns].long()  # type: ignore[union-attr]
            found[edge_type, other] = (some[0], some[1])
    return found


def _groups(cut: Edges, part_id: int, end: int) -> Iterator[tuple[int, slice]]:
    """The groups of cut links with one end in a part: the other part, and their columns."""
    if cut.pairs is None or cut.ptr is None:
        return
    pairs, ptr = cut.pairs.numpy(), cut.ptr.numpy()
    for k in np.flatnonzero(pairs[:, end] == part_id):
        yield int(pairs[k, 1 - end]), slice(int(ptr[k]), int(ptr[k + 1]))


def _weight(edges: Edges, attr: str) -> Tensor:
    """Float32 ``[e]``; 0 where there is none."""
    value = edges.attrs.get(attr)
    return torch.zeros(edges.num_edges) if value is None else value.float().reshape(-1)


class _Rows:
    """Edges into a part's entities and into concepts, gathered until they can be numbered; see :meth:`attend`."""

    def __init__(self, own: Mapping[str, Tensor], shared: Mapping[str, Tensor], update: list[str] | None) -> None:
        self.own, self.shared = own, shared
        self.updated = {t for t in (*own, *shared) if update is None or t in update}
        self.found: dict[EdgeType, list[tuple[Tensor, Tensor, int]]] = {}

    def add(self, edge_type: EdgeType, source: Tensor, destination: Tensor, other: int = -1) -> None:
        """Edges of one type; ``other``: the part of their sources, if it is not this one."""
        if source.numel():
            self.found.setdefault(edge_type, []).append((source, destination, other))

    def attend(self, layer: RelationAttention, relation: Tensor, read: Read) -> tuple[Tensors, dict[str, Piece]]:
        """The attended messages of the own types that are updated, ``[n, channels]``, and pieces of the concepts' ones."""
        told: dict[str, list[Tensor]] = {}
        for edge_type, every in self.found.items():
            if edge_type[2] in self.shared:
                told.setdefault(edge_type[2], []).extend(edges[1] for edges in every)
        heard = {t: torch.unique(torch.cat(rows)) for t, rows in told.items()}
        mine = [t for t in self.own if t in self.updated]
        targets = [self.own[t] for t in mine] + [self.shared[t].index_select(0, rows) for t, rows in heard.items()]
        first, at = {}, 0
        for node_type, h in zip([*mine, *heard], targets, strict=True):
            first[node_type] = at
            at += h.size(0)
        if not targets:
            return {}, {}
        sources, place = self._sources(read)
        index, counts = [torch.empty((2, 0), dtype=torch.int64)], [0]
        for edge_type in layer.relations:
            counts.append(0)
            for source, destination, other in self.found.get(edge_type, ()):
                rows = heard.get(edge_type[2])
                to = destination if rows is None else torch.searchsorted(rows, destination)
                index.append(torch.stack([place(edge_type[0], other, source), to + first[edge_type[2]]]))
                counts[-1] += source.numel()
        ends = torch.cat(index, dim=1)
        csr = RelationCSR.from_edges(ends[0], ends[1], torch.tensor(counts).cumsum(0), at, sources.size(0))
        begin = sum(self.own[t].size(0) for t in mine)
        out, mass = partial_attention(layer, torch.cat(targets), sources, csr, relation, begin)
        pieces = {}
        for node_type, rows in heard.items():
            low = first[node_type]
            high = low + rows.numel()
            pieces[node_type] = Piece(rows, out[low:high], mass[low - begin : high - begin])
        return {t: out[first[t] : first[t] + self.own[t].size(0)] for t in mine}, pieces

    def _sources(self, read: Read) -> tuple[Tensor, Callable[[str, int, Tensor], Tensor]]:
        """All vectors that send, one below the other, and where in them rows of a type (of another part) stand."""
        far: dict[tuple[str, int], list[Tensor]] = {}
        for edge_type, every in self.found.items():
            for source, _, other in every:
                if other >= 0:
                    far.setdefault((edge_type[0], other), []).append(source)
        met = {where: torch.unique(torch.cat(rows)) for where, rows in far.items()}
        blocks = {(t, -1): h for t, h in (*self.own.items(), *self.shared.items())}
        for (node_type, other), rows in met.items():
            blocks[node_type, other] = read(other)[node_type].index_select(0, rows)
        first, at = {}, 0
        for where, h in blocks.items():
            first[where] = at
            at += h.size(0)

        def place(node_type: str, other: int, rows: Tensor) -> Tensor:
            rows = rows if other < 0 else torch.searchsorted(met[node_type, other], rows)
            return rows + first[node_type, other]

        return torch.cat(list(blocks.values())), place


def partial_attention(
    layer: RelationAttention, h_dst: Tensor, h_src: Tensor, csr: RelationCSR, relation: Tensor, begin: int = 0
) -> tuple[Tensor, Tensor]:
    """Attended messages, and for the rows from ``begin`` on the logarithm of their softmax's mass.

    The mass follows from one edge of a row, as ``log alpha = logit - mass``: from the one with the most attention, since
    that of others may have become zero.

    Args:
        layer: any.
        h_dst: ``[num_dst, channels]``.
        h_src: ``[num_src, channels]``.
        csr: edges between these rows; every row from ``begin`` on has one.
        relation: see :meth:`RelationAttention.forward`.
        begin: see above.

    Returns:
        ``[num_dst, channels]`` and ``[num_dst - begin, heads]``.
    """
    rel_v, v = layer.relation_values(relation), layer.values(h_src)
    k = layer.keys(v)
    out, alpha = layer.attend_rows(h_dst, v, k, csr, rel_v)
    if begin == csr.num_dst:
        return out, out.new_empty((0, layer.heads))
    some, width = csr.slice(begin, csr.num_dst), layer.channels // layer.heads
    low = int(csr.indptr[begin])
    query = F.linear(h_dst[begin:], layer.query_weight() if k is None else layer.w_q).view(-1, layer.heads, width)
    keys, rel_k = (v, rel_v) if k is None else (k, F.linear(rel_v, layer.w_k))
    mul, add = layer._beta()
    mass = out.new_empty((csr.num_dst - begin, layer.heads))
    for head in range(layer.heads):
        share = alpha[low:, head].contiguous()
        top = torch.segment_reduce(share, "max", offsets=some.indptr, axis=0)
        at = (share == top.index_select(0, some.row)).nonzero()[:, 0]
        best = torch.empty(mass.size(0), dtype=torch.int64)
        best[some.row[at]] = at  # any of several
        src, rel, columns = some.src[best].long(), some.rel[best].long(), slice(head * width, (head + 1) * width)
        logit = ((keys[src, columns] + rel_k[rel, columns]) * query[:, head]).sum(1) * width**-0.5
        logit = logit if mul is None else logit * mul[rel, head]
        logit = logit if add is None else logit + add[rel, head]
        mass[:, head] = logit - share[best].log()
    return out, mass


def merge_pieces(h: Tensor, heads: int, pieces: Iterable[Piece]) -> Tensor:
    """Pieces of softmaxes put together, in the order in which they come: ``[n, channels]`` for nodes ``h`` ``[n, channels]``.

    Nodes of which no piece speaks get zeros. What is held beside the result is two numbers per node and head, and a piece.
    """
    # [n, heads, width]
    out = h.new_zeros((h.size(0), heads, h.size(1) // heads))
    top, total = h.new_full((h.size(0), heads), -torch.inf), h.new_zeros((h.size(0), heads))
    for rows, values, mass in pieces:
        old = top[rows]
        new = torch.maximum(old, mass)
        kept, added = (old - new).exp(), (mass - new).exp()
        out[rows] = out[rows] * kept[:, :, None] + values.view(rows.numel(), heads, -1) * added[:, :, None]
        total[rows], top[rows] = total[rows] * kept + added, new
    return (out / torch.where(total > 0, total, 1.0)[:, :, None]).view(h.shape)
