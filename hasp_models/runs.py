"""What training leaves behind: a run folder (a model that can be built again) and an embedding folder (its vectors)."""

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

from hasp import HASPData
from hasp.errors import CorruptPart, HaspError
from hasp.graph import Graph
from hasp.schema import EdgeType, edge_name, parse_edge_name
from hasp.store.disk import Disk
from hasp.store.framing import chunks
from hasp_models.checkpoint import load_tensors, read_json, write_json
from hasp_models.data.csr import CSR
from hasp_models.data.neighbors import EmbeddingScorer, Score, Scorer
from hasp_models.infer import embed_all
from hasp_models.kg_embedding import KGEmbedding
from hasp_models.origin import parts_input, stamp
from hasp_models.semantic_gnn import SemanticGNN
from hasp_models.tiers import Tiers
from hasp_models.views import TwoViews, concept_view, knows_cold

__all__ = ["Embeddings", "graph_of", "load_run", "new_model", "open_graph", "save_run"]

_VERSION = 2
_RUN, _WEIGHTS = "run.json", "model.safetensors"
_META, _VECTORS = "embeddings.json", "embeddings.safetensors"


def graph_of(parts: HASPData) -> Graph:
    """The input graph of a build with full quotas: all parts merged, with ids and names."""
    from hasp.load.merge import merge

    merged = merge(parts.store, range(parts.num_parts))
    own = {t: parts.manifest.node_attrs.get(t, {}) for t in parts.node_types}
    edges = {}
    for edge_type in parts.edge_types:
        index = merged[edge_type].edge_index
        edges[edge_type] = (index[0], index[1])
    attrs = {t: {k: merged[t][k] for k in names} for t, names in own.items()}
    edge_attrs = {e: {k: merged[e][k] for k in parts.manifest.edge_attrs.get(e, {})} for e in parts.edge_types}
    ids = {t: parts.ids(t) for t in parts.node_types if parts.store.ids(t) is not None}
    names = {t: found for t in parts.node_types if (found := parts.names(t)) is not None}
    return Graph({t: int(merged[t].num_nodes) for t in parts.node_types}, edges, attrs, edge_attrs, ids, names)


def open_graph(source: str, relations: list[EdgeType] | None = None) -> tuple[Graph, str]:
    """A graph and its fingerprint, from a folder of parts or from anything that ``hasp build`` reads.

    Args:
        source: where it is.
        relations: what a model expects; reverse edge types are added if that is what is missing.
    """
    if (Path(source) / "manifest.json").is_file():
        parts = HASPData.open(source)
        return graph_of(parts), parts.manifest.fingerprint
    from hasp.sources import open_source
    from hasp.sources.reverse import add_reverse

    graph = open_source(source)
    if relations is not None and any(e not in graph.edges for e in relations):
        graph = add_reverse(graph)
    missing = [e for e in relations or () if e not in graph.edges]
    if missing:
        raise HaspError(
            f"the model knows the edge type {missing[0]}, the graph has {list(graph.edges)}; embed a graph like its own"
        )
    return graph, graph.fingerprint()


def new_model(parts: HASPData, options: dict[str, Any], concepts: KGEmbedding | None, seed: int) -> SemanticGNN:
    """A SemanticGNN for these parts, with pretrained concepts where they are given.

    Raises:
        HaspError: the pretrained vectors are of another graph.
    """
    torch.manual_seed(seed)
    given: dict[str, Any] = {}
    if concepts is not None:
        own = [t for t in concepts.offsets if t in parts.roles.semantic]
        vectors = {t: concepts.features(t, rms=True) for t in own}
        wrong = [t for t, v in vectors.items() if v.size(0) != parts.num_nodes[t]]
        unknown = [t for t in concepts.offsets if t not in parts.num_nodes]
        if wrong or unknown or not own:
            bad = (wrong or unknown or ["no concept"])[0]
            raise HaspError(f"pretrained concepts are of the graph of the parts, but {bad!r} differs; pretrain on these parts")
        given["features"] = vectors
        given["relation"] = {e: concepts.relation(e) for e in concepts.relation_types if e in parts.num_edges}
    return SemanticGNN.from_data(parts, **options, **given)


def save_run(
    folder: Path,
    model: SemanticGNN,
    options: dict[str, Any],
    parts: HASPData,
    settings: dict[str, Any],
    tiers: Tiers | None = None,
    inputs: Mapping[str, Mapping[str, str] | None] | None = None,
) -> None:
    """Write a trained model so that :func:`load_run` can build it again; ``run.json`` comes last.

    Args:
        folder: made if it is not there.
        model: any SemanticGNN.
        options: of its class, beside what its tensors say (widths, features, vectors, relations).
        parts: what it was trained on.
        settings: how; plain values, for the reader.
        tiers: into which its links are put.
        inputs: what it was made of beside the parts, by role (see :mod:`hasp_models.origin`).
    """
    disk = Disk()
    disk.make_folder(folder)
    file = _save(folder / _WEIGHTS, model.state_dict(), disk)
    given = model.inputs
    shape = {
        "options": options,
        "in_channels": {t: layer.in_features for t, layer in given.of_x.items()},
        "features": {t: list(table.shape) for t, table in given.tables.items()},
        "own": {t: table.size(0) for t, table in given.own.items()},
        "free": list(given.free),
        "relation": list(model.relation.shape),
        "node_types": model.node_types,
        "edge_types": [edge_name(e) for e in model.edge_types],
        "tiers": None if tiers is None else tiers.to_json(),
    }
    meta = {"format_version": _VERSION, **stamp(parts=parts_input(parts), **(inputs or {})), "file": file}
    meta |= {"fingerprint": parts.manifest.fingerprint, "entity": parts.roles.entity[0]}
    eel = [edge_name(e) for e in parts.roles.eel]
    write_json(folder / _RUN, {**meta, "eel": eel, "model": shape, "settings": settings}, disk)


def load_run(folder: Path) -> tuple[SemanticGNN, dict[str, Any]]:
    """The model of a run folder and its ``run.json``.

    Raises:
        HaspError: no finished run is there, or its weights are of another model.
    """
    if not (folder / _RUN).is_file():
        raise HaspError(f"{folder} holds no finished run ({_RUN} is missing); run hasp-models train --out {folder}")
    meta = read_json(folder / _RUN)
    if meta.get("format_version") != _VERSION:
        raise HaspError(f"a run here has format_version {_VERSION}, {folder} has {meta.get('format_version')}; train again")
    shape = meta["model"]
    options = {k: v for k, v in shape["options"].items() if k != "free"}
    model = SemanticGNN(
        (shape["node_types"], [parse_edge_name(e) for e in shape["edge_types"]]),
        shape["in_channels"],
        features={t: torch.zeros(size) for t, size in shape["features"].items()},
        embed={t: n for t, n in shape["own"].items() if t not in shape["free"]},
        free={t: n for t, n in shape["own"].items() if t in shape["free"]},
        relation=torch.zeros(shape["relation"]),
        **options,
    )
    try:
        model.load_state_dict(load_tensors(folder / _WEIGHTS))
    except RuntimeError as error:
        raise HaspError(f"{folder / _WEIGHTS} is of another model than {_RUN} describes ({error}); train again") from error
    _whole(folder / _WEIGHTS, meta)
    return model.eval(), meta


def _save(path: Path, tensors: Mapping[str, Tensor], disk: Disk) -> dict[str, Any]:
    """Write tensors; what a JSON file beside them says of that file."""
    size, digest = disk.put(path, chunks(tensors))
    return {"name": path.name, "bytes": size, "blake3": digest}


def _whole(path: Path, meta: Mapping[str, Any]) -> None:
    """Refuse a file that is not the one that its JSON file names (early versions named none)."""
    if "file" in meta and Disk().hash(path) != meta["file"]["blake3"]:
        raise CorruptPart(f"{path} is not the file that was written with its JSON; make it again")


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
        file = _save(folder / _VECTORS, tensors, disk)
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
        _whole(folder / _VECTORS, meta)
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
