"""The embeddings of a trained run, made part by part: what ``hasp-models embed --by-parts`` does.

The graph is never held: vectors are made and degrees counted a part at a time. What is held in the end is the table itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hasp import HASPData
from hasp.errors import HaspError
from hasp.schema import EdgeType, parse_edge_name
from hasp_models.embeddings import Embeddings
from hasp_models.mapreduce import embed_parts
from hasp_models.part_layers import cut_into
from hasp_models.runs import load_run
from hasp_models.tiers import Tiers
from hasp_models.views import concept_view_of_parts, knows_cold

__all__ = ["FOLDER", "embed_run", "link_degrees"]

FOLDER = "by-parts"
"""Name, in the folder of the embeddings, of that in which the parts' own vectors are."""


def embed_run(
    run: Path, source: str | Path, out: Path, *, processes: int = 1, progress: Callable[[int, int, int], None] | None = None
) -> Embeddings:
    """Embed the graph of some parts with a trained model, every edge kept; equal to :meth:`Embeddings.of` to rounding.

    Args:
        run: folder of ``hasp-models train``.
        source: a folder of parts.
        out: folder of the embeddings; the vectors of parts go below it, where an interrupted call goes on.
        processes: see :func:`hasp_models.mapreduce.embed_parts`.
        progress: likewise.

    Raises:
        HaspError: no parts or no run where they should be, parts of a graph that the model does not know, another run's
            vectors in the folder, or vectors that are not finite.
    """
    if not (Path(source) / "manifest.json").is_file():
        raise HaspError(f"a graph is embedded by parts from a folder of parts, and {source} is none; run hasp build first")
    model, meta = load_run(run)
    parts = HASPData.open(source)
    tiers = Tiers.from_json(meta["model"]["tiers"]) if meta["model"]["tiers"] else None
    made = embed_parts(model, parts, out / FOLDER, processes=processes, tiers=tiers, progress=progress)
    entity, eel = meta["entity"], [parse_edge_name(e) for e in meta["eel"]]
    vectors = made.vectors(entity)
    if not bool(vectors.isfinite().all()):
        raise HaspError(f"the embeddings of {source} are not finite; check the features for NaN")
    given = parts.store.ids(entity) is not None
    ids = np.asarray(parts.ids(entity) if given else np.arange(parts.num_nodes[entity]))
    fingerprint = parts.manifest.fingerprint
    inputs = {"graph": {"kind": "graph", "id": fingerprint}}
    if "file" in meta:
        inputs["run"] = {"kind": "run", "id": meta["file"]["blake3"]}
    degree, named = link_degrees(parts, entity, eel), (parts.names(entity), fingerprint, str(Path(source).resolve()))
    alone = concept_view_of_parts(model, parts, entity) if knows_cold(meta) else None
    return Embeddings(vectors, degree, ids, *named, entity, eel, inputs, alone)


def link_degrees(parts: HASPData, entity: str, eel: Sequence[EdgeType]) -> Tensor:
    """Distinct entities that each entity is linked to, in either direction, part by part: int64 ``[N]``.

    Args:
        parts: of the graph.
        entity: an entity type.
        eel: link types; those that do not join ``entity`` to itself are passed over.
    """
    own = [e for e in eel if e in parts.num_edges and e[0] == e[2] == entity]
    count = parts.num_nodes[entity]
    degree = torch.zeros(count, dtype=torch.int64)
    ids = [parts.part(p).nodes[entity].n_id for p in range(parts.num_parts)]
    for part_id in range(parts.num_parts):
        part, mine = parts.part(part_id), _long(ids[part_id])
        pairs = [torch.empty(0, dtype=torch.int64)]  # row of the entity * entities + the other
        for edge_type in own:
            a, b = part.edges[edge_type].edge_index.long()
            pairs += [a * count + mine[b], b * count + mine[a]]
        for end in (0, 1):
            for (_, other), ends in cut_into(parts.store, part_id, own, end).items():
                pairs.append(ends[end] * count + _long(ids[other])[ends[1 - end]])
        row, other_id = (found := torch.unique(torch.cat(pairs))) // count, found % count
        degree[mine] = torch.bincount(row[other_id != mine[row]], minlength=mine.numel())
    return degree


def _long(n_id: Tensor | None) -> Tensor:
    assert n_id is not None
    return n_id.long()
