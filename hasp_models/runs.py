"""A run folder: what training leaves behind, and the model of it built again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hasp import HASPData
from hasp.errors import HaspError
from hasp.schema import edge_name, parse_edge_name
from hasp.store.disk import Disk
from hasp_models.files import check_tensors, load_tensors, read_json, save_tensors, write_json
from hasp_models.kg_embedding import KGEmbedding
from hasp_models.origin import parts_input, stamp
from hasp_models.semantic_gnn import SemanticGNN
from hasp_models.tiers import Tiers

__all__ = ["load_run", "new_model", "save_run"]

_VERSION = 2
_RUN, _WEIGHTS = "run.json", "model.safetensors"


def new_model(parts: HASPData, options: dict[str, Any], concepts: KGEmbedding | None, seed: int) -> SemanticGNN:
    """A SemanticGNN for these parts, with pretrained concepts where they are given.

    Their root mean square is 1, the usual scale of features. Where entities have vectors of their own (``free``) they are
    shorter: as long as these, 1, once their Linear has seen them. Else concepts drown them, and steps of Adam, which are as
    long for every weight, move them too far: on books that cost the paper's loss a quarter of its HC-Sim.

    Raises:
        HaspError: the pretrained vectors are of another graph.
    """
    torch.manual_seed(seed)
    given: dict[str, Any] = {}
    if concepts is not None:
        own = [t for t in concepts.offsets if t in parts.roles.semantic]
        # A Linear's weights start uniform in +-1/sqrt(in): a row of length sqrt(3 in / dim) becomes one of length 1.
        scale = math.sqrt(3.0 / options["dim"]) if options.get("free") else 1.0
        vectors = {t: concepts.features(t, rms=True) * scale for t in own}
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
    file = save_tensors(folder / _WEIGHTS, model.state_dict(), disk)
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
    check_tensors(folder / _WEIGHTS, meta)
    return model.eval(), meta
