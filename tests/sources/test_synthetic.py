"""Made-up catalogues: the shape that was asked for, the same for a seed, and a planted similarity that can be found."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hasp.errors import HaspError
from hasp.schema import Schema
from hasp.sources.synthetic import CATEGORIES, Catalogue, Generated, generate

EEL = ("title", "co_engaged", "title")


@cache
def made(titles: int = 12_000, seed: int = 0) -> Generated:
    return generate(titles, seed)


def degree(got: Generated) -> np.ndarray:
    return np.bincount(got.graph.edges[EEL][0].numpy(), minlength=got.config.num_titles)


def keys(pairs: torch.Tensor, count: int) -> set[int]:
    return set((pairs[0] * count + pairs[1]).tolist())


@given(
    st.builds(
        Catalogue,
        num_titles=st.integers(1, 300),
        seed=st.integers(0, 1000),
        unlinked=st.sampled_from([0.0, 0.3, 60 / 138]),
        noise=st.sampled_from([0.0, 0.1, 1.0]),
        val=st.sampled_from([0.0, 0.2]),
        test=st.sampled_from([0.0, 0.2]),
        cold_links=st.sampled_from([0.0, 2.0]),
        num_features=st.sampled_from([0, 3]),
        num_talent=st.sampled_from([0, 1, 500]),
    )
)
@settings(max_examples=40)
def test_pairs_are_canonical_disjoint_and_in_range(config: Catalogue) -> None:
    got, count = generate(config), config.num_titles
    got.graph.check()
    source, destination = got.graph.edges[EEL]
    train = torch.stack([source, destination])[:, source < destination]
    assert train.size(1) * 2 == source.numel()  # both directions, no self-loops
    sets = [keys(p, count) for p in (train, got.val, got.test)]
    assert sum(map(len, sets)) == len(set.union(*sets)) == train.size(1) + got.val.size(1) + got.test.size(1)
    for pairs in (got.val, got.test, got.similar):
        assert pairs.dtype == torch.int64 and bool((pairs[0] < pairs[1]).all())
        assert not pairs.numel() or 0 <= int(pairs.min()) <= int(pairs.max()) < count
    if not config.val + config.test:
        assert got.val.numel() == got.test.numel() == 0
    for edge_type, (a, b) in got.graph.edges.items():
        if edge_type != EEL:  # a title has a concept once
            assert len(keys(torch.stack([a, b]), max(1, got.graph.num_nodes[edge_type[2]]))) == a.numel()
    assert ("x" in got.graph.node_attrs["title"]) == bool(config.num_features)
    assert got.graph.num_nodes.get("talent", 0) == config.num_talent
    torch.testing.assert_close(got.latent.norm(dim=1), torch.ones(count))


def test_the_shape_is_that_of_the_paper() -> None:
    got = made()
    graph, count = got.graph, got.config.num_titles
    assert set(graph.num_nodes) == {"title", *CATEGORIES} and len(CATEGORIES) == 10
    assert sum(size for size, _ in CATEGORIES.values()) == 1250
    concepts = sum(graph.num_edges(e) for e in graph.edges if e != EEL)
    assert 9 < concepts / count < 11
    groups = np.histogram(degree(got), [0, 4, 7, np.inf])[0] / count
    np.testing.assert_allclose(groups, got.config.groups, atol=0.07)
    assert 0.28 < (degree(got) == 0).mean() < 0.34
    loud = np.sort(degree(got))[::-1]
    assert loud[: count // 10].sum() > 0.35 * loud.sum()  # most EELs are among the popular titles
    storyline = np.sort(np.bincount(graph.edges["title", "has_storyline", "storyline"][1].numpy()))[::-1]
    assert storyline[: len(storyline) // 10].sum() > 0.2 * storyline.sum()  # and so are concepts skewed
    Schema(entity="title", eel=[EEL]).resolve(graph.num_nodes, graph.edges)


def test_same_seed_same_catalogue_and_streams_are_apart() -> None:
    one, two, other = generate(2000, 3), generate(2000, 3), generate(2000, 4)
    more = generate(Catalogue(2000, 3, num_talent=50, num_features=4))
    assert one.graph.fingerprint() == two.graph.fingerprint() != other.graph.fingerprint()
    for name in ("val", "test", "similar", "latent", "cluster"):
        assert torch.equal(getattr(one, name), getattr(two, name)) and torch.equal(getattr(one, name), getattr(more, name))
    assert all(torch.equal(one.graph.edges[e][0], more.graph.edges[e][0]) for e in one.graph.edges)


def concept_vectors(got: Generated) -> torch.Tensor:
    """Unit tf-idf rows, dense: what anyone can tell from concepts alone."""
    graph, blocks = got.graph, []
    for edge_type, (source, concept) in graph.edges.items():
        if edge_type != EEL:
            block = torch.zeros(got.config.num_titles, graph.num_nodes[edge_type[2]])
            block[source, concept] = 1
            blocks.append(block * (len(block) / block.sum(0).clamp(min=1)).log())
    return torch.nn.functional.normalize(torch.cat(blocks, 1), dim=1)


def auc(vectors: torch.Tensor, pairs: torch.Tensor) -> float:
    """How often a true pair is more alike than the same title and a random one (ties count half)."""
    other = torch.from_numpy(np.random.default_rng(0).integers(0, len(vectors), pairs.size(1)))
    good, bad = ((vectors[pairs[0]] * vectors[x]).sum(1) for x in (pairs[1], other))
    return float(((good > bad).float() + 0.5 * (good == bad)).mean())


def test_concepts_tell_held_out_links_of_warm_and_cold_titles() -> None:
    got = made()
    cold = torch.from_numpy((degree(got)[got.test.numpy()] == 0).any(0))
    assert int(cold.sum()) > 500 and int((~cold).sum()) > 500
    vectors = concept_vectors(got)
    assert auc(vectors, got.test[:, cold]) > 0.8
    assert auc(vectors, got.test[:, ~cold]) > 0.7
    assert auc(vectors, got.similar) > 0.9
    assert auc(got.latent, got.test) > auc(vectors, got.test)
    mute = generate(Catalogue(12_000, sharpness=0.0))  # the control: concepts that say nothing
    assert abs(auc(concept_vectors(mute), mute.similar) - 0.5) < 0.03


def test_similar_pairs_are_the_nearest_of_their_cluster() -> None:
    got = generate(400, 1)
    expected = set()
    cosine = (got.latent @ got.latent.t()).numpy()
    for i in range(400):
        mates = [j for j in range(400) if j != i and got.cluster[j] == got.cluster[i]]
        for j in sorted(mates, key=lambda j, i=i: -cosine[i, j])[:3]:
            expected.add((min(i, j), max(i, j)))
    assert {tuple(p) for p in got.similar.t().tolist()} == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_titles": 0}, "num_titles=0: at least 1 title"),
        ({"groups": (0.5, 0.5, 0.5)}, "three shares that sum to 1"),
        ({"unlinked": 0.9}, "unlinked=0.9: 0 to the first of groups, 0.435"),
        ({"val": 0.6, "test": 0.4}, "val . test below 1"),
        ({"noise": 1.5}, "noise=1.5: a share"),
        ({"num_talent": -1}, "num_talent=-1: 0 or more"),
        ({"categories": {"title": (3, 1.0)}}, "'title' needs"),
    ],
)
def test_settings_out_of_range(settings, message: str) -> None:
    with pytest.raises(HaspError, match=message):
        Catalogue(**settings)
