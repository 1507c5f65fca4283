"""Ranking metrics, one value per query, so that groups and confidence intervals need no second pass.

All functions read a table of ranked ids ``[Q, K]`` and a :class:`~hasp_models.data.csr.CSR` of ``Q`` rows of relevant ids.

- ``map@k`` is ``sum_{i<=k} hit_i * precision@i / min(|relevant|, k)``. The denominator is ``min(|relevant|, k)``: a perfect
  list scores 1 at every k. Others divide by ``|relevant|``, and their numbers are lower.
- ``recall@k`` divides by ``|relevant|`` (not by ``min(|relevant|, k)``).
- ``ndcg@k`` has binary gains, discount ``1 / log2(i + 1)``, ideal list of ``min(|relevant|, k)`` hits.
- ``mrr`` is the reciprocal rank of the first hit among all K, 0 without one; ``hits@k`` is 1 with a hit in the first k.

A cell that is negative (padding) or that repeats an id further left is a miss that keeps its place; relevant ids count once
however often they stand in the truth. A query without relevant ids has no value: NaN. Ties are settled before a list gets
here: rankings are by descending score, then ascending id (:mod:`hasp_models.data.neighbors`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hasp.errors import HaspError
from hasp_models.data.csr import CSR

__all__ = ["average_precision", "hit_rate", "hit_table", "ndcg", "per_query", "recall", "reciprocal_rank"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def hit_table(ranked: Any, truth: CSR) -> Bools:
    """Which cells are hits: relevant, not padding, and the first of their id in the row.

    Args:
        ranked: integers ``[Q, K]``, best first; negative values are padding.
        truth: ``Q`` rows of relevant ids.

    Returns:
        bool ``[Q, K]``.

    Raises:
        HaspError: ``ranked`` is no table of Q rows of integers.
    """
    table = np.asarray(ranked)
    if table.ndim != 2 or table.shape[0] != truth.num_rows or table.dtype.kind not in "iu":
        raise HaspError(
            f"ranked lists are integers [{truth.num_rows}, K] as the truth has {truth.num_rows} rows, "
            f"got {table.dtype} {table.shape}; rank once per query"
        )
    table = table.astype(np.int64, copy=False)
    rows = np.broadcast_to(np.arange(table.shape[0], dtype=np.int64)[:, None], table.shape)
    hits = CSR.contains(truth, rows, table)
    # A stable sort puts equal ids side by side in list order; all but the first are repeats.
    order = np.argsort(table, axis=1, kind="stable")
    by_id = np.take_along_axis(table, order, 1)
    repeat = np.zeros(table.shape, dtype=bool)
    repeat[:, 1:] = by_id[:, 1:] == by_id[:, :-1]
    first = np.ones(table.shape, dtype=bool)
    np.put_along_axis(first, order, ~repeat, 1)
    return np.asarray(hits & first)


def average_precision(hits: Bools, relevant: Any, k: int) -> Floats:
    """``map@k`` before the mean: float64 ``[Q]``. ``hits`` from :func:`hit_table`, ``relevant`` integers ``[Q]``."""
    top = hits[:, : _k(k)].astype(np.float64)
    precision = np.cumsum(top, axis=1) / np.arange(1, top.shape[1] + 1)
    return _divide((top * precision).sum(1), np.minimum(relevant, k))


def recall(hits: Bools, relevant: Any, k: int) -> Floats:
    """``recall@k`` per query: float64 ``[Q]``."""
    return _divide(hits[:, : _k(k)].sum(1), relevant)


def ndcg(hits: Bools, relevant: Any, k: int) -> Floats:
    """``ndcg@k`` per query: float64 ``[Q]``."""
    top = hits[:, : _k(k)]
    discount = 1.0 / np.log2(np.arange(2, max(k, top.shape[1]) + 2))
    ideal = np.concatenate([[0.0], np.cumsum(discount)])
    return _divide((top * discount[: top.shape[1]]).sum(1), ideal[np.minimum(relevant, k)])


def reciprocal_rank(hits: Bools, relevant: Any) -> Floats:
    """``mrr`` before the mean: float64 ``[Q]``."""
    if not hits.shape[1]:
        return _divide(np.zeros(hits.shape[0]), np.minimum(relevant, 1))
    rank = np.argmax(hits, axis=1) + 1
    return _divide(np.where(hits.any(1), 1.0 / rank, 0.0), np.minimum(relevant, 1))


def hit_rate(hits: Bools, relevant: Any, k: int) -> Floats:
    """``hits@k`` before the mean: float64 ``[Q]``."""
    return _divide(hits[:, : _k(k)].any(1), np.minimum(relevant, 1))


def per_query(ranked: Any, truth: CSR, ks: Sequence[int] = (10, 50, 100)) -> dict[str, Floats]:
    """Every metric of every query.

    Args:
        ranked: integers ``[Q, K]``, best first, negative where a list ends early.
        truth: ``Q`` rows of relevant ids.
        ks: cut-offs. A list shorter than a cut-off is read as padded with misses.

    Returns:
        ``{"map@10": float64 [Q], ..., "recall@10", "ndcg@10", "hits@10", "mrr"}``; NaN for a query without relevant ids.
    """
    hits, relevant = hit_table(ranked, truth), truth.counts
    values = {f"map@{k}": average_precision(hits, relevant, k) for k in ks}
    values |= {f"recall@{k}": recall(hits, relevant, k) for k in ks}
    values |= {f"ndcg@{k}": ndcg(hits, relevant, k) for k in ks}
    values |= {f"hits@{k}": hit_rate(hits, relevant, k) for k in ks}
    return values | {"mrr": reciprocal_rank(hits, relevant)}


def _k(k: int) -> int:
    if k < 1:
        raise HaspError(f"a cut-off k is at least 1, got {k}; give a positive whole number")
    return k


def _divide(top: Any, bottom: Any) -> Floats:
    bottom = np.asarray(bottom, dtype=np.float64)
    return np.asarray(np.divide(top, bottom, out=np.full(bottom.shape, np.nan), where=bottom > 0))
