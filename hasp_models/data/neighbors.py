"""Exact nearest neighbours in chunks, and the one rule for ties: descending score, then ascending id.

Nothing here approximates and nothing depends on the order in which a library happens to sort equal scores. Scores of
embeddings are formed in float64 and rounded to float32 before they are compared, so that equal vectors tie exactly and the
size of a chunk does not decide a rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hasp.errors import HaspError
from hasp_models.data.csr import CSR

__all__ = ["EmbeddingScorer", "FixedScorer", "Score", "Scorer", "rank", "select_top", "top_k"]

Score = Literal["cosine", "dot", "l2"]
Ids = npt.NDArray[np.int64]
_TABLE_BYTES = 1 << 30  # of a float64 table that is kept, or of a block of one that is not
_CHUNK_BYTES = 1 << 28  # of scores in one go: float64, so 3,300 queries at 10,000 entities, 388 at 86,537


@runtime_checkable
class Scorer(Protocol):
    """Anything that can score every entity for some queries."""

    num_items: int

    def scores(self, queries: Ids) -> Tensor:
        """Float32 ``[len(queries), num_items]``: higher is more similar; ``-inf`` is never ranked."""
        ...


class EmbeddingScorer:
    """Scores by embeddings.

    A table whose float64 copy would take more than 1 GiB stays as it is, and is looked at a block of rows at a time.

    Args:
        embeddings: ``[N, d]`` floats, one row per entity, on any device.
        score: ``"cosine"`` (a zero row scores 0 with everything), ``"dot"`` or ``"l2"`` (minus the squared distance).

    Raises:
        HaspError: no table of floats, NaN or infinite values, an unknown score.
    """

    def __init__(self, embeddings: Any, score: Score = "cosine") -> None:
        table = torch.as_tensor(embeddings).detach()
        if table.dim() != 2 or not table.is_floating_point():
            raise HaspError(f"embeddings are floats [N, d], got {table.dtype} {tuple(table.shape)}; reshape or cast them")
        if score not in ("cosine", "dot", "l2"):
            raise HaspError(f"score is cosine, dot or l2, got {score!r}; choose one of these")
        self.num_items, self.score, self._table = table.size(0), score, table
        self._step = max(1, _TABLE_BYTES // max(8 * table.size(1), 1))
        bad = sum(int((~table[low:high].isfinite()).any(1).sum()) for low, high in self._blocks())
        if bad:
            raise HaspError(f"embeddings are finite, but {bad:,} rows hold NaN or inf; train again or drop these rows")
        self._kept = self._ready(table) if self.num_items <= self._step else None

    @property
    def device(self) -> torch.device:
        """Where the table is."""
        return self._table.device

    def rows(self, ids: Ids | Tensor | None = None) -> Tensor:
        """Rows as they are compared, float64 ``[n, d]``: of length 1 (or 0) for cosine. ``None``: all of them."""
        if self._kept is not None:
            return self._kept if ids is None else self._kept[torch.as_tensor(ids, device=self.device)]
        return self._ready(self._table if ids is None else self._table[torch.as_tensor(ids, device=self.device)])

    def scores(self, queries: Ids) -> Tensor:
        """Float32 ``[len(queries), N]``."""
        left = self.rows(queries)
        if self._kept is not None:
            return self._against(left, self._kept)
        return torch.cat([self._against(left, self._ready(self._table[low:high])) for low, high in self._blocks()], 1)

    def _against(self, left: Tensor, right: Tensor) -> Tensor:
        value = left @ right.T
        if self.score == "l2":
            value = 2 * value - (right**2).sum(1) - (left**2).sum(1, keepdim=True)
        # Adding 0 turns -0 into 0: the two are equal, but their bits are not.
        return (value.float() + 0.0).contiguous()

    def _ready(self, rows: Tensor) -> Tensor:
        wide = rows.double()
        return wide / wide.norm(dim=1, keepdim=True).clamp_min(1e-30) if self.score == "cosine" else wide

    def _blocks(self) -> Iterator[tuple[int, int]]:
        for low in range(0, max(self.num_items, 1), self._step):
            yield low, min(low + self._step, self.num_items)


class FixedScorer:
    """The same scores ``[N]`` for every query."""

    def __init__(self, values: Tensor) -> None:
        self.values, self.num_items = values.float(), values.numel()

    def scores(self, queries: Ids) -> Tensor:
        """Float32 ``[len(queries), N]``."""
        return self.values.repeat(len(queries), 1)


def select_top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best columns of each row by descending score, then ascending column.

    Args:
        scores: float32 ``[Q, N]`` without NaN; ``-inf`` marks what must not be ranked.
        k: list length.

    Returns:
        ids int64 ``[Q, k]`` and scores float32 ``[Q, k]``; where fewer than k columns may be ranked, -1 and ``-inf``.
    """
    if k < 1:
        raise HaspError(f"k is at least 1, got {k}; ask for one neighbour or more")
    rows, columns = scores.shape
    width = min(k, columns)
    if not rows or not columns:
        return torch.full((rows, k), -1), torch.full((rows, k), -torch.inf)
    # One more than asked for shows whether the k-th score is shared with a column that was left out.
    values, ids = scores.topk(min(width + 1, columns), dim=1)
    if columns > width:
        unsure = (values[:, width] == values[:, width - 1]).nonzero()[:, 0]
        values, ids = values[:, :width], ids[:, :width]
        if unsure.numel():
            ids[unsure] = _keys(scores[unsure]).topk(width, dim=1).indices
            values[unsure] = scores[unsure].gather(1, ids[unsure])
    # Two stable sorts: by id first, then by score.
    ids, order = ids.sort(dim=1)
    values, by_score = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    ids = ids.gather(1, by_score).masked_fill(values == -torch.inf, -1)
    if width < k:
        ids = torch.nn.functional.pad(ids, (0, k - width), value=-1)
        values = torch.nn.functional.pad(values, (0, k - width), value=-torch.inf)
    return ids, values


def _keys(scores: Tensor) -> Tensor:
    """Int64 keys that order as (score, minus column) and are all different within a row."""
    bits = scores.contiguous().view(torch.int32).long()
    ordered = torch.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))
    columns = torch.arange(scores.size(1), device=scores.device)
    return (ordered << 32) + (0xFFFFFFFF - columns)


def rank(
    scorer: Scorer,
    queries: Any,
    k: int,
    *,
    exclude: CSR | None = None,
    keep_self: bool = False,
    chunk: int | None = None,
) -> tuple[Ids, npt.NDArray[np.float32]]:
    """Rank all entities for each query.

    Args:
        scorer: scores of all entities, a chunk of queries at a time.
        queries: entity ids ``[Q]``.
        k: list length.
        exclude: one row per *entity* (not per query): entities that are never ranked for it.
        keep_self: leave the query itself in its list.
        chunk: queries per step; ``None``: as many as keep a step's scores under 256 MiB. Never changes the result.

    Returns:
        ids int64 ``[Q, k]`` (-1 where a list ends early) and scores float32 ``[Q, k]``.

    Raises:
        HaspError: a query is out of range, or ``exclude`` has another number of rows.
    """
    queries = np.asarray(queries, dtype=np.int64).ravel()
    count = scorer.num_items
    if queries.size and (queries.min() < 0 or queries.max() >= count):
        raise HaspError(f"queries lie in 0..{count - 1}, got {queries.min()}..{queries.max()}; correct the ids")
    if exclude is not None and exclude.num_rows != count:
        raise HaspError(f"exclude has one row per entity, {count}, got {exclude.num_rows}; build it over all entities")
    ids = np.full((queries.size, k), -1, dtype=np.int64)
    values = np.full((queries.size, k), -np.inf, dtype=np.float32)
    for part in _chunks(queries.size, chunk or max(1, _CHUNK_BYTES // (8 * max(count, 1)))):
        some = queries[part]
        scores = scorer.scores(some)
        if exclude is not None:
            gone = exclude.select(some)
            scores[torch.as_tensor(gone.rows()), torch.as_tensor(gone.indices)] = -torch.inf
        if not keep_self:
            scores[torch.arange(some.size), torch.as_tensor(some)] = -torch.inf
        top, best = select_top(scores, k)
        ids[part], values[part] = top.cpu().numpy(), best.cpu().numpy()
    return ids, values


def top_k(
    embeddings: Any,
    k: int,
    score: Score = "cosine",
    *,
    queries: Any | None = None,
    exclude: CSR | None = None,
    keep_self: bool = False,
    chunk: int | None = None,
) -> tuple[Ids, npt.NDArray[np.float32]]:
    """The k nearest entities of each query (``None``: of every entity), exactly; arguments as in :func:`rank`."""
    scorer = EmbeddingScorer(embeddings, score)
    queries = np.arange(scorer.num_items, dtype=np.int64) if queries is None else queries
    return rank(scorer, queries, k, exclude=exclude, keep_self=keep_self, chunk=chunk)


def _chunks(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
