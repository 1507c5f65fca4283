"""Who may see what: users are split first, and everything that is trained on is counted from graph users alone.

Links (EELs) and truths are both made of co-engagement, so one split of *users* keeps them apart: no user contributes to both.
The test that holds it changes the other users at will and asks for bit-identical training data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from hasp.errors import HaspError
from hasp.rng import hash64, subkey, word
from hasp_models.data.csr import CSR

__all__ = [
    "GRAPH",
    "TEST",
    "VALIDATION",
    "LinkRule",
    "co_engagement",
    "co_sim",
    "co_sim_raw",
    "degree_groups",
    "engagement",
    "pair_weight",
    "split_components",
    "split_time",
    "split_users",
]

GRAPH, VALIDATION, TEST = 0, 1, 2
Ids = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
_BLOCK = 1024  # entities whose co-occurrence rows are held at a time


@dataclass(frozen=True)
class LinkRule:
    """When two entities are linked.

    Attributes:
        min_count: users they share.
        min_cosine: shared users over the geometric mean of their users.
        min_lift: shared users over those expected if users chose independently, ``count * U / (n_a * n_b)``.
        top: links that an entity may ask for, by descending cosine, then ascending id; a link that either end asks for stands.
    """

    min_count: int = 4
    min_cosine: float = 0.1
    min_lift: float = 10.0
    top: int = 10

    def __post_init__(self) -> None:
        if self.min_count < 1 or self.top < 1 or not 0 <= self.min_cosine <= 1 or self.min_lift < 0:
            raise HaspError(
                f"a link rule has min_count >= 1, 0 <= min_cosine <= 1, min_lift >= 0, top >= 1, got {self}; correct it"
            )


def split_users(users: Any, seed: int, fractions: Sequence[float] = (0.6, 0.2, 0.2)) -> npt.NDArray[np.int8]:
    """Split by user: every engagement of a user falls on one side.

    A user's side depends on the seed and on that user's own id, and on nothing else: users who come, go or change never
    move another one. The shares of users are therefore the fractions up to chance.

    Args:
        users: integers or text ``[M]``, the user of each engagement.
        seed: another seed, another split.
        fractions: of graph, validation and test users; they sum to 1.

    Returns:
        int8 ``[M]`` of :data:`GRAPH`, :data:`VALIDATION`, :data:`TEST`.
    """
    users = np.asarray(users)
    if users.dtype.kind == "U":
        names, inverse = np.unique(users, return_inverse=True)
        users = np.array([word(name) for name in names.tolist()], dtype=np.int64)[inverse]
    if users.dtype.kind not in "iu":
        raise HaspError(f"users are integers or text, got {users.dtype}; cast them")
    unit = hash64(subkey(seed, word("users")), users).astype(np.float64) / 2.0**64
    return np.asarray(np.searchsorted(_bounds(fractions), unit, side="right"), dtype=np.int8)


def split_time(times: Any, fractions: Sequence[float] = (0.6, 0.2, 0.2)) -> npt.NDArray[np.int8]:
    """Split at two points in time: the first engagements are the graph's, the next validate, the last test.

    Args:
        times: numbers ``[M]``. Equal times fall on one side.
        fractions: of engagements; they sum to 1.

    Returns:
        int8 ``[M]`` as :func:`split_users`. A user may stand on several sides, at different times.
    """
    times = np.asarray(times)
    if not times.size:
        return np.zeros(0, dtype=np.int8)
    order = np.sort(times)
    at = np.minimum((_bounds(fractions) * times.size).astype(np.int64), times.size - 1)
    return np.asarray(np.searchsorted(order[at], times, side="right"), dtype=np.int8)


def engagement(users: Any, items: Any, num_items: int) -> sp.csr_array:
    """The matrix of who engaged with what: float32 ones, users (compacted) x entities; repeats count once."""
    users, items = np.asarray(users), np.asarray(items, dtype=np.int64)
    if users.shape != items.shape:
        raise HaspError(f"users and items have one length, got {users.size} and {items.size}; repair the table")
    if items.size and (items.min() < 0 or items.max() >= num_items):
        raise HaspError(f"items lie in 0..{num_items - 1}, got {items.min()}..{items.max()}; map the ids first")
    names, rows = np.unique(users, return_inverse=True)
    matrix = sp.coo_array((np.ones(items.size, dtype=np.float32), (rows, items)), shape=(names.size, num_items)).tocsr()
    matrix.data[:] = 1.0  # tocsr adds repeats up
    return matrix


def co_engagement(users: Any, items: Any, num_items: int, rule: LinkRule | None = None) -> Ids:
    """Entity-entity links from engagements.

    Args:
        users: integers or text ``[M]``.
        items: integers ``[M]`` in ``0..num_items - 1``.
        num_items: number of entities.
        rule: thresholds; the default is that of the books.

    Returns:
        int64 ``[L, 2]``, undirected pairs ``a < b``, each once, ascending.
    """
    rule = rule or LinkRule()
    matrix = engagement(users, items, num_items)
    a, b = _nearest(matrix, rule.top, rule.min_count, rule.min_cosine, rule.min_lift)
    if not a.size:
        return np.zeros((0, 2), dtype=np.int64)
    return np.unique(np.stack([np.minimum(a, b), np.maximum(a, b)], axis=1), axis=0)


def pair_weight(users: Any, items: Any, num_items: int, pairs: Ids, shrink: float = 0.0) -> npt.NDArray[np.float32]:
    """Cosine of co-engagement of given pairs (shared users over the geometric mean of their users), shrunk.

    One shared user of two entities that nobody else knows is a cosine of 1, and says little. ``cosine * shared / (shared +
    shrink)`` believes a cosine the more users speak for it (significance weighting: Herlocker et al., 1999; this form: Bell
    and Koren, 2007).

    Args:
        users: as in :func:`co_engagement`.
        items: likewise.
        num_items: likewise.
        pairs: int64 ``[L, 2]``.
        shrink: in users; 0: the plain cosine.

    Returns:
        float32 ``[L]`` in 0..1; 0 where an entity has no user.
    """
    columns = engagement(users, items, num_items).T.tocsr()
    size = np.diff(columns.indptr).astype(np.float64)
    out = np.zeros(len(pairs), dtype=np.float32)
    for start in range(0, len(pairs), _BLOCK * 64):
        a, b = pairs[start : start + _BLOCK * 64].T
        shared = np.asarray(columns[a].multiply(columns[b]).sum(axis=1), dtype=np.float64).ravel()
        cosine = shared / np.sqrt(np.maximum(size[a] * size[b], 1.0))
        out[start : start + a.size] = cosine * shared / np.maximum(shared + shrink, 1.0)
    return out


def co_sim(users: Any, items: Any, num_items: int, *, top: int = 10, min_count: int = 3) -> CSR:
    """Co-Sim: for each entity its ``top`` nearest by cosine of co-engagement, among those with ``min_count`` shared users.

    Unlike raw co-engagement (:func:`co_sim_raw`), popularity does not answer it. One row per entity; not symmetric.
    """
    a, b = _nearest(engagement(users, items, num_items), top, min_count, 0.0, 0.0)
    return CSR.from_pairs(a, b, num_items)


def co_sim_raw(users: Any, items: Any, num_items: int, queries: Ids) -> CSR:
    """Raw Co-Sim, the paper's words: every entity that some user engaged with beside the query. One row per *query*.

    A list of the most popular entities, the same for all queries, does well on this truth: never report it without one.
    """
    matrix = engagement(users, items, num_items)
    shared = (matrix[:, queries].T.tocsr() @ matrix).tocoo()
    rows, ids = shared.row.astype(np.int64), shared.col.astype(np.int64)
    other = ids != queries[rows]
    return CSR.from_pairs(rows[other], ids[other], queries.size)


def degree_groups(links: CSR) -> dict[str, Bools]:
    """The paper's groups by number of EEL neighbours (section 6.4), as masks ``[N]``: group0 <= 3, group1 4-6, group2 > 6.

    ``cold`` (no neighbour at all) is a part of group0.
    """
    degree = links.counts
    return {
        "group0": degree <= 3,
        "group1": (degree > 3) & (degree <= 6),
        "group2": degree > 6,
        "cold": degree == 0,
    }


def split_components(pairs: Ids, num_items: int, seed: int, fraction: float) -> Bools:
    """Which curated pairs are for validation: whole connected components, so that a series never stands on both sides.

    Args:
        pairs: int64 ``[P, 2]``.
        num_items: number of entities.
        seed: another seed, another split.
        fraction: of components for validation.

    Returns:
        bool ``[P]``, true for validation.
    """
    ends = (np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1]))
    _, label = sp.csgraph.connected_components(sp.coo_array(ends, shape=(num_items, num_items)), directed=False)
    first = np.full(label.max(initial=-1) + 1, num_items, dtype=np.int64)
    np.minimum.at(first, label, np.arange(num_items, dtype=np.int64))
    unit = hash64(subkey(seed, word("components")), first).astype(np.float64) / 2.0**64
    return np.asarray((unit < fraction)[label[pairs[:, 0]]])


def _bounds(fractions: Sequence[float]) -> npt.NDArray[np.float64]:
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise HaspError(f"fractions are three shares that sum to 1, got {tuple(fractions)}; correct them")
    return np.cumsum(fractions)[:2]


def _nearest(matrix: sp.csr_array, top: int, min_count: int, min_cosine: float, min_lift: float) -> tuple[Ids, Ids]:
    """Directed pairs (entity, one of its ``top`` nearest), entity ascending."""
    users = matrix.shape[0]
    size = np.asarray(matrix.sum(axis=0), dtype=np.float64).ravel()
    found: list[tuple[Ids, Ids]] = [(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))]
    for start, shared in _co_counts(matrix):
        a, b, count = shared.row.astype(np.int64) + start, shared.col.astype(np.int64), shared.data.astype(np.float64)
        keep = (a != b) & (count >= min_count)
        a, b, count = a[keep], b[keep], count[keep]
        cosine = count / np.sqrt(size[a] * size[b])
        keep = (cosine >= min_cosine) & (count * users >= min_lift * size[a] * size[b])
        a, b, cosine = a[keep], b[keep], cosine[keep]
        order = np.lexsort((b, -cosine, a))
        a, b = a[order], b[order]
        place = np.arange(a.size) - np.searchsorted(a, a)  # place within the row, as a is ascending
        found.append((a[place < top], b[place < top]))
    return np.concatenate([a for a, _ in found]), np.concatenate([b for _, b in found])


def _co_counts(matrix: sp.csr_array) -> Iterator[tuple[int, sp.coo_array]]:
    """Shared users of a block of entities with all entities, block after block: the whole product would not fit."""
    columns = matrix.tocsc()
    for start in range(0, matrix.shape[1], _BLOCK):
        yield start, (columns[:, start : start + _BLOCK].T.tocsr() @ matrix).tocoo()
