"""A folder of tables: what is written is read back, and each broken table gets one line that says where."""

import gzip
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from naive import ids as naive

from hasp.errors import HaspError, InvalidGraph
from hasp.graph import Graph, HaspWarning
from hasp.sources.columns import read_table
from hasp.sources.ids import IdMap, Text, sorted_unique
from hasp.sources.tables import read_tables, write_tables

KNOWS = ("user", "knows", "user")
OWNS = ("user", "owns", "item")


def lay(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def same(one: Graph, two: Graph) -> None:
    assert dict(one.num_nodes) == dict(two.num_nodes)
    assert set(one.edges) == set(two.edges)
    for edge_type, ends in one.edges.items():
        for a, b in zip(ends, two.edges[edge_type], strict=True):
            assert a.tolist() == b.tolist()
    pairs = [(one.node_attrs[t], two.node_attrs[t]) for t in one.num_nodes]
    pairs += [(one.edge_attrs[e], two.edge_attrs[e]) for e in one.edges]
    for left, right in pairs:
        assert set(left) == set(right)
        for key, value in left.items():
            assert value.dtype == right[key].dtype, key
            assert value.shape == right[key].shape, key
            torch.testing.assert_close(value, right[key], rtol=0, atol=0, equal_nan=True)
    assert set(one.names) == set(two.names) and set(one.ids) == set(two.ids)
    for kind, values in [*one.names.items(), *one.ids.items()]:
        other = (two.names if kind in one.names and values is one.names[kind] else two.ids)[kind]
        assert values.tolist() == other.tolist()


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    sizes = {"item": draw(st.integers(0, 5)), "user": draw(st.integers(1, 6))}
    edges, edge_attrs = {}, {}
    for edge_type in (KNOWS, OWNS):
        most = 0 if 0 in (sizes[edge_type[0]], sizes[edge_type[2]]) else draw(st.integers(0, 8))
        edges[edge_type] = tuple(torch.from_numpy(rng.integers(0, max(1, sizes[t]), most)) for t in edge_type[::2])
        edge_attrs[edge_type] = {} if not most else {"weight": torch.from_numpy(rng.normal(size=most).astype(np.float32))}
    n = sizes["user"]
    attrs = {
        "x": torch.from_numpy(rng.normal(size=(n, draw(st.integers(1, 3)))).astype(np.float32)),
        "y": torch.from_numpy(rng.integers(-(2**62), 2**62, n)),
        "mask": torch.from_numpy(rng.random(n) < 0.5),
        "hot": torch.from_numpy(rng.random((n, 2)) < 0.5),
    }
    attrs["x"].view(-1)[0] = draw(st.sampled_from([0.5, float("nan"), float("inf"), 1e-30]))
    attrs["x"].view(-1)[-1] = 0.25  # whole numbers alone would be read back as integers
    ids, names = {}, {}
    if draw(st.booleans()):
        text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=5)
        cells = draw(st.lists(text, min_size=n, max_size=n, unique_by=lambda s: s.rstrip("\0")))
        names["user"] = np.array(cells, dtype=np.str_)
        ids["user"] = np.array([f"u{i}-{c}" for i, c in enumerate(cells)], dtype=np.str_)
    elif draw(st.booleans()):
        ids["user"] = rng.choice(10**12, n, replace=False) - 10**6
    return Graph(sizes, edges, {"item": {}, "user": attrs}, edge_attrs, ids, names)


@given(graphs(), st.sampled_from(["csv", "csv.gz", "parquet"]))
def test_what_is_written_is_read_back(graph: Graph, format: str) -> None:
    if format == "parquet":
        pytest.importorskip("pyarrow")
    with tempfile.TemporaryDirectory() as folder:
        write_tables(graph, folder, format)  # type: ignore[arg-type]
        same(graph, read_tables(folder))


def test_parquet_keeps_every_dtype_and_shape(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    dtypes = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
    dtypes += [torch.float16, torch.float32, torch.float64]
    attrs = {str(d)[6:]: torch.arange(12).reshape(2, 2, 3).to(d) for d in dtypes}
    graph = Graph({"item": 2}, {}, {"item": attrs}, {})
    write_tables(graph, tmp_path, "parquet")
    same(graph, read_tables(tmp_path))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, min_size=1, max_size=30), st.booleans(), st.randoms())
def test_ids_of_any_kind_are_found_as_a_dict_would(ids: list[int], text: bool, random) -> None:
    array = np.array(ids, np.int64)
    if text:
        array = np.char.add("k", array.astype(np.str_))
    asked = [random.randrange(len(ids)) for _ in range(20)]
    naive = {value: place for place, value in enumerate(array.tolist())}
    found = IdMap(array, "nodes", "user").find(array[asked], "edges")
    assert found.tolist() == [naive[v] for v in array[asked].tolist()]
    missing = "none" if text else next(i for i in range(-2, len(ids) + 1) if i not in ids)
    with pytest.raises(InvalidGraph, match="1 of 2 do not"):
        IdMap(array, "nodes", "user").find(np.array([array[0], missing], dtype=None if text else np.int64), "edges")


@given(st.lists(st.integers(-3, 3)))
def test_sorted_unique_is_a_sorted_set(values: list[int]) -> None:
    assert sorted_unique(np.array(values, np.int64)).tolist() == sorted(set(values))


def test_a_folder_that_is_called_a_table(tmp_path: Path) -> None:
    (tmp_path / "nodes/user.csv").mkdir(parents=True)
    with pytest.raises(InvalidGraph, match=r"user\.csv: a table is a file that can be read \(Is a directory\)"):
        read_tables(tmp_path)


def test_a_type_without_a_table_has_the_ids_of_its_edges(tmp_path: Path) -> None:
    lay(tmp_path, {"edges/user__knows__user.csv": "src,dst\n30,10\n10,20\n"})
    graph = read_tables(tmp_path)
    assert graph.num_nodes == {"user": 3} and graph.ids["user"].tolist() == [10, 20, 30]
    assert [e.tolist() for e in graph.edges[KNOWS]] == [[2, 0], [0, 1]]


def test_ids_that_count_from_zero_are_not_kept_and_orders_follow_the_table(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {
            "nodes/user.csv": "id,age\nb,1\na,2\n",
            "nodes/item.csv": "id\n0\n1\n",
            "edges/user__owns__item.csv": "source,target\na,1\nb,0\n",
        },
    )
    graph = read_tables(tmp_path)
    assert list(graph.num_nodes) == ["item", "user"] and set(graph.ids) == {"user"}
    assert [e.tolist() for e in graph.edges[OWNS]] == [[1, 0], [1, 0]]


def test_types_of_csv_columns(tmp_path: Path) -> None:
    text = (
        "id,title,whole,half,gap,big,flag,zip,x_0,x_1,y_1\n"
        "1,1917,3,0.5,,1600000000.5,true,007,1,0.5,4\n"
        '2,"A ""B"",\nC", 4,1e-3,2,1,False,123,2,0.25,5\n\n'
    )
    lay(tmp_path, {"nodes/user.csv": "\ufeff" + text})
    with pytest.warns(HaspWarning, match=r"user\.zip"):
        graph = read_tables(tmp_path)
    attrs = graph.node_attrs["user"]
    assert graph.names["user"].tolist() == ["1917", 'A "B",\nC']
    assert attrs["whole"].tolist() == [3, 4] and attrs["whole"].dtype == torch.int64
    assert attrs["half"].dtype == torch.float32 and attrs["half"][0] == 0.5
    assert attrs["gap"].isnan().tolist() == [True, False]
    assert attrs["big"].dtype == torch.float64 and attrs["big"][0] == 1600000000.5
    assert attrs["flag"].tolist() == [True, False]
    assert attrs["x"].tolist() == [[1.0, 0.5], [2.0, 0.25]] and attrs["x"].dtype == torch.float32
    assert attrs["y_1"].tolist() == [4, 5]  # not complete from 0: a column of its own
    assert set(attrs) == {"whole", "half", "gap", "big", "flag", "x", "y_1"}


def test_blocks_of_different_types_become_one_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hasp.sources.columns._BLOCK", 2)
    path = tmp_path / "user.csv"
    path.write_text("id,v,w\n1,1,a\n2,2,b\nx,1.5,c\n4,,1\n5,3,2\n")
    table = read_table(path, ids=("id",))
    assert table.columns["id"].tolist() == ["1", "2", "x", "4", "5"] and table.rows == 5
    np.testing.assert_array_equal(table.columns["v"], np.array([1, 2, 1.5, np.nan, 3], np.float32))
    assert table.text == ["w"] and list(table.columns) == ["id", "v"]


NODES = "id\n1\n2\n3\n"
BROKEN = {
    "ragged": ({"nodes/user.csv": 'id,name\n1,"a\nb"\n2\n'}, r"user\.csv, line 4: every row has 2 cells, got 1"),
    "twice": ({"nodes/user.csv": "id\n7\n8\n7\n"}, r"'user' has its own id, got 7 in rows 0 and 2; remove"),
    "dangling": (
        {"nodes/user.csv": NODES, "edges/user__knows__user.csv": "src,dst\n1,2\n1,9\n5,1\n1,8\n"},
        r"2 of 4 do not|1 of 4 do not \(row 2: 5\)",
    ),
    "kinds": (
        {"nodes/user.csv": NODES, "edges/user__knows__user.csv": "src,dst\n1,2\n1,two\n"},
        r"1 of 2 do not \(row 1: 'two'\); add",
    ),
    "no id": ({"nodes/user.csv": "name\na\n"}, r"a node table has a column 'id', got \['name'\]; rename or add"),
    "no ends": ({"edges/a__b__c.csv": "from,to\n1,2\n"}, r"an edge table has a column 'src', got \['from', 'to'\]"),
    "empty id": ({"nodes/user.csv": "id,x\na,1\n,2\n"}, r"every row has an id in column 'id', got none in row 1"),
    "mixed": (
        {"nodes/user.csv": "id,age\n1,10\n2,ten\n3,12\n"},
        r"column 'age' holds numbers, but row 1 holds 'ten'",
    ),
    "header": ({"nodes/user.csv": ""}, "names its columns, got an empty file; add a header"),
    "same name": ({"nodes/user.csv": "id,a,a\n1,2,3\n"}, "each column has its own name, got 'a' twice"),
    "slash": ({"nodes/user.csv": "id,a/b\n1,2\n"}, "have no '/', got 'a/b'"),
    "quotes": ({"nodes/user.csv": 'id,name\n1,"a\n'}, "not a row of CSV"),
    "type name": ({"nodes/a__b.csv": NODES}, "names of node types have no '__', got 'a__b'"),
    "edge name": ({"edges/a__b.csv": "src,dst\n"}, "spelled <source>__<relation>__<destination>, got 'a__b'"),
    "copies": ({"nodes/user.csv": NODES, "nodes/user.csv.gz": ""}, "'user' is one table, got "),
    "stack": ({"nodes/user.csv": "id,x,x_0\n1,2,3\n"}, "become the attribute 'x', which is a column too"),
    "nothing": ({"readme.txt": "hello"}, "got neither; see hasp.sources.tables"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_broken_tables_get(tmp_path: Path, case: str) -> None:
    files, message = BROKEN[case]
    with pytest.raises(HaspError, match=message) as error:
        read_tables(lay(tmp_path, files))
    assert "\n" not in str(error.value)


def test_dangling_edges_are_named_by_row(tmp_path: Path) -> None:
    text = "src,dst\n" + "1,2\n" + "".join(f"1,{i}\n" for i in range(90, 97))
    lay(tmp_path, {"nodes/user.csv": NODES, "edges/user__knows__user.csv": text})
    with pytest.raises(InvalidGraph, match=r"7 of 8 do not \(row 1: 90, row 2: 91, row 3: 92, row 4: 93, row 5: 94\)"):
        read_tables(tmp_path)


def test_cut_and_foreign_bytes(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    (tmp_path / "nodes").mkdir()
    path = tmp_path / "nodes/user.parquet"
    pq.write_table(pa.table({"id": list(range(1000))}), path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InvalidGraph, match=r"user\.parquet: not a whole Parquet file"):
        read_tables(tmp_path)
    path.unlink()
    packed = gzip.compress(b"id\n" + b"".join(b"%d\n" % i for i in range(9999)))
    (tmp_path / "nodes/user.csv.gz").write_bytes(packed[:-100])
    with pytest.raises(InvalidGraph, match=r"user\.csv\.gz: not a whole gzip file"):
        read_tables(tmp_path)
    (tmp_path / "nodes/user.csv.gz").write_bytes(b"id\n1\n")
    with pytest.raises(InvalidGraph, match="not a whole gzip file"):
        read_tables(tmp_path)
    (tmp_path / "nodes/user.csv.gz").unlink()
    (tmp_path / "nodes/user.csv").write_bytes("id,name\n1,é\n".encode("latin-1"))
    with pytest.raises(InvalidGraph, match="text is UTF-8, got the byte 0xe9"):
        read_tables(tmp_path)


def test_what_parquet_columns_get(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    (tmp_path / "nodes").mkdir()
    path = tmp_path / "nodes/user.parquet"

    def read(**columns: object) -> Graph:
        pq.write_table(pa.table(columns), path)
        return read_tables(tmp_path)

    word = pa.array(["a", "b", None]).dictionary_encode()
    graph = read(id=["p", "q", "r"], name=word, x=[[1.0, 2.0]] * 3, n=[1, None, 3], t=pa.array([1, 2, 3], pa.timestamp("ms")))
    attrs = graph.node_attrs["user"]
    assert graph.names["user"].tolist() == ["a", "b", ""] and graph.ids["user"].tolist() == ["p", "q", "r"]
    assert attrs["x"].tolist() == [[1.0, 2.0]] * 3 and attrs["t"].tolist() == [1, 2, 3]
    assert attrs["n"].isnan().tolist() == [False, True, False]
    big = read(id=pa.array([2**64 - 1, 5], pa.uint64()))
    assert big.ids["user"].tolist() == [str(2**64 - 1), "5"]
    with pytest.raises(InvalidGraph, match="lists of column 'x' have one length, got 1 to 2; pad them"):
        read(id=[1, 2], x=[[1.0], [1.0, 2.0]])
    with pytest.raises(InvalidGraph, match="got missing lists"):
        read(id=[1, 2], x=[[1.0], None])
    with pytest.raises(InvalidGraph, match="ids are whole numbers or text, but column 'id' is double"):
        read(id=[1.0, 2.0])
    with pytest.raises(InvalidGraph, match="got none in row 1"):
        read(id=[1, None])
    with pytest.raises(InvalidGraph, match="true or false, got missing values"):
        read(id=[1, 2], flag=[True, None])
    with pytest.warns(HaspWarning, match=r"user\.note, user\.when"):
        read(id=[1], note=["a"], when=pa.array([b"x"]))
    (tmp_path / "edges").mkdir()
    pq.write_table(pa.table({"src": ["1"], "dst": ["1"]}), tmp_path / "edges/user__knows__user.parquet")
    with pytest.raises(InvalidGraph, match=r"have one type, but they are whole numbers in .* and text in"):
        read(id=[1])


def test_a_folder_of_parquet_files_is_one_table(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    folder = tmp_path / "nodes/user.parquet"
    folder.mkdir(parents=True)
    for number in range(3):
        pq.write_table(pa.table({"id": [10 * number, 10 * number + 1]}), folder / f"part-{number}.parquet")
    assert read_tables(tmp_path).ids["user"].tolist() == [0, 1, 10, 11, 20, 21]


@pytest.mark.parametrize("name", ["user__knows__user.tsv", "user__knows__user.pq", "user__knows__user/part-0.parquet"])
def test_a_table_that_would_be_passed_over_is_refused(tmp_path: Path, name: str) -> None:
    lay(
        tmp_path,
        {
            "nodes/user.csv": "id\n0\n1\n",
            "nodes/.hidden.tsv": "",
            "nodes/_old/a.csv": "",
            "edges/notes.md": "",
            "nodes/x/y.md": "",
        },
    )
    assert read_tables(tmp_path).num_nodes == {"user": 2}
    lay(tmp_path, {f"edges/{name}": "src,dst\n0,1\n"})
    with pytest.raises(InvalidGraph, match=r"user__knows__user.*ends in \.parquet"):
        read_tables(tmp_path)


def test_files_of_one_table_that_differ_in_type_are_told(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    folder = tmp_path / "nodes/user.parquet"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"id": [0, 1]}), folder / "a.parquet")
    pq.write_table(pa.table({"id": ["u2", "u3"]}), folder / "b.parquet")
    with pytest.raises(InvalidGraph, match=r"user\.parquet: the files of one table have columns of one type"):
        read_tables(tmp_path)


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    lay(tmp_path, {"nodes/user.parquet": ""})
    with pytest.raises(HaspError, match=r"pip install 'hasp-pyg\[parquet\]'"):
        read_tables(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("id", torch.zeros(2), "has the name of a column of the layout"),
        ("x", torch.zeros(2, 0), "no attribute of width 0"),
        ("x", torch.zeros(2, 2, 2), "x has 3; use parquet"),
        ("x", torch.zeros(2, dtype=torch.bfloat16), "tables hold no torch.bfloat16"),
        ("x_0", torch.zeros(2), "would be read back as a column of 'x'"),
    ],
)
def test_attributes_that_csv_cannot_give_back_are_refused(tmp_path: Path, name: str, value, message: str) -> None:
    with pytest.raises(HaspError, match=message):
        write_tables(Graph({"user": 2}, {}, {"user": {name: value}}), tmp_path)


def test_writing_refuses_full_folders_and_unknown_formats(tmp_path: Path) -> None:
    graph = Graph({"user": 1}, {})
    with pytest.raises(HaspError, match=r"format is csv, csv.gz or parquet, got 'xls'"):
        write_tables(graph, tmp_path, "xls")  # type: ignore[arg-type]
    write_tables(graph, tmp_path)
    with pytest.raises(HaspError, match="already holds files"):
        write_tables(graph, tmp_path)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, min_size=1, max_size=40), st.lists(st.integers(-3, 3)))
def test_a_hash_table_finds_what_a_dict_finds(ids: list[int], near: list[int]) -> None:
    from hasp.kernels.ids import fill_slots, find_slots

    array = np.array(ids, np.int64)
    asked = np.array([*ids[::-1], *ids[:2], *near], np.int64)
    slots = np.full(1 << (len(ids)).bit_length(), -1, np.int32)  # nearly full: every search goes far
    mine, theirs = np.empty((2, len(asked)), np.int64)
    assert fill_slots(array, slots) is naive.fill_slots(array, None) is True
    assert find_slots(asked, array, slots, mine) == naive.find_slots(asked, array, None, theirs)
    assert mine.tolist() == theirs.tolist()
    twice = np.append(array, array[0])
    assert fill_slots(twice, np.full(128, -1, np.int32)) is naive.fill_slots(twice, None) is False


def test_many_ids_are_hashed_and_tell_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(0).integers(-(2**62), 2**62, 500)
    few = IdMap(array, "nodes", "user")
    monkeypatch.setattr("hasp.sources.ids._MANY", 2)
    many = IdMap(array, "nodes", "user")
    assert few._slots is None and many._slots is not None
    assert few.find(array[::-1].copy(), "edges").equal(many.find(array[::-1].copy(), "edges"))
    for ids in (few, many):
        with pytest.raises(InvalidGraph, match=r"2 of 3 do not \(row 1: 5, row 2: 6\)"):
            ids.find(np.array([array[3], 5, 6]), "edges")
    array[7] = array[3]
    with pytest.raises(InvalidGraph, match=rf"'user' has its own id, got {array[3]} in rows 3 and 7; remove the copies"):
        IdMap(array, "nodes", "user")


@given(st.lists(st.text(max_size=4).map(lambda s: s.rstrip("\0")), unique=True, min_size=1, max_size=30), st.lists(st.text()))
def test_texts_are_found_as_a_dict_would(ids: list[str], near: list[str]) -> None:
    from hasp.kernels.ids import fill_text, find_text

    def lay_out(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        encoded = [t.encode("utf-8", "surrogatepass") for t in texts]
        return np.frombuffer(b"".join(encoded), np.uint8), np.cumsum([0, *map(len, encoded)])

    data, ptr = lay_out(ids)
    values, value_ptr = lay_out([*ids[::-1], *near, ids[0] + "\0"])
    slots = np.full(1 << len(ids).bit_length(), -1, np.int64)  # nearly full: every search goes far
    fill_text(data, ptr, slots)
    mine, theirs = np.empty((2, len(value_ptr) - 1), np.int64)
    assert find_text(values, value_ptr, data, ptr, slots, mine) == naive.find_text(values, value_ptr, data, ptr, None, theirs)
    assert mine.tolist() == theirs.tolist() and mine[-1] == 0


def test_numpy_strings_become_bytes_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hasp.sources.ids._MANY", 2)
    text = Text.of(np.array(["a", "", "\u00e9\u00e9", "long"]))
    assert text.ptr.tolist() == [0, 1, 1, 5, 9] and [text.item(i) for i in range(4)] == ["a", "", "\u00e9\u00e9", "long"]
    assert Text.of(np.array([], dtype=np.str_)).ptr.tolist() == [0]


@pytest.mark.parametrize("low", [0, 7, -3, -(2**63), 2**63 - 5])
def test_ids_that_count_up_from_anywhere(low: int) -> None:
    ids = IdMap(np.array([low + i for i in range(5)], np.int64), "nodes", "user")
    assert ids.is_range is (low == 0) and ids.find(ids.ids[[4, 0, 2]], "edges").tolist() == [4, 0, 2]
    outside = [v for v in (low - 1, low + 5, -(2**63), 2**63 - 1, 0) if not low <= v < low + 5 and -(2**63) <= v < 2**63]
    for value in outside:
        with pytest.raises(InvalidGraph, match=rf"1 of 2 do not \(row 1: {value}\)"):
            ids.find(np.array([low, value], np.int64), "edges")


def test_differences_that_wrap_do_not_count_up() -> None:
    edge = np.array([2**63 - 1, -(2**63)], np.int64)  # the difference is 1 only because it wraps
    assert IdMap(edge, "nodes", "user").find(edge[::-1].copy(), "edges").tolist() == [1, 0]
    with pytest.raises(InvalidGraph, match="1 of 1 do not"):
        IdMap(edge, "nodes", "user").find(np.array([5]), "edges")
