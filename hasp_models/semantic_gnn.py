"""SemanticGNN (Huang et al., section 4.2): inputs per node type, relation embeddings, L layers of relation attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hasp.errors import HaspError
from hasp.schema import EdgeType
from hasp_models.relation_attention import RelationAttention
from hasp_models.relation_csr import RelationCSR

__all__ = ["NodeInputs", "SemanticGNN", "input_options", "relation_vectors"]


class NodeInputs(nn.Module):
    """The first vector of every node: a Linear per type over features, plus a vector of its own where asked for.

    A type may have any of: features ``x`` of the batch (``in_channels``), a table of features looked up by ``n_id``
    (``features``, as pretrained concept vectors), a learned vector per node by ``n_id`` (``embed`` and ``free``). Their
    terms are added; a type with none starts at zero and lives on its neighbours.

    A free vector is dropped, row by row, with probability ``dropout`` in training, and nodes past the end of its table or
    marked as ``cold`` have none: so the model learns to do without, as it must for new entities. Nothing is rescaled, because
    a missing vector at inference is not rescaled either.

    Args:
        node_types: every node type.
        dim: width of the result.
        in_channels: type -> width of ``x``.
        features: type -> ``[N, c]``; frozen unless ``train_features``.
        train_features: make the tables parameters.
        embed: type -> number of nodes.
        free: type -> number of nodes; these are dropped out.
        dropout: see above.
        lengths: type -> ``[N]``: how long the learned vectors start (1 on average where none is given).
    """

    def __init__(
        self,
        node_types: Sequence[str],
        dim: int,
        in_channels: Mapping[str, int],
        features: Mapping[str, Tensor],
        train_features: bool,
        embed: Mapping[str, int],
        free: Mapping[str, int],
        dropout: float,
        lengths: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        named = (("in_channels", in_channels), ("features", features), ("embed", embed), ("free", free))
        for label, given in (*named, ("lengths", lengths or {})):
            unknown = [t for t in given if t not in node_types]
            if unknown:
                raise HaspError(f"{label} names the node type {unknown[0]!r}, but the graph has {list(node_types)}")
        both = [t for t in free if t in embed]
        if both:
            raise HaspError(f"a learned vector is either in embed or in free (with dropout), got {both[0]!r} in both")
        if not 0 <= dropout <= 1:
            raise HaspError(f"entity_dropout is a probability, got {dropout}; 0 keeps every free vector")
        self.dim, self.dropout = dim, dropout
        self.of_x = nn.ModuleDict({t: nn.Linear(c, dim) for t, c in in_channels.items()})
        self.of_table = nn.ModuleDict({t: nn.Linear(f.size(1), dim) for t, f in features.items()})
        self.tables = nn.ParameterDict(
            {t: nn.Parameter(f.detach().float().clone(), requires_grad=train_features) for t, f in features.items()}
        )
        self.own = nn.ParameterDict({t: nn.Parameter(torch.empty(n, dim)) for t, n in {**embed, **free}.items()})
        for table in self.own.values():
            nn.init.normal_(table, std=dim**-0.5)
        for node_type, length in (lengths or {}).items():
            own = self.own[node_type] if node_type in self.own else torch.empty(0)
            if length.shape != own.shape[:1]:
                want, got = own.size(0), tuple(length.shape)
                raise HaspError(f"lengths of {node_type!r} are one per learned vector, {want:,}, got {got}; correct them")
            own.data.mul_(length[:, None])
        self.free = list(free)

    def forward(self, node_type: str, n_id: Tensor, x: Tensor | None, cold: Tensor | None = None) -> Tensor:
        """``[n, dim]`` for the nodes ``n_id`` ``[n]`` of one type; ``x`` is ``[n, c]`` or ``None``, ``cold`` bool ``[n]``."""
        out: Tensor = next(self.parameters(), torch.empty(0)).new_zeros((n_id.numel(), self.dim))
        if node_type in self.of_x:
            if x is None:
                raise HaspError(f"the model takes features of {node_type!r}, but this batch has no x for it; add them")
            out = out + self.of_x[node_type](x.to(out.dtype))
        if node_type in self.of_table:
            features = self.tables[node_type]
            self._within(node_type, n_id, features.size(0))
            out = out + self.of_table[node_type](features[n_id])
        if node_type in self.own:
            table: Tensor = self.own[node_type]
            if node_type not in self.free:
                self._within(node_type, n_id, table.size(0))
                return out + table[n_id]
            known = n_id < table.size(0) if cold is None else (n_id < table.size(0)) & ~cold
            if self.training and self.dropout > 0:
                known = known & (torch.rand(n_id.shape, device=n_id.device) >= self.dropout)
            # Gather row 0 for those without, then zero it: shapes stay the same on every device.
            out = out + table[n_id * known] * known[:, None] if table.size(0) else out
        return out

    def _within(self, node_type: str, n_id: Tensor, count: int) -> None:
        if n_id.device.type == "cpu" and n_id.numel() and int(n_id.max()) >= count:
            raise HaspError(
                f"the model has vectors for {count:,} nodes of {node_type!r}, got n_id {int(n_id.max()):,}; "
                "train on this graph, or give this type features"
            )


class SemanticGNN(nn.Module):
    """Embeddings of entities (and concepts) from concepts and links.

    Works on any ``HeteroData`` of the same metadata: batches of :class:`hasp.HASPLoader`, parts, or the whole graph. The
    relation embeddings are one table for all layers; each layer has its own matrices and beta.

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

    def forward(self, batch: Any, csr: RelationCSR | None = None) -> dict[str, Tensor]:
        """Embed every node of a batch.

        Args:
            batch: a ``HeteroData``; ``n_id`` per node type, or the whole graph in order. All its edges carry messages. Nodes
                that a bool ``cold`` of their type marks go without their free vector.
            csr: ``self.csr(batch)``, built once where a batch is used again.

        Returns:
            Node type -> ``[n, dim]``.
        """
        csr = self.csr(batch) if csr is None else csr
        order = self.order(csr)
        h = torch.cat([self.inputs(t, n_id_of(batch[t]), batch[t].get("x"), batch[t].get("cold")) for t in order])
        for layer in self.layers:
            h, _ = layer.flat(h, csr, self.relation)  # type: ignore[operator]
        return self.split(h, csr)

    def csr(self, batch: Any) -> RelationCSR:
        """The edges of a batch, for every layer."""
        counts = {t: int(batch[t].num_nodes) for t in self.node_types}
        return self.layers[0].csr(batch.edge_index_dict, counts)  # type: ignore[operator, no-any-return]

    def order(self, csr: RelationCSR) -> list[str]:
        """Node types in the order of the CSR's list of nodes."""
        assert csr.offset is not None and csr.num_nodes is not None
        return sorted(csr.offset, key=lambda t: (csr.offset[t], csr.num_nodes[t]))  # type: ignore[index]

    def split(self, h: Tensor, csr: RelationCSR) -> dict[str, Tensor]:
        """The list of nodes back into types, normalised if the model does so."""
        assert csr.offset is not None and csr.num_nodes is not None
        h = F.normalize(h, dim=1) if self.normalize else h
        return {t: h[csr.offset[t] : csr.offset[t] + csr.num_nodes[t]] for t in self.node_types}


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


def n_id_of(store: Any) -> Tensor:
    """Global ids of a node store of PyG, int64 ``[n]``: its ``n_id``, or ``0..n-1`` where it has none."""
    if "n_id" in store:
        return store.n_id.long()  # type: ignore[no-any-return]
    device = store.x.device if "x" in store else None
    return torch.arange(int(store.num_nodes), device=device)


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
