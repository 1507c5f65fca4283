"""The search for settings: equal trials for every method, goes on where it stopped, keeps the best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiment_data import scorer_of

from hasp.errors import HaspError
from hasp_models.data.benchmark import Benchmark
from hasp_models.experiments import search as searching
from hasp_models.experiments.judge import validation_score
from hasp_models.experiments.method import Fitted, Method, digest
from hasp_models.experiments.methods import METHODS
from hasp_models.experiments.store import Store

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.mark.parametrize("name", METHODS)
def test_draws_start_with_the_defaults_differ_and_continue(name: str) -> None:
    method = METHODS[name]
    few, many = searching.draws(method, 5), searching.draws(method, 20)
    assert many[: len(few)] == few and few[0] == method.settings()
    starts = method.first()
    assert many[: len(starts)] == starts and len(starts) == 1 + len(method.starts)
    assert len({digest(s) for s in many}) == len(many)
    combinations = int(np.prod([len(v) for v in method.space.values()]))
    assert len(many) == min(20, combinations + len(method.starts))
    assert all(s[k] in v for s in many if s not in starts[1:] for k, v in method.space.items())


def test_a_search_goes_on_logs_failures_and_takes_the_best(tmp_path: Path, benchmark: Benchmark) -> None:
    calls: list[float] = []

    def run(some: Benchmark, settings: Any, seed: int, quiet: bool) -> Fitted:
        calls.append(settings["x"])
        if settings["x"] == 2.0:
            raise HaspError("the loss is nan; lower lr")
        if len(calls) == 3 and not (tmp_path / "again").exists():
            raise KeyboardInterrupt
        return Fitted(scorer_of(some, settings["x"]))

    method = Method("made", "content", run, {"x": (1.0, 2.0, 3.0, 4.0)}, {"x": 1.0})
    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        searching.search(method, benchmark, store, 20)
    assert len(store.trials("made")) == 2
    (tmp_path / "again").touch()
    best = searching.search(method, benchmark, store, 20)
    rows = store.trials("made")
    assert len(rows) == 4 and sorted(row["settings"]["x"] for row in rows) == [1.0, 2.0, 3.0, 4.0]
    assert calls[0] == 1.0 and len(calls) == 5  # the interrupted one again, no other
    failed = next(row for row in rows if row["settings"]["x"] == 2.0)
    assert failed["validation"] is None and failed["error"] == "the loss is nan; lower lr"
    scores = {x: validation_score(benchmark, scorer_of(benchmark, x)) for x in (1.0, 3.0, 4.0)}
    assert best["x"] == max(scores, key=lambda x: scores[x]) and not searching.todo(method, store, 20)


def test_a_search_hands_on_each_fit_that_is_better_than_all_before(tmp_path: Path, benchmark: Benchmark) -> None:
    method = Method("made", "content", lambda some, s, *_: Fitted(scorer_of(some, s["x"])), {"x": tuple(range(9))}, {"x": 0})
    kept: list[tuple[Any, Any]] = []
    best = searching.search(method, benchmark, Store(tmp_path), 9, keep=lambda s, f, _: kept.append((s, f)))
    so_far, expected = -1.0, []
    for row in Store(tmp_path).trials("made"):
        if row["validation"] > so_far:
            so_far = row["validation"]
            expected.append(row["settings"])
    assert [s for s, _ in kept] == expected and kept[-1][0] == best and len(expected) > 1
    assert validation_score(benchmark, kept[-1][1].scorer) == so_far


def test_a_method_of_which_no_trial_succeeds_is_named(tmp_path: Path, benchmark: Benchmark) -> None:
    def run(some: Benchmark, settings: Any, seed: int, quiet: bool) -> Fitted:
        raise HaspError("too small")

    with pytest.raises(HaspError, match=r"no trial of 'made' succeeded \(too small\)"):
        searching.search(Method("made", "content", run), benchmark, Store(tmp_path), 3)
    with pytest.raises(HaspError, match="each tuned setting has a default"):
        Method("made", "content", run, {"x": (1,)})
    with pytest.raises(HaspError, match="settings of 'tf_idf' are"):
        METHODS["tf_idf"].settings({"x": 1})
