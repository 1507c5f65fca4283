"""An embedding folder: the vectors of all entities, and what is needed to read them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hasp.errors import HaspError
from hasp.graph import Graph
from hasp.schema import EdgeType, edge_name, parse_edge_name
from hasp.store.disk import Disk
from hasp_models.data.csr import CSR
from hasp_models.data.neighbors import EmbeddingScorer, Score, Scorer
from hasp_models.files import check_tensors, load_tensors, read_json, save_tensors, write_json
from hasp_models.hybrid import HybridScorer, exact_of
from hasp_models.infer import embed_all
from hasp_models.origin import stamp
from hasp_models.semantic_gnn import SemanticGNN
from hasp_models.tiers import Tiers
from hasp_models.views import TwoViews, concept_view, knows_cold
from hasp_models.whole_graph import open_graph

__all__ = ["Embeddings", "links_of"]

_VERSION = 2
_META, _VECTORS = "embeddings.json", "embeddings.safetensors"


@dataclass(frozen=True)
class Embeddings:
    """Vectors of all entities, and what is needed to read them.

    Attributes:
        vectors: float32 ``[N, d]``.
        degree: int64 ``[N]``, distinct linked entities in the embedded graph.
        ids: ``[N]``, the user's own.
        names: ``[N]`` or ``None``.
        fingerprint: of the embedded graph.
        source: where that graph was read.
        entity: its node type.
        eel: its link types.
        inputs: what they were made of (see :mod:`hasp_models.origin`).
        alone: float32 ``[N, d]``, what concepts alone say (:func:`hasp_models.views.concept_view`), by which entities without a
            link are asked for; ``None`` where the model was not trained for that.
    """

    vectors: Tensor
    degree: Tensor
    ids: npt.NDArray[Any]
    names: npt.NDArray[Any] | None
    fingerprint: str
    source: str
    entity: str
    eel: list[EdgeType]
    inputs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    alone: Tensor | None = None

    def scorer(self, score: Score = "cosine") -> Scorer:
        """Of all entities: by their vectors, those without a link by their concepts."""
        if self.alone is None:
            return EmbeddingScorer(self.vectors, score)
        return TwoViews(self.vectors, self.alone, self.degree.numpy() > 0, score)

    def hybrid(self, graph: Graph, weight: float, *, content: float = 0.3) -> Scorer:
        """Of all entities: cosines of the vectors, plus what the graph says exactly (:mod:`hasp_models.hybrid`).

        Args:
            graph: of :meth:`graph`.
            weight: of the exact similarities; 0.5 is a good start.
            content: how much shared concepts count in the exact similarities, where a link of weight 1 counts 1; 1 for
                catalogues in which most entities have few links or none.
        """
        return HybridScorer(self.scorer(), exact_of(graph, self.eel, self.entity, content=content), weight)

    @classmethod
    def of(cls, model: SemanticGNN, run: dict[str, Any], source: str) -> Embeddings:
        """Embed a graph, all edges kept, new entities included."""
        relations = [parse_edge_name(e) for e in run["model"]["edge_types"]]
        tiers = Tiers.from_json(run["model"]["tiers"]) if run["model"]["tiers"] else None
        wanted = relations if tiers is None else [*(e for e in relations if e not in tiers.share), *tiers.links]
        graph, fingerprint = open_graph(source, wanted)
        entity, eel = run["entity"], [parse_edge_name(e) for e in run["eel"]]
        seen = graph if tiers is None else tiers.apply(graph)
        edges = {e: ends for e, ends in seen.edges.items() if e in relations}
        seen = dataclasses.replace(seen, edges=edges, edge_attrs={})
        vectors, alone = embed_all(model, seen)[entity], None
        if knows_cold(run):
            alone = concept_view(model, seen, eel if tiers is None else tiers.types, entity)
        if not bool(vectors.isfinite().all()):
            raise HaspError(f"the embeddings of {source} are not finite; check the features for NaN")
        degree = torch.from_numpy(links_of(graph, entity, eel).counts)
        ids = np.asarray(graph.ids.get(entity, np.arange(graph.num_nodes[entity])))
        inputs = {"graph": {"kind": "graph", "id": fingerprint}}
        if "file" in run:
            inputs["run"] = {"kind": "run", "id": run["file"]["blake3"]}
        return cls(vectors, degree, ids, graph.names.get(entity), fingerprint, source, entity, eel, inputs, alone)

    def save(self, folder: Path) -> None:
        """Write ``embeddings.safetensors`` and, last, ``embeddings.json``."""
        disk = Disk()
        disk.make_folder(folder)
        tensors = {"vectors": self.vectors, "degree": self.degree} | ({} if self.alone is None else {"alone": self.alone})
        file = save_tensors(folder / _VECTORS, tensors, disk)
        meta = {
            "format_version": _VERSION,
            **stamp(**self.inputs),
            "file": file,
            "fingerprint": self.fingerprint,
            "source": self.source,
            "entity": self.entity,
            "eel": [edge_name(e) for e in self.eel],
            "ids": self.ids.tolist(),
            "names": None if self.names is None else self.names.tolist(),
        }
        write_json(folder / _META, meta, disk)

    @classmethod
    def load(cls, folder: Path) -> Embeddings:
        """Read what :meth:`save` wrote. Raises :class:`HaspError` where there is nothing, or of another version."""
        if not (folder / _META).is_file():
            raise HaspError(f"{folder} holds no embeddings ({_META} is missing); run hasp-models embed --out {folder}")
        meta = read_json(folder / _META)
        if meta.get("format_version") != _VERSION:
            raise HaspError(
                f"embeddings have format_version {_VERSION}, {folder} has {meta.get('format_version')}; embed again"
            )
        tensors = load_tensors(folder / _VECTORS)
        ids, names = np.asarray(meta["ids"]), None if meta["names"] is None else np.asarray(meta["names"])
        if tensors["vectors"].size(0) != ids.size:
            raise HaspError(f"{folder} has {tensors['vectors'].size(0):,} vectors and {ids.size:,} ids; embed again")
        eel = [parse_edge_name(e) for e in meta["eel"]]
        where = (meta["fingerprint"], meta["source"], meta["entity"])
        check_tensors(folder / _VECTORS, meta)
        more = meta.get("inputs", {}), tensors.get("alone")
        return cls(tensors["vectors"], tensors["degree"], ids, names, *where, eel, *more)

    def graph(self, source: str | None = None) -> Graph:
        """The graph that was embedded, read again.

        Raises:
            HaspError: it has changed, or ``source`` is another graph.
        """
        source = source or self.source
        graph, fingerprint = open_graph(source)
        if fingerprint != self.fingerprint:
            from hasp.sources.reverse import add_reverse

            graph = add_reverse(graph)
            fingerprint = graph.fingerprint()
        if fingerprint != self.fingerprint:
            raise HaspError(f"the embeddings are of another graph than {source}; embed it again, or give its --source")
        return graph

    def label(self, row: int) -> str:
        """The name of an entity, or its id where there are no names."""
        return str(self.ids[row] if self.names is None else self.names[row])

    def find(self, text: str) -> int:
        """The row of an entity by name, by id, or by a piece of a name that only one entity has.

        Raises:
            HaspError: none or several; up to five are named.
        """
        names = self.ids.astype(str) if self.names is None else self.names.astype(str)
        for found in (np.flatnonzero(names == text), np.flatnonzero(self.ids.astype(str) == text)):
            if found.size == 1:
                return int(found[0])
        lower = text.casefold()
        found = np.flatnonzero([lower in name.casefold() for name in names.tolist()])
        if found.size != 1:
            some = ", ".join(repr(str(names[i])) for i in found[:5])
            raise HaspError(
                f"{text!r} names one {self.entity}, found {found.size:,}{': ' + some if some else ''}; write it in full"
            )
        return int(found[0])

    def explain(self, graph: Graph, a: int, others: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
        """The concepts and links that an entity shares with others: per other ``{linked, concepts, links}``."""
        linked = links_of(graph, self.entity, self.eel)
        mine: dict[EdgeType, set[int]] = {}
        by_entity: dict[EdgeType, CSR] = {}
        for edge_type, (source, concept) in graph.edges.items():
            if edge_type[0] == self.entity and edge_type[2] != self.entity:
                by_entity[edge_type] = CSR.from_pairs(source.numpy(), concept.numpy(), graph.num_nodes[self.entity])
                mine[edge_type] = set(by_entity[edge_type].row(a).tolist())
        out = []
        for b in others.tolist():
            concepts = []
            for edge_type, rows in by_entity.items():
                kind = edge_type[2]
                names = graph.names.get(kind, graph.ids.get(kind))
                shared = sorted(mine[edge_type] & set(rows.row(b).tolist()))
                concepts += [f"{kind}: {i if names is None else names[i]}" for i in shared]
            both = np.intersect1d(linked.row(a), linked.row(b))
            links = [self.label(i) for i in both.tolist()]
            out.append({"linked": bool(np.isin(b, linked.row(a))), "concepts": concepts, "links": links})
        return out


def links_of(graph: Graph, entity: str, eel: list[EdgeType]) -> CSR:
    """The entities that each entity is linked to, in either direction."""
    ends = [graph.edges[e] for e in eel if e in graph.edges and e[0] == e[2] == entity]
    a = np.concatenate([np.zeros(0, np.int64), *(x[0].numpy() for x in ends)])
    b = np.concatenate([np.zeros(0, np.int64), *(x[1].numpy() for x in ends)])
    return CSR.from_pairs(a, b, graph.num_nodes[entity], symmetric=True)
