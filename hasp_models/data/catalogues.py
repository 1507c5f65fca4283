"""The catalogues under ``../shared/data`` as benchmarks: which of their tables, which links, and what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hasp.errors import HaspError
from hasp_models.data import splits
from hasp_models.data.benchmark import Benchmark, make_benchmark
from hasp_models.data.splits import LinkRule

__all__ = ["BOOKS", "MOVIES", "Recipe", "load_benchmark", "read_engagements", "read_pairs"]

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Recipe:
    """How one of the catalogues under ``../shared/data`` becomes a benchmark.

    Attributes:
        name: the folder's name.
        engagements: the table of engagements, without suffix.
        curated: the table of curated pairs, without suffix.
        rule: when graph users link two entities.
        weak: when they link them weakly.
        shrink: in users; see :class:`Benchmark`.
        min_rating: engagements below it are left out; ``None`` where there are no ratings.
        exclude: concept categories that would give the curated pairs away.
    """

    name: str
    engagements: str
    curated: str
    rule: LinkRule
    weak: LinkRule | None
    shrink: float = 5.0
    min_rating: float | None = None
    exclude: tuple[str, ...] = ()


WEAK = LinkRule(1, 0.0, 0.0, 10)
BOOKS = Recipe("books", "shelved", "similar_series", LinkRule(4, 0.1, 10.0, 10), WEAK, exclude=("author",))
MOVIES = Recipe("movies", "ratings", "similar_franchise", LinkRule(4, 0.15, 2.0, 10), WEAK, min_rating=3.5)


def load_benchmark(
    folder: str | Path, seed: int = 0, *, recipe: Recipe | None = None, by_time: bool = False, raw: bool = False
) -> Benchmark:
    """Read a catalogue folder and split it.

    Args:
        folder: a folder in the catalogue layout, with engagements and curated pairs.
        seed: of the split of users.
        recipe: ``None``: the one named as the folder.
        by_time: split at two points in time instead of by user; needs a ``timestamp`` column.
        raw: add the raw Co-Sim truth of 1,000 entities.

    Raises:
        HaspError: no recipe, a missing file, unknown ids.
    """
    from hasp.sources.catalogue import read_catalogue

    folder = Path(folder)
    known = {r.name: r for r in (BOOKS, MOVIES)}
    if recipe is None and folder.name not in known:
        raise HaspError(f"a folder is named as one of {list(known)}, got {folder.name!r}; give recipe=Recipe(...)")
    recipe = recipe or known[folder.name]
    graph = read_catalogue(folder, exclude_categories=recipe.exclude)
    entity = next(e for e in graph.edges if e[0] == e[2])[0]
    ids = np.asarray(graph.ids.get(entity, np.arange(graph.num_nodes[entity])))
    users, items, times = read_engagements(folder, recipe.engagements, ids, recipe.min_rating)
    if by_time and times is None:
        raise HaspError(f"a split by time needs a column 'timestamp', {recipe.engagements} has none; split by users")
    side = splits.split_time(times) if by_time else splits.split_users(users, seed)
    return make_benchmark(
        graph,
        users,
        items,
        side,
        curated=read_pairs(folder, recipe.curated, ids),
        rule=recipe.rule,
        weak=recipe.weak,
        shrink=recipe.shrink,
        seed=seed,
        name=recipe.name,
        raw_queries=1000 if raw else 0,
    )


def read_engagements(
    folder: Path, name: str, ids: npt.NDArray[Any], min_rating: float | None = None
) -> tuple[npt.NDArray[Any], Ids, npt.NDArray[Any] | None]:
    """``user, entity[, rating, timestamp]`` -> users ``[M]``, entity numbers ``[M]``, times ``[M]`` or None.

    Raises:
        HaspError: an entity that the catalogue does not have, or no rating where one is asked for.
    """
    table = _read(folder, name, ("user", "entity"))
    keep = np.ones(table["user"].size, dtype=bool)
    if min_rating is not None:
        if "rating" not in table:
            raise HaspError(f"min_rating={min_rating} needs a column 'rating', but {name} has {list(table)}; leave it out")
        keep = table["rating"] >= min_rating
    times = table["timestamp"][keep] if "timestamp" in table else None
    return table["user"][keep], _number(table["entity"][keep], ids, name), times


def read_pairs(folder: Path, name: str, ids: npt.NDArray[Any]) -> Ids:
    """``a, b`` -> int64 ``[P, 2]`` of entity numbers. Raises :class:`HaspError` for unknown entities."""
    table = _read(folder, name, ("a", "b"))
    return np.stack([_number(table["a"], ids, name), _number(table["b"], ids, name)], axis=1)


def _read(folder: Path, name: str, ids: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    from hasp.sources.columns import SUFFIXES, read_table

    for suffix in SUFFIXES:
        if (path := folder / (name + suffix)).exists():
            columns = read_table(path, ids=ids).columns
            missing = [c for c in ids if c not in columns]
            if missing:
                raise HaspError(f"{path}: has the columns {list(ids)}, but {missing} is missing; add it")
            return columns
    raise HaspError(f"{folder} holds the table {name!r} as one of {SUFFIXES}, found none; correct the folder")


def _number(values: npt.NDArray[Any], ids: npt.NDArray[Any], where: str) -> Ids:
    from hasp.sources.ids import IdMap

    return IdMap(ids, "the catalogue", "entity").find(values, where).numpy().astype(np.int64, copy=False)
