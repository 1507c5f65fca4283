"""What people use today: each baseline is fitted on a benchmark's graph users and concepts, and scores all entities.

``BASELINES`` maps a name to a fitted scorer's constructor: ``fit(benchmark) -> Scorer``. Nothing here reads a truth but
:func:`blend`, which chooses its one weight on a *validation* truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from hasp.errors import HaspError
from hasp.rng import hash64, subkey, word
from hasp_models.data.benchmark import Benchmark, Truth
from hasp_models.data.concepts import concept_rows, unit_rows
from hasp_models.data.evaluate import evaluate
from hasp_models.data.neighbors import EmbeddingScorer, FixedScorer, Scorer
from hasp_models.data.splits import engagement

__all__ = [
    "BASELINES",
    "BlendScorer",
    "DenseScorer",
    "RandomScorer",
    "SparseScorer",
    "blend",
    "cosine",
    "cosine_links",
    "ease",
    "item2vec",
    "lightgcn",
    "popularity",
    "pure_svd",
    "random",
    "tf_idf",
    "tf_idf_smoothed",
]

Ids = npt.NDArray[np.int64]


class RandomScorer:
    """Scores that depend on the seed, the query and the entity only."""

    def __init__(self, num_items: int, seed: int = 0) -> None:
        self.num_items, self.seed = num_items, seed

    def scores(self, queries: Ids) -> Tensor:
        """Float32 ``[len(queries), N]`` in 0..1."""
        ids = np.arange(self.num_items, dtype=np.int64)
        rows = [hash64(subkey(self.seed, word("random"), int(q)), ids) for q in queries]
        return torch.from_numpy((np.stack(rows) / 2.0**64).astype(np.float32))


class SparseScorer:
    """Inner products of sparse rows: formed a chunk of queries at a time, never as an N x N matrix.

    Args:
        rows: ``[N, F]``; entities without a shared feature score 0.
        square: ``rows`` is ``[N, N]`` and holds the scores themselves.
    """

    def __init__(self, rows: sp.csr_array, *, square: bool = False) -> None:
        self.rows, self.num_items = rows.tocsr(), rows.shape[0]
        self.columns = None if square else rows.T.tocsr()

    def scores(self, queries: Ids) -> Tensor:
        """Float32 ``[len(queries), N]``."""
        some = self.rows[np.asarray(queries)]
        product = some if self.columns is None else some @ self.columns
        return torch.from_numpy(product.toarray().astype(np.float32))


class ShrunkScorer:
    """Shrunk cosine of all pairs: ``cosine * shared / (shared + shrink)``; see :func:`hasp_models.data.splits.pair_weight`.

    Args:
        matrix: users x entities, ones.
        shrink: in users, above 0.
    """

    def __init__(self, matrix: sp.csr_array, shrink: float) -> None:
        self.matrix, self.columns, self.shrink, self.num_items = matrix.tocsr(), matrix.T.tocsr(), shrink, matrix.shape[1]
        self.size = np.maximum(np.asarray(matrix.sum(axis=0), dtype=np.float32).ravel(), 1.0)

    def scores(self, queries: Ids) -> Tensor:
        """Float32 ``[len(queries), N]``."""
        asked = np.asarray(queries)
        found = (self.columns[asked] @ self.matrix).tocsr()
        shared, row = found.data, np.repeat(np.arange(asked.size), np.diff(found.indptr))
        found.data = shared / np.sqrt(self.size[asked][row] * self.size[found.indices]) * (shared / (shared + self.shrink))
        return torch.from_numpy(found.toarray().astype(np.float32))


class DenseScorer:
    """A score matrix over some entities; the others score 0, and so do all for them.

    Args:
        matrix: float32 ``[n, n]``, row = query.
        items: int64 ``[n]``, the entities of its rows and columns, ascending.
        num_items: number of all entities.
    """

    def __init__(self, matrix: Tensor, items: Ids, num_items: int) -> None:
        self.matrix, self.items, self.num_items = matrix, torch.from_numpy(items), num_items
        self.place = torch.full((num_items,), -1)
        self.place[self.items] = torch.arange(items.size)

    def scores(self, queries: Ids) -> Tensor:
        """Float32 ``[len(queries), N]``."""
        out = torch.zeros(len(queries), self.num_items)
        at = self.place[torch.as_tensor(queries)]
        rows = (at >= 0).nonzero()[:, 0]
        out[rows[:, None], self.items[None, :]] = self.matrix[at[rows]]
        return out


class BlendScorer:
    """``weight * first + second``."""

    def __init__(self, first: Scorer, second: Scorer, weight: float) -> None:
        self.first, self.second, self.weight, self.num_items = first, second, weight, first.num_items

    def scores(self, queries: Ids) -> Tensor:
        """Float32 ``[len(queries), N]``."""
        return self.weight * self.first.scores(queries) + self.second.scores(queries)


def popularity(benchmark: Benchmark) -> Scorer:
    """The entities with the most graph users, whatever the query."""
    return FixedScorer(torch.from_numpy(benchmark.popularity.astype(np.float32)))


def random(benchmark: Benchmark) -> Scorer:
    """Chance."""
    return RandomScorer(benchmark.num_items, benchmark.seed)


def cosine(benchmark: Benchmark, *, shrink: float = 0.0) -> Scorer:
    """Co-occurrence cosine of all pairs: shared graph users over the geometric mean; with ``shrink``, less for few users.

    It sees the pairs below the thresholds of the EELs, which no model that reads only the graph does; see :func:`cosine_links`.
    """
    if shrink < 0:
        raise HaspError(f"shrink is a number of users, 0 or more, got {shrink}; 0 is the plain cosine")
    matrix = _engagement(benchmark)
    return ShrunkScorer(matrix, shrink) if shrink else SparseScorer(unit_rows(matrix.T.tocsr()))


def cosine_links(benchmark: Benchmark) -> Scorer:
    """Co-occurrence cosine of the linked pairs alone: what the EELs themselves say, at equal information with a model."""
    a, b = benchmark.links.rows(), benchmark.links.indices
    unit = unit_rows(_engagement(benchmark).T.tocsr())
    value = np.asarray(unit[a].multiply(unit[b]).sum(axis=1)).ravel()
    return SparseScorer(sp.csr_array((value, b, benchmark.links.indptr), shape=(benchmark.num_items,) * 2), square=True)


def ease(benchmark: Benchmark, *, weight: float = 100.0, max_items: int = 12_000) -> Scorer:
    """EASE^R (Steck, 2019): item weights ``B = -P / diag(P)``, ``P = (X'X + weight I)^-1``, in closed form.

    Entities without a graph user are left out; past ``max_items`` the most popular are kept (the inverse needs
    ``8 n^2`` bytes and ``n^3`` operations). Row i scores how much engagement with i speaks for j.
    """
    matrix = _engagement(benchmark)
    seen = np.flatnonzero(benchmark.popularity > 0)
    if seen.size > max_items:
        best = np.lexsort((seen, -benchmark.popularity[seen]))[:max_items]
        seen = np.sort(seen[best])
    some = matrix[:, seen]
    # float32 suffices: the ridge keeps the condition number near max popularity / weight.
    gram = torch.from_numpy((some.T @ some).toarray().astype(np.float32))
    gram.diagonal().add_(weight)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    weights = inverse / -inverse.diagonal()
    weights.fill_diagonal_(0.0)
    return DenseScorer(weights, seen, benchmark.num_items)


def pure_svd(benchmark: Benchmark, *, dim: int = 64) -> Scorer:
    """PureSVD (Cremonesi et al., 2010): cosine of the right singular vectors of the engagement matrix."""
    from scipy.sparse.linalg import svds

    matrix = _engagement(benchmark).astype(np.float64)
    dim = min(dim, min(matrix.shape) - 1)
    if dim < 1:
        raise HaspError(f"PureSVD needs two users and two entities, got {matrix.shape}; use another baseline")
    start = np.ones(min(matrix.shape))  # svds would draw a random start
    _, _, right = svds(matrix, k=dim, v0=start, random_state=0)
    return EmbeddingScorer(torch.from_numpy(right.T.copy()))


def item2vec(benchmark: Benchmark, **options: Any) -> Scorer:
    """Cosine of item2vec's vectors; options as in :func:`hasp_models.zoo.item2vec.fit`, imported when called."""
    from hasp_models.zoo.item2vec import fit

    return fit(benchmark, **options)


def lightgcn(benchmark: Benchmark, **options: Any) -> Scorer:
    """Cosine of LightGCN's entity vectors; options as in :func:`hasp_models.zoo.lightgcn.fit`, imported when called."""
    from hasp_models.zoo.lightgcn import fit

    return fit(benchmark, **options)


def tf_idf(benchmark: Benchmark) -> Scorer:
    """Cosine of TF-IDF over concepts: content alone."""
    return SparseScorer(concept_rows(benchmark.graph, benchmark.entity))


def tf_idf_smoothed(benchmark: Benchmark, *, weight: float = 1.0) -> Scorer:
    """TF-IDF after one hop over the EELs: ``x + weight * mean of the linked x``, normalised again."""
    table, links = concept_rows(benchmark.graph, benchmark.entity), benchmark.links
    share = (1.0 / np.maximum(links.counts, 1)).astype(np.float32)[links.rows()]
    shape = (benchmark.num_items, benchmark.num_items)
    mean = sp.csr_array((share, links.indices, links.indptr), shape=shape) @ table
    return SparseScorer(unit_rows((table + weight * mean).tocsr()))


def blend(
    benchmark: Benchmark,
    *,
    first: Scorer | None = None,
    second: Scorer | None = None,
    weights: Sequence[float] = (0.0, 0.1, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0),
    truth: str | Truth = "co_sim",
    metric: str = "map@10",
) -> BlendScorer:
    """``weight * cosine + tf_idf`` with the one weight chosen on a validation truth. What a team would ship in a day.

    Args:
        benchmark: fitted on its graph users; its ``validation`` truths choose.
        first: ``None``: :func:`cosine`.
        second: ``None``: :func:`tf_idf`.
        weights: tried in this order; the first of equals wins.
        truth: a name in ``benchmark.validation``.
        metric: that is maximised.
    """
    if isinstance(truth, str):
        if truth not in benchmark.validation:
            raise HaspError(f"truth is one of {list(benchmark.validation)}, got {truth!r}; choose a validation truth")
        truth = benchmark.validation[truth]
    first, second = first or cosine(benchmark), second or tf_idf(benchmark)
    tried = [BlendScorer(first, second, w) for w in weights]
    return max(tried, key=lambda s: evaluate(s, truth, ks=(10,) if metric == "map@10" else (10, 50, 100)).mean(metric))


BASELINES: dict[str, Callable[..., Any]] = {
    "popularity": popularity,
    "random": random,
    "cosine": cosine,
    "cosine_links": cosine_links,
    "ease": ease,
    "pure_svd": pure_svd,
    "item2vec": item2vec,
    "lightgcn": lightgcn,
    "tf_idf": tf_idf,
    "tf_idf_smoothed": tf_idf_smoothed,
    "blend": blend,
}


def _engagement(benchmark: Benchmark) -> sp.csr_array:
    return engagement(benchmark.users, benchmark.items, benchmark.num_items)
