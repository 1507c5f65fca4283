"""Catalogues made up on the spot, with the shape of the paper's graph and a similarity that is known.

Shape (SemanticGNN paper, sections 6.1 and 6.4, Figure 2a): about ten categories of concepts, some ten concepts per title,
entity-entity links (EEL) for a part of the titles only and mostly among the popular ones, and the groups of titles by
EEL degree (<= 3, 4-6, > 6) in the paper's proportions 60 : 45 : 33.

Similarity: titles come in small clusters, clusters in topics, and each title has a latent vector near the centre of its
cluster. The latent vector draws the title's concepts, and the clusters draw its EELs, both with noise. So concepts tell which
EELs were held out, for titles without any EEL too, and EELs tell more than concepts where there are some.

The numbers of a seed are the same for one version of NumPy on one kind of machine (its generators may change between
versions); everything else in this library that is random is promised for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hasp.errors import HaspError
from hasp.graph import Graph
from hasp.schema import EdgeType
from hasp.sources.catalogue import both_directions
from hasp.sources.ids import sorted_unique

__all__ = ["CATEGORIES", "Catalogue", "Generated", "generate"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

# category -> (concepts, mean concepts per title): together 1,250 concepts, 1 % of the paper's 125k nodes, and 10 per title.
CATEGORIES: Mapping[str, tuple[int, float]] = MappingProxyType(
    {
        "audience": (8, 0.8),
        "country": (60, 0.9),
        "decade": (12, 1.0),
        "genre": (20, 2.0),
        "language": (50, 0.8),
        "maturity": (5, 1.0),
        "setting": (95, 0.7),
        "storyline": (640, 1.6),
        "theme": (280, 0.8),
        "tone": (80, 0.4),
    }
)

_CLUSTER = 12  # titles per cluster
_TOPIC = 12  # clusters per topic
_OWN = 0.9  # share of a title's links that come from its first cluster; the rest from its second
_ROUNDS = 16  # different neighbours that a title meets in one pass over its links
_PASSES = ("cluster",) * 3 + ("topic",) * 6 + ("anywhere",)


@dataclass(frozen=True)
class Catalogue:
    """What to make up.

    Attributes:
        num_titles: entities; 125_000 is the paper's experiment, 1_000_000 its production.
        seed: every other number gives another catalogue.
        categories: category -> (concepts, mean concepts per title). A category is cut to one concept per 20 titles.
        groups: shares of the titles with EEL degree <= 3, 4 to 6 and more than 6; they sum to 1.
        unlinked: share of all titles that have no EEL (a part of the first group).
        popular_degree: mean degree of the third group.
        noise: share of the ends of links that stray anywhere (about twice as many links have one that does).
        sharpness: how much a title's concepts say about it; 0: nothing.
        val, test: shares of the pairs that are held out.
        cold_links: mean number of held-out pairs of a title without EEL.
        num_features: width of the float attribute ``x`` of titles (a noisy view of the latent vector); 0: none.
        num_talent: nodes of the further type ``talent``, made for ``Schema(sample={"talent": ...})``; 0: none.
        latent: width of the latent vectors.

    Raises:
        HaspError: a field is out of its range; the message starts with its name.
    """

    num_titles: int = 20_000
    seed: int = 0
    categories: Mapping[str, tuple[int, float]] = field(default_factory=lambda: dict(CATEGORIES))
    groups: tuple[float, float, float] = (60 / 138, 45 / 138, 33 / 138)
    unlinked: float = 0.30
    popular_degree: float = 24.0
    noise: float = 0.05
    sharpness: float = 40.0
    val: float = 0.05
    test: float = 0.10
    cold_links: float = 1.0
    num_features: int = 0
    num_talent: int = 0
    latent: int = 16

    def __post_init__(self) -> None:
        def rule(ok: bool, name: str, text: str) -> None:
            if not ok:
                raise HaspError(f"{name}={getattr(self, name)!r}: {text}; correct {name}")

        rule(self.num_titles >= 1, "num_titles", "at least 1 title")
        rule(0 <= self.seed < 2**63, "seed", "0 <= seed < 2**63")
        rule(min(self.groups) >= 0 and abs(sum(self.groups) - 1) < 1e-6, "groups", "three shares that sum to 1")
        rule(0 <= self.unlinked <= self.groups[0] + 1e-9, "unlinked", f"0 to the first of groups, {self.groups[0]:.3f}")
        rule(self.popular_degree >= 8, "popular_degree", "at least 8, since the third group has a degree above 6")
        rule(0 <= self.noise <= 1, "noise", "a share, 0 to 1")
        rule(self.sharpness >= 0, "sharpness", "0 or more")
        rule(min(self.val, self.test) >= 0 and self.val + self.test < 1, "test", "val + test below 1, neither below 0")
        for name in ("cold_links", "num_features", "num_talent"):
            rule(getattr(self, name) >= 0, name, "0 or more")
        rule(self.latent >= 2, "latent", "at least 2")
        for name, (count, mean) in self.categories.items():
            good = bool(name) and "__" not in name and name not in ("title", "talent")
            rule(good and count >= 1 and mean >= 0, "categories", f"{name!r} needs 1 or more concepts and a mean >= 0")


@dataclass(frozen=True)
class Generated:
    """A catalogue and what is true of it.

    Attributes:
        config: what was asked for.
        graph: titles, concepts, and the EELs ``("title", "co_engaged", "title")`` to train on, in both directions.
        val: held-out EELs ``[2, m]`` int64, each once with ``a < b``; none is in the graph or in ``test``.
        test: likewise.
        similar: pairs ``[2, m]`` with ``a < b`` that are alike by their latent vectors alone, whether popular or not (the
            stand-in for the paper's human-curated pairs). Some are EELs too: mask them, or report both.
        latent: unit vectors ``[num_titles, latent]`` float32.
        cluster: the first cluster of every title, int64 ``[num_titles]``.
    """

    config: Catalogue
    graph: Graph
    val: Tensor
    test: Tensor
    similar: Tensor
    latent: Tensor
    cluster: Tensor


@dataclass(frozen=True)
class _Titles:
    """Latent structure of the titles: vectors ``[N, k]``, first and second cluster ``[N]``, topic of each cluster."""

    latent: Floats
    first: Ints
    second: Ints
    topic: Ints


def generate(config: Catalogue | int = 20_000, seed: int = 0) -> Generated:
    """Make up a catalogue.

    Args:
        config: a :class:`Catalogue`, or just the number of titles.
        seed: used when ``config`` is a number.

    Returns:
        The graph and the truth about it; equal for equal settings.
    """
    if isinstance(config, int):
        config = Catalogue(num_titles=config, seed=seed)
    titles = _titles(config, _rng(config, 0))
    num_nodes = {"title": config.num_titles}
    names = {"title": _names("title", config.num_titles)}
    edges: dict[EdgeType, tuple[Tensor, Tensor]] = {}
    for number, (category, (count, mean)) in enumerate(sorted(config.categories.items())):
        count = max(1, min(count, config.num_titles // 20))
        num_nodes[category] = count
        names[category] = _names(category, count)
        edges["title", f"has_{category}", category] = _concepts(config, titles, count, mean, _rng(config, 10, number))
    if config.num_talent:
        num_nodes["talent"] = config.num_talent
        edges["title", "has_talent", "talent"] = _talent(config, titles, _rng(config, 1))
    train, val, test = _links(config, titles, _rng(config, 2))
    source, destination, _ = both_directions(torch.from_numpy(train[0]), torch.from_numpy(train[1]))
    edges["title", "co_engaged", "title"] = (source, destination)
    node_attrs: dict[str, dict[str, Tensor]] = {t: {} for t in num_nodes}
    if config.num_features:
        node_attrs["title"]["x"] = torch.from_numpy(_features(config, titles, _rng(config, 3)))
    graph = Graph(num_nodes, edges, node_attrs, {e: {} for e in edges}, {}, names)
    return Generated(
        config,
        graph,
        torch.from_numpy(val),
        torch.from_numpy(test),
        torch.from_numpy(_similar(titles)),
        torch.from_numpy(titles.latent),
        torch.from_numpy(titles.first),
    )


def _rng(config: Catalogue, *words: int) -> np.random.Generator:
    # Each stage has a stream of its own, so that switching one on or off leaves the others as they are.
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([config.seed, len(words), *words])))


def _names(kind: str, count: int) -> npt.NDArray[Any]:
    return np.char.add(f"{kind} ", np.arange(count).astype(np.str_))


def _unit(values: npt.NDArray[Any]) -> Floats:
    unit: Floats = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _titles(config: Catalogue, rng: np.random.Generator) -> _Titles:
    clusters = max(1, config.num_titles // _CLUSTER)
    topic = np.arange(clusters) // _TOPIC
    around = rng.standard_normal((topic[-1] + 1, config.latent))[topic]
    centre = _unit(around + 0.8 * rng.standard_normal((clusters, config.latent)))
    first = rng.permutation(config.num_titles) % clusters
    second = rng.integers(0, clusters, config.num_titles)
    own = rng.standard_normal((config.num_titles, config.latent)) / np.sqrt(config.latent)
    latent = _unit(centre[first] + 0.25 * centre[second] + 0.25 * own)
    return _Titles(latent, first.astype(np.int64), second.astype(np.int64), topic.astype(np.int64))


def _concepts(config: Catalogue, titles: _Titles, count: int, mean: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw each title's concepts without replacement, with weights popularity x exp(sharpness x cosine).

    The smallest of independent exponentials divided by their weights are such a draw (Efraimidis and Spirakis, 2006).
    """
    vectors = _unit(rng.standard_normal((count, config.latent)))
    popularity = -0.8 * np.log(np.arange(1, count + 1, dtype=np.float32))  # power law with exponent 0.8
    base = int(mean)  # this many, and one more with the probability of the rest; then spread by one at each side
    wanted = base + (rng.random(config.num_titles) < mean - base)
    if mean > 1:
        wanted = wanted + rng.integers(-1, 2, config.num_titles)
    wanted = np.minimum(wanted, count)
    most = int(wanted.max(initial=0))
    source, destination = [], []
    step = max(1, (1 << 22) // count)  # rows at a time: 16 MB a matrix
    for start in range(0, config.num_titles if most else 0, step):
        block = titles.latent[start : start + step]
        race = rng.standard_exponential((len(block), count), dtype=np.float32)
        race *= np.exp(-(config.sharpness * block @ vectors.T + popularity))
        best = np.argpartition(race, most - 1, axis=1)[:, :most]
        best = np.take_along_axis(best, np.argsort(np.take_along_axis(race, best, 1), axis=1, kind="stable"), 1)
        taken = np.arange(most) < wanted[start : start + step, None]
        source.append(np.nonzero(taken)[0] + start)
        destination.append(best[taken])
    empty: Ints = np.empty(0, np.int64)
    return (
        torch.from_numpy(np.concatenate(source).astype(np.int64) if source else empty),
        torch.from_numpy(np.concatenate(destination).astype(np.int64) if destination else empty.copy()),
    )


def _talent(config: Catalogue, titles: _Titles, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Three people per title, most of them from the people of its cluster, a few of whom are everywhere."""
    clusters = len(titles.topic)
    source = np.repeat(np.arange(config.num_titles), 3)
    home = np.where(rng.random(source.size) < 0.7, titles.first[source], rng.integers(0, clusters, source.size))
    rank = (rng.random(source.size) ** 2 * max(1, config.num_talent / clusters)).astype(np.int64)
    people = (home + rank * clusters) % config.num_talent
    key = sorted_unique(source * config.num_talent + people)
    return torch.from_numpy(key // config.num_talent), torch.from_numpy(key % config.num_talent)


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


def _links(config: Catalogue, titles: _Titles, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
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


def _pair(config: Catalogue, titles: _Titles, goal: Ints, rng: np.random.Generator) -> Ints:
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


def _cold(config: Catalogue, titles: _Titles, wanted: Ints, rng: np.random.Generator) -> Ints:
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


def _similar(titles: _Titles, nearest: int = 3) -> Ints:
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


def _features(config: Catalogue, titles: _Titles, rng: np.random.Generator) -> Floats:
    mix = rng.standard_normal((config.latent, config.num_features)).astype(np.float32)
    noise = rng.standard_normal((config.num_titles, config.num_features), dtype=np.float32)
    result: Floats = titles.latent @ mix + noise
    return result
