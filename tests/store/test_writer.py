"""One build a folder: locks, what is already there, what the writer refuses."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from store_build import (
    EDGE_ATTRS,
    IDS,
    NAMES,
    NODE_ATTRS,
    NUM_EDGES,
    NUM_NODES,
    ROLES,
    Quick,
    build,
    config,
    node_part,
    parts,
    snapshot,
)

from hasp.errors import BuildLocked, HaspError, StaleParts
from hasp.part import CUT, Nodes, Part
from hasp.schema import Roles
from hasp.store.read import FolderStore
from hasp.store.write import Writer


def test_the_same_build_is_finished_and_another_is_refused(tmp_path):
    build(tmp_path)
    before = {f.name: f.stat().st_mtime_ns for f in tmp_path.iterdir()}
    with Writer(tmp_path, fingerprint="f" * 64, config=config(threads=7), roles=ROLES) as writer:
        assert writer.finished
        assert writer.load_node_part()["t"].equal(node_part()["t"])
        with pytest.raises(HaspError, match="holds this build, finished"):
            writer.write(parts()[0])
    assert {f.name: f.stat().st_mtime_ns for f in tmp_path.iterdir()} == before
    remedy = r"; use overwrite=True, or another folder"
    with pytest.raises(StaleParts, match=r"num_parts is 3 there and 4 here; seed is 5 there and 6 here" + remedy):
        build(tmp_path, num_parts=4, seed=6)
    with pytest.raises(StaleParts, match='fingerprint is "ffff.*" there and "0000.*" here' + remedy):
        build(tmp_path, fingerprint="0" * 64)
    roles = Roles(ROLES.nodes, ROLES.edges, {"s": 1}, {})
    with (
        pytest.raises(StaleParts, match=r'roles.quota is {"s": 2} there and {"s": 1} here' + remedy),
        Writer(tmp_path, fingerprint="f" * 64, config=config(), roles=roles),
    ):
        pass
    inferred = Roles(ROLES.nodes, ROLES.edges, ROLES.quota, {"t": "the largest node type"})
    with Writer(tmp_path, fingerprint="f" * 64, config=config(), roles=inferred) as writer:
        assert writer.finished


def test_an_overwrite_with_fewer_files_leaves_none_behind(tmp_path):
    build(tmp_path)
    (tmp_path / "report.html").write_text("the user's own")
    with Writer(tmp_path, fingerprint="g", config=config(num_parts=1), roles=ROLES, overwrite=True, disk=Quick()) as writer:
        writer.save_node_part({"t": torch.zeros(7, dtype=torch.int32)})
        for part in (parts()[0], *parts()[3:]):
            writer.write(part)
        with pytest.raises(HaspError, match=r"parts are numbered 0..0, got 1"):
            writer.write(parts()[1])
        full = FolderStore.open  # refused while it is not finished
        with pytest.raises(HaspError, match="unfinished"):
            full(tmp_path)
        writer.finish(
            num_nodes=NUM_NODES, num_edges=NUM_EDGES, node_attrs=NODE_ATTRS, edge_attrs=EDGE_ATTRS, report={}, build_log={}
        )
    names = set(snapshot(tmp_path))
    data = {f"{n}.safetensors" for n in ("part-00000", "shared", "sampled", "cut", "node_part")}
    assert names == {*data, "manifest.json", "build.json", "report.html"}


def test_somebody_elses_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(HaspError, match=r"holds thesis.tex; choose another folder"):
            build(tmp_path, overwrite=overwrite)
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(HaspError, match=r"there are no parts in .*; build them first"):
        FolderStore.open(tmp_path)
    with pytest.raises(HaspError, match=r"there are no parts in .*nowhere"):
        FolderStore.open(tmp_path / "nowhere")
    with pytest.raises(HaspError, match="Not a directory"):
        build(tmp_path / "thesis.tex")
    with pytest.raises(HaspError, match="Not a directory"):
        FolderStore.open(tmp_path / "thesis.tex")


def test_a_temporary_name_that_is_a_link_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    root = tmp_path / "parts"
    build(root, stop_after=1)
    (root / "part-00001.safetensors.tmp").symlink_to(victim)
    build(root)
    assert victim.read_text() == "mine"
    (root / "cut.safetensors.tmp").symlink_to(victim)
    assert FolderStore.open(root).check_files() == []


HOLD = """
import sys
sys.path.insert(0, sys.argv[1])
from store_build import ROLES, config
from hasp.store.write import Writer
with Writer(sys.argv[2], fingerprint="f" * 64, config=config(), roles=ROLES):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_two_processes_do_not_build_into_one_folder(tmp_path):
    root = tmp_path / "parts"
    command = [sys.executable, "-c", HOLD, str(Path(__file__).parent), str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "locked\n"
        with pytest.raises(BuildLocked, match=r"one build at a time .* wait for it, or choose another folder"):
            build(root)
        second = subprocess.run(command, input="", capture_output=True, text=True, check=False)
        assert second.returncode == 1
        assert "BuildLocked" in second.stderr
        first.kill()
    build(root)
    assert FolderStore.open(root).check_files() == []


def test_two_threads_write_parts(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    build(tmp_path / "one")
    with Writer(tmp_path / "two", fingerprint="f" * 64, config=config(), roles=ROLES) as writer, ThreadPoolExecutor(2) as pool:
        writer.save_node_part(node_part())
        writer.save_ids(IDS, NAMES)
        list(pool.map(writer.write, parts()))
    build(tmp_path / "two")
    assert snapshot(tmp_path / "two") == snapshot(tmp_path / "one")


def test_the_writer_refuses_what_no_reader_would_take(tmp_path):
    with pytest.raises(HaspError, match="have no '/', got 'a/b'; rename the type"):
        Writer(tmp_path, fingerprint="f", config=config(), roles=Roles({"a/b": "entity"}, {}, {}, {}))
    part = parts()[0]
    with Writer(tmp_path, fingerprint="f", config=config(), roles=ROLES, disk=Quick()) as writer:
        with pytest.raises(HaspError, match="holds the types"):
            writer.write(Part(0, {}, part.edges))
        nodes = part.nodes["t"]
        for key, value, rule in (
            ("x/y", torch.zeros(4), "attribute names have no '/', got 'x/y'"),
            ("x", torch.zeros(4, dtype=torch.complex128), "node/t/x is torch.complex128; convert it with torch.view_as_real"),
        ):
            with pytest.raises(HaspError, match=rule):
                writer.write(Part(0, {"t": Nodes(nodes.n_id, 4, {key: value})}, part.edges))
        with pytest.raises(HaspError, match="every edge type of the cut has pairs and ptr"):
            writer.write(Part(CUT, {}, {e: part.edges[e] for e in parts()[-1].edges}))
        with pytest.raises(HaspError, match=r"node_part has labels of \['t'\], got \['c'\]"):
            writer.save_node_part({"c": torch.zeros(1)})
        with pytest.raises(HaspError, match="ids name the node type 'q'"):
            writer.save_ids({"q": np.arange(2)}, {})
        empty = {"num_nodes": {}, "num_edges": {}, "node_attrs": {}, "edge_attrs": {}, "report": {}, "build_log": {}}
        with pytest.raises(HaspError, match=r"has all its files before it is finished, but .* are missing"):
            writer.finish(**empty)
        writer.save_node_part(node_part())
        with pytest.raises(StaleParts, match="unfinished build with another node_part"):
            writer.save_node_part({"t": node_part()["t"].flip(0) + 1})
    with pytest.raises(HaspError, match="use it in a with block"):
        writer.write(part)


@pytest.mark.parametrize("report", [{"x": float("nan")}, {"x": {1, 2}}])
def test_a_report_that_json_cannot_hold_is_refused_before_the_manifest(tmp_path, report):
    manifest = build(tmp_path)
    with pytest.raises(HaspError, match="a manifest holds finite numbers"):
        type(manifest)(**{**manifest.__dict__, "report": report}).to_bytes()
