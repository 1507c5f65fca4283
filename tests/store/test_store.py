"""What is written is what is read: parts, ids, maps, pickles, locks, and readers beside builders."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from store_build import IDS, NAMES, NODE_ATTRS, ROLES, Quick, build, config, node_part, parts, same, snapshot
from store_crash import InPlaceQuick

from hasp.errors import BuildLocked, CorruptPart, HaspError, StaleParts
from hasp.part import CUT, SAMPLED, SHARED, Edges, Nodes, Part
from hasp.schema import Roles
from hasp.store.framing import DTYPES, Spec
from hasp.store.read import FolderStore, MemoryStore
from hasp.store.write import Writer

# ---- round trip -----------------------------------------------------------------------------------------------------------


@st.composite
def builds(draw):
    """Roles, attribute specs, parts and counts of a random build; values are random bytes of small numbers."""
    kinds = draw(st.lists(st.sampled_from(["entity", "semantic", "sampled"]), max_size=3))
    nodes = dict(zip("abcd", ["entity", *kinds], strict=False))
    spec = st.builds(
        lambda dtype, shape: Spec(dtype, tuple(shape)), st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 2), max_size=2)
    )
    attrs = st.dictionaries(st.text("xyz_é ", min_size=1, max_size=3), spec, max_size=3)
    edges = {}
    for source, relation, destination in draw(
        st.lists(
            st.tuples(st.sampled_from(list(nodes)), st.sampled_from("rs"), st.sampled_from(list(nodes))),
            max_size=4,
            unique=True,
        )
    ):
        ends = {nodes[source], nodes[destination]}
        both = "eel" if relation == "r" else "entity-entity"
        role = (
            "sampled" if "sampled" in ends else both if ends == {"entity"} else "-".join(sorted({"entity", "semantic"} & ends))
        )
        edges[source, relation, destination] = "semantic-semantic" if role == "semantic" else role
    quota = {t: 1 for t, r in nodes.items() if r == "sampled"}
    node_attrs, edge_attrs = {t: draw(attrs) for t in nodes}, {e: draw(attrs) for e in edges}
    counts = {t: draw(st.integers(0, 4)) for t in nodes}
    roles = Roles(nodes, edges, quota, {})

    def values(specs, rows):
        torch.manual_seed(draw(st.integers(0, 9)))
        return {k: torch.randint(0, 2, (rows, *s.shape)).to(s.torch_dtype) for k, s in specs.items()}

    def part(block):
        own = {SHARED: "semantic", SAMPLED: "sampled", CUT: ""}.get(block, "entity")
        out_nodes, out_edges = {}, {}
        for t in (t for t, r in nodes.items() if r == own):
            rows = draw(st.integers(0, 3)) if block >= 0 else counts[t]
            n_id = torch.arange(rows, dtype=draw(st.sampled_from([torch.int32, torch.int64]))) if block >= 0 else None
            out_nodes[t] = Nodes(n_id, rows, values(node_attrs[t], rows))
        for e in edges:
            ends = {nodes[e[0]], nodes[e[2]]}
            inside = {
                SHARED: ends == {"semantic"},
                SAMPLED: "sampled" in ends and "entity" not in ends,
                CUT: ends == {"entity"},
            }
            if inside.get(block, "entity" in ends):
                rows = draw(st.integers(0, 3))
                cut = (torch.zeros(2, 2, dtype=torch.int32), torch.tensor([0, 0, rows])) if block == CUT else (None, None)
                index = torch.randint(0, 9, (2, rows), dtype=torch.int32)
                out_edges[e] = Edges(index, torch.arange(rows, dtype=torch.int32), values(edge_attrs[e], rows), *cut)
        return Part(block, out_nodes, out_edges)

    num_parts = draw(st.integers(1, 3))
    blocks = [part(b) for b in [*range(num_parts), SHARED, *([SAMPLED] if quota else []), CUT]]
    labels = {t: torch.arange(counts[t], dtype=torch.int32) % num_parts for t, r in nodes.items() if r == "entity"}
    rest = {"num_nodes": counts, "num_edges": dict.fromkeys(edges, 3), "node_attrs": node_attrs, "edge_attrs": edge_attrs}
    return roles, num_parts, blocks, labels, rest


@settings(max_examples=40)
@given(builds())
def test_what_is_written_is_what_is_read(tmp_path_factory, case):
    roles, num_parts, blocks, labels, rest = case
    root = tmp_path_factory.mktemp("round") / "parts"
    with Writer(root, fingerprint="f", config=config(num_parts=num_parts), roles=roles, disk=Quick()) as writer:
        writer.save_node_part(labels)
        for block in reversed(blocks):
            size = writer.write(block)
            assert size >= block.num_bytes
        manifest = writer.finish(**rest, report={}, build_log={})
    store = FolderStore.open(root)
    assert store.manifest == manifest
    assert store.check_files() == []
    assert all(same(store.part(b.part_id), b) for b in blocks if b.part_id >= 0)
    for block, read in ((SHARED, store.shared), (SAMPLED, store.sampled), (CUT, store.cut)):
        assert same(read, next((b for b in blocks if b.part_id == block), Part(block, {}, {})))
    assert {t: v.tolist() for t, v in store.node_part().items()} == {t: v.tolist() for t, v in labels.items()}


def test_the_tiny_build_is_read_back(tmp_path):
    build(tmp_path)
    store = FolderStore.open(tmp_path)
    *own, shared, sampled, cut = parts()
    assert store.num_parts == 3
    assert all(same(store.part(p), own[p]) for p in range(3))
    assert same(store.shared, shared)
    assert same(store.sampled, sampled)
    assert same(store.cut, cut)
    assert store.shared is store.shared
    assert store.build_log == {"seconds": {"cut": 1.5}}
    for node_type in ("t", "c"):
        assert store.ids(node_type).tolist() == IDS[node_type].tolist()
    assert store.ids("s") is None
    assert store.names("t").tolist() == NAMES["t"].tolist()
    assert store.names("c") is None
    for bad in (-1, 3):
        with pytest.raises(HaspError, match=r"parts are numbered 0..2, got"):
            store.part(bad)


def test_a_store_in_memory_has_the_same_interface(tmp_path):
    manifest = build(tmp_path)
    *own, shared, sampled, cut = parts()
    memory, folder = MemoryStore(manifest, own, shared, sampled, cut, node_part(), IDS, NAMES), FolderStore.open(tmp_path)
    public = {name for name in dir(folder) if not name.startswith("_")}
    assert public - {n for n in dir(memory) if not n.startswith("_")} == {"open", "read_ahead", "root", "verify"}
    for p in range(3):
        assert same(memory.part(p), folder.part(p))
    assert same(memory.cut, folder.cut)
    assert memory.node_part()["t"].equal(folder.node_part()["t"])
    assert memory.check_files() == []
    assert memory.ids("c").tolist() == folder.ids("c").tolist()
    assert memory.names("c") is folder.names("c") is None
    with pytest.raises(HaspError, match=r"parts are numbered 0..2, got 3"):
        memory.part(3)


# ---- memory maps ----------------------------------------------------------------------------------------------------------


def test_tensors_are_the_mapped_file_and_private(tmp_path):
    build(tmp_path)
    before = snapshot(tmp_path)
    tensor = FolderStore.open(tmp_path).part(0).nodes["t"].attrs["x"]
    maps = Path("/proc/self/maps")
    if maps.exists():
        inside = [
            line
            for line in maps.read_text().splitlines()
            if int(line.split("-")[0], 16) <= tensor.data_ptr() < int(re.split("[- ]", line)[1], 16)
        ]
        assert len(inside) == 1
        assert inside[0].endswith("part-00000.safetensors")
        assert inside[0].split()[1][3] == "p"
    tensor.fill_(7)
    assert snapshot(tmp_path) == before
    assert not FolderStore.open(tmp_path).part(0).nodes["t"].attrs["x"].eq(7).any()


def test_a_header_that_another_writer_spelled_is_read(tmp_path):
    build(tmp_path)
    path = tmp_path / "part-00000.safetensors"
    mine, data = FolderStore.open(tmp_path).part(0), path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + length])
    # The same tensors at the same places, each entry's keys in another order: as long as before.
    text = json.dumps({k: dict(reversed(v.items())) for k, v in entries.items()}, separators=(",", ":")).encode()
    text += b" " * (length - len(text))
    assert len(text) == length
    assert text != data[8 : 8 + length]
    path.write_bytes(data[:8] + text + data[8 + length :])
    assert same(FolderStore.open(tmp_path, verify="size").part(0), mine)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc to count open handles in")
def test_maps_keep_no_handle_open(tmp_path):
    build(tmp_path)
    store = FolderStore.open(tmp_path)
    _touch(store)
    before = sorted(p.name for p in Path("/proc/self/fd").iterdir())
    kept = [store.part(p % store.num_parts) for p in range(50)]
    assert len(sorted(p.name for p in Path("/proc/self/fd").iterdir())) == len(before)
    assert len(kept) == 50


def _mapped_while_overwritten(root, disk):
    build(root)
    store = FolderStore.open(root, verify="size")
    mapped, copy = store.part(0).nodes["t"].attrs["x"], store.part(0).nodes["t"].attrs["x"].clone()
    build(root, disk, overwrite=True, fingerprint="0" * 64, shift=1)
    assert not FolderStore.open(root).part(0).nodes["t"].attrs["x"].equal(copy)
    return store, mapped.equal(copy)


def test_a_reader_keeps_old_bytes_during_an_overwrite_and_maps_no_new_ones(tmp_path):
    store, kept = _mapped_while_overwritten(tmp_path, Quick())
    assert kept
    with pytest.raises(StaleParts, match="open it again"):
        store.part(1)


def test_that_test_notices_a_file_that_is_written_in_place(tmp_path):
    assert not _mapped_while_overwritten(tmp_path, InPlaceQuick())[1]


def test_a_folder_that_was_only_touched_is_the_same_build(tmp_path):
    build(tmp_path)
    store = FolderStore.open(tmp_path)
    os.utime(tmp_path / "manifest.json", ns=(1, 1))
    assert same(store.part(1), parts()[1])


def test_a_pickled_store_opens_again_and_refuses_another_build(tmp_path, monkeypatch):
    build(tmp_path / "parts")
    monkeypatch.chdir(tmp_path)
    store = FolderStore.open("parts", verify="always")
    data = pickle.dumps(store)
    monkeypatch.chdir("/")
    again = pickle.loads(data)
    assert again.verify == "always"
    assert same(again.part(0), parts()[0])
    build(tmp_path / "parts", overwrite=True, fingerprint="0" * 64)
    with pytest.raises(StaleParts, match="was rebuilt since it was opened"):
        pickle.loads(data)


# ---- damage ---------------------------------------------------------------------------------------------------------------


def _flip(data):
    return data[:-1] + bytes([data[-1] ^ 1])


def _hole(data):
    return data[:8] + bytes(len(data) - 8) if any(data[8:]) else _flip(data)


def _truncate(data):
    return data[: len(data) * 9 // 10]


FILES = ["manifest.json", "shared", "sampled", "cut", "node_part", "ids", "part-00000", "part-00001", "part-00002"]


def _touch(store):
    for p in range(store.num_parts):
        store.part(p)
    return store.shared, store.sampled, store.cut, store.node_part(), store.ids("t")


@pytest.mark.parametrize("damage", [_flip, _hole, _truncate])
@pytest.mark.parametrize("name", FILES)
def test_damage_to_any_file_is_noticed_and_named(tmp_path, name, damage):
    build(tmp_path)
    path = tmp_path / (name if "." in name else f"{name}.safetensors")
    intact = path.read_bytes()
    path.write_bytes(damage(intact))
    if damage is _truncate or name == "manifest.json":
        with pytest.raises(CorruptPart, match=re.escape(str(path))):
            FolderStore.open(tmp_path, verify="size")
        return
    for verify in ("first", "always"):
        store = FolderStore.open(tmp_path, verify=verify)
        with pytest.raises(CorruptPart, match=f"{re.escape(str(path))} has the blake3 .*, found .*; restore"):
            _touch(store)
        problems = store.check_files()
        assert len(problems) == 1
        assert str(path) in problems[0]
    path.write_bytes(intact)
    assert store.check_files() == []
    _touch(store)


def test_when_files_are_hashed(tmp_path):
    build(tmp_path)
    path = tmp_path / "part-00000.safetensors"
    stores = {verify: FolderStore.open(tmp_path, verify=verify) for verify in ("size", "first", "always")}
    for store in stores.values():
        store.part(0)
    path.write_bytes(_flip(path.read_bytes()))
    stores["size"].part(0)
    stores["first"].part(0)
    with pytest.raises(CorruptPart):
        stores["always"].part(0)
    with pytest.raises(HaspError, match="verify='never': 'size', 'first' or 'always'"):
        FolderStore.open(tmp_path, verify="never")


def test_check_files_tells_its_progress(tmp_path):
    build(tmp_path)
    seen = {}
    store = FolderStore.open(tmp_path)
    assert store.check_files(lambda name, count: seen.update({name: seen.get(name, 0) + count})) == []
    assert seen == {name: entry.bytes for name, entry in store.manifest.files.items()}


def test_a_damaged_build_log_is_no_reason_to_refuse_parts(tmp_path):
    build(tmp_path)
    for data in (b"{", b"[1]", b"\xff"):
        (tmp_path / "build.json").write_bytes(data)
        assert FolderStore.open(tmp_path).build_log == {}
    (tmp_path / "build.json").unlink()
    assert FolderStore.open(tmp_path).build_log == {}


# ---- folders and locks ----------------------------------------------------------------------------------------------------


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
        from store_build import EDGE_ATTRS, NUM_EDGES, NUM_NODES

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


# ---- what the writer refuses ----------------------------------------------------------------------------------------------


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
