"""The command ``hasp-models``."""

from __future__ import annotations

import dataclasses
import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from hasp.console import DEBUG, command, show, show_json
from hasp.errors import HaspError
from hasp_models.cli_rank import evaluate, similar
from hasp_models.texts import EPILOG

__all__ = ["app", "main"]

app = typer.Typer(
    help="Models over HASP parts: pretrain concepts, train SemanticGNN, embed, find similar entities, evaluate, reproduce.",
    epilog=EPILOG,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # it takes "[the first]" for markup and leaves it out
)

Source = Annotated[str, typer.Argument(help="folder of parts, or a source as hasp build takes it")]
Json = Annotated[bool, typer.Option("--json", help="print JSON alone on standard output")]
Seed = Annotated[int, typer.Option(help="decides everything random", min=0)]


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False,
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
) -> None:
    DEBUG["on"] = debug
    if version:
        from hasp import __version__

        show(f"hasp-models {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        show(context.get_help())


@app.command(short_help="one catalogue through every stage, to similar titles")
@command
def demo(
    out: Annotated[Path, typer.Option(help="folder for the parts and the report")] = Path("demo"),
    titles: Annotated[int, typer.Option(help="size of the made-up catalogue", min=1_000)] = 20_000,
    epochs: Annotated[int, typer.Option(help="passes over all parts", min=1)] = 20,
    seed: Annotated[int, typer.Option(help="decides everything random", min=0)] = 0,
) -> None:
    """One catalogue through every stage: plan, build, pretrain, train on parts, embed, rank held-out links, similar titles."""
    from hasp_models.demo import demo as run

    run(out, titles, epochs, seed)


@app.command(short_help="vectors for concepts and relations (TransE, Eq. 2)")
@command
def pretrain(
    source: Source,
    out: Annotated[Path, typer.Option(help="folder for the vectors")],
    method: Annotated[str, typer.Option(help="transe, distmult, complex or rotate")] = "transe",
    dim: Annotated[int, typer.Option(help="length of the vectors")] = 64,
    epochs: Annotated[int, typer.Option(help="passes over the facts")] = 100,
    negatives: Annotated[str, typer.Option(help="type, or pool: the paper's whole entity pool")] = "type",
    lr: Annotated[float, typer.Option(help="step size")] = 0.01,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Embed concepts and relations from the facts that join them (TransE, Eq. 2)."""
    from hasp_models.tasks import pretrain_concepts

    options = {"method": method, "dim": dim, "epochs": epochs, "negatives": negatives, "lr": lr, "seed": seed}
    done = pretrain_concepts(source, out, quiet=json, **options)
    if json:
        show_json({"out": str(out), **done})
    else:
        show(f"{done['triples']:,} facts, {done['nodes']:,} nodes, {done['relations']} relations -> {out}")


@app.command(short_help="train SemanticGNN: alone, under torchrun or on Ray")
@command
def train(
    parts: Annotated[Path, typer.Argument(help="folder of a finished build (hasp build --reverse)")],
    out: Annotated[Path, typer.Option(help="run folder; an unfinished run in it is continued")],
    objective: Annotated[str, typer.Option(help="neighbors, infonce, or paper: Eq. 4-5")] = "neighbors",
    concepts: Annotated[Path | None, typer.Option(help="folder of hasp-models pretrain")] = None,
    eel: Annotated[str | None, typer.Option(help="link type that supervises [the first; neighbors: all]")] = None,
    epochs: Annotated[int, typer.Option(help="passes over all parts")] = 20,
    lr: Annotated[float | None, typer.Option(help="step size [by objective]")] = None,
    dim: Annotated[int | None, typer.Option(help="length of the embeddings [256; infonce, paper: 64]")] = None,
    layers: Annotated[int | None, typer.Option(help="layers of relation attention [1; infonce, paper: 2]")] = None,
    merge: Annotated[int, typer.Option(help="parts per batch", min=1)] = 1,
    parts_per_step: Annotated[int | None, typer.Option(help="parts per optimizer step, over all ranks")] = None,
    free: Annotated[bool | None, typer.Option(help="a vector of its own for every entity [by objective]")] = None,
    content: Annotated[float | None, typer.Option(help="neighbors: how loud concepts start beside links [0.26]")] = None,
    cold: Annotated[float | None, typer.Option(help="neighbors: share of entities that train without links [0.2]")] = None,
    trust: Annotated[float | None, typer.Option(help="neighbors: learn the graph's exact similarities, 0 to 1 [0]")] = None,
    exact_content: Annotated[float | None, typer.Option(help="with --trust: how much concepts count in them [0.3]")] = None,
    schedule: Annotated[str, typer.Option(help="of lr: constant or cosine")] = "constant",
    truth: Annotated[Path | None, typer.Option(help="pairs on which the best epoch is chosen")] = None,
    patience: Annotated[int | None, typer.Option(help="stop after so many epochs without a better one")] = None,
    lazy_rows: Annotated[bool, typer.Option("--lazy-rows", help="move a free vector only when it got a gradient")] = False,
    gradients: Annotated[str, typer.Option(help="dense, fp16, dgc:0.01, powersgd:2 or local-sgd:4")] = "dense",
    amp: Annotated[bool, typer.Option("--amp", help="run the model in bfloat16 where that is safe")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="write TensorBoard's events as well")] = False,
    checkpoint_steps: Annotated[int | None, typer.Option(help="save after so many steps too, not only epochs", min=1)] = None,
    ray: Annotated[str, typer.Option("--ray", help="train on Ray: local, auto, or the address of a cluster")] = "",
    workers: Annotated[int | None, typer.Option(help="ranks, with --ray [2]", min=1)] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Train a SemanticGNN on parts, alone, under torchrun or on Ray."""
    from hasp_models.distributed.group import process_group

    if workers is not None and not ray:
        raise HaspError(f"--workers are ranks on Ray, got {workers} without --ray; give --ray local, or use torchrun")
    task = partial(
        _train,
        *(path.absolute() if ray else path for path in (parts, out)),  # its workers are in another folder
        objective=objective,
        concepts=concepts.absolute() if ray and concepts is not None else concepts,
        eel=eel,
        epochs=epochs,
        lr=lr,
        dim=dim,
        layers=layers,
        merge=merge,
        parts_per_step=parts_per_step,
        free=free,
        content=content,
        cold=cold,
        trust=trust,
        exact_content=exact_content,
        schedule=schedule,
        truth=truth.absolute() if ray and truth is not None else truth,
        patience=patience,
        lazy_rows=lazy_rows,
        gradients=gradients,
        amp=amp,
        tensorboard=tensorboard,
        checkpoint_steps=checkpoint_steps,
        seed=seed,
        quiet=json,
    )
    if ray:
        from hasp_models.distributed.ray_train import fit_on_ray

        run = fit_on_ray(task, workers or 2, address=ray, folder=None if ray == "local" else out / "ray")
    else:
        with process_group():
            run = task()
    if int(os.environ.get("RANK", "0")):
        return
    if json:
        show_json(
            {"out": str(out), "epochs": run.epoch, "steps": run.step, "best_epoch": run.best_epoch, "history": run.history}
        )
    else:
        best = f", best epoch {run.best_epoch} (MAP@10 {run.best:.4f})" if run.best is not None else ""
        loss = f", loss {run.history[-1]['loss']:.4f}" if run.history else ""
        show(f"{run.epoch} epochs, {run.step} steps{loss}{best} -> {out}")


def _train(parts: Path, out: Path, **how: Any) -> Any:
    """What every rank runs."""
    from hasp import HASPData
    from hasp_models.train_task import train_run

    return train_run(HASPData.open(parts), out, **how)


@app.command(short_help="how a run stands, and whether it lives")
@command
def watch(
    run: Annotated[Path, typer.Argument(help="folder of a train or pretrain that goes on, has ended or was killed")],
    once: Annotated[bool, typer.Option("--once", help="one look, and leave")] = False,
    every: Annotated[float, typer.Option(help="seconds between two looks", min=0.1)] = 1.0,
    stalled_after: Annotated[float | None, typer.Option(help="seconds without an event [120, or 3 usual silences]")] = None,
    json: Annotated[bool, typer.Option("--json", help="one look as JSON on standard output, and leave")] = False,
) -> None:
    """How a run stands: epoch, losses, best, time left, checkpoint, and whether it lives. Leaves with 1 if it failed."""
    from hasp_models import snapshot as looking
    from hasp_models import watch as watching

    if json or once:
        found = looking.snapshot(run, stalled_after=stalled_after)
        width = max(len(label) for label, _ in watching.rows(found)) + 2
        if json:
            show_json(found.to_json())
        else:
            show("\n".join(f"{label:{width}}{text}" for label, text in watching.rows(found)))
    else:
        found = watching.watch(run, every=every, stalled_after=stalled_after)
    if found.state not in ("finished", "paused", *(("running", "stalled") if json or once else ())):
        raise typer.Exit(1)


@app.command(short_help="what artefacts were made of, and whether they fit")
@command
def origin(
    folders: Annotated[list[Path], typer.Argument(help="parts, concepts, runs, embeddings or results")],
    json: Json = False,
) -> None:
    """Where artefacts come from: version, own hash, hashes of what they were made of. Leaves with 2 if two do not fit."""
    from hasp_models.origin import link, origin_of

    found = [origin_of(folder) for folder in folders]
    links = link(found)
    if json:
        show_json({"artefacts": [o.to_json() for o in found], "links": [dataclasses.asdict(row) for row in links]})
    for o in [] if json else found:
        by = "an old version" if o.library is None else f"hasp {o.library}"
        show(f"{o.folder}: {o.kind}{'' if o.id is None else ' ' + o.id[:16]}, made by {by}")
        for row in [row for row in links if row.folder == o.folder]:
            where = f", as in {row.found}" if row.found else f", which is NOT in {', '.join(row.wrong)}" if row.wrong else ""
            show(f"  {row.role + ':':9} {row.id[:16]}{where}")
    if any(row.wrong for row in links):
        raise typer.Exit(2)


@app.command(short_help="a vector for every entity, new ones included")
@command
def embed(
    run: Annotated[Path, typer.Argument(help="run folder of hasp-models train")],
    source: Source,
    out: Annotated[Path, typer.Option(help="folder for the embeddings")],
    by_parts: Annotated[bool, typer.Option("--by-parts", help="a part at a time, in little memory; SOURCE is parts")] = False,
    processes: Annotated[int | None, typer.Option(help="with --by-parts: parts at once [1]", min=1)] = None,
    json: Json = False,
) -> None:
    """Embed every entity of a graph, all edges kept, new entities included. By parts, a repeated call goes on where it was."""
    from hasp_models.embeddings import Embeddings
    from hasp_models.origin import own_folder
    from hasp_models.runs import load_run

    own_folder(out, "embeddings")
    if by_parts:
        from hasp.console import Bar
        from hasp_models.embed_by_parts import embed_run

        with Bar(quiet=json) as bar:
            found = embed_run(run, source, out, processes=processes or 1, progress=lambda s, n, m: bar(f"stage {s}", n, m))
    elif processes is not None:
        raise HaspError(f"processes share parts, got --processes {processes} without --by-parts; add it, or leave this out")
    else:
        model, meta = load_run(run)
        found = Embeddings.of(model, meta, str(Path(source).resolve()) if Path(source).exists() else source)
    found.save(out)
    count, dim = found.vectors.shape
    if json:
        show_json({"out": str(out), "entities": count, "dim": dim, "fingerprint": found.fingerprint})
    else:
        show(f"{count:,} of {found.entity!r}, {dim} numbers each -> {out}")


app.command(short_help="the nearest entities of one, and why")(command(similar))
app.command(short_help="MAP@10, 50, 100 on pairs known to be similar")(command(evaluate))


@app.command(short_help="the paper's Table 1 and Figures 5 to 8")
@command
def reproduce(
    what: Annotated[str, typer.Argument(help="table1, fig5, fig6, fig7, fig8, ablation or all")],
    data: Annotated[Path, typer.Option(help="catalogue folder, named books or movies")],
    out: Annotated[
        Path | None, typer.Option(help="results folder; an unfinished run in it is continued [results/<name of --data>]")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="few epochs and queries, 1 seed, 1 split, 2 trials; minutes")] = False,
    seeds: Annotated[int | None, typer.Option(help="training seeds per split [5]", min=1)] = None,
    splits: Annotated[int | None, typer.Option(help="splits of the users [3]", min=1)] = None,
    trials: Annotated[int | None, typer.Option(help="trials of each method's search [20]", min=1)] = None,
    methods: Annotated[str | None, typer.Option(help="names, separated by commas [all]")] = None,
    json: Json = False,
) -> None:
    """Table 1 and Figures 5 to 8 of the paper on public data: tables, plots, and a row per number."""
    from hasp_models.experiments.reproduce import reproduce_folder, table_of

    sizes = {"quick": quick, "seeds": seeds, "splits": splits, "trials": trials}
    names = None if methods is None else [name.strip() for name in methods.split(",") if name.strip()]
    out = Path("results") / data.resolve().name if out is None else out
    rows = reproduce_folder(what, data, out, methods=names, **sizes)
    if json:
        show_json(rows)
    else:
        show(table_of(out, what).rstrip())


def main(arguments: list[str] | None = None) -> None:
    """Entry point; bad input ends with exit code 2 and one line that gives the rule, the value and the remedy.

    Args:
        arguments: of the command line; ``None``: this process's own.
    """
    try:
        app(arguments, prog_name="hasp-models")
    except HaspError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
