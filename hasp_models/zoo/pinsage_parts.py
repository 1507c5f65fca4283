"""PinSage part by part, as its authors embed billions of pins by map and join (Ying et al., 2018, section 3.4).

Once: the links of all parts and the cut as one graph of ids (12 bytes per link and direction), which every process maps from
one file. Each part walks from its own entities over it, so that no neighbour is lost at a border. Stage 0 makes the
first vectors; stage l is convolution l, and the last stage ends with the two dense layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from hasp.errors import HaspError
from hasp.part import Nodes
from hasp.schema import EdgeType
from hasp_models.importance import Neighborhoods, WalkGraph
from hasp_models.part_layers import Read, Tensors, cut_into
from hasp_models.relation_csr import RelationCSR
from hasp_models.zoo.pinsage import Convolve, PinSage

__all__ = ["PinSageParts", "walk_graph_of"]


class PinSageParts:
    """The stages of a PinSage; see :mod:`hasp_models.mapreduce`.

    Args:
        model: on the CPU; its walks go over links alone (not ``through`` concepts).

    Raises:
        HaspError: walks go through concepts.
    """

    def __init__(self, model: PinSage) -> None:
        if model.neighborhoods.through:
            raise HaspError(
                f"walks over parts go over links alone, this model's go through {model.neighborhoods.through[0]} as well; "
                "embed the whole graph at once"
            )
        self.model, self.stages = model, len(model.layers)
        self.entity = model.neighborhoods.entity

    def prepare(self, store: Any) -> Tensors:
        """The walk graph, and where every entity is: its row in its part."""
        if self.entity not in store.manifest.roles.entity:
            raise HaspError(f"the model embeds {self.entity!r}, these parts hold {store.manifest.roles.entity}; use its parts")
        graph = walk_graph_of(store, self.model.neighborhoods)
        row = torch.empty(graph.num_nodes, dtype=torch.int64)
        for part_id in range(store.num_parts):
            n_id = store.part(part_id).nodes[self.entity].n_id.long()
            row[n_id] = torch.arange(n_id.numel())
        links = {"indptr": graph.indptr, "indices": graph.indices, "weight": graph.weight}
        return {**{k: torch.from_numpy(v) for k, v in links.items()}, "row": row}

    def map(self, store: Any, common: Tensors, stage: int, part_id: int, read: Read) -> Tensors:
        """``h/<entity type>`` of a part's entities after a stage."""
        name = f"h/{self.entity}"
        if not stage:
            return {name: self.model.start(self._about(store, part_id))}
        n_id = store.part(part_id).nodes[self.entity].n_id.long()
        indptr, indices, weight = (common[k].numpy() for k in ("indptr", "indices", "weight"))
        graph = WalkGraph(indptr, indices, weight, np.arange(indptr.size - 1), indptr.size - 1)
        nodes, share = self.model.neighborhoods.of(graph, n_id.numpy())
        at, column = np.nonzero(nodes >= 0)
        near = torch.from_numpy(nodes[at, column]).long()
        met, place = torch.unique(torch.cat([n_id, near]), return_inverse=True)
        count = torch.bincount(torch.from_numpy(at), minlength=n_id.numel())
        ptr, none = torch.cat([count.new_zeros(1), count.cumsum(0)]), torch.zeros(near.numel(), dtype=torch.int32)
        src = place[n_id.numel() :].to(torch.int32)
        csr = RelationCSR(ptr, src, none, torch.arange(near.numel()), met.numel(), 1)
        layer: Convolve = self.model.layers[stage - 1]  # type: ignore[assignment]
        weights = torch.from_numpy(share[at, column])
        h: Tensor = layer(self._gathered(store, common, met, read), csr, weights, place[: n_id.numel()])
        return {name: self.model.head(h) if stage == self.stages else h}

    def reduce(self, store: Any, common: Tensors, stage: int, read: Read, pieces: Callable[[int], Tensors]) -> Tensors:
        """Nothing: concepts only send, and only their first vectors."""
        return {}

    def _about(self, store: Any, part_id: int) -> HeteroData:
        """A part's entities and all that the model hears of them, wherever that is, as a batch."""
        part, entities = store.part(part_id), store.manifest.roles.entity
        batch = HeteroData()
        _fill(batch[self.entity], part.nodes[self.entity])
        blocks = {t: n for b in (store.shared, store.sampled) for t, n in b.nodes.items()}
        found: dict[EdgeType, list[tuple[Tensor, Tensor]]] = {}
        for edge_type in self.model.about:
            here = 2 if edge_type[2] == self.entity else 0
            there = edge_type[2 - here]
            mine = part.edges[edge_type].edge_index.long()
            near, own = mine[1 - here // 2], mine[here // 2]
            if there not in entities:  # its ids are global already
                found.setdefault(edge_type, []).append((near, own))
                _fill(batch[there], blocks[there])
                continue
            found.setdefault(edge_type, []).append((part.nodes[there].n_id.long()[near], own))
            for (_, other), ends in cut_into(store, part_id, [edge_type], here // 2).items():
                ids = store.part(other).nodes[there].n_id.long()
                found[edge_type].append((ids[ends[1 - here // 2]], ends[here // 2]))
        far = {e[2] if e[0] == self.entity else e[0] for e in self.model.about} & set(entities)
        met = {t: torch.unique(torch.cat([a for e, x in found.items() if t in e for a, _ in x])) for t in sorted(far)}
        for node_type, ids in met.items():
            self._fetch(store, batch[node_type], node_type, ids)
        for edge_type, every in found.items():
            a, b = (torch.cat([pair[i] for pair in every]) for i in (0, 1))
            other_type = edge_type[0] if edge_type[2] == self.entity else edge_type[2]
            a = torch.searchsorted(met[other_type], a) if other_type in met else a
            batch[edge_type].edge_index = torch.stack([a, b] if edge_type[2] == self.entity else [b, a])
        return batch

    def _fetch(self, store: Any, out: Any, node_type: str, ids: Tensor) -> None:
        """Nodes of an entity type by global id, ascending, with their features."""
        out.n_id, out.num_nodes = ids, ids.numel()
        owner = store.node_part()[node_type].long()[ids]
        for part_id in torch.unique(owner).tolist():
            nodes, some = store.part(part_id).nodes[node_type], (owner == part_id).nonzero()[:, 0]
            if "x" in nodes.attrs:
                x = nodes.attrs["x"]
                if "x" not in out:
                    out.x = x.new_empty((ids.numel(), *x.shape[1:]))
                out.x[some] = x[torch.searchsorted(nodes.n_id.long(), ids[some])]

    def _gathered(self, store: Any, common: Tensors, ids: Tensor, read: Read) -> Tensor:
        """Vectors of the stage before, of any entities ``[m]``: ``[m, d]``."""
        owner, row = store.node_part()[self.entity].long()[ids], common["row"][ids]
        out: Tensor | None = None
        for part_id in torch.unique(owner).tolist():
            some = (owner == part_id).nonzero()[:, 0]
            h = read(part_id)[self.entity]
            out = h.new_empty((ids.numel(), h.size(1))) if out is None else out
            out[some] = h.index_select(0, row[some])
        return torch.empty(0, self.model.dim) if out is None else out


def _fill(out: Any, nodes: Nodes) -> None:
    """The nodes of a block as a store of a batch."""
    out.num_nodes = nodes.num_nodes
    out.n_id = torch.arange(nodes.num_nodes) if nodes.n_id is None else nodes.n_id.long()
    if "x" in nodes.attrs:
        out.x = nodes.attrs["x"]


def walk_graph_of(store: Any, neighborhoods: Neighborhoods) -> WalkGraph:
    """The links of all parts and of the cut as one graph by global ids, as :meth:`WalkGraph.of` makes it of the whole graph."""
    entity, weight = neighborhoods.entity, neighborhoods.weight
    ids = [store.part(p).nodes[entity].n_id.long() for p in range(store.num_parts)]
    ends, weights = [np.empty((2, 0), dtype=np.int64)], [np.empty(0)]

    def add(edges: Any, source: Tensor, destination: Tensor, low: int = 0, high: int | None = None) -> None:
        if weight is not None and weight not in edges.attrs:
            raise HaspError(f"walks weigh links by {weight!r}, which these parts lack; build them from the model's graph")
        some = edges.edge_index[:, low:high].long()
        ends.append(torch.stack([source[some[0]], destination[some[1]]]).numpy())
        if weight is not None:
            weights.append(edges.attrs[weight][low:high].numpy().reshape(-1))

    for edge_type in neighborhoods.links:
        if edge_type not in store.manifest.num_edges:
            continue
        for part_id in range(store.num_parts):
            add(store.part(part_id).edges[edge_type], ids[part_id], ids[part_id])
        cut = store.cut.edges.get(edge_type)
        if cut is not None and cut.pairs is not None:
            for k, (a, b) in enumerate(cut.pairs.tolist()):
                add(cut, ids[a], ids[b], int(cut.ptr[k]), int(cut.ptr[k + 1]))
    joined = np.concatenate(ends, axis=1)
    given = None if weight is None else np.concatenate(weights)
    return WalkGraph.from_edges(joined[0], joined[1], np.arange(store.manifest.num_nodes[entity]), given)
