"""Out of core: scratch files hold what memory would, the parts are the same, and nothing is left behind."""

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from unittest import mock

import numpy as np
import pytest
import torch
from builds import _bytes, contents, no_sync
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import cases, num_parts_for
from test_invariants_bytes import Failing, PowerOff

import hasp.blocks
import hasp.bucket
import hasp.csr
import hasp.graph
import hasp.scratch
from hasp import BuildConfig, Graph, HASPData, memory
from hasp.build import build
from hasp.errors import HaspError
from hasp.parallel import blocks
from hasp.plan import Plan, plan
from hasp.schema import Schema
from hasp.scratch import MEMORY, Scratch, scratch_folder

BUILDS = cases().flatmap(lambda case: st.tuples(st.just(case), num_parts_for(case)))
SEED = st.integers(0, 2**63 - 1)


@pytest.fixture
def tiny(monkeypatch):
    """Every array in a file, every block a few edges, pages dropped at every look."""
    make_tiny(monkeypatch)


def make_tiny(patch):
    for module in (hasp.csr, hasp.bucket, hasp.blocks):
        patch.setattr(module, "blocks", lambda n, *_, **__: blocks(n, 2, 256, 2))
    patch.setattr(hasp.bucket, "_SLICE", 2)
    patch.setattr(hasp.csr.kernel, "SHIFT", 1)
    patch.setattr(hasp.graph, "_STEP", 5)
    patch.setattr("hasp.sizes.LARGE", -1)  # every attribute is put in the order of the parts
    patch.setattr("hasp.rows._BLOCK", 20)
    patch.setattr(hasp.scratch, "_LEAST", 1)
    patch.setattr(hasp.scratch, "_SECONDS", 0.001)
    patch.setattr(hasp.scratch, "MAPPED_BYTES", -(1 << 40))


def mapped(graph, folder):
    """The same graph in memory maps."""
    folder.mkdir()

    def put(value):
        path = folder / f"{len(list(folder.iterdir()))}"
        if not value.numel():
            return value
        flat = _bytes(value).numpy()
        np.save(path.with_suffix(".npy"), flat)
        back = np.load(path.with_suffix(".npy"), mmap_mode="r+")
        return torch.from_numpy(back).view(value.dtype).view(value.shape)

    return dataclasses.replace(
        graph,
        edges={e: (put(s), put(d)) for e, (s, d) in graph.edges.items()},
        node_attrs={t: {k: put(v) for k, v in a.items()} for t, a in graph.node_attrs.items()},
        edge_attrs={t: {k: put(v) for k, v in a.items()} for t, a in graph.edge_attrs.items()},
    )


@settings(max_examples=25)
@given(BUILDS, SEED, st.sampled_from(["nodes", "edges", "bytes"]), st.sampled_from(["metis", "random"]))
def test_out_of_core_makes_the_same_bytes(build_, seed, balance, backend):
    """From memory into memory, and from maps through scratch files in tiny blocks, on one thread and on two."""
    case, num_parts = build_
    graph, roles = case.graph, case.roles
    config = BuildConfig(num_parts=num_parts, seed=seed, balance=balance, backend=backend, threads=1)
    planned = plan(graph, roles, num_parts=num_parts, backend=backend)
    with tempfile.TemporaryDirectory() as top, no_sync(), pytest.MonkeyPatch.context() as patch:
        top = hasp.scratch.Path(top)
        build(graph, roles, config, root=top / "a", plan=planned, out_of_core=False)
        wanted = contents(top / "a")
        assert "manifest.json" in wanted
        source = mapped(graph, top / "source")
        make_tiny(patch)
        for threads in (1, 2):
            root = top / f"b{threads}"
            store = build(
                source, roles, dataclasses.replace(config, threads=threads), root=root, plan=planned, out_of_core=True
            )
            assert contents(root) == wanted
            assert (("scratch_bytes" in store.build_log) and store.build_log["scratch_bytes"] > 0) or not any(
                graph.num_edges(e) for e in graph.edges
            )


@settings(max_examples=15)
@given(BUILDS, st.integers(0, 60), st.integers(0, 60))
def test_either_side_of_a_crash(build_, first, second):
    """Stopped anywhere, in memory or out of core, and resumed the other way: the bytes of a build that was not."""
    case, num_parts = build_
    graph, roles, config = case.graph, case.roles, BuildConfig(num_parts=num_parts, seed=7, threads=1)
    with tempfile.TemporaryDirectory() as straight, tempfile.TemporaryDirectory() as bumpy, no_sync():
        build(graph, roles, config, root=straight)
        with mock.patch.object(hasp.scratch, "_LEAST", 1):
            for after, out_of_core in ((first, True), (second, False)):
                with suppress(PowerOff):
                    build(graph, roles, config, root=bumpy, disk=Failing(after), out_of_core=out_of_core)
            build(graph, roles, config, root=bumpy, out_of_core=True)
        assert contents(bumpy) == contents(straight)


def maps():
    return hasp.scratch.Path("/proc/self/maps").read_text().splitlines()


def test_a_scratch_array_has_no_name_and_its_disk_comes_back(tmp_path, tiny):
    scratch = Scratch(tmp_path / "not" / "there")
    assert scratch.folder == tmp_path
    array = scratch.empty((3, 1 << 18), np.int32)
    array[:] = 7
    assert array.shape == (3, 1 << 18) and array.flags.writeable and scratch.num_bytes == 3 << 20
    assert list(tmp_path.iterdir()) == []
    assert any("(deleted)" in line and str(tmp_path) in line for line in maps())
    row = array[1]
    del array
    assert row.sum() == 7 << 18  # a view keeps it
    del row
    assert not any(str(tmp_path) in line for line in maps())


def test_memory_is_memory(tmp_path):
    assert MEMORY.empty((2, 3), np.int8).flags.owndata and MEMORY.num_bytes == 0
    assert Scratch(tmp_path).empty(100, np.int8).flags.owndata  # too small for a file


def test_dropped_pages_keep_what_was_written(tmp_path):
    with Scratch(tmp_path) as scratch:
        before = memory.mapped_bytes()
        array = scratch.empty(4 << 20, np.int64)
        array[:] = np.arange(array.size)
        assert memory.mapped_bytes() > before + (24 << 20)
        scratch.drop()
        assert memory.mapped_bytes() < before + (4 << 20)
        assert np.array_equal(array, np.arange(array.size))


def test_pages_do_not_pile_up(tmp_path):
    """A map of 96 MB, read and written again and again, never has more than its limit resident for long."""
    np.save(tmp_path / "own.npy", np.zeros(4 << 20))
    own = torch.from_numpy(np.load(tmp_path / "own.npy", mmap_mode="r+"))
    with Scratch(tmp_path, limit=16 << 20) as scratch:
        scratch.watch([own, torch.zeros(1 << 20)])
        array = scratch.empty(8 << 20, np.int64)
        for _ in range(10):
            array[:] = 1
            own += 1
        for _ in range(1000):
            if memory.mapped_bytes() - scratch._floor <= (16 << 20):
                break
            time.sleep(0.02)
        assert memory.mapped_bytes() - scratch._floor <= (16 << 20)
    assert own[0] == 10 and own[-1] == 10 and array[-1] == 1


def test_private_maps_are_left_alone(tmp_path):
    """What a program wrote to its own copy of a file must not be dropped with the page."""
    np.save(tmp_path / "own.npy", np.zeros(1 << 20))
    own = torch.from_numpy(np.load(tmp_path / "own.npy", mmap_mode="c"))
    own[:] = 3
    scratch = Scratch(tmp_path)
    scratch.watch([own])
    assert scratch._watched == []
    scratch.drop()
    assert bool((own == 3).all())


def test_a_full_disk_is_one_line(tmp_path):
    with (
        mock.patch.object(os, "posix_fallocate", side_effect=OSError(28, "No space left on device")),
        pytest.raises(HaspError, match=r"scratch of 8,388,608 bytes does not go into .*No space left.*; free space there"),
    ):
        Scratch(tmp_path).empty(1 << 20, np.int64)


def test_where_scratch_goes(tmp_path, monkeypatch):
    assert scratch_folder(tmp_path / "a" / "b") == tmp_path
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert scratch_folder() == tmp_path
    monkeypatch.delenv("TMPDIR")
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert scratch_folder().is_dir()


def test_a_killed_build_leaves_nothing(tmp_path):
    code = (
        "import os, signal, sys, numpy as np; from hasp.scratch import Scratch\n"
        "s = Scratch(sys.argv[1]); a = s.empty(1 << 20, np.int64); a[:] = 1; os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(tmp_path)], check=False, capture_output=True)
    assert done.returncode == -9
    assert list(tmp_path.iterdir()) == []


def a_graph(edges=300_000, nodes=20_000):
    rng = np.random.default_rng(3)

    def ends(a, b, count):
        return torch.from_numpy(rng.integers(0, a, count)), torch.from_numpy(rng.integers(0, b, count))

    like, has = ends(nodes, nodes, edges // 10), ends(nodes, 50, edges)
    x = torch.from_numpy(rng.standard_normal((nodes, 8)).astype(np.float32))
    return Graph(
        {"title": nodes, "genre": 50}, {("title", "like", "title"): like, ("title", "has", "genre"): has}, {"title": {"x": x}}
    )


def test_large_attributes_are_put_in_the_order_of_the_parts(tmp_path, monkeypatch):
    """A pass of its own, for attributes alone that memory would not cache; the plan counts its files."""
    graph = a_graph(3000, 500)
    roles = Schema("title").resolve(graph.num_nodes, graph.edges)
    small = plan(graph, roles, num_parts=4)
    called = []
    real = hasp.blocks.rows_by_part
    monkeypatch.setattr(hasp.blocks, "rows_by_part", lambda value, *rest: called.append(value.shape) or real(value, *rest))
    build(graph, roles, BuildConfig(num_parts=4), root=tmp_path / "a", plan=small, out_of_core=True)
    assert called == []
    monkeypatch.setattr("hasp.sizes.available_memory", lambda: 40_000)  # x has 16,000 bytes
    assert plan(graph, roles, num_parts=4).scratch_bytes == small.scratch_bytes + 500 * 32
    build(graph, roles, BuildConfig(num_parts=4), root=tmp_path / "b", plan=small, out_of_core=True)
    assert called == [(500, 8)] and contents(tmp_path / "a") == contents(tmp_path / "b")


def test_the_plan_chooses_and_says_so(tmp_path, monkeypatch):
    graph = a_graph(3000, 500)
    roles = Schema("title").resolve(graph.num_nodes, graph.edges)
    monkeypatch.setattr("hasp.plan.available_memory", lambda: 10**12)
    whole = plan(graph, roles, num_parts=4)
    assert not whole.out_of_core and "scratch" not in whole.explain()
    monkeypatch.setattr("hasp.plan.available_memory", lambda: int(whole.peak_build_bytes / 0.7))
    small = plan(graph, roles, num_parts=4)
    assert small.out_of_core and small.predicted() == whole.predicted()
    for share, spills in ((0.45, False), (0.55, True)):
        monkeypatch.setattr("hasp.plan.available_memory", lambda share=share: int(whole.peak_build_bytes / share))
        assert plan(graph, roles, num_parts=4).out_of_core == spills
    text = small.explain()
    assert "scratch files until then" in text and "in memory alone it would be" in text
    assert small.scratch_bytes > 0 and small.output_bytes > 0


def test_what_is_planned_is_what_is_taken(tmp_path, tiny):
    graph = a_graph()
    roles = Schema("title").resolve(graph.num_nodes, graph.edges)
    planned = dataclasses.replace(plan(graph, roles, num_parts=8), out_of_core=True)
    store = build(graph, roles, BuildConfig(num_parts=8), root=tmp_path / "parts", plan=planned)
    written = sum(p.stat().st_size for p in (tmp_path / "parts").glob("*.safetensors"))
    assert 0.95 * planned.output_bytes < written < 1.05 * planned.output_bytes
    # All that is made in one build, though not all at once.
    assert 0.5 * planned.scratch_bytes < store.build_log["scratch_bytes"] < 2 * planned.scratch_bytes
    assert [p.name for p in tmp_path.iterdir()] == ["parts"]
    assert store.build_log["planned_peak_bytes"] == planned.scratch_peak_bytes
    text = str(HASPData.of(store).report())
    assert "scratch files: " in text and "memory of the build" in text


def test_a_disk_that_is_too_small_is_refused(tmp_path, monkeypatch):
    planned = Plan(4, 100, 10, 1000, out_of_core=True, scratch_peak_bytes=500, scratch_bytes=3000, output_bytes=2000)
    monkeypatch.setattr("hasp.sizes.shutil.disk_usage", lambda path: mock.Mock(free=4000))
    with pytest.raises(
        HaspError, match=r"parts and scratch files need about 5\.0 kB, and 4\.0 kB is free on the disk of .*; free"
    ):
        planned.check(10**9, root=tmp_path / "parts")
    (tmp_path / "half-a-build").write_bytes(bytes(1500))
    planned.check(10**9, root=tmp_path)  # what is there is replaced or continued
    dataclasses.replace(planned, out_of_core=False).check(10**9, root=tmp_path / "parts")
    planned.check(700)
    with pytest.raises(HaspError, match=r"needs about 500 B, and 499 B of memory is free"):
        planned.check(499)


def test_the_user_may_decide(tmp_path):
    graph = a_graph(3000, 500)
    options = {"num_parts": 2, "log": False}
    with mock.patch.object(hasp.scratch, "_LEAST", 1):
        forced = HASPData(graph, Schema("title"), root=tmp_path / "a", out_of_core=True, **options)
        held = HASPData(graph, Schema("title"), root=tmp_path / "b", out_of_core=False, **options)
        HASPData(graph, Schema("title"), out_of_core=True, **options)  # in memory there is nothing to keep out of it
    assert forced.store.build_log["scratch_bytes"] > 0 and "scratch_bytes" not in held.store.build_log
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
