"""The graphs that partitioners are compared on: by name, from a folder, or from a file of CSR arrays."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.graphs import Planted, planted
from hasp.csr import linked_nodes, symmetric_csr
from hasp.cut import check_csr
from hasp.errors import HaspError
from hasp.split import split

__all__ = ["KINDS", "csr_of"]

Ints = npt.NDArray[Any]
Edges = tuple[Ints, Ints, int]


def _planted(nodes: int, edges: int, mixing: int = 20, seed: int = 0) -> Edges:
    source, target, _ = planted(Planted(nodes, edges, seed, mixing=mixing / 100))
    return source, target, nodes


def _grid(side: int, seed: int = 0) -> Edges:
    """A square mesh with one diagonal per cell, ids shuffled."""
    node = np.random.default_rng(seed).permutation(side * side).reshape(side, side)
    pairs = [(node[:, :-1], node[:, 1:]), (node[:-1], node[1:]), (node[:-1, :-1], node[1:, 1:])]
    source, target = (np.concatenate([p[end].ravel() for p in pairs]) for end in (0, 1))
    return source, target, side * side


def _regular(nodes: int, degree: int, seed: int = 0) -> Edges:
    """Every node has ``degree`` ends of edges, joined at random: no structure and no hubs."""
    random = np.random.default_rng(seed)
    source = np.tile(np.arange(nodes), degree // 2)
    return source, np.concatenate([random.permutation(nodes) for _ in range(degree // 2)]), nodes


def _attached(nodes: int, each: int, seed: int = 0) -> Edges:
    """Preferential attachment (Barabasi and Albert, 1999): ``each`` edges a node, to the end of an earlier edge."""
    random = np.random.default_rng(seed)
    edge = np.arange(nodes * each)
    # Slot 2 i is the source of edge i; slot 2 i + 1, its target, repeats a random earlier slot. Follow until a source.
    repeats = (random.random(edge.size) * (2 * edge + 1)).astype(np.int64)
    slot = repeats.copy()
    while (odd := slot % 2 == 1).any():
        slot[odd] = repeats[slot[odd] // 2]
    name = random.permutation(nodes)
    return name[edge // each], name[slot // 2 // each], nodes


def _recursive(scale: int, edges: int, seed: int = 0) -> Edges:
    """R-MAT (Chakrabarti, Zhan and Faloutsos, 2004): a power law with a dense core, ``2 ** scale`` nodes."""
    random = np.random.default_rng(seed)
    source, target = np.zeros((2, edges), dtype=np.int64)
    for _ in range(scale):
        quarter = np.searchsorted([0.57, 0.76, 0.95], random.random(edges))
        source, target = source * 2 + quarter // 2, target * 2 + quarter % 2
    name = random.permutation(1 << scale)
    return name[source], name[target], 1 << scale


KINDS: dict[str, tuple[Callable[..., Edges], str]] = {
    "planted": (_planted, "planted:<nodes>:<edges>[:<percent of edges that leave their community>[:<seed>]]"),
    "grid": (_grid, "grid:<side>[:<seed>]"),
    "regular": (_regular, "regular:<nodes>:<degree>[:<seed>]"),
    "attached": (_attached, "attached:<nodes>:<edges of a node>[:<seed>]"),
    "recursive": (_recursive, "recursive:<log2 of nodes>:<edges>[:<seed>]"),
}
"""Name -> (generator, how it is written)."""


def csr_of(graph: str, entity: Sequence[str] = (), eel: Sequence[str] = ()) -> tuple[Ints, Ints]:
    """The clean symmetric CSR of a graph's links.

    Args:
        graph: ``<kind>:<numbers>`` (:data:`KINDS`), an ``.npz`` file with ``indptr`` and ``indices``, or any source that
            :func:`hasp.open_source` reads, whose EELs are taken.
        entity: node types that are partitioned; empty: inferred.
        eel: link types, ``title__co_engaged__title``; empty: inferred.

    Raises:
        HaspError: none of these, or a graph without a link.
    """
    kind, _, rest = graph.partition(":")
    if kind in KINDS:
        make, spelled = KINDS[kind]
        try:
            return _clean(*make(*(int(n) for n in rest.replace("_", "").split(":"))))
        except (TypeError, ValueError) as error:
            raise HaspError(f"a made-up graph is {spelled}, got {graph!r}; write it so") from error
    indptr, indices = _npz(graph) if graph.endswith(".npz") else _eels(graph, entity, eel)
    if not indices.size:
        raise HaspError(f"{graph} has no link between two entities, so there is nothing to cut; check it with hasp plan")
    return indptr, indices


def _npz(path: str) -> tuple[Ints, Ints]:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in ("indptr", "indices") if name in file.files}
            names = sorted(file.files)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise HaspError(f"{path} is no .npz file ({error}); save indptr and indices by numpy.savez") from error
    if len(found) < 2:
        raise HaspError(f"{path} has {names}, not indptr and indices; save these")
    indptr, indices = check_csr(found["indptr"], found["indices"])
    n = indptr.size - 1
    return _clean(np.repeat(np.arange(n), np.diff(indptr)), indices, n)


def _eels(graph: str, entity: Sequence[str], eel: Sequence[str]) -> tuple[Ints, Ints]:
    from hasp.schema import Schema, parse_edge_name
    from hasp.sources import open_source

    source = open_source(Path(graph) if not graph.startswith("synthetic:") else graph)
    schema = Schema(list(entity) or None, [parse_edge_name(e) for e in eel] or None)
    eels = split(source, schema.resolve(source.num_nodes, source.edges))
    return eels.indptr, eels.indices


def _clean(source: Any, target: Any, n: int) -> tuple[Ints, Ints]:
    lists = [(source, target, 0, 0)]
    return symmetric_csr(lists, linked_nodes(lists, n))
