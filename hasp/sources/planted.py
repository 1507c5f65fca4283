"""Planted similarity: titles in clusters, clusters in topics, and the links that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hasp.sources.ids import sorted_unique

if TYPE_CHECKING:
    from hasp.sources.synthetic import Catalogue

__all__ = ["Titles", "plant_links", "plant_titles", "similar_pairs", "unit_rows"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_CLUSTER = 12  # titles per cluster
_TOPIC = 12  # clusters per topic
_OWN = 0.9  # share of a title's links that come from its first cluster; the rest from its second
_ROUNDS = 16  # different neighbours that a title meets in one pass over its links
_PASSES = ("cluster",) * 3 + ("topic",) * 6 + ("anywhere",)


@dataclass(frozen=True)
class Titles:
    """Latent structure of the titles: vectors ``[N, k]``, first and second cluster ``[N]``, topic of each cluster."""

    latent: Floats
    first: Ints
    second: Ints
    topic: Ints


def plant_titles(config: Catalogue, rng: np.random.Generator) -> Titles:
    """Draw clusters, topics and a latent vector for every title."""
    clusters = max(1, config.num_titles // _CLUSTER)
    topic = np.arange(clusters) // _TOPIC
    around = rng.standard_normal((topic[-1] + 1, config.latent))[topic]
    centre = unit_rows(around + 0.8 * rng.standard_normal((clusters, config.latent)))
    first = rng.permutation(config.num_titles) % clusters
    second = rng.integers(0, clusters, config.num_titles)
    own = rng.standard_normal((config.num_titles, config.latent)) / np.sqrt(config.latent)
    latent = unit_rows(centre[first] + 0.25 * centre[second] + 0.25 * own)
    return Titles(latent, first.astype(np.int64), second.astype(np.int64), topic.astype(np.int64))


def _degrees(config: Catalogue, rng: np.random.Generator) -> Ints:
    """The EEL degree each title should have in the graph: by popularity, in the proportions of the groups."""
    count = config.num_titles
    order = rng.permutation(count)  # most popular first
    ends = np.round(np.cumsum([config.groups[2], config.groups[1], config.groups[0] - config.unlinked]) * count)
    third, second, first = (int(e) for e in ends)
    degree = np.zeros(count, np.int64)
    # Pareto tail above 7, most popular first; its mean is popular_degree.
    tail = 7 + rng.pareto(2.0, third) * (config.popular_degree - 7)
    degree[order[:third]] = np.sort(np.minimum(tail, 7 + 40 * config.popular_degree).astype(np.int64))[::-1]
    degree[order[third:second]] = rng.integers(4, 7, second - third)
    degree[order[second:first]] = rng.integers(1, 4, first - second)
    return np.minimum(degree, max(0, count - 1))


def plant_links(config: Catalogue, titles: Titles, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
    """Train, validation and test pairs, each int64 ``[2, m]`` with ``a < b`` and ascending."""
    wanted = _degrees(config, rng)
    # What will be held out comes on top, so that the groups are those of the graph.
    more = wanted / (1 - config.val - config.test)
    goal = (more + rng.random(len(more))).astype(np.int64)
    pairs = _pair(config, titles, goal, rng)
    fate = rng.random(len(pairs))
    is_test, is_val = fate < config.test, (fate >= config.test) & (fate < config.test + config.val)
    # Titles without a goal have no pair yet, so that no cold pair is among the pairs.
    cold = _cold(config, titles, wanted, rng)
    share = config.test / (config.test + config.val) if config.test + config.val else 0.0
    cold_test = rng.random(len(cold)) < share
    if not config.test + config.val:
        cold, cold_test = cold[:0], cold_test[:0]
    keys = (
        pairs[~is_test & ~is_val],
        sorted_unique(np.concatenate([pairs[is_val], cold[~cold_test]])),
        sorted_unique(np.concatenate([pairs[is_test], cold[cold_test]])),
    )
    train, val, test = (np.stack([k // config.num_titles, k % config.num_titles]) for k in keys)
    return train, val, test


def _pair(config: Catalogue, titles: Titles, goal: Ints, rng: np.random.Generator) -> Ints:
    """Pairs (keys ``a * N + b``, ascending) in which title i occurs at most, and nearly always, ``goal[i]`` times.

    Each title holds out as many hands as it wants links. Hands are sorted by cluster and then along a random direction of
    the latent space, and neighbours in this order shake them. Hands that met their own title or an old acquaintance try again,
    in their topic and at last anywhere.
    """
    count, pairs = config.num_titles, np.empty(0, np.int64)
    for level in _PASSES:
        met = np.bincount(pairs // count, minlength=count) + np.bincount(pairs % count, minlength=count)
        left = goal - met
        hands = np.repeat(np.arange(count), left)
        if hands.size < 2:
            break
        nth = np.arange(hands.size) - np.repeat(np.cumsum(left) - left, left)
        turn = (rng.integers(0, _ROUNDS, count)[hands] + nth) % _ROUNDS
        where = np.where(rng.random(hands.size) < _OWN, titles.first[hands], titles.second[hands])
        stray = rng.random(hands.size) < config.noise
        where[stray] = rng.integers(0, len(titles.topic), int(stray.sum()))
        if level == "topic":
            where = titles.topic[where]
        elif level == "anywhere":
            where = np.zeros_like(where)
        along = titles.latent @ rng.standard_normal((config.latent, _ROUNDS)).astype(np.float32)
        order = np.lexsort((along[hands, turn] + 0.05 * rng.standard_normal(hands.size), where + turn * len(titles.topic)))
        order = hands[order[: order.size // 2 * 2]].reshape(-1, 2)
        low, high = order.min(axis=1), order.max(axis=1)
        pairs = sorted_unique(np.concatenate([pairs, (low * count + high)[low < high]]))
    return pairs


def _cold(config: Catalogue, titles: Titles, wanted: Ints, rng: np.random.Generator) -> Ints:
    """Pairs of titles without EEL with titles of their cluster that have some: what users will find out later."""
    cold, warm = np.flatnonzero(wanted == 0), np.flatnonzero(wanted > 0)
    if not warm.size or not cold.size:
        return np.empty(0, np.int64)
    source = np.repeat(cold, rng.poisson(config.cold_links, cold.size))
    warm = warm[np.argsort(titles.first[warm], kind="stable")]
    start = np.searchsorted(titles.first[warm], titles.first[source])
    stop = np.searchsorted(titles.first[warm], titles.first[source], side="right")
    stray = (rng.random(source.size) < config.noise) | (start == stop)
    start[stray], stop[stray] = 0, warm.size
    other = warm[start + (rng.random(source.size) * (stop - start)).astype(np.int64)]
    return sorted_unique(np.minimum(source, other) * config.num_titles + np.maximum(source, other))


def similar_pairs(titles: Titles, nearest: int = 3) -> Ints:
    """Each title with its nearest titles (by cosine of the latent vectors) of the same first cluster, int64 ``[2, m]``."""
    count = len(titles.first)
    order = np.argsort(titles.first, kind="stable")
    sizes = np.bincount(titles.first, minlength=len(titles.topic))
    width, start = int(sizes.max()), np.cumsum(sizes) - sizes
    keys = []
    step = max(1, (1 << 22) // (width * width))
    for block in range(0, len(sizes) if width > 1 else 0, step):
        row = start[block : block + step, None] + np.arange(width)
        real = np.arange(width) < sizes[block : block + step, None]
        member = order[np.where(real, row, 0)]  # [clusters, width]
        vector = titles.latent[member]
        cosine = np.einsum("cik,cjk->cij", vector, vector)
        cosine[:, np.arange(width), np.arange(width)] = -2
        cosine[~(real[:, :, None] & real[:, None, :])] = -2
        best = np.argsort(-cosine, axis=2, kind="stable")[:, :, :nearest]
        good = np.take_along_axis(cosine, best, 2) > -2
        other = np.take_along_axis(np.broadcast_to(member[:, None, :], cosine.shape), best, 2)
        one = np.broadcast_to(member[:, :, None], other.shape)[good]
        keys.append(np.minimum(one, other[good]) * count + np.maximum(one, other[good]))
    key = sorted_unique(np.concatenate(keys)) if keys else np.empty(0, np.int64)
    return np.stack([key // count, key % count])


def unit_rows(values: npt.NDArray[Any]) -> Floats:
    """Every row divided by its length, float32."""
    unit: Floats = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
    return unit
