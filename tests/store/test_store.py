"""What is written is what is read: parts, ids, maps, pickles, and readers beside builders."""

import json
import os
import pickle
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from store_build import IDS, NAMES, Quick, build, config, node_part, parts, same, snapshot, touch
from store_crash import InPlaceQuick

from hasp.errors import HaspError, StaleParts
from hasp.part import CUT, SAMPLED, SHARED, Edges, Nodes, Part
from hasp.schema import Roles
from hasp.store.framing import DTYPES, Spec
from hasp.store.memory import MemoryStore
from hasp.store.read import FolderStore
from hasp.store.write import Writer


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
    touch(store)
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
