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
from hasp.sources.planted import Titles, plant_links, plant_titles, similar_pairs, unit_rows

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
    titles = plant_titles(config, _rng(config, 0))
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
    train, val, test = plant_links(config, titles, _rng(config, 2))
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
        torch.from_numpy(similar_pairs(titles)),
        torch.from_numpy(titles.latent),
        torch.from_numpy(titles.first),
    )


def _rng(config: Catalogue, *words: int) -> np.random.Generator:
    # Each stage has a stream of its own, so that switching one on or off leaves the others as they are.
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([config.seed, len(words), *words])))


def _names(kind: str, count: int) -> npt.NDArray[Any]:
    return np.char.add(f"{kind} ", np.arange(count).astype(np.str_))


def _concepts(config: Catalogue, titles: Titles, count: int, mean: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw each title's concepts without replacement, with weights popularity x exp(sharpness x cosine).

    The smallest of independent exponentials divided by their weights are such a draw (Efraimidis and Spirakis, 2006).
    """
    vectors = unit_rows(rng.standard_normal((count, config.latent)))
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


def _talent(config: Catalogue, titles: Titles, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Three people per title, most of them from the people of its cluster, a few of whom are everywhere."""
    clusters = len(titles.topic)
    source = np.repeat(np.arange(config.num_titles), 3)
    home = np.where(rng.random(source.size) < 0.7, titles.first[source], rng.integers(0, clusters, source.size))
    rank = (rng.random(source.size) ** 2 * max(1, config.num_talent / clusters)).astype(np.int64)
    people = (home + rank * clusters) % config.num_talent
    key = sorted_unique(source * config.num_talent + people)
    return torch.from_numpy(key // config.num_talent), torch.from_numpy(key % config.num_talent)


def _features(config: Catalogue, titles: Titles, rng: np.random.Generator) -> Floats:
    mix = rng.standard_normal((config.latent, config.num_features)).astype(np.float32)
    noise = rng.standard_normal((config.num_titles, config.num_features), dtype=np.float32)
    result: Floats = titles.latent @ mix + noise
    return result
