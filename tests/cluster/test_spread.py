"""A build by many workers gives the bytes of the build on one machine: every file, the manifest included."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builds import contents, no_sync, on_memory
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Case, cases, num_parts_for

from hasp import open_source
from hasp.build import build
from hasp.cluster.executor import Here
from hasp.cluster.tables import open_spread
from hasp.config import BuildConfig
from hasp.errors import HaspError, InvalidGraph
from hasp.graph import Graph, HaspWarning
from hasp.schema import Schema
from hasp.sources.synthetic import Catalogue, generate
from hasp.sources.tables import write_tables
from hasp.store.disk import Disk
from hasp.store.offer import is_offer, offer

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
fsspec = pytest.importorskip("fsspec")


def in_small_groups(folder: Path, rows: int, files: bool) -> None:
    """Write Parquet tables again, in row groups of so many rows, and in several files each."""
    for path in list(folder.rglob("*.parquet")):
        table = pq.read_table(path)
        path.unlink()
        if not files:
            pq.write_table(table, path, row_group_size=rows)
            continue
        path.mkdir()
        half = table.num_rows // 2
        for name, piece in (("part-0", table.slice(0, half)), ("part-1", table.slice(half))):
            pq.write_table(piece, path / f"{name}.parquet", row_group_size=rows)


def writable(graph: Graph) -> Graph:
    """Without what tables cannot hold."""
    nodes = {t: {k: v for k, v in own.items() if k != "empty"} for t, own in graph.node_attrs.items()}
    return Graph(graph.num_nodes, graph.edges, nodes, graph.edge_attrs)


def same_bytes(source: Path | str, remote: Path | str, schema: Schema, config: BuildConfig, out: Path, **options: Any) -> None:
    """Build on one machine and by workers, with a chunk of a few rows; compare everything."""
    chunk, reverse = options.pop("chunk", 4), options.get("reverse", False)
    with warnings.catch_warnings(), no_sync():
        warnings.simplefilter("ignore", HaspWarning)
        graph = open_source(source, **options)
        roles = schema.resolve(graph.num_nodes, graph.edges)
        build(graph, roles, config, root=out / "one")
        with Here(2) as workers:
            kwargs = {"reverse": reverse, "exclude": options.get("exclude", ()), "weight": config.weight}
            spread, own = open_spread(remote, workers, schema, chunk=chunk, **kwargs)
            assert own == roles
            build(spread.graph, own, config, root=out / "many", spread=spread)
    assert contents(out / "many") == contents(out / "one")


@settings(max_examples=40)
@given(cases(), st.data())
def test_random_graphs(case: Case, data: Any) -> None:
    graph = writable(case.graph)
    config = BuildConfig(
        data.draw(num_parts_for(case)),
        data.draw(st.integers(0, 3)),
        balance=data.draw(st.sampled_from(["nodes", "edges", "bytes"])),
        backend=data.draw(st.sampled_from(["auto", "random"])),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "tables"
        write_tables(graph, folder, "parquet")
        in_small_groups(folder, data.draw(st.integers(1, 7)), data.draw(st.booleans()))
        chunk, reverse = data.draw(st.integers(1, 9)), data.draw(st.booleans())
        read = open_source(folder)
        schema = Schema(
            entity=case.schema.entity, eel=[e for e in case.schema.eel or () if e in read.edges], sample=case.schema.sample
        )
        with on_memory(folder) as url:
            remote = url if data.draw(st.booleans()) else folder
            same_bytes(folder, remote, schema, config, Path(name), chunk=chunk, reverse=reverse)


def odd_tables(folder: Path, kind: str) -> Path:
    """Every kind of column that tables may have, ids of one kind, a type without a table, CSV and .npy beside Parquet."""
    rng = np.random.default_rng(7)
    made: dict[str, Any] = {
        "range": np.arange(40),
        "dense": rng.permutation(90)[:40] - 9,
        "wide": rng.integers(-(2**62), 2**62, 40),
    }
    ids = pa.array(made.get(kind, np.arange(40)))
    if kind in ("text", "words"):
        ids = pa.array([f"é{i * 7919}" for i in range(40)])
        ids = ids.dictionary_encode() if kind == "words" else ids
    some = rng.integers(0, 100, 40)
    columns = {
        "id": ids,
        "name": pa.array([f"n{v}" for v in some]),
        "title": pa.array(["beside the name"] * 40),
        "gap": pa.array([None if v < 20 else int(v) for v in some], pa.int32()),
        "hole": pa.array([None if v < 20 else v / 7 for v in some]),
        "flag": pa.array(some > 50),
        "when": pa.array(some, pa.timestamp("ms")),
        "u16": pa.array(some, pa.uint16()),
        "half": pa.array(some.astype(np.float16)),
        "x_0": pa.array(some, pa.float32()),
        "x_1": pa.array(some),
        "y_0": pa.array([None if v < 20 else int(v) for v in some]),
        "y_1": pa.array(some, pa.float32()),
        "pair": pa.array([[v, v / 2] for v in some.tolist()], pa.list_(pa.float32(), 2)),
        "long": pa.array([[float(v)] * 3 for v in some], pa.list_(pa.float64())),
        "whole": pa.array([[int(v)] * 2 for v in some], pa.list_(pa.int32())),
        "raw": pa.array([b"x"] * 40),
    }
    (folder / "nodes").mkdir(parents=True)
    (folder / "edges").mkdir()
    pq.write_table(pa.table(columns), folder / "nodes" / "item.parquet", row_group_size=6)
    np.save(folder / "nodes" / "item.vector.npy", rng.random((40, 3), np.float32))
    (folder / "nodes" / "place.csv").write_text("id,size\nhere,2\nthere,3\n")

    def some_ids(rows: int) -> Any:
        return ids.take(pa.array(rng.integers(0, 40, rows)))

    links = {"src": some_ids(90), "dst": some_ids(90), "weight": pa.array(rng.random(90)), "gap": pa.array([None, 1, 2] * 30)}
    pq.write_table(pa.table(links), folder / "edges" / "item__likes__item.parquet", row_group_size=8)
    tags = {"source": some_ids(70), "target": pa.array([f"tag {i % 11}" for i in range(70)]), "x_0": pa.array(rng.random(70))}
    pq.write_table(pa.table(tags), folder / "edges" / "item__has__tag.parquet", row_group_size=9)
    rows = "".join(f"{i},{'here' if n % 3 else 'there'}\n" for n, i in enumerate(ids.to_pylist()))
    (folder / "edges" / "item__in__place.csv").write_text("src,dst\n" + rows)
    return folder


@pytest.mark.parametrize("kind", ["range", "dense", "wide", "text", "words"])
def test_every_kind_of_column_and_of_ids(kind: str, tmp_path: Path) -> None:
    folder = odd_tables(tmp_path / "tables", kind)
    for number, (weight, reverse, exclude) in enumerate([("weight", False, ()), ("", True, ("place",))]):
        out = tmp_path / str(number)
        with on_memory(folder) as url:
            given = {"reverse": reverse, "exclude": exclude, "chunk": 10}
            same_bytes(folder, folder if number else url, Schema(entity="item"), BuildConfig(5, weight=weight), out, **given)


def open_odd(folder: Path, workers: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HaspWarning)
        return open_spread(folder, workers, Schema(entity="item"), chunk=10, **options)


def test_what_stays_in_the_tables(tmp_path: Path) -> None:
    folder = odd_tables(tmp_path / "tables", "text")
    with Here(1) as workers:
        graph = open_odd(folder, workers)[0].graph
        away = {k for k, v in graph.node_attrs["item"].items() if v.is_meta}
        assert away == {"hole", "flag", "when", "u16", "half", "x", "pair", "long"}
        assert not any(t.is_meta for t in graph.edges["item", "likes", "item"])  # the partitioner needs them
        assert graph.edge_attrs["item", "likes", "item"]["weight"].is_meta
        assert all(t.is_meta for t in graph.edges["item", "has", "tag"])
        assert not open_odd(folder, workers, weight="weight")[0].graph.edge_attrs["item", "likes", "item"]["weight"].is_meta


def test_warnings_of_a_build_on_one_machine(tmp_path: Path) -> None:
    folder = odd_tables(tmp_path / "tables", "range")
    with Here(2) as workers:
        with pytest.warns(HaspWarning, match="columns of text are not carried into parts: item.title, item.raw"):
            spread, _ = open_spread(folder, workers, Schema(entity="item"), chunk=10)
        with pytest.warns(HaspWarning) as found:
            spread.check()
            one = spread.fingerprint()
        said = [str(w.message) for w in found]
        assert [sum(text.startswith(f"item.{name} holds") for text in said) for name in ("hole", "gap", "y")] == [1, 1, 1]
        with pytest.warns(HaspWarning):
            assert one == open_source(folder).fingerprint()


def test_what_one_machine_refuses_workers_refuse(tmp_path: Path) -> None:
    folder = odd_tables(tmp_path / "tables", "range")
    path = folder / "edges" / "item__has__tag.parquet"
    table = pq.read_table(path)
    ids = table.column("source").to_pylist()
    ids[33] = 4711
    pq.write_table(table.set_column(0, "source", pa.array(ids)), path, row_group_size=9)
    with Here(2) as workers:
        spread, roles = open_odd(folder, workers)
        message = r"'item' as source: every edge ends in a node of .*, but 1 of 18 do not \(row 33: 4711\); add these"
        with warnings.catch_warnings(), pytest.raises(InvalidGraph, match=message):
            warnings.simplefilter("ignore", HaspWarning)
            build(spread.graph, roles, BuildConfig(3), root=tmp_path / "parts", spread=spread)
        assert not (tmp_path / "parts").exists()
        with pytest.raises(HaspError, match="got root=None; give a folder that all of them see"):
            build(spread.graph, roles, BuildConfig(3), spread=spread)
        with pytest.raises(HaspError, match=r"has edges/ or nodes/, but .* has neither; write it as tables"):
            open_spread(tmp_path, workers)


class Stops(Disk):
    """Fails when so many parts have got their names."""

    left = 2

    def publish(self, source: Path, target: Path) -> None:
        """As the base, for a while."""
        if self.left == 0:
            raise HaspError("stopped")
        self.left -= 1
        super().publish(source, target)


def test_a_build_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    folder = odd_tables(tmp_path / "tables", "dense")
    out, config, told = tmp_path / "parts", BuildConfig(6), list[str]()
    with Here(2) as workers, warnings.catch_warnings(), no_sync():
        warnings.simplefilter("ignore", HaspWarning)
        spread, roles = open_odd(folder, workers)
        with pytest.raises(HaspError, match="stopped"):
            build(spread.graph, roles, config, root=out, spread=spread, disk=Stops())
        assert sum(is_offer(p.name) for p in out.iterdir()) >= 1  # of workers that went on
        kept = {p.name: p.stat().st_mtime_ns for p in out.glob("part-0000?.safetensors")}
        assert len(kept) == 2
        build(spread.graph, roles, config, root=out, spread=spread, say=told.append)
        graph = open_source(folder)
        build(graph, roles, config, root=tmp_path / "one")
    assert "went on with the" in told[0]
    assert contents(out) == contents(tmp_path / "one")
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept


def test_a_folder_that_workers_do_not_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They write into a folder of the same name on another machine: the builder does not find the files."""
    folder = odd_tables(tmp_path / "tables", "dense")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr("hasp.cluster.tasks.offer", lambda root, part: offer(elsewhere, part))
    with Here(2) as workers, warnings.catch_warnings(), no_sync():
        warnings.simplefilter("ignore", HaspWarning)
        spread, roles = open_odd(folder, workers)
        with pytest.raises(HaspError, match=r"a folder that all machines share, but .* build into a shared folder"):
            build(spread.graph, roles, BuildConfig(3), root=tmp_path / "parts", spread=spread)


@pytest.mark.parametrize("format", ["csv", "csv.gz", "parquet"])
def test_tables_at_a_url_are_those_of_a_folder(format: Any, tmp_path: Path) -> None:
    graph = generate(Catalogue(60, 2, num_features=2)).graph
    write_tables(graph, tmp_path / "tables", format)
    np.save(tmp_path / "tables" / "nodes" / "title.vector.npy", np.arange(120, dtype=np.float32).reshape(60, 2))
    with on_memory(tmp_path / "tables") as url:
        found = open_source(url)
        assert found.fingerprint() == open_source(tmp_path / "tables").fingerprint()
        assert found.node_attrs["title"]["vector"].shape == (60, 2)
        with pytest.raises(InvalidGraph):
            open_source(f"{url}/nowhere")


def test_what_is_not_finite_is_said_and_written_down_as_on_one_machine(tmp_path: Path) -> None:
    x = torch.zeros(5, 2, dtype=torch.float64)
    x[1, 0], x[3, 1], x[4, 0] = torch.nan, torch.inf, -torch.inf
    link = ("t", "like", "t")
    graph = Graph({"t": 5}, {link: (torch.tensor([0, 1]), torch.tensor([1, 4]))}, {"t": {"x": x}}, {link: {"w": x[:2, 0]}})
    write_tables(graph, tmp_path / "tables", "parquet")
    schema, config = Schema(entity=["t"], eel=[link]), BuildConfig(2)
    same_bytes(tmp_path / "tables", tmp_path / "tables", schema, config, tmp_path, chunk=2)
    with Here(1) as workers, pytest.warns(HaspWarning) as said:
        spread, roles = open_spread(tmp_path / "tables", workers, schema, chunk=2)
        store = build(spread.graph, roles, config, root=tmp_path / "again", spread=spread)
    texts = sorted(str(w.message).partition(";")[0] for w in said)
    assert texts == ["t.x holds 1 NaN and 2 infinite values", "t__like__t.w holds 1 NaN values"]
    assert store.manifest.report["not_finite"] == {"t.x": [1, 2], "t__like__t.w": [1, 0]}


def test_nothing_of_ray_is_imported_unasked() -> None:
    code = (
        "import sys, hasp, hasp.build, hasp.cli, hasp.cluster.tables, hasp.cluster.on_ray, hasp_models.distributed.ray_train;"
    )
    code += "print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
