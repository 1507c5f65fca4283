"""A folder of tables: what is written is read back, and what the columns of CSV and Parquet become."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from table_files import KNOWS, OWNS, lay

from hasp.errors import InvalidGraph
from hasp.graph import Graph, HaspWarning
from hasp.sources.columns import read_table
from hasp.sources.tables import read_tables, write_tables


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
