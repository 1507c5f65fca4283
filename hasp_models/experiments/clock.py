"""How long a run will take: measured before it starts, corrected by every fit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from hasp.errors import HaspError
from hasp_models.experiments import search
from hasp_models.experiments.context import Context, Experiment
from hasp_models.experiments.judge import judge
from hasp_models.experiments.method import Method, Settings
from hasp_models.experiments.methods import METHODS

__all__ = ["Clock", "probe", "words"]

_FEW = 5  # epochs


class Clock:
    """Counts what is left, and says so.

    Args:
        context: the run; nothing of its search need be done.
        experiments: that were asked for.
        methods: that they use.
        say: where lines go; ``None``: nowhere, and nothing is measured in advance.
    """

    def __init__(
        self, context: Context, experiments: Sequence[Experiment], methods: Sequence[Method], say: Callable[[str], None] | None
    ) -> None:
        self.context, self.say, self.methods = context, say, methods
        self.names = [e.name for e in experiments]
        self.trials = {
            m.name: len(search.todo(m, context.store, context.size.trials, quick=context.size.quick)) for m in methods
        }
        # The settings of what is not searched for yet are unknown, but not how many fits there will be.
        for method in methods:
            if not self.trials[method.name]:
                rows = context.store.trials(method.name)
                context.chosen[method.name] = search.best(method, rows, context.size.trials, quick=context.size.quick)
        jobs = {job.name: job for e in experiments for job in e.jobs(context)}
        self.fits: dict[str, int] = dict.fromkeys((m.name for m in methods), 0)
        for job in jobs.values():
            known = job.method in context.chosen and context.store.has(job)
            self.fits[job.method] += not known
        self.seconds = context.store.speeds()
        self.measured: dict[str, list[float]] = {}
        self.left = {m.name: self.trials[m.name] + self.fits[m.name] for m in methods}

    @property
    def total(self) -> int:
        """Trials and fits that are left."""
        return sum(self.left.values())

    def remaining(self) -> float:
        """Seconds that are left."""
        return sum(n * self._each(name) for name, n in self.left.items())

    def announce(self) -> None:
        """Measure each method that has not been, and say what will be run and how long it will take."""
        if self.say is None:
            return
        size = self.context.size
        numbers = (len(self.methods), "method"), (size.splits, "split"), (size.seeds, "seed"), (size.trials, "trial")
        counts = ", ".join(f"{n} {what}{'s' * (n > 1)}" for n, what in numbers)
        what = f"{', '.join(self.names)}: {counts}"
        if not self.total:
            self.say(f"{what}; nothing is left to run")
            return
        new = [m for m in self.methods if self.left[m.name] and m.name not in self.seconds]
        if new:
            self.say(f"{what}; measuring the speed of {len(new)} methods")
            for method in new:
                self.seconds[method.name] = round(probe(self.context, method), 3)
                self.context.store.keep_speeds(self.seconds)
        trials, fits = sum(self.trials.values()), sum(self.fits.values())
        self.say(
            f"{what}; {trials} trials and {fits} fits are left, about {words(self.remaining())} (measured on this machine)"
        )

    def done(self, name: str, seconds: float, label: str, fitted: bool = True) -> None:
        """One trial or fit of a method has ended; ``fitted=False``: it was at hand, which tells nothing of the next."""
        self.left[name] = max(0, self.left[name] - 1)
        if fitted:
            self.measured.setdefault(name, []).append(seconds)
        if self.say is not None:
            self.say(f"{label}: {words(seconds)}; {self.total} left, about {words(self.remaining())}")

    def _each(self, name: str) -> float:
        known = self.measured.get(name)
        return sum(known) / len(known) if known else self.seconds.get(name, 0.0)


def probe(context: Context, method: Method) -> float:
    """Seconds of one fit and its judgement, from a fit of one epoch, which says how long that took.

    Methods that keep no history, and have more than a few epochs, are fitted for three as well. An upper bound where training
    may end early, and where the first epoch is slower than others.
    """
    benchmark = context.benchmark(0)
    settings = METHODS[method.name].settings(quick=context.size.quick)
    epochs = int(settings.get("epochs", 0))
    begin = time.perf_counter()
    try:
        fitted = method.run(benchmark, _short(settings, 1) if epochs else settings, 0, True)
        one = time.perf_counter() - begin
        epoch = float(fitted.history[-1]["seconds"]) if fitted.history else one
        if not fitted.history and epochs > _FEW:  # making models is not repeated every epoch
            method.run(benchmark, _short(settings, 3), 0, True)
            epoch = max(0.0, time.perf_counter() - begin - 2 * one) / 2
    except HaspError:
        return 0.0  # its trials will say what is wrong
    begin = time.perf_counter()
    judge(benchmark, fitted.scorer)
    return one + epoch * max(0, epochs - 1) + time.perf_counter() - begin


def _short(settings: Settings, epochs: int) -> Settings:
    return {**settings, "epochs": epochs}


def words(seconds: float) -> str:
    """``95`` -> ``"1 min 35 s"``; ``0.3`` -> ``"0.3 s"``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
