"""Builds of random graphs for the tests of the invariants, in memory and on disk, and plain views of what came out."""

from __future__ import annotations

import itertools
import tempfile
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from naive import subgraph

from hasp import HASPData
from hasp.store.disk import Disk

WHERE = ("memory", "folder")

_NUMBERS = itertools.count()


@contextmanager
def no_sync():
    """Without waiting for the disk, which these tests do not pull the plug of (tests/store does)."""
    with (
        mock.patch.object(Disk, "sync", lambda self, handle: None),
        mock.patch.object(Disk, "sync_dir", lambda self, path: None),
    ):
        yield


@contextmanager
def built(case, num_parts, where="memory", **options):
    """The case in parts, as a ``HASPData`` that was built in memory, or built into a folder and opened again."""
    if where == "memory":
        yield HASPData(case.data, case.schema, num_parts=num_parts, **options)
        return
    with tempfile.TemporaryDirectory() as root, no_sync():
        HASPData(case.data, case.schema, num_parts=num_parts, root=root, **options)
        yield HASPData.open(root)


def labels(parts):
    """Entity type -> list of parts, one per entity."""
    return {t: parts.node_part(t).tolist() for t in parts.roles.entity}


def edge_ids(case, block, edge_type):
    """Local or global ends of a block's edges as global ones: [(source, destination)] by the block's own ``n_id``."""
    out = []
    ends = []
    for node_type, column in zip((edge_type[0], edge_type[2]), block.edges[edge_type].edge_index.tolist(), strict=True):
        nodes = block.nodes.get(node_type)
        if case.roles.nodes[node_type] == "entity" and nodes is not None:
            n_id = nodes.n_id.tolist()
            column = [n_id[i] for i in column]
        ends.append(column)
    out = list(zip(*ends, strict=True))
    return out


def contents(folder):
    """File name -> bytes of everything that the settings and the input decide."""
    return {p.name: p.read_bytes() for p in sorted(Path(folder).iterdir()) if p.name not in ("build.json", ".lock")}


@contextmanager
def on_memory(folder):
    """The files of a folder on fsspec's ``memory://``, which nobody can map; gives its URL."""
    import fsspec

    fs, url = fsspec.filesystem("memory"), f"/bucket-{next(_NUMBERS)}"
    fs.put(str(folder), url, recursive=True)
    try:
        yield f"memory:/{url}"
    finally:
        fs.rm(url, recursive=True)


def equal(a, b):
    """Same dtype, same shape, same bytes (NaN included)."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bytes(a), _bytes(b))


def same_tensors(a, b):
    """Two blocks or two dicts of tensors are equal, names in order."""
    a, b = (v if isinstance(v, dict) else v.to_tensors() for v in (a, b))
    assert list(a) == list(b)
    for name in a:
        assert equal(a[name], b[name]), name


def check_batch(case, parts, batch, chosen, epoch=0):
    """A batch is, node for node, edge for edge and row for row, the subgraph that its parts induce."""
    roles, seed = case.roles, parts.manifest.config["seed"]
    nodes = subgraph.nodes_of(case.data, roles.nodes, labels(parts), set(chosen), epoch, seed, roles.quota)
    edges = subgraph.edges_of(case.data, nodes)
    assert batch.node_types == list(case.data.node_types) and batch.edge_types == list(case.data.edge_types)
    assert batch.part_id.tolist() == sorted(chosen)
    for node_type, ids in nodes.items():
        store = batch[node_type]
        assert store.n_id.tolist() == ids and store.n_id.dtype == torch.int64 and store.num_nodes == len(ids)
        for key, value in case.graph.node_attrs[node_type].items():
            assert equal(store[key], value[ids]), (node_type, key)
        if roles.nodes[node_type] == "entity":
            assert store.batch_size == len(ids)
            assert store.owner_part.tolist() == [labels(parts)[node_type][i] for i in ids]
    for edge_type, found in edges.items():
        store = batch[edge_type]
        assert [(s, d, e) for (s, d), e in zip(store.edge_index.t().tolist(), store.e_id.tolist(), strict=True)] == found
        assert store.edge_index.dtype == store.e_id.dtype == torch.int64
        rows = [e for _, _, e in found]
        for key, value in case.graph.edge_attrs[edge_type].items():
            assert equal(store[key], value[rows]), (edge_type, key)


def _bytes(tensor):
    flat = tensor.contiguous()
    return flat.as_strided((flat.numel(),), (1,)).view(torch.uint8)
