"""Each broken table gets one line that says where, whether it is read or would be written."""

import errno
import gzip
import sys
from pathlib import Path

import pytest
import torch
from table_files import NODES, lay

from hasp.errors import HaspError, InvalidGraph
from hasp.graph import Graph
from hasp.sources.tables import read_tables, write_tables

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


def test_a_folder_that_is_called_a_table(tmp_path: Path) -> None:
    (tmp_path / "nodes/user.csv").mkdir(parents=True)
    with pytest.raises(InvalidGraph, match=r"user\.csv: a table is a file that can be read \(Is a directory\)"):
        read_tables(tmp_path)


@pytest.mark.parametrize(
    "error", [PermissionError("Access Denied"), OSError(errno.EIO, "Input/output error"), FileNotFoundError("gone")]
)
def test_what_the_store_refuses_is_no_broken_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes/user.parquet").touch()

    def refused(*_: object, **__: object) -> None:
        raise error

    for name in ("read_table", "ParquetFile"):
        monkeypatch.setattr(pq, name, refused)
    with pytest.raises(HaspError, match=r"cannot read .*user\.parquet \(.*check the path, its permissions") as found:
        read_tables(tmp_path)
    assert not isinstance(found.value, InvalidGraph)


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
