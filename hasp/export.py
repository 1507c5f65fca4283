"""Export: who is in which part, with the user's own ids, single parts as tables, and what both were made of."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hasp.errors import HaspError
from hasp.graph import Graph

if TYPE_CHECKING:
    from hasp.data import HASPData

__all__ = ["part_graph", "write_node_part", "write_origin"]


def write_node_part(parts: HASPData, path: str | Path) -> int:
    """Write one row per entity: ``node_type``, ``id`` (the user's own), ``part``.

    Args:
        parts: a build.
        path: ends in ``.csv`` or ``.parquet``.

    Returns:
        Rows written.

    Raises:
        HaspError: another ending, or pyarrow is missing for Parquet.
    """
    path = Path(path)
    if path.suffix not in (".csv", ".parquet"):
        raise HaspError(f"node_part is exported as .csv or .parquet, got {path.name!r}; change the ending")
    ids: list[Any] = [parts.ids(t) for t in parts.roles.entity]
    kinds = {a.dtype.kind for a in ids}
    if len(kinds) > 1:  # one column has one type
        ids = [a.astype(str) for a in ids]
    columns = {
        "node_type": np.repeat(np.array(parts.roles.entity), [len(a) for a in ids]),
        "id": np.concatenate(ids),
        "part": np.concatenate([parts.node_part(t).numpy() for t in parts.roles.entity]),
    }
    if path.suffix == ".parquet":
        from hasp.sources.parquet import write_parquet

        write_parquet(path, columns)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*(c.tolist() for c in columns.values()), strict=True))
    return len(columns["id"])


def write_origin(parts: HASPData, path: str | Path, part_id: int | None = None) -> Path:
    """Say beside an export what it was made of: versions, the fingerprint of the graph, the settings of the build.

    Args:
        parts: the build.
        path: of the exported file, which gets a neighbour ``<name>.origin.json``, or of the folder, which gets ``origin.json``.
        part_id: the part that was exported; ``None``: the labels of all.

    Returns:
        The file that was written.
    """
    from hasp import __version__
    from hasp.store.disk import Disk

    path, manifest = Path(path), parts.manifest
    beside = path / "origin.json" if path.is_dir() else path.with_name(path.name + ".origin.json")
    said = {
        "library": __version__,
        "part": part_id,
        "parts": {"library": manifest.library, "fingerprint": manifest.fingerprint, "config": dict(manifest.config)},
    }
    Disk().put(beside, [(json.dumps(said, indent=1) + "\n").encode()])
    return beside


def part_graph(parts: HASPData, part_id: int) -> Graph:
    """One part as a graph of its own, with the user's ids and names.

    Raises:
        HaspError: there is no such part.
    """
    if not 0 <= part_id < parts.num_parts:
        raise HaspError(f"part={part_id} is not in 0..{parts.num_parts - 1}; choose one of these")
    batch = parts[part_id]
    manifest = parts.manifest
    n_id = {t: batch[t].n_id.numpy() for t in parts.node_types}
    names = {t: parts.names(t) for t in parts.node_types}
    return Graph(
        {t: int(batch[t].num_nodes) for t in parts.node_types},
        {e: (batch[e].edge_index[0], batch[e].edge_index[1]) for e in parts.edge_types},
        {t: {k: batch[t][k] for k in manifest.node_attrs.get(t, {})} for t in parts.node_types},
        {e: {k: batch[e][k] for k in manifest.edge_attrs.get(e, {})} for e in parts.edge_types},
        {t: parts.ids(t)[n_id[t]] for t in parts.node_types},
        {t: own[n_id[t]] for t, own in names.items() if own is not None},
    )
