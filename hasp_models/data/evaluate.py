"""Judge embeddings, scorers or ranked lists: full ranking, per-query values, groups, paired intervals.

Protocol: every entity is ranked for every query, the query itself removed; ties by ascending id. Training EELs stay in the
lists (``links="kept"``: what a user sees) or are taken out of lists and truth (``links="removed"``: does it find new pairs).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from hasp.errors import HaspError
from hasp.rng import subkey, word
from hasp.text import table
from hasp_models.data.benchmark import Truth
from hasp_models.data.csr import CSR
from hasp_models.data.metrics import per_query
from hasp_models.data.neighbors import EmbeddingScorer, FixedScorer, Score, Scorer, rank

__all__ = ["Comparison", "Interval", "Result", "compare", "evaluate", "holm", "table_of"]

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
_BATCH = 1 << 22  # resampled values held at a time


@dataclass(frozen=True)
class Interval:
    """A mean over queries with its bootstrap interval."""

    mean: float
    low: float
    high: float
    queries: int

    def to_json(self) -> dict[str, float]:
        """Plain numbers; NaN of an empty group becomes null when written by a strict encoder, so it is left out."""
        values = {"mean": self.mean, "low": self.low, "high": self.high}
        return {"queries": self.queries, **{k: v for k, v in values.items() if np.isfinite(v)}}


@dataclass(frozen=True)
class Result:
    """What one method scored on one truth.

    Attributes:
        method: its name in tables.
        truth: the name of the truth.
        links: whether training EELs were ``kept`` in the lists or ``removed``.
        queries: int64 ``[Q]``, ascending.
        values: metric -> float64 ``[Q]``, one value per query.
        groups: name -> bool ``[Q]``.
        beside: the result of popularity, where the truth asks for it; tables always print it.
    """

    method: str
    truth: str
    links: str
    queries: Ids
    values: dict[str, Floats]
    groups: dict[str, Bools] = field(default_factory=dict)
    beside: Result | None = None

    def per_query(self, metric: str, group: str | None = None) -> Floats:
        """One value per query of the group (``None``: all queries). Raises :class:`HaspError` for an unknown name."""
        if metric not in self.values:
            raise HaspError(f"metric is one of {sorted(self.values)}, got {metric!r}; choose one or add its k to ks=")
        if group is not None and group not in self.groups:
            raise HaspError(f"group is one of {sorted(self.groups)}, got {group!r}; choose one or give groups=")
        return self.values[metric] if group is None else self.values[metric][self.groups[group]]

    def mean(self, metric: str = "map@10", group: str | None = None) -> float:
        """The mean over queries; NaN for a group without queries."""
        values = self.per_query(metric, group)
        return float(values.mean()) if values.size else float("nan")

    def interval(self, metric: str = "map@10", group: str | None = None, *, samples: int = 2000, seed: int = 0) -> Interval:
        """Mean and 95 % percentile bootstrap interval over queries."""
        values = self.per_query(metric, group)
        if not values.size:
            return Interval(float("nan"), float("nan"), float("nan"), 0)
        low, high = np.quantile(_resample(values[:, None], samples, seed)[:, 0], [0.025, 0.975])
        return Interval(float(values.mean()), float(low), float(high), values.size)

    def to_json(self, *, samples: int = 2000, seed: int = 0) -> dict[str, Any]:
        """Every metric of all queries and of every group, as plain numbers with intervals."""
        names: list[str | None] = [None, *self.groups]
        return {
            "method": self.method,
            "truth": self.truth,
            "links": self.links,
            "queries": int(self.queries.size),
            "metrics": {
                name or "all": {m: self.interval(m, name, samples=samples, seed=seed).to_json() for m in self.values}
                for name in names
            },
            **({"popularity": self.beside.to_json(samples=samples, seed=seed)} if self.beside else {}),
        }

    def __str__(self) -> str:
        return table_of([self])


@dataclass(frozen=True)
class Comparison:
    """The paired difference of two methods over the same queries.

    Attributes:
        a, b: the methods.
        difference: mean of ``a - b``, with its 95 % interval ``low..high``.
        relative: ``mean(a) / mean(b) - 1``, with ``relative_low..relative_high``; NaN where ``b`` scores 0.
        p: two-sided bootstrap p-value; with Holm's correction only after :func:`holm`.
    """

    a: str
    b: str
    truth: str
    metric: str
    group: str | None
    queries: int
    difference: float
    low: float
    high: float
    relative: float
    relative_low: float
    relative_high: float
    p: float


def evaluate(
    source: Scorer | torch.Tensor | npt.NDArray[Any],
    truth: Truth,
    *,
    method: str = "embeddings",
    score: Score = "cosine",
    ks: Sequence[int] = (10, 50, 100),
    groups: Mapping[str, Bools] | None = None,
    links: Literal["kept", "removed"] = "kept",
    known: CSR | None = None,
) -> Result:
    """Rank every entity for every query of a truth, and measure.

    Args:
        source: embeddings ``[N, d]`` (floats), a :class:`~hasp_models.data.neighbors.Scorer`, or ranked lists ``[Q, K]``
            (integers, one row per query of the truth, -1 padded).
        truth: what is relevant.
        method: its name in tables.
        score: how embeddings are compared.
        ks: cut-offs.
        groups: masks over entities ``[N]``; a query belongs to the groups that its entity belongs to.
        links: ``removed`` takes the known links out of lists and truth; queries that keep no relevant entity are dropped.
        known: the training EELs, one row per entity; needed for ``removed``.

    Raises:
        HaspError: ``removed`` without ``known``, ranked lists of other queries, non-finite embeddings.
    """
    if links not in ("kept", "removed"):
        raise HaspError(f"links is kept or removed, got {links!r}; choose one")
    if links == "removed" and known is None:
        raise HaspError("links='removed' needs the training links; give known=benchmark.links")
    known = known if links == "removed" else None
    depth = max([*ks, 100])
    queries, rows = truth.queries, truth.rows
    lists = _lists(source, queries)
    if known is not None:
        rows = rows.without(known.select(queries))
        some = np.flatnonzero(rows.counts)
        queries, rows = queries[some], rows.select(some)
        lists = None if lists is None else lists[some]
    if lists is None:
        scorer = _scorer(source, score)
        lists, _ = rank(scorer, queries, depth, exclude=known)
    elif known is not None:
        lists = _drop(lists, known.select(queries))
    masks = {name: np.asarray(mask, dtype=bool)[queries] for name, mask in (groups or {}).items()}
    beside = None
    if truth.popularity is not None and method != "popularity":
        fixed = FixedScorer(torch.from_numpy(truth.popularity.astype(np.float32)))
        beside = evaluate(fixed, truth, method="popularity", ks=ks, groups=groups, links=links, known=known)
    return Result(method, truth.name, links, queries, per_query(lists, rows, ks), masks, beside)


def compare(
    a: Result, b: Result, metric: str = "map@10", group: str | None = None, *, samples: int = 10_000, seed: int = 0
) -> Comparison:
    """Paired bootstrap over queries: both methods are resampled with the same queries.

    Raises:
        HaspError: the two results are over other truths, links or queries.
    """
    if (a.truth, a.links) != (b.truth, b.links) or not np.array_equal(a.queries, b.queries):
        raise HaspError(
            f"a pair of results has one truth, one setting of links and one list of queries, got {a.method} on {a.truth}, "
            f"{a.links}, {a.queries.size} queries and {b.method} on {b.truth}, {b.links}, {b.queries.size}; evaluate both alike"
        )
    left, right = a.per_query(metric, group), b.per_query(metric, group)
    if not left.size:
        raise HaspError(f"a comparison needs queries, but group {group!r} of {a.truth} has none; choose another group")
    means = _resample(np.stack([left, right], axis=1), samples, seed)
    delta = means[:, 0] - means[:, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = means[:, 0] / means[:, 1] - 1
        ratio = left.mean() / right.mean() - 1
    low, high = np.quantile(delta, [0.025, 0.975])
    r_low, r_high = np.quantile(ratios, [0.025, 0.975]) if np.isfinite(ratios).all() else (np.nan, np.nan)
    # Add-one: a finite number of samples never shows a p of 0.
    p = 2 * (1 + min((delta <= 0).sum(), (delta >= 0).sum())) / (samples + 1)
    numbers = map(float, (left.mean() - right.mean(), low, high, ratio, r_low, r_high, min(1.0, p)))
    return Comparison(a.method, b.method, a.truth, metric, group, left.size, *numbers)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction for all comparisons of one table: adjusted p-values in the given order."""
    order = np.argsort(np.asarray(p_values, dtype=np.float64), kind="stable")
    adjusted, worst = [0.0] * len(p_values), 0.0
    for place, i in enumerate(order.tolist()):
        worst = max(worst, min(1.0, (len(p_values) - place) * p_values[i]))
        adjusted[i] = worst
    return adjusted


def table_of(
    results: Sequence[Result], metrics: Sequence[str] = ("map@10", "map@50", "map@100"), groups: Sequence[str] = ()
) -> str:
    """Methods x truths as text: mean and, for the first metric, its 95 % interval. Popularity's row is added where due."""
    shown: list[Result] = []
    for result in results:
        shown.append(result)
        due = result.beside
        listed = any(
            due and r.method == due.method and r.truth == due.truth and r.links == due.links for r in [*shown, *results]
        )
        if due is not None and not listed:
            shown.append(due)
    lines = []
    for result in shown:
        main = result.interval(metrics[0])
        cells = [f"{main.mean:.4f} [{main.low:.4f}, {main.high:.4f}]", *(f"{result.mean(m):.4f}" for m in metrics[1:])]
        cells += [f"{result.mean(metrics[0], g):.4f}" if g in result.groups else "-" for g in groups]
        lines.append([result.method, result.truth, result.links, str(result.queries.size), *cells])
    return table(["method", "truth", "links", "queries", *metrics, *(f"{metrics[0]} {g}" for g in groups)], lines, left=3)


def _lists(source: Any, queries: Ids) -> Ids | None:
    """Ranked lists, where the source is a table of integers."""
    if isinstance(source, Scorer):
        return None
    array = source.detach().cpu().numpy() if isinstance(source, torch.Tensor) else np.asarray(source)
    if array.dtype.kind not in "iu":
        return None
    if array.ndim != 2 or array.shape[0] != queries.size:
        raise HaspError(f"ranked lists have one row per query, {queries.size}, got {array.shape}; rank truth.queries")
    # The query itself is never an answer; its place closes up, as it does when a scorer is ranked.
    return _drop(array.astype(np.int64), CSR(np.arange(queries.size + 1, dtype=np.int64), queries))


def _drop(lists: Ids, gone: CSR) -> Ids:
    """Take ids out of lists; what follows moves up, and -1 fills the end."""
    rows = np.broadcast_to(np.arange(lists.shape[0])[:, None], lists.shape)
    out = CSR.contains(gone, rows, lists)
    order = np.argsort(out, axis=1, kind="stable")
    return np.take_along_axis(np.where(out, -1, lists), order, 1)


def _scorer(source: Any, score: Score) -> Scorer:
    return source if isinstance(source, Scorer) else EmbeddingScorer(source, score)


def _resample(values: Floats, samples: int, seed: int) -> Floats:
    """Means of bootstrap samples of the rows: ``[Q, c] -> [samples, c]``."""
    rng = np.random.Generator(np.random.Philox(int(subkey(seed, word("bootstrap")))))
    count = values.shape[0]
    step = max(1, _BATCH // count)
    means = [values[rng.integers(0, count, (min(step, samples - s), count))].mean(axis=1) for s in range(0, samples, step)]
    return np.concatenate(means)
