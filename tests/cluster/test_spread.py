"""A build by many workers gives the bytes of the build on one machine: every file, the manifest included."""

from __future__ import annotations

import itertools
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from builds import contents, no_sync
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Case, cases, num_parts_for

from hasp import open_source
from hasp.build import build
from hasp.cluster.executor import Here
from hasp.cluster.tables import open_spread
from hasp.config import BuildConfig
from hasp.graph import Graph, HaspWarning
from hasp.schema import Schema
from hasp.sources.tables import write_tables

pq = pytest.importorskip("pyarrow.parquet")
fsspec = pytest.importorskip("fsspec")

NUMBER = itertools.count()


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


@contextmanager
def on_memory(folder: Path) -> Iterator[str]:
    """The files of a folder on fsspec's ``memory://``, which nobody can map."""
    fs = fsspec.filesystem("memory")
    url = f"/bucket-{next(NUMBER)}"
    fs.put(str(folder), url, recursive=True)
    try:
        yield f"memory:/{url}"
    finally:
        fs.rm(url, recursive=True)


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
