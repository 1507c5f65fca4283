"""What the experiments share: the data by split, the results folder, how large a run is, and the model at hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hasp.errors import HaspError
from hasp_models.data.benchmark import Benchmark
from hasp_models.data.evaluate import Result
from hasp_models.experiments.inductive import Inductive, hold_out, inductive
from hasp_models.experiments.intervals import averaged
from hasp_models.experiments.judge import sampled
from hasp_models.experiments.method import Fitted, Method, Settings, digest
from hasp_models.experiments.methods import METHODS
from hasp_models.experiments.store import Job, Store

__all__ = ["Context", "Experiment", "Row", "Size", "fit_job"]

Row = dict[str, Any]
"""A number of a table, with all that says what it is; plain values."""


@dataclass(frozen=True)
class Size:
    """How large a run is.

    Attributes:
        seeds: training seeds per split.
        splits: of the users.
        trials: of each method's search.
        quick: fewer epochs and queries.
        samples: bootstrap samples.
        most: queries per test truth in a quick run; half as many per validation truth.
    """

    seeds: int = 5
    splits: int = 3
    trials: int = 20
    quick: bool = False
    samples: int = 10_000
    most: int = 1000

    def __post_init__(self) -> None:
        if min(self.seeds, self.splits, self.trials, self.samples) < 1:
            raise HaspError(f"seeds, splits, trials and samples are at least 1, got {self}; raise what is below")


@dataclass
class Context:
    """One call of ``reproduce``.

    Attributes:
        source: split -> benchmark.
        store: the results folder.
        size: how large the run is.
        methods: the methods of the run.
        chosen: method -> its best settings, once searched for.
        quiet: no bars.
    """

    source: Callable[[int], Benchmark]
    store: Store
    size: Size
    methods: Sequence[Method]
    chosen: dict[str, Settings] = field(default_factory=dict)
    quiet: bool = True
    _benchmark: tuple[int, Benchmark] | None = None
    _inductive: tuple[int, Inductive] | None = None
    _fitted: tuple[str, Fitted, float] | None = None
    _trials: dict[str, tuple[str, Fitted, float]] = field(default_factory=dict)

    def keep(self, method: str, settings: Settings, fitted: Fitted, seconds: float) -> None:
        """Keep the fit of a method's best trial so far: the first job of every table is that very fit."""
        self._trials[method] = (_key(Job("", method, 0, 0, settings)), fitted, seconds)

    def ready(self, job: Job) -> bool:
        """Whether a job needs no fit: :func:`fit_job` has it at hand."""
        return _key(job) in [kept[0] for kept in (self._fitted, self._trials.get(job.method)) if kept is not None]

    def benchmark(self, split: int) -> Benchmark:
        """The benchmark of a split; the last one asked for is kept."""
        if self._benchmark is None or self._benchmark[0] != split:
            found = self.source(split)
            if self.size.quick:
                most = self.size.most
                test = {k: sampled(t, most, split) for k, t in found.test.items()}
                validation = {k: sampled(t, most // 2, split) for k, t in found.validation.items()}
                found = replace(found, test=test, validation=validation)
            self._benchmark = (split, found)
        return self._benchmark[1]

    def inductive(self, split: int) -> Inductive:
        """The benchmark of a split with a fifth of its entities held out."""
        if self._inductive is None or self._inductive[0] != split:
            benchmark = self.benchmark(split)
            self._inductive = (split, inductive(benchmark, hold_out(benchmark, split)))
        return self._inductive[1]

    def seeds_of(self, method: Method) -> int:
        """Training seeds: a closed form has one."""
        return self.size.seeds if method.seeded else 1

    def jobs(self, experiment: str, method: str, variant: str = "", more: Mapping[str, Any] | None = None) -> list[Job]:
        """One job per split and training seed; ``more`` replaces settings."""
        settings = {**self.chosen.get(method, METHODS[method].settings(quick=self.size.quick)), **(more or {})}
        seeds = range(self.seeds_of(METHODS[method]))
        return [Job(experiment, method, s, r, settings, variant) for s in range(self.size.splits) for r in seeds]

    def values(self, jobs: Sequence[Job]) -> dict[str, dict[str, list[Result]]]:
        """Results of the jobs of one method: variant -> truth -> one result per split, averaged over seeds."""
        by_split: dict[int, list[dict[str, dict[str, Result]]]] = {}
        for job in jobs:
            by_split.setdefault(job.split, []).append(self.store.get(job).results)
        found: dict[str, dict[str, list[Result]]] = {}
        for _, runs in sorted(by_split.items()):
            for variant, truths in runs[0].items():
                for truth in truths:
                    mean = averaged([run[variant][truth] for run in runs])
                    found.setdefault(variant, {}).setdefault(truth, []).append(mean)
        return found


@dataclass(frozen=True)
class Experiment:
    """A table or a figure.

    Attributes:
        name: ``table1``, ``fig5``...
        title: for people.
        methods: those it is made of; ``None``: any.
        needs: those without which there is nothing to show.
        jobs: what has to be run, by settings as far as they are chosen.
        run: one of its jobs -> variant -> truth -> result, the seconds of fitting, notes.
        rows: the numbers, from the results folder alone.
        text: the numbers as Markdown.
        draw: file name -> SVG.
    """

    name: str
    title: str
    methods: tuple[str, ...] | None
    needs: tuple[str, ...]
    jobs: Callable[[Context], list[Job]]
    run: Callable[[Context, Job], Any]
    rows: Callable[[Context], list[Row]]
    text: Callable[[list[Row]], str]
    draw: Callable[[list[Row]], dict[str, str]]

    def method_names(self, methods: Sequence[Method]) -> list[str]:
        """The methods of a run that this experiment uses.

        Raises:
            HaspError: one that it needs is not among them.
        """
        names = [m.name for m in methods if self.methods is None or m.name in self.methods]
        missing = [n for n in self.needs if n not in names]
        if missing:
            given = ",".join(m.name for m in methods)
            raise HaspError(f"{self.name} needs the method {missing[0]!r}, got --methods {given}; add it")
        return names


def fit_job(context: Context, job: Job, benchmark: Benchmark | None = None) -> tuple[Fitted, float]:
    """The fitted method of a job and the seconds that took.

    The last one is kept, so that two experiments on one model fit it once, and so is the best trial of a search of this run.

    Args:
        context: the run.
        job: whose method, settings and seed.
        benchmark: ``None``: that of the job's split.
    """
    own, key = benchmark is None, _key(job)
    if own and context.ready(job):
        if context._fitted is None or context._fitted[0] != key:
            context._fitted = context._trials.pop(job.method)
        return context._fitted[1], context._fitted[2]
    begin = time.perf_counter()
    fitted = METHODS[job.method].run(benchmark or context.benchmark(job.split), dict(job.settings), job.seed, context.quiet)
    seconds = time.perf_counter() - begin if fitted.seconds is None else fitted.seconds
    if own:
        context._fitted = (key, fitted, seconds)
    return fitted, seconds


def _key(job: Job) -> str:
    """Equal for equal fits."""
    return digest([job.method, job.split, job.seed, job.settings])
