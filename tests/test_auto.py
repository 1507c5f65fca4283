"""Auto: what it chooses and says, that nothing of the machine shows in it, and that what does not fit is refused."""

import dataclasses
import inspect
import re
import tempfile

import numpy as np
import pytest
import torch
from builds import contents, no_sync
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import cases, num_parts_for

import hasp.backends.auto as auto
from hasp import BuildConfig, HASPData, HaspError, Schema, partition
from hasp.build import build
from hasp.cut import resolve
from hasp.graph import Graph
from hasp.plan import plan

BUILDS = cases().flatmap(lambda case: st.tuples(st.just(case), num_parts_for(case)))
FREE = (None, 1, 10**6, 10**13)
EEL = ("t", "r", "t")


def ring(n: int, hub: int = 0) -> Graph:
    """``n`` nodes in a circle, links in one direction; node 0 is also linked to the next ``hub`` nodes."""
    source = torch.cat([torch.arange(n), torch.zeros(hub, dtype=torch.int64)])
    target = torch.cat([(torch.arange(n) + 1) % n, torch.arange(2, 2 + hub)])
    return Graph({"t": n}, {EEL: (source, target)})


def roles_of(graph: Graph):
    return Schema().resolve(graph.num_nodes, graph.edges)


def set_free(patch: pytest.MonkeyPatch, free: int | None) -> None:
    for where in ("hasp.sizes", "hasp.plan", "hasp.cut"):
        patch.setattr(f"{where}.available_memory", lambda: free)
    patch.setattr("hasp.memory.available_bytes", lambda: free or 0)


@pytest.mark.parametrize(
    ("figures", "name", "why"),
    [
        ((1000, 5000, 50), "metis", "5,000 EELs are few"),
        ((50_000, 799_999, 5_000), "metis", "799,999 EELs are few"),
        ((50_000, 800_000, 5_000), "multilevel", r"800,000 EELs are many, degrees are uneven \(mean 32\.0, most 5,000\)"),
        ((10**6, 5 * 10**6, 4000), "multilevel", r"5,000,000 EELs are many, degrees are uneven \(mean 10\.0, most 4,000\)"),
        ((10**6, 10**7, 40), "multilevel", "10,000,000 EELs are many$"),
        ((10**6, 3 * 10**6, 6), "metis", r"degrees are low and even \(mean 6\.0, most 6\)"),
        ((10**7, 20_000_000 - 1, 6), "metis", "degrees are low and even"),
        ((10**7, 20_000_000, 6), "multilevel", "20,000,000 EELs are very many"),
    ],
)
def test_it_says_why(figures, name, why):
    chosen, said = auto.choose(*figures)
    assert chosen == name and re.search(why, said)


def test_it_is_the_default_everywhere():
    assert BuildConfig().backend == "auto"
    for function in (HASPData.__init__, partition, plan):
        assert inspect.signature(function).parameters["backend"].default == "auto"


def test_small_graphs_get_metis():
    random = np.random.default_rng(0)
    indptr, indices = np.arange(0, 2001, 5), random.integers(0, 400, 2000)
    assert resolve("auto", indptr, 2000)[0] == "metis"
    assert np.array_equal(partition(indptr, indices, 4, seed=3), partition(indptr, indices, 4, seed=3, backend="metis"))


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(("hub", "name"), [(0, "metis"), (50, "multilevel")])
def test_degrees_of_a_graph_are_those_of_its_links(hub, name, both, monkeypatch):
    """However the links are stored: in one direction, or in both."""
    monkeypatch.setattr(auto, "LARGE", 100)
    graph = ring(100, hub)
    if both:
        a, b = graph.edges[EEL]
        graph = Graph(graph.num_nodes, {EEL: (torch.cat([a, b]), torch.cat([b, a]))})
    chosen, why = auto.choose_for(graph, roles_of(graph))
    mean, most = 2 * (100 + hub) / 100, 2 + hub
    assert chosen == name and f"(mean {mean:.1f}, most {most})" in why


def test_ids_that_are_not_there_are_left_to_the_check(monkeypatch):
    monkeypatch.setattr(auto, "LARGE", 5)
    graph = Graph({"t": 4}, {EEL: (torch.tensor([0, 1, 2, -7, 0]), torch.tensor([1, 2, 3, 0, 10**12]))})
    assert auto.choose_for(graph, roles_of(graph)) == ("metis", "degrees are low and even (mean 2.5, most 3)")
    with pytest.raises(HaspError, match=r"lie in 0\.\.3, got row 3: -7"):
        HASPData(graph, num_parts=2, log=False)


def test_isolated_entities_do_not_thin_the_degrees_out(monkeypatch):
    monkeypatch.setattr(auto, "LARGE", 100)
    graph = dataclasses.replace(ring(100), num_nodes={"t": 10_000})
    assert auto.choose_for(graph, roles_of(graph))[1] == "degrees are low and even (mean 2.0, most 2)"


@settings(max_examples=20)
@given(BUILDS, st.integers(0, 2**63 - 1), st.sampled_from([1, 6, 10**6]), st.sampled_from([8, 10**7]))
def test_6_free_memory_decides_no_byte(build_, seed, large, huge):
    """Same input, settings and seed: the same partitioner and the same bytes, whatever memory is said to be free; and the
    bytes of a build that asks for this partitioner by name."""
    case, num_parts = build_
    found, names = [], set()
    with pytest.MonkeyPatch.context() as patch, no_sync():
        patch.setattr(auto, "LARGE", large)
        patch.setattr(auto, "HUGE", max(huge, large))
        for free in FREE:
            set_free(patch, free)
            with tempfile.TemporaryDirectory() as root:
                planned = plan(case.graph, case.roles, num_parts=num_parts)
                store = build(case.graph, case.roles, BuildConfig(num_parts, seed, threads=1), root=root, plan=planned)
                names.add(store.manifest.config["backend"])
                assert num_parts == 1 or planned.partitioner == store.build_log["partitioner"]
                found.append(contents(root))
        (name,) = names
        with tempfile.TemporaryDirectory() as root:
            planned = plan(case.graph, case.roles, num_parts=num_parts, backend=name)
            build(case.graph, case.roles, BuildConfig(num_parts, seed, name, threads=1), root=root, plan=planned)
            found.append(contents(root))
    assert name in ("metis", "multilevel") and all(f == found[0] for f in found)


def test_a_build_by_name_opens_what_auto_built(tmp_path):
    graph = ring(60)
    HASPData(graph, num_parts=3, root=tmp_path / "p", log=False)
    before = contents(tmp_path / "p")
    HASPData(graph, num_parts=3, root=tmp_path / "p", backend="metis", log=False)  # not refused as another build's parts
    assert contents(tmp_path / "p") == before


def test_a_resumed_build_still_says_which_partitioner_it_took(tmp_path, monkeypatch):
    graph, root = ring(60), tmp_path / "p"

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hasp.build.Blocks.part", stop)
        with pytest.raises(KeyboardInterrupt):
            HASPData(graph, num_parts=3, root=root, log=False, threads=1)
    assert (root / "node_part.safetensors").exists() and not (root / "manifest.json").exists()
    assert "partitioner: metis (60 EELs are few)" in str(HASPData(graph, num_parts=3, root=root, log=False).report())


@pytest.mark.parametrize(
    ("large", "free", "text"),
    [
        (
            10**6,
            10_000,
            r"takes metis for 60 edges, which needs about 14\.6 kB .* 10\.0 kB is free; .*'multilevel' \(2\.4 kB\)",
        ),
        (
            10,
            1_000,
            r"takes multilevel for 60 edges, which needs about 2\.4 kB .* 1\.0 kB is free; .* choose backend='stream',",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_never_cut_otherwise(large, free, text, monkeypatch):
    monkeypatch.setattr(auto, "LARGE", large)
    monkeypatch.setattr(auto, "HUGE", max(large, 20))
    csr = np.arange(61), (np.arange(60) + 1) % 60
    enough = partition(*csr, 3)
    with monkeypatch.context() as patch:
        set_free(patch, free)
        with pytest.raises(HaspError, match=text):
            partition(*csr, 3)
        assert partition(*csr, 3, backend="metis").shape == (60,)  # what is named is tried
        assert not partition(*csr, 1).any()  # one part needs no partitioner
    assert np.array_equal(partition(*csr, 3), enough)


def test_a_build_that_does_not_fit_is_refused_before_it_starts(tmp_path, monkeypatch):
    set_free(monkeypatch, 10**6)
    with pytest.raises(HaspError, match=r"1\.0 MB of memory is free; .* another backend \(multilevel takes a fifth of METIS"):
        HASPData(ring(60), num_parts=3, root=tmp_path / "p", log=False)
    assert not (tmp_path / "p").exists()
