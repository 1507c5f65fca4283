"""A catalogue: entities, concepts in categories, which entity has which concept, and which entities are co-engaged.

Layout (each ``.parquet``, ``.csv.gz`` or ``.csv``)::

    entities         id, title (or name), ...
    concepts         id, category, name
    entity_concept   entity, concept
    co_engaged       a, b                       optional; undirected, each pair once

This is the graph of section 2 of the SemanticGNN paper: one node type for the entities, one for each category of concepts,
an edge type ``has_<category>`` to each, and the entity-entity links ``co_engaged`` in both directions.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hasp.errors import InvalidGraph
from hasp.graph import Graph, HaspWarning
from hasp.schema import EdgeType
from hasp.scratch import Scratch
from hasp.sources.columns import SUFFIXES, Array, Table, read_table
from hasp.sources.edges import open_edges
from hasp.sources.ids import IdMap
from hasp.sources.pairs import distinct, doubled, parted, rows_at_once
from hasp.sources.stream import room_for
from hasp.sources.tables import attributes

__all__ = ["both_directions", "find_table", "read_catalogue"]


def read_catalogue(
    folder: str | Path,
    exclude_categories: Collection[str] = (),
    *,
    entity: str = "title",
    keep: Collection[str] = (),
    scratch: Scratch | None = None,
) -> Graph:
    """Read the folder described at the top of this module.

    Args:
        folder: where the four tables lie.
        exclude_categories: categories of concepts to leave out (one that gives the answer away, say).
        entity: the name of the node type of the entities.
        keep: further columns of ``entities`` to carry along as attributes; none by default.
        scratch: where edges and their attributes go; ``None``: to memory, or to files where they are large for the memory at
            hand, as :func:`hasp.sources.tables.read_tables` does.

    Returns:
        The graph: ``entity`` first, then the categories in alphabetical order. ``ids`` and ``names`` hold the tables' ids,
        titles and names of concepts. A pair of ``co_engaged`` stands in both directions, first all as written, then all
        turned round.

    Raises:
        InvalidGraph: a table is missing or broken, an id occurs twice or is unknown, a category is unknown.

    Warns:
        HaspWarning: pairs of ``co_engaged`` occur more than once; the copies are left out.
    """
    folder = Path(folder)
    if scratch is None:
        names_of_tables = ("entities", "concepts", "entity_concept", "co_engaged")
        scratch = room_for(path for name in names_of_tables if (path := find_table(folder, name)) is not None)
    with scratch:
        return _read_all(folder, exclude_categories, entity, keep, scratch)


def _read_all(folder: Path, exclude_categories: Collection[str], entity: str, keep: Collection[str], scratch: Scratch) -> Graph:
    entities = _read(folder, "entities", ids=("id",), names=("title", "name"), only=("id", "title", "name", *keep))
    concepts = _read(folder, "concepts", ids=("id",), names=("category", "name"), need=("category",))
    links = open_edges(_find(folder, "entity_concept"), scratch, ("entity", "concept"))
    entity_map = IdMap(entities.columns.pop("id"), str(entities.path), entity, entities.typed)
    concept_map = IdMap(concepts.columns.pop("id"), str(concepts.path), "concept", concepts.typed)
    titles = next((entities.columns.pop(n) for n in ("title", "name") if n in entities.columns), None)

    kinds, code = np.unique(concepts.columns.pop("category"), return_inverse=True)
    _check_categories(concepts.path, kinds.tolist(), entity, exclude_categories)
    order = np.argsort(code, kind="stable")  # concepts of one category side by side, in the order of the table
    first = np.searchsorted(code[order], np.arange(len(kinds)))
    local = np.empty(len(code), np.int64)
    local[order] = np.arange(len(code)) - first[code[order]]

    link_type = (entity, "has", "")  # no category is called so
    source, concept = links.positions({entity: entity_map, "": concept_map}, link_type, scratch)
    left: list[str] = []
    link_attrs = attributes(links.rest(scratch), "entity_concept", left, scratch)
    num_nodes = {entity: len(entity_map)}
    ids, names = {}, {}
    if not entity_map.is_range:
        ids[entity] = entity_map.ids
    if titles is not None:
        names[entity] = titles
    edges: dict[EdgeType, tuple[Tensor, Tensor]] = {}
    edge_attrs: dict[EdgeType, dict[str, Tensor]] = {}
    link_code, target, counts = _by_category(concept, code, local, len(kinds), scratch)
    split = parted([_wide(source, scratch), target, *link_attrs.values()], link_code, counts, scratch)
    for number, kind in enumerate(kinds.tolist()):
        if kind in exclude_categories:
            continue
        members = order[first[number] : first[number] + np.count_nonzero(code == number)]
        num_nodes[kind] = len(members)
        ids[kind] = concept_map.ids[members]
        if "name" in concepts.columns:
            names[kind] = concepts.columns["name"][members]
        edge_type = (entity, f"has_{kind}", kind)
        from_, to, *values = split[number]
        edges[edge_type] = (from_, to)
        edge_attrs[edge_type] = dict(zip(link_attrs, values, strict=True))
    if find_table(folder, "co_engaged") is not None:
        edge_type = (entity, "co_engaged", entity)
        edges[edge_type], edge_attrs[edge_type] = _co_engaged(folder, entity_map, left, scratch)
    node_attrs = {t: attributes(entities, entity, left) if t == entity else {} for t in num_nodes}
    if left:
        warnings.warn(f"columns of text are not carried into parts: {', '.join(left)}", HaspWarning, stacklevel=3)
    return Graph(num_nodes, edges, node_attrs, edge_attrs, ids, names)


def find_table(folder: Path, name: str) -> Path | None:
    """The table called ``name`` in a folder, whatever its format."""
    return next((folder / f"{name}{s}" for s in SUFFIXES if (folder / f"{name}{s}").exists()), None)


def both_directions(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Undirected pairs as directed edges: source and destination ``[2m]``, and the pair of each; a self-loop stays single."""
    back = (a != b).nonzero()[:, 0]
    pair = torch.cat([torch.arange(a.numel()), back])
    return torch.cat([a, b[back]]), torch.cat([b, a[back]]), pair


def _read(
    folder: Path,
    name: str,
    *,
    ids: Collection[str],
    names: Collection[str] = (),
    only: Collection[str] | None = None,
    need: Collection[str] = (),
) -> Table:
    path = _find(folder, name)
    table = read_table(path, ids=ids, names=names, only=only)
    for column in (*ids, *need):
        if column not in table.columns:
            have = [*table.columns, *table.text]
            raise InvalidGraph(f"{path}: the table has a column {column!r}, got {have}; rename or add it")
    return table


def _find(folder: Path, name: str) -> Path:
    path = find_table(folder, name)
    if path is None:
        raise InvalidGraph(
            f"{folder}: a catalogue has the table {name!r} ({' or '.join(name + s for s in SUFFIXES)}), and it is not there; "
            "add it, or see hasp.sources.catalogue for the layout"
        )
    return path


def _by_category(concept: Tensor, code: Array, local: Array, kinds: int, scratch: Scratch) -> tuple[Array, Tensor, list[int]]:
    """Per link the number of its concept's category and the concept's place in it; links per category."""
    group: Array = scratch.empty(concept.numel(), np.int32)
    target: Array = scratch.empty(concept.numel(), np.int64)
    counts = np.zeros(kinds, np.int64)
    for low, high in rows_at_once(concept.numel()):
        own = concept[low:high].numpy()
        group[low:high], target[low:high] = code[own], local[own]
        counts += np.bincount(group[low:high], minlength=kinds)
    return group, torch.from_numpy(target), counts.tolist()


def _wide(ids: Tensor, scratch: Scratch) -> Tensor:
    """As int64, which the edges of a catalogue are."""
    out: Array = scratch.empty(ids.numel(), np.int64)
    for low, high in rows_at_once(ids.numel()):
        out[low:high] = ids[low:high].numpy()
    return torch.from_numpy(out)


def _check_categories(path: Path, kinds: list[str], entity: str, exclude: Collection[str]) -> None:
    for kind in exclude:
        if kind not in kinds:
            raise InvalidGraph(f"{path}: the category {kind!r} to leave out is not among {kinds}; correct the name")
    for kind in kinds:
        if not kind or "__" in kind or kind == entity:
            raise InvalidGraph(
                f"{path}: a category becomes a node type: not empty, without '__', other than {entity!r}, got {kind!r}; "
                "rename it"
            )


def _co_engaged(
    folder: Path, entities: IdMap, left: list[str], scratch: Scratch
) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
    table = open_edges(_find(folder, "co_engaged"), scratch, ("a", "b"))
    edge_type = (entities.node_type, "co_engaged", entities.node_type)
    a, b = (_wide(end, scratch) for end in table.positions({entities.node_type: entities}, edge_type, scratch))
    attrs = attributes(table.rest(scratch), "co_engaged", left, scratch)
    first, count = distinct(a, b, scratch)
    if count < table.rows:
        warnings.warn(
            f"{table.path}: each pair stands once, but {table.rows - count:,} of {table.rows:,} are copies (or the same "
            "pair turned round), which are left out",
            HaspWarning,
            stacklevel=4,
        )
        a, b, *kept = parted([a, b, *attrs.values()], ~first, [count], scratch)[0]
        attrs = dict(zip(attrs, kept, strict=True))
    source, destination, values = doubled(a, b, list(attrs.values()), scratch)
    return (source, destination), dict(zip(attrs, values, strict=True))
