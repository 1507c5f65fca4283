"""MovieLens' own files: movies, what is said of them, and what is liked together.

See https://grouplens.org/datasets/movielens.

``movies.csv``, ``ratings.csv`` and, where there are, ``tags.csv`` (ml-latest-small, ml-20m, ml-25m, ml-32m), or the ``.dat``
files of ml-1m and ml-10m. Concepts are the genres, the decade in a title's year, and the tags; two movies are linked if the
same users rated both highly, more often than chance would have it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from hasp.errors import HaspError, InvalidGraph
from hasp.graph import Graph
from hasp.schema import EdgeType
from hasp.sources.catalogue import both_directions
from hasp.sources.columns import Array, Table, collect, open_rows, read_table
from hasp.sources.ids import IdMap, sorted_unique

__all__ = ["CoEngagement", "co_engagement", "read_movielens"]

Ints = npt.NDArray[np.int64]

_YEAR = re.compile(r"\((\d{4})(?:[-–]\s?(?:\d{4})?)?\)\s*$")
_DAT = {
    "movies": ["movieId", "title", "genres"],
    "ratings": ["userId", "movieId", "rating", "timestamp"],
    "tags": ["userId", "movieId", "tag", "timestamp"],
}
_PRODUCTS = 1 << 24  # products of one block of rows: bounds the memory, whatever the number of ratings


@dataclass(frozen=True)
class CoEngagement:
    """When two entities are linked. The defaults made ``co_engaged`` of the project's own movies.

    Attributes:
        min_rating: a rating of at least this is a like.
        min_count: users who like both.
        min_cosine: ``count / sqrt(likes of one x likes of the other)``.
        min_lift: ``count x users / (likes of one x likes of the other)``: how much more often than by chance.
        top: links per entity, the highest cosine first; a link that either end keeps is kept.

    Raises:
        HaspError: ``min_count`` or ``top`` is below 1.
    """

    min_rating: float = 3.5
    min_count: int = 4
    min_cosine: float = 0.15
    min_lift: float = 2.0
    top: int = 10

    def __post_init__(self) -> None:
        for name in ("min_count", "top"):
            if getattr(self, name) < 1:
                raise HaspError(f"{name}={getattr(self, name)!r}: at least 1; raise it")


def read_movielens(
    folder: str | Path, *, min_tag_users: int = 3, co_engaged: CoEngagement | None = None, entity: str = "title"
) -> Graph:
    """Read a MovieLens folder as a catalogue.

    Args:
        folder: where ``movies`` and ``ratings`` lie; ``tags`` is used if it is there, ``links`` is not needed.
        min_tag_users: users who gave a tag to any movie, for it to become a concept (letter case is ignored).
        co_engaged: when two movies are linked.
        entity: the name of the node type of the movies.

    Returns:
        The graph with the node types ``entity``, ``decade``, ``genre`` and ``tag``, and the links
        ``(entity, "co_engaged", entity)`` in both directions. ``ids`` are MovieLens' movie ids.

    Raises:
        InvalidGraph: a file is missing or broken, or names a movie that ``movies`` does not have.
    """
    folder = Path(folder)
    movies = _read(folder, "movies", ids=("movieId",), names=("title", "genres"))
    titles = movies.columns["title"]
    index = IdMap(movies.columns["movieId"], str(movies.path), entity, True)
    concepts = {
        "decade": _pairs(_decades(titles.tolist())),
        "genre": _pairs(_genres(movies.columns["genres"].tolist())),
    }
    if _find(folder, "tags") is not None:
        concepts["tag"] = _tags(_read(folder, "tags", ids=("movieId", "userId"), names=("tag",)), index, min_tag_users)
    num_nodes = {entity: len(index)}
    names: dict[str, Array] = {entity: titles}
    edges: dict[EdgeType, tuple[Tensor, Tensor]] = {}
    for kind, (source, concept, words) in concepts.items():
        num_nodes[kind], names[kind] = len(words), words
        edges[entity, f"has_{kind}", kind] = (torch.from_numpy(source), torch.from_numpy(concept))
    ratings = _read(folder, "ratings", ids=("movieId", "userId"), only=("userId", "movieId", "rating"))
    co_engaged = co_engaged or CoEngagement()
    movie = index.find(ratings.columns["movieId"], f"{ratings.path}, column 'movieId'", True).numpy()
    liked = ratings.columns["rating"] >= co_engaged.min_rating
    user = np.unique(ratings.columns["userId"][liked], return_inverse=True)[1]
    a, b = co_engagement(user, movie[liked], len(index), co_engaged)
    source_, destination_, _ = both_directions(torch.from_numpy(a), torch.from_numpy(b))
    edges[entity, "co_engaged", entity] = (source_, destination_)
    ids = {} if index.is_range else {entity: index.ids}
    return Graph(num_nodes, edges, {t: {} for t in num_nodes}, {e: {} for e in edges}, ids, names)


def co_engagement(user: Ints, item: Ints, num_items: int, rule: CoEngagement) -> tuple[Ints, Ints]:
    """Pairs of items that the same users like.

    Rows of the co-occurrence matrix are made a block at a time, so that memory stays bounded while time grows with the sum
    over users of the square of their likes.

    Args:
        user: ``[n]``, any whole numbers from 0.
        item: ``[n]``, in ``0..num_items-1``; a like that occurs twice counts once.
        num_items: number of items.
        rule: the thresholds.

    Returns:
        ``a`` and ``b`` int64 ``[m]``, each pair once with ``a < b``, ascending. The result is a function of the likes alone:
        equal cosines are ranked by id.
    """
    empty: Ints = np.empty(0, np.int64)
    if not len(user):
        return empty, empty.copy()
    shape = (int(user.max()) + 1, num_items)
    likes = sp.csr_matrix((np.ones(len(user), np.int32), (user, item)), shape=shape)
    likes.data[:] = 1
    by_item = likes.T.tocsr()
    count = np.diff(by_item.indptr).astype(np.float64)  # likes of each item
    users = np.count_nonzero(np.diff(likes.indptr))
    work = by_item @ np.diff(likes.indptr).astype(np.float64)  # products that a row of the co-occurrence takes
    keys = []
    for rows in _row_blocks(work, count >= rule.min_count):
        block = (by_item[rows] @ likes).tocoo()
        a, b, both = rows[block.row], block.col.astype(np.int64), block.data.astype(np.float64)
        chance = count[a] * count[b]
        cosine = both / np.sqrt(chance)
        good = (a != b) & (both >= rule.min_count) & (cosine >= rule.min_cosine)
        good &= both * users >= rule.min_lift * chance
        a, b, cosine = a[good], b[good], cosine[good]
        order = np.lexsort((b, -cosine, a))
        a, b = a[order], b[order]
        rank = np.arange(a.size) - np.searchsorted(a, a)
        a, b = a[rank < rule.top], b[rank < rule.top]
        keys.append(np.minimum(a, b) * num_items + np.maximum(a, b))
    key = sorted_unique(np.concatenate(keys)) if keys else empty
    return key // num_items, key % num_items


def _row_blocks(work: npt.NDArray[np.float64], wanted: npt.NDArray[np.bool_]) -> Iterator[Ints]:
    rows = np.flatnonzero(wanted)
    block = np.cumsum(work[rows]) // _PRODUCTS
    for start, stop in zip(*_bounds(block), strict=True):
        yield rows[start:stop]


def _bounds(block: npt.NDArray[np.float64]) -> tuple[Ints, Ints]:
    start = np.flatnonzero(np.diff(block, prepend=-1.0))
    return start, np.append(start[1:], block.size)[: start.size]


def _find(folder: Path, name: str) -> Path | None:
    return next((folder / f"{name}{s}" for s in (".csv", ".csv.gz", ".dat") if (folder / f"{name}{s}").exists()), None)


def _read(folder: Path, name: str, **kwargs: Any) -> Table:
    path = _find(folder, name)
    if path is None:
        raise InvalidGraph(f"{folder}: MovieLens has {name}.csv (or .csv.gz, or .dat), and it is not there; add it")
    if path.suffix == ".dat":
        with open_rows(path) as rows:
            return collect(path, rows, _DAT[name], **kwargs)
    table = read_table(path, **kwargs)
    for column in _DAT[name]:
        have = [*table.columns, *table.text]
        if column not in have and column in kwargs.get("only", _DAT[name]) and column != "timestamp":
            raise InvalidGraph(f"{path}: the table has a column {column!r}, got {have}; rename or add it")
    return table


def _decades(titles: list[str]) -> Iterator[tuple[int, str]]:
    for row, title in enumerate(titles):
        year = _YEAR.search(title)
        if year is not None:
            yield row, f"{year[1][:3]}0s"


def _genres(cells: list[str]) -> Iterator[tuple[int, str]]:
    for row, cell in enumerate(cells):
        for genre in dict.fromkeys(cell.split("|")):
            if genre and genre != "(no genres listed)":
                yield row, genre


def _tags(table: Table, movies: IdMap, min_users: int) -> tuple[Ints, Ints, Array]:
    """(movie, tag) once each, for tags of at least ``min_users`` different users."""
    movie = movies.find(table.columns["movieId"], f"{table.path}, column 'movieId'", True).numpy()
    tags = np.char.lower(np.char.strip(table.columns["tag"]))
    words, code = np.unique(tags, return_inverse=True)
    user = np.unique(table.columns["userId"], return_inverse=True)[1]
    given = sorted_unique(code * (int(user.max(initial=0)) + 1) + user) // (int(user.max(initial=0)) + 1)
    kept = (np.bincount(given, minlength=len(words)) >= min_users) & (words != "")
    number = np.cumsum(kept) - 1
    rows = kept[code]
    key = sorted_unique(movie[rows] * max(1, len(words)) + number[code[rows]])
    return key // max(1, len(words)), key % max(1, len(words)), words[kept]


def _pairs(found: Iterator[tuple[int, str]]) -> tuple[Ints, Ints, Array]:
    """(row, word) pairs as rows, numbers of words, and the words in alphabetical order."""
    rows, words = [], []
    for row, word in found:
        rows.append(row)
        words.append(word)
    unique, code = np.unique(np.array(words, dtype=np.str_), return_inverse=True)
    return np.array(rows, np.int64), code.astype(np.int64), unique
