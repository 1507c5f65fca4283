"""``hasp``: plan, build, report, verify, export and generate in a shell. Heavy imports wait until a command runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hasp.console import DEBUG, Bar, command, say, show, show_json
from hasp.errors import CorruptPart, HaspError
from hasp.options import (
    SOURCE,
    Backend,
    Balance,
    Eel,
    Entity,
    Exclude,
    GpuMemory,
    Gpus,
    Html,
    Imbalance,
    Json,
    Kind,
    MaxPart,
    NumParts,
    Parts,
    RayAddress,
    Reverse,
    Sample,
    Semantic,
    Source,
    Verified,
    Weight,
    as_built,
    one_budget,
    open_graph,
    read_graph,
    read_or_spread,
)
from hasp.parallel import writers

if TYPE_CHECKING:
    from hasp.graph import Graph
    from hasp.plan import Plan
    from hasp.schema import Roles

__all__ = ["app", "main"]

_EPILOG = """\b
An example:
  hasp generate shop/ --titles 20000              make a catalogue up
  hasp plan shop/ --max-part-bytes 2MB            how many parts, how large
  hasp build shop/ parts/ --num-parts 8           cut it, and print the report
  hasp verify parts/ --source shop/               check every byte and every rule
  hasp report parts/ --html report.html           the report as one page

\b
Then, in Python:
  from hasp import HASPData, HASPLoader
  for batch in HASPLoader(HASPData.open("parts/"), shuffle=True): ...

\b
Exit codes:
  0    done; for verify: nothing is wrong
  1    something unexpected happened
  2    bad input, settings or files: each problem is a line with the rule, the value and the remedy
  130  interrupted: run a build again to resume it
"""

app = typer.Typer(
    name="hasp",
    help="Cut a heterogeneous graph into self-contained parts for PyTorch Geometric: entities are partitioned along their "
    "links (EELs), semantic nodes duplicated in every part, other types sampled.",
    epilog=_EPILOG,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False,
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
) -> None:
    DEBUG["on"] = debug
    if version:
        from hasp import __version__

        show(f"hasp {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        show(context.get_help())


@app.command("plan", short_help="how many parts, and how large; builds nothing")
@command
def plan_command(
    source: Source,
    num_parts: NumParts = None,
    max_part_bytes: MaxPart = None,
    gpu_memory: GpuMemory = None,
    gpus: Gpus = 1,
    entity: Entity = [],  # noqa: B006 - typer copies it
    eel: Eel = [],  # noqa: B006
    semantic: Semantic = [],  # noqa: B006
    sample: Sample = [],  # noqa: B006
    exclude: Exclude = [],  # noqa: B006
    reverse: Reverse = False,
    kind: Kind = "auto",
    balance: Balance = "nodes",
    imbalance: Imbalance = 0.03,
    backend: Backend = "auto",
    weight: Weight = "",
    halo: Annotated[
        bool, typer.Option("--halo", help="cut the graph, and count what halos of its parts hold and read")
    ] = False,
    seed: Annotated[int, typer.Option(help="of the build, for --halo")] = 0,
    json: Json = False,
) -> None:
    """How many parts, and how large, before anything is built."""
    from hasp.config import BuildConfig
    from hasp.halo_plan import predict_halo
    from hasp.plan import plan
    from hasp.split import check_weights

    graph, roles = read_graph(source, kind, exclude, reverse, entity, eel, semantic, sample)
    graph.check()
    check_weights(graph, roles, weight)
    budget = one_budget(num_parts, max_part_bytes, gpu_memory)
    how: dict[str, Any] = {"balance": balance, "imbalance": imbalance, "backend": backend, "weight": weight}
    planned = plan(graph, roles, **budget, gpus=gpus, **how)
    found = predict_halo(graph, roles, BuildConfig(planned.num_parts, seed, **how)) if halo else None
    if json:
        more = {} if found is None else {"halo": dataclasses.asdict(found)}
        show_json({"plan": dataclasses.asdict(planned), "roles": roles.to_json(), **more})
    else:
        show(_plan_text(roles, planned) + ("" if found is None else f"\n{found.explain()}"))


@app.command("build", short_help="cut a graph into parts")
@command
def build_command(
    source: Source,
    out: Annotated[Path, typer.Argument(help="folder for the parts")],
    num_parts: NumParts = None,
    max_part_bytes: MaxPart = None,
    gpu_memory: GpuMemory = None,
    gpus: Gpus = 1,
    entity: Entity = [],  # noqa: B006
    eel: Eel = [],  # noqa: B006
    semantic: Semantic = [],  # noqa: B006
    sample: Sample = [],  # noqa: B006
    exclude: Exclude = [],  # noqa: B006
    reverse: Reverse = False,
    kind: Kind = "auto",
    balance: Balance = "nodes",
    imbalance: Imbalance = 0.03,
    backend: Backend = "auto",
    weight: Weight = "",
    seed: Annotated[int, typer.Option(help="equal seeds give equal bytes")] = 0,
    threads: Annotated[int, typer.Option(help="0: one per core; never changes the result")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace what the folder holds")] = False,
    verify: Annotated[str, typer.Option(help="check afterwards: none, files, or source (everything)")] = "none",
    ray: RayAddress = "",
    html: Html = None,
    json: Json = False,
) -> None:
    """Cut a graph into parts. An interrupted build is continued; another graph's parts are never overwritten unasked."""
    from hasp.build import build
    from hasp.config import BuildConfig, folder, parse_bytes
    from hasp.data import HASPData
    from hasp.plan import plan
    from hasp.text import format_bytes

    folder("out", out)
    if verify not in ("none", "files", "source"):
        raise HaspError(f"--verify is none, files or source, got {verify!r}; choose one of these")
    if ray and verify == "source":
        raise HaspError(
            "--verify source reads the graph on one machine, and --ray does not; run hasp verify --source afterwards"
        )
    budget = one_budget(num_parts, max_part_bytes, gpu_memory)
    how: dict[str, Any] = {"balance": balance, "imbalance": imbalance, "backend": backend, "weight": weight}
    given = (source, kind, exclude, reverse, entity, eel, semantic, sample)
    with read_or_spread(ray, weight, *given) as (graph, roles, spread):
        planned = plan(graph, roles, **budget, gpus=gpus, **how)
        (say if json else show)(_plan_text(roles, planned) + "\n")
        if spread is not None:
            # Edges are grouped by part in files beside the parts, which go when all are written.
            planned = dataclasses.replace(planned, scratch_bytes=0, output_bytes=2 * planned.output_bytes)
        planned.check(threads=writers(threads), root=out)
        config = BuildConfig(planned.num_parts, seed, threads=threads, **how)
        told: list[str] = []  # said when the bar is gone
        with Bar(quiet=json) as bar:
            how_to: dict[str, Any] = {"overwrite": overwrite, "progress": bar, "say": told.append, "spread": spread}
            store = build(graph, roles, config, root=out, plan=planned, **how_to)
    for words in told:
        say(words)
    data = HASPData.of(store)
    report = data.report()
    largest = max(report.loaded_bytes, default=0)
    if max_part_bytes is not None and largest > parse_bytes(max_part_bytes):
        more = planned.num_parts + max(gpus, planned.num_parts // 8)
        say(f"warning: the largest part takes {format_bytes(largest)}, above {max_part_bytes}; try --num-parts {more}")
    if html is not None:
        say(f"wrote {report.to_html(html, data.manifest.origin)}")
    problems = [] if verify == "none" else _verify(store, graph if verify == "source" else None, json)
    if json:
        show_json({"parts": str(out), "report": report.to_json(), "problems": problems})
    else:
        show(str(report))
    _complain(problems, json)


@app.command("report", short_help="what a build kept, cut and needs")
@command
def report_command(parts: Parts, html: Html = None, verify: Verified = "first", json: Json = False) -> None:
    """What a build kept, cut and needs: per edge type and per part, predicted beside measured."""
    from hasp.data import HASPData

    data = HASPData.open(parts, verify=verify)
    report = data.report()
    if html is not None:
        say(f"wrote {report.to_html(html, data.manifest.origin)}")
    if json:
        show_json(report.to_json())
    else:
        show(str(report))


@app.command("verify", short_help="check every checksum and every rule of a build")
@command
def verify_command(
    parts: Parts,
    source: Annotated[str | None, typer.Option(help="also compare with the graph it was made of: " + SOURCE)] = None,
    exclude: Exclude = [],  # noqa: B006
    reverse: Reverse = False,
    kind: Kind = "auto",
    json: Json = False,
) -> None:
    """Check every checksum and every rule that a build promises."""
    from hasp.store.read import FolderStore

    graph = None if source is None else open_graph(source, kind, exclude, reverse)
    try:
        store = FolderStore.open(parts, verify="size")
        if graph is not None and not reverse:
            graph = as_built(graph, store.manifest.num_edges)
        problems = _verify(store, graph, json)
    except CorruptPart as error:
        problems = [str(error)]
    if json:
        show_json({"parts": str(parts), "source": source, "ok": not problems, "problems": problems})
    elif not problems:
        against = "" if source is None else f" and the source {source}"
        show(f"{parts}: {store.manifest.config['num_parts']} parts agree with their manifest{against}; nothing is wrong")
    _complain(problems, json, of_source=graph is not None)


@app.command("export", short_help="who is in which part, or one part, as tables")
@command
def export_command(
    parts: Parts,
    out: Annotated[Path, typer.Argument(help="a .csv or .parquet file; with --part, a folder")],
    part: Annotated[int | None, typer.Option(help="write this part as a folder of tables instead")] = None,
    format: Annotated[str, typer.Option(help="of the tables: csv, csv.gz or parquet")] = "csv",
    verify: Verified = "first",
    json: Json = False,
) -> None:
    """Who is in which part, with your own ids; or one part as a folder of tables."""
    from hasp.data import HASPData
    from hasp.export import part_graph, write_node_part, write_origin

    data = HASPData.open(parts, verify=verify)
    if part is None:
        rows = write_node_part(data, out)
        text = f"wrote the part of {rows:,} entities to {out}"
    else:
        rows = _write_tables(part_graph(data, part), out, format)
        text = f"wrote part {part}, {rows:,} nodes, to {out}"
    write_origin(data, out, part)
    if json:
        show_json({"out": str(out), "rows": rows})
    else:
        show(text)


@app.command("generate", short_help="make a catalogue up, as a folder of tables")
@command
def generate_command(
    out: Annotated[Path, typer.Argument(help="folder for the tables")],
    titles: Annotated[int, typer.Option(help="entities")] = 20_000,
    talent: Annotated[int, typer.Option(help="nodes of a further type, meant for --sample talent=<quota>")] = 0,
    features: Annotated[int, typer.Option(help="width of the float attribute x of the titles; 0: none")] = 0,
    seed: Annotated[int, typer.Option(help="every other number gives another catalogue")] = 0,
    format: Annotated[str, typer.Option(help="csv, csv.gz or parquet")] = "csv",
    json: Json = False,
) -> None:
    """Make a catalogue up, with the shape of the paper's graph, as a folder of tables."""
    from hasp.sources.synthetic import Catalogue, generate

    graph = generate(Catalogue(num_titles=titles, seed=seed, num_features=features, num_talent=talent)).graph
    nodes = _write_tables(graph, out, format)
    edges = sum(graph.num_edges(e) for e in graph.edges)
    if json:
        show_json({"out": str(out), "nodes": nodes, "edges": edges})
    else:
        show(f"wrote {nodes:,} nodes and {edges:,} edges to {out}; next: hasp plan {out} --num-parts 8")


def _plan_text(roles: Roles, planned: Plan) -> str:
    return f"{roles.explain()}\n\n{planned.explain()}"


def _verify(store: Any, graph: Graph | None, quiet: bool) -> list[str]:
    from hasp.verify import verify

    with Bar(quiet) as bar:
        return verify(store, graph, bar)


def _complain(problems: list[str], json: bool, of_source: bool = False) -> None:
    """Name the problems and leave with 2, if there are any."""
    if problems:
        if not json:
            show("\n".join(problems))
        count = "1 problem" if len(problems) == 1 else f"{len(problems):,} problems"
        sure = "if this is the source of the parts, " if of_source else ""
        say(f"{count} found; {sure}rebuild with hasp build --overwrite")
        raise typer.Exit(2)


def _write_tables(graph: Graph, out: Path, format: str) -> int:
    from hasp.sources.tables import write_tables

    write_tables(graph, out, format)  # type: ignore[arg-type]
    return sum(graph.num_nodes.values())


def main() -> None:
    """The ``hasp`` of the shell."""
    app(prog_name="hasp")


if __name__ == "__main__":
    main()
