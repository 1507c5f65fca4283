"""CSV a block of rows at a time into files gives what reading it into memory gives, and the same complaints."""

import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hasp.build import build
from hasp.config import BuildConfig
from hasp.errors import InvalidGraph
from hasp.schema import Schema
from hasp.scratch import MEMORY, Scratch
from hasp.sources import columns, spool, stream
from hasp.sources.tables import read_tables

CELLS = {
    "count": lambda rng, n: rng.integers(-5, 2**40, n).tolist(),
    "weight": lambda rng, n: (rng.integers(0, 100, n) / 8).tolist(),
    "large": lambda rng, n: [1e9 + 0.5 * i for i in range(n)],
    "gap": lambda rng, n: ["" if v < 30 else v for v in rng.integers(0, 100, n).tolist()],
    "late": lambda rng, n: [*range(n - 1), 0.5][:n],  # whole numbers until the last row
    "flag": lambda rng, n: ["True" if v else "false" for v in rng.integers(0, 2, n).tolist()],
    "word": lambda rng, n: [f"w{v}" for v in rng.integers(0, 9, n).tolist()],
    "x_0": lambda rng, n: rng.integers(0, 9, n).tolist(),
    "x_1": lambda rng, n: (rng.integers(0, 9, n) / 2).tolist(),
}
IDS = {
    "range": lambda rng, n: list(range(n)),
    "wide": lambda rng, n: np.unique(rng.integers(-(2**62), 2**62, n)).tolist(),
    "text": lambda rng, n: [f"k{v * 7919}" for v in range(n)],
    "mixed": lambda rng, n: [f"k{v}" if v % 7 == 3 else str(v) for v in range(n)],  # whole blocks of them look like numbers
}


@st.composite
def folders(draw):
    """Path -> text of a folder of CSV tables."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    out, ids = {}, {}
    for node_type in ("item", "user"):
        ids[node_type] = IDS[draw(st.sampled_from(sorted(IDS)))](rng, draw(st.integers(1, 40)))
        if draw(st.booleans()):
            extra = sorted(draw(st.sets(st.sampled_from(sorted(CELLS)), max_size=4)))
            out[f"nodes/{node_type}"] = table({"id": ids[node_type], **{m: CELLS[m](rng, len(ids[node_type])) for m in extra}})
    for relation, (a, b) in (("user__likes__item", ("user", "item")), ("user__knows__user", ("user", "user"))):
        rows = draw(st.integers(0, 90))
        cells = {c: [ids[t][i] for i in rng.integers(0, len(ids[t]), rows)] for c, t in (("src", a), ("dst", b))}
        extra = sorted(draw(st.sets(st.sampled_from(sorted(CELLS)), max_size=4)))
        out[f"edges/{relation}"] = table({**cells, **{m: CELLS[m](rng, rows) for m in extra}})
    return out


def table(cells):
    rows = zip(*cells.values(), strict=True)
    return "\n".join([",".join(cells), *(",".join(map(str, row)) for row in rows)]) + "\n"


@pytest.fixture
def tiny(monkeypatch):
    """Blocks of a few rows, and files for arrays of any size."""
    monkeypatch.setattr(columns, "_BLOCK", 5)
    monkeypatch.setattr(spool, "_ROWS", 12)
    monkeypatch.setattr("hasp.scratch._LEAST", 1)


def write(folder, tables, packed):
    for name, text in tables.items():
        path = folder / f"{name}.csv{'.gz' if packed else ''}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return folder


@pytest.mark.filterwarnings("ignore:columns of text")
@pytest.mark.usefixtures("tiny")
@given(folders(), st.booleans())
@settings(max_examples=40, deadline=None)
def test_files_give_what_memory_gives(tmp_path_factory, tables, packed):
    folder = write(tmp_path_factory.mktemp("csv"), tables, packed)
    scratch = Scratch(folder)
    plain, filed = read_tables(folder, MEMORY), read_tables(folder, scratch)
    assert plain.fingerprint() == filed.fingerprint()
    assert list(plain.edges) == list(filed.edges) and plain.num_nodes == filed.num_nodes
    for attrs, others in ((plain.node_attrs, filed.node_attrs), (plain.edge_attrs, filed.edge_attrs)):
        for label, own in attrs.items():
            assert {k: (v.dtype, v.shape) for k, v in own.items()} == {k: (v.dtype, v.shape) for k, v in others[label].items()}
    for node_type, ids in plain.ids.items():
        assert ids.dtype == filed.ids[node_type].dtype and (ids == filed.ids[node_type]).all()
    if any(end.numel() for ends in plain.edges.values() for end in ends):
        assert scratch.num_bytes >= sum(end.nbytes for ends in filed.edges.values() for end in ends)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("ids", sorted(IDS))
def test_the_parts_have_the_same_bytes(tmp_path, ids):
    rng = np.random.default_rng(1)
    names = IDS[ids](rng, 60)
    ends = {c: [names[i] for i in rng.integers(0, len(names), 300)] for c in ("src", "dst")}
    likes = {"src": [names[i] for i in rng.integers(0, len(names), 300)], "dst": rng.integers(0, 5, 300).tolist()}
    folder = write(
        tmp_path / "tables",
        {
            "nodes/user": table({"id": names, "age": CELLS["weight"](rng, len(names))}),
            "edges/user__knows__user": table({**ends, "weight": CELLS["late"](rng, 300)}),
            "edges/user__likes__genre": table(likes),
        },
        False,
    )
    made = []
    for where, scratch in (("memory", MEMORY), ("files", Scratch(tmp_path))):
        graph = read_tables(folder, scratch)
        roles = Schema("user").resolve(graph.num_nodes, graph.edges)
        build(graph, roles, BuildConfig(num_parts=3), root=tmp_path / where, out_of_core=where == "files")
        made.append({p.name: p.read_bytes() for p in (tmp_path / where).glob("*.safetensors")})
    assert made[0] == made[1] and len(made[0]) >= 5


EDGES = "src,dst,weight\n" + "".join(f"{i % 7},{i % 5},{i / 4}\n" for i in range(60))


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    "text, match",
    [
        (EDGES + "1,2\n", r"likes__item\.csv, line 62: every row has 3 cells, got 2"),
        (EDGES.replace("src,", "from,"), r"likes__item\.csv: an edge table has a column 'src'"),
        (EDGES + "1,2,much\n", r"likes__item\.csv: column 'weight' holds numbers, but row 60 holds 'much'"),
        (EDGES + ",2,1.0\n", r"likes__item\.csv: every row has an id in column 'src', got none in row 60"),
        (EDGES + '1,2,"open\n', r"likes__item\.csv, line 6[12]: not a row of CSV"),
        (EDGES + "1,99,0.5\n", r"likes__item\.csv, 'item' as destination: .* 1 of 61 do not \(row 60: 99\)"),
    ],
)
def test_a_broken_table_is_named_with_its_row(tmp_path, text, match):
    nodes = "id\n" + "".join(f"{i}\n" for i in range(7))
    folder = write(tmp_path, {"nodes/item": nodes, "edges/user__likes__item": text}, False)
    for scratch in (MEMORY, Scratch(tmp_path)):
        with pytest.raises(InvalidGraph, match=match):
            read_tables(folder, scratch)


def test_a_packed_table_that_is_cut_short_is_named(tmp_path):
    folder = write(tmp_path, {"edges/user__likes__item": EDGES * 50}, True)
    path = folder / "edges" / "user__likes__item.csv.gz"
    path.write_bytes(path.read_bytes()[:-20])
    for scratch in (MEMORY, Scratch(tmp_path)):
        with pytest.raises(InvalidGraph, match=r"likes__item\.csv\.gz: not a whole gzip file"):
            read_tables(folder, scratch)


def test_large_tables_of_text_go_to_files_unasked(tmp_path, monkeypatch):
    folder = write(tmp_path, {"edges/user__likes__item": EDGES}, False)
    paths = [folder / "edges" / "user__likes__item.csv"]
    monkeypatch.setattr(stream, "available_memory", lambda: 4 * paths[0].stat().st_size)
    assert stream.room_for(paths).folder is not None
    monkeypatch.setattr(stream, "available_memory", lambda: 6 * paths[0].stat().st_size)
    assert stream.room_for(paths).folder is None
    packed = write(tmp_path / "packed", {"edges/user__likes__item": EDGES}, True) / "edges" / "user__likes__item.csv.gz"
    monkeypatch.setattr(stream, "available_memory", lambda: 6 * packed.stat().st_size)
    assert stream.room_for([packed]).folder is not None  # it grows when it is unpacked
