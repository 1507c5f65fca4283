"""Parquet read a block at a time gives what reading it whole gives, in memory or in files, and the same complaints."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hasp import open_source
from hasp.errors import HaspError, InvalidGraph
from hasp.graph import Graph, HaspWarning
from hasp.scratch import MEMORY, Scratch
from hasp.sources import edges, stream, tables
from hasp.sources.tables import read_tables

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

LIKES = ("user", "likes", "item")
TYPES = {
    "weight": pa.float32(),
    "half": pa.float16(),
    "count": pa.int16(),
    "gap": pa.int32(),
    "hole": pa.float64(),
    "flag": pa.bool_(),
    "when": pa.timestamp("ms"),
    "u16": pa.uint16(),
    "u32": pa.uint32(),
    "x_0": pa.float32(),
    "x_1": pa.int64(),
    "pair": pa.list_(pa.float32(), 2),
    "long": pa.list_(pa.float64()),
    "word": pa.string(),
    "raw": pa.binary(),
}


def values(name: str, rows: int, rng: np.random.Generator) -> list:
    made = rng.integers(0, 100, rows)
    if name == "flag":
        return (made > 50).tolist()
    if name in ("gap", "hole"):
        return [None if v < 20 else int(v) for v in made]
    if name in ("pair", "long"):
        return [[float(v), v / 2] for v in made]
    if name == "word":
        return [f"w{v}" for v in made]
    if name == "raw":
        return [b"x"] * rows
    return [np.float16(v) for v in made] if name == "half" else made.tolist()


@st.composite
def folders(draw):
    """What is written to a folder of tables: {path: (arrow table, rows per row group)}."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kinds = draw(st.lists(st.sampled_from(["range", "dense", "wide", "text", "int32", "words"]), min_size=2, max_size=2))
    ids, out = {}, {}
    for node_type, kind in zip(("user", "item"), kinds, strict=True):
        n = draw(st.integers(1, 12))
        made = {"range": np.arange(n), "int32": np.arange(n)[::-1], "dense": rng.permutation(3 * n)[:n] - 5}
        made |= {"wide": rng.integers(-(2**62), 2**62, n), "text": np.arange(n), "words": np.arange(n)}
        column = pa.array(made[kind], pa.int32() if kind == "int32" else pa.int64())
        if kind in ("text", "words"):
            column = pa.array([f"k{v * 7919}" for v in made[kind].tolist()])
            column = column.dictionary_encode() if kind == "words" else column
        ids[node_type] = column
        if draw(st.booleans()):
            names = draw(st.sets(st.sampled_from(sorted(TYPES)), max_size=4))
            columns = {"id": column} | {m: pa.array(values(m, n, rng), TYPES[m]) for m in sorted(names)}
            out[f"nodes/{node_type}.parquet"] = (pa.table(columns), draw(st.integers(1, 5)))
    for relation, ends in (("user__likes__item", ("user", "item")), ("user__knows__user", ("user", "user"))):
        rows = draw(st.integers(0, 25))
        columns = {
            c: ids[t].take(pa.array(rng.integers(0, len(ids[t]), rows))) for c, t in zip(("src", "dst"), ends, strict=True)
        }
        for name in sorted(draw(st.sets(st.sampled_from(sorted(TYPES)), max_size=4))):
            columns[name] = pa.array(values(name, rows, rng), TYPES[name])
        path = f"edges/{relation}.parquet"
        if rows and draw(st.booleans()):  # a folder of files
            for i in range(2):
                out[f"{path}/part-{i}.parquet"] = (pa.table(columns).slice(i * (rows // 2), None if i else rows // 2), 3)
        else:
            out[path] = (pa.table(columns), draw(st.integers(1, 9)))
    return out


def lay(folder: Path, files) -> Path:
    for name, (table, group) in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / name, row_group_size=group)
    return folder


def whole(patch: pytest.MonkeyPatch) -> None:
    """Read every table whole."""
    patch.setattr(edges.Rows, "open", classmethod(lambda cls, path: None))


def same(one: Graph, two: Graph) -> None:
    assert dict(one.num_nodes) == dict(two.num_nodes) and list(one.edges) == list(two.edges)
    assert one.fingerprint() == two.fingerprint()  # ids, names, dtypes, shapes, attributes and their values
    for edge_type, attrs in one.edge_attrs.items():
        assert list(attrs) == list(two.edge_attrs[edge_type])


@pytest.mark.filterwarnings("ignore::hasp.HaspWarning")
@settings(max_examples=40)
@given(folders(), st.integers(1, 4))
def test_blocks_are_the_table(tmp_path_factory, files, rows):
    folder = lay(tmp_path_factory.mktemp("tables"), files)
    with pytest.MonkeyPatch.context() as patch:
        whole(patch)
        wanted = read_tables(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "_ROWS", rows)
        patch.setattr(edges, "_GATHERED", 2)
        patch.setattr(tables, "blocks", lambda n: [(i, min(i + 2, n)) for i in range(0, n, 2)])
        same(wanted, read_tables(folder))
        patch.setattr("hasp.scratch._LEAST", 1)
        patch.setattr("hasp.scratch.MAPPED_BYTES", -(1 << 40))
        scratch = Scratch(folder)
        same(wanted, read_tables(folder, scratch))
        assert scratch.num_bytes >= sum(t.nbytes for ends in wanted.edges.values() for t in ends)
    if any(wanted.num_nodes.values()):
        wanted.check()
    assert all(t.dtype == torch.int32 for ends in wanted.edges.values() for t in ends)


def one(folder: Path, group: int = 2, **columns: object) -> Path:
    files = {"nodes/user.parquet": (pa.table({"id": [3, 1, 2]}), 2), "nodes/item.parquet": (pa.table({"id": ["a", "b"]}), 2)}
    files["edges/user__likes__item.parquet"] = (pa.table(columns), group)
    return lay(folder, files)


BROKEN = {
    "unknown": (
        {"src": [3, 1, 9, 3, 8, 7], "dst": ["a"] * 6},
        r"3 of 6 do not \(row 2: 9, row 4: 8, row 5: 7\); add these 'user'",
    ),
    "both": ({"src": [3, 1, 3], "dst": ["a", "c", "d"]}, r"'item' as destination: .* 2 of 3 do not \(row 1: 'c', row 2: 'd'\)"),
    "kinds": ({"src": ["3"], "dst": ["a"]}, r"ids of 'user' have one type, but they are whole numbers in .* and text in"),
    "float": ({"src": [3.0], "dst": ["a"]}, r"ids are whole numbers or text, but column 'src' is double; cast"),
    "none": ({"src": [3, 1, 2, 3, None], "dst": ["a"] * 5}, r"every row has an id in column 'src', got none in row 4; fill"),
    "no ends": ({"from": [3], "dst": ["a"]}, r"an edge table has a column 'src', got \['from', 'dst'\]"),
    "lists": ({"src": [3, 1, 2], "dst": ["a"] * 3, "x": [[1.0], [2.0], [1.0, 3.0]]}, r"lists of column 'x' have one length"),
    "no list": ({"src": [3, 1, 2], "dst": ["a"] * 3, "x": [[1.0], [2.0], None]}, r"lists of column 'x' .* missing lists; pad"),
    "no flag": ({"src": [3], "dst": ["a"], "f": pa.array([None], pa.bool_())}, "column 'f' is true or false, got missing"),
    "slash": ({"src": [3], "dst": ["a"], "a/b": [1]}, "have no '/', got 'a/b'"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("how", ["blocks", "whole"])
def test_what_broken_tables_get(tmp_path, case, how, monkeypatch):
    columns, message = BROKEN[case]
    if how == "whole":
        whole(monkeypatch)
    with pytest.raises(InvalidGraph, match=message) as error:
        read_tables(one(tmp_path, **columns))
    assert "\n" not in str(error.value) and "user__likes__item.parquet" in str(error.value)


def test_a_file_that_is_cut_short_is_named(tmp_path):
    path = one(tmp_path, src=[3] * 9, dst=["a"] * 9) / "edges/user__likes__item.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:-20])
    with pytest.raises(InvalidGraph, match=r"user__likes__item\.parquet: not a whole Parquet file"):
        read_tables(tmp_path)
    path.write_bytes(data[:4] + bytes(60) + data[64:])  # the footer is whole, the pages are not
    with pytest.raises(InvalidGraph, match=r"user__likes__item\.parquet: not a whole Parquet file"):
        read_tables(tmp_path)


def test_ids_past_int64_are_text_and_folders_of_folders_are_read_whole(tmp_path):
    wide = pa.array([2**64 - 1, 5, 5], pa.uint64())
    lay(tmp_path, {"edges/user__knows__user.parquet": (pa.table({"src": wide, "dst": wide}), 1)})
    graph = read_tables(tmp_path)
    assert graph.ids["user"].tolist() == [str(2**64 - 1), "5"]
    table = pa.table({"src": [1, 2], "dst": [2, 1]})
    lay(
        tmp_path,
        {"edges/a__b__c.parquet/year=1/one.parquet": (table, 1), "edges/a__b__c.parquet/year=2/one.parquet": (table, 1)},
    )
    graph = read_tables(tmp_path)
    assert [t.tolist() for t in graph.edges["a", "b", "c"]] == [[0, 1, 0, 1], [1, 0, 1, 0]]
    assert graph.edge_attrs["a", "b", "c"]["year"].tolist() == [1, 1, 2, 2]


def test_arrays_beside_the_tables_are_mapped(tmp_path):
    one(tmp_path, src=[1, 2], dst=["b", "a"])
    (tmp_path / "edges/ghost__sees__user.parquet").write_bytes((tmp_path / "edges/user__likes__item.parquet").read_bytes())
    lay(tmp_path, {"edges/ghost__sees__user.parquet": (pa.table({"src": [4, 0], "dst": [1, 3]}), 2)})
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.save(tmp_path / "nodes/user.x.npy", x)
    np.save(tmp_path / "nodes/ghost.age.npy", np.arange(5))
    graph = open_source(tmp_path)
    assert graph.num_nodes == {"ghost": 5, "item": 2, "user": 3} and "ghost" not in graph.ids
    assert graph.node_attrs["user"]["x"].tolist() == x.tolist() and graph.node_attrs["ghost"]["age"].tolist() == [0, 1, 2, 3, 4]
    assert graph.edges["ghost", "sees", "user"][0].tolist() == [4, 0]
    assert any(str(tmp_path) in line for line in Path("/proc/self/maps").read_text().splitlines())


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("user.x.npy", np.zeros((2, 4)), r"user\.x\.npy has a row for each of the 3 nodes .* but it has 2 rows"),
        ("user.z.npy", np.zeros(3), "but it is an attribute of the table too"),
        ("user.npy", np.zeros(3), r"arrays are called <node type>\.<attribute>\.npy"),
        ("user.o.npy", np.zeros(3, dtype=">f4"), "in this machine's byte order"),
        ("user.t.npy", np.array(["a", "b", "c"]), "a row of numbers per node"),
    ],
)
def test_what_broken_arrays_get(tmp_path, name, array, message):
    lay(tmp_path, {"nodes/user.parquet": (pa.table({"id": [3, 1, 2], "z": [1.0, 2.0, 3.0]}), 2)})
    np.save(tmp_path / "nodes" / name, array)
    with pytest.raises(InvalidGraph, match=message) as error:
        read_tables(tmp_path)
    assert "\n" not in str(error.value)


def test_arrays_with_objects_or_cut_short_are_refused(tmp_path):
    lay(tmp_path, {"nodes/user.parquet": (pa.table({"id": [3]}), 2)})
    path = tmp_path / "nodes/user.x.npy"
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidGraph, match=r"not a whole \.npy file of numbers"):
        read_tables(tmp_path)
    np.save(path, np.zeros((1, 9)))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InvalidGraph, match=r"not a whole \.npy file of numbers"):
        read_tables(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(InvalidGraph, match=r"not a whole \.npy file of numbers"):
        read_tables(tmp_path)


def test_large_tables_go_to_files_by_themselves(tmp_path, monkeypatch):
    one(tmp_path, src=[3] * 9, dst=["a"] * 9)
    paths = [tmp_path / "edges/user__likes__item.parquet"]
    size = paths[0].stat().st_size
    monkeypatch.setattr(stream, "available_memory", lambda: 10 * size)
    assert stream.room_for(paths) is MEMORY
    monkeypatch.setattr(stream, "available_memory", lambda: 3 * size)
    assert stream.room_for(paths).folder is not None
    monkeypatch.setattr(stream, "available_memory", lambda: None)
    assert stream.room_for(paths) is MEMORY


def test_a_full_disk_while_reading(tmp_path, monkeypatch):
    one(tmp_path, src=[3] * 9, dst=["a"] * 9)
    monkeypatch.setattr("hasp.scratch._LEAST", 1)
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(HaspError, match="does not go into"):
        read_tables(tmp_path, Scratch(tmp_path))


def test_text_is_named_once(tmp_path):
    one(tmp_path, src=[3], dst=["a"], note=["hello"], raw=[b"x"])
    with pytest.warns(HaspWarning, match=r"not carried into parts: user__likes__item\.note, user__likes__item\.raw;"):
        read_tables(tmp_path)
