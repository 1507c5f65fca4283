"""How SemanticGNN starts by default, and why: as a blend of links and concepts that training then improves.

From random matrices the model must first find out that neighbours' own vectors and rare concepts matter. Here it starts
there: entities and concepts have random, nearly orthogonal vectors, concepts the longer the rarer; a message repeats its
sender (``echo``); links weigh by their share of what an entity hears, and a concept by one prior mass. The cosine of two
entities is then, up to the noise of a random projection, a blend of second-order co-engagement and tf-idf.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hasp import HASPData
from hasp.errors import HaspError
from hasp.schema import EdgeType
from hasp_models.kg_embedding import KGEmbedding
from hasp_models.semantic_gnn import SemanticGNN, input_options
from hasp_models.tiers import Tiers
from hasp_models.whole_graph import graph_of

__all__ = ["blend_start", "linked", "rarity", "shares_of", "tiers_of"]


def blend_start(
    parts: HASPData,
    shares: Mapping[EdgeType, float],
    *,
    dim: int = 256,
    layers: int = 1,
    concepts: KGEmbedding | None = None,
    content: float = 0.26,
    concept_length: float = 0.6,
    concept_prior: float | None = None,
    echo: float = 8.0,
    seed: int = 0,
    **options: Any,
) -> SemanticGNN:
    """A model for these parts that starts as a blend.

    Pretrained concept vectors come on top through a Linear that starts at zero: what they are worth is learned, and nothing
    of the distinctness of rare concepts is lost.

    Args:
        parts: with reverse edge types.
        shares: link type -> mean share of such a link in what its destination hears (:func:`shares_of`, or
            :attr:`hasp_models.tiers.Tiers.share`, whose tiers then stand for the links they are cut from).
        dim: width.
        layers: of attention. With one, concepts keep their vectors; with more they hear from their entities.
        concepts: from :func:`hasp_models.transe.pretrain` on the same graph.
        content: how loud concepts are beside links: the root mean square length of what a linked entity hears from its
            concepts, where what it hears from links is a mean of unit vectors. The log of the prior mass of an edge from a
            concept follows from it; how many concepts an entity has and how rare they are differs much between graphs.
        concept_length: a concept's vector starts ``concept_length * log(entities / entities with it)`` long.
        concept_prior: log of the prior mass of an edge from a concept, in the place of the one that follows from ``content``.
        echo: see :class:`SemanticGNN`.
        seed: of the start.
        **options: others of :class:`SemanticGNN`, in the place of what is chosen here.

    Raises:
        HaspError: no edge leads from a concept to an entity, ``content`` is not above 0, or the pretrained vectors are of
            another graph.
    """
    if not content > 0:
        raise HaspError(f"content, the weight of concepts beside links, is above 0, got {content}; 0.26 is usual")
    entity = parts.roles.entity[0]
    links = set(parts.roles.eel)
    edge_types = [e for e in parts.edge_types if e not in links or e in shares]
    edge_types += [e for e in shares if e not in edge_types]
    into = [e for e in edge_types if e[2] == entity and e not in shares and parts.roles.nodes[e[0]] == "semantic"]
    if not into and parts.roles.semantic:
        raise HaspError("concepts speak to entities over reverse edges, but these parts have none; build with --reverse")
    heard = linked(parts)
    if concept_prior is None:
        concept_prior = math.log(content / _loudness(parts, into, concept_length, heard))
    prior = {e: math.log(s) for e, s in shares.items()} | dict.fromkeys(into, float(concept_prior))
    given: dict[str, Any] = {}
    if concepts is not None:
        given["features"] = _features(concepts, parts, [e[0] for e in into])
        given["relation"] = {e: concepts.relation(e) for e in concepts.relation_types if e in edge_types}
    own = {e[0]: rarity(parts, e) * concept_length for e in into if e[0] not in input_options(parts, True, {})["in_channels"]}
    own[entity] = heard.float()
    torch.manual_seed(seed)
    settings = {
        "beta": "both",
        "activation": "gelu",
        "normalize": True,
        "eel": list(shares),
        "update": [entity] if layers == 1 else None,
        **input_options(parts, True, {}),
        "prior": prior,
        "echo": echo,
        **given,
        **options,
    }
    settings["embed"] = {**settings["embed"], **{e[0]: parts.num_nodes[e[0]] for e in into if e[0] in own}}
    settings["lengths"] = {t: v for t, v in own.items() if t in settings["embed"] or t in settings["free"]}
    model = SemanticGNN((parts.node_types, edge_types), dim=dim, layers=layers, **settings)
    for layer in model.inputs.of_table.values():
        for weight in layer.parameters():
            nn.init.zeros_(weight)
        layer.bias.requires_grad_(False)  # one vector for all concepts would tell no entity from another
    return model


def shares_of(parts: HASPData) -> dict[EdgeType, float]:
    """EEL type -> what one of its edges is of all that a linked entity hears over links, on average."""
    linked = max(sum(parts.report().linked), 1)
    edges = sum(parts.num_edges[e] for e in parts.roles.eel)
    return {e: min(1.0, linked / max(edges, 1)) for e in parts.roles.eel}


def linked(parts: HASPData) -> Tensor:
    """Which entities of the first entity type have a link, bool ``[N]``.

    The others start with a vector of their own of length 0: nobody would pass it on, and beside their concepts it is noise.
    """
    entity = parts.roles.entity[0]
    out = torch.zeros(parts.num_nodes[entity], dtype=torch.bool)
    blocks = [(p, parts.part(p)) for p in range(parts.num_parts)]
    for edge_type in parts.roles.eel:
        for at, node_type in ((0, edge_type[0]), (1, edge_type[2])):
            if node_type != entity:
                continue
            for _, part in blocks:
                n_id = part.nodes[entity].n_id
                out[n_id[part.edges[edge_type].edge_index[at].long()].long()] = True  # type: ignore[index]
            cut = parts.store.cut.edges[edge_type]
            if cut.pairs is None or cut.ptr is None:
                continue
            owner = torch.repeat_interleave(cut.pairs[:, at].long(), cut.ptr.diff())
            for p, part in blocks:
                mine = cut.edge_index[at][owner == p].long()
                out[part.nodes[entity].n_id[mine].long()] = True  # type: ignore[index]
    return out


def rarity(parts: HASPData, edge_type: EdgeType) -> Tensor:
    """``log(entities / entities with the concept)``, float32 ``[concepts]``, for an edge type from concepts to entities."""
    count = torch.zeros(parts.num_nodes[edge_type[0]])
    for part_id in range(parts.num_parts):
        ends = parts.part(part_id).edges[edge_type].edge_index
        count += torch.bincount(ends[0].long(), minlength=count.numel())
    return (parts.num_nodes[edge_type[2]] / count.clamp_min(1)).log()


def _loudness(parts: HASPData, into: list[EdgeType], length: float, heard: Tensor) -> float:
    """Root mean square, over the entities in the mask ``heard``, of the length of the sum of an entity's concepts.

    Their directions are random, so squares of lengths add up. 1 where none of these entities has a concept.
    """
    entity = parts.roles.entity[0]
    square = torch.zeros(parts.num_nodes[entity])
    of = {e: (rarity(parts, e) * length) ** 2 for e in into}
    for p in range(parts.num_parts):
        part = parts.part(p)
        n_id = part.nodes[entity].n_id
        for edge_type, lengths in of.items():
            source, destination = (end.long() for end in part.edges[edge_type].edge_index)
            square.index_add_(0, n_id[destination].long(), lengths[source])  # type: ignore[index]
    some = square[heard] if bool(heard.any()) else square
    mean = float(some.double().mean()) if some.numel() else 0.0
    return math.sqrt(mean) if mean > 0 else 1.0


def tiers_of(parts: HASPData) -> Tiers | None:
    """Tiers over the links of a build, where all its EEL types have a weight; else ``None``.

    Takes the whole graph's links into memory.
    """
    if not parts.roles.eel or any("weight" not in parts.manifest.edge_attrs.get(e, {}) for e in parts.roles.eel):
        return None
    return Tiers.of(graph_of(parts), parts.roles.eel)


def _features(concepts: KGEmbedding, parts: HASPData, types: list[str]) -> dict[str, Tensor]:
    found = {t: concepts.features(t) for t in types if t in concepts.offsets}
    wrong = [t for t, v in found.items() if v.size(0) != parts.num_nodes[t]]
    unknown = [t for t in concepts.offsets if t not in parts.num_nodes]
    if wrong or unknown or not found:
        bad = (wrong or unknown or ["no concept"])[0]
        raise HaspError(f"pretrained concepts are of the graph of the parts, but {bad!r} differs; pretrain on these parts")
    return found
