"""A graph of up to a billion edges, from Parquet to parts to a training step: time, resident memory and bytes per stage.

``python -m bench billion --edges 1e9`` makes a graph up (a hundredth as many entities as edges, a tenth of the edges EELs in
communities, the rest links to concepts, 64 floats per entity in a memory map), builds it, verifies the parts and trains on the
first of them; each in a process of its own, watched from outside. Everything it writes is under a temporary folder and goes.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.billion_table import add, empty, finish, for_readme, planned
from bench.measure import disk_bandwidth
from bench.watch import Watched, watch

__all__ = ["Sizes", "build", "finish", "for_readme", "generate", "main", "measure", "train", "verify"]


Ints = npt.NDArray[np.int64]

HERE = Path(__file__).parent
ENTITY, EEL = "title", ("title", "co_engaged", "title")
_ROWS = 1 << 20  # of a row group
_FILE = 16  # row groups of a file
_COMMUNITY = 1000  # entities: four of five EELs stay within one


@dataclass(frozen=True)
class Sizes:
    """How large each piece is.

    Attributes:
        edges: all of them.
        floats: per entity.
        ids: of entities: ``"count"`` from 1,000,000, ``"wide"`` random 64-bit numbers, or ``"text"``.
    """

    edges: int
    floats: int = 64
    ids: str = "count"

    @property
    def entities(self) -> int:
        """A hundredth of the edges."""
        return max(100, self.edges // 100)

    def types(self) -> dict[str, tuple[str, str, int, int]]:
        """File -> (source, destination, nodes of the destination, edges)."""
        eels, genres = self.edges // 10, self.edges // 5
        tags = max(50, self.edges // 10_000)
        return {
            "title__co_engaged__title": ("title", "title", self.entities, eels),
            "title__has_genre__genre": ("title", "genre", 100, genres),
            "title__has_tag__tag": ("title", "tag", tags, self.edges - eels - genres),
        }


def generate(root: str, **sizes: Any) -> dict[str, Any]:
    """Write the tables, in memory that does not depend on their size."""
    import pyarrow.parquet

    from hasp.parallel import run

    say("generate")
    assert pyarrow.parquet  # imported before the clock starts
    size, folder = Sizes(**sizes), Path(root)
    (folder / "nodes").mkdir(parents=True)
    _nodes(folder / "nodes", size)
    todo = []
    for number, (name, (_, to, count, rows)) in enumerate(size.types().items()):
        target = folder / "edges" / f"{name}.parquet"
        target.mkdir(parents=True)
        firsts = range(0, rows, _ROWS * _FILE)
        todo += [(target, number, to, count, first, min(rows, first + _ROWS * _FILE)) for first in firsts]
    run(lambda item: _edges(size, *item), todo)
    return {}


def _nodes(folder: Path, size: Sizes) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": _ids(size, np.arange(size.entities))}), folder / f"{ENTITY}.parquet", row_group_size=_ROWS)
    shape = (size.entities, size.floats)
    x = np.lib.format.open_memmap(folder / f"{ENTITY}.x.npy", mode="w+", dtype=np.float32, shape=shape)
    for low in range(0, size.entities, 1 << 16):
        rng = np.random.default_rng([1, low])
        x[low : low + (1 << 16)] = rng.standard_normal((min(1 << 16, size.entities - low), size.floats), dtype=np.float32)
    x.flush()


def _edges(size: Sizes, folder: Path, number: int, to: str, count: int, low: int, high: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.string() if size.ids == "text" else pa.int64()
    schema = pa.schema({"src": kind, "dst": kind if to == ENTITY else pa.int32()})
    with pq.ParquetWriter(folder / f"part-{low // (_ROWS * _FILE):05d}.parquet", schema, compression="zstd") as writer:
        for first in range(low, high, _ROWS):
            rng = np.random.default_rng([2, number, first])
            rows = min(_ROWS, high - first)
            source = (rng.random(rows) ** 1.5 * size.entities).astype(np.int64)  # some have more links than others
            if to == ENTITY:
                own = source - source % _COMMUNITY + (rng.random(rows) ** 1.5 * _COMMUNITY).astype(np.int64)
                any_ = (rng.random(rows) * size.entities).astype(np.int64)
                other = np.where(rng.random(rows) < 0.8, np.minimum(own, size.entities - 1), any_)
                ends = [_ids(size, _shuffled(size, e)) for e in (source, other)]
            else:
                ends = [_ids(size, _shuffled(size, source)), pa.array((rng.random(rows) ** 2 * count).astype(np.int32))]
            writer.write_table(pa.table(ends, schema=schema), row_group_size=_ROWS)


def _shuffled(size: Sizes, entity: Ints) -> Ints:
    """A permutation without a table: communities do not lie side by side in the files."""
    factor = next(f for f in range(int(size.entities * 0.618) | 1, 2 * size.entities + 3, 2) if math.gcd(f, size.entities) == 1)
    return (entity * factor + 12_345) % size.entities


def _ids(size: Sizes, entity: Ints) -> Any:
    """Arrow's array of the ids of entities."""
    import pyarrow as pa
    import pyarrow.compute

    from hasp.rng import hash64

    if size.ids == "count":
        return pa.array(entity + 1_000_000)
    wide = pa.array(hash64(np.uint64(7), entity).view(np.int64))
    return wide if size.ids == "wide" else pa.compute.binary_join_element_wise("tt", wide.cast(pa.string()), "-")


def build(source: str, root: str, num_parts: int, backend: str, out_of_core: bool | None) -> dict[str, Any]:
    """What ``hasp build`` does, with the choice of the path left to the caller."""
    import dataclasses

    from hasp.build import build as build_
    from hasp.config import BuildConfig
    from hasp.plan import plan
    from hasp.schema import Schema
    from hasp.scratch import MEMORY, Scratch
    from hasp.sources.parquet import pyarrow
    from hasp.sources.tables import read_tables

    pyarrow()
    say("read")
    # Edges of a folder that is forced one way are read that way, too.
    graph = read_tables(source, None if out_of_core is None else Scratch(root) if out_of_core else MEMORY)
    roles = Schema(ENTITY, eel=[EEL]).resolve(graph.num_nodes, graph.edges)
    say("plan")
    planned = plan(graph, roles, num_parts=num_parts, backend=backend)
    alone = planned.out_of_core
    if out_of_core is not None:
        planned = dataclasses.replace(planned, out_of_core=out_of_core)
    planned.check(root=root)
    config = BuildConfig(num_parts=num_parts, backend=backend)
    store = build_(graph, roles, config, root=root, plan=planned, progress=_progress)
    report = store.manifest.report
    return {
        "planned": asdict(planned),
        "files_by_plan": alone,
        "log": store.build_log,
        "cut": sum(report["cut"].values()),
        "part_bytes": sum(report["part_bytes"]),
    }


def _progress(stage: str, done: int, total: int) -> None:
    if not done:
        say(stage)


def verify(root: str) -> dict[str, Any]:
    """``hasp verify``: every checksum and every rule."""
    from hasp.store.read import FolderStore
    from hasp.verify import verify as verify_

    say("verify")
    return {"problems": verify_(FolderStore.open(root, verify="size"))}


def train(root: str, parts: int) -> dict[str, Any]:
    """Two layers of SAGEConv on the first parts, with the EELs as what is predicted: one step per part."""
    import torch
    from torch_geometric.nn import HeteroConv, SAGEConv

    from hasp import HASPData, HASPLoader

    say("train")
    data = HASPData.open(root)
    torch.manual_seed(0)
    width = 16
    concepts = {t: torch.nn.Embedding(data.num_nodes[t], width) for t in data.roles.semantic}
    first = torch.nn.Linear(data.manifest.node_attrs[ENTITY]["x"].shape[0], width)
    layers = [HeteroConv({e: SAGEConv((width, width), width) for e in _both(data.edge_types)}) for _ in range(2)]
    modules = torch.nn.ModuleList([*concepts.values(), first, *layers])
    optimizer = torch.optim.Adam(modules.parameters(), lr=0.01)
    losses, edges = [], 0
    for done, batch in enumerate(HASPLoader(data)):
        if done == parts:
            break
        index = {e: batch[e].edge_index for e in data.edge_types}
        edges += sum(i.size(1) for i in index.values())
        index |= {(b, f"rev_{r}", a): i.flip(0) for (a, r, b), i in list(index.items()) if a != b}
        h = {ENTITY: first(batch[ENTITY].x), **{t: e.weight[batch[t].n_id] for t, e in concepts.items()}}
        for layer in layers:
            h = {t: v.relu() for t, v in layer(h, index).items()}
        src, dst = index[EEL]
        other = dst[torch.randperm(dst.numel())]
        score = torch.cat([(h[ENTITY][src] * h[ENTITY][dst]).sum(1), (h[ENTITY][src] * h[ENTITY][other]).sum(1)])
        wanted = torch.cat([torch.ones(src.numel()), torch.zeros(src.numel())])
        loss = torch.nn.functional.binary_cross_entropy_with_logits(score, wanted)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    return {"losses": losses, "edges": edges}


def _both(edge_types: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    return [*edge_types, *((b, f"rev_{r}", a) for a, r, b in edge_types if a != b)]


def say(stage: str) -> None:
    """Tell the watching process which stage begins."""
    print(f"stage {stage}", flush=True)


def measure(
    sizes: Sizes, scratch: Path, num_parts: int, backend: str, out_of_core: bool | None, train_parts: int = 4
) -> list[Watched]:
    """Run all stages for one size under a folder that is removed at the end, whatever happens."""
    with tempfile.TemporaryDirectory(dir=scratch, prefix="hasp-billion-") as top:
        source, root = str(Path(top) / "tables"), str(Path(top) / "parts")
        out = watch("start", "bench.billion:generate", root=source, **asdict(sizes))
        written = sum(p.stat().st_size for p in Path(source).rglob("*") if p.is_file())
        out[-1].result = {"bytes": written}
        out += watch(
            "start",
            "bench.billion:build",
            source=source,
            root=root,
            num_parts=num_parts,
            backend=backend,
            out_of_core=out_of_core,
        )
        shutil.rmtree(source)  # so that twice the graph need not fit the disk
        out += watch("start", "bench.billion:verify", root=root)
        if out[-1].result["problems"]:
            raise RuntimeError(f"verify found {out[-1].result['problems'][:3]}")
        out += watch("start", "bench.billion:train", root=root, parts=train_parts)
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m bench billion [--edges 1e6 1e7 ...]``."""
    from bench.run import in_words, machine, remember

    parser = argparse.ArgumentParser(prog="python -m bench billion", description=__doc__)
    parser.add_argument("--edges", type=float, nargs="+", default=[1e6, 1e7])
    parser.add_argument("--num-parts", type=int, default=64)
    parser.add_argument("--backend", default="auto", help="partitioner of the entities")
    parser.add_argument("--ids", choices=("count", "wide", "text"), default="count", help="of the entities: see Sizes")
    parser.add_argument("--path", choices=("auto", "files", "memory"), default="files", help="out of core, or not")
    parser.add_argument("--scratch", type=Path, default=None, help="folder for everything [TMPDIR]")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the history")
    given = parser.parse_args(arguments)
    out_of_core = {"auto": None, "files": True, "memory": False}[given.path]
    where = machine()
    scratch = given.scratch or Path(tempfile.gettempdir())
    took: dict[bool, list[str]] = {True: [], False: []}
    table = empty("")
    for edges in given.edges:
        sizes = Sizes(int(edges), ids=given.ids)
        start = time.perf_counter()
        found = measure(sizes, scratch, given.num_parts, given.backend, out_of_core)
        add(table, sizes.edges, found, disk_bandwidth(scratch))
        took[planned(found)["files_by_plan"]].append(f"{sizes.edges:,}")
        print(json.dumps({**planned(found), "edges": sizes.edges, "all": time.perf_counter() - start}))
        in_files = {k for k, done in took.items() if done} if out_of_core is None else {out_of_core}
        arrays = "where the plan puts them" if len(in_files) > 1 else "in files" if True in in_files else "in memory"
        table.title = empty(f"{given.num_parts} parts by `{given.backend}`, arrays {arrays}").title
        print("\n" + table.markdown(), flush=True)
    if took[True]:
        table.notes.append(f"Left alone, `hasp build` takes files here at {', '.join(took[True])} edges.")
    table.notes.append(in_words(where))
    print("\n" + table.markdown())
    remember(given.results, table, "full", where)
    return 0


if __name__ == "__main__":
    sys.exit(main())
