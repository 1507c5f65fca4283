"""SemanticGNN (Huang et al., section 4.2): inputs per node type, relation embeddings, L layers of relation attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hasp.errors import HaspError
from hasp.schema import EdgeType
from hasp_models.node_inputs import NodeInputs, n_id_of
from hasp_models.relation_attention import RelationAttention
from hasp_models.relation_csr import RelationCSR

__all__ = ["NodeInputs", "SemanticGNN", "input_options", "relation_vectors"]


class SemanticGNN(nn.Module):
    """Embeddings of entities (and concepts) from concepts and links.

    Works on any ``HeteroData`` of the same metadata: batches of :class:`hasp.HASPLoader`, parts, or the whole graph. The
    relation embeddings are one table for all layers; each layer has its own matrices and beta.

    Attributes:
        takes_types: objectives tell :meth:`forward` which node types they read.

    Args:
        metadata: ``(node types, edge types)``.
        in_channels: node type -> width of its ``x``; other types need no ``x``.
        dim: width of all layers and of the result.
        layers: L.
        heads: see :class:`hasp_models.RelationAttention`.
        features: node type -> table ``[N, c]`` by global id (pretrained concept vectors).
        train_features: train these tables; otherwise they stay as given.
        embed: node type -> number of nodes: a learned vector each (concepts without features).
        free: node type -> number of nodes: a learned vector each that is dropped out (entities).
        entity_dropout: probability of dropping a free vector in training.
        relation: edge type or relation name -> vector (TransE's), or a ready table ``[R, c]``; see
            :func:`relation_vectors`.
        train_relations: ``False``: relation embeddings stay as given.
        eel: edge types that the pretraining has not seen: they start at random with the mean norm of the others.
        update: node types that are updated. ``None``: all, so that concepts pass on what they hear from their entities.
        beta: see :class:`hasp_models.RelationAttention`.
        activation: likewise.
        last_activation: ``False``: no activation in the last layer.
        lengths: node type -> ``[N]``: how long its learned vectors start; for concepts, how rare they are.
        echo: a message starts as ``echo`` times the sender's own vector (W_v = [echo I ; small]); ``None``: at random. An
            untrained model then already is what is hard to learn: two entities are close if they send to each other or
            hear from the same nodes, as in a blend of co-occurrence and tf-idf under a random projection.
        prior: edge type -> log of the prior mass that its edges start with (``beta="bias"`` or ``"both"``).
        normalize: unit vectors out (retrieval and training by cosine).
        backend: see :func:`hasp_models.relation_attention.relation_attention`.
        threads: likewise.

    Raises:
        HaspError: a setting is out of its range or names an unknown type.
    """

    takes_types = True

    def __init__(
        self,
        metadata: tuple[Sequence[str], Sequence[EdgeType]],
        in_channels: Mapping[str, int] | None = None,
        dim: int = 64,
        layers: int = 2,
        *,
        heads: int = 1,
        features: Mapping[str, Tensor] | None = None,
        train_features: bool = False,
        embed: Mapping[str, int] | None = None,
        free: Mapping[str, int] | None = None,
        entity_dropout: float = 0.0,
        relation: Mapping[Any, Tensor] | Tensor | None = None,
        train_relations: bool = True,
        eel: Sequence[EdgeType] = (),
        update: Sequence[str] | None = None,
        beta: str = "scale",
        activation: str = "gelu",
        last_activation: bool = True,
        normalize: bool = False,
        lengths: Mapping[str, Tensor] | None = None,
        echo: float | None = None,
        prior: Mapping[EdgeType, float] | None = None,
        backend: str = "auto",
        threads: int = 0,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise HaspError(f"a model has at least one layer, got layers={layers}; without layers use the features")
        self.node_types = list(metadata[0])
        edge_types: list[EdgeType] = [(e[0], e[1], e[2]) for e in metadata[1]]
        self.edge_types, self.dim, self.normalize = edge_types, dim, normalize
        tables = (in_channels or {}, features or {}, train_features, embed or {}, free or {})
        self.inputs = NodeInputs(self.node_types, dim, *tables, entity_dropout, lengths)
        table = relation if isinstance(relation, Tensor) else relation_vectors(edge_types, relation or {}, dim, eel)
        self.relation = nn.Parameter(table.detach().float().clone(), requires_grad=train_relations)
        self.layers = nn.ModuleList(
            RelationAttention(
                dim,
                (self.node_types, edge_types),
                heads,
                beta=beta,
                activation=activation if last_activation or i + 1 < layers else "none",
                update=update,
                relation_dim=table.size(1),
                own_relations=False,
                backend=backend,
                threads=threads,
            )
            for i in range(layers)
        )
        self._start(echo, prior or {})

    @torch.no_grad()
    def _start(self, echo: float | None, prior: Mapping[EdgeType, float]) -> None:
        for module in self.layers:
            layer = cast(RelationAttention, module)
            if echo is not None:
                layer.w_v[:, : self.dim] = torch.eye(self.dim) * echo
                layer.w_v[:, self.dim :] *= 0.1
            for edge_type, mass in prior.items():
                if layer.log_prior is None or edge_type not in layer.relations:
                    raise HaspError(
                        f"a prior is for a known relation, with beta='bias' or 'both', got {edge_type}; correct prior= or beta="
                    )
                layer.log_prior[layer.relations.index(edge_type)] = mass

    @classmethod
    def from_data(cls, data: Any, dim: int = 64, layers: int = 2, *, free: bool = False, **options: Any) -> SemanticGNN:
        """A model that fits a :class:`hasp.HASPData`: widths of ``x``, EELs, and vectors for types without features.

        Args:
            data: the parts.
            dim: see the class.
            layers: see the class.
            free: give every entity a free vector.
            **options: anything else of the class, in the place of what is inferred.
        """
        inferred = {"eel": data.roles.eel, **input_options(data, free, options)}
        return cls(data.metadata(), dim=dim, layers=layers, **{**inferred, **options})

    def forward(self, batch: Any, csr: RelationCSR | None = None, types: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Embed the nodes of a batch.

        Args:
            batch: a ``HeteroData``; ``n_id`` per node type, or the whole graph in order. All its edges carry messages. Nodes
                that a bool ``cold`` of their type marks go without their free vector.
            csr: ``self.csr(batch)``, built once where a batch is used again.
            types: the node types that are asked for: their vectors are the same, and the last layer computes no others.
                ``None``: all.

        Returns:
            Node type -> ``[n, dim]``; of ``types`` at least.
        """
        csr = self.csr(batch, types or ()) if csr is None else csr
        order = self.order(csr)
        h = torch.cat([self.inputs(t, n_id_of(batch[t]), batch[t].get("x"), batch[t].get("cold")) for t in order])
        rows = self._asked(csr, types)
        for layer in self.layers if rows is None else self.layers[:-1]:
            h, _ = layer.flat(h, csr, self.relation)  # type: ignore[operator]
        if rows is not None:
            first = csr if rows == csr.num_dst else csr.slice(0, rows)
            h, _ = self.layers[-1].flat(h, first, self.relation, rest=False)  # type: ignore[operator]
        return self.split(h, csr)

    def csr(self, batch: Any, first: Sequence[str] = ()) -> RelationCSR:
        """The edges of a batch, for every layer; the nodes of ``first`` stand first, as far as they are updated."""
        order = sorted(self.node_types, key=lambda t: t not in first)
        counts = {t: int(batch[t].num_nodes) for t in order}
        return self.layers[0].csr(batch.edge_index_dict, counts)  # type: ignore[operator, no-any-return]

    def _asked(self, csr: RelationCSR, types: Sequence[str] | None) -> int | None:
        """How many rows of the CSR are these types; ``None``: not its first ones, more than are updated, or all nodes."""
        assert csr.offset is not None and csr.num_nodes is not None
        if types is None:
            return None
        rows = sum(csr.num_nodes[t] for t in types)
        there = all(csr.offset[t] + csr.num_nodes[t] <= rows for t in types)
        return rows if there and rows <= csr.num_dst and rows < sum(csr.num_nodes.values()) else None

    def order(self, csr: RelationCSR) -> list[str]:
        """Node types in the order of the CSR's list of nodes."""
        assert csr.offset is not None and csr.num_nodes is not None
        return sorted(csr.offset, key=lambda t: (csr.offset[t], csr.num_nodes[t]))  # type: ignore[index]

    def split(self, h: Tensor, csr: RelationCSR) -> dict[str, Tensor]:
        """The list of nodes back into types, normalised if the model does so."""
        assert csr.offset is not None and csr.num_nodes is not None
        h = F.normalize(h, dim=1) if self.normalize else h
        spans = {t: (csr.offset[t], csr.offset[t] + csr.num_nodes[t]) for t in self.node_types}
        # One type alone is not sliced: that would cost its gradient two copies.
        return {t: h if stop - start == h.size(0) else h[start:stop] for t, (start, stop) in spans.items() if stop <= h.size(0)}


def input_options(data: Any, free: bool, given: Mapping[str, Any]) -> dict[str, Any]:
    """What :class:`NodeInputs` needs to know of a :class:`hasp.HASPData`: ``in_channels``, ``embed`` and ``free``.

    Types have a Linear over their ``x``; concepts without ``x`` and without ``features`` a vector each; entities, with
    ``free``, a free vector each.

    Args:
        data: the parts.
        free: see above.
        given: the options that the caller brings; ``in_channels`` and ``features`` are looked at.
    """
    widths = {}
    for node_type in data.node_types:
        spec = data.manifest.node_attrs.get(node_type, {}).get("x")
        if spec is not None and len(spec.shape) == 1:
            widths[node_type] = int(spec.shape[0])
    entity = list(data.roles.entity)
    known = {*given.get("in_channels", widths), *(given.get("features") or ()), *entity}
    out: dict[str, Any] = {"in_channels": widths, "embed": {t: data.num_nodes[t] for t in data.node_types if t not in known}}
    return {**out, "free": {t: data.num_nodes[t] for t in entity}} if free else out


def relation_vectors(
    edge_types: Sequence[EdgeType], given: Mapping[Any, Tensor], dim: int, eel: Sequence[EdgeType] = ()
) -> Tensor:
    """One vector per edge type, float32 ``[R, c]``.

    A given vector (by edge type or by relation name) is taken as it is; a reverse relation (``rev_r`` from ``b`` to ``a``)
    without one gets minus that of ``r``, natural for translations; everything else, EELs before all, is random with the
    mean norm of the given vectors (1 where none is given).

    Args:
        edge_types: in the order of relation ids.
        given: edge type, or relation name -> ``[c]``.
        dim: c where nothing is given.
        eel: edge types that get a fresh vector even if their name has one.

    Raises:
        HaspError: vectors of different widths, or a key that is no edge type and no relation.
    """
    names = {e[1] for e in edge_types}
    for key, vector in given.items():
        if key not in names and key not in edge_types:
            raise HaspError(
                f"relation vectors are keyed by edge type or relation name, got {key!r}; the graph has {edge_types}"
            )
        if vector.dim() != 1:
            raise HaspError(f"the vector of relation {key!r} is one row, got {tuple(vector.shape)}; give [c]")
    widths = {v.numel() for v in given.values()}
    if len(widths) > 1:
        raise HaspError(f"relation vectors have one width, got {sorted(widths)}; export them from one pretraining")
    width = widths.pop() if widths else dim
    norm = float(torch.stack([v.float().norm() for v in given.values()]).mean()) if given else 1.0
    table = F.normalize(torch.randn(len(edge_types), width), dim=1) * norm
    fresh = set(eel)
    row = {e: i for i, e in enumerate(edge_types)}
    for edge_type, i in row.items():
        if edge_type not in fresh:
            key = edge_type if edge_type in given else edge_type[1]
            if key in given:
                table[i] = given[key].detach().float()
    for source, relation, destination in edge_types:
        forward = row.get((destination, relation[4:], source)) if relation.startswith("rev_") else None
        reverse = (source, relation, destination)
        if forward is not None and reverse not in given and relation not in given:
            table[row[reverse]] = -table[forward]
    return table
