"""Options: the arguments that the commands of ``hasp`` share, each with its help text, and how their texts are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hasp.errors import HaspError

if TYPE_CHECKING:
    from hasp.cluster.spread import Spread
    from hasp.graph import Graph
    from hasp.schema import EdgeType, Roles, Schema

__all__ = [
    "SOURCE",
    "Backend",
    "Balance",
    "Eel",
    "Entity",
    "Exclude",
    "GpuMemory",
    "Gpus",
    "Html",
    "Imbalance",
    "Json",
    "Kind",
    "MaxPart",
    "NumParts",
    "Parts",
    "RayAddress",
    "Reverse",
    "Sample",
    "Semantic",
    "Source",
    "Verified",
    "Weight",
    "as_built",
    "one_budget",
    "open_graph",
    "read_graph",
    "read_or_spread",
    "sampled",
]

SOURCE = "folder of tables, catalogue or MovieLens files, a HeteroData saved as .pt, or synthetic:<titles>[:<seed>]"
Source = Annotated[str, typer.Argument(help=SOURCE)]
Parts = Annotated[Path, typer.Argument(help="folder of a finished build")]
Json = Annotated[bool, typer.Option("--json", help="print JSON alone on standard output")]
Kind = Annotated[str, typer.Option(help="what the source is, where it is not recognised: tables, catalogue, movielens, ...")]
Exclude = Annotated[list[str], typer.Option(help="category or node type to leave out; repeat for more")]
Reverse = Annotated[bool, typer.Option("--reverse", help="add reverse edge types, as PyG's ToUndirected")]
Entity = Annotated[list[str], typer.Option(help="node type that is partitioned; repeat for more [inferred]")]
Eel = Annotated[list[str], typer.Option(help="link type whose cut is minimised, title__co_engaged__title [inferred]")]
Semantic = Annotated[list[str], typer.Option(help="node type duplicated in every part [every other type]")]
Sample = Annotated[list[str], typer.Option(help="type=quota: a random sample of so many nodes in each part")]
NumParts = Annotated[int | None, typer.Option(help="number of parts")]
MaxPart = Annotated[str | None, typer.Option("--max-part-bytes", help="instead: the most a loaded part may take, 2GB")]
GpuMemory = Annotated[str | None, typer.Option(help="instead: memory of a GPU; a step is taken as 64 times its batch")]
Gpus = Annotated[int, typer.Option(help="a chosen number of parts is a multiple of this")]
Balance = Annotated[str, typer.Option(help="what entities without links even out: nodes, edges or bytes")]
Imbalance = Annotated[float, typer.Option(help="how much above the mean the partitioner may load a part")]
Backend = Annotated[str, typer.Option(help="partitioner: auto (metis or multilevel, by size and degrees), metis, stream, ...")]
Weight = Annotated[str, typer.Option(help="edge attribute of the EELs used as edge weight")]
RayAddress = Annotated[str, typer.Option("--ray", help="let Ray's workers read and write: local, auto, or an address")]
Html = Annotated[Path | None, typer.Option(help="also write the report as one page")]
Verified = Annotated[str, typer.Option("--verify", help="trust in files: size, first (hash once) or always")]


def sampled(texts: list[str]) -> dict[str, int]:
    """``["talent=3"]`` -> ``{"talent": 3}``. Raises :class:`HaspError` for what is not written so."""
    return dict(_quota(text) for text in texts)


def one_budget(num_parts: int | None, max_part_bytes: str | None, gpu_memory: str | None) -> dict[str, Any]:
    """What decides the number of parts, by the names of :func:`hasp.plan.plan`. Raises :class:`HaspError` if nothing does."""
    budget = {"num_parts": num_parts, "max_part_bytes": max_part_bytes, "gpu_memory": gpu_memory}
    if all(v is None for v in budget.values()):
        raise HaspError("nothing decides the number of parts; give --num-parts, --max-part-bytes or --gpu-memory")
    return budget


def open_graph(source: str, kind: str, exclude: list[str], reverse: bool) -> Graph:
    """:func:`hasp.sources.open_source`, imported when it is needed."""
    from hasp.sources import open_source

    return open_source(source, kind=kind, exclude=exclude, reverse=reverse)  # type: ignore[arg-type]


def as_built(graph: Graph, num_edges: Mapping[EdgeType, int]) -> Graph:
    """The graph, with reverse edge types if the build has as many edges then: ``--reverse`` need not be said twice."""
    from hasp.sources.reverse import add_reverse

    def counts(g: Graph) -> dict[EdgeType, int]:
        return {e: g.num_edges(e) for e in g.edges}

    if counts(graph) == dict(num_edges):
        return graph
    both = add_reverse(graph)
    return both if counts(both) == dict(num_edges) else graph


def read_graph(
    source: str,
    kind: str,
    exclude: list[str],
    reverse: bool,
    entity: list[str],
    eel: list[str],
    semantic: list[str],
    sample: list[str],
) -> tuple[Graph, Roles]:
    """Open a source and give its types their roles."""
    schema = _schema(entity, eel, semantic, sample)
    graph = open_graph(source, kind, exclude, reverse)
    return graph, schema.resolve(graph.num_nodes, graph.edges)


@contextmanager
def read_or_spread(
    ray: str, weight: str, source: str, kind: str, exclude: list[str], reverse: bool, *roles: list[str]
) -> Iterator[tuple[Graph, Roles, Spread | None]]:
    """As :func:`read_graph`; with the address of a Ray cluster, its workers read the graph."""
    if not ray:
        yield *read_graph(source, kind, exclude, reverse, *roles), None
        return
    if kind not in ("auto", "tables"):
        raise HaspError(f"Ray's workers read tables, got --kind {kind}; write the graph as tables, or leave --ray out")
    from hasp.cluster.on_ray import OnRay
    from hasp.cluster.ray_session import ray_session
    from hasp.cluster.tables import open_spread

    schema = _schema(*roles)
    with ray_session(ray) as session:
        spread, own = open_spread(source, OnRay(session), schema, exclude=exclude, reverse=reverse, weight=weight)
        yield spread.graph, own, spread


def _schema(entity: list[str], eel: list[str], semantic: list[str], sample: list[str]) -> Schema:
    from hasp.schema import Schema, parse_edge_name

    return Schema(entity or None, [parse_edge_name(e) for e in eel] or None, semantic or None, sampled(sample))


def _quota(text: str) -> tuple[str, int]:
    name, found, number = text.rpartition("=")
    if not found or not name or not number.replace("_", "").isdecimal():
        raise HaspError(f"--sample is <node type>=<nodes per part>, got {text!r}; write it so")
    return name, int(number)
