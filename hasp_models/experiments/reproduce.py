"""``reproduce``: search, fit, judge, and write tables and plots; whatever stops it, the same call goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hasp.console import say
from hasp.errors import HaspError
from hasp.store.disk import Disk
from hasp_models.data.benchmark import Benchmark
from hasp_models.data.catalogues import BOOKS, MOVIES, load_benchmark
from hasp_models.experiments import search as searching
from hasp_models.experiments.ablation import ABLATION
from hasp_models.experiments.clock import Clock
from hasp_models.experiments.context import Context, Experiment, Row, Size
from hasp_models.experiments.figures import FIG6, FIG7, FIG8
from hasp_models.experiments.method import Method
from hasp_models.experiments.methods import METHODS, choose
from hasp_models.experiments.store import Job, Outcome, Store, fingerprint
from hasp_models.experiments.table1 import FIG5, TABLE1
from hasp_models.experiments.tables import csv_of

__all__ = ["EXPERIMENTS", "QUICK", "SLOW", "reproduce", "reproduce_folder", "table_of"]

EXPERIMENTS: dict[str, Experiment] = {e.name: e for e in (TABLE1, FIG5, FIG6, FIG7, FIG8, ABLATION)}
QUICK = Size(seeds=1, splits=1, trials=2, quick=True)
SLOW = ("ease", "item2vec", "hgt")
"""Methods that a quick run leaves out unless they are named: each takes about a minute a fit even then."""


def reproduce_folder(what: str, data: Path, out: Path, **options: Any) -> list[Row]:
    """:func:`reproduce` on a catalogue folder that has a recipe (``books``, ``movies``)."""
    known, data = [r.name for r in (BOOKS, MOVIES)], Path(data)
    if data.resolve().name not in known:
        raise HaspError(f"--data is a folder named as one of {known}, got {data.resolve().name!r}; correct it")
    _experiments(what)
    choose(options.get("methods"))

    def load(split: int) -> Benchmark:
        return load_benchmark(data.resolve(), seed=split, raw=True)

    return reproduce(what, load, out, **options)


def reproduce(
    what: str,
    source: Callable[[int], Benchmark],
    out: Path,
    *,
    quick: bool = False,
    seeds: int | None = None,
    splits: int | None = None,
    trials: int | None = None,
    samples: int | None = None,
    methods: Sequence[str] | None = None,
    quiet: bool = False,
) -> list[Row]:
    """Run an experiment and write what came out.

    Args:
        what: ``table1``, ``fig5`` ... ``fig8``, ``ablation``, or ``all``.
        source: split -> benchmark; the same for the same split.
        out: results folder, of one data set. It gets a folder per experiment with ``rows.json``, ``rows.csv``, ``table.md``
            and plots.
        quick: fewer epochs and queries, narrower models, and no method of :data:`SLOW` unless it is named; with 1 seed, 1 split
            and 2 trials unless these are given.
        seeds: training seeds per split; 5.
        splits: of the users; 3.
        trials: of each method's search; 20.
        samples: bootstrap samples; 10,000.
        methods: names; ``None``: all.
        quiet: nothing on the error stream.

    Returns:
        The rows of all experiments that were asked for; each with ``experiment`` and ``dataset``.

    Raises:
        HaspError: an unknown name, a folder of other results, a benchmark without what is needed. Nothing was written then.
    """
    experiments, small = _experiments(what), quick and methods is None
    chosen = choose([name for name in METHODS if name not in SLOW] if small else methods)
    if small and not quiet and any(e.methods is None for e in experiments):
        say(f"a quick run leaves out {', '.join(SLOW)}; name them with --methods to have them")
    base = QUICK if quick else Size()
    given = {"seeds": seeds, "splits": splits, "trials": trials, "samples": samples}
    size = Size(**{**base.__dict__, **{k: v for k, v in given.items() if v is not None}})
    for experiment in experiments:
        experiment.method_names(chosen)
    if any(e.name == "table1" for e in experiments) and methods is not None and "popularity" not in methods:
        chosen = [METHODS["popularity"], *chosen]  # raw Co-Sim is never shown without it
    first = source(0)
    _check(first)
    store = Store(Path(out))
    context = Context(source, store, size, chosen, quiet=quiet)
    note = {"dataset": first.name, "data": fingerprint(first), "quick": quick}
    store.open(note)
    with store:
        _run(context, experiments, quiet)
        rows: list[Row] = []
        for experiment in experiments:
            some = [{"experiment": experiment.name, "dataset": first.name, **row} for row in experiment.rows(context)]
            _write(context, experiment, first.name, some)
            rows += some
    return rows


def _experiments(what: str) -> list[Experiment]:
    if what != "all" and what not in EXPERIMENTS:
        raise HaspError(f"an experiment is one of {', '.join(EXPERIMENTS)} or all, got {what!r}; correct the name")
    return list(EXPERIMENTS.values()) if what == "all" else [EXPERIMENTS[what]]


def _check(benchmark: Benchmark) -> None:
    """Refuse a benchmark that some experiment would stumble over later."""
    for side, truths in (("validation", benchmark.validation), ("test", benchmark.test)):
        for name in ("co_sim", "hc"):
            if name not in truths or not truths[name].queries.size:
                raise HaspError(
                    f"an experiment needs the {side} truths co_sim and hc, but {benchmark.name!r} has no query of {name!r}; "
                    "give curated pairs, or more users"
                )
    if not benchmark.links.indices.size:
        raise HaspError(f"an experiment needs links of graph users, but {benchmark.name!r} has none; lower the link rule")


def _run(context: Context, experiments: Sequence[Experiment], quiet: bool) -> None:
    """All that is not in the folder yet."""
    names = {name for e in experiments for name in e.method_names(context.methods)}
    used = [m for m in context.methods if m.name in names]
    clock = Clock(context, experiments, used, None if quiet else say)
    clock.announce()
    for method in used:
        context.chosen[method.name] = _search(context, method, clock)
    turn = {e.name: i for i, e in enumerate(experiments)}
    jobs = {job.name: (job, e) for e in experiments for job in e.jobs(context)}
    # By split, seed and method, so that data are read once and two experiments on one model fit it once.
    order = list(METHODS)
    queue = sorted(jobs.values(), key=lambda x: (x[0].split, x[0].seed, order.index(x[0].method), turn[x[1].name]))
    for job, experiment in queue:
        if not context.store.has(job):
            begin, fitted = time.perf_counter(), not context.ready(job)
            outcome: Outcome = experiment.run(context, job)
            context.store.put(job, outcome)
            clock.done(job.method, time.perf_counter() - begin, _label(job), fitted)


def _search(context: Context, method: Method, clock: Clock) -> dict[str, Any]:
    size = context.size

    def done(seconds: float) -> None:
        clock.done(method.name, seconds, f"{method.name}: a trial")

    rows = context.store.trials(method.name)
    if not searching.todo(method, context.store, size.trials, quick=size.quick):
        return searching.best(method, rows, size.trials, quick=size.quick)
    return searching.search(
        method,
        context.benchmark(0),
        context.store,
        size.trials,
        quick=size.quick,
        quiet=context.quiet,
        done=done,
        keep=partial(context.keep, method.name),
    )


def _label(job: Job) -> str:
    more = f", {job.variant}" if job.variant else ""
    return f"{job.experiment}: {job.method}, split {job.split}, seed {job.seed}{more}"


def _write(context: Context, experiment: Experiment, dataset: str, rows: list[Row]) -> None:
    size, disk = context.size, Disk()
    folder = context.store.folder / experiment.name
    said = f"{size.splits} split{'s' * (size.splits > 1)} of the users, {size.seeds} training seed{'s' * (size.seeds > 1)}"
    head = (
        f"# {experiment.title}: {dataset}\n\n{said} per split (1 for closed forms), {size.trials} trials per method on split 0"
        f", {size.samples:,} bootstrap samples{', quick run (not for conclusions)' if size.quick else ''}.\n\n"
    )
    files = {
        "rows.json": json.dumps(rows, indent=1, allow_nan=False) + "\n",
        "rows.csv": csv_of(rows),
        "table.md": head + experiment.text(rows).rstrip() + "\n",
        **experiment.draw(rows),
    }
    disk.make_folder(folder)
    for name, text in files.items():
        disk.put(folder / name, [text.encode()])


def table_of(out: Path, what: str) -> str:
    """The Markdown that :func:`reproduce` wrote, all experiments after each other."""
    return "\n".join((Path(out) / e.name / "table.md").read_text(encoding="utf-8") for e in _experiments(what))
