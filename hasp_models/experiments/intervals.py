"""Means over seeds and splits, and their paired intervals.

A query's value is its mean over training seeds. A mean is that over the queries of a split, then over splits. Intervals are
95 % percentile bootstrap intervals over queries, drawn within each split; all methods share the draws, so that differences
and ratios are paired. Splits and seeds are as fixed: the interval says how far other queries could move a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hasp.errors import HaspError
from hasp.rng import subkey, word
from hasp_models.data.evaluate import Result

__all__ = ["Estimate", "Means", "Values", "averaged", "gain", "means_of", "relative"]

Floats = npt.NDArray[np.float64]
Values = Sequence[Result]
"""One result per split, the values of each averaged over seeds."""

_STEP = 512  # samples counted at a time


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; ``p``, two-sided, where it is a difference."""

    value: float
    low: float
    high: float
    p: float | None = None


@dataclass(frozen=True)
class Means:
    """Resampled means of several methods on one truth, metric and group.

    Attributes:
        labels: of the methods.
        point: float64 ``[M]``, the means.
        samples: float64 ``[B, M]``, the means of the resampled queries.
        queries: over all splits.
        splits: that have a query in the group.
    """

    labels: Sequence[str]
    point: Floats
    samples: Floats
    queries: int
    splits: int

    def of(self, label: str) -> Estimate:
        """The mean of one method."""
        i = self.labels.index(label)
        return _estimate(float(self.point[i]), self.samples[:, i])

    def column(self, label: str) -> tuple[float, Floats]:
        """The mean of one method and its resampled means."""
        i = self.labels.index(label)
        return float(self.point[i]), self.samples[:, i]


def averaged(runs: Sequence[Result]) -> Result:
    """The mean over training seeds of each query's value.

    Raises:
        HaspError: the runs are of different queries.
    """
    first = runs[0]
    if any(not np.array_equal(r.queries, first.queries) for r in runs):
        raise HaspError(f"runs of {first.method!r} are judged by the same queries, but these differ; use one results folder")
    values = {k: np.mean([r.values[k] for r in runs], axis=0) for k in first.values}
    return Result(first.method, first.truth, first.links, first.queries, values, first.groups)


def means_of(
    methods: Mapping[str, Values], metrics: Sequence[str], group: str | None = None, *, samples: int = 10_000, seed: int = 0
) -> dict[str, Means]:
    """Means and resampled means of methods that were judged by the same queries.

    Args:
        methods: label -> one result per split.
        metrics: such as ``map@10``; all share the draws.
        group: of queries; ``None``: all.
        samples: bootstrap samples.
        seed: of the samples.

    Returns:
        Metric -> means; empty where no split has a query in the group.

    Raises:
        HaspError: methods that were judged by different queries.
    """
    labels = list(methods)
    points, drawn, queries = [], [], 0
    for split in range(len(next(iter(methods.values())))):
        results = [methods[label][split] for label in labels]
        if any(not np.array_equal(r.queries, results[0].queries) for r in results):
            raise HaspError(f"methods are compared on the same queries, but those of split {split} differ; run them again")
        table = np.stack([r.per_query(metric, group) for metric in metrics for r in results], axis=1)
        if table.shape[0]:
            points.append(table.mean(axis=0))
            drawn.append(_resample(table, samples, seed, split))
            queries += table.shape[0]
    if not points:
        return {}
    point, every = np.mean(points, axis=0), np.mean(drawn, axis=0)
    spans = {metric: slice(i * len(labels), (i + 1) * len(labels)) for i, metric in enumerate(metrics)}
    return {metric: Means(labels, point[at], every[:, at], queries, len(points)) for metric, at in spans.items()}


def gain(means: Means, a: str, b: str) -> Estimate:
    """``a - b``, with a two-sided bootstrap p-value."""
    (left, some), (right, others) = means.column(a), means.column(b)
    delta = some - others
    # Add-one: a finite number of samples never shows a p of 0.
    p = 2 * (1 + min((delta <= 0).sum(), (delta >= 0).sum())) / (delta.size + 1)
    return _estimate(left - right, delta, min(1.0, float(p)))


def relative(means: Means, a: str, b: str) -> Estimate | None:
    """``a / b - 1``; ``None`` where ``b`` is 0, or is in some sample."""
    (left, some), (right, others) = means.column(a), means.column(b)
    if right == 0 or (others == 0).any():
        return None
    return _estimate(left / right - 1, some / others - 1)


def _estimate(value: float, samples: Floats, p: float | None = None) -> Estimate:
    low, high = np.quantile(samples, [0.025, 0.975])
    return Estimate(value, float(low), float(high), p)


def _resample(table: Floats, samples: int, seed: int, split: int) -> Floats:
    """Means of bootstrap samples of the rows: ``[Q, c] -> [samples, c]``."""
    count = table.shape[0]
    rng = np.random.Generator(np.random.Philox(int(subkey(seed, word("bootstrap"), split))))
    out = []
    for start in range(0, samples, _STEP):
        rows = min(_STEP, samples - start)
        drawn = rng.integers(0, count, (rows, count), dtype=np.int32) + np.arange(rows, dtype=np.int64)[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        out.append(times @ table / count)
    return np.concatenate(out)
