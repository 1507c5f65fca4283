"""How every method is judged: the same truths, metrics and groups, and one number that chooses settings and epochs.

That number is the mean, over the benchmark's validation truths (``co_sim`` and, where there is one, ``hc``), of MAP@10.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from hasp.errors import HaspError
from hasp.rng import permutation, subkey, word
from hasp_models.data.benchmark import Benchmark, Truth
from hasp_models.data.evaluate import Result, evaluate
from hasp_models.data.neighbors import Scorer

__all__ = ["KS", "METRICS", "EveryFew", "judge", "sampled", "validation_score"]

KS = (10, 50, 100)
METRICS = tuple(f"{name}@{k}" for name in ("map", "recall", "ndcg") for k in KS)
"""What is kept of every run, per query."""


def judge(
    benchmark: Benchmark, scorer: Scorer, method: str = "", truths: Mapping[str, Truth] | None = None
) -> dict[str, Result]:
    """Rank all entities for all queries of the test truths.

    Args:
        benchmark: its groups and links.
        scorer: of all its entities.
        method: a name for the results.
        truths: ``None``: the benchmark's test truths.

    Returns:
        Truth -> result. ``co_sim_new`` is ``co_sim`` with the training links taken out of lists and truth: new pairs only.
    """
    found = {}
    for name, truth in (benchmark.test if truths is None else truths).items():
        if not truth.queries.size:
            continue
        found[name] = evaluate(scorer, truth, method=method, ks=KS, groups=benchmark.groups)
        if name == "co_sim":
            new = evaluate(scorer, truth, method=method, ks=KS, groups=benchmark.groups, links="removed", known=benchmark.links)
            if new.queries.size:
                found["co_sim_new"] = new
    if not found:
        raise HaspError(f"a truth has queries, but none of {list(benchmark.test)} has; take more users, or another split")
    return found


def validation_score(benchmark: Benchmark, scorer: Scorer, most: int | None = None) -> float:
    """The mean over validation truths of MAP@10.

    Args:
        benchmark: its ``validation`` truths.
        scorer: of all its entities.
        most: queries per truth at most, a fixed sample; ``None``: all.

    Raises:
        HaspError: no validation truth has a query.
    """
    truths = [t for t in benchmark.validation.values() if t.queries.size]
    if not truths:
        raise HaspError("settings are chosen on validation queries, but there are none; take more users, or another split")
    if most is not None:
        truths = [sampled(t, most, benchmark.seed) for t in truths]
    return float(np.mean([evaluate(scorer, t, ks=(10,)).mean("map@10") for t in truths]))


def sampled(truth: Truth, most: int, seed: int) -> Truth:
    """The same truth with ``most`` of its queries, drawn by the seed."""
    if truth.queries.size <= most:
        return truth
    some = np.sort(permutation(subkey(seed, word("validation")), truth.queries.size)[:most])
    return Truth(truth.name, truth.queries[some], truth.rows.select(some), truth.popularity)


class EveryFew:
    """Validation that ranks every ``every``-th epoch only, on a sample of the queries; in between it repeats its last value,
    which never counts as better.

    Args:
        benchmark: whose validation truths are asked.
        scorer: a model -> its scorer.
        every: epochs.
        most: queries per truth.
    """

    def __init__(self, benchmark: Benchmark, scorer: Any, every: int = 1, most: int = 1000) -> None:
        self.benchmark, self.scorer, self.every, self.most = benchmark, scorer, max(1, every), most
        self.calls, self.last = 0, 0.0

    def __call__(self, model: torch.nn.Module) -> float:
        """The validation score of the model as it is, or of the last time that it was asked for."""
        self.calls += 1
        if self.calls % self.every == 0:
            self.last = validation_score(self.benchmark, self.scorer(model), self.most)
        return self.last
