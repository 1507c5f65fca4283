"""What the graph baselines of the paper's Table 1 have in common: inputs, layers, unit vectors, whole-graph inference.

Every baseline takes what :class:`hasp_models.SemanticGNN` takes (features, pretrained concept vectors, free vectors that are
dropped out), so that a comparison is one of layers. Reverse edge types are expected in the graph (``reverse=True`` of a
build, or :func:`hasp.sources.reverse.add_reverse`): without them concepts hear from entities and entities from no concept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hasp.errors import HaspError
from hasp.graph import Graph
from hasp.schema import EdgeType
from hasp_models.node_inputs import NodeInputs, n_id_of
from hasp_models.relation_attention import ACTIVATIONS
from hasp_models.semantic_gnn import input_options
from hasp_models.zoo.sparse import edges_into

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["GraphModel", "embed"]


class GraphModel(nn.Module):
    """Inputs per node type, layers with an activation between them, and unit vectors out if asked for.

    A subclass fills ``self.layers`` with modules ``(h: {type: [n, dim]}, edges) -> {type: [n, dim]}``, where ``edges`` is what
    its :meth:`edges` makes of a batch. Works on batches of :class:`hasp.HASPLoader`, on parts and on the
    whole graph.

    Args:
        metadata: ``(node types, edge types)``.
        in_channels: node type -> width of its ``x``.
        dim: width of all layers and of the result.
        features: node type -> table ``[N, c]`` by global id (pretrained concept vectors).
        train_features: train these tables.
        embed: node type -> number of nodes: a learned vector each.
        free: node type -> number of nodes: a learned vector each that is dropped out.
        entity_dropout: probability of dropping a free vector in training.
        activation: between layers: one of ``ACTIVATIONS`` of :mod:`hasp_models.relation_attention`.
        normalize: unit vectors out.

    Raises:
        HaspError: a setting is out of its range or names an unknown type.
    """

    def __init__(
        self,
        metadata: tuple[Sequence[str], Sequence[EdgeType]],
        in_channels: Mapping[str, int] | None = None,
        dim: int = 64,
        *,
        features: Mapping[str, Tensor] | None = None,
        train_features: bool = False,
        embed: Mapping[str, int] | None = None,
        free: Mapping[str, int] | None = None,
        entity_dropout: float = 0.0,
        activation: str = "relu",
        normalize: bool = False,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise HaspError(f"activation is one of {list(ACTIVATIONS)}, got {activation!r}; choose one of these")
        if dim < 1:
            raise HaspError(f"vectors have at least one dimension, got dim={dim}; 64 is usual")
        self.node_types = list(metadata[0])
        self.edge_types: list[EdgeType] = [(e[0], e[1], e[2]) for e in metadata[1]]
        self.dim, self.activation, self.normalize = dim, activation, normalize
        self.entity: str | None = None
        self.inputs = NodeInputs(
            self.node_types, dim, in_channels or {}, features or {}, train_features, embed or {}, free or {}, entity_dropout
        )
        self.layers = nn.ModuleList()

    @classmethod
    def from_data(cls, data: Any, dim: int = 64, layers: int = 2, *, free: bool = False, **options: Any) -> Self:
        """A model that fits a :class:`hasp.HASPData`: widths of ``x``, and vectors for types without features.

        Args:
            data: the parts.
            dim: see the class.
            layers: their number.
            free: give every entity a free vector.
            **options: anything else of the class, in the place of what is inferred.
        """
        given = {**input_options(data, free, options), **options}
        model = cls(data.metadata(), dim=dim, layers=layers, **given)  # type: ignore[call-arg]
        model.entity = data.roles.entity[0]
        return model

    def edges(self, batch: Any) -> Any:
        """What the layers need of a batch's edges, made once for all of them: per node type, the edges into it."""
        return edges_into(batch, self.node_types, self.edge_types)

    def whole(self, graph: Any) -> Any:
        """A :class:`hasp.Graph` or a ``HeteroData`` as the batch for whole-graph inference."""
        return graph.to_hetero_data() if isinstance(graph, Graph) else graph

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Embed every node of a batch.

        Args:
            batch: a ``HeteroData``; ``n_id`` per node type, or the whole graph in order. All its edges carry messages.

        Returns:
            Node type -> ``[n, dim]``.
        """
        edges = self.edges(batch)
        h = {t: self.inputs(t, n_id_of(batch[t]), batch[t].get("x")) for t in self.node_types}
        for i, layer in enumerate(self.layers):
            if i:
                h = {t: ACTIVATIONS[self.activation](v) for t, v in h.items()}
            h = layer(h, edges)
        return {t: F.normalize(v, dim=1) for t, v in h.items()} if self.normalize else h


@torch.no_grad()
def embed(model: GraphModel, graph: Any, node_type: str | None = None) -> Tensor:
    """Embed all nodes of one type with all edges of the graph, new entities included, in one pass without gradients.

    No layer holds a vector per edge: beside the result a pass holds at most ``(6 T + 2 S) * 4 dim`` bytes, with T nodes of
    all types and S the sources of all edge types into one node type, and 100 bytes per edge. The movies (109,789 nodes,
    1.2 million edges with their reverses, dim 64) peak at 255 to 330 MB, where that is 350 MB.

    Args:
        model: is put into eval mode and left in the mode it came in.
        graph: a :class:`hasp.Graph` or a ``HeteroData``; node ids are global ids.
        node_type: ``None``: the entity type of the parts that the model was built from.

    Returns:
        ``[N, dim]``.

    Raises:
        HaspError: no node type is known, or the graph lacks one of the model's.
    """
    data = model.whole(graph)
    missing = [t for t in model.node_types if t not in data.node_types]
    if missing:
        raise HaspError(f"the model knows the node type {missing[0]!r}, the graph has {data.node_types}; use its graph")
    node_type = model.entity if node_type is None else node_type
    if node_type not in model.node_types:
        raise HaspError(f"node_type is one of {model.node_types}, got {node_type!r}; say what to embed")
    training = model.training
    model.eval()
    try:
        return model(data)[node_type]  # type: ignore[no-any-return]
    finally:
        model.train(training)


def glorot_(weight: Tensor) -> Tensor:
    """Glorot's uniform start of each matrix in ``[..., a, b]``, in place."""
    bound = (6.0 / (weight.size(-2) + weight.size(-1))) ** 0.5
    with torch.no_grad():
        return weight.uniform_(-bound, bound)


def check_layers(layers: int, heads: int, dim: int) -> None:
    """Raise :class:`HaspError` unless there is a layer and the heads share the width."""
    if layers < 1:
        raise HaspError(f"a model has at least one layer, got layers={layers}; without layers use the features")
    if heads < 1 or dim % heads:
        raise HaspError(f"heads divide the width, got heads={heads} and dim={dim}; change one of them")
