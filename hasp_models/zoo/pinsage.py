"""PinSage (Ying et al., 2018): convolutions over importance neighbourhoods, on the entities of parts.

    n_u = sum over v in N(u) of a_uv ReLU(Q h_v + q)            (Algorithm 1, line 1; a_uv: importance pooling, section 3.1)
    h_u' = ReLU(W [h_u ; n_u] + w), divided by its length       (lines 2 and 3)
    z_u = G2 ReLU(G1 h_u + g)                                   (Algorithm 2, line 18), after the last layer

The paper's pins have pictures and words for features; here an entity starts from its own ``x`` or free vector plus, for each
type of concept, a matrix times the mean of its concepts' vectors (as the paper averages the vectors of a pin's words).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hasp.errors import HaspError
from hasp.load.links import reverse_of
from hasp.schema import EdgeType
from hasp_models.importance import Neighborhoods
from hasp_models.node_inputs import n_id_of
from hasp_models.relation_csr import RelationCSR
from hasp_models.zoo.graph_model import GraphModel, check_layers
from hasp_models.zoo.sparse import joined_csr, weighted_sum

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Convolve", "PinSage"]


class Convolve(nn.Module):
    """Algorithm 1.

    Args:
        dim: width of the vectors, in and out.
        hidden: width of what is pooled.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.q = nn.Linear(dim, hidden)
        self.w = nn.Linear(dim + hidden, dim)

    def forward(self, h: Tensor, csr: RelationCSR, share: Tensor, rows: Tensor | None = None) -> Tensor:
        """Unit vectors ``[num_dst, dim]``; zeros where the ReLU leaves nothing.

        Args:
            h: ``[num_src, dim]``.
            csr: neighbours (rows of ``h``) of each node.
            share: ``[E]``, their weights.
            rows: int64 ``[num_dst]``, which rows of ``h`` the nodes are; ``None``: all of them in order.
        """
        pooled = weighted_sum(F.relu(self.q(h)), share, csr).to(h.dtype)
        own = h if rows is None else h.index_select(0, rows)
        return F.normalize(F.relu(self.w(torch.cat([own, pooled], dim=1))), dim=1)


class PinSage(GraphModel):
    """Entities from their concepts, and from the entities that random walks from them visit.

    Args:
        metadata: ``(node types, edge types)``.
        in_channels: see :class:`hasp_models.zoo.graph_model.GraphModel`.
        dim: width of all vectors.
        layers: convolutions, K; the paper's 2.
        neighborhoods: how neighbours are found where a batch does not bring them.
        hidden: width of what is pooled; ``None``: ``dim``.
        **options: of :class:`hasp_models.zoo.graph_model.GraphModel`.

    Raises:
        HaspError: a setting out of its range, or neighbourhoods of an unknown type.
    """

    def __init__(
        self,
        metadata: tuple[Sequence[str], Sequence[EdgeType]],
        in_channels: Any = None,
        dim: int = 64,
        layers: int = 2,
        *,
        neighborhoods: Neighborhoods,
        hidden: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(metadata, in_channels, dim, **options)
        check_layers(layers, 1, dim)
        if neighborhoods.entity not in self.node_types:
            raise HaspError(f"neighborhoods are of one of {self.node_types}, got {neighborhoods.entity!r}; name a node type")
        self.neighborhoods, entity = neighborhoods, neighborhoods.entity
        self.entity = entity
        # An edge type and its reverse say the same of an entity's concepts; the one that leads to the entity is kept.
        into = [e for e in self.edge_types if e[2] == entity and e[0] != entity]
        out = [e for e in self.edge_types if e[0] == entity and e[2] != entity and reverse_of(e) not in into]
        self.about = into + out
        bound = dim**-0.5  # nn.Linear's
        self.of_concepts = nn.Parameter(torch.empty(len(self.about), dim, dim).uniform_(-bound, bound))
        self.layers.extend(Convolve(dim, hidden or dim) for _ in range(layers))
        self.g1, self.g2 = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False)

    @classmethod
    def from_data(cls, data: Any, dim: int = 64, layers: int = 2, *, free: bool = False, **options: Any) -> Self:
        """As :meth:`GraphModel.from_data`; walks go over all EELs unless ``neighborhoods`` says otherwise."""
        entity = data.roles.entity[0]
        links = [e for e in data.roles.eel if e[0] == e[2] == entity]
        return super().from_data(data, dim, layers, free=free, **{"neighborhoods": Neighborhoods(entity, links), **options})

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Embed the entities of a batch: ``{entity type: [n, dim]}``.

        Args:
            batch: a ``HeteroData``; its neighbourhoods if :class:`hasp_models.importance.Neighborhoods` put them there.
        """
        h = self.start(batch)
        csr, share = self.neighborhoods.csr(batch)
        for layer in self.layers:
            h = layer(h, csr, share)
        return {self.neighborhoods.entity: self.head(h)}

    def start(self, batch: Any) -> Tensor:
        """The first vectors of the entities, ``[n, dim]``."""
        entity = self.neighborhoods.entity
        store = batch[entity]
        h: Tensor = self.inputs(entity, n_id_of(store), store.get("x"))
        parts, values, first = [], [], 0
        for matrix, (a, relation, b) in zip(self.of_concepts, self.about, strict=True):
            concept = a if b == entity else b
            if (a, relation, b) not in batch.edge_types:
                continue
            ends = batch[a, relation, b].edge_index.as_subclass(Tensor)
            ends = ends if b == entity else ends.flip(0)
            parts.append(((ends[0], ends[1]), first, 0))
            values.append(self.inputs(concept, n_id_of(batch[concept]), batch[concept].get("x")) @ matrix)
            first += int(batch[concept].num_nodes)
        if not parts:
            return h
        csr = joined_csr(parts, h.size(0), first)
        pair = csr.row * csr.num_relations + csr.rel
        count = torch.bincount(pair, minlength=h.size(0) * csr.num_relations)
        share = count[pair].to(h.dtype).reciprocal()
        out: Tensor = h + weighted_sum(torch.cat(values), share, csr).to(h.dtype)
        return out

    def head(self, h: Tensor) -> Tensor:
        """The two dense layers at the end, ``[n, dim]`` to ``[n, dim]``; unit vectors if the model is to give these."""
        z: Tensor = self.g2(F.relu(self.g1(h)))
        return F.normalize(z, dim=1) if self.normalize else z
