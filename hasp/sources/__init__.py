"""Where graphs come from: folders of tables, catalogues, MovieLens' own files, saved HeteroData, made-up catalogues."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from hasp.errors import HaspError, InvalidGraph
from hasp.graph import Graph
from hasp.sources.remote import is_url

__all__ = ["KINDS", "Kind", "open_source", "without"]

Kind = Literal["auto", "tables", "catalogue", "movielens", "hetero_data", "synthetic"]
KINDS = ("auto", "tables", "catalogue", "movielens", "hetero_data", "synthetic")


def open_source(path: str | Path, *, kind: Kind = "auto", exclude: Collection[str] = (), reverse: bool = False) -> Graph:
    """Read a graph from wherever it is, and recognise what that is.

    Args:
        path: a folder or file, a URL of a folder of tables (:mod:`hasp.sources.remote`), or ``"synthetic:<titles>"`` or
            ``"synthetic:<titles>:<seed>"``.
        kind: ``tables`` (:mod:`hasp.sources.tables`), ``catalogue`` (:mod:`hasp.sources.catalogue`), ``movielens``
            (:mod:`hasp.sources.movielens`), ``hetero_data`` (a ``HeteroData`` saved by ``torch.save``), ``synthetic``
            (:mod:`hasp.sources.synthetic`); ``auto`` looks at the path.
        exclude: categories of a catalogue (or node types of any other graph) to leave out, with their edges.
        reverse: add the reverse edge types, see :func:`hasp.sources.reverse.add_reverse`.

    Raises:
        HaspError: an unknown kind, or nothing that looks like a graph; the message says what was looked for.
        InvalidGraph: the graph breaks a rule.
    """
    if not isinstance(path, (str, Path)):
        raise HaspError(f"path={path!r:.80}: a folder, a file or a URL; a HeteroData goes to HASPData itself")
    if kind not in KINDS:
        raise HaspError(f"kind is one of {', '.join(KINDS)}, got {kind!r}; correct it")
    found = _recognise(path) if kind == "auto" else kind
    if found == "synthetic":
        graph = _synthetic(str(path))
    elif found == "catalogue":
        from hasp.sources.catalogue import read_catalogue

        graph = read_catalogue(path, exclude)
    elif found == "movielens":
        from hasp.sources.movielens import read_movielens

        graph = read_movielens(path)
    elif found == "hetero_data":
        graph = _hetero_data(Path(path))
    else:
        from hasp.sources.tables import read_tables

        graph = read_tables(path)
    if exclude and found != "catalogue":
        graph = without(graph, exclude)
    if reverse:
        from hasp.sources.reverse import add_reverse

        graph = add_reverse(graph)
    return graph


def _recognise(path: str | Path) -> str:
    from hasp.sources.catalogue import find_table

    if str(path).startswith("synthetic:"):
        return "synthetic"
    if is_url(path):
        return "tables"
    folder = Path(path)
    if folder.is_file():
        if folder.suffix in (".pt", ".pth"):
            return "hetero_data"
        raise HaspError(
            f"a source is a folder, a HeteroData saved as .pt, or synthetic:<titles>, got the file {folder}; give its folder"
        )
    if not folder.is_dir():
        raise HaspError(f"{folder} does not exist; give a folder, a .pt file, or synthetic:<titles>[:<seed>]")
    if (folder / "edges").is_dir() or (folder / "nodes").is_dir():
        return "tables"
    if find_table(folder, "entities") and find_table(folder, "concepts"):
        return "catalogue"
    if any((folder / f"movies{s}").exists() and (folder / f"ratings{s}").exists() for s in (".csv", ".csv.gz", ".dat")):
        return "movielens"
    have = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
    raise HaspError(
        f"{folder} is no source: looked for edges/ or nodes/ (tables), entities.* with concepts.* (catalogue) and "
        f"movies.* with ratings.* (MovieLens), found {have}; see hasp.sources for the layouts"
    )


def _synthetic(spec: str) -> Graph:
    from hasp.sources.synthetic import Catalogue, generate

    pieces = spec.split(":")
    if len(pieces) not in (2, 3) or not all(p.replace("_", "").isdecimal() for p in pieces[1:]):
        raise HaspError(f"a made-up catalogue is synthetic:<titles> or synthetic:<titles>:<seed>, got {spec!r}")
    return generate(Catalogue(int(pieces[1]), int(pieces[2]) if len(pieces) == 3 else 0)).graph


def _hetero_data(path: Path) -> Graph:
    """A ``HeteroData`` saved by ``torch.save``, unpickled by torch's restricted reader, which runs no code of the file."""
    import torch
    from torch_geometric.data import HeteroData
    from torch_geometric.data import storage as stores

    allowed = [HeteroData, stores.BaseStorage, stores.NodeStorage, stores.EdgeStorage, stores.GlobalStorage]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle's protocol: what the restricted reader cannot read, it refuses
            data = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise InvalidGraph(
            f"{path}: a .pt source holds one HeteroData of plain tensors, and this file holds something else, which is not "
            f"loaded because it could run code ({reason}); save the HeteroData alone, or write tables"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidGraph(f"{path}: not a whole file of torch.save ({reason}); save or copy it again") from error
    return Graph.from_hetero_data(data)


def without(graph: Graph, exclude: Collection[str]) -> Graph:
    """A graph without some node types and their edges. Raises :class:`HaspError` for a type that it does not have."""
    for name in exclude:
        if name not in graph.num_nodes:
            raise HaspError(f"exclude names the node type {name!r}, but the graph has {list(graph.num_nodes)}; correct it")
    edges = {e: ends for e, ends in graph.edges.items() if e[0] not in exclude and e[2] not in exclude}
    nodes = {t: n for t, n in graph.num_nodes.items() if t not in exclude}
    return Graph(
        nodes,
        edges,
        {t: graph.node_attrs.get(t, {}) for t in nodes},
        {e: graph.edge_attrs.get(e, {}) for e in edges},
        {t: ids for t, ids in graph.ids.items() if t in nodes},
        {t: names for t, names in graph.names.items() if t in nodes},
    )
