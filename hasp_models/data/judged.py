"""Pools of similarity that people judged: does a method rank, for each seed, what they called similar above what not?

For tables such as "human similarity 2" (pairs of films with a grade from people). Such a pool is small and was proposed by
some system before anybody judged it, so its numbers compare methods on that pool; they say nothing about the entities that
no system proposed, and they favour methods that resemble the proposer (pooling bias). Report them beside full rankings.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hasp.errors import HaspError
from hasp_models.data.evaluate import Result
from hasp_models.data.neighbors import EmbeddingScorer, Scorer
from hasp_models.data.pair_table import numbered

__all__ = ["Judged", "evaluate_judged"]

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
_CHUNK = 1 << 24  # scores held at a time


@dataclass(frozen=True)
class Judged:
    """Judged pairs, seed after seed.

    Attributes:
        name: of the table.
        seeds: int64 ``[S]``, ascending, distinct.
        indptr: int64 ``[S + 1]``: the pool of seed ``s`` is ``indptr[s]:indptr[s + 1]``.
        items: int64 ``[P]``, ascending within a pool, distinct, never the seed.
        grades: float64 ``[P]``, the mean of all judgments of that pair.
        left_out: rows of the table that are not in it, by reason.
    """

    name: str
    seeds: Ids
    indptr: Ids
    items: Ids
    grades: Floats
    left_out: dict[str, int]

    @classmethod
    def from_pairs(cls, name: str, a: Any, b: Any, score: Any, left_out: dict[str, int] | None = None) -> Judged:
        """From judgments: ``a`` the seed, ``b`` what was judged beside it, both int64 ``[J]``, ``score`` ``[J]``.

        Raises:
            HaspError: a score that is not finite, or nothing left once pairs of an entity with itself are left out.
        """
        a, b, score = np.asarray(a, np.int64), np.asarray(b, np.int64), np.asarray(score, np.float64)
        if not np.isfinite(score).all():
            row = int(np.flatnonzero(~np.isfinite(score))[0])
            raise HaspError(f"{name}: a judgment is a finite number, got {score[row]} in row {row + 1}; correct or remove it")
        other = a != b
        if not other.any():
            raise HaspError(f"{name}: judgments are of pairs of two entities, found none among {a.size:,}; correct the table")
        pairs, place = np.unique(np.stack([a[other], b[other]]), axis=1, return_inverse=True)
        place = place.reshape(-1)
        grades = np.bincount(place, weights=score[other]) / np.bincount(place)
        seeds, counts = np.unique(pairs[0], return_counts=True)
        out = {**(left_out or {}), "same entity": int((~other).sum())}
        return cls(name, seeds, np.concatenate([[0], np.cumsum(counts)]), pairs[1], grades, out)

    @classmethod
    def read(cls, path: str | Path, ids: Any, *, skip_unknown: bool = False) -> Judged:
        """Read a table with the columns ``a`` (seed), ``b`` and ``score``, one row per judgment, by the user's ids.

        Args:
            path: CSV (also ``.gz``) or Parquet.
            ids: the ids of all entities ``[N]``.
            skip_unknown: leave out (and count) rows with an id that is none of these, instead of refusing the table.

        Raises:
            HaspError: a column is missing or no number, ids are unknown (counted, and up to five named), nothing is left.
        """
        from hasp.sources.columns import read_table

        path = Path(path)
        columns = read_table(path, ids=("a", "b")).columns
        missing = [c for c in ("a", "b", "score") if c not in columns]
        if missing:
            raise HaspError(
                f"{path}: judgments have the columns 'a', 'b' and, as numbers, 'score', found {list(columns)}; correct them"
            )
        score = np.asarray(columns["score"], dtype=np.float64)
        a, b, known = numbered(path, columns["a"], columns["b"], ids, skip_unknown=skip_unknown)
        return cls.from_pairs(path.name.split(".")[0], a, b, score[known], {"unknown id": int((~known).sum())})

    def classes(self, threshold: float) -> npt.NDArray[np.bool_]:
        """Bool ``[P]``: which pairs count as similar: grades above ``threshold``."""
        return np.asarray(self.grades > threshold)


def evaluate_judged(
    source: Scorer | Any, judged: Judged, *, threshold: float, method: str = "embeddings", score: str = "cosine"
) -> Result:
    """Rank each seed's judged pool, and nothing else.

    - ``auc``: the probability that a similar item of the pool scores above one that is not, ties half.
    - ``map``: average precision over the whole pool, ties by ascending id.
    - ``share``: of similar items in the pool, about what a random order gets as ``map``.

    Args:
        source: embeddings ``[N, d]`` or a scorer.
        judged: the pools.
        threshold: grades above it are similar. There is no default: scales differ, and the choice decides the numbers.
        method: its name in tables.
        score: of embeddings.

    Returns:
        One value per seed whose pool has both classes.

    Raises:
        HaspError: no pool has both classes, or an item is none of the scored ones.
    """
    scorer = source if isinstance(source, Scorer) else EmbeddingScorer(source, score)  # type: ignore[arg-type]
    top = int(max(judged.seeds.max(), judged.items.max()))
    if top >= scorer.num_items:
        raise HaspError(f"{judged.name}: judged entities are among the {scorer.num_items:,} scored ones, got id {top:,}")
    similar = judged.classes(threshold)
    counts = np.diff(judged.indptr)
    positive = np.add.reduceat(similar.astype(np.int64), judged.indptr[:-1])
    both = np.flatnonzero((positive > 0) & (positive < counts))
    if not both.size:
        raise HaspError(
            f"{judged.name}: a pool has pairs above and pairs up to the threshold {threshold}, but none of {counts.size:,} has "
            f"both; grades are {judged.grades.min():g} to {judged.grades.max():g}, choose a threshold between"
        )
    values: dict[str, list[float]] = {"auc": [], "map": [], "share": []}
    step = max(1, _CHUNK // max(scorer.num_items, 1))
    for first in range(0, both.size, step):
        rows = both[first : first + step]
        table = np.asarray(scorer.scores(judged.seeds[rows]).cpu(), dtype=np.float64)
        for row, seed in enumerate(rows):
            pool = slice(judged.indptr[seed], judged.indptr[seed + 1])
            good, scores = similar[pool], table[row, judged.items[pool]]
            values["auc"].append(_auc(scores, good))
            values["map"].append(_average_precision(scores, good))
            values["share"].append(float(good.mean()))
    found = {name: np.asarray(v, dtype=np.float64) for name, v in values.items()}
    return Result(method, judged.name, "kept", judged.seeds[both], found)


def _auc(scores: Floats, good: npt.NDArray[np.bool_]) -> float:
    """Mann and Whitney's statistic over its maximum; equal scores count half."""
    below = np.sort(scores[~good])
    less = np.searchsorted(below, scores[good], side="left")
    equal = np.searchsorted(below, scores[good], side="right") - less
    return float((less + equal / 2).sum() / (below.size * good.sum()))


def _average_precision(scores: Floats, good: npt.NDArray[np.bool_]) -> float:
    """Mean precision at the similar items of the pool, which is in ascending order of ids."""
    hits = good[np.argsort(-scores, kind="stable")]
    return float((np.cumsum(hits) / np.arange(1, hits.size + 1))[hits].mean())
