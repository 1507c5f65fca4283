"""Choosing settings: every method gets the same number of trials, drawn by the seed, its defaults first.

A trial fits on split 0 with training seed 0 and is scored on that split's validation truths (see
:func:`hasp_models.experiments.judge.validation_score`); the best trial's settings are used for every split and every seed.
A method with fewer combinations than trials tries all of them. Each trial is logged before the next begins.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hasp.errors import HaspError
from hasp.rng import hash64, subkey, word
from hasp_models.data.benchmark import Benchmark
from hasp_models.experiments.judge import validation_score
from hasp_models.experiments.method import Fitted, Method, Settings, digest
from hasp_models.experiments.store import Store

__all__ = ["best", "draws", "search", "space_of", "todo"]


def space_of(method: Method, quick: bool = False) -> dict[str, tuple[Any, ...]]:
    """The settings that are tuned: a quick run fixes some."""
    return {k: tuple(v) for k, v in method.space.items() if not (quick and k in method.quick)}


def draws(method: Method, trials: int, *, quick: bool = False, seed: int = 0) -> list[Settings]:
    """The settings of each trial, all different, the method's own starts first. A longer list begins with the shorter one.

    Raises:
        HaspError: ``trials`` is below 1.
    """
    if trials < 1:
        raise HaspError(f"a method has one trial at least, its defaults, got trials={trials}; raise it")
    space = space_of(method, quick)
    most = math.prod(len(values) for values in space.values())
    base = method.settings(quick=quick)
    found = list({digest(s): s for s in method.first(quick=quick)}.values())[:trials]
    outside = sum(s != {**base, **{k: s[k] for k in space}} or any(s[k] not in space[k] for k in space) for s in found)
    seen, turn = {digest(s) for s in found}, 0
    while len(found) < min(trials, most + outside):
        chosen = {k: _pick(values, seed, method.name, k, turn) for k, values in space.items()}
        turn += 1
        some = {**base, **chosen}
        if (key := digest(some)) not in seen:
            seen.add(key)
            found.append(some)
    return found


def _pick(values: tuple[Any, ...], seed: int, method: str, setting: str, turn: int) -> Any:
    key = subkey(seed, word("search"), word(method), word(setting))
    return values[int(hash64(key, np.array([turn]))[0] % np.uint64(len(values)))]


def todo(method: Method, store: Store, trials: int, *, quick: bool = False) -> list[Settings]:
    """The trials that are not in the log."""
    known = {row["key"] for row in store.trials(method.name)}
    return [s for s in draws(method, trials, quick=quick) if digest(s) not in known]


def search(
    method: Method,
    benchmark: Benchmark,
    store: Store,
    trials: int,
    *,
    quick: bool = False,
    quiet: bool = True,
    done: Callable[[float], None] | None = None,
    keep: Callable[[Settings, Fitted, float], None] | None = None,
) -> Settings:
    """Run what is left of a method's trials and give the best settings.

    Args:
        method: what is tuned.
        benchmark: split 0.
        store: keeps the log; trials in it are not run again.
        trials: of every method.
        quick: see :meth:`Method.settings`.
        quiet: no bar.
        done: called after each trial with its seconds.
        keep: called with the settings, the fit and the seconds of each trial that is better than all before it.

    Raises:
        HaspError: no trial succeeded.
    """
    rows = store.trials(method.name)
    for settings in todo(method, store, trials, quick=quick):
        begin = time.perf_counter()
        row: dict[str, Any] = {"trial": len(rows), "key": digest(settings), "settings": settings}
        before = max((r["validation"] for r in rows if r.get("validation") is not None), default=-math.inf)
        try:
            fitted = method.run(benchmark, settings, 0, quiet)
            seconds = time.perf_counter() - begin if fitted.seconds is None else fitted.seconds
            row |= {"validation": validation_score(benchmark, fitted.scorer), "epochs": fitted.epochs}
            if keep is not None and row["validation"] > before:
                keep(settings, fitted, seconds)
        except HaspError as error:  # such as a loss that is not finite: a bad choice, not the end of the search
            row |= {"validation": None, "error": str(error)}
        row["seconds"] = round(time.perf_counter() - begin, 3)
        rows.append(row)
        store.log_trials(method.name, rows)
        if done is not None:
            done(row["seconds"])
    return best(method, rows, trials, quick=quick)


def best(method: Method, rows: list[dict[str, Any]], trials: int, *, quick: bool = False) -> Settings:
    """The settings of the trial that validates best, the first of equals, among the first ``trials`` draws.

    Raises:
        HaspError: none succeeded.
    """
    found: Mapping[str, dict[str, Any]] = {row["key"]: row for row in rows}
    tried = [(found.get(digest(s), {}), s) for s in draws(method, trials, quick=quick)]
    good = [(row["validation"], s) for row, s in tried if row.get("validation") is not None]
    if not good:
        why = next((str(row["error"]) for row, _ in tried if row.get("error")), "no trial was run")
        raise HaspError(f"no trial of {method.name!r} succeeded ({why}); correct its settings, or leave it out with --methods")
    return max(good, key=lambda pair: pair[0])[1]
